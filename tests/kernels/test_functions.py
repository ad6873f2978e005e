"""The elementary functions and activations of kernels, against SciPy and PyTorch in float64."""

import numpy as np
import pytest
import torch
from numba import njit
from scipy import special

from nearzero.kernels.activations import KERNEL_ACTIVATIONS, activate, slope, verfc, vexp, vlog, vtanh
from nearzero.kernels.readout import ACTIVATION_CODES, activate_tile
from nearzero.kernels.simd import load, store
from nearzero.kernels.tiles import TILE
from nearzero.perturbations.activations import ACTIVATIONS


@njit(error_model="numpy")
def _evaluate(x, exponentials, logarithms, tangents, complements):
    for i in range(0, x.size, 16):
        value = load(x, i)
        store(exponentials, i, vexp(value))
        store(logarithms, i, vlog(vexp(value)))
        store(tangents, i, vtanh(value))
        store(complements, i, verfc(value))


@pytest.fixture(scope="module")
def values():
    near = np.logspace(-6, 1.9, 8000)
    return np.concatenate([np.linspace(-87, 87, 16000), near, -near]).astype(np.float32)


def test_elementary_functions_are_right_to_a_few_units_in_the_last_place(values):
    results = [np.empty_like(values) for _ in range(4)]
    _evaluate(values, *results)
    exponentials, logarithms, tangents, complements = results
    x = values.astype(np.float64)
    np.testing.assert_allclose(exponentials, np.exp(x), rtol=4e-7)
    np.testing.assert_allclose(logarithms, np.log(exponentials.astype(np.float64)), rtol=2e-7, atol=1e-7)
    np.testing.assert_allclose(tangents, np.tanh(x), rtol=4e-7)
    inside = np.abs(x) < 9  # beyond, erfc is subnormal in float32
    np.testing.assert_allclose(complements[inside], special.erfc(x[inside]), rtol=2e-5, atol=1e-37)
    small = np.abs(x) < 1
    np.testing.assert_allclose(complements[small], special.erfc(x[small]), rtol=6e-7)


def test_exponential_is_clamped_and_never_overflows():
    x = np.full(16, np.float32(1e30))
    x[8:] = -1e30
    results = [np.empty_like(x) for _ in range(4)]
    _evaluate(x, *results)
    assert np.isfinite(results[0]).all()
    assert (results[0] > 0).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_slopes_are_pytorchs(name, values):
    z = torch.from_numpy(values.astype(np.float64)).requires_grad_()
    expected = torch.abs(z) if name == "abs" else getattr(torch.nn.functional, name)(z)
    (slopes,) = torch.autograd.grad(expected.sum(), z)
    a, da = np.array(values), np.empty_like(values)
    # as in training: act(z) in another array, act'(z) over z
    padded = np.zeros(-(-values.size // (16 * TILE)) * 16 * TILE, np.float32)
    padded[: values.size] = values
    activated = np.empty_like(padded)
    activate_tile(ACTIVATION_CODES[name], padded, activated, TILE, padded.size // TILE)
    a, da = activated[: values.size], padded[: values.size]
    tolerance = {"rtol": 3e-6 if name != "gelu" else 3e-5, "atol": 3e-7}
    np.testing.assert_allclose(a, expected.detach().numpy(), **tolerance)
    np.testing.assert_allclose(da, slopes.numpy(), **tolerance)


@njit(error_model="numpy")
def _apply(act, z, a, da):
    for i in range(0, z.size, 16):
        value = load(z, i)
        store(a, i, activate(act, value))
        store(da, i, slope(act, value))


@pytest.mark.parametrize("name", ["relu", "softplus"])
def test_typed_and_numbered_activations_are_the_same(name, values):
    z = values[: 16 * TILE].copy()
    a, da, activated = np.empty_like(z), np.empty_like(z), np.empty_like(z)
    _apply(KERNEL_ACTIVATIONS[name], z, a, da)
    activate_tile(ACTIVATION_CODES[name], z, activated, TILE, 16)
    np.testing.assert_array_equal(activated, a)
    np.testing.assert_array_equal(z, da)
