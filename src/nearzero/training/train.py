"""Training as a sequence of measurements: recipes, history, checkpoints, and runs that diverge.

The engine moves the weights; this module decides when to measure. It writes no files: the caller gets
checkpoints and progress through two functions, so that a study can be interrupted at any time and resumed.

Each measurement synchronises with the device, and a GPU would be idle if that happened at each step. So a
`DeferredEngine` takes several measurements at once, under the assumption that no run diverges in between,
which is almost always true. If a run reached a threshold, the engine still has the weights of that step. If a
run diverged, training goes back to that step. So the results are the same as with one measurement at a time.
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
from nearzero.training.engine import DeferredEngine, Engine, StepMeasurement

__all__ = ["History", "Progress", "Recipe", "train"]

NEVER = -1
CHUNK_SECONDS = 2.0  # approximate time that the engine runs between two chances to save
MOST_UPDATES = 1 << 20  # in one call of the engine


@dataclass(frozen=True)
class Recipe:
    """Plain SGD on the mean cross-entropy of a batch.

    Attributes:
        learning_rate: w <- w - learning_rate * gradient.
        steps: the number of updates.
        batch_size: examples in a batch; None stands for the whole training set.
        evaluate_every: the stack is measured on the whole training set at steps 0, evaluate_every, 2
            evaluate_every, ..., at the last step, and at 10, 100, ... below evaluate_every, since loss
            changes fast at the beginning.
        test_every: of these steps, the test set is measured at step 0, at multiples of test_every, and at the
            last step.
        thresholds: train accuracies in percent; a checkpoint is made at the first measurement at or above one
            of them.
    """

    learning_rate: float = 0.001
    steps: int = 5000
    batch_size: int | None = None
    evaluate_every: int = 1
    test_every: int = 1
    thresholds: tuple[float, ...] = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 100)

    @property
    def schedule(self) -> tuple[int, ...]:
        """The steps at which the stack is measured, ascending; step s is after s updates."""
        regular = range(0, self.steps + 1, self.evaluate_every)
        before = min(self.evaluate_every, self.steps)
        early = takewhile(lambda step: step < before, (10**k for k in count(1)))
        return tuple(sorted({*regular, *early, self.steps}))

    def tests_at(self, step: int) -> bool:
        """Return whether the test set is measured at a step of the schedule."""
        return step % self.test_every == 0 or step == self.steps


@dataclass(eq=False)
class History:
    """The measurements of R runs at the S steps of the recipe's schedule; NaN where there are none.

    Attributes:
        loss: (R, S) the mean cross-entropy on the whole training set, in nats.
        train_accuracy: (R, S) on the same set, 0 to 1.
        test_accuracy: (R, S) on the whole test set, 0 to 1.
        checkpoint_step: (R, T) the first step whose train accuracy reached each threshold; -1 stands for
            never.
        diverged_at: (R,) the first step at which the loss wasn't finite; -1 stands for never.
    """

    loss: npt.NDArray[np.float64]
    train_accuracy: npt.NDArray[np.float64]
    test_accuracy: npt.NDArray[np.float64]
    checkpoint_step: npt.NDArray[np.int64]
    diverged_at: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, runs: int, recipe: Recipe) -> History:
        """Return a history of a number of runs without measurements."""
        loss, train, test = (np.full((runs, len(recipe.schedule)), np.nan) for _ in range(3))
        checkpoints = np.full((runs, len(recipe.thresholds)), NEVER, np.int64)
        return cls(loss, train, test, checkpoints, np.full(runs, NEVER, np.int64))

    @classmethod
    def joined(cls, histories: Sequence[History]) -> History:
        """Return one history of the runs of several histories."""
        columns = ([getattr(history, field.name) for history in histories] for field in fields(cls))
        return cls(*(np.concatenate(column) for column in columns))

    def part(self, rows: slice) -> History:
        """Return the history of some of the runs; the arrays are views."""
        return History(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(eq=False)
class Progress:
    """The state of training: with the engine's weights, this is all that is needed to resume.

    Attributes:
        step: the number of updates that the weights have had.
        history: the measurements at the steps of the schedule up to `step`.
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
    """Train from the state in `progress` to the end of the recipe; `progress` is updated in place.

    Args:
        engine: the engine, with the weights that belong to `progress`.
        recipe: the schedule and the thresholds.
        progress: `Progress(0, History.empty(...))` at the start.
        examples: sizes of the training and the test set.
        checkpoint: called with (run, step, network) when a run first reaches a threshold; called once if one
            measurement reaches several thresholds.
        save: called with the progress and a copy of the weights about every `save_every` seconds, between
            updates.
        save_every: seconds.
        advanced: called with the step after each call of the engine, for progress bars.
    """
    engine.active[:] = progress.history.diverged_at == NEVER
    schedule = recipe.schedule
    recorder = _HistoryRecorder(engine, recipe, progress.history, examples, checkpoint)
    saved = time.monotonic()
    updates, index = 1, _first_unmeasured(progress, schedule)
    while index < len(schedule):
        step, began = progress.step, time.monotonic()
        if schedule[index] > step + updates:
            engine.advance(step, step + updates)
            progress.step = step + updates
        else:
            index = recorder.measure_next(step, index, step + updates)
            progress.step = schedule[index - 1]
        advanced(progress.step)
        updates = _next_updates(updates, time.monotonic() - began)
        if time.monotonic() - saved > save_every:
            save(progress, engine.stack())
            saved = time.monotonic()


def _first_unmeasured(progress: Progress, schedule: tuple[int, ...]) -> int:
    """Return the place in the schedule of the first step that isn't measured yet."""
    measured = np.isfinite(progress.history.loss)
    unmeasured = (k for k, step in enumerate(schedule) if step >= progress.step and not measured[:, k].any())
    return next(unmeasured, len(schedule))


def _next_updates(updates: int, seconds: float) -> int:
    """Return the number of updates of the next call, given that of the last and its time.

    This only decides how often there is a chance to save.
    """
    if seconds < CHUNK_SECONDS / 2:
        return min(2 * updates, MOST_UPDATES)
    return max(1, updates // 2) if seconds > 2 * CHUNK_SECONDS else updates


@dataclass(frozen=True, eq=False)
class _HistoryRecorder:
    """Measure at the steps of the schedule, and write the history. An index is a place in the schedule."""

    engine: Engine
    recipe: Recipe
    history: History
    examples: tuple[int, int]
    checkpoint: Callable[[int, int, TwoLayer], None]

    def measure_next(self, step: int, index: int, end: int) -> int:
        """Advance from `step` to the step at `index`, measure there, and record the measurement.

        A `DeferredEngine` does this for several steps of the schedule, up to the step `end`.

        Returns:
            The index of the first step that isn't measured yet.
        """
        engine, tests_at = self.engine, self.recipe.tests_at
        if not isinstance(engine, DeferredEngine):
            stop = self.recipe.schedule[index]
            engine.advance(step, stop)
            train, test = engine.measure("train"), engine.measure("test") if tests_at(stop) else None
            self._record(index, StepMeasurement(train, test), engine.stack)
            return index + 1
        stops = self.recipe.schedule[index : index + engine.most_deferred]
        steps = [stop for stop in stops if stop <= end]
        measured = engine.advance_and_measure(step, [(stop, tests_at(stop)) for stop in steps])
        for place, measurement in enumerate(measured):
            diverged = self._record(index + place, measurement, partial(engine.stack_at, place))
            if diverged and place < len(steps) - 1:
                engine.restore(place)  # the later measurements contain updates of a run that is masked now
                return index + place + 1
        return index + len(steps)

    def _record(self, index: int, measurement: StepMeasurement, stack: Callable[[], Stack]) -> bool:
        """Write one measurement to the history, make checkpoints, and mask the runs that have diverged.

        Returns:
            Whether a run has diverged.
        """
        step, history = self.recipe.schedule[index], self.history
        active, train, test = self.engine.active, measurement.train, measurement.test
        history.loss[active, index] = train.loss[active]
        history.train_accuracy[active, index] = train.correct[active] / self.examples[0]
        if test is not None:
            history.test_accuracy[active, index] = test.correct[active] / self.examples[1]
        diverged = active & ~np.isfinite(train.loss)
        history.diverged_at[diverged] = step
        active[diverged] = False
        # compared as whole numbers: 99 % of 60,000 examples are 59,400, and 0.99 isn't exact as a float
        needed = np.ceil(np.array(self.recipe.thresholds) * self.examples[0] / 100 - 1e-9)
        reached = train.correct[:, None] >= needed
        new = reached & (history.checkpoint_step == NEVER) & active[:, None]
        history.checkpoint_step[new] = step
        if new.any():
            weights = stack()
            for run in np.flatnonzero(new.any(axis=1)):
                self.checkpoint(int(run), step, weights[int(run)])
        return bool(diverged.any())
