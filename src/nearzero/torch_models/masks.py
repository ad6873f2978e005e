"""Read masks in the forms that models take them, as (B, S), True for tokens that count.

Forms that are read are 1 and 0, True and False, and numbers that are added to attention scores, 0 and at most -100;
for each token, (B, S) or (B, S, 1), for each key, (B, 1, S) or (B, 1, 1, S), or for each query and key, (B, S, S) or
(B, H, S, S); beside tokens of several choices (B, C, S), for each of these.
A padding mask is True where a token is ignored, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nearzero.errors import InputError

__all__ = ["ADDED", "OPEN", "OVERRIDE", "MaskReader", "is_length", "mask_of_lengths"]

COUNTING = ("attention_mask", "decoder_attention_mask")  # 1 where a token counts, as in Hugging Face's models
IGNORING = ("padding_mask", "pad_mask", "key_padding_mask", "src_key_padding_mask", "tgt_key_padding_mask")
OPEN = ("mask", "input_mask")  # of which the name doesn't tell the meaning
DECODER = ("decoder_attention_mask", "tgt_key_padding_mask")
LENGTHS = ("len", "lens", "length", "lengths")  # how the names of numbers of tokens end
NO_LENGTHS = ("max", "min", "tgt", "target", "label", "labels", "y", "output", "decoder")  # and don't begin
ADDED = -100.0  # numbers that leave a token out of a softmax are at most this
OVERRIDE = (
    "prepare=... can give the mask itself: (inputs, target, mask), with mask (B, S) True where a token counts"
)


class MaskReader:
    """Read the masks of all batches of one model in one way.

    Attributes:
        ignores: whether a mask is 1 or True where a token is ignored, if the name doesn't tell; None if unknown.
        lengths: the input that holds the number of tokens of each example, if it is read as a mask.

    Example:
        >>> import torch
        >>> from nearzero.torch_models.masks import MaskReader
        >>> added = torch.tensor([[0.0, 0.0, -torch.inf]])
        >>> MaskReader().read("attention_mask", added[:, None, None])
        tensor([[ True,  True, False]])
    """

    def __init__(self) -> None:
        self.ignores: bool | None = None
        self.lengths = ""
        self._forms: dict[str, str] = {}

    def find(self, keywords: Mapping[str, Any], *, decoder: bool = False) -> tuple[str, Tensor | None]:
        """Return the name of the mask among a model's inputs, and the mask; ("", None) without one."""
        for name in (*COUNTING, *IGNORING, *OPEN):
            mask = keywords.get(name)
            if isinstance(mask, Tensor) and mask.ndim > 1 and (name in DECODER) == decoder:
                if _is_of_choices(mask, keywords):
                    return name, self.values(name, mask)
                if name not in OPEN:
                    return name, self.read(name, mask)
                others = [
                    value for key, value in keywords.items() if key != name and isinstance(value, Tensor)
                ]
                shape = (mask.shape[0], mask.shape[-1])
                if any(value.shape[:2] in (shape, shape[::-1]) for value in others):
                    return name, self.read(name, mask)
        if self.lengths in keywords and not decoder:
            mask = mask_of_lengths(keywords[self.lengths], keywords)
            if mask is None:
                raise InputError(
                    f"the {self.lengths} of a batch aren't numbers of its tokens, as they were before; {OVERRIDE}"
                )
            return self.lengths, mask
        return "", None

    def describe(self, name: str) -> str:
        """Return which tokens count by a mask."""
        if name == self.lengths:
            return f"{name}, the number of tokens that count"
        turned = name in IGNORING or (name in OPEN and bool(self.ignores))
        added = self._forms.get(name) == "added"
        return f"{name}, {'0, to be added,' if added else '0 or False' if turned else '1 or True'} where a token counts"

    def read(self, name: str, mask: Tensor) -> Tensor:
        """Return a mask (B, S), True for tokens that count.

        Raises:
            InputError: other values than those of a mask, or keys that some queries attend to and others don't.
        """
        counts = self.values(name, mask)
        if counts.ndim == 3 and counts.shape[2] == 1 < counts.shape[1]:
            return counts[..., 0]
        return counts if counts.ndim < 3 else _by_key(name, counts)

    def values(self, name: str, mask: Tensor) -> Tensor:
        """Return a mask of any shape as bool, True for what counts.

        Raises:
            InputError: other values than those of a mask, or than those of earlier masks.
        """
        ignores = name in IGNORING or (name in OPEN and bool(self.ignores))
        if mask.dtype == torch.bool:
            return ~mask if ignores else mask
        left_out, kept = mask <= ADDED, mask == 0
        added = bool((left_out | kept).all()) and (mask.is_floating_point() or bool(left_out.any()))
        flags = bool((kept | (mask >= 1 if not mask.is_floating_point() else mask == 1)).all())
        if not added and not flags:
            raise InputError(
                f"the {name} has values from {float(mask.min()):.3g} to {float(mask.max()):.3g}, but is to have 1 and "
                f"0, or 0 and numbers below {ADDED:.0f} that are added; {OVERRIDE}"
            )
        if added and flags:  # zeros alone, as a mask that is added has them where all count
            added = self._forms.get(name, "added") == "added"
        elif self._forms.setdefault(name, "added" if added else "flags") != ("added" if added else "flags"):
            raise InputError(
                f"the {name} has 1 and 0 in some batches, and numbers that are added in others; {OVERRIDE}"
            )
        return kept if added or ignores else ~kept


def is_length(name: str) -> bool:
    """Return whether an input holds numbers of tokens by its name, such as lengths, seq_len or src_lengths."""
    first, *_ = words = name.lower().split("_")
    return words[-1] in LENGTHS and first not in NO_LENGTHS


def mask_of_lengths(lengths: Any, others: Mapping[str, Any]) -> Tensor | None:
    """Return the mask (B, S) of the first tokens of each example; None if they aren't numbers (B,) from 1 to S.

    Args:
        lengths: the numbers of tokens that count.
        others: the inputs, among which those over tokens tell S, (B, S, ...) or (S, B, ...).
    """
    whole = isinstance(lengths, Tensor) and lengths.dtype in (torch.int64, torch.int32)
    if not whole or lengths.ndim != 1 or not len(lengths) or int(lengths.min()) < 1:
        return None
    count, most = len(lengths), int(lengths.max())
    shapes = [value.shape[:2] for value in others.values() if isinstance(value, Tensor) and value.ndim > 1]
    sizes = [shape[1] if shape[0] == count else shape[0] for shape in shapes if count in shape]
    size = next((size for size in sizes if size >= most), None)
    return None if size is None else torch.arange(size, device=lengths.device) < lengths[:, None]


def _is_of_choices(mask: Tensor, keywords: Mapping[str, Any]) -> bool:
    """Return whether a mask is over examples, choices and tokens, since the numbers of the tokens have its shape.

    Positions may have the shape of pairs of tokens.
    """
    return mask.ndim == 3 and any(
        isinstance(value, Tensor)
        and value.shape == mask.shape
        and value.dtype in (torch.int64, torch.int32)
        and not any(word in name for word in ("mask", "position", "type", "label", "bias", "distance"))
        for name, value in keywords.items()
    )


def _by_key(name: str, counts: Tensor) -> Tensor:
    """Return which keys count, (B, S), from whether each query attends to them, (B, [H,] Q, S).

    A query to which nothing is left may attend to all keys, so that its softmax is a number; such rows are left out.

    Raises:
        InputError: the keys that a query attends to don't tell which count.
    """
    pairs = counts.reshape(counts.shape[0], -1, *counts.shape[-2:])
    if bool((pairs != pairs[:, :1]).any()):
        raise InputError(f"the {name} {tuple(counts.shape)} differs between heads; {OVERRIDE}")
    full = pairs[:, 0].all(-1)  # (B, Q)
    is_last = torch.arange(full.shape[1], device=full.device) == full.shape[1] - 1
    dropped = full & ~is_last & ~full.all(1, keepdim=True)
    rows = pairs[:, 0] & ~dropped[..., None]
    attended = rows.any(1)
    order = (
        torch.where(rows.any(-1), torch.arange(full.shape[1], device=full.device), -1).amax(1).clamp(min=0)
    )
    last = rows[torch.arange(len(rows), device=rows.device), order]
    if bool((last != attended).any()) or bool((dropped.any(1) & full[:, -1]).any()):
        raise InputError(
            f"the {name} {tuple(counts.shape)} doesn't tell which tokens count, since the last query attends to others "
            f"than those before; {OVERRIDE}"
        )
    return attended
