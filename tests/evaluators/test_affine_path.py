"""Perturbations on a line, followed along it: the same predictions as by forming every sum, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import nearzero as nz
from nearzero.evaluators.affine_path import find_affine_paths
from nearzero.evaluators.hidden_layer import HiddenLayer, _stacked

FAMILIES = ("offset", "clip", "shift", "signed_shift", "signed_offset", "permuted_shift", "cap")


def lines_of(hidden: HiddenLayer, perturbations: list[nz.Perturbation]) -> list[tuple[np.ndarray, Any]]:
    parameters = _stacked(perturbations, hidden.network.units)
    return list(find_affine_paths(hidden.network, *parameters, np.ones(len(perturbations), bool)))


def both_ways(
    hidden: HiddenLayer, perturbations: list[nz.Perturbation], monkeypatch: pytest.MonkeyPatch
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions as `predict` makes them, and with no line found."""
    followed = hidden.predict(perturbations)
    with monkeypatch.context() as patch:
        patch.setattr("nearzero.evaluators.hidden_layer.find_affine_paths", lambda *_: iter(()))
        return followed, hidden.predict(perturbations)


@pytest.mark.parametrize("name", ["abs", "relu", "leaky_relu"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("conduct", [nz.Conduct(), nz.Conduct("shift", "post", "pr", "pre")], ids=str)
def test_real_networks(
    name: str,
    family: str,
    conduct: nz.Conduct,
    trained: dict[str, nz.TwoLayer],
    mnist_5k: nz.datasets.Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "leaky_relu" and conduct.offset == "as-run":
        conduct = nz.Conduct("shift")
    hidden = HiddenLayer(trained[name], mnist_5k.train.pixels)
    made = nz.make_family(family, conduct, 3)
    perturbations = [made.at(level, hidden.ranges) for level in made.levels]
    (places, _), *more = lines_of(hidden, perturbations)
    assert not more
    if (name, family) != ("leaky_relu", "clip"):  # whose lowest thresholds are negative
        np.testing.assert_array_equal(np.sort(places), np.arange(len(perturbations)))
    followed, formed = both_ways(hidden, perturbations, monkeypatch)
    np.testing.assert_array_equal(followed, formed)
    # on data from which the ranges aren't: z beyond them, and dead units that speak
    other = HiddenLayer(trained[name], 255 - mnist_5k.test.pixels)
    np.testing.assert_array_equal(*both_ways(other, perturbations, monkeypatch))


def random_network(rng: np.random.Generator, units: int, classes: int, act: str) -> nz.TwoLayer:
    w1, w2 = rng.standard_normal((units, 6)), rng.standard_normal((classes, units))
    return nz.TwoLayer(w1, rng.standard_normal(units), w2, rng.standard_normal(classes), act)


@given(
    seed=st.integers(0, 2**32 - 1),
    units=st.sampled_from([1, 3, 16, 17, 40]),
    classes=st.sampled_from([2, 8, 10, 15, 16]),
    act=st.sampled_from(["relu", "abs", "leaky_relu"]),
    size=st.sampled_from([1e-42, 1e-12, 1.0, 1e12, 1e30]),
    weight=st.sampled_from([1e-41, 1.0, 1e25]),
    twins=st.sampled_from([None, 0.0, 1e-7, 1e-5]),
    cut=st.booleans(),
)
@example(seed=0, units=1, classes=8, act="relu", size=1e12, weight=1e25, twins=None, cut=False)  # S overflows
@settings(max_examples=150)
def test_any_network_and_any_line(
    seed: int, units: int, classes: int, act: str, size: float, weight: float, twins: float | None, cut: bool
) -> None:
    """Also of numbers that float32 doesn't hold, with classes whose logits are (nearly) equal, levels that repeat."""
    rng = np.random.default_rng(seed)
    network = random_network(rng, units, classes, act)
    network = nz.TwoLayer(network.w1, network.b1, network.w2 * weight, network.b2 * weight, act)
    if twins is not None:  # classes in pairs
        w2, b2 = np.array(network.w2), np.array(network.b2)
        w2[1::2], b2[1::2] = w2[0 : classes // 2 * 2 : 2] * (1 + twins), b2[0 : classes // 2 * 2 : 2]
        network = nz.TwoLayer(network.w1, network.b1, w2, b2, act)
    hidden = HiddenLayer(network, rng.standard_normal((70, 6)) * size)
    levels = rng.permutation(np.repeat(np.sort(rng.uniform(-3, 3, 60)), rng.integers(1, 3, 60)))
    slope, base = rng.standard_normal(units), rng.standard_normal(units) * size
    if cut:
        side = "post" if seed % 2 else "pre"
        rise = np.where(rng.random(units) < 0.3, np.inf, np.abs(slope) * size)
        perturbations = [nz.Perturbation(clip=(level + 3) * rise + 1e-3, side=side) for level in levels]
    else:
        perturbations = [
            nz.Perturbation(scale=1 + level * slope, offset=level * base + 0.1 * size) for level in levels
        ]
    found = lines_of(hidden, perturbations)
    assert len(found) <= (classes < 16)  # rounding may bring small parameters too far beside the line
    with pytest.MonkeyPatch.context() as patch:
        np.testing.assert_array_equal(*both_ways(hidden, perturbations, patch))


def test_undecided_blocks_are_predicted_without_the_line(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = random_network(rng, 16, 4, "relu")
    equal = nz.TwoLayer(network.w1, network.b1, np.repeat(network.w2[:1], 4, axis=0), np.zeros(4), "relu")
    hidden = HiddenLayer(equal, rng.standard_normal((100, 6)))
    perturbations = [nz.Perturbation(offset=level) for level in np.linspace(-1, 1, 50)]
    (places, line), *_ = lines_of(hidden, perturbations)
    out = np.full((50, 100), 9, np.uint16)
    assert list(hidden._follow(hidden.z, line, out, places)) == [0, 1, 2, 3]
    followed, formed = both_ways(hidden, perturbations, monkeypatch)
    np.testing.assert_array_equal(followed, formed)
    assert (followed == 0).all()  # the first class in a tie


def test_a_network_by_hand() -> None:
    """a = |z + t|, z = 1; the logits are 0.6 and a. So class 1 is predicted where t > -0.4 or t < -1.6."""
    network = nz.TwoLayer([[1.0]], [0.0], [[0.0], [1.0]], [0.6, 0.0], "abs")
    levels = np.arange(-40, 41) / 20 + 0.01  # -1.99 to 2.01
    found = HiddenLayer(network, np.array([[1.0]])).predict([nz.Perturbation(offset=t) for t in levels])
    np.testing.assert_array_equal(found[:, 0], (levels > -0.4) | (levels < -1.6))


def test_perturbations_beside_a_line_arent_followed(
    trained: dict[str, nz.TwoLayer], mnist_5k: nz.datasets.Dataset
) -> None:
    hidden = HiddenLayer(trained["relu"], mnist_5k.test.pixels)
    gains = nz.make_family("gains", nz.Conduct())
    assert not lines_of(hidden, [gains.at(level, hidden.ranges) for level in gains.levels])
    shift, floor = nz.Shift(), nz.Floor()
    bounded = [replace(shift.at(level, hidden.ranges), low=0.1) for level in shift.levels]
    assert lines_of(hidden, [replace(each, low=-np.inf) for each in bounded])
    assert not lines_of(hidden, bounded)
    assert not lines_of(hidden, [floor.at(level, hidden.ranges) for level in floor.levels])
    shift = nz.make_family("shift", nz.Conduct())
    perturbations = [shift.at(level, hidden.ranges) for level in shift.levels]
    assert lines_of(hidden, perturbations)
    moved = np.array(perturbations[40].offset)
    moved[np.argmax(hidden.ranges.post.width)] *= 1.001
    perturbations[40] = nz.Perturbation(offset=moved)
    assert not lines_of(hidden, perturbations)


def test_blocks_threads_and_other_levels_change_nothing(
    trained: dict[str, nz.TwoLayer], mnist_5k: nz.datasets.Dataset
) -> None:
    made = nz.make_family("offset", nz.Conduct())
    whole = HiddenLayer(trained["abs"], mnist_5k.test.pixels, threads=1)
    perturbations = [made.at(level, whole.ranges) for level in made.levels]
    mixed = [
        each for pair in zip(perturbations, [nz.Perturbation(scale=2.0)] * 125, strict=True) for each in pair
    ]
    expected = whole.predict(perturbations)
    np.testing.assert_array_equal(
        HiddenLayer(trained["abs"], mnist_5k.test.pixels, threads=3).predict(mixed)[::2], expected
    )
    np.testing.assert_array_equal(whole.predict(perturbations[::-1])[::-1], expected)
    pieces = [whole.predict(perturbations, slice(at, at + 96)) for at in range(0, 960, 96)]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), expected[:, :960])
