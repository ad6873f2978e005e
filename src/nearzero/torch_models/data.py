"""Data that can be gone through again and again, each time the same, in blocks that fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nearzero.errors import InputError
from nearzero.support.memory import memory_text
from nearzero.torch_models.batches import Batch, as_tensor, leaves
from nearzero.torch_models.state import RandomStates

__all__ = ["BatchSource", "MemoryBudget", "is_out_of_memory"]

DEFAULT_BATCH = 256
# Of the limit; the rest is for what isn't counted: what kernels take while they run, and what has been let go of but
# isn't back with the system.
SHARE = 0.5
END = object()


class BatchSource:
    """Batches, from what a user has.

    What data sets and loaders draw at random (an order, a crop) is the same in every pass, whatever a model draws
    in between.

    Args:
        data: an iterable of batches (a DataLoader, a list), a `Dataset` of examples, an array of inputs, or a
            pair of arrays (inputs, targets). What can be read only once (a generator) is kept in memory.
        read: from an item to a batch.
        batch_size: for data that come as examples; 256 unless given.
        limit: bytes that batches read only once may take.

    Attributes:
        dtype: what `read` is to convert inputs to; None for as they are.

    Raises:
        InputError: none of these, or too much to be kept.
    """

    def __init__(
        self, data: Any, read: Callable[[Any, torch.dtype | None], Batch], batch_size: int | None, limit: int
    ) -> None:
        self.dtype: torch.dtype | None = None
        self._read = read
        self._items = _iterable(data, batch_size, limit)
        self._generators = _generators_of(self._items)
        self._begin = RandomStates(self._generators)
        self._length: int | None = None

    def first(self, dtype: torch.dtype | None = None) -> Batch:
        """The first batch, perhaps converted.

        Raises:
            InputError: there is none.
        """
        for item in self._once():
            return self._read(item, dtype)
        raise InputError("data hold no batches")

    def __iter__(self) -> Iterator[Batch]:
        """Once through the data.

        Raises:
            InputError: there are more or fewer batches than the last time.
        """
        count = 0
        for item in self._once():
            count += 1
            yield self._read(item, self.dtype)
            del item  # so that it's gone when the next is made
        if not count or (self._length is not None and count != self._length):
            raise InputError(
                f"data gave {self._length or 'some'} batches the first time and {count or 'none'} when gone through "
                "again; give what can be read several times: a DataLoader, a Dataset or a list of batches"
            )
        self._length = count

    def _once(self) -> Iterator[Any]:
        """The items, while the random states outside and those of the data don't touch each other."""
        items, drawn = None, self._begin
        while True:
            outside = RandomStates(self._generators)
            drawn.restore()
            try:
                items = iter(self._items) if items is None else items
                item = next(items, END)
                drawn = RandomStates(self._generators)
            finally:
                outside.restore()
            if item is END:
                return
            yield item
            del item


def _generators_of(data: Any) -> tuple[torch.Generator, ...]:
    """The random generators that a loader has for itself."""
    sampler = getattr(data, "sampler", None)
    batches = getattr(getattr(data, "batch_sampler", None), "sampler", None)
    found = (getattr(each, "generator", None) for each in (data, sampler, batches))
    return tuple({id(each): each for each in found if isinstance(each, torch.Generator)}.values())


def _iterable(data: Any, batch_size: int | None, limit: int) -> Iterable[Any]:
    """What can be iterated over again and again."""
    size = DEFAULT_BATCH if batch_size is None else batch_size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"batch_size must be a whole number, at least 1; got {batch_size!r}")
    arrays = data if isinstance(data, tuple) else (data,)
    if arrays and all(isinstance(each, (Tensor, np.ndarray)) for each in arrays):
        return _Slices(arrays, size)
    if isinstance(data, Dataset):  # of examples
        return DataLoader(data, size)
    if isinstance(data, Iterator):
        return _kept(data, limit)
    if isinstance(data, Mapping):
        raise InputError(
            f"data must be an iterable of batches; a mapping is one batch: give [{type(data).__name__}]"
        )
    if isinstance(data, str) or not isinstance(data, Iterable):
        raise InputError(
            f"data must be an iterable of batches, a Dataset, or arrays; got {type(data).__name__}"
        )
    return data


@dataclass(frozen=True, eq=False)
class _Slices:
    """Arrays as batches; what is on disk (`numpy.memmap`) is read a batch at a time."""

    arrays: tuple[Any, ...]
    size: int

    def __post_init__(self) -> None:
        lengths = [len(each) if each.ndim else 0 for each in self.arrays]
        if len(set(lengths)) > 1:
            raise InputError(f"inputs and targets must be of one length; got {lengths}")
        if not lengths[0]:
            raise InputError("data hold no examples")

    def __iter__(self) -> Iterator[list[Any]]:
        for first in range(0, len(self.arrays[0]), self.size):
            yield [as_tensor(each[first : first + self.size]) for each in self.arrays]


def _kept(data: Iterator[Any], limit: int) -> list[Any]:
    """The batches of what can be read only once."""
    kept, size = [], 0
    for item in data:
        kept.append(item)
        size += sum(each.nbytes for each in leaves(item) if isinstance(each, (Tensor, np.ndarray)))
        if size > limit:
            raise InputError(
                f"data can be read only once, and keeping them takes more than {memory_text(limit)}; give a "
                "DataLoader, a Dataset or a list of batches, or raise NEARZERO_MEMORY"
            )
    return kept


class MemoryBudget:
    """How many examples a model takes at a time: as memory allows, and fewer once a device ran out of it.

    Args:
        example: bytes that the work takes for one example.
        elements: how many numbers the inputs of such an example hold; those of others may hold more.
        limit: bytes that the work may take.

    Attributes:
        limit: as given.
        recording: bytes that a recording may take if it can be made of fewer layers; one layer's takes what it must.

    Raises:
        InputError: not even one example fits.
    """

    def __init__(self, example: float, elements: int, limit: int) -> None:
        if example > limit:
            raise InputError(
                f"one example takes about {memory_text(example)} in this model, more than the {memory_text(limit)} "
                "that are allowed; raise NEARZERO_MEMORY or give memory=..."
            )
        self.limit = limit
        self.recording = 0.75 * SHARE * limit
        self._each, self._most = max(example, 1.0) / elements, SHARE * limit

    def rows(self, batch: Batch) -> int:
        """Examples of a batch that fit at a time, beside the batch itself and the next."""
        batches = 2 * sum(each.nbytes for each in batch.inputs)
        room = min(self._most, max(self.limit / 4, SHARE * self.limit - batches))
        return max(1, int(room / (self._each * batch.elements)))

    def each(self, batch: Batch, work: Callable[[Batch], None]) -> None:
        """Do some work on a batch, in blocks; in smaller ones from where a device's memory doesn't hold them.

        Args:
            batch: the batch.
            work: on a block; where it raises, it must have left no trace.

        Raises:
            InputError: memory doesn't hold one example.
        """
        first = 0
        while first < len(batch):
            rows = self.rows(batch) if batch.divisible else len(batch)
            part = batch if rows >= len(batch) else batch.take(slice(first, first + rows))
            try:
                work(part)
                first += len(part)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) < 2 or not part.divisible:
                    raise InputError(
                        f"the device's memory doesn't hold a batch of {part.describe()}; use smaller batches"
                    ) from error
                self._most = self._each * part.elements * (len(part) // 2)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory, of a device or the machine, doesn't hold what was tried."""
    known = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
    named = isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__
    return named or any(each in str(error) for each in known)
