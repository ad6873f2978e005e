"""Logits have the one order of sums, and training counts the predictions that a sweep sees."""

import numpy as np
import pytest

from nearzero.hidden import HiddenLayer
from nearzero.kernels.layout import aligned, padded, to_strips
from nearzero.kernels.readout import logit_tile, make_room
from nearzero.kernels.tiles import TILE
from nearzero.networks import initial_stack
from nearzero.pixels import Pixels
from nearzero.training.engine import Examples
from nearzero.training.fused import FusedEngine


@pytest.mark.parametrize(("units", "classes"), [(20, 10), (150, 37)])
def test_logits_are_sums_over_units_ascending_by_fused_multiply_adds(units, classes):
    """Against an emulation: products are exact in float64, and sums rounded twice only seldom."""
    rng = np.random.default_rng(0)
    a, w2 = (rng.standard_normal(shape).astype(np.float32) for shape in ((TILE, units), (classes, units)))
    room = make_room(1, units, classes)
    to_strips(a, room.a)
    w2t = aligned(units * padded(classes))
    w2t.reshape(units, -1)[:, :classes] = w2.T
    logit_tile(room.a, TILE, w2t, units, padded(classes), room.logits)
    logits = room.logits.reshape(TILE, -1)[:, :classes]
    expected = np.zeros((TILE, classes), np.float32)
    for unit in range(units):
        product = a[:, unit, None].astype(np.float64) * w2[:, unit].astype(np.float64)
        expected = (product + expected).astype(np.float32)
    assert (logits == expected).mean() > 0.999


@pytest.mark.parametrize("activation", ["relu", "abs", "gelu"])
def test_training_counts_the_predictions_that_a_sweep_sees(activation):
    rng = np.random.default_rng(1)
    values = (rng.integers(0, 256, (700, 90)) * (rng.random((700, 90)) < 0.3)).astype(np.uint8)
    examples = Examples(Pixels(values), rng.integers(0, 10, 700))
    stack = initial_stack([1, 2], activation, inputs=90, units=40)
    stack.w2[1, 4:] = stack.w2[1, 3]  # classes 3 to 9 are equal in all but the bias, which is 0
    stack.b2[1] = 0
    engine = FusedEngine(
        stack, examples, examples, seeds=[1, 2], learning_rate=0.1, batch_size=None, threads=1
    )
    seen = [HiddenLayer(network, examples.pixels).unperturbed for network in stack]
    correct = [np.count_nonzero(each == examples.labels) for each in seen]
    np.testing.assert_array_equal(engine.measure("train").correct, correct)
