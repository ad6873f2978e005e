"""Training as a sequence of measurements: recipes, what is recorded when, checkpoints, and runs that diverge.

The engine moves the weights; this module decides when to stop and look. It writes no files: what must outlive
the process is handed to the caller through two functions, so that a study can be interrupted anywhere and go
on.

To look is to wait for the engine, and an engine on a GPU mustn't be waited for at each step. It is asked for a
stretch of looks at once (`LooksAhead`), as if nothing would happen on the way; and since almost always nothing
does, that is almost always right. Where a threshold was reached, the engine still has the weights of that step;
where a run diverged, training goes back to that step. So the results are those of looking at each step alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import count, takewhile

import numpy as np
import numpy.typing as npt

from nearzero.networks import Stack, TwoLayer
from nearzero.training.engine import Engine, Look, LooksAhead

__all__ = ["History", "Progress", "Recipe", "train"]

NEVER = -1
CHUNK_SECONDS = 2.0  # about how long the engine runs before the caller is asked whether to save
MOST_UPDATES = 1 << 20  # at a time, however fast they are


@dataclass(frozen=True)
class Recipe:
    """Plain SGD on the mean cross-entropy of a batch.

    Attributes:
        learning_rate: w <- w - learning_rate * gradient.
        steps: how many updates.
        batch_size: examples in a batch; None is the whole training set.
        evaluate_every: the stack is measured on the whole training set at steps 0, evaluate_every, 2
            evaluate_every, ..., at the last step, and at 10, 100, ... below evaluate_every, where training
            moves fast.
        test_every: and on the whole test set at step 0, at multiples of this, and at the last step.
        thresholds: train accuracies in percent; the first measurement at or above one of them is a
            checkpoint.
    """

    learning_rate: float = 0.001
    steps: int = 5000
    batch_size: int | None = None
    evaluate_every: int = 1
    test_every: int = 1
    thresholds: tuple[float, ...] = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 100)

    @property
    def schedule(self) -> tuple[int, ...]:
        """The steps at which the stack is measured; step s is after s updates."""
        regular = range(0, self.steps + 1, self.evaluate_every)
        before = min(self.evaluate_every, self.steps)
        early = takewhile(lambda step: step < before, (10**k for k in count(1)))
        return tuple(sorted({*regular, *early, self.steps}))

    def tests_at(self, step: int) -> bool:
        """Whether the test set is measured at a step of the schedule."""
        return step % self.test_every == 0 or step == self.steps


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

    @classmethod
    def joined(cls, histories: Sequence[History]) -> History:
        """One history of the runs of several."""
        columns = ([getattr(history, each.name) for history in histories] for each in fields(cls))
        return cls(*(np.concatenate(column) for column in columns))

    def part(self, rows: slice) -> History:
        """Of some of the runs; the arrays are views."""
        return History(*(getattr(self, each.name)[rows] for each in fields(self)))


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
    engine.active[:] = progress.history.diverged_at == NEVER
    schedule = recipe.schedule
    course = _Course(engine, recipe, progress.history, examples, checkpoint)
    saved = time.monotonic()
    stretch, index = 1, _first_unmeasured(progress, schedule)
    while index < len(schedule):
        step, began = progress.step, time.monotonic()
        if schedule[index] > step + stretch:
            engine.advance(step, step + stretch)
            progress.step = step + stretch
        else:
            index = course.look(step, index, step + stretch)
            progress.step = schedule[index - 1]
        advanced(progress.step)
        stretch = _next_stretch(stretch, time.monotonic() - began)
        if time.monotonic() - saved > save_every:
            save(progress, engine.stack())
            saved = time.monotonic()


def _first_unmeasured(progress: Progress, schedule: tuple[int, ...]) -> int:
    """The place in the schedule of the first step that's still to be measured."""
    measured = np.isfinite(progress.history.loss)
    left = (k for k, step in enumerate(schedule) if step >= progress.step and not measured[:, k].any())
    return next(left, len(schedule))


def _next_stretch(stretch: int, seconds: float) -> int:
    """How many updates to ask for next; it only decides how often there is a chance to save."""
    if seconds < CHUNK_SECONDS / 2:
        return min(2 * stretch, MOST_UPDATES)
    return max(1, stretch // 2) if seconds > 2 * CHUNK_SECONDS else stretch


@dataclass(frozen=True, eq=False)
class _Course:
    """What is done at the steps of the schedule, which stand here by their place in it."""

    engine: Engine
    recipe: Recipe
    history: History
    examples: tuple[int, int]
    checkpoint: Callable[[int, int, TwoLayer], None]

    def look(self, step: int, index: int, end: int) -> int:
        """Advance from `step` and measure, at one place from `index` on or, with an engine that looks ahead,
        at several up to the step `end`; enter what was seen. Returns the first place that's still to be measured.
        """
        engine, tests_at = self.engine, self.recipe.tests_at
        if not isinstance(engine, LooksAhead):
            stop = self.recipe.schedule[index]
            engine.advance(step, stop)
            look = Look(engine.measure("train"), engine.measure("test") if tests_at(stop) else None)
            self._enter(index, look, engine.stack)
            return index + 1
        steps = [each for each in self.recipe.schedule[index : index + engine.ahead] if each <= end]
        for place, look in enumerate(engine.look_ahead(step, [(each, tests_at(each)) for each in steps])):
            if self._enter(index + place, look, partial(engine.look_back, place)) and place < len(steps) - 1:
                engine.go_back(place)  # what was seen from here on is of runs that should have been masked
                return index + place + 1
        return index + len(steps)

    def _enter(self, index: int, look: Look, stack: Callable[[], Stack]) -> bool:
        """Enter one look into the history; keep checkpoints; mask runs that have diverged, and say if any has."""
        step, history = self.recipe.schedule[index], self.history
        active, train = self.engine.active, look.train
        history.loss[active, index] = train.loss[active]
        history.train_accuracy[active, index] = train.correct[active] / self.examples[0]
        if look.test is not None:
            history.test_accuracy[active, index] = look.test.correct[active] / self.examples[1]
        diverged = active & ~np.isfinite(train.loss)
        history.diverged_at[diverged] = step
        active[diverged] = False
        # whole numbers: 99 % of 60,000 examples is 59,400 of them, whatever floats make of 0.99
        needed = np.ceil(np.array(self.recipe.thresholds) * self.examples[0] / 100 - 1e-9)
        reached = train.correct[:, None] >= needed
        new = reached & (history.checkpoint_step == NEVER) & active[:, None]
        history.checkpoint_step[new] = step
        if new.any():
            weights = stack()
            for run in np.flatnonzero(new.any(axis=1)):
                self.checkpoint(int(run), step, weights[int(run)])
        return bool(diverged.any())
