"""Data as a probe sees it: batches that can be gone through more than once, each with its inputs, targets and mask.

What a batch may be: a tensor of inputs; a pair (inputs, targets); a mapping of named inputs, as tokenizers give
it, in which "labels" are the targets and "attention_mask" is the mask. Anything else goes through the user's
own `prepare`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torch.utils.data import default_collate as collate

from nearzero.errors import InputError
from nearzero.memory import memory_text

__all__ = ["Batch", "as_batches", "read_batch"]

IGNORED = -100  # the target that counts in nothing, as in torch.nn.functional.cross_entropy
TARGETS = ("labels", "label", "targets", "target", "y")
DEFAULT_BATCH = 256

Prepare = Callable[[Any], tuple[Any, Any, Any]]


@dataclass(frozen=True, eq=False)
class Batch:
    """What the model is called with, and what it's held against.

    Attributes:
        arguments, keywords: the model's inputs.
        target: (B,) or (B, S, ...) whole numbers, or None.
        mask: (B,) or (B, S) bool, True where an example or token counts; None if all do.
    """

    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    target: Tensor | None = None
    mask: Tensor | None = None

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors among the inputs."""
        return [each for each in (*self.arguments, *self.keywords.values()) if isinstance(each, Tensor)]

    def __len__(self) -> int:
        known = self.target if self.target is not None else self.inputs[0]
        return known.shape[0] if known.ndim else 1

    @property
    def divisible(self) -> bool:
        """Whether its examples can be taken apart: every tensor has them as first dimension."""
        return all(each.ndim > 0 and each.shape[0] == len(self) for each in self.inputs)

    def rows(self, part: slice) -> Batch:
        """Some of its examples."""

        def cut(value: Any) -> Any:
            return value[part] if isinstance(value, Tensor) else value

        return replace(
            self,
            arguments=tuple(cut(each) for each in self.arguments),
            keywords={name: cut(each) for name, each in self.keywords.items()},
            target=cut(self.target),
            mask=cut(self.mask),
        )

    def blocks(self, rows: int) -> Iterator[Batch]:
        """The batch in blocks of at most so many examples, if it can be taken apart."""
        if rows >= len(self) or not self.divisible:
            yield self
            return
        for first in range(0, len(self), rows):
            yield self.rows(slice(first, first + rows))

    def to(self, device: torch.device) -> Batch:
        """On another device."""

        def move(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        return replace(
            self,
            arguments=tuple(move(each) for each in self.arguments),
            keywords={name: move(each) for name, each in self.keywords.items()},
            target=move(self.target),
            mask=move(self.mask),
        )

    def describe(self) -> str:
        """Its inputs for an error message: float32 (32, 1, 28, 28)."""
        return ", ".join(
            f"{str(each.dtype).removeprefix('torch.')} {tuple(each.shape)}" for each in self.inputs
        )


def as_batches(data: Any, batch_size: int | None, limit: int) -> Iterable[Any]:
    """What can be iterated over again and again, from what a user has.

    Args:
        data: an iterable of batches (a DataLoader, a list), a `Dataset` of examples, an array of inputs, or a
            pair of arrays (inputs, targets). What can be read only once (a generator) is kept in memory.
        batch_size: for data that come as examples; 256 unless given.
        limit: bytes that batches read only once may take.

    Raises:
        InputError: none of these, or too much to be kept.
    """
    size = DEFAULT_BATCH if batch_size is None else batch_size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"batch_size must be a whole number, at least 1; got {batch_size!r}")
    if isinstance(data, (Tensor, np.ndarray)):
        return DataLoader(TensorDataset(_tensor(data)), size)
    if isinstance(data, tuple) and data and all(isinstance(each, (Tensor, np.ndarray)) for each in data):
        if len({len(each) for each in data}) > 1:
            raise InputError(f"inputs and targets must have one length; got {[len(each) for each in data]}")
        return DataLoader(TensorDataset(*map(_tensor, data)), size)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return DataLoader(data, size)
    if isinstance(data, Iterator):
        return _kept(data, limit)
    if isinstance(data, IterableDataset):
        return DataLoader(data, size)
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes, Mapping)):
        raise InputError(
            f"data must be an iterable of batches, a Dataset, or arrays; got {type(data).__name__}"
        )
    return data


def _tensor(values: Tensor | np.ndarray[Any, Any]) -> Tensor:
    if isinstance(values, Tensor):
        return values
    if values.dtype.kind not in "fiub":
        raise InputError(f"arrays must be of numbers; got {values.dtype}")
    return torch.from_numpy(np.ascontiguousarray(values))


def _kept(data: Iterator[Any], limit: int) -> list[Any]:
    """The batches of what can be read only once."""
    kept, size = [], 0
    for item in data:
        kept.append(item)
        size += sum(each.nbytes for each in _leaves(item) if isinstance(each, (Tensor, np.ndarray)))
        if size > limit:
            raise InputError(
                f"data can be read only once, and keeping them takes more than {memory_text(limit)}; give a "
                "DataLoader, a Dataset or a list of batches, or raise NEARZERO_MEMORY"
            )
    return kept


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def read_batch(item: Any, device: torch.device, prepare: Prepare | None = None) -> Batch:
    """A batch as inputs, target and mask, on a device.

    Args:
        item: what iterating over the data gave.
        device: where the model is.
        prepare: from such an item to (inputs, target or None, mask or None), where inputs are a tensor, a
            tuple of arguments or a mapping of keywords.

    Raises:
        InputError: an item of another kind, without tensors, or without examples.
    """
    if prepare is not None:
        parts = prepare(item)
        if not isinstance(parts, tuple) or len(parts) != 3:
            raise InputError(f"prepare must return (inputs, target, mask); got {type(parts).__name__}")
        inputs, target, mask = parts
    else:
        inputs, target, mask = _take_apart(item)
    target = _as_tensor(target)
    if isinstance(target, Tensor) and not target.is_floating_point():
        target = target.long()
    arguments: tuple[Any, ...] = inputs if isinstance(inputs, tuple) else (inputs,)
    keywords: Mapping[str, Any] = {}
    if isinstance(inputs, Mapping):
        arguments, keywords = (), {name: _as_tensor(each) for name, each in inputs.items()}
        if mask is None:
            mask = _attention(keywords)
    batch = Batch(tuple(_as_tensor(each) for each in arguments), keywords, target, _as_tensor(mask))
    if not batch.inputs or not all(
        isinstance(each, (Tensor, type(None))) for each in (batch.target, batch.mask)
    ):
        raise InputError(
            f"a batch must be inputs, (inputs, targets) or a mapping, of tensors; got {_shown(item)}; "
            "prepare=... can take it apart"
        )
    if len(batch) == 0 or any(each.ndim and not each.shape[0] for each in batch.inputs):
        raise InputError("a batch is empty")
    if batch.target is not None and batch.target.ndim > 1 and not batch.target.is_floating_point():
        counted = batch.target != IGNORED
        fits = batch.mask is not None and batch.mask.shape == counted.shape
        batch = replace(batch, mask=(batch.mask.bool() & counted) if fits else counted)  # type: ignore[union-attr]
    elif batch.mask is not None:
        batch = replace(batch, mask=batch.mask.bool())
    return batch.to(device)


def _take_apart(item: Any) -> tuple[Any, Any, Any]:
    """(inputs, target, mask) of a batch of one of the usual kinds."""
    target = None
    if isinstance(item, (tuple, list)):
        if not 1 <= len(item) <= 2:
            raise InputError(
                f"a batch of {len(item)} parts: (inputs,) or (inputs, targets) is understood; prepare=... can take "
                "others apart"
            )
        item, target = item[0], (item[1] if len(item) == 2 else None)
    if isinstance(item, Mapping):
        named = dict(item)
        for name in TARGETS:
            if target is None and name in named:
                target = named.pop(name)
        return named, target, None
    return item, target, None


def _attention(keywords: Mapping[str, Any]) -> Tensor | None:
    mask = keywords.get("attention_mask")
    return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None


def _as_tensor(value: Any) -> Any:
    """Arrays, numbers and lists of numbers as tensors; anything else as it is."""
    if isinstance(value, np.ndarray):
        return _tensor(value)
    if isinstance(value, list) and value:
        try:
            return collate(value)
        except (TypeError, RuntimeError):
            return value
    return value


def _shown(item: Any) -> str:
    if isinstance(item, (tuple, list)):
        return f"{type(item).__name__} of {', '.join(type(each).__name__ for each in item[:4])}"
    return type(item).__name__
