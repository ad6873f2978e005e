"""Unit ranges."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import nearzero as nz

RANGES = nz.Ranges.of(np.array([[-1.0], [2.0]]), nz.activation("relu"))


@pytest.mark.parametrize("name", nz.ACTIVATIONS)
def test_whole_and_streamed_against_numpy(name: str, rng: np.random.Generator) -> None:
    act = nz.activation(name)
    z = rng.normal(size=(1003, 7)).astype(np.float32) * 3
    whole = nz.Ranges.of(z, act)
    streamed = nz.Ranges.of((z[start : start + 100] for start in range(0, len(z), 100)), act)
    for ranges in (whole, streamed):
        np.testing.assert_array_equal(ranges.pre.minimum, z.min(axis=0))
        np.testing.assert_array_equal(ranges.pre.maximum, z.max(axis=0))
        np.testing.assert_allclose(ranges.post.minimum, act(z).min(axis=0), rtol=1e-6)
        np.testing.assert_allclose(ranges.post.width, np.ptp(act(z).astype(float), axis=0), rtol=1e-6)
        assert ranges.on("pre") is ranges.pre
        assert ranges.on("post") is ranges.post


def test_dead_units_are_those_that_never_vary_after_the_activation() -> None:
    z = np.array([[-1.0, -2.0, 3.0], [-4.0, 2.0, 3.0]])
    assert nz.Ranges.of(z, nz.activation("relu")).live.tolist() == [False, True, False]
    assert nz.Ranges.of(z, nz.activation("abs")).live.tolist() == [True, False, False]
    assert nz.Ranges.of(z, nz.activation("abs")).dead_units == 2


@pytest.mark.parametrize("make", [RANGES.on, lambda side: nz.UnitRange(np.zeros(1), np.ones(1), side)])
def test_an_unknown_side_is_refused(make: Callable[[str], nz.UnitRange]) -> None:
    with pytest.raises(nz.InputError, match="side must be one of pre, post; got 'pots'; did you mean 'post'"):
        make("pots")


def test_nothing_to_measure() -> None:
    with pytest.raises(nz.InputError, match="ranges need at least one example; got none"):
        nz.Ranges.of(np.empty((0, 3)), nz.activation("relu"))
    with pytest.raises(nz.InputError, match="some are infinite or NaN"):
        nz.Ranges.of(np.array([[1.0, np.nan]]), nz.activation("relu"))
