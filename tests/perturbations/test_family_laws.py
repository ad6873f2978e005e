"""Laws of all families, independent of their formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import nearzero as nz

CONDUCTS = [
    nz.Conduct(offset=offset, clip=clip, clip_threshold=threshold, range=side)
    for offset in ("as-run", "as-written", "shift")
    for clip in ("pre", "post")
    for threshold in ("min+pr", "pr")
    for side in ("pre", "post")
]
# One case for each family that differs: most options have no effect on most families.
CASES = list(
    {nz.make_family(name, conduct): (name, conduct) for name in nz.FAMILIES for conduct in CONDUCTS}.values()
)
RELU = nz.activation("relu")


def ranges_of(z: np.ndarray) -> nz.Ranges:
    """Return the ranges of z with some norms of weights, which differ between units."""
    return replace(nz.Ranges.of(z, RELU), norms=1.0 / np.arange(1, z.shape[1] + 1))


layers = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.integers(1, 6)),
    # in steps of 1/64: no layer has a range of 1e-38, and such a range only tests the limits of float32
    elements=st.integers(-32_000, 32_000).map(lambda k: k / 64),
)


def ids(case: tuple[str, nz.Conduct]) -> str:
    name, conduct = case
    return f"{name}-{conduct.offset}-{conduct.clip}-{conduct.clip_threshold}-{conduct.range}"


@pytest.mark.parametrize("case", CASES, ids=ids)
@given(z=layers)
@settings(max_examples=30)  # for each of about thirty families
def test_identity_level_changes_nothing_to_the_last_bit(case: tuple[str, nz.Conduct], z: np.ndarray) -> None:
    family = nz.make_family(*case)
    if family.identity is None:
        assert case[1].offset == "as-written"
        return
    perturbation = family.at(family.identity, ranges_of(z))
    x = z if perturbation.side == "pre" else RELU(z)
    assert np.array_equal(perturbation(x), x)
    assert perturbation.is_identity


@pytest.mark.parametrize("case", CASES, ids=ids)
@given(z=layers, level=st.floats(0.01, 0.99))
@settings(max_examples=30)
def test_dead_units_are_left_alone_and_nothing_is_nan(
    case: tuple[str, nz.Conduct], z: np.ndarray, level: float
) -> None:
    z[:, 0] = -np.abs(z[:, 0])  # ReLU turns the first unit into 0
    ranges = ranges_of(z)
    assert not ranges.live[0]
    assert ranges.dead_units == np.sum(np.ptp(np.maximum(z, 0), axis=0) == 0)
    try:
        perturbation = nz.make_family(*case).at(level, ranges)
    except nz.InputError:  # a pre-activation maximum that is 0 or almost 0: as-run would divide by it
        assert (case[1].offset, case[1].range) == ("as-run", "pre")
        return
    changed = perturbation(z)
    assert np.isfinite(changed).all()
    assert np.array_equal(changed[:, ~ranges.live], z[:, ~ranges.live])


@given(z=layers, low=st.floats(0.01, 5), more=st.floats(0, 5))
def test_clip_is_monotone_in_its_level(z: np.ndarray, low: float, more: float) -> None:
    ranges = ranges_of(z)
    for conduct in CONDUCTS:
        family = nz.make_family("clip", conduct)
        assert np.all(family.at(low, ranges)(z) <= family.at(low + more, ranges)(z))


@given(z=layers, first=st.floats(0.1, 3), second=st.floats(0.1, 3))
def test_scales_compose_by_multiplication(z: np.ndarray, first: float, second: float) -> None:
    ranges = ranges_of(z)
    scale = nz.Scale()
    in_turn = scale.at(second, ranges)(scale.at(first, ranges)(z.astype(np.float64)))
    at_once = scale.at(first * second, ranges)(z.astype(np.float64))
    np.testing.assert_allclose(in_turn, at_once, rtol=1e-12)


@given(z=layers, first=st.floats(-2, 1), second=st.floats(-2, 1))
def test_shifts_compose_by_addition(z: np.ndarray, first: float, second: float) -> None:
    ranges = ranges_of(z)
    shift = nz.Offset("shift", "pre")
    in_turn = shift.at(first, ranges).then(shift.at(second, ranges))
    np.testing.assert_allclose(in_turn.offset, shift.at(first + second, ranges).offset, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_levels_ascend_and_those_of_the_paper_are_as_published(case: tuple[str, nz.Conduct]) -> None:
    levels = nz.make_family(*case).levels
    assert np.all(np.diff(levels) > 0)
    if case[0] == "offset":
        assert len(levels) == 125
        assert (levels[0], levels[32], levels[-13], levels[-1]) == (-2.0, -0.4, 0.4, 1.0)
        assert 0.0 in levels
        assert levels[50] == -0.22  # the entry that the published t-tests used as "no perturbation"
    elif case[0] in ("scale", "clip"):
        assert len(levels) == 100
        np.testing.assert_allclose(levels, 0.01 * 1000 ** (np.arange(100) / 99), rtol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=ids)
@pytest.mark.parametrize("level", [np.nan, np.inf, -np.inf])
def test_a_level_that_is_not_finite_is_refused(
    case: tuple[str, nz.Conduct], level: float, rng: np.random.Generator
) -> None:
    family = nz.make_family(*case)
    if level == family.identity:
        return
    with pytest.raises(nz.InputError, match=f"a level of {case[0]} must be finite"):
        family.at(level, ranges_of(rng.normal(size=(5, 3))))


RANDOM = [name for name in nz.FAMILIES if nz.make_family(name, nz.Conduct()).random]


@pytest.mark.parametrize("name", RANDOM)
def test_a_draw_depends_on_the_seed_and_not_on_the_level(name: str, rng: np.random.Generator) -> None:
    """Two levels with one seed have the same signs, gains or permutation; another seed has others."""
    ranges = ranges_of(rng.standard_normal((50, 64)).astype(np.float32))
    family, same_seed, other_seed = (nz.make_family(name, nz.Conduct(), seed) for seed in (1, 1, 2))
    for parameter in ("scale", "offset"):
        values, same, other = (
            getattr(drawn.at(0.5, ranges), parameter) for drawn in (family, same_seed, other_seed)
        )
        np.testing.assert_array_equal(values, same)
        if values.ndim and np.ptp(values):
            assert not np.array_equal(values, other)
    small, large = (family.at(level, ranges) for level in (0.25, 0.5))
    if name == "gains":
        np.testing.assert_allclose(np.log(large.scale), 2 * np.log(small.scale), atol=1e-12)
    np.testing.assert_allclose(large.offset, 2 * small.offset, rtol=1e-12)


def test_the_distributions_of_draws(rng: np.random.Generator) -> None:
    """Signs have equal shares, gains are standard normal, and the shifts of live units are permuted."""
    z = rng.standard_normal((50, 4000)).astype(np.float32)
    z[:, :100] = -1.0  # dead
    ranges = ranges_of(z)
    live = ranges.live
    shift = nz.make_family("shift", nz.Conduct()).at(0.5, ranges).offset
    np.testing.assert_array_equal(shift, 0.5 * ranges.post.width)
    signed = nz.make_family("signed_shift", nz.Conduct()).at(0.5, ranges).offset
    np.testing.assert_array_equal(np.abs(signed), shift)
    assert abs(np.sign(signed[live]).mean()) < 4 / np.sqrt(live.sum())
    permuted = nz.make_family("permuted_shift", nz.Conduct()).at(0.5, ranges).offset
    np.testing.assert_array_equal(np.sort(permuted), np.sort(shift))
    assert not permuted[~live].any()
    gains = np.log(nz.make_family("gains", nz.Conduct()).at(2.0, ranges).scale[live]) / 2
    assert abs(gains.mean()) < 4 / np.sqrt(live.sum())
    assert abs(gains.std() - 1) < 4 / np.sqrt(2 * live.sum())
    plus, minus = nz.Offset().at(0.5, ranges), nz.Offset().at(-0.5, ranges)
    drawn = nz.make_family("signed_offset", nz.Conduct()).at(0.5, ranges)
    np.testing.assert_array_equal(drawn.scale, np.where(drawn.offset > 0, plus.scale, minus.scale))


@pytest.mark.parametrize(
    ("name", "expected"), [("cap", [1.0, 1.0, 0.0, 1.0]), ("floor", [4.0, 3.0, 3.0, 3.0])]
)
def test_cap_and_floor_act_on_both_sides_of_abs(name: str, expected: list[float]) -> None:
    """The activations are 4, 1, 0 and 2: the cap at p = 0.25 is 1, and the floor 3."""
    z = np.array([[-4.0], [-1.0], [0.0], [2.0]])
    act = nz.activation("abs")
    bound = nz.make_family(name, nz.Conduct()).at(0.25, nz.Ranges.of(z, act))
    assert bound.side == "post"
    np.testing.assert_array_equal(bound(act(z)).ravel(), expected)


@given(z=layers, level=st.floats(0.01, 0.99))
@settings(max_examples=30)
def test_the_floor_is_the_cap_of_the_negative(z: np.ndarray, level: float) -> None:
    """max(a, max - p r) = -min(-a, min + p r) with the extremes of -a; both directly by NumPy too."""
    a = RELU(z.astype(np.float64))
    low, high = a.min(axis=0), a.max(axis=0)
    ranges = nz.Ranges.of(z.astype(np.float64), RELU)
    floor, cap = nz.Floor().at(level, ranges), nz.Cap().at(level, ranges)
    np.testing.assert_array_equal(floor(a), np.clip(a, high - level * (high - low), None))
    np.testing.assert_array_equal(cap(a), np.clip(a, None, low + level * (high - low)))
    mirrored = nz.Ranges(nz.UnitRange(-high, -low, "pre"), nz.UnitRange(-high, -low, "post"))
    np.testing.assert_array_equal(floor(a), -nz.Cap().at(level, mirrored)(-a))


@pytest.mark.parametrize("side", ["pre", "post"])
@pytest.mark.parametrize("name", ["distance_shift", "signed_distance_shift"])
def test_boundaries_move_by_one_distance(name: str, side: str, rng: np.random.Generator) -> None:
    """Geometrically: the points of the plane w x + b = 0 lie at distance p R from the plane after the shift."""
    w, b, x = rng.normal(size=(5, 3)) * 3, rng.normal(size=5), rng.normal(size=(40, 3))
    norms = np.sqrt((w**2).sum(axis=1))
    z = x @ w.T + b
    ranges = replace(nz.Ranges.of(z, RELU), norms=norms)
    widths = np.ptp(z if side == "pre" else np.maximum(z, 0), axis=0)
    reference = np.sqrt(np.mean((widths / norms) ** 2))
    offset = np.asarray(nz.make_family(name, nz.Conduct(range=side), 1).at(0.25, ranges).offset)
    for u in range(5):
        on_boundary = x - np.outer(z[:, u], w[u]) / norms[u] ** 2  # the feet of the examples
        np.testing.assert_allclose(on_boundary @ w[u] + b[u], 0, atol=1e-12)
        signed = (on_boundary @ w[u] + b[u] + offset[u]) / norms[u]
        np.testing.assert_allclose(np.abs(signed), 0.25 * reference, rtol=1e-9)
    signs = {-1.0, 1.0} if name.startswith("signed") else {1.0}
    assert set(np.sign(offset)) == signs


def test_what_distances_cant_be_taken_of() -> None:
    z = np.array([[1.0, -1.0, 2.0], [2.0, -2.0, 0.0]])  # ReLU turns the second unit into 0
    ranges = nz.Ranges.of(z, RELU)
    with pytest.raises(
        nz.InputError, match="need the norms of the units' weights, and these ranges have none"
    ):
        nz.DistanceShift().at(0.5, ranges)
    with pytest.raises(nz.InputError, match="1 live units have weights of norm 0"):
        nz.DistanceShift().at(0.5, replace(ranges, norms=np.array([1.0, 1.0, 0.0])))
    dead = nz.DistanceShift().at(0.5, replace(ranges, norms=np.array([1.0, 0.0, 2.0])))
    # widths 1 and 2 and norms 1 and 2: R = 1
    np.testing.assert_allclose(dead.offset, [0.5, 0.0, 1.0])
    silent = replace(nz.Ranges.of(-np.abs(z), RELU), norms=np.ones(3))
    assert nz.DistanceShift().at(0.5, silent).is_identity
