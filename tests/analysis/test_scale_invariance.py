"""The invariance audit of two-layer networks: by hand, against the sweep, and on the paper's own networks."""

from pathlib import Path

import numpy as np
import pytest

import nearzero as nz
from nearzero.analysis.scale_invariance import comparison_counts, curves, scale_audit
from nearzero.evaluators.base import homogeneity_error
from nearzero.networks import initial_stack

PAPER = Path(__file__).parents[2] / "results" / "paper"


def network_of(activation, *, units=16):
    net = initial_stack([5], activation, inputs=10, units=units, classes=4)[0]
    return nz.TwoLayer(3 * net.w1, net.b1, net.w2, net.b2, activation)


def examples(count=300, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 10)).astype(np.float32), rng.integers(0, 4, count)


def test_by_hand():
    """Logits are (2 s, s + 1) and (s, 3 s + 1) for z = (2, 1) and (1, 3): the first example changes at s = 1."""
    network = nz.TwoLayer(np.eye(2), np.zeros(2), np.eye(2), [0.0, 1.0])
    found = scale_audit(network, [[2.0, 1.0], [1.0, 3.0]], [0, 1], levels=[0.5, 1.0, 2.0, 4.0])
    assert found.words == "flat by construction: the prediction is argmax(W2 a + b2 / s)"
    assert found.meaning.startswith("A scale sweep shows the output bias and nothing else")
    assert found.meaning.endswith("says nothing about what the units measure.")
    assert (found.homogeneous, found.registered, found.homogeneity_error) == (True, True, 0.0)
    assert (found.layer, found.activation, found.items, found.flat) == ("hidden", "relu", 2, True)
    np.testing.assert_array_equal(found.curves.predicted_accuracy, [0.5, 1, 1, 1])  # of equals the first wins
    np.testing.assert_array_equal(found.curves.measured_accuracy, [0.5, 1, 1, 1])
    np.testing.assert_array_equal(found.curves.near_ties, [0, 1, 0, 0])
    assert (found.greatest_difference, found.unexplained) == (0, 0)
    assert found.comparison == (
        "of 2 at each of 4 levels, none is predicted otherwise than algebra says (up to 1 nearly tie)"
    )


@pytest.mark.parametrize("activation", nz.ACTIVATIONS)
def test_homogeneity_is_what_the_registry_says(activation):
    """Measured on real pre-activations, scaled by 0.01 to 10."""
    z = nz.HiddenLayer(network_of(activation), examples()[0]).z
    act = nz.activation(activation)
    assert (homogeneity_error(act, z) < 1e-6) == act.homogeneous
    found = scale_audit(network_of(activation), examples()[0])
    assert found.homogeneous == found.registered == act.homogeneous == found.flat
    assert found.form == ("affine" if act.homogeneous else "free")


def test_homogeneity_error_by_hand():
    """tanh(2 * 1) against 2 tanh(1); no activation at all is homogeneous, and so is 0."""
    one = np.ones(1)
    assert homogeneity_error(np.tanh, one, [2.0]) == pytest.approx(1 - np.tanh(2) / (2 * np.tanh(1)))
    assert homogeneity_error(np.zeros_like, one) == 0
    assert homogeneity_error(lambda z: np.where(z > 1, z, 0), one, [2.0]) == np.inf


@pytest.mark.parametrize("activation", ["relu", "abs", "leaky_relu"])
def test_algebra_predicts_the_sweep(activation, trained, mnist_5k):
    """At all 100 levels, to the last example."""
    x, y = mnist_5k.test.pixels, mnist_5k.test.labels
    found = scale_audit(trained[activation], x, y)
    sweep = nz.sweep(trained[activation], x, y, family="scale")
    np.testing.assert_array_equal(found.curves.level, sweep.level)
    for measure in ("accuracy", "agreement"):
        np.testing.assert_array_equal(found.curves[f"measured_{measure}"], sweep[measure])
    assert found.unexplained == 0
    apart = len(x) * np.abs(found.curves.predicted_accuracy - sweep.accuracy.values)
    assert (apart <= found.curves.near_ties + 1e-9).all()
    assert found.curves.near_ties.sum() < 30
    assert found.curves.predicted_agreement.min() < 0.999, "the output bias shows"


@pytest.mark.parametrize("activation", ["relu", "abs"])
def test_the_papers_networks(activation, mnist_5k):
    """The first of the twenty kept networks of each, on real digits; all 60,000 were looked at once."""
    network = nz.Study.open(PAPER).network(activation, 0)
    x, y = mnist_5k.train.pixels[:1500], mnist_5k.train.labels[:1500]
    found = scale_audit(network, x, y)
    assert found.words == "flat by construction: the prediction is argmax(W2 a + b2 / s)"
    assert found.unexplained == 0
    assert found.logit_error < 1e-5
    np.testing.assert_array_equal(
        found.curves.measured_accuracy, nz.sweep(network, x, y, family="scale").accuracy
    )


def test_a_smooth_activation_is_not_flat_by_construction(trained, mnist_5k):
    found = scale_audit(trained["gelu"], mnist_5k.test.pixels[:500])
    assert (found.words, found.formula, found.flat) == ("not flat by construction", "", False)
    assert "is a finding about this network and these data" in found.meaning
    assert "measured_accuracy" not in found.curves
    tanh = scale_audit(network_of("tanh"), examples()[0])
    assert tanh.unexplained > 30
    assert "that don't nearly tie" in tanh.comparison


def test_one_bias_for_all_classes_changes_nothing():
    net = network_of("abs")
    same = nz.TwoLayer(net.w1, net.b1, net.w2, np.full(4, 0.7), "abs")
    found = scale_audit(same, examples()[0])
    assert found.words == "flat by construction: the prediction is argmax(W2 a)"
    assert "no positive scale can change a prediction" in found.meaning
    np.testing.assert_array_equal(found.curves.predicted_agreement, 1)


def test_dead_units_are_part_of_the_bias():
    """A unit that says 1.5 for all examples isn't scaled: it adds to A, which b2 alone doesn't give."""
    net = network_of("relu")
    w1, b1 = np.vstack([net.w1, 0 * net.w1[:1]]), np.append(net.b1, 1.5)
    dead = nz.TwoLayer(w1, b1, np.hstack([net.w2, [[3.0], [0.0], [0.0], [0.0]]]), net.b2)
    x, y = examples()
    found = scale_audit(dead, x, y)
    assert found.unexplained == 0
    np.testing.assert_array_equal(
        found.curves.measured_accuracy, nz.sweep(dead, x, y, family="scale").accuracy
    )
    assert (found.curves.measured_agreement[0] < 1).item(), "it shows"


def test_what_is_measured_is_each_z_scaled(monkeypatch):
    """A sweep takes the scale through to the logits; an audit that did so would hold algebra against itself."""

    def refuse(*_):
        raise AssertionError("the shortcut")

    x, y = examples()
    expected = scale_audit(network_of("relu"), x, y)
    unperturbed = nz.HiddenLayer.predict
    monkeypatch.setattr("nearzero.evaluators.hidden_layer.respond_scaled", refuse)
    with pytest.raises(AssertionError, match="the shortcut"):
        nz.sweep(network_of("relu"), x, y, family="scale")
    # the prediction without perturbation is a scale of 1, by the shortcut: what remains is all by the long way
    plain = expected.curves.measured_agreement.values

    def predict(self, perturbations, rows=None, **how):
        if all(each.is_identity for each in perturbations):
            logits = np.maximum(self.z, 0) @ self.network.w2.T + self.network.b2
            return logits.argmax(axis=1)[None]
        return unperturbed(self, perturbations, rows, **how)

    monkeypatch.setattr(nz.HiddenLayer, "predict", predict)
    np.testing.assert_array_equal(scale_audit(network_of("relu"), x, y).curves.measured_agreement, plain)


def test_blocks_and_threads_change_nothing(monkeypatch):
    network, (x, y) = network_of("abs"), examples(1000)
    whole = scale_audit(network, x, y, threads=1)
    monkeypatch.setattr("nearzero.support.memory.LEAST", 0)
    monkeypatch.setattr("nearzero.evaluators.two_layer.SCALED_ROWS", 100)
    blocks = scale_audit(network, x, y, threads=2, memory=100_000)
    assert blocks.curves.equals(whole.curves)


def test_counts_by_hand():
    """Three items at one level: as predicted; otherwise, but nearly tied; otherwise."""
    expected = np.array([[3.0, 0.0, 0.0], [1.0, 1.0 - 1e-7, 0.0], [0.0, 2.0, 0.0]])
    slack, labels = np.full(3, 1e-6), np.array([0, 1, 2])
    found = comparison_counts(expected, slack, np.array([0, 1, 2]), np.array([0, 0, 1]), labels)
    data = curves(np.array([1.0]), [[found]], 3)
    counts = {name: int(data[name].item()) for name in ("differences", "near_ties", "unexplained")}
    assert counts == {"differences": 2, "near_ties": 1, "unexplained": 1}
    shares = [
        data[f"{which}_{what}"].item()
        for which in ("predicted", "measured")
        for what in ("agreement", "accuracy")
    ]
    np.testing.assert_allclose(shares, [1, 1 / 3, 1 / 3, 1])


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([1.0, 2.0], r"an audit needs three levels at least, positive and finite; got \[1.0, 2.0\]"),
        ([0.0, 1.0, 2.0], "positive and finite"),
        ([1.0, 2.0, np.inf], "positive and finite"),
    ],
)
def test_levels_that_are_no_scales(levels, message):
    with pytest.raises(nz.InputError, match=message):
        scale_audit(network_of("relu"), examples()[0], levels=levels)


def test_labels_that_are_none():
    with pytest.raises(nz.InputError, match="y must have one label per example"):
        scale_audit(network_of("relu"), examples()[0], [1, 2])
