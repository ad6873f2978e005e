"""Pre-activations are right, and the same to the last bit whatever the order, pairing or threads."""

import numpy as np
import pytest

from nearzero.errors import InputError
from nearzero.kernels.forward import preactivations
from nearzero.kernels.layout import by_strip, from_strips, strips
from nearzero.kernels.tiles import similar_order
from nearzero.networks.pixels import Pixels


def _case(examples, inputs, units, seed=0):
    rng = np.random.default_rng(seed)
    values = (rng.integers(0, 256, (examples, inputs)) * (rng.random((examples, inputs)) < 0.3)).astype(
        np.uint8
    )
    weights = rng.standard_normal((units, inputs)).astype(np.float32)
    return values, weights, rng.standard_normal(units).astype(np.float32)


@pytest.mark.parametrize("units", [1, 10, 16, 33, 64, 100, 128, 300])
def test_preactivations_are_the_product(units):
    values, w1, b1 = _case(131, 77, units)
    z = preactivations(w1, b1, Pixels(values), threads=1)
    assert z.shape == (131, units)
    exact = values.astype(np.float64) @ w1.T.astype(np.float64) + b1
    scale = values.astype(np.float64) @ np.abs(w1.T).astype(np.float64) + np.abs(b1)
    assert (np.abs(z - exact) <= 4e-7 * scale).all()


def test_the_affine_map_is_folded_in():
    values, w1, b1 = _case(90, 50, 20)
    pixels = Pixels(values, 1 / (255 * 0.3081), -0.1307 / 0.3081)
    exact = pixels.dense().astype(np.float64) @ w1.T.astype(np.float64) + b1
    np.testing.assert_allclose(preactivations(w1, b1, pixels), exact, atol=2e-5)


@pytest.mark.parametrize("affine", [(1.0, 0.0), (0.0127, -0.424)])
def test_bits_do_not_depend_on_other_examples_order_or_threads(affine):
    values, w1, b1 = _case(2100, 77, 40)
    z = preactivations(w1, b1, Pixels(values, *affine), threads=1)
    np.testing.assert_array_equal(preactivations(w1, b1, Pixels(values, *affine), threads=2), z)
    np.testing.assert_array_equal(
        preactivations(w1, b1, Pixels(values, *affine), order=similar_order(values)), z
    )
    for rows in ([0], [7, 3], [*range(100, 165)]):
        np.testing.assert_array_equal(preactivations(w1, b1, Pixels(values[rows], *affine)), z[rows])
    # nor on other units
    np.testing.assert_array_equal(preactivations(w1[:17], b1[:17], Pixels(values, *affine)), z[:, :17])


def test_sums_run_over_pixels_ascending_by_fused_multiply_adds():
    """Compared with an emulation: products are exact in float64, and sums are rarely rounded twice."""
    values, w1, b1 = _case(40, 30, 16)
    z = np.tile(b1, (40, 1))
    for p in range(30):
        z = (values[:, p, None].astype(np.float64) * w1[:, p].astype(np.float64) + z).astype(np.float32)
    assert (preactivations(w1, b1, Pixels(values)) == z).mean() > 0.999


def test_shapes_are_checked():
    values, w1, b1 = _case(4, 30, 16)
    with pytest.raises(
        InputError, match=r"w1 \(16, 30\), b1 \(15,\), pixels \(4, 30\); they must be \(U, D\)"
    ):
        preactivations(w1, b1[:15], Pixels(values))


@pytest.mark.parametrize("units", [1, 16, 100, 128, 384])
def test_strips_hold_every_unit_once(units):
    assert sum(width for _, width in strips(units)) == -(-units // 16) * 16
    rows = np.random.default_rng(0).standard_normal((7, units)).astype(np.float32)
    flat, back = by_strip(rows), np.empty_like(rows)
    assert flat.ctypes.data % 64 == 0
    from_strips(flat, back)
    np.testing.assert_array_equal(back, rows)
