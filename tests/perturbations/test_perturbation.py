"""A perturbation as a value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nearzero as nz

finite = st.floats(-50, 50)


def test_two_units_calculated_by_hand() -> None:
    perturbation = nz.Perturbation(scale=np.array([2.0, -1.0]), offset=0.5, clip=np.array([3.0, np.inf]))
    x = np.array([[1.0, 1.0], [5.0, -4.0]])
    np.testing.assert_array_equal(perturbation(x), [[2.5, -0.5], [3.0, 4.5]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_identity_keeps_every_bit_and_the_dtype(dtype: type, rng: np.random.Generator) -> None:
    x = rng.normal(size=(7, 3)).astype(dtype)
    y = nz.Perturbation()(x)
    assert y.dtype == dtype
    assert np.array_equal(x, y)


def test_two_bounds_calculated_by_hand(rng: np.random.Generator) -> None:
    perturbation = nz.Perturbation(2.0, 1.0, clip=np.array([3.0, np.inf]), low=np.array([-np.inf, 0.0]))
    x = np.array([[-2.0, -2.0], [0.5, 0.5], [4.0, 4.0]])
    np.testing.assert_array_equal(perturbation(x), [[-3.0, 0.0], [2.0, 2.0], [3.0, 9.0]])
    assert not nz.Perturbation(low=-1e9).is_identity
    z = rng.normal(size=(50, 4)).astype(np.float32)
    low, clip = np.sort(rng.normal(size=(2, 4)), axis=0)
    expected = np.clip(np.float32(0.5) * z + np.float32(0.1), low.astype(np.float32), clip.astype(np.float32))
    np.testing.assert_array_equal(nz.Perturbation(0.5, 0.1, clip, low=low)(z), expected)
    np.testing.assert_array_equal(nz.Perturbation(low=-1e300).per_unit(2)[3], -np.inf)


# a scale, an offset and two bounds, of which either may be infinite
parameters = st.tuples(
    st.one_of(finite, st.just(0.0)),
    finite,
    st.lists(st.one_of(finite, st.sampled_from([-np.inf, np.inf])), min_size=2, max_size=2),
)


@given(st.lists(parameters, min_size=2, max_size=2), finite)
def test_composition(parts: list[tuple[float, float, list[float]]], x: float) -> None:
    first, second = (
        nz.Perturbation(scale, offset, clip=max(-50.0, *bounds), low=min(50.0, *bounds))
        for scale, offset, bounds in parts
    )
    expected = second(first(np.array([x])))
    np.testing.assert_allclose(first.then(second)(np.array([x])), expected, rtol=1e-9, atol=1e-9)


def test_composition_keeps_no_clip_as_no_clip() -> None:
    both = nz.Perturbation(scale=2.0).then(nz.Perturbation(scale=0.0, offset=1.0))
    assert both.clip == np.inf
    assert both(np.array([5.0])) == 1.0


def test_a_negative_scale_exchanges_the_bounds() -> None:
    both = nz.Perturbation(clip=1.0).then(nz.Perturbation(scale=-2.0))
    assert (both.low, both.clip) == (-2.0, np.inf)
    np.testing.assert_array_equal(both(np.array([-3.0, 5.0])), [6.0, -2.0])


def test_composition_refuses_what_has_no_single_form() -> None:
    with pytest.raises(
        nz.InputError, match="can't compose a pre-activation with a post-activation perturbation"
    ):
        nz.Perturbation().then(nz.Perturbation(side="post"))


def test_it_is_a_value() -> None:
    scale = np.ones(3)
    perturbation = nz.Perturbation(scale=scale)
    scale[0] = 5
    assert np.asarray(perturbation.scale)[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(perturbation.scale)[0] = 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"scale": np.ones((2, 2))},
            r"scale must be a number or an array \(units,\) without NaN; got shape \(2, 2\)",
        ),
        ({"clip": np.array([1.0, np.nan])}, "clip must be a number or .* got NaN"),
        ({"scale": np.ones(2), "offset": np.ones(3)}, r"must be of one length; got lengths \[2, 3\]"),
        ({"low": np.array([0.0, 2.0]), "clip": 1.0}, "low must not exceed clip, .*; got low 2 and clip 1$"),
        ({"low": np.inf}, "low must stay within float32, in which networks compute; got inf"),
        ({"clip": -np.inf}, "clip must stay within float32, in which networks compute; got -inf"),
        ({"side": "both"}, "side must be one of pre, post; got 'both'$"),
        ({"side": "Pre"}, "side must be one of pre, post; got 'Pre'; did you mean 'pre'"),
    ],
)
def test_bad_parameters(arguments: dict, message: str) -> None:
    with pytest.raises(nz.InputError, match=message):
        nz.Perturbation(**arguments)


def test_a_perturbation_for_another_layer_is_refused() -> None:
    with pytest.raises(nz.InputError, match="offset has 2 values, but the layer has 3 units"):
        nz.Perturbation(offset=np.ones(2)).per_unit(3)
