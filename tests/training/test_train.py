"""The history and checkpoints of training, and deferred measurements, which change neither."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from nearzero.networks import Stack, TwoLayer, initial_stack
from nearzero.networks.pixels import Pixels
from nearzero.training.engine import DeferredEngine, Engine, Examples, StepMeasurement
from nearzero.training.fused import FusedEngine
from nearzero.training.stacked import StackedEngine
from nearzero.training.train import History, Progress, Recipe, train

ARRAYS = ("w1", "b1", "w2", "b2")
RECIPE = Recipe(learning_rate=0.003, steps=90, test_every=10)


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def examples(count: int, seed: int) -> Examples:
    """Return noisy images of ten prototypes, so that networks can learn them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    prototypes = np.random.default_rng(7).integers(0, 40, (10, 60))
    values = prototypes[labels] * (rng.random((count, 60)) < 0.5)
    return Examples(Pixels(values.astype(np.uint8)), labels)


TRAIN, TEST = examples(150, 1), examples(50, 2)
SPOILED_AT = 27
SIZES = len(TRAIN), len(TEST)


def stack_of(runs: int) -> Stack:
    return initial_stack(range(runs), "abs", inputs=60, units=24)


class StepByStep:
    """An engine without deferred measurements, made of one that has them."""

    def __init__(self, engine: StackedEngine) -> None:
        self.active, self.measure, self.advance, self.stack = (
            engine.active,
            engine.measure,
            engine.advance,
            engine.stack,
        )


class Spy(StackedEngine):
    """An engine that records the lengths of plans and the calls for earlier weights, and can spoil a run."""

    def __init__(self, stack: Stack, *sets: Examples, spoiled: int | None = None, **more: Any) -> None:
        super().__init__(stack, *sets, **more)
        self.spoiled = spoiled
        self.plans: list[int] = []
        self.calls: list[tuple[str, int]] = []

    def _advance(self, step: int, stop: int) -> None:
        super()._advance(step, stop)
        if self.spoiled is not None and step < SPOILED_AT <= stop:
            self._weights.flat[self.spoiled, 3] = np.nan

    def advance_and_measure(self, step: int, plan: Sequence[tuple[int, bool]]) -> list[StepMeasurement]:
        self.plans.append(len(plan))
        return super().advance_and_measure(step, plan)

    def stack_at(self, place: int) -> Stack:
        self.calls.append(("stack_at", place))
        return super().stack_at(place)

    def restore(self, place: int) -> None:
        self.calls.append(("restore", place))
        super().restore(place)


def stacked(stack: Stack, recipe: Recipe, **more: Any) -> Spy:
    return Spy(
        stack,
        TRAIN,
        TEST,
        seeds=range(len(stack)),
        learning_rate=recipe.learning_rate,
        batch_size=recipe.batch_size,
        device="cpu",
        **more,
    )


def trained(
    engine: Engine, recipe: Recipe = RECIPE, progress: Progress | None = None
) -> tuple[History, dict[tuple[int, int], TwoLayer]]:
    """Train, and return the history and the network of each checkpoint by (run, step)."""
    checkpoints: dict[tuple[int, int], TwoLayer] = {}
    progress = progress or Progress(0, History.empty(len(engine.active), recipe))

    def keep(run: int, step: int, network: TwoLayer) -> None:
        assert (run, step) not in checkpoints
        checkpoints[run, step] = network

    train(engine, recipe, progress, examples=SIZES, checkpoint=keep)
    assert progress.step == recipe.steps
    return progress.history, checkpoints


def assert_same_arrays(one: object, other: object, names: Sequence[str]) -> None:
    for name in names:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def assert_same_histories(one: History, other: History) -> None:
    assert_same_arrays(one, other, [field.name for field in dataclasses.fields(History)])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch_size", [None, 40])
@pytest.mark.parametrize("evaluate_every", [1, 5])
def test_deferred_measurements_change_nothing(precision, batch_size, evaluate_every):
    recipe = dataclasses.replace(RECIPE, batch_size=batch_size, evaluate_every=evaluate_every)
    deferred, alone = (stacked(stack_of(4), recipe, precision=precision, spoiled=2) for _ in range(2))
    history, checkpoints = trained(deferred, recipe)
    expected, expected_checkpoints = trained(StepByStep(alone), recipe)
    assert_same_histories(history, expected)
    assert_same_arrays(deferred.stack(), alone.stack(), ARRAYS)
    assert checkpoints.keys() == expected_checkpoints.keys()
    for key, network in checkpoints.items():
        assert_same_arrays(network, expected_checkpoints[key], ARRAYS)
    # some plans have a threshold, or the divergence of a run, in their middle
    assert max(deferred.plans) > 4
    assert any(call == "stack_at" and 0 < place < max(deferred.plans) - 1 for call, place in deferred.calls)
    assert any(call == "restore" for call, _ in deferred.calls)
    spoiled_at = next(step for step in recipe.schedule if step >= SPOILED_AT)
    assert history.diverged_at.tolist() == [-1, -1, spoiled_at, -1]


def test_plans_of_one_measurement():
    engine = stacked(stack_of(2), RECIPE)
    engine.most_deferred = 1
    history, _ = trained(engine)
    assert set(engine.plans) == {1}
    assert_same_histories(history, trained(stacked(stack_of(2), RECIPE))[0])


def test_a_run_that_diverged_is_frozen_and_does_not_affect_others():
    among = stacked(stack_of(3), RECIPE, spoiled=1)
    history, _ = trained(among)
    assert np.isfinite(history.loss[1, :SPOILED_AT]).all()
    assert np.isnan(history.loss[1, SPOILED_AT:]).all()
    frozen = stacked(stack_of(3), RECIPE, spoiled=1)
    frozen.advance(0, SPOILED_AT)
    assert_same_arrays(among.stack()[1], frozen.stack()[1], ARRAYS)
    calm, _ = trained(stacked(stack_of(3), RECIPE))
    for run in (0, 2):
        np.testing.assert_array_equal(history.loss[run], calm.loss[run])


class Stop(Exception):
    """Raised where the process would end."""


@pytest.mark.parametrize("kind", ["stacked", "fused"])
@pytest.mark.parametrize("batch_size", [None, 40])
@pytest.mark.parametrize("saves", [1, 4, 6])
def test_training_resumes_after_any_save(kind, batch_size, saves):
    recipe = dataclasses.replace(RECIPE, batch_size=batch_size)

    def engine(stack: Stack) -> Engine:
        if kind == "stacked":
            return stacked(stack, recipe, spoiled=1)
        arguments = {"seeds": range(3), "learning_rate": recipe.learning_rate, "batch_size": batch_size}
        return FusedEngine(stack, TRAIN, TEST, threads=1, **arguments)

    whole = engine(stack_of(3))
    expected, _ = trained(whole, recipe)
    kept: list[tuple[Progress, Stack]] = []

    def save(progress: Progress, stack: Stack) -> None:
        kept.append((copy.deepcopy(progress), stack))
        if len(kept) == saves:
            raise Stop

    progress = Progress(0, History.empty(3, recipe))
    with pytest.raises(Stop):
        train(engine(stack_of(3)), recipe, progress, examples=SIZES, save=save, save_every=0)
    progress, stack = kept[-1]
    assert progress.step < recipe.steps
    again = engine(stack)
    history, _ = trained(again, recipe, progress)
    assert_same_histories(history, expected)
    assert_same_arrays(again.stack(), whole.stack(), ARRAYS)


def test_the_history_has_the_measurements_of_the_engine():
    recipe = dataclasses.replace(RECIPE, steps=12, evaluate_every=4, test_every=8)
    arguments = {"seeds": range(2), "learning_rate": recipe.learning_rate, "batch_size": None, "threads": 1}
    history, checkpoints = trained(FusedEngine(stack_of(2), TRAIN, TEST, **arguments), recipe)
    engine, before, reached = FusedEngine(stack_of(2), TRAIN, TEST, **arguments), 0, np.zeros(2, int)
    for index, step in enumerate(recipe.schedule):
        engine.advance(before, step)
        before = step
        measured = engine.measure("train")
        np.testing.assert_array_equal(history.loss[:, index], measured.loss)
        np.testing.assert_array_equal(history.train_accuracy[:, index], measured.correct / len(TRAIN))
        tested = engine.measure("test").correct / len(TEST) if recipe.tests_at(step) else np.full(2, np.nan)
        np.testing.assert_array_equal(history.test_accuracy[:, index], tested)
        count = (measured.correct[:, None] * 100 >= np.array(recipe.thresholds) * len(TRAIN)).sum(1)
        for run in np.flatnonzero(count > reached):
            assert_same_arrays(checkpoints.pop((int(run), step)), engine.stack()[int(run)], ARRAYS)
        reached = np.maximum(reached, count)
    assert not checkpoints


def test_the_stacked_engine_defers_measurements():
    arguments = {"seeds": range(2), "learning_rate": 0.1, "batch_size": None}
    assert not isinstance(FusedEngine(stack_of(2), TRAIN, TEST, **arguments), DeferredEngine)
    assert isinstance(stacked(stack_of(2), RECIPE), DeferredEngine)
