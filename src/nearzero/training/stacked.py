"""The engine in PyTorch, for any device: all runs in a few large products.

The gradients of a two-layer network are written out by hand, so no graph is kept. The processor's own engine
is `nearzero.training.fused`; this one serves CUDA, and on the CPU it is the same mathematics by another road.

Where the time of a full-batch step goes, for the paper's study (20 runs of 128 units, 60,000 examples) on a
card like the H100. The products are 2 x 2 * 60,000 * 784 * 2,560 = 0.48e12 operations: 10 ms in float32 at 50e12
a second, under 2 ms in tf32, under 1 ms in bfloat16 (`products`). All else is memory: one pass over an array as
large as z is 0.6 GB, or 0.3 GB in bfloat16, so 0.2 or 0.1 ms at 3 TB/s; about ten are made (`readout`). About
80 kernels are launched, which takes the host some 0.5 ms while the device works at those before; so to capture
them as a graph would gain nothing, as long as the host never waits. It waits once in `ahead` measurements.

How far runs are independent: on the CPU they are taken one at a time, so run k alone is run k among twenty,
bit for bit. On other devices all runs share each product, and libraries choose the order of its sums by its
size: run k then agrees with run k alone to rounding, which training carries on as it would any other.
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
from nearzero.training.engine import Examples, Look, Measurement, Precision
from nearzero.training.products import first_layer, pixel_columns, product, products_in
from nearzero.training.readout import Readout, read_out

__all__ = ["StackedEngine", "agree", "reader_for", "room_for"]

SHARE = 0.7  # of a GPU's free memory
MOST_AHEAD = 32  # looks at once: with these, the wait for an answer is long past noticing
CPU_CHUNK = 4096  # examples; there more gain nothing
LEAST_CHUNK = 64

Reader = Callable[..., Readout]  # `read_out` for one activation


@dataclass(frozen=True, eq=False)
class _Rows:
    """The arrays of all runs, as views of one array with a row for each run: (R, U D + U + K U + K) float32."""

    flat: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor

    @classmethod
    def over(cls, flat: Tensor, units: int, inputs: int, classes: int) -> _Rows:
        """Views of an array that is there."""
        shapes = (units, inputs), (units,), (classes, units), (classes,)
        parts = torch.split(flat, [math.prod(shape) for shape in shapes], dim=1)
        w1, b1, w2, b2 = (part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True))
        return cls(flat, w1, b1, w2, b2)

    def like(self, flat: Tensor) -> _Rows:
        """The same views of another array."""
        _, units, inputs = self.w1.shape
        return _Rows.over(flat, units, inputs, self.b2.shape[1])

    def of(self, group: slice) -> _Rows:
        """Some of the runs."""
        return self.like(self.flat[group])


@dataclass(frozen=True, eq=False)
class _OnDevice:
    """A set of examples: columns (N, width) as `products` has them, labels (N,)."""

    columns: Tensor
    labels: Tensor

    @classmethod
    def of(cls, examples: Examples, device: torch.device, dtype: torch.dtype) -> _OnDevice:
        columns = pixel_columns(torch.from_numpy(examples.pixels.values).to(device), dtype)
        return cls(columns, torch.from_numpy(examples.labels).to(device))


class StackedEngine:
    """Stochastic gradient descent on a stack of runs; see `nearzero.training.engine.LooksAhead`.

    Args:
        stack: the weights to begin with; copied.
        train, test: the sets of examples, seen through the same affine map.
        seeds: one for each run, for the order of its examples.
        learning_rate: w <- w - learning_rate * gradient of the batch's mean cross-entropy.
        batch_size: examples in a batch; None is the whole training set.
        device: "cpu", "cuda", "cuda:1", "mps", ...
        precision: of products, see `nearzero.training.products`; tf32 is float32 on all devices but CUDA.
        kernel: whether one kernel may do the second layer, where it can (`nearzero.training.readout_kernel`).

    Attributes:
        kernel: whether it does.

    Raises:
        InputError: sets or seeds that don't fit the stack, or too little memory.
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
        sets = {"train": train, "test": test}
        self._sets = {name: _OnDevice.of(each, self._device, self._factor) for name, each in sets.items()}
        self._seeds, self._rate, self._batch = list(seeds), learning_rate, batch_size
        self._epoch: tuple[int, Tensor] | None = None
        self._gradient: _Rows | None = None
        self._gradient_of = np.zeros(runs, dtype=np.bool_)  # runs whose gradient it has
        self._kept: list[Tensor] = []
        self.active = np.ones(runs, dtype=np.bool_)
        self._mask = self.active.copy(), torch.ones(runs, dtype=torch.bool, device=self._device)
        with torch.no_grad(), products_in(precision):
            like = flat.new_empty(0, dtype=self._factor)
            self._reader = reader_for(
                self._activation, like, shape, rounded=kernel and precision != "float32"
            )
        self.kernel = self._reader.func is not read_out
        held, size = sum(each.columns.nbytes for each in self._sets.values()), self._factor.itemsize
        self._chunk, self.ahead = room_for(self._device, shape, weights=flat.nbytes, sets=held, factor=size)

    # --- what an engine does -----------------------------------------------------------------------------

    def measure(self, which: str) -> Measurement:
        """The current weights on all of "train" or "test"; a full batch's gradients are kept for the update."""
        with torch.no_grad(), products_in(self._precision):
            return self._measurement(which, self._marks(which).cpu().numpy())

    def advance(self, step: int, stop: int) -> None:
        """Apply updates step, step + 1, ..., stop - 1 to every active run."""
        with torch.no_grad(), products_in(self._precision):
            self._advance(step, stop)

    def look_ahead(self, step: int, plan: Sequence[tuple[int, bool]]) -> list[Look]:
        """Advance from `step` to each of the planned steps, and measure; the device is waited for at the end."""
        marks, self._kept = [], []
        with torch.no_grad(), products_in(self._precision):
            for stop, tested in plan:
                self._advance(step, stop)
                step = stop
                marks += [self._marks(which) for which in ("train", "test")[: 1 + tested]]
                self._kept.append(self._weights.flat.clone())
            numbers = iter(torch.stack(marks).cpu().numpy())

        def measured(which: str) -> Measurement:
            return self._measurement(which, next(numbers))

        return [Look(measured("train"), measured("test") if tested else None) for _, tested in plan]

    def look_back(self, place: int) -> Stack:
        """A copy of the weights at look `place` of the last plan."""
        return self._as_stack(self._kept[place])

    def go_back(self, place: int) -> None:
        """Have the weights again that were at look `place` of the last plan."""
        self._weights.flat.copy_(self._kept[place])
        self._gradient = None

    def stack(self) -> Stack:
        """A copy of the current weights."""
        return self._as_stack(self._weights.flat)

    def _as_stack(self, flat: Tensor) -> Stack:
        rows = self._weights.like(flat.cpu())
        w1, b1, w2, b2 = (each.numpy().copy() for each in (rows.w1, rows.b1, rows.w2, rows.b2))
        return Stack(w1, b1, w2, b2, (self._activation,) * len(w1))

    # --- measurements ------------------------------------------------------------------------------------

    def _marks(self, which: str) -> Tensor:
        """(3, R) on the device: sum of losses, correct predictions, whether every weight is a number."""
        loss, correct = self._pass(which, gradients=which == "train" and self._batch is None)
        return torch.stack([loss, correct.to(loss), self._weights.flat.isfinite().all(1).to(loss)])

    def _measurement(self, which: str, marks: npt.NDArray[np.floating]) -> Measurement:
        """What marks say of the active runs."""
        loss = marks[0].astype(np.float64) / len(self._sets[which].labels)
        correct = np.where(self.active, marks[1], 0).astype(np.int64)
        return Measurement(np.where(self.active & (marks[2] != 0), loss, np.nan), correct)

    def _pass(self, which: str, *, gradients: bool) -> tuple[Tensor, Tensor]:
        """(R,) sum of losses and number of correct predictions over a whole set; keeps gradients if asked."""
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
                found = self._read_out(factors, x, labels, gradients=gradients)
                loss[group] += found.loss
                correct[group] += found.correct
                if gradients:
                    assert self._gradient is not None
                    self._add(self._gradient.of(group), found, x)
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
        """Gradient of one group's mini-batch, and its size."""
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
        """w <- w - rate * gradient / examples, for the active runs of a group."""
        # seldom: the device's copy would have to be waited for
        if not np.array_equal(self._mask[0], self.active):
            host = self.active.copy()
            self._mask = host, torch.from_numpy(host).to(self._device)
        flat = self._weights.flat[group]
        moved = torch.sub(flat, gradient.flat, alpha=self._rate / examples)
        torch.where(self._mask[1][group, None], moved, flat, out=flat)

    # --- products ----------------------------------------------------------------------------------------

    @property
    def _groups(self) -> list[slice]:
        """The runs that share products: all of them, or on the CPU each active one by itself."""
        if self._device.type != "cpu":
            return [slice(0, len(self.active))] if self.active.any() else []
        return [slice(run, run + 1) for run in np.flatnonzero(self.active).tolist()]

    def _factors(self, group: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Both layers of a group as factors of products: (R, U, width), (R, K, U); and b2 (R, K)."""
        rows = self._weights.of(group)
        w1 = first_layer(rows.w1, rows.b1, *self._affine, self._factor)
        return w1, rows.w2.to(self._factor, copy=True), rows.b2

    def _read_out(
        self, factors: tuple[Tensor, Tensor, Tensor], x: Tensor, labels: Tensor, *, gradients: bool
    ) -> Readout:
        """Forward, and back to z. x: (n, width) for all runs of the group, or (R, n, width)."""
        w1, w2, b2 = factors
        if x.ndim == 2:
            z = torch.mm(x, w1.flatten(0, 1).T).view(-1, *w1.shape[:2]).transpose(0, 1)
        else:
            z = torch.bmm(x, w1.transpose(1, 2))
        return self._reader(z, labels, w2, b2, gradients=gradients)

    def _add(self, gradient: _Rows, found: Readout, x: Tensor) -> None:
        """Add what some examples contribute to the gradient of a group."""
        dz, (gain, shift), inputs = found.dz, self._affine, gradient.w1.shape[2]
        assert dz is not None
        assert found.w2 is not None
        assert found.b2 is not None
        if x.ndim == 2:
            first = product(dz.transpose(0, 1).flatten(1).T, x).view(*dz.shape[::2], -1)
        else:
            first = product(dz.transpose(1, 2), x)
        bias = first[:, :, inputs]
        gradient.w1.add_(first[:, :, :inputs], alpha=gain)
        if shift != 0:
            gradient.w1.add_(bias[:, :, None], alpha=shift)
        gradient.b1.add_(bias)
        gradient.w2.add_(found.w2)
        gradient.b2.add_(found.b2)


# --- one kernel or plain PyTorch ------------------------------------------------------------------------


def reader_for(
    activation: str, like: Tensor, shape: tuple[int, int, int], *, rounded: bool
) -> partial[Readout]:
    """One kernel where it can be had, else `read_out`.

    The kernel rounds, so it isn't for float32. It needs CUDA, Triton, a compiler for C, and one of the activations
    and sizes that it knows; whether it works here is seen by trying it.

    Args:
        activation: its name.
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


def agree(one: Reader, other: Reader, like: Tensor, shape: tuple[int, int, int]) -> bool:
    """Whether both readers work, and give the same to rounding, on made-up examples laid out as a full batch is."""
    runs, units, classes = shape
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(160, runs * units, generator=draw).to(like)
    w2 = torch.randn(runs, classes, units, generator=draw).to(like)
    b2 = torch.randn(runs, classes, generator=draw).to(like.device)
    labels = torch.randint(classes, (160,), generator=draw).to(like.device)

    def tried(reader: Reader, gradients: bool) -> Readout:
        block = z.clone().view(-1, runs, units).transpose(0, 1)
        return reader(block, labels, w2, b2, gradients=gradients)

    try:
        for asked in (True, False):
            (loss, correct, *rest), (loss_, correct_, *rest_) = tried(one, asked), tried(other, asked)
            if (correct - correct_).abs().sum() > 0.02 * runs * len(labels):  # near-ties may fall either way
                return False
            pairs = zip((loss, *rest), (loss_, *rest_), strict=True)
            found = [(a.double(), b.double()) for a, b in pairs if a is not None and b is not None]
            if not all((a - b).norm() <= 0.02 * b.norm() for a, b in found):
                return False
    except Exception:  # whatever a compiler, its absence or a driver may raise: there's another way
        return False
    return True


# --- how much is in memory at the same time --------------------------------------------------------------


def room_for(
    device: torch.device, shape: tuple[int, int, int], *, weights: int, sets: int, factor: int
) -> tuple[int, int]:
    """Return what fits on a device where the sets of examples, and the weights once, already are.

    On the processor, and wherever `NEARZERO_MEMORY` is set, that setting is what all of it may take. Otherwise a
    GPU's memory is its own: a share of what's free there, since nobody else is likely to be at work on it.

    Args:
        device: where the work is done.
        shape: (runs, units, classes) of the stack.
        weights: bytes of the weights of all runs.
        sets: bytes of the examples.
        factor: bytes of a number as a factor of products.

    Returns:
        How many examples of a whole set are in work at the same time; how many looks are taken at once, the weights of
        each of which are kept.

    Raises:
        InputError: not even a few examples would fit.
    """
    runs, units, classes = shape
    shared = 1 if device.type == "cpu" else runs  # runs that go through a product together
    # z, a and one more as large for activations whose slope has no kernel in place; logits and what's made of them
    example = shared * (3 * factor * units + 40 * classes)
    if device.type == "cuda" and "NEARZERO_MEMORY" not in os.environ:
        card = torch.cuda.current_device() if device.index is None else device.index
        free = torch.cuda.mem_get_info(card)[0]
        free += torch.cuda.memory_reserved(card) - torch.cuda.memory_allocated(card)  # PyTorch's cache
        allowed, taken = int(SHARE * free), 0
    else:
        allowed, taken = memory_limit(), sets + weights
    taken += 3 * weights  # gradients, the weights as factors, the weights a step on
    engine.check_memory(taken + weights + LEAST_CHUNK * example, allowed, runs, units)
    left = allowed - taken
    ahead = min(MOST_AHEAD, max(1, left // 4 // weights))
    chunk = max(LEAST_CHUNK, (left - ahead * weights) // example)
    most = CPU_CHUNK if device.type == "cpu" else (2**31 - 1) // (shared * units)  # indices of 32 bits
    return min(chunk, max(LEAST_CHUNK, most)), ahead
