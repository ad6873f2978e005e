"""The suffix of a forward pass: what comes after a layer, recorded once and run again for every level.

While the model runs on a batch, every operation after the first of some cuts that depends on one of the layers
there is written down, with what it reads: a *recording*. The suffix of each layer is picked out of it: what
depends on that layer. Everything else that crosses the cut (other branches, weights, earlier outputs of a
residual path) is kept as it was. To run the suffix on other values of the layer is to run those operations again,
and nothing before them.

The operations are those that PyTorch dispatches (ATen), after Python and modules have done their part: the
same kernels on the same shapes as in the full forward pass, so the logits are the same to the last bit. What
a recording can't know is whether the model would have taken another path: values that leave tensors (`.item()`,
a condition, `.tolist()`) and shapes that depend on values are noticed here, for each layer; for all else,
`nearzero.probing.passes` holds the suffix against the full pass.

Operations that write into their arguments are followed by storage: a storage that is written to after a cut
is copied before the first time, and each run of the suffix begins with a fresh copy.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from nearzero.probing import operations
from nearzero.probing.operations import Slot, Step, Suffix, storage_key, tensors_in, view_on

__all__ = ["Recorder", "Suffix", "written"]

# Ways out of tensors that aren't dispatched.
READERS = ("tolist", "numpy", "__array__", "__dlpack__")
SELECTORS = ("aten::index", "aten::masked_select")  # whose shape depends on what selects alone
ENTRY = 1024  # bytes that an operation takes in a recording, and again in each suffix


@dataclass(frozen=True, slots=True, eq=False)
class _Noted:
    """An operation as it came by: function(*arguments, **keywords), and what it gave.

    Attributes:
        function: the operation; None where values were read outside of PyTorch.
        results: the tensors that come out, in order.
        writes: by storage that it writes to, the values there before; None if no cut needed them.
        name: of the operation, or of what has read.
    """

    function: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    results: tuple[Tensor, ...]
    writes: Mapping[int, torch.UntypedStorage | None]
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """A layer's values as they came by.

    Attributes:
        value: z, as the model computed it.
        entry: what the model goes on with.
        saved: the storage of z at the cut, if what follows writes into it.
        start: how many operations were noted before.
    """

    value: Tensor
    entry: Tensor
    saved: torch.UntypedStorage | None
    start: int


def _copy(tensor: Tensor) -> Tensor:
    """Return a copy that lies in memory as the tensor does, or kernels might round otherwise."""
    copy = tensor.clone()
    return copy if copy.stride() == tensor.stride() else view_on(tensor.untyped_storage().clone(), tensor)


def written(function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yield the tensors that an operation writes to, by its schema."""
    schema = function._schema
    if not schema.is_mutable:
        return
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = arguments[place] if place < len(arguments) else keywords.get(argument.name)
            yield from tensors_in(value)


class Recorder(TorchDispatchMode):
    """Writes down the operations that depend on layers, from the `cut` at each to `finish`.

    One forward pass runs within `running`; `cut` is called by whoever sees a layer's values come by. A copy of them
    goes on in their place, so that it's known who reads the layer and who reads what was before it. For the other
    cuts the copy has to be what was copied. It isn't where one of the two is written to and the other still used;
    then the cut is *entangled*, and wants a recording of its own.

    Args:
        limit: bytes that the recording may take; beyond, it's given up.

    Attributes:
        entangled: cuts that the others can't be recorded with.
        overflowed: whether it was given up.
    """

    def __init__(self, limit: float = float("inf")) -> None:
        super().__init__()
        self.entangled: set[Hashable] = set()
        self._limit, self._bytes = limit, 0
        self._cuts: dict[Hashable, _Cut] = {}
        self._noted: list[_Noted] = []
        self._marks: dict[int, int] = {}  # by storage, the cuts that it depends on
        self._before: dict[int, torch.UntypedStorage] = {}  # copies of storages, until they're written to
        self._written: set[int] = set()
        self._twins: dict[int, dict[int, Hashable]] = {}  # by storage, its copies and originals, and the cuts
        self._stale: dict[int, Hashable] = {}  # storages whose copy or original was written to

    @property
    def overflowed(self) -> bool:
        """Whether the recording takes more than it may."""
        return self._bytes > self._limit

    @contextmanager
    def running(self) -> Iterator[None]:
        """Record what runs within."""
        with self, _Readers(self):
            yield

    def cut(self, value: Tensor, *, in_place: bool, name: Hashable = None) -> Tensor:
        """Begin with a layer's values, and return what the model is to go on with in their place.

        Args:
            value: z, as the model computed it.
            in_place: whether what follows writes into z, so that others who hold it see that. The values of
                a level are then written into it as well, in place of being handed on beside it.
            name: what the suffix is called.
        """
        if self.overflowed:
            return value
        assert name not in self._cuts
        key, start = storage_key(value), len(self._noted)
        before, bit = self._marks.get(key, 0), 1 << len(self._cuts)
        self._look_for_twins([key])
        saved = self._saved(value) if in_place else None
        entry = value if in_place else _copy(value)
        self._cuts[name] = _Cut(value, entry, saved, start)
        if not in_place:
            self._bytes += _size(entry)
            self._pair(key, storage_key(entry), name)
            self._marks[storage_key(entry)] = bit
            if before:  # for the cuts before, a copy is an operation as others
                self._note(_Noted(_copy, (value,), {}, (entry,), {}, "copy"), before)
        else:
            self._marks[key] = before | bit
        return entry

    def finish(self, wanted: Tensor) -> Suffix:
        """Return the suffix at the only cut; `wanted` is what each run of it returns."""
        (suffix,) = self.suffixes(wanted).values()
        return suffix

    def suffixes(self, wanted: Tensor) -> dict[Hashable, Suffix]:
        """Return the suffix at each cut. What none of them needs is let go of."""
        self._look_for_twins([storage_key(wanted)])
        suffixes = {}
        for name, cut in self._cuts.items():
            excerpt = _Excerpt(cut, self._written)
            for each in self._noted[cut.start :]:
                excerpt.read(each)
            suffixes[name] = excerpt.suffix(wanted)
        self._clear()
        return suffixes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and write it down if it depends on a layer or writes to something."""
        kwargs = kwargs or {}
        if not self._cuts or self.overflowed:
            return func(*args, **kwargs)
        read = list(map(storage_key, tensors_in((*args, *kwargs.values()))))
        writes = list(written(func, args, kwargs))
        if self._stale:
            self._look_for_twins(read)
        marks = 0
        for key in read:
            marks |= self._marks.get(key, 0)
        if not marks and not writes:
            return func(*args, **kwargs)
        before: dict[int, torch.UntypedStorage | None] = {}
        for each in writes:
            if storage_key(each) not in before:
                before[storage_key(each)] = self._before_writing(each)
        result = func(*args, **kwargs)
        marks = self._every_cut if writes else marks
        name = func._schema.name
        self._note(_Noted(func, args, kwargs, tuple(tensors_in(result)), before, name), marks)
        return result

    def note_reading(self, name: str, args: tuple[Any, ...]) -> None:
        """Write down that values are read outside of PyTorch, if they depend on a layer."""
        read = tuple(tensors_in(args))
        self._look_for_twins(map(storage_key, read))
        if self._cuts and not self.overflowed and any(self._marks.get(storage_key(each)) for each in read):
            self._noted.append(_Noted(None, read, {}, (), {}, name))

    @property
    def _every_cut(self) -> int:
        return (1 << len(self._cuts)) - 1

    def _note(self, noted: _Noted, marks: int) -> None:
        """Write an operation down; its results depend on the cuts that are marked."""
        self._noted.append(noted)
        self._bytes += ENTRY * (1 + marks.bit_count())
        for each in noted.results:
            key = storage_key(each)
            if key not in self._marks:
                self._bytes += _size(each)
            self._marks[key] = self._marks.get(key, 0) | marks
        if self.overflowed:
            self._clear()

    def _before_writing(self, tensor: Tensor) -> torch.UntypedStorage | None:
        """Copy a storage that is written to, if there are cuts on which it doesn't depend yet; now it does."""
        key = storage_key(tensor)
        missing = self._every_cut & ~self._marks.get(key, 0)
        saved = self._saved(tensor) if missing else None
        self._marks[key] = self._every_cut
        self._before.pop(key, None)
        self._written.add(key)
        self._stale |= self._twins.get(key, {})
        return saved

    def _saved(self, tensor: Tensor) -> torch.UntypedStorage:
        """Return a copy of a storage as it is now."""
        key = storage_key(tensor)
        if key not in self._before:
            self._before[key] = tensor.untyped_storage().clone()
            self._bytes += self._before[key].nbytes()
        return self._before[key]

    def _pair(self, original: int, copy: int, name: Hashable) -> None:
        """Remember that a storage is a copy of another, and of all that this one is a copy of."""
        others = {**self._twins.get(original, {}), original: name}
        for each in others:
            self._twins.setdefault(each, {})[copy] = name
        self._twins[copy] = others

    def _look_for_twins(self, keys: Iterable[int]) -> None:
        self.entangled.update(self._stale[key] for key in keys if key in self._stale)

    def _clear(self) -> None:
        """Let go of the tensors."""
        for each in (
            self._noted,
            self._marks,
            self._before,
            self._written,
            self._twins,
            self._stale,
            self._cuts,
        ):
            each.clear()


def _size(tensor: Tensor) -> int:
    """Return the bytes of a tensor's storage; 0 where there is none of the plain kind."""
    try:
        return tensor.untyped_storage().nbytes()
    except (NotImplementedError, RuntimeError):
        return 0


class _Readers(TorchFunctionMode):
    """Notices that values which depend on a layer are read outside of PyTorch."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of tensors."""
        name = getattr(func, "__name__", "")
        if name in READERS:
            self._recorder.note_reading(name, args)
        return func(*args, **(kwargs or {}))


class _Excerpt:
    """What depends on one cut, read off a recording operation by operation.

    Args:
        cut: the cut.
        written: the storages that anything in the recording writes to.
    """

    def __init__(self, cut: _Cut, written: set[int]) -> None:
        self._escape = self._random = ""  # as in `Suffix`
        self._cut, self._written = cut, written
        self._steps: list[Step] = []
        # Of tensors, by id; a recording keeps them, so that no id is given twice.
        self._slots: dict[int, int] = {}
        # By slot, storages that are written to somewhere, each with a tensor on it.
        self._views: dict[int, tuple[int, Tensor]] = {}
        self._view_slots: dict[int, int] = {}  # of the same, by id
        self._dependent: set[int] = set()  # storages
        self._initial: dict[int, torch.UntypedStorage] = {}  # of those written to, before the first time
        if cut.saved is not None:
            self._initial[storage_key(cut.value)] = cut.saved
        self._new_slot(cut.entry)

    def read(self, noted: _Noted) -> None:
        """Take an operation if it depends on the cut, or writes to something."""
        reads = any(map(self._depends, tensors_in((*noted.arguments, *noted.keywords.values()))))
        if noted.function is None and reads:
            self._escape = f"its values are read outside of PyTorch ({noted.name})"
        if noted.function is None or not (reads or noted.writes) or self._is_alias(noted):
            return
        if reads and noted.function is not _copy:
            self._look_at(noted)
        for key, before in noted.writes.items():
            if key not in self._dependent:
                assert before is not None
                self._dependent.add(key)
                self._initial[key] = before
        arguments = self._with_slots(noted.arguments)
        keywords = {name: self._with_slots(each) for name, each in noted.keywords.items()}
        results = tuple(map(self._new_slot, noted.results))
        step = operations.make_step(noted.function, bool(noted.writes), arguments, keywords, results)
        self._steps.append(step)

    def suffix(self, wanted: Tensor) -> Suffix:
        """Return what was taken, ready to be run."""
        value, key = self._cut.value, storage_key(self._cut.value)
        result = self._with_slots(wanted)
        return Suffix(
            view_on(self._initial[key], value) if key in self._initial else value,
            self._slots[id(self._cut.entry)],
            None if self._cut.saved is None else (key, value),
            operations.needed_steps(self._steps, result), result, self._initial, self._views,
            len(self._slots) + len(self._view_slots), self._escape, self._random,
        )  # fmt: skip

    def _is_alias(self, noted: _Noted) -> bool:
        """Whether it's the copy at another cut that can do without: then both have one slot."""
        if noted.function is not _copy:
            return False
        (original,), (copy,) = noted.arguments, noted.results
        if id(original) not in self._slots or not self._written.isdisjoint(
            map(storage_key, (original, copy))
        ):
            return False
        self._slots[id(copy)] = self._slots[id(original)]
        self._dependent.add(storage_key(copy))
        return True

    def _depends(self, tensor: Tensor) -> bool:
        """Whether a tensor's values depend on the layer."""
        return storage_key(tensor) in self._dependent

    def _look_at(self, noted: _Noted) -> None:
        """Notice what can't be repeated with other values."""
        name, tags = noted.name, noted.function.tags
        if torch.Tag.data_dependent_output in tags or name == "aten::is_nonzero":
            self._escape = self._escape or f"its values decide in Python what the model does ({name})"
        if torch.Tag.dynamic_output_shape in tags:
            selecting = [
                each for each in tensors_in(noted.arguments[1:]) if each.dtype in (torch.bool, torch.uint8)
            ]
            deciding = selecting if name in SELECTORS else tensors_in(noted.arguments)
            if any(map(self._depends, deciding)):
                self._escape = self._escape or f"its values decide the shape of what follows ({name})"
        if torch.Tag.nondeterministic_seeded in tags:
            self._random = self._random or name

    def _new_slot(self, tensor: Tensor) -> int:
        self._dependent.add(storage_key(tensor))
        return self._slot(self._slots, tensor)

    def _slot(self, slots: dict[int, int], tensor: Tensor) -> int:
        return slots.setdefault(id(tensor), len(self._slots) + len(self._view_slots))

    def _with_slots(self, value: Any) -> Any:
        """Return arguments with slots in place of the tensors that have one already: others may get one later."""
        if isinstance(value, Tensor):
            index = self._slots.get(id(value))
            if index is not None:
                return Slot(index)
            key = storage_key(value)
            if key in self._dependent and key not in self._initial:
                why = "its values are reached in a way that PyTorch doesn't show (.data)"
                self._escape = self._escape or why
            if key not in self._written:
                return value
            slot = self._slot(self._view_slots, value)  # it may be written to later than it's read
            self._views[slot] = (key, value)
            return Slot(slot)
        if isinstance(value, (list, tuple)):
            return type(value)(self._with_slots(each) for each in value)
        return value
