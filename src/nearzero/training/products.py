"""Matrix products in three precisions.

Weights and sums are float32 in each. The precisions differ in the rounding of the factors of a product:

    float32     no rounding
    tf32        to 11 significant bits, by CUDA's tensor cores as they read them; arrays are float32
    bfloat16    to 8 significant bits; arrays of the hidden layer's size have this type, which halves them

Two things are exact in all three: the pixels, which are whole numbers up to 255, and the first layer's bias,
    which is part of the product in columns of its own. An affine map of the pixels x = g p + s is folded into
    weights and bias,

    W1 x + b1 = (g W1) p + (b1 + s W1 1) = [g W1 | bias in three parts | 0] [p | 1 1 1 | 0],

with the width padded to a multiple of 8, as tensor cores require. Three parts of 8 bits hold the 24 bits of a
float32. In the backward product, the first column of ones gives the gradient of the bias at no extra cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from nearzero.training.engine import Precision

__all__ = ["first_layer", "pixel_columns", "product", "products_in", "width"]

ONES = 3  # columns of ones, for the parts of the bias


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Set the precision of PyTorch's products in a block; restore the settings of the process after it.

    With bfloat16, products of float32 arrays may be computed in tf32, as the factors already have at most 8
    bits.
    """
    cuda = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision(), cuda.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    cuda.allow_bf16_reduced_precision_reduction = False  # partial sums are added in float32 too
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cuda.allow_bf16_reduced_precision_reduction = before[1]


@cache
def _widens(device: torch.device) -> bool:
    """Return whether a device gives products of bfloat16 as float32: on CUDA, from PyTorch 2.8 on."""
    ones = torch.ones(16, 16, dtype=torch.bfloat16, device=device)
    try:
        return torch.mm(ones, ones, out_dtype=torch.float32).dtype == torch.float32
    except (NotImplementedError, RuntimeError, TypeError):
        return False


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a b as float32, for two matrices or two batches of matrices, both float32 or both bfloat16."""
    multiply = torch.mm if a.ndim == 2 else torch.bmm
    if a.dtype == torch.float32:
        return multiply(a, b)
    if _widens(a.device):
        return multiply(a, b, out_dtype=torch.float32)
    return multiply(a.float(), b.float())  # the factors, and so the products, are the same


def width(inputs: int) -> int:
    """Return the columns of a first layer of `inputs` pixels: pixels and ones, padded to a multiple of 8."""
    return -(-(inputs + ONES) // 8) * 8


def pixel_columns(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return [p | 1 1 1 | 0], (N, width), of pixels (N, D) uint8."""
    examples, inputs = values.shape
    columns = torch.zeros(examples, width(inputs), dtype=dtype, device=values.device)
    columns[:, :inputs] = values
    columns[:, inputs : inputs + ONES] = 1
    return columns


def first_layer(w1: Tensor, b1: Tensor, gain: float, shift: float, dtype: torch.dtype) -> Tensor:
    """Return [g W1 | bias in three parts | 0], (R, U, width), of weights (R, U, D) and biases (R, U)."""
    runs, units, inputs = w1.shape
    columns = torch.zeros(runs, units, width(inputs), dtype=dtype, device=w1.device)
    columns[:, :, :inputs] = w1 if gain == 1 else w1 * gain
    rest = b1 if shift == 0 else b1 + shift * w1.sum(2)
    for column in range(inputs, inputs + ONES):
        columns[:, :, column] = rest
        rest = rest - columns[:, :, column]
    return columns
