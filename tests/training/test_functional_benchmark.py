"""The engine that `benchmarks/functional.py` measures trains the same networks as the package's own."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from nearzero.datasets import load
from nearzero.networks import initial_stack
from nearzero.networks.pixels import Pixels
from nearzero.training.engine import Examples
from nearzero.training.stacked import StackedEngine


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("batch_size", [None, 64])
def test_both_engines_train_the_same_networks(
    apart: bool, batch_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    functional = importlib.import_module("functional")
    digits = load("digits").train
    examples = Examples(Pixels(digits.pixels[:200]), digits.labels[:200])
    stack = initial_stack(range(3), "gelu", inputs=64, units=8, classes=10)
    options = {"seeds": range(3), "learning_rate": 0.01, "batch_size": batch_size, "device": "cpu"}
    ours = StackedEngine(stack, examples, examples, **options)
    theirs = functional.FunctionalEngine(stack, examples, examples, chunk=70, apart=apart, **options)
    for engine in (ours, theirs):
        engine.active[1] = False
        engine.advance(0, 8)
    measured, expected = theirs.measure("train"), ours.measure("train")
    np.testing.assert_allclose(measured.loss, expected.loss, rtol=1e-5)
    np.testing.assert_array_equal(measured.correct, expected.correct)
    np.testing.assert_allclose(theirs.stack().w1, ours.stack().w1, atol=1e-5)
    np.testing.assert_array_equal(theirs.stack().w1[1], stack.w1[1])
    assert (theirs.stack().w1[0] != stack.w1[0]).any()
