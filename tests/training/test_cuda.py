"""Tests of the PyTorch engine that need a GPU. Its other tests run on the CPU, with the same code."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from nearzero.networks import initial_stack
from nearzero.networks.pixels import Pixels
from nearzero.training.engine import Examples
from nearzero.training.stacked import StackedEngine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

STEPS = 20
PLAN = [(step, step % 10 == 0) for step in range(STEPS)]


def engine(device: str, precision: str = "float32", activation: str = "abs", **more: object) -> StackedEngine:
    rng = np.random.default_rng(0)
    prototypes, labels = rng.integers(0, 60, (10, 100)), rng.integers(0, 10, 2000)
    train = Examples(Pixels((prototypes[labels] * (rng.random((2000, 100)) < 0.5)).astype(np.uint8)), labels)
    arguments = {"seeds": range(3), "learning_rate": 0.001, "batch_size": None} | more
    stack = initial_stack(range(3), activation, inputs=100, units=128)
    made = StackedEngine(stack, train, train, device=device, precision=precision, **arguments)
    made.most_deferred = STEPS
    return made


def curve(made: StackedEngine) -> np.ndarray:
    measured = made.advance_and_measure(0, PLAN)
    return np.stack([measurement.train.loss for measurement in measured], axis=1)


@pytest.mark.parametrize("batch_size", [None, 300])
@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-4), ("tf32", 1e-2), ("bfloat16", 3e-2)])
def test_the_curve_is_that_of_the_processor(precision, bound, batch_size):
    exact = curve(engine("cpu", batch_size=batch_size))
    losses = curve(engine("cuda", precision, batch_size=batch_size))
    assert (np.abs(losses - exact) / exact).max() < bound
    assert np.array_equal(losses, curve(engine("cuda", precision, batch_size=batch_size)))


@pytest.mark.parametrize("activation", ["abs", "relu", "leaky_relu"])
@pytest.mark.parametrize(("precision", "bound"), [("tf32", 1e-2), ("bfloat16", 3e-2)])
def test_the_kernel_gives_what_pytorch_gives(precision, bound, activation):
    pytest.importorskip("triton")
    fused, plain = (engine("cuda", precision, activation, kernel=kernel) for kernel in (True, False))
    assert fused.kernel
    assert not plain.kernel
    losses, expected = curve(fused), curve(plain)
    assert (np.abs(losses - expected) / expected).max() < bound


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_the_host_waits_once_for_many_steps(precision):
    made = engine("cuda", precision)
    curve(made)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            curve(made)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert sum("called a synchronizing" in str(warning.message) for warning in caught) == 1


def test_a_masked_run_is_not_changed():
    made = engine("cuda")
    before = made.stack()
    made.active[1] = False
    made.advance(0, 3)
    after = made.stack()
    np.testing.assert_array_equal(after.w1[1], before.w1[1])
    assert (after.w1[0] != before.w1[0]).any()
