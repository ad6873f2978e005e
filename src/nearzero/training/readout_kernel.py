"""`nearzero.training.readout` as one CUDA kernel: z is read once, and its gradient is written in its place.

Plain PyTorch makes about ten passes over arrays of the size of z, which in tf32 and bfloat16 take longer than
the products with the pixels. Here a block of examples of one run stays in registers from z to the gradient
with respect to z, so there are two passes. The sums are those of `readout` in another order, which is the
same each time: each program of a launch adds up about a thousand examples, and PyTorch adds up the programs.
Blocks are as small as tensor cores allow. Then no registers spill on the cards for which it was compiled
(compute capability 8.0, 9.0 and 12.0), and three programs share a multiprocessor, so that one can compute
while another waits for memory.

The kernel is written in Triton, which comes with PyTorch for CUDA; without it, importing this module raises
an ImportError. It supports activations of two linear pieces, act(z) = z above 0 and s z below: ReLU, Abs and
leaky ReLU.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from nearzero.training.readout import Readout

__all__ = ["fits", "read_out_fused"]

BELOW = {"relu": 0.0, "leaky_relu": 0.01, "abs": -1.0}  # s
ROWS = 16  # examples in a block
BLOCKS = 64  # blocks that a program adds up
MOST_UNITS, MOST_CLASSES = 256, 32  # more would need more registers than there are


def fits(activation: str, units: int, classes: int) -> bool:
    """Return whether the kernel supports networks of this activation and these sizes."""
    return activation in BELOW and units <= MOST_UNITS and classes <= MOST_CLASSES


@triton.jit  # type: ignore[misc, untyped-decorator, unused-ignore]
def _product(a, b, widen: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return a b as float32. `widen` is for Triton's interpreter, which reads bfloat16 as whole numbers."""
    if widen:
        return tl.dot(a.to(tl.float32), b.to(tl.float32))
    return tl.dot(a, b, input_precision="tf32")


@triton.jit  # type: ignore[misc, untyped-decorator, unused-ignore]
def _kernel(  # type: ignore[no-untyped-def]
    z_at,
    labels_at,
    w2_at,
    b2_at,
    loss_at,
    correct_at,
    w2_gradient_at,
    b2_gradient_at,
    examples,
    units,
    classes,
    z_run,
    z_row,
    labels_run,
    b2_run,
    below: tl.constexpr,
    gradients: tl.constexpr,
    rows: tl.constexpr,
    blocks: tl.constexpr,
    columns: tl.constexpr,
    outputs: tl.constexpr,
    widen: tl.constexpr,
):
    """Process `blocks` blocks of `rows` examples of one run.

    Program (p, r) begins at example p * blocks * rows of run r. The arguments that end in `_at` are addresses
    of arrays, those that end in `_run` and `_row` their strides. Loss, correct predictions and gradients of
    w2 and b2 are written as one partial sum per program, dz in the place of z.
    columns, outputs: U and K rounded up to powers of 2; what is beyond U and K is masked.
    """
    run, part = tl.program_id(1), tl.program_id(0)
    program = run * tl.num_programs(0) + part
    u, k = tl.arange(0, columns), tl.arange(0, outputs)
    unit, output = (u < units)[None, :], (k < classes)
    w2_mask = output[:, None] & unit
    w2 = tl.load(w2_at + (run * classes + k[:, None]) * units + u[None, :], mask=w2_mask, other=0.0)
    b2 = tl.load(b2_at + run * b2_run + k, mask=output, other=-float("inf"))
    loss = tl.zeros((rows,), tl.float64)
    correct = tl.zeros((rows,), tl.int32)
    w2_gradient = tl.zeros((outputs, columns), tl.float32)
    b2_gradient = tl.zeros((outputs,), tl.float32)
    for block in range(blocks):
        row = (part * blocks + block) * rows + tl.arange(0, rows)
        inside = row < examples
        at, mask = z_at + run * z_run + row[:, None] * z_row + u[None, :], inside[:, None] & unit
        z = tl.load(at, mask=mask, other=0.0)
        wide = z.to(tl.float32)
        a = tl.where(wide < 0, below * wide, wide).to(z.dtype)
        logits = _product(a, tl.trans(w2), widen) + b2[None, :]
        label = tl.load(labels_at + run * labels_run + row, mask=inside, other=0)
        top = tl.max(logits, 1)
        powers = tl.exp(logits - top[:, None])
        total = tl.sum(powers, 1)
        is_label = k[None, :] == label[:, None]
        entropy = top + tl.log(total) - tl.sum(tl.where(is_label, logits, 0.0), 1)
        loss += tl.where(inside, entropy, 0.0).to(tl.float64)
        first = tl.min(tl.where(logits == top[:, None], k[None, :], outputs), 1)
        correct += (inside & (first == label)).to(tl.int32)
        if gradients:
            residual = tl.where(inside[:, None], powers / total[:, None] - is_label.to(tl.float32), 0.0)
            b2_gradient += tl.sum(residual, 0)
            factor = residual.to(z.dtype)
            w2_gradient += _product(tl.trans(factor), a, widen)
            da = _product(factor, w2, widen)
            at_zero = tl.where(wide == 0, max(below, 0.0) * da, below * da)
            tl.store(at, tl.where(wide > 0, da, at_zero).to(z.dtype), mask=mask)
    tl.store(loss_at + program, tl.sum(loss, 0))
    tl.store(correct_at + program, tl.sum(correct, 0))
    if gradients:
        place = program * outputs + k
        tl.store(w2_gradient_at + place[:, None] * columns + u[None, :], w2_gradient)
        tl.store(b2_gradient_at + place, b2_gradient)


def read_out_fused(
    activation: str, z: Tensor, labels: Tensor, w2: Tensor, b2: Tensor, *, gradients: bool
) -> Readout:
    """Return what `readout.read_out` returns, with float32 factors rounded to tf32; write dz over z."""
    runs, examples, units = z.shape
    classes = b2.shape[1]
    columns, outputs = (max(16, triton.next_power_of_2(size)) for size in (units, classes))
    parts = triton.cdiv(examples, ROWS * BLOCKS)
    labels = labels.expand(runs, -1)
    loss = z.new_empty((runs, parts), dtype=torch.float64)
    correct = z.new_empty((runs, parts), dtype=torch.int32)
    sums = (runs, parts) if gradients else (0, 0)
    w2_gradient = z.new_empty((*sums, outputs, columns), dtype=torch.float32)
    b2_gradient = z.new_empty((*sums, outputs), dtype=torch.float32)
    assert z.stride(2) == labels.stride(1) == b2.stride(1) == 1
    arguments, results = (z, labels, w2.contiguous(), b2), (loss, correct, w2_gradient, b2_gradient)
    strides = z.stride(0), z.stride(1), labels.stride(0), b2.stride(0)
    with torch.cuda.device_of(z):  # type: ignore[no-untyped-call]
        _kernel[(parts, runs)](
            *arguments,
            *results,
            *(examples, units, classes),
            *strides,
            below=BELOW[activation],
            gradients=gradients,
            rows=ROWS,
            blocks=BLOCKS,
            columns=columns,
            outputs=outputs,
            widen=not z.is_cuda,
            num_warps=4 if columns <= 128 else 8,
            enable_fp_fusion=True,
        )
    if not gradients:
        return Readout(loss.sum(1), correct.sum(1))
    w2_sum, b2_sum = w2_gradient.sum(1)[:, :classes, :units], b2_gradient.sum(1)[:, :classes]
    return Readout(loss.sum(1), correct.sum(1), z, w2_sum, b2_sum)
