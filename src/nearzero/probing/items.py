"""The items of a batch that are measured: examples, or tokens that count."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from nearzero.errors import InputError
from nearzero.probing.batches import IGNORED, Batch

__all__ = ["Items"]


@dataclass(frozen=True, eq=False)
class Items:
    """The items of one batch that count.

    Attributes:
        batch: where they are from.
        causal: whether the logits at a token are of the next token.
        target: (n,), or (n, ...) if each has several; None if there are none.
        place: (n, 2) int64, the example in the batch, and the token in it whose logits they are (0 where there
            are none).
        number: (n,) int64, the same as the number of a row, where all logits of the batch are in rows.
    """

    batch: Batch
    causal: bool
    target: Tensor | None
    place: Tensor
    number: Tensor

    @classmethod
    def of(cls, batch: Batch, logits: Tensor, causal: bool) -> Items:
        """Which items of a batch count, by the shape of its logits.

        Raises:
            InputError: targets or a mask that don't fit the logits.
        """
        shape = tuple(_classes_last(logits, batch.target).shape[:-1])
        if causal:
            if len(shape) != 2:
                raise InputError(
                    f"causal=True needs logits (batch, tokens, classes); got {tuple(logits.shape)}; give causal=False"
                )
            shape = (shape[0], shape[1] - 1)
        target = _fitted(batch.target, shape, logits, causal)
        chosen = torch.ones(shape, dtype=torch.bool, device=logits.device)
        mask = batch.decoder_mask if batch.two_sided else batch.mask
        if mask is not None:
            chosen &= _on_items(mask, shape, causal)
        if target is not None and not target.is_floating_point() and target.shape == shape:
            chosen &= target != IGNORED
        place = chosen.reshape(shape[0], -1).nonzero()  # tokens of images in one row
        whole = bool(chosen.all())
        if target is not None:
            target = target.flatten(0, len(shape) - 1) if whole else target[chosen]
        rows = prod(shape[1:]) + causal  # of an example; the last token's logits are of none that is there
        return cls(batch, causal, target, place, place[:, 0] * rows + place[:, 1])

    def __len__(self) -> int:
        return len(self.place)

    def logits(self, logits: Tensor) -> Tensor:
        """Return those of the items, (n, K)."""
        return self.rows(self.flat(logits), slice(0, len(self)))

    def flat(self, logits: Tensor) -> Tensor:
        """Return all logits of the batch in rows, as a view where they lie so; one alone is the second of two."""
        last = _classes_last(logits, self.batch.target)
        rows = last.reshape(-1, last.shape[-1])
        return F.pad(rows, (1, 0)) if rows.shape[1] == 1 else rows

    def at(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits (B, K) of one token of each example of a batch; tokens (B,) as `place` numbers them."""
        flat = self.flat(logits)
        return flat.view(len(tokens), -1, flat.shape[-1])[torch.arange(len(tokens)), tokens]

    def rows(self, flat: Tensor, part: slice) -> Tensor:
        """Return the rows of some items, as a view where these follow each other."""
        numbers = self._numbers[part]
        if not len(numbers) or int(numbers[-1] - numbers[0]) >= len(numbers):
            return flat.index_select(0, self.number[part])
        return flat[int(numbers[0]) : int(numbers[-1]) + 1]

    @cached_property
    def _numbers(self) -> npt.NDArray[np.int64]:
        """Their numbers in the processor's memory."""
        return np.asarray(self.number.cpu().numpy())

    def check_classes(self, classes: int) -> None:
        """Refuse targets that are no classes.

        Raises:
            InputError: several targets for an item, a target below 0, or one beyond the last class.
        """
        target = self.target
        if target is None or not len(target):
            return
        if target.ndim > 1:
            raise InputError(
                f"there must be one target for each item, its class; got {tuple(target.shape)}; for other targets give "
                "metrics={'name': function of (logits, target)}"
            )
        low, high = int(target.min()), int(target.max())
        if low < 0 or high >= classes:
            raise InputError(
                f"targets must be classes from 0 to {classes - 1}, as the logits have them (or {IGNORED}, which is "
                f"ignored); got values from {low} to {high}"
            )


def _classes_last(logits: Tensor, target: Tensor | None) -> Tensor:
    """Logits with their classes on the last dimension: on the second where targets or images say so."""
    if logits.ndim < 2:
        return logits[..., None]
    last, second = logits.shape[:-1], (logits.shape[0], *logits.shape[2:])
    on_second = logits.ndim > 3 if target is None else target.shape == second != last
    return logits.movedim(1, -1) if on_second else logits


def _fitted(target: Tensor | None, shape: tuple[int, ...], logits: Tensor, causal: bool) -> Tensor | None:
    """Targets with the items as leading dimensions: as they are, flattened, or with dimensions of one."""
    if target is None:
        return None
    shifted = target[:, 1:] if causal and target.ndim >= 2 and target.shape[1] == shape[1] + 1 else target
    leading = shifted.shape[: len(shape)] == shape
    ones = [size for size in shifted.shape if size > 1] == [size for size in shape if size > 1]
    if shifted.numel() == prod(shape) and (leading or shifted.ndim == 1 or ones):
        return shifted.reshape(shape)
    if leading:
        return shifted
    raise InputError(
        f"targets {tuple(target.shape)} don't fit logits {tuple(logits.shape)}"
        + (", which are of the next token each" if causal else "")
        + "; prepare=... and output=... can bring them together"
    )


def _on_items(mask: Tensor, shape: tuple[int, ...], causal: bool) -> Tensor:
    """A mask of examples or tokens on the items.

    Raises:
        InputError: it has other tokens than the logits.
    """
    if causal and mask.ndim == 2:
        mask = mask[:, :-1] & mask[:, 1:]  # the token that is read, and the one that is told
    if mask.shape == shape[: mask.ndim]:
        return mask.reshape(*mask.shape, *[1] * (len(shape) - mask.ndim)).expand(shape)
    if len(shape) == 1 and mask.shape[0] == shape[0]:
        return mask.flatten(1).any(1)
    raise InputError(
        f"the mask {tuple(mask.shape)} doesn't fit logits over {shape}; prepare=... gives another, or none"
    )
