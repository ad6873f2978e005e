"""The three families, against their formulas calculated by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nearzero as nz

# Two units: z from -2 to 6, and from -8 to 4. Abs: 0 to 6, and 1 to 8.
Z = np.array([[-2.0, -8.0], [0.0, 1.0], [6.0, 4.0]])
ABS = nz.Ranges.of(Z, nz.activation("abs"))
RELU = nz.Ranges.of(Z, nz.activation("relu"))


def parameters(perturbation: nz.Perturbation) -> list[list[float]]:
    return [
        np.broadcast_to(value, 2).tolist()
        for value in (perturbation.scale, perturbation.offset, perturbation.clip)
    ]


def test_offset_as_run_keeps_the_maximum_in_place() -> None:
    perturbation = nz.Offset("as-run").at(0.25, RELU)  # r = max = 6 and 4
    assert parameters(perturbation) == [[0.75, 0.75], [1.5, 1.0], [np.inf, np.inf]]
    np.testing.assert_array_equal(perturbation(Z)[2], Z[2])


def test_offset_as_run_with_a_minimum_above_zero() -> None:
    perturbation = nz.Offset("as-run").at(0.5, ABS)  # r = 6 and 7, max = 6 and 8
    assert parameters(perturbation) == [[0.5, (8 - 3.5) / 8], [3.0, 3.5], [np.inf, np.inf]]


def test_offset_as_run_moves_a_negative_maximum_of_abs_by_two_p_r() -> None:
    perturbation = nz.Offset("as-run").at(0.5, ABS)
    assert perturbation(np.array([0.0, -8.0]))[1] == -8 + 2 * 0.5 * 7


def test_offset_as_written_scales_by_the_range_and_has_no_identity() -> None:
    family = nz.Offset("as-written")
    assert family.identity is None
    assert parameters(family.at(0.25, ABS)) == [[0.75 * 6, 0.75 * 7], [1.5, 1.75], [np.inf, np.inf]]
    assert parameters(family.at(0.0, ABS)) == [[6, 7], [0, 0], [np.inf, np.inf]]


def test_offset_shift_moves_the_boundary_alone() -> None:
    assert parameters(nz.Offset("shift", "pre").at(-0.5, ABS)) == [[1, 1], [-4, -6], [np.inf, np.inf]]
    assert parameters(nz.Offset("shift", "post").at(-0.5, ABS)) == [[1, 1], [-3, -3.5], [np.inf, np.inf]]


def test_scale() -> None:
    assert parameters(nz.Scale().at(0.3, ABS)) == [[0.3, 0.3], [0, 0], [np.inf, np.inf]]


@pytest.mark.parametrize(
    ("family", "threshold"),
    [
        (nz.Clip("min+pr", "pre", "post"), [0 + 1.5, 1 + 1.75]),
        (nz.Clip("pr", "pre", "post"), [1.5, 1.75]),
        (nz.Clip("min+pr", "post", "post"), [1.5, 2.75]),
        (nz.Clip("min+pr", "pre", "pre"), [-2 + 2.0, -8 + 3.0]),
    ],
)
def test_clip(family: nz.Clip, threshold: list[float]) -> None:
    perturbation = family.at(0.25, ABS)
    assert parameters(perturbation) == [[1, 1], [0, 0], threshold]
    assert perturbation.side == family.side


def test_the_slope_of_as_run_grows_where_the_maximum_is_negative() -> None:
    negative = nz.Ranges.of(np.array([[-1.0, 2.0], [-3.0, 5.0]]), nz.activation("abs"))
    assert parameters(nz.Offset("as-run", "pre").at(0.1, negative))[:2] == [
        [1.2, (5 - 0.3) / 5],
        [0.2, 0.1 * 3],
    ]


def test_as_run_is_refused_where_it_would_divide_by_zero() -> None:
    zero = nz.Ranges.of(np.array([[0.0, 2.0], [-3.0, 5.0]]), nz.activation("abs"))
    with pytest.raises(
        nz.InputError, match="1 live units have a pre-activation maximum of 0; use range=post"
    ):
        nz.Offset("as-run", "pre").at(0.1, zero)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (
            nz.Offset,
            {"formula": "as_writen"},
            "formula must be .*; got 'as_writen'; did you mean 'as-written'",
        ),
        (nz.SignedOffset, {"formula": "shft"}, "formula must be .*; got 'shft'; did you mean 'shift'"),
        (nz.Clip, {"range": "PRE"}, "range must be one of pre, post; got 'PRE'; did you mean 'pre'"),
        (nz.Clip, {"side": "pots"}, "side must be one of pre, post; got 'pots'; did you mean 'post'"),
        (nz.Clip, {"threshold": "min-pr"}, "threshold must be .*; got 'min-pr'; did you mean 'min.pr'"),
        (nz.Shift, {"range": "posst"}, "range must be .*; did you mean 'post'"),
        (nz.SignedShift, {"range": "posst"}, "range must be .*; did you mean 'post'"),
        (nz.PermutedShift, {"range": ["pre"]}, r"range must be one of pre, post; got \['pre'\]"),
        (nz.Conduct, {"offset": "shfit"}, "offset must be .*; got 'shfit'; did you mean 'shift'"),
    ],
)
def test_misspelt_options_are_refused(
    make: Callable[..., object], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(nz.InputError, match=message):
        make(**options)


def test_as_run_is_refused_outside_relu_and_abs() -> None:
    with pytest.raises(nz.InputError, match="offset=as-run isn't defined for tanh, gelu"):
        nz.Conduct().check(["relu", "tanh", "gelu"])
    nz.Conduct(offset="shift").check(["relu", "tanh"])


def test_default_conduct() -> None:
    assert nz.Conduct.default(["abs", "relu"]) == nz.Conduct()
    assert nz.Conduct.default(["relu", "silu"]) == nz.Conduct(offset="shift", range="pre")


@pytest.mark.parametrize("field", ["offset", "clip", "clip_threshold", "range"])
def test_a_conduct_refuses_unknown_values(field: str) -> None:
    with pytest.raises(nz.InputError, match=f"^{field} must be one of .*; got 'sideways'$"):
        nz.Conduct(**{field: "sideways"})


def test_an_unknown_family_is_named_with_its_nearest() -> None:
    with pytest.raises(
        nz.InputError, match="unknown family 'ofset': did you mean 'offset'\\? known are offset, scale, clip"
    ):
        nz.make_family("ofset", nz.Conduct())
    with pytest.raises(nz.InputError, match=r"unknown family \['offset'\]: .*known are offset, scale, clip"):
        nz.make_family(["offset"], nz.Conduct())
