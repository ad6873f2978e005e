"""Matrix products in three precisions. Weights are float32 in each, and so are sums; what differs is to what the
factors of a product are rounded before they are multiplied:

    float32     not at all
    tf32        to 11 significant bits, by CUDA's tensor cores on their way in; arrays are float32
    bfloat16    to 8 significant bits; arrays as large as the hidden layer are kept so, which halves them

What is exact in all three: pixels, whole numbers up to 255; and the first layer's bias, which goes through the
product as columns of its own. An affine map of the pixels x = g p + s is folded into weights and bias,

    W1 x + b1 = (g W1) p + (b1 + s W1 1) = [g W1 | bias in three parts | 0] [p | 1 1 1 | 0],

the width padded to a multiple of 8, which tensor cores ask for. Three parts of 8 bits are the 24 bits of a
float32. The same product backwards has the gradient of the bias in the first column of ones, for nothing.
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
    """Products as precise as was asked for; PyTorch's settings, which are the process's, are put back.

    With bfloat16, float32 products may be tf32's: the factors have no more than 8 bits by then.
    """
    cuda = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision(), cuda.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    cuda.allow_bf16_reduced_precision_reduction = False  # sums of sums are float32, too
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cuda.allow_bf16_reduced_precision_reduction = before[1]


@cache
def _widens(device: torch.device) -> bool:
    """Whether products of bfloat16 come as float32 there: on CUDA, from PyTorch 2.8 on."""
    one = torch.ones(16, 16, dtype=torch.bfloat16, device=device)
    try:
        return torch.mm(one, one, out_dtype=torch.float32).dtype == torch.float32
    except (NotImplementedError, RuntimeError, TypeError):
        return False


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b as float32, for two matrices or two batches of them, of float32 or bfloat16 both."""
    multiply = torch.mm if a.ndim == 2 else torch.bmm
    if a.dtype == torch.float32:
        return multiply(a, b)
    if _widens(a.device):
        return multiply(a, b, out_dtype=torch.float32)
    return multiply(a.float(), b.float())  # the same factors, so the same products


def width(inputs: int) -> int:
    """Columns of a first layer of `inputs` pixels: with those of ones, and padded to a multiple of 8."""
    return -(-(inputs + ONES) // 8) * 8


def pixel_columns(values: Tensor, dtype: torch.dtype) -> Tensor:
    """[p | 1 1 1 | 0], (N, width), of pixels (N, D) uint8."""
    examples, inputs = values.shape
    columns = torch.zeros(examples, width(inputs), dtype=dtype, device=values.device)
    columns[:, :inputs] = values
    columns[:, inputs : inputs + ONES] = 1
    return columns


def first_layer(w1: Tensor, b1: Tensor, gain: float, shift: float, dtype: torch.dtype) -> Tensor:
    """[g W1 | bias in three parts | 0], (R, U, width), of weights (R, U, D) and biases (R, U)."""
    runs, units, inputs = w1.shape
    columns = torch.zeros(runs, units, width(inputs), dtype=dtype, device=w1.device)
    columns[:, :, :inputs] = w1 if gain == 1 else w1 * gain
    rest = b1 if shift == 0 else b1 + shift * w1.sum(2)
    for column in range(inputs, inputs + ONES):
        columns[:, :, column] = rest
        rest = rest - columns[:, :, column]
    return columns
