"""Critical levels against hand-computed networks and a brute-force search, for every family and both methods."""

import numpy as np
import pytest

import nearzero as nz
from nearzero.analysis.critical.find import declared
from nearzero.analysis.critical.intervals import SLOPES
from nearzero.networks import initial_stack
from nearzero.perturbations.families import AS_RUN_FOR, BY_FORMULA, FAMILIES

SWITCHES = {
    "offset": [nz.Conduct(), nz.Conduct(range="pre", offset="shift"), nz.Conduct(offset="as-written")],
    "signed_offset": [nz.Conduct(), nz.Conduct(offset="shift", range="pre")],
    "shift": [nz.Conduct(), nz.Conduct(range="pre")],
    "clip": [nz.Conduct(), nz.Conduct(clip="post"), nz.Conduct(clip_threshold="pr"), nz.Conduct(range="pre")],
}
CASES = [
    pytest.param(activation, family, conduct, id=f"{activation}-{family}-{number}")
    for activation in ("relu", "abs", "leaky_relu", "gelu", "tanh")
    for family in FAMILIES
    for number, conduct in enumerate(SWITCHES.get(family, [nz.Conduct()]))
    if not (family in BY_FORMULA and conduct.offset == "as-run" and activation not in AS_RUN_FOR)
]
LEVELS = 250


def network_of(activation, *, units=12, classes=4, seed=1):
    net = initial_stack([seed], activation, inputs=10, units=units, classes=classes)[0]
    return nz.TwoLayer(4 * net.w1, net.b1, 4 * net.w2, net.b2, activation)


def inputs_of(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 10)).astype(np.float32)


def search(network, x, family, levels):
    """(L, N): predictions in float64, level by level, by `Perturbation` in NumPy."""
    z = x.astype(float) @ network.w1.T.astype(float) + network.b1
    ranges = nz.HiddenLayer(network, x).ranges
    rows = []
    for level in levels:
        change = family.at(level, ranges)
        a = network.act(change(z)) if change.side == "pre" else change(network.act(z))
        rows.append((a @ network.w2.T.astype(float) + network.b2).argmax(axis=1))
    return np.array(rows)


def assert_found(found, searched, levels):
    np.testing.assert_array_equal([found.predict(level) for level in levels], searched)
    inside = np.ones(len(found.starts), bool)
    inside[found.first[:-1]] = False
    assert (found.classes[inside] != found.classes[np.flatnonzero(inside) - 1]).all()
    assert (np.diff(found.starts)[inside[1:]] > 0).all()


def test_every_family_has_levels_to_look_at():
    assert {name: declared(nz.make_family(name, nz.Conduct())) for name in FAMILIES} == {
        "scale": (0.01, 10.0),
        "clip": (0.0, 1.0),
        "offset": (-2.0, 1.0),
        "shift": (-2.0, 1.0),
        "signed_shift": (0.0, 1.0),
        "signed_offset": (0.0, 1.0),
        "permuted_shift": (-2.0, 1.0),
        "gains": (0.0, 1.0),
        "cap": (0.0, 1.0),
        "floor": (0.0, 1.0),
        "distance_shift": (-2.0, 1.0),
        "signed_distance_shift": (0.0, 1.0),
    }
    assert set(SLOPES) == {name for name, act in nz.ACTIVATIONS.items() if act.piecewise_linear}


@pytest.mark.parametrize("name", SLOPES)
def test_the_slopes_are_those_of_the_activation(name):
    act, (below, above) = nz.activation(name), SLOPES[name]
    z = np.array([-3.0, 0.0, 2.0])
    np.testing.assert_array_equal(act(z), np.where(z < 0, below, above) * z)


@pytest.mark.parametrize(("activation", "family", "conduct"), CASES)
def test_intervals_are_what_a_search_finds(activation, family, conduct):
    network, x = network_of(activation), inputs_of(30)
    found = nz.critical_levels(network, x, family=family, conduct=conduct, seed=3)
    levels = np.linspace(found.low, found.high, LEVELS)
    assert_found(found, search(network, x, nz.make_family(family, conduct, 3), levels), levels)
    assert found.exact == (activation in SLOPES and family != "gains")
    assert len(found.starts) > len(x), "something changes"


@pytest.mark.parametrize("family", ["clip", "shift"])
@pytest.mark.parametrize(("units", "classes"), [(40, 3), (3, 2), (25, 30)])
def test_other_shapes(family, units, classes):
    """Many units with events at one level (clip by the pre-activation range), and few or many classes."""
    network, x = network_of("leaky_relu", units=units, classes=classes), inputs_of(60)
    conduct = nz.Conduct(range="pre")
    found = nz.critical_levels(network, x, family=family, conduct=conduct)
    levels = np.linspace(found.low, found.high, LEVELS)
    assert_found(found, search(network, x, nz.make_family(family, conduct), levels), levels)


def test_one_example():
    network, x = network_of("relu"), inputs_of(40)
    ranges = nz.unit_ranges(network, x)
    whole = nz.critical_levels(network, x, ranges=ranges)
    alone = nz.critical_levels(network, x[7:8], ranges=ranges)
    np.testing.assert_allclose(alone.starts, whole.starts[whole.first[7] : whole.first[8]], rtol=1e-12)


def test_levels_beyond_the_declared():
    network, x = network_of("abs"), inputs_of(20)
    found = nz.critical_levels(network, x, family="clip", low=-0.5, high=3)
    levels = np.linspace(-0.5, 3, LEVELS)
    assert_found(found, search(network, x, nz.make_family("clip", nz.Conduct()), levels), levels)


def test_two_units_by_hand():
    """Logits are (a1, 1.5, a2); a1 = relu(1 + p r1), a2 = relu(-1 + p r2), where r1 = 1 and r2 = 3 over the data."""
    network = nz.TwoLayer(np.eye(2), np.zeros(2), [[1, 0], [0, 0], [0, 1]], [0, 1.5, 0])
    x = np.array([[1.0, -1.0], [0.0, 3.0], [-1.0, 0.0]])  # the first is looked at
    found = nz.critical_levels(network, x, family="shift", low=-2, high=3)
    mine = slice(found.first[0], found.first[1])
    # class 1 until 1 + p = 1.5; then class 0, until -1 + 3 p = 1 + p
    np.testing.assert_allclose(found.starts[mine], [-2, 0.5, 1])
    np.testing.assert_array_equal(found.classes[mine], [1, 0, 2])
    assert found.critical("above")[0] == pytest.approx(0.5)
    assert np.isnan(found.critical("below")[0]), "never, to -2: censored"
    assert found.predict(0.75)[0] == 0


def test_scale_in_closed_form():
    """Logits 2 s x and s x + 1 meet at s = 1 / x."""
    network = nz.TwoLayer([[1.0]], [0.0], [[2.0], [1.0]], [0.0, 1.0])
    found = nz.critical_levels(network, [[1.0], [0.5]], family="scale")
    np.testing.assert_allclose(found.starts, [0.01, 1, 0.01, 2])
    np.testing.assert_array_equal(found.classes, [1, 0, 1, 0])


@pytest.mark.parametrize("activation", SLOPES)
def test_scale_is_the_argmax_of_w2_a_and_b2_over_s(activation):
    network, x = network_of(activation), inputs_of(50)
    found = nz.critical_levels(network, x, family="scale")
    a = network.act(x.astype(float) @ network.w1.T.astype(float) + network.b1)
    for s in np.geomspace(0.01, 10, 400):
        predicted = (a @ network.w2.T.astype(float) + network.b2 / s).argmax(axis=1)
        np.testing.assert_array_equal(found.predict(s), predicted)


def test_dead_units_and_ties_are_left_alone():
    network = nz.TwoLayer([[1.0], [0.0]], [0.0, -1.0], [[1, 5], [1, 7]], [0.5, 0.5])
    found = nz.critical_levels(network, [[1.0], [2.0]], family="clip")
    np.testing.assert_array_equal(found.classes, [0, 0])
    assert np.isnan(found.critical("below")).all()


def test_where_all_units_are_silent_rounding_has_no_say():
    """Without a bias of the output, all logits are then 0, whatever was added and taken away on the way there."""
    net, x = network_of("relu", units=7), inputs_of(80)
    network = nz.TwoLayer(net.w1, net.b1, net.w2, np.zeros(4), "relu")
    ranges = nz.unit_ranges(network, x)
    drawn = (nz.make_family("signed_shift", nz.Conduct(), seed).at(1.0, ranges) for seed in range(2000))
    seed = next(seed for seed, change in enumerate(drawn) if (change.offset < 0).all())
    found = nz.critical_levels(network, x, family="signed_shift", seed=seed, high=4)
    assert len(np.unique(found.predict(0))) == 4
    assert (found.predict(1.1) == 0).all()
    assert (found.predict(4) == 0).all()


def test_gains_are_exponential_in_the_level():
    """Logits e^(p g1) x and 2 e^(p g2) x meet at p = log 2 / (g1 - g2), whatever x."""
    network = nz.TwoLayer(np.eye(2), np.zeros(2), [[1, 0], [0, 2]], np.zeros(2))
    x = np.array([[1.0, 1.0], [5.0, 5.0]])
    scale = nz.make_family("gains", nz.Conduct(), 1).at(1.0, nz.unit_ranges(network, x)).scale
    meet = np.log(2) / np.diff(np.log(scale)[::-1])[0]
    assert -1.5 < meet < 0
    found = nz.critical_levels(network, x, family="gains", seed=1, low=-1.5)
    assert not found.exact
    np.testing.assert_allclose(found.critical("below"), meet, rtol=1e-12)
    np.testing.assert_array_equal(found.successor("below"), [0, 0])
    assert found.censored("above") == 2


def ranges_of(*widths):
    """Pre-activation ranges of these widths, of live units."""
    zero = np.zeros(len(widths))
    return nz.Ranges(nz.UnitRange(zero, np.array(widths), "pre"), nz.UnitRange(zero, zero + 1, "post"))


SHIFT = nz.Conduct(offset="shift", range="pre")


def test_changes_are_followed_to_the_last_bits():
    """tanh(1 + 2 p) meets 0.9 where 1 + 2 p = atanh 0.9."""
    network = nz.TwoLayer([[1.0]], [0.0], [[1.0], [0.0]], [0.0, 0.9], "tanh")
    found = nz.critical_levels(network, [[1.0]], ranges=ranges_of(2.0), conduct=SHIFT)
    expected = (np.arctanh(float(np.float32(0.9))) - 1) / 2
    np.testing.assert_allclose(found.critical("above"), expected, rtol=1e-14)


def test_a_third_class_between_two_neighbours_of_the_grid_is_found():
    """Logits 0, 100 t - 5.2 and 200 t - 10.6 with t = tanh p: the second wins from t = 0.052 to 0.054."""
    network = nz.TwoLayer([[1.0]], [0.0], [[0.0], [100.0], [200.0]], [0.0, -5.2, -10.6], "tanh")
    found = nz.critical_levels(network, [[0.0]], ranges=ranges_of(1.0), conduct=SHIFT, grid=2)
    np.testing.assert_array_equal(found.classes, [0, 1, 2])
    np.testing.assert_allclose(found.starts[1:], np.arctanh([0.052, 0.054]), rtol=1e-5)


def test_a_finer_grid_finds_what_a_coarse_one_misses():
    """tanh(y + 1) - tanh(y - 1) - 1 with y = 200 (p - 0.575) is positive from 0.571 to 0.579 only."""
    network = nz.TwoLayer([[1.0], [1.0]], [-114.0, -116.0], [[0, 0], [1, -1]], [0, -1], "tanh")
    found = [
        nz.critical_levels(network, [[0.0]], ranges=ranges_of(200.0, 200.0), conduct=SHIFT, grid=count)
        for count in (2, 501)
    ]
    assert found[0].grid == 125, "the family's own"
    assert [len(each.starts) for each in found] == [1, 3]
    assert "on 125 levels" in found[0].assumption
    np.testing.assert_allclose(found[1].starts[1:], [0.571, 0.579], atol=1e-3)


def test_the_grid_of_scale_is_as_fine_at_small_levels():
    """tanh(2 u) - tanh(u), u being a multiple of the level, is near its greatest value for 4 % of a level of 0.0207."""
    u = np.linspace(0.1, 2, 100_001)
    hump = np.tanh(2 * u) - np.tanh(u)
    peak, top = u[hump.argmax()], hump.max()
    edge = u[np.flatnonzero(hump > np.tanh(2.04 * peak) - np.tanh(1.02 * peak))[[0, -1]]] / peak * 0.0207
    gain = peak / 0.0207
    level = np.tanh(2.04 * peak) - np.tanh(1.02 * peak)
    network = nz.TwoLayer(
        [[2 * gain], [gain]], [0, 0], 1000 * np.array([[0, 0], [1, -1]]), [0, -1000 * level], "tanh"
    )
    found = nz.critical_levels(network, [[1.0]], family="scale", ranges=ranges_of(1.0, 1.0))
    assert top > level
    np.testing.assert_array_equal(found.classes, [0, 1, 0])
    np.testing.assert_allclose(found.starts[1:], edge, rtol=1e-3)


def test_near_ties_of_float32_are_decided_in_float64():
    """Of two logits about 1e5 that differ by 2e-7 float32 takes the first, at all levels or between two changes."""
    net, x = network_of("gelu", units=20), np.abs(1e4 * inputs_of(40))
    row = np.abs(net.w2[:1])
    tied = nz.TwoLayer(np.abs(net.w1), net.b1, np.repeat(row, 3, axis=0), [1e-7, 0, 2e-7], "gelu")
    assert (nz.HiddenLayer(tied, x).unperturbed == 0).all()
    found = nz.critical_levels(tied, x, family="scale")
    np.testing.assert_array_equal(found.classes, np.full(40, 2))
    w2 = np.concatenate([2 * row, row, row, 0 * row])
    crossed = nz.TwoLayer(np.abs(net.w1), net.b1, w2, [-1e5, 0, 2e-7, 2e4], "gelu")
    found = nz.critical_levels(crossed, x, family="scale")
    np.testing.assert_array_equal(found.classes.reshape(40, 3), np.tile([3, 2, 0], (40, 1)))


def test_threads_and_memory_change_nothing():
    x = inputs_of(2100, seed=3)
    for activation in ("abs", "tanh"):
        network = network_of(activation)
        conduct = nz.Conduct.default([activation])
        one, two, small = (
            nz.critical_levels(network, x, family="clip", conduct=conduct, threads=threads, memory=memory)
            for threads, memory in ((1, None), (2, None), (2, "16 MB"))
        )
        for other in (two, small):
            np.testing.assert_array_equal(one.starts, other.starts)
            np.testing.assert_array_equal(one.first, other.first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"family": "scale", "low": 0.0},
            "low and high must be finite, low < high, and positive for scale; got low 0.0",
        ),
        ({"low": 1.0, "high": -1.0}, "got low 1.0 and high -1.0"),
        ({"high": np.inf}, "low and high must be finite"),
        ({"high": "far"}, "high must be real numbers; got"),
        ({"low": [0, 1]}, r"low must be one level; got an array of shape \(2,\)"),
        ({"family": "tilt"}, "unknown family 'tilt'"),
        ({"family": "ofset"}, "unknown family 'ofset': did you mean 'offset'"),
        ({"grid": 1}, "grid must be a whole number, at least 2; got 1"),
        ({"conduct": "shift"}, "conduct must be an nz.Conduct; got str"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(nz.InputError, match=message):
        nz.critical_levels(network_of("relu"), np.ones((2, 10)), **arguments)


def test_as_run_is_refused_where_it_has_no_meaning():
    for family in ("offset", "signed_offset"):
        with pytest.raises(nz.InputError, match="offset=as-run isn't defined for tanh"):
            nz.critical_levels(network_of("tanh"), np.ones((2, 10)), family=family, conduct=nz.Conduct())
