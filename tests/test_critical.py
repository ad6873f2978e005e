"""Critical levels against a hand-computed network, a brute-force search, and the sweep."""

import numpy as np
import pytest

import nearzero as nz
from nearzero.critical import critical_levels
from nearzero.networks import initial_stack

CONDUCTS = {
    "scale": [nz.Conduct()],
    "offset": [
        nz.Conduct(),
        nz.Conduct(range="pre", offset="shift"),
        nz.Conduct(offset="shift"),
        nz.Conduct(offset="as-written"),
    ],
    "clip": [nz.Conduct(), nz.Conduct(clip="post"), nz.Conduct(clip_threshold="pr"), nz.Conduct(range="pre")],
}
CASES = [
    pytest.param(activation, family, conduct, id=f"{activation}-{family}-{number}")
    for activation in ("relu", "abs", "leaky_relu", "gelu", "tanh")
    for family, conducts in CONDUCTS.items()
    for number, conduct in enumerate(conducts)
    if not (family == "offset" and conduct.offset == "as-run" and activation not in ("relu", "abs"))
]


def network_of(activation, *, units=12, seed=1):
    net = initial_stack([seed], activation, inputs=10, units=units, classes=4)[0]
    return nz.TwoLayer(4 * net.w1, net.b1, 4 * net.w2, net.b2, activation)


def brute_force(network, z, family, ranges, levels):
    """(L, N): predictions in float64, level by level."""
    rows = []
    for level in levels:
        change = family.at(level, ranges)
        a = network.act(change(z)) if change.side == "pre" else change(network.act(z))
        rows.append((a @ network.w2.T.astype(float) + network.b2).argmax(axis=1))
    return np.array(rows)


@pytest.mark.parametrize(("activation", "family", "conduct"), CASES)
def test_intervals_are_what_a_search_finds(activation, family, conduct):
    network = network_of(activation)
    x = np.random.default_rng(0).normal(size=(30, 10)).astype(np.float32)
    found = critical_levels(network, x, family=family, conduct=conduct)
    hidden = nz.HiddenLayer(network, x)
    z = x.astype(float) @ network.w1.T.astype(float) + network.b1
    levels = np.arange(found.low, found.high, 5e-4 * (found.high - found.low) / 3)
    searched = brute_force(network, z, nz.make_family(family, conduct), hidden.ranges, levels)
    np.testing.assert_array_equal([found.predict(level) for level in levels], searched)
    assert found.exact == (activation in ("relu", "abs", "leaky_relu"))
    assert len(found.starts) > len(x), "something changes"
    # every interval is one: its neighbours differ, and it has a length
    inside = np.ones(len(found.starts), bool)
    inside[found.first[:-1]] = False
    assert (found.classes[inside] != found.classes[np.flatnonzero(inside) - 1]).all()
    assert (np.diff(found.starts)[inside[1:]] > 0).all()


def test_two_units_by_hand():
    """Logits are (a1, 1, a2); a1 = relu(1 + p r1), a2 = relu(-1 + p r2), where r1 = 1 and r2 = 3 over the data."""
    network = nz.TwoLayer(np.eye(2), np.zeros(2), [[1, 0], [0, 0], [0, 1]], [0, 1.5, 0])
    x = np.array([[1.0, -1.0], [0.0, 3.0], [-1.0, 0.0]])  # the first is looked at
    found = critical_levels(network, x, family="offset", conduct=nz.Conduct(offset="shift"), low=-2, high=3)
    mine = slice(found.first[0], found.first[1])
    # class 1 (1.5) until 1 + p = 1.5; then class 0, until -1 + 3 p = 1 + p
    np.testing.assert_allclose(found.starts[mine], [-2, 0.5, 1])
    np.testing.assert_array_equal(found.classes[mine], [1, 0, 2])
    assert found.critical("above")[0] == pytest.approx(0.5)
    assert np.isnan(found.critical("below")[0]), "never, to -2: censored"
    np.testing.assert_array_equal(found.predict(0.75)[0], 0)


def test_scale_in_closed_form():
    """Logits 2 s x and s x + 1 meet at s = 1 / x."""
    network = nz.TwoLayer([[1.0]], [0.0], [[2.0], [1.0]], [0.0, 1.0])
    found = critical_levels(network, [[1.0], [0.5]], family="scale")
    np.testing.assert_allclose(found.starts, [0.01, 1, 0.01, 2])
    np.testing.assert_array_equal(found.classes, [1, 0, 1, 0])


def test_the_critical_level_is_the_first_change():
    network = network_of("relu")
    x = np.random.default_rng(2).normal(size=(200, 10)).astype(np.float32)
    found = critical_levels(network, x, family="offset")
    for side, sign in (("above", 1), ("below", -1)):
        critical = found.critical(side)
        assert 0 < np.isnan(critical).sum() < len(x)
        for n in np.flatnonzero(np.isfinite(critical))[:50]:
            before, after = critical[n] - sign * 1e-9, critical[n] + sign * 1e-9
            assert found.predict(before)[n] == found.unperturbed[n] or before * sign < 0
            assert not (found.low <= after <= found.high) or found.predict(after)[n] != found.unperturbed[n]


def test_dead_units_and_ties_are_left_alone():
    network = nz.TwoLayer([[1.0], [0.0]], [0.0, -1.0], [[1, 5], [1, 7]], [0.5, 0.5])
    found = critical_levels(network, [[1.0], [2.0]], family="clip")
    np.testing.assert_array_equal(found.classes, [0, 0])
    assert np.isnan(found.critical("below")).all()


def test_accuracy_at_the_levels_of_the_sweep(trained, mnist_5k):
    """Near ties, which float32 and float64 may decide differently, are all that may differ."""
    x, y = mnist_5k.test.pixels[:500], mnist_5k.test.labels[:500]
    for network in trained.values():
        sweep = nz.sweep(network, x, y)
        for family in ("scale", "offset", "clip"):
            levels = nz.make_family(family, nz.Conduct()).levels
            found = critical_levels(network, x, family=family, low=levels[0], high=levels[-1])
            expected = sweep.accuracy.sel(family=family, level=levels).values
            assert np.abs(found.accuracy(levels, y) - expected).sum() * len(x) <= 1


def test_threads_and_order_change_nothing():
    network = network_of("abs")
    x = np.random.default_rng(3).normal(size=(1100, 10)).astype(np.float32)
    one, two = (critical_levels(network, x, family="clip", threads=count) for count in (1, 2))
    np.testing.assert_array_equal(one.starts, two.starts)
    np.testing.assert_array_equal(one.first, two.first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"family": "scale", "low": 0.0},
            "levels must be finite and ascending, for scale positive; got low 0.0",
        ),
        ({"low": 1.0, "high": -1.0}, "got low 1.0 and high -1.0"),
        ({"high": np.inf}, "levels must be finite"),
        ({"family": "tilt"}, "unknown family 'tilt'"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(nz.InputError, match=message):
        critical_levels(network_of("relu"), np.ones((2, 10)), **arguments)


def test_levels_outside_are_refused():
    found = critical_levels(network_of("relu"), np.ones((2, 10)), family="scale")
    with pytest.raises(nz.InputError, match=r"levels from 0.01 to 10.0 were looked at; got 11"):
        found.predict(11)
    with pytest.raises(nz.InputError, match="side must be 'below' or 'above'; got 'left'"):
        found.critical("left")
    with pytest.raises(nz.InputError, match=r"scale has no identity from 2\.0 to 3\.0"):
        critical_levels(network_of("relu"), np.ones((2, 10)), family="scale", low=2, high=3).critical("above")
