"""Training as a sequence of measurements: what is recorded when, checkpoints, and runs that diverge.

The engine moves the weights; this module decides when to stop and look. It writes no files: what must outlive
the process is handed to the caller through two functions, so that a study can be interrupted anywhere and go
on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nearzero.networks import Stack, TwoLayer
from nearzero.training.engine import Engine
from nearzero.training.recipe import Recipe

__all__ = ["History", "Progress", "train"]

NEVER = -1
CHUNK_SECONDS = 2.0  # about how long the engine runs before the caller is asked whether to save


@dataclass(eq=False)
class History:
    """What was measured, for R runs at the S steps of the recipe's schedule; NaN where nothing was.

    Attributes:
        loss, train_accuracy: (R, S) on the whole training set; mean cross-entropy in nats, and 0 to 1.
        test_accuracy: (R, S) on the whole test set, 0 to 1.
        checkpoint_step: (R, T) the step whose train accuracy first reached each threshold; -1 is never.
        diverged_at: (R,) the step at which the loss was no longer a finite number; -1 is never.
    """

    loss: npt.NDArray[np.float64]
    train_accuracy: npt.NDArray[np.float64]
    test_accuracy: npt.NDArray[np.float64]
    checkpoint_step: npt.NDArray[np.int64]
    diverged_at: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, runs: int, recipe: Recipe) -> History:
        """Nothing measured yet."""
        loss, train, test = (np.full((runs, len(recipe.schedule)), np.nan) for _ in range(3))
        checkpoints = np.full((runs, len(recipe.thresholds)), NEVER, np.int64)
        return cls(loss, train, test, checkpoints, np.full(runs, NEVER, np.int64))


@dataclass(eq=False)
class Progress:
    """Where training stands: all that is needed to go on, with the engine's weights.

    Attributes:
        step: how many updates the weights have had.
        history: what was measured so far, at the steps of the schedule up to `step`.
    """

    step: int
    history: History


def train(
    engine: Engine,
    recipe: Recipe,
    progress: Progress,
    *,
    examples: tuple[int, int],
    checkpoint: Callable[[int, int, TwoLayer], None] = lambda run, step, network: None,
    save: Callable[[Progress, Stack], None] = lambda progress, stack: None,
    save_every: float = 20.0,
    advanced: Callable[[int], None] = lambda step: None,
) -> None:
    """Train to the end of the recipe, from wherever `progress` stands; `progress` is kept up to date.

    Args:
        engine: holds the weights that belong to `progress`.
        recipe: the schedule and the thresholds.
        progress: `Progress(0, History.empty(...))` at the start.
        examples: sizes of the training and the test set.
        checkpoint: called with (run, step, network) when a run first reaches a threshold; several thresholds
            reached by one measurement are one checkpoint.
        save: called about every `save_every` seconds, between updates, with all that is needed to go on.
        save_every: seconds.
        advanced: called with the step after each stretch of updates, for progress bars.
    """
    history = progress.history
    engine.active[:] = history.diverged_at == NEVER
    saved = time.monotonic()
    stretch = 1
    for index, step in enumerate(recipe.schedule):
        if step < progress.step or np.isfinite(history.loss[:, index]).any():
            continue
        while progress.step < step:
            stop = min(step, progress.step + stretch)
            began = time.monotonic()
            engine.advance(progress.step, stop)
            progress.step = stop
            advanced(stop)
            stretch = _next_stretch(stretch, time.monotonic() - began)
            if time.monotonic() - saved > save_every:
                save(progress, engine.stack())
                saved = time.monotonic()
        _measure(engine, recipe, history, index, examples, checkpoint)


def _next_stretch(stretch: int, seconds: float) -> int:
    """How many updates to ask for next; it only decides how often there is a chance to save."""
    if seconds < CHUNK_SECONDS / 2:
        return 2 * stretch
    return max(1, stretch // 2) if seconds > 2 * CHUNK_SECONDS else stretch


def _measure(
    engine: Engine,
    recipe: Recipe,
    history: History,
    index: int,
    examples: tuple[int, int],
    checkpoint: Callable[[int, int, TwoLayer], None],
) -> None:
    """Measure the stack at one step of the schedule; keep checkpoints; mask runs that have diverged."""
    step = recipe.schedule[index]
    active = engine.active.copy()
    train = engine.measure("train")
    history.loss[active, index] = train.loss[active]
    history.train_accuracy[active, index] = train.correct[active] / examples[0]
    if recipe.tests_at(step):
        history.test_accuracy[active, index] = engine.measure("test").correct[active] / examples[1]
    diverged = active & ~np.isfinite(train.loss)
    history.diverged_at[diverged] = step
    engine.active[diverged] = False
    # whole numbers: 99 % of 60,000 examples is 59,400 of them, whatever floats make of 0.99
    needed = np.ceil(np.array(recipe.thresholds) * examples[0] / 100 - 1e-9)
    reached = train.correct[:, None] >= needed
    new = reached & (history.checkpoint_step == NEVER) & (active & ~diverged)[:, None]
    history.checkpoint_step[new] = step
    if new.any():
        stack = engine.stack()
        for run in np.flatnonzero(new.any(axis=1)):
            checkpoint(int(run), step, stack[int(run)])
