"""Data as batches that are the same in every pass, in blocks that fit in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from nearzero.errors import InputError
from nearzero.support.memory import is_out_of_memory, memory_text
from nearzero.support.users import note, running
from nearzero.torch_models.batches import Batch, as_tensor, leaves
from nearzero.torch_models.snapshot import is_constant
from nearzero.torch_models.state import RandomStates

__all__ = ["BatchSource", "MemoryBudget", "bytes_of", "is_collated"]

DEFAULT_BATCH = 256
SAMPLED = 4096  # values of a tensor that tell whether it is the same in every pass
DIGITS = 16  # hexadecimal, of a digest of these values
HELD = 4  # batches that are held while a session opens
# The share of the limit that is planned for. The rest is for memory that isn't counted: that of running
# kernels, and freed memory that the allocator hasn't returned to the system.
SHARE = 0.5
END = object()


class BatchSource:
    """An iterable of batches that can be iterated again, made from the data that a user gives.

    Random choices of data sets and loaders (an order, a crop) are the same in every pass, whatever a model
    draws in between.

    Args:
        data: an iterable of batches (a DataLoader, a list), a `Dataset` of examples, an array of inputs, or a
            pair of arrays (inputs, targets). The items of an iterator, which can be read only once, are kept
            in memory.
        read: converts an item and a dtype to a batch.
        batch_size: the number of examples in a batch, for data given as examples or arrays; 256 if None.
        limit: the bytes that the kept items of an iterator may take.

    Attributes:
        dtype: the dtype that is passed to `read`; None leaves inputs as they are.
        axis: the dimension of the inputs that holds the examples; None if it isn't known.
        whole: whether batches can't be cut although it is known.
        mask_first: whether masks among the inputs have the examples first nevertheless.
        causal: whether the logits at a token are compared with the next token.
        batched: whether nearzero or a loader makes the batches from examples, so that no item is a single one.

    Raises:
        InputError: data of another type, or an iterator with too much to keep.
    """

    def __init__(
        self, data: Any, read: Callable[[Any, torch.dtype | None], Batch], batch_size: int | None, limit: int
    ) -> None:
        self.dtype: torch.dtype | None = None
        self.axis: int | None = 0
        self.mask_first = self.whole = self.causal = False
        self._read = read
        self._fingerprints: dict[tuple[int, torch.dtype | None], str] = {}
        with running("the data can't be read"):
            self._items = _iterable(data, batch_size, limit)
        loader = isinstance(self._items, DataLoader) and self._items.batch_size is not None
        self.batched = loader or isinstance(self._items, _Slices)
        self._generators = _generators_of(self._items)
        self._start = RandomStates(self._generators)
        self._length: int | None = None
        self._held: _Held | None = None

    def first(self, dtype: torch.dtype | None = None) -> Batch:
        """Return the first batch, with inputs converted to `dtype` if it is given.

        Raises:
            InputError: the data hold no batches.
        """
        for item in self._pass_of_held():
            return self._batch(item, dtype, 1)
        raise InputError("data hold no batches")

    @contextmanager
    def held(self, limit: float) -> Iterator[None]:
        """Read the first batches only once within the block, as far as they take at most `limit` bytes together.

        Passes after the block read all batches again, so that data which differ between passes are noticed.
        """
        self._held = _Held(self._one_pass(), limit)
        try:
            yield
        finally:
            self._held.close()
            self._held = None

    @property
    def seen(self) -> dict[int, str]:
        """Return a digest of sampled values of each batch that was read as the model takes it, by number from 1."""
        return {
            number: digest for (number, dtype), digest in self._fingerprints.items() if dtype == self.dtype
        }

    @property
    def batches(self) -> int | None:
        """Return the number of batches; None before the end of a first pass."""
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches.

        Raises:
            InputError: there are no batches, or more or fewer than in the first pass.
        """
        batches = 0
        for item in self._pass_of_held():
            batches += 1
            yield self._batch(item, self.dtype, batches)
            del item  # frees it before the next is made
        if not batches or (self._length is not None and batches != self._length):
            raise InputError(
                f"data gave {self._length or 'some'} batches at first and {batches or 'none'} when read again; give "
                "data that can be read several times: a DataLoader, a Dataset or a list of batches"
            )
        self._length = batches

    def _batch(self, item: Any, dtype: torch.dtype | None, number: int) -> Batch:
        with running(f"batch {number} of the data can't be used"):
            batch = self._read(item, dtype)
        seen = _fingerprint(batch)
        if self._fingerprints.setdefault((number, dtype), seen) != seen:
            raise InputError(
                f"batch {number} of the data is another one when read again; give data that can be read several times: "
                "a list of batches (list(loader)), or a loader without shuffling or random transforms that it doesn't "
                "repeat, as with persistent_workers=True or generators of its own"
            )
        cut = batch.along(self.axis, self.mask_first)
        if cut is None:
            raise InputError(
                f"the inputs of batch {number} ({batch.describe()}) don't have the examples on dimension {self.axis}; "
                "choose with batch_axis=..."
            )
        return replace(cut, whole=self.whole, causal=self.causal)

    def _pass_of_held(self) -> Iterator[Any]:
        """Yield the items, of which those that are held aren't read again."""
        held, given = self._held, 0
        for item in held or ():
            given += 1
            yield item
        if held is not None and held.complete:
            return
        for number, item in enumerate(self._one_pass()):
            if number >= given:
                yield item
            del item

    def _one_pass(self) -> Generator[Any]:
        """Yield the items; random draws of the data and those of the caller don't affect each other."""
        items, data_states = None, self._start
        for number in count(1):
            caller_states = RandomStates(self._generators)
            data_states.restore()
            try:
                with running(f"batch {number} of the data can't be read"):
                    items = iter(self._items) if items is None else items
                    item = next(items, END)
                data_states = RandomStates(self._generators)
            finally:
                caller_states.restore()
            if item is END:
                return
            yield item
            del item


@dataclass(eq=False)
class _Held:
    """The first items of one pass, each of which is read when it is first needed.

    Attributes:
        items: the items of the pass.
        limit: the bytes that the items which are held may take together.
        complete: whether these are all items of the pass.
    """

    items: Generator[Any]
    limit: float
    complete: bool = False
    _first: list[Any] = field(default_factory=list)
    _is_full: bool = False

    def __iter__(self) -> Iterator[Any]:
        """Yield the items that are held; more are held as long as there is room."""
        for number in count():
            if number == len(self._first):
                self._hold_next()
            if number == len(self._first):
                return
            yield self._first[number]

    def close(self) -> None:
        """End the pass, and with it the processes of a loader."""
        self._is_full = True
        self.items.close()

    def _hold_next(self) -> None:
        if self.complete or self._is_full:
            return
        item = next(self.items, END)
        if item is END:
            self.complete = True
            return
        size = _bytes_to_hold(item)
        fits = size <= self.limit
        if fits:
            self.limit -= size
            self._first.append(item)
        if not fits or len(self._first) == HELD:
            self.close()


def _bytes_to_hold(item: Any) -> float:
    """Return the bytes of an item; infinite if it holds anything but dense tensors, arrays and constants.

    Objects of other types may be changed by a pass, or hold more than can be counted.
    """
    parts = list(leaves(item))
    countable = all(
        is_constant(part)
        or isinstance(part, np.ndarray)
        or (isinstance(part, Tensor) and part.layout == torch.strided and not part.is_nested)
        for part in parts
    )
    return sum(map(bytes_of, parts)) if countable else float("inf")


def _fingerprint(batch: Batch) -> str:
    """Return a digest that differs between batches of other shapes, dtypes or values, of which it takes a sample."""
    mask = None if batch.masked_by else batch.mask  # else it is an input
    tensors = [*batch.inputs, *(tensor for tensor in (batch.target, mask) if tensor is not None)]
    digest = hashlib.sha256()
    for tensor in tensors:
        dense = tensor.coalesce().values() if tensor.layout == torch.sparse_coo else tensor
        if dense.layout == torch.strided:
            flat = dense.detach().reshape(-1)
            sample = flat[:: max(1, len(flat) // SAMPLED)].cpu().contiguous().view(torch.uint8)
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:DIGITS]


def _generators_of(data: Any) -> tuple[torch.Generator, ...]:
    """Return the random generators that a loader and its samplers own."""
    sampler = getattr(data, "sampler", None)
    in_batch_sampler = getattr(getattr(data, "batch_sampler", None), "sampler", None)
    candidates = (getattr(owner, "generator", None) for owner in (data, sampler, in_batch_sampler))
    return tuple({id(item): item for item in candidates if isinstance(item, torch.Generator)}.values())


def _iterable(data: Any, batch_size: int | None, limit: int) -> Iterable[Any]:
    """Return data as an iterable that can be iterated several times."""
    size = DEFAULT_BATCH if batch_size is None else batch_size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"batch_size must be a whole number, at least 1; got {batch_size!r}")
    arrays = data if isinstance(data, tuple) else (data,)
    if arrays and all(isinstance(array, (Tensor, np.ndarray)) for array in arrays):
        return _Slices(arrays, size)
    if isinstance(data, Dataset):  # of examples
        return DataLoader(data, size, collate_fn=_collated)
    if isinstance(data, Iterator):
        return _all_items(data, limit)
    if isinstance(data, Mapping):
        raise InputError(
            f"data must be an iterable of batches; a mapping is one batch: give [{type(data).__name__}]"
        )
    if isinstance(data, str) or not isinstance(data, Iterable):
        raise InputError(
            f"data must be an iterable of batches, a Dataset, or arrays; got {type(data).__name__}"
        )
    return data


def _collated(examples: list[Any]) -> Any:
    """Return the examples of a data set as a batch.

    Raises:
        InputError: PyTorch can't make a batch of them.
    """
    try:
        return default_collate(examples)
    except (TypeError, RuntimeError, ValueError) as error:
        note(error, "the examples of the data set can't be put into one batch")
        raise InputError(
            f"the examples of the data set can't be put into one batch: {str(error).splitlines()[0]}; make them "
            "tensors of one shape, in the data set or by a DataLoader's collate_fn"
        ) from error


def is_collated(data: Any) -> bool:
    """Return whether PyTorch's `default_collate` makes the batches of some data."""
    own = (
        isinstance(data, DataLoader) and data.batch_sampler is not None and data.collate_fn is default_collate
    )
    return own or isinstance(data, Dataset)


@dataclass(frozen=True, eq=False)
class _Slices:
    """Arrays as batches; an array on disk (`numpy.memmap`) is read one batch at a time."""

    arrays: tuple[Any, ...]
    size: int

    def __post_init__(self) -> None:
        lengths = [len(array) if array.ndim else 0 for array in self.arrays]
        if len(set(lengths)) > 1:
            raise InputError(f"inputs and targets must be of one length; got {lengths}")
        if not lengths[0]:
            raise InputError("data hold no examples")
        if any(
            getattr(array, "is_sparse", False) or getattr(array, "is_nested", False) for array in self.arrays
        ):
            raise InputError(
                "arrays of data must be dense; got a sparse or nested tensor; give a list of dense batches"
            )

    def __iter__(self) -> Iterator[list[Any]]:
        for first in range(0, len(self.arrays[0]), self.size):
            yield [as_tensor(array[first : first + self.size]) for array in self.arrays]


def _all_items(data: Iterator[Any], limit: int) -> list[Any]:
    """Return all batches of an iterator as a list, since it can be read only once.

    Raises:
        InputError: they take more than `limit` bytes.
    """
    items, size = [], 0
    for item in data:
        items.append(item)
        size += sum(map(bytes_of, leaves(item)))
        if size > limit:
            raise InputError(
                f"data can be read only once, and keeping them takes more than {memory_text(limit)}; give a "
                "DataLoader, a Dataset or a list of batches, or raise NEARZERO_MEMORY"
            )
    return items


def bytes_of(value: Any) -> int:
    """Return the bytes of an array or a dense tensor; 0 for all else."""
    if isinstance(value, Tensor):
        return value.nbytes if value.layout == torch.strided and not value.is_nested else 0
    return value.nbytes if isinstance(value, np.ndarray) else 0


class MemoryBudget:
    """The number of examples that run at a time: as memory allows, and fewer once a device ran out of it.

    Args:
        example: the estimated bytes of the work for one example.
        elements: the number of input elements of that example; the work is taken to be proportional to it.
        limit: the bytes that the work may take.

    Attributes:
        limit: as given.
        recording: the bytes that a recording of several layers may take. A recording of one layer can't be
            divided, and takes as many as it needs.

    Raises:
        InputError: a single example takes more than the limit.
    """

    def __init__(self, example: float, elements: int, limit: int) -> None:
        if example > limit:
            raise InputError(
                f"one example takes about {memory_text(example)} in this model, more than the {memory_text(limit)} "
                "that are allowed; raise NEARZERO_MEMORY or give memory=..."
            )
        self.limit = limit
        self.recording = 0.75 * SHARE * limit
        self._per_element, self._most = max(example, 1.0) / elements, SHARE * limit

    def rows(self, batch: Batch) -> int:
        """Return the number of examples that fit in memory, beside the inputs of this batch and the next."""
        inputs = 2 * sum(map(bytes_of, batch.inputs))
        free = min(self._most, max(self.limit / 4, SHARE * self.limit - inputs))
        return max(1, int(free / (self._per_element * batch.elements)))

    def run_in_blocks(self, batch: Batch, work: Callable[[Batch], None]) -> None:
        """Call a function on a batch, block by block, with smaller blocks once a device runs out of memory.

        Args:
            batch: the batch.
            work: the function; if it raises, it must have changed nothing, since its block is divided and run
                again.

        Raises:
            InputError: the device's memory doesn't hold one example.
        """
        first = 0
        while first < len(batch):
            rows = self.rows(batch) if batch.divisible else len(batch)
            block = batch
            if rows < len(batch):
                block = replace(batch.take(slice(first, first + rows)), is_block=True)
            try:
                with running(f"the model's response to a batch of {block.describe()} can't be measured"):
                    work(block)
                first += len(block)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(block) < 2 or not block.divisible:
                    raise InputError(
                        f"the device's memory doesn't hold a batch of {block.describe()}; use smaller batches"
                    ) from error
                self._most = self._per_element * block.elements * (len(block) // 2)
