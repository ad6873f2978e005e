"""The engine in PyTorch, for any device: all runs in a few large products.

The gradients of a two-layer network are written out explicitly, so there is no autograd graph. The processor
has an engine of its own, `nearzero.training.fused`. This one is meant for CUDA; on the CPU it does the same
mathematics with other operations.

Time of a full-batch step, for the paper's study (20 runs of 128 units, 60,000 examples) on a card like the
H100: The products are 2 x 2 * 60,000 * 784 * 2,560 = 0.48e12 operations: 10 ms in float32 at 50e12 per
second, under 2 ms in tf32, under 1 ms in bfloat16 (`products`). The rest is memory traffic: one pass over an
array of the size of z is 0.6 GB, or 0.3 GB in bfloat16, which takes 0.2 or 0.1 ms at 3 TB/s; there are about
ten passes (`readout`). About 80 kernels are launched. This takes the host about 0.5 ms, while the device
executes the kernels before them. So capturing them as a CUDA graph would save no time, as long as the host
doesn't wait. It waits once per `most_deferred` measurements.

Independence of runs: on the CPU they are processed one at a time, so run k trained alone equals run k among
twenty, bit for bit. On other devices all runs share each product, and libraries choose the order of its
sums by its size. Run k then equals run k trained alone up to rounding, which grows in training as any
other rounding does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nearzero.networks import Stack
from nearzero.support.memory import memory_limit
from nearzero.training import engine
from nearzero.training.engine import Examples, Measurement, Precision, StepMeasurement
from nearzero.training.products import first_layer, pixel_columns, product, products_in
from nearzero.training.readout import Readout, read_out

__all__ = ["StackedEngine", "agree", "choose_readout", "fit_to_memory"]

GPU_SHARE = 0.7  # the share of a GPU's free memory that is used
MOST_DEFERRED = 32  # measurements at once: enough to make the time of waiting negligible
CPU_CHUNK = 4096  # examples; larger chunks aren't faster on the CPU
LEAST_CHUNK = 64  # examples

Reader = Callable[..., Readout]  # `read_out` for one activation


@dataclass(frozen=True, eq=False)
class _Rows:
    """The weights of R runs, or their gradients, as views of one array with a row for each run.

    Attributes:
        flat: (R, U D + U + K U + K) float32, the array.
        w1, b1, w2, b2: views of (R, U, D), (R, U), (R, K, U) and (R, K).
    """

    flat: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor

    @classmethod
    def over(cls, flat: Tensor, units: int, inputs: int, classes: int) -> _Rows:
        """Return the views of an array."""
        shapes = (units, inputs), (units,), (classes, units), (classes,)
        parts = torch.split(flat, [math.prod(shape) for shape in shapes], dim=1)
        w1, b1, w2, b2 = (part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True))
        return cls(flat, w1, b1, w2, b2)

    def like(self, flat: Tensor) -> _Rows:
        """Return the same views of another array."""
        _, units, inputs = self.w1.shape
        return _Rows.over(flat, units, inputs, self.b2.shape[1])

    def of(self, group: slice) -> _Rows:
        """Return the views for some of the runs."""
        return self.like(self.flat[group])


@dataclass(frozen=True, eq=False)
class _OnDevice:
    """A set of examples on the device: columns (N, width) of `pixel_columns`, labels (N,)."""

    columns: Tensor
    labels: Tensor

    @classmethod
    def of(cls, examples: Examples, device: torch.device, dtype: torch.dtype) -> _OnDevice:
        columns = pixel_columns(torch.from_numpy(examples.pixels.values).to(device), dtype)
        return cls(columns, torch.from_numpy(examples.labels).to(device))


class StackedEngine:
    """Stochastic gradient descent on a stack of runs; see `nearzero.training.engine.DeferredEngine`.

    Args:
        stack: the weights to begin with; copied.
        train, test: the sets of examples, with the same gain and shift of pixels.
        seeds: one for each run, for the order of its examples.
        learning_rate: w <- w - learning_rate * gradient of the batch's mean cross-entropy.
        batch_size: examples in a batch; None stands for the whole training set.
        device: "cpu", "cuda", "cuda:1", "mps", ...
        precision: the precision of products, see `nearzero.training.products`; tf32 is float32 on all devices
            but CUDA.
        kernel: whether to compute the second layer in one kernel if possible
            (`nearzero.training.readout_kernel`).

    Attributes:
        kernel: whether the second layer is computed in one kernel.

    Raises:
        InputError: the sets or seeds don't fit the stack, or the memory is too small.
    """

    def __init__(
        self,
        stack: Stack,
        train: Examples,
        test: Examples,
        *,
        seeds: Sequence[int],
        learning_rate: float,
        batch_size: int | None,
        device: str | torch.device = "cuda",
        precision: Precision = "float32",
        kernel: bool = True,
    ) -> None:
        engine.check_engine(stack, train, test, seeds, batch_size)
        self._device, self._precision = torch.device(device), precision
        self._factor = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._activation = engine.one_activation(stack)
        self._affine = train.pixels.gain, train.pixels.shift
        arrays = (torch.from_numpy(array) for array in (stack.w1, stack.b1, stack.w2, stack.b2))
        flat = torch.cat([array.flatten(1) for array in arrays], dim=1).to(self._device)
        runs, units, inputs = stack.w1.shape
        shape = runs, units, stack.b2.shape[1]
        self._weights = _Rows.over(flat, units, inputs, shape[2])
        self._sets = {
            name: _OnDevice.of(examples, self._device, self._factor)
            for name, examples in (("train", train), ("test", test))
        }
        self._seeds, self._rate, self._batch = list(seeds), learning_rate, batch_size
        self._epoch: tuple[int, Tensor] | None = None
        self._gradient: _Rows | None = None
        self._gradient_of = np.zeros(runs, dtype=np.bool_)  # the runs whose gradient is in _gradient
        self._kept: list[Tensor] = []  # the weights at each measurement of the last plan
        self.active = np.ones(runs, dtype=np.bool_)
        # active on the host, and the same on the device
        self._mask = self.active.copy(), torch.ones(runs, dtype=torch.bool, device=self._device)
        with torch.no_grad(), products_in(precision):
            like = flat.new_empty(0, dtype=self._factor)
            self._reader = choose_readout(
                self._activation, like, shape, rounded=kernel and precision != "float32"
            )
        self.kernel = self._reader.func is not read_out
        sets_size = sum(data.columns.nbytes for data in self._sets.values())
        self._chunk, self.most_deferred = fit_to_memory(
            self._device, shape, weights=flat.nbytes, sets=sets_size, factor=self._factor.itemsize
        )

    # --- the interface of an engine ----------------------------------------------------------------------

    def measure(self, which: str) -> Measurement:
        """Measure the current weights on "train" or "test"; keep a full batch's gradients for the update."""
        with torch.no_grad(), products_in(self._precision):
            return self._measurement(which, self._totals(which).cpu().numpy())

    def advance(self, step: int, stop: int) -> None:
        """Apply updates step, step + 1, ..., stop - 1 to every active run."""
        with torch.no_grad(), products_in(self._precision):
            self._advance(step, stop)

    def advance_and_measure(self, step: int, plan: Sequence[tuple[int, bool]]) -> list[StepMeasurement]:
        """Advance from `step` to each of the planned steps, and measure; synchronise once, at the end."""
        totals, self._kept = [], []
        with torch.no_grad(), products_in(self._precision):
            for stop, tested in plan:
                self._advance(step, stop)
                step = stop
                totals += [self._totals(which) for which in ("train", "test")[: 1 + tested]]
                self._kept.append(self._weights.flat.clone())
            on_host = iter(torch.stack(totals).cpu().numpy())

        def measured(which: str) -> Measurement:
            return self._measurement(which, next(on_host))

        return [
            StepMeasurement(measured("train"), measured("test") if tested else None) for _, tested in plan
        ]

    def stack_at(self, place: int) -> Stack:
        """Return a copy of the weights at measurement `place` of the last plan."""
        return self._as_stack(self._kept[place])

    def restore(self, place: int) -> None:
        """Set the weights back to those at measurement `place` of the last plan."""
        self._weights.flat.copy_(self._kept[place])
        self._gradient = None

    def stack(self) -> Stack:
        """Return a copy of the current weights."""
        return self._as_stack(self._weights.flat)

    def _as_stack(self, flat: Tensor) -> Stack:
        rows = self._weights.like(flat.cpu())
        w1, b1, w2, b2 = (array.numpy().copy() for array in (rows.w1, rows.b1, rows.w2, rows.b2))
        return Stack(w1, b1, w2, b2, (self._activation,) * len(w1))

    # --- measurements ------------------------------------------------------------------------------------

    def _totals(self, which: str) -> Tensor:
        """Return (3, R) on the device: sum of losses, correct predictions, whether weights are finite."""
        loss, correct = self._pass(which, gradients=which == "train" and self._batch is None)
        return torch.stack([loss, correct.to(loss), self._weights.flat.isfinite().all(1).to(loss)])

    def _measurement(self, which: str, totals: npt.NDArray[np.floating]) -> Measurement:
        """Return the measurement of the active runs, given the totals of all."""
        loss = totals[0].astype(np.float64) / len(self._sets[which].labels)
        correct = np.where(self.active, totals[1], 0).astype(np.int64)
        return Measurement(np.where(self.active & (totals[2] != 0), loss, np.nan), correct)

    def _pass(self, which: str, *, gradients: bool) -> tuple[Tensor, Tensor]:
        """Return the sum of losses and the number of correct predictions over a whole set, (R,) each.

        If `gradients`, keep the gradients in `_gradient`.
        """
        data, runs = self._sets[which], len(self.active)
        exact = torch.float32 if self._device.type == "mps" else torch.float64
        loss = torch.zeros(runs, dtype=exact, device=self._device)
        correct = torch.zeros(runs, dtype=torch.int64, device=self._device)
        if gradients:
            self._gradient = self._weights.like(torch.zeros_like(self._weights.flat))
            self._gradient_of = self.active.copy()
        parts = -(-len(data.labels) // self._chunk)
        size = -(-len(data.labels) // parts)
        for group in self._groups:
            factors = self._factors(group)
            for first in range(0, len(data.labels), size):
                rows = slice(first, first + size)
                x, labels = data.columns[rows], data.labels[rows]
                readout = self._read_out(factors, x, labels, gradients=gradients)
                loss[group] += readout.loss
                correct[group] += readout.correct
                if gradients:
                    assert self._gradient is not None
                    self._add(self._gradient.of(group), readout, x)
        return loss, correct

    # --- updates -----------------------------------------------------------------------------------------

    def _advance(self, step: int, stop: int) -> None:
        for number in range(step, stop):
            if self._batch is not None:
                for group in self._groups:
                    self._update(group, *self._batch_gradient(group, number))
                continue
            if self._gradient is None or not self._gradient_of[self.active].all():
                self._pass("train", gradients=True)
            assert self._gradient is not None
            for group in self._groups:
                self._update(group, self._gradient.of(group), len(self._sets["train"].labels))
            self._gradient = None

    def _batch_gradient(self, group: slice, step: int) -> tuple[_Rows, int]:
        """Return the gradient of one group's mini-batch, and the size of the batch."""
        assert self._batch is not None
        data = self._sets["train"]
        epoch, place = divmod(step, engine.steps_per_epoch(len(data.labels), self._batch))
        if self._epoch is None or self._epoch[0] != epoch:
            orders = np.stack([engine.epoch_order(seed, epoch, len(data.labels)) for seed in self._seeds])
            self._epoch = (epoch, torch.from_numpy(orders).to(self._device))
        rows = self._epoch[1][group, place * self._batch : (place + 1) * self._batch]
        x = data.columns[rows]
        gradient = self._weights.like(torch.zeros_like(self._weights.flat[group]))
        self._add(gradient, self._read_out(self._factors(group), x, data.labels[rows], gradients=True), x)
        return gradient, rows.shape[1]

    def _update(self, group: slice, gradient: _Rows, examples: int) -> None:
        """Update the active runs of a group: w <- w - rate * gradient / examples."""
        # copied only if it has changed, which is rare, because copying synchronises with the device
        if not np.array_equal(self._mask[0], self.active):
            host = self.active.copy()
            self._mask = host, torch.from_numpy(host).to(self._device)
        flat = self._weights.flat[group]
        moved = torch.sub(flat, gradient.flat, alpha=self._rate / examples)
        torch.where(self._mask[1][group, None], moved, flat, out=flat)

    # --- products ----------------------------------------------------------------------------------------

    @property
    def _groups(self) -> list[slice]:
        """The runs that share products: all runs, or on the CPU each active run separately."""
        if self._device.type != "cpu":
            return [slice(0, len(self.active))] if self.active.any() else []
        return [slice(run, run + 1) for run in np.flatnonzero(self.active).tolist()]

    def _factors(self, group: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return the layers of a group as factors of products, (R, U, width) and (R, K, U); and b2 (R, K)."""
        rows = self._weights.of(group)
        w1 = first_layer(rows.w1, rows.b1, *self._affine, self._factor)
        return w1, rows.w2.to(self._factor, copy=True), rows.b2

    def _read_out(
        self, factors: tuple[Tensor, Tensor, Tensor], x: Tensor, labels: Tensor, *, gradients: bool
    ) -> Readout:
        """Return loss, correct predictions and, if wanted, gradients with respect to z, w2 and b2.

        x: (n, width) for all runs of the group, or (R, n, width).
        """
        w1, w2, b2 = factors
        if x.ndim == 2:
            z = torch.mm(x, w1.flatten(0, 1).T).view(-1, *w1.shape[:2]).transpose(0, 1)
        else:
            z = torch.bmm(x, w1.transpose(1, 2))
        return self._reader(z, labels, w2, b2, gradients=gradients)

    def _add(self, gradient: _Rows, readout: Readout, x: Tensor) -> None:
        """Add the gradients of some examples to the gradient of a group."""
        dz, (gain, shift), inputs = readout.dz, self._affine, gradient.w1.shape[2]
        assert dz is not None
        assert readout.w2 is not None
        assert readout.b2 is not None
        if x.ndim == 2:
            first = product(dz.transpose(0, 1).flatten(1).T, x).view(*dz.shape[::2], -1)
        else:
            first = product(dz.transpose(1, 2), x)
        bias = first[:, :, inputs]
        gradient.w1.add_(first[:, :, :inputs], alpha=gain)
        if shift != 0:
            gradient.w1.add_(bias[:, :, None], alpha=shift)
        gradient.b1.add_(bias)
        gradient.w2.add_(readout.w2)
        gradient.b2.add_(readout.b2)


# --- the second layer: one kernel or plain PyTorch -------------------------------------------------------


def choose_readout(
    activation: str, like: Tensor, shape: tuple[int, int, int], *, rounded: bool
) -> partial[Readout]:
    """Return the readout as one kernel if that works, else `read_out`.

    The kernel rounds, so it isn't used for float32. It needs CUDA, Triton, a C compiler, and an activation
    and sizes that it supports. A trial run shows whether it works.

    Args:
        activation: the name of the activation.
        like: any tensor of z's device and type.
        shape: (runs, units, classes) of the stack.
        rounded: whether factors of products are rounded.
    """
    plain = partial(read_out, activation)
    if not rounded or like.device.type != "cuda":
        return plain
    try:
        from nearzero.training.readout_kernel import fits, read_out_fused
    except ImportError:
        return plain
    fused = partial(read_out_fused, activation)
    return fused if fits(activation, *shape[1:]) and agree(fused, plain, like, shape) else plain


def agree(first: Reader, second: Reader, like: Tensor, shape: tuple[int, int, int]) -> bool:
    """Return whether both readers work and agree up to rounding, on random examples of a full batch."""
    runs, units, classes = shape
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(160, runs * units, generator=draw).to(like)
    w2 = torch.randn(runs, classes, units, generator=draw).to(like)
    b2 = torch.randn(runs, classes, generator=draw).to(like.device)
    labels = torch.randint(classes, (160,), generator=draw).to(like.device)

    def readout(reader: Reader, gradients: bool) -> Readout:
        block = z.clone().view(-1, runs, units).transpose(0, 1)
        return reader(block, labels, w2, b2, gradients=gradients)

    try:
        for gradients in (True, False):
            one, other = readout(first, gradients), readout(second, gradients)
            # of equal logits up to rounding, either may be the greatest
            if (one.correct - other.correct).abs().sum() > 0.02 * runs * len(labels):
                return False
            pairs = zip((one.loss, *one[2:]), (other.loss, *other[2:]), strict=True)
            sums = [(a.double(), b.double()) for a, b in pairs if a is not None and b is not None]
            if not all((a - b).norm() <= 0.02 * b.norm() for a, b in sums):
                return False
    except Exception:  # of a compiler, a driver or a missing tool: `read_out` works without them
        return False
    return True


# --- sizes that fit in memory ----------------------------------------------------------------------------


def fit_to_memory(
    device: torch.device, shape: tuple[int, int, int], *, weights: int, sets: int, factor: int
) -> tuple[int, int]:
    """Return the chunk size and the number of measurements that fit in a device's memory.

    The device already holds the sets of examples and one copy of the weights.
    On the processor, or if `NEARZERO_MEMORY` is set, the limit of `nearzero.support.memory` applies to all
    memory of the engine. Otherwise the engine may take a share of the GPU's free memory, since other
    processes rarely use it.

    Args:
        device: the device.
        shape: (runs, units, classes) of the stack.
        weights: bytes of the weights of all runs.
        sets: bytes of the examples.
        factor: bytes of one number in the type in which matrices are multiplied (2 for bfloat16, 4 for float32).

    Returns:
        The number of examples that are processed at once, and the greatest number of measurements in one call,
        each of which keeps the weights of its step.

    Raises:
        InputError: the memory is too small even for a few examples.
    """
    runs, units, classes = shape
    shared = 1 if device.type == "cpu" else runs  # runs that go through a product together
    # three arrays of z's size: z, a, and dz if the activation's backward pass isn't in place; logits and
    # their gradients
    example = shared * (3 * factor * units + 40 * classes)
    if device.type == "cuda" and "NEARZERO_MEMORY" not in os.environ:
        card = torch.cuda.current_device() if device.index is None else device.index
        free = torch.cuda.mem_get_info(card)[0]
        free += torch.cuda.memory_reserved(card) - torch.cuda.memory_allocated(card)  # PyTorch's cache
        allowed, needed = int(GPU_SHARE * free), 0
    else:
        allowed, needed = memory_limit(), sets + weights
    needed += 3 * weights  # gradients, the weights as factors, the updated weights
    engine.check_memory(needed + weights + LEAST_CHUNK * example, allowed, runs, units)
    left = allowed - needed
    deferred = min(MOST_DEFERRED, max(1, left // 4 // weights))
    chunk = max(LEAST_CHUNK, (left - deferred * weights) // example)
    most = CPU_CHUNK if device.type == "cpu" else (2**31 - 1) // (shared * units)  # indices of 32 bits
    return min(chunk, max(LEAST_CHUNK, most)), deferred
