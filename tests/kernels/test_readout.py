"""Logits are sums in the common order, and training counts the predictions that a sweep makes."""

import numpy as np
import pytest

from nearzero.evaluators.hidden_layer import HiddenLayer
from nearzero.kernels.layout import aligned, padded, to_strips
from nearzero.kernels.readout import (
    FILTER_SHARE,
    MISSING,
    logit_tile,
    loss_tile,
    residual_tile,
    tile_workspace,
)
from nearzero.kernels.tiles import TILE
from nearzero.networks import initial_stack
from nearzero.networks.pixels import Pixels
from nearzero.training.engine import Examples
from nearzero.training.fused import FusedEngine


@pytest.mark.parametrize(("units", "classes"), [(20, 10), (150, 37)])
def test_logits_are_sums_over_units_ascending_by_fused_multiply_adds(units, classes):
    """Compared with an emulation: products are exact in float64, and sums are rarely rounded twice."""
    rng = np.random.default_rng(0)
    a, w2 = (rng.standard_normal(shape).astype(np.float32) for shape in ((TILE, units), (classes, units)))
    workspace = tile_workspace(1, units, classes)
    to_strips(a, workspace.a)
    w2t = aligned(units * padded(classes))
    w2t.reshape(units, -1)[:, :classes] = w2.T
    logit_tile(workspace.a, TILE, w2t, units, padded(classes), workspace.logits)
    logits = workspace.logits.reshape(TILE, -1)[:, :classes]
    expected = np.zeros((TILE, classes), np.float32)
    for unit in range(units):
        product = a[:, unit, None].astype(np.float64) * w2[:, unit].astype(np.float64)
        expected = (product + expected).astype(np.float32)
    assert (logits == expected).mean() > 0.999


@pytest.mark.parametrize("classes", [10, 37])
@pytest.mark.parametrize(
    ("examples", "lossless", "filtered"),
    [
        (TILE, 0, False),
        (TILE, TILE // FILTER_SHARE - 1, False),
        (TILE, TILE // FILTER_SHARE, True),
        (TILE, TILE // 2, True),
        (TILE - 1, TILE // 2, True),
        (TILE, TILE, True),
        (1, 0, False),
        (1, 1, True),
    ],
)
def test_examples_without_a_loss_are_left_out_of_gradients(examples, lossless, filtered, classes):
    """If they are few, all examples are in the list, and those without a loss have zero residuals."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, classes, examples).astype(np.int32)
    logits = rng.standard_normal((examples, classes)).astype(np.float32)
    without = rng.permutation(examples)[:lossless]
    logits[without, labels[without]] = 25
    workspace, b2 = tile_workspace(1, 16, classes), np.full(padded(classes), MISSING, np.float32)
    b2[:classes] = 0
    workspace.logits.reshape(TILE, -1)[:examples, :classes] = logits
    loss_tile(workspace, b2, labels, 0, examples, 0.0)
    np.testing.assert_array_equal(np.flatnonzero(workspace.losses[:examples] == 0), np.sort(without))
    count = residual_tile(workspace, padded(classes), labels, 0, examples)
    contributing = np.setdiff1d(np.arange(examples), without) if filtered else np.arange(examples)
    np.testing.assert_array_equal(workspace.contributing[:count], contributing)
    assert count == 0 or workspace.contributing[count] == contributing[-1]
    residuals = workspace.logits.reshape(TILE, -1)[:examples]
    assert not residuals[without].any()
    exact = np.exp(logits.astype(np.float64))
    exact /= exact.sum(axis=1, keepdims=True)
    exact[np.arange(examples), labels] -= 1
    np.testing.assert_allclose(residuals[:, :classes], exact, atol=3e-7)
    assert not residuals[:, classes:].any()


def test_an_example_whose_logits_are_nan_is_not_left_out():
    workspace, b2, labels = tile_workspace(1, 16, 10), np.zeros(16, np.float32), np.zeros(8, np.int32)
    b2[10:] = MISSING
    logits = workspace.logits.reshape(TILE, -1)
    logits[:8, 0] = 50  # none of them has a loss
    logits[3, 4] = np.nan
    loss_tile(workspace, b2, labels, 0, 8, 0.0)
    assert residual_tile(workspace, 16, labels, 0, 8) == 1
    assert workspace.contributing[0] == 3
    assert np.isnan(logits[3, :10]).all()


@pytest.mark.parametrize("activation", ["relu", "abs", "gelu"])
def test_training_counts_the_predictions_that_a_sweep_makes(activation):
    rng = np.random.default_rng(1)
    values = (rng.integers(0, 256, (700, 90)) * (rng.random((700, 90)) < 0.3)).astype(np.uint8)
    examples = Examples(Pixels(values), rng.integers(0, 10, 700))
    stack = initial_stack([1, 2], activation, inputs=90, units=40)
    stack.w2[1, 4:] = stack.w2[1, 3]  # classes 3 to 9 are equal in all but the bias, which is 0
    stack.b2[1] = 0
    engine = FusedEngine(
        stack, examples, examples, seeds=[1, 2], learning_rate=0.1, batch_size=None, threads=1
    )
    predictions = [HiddenLayer(network, examples.pixels).unperturbed for network in stack]
    correct = [np.count_nonzero(predicted == examples.labels) for predicted in predictions]
    np.testing.assert_array_equal(engine.measure("train").correct, correct)
