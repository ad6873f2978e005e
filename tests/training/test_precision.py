"""Products in three precisions, and the two implementations of the second layer's gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from nearzero.networks import initial_stack
from nearzero.networks.modules import activation_module
from nearzero.networks.pixels import Pixels
from nearzero.perturbations.activations import ACTIVATIONS
from nearzero.training.engine import Examples
from nearzero.training.products import ONES, first_layer, pixel_columns, product, products_in, width
from nearzero.training.readout import read_out
from nearzero.training.stacked import StackedEngine, agree, choose_readout

AFFINE = 1 / (255 * 0.3081), -0.1307 / 0.3081


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("affine", [(1.0, 0.0), AFFINE], ids=["raw", "normalized"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pixels_and_bias_are_exact_in_every_precision(dtype, affine):
    values = torch.randint(0, 256, (40, 77), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    columns = pixel_columns(values, dtype)
    assert columns.shape == (40, width(77))
    assert width(77) % 8 == 0
    assert torch.equal(columns[:, :77].float(), values.float())
    w1, b1 = random(2, 5, 77, seed=2), random(2, 5, seed=3)
    gain, shift = affine
    layer = first_layer(w1, b1, gain, shift, dtype)
    parts = layer[:, :, 77 : 77 + ONES].double().sum(2)
    np.testing.assert_allclose(parts, b1.double() + shift * w1.double().sum(2), rtol=1e-6, atol=1e-6)
    if shift == 0:
        assert torch.equal(parts, b1.double())  # all 24 bits
    assert torch.equal(layer[:, :, :77], (gain * w1).to(dtype))
    z = columns.double() @ layer[0].double().T
    exact = (values.double() * gain + shift) @ w1[0].double().T + b1[0].double()
    assert (z - exact).abs().max() <= (1e-5 if dtype == torch.float32 else 3e-2) * exact.abs().max()


@pytest.mark.parametrize("batches", [(), (3,)])
def test_products_of_bfloat16_are_sums_in_float32(batches):
    a, b = random(*batches, 50, 300).bfloat16(), random(*batches, 300, 20, seed=1).bfloat16()
    result = product(a, b)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result, a.double() @ b.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_settings_of_pytorch_are_restored(precision):
    matmul = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision(), matmul.allow_bf16_reduced_precision_reduction
    with suppress(ZeroDivisionError), products_in(precision):
        assert torch.get_float32_matmul_precision() == ("highest" if precision == "float32" else "high")
        assert not matmul.allow_bf16_reduced_precision_reduction
        raise ZeroDivisionError
    assert (torch.get_float32_matmul_precision(), matmul.allow_bf16_reduced_precision_reduction) == before


def curve(
    precision: str, activation: str, *, batch_size: int | None = None, together: bool = False
) -> np.ndarray:
    rng = np.random.default_rng(0)
    prototypes = rng.integers(0, 60, (10, 64))
    labels = rng.integers(0, 10, 300)
    values = (prototypes[labels] * (rng.random((300, 64)) < 0.5)).astype(np.uint8)
    train = Examples(Pixels(values), labels)
    engine = StackedEngine(
        initial_stack([0, 1], activation, inputs=64, units=32),
        train,
        train,
        seeds=[0, 1],
        learning_rate=0.001,
        batch_size=batch_size,
        device="cpu",
        precision=precision,
    )
    with pytest.MonkeyPatch.context() as patched:
        if together:
            patched.setattr(StackedEngine, "_groups", [slice(0, 2)])
        engine.most_deferred = 40
        measured = engine.advance_and_measure(0, [(step, False) for step in range(40)])
    return np.stack([measurement.train.loss for measurement in measured], axis=1)


@pytest.mark.parametrize("batch_size", [None, 50])
@pytest.mark.parametrize("activation", ["abs", "relu", "gelu"])
def test_bfloat16_is_near_float32_and_not_the_same(activation, batch_size):
    exact = curve("float32", activation, batch_size=batch_size)
    rounded = curve("bfloat16", activation, batch_size=batch_size)
    assert exact[:, -1].max() < 0.8 * exact[:, 0].max()
    apart = np.abs(rounded - exact) / exact
    assert 0 < apart.max() < 0.02
    assert (rounded != exact).mean() > 0.9


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_runs_that_share_products_give_the_same_to_rounding(precision):
    apart, together = (curve(precision, "abs", together=shared) for shared in (False, True))
    np.testing.assert_allclose(together, apart, rtol=1e-5 if precision == "float32" else 1e-2)


# --- from pre-activations to gradients ----------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["full batch", "mini-batches"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_autograds(activation, layout):
    runs, examples, units, classes = 3, 50, 12, 7
    z = random(examples, runs * units, scale=2).view(examples, runs, units).transpose(0, 1)
    z = z if layout == "full batch" else z.contiguous()
    shape = (examples,) if layout == "full batch" else (runs, examples)
    labels = torch.randint(classes, shape, generator=torch.Generator().manual_seed(2))
    w2, b2 = random(runs, classes, units, seed=3), random(runs, classes, seed=4)
    leaves = [tensor.clone().double().requires_grad_() for tensor in (z, w2, b2)]
    module = activation_module(activation)
    logits = torch.baddbmm(leaves[2][:, None], module(leaves[0]), leaves[1].transpose(1, 2))
    every = labels.expand(runs, -1)
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), every.flatten(), reduction="none")
    losses.sum().backward()
    before = z.clone()
    readout = read_out(activation, z, labels, w2, b2, gradients=True)
    np.testing.assert_allclose(readout.loss, losses.detach().view(runs, -1).sum(1), rtol=1e-6)
    assert torch.equal(readout.correct, (logits.argmax(2) == every).sum(1))
    assert readout.dz is not None
    for gradient, leaf in zip((readout.dz, readout.w2, readout.b2), leaves, strict=True):
        np.testing.assert_allclose(gradient, leaf.grad, rtol=1e-4, atol=1e-5)
    assert readout.dz.stride() == before.stride()  # no copy is made for the product with the pixels
    alone = read_out(activation, before, labels, w2, b2, gradients=False)
    assert torch.equal(alone.loss, readout.loss)
    assert alone[2:] == (None, None, None)


def test_a_failing_or_wrong_kernel_is_not_used():
    shape, like = (2, 16, 10), torch.empty(0)

    def plain(z, labels, w2, b2, *, gradients):
        return read_out("abs", z, labels, w2, b2, gradients=gradients)

    def wrong(z, labels, w2, b2, *, gradients):
        readout = plain(z, labels, w2, b2, gradients=gradients)
        return readout._replace(dz=1.1 * readout.dz) if gradients else readout

    def broken(z, labels, w2, b2, *, gradients):
        raise RuntimeError("no compiler")

    assert agree(plain, plain, like, shape)
    assert not agree(wrong, plain, like, shape)
    assert not agree(broken, plain, like, shape)
    assert choose_readout("abs", like, shape, rounded=True).func is read_out  # not on CUDA


INTERPRETED = """
import torch
from functools import partial
from nearzero.training.readout import read_out
from nearzero.training.readout_kernel import BELOW, fits, read_out_fused
from nearzero.training.stacked import agree

torch.set_num_threads(1)
for dtype in (torch.float32, torch.bfloat16):
    for activation in BELOW:
        for shape in ((2, 32, 10), (1, 20, 3), (1, 130, 17)):
            assert fits(activation, *shape[1:])
            fused, plain = (partial(reader, activation) for reader in (read_out_fused, read_out))
            assert agree(fused, plain, torch.empty(0, dtype=dtype), shape), (dtype, activation, shape)
z, labels = torch.randn(3, 1100, 16), torch.randint(4, (3, 1100))  # mini-batches; several programs per run
w2, b2 = torch.randn(3, 4, 16), torch.randn(3, 9)[:, :4]
z[:, :5] = 0  # the slope of Abs is 0 there
expected = read_out("abs", z.clone(), labels, w2, b2, gradients=True)
readout = read_out_fused("abs", z, labels, w2, b2, gradients=True)
assert readout.dz is z
for a, b in zip(readout, expected):
    torch.testing.assert_close(a.double(), b.double(), rtol=1e-4, atol=1e-4)
assert not fits("gelu", 16, 4) and not fits("abs", 257, 4) and not fits("abs", 16, 33)
print("the same")
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton comes with PyTorch for CUDA")
def test_the_kernel_in_tritons_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "the same", done.stderr
