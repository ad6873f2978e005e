"""The engine in PyTorch, for any device: all runs in a few large products.

The gradients of a two-layer network are written out by hand, so no graph is kept. Pixels live on the device
as bytes and become floats a chunk of examples at a time, which bounds memory. Nothing waits for the device
between measurements. The processor's own engine is `nearzero.training.fused`; this one serves CUDA and MPS,
and on the CPU it is the same mathematics by another road.

How far runs are independent: on the CPU they are taken one at a time, so run k alone is run k among twenty,
bit for bit. On other devices all runs share each product, and libraries choose the order of its sums by its
size: run k then agrees with run k alone to rounding, which training carries on as it would any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from nearzero.networks import Stack
from nearzero.training.batches import epoch_order, steps_per_epoch
from nearzero.training.checks import check_engine
from nearzero.training.engine import Examples, Measurement

__all__ = ["StackedEngine"]

CHUNK_BYTES = 1 << 29  # of pre-activations at a time; about six times as much is in use
Function = Callable[[Tensor], Tensor]


def _gelu_slope(z: Tensor) -> Tensor:
    below: Tensor = torch.special.ndtr(z)
    return below + z * torch.exp(-0.5 * z * z) * 0.3989422804014327


def _silu_slope(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


_ACTIVATIONS: dict[str, tuple[Function, Function]] = {
    "relu": (torch.relu, lambda z: (z > 0).to(z.dtype)),
    "abs": (torch.abs, torch.sign),
    "leaky_relu": (F.leaky_relu, lambda z: torch.where(z > 0, 1.0, 0.01).to(z.dtype)),
    "gelu": (F.gelu, _gelu_slope),
    "silu": (F.silu, _silu_slope),
    "tanh": (torch.tanh, lambda z: 1 - torch.tanh(z) ** 2),
    "sigmoid": (torch.sigmoid, lambda z: torch.sigmoid(z) * (1 - torch.sigmoid(z))),
    "softplus": (F.softplus, torch.sigmoid),
    "elu": (F.elu, lambda z: torch.exp(torch.clamp(z, max=0))),
}


@dataclass(eq=False)
class _OnDevice:
    """A set of examples: bytes (N, D), labels (N,)."""

    values: Tensor
    labels: Tensor
    gain: float
    shift: float

    @classmethod
    def of(cls, examples: Examples, device: torch.device) -> _OnDevice:
        pixels = examples.pixels
        values, labels = (torch.from_numpy(each).to(device) for each in (pixels.values, examples.labels))
        return cls(values, labels, pixels.gain, pixels.shift)

    def inputs(self, rows: slice | Tensor) -> Tensor:
        """x of some examples, (..., D) float32."""
        x = self.values[rows].float()
        return x if (self.gain, self.shift) == (1.0, 0.0) else x.mul_(self.gain).add_(self.shift)


class StackedEngine:
    """Stochastic gradient descent on a stack of runs; see `nearzero.training.engine.Engine`.

    Args:
        stack: the weights to begin with; copied.
        train, test: the sets of examples, seen through the same affine map.
        seeds: one for each run, for the order of its examples.
        learning_rate: w <- w - learning_rate * gradient of the batch's mean cross-entropy.
        batch_size: examples in a batch; None is the whole training set.
        device: "cpu", "cuda", "cuda:1", "mps", ...
        tf32: let CUDA round the factors of products to 10 bits, which is faster and no longer float32.

    Raises:
        InputError: sets or seeds that don't fit the stack.
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
        tf32: bool = False,
    ) -> None:
        check_engine(stack, train, test, seeds, batch_size)
        self._device = torch.device(device)
        self._precision = "high" if tf32 else "highest"
        arrays = (stack.w1, stack.b1, stack.w2, stack.b2)
        self._weights = [torch.from_numpy(array.copy()).to(self._device) for array in arrays]
        self._act, self._slope = _ACTIVATIONS[stack.activation]
        self._activation = stack.activation
        self._sets = {"train": _OnDevice.of(train, self._device), "test": _OnDevice.of(test, self._device)}
        self._seeds, self._rate, self._batch = list(seeds), learning_rate, batch_size
        self._epoch: tuple[int, Tensor] | None = None
        self._gradients: list[Tensor] | None = None
        self._gradients_of = np.zeros(len(stack), dtype=np.bool_)
        self.active = np.ones(len(stack), dtype=np.bool_)

    @property
    def _groups(self) -> list[slice]:
        """The runs that share products: all of them, or on the CPU each active one by itself."""
        if self._device.type != "cpu":
            return [slice(0, len(self.active))] if self.active.any() else []
        return [slice(run, run + 1) for run in np.flatnonzero(self.active).tolist()]

    def measure(self, which: str) -> Measurement:
        """The current weights on all of "train" or "test"; a full batch's gradients are kept for the update."""
        with self._exact():
            loss, correct = self._pass(which, gradients=which == "train" and self._batch is None)
        losses = loss.cpu().numpy().astype(np.float64) / len(self._sets[which].labels)
        rights: npt.NDArray[np.int64] = correct.cpu().numpy()
        finite = torch.stack([each.flatten(1).isfinite().all(1) for each in self._weights])
        numbers = finite.all(0).cpu().numpy()
        return Measurement(np.where(self.active & numbers, losses, np.nan), np.where(self.active, rights, 0))

    def advance(self, step: int, stop: int) -> None:
        """Apply updates step, step + 1, ..., stop - 1 to every active run."""
        with self._exact():
            for number in range(step, stop):
                if self._batch is not None:
                    for group in self._groups:
                        self._update(group, *self._batch_gradients(group, number))
                    continue
                if self._gradients is None or not self._gradients_of[self.active].all():
                    self._pass("train", gradients=True)
                assert self._gradients is not None
                for group in self._groups:
                    self._update(
                        group, [each[group] for each in self._gradients], len(self._sets["train"].labels)
                    )
                self._gradients = None

    def stack(self) -> Stack:
        """A copy of the current weights."""
        w1, b1, w2, b2 = (each.cpu().numpy().copy() for each in self._weights)
        return Stack(w1, b1, w2, b2, activation=self._activation)

    @contextmanager
    def _exact(self) -> Iterator[None]:
        """Without gradients of PyTorch's own, and with products as precise as was asked for."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self._precision)
        try:
            with torch.no_grad():
                yield
        finally:
            torch.set_float32_matmul_precision(before)

    def _pass(self, which: str, *, gradients: bool) -> tuple[Tensor, Tensor]:
        """(R,) sum of losses and number of correct predictions over a whole set; keeps gradients if asked."""
        data, runs = self._sets[which], len(self.active)
        exact = torch.float32 if self._device.type == "mps" else torch.float64
        loss = torch.zeros(runs, dtype=exact, device=self._device)
        correct = torch.zeros(runs, dtype=torch.int64, device=self._device)
        if gradients:
            self._gradients = [torch.zeros_like(each) for each in self._weights]
            self._gradients_of = self.active.copy()
        for group in self._groups:
            units = (group.stop - group.start) * self._weights[1].shape[1]
            chunk = max(64, CHUNK_BYTES // (4 * units)) if self._device.type != "cpu" else 4096
            for first in range(0, len(data.labels), chunk):
                rows = slice(first, first + chunk)
                parts = self._forward(group, data.inputs(rows))
                logits, labels = parts[2], data.labels[rows].expand(group.stop - group.start, -1)
                losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
                loss[group] += losses.view(labels.shape).sum(1, dtype=exact)
                correct[group] += (logits.argmax(2) == labels).sum(1)
                if gradients:
                    assert self._gradients is not None
                    for total, part in zip(
                        self._gradients, self._backward(group, parts, labels), strict=True
                    ):
                        total[group] += part
        return loss, correct

    def _batch_gradients(self, group: slice, step: int) -> tuple[list[Tensor], int]:
        """Gradients of one group's mini-batch, and its size."""
        assert self._batch is not None
        data = self._sets["train"]
        epoch, place = divmod(step, steps_per_epoch(len(data.labels), self._batch))
        if self._epoch is None or self._epoch[0] != epoch:
            orders = np.stack([epoch_order(seed, epoch, len(data.labels)) for seed in self._seeds])
            self._epoch = (epoch, torch.from_numpy(orders).to(self._device))
        rows = self._epoch[1][group, place * self._batch : (place + 1) * self._batch]
        return self._backward(group, self._forward(group, data.inputs(rows)), data.labels[rows]), rows.shape[
            1
        ]

    def _forward(self, group: slice, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x: (n, D) for all runs of the group or (R, n, D); returns x, z (R, n, U) and logits (R, n, K)."""
        w1, b1, w2, b2 = (each[group] for each in self._weights)
        if x.ndim == 2:
            z = (x @ w1.flatten(0, 1).T).view(len(x), *b1.shape).transpose(0, 1) + b1[:, None]
        else:
            z = torch.baddbmm(b1[:, None], x, w1.transpose(1, 2))
        return x, z, torch.baddbmm(b2[:, None], self._act(z), w2.transpose(1, 2))

    def _backward(self, group: slice, parts: tuple[Tensor, Tensor, Tensor], labels: Tensor) -> list[Tensor]:
        """Gradients of the sum of losses: w1 (R, U, D), b1 (R, U), w2 (R, K, U), b2 (R, K)."""
        x, z, logits = parts
        residual = torch.softmax(logits, 2)
        residual.scatter_add_(
            2, labels[..., None], torch.full_like(labels[..., None], -1, dtype=residual.dtype)
        )
        w2 = torch.bmm(residual.transpose(1, 2), self._act(z))
        dz = torch.bmm(residual, self._weights[2][group]) * self._slope(z)
        return [torch.matmul(dz.transpose(1, 2), x), dz.sum(1), w2, residual.sum(1)]

    def _update(self, group: slice, gradients: list[Tensor], examples: int) -> None:
        """w <- w - rate * gradient / examples, for the active runs of a group."""
        active = torch.from_numpy(self.active[group]).to(self._device, non_blocking=True)
        for weight, gradient in zip(self._weights, gradients, strict=True):
            moved = weight[group] - gradient * (self._rate / examples)
            shape = (-1,) + (1,) * (weight.ndim - 1)
            weight[group] = torch.where(active.view(shape), moved, weight[group])
