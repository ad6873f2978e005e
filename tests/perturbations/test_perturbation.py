"""A perturbation as a value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nearzero as nz

finite = st.floats(-50, 50)
positive = st.floats(0.01, 50)


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


@given(st.lists(st.tuples(positive, finite, finite), min_size=2, max_size=2), finite)
def test_composition(parts: list[tuple[float, float, float]], x: float) -> None:
    first, second = (nz.Perturbation(*part) for part in parts)
    expected = second(first(np.array([x])))
    np.testing.assert_allclose(first.then(second)(np.array([x])), expected, rtol=1e-9, atol=1e-9)


def test_composition_keeps_no_clip_as_no_clip() -> None:
    both = nz.Perturbation(scale=2.0).then(nz.Perturbation(scale=0.0, offset=1.0))
    assert both.clip == np.inf
    assert both(np.array([5.0])) == 1.0


def test_composition_refuses_what_has_no_single_form() -> None:
    with pytest.raises(
        nz.InputError, match="the second scale isn't positive where the first perturbation clips"
    ):
        nz.Perturbation(clip=1.0).then(nz.Perturbation(scale=-1.0))
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
