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
`nearzero.torch_models.forward` holds the suffix against the full pass.

Operations that write into their arguments are followed by storage: a storage that is written to after a cut
is copied before the first time, and each run of the suffix begins with a fresh copy.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Recorder", "Suffix", "storage_key", "tensors_in", "written"]

# --- what is run again: operations, with numbered slots for tensors that aren't the same in every run ---


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """A tensor that isn't the same in every run, by number."""

    index: int


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in an operation's arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors_in(each)


@dataclass(slots=True, eq=False)
class Step:
    """One operation of the suffix, ready to be run.

    Attributes:
        mutable: whether it writes into its arguments.
        arguments, keywords: with slots for the tensors that have one.
        results: the slots of what comes out.
        done: the slots that nothing reads afterwards.
        places: pairs of where in the arguments, and which slot's tensor goes there.
        nested: pairs of where, and the list with slots that goes there.
        named: pairs of a keyword, and the value with slots.
    """

    function: Callable[..., Any]
    mutable: bool
    arguments: list[Any]
    keywords: dict[str, Any]
    results: tuple[int, ...]
    done: tuple[int, ...] = ()
    places: list[tuple[int, int]] = field(init=False)
    nested: list[tuple[int, Any]] = field(init=False)
    named: list[tuple[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        slotted = [(place, each) for place, each in enumerate(self.arguments) if _has_slots(each)]
        self.places = [(place, each.index) for place, each in slotted if isinstance(each, Slot)]
        self.nested = [(place, each) for place, each in slotted if not isinstance(each, Slot)]
        self.named = [(name, each) for name, each in self.keywords.items() if _has_slots(each)]

    def run(self, slots: list[Any]) -> None:
        """Run it on what the slots hold, and put there what comes out."""
        arguments, keywords = self.arguments.copy(), self.keywords
        for place, slot in self.places:
            arguments[place] = slots[slot]
        for place, value in self.nested:
            arguments[place] = filled(value, slots)
        if self.named:
            keywords = {**keywords, **{name: filled(value, slots) for name, value in self.named}}
        result = self.function(*arguments, **keywords)
        if isinstance(result, Tensor):
            slots[self.results[0]] = result
        else:
            for slot, each in zip(self.results, tensors_in(result), strict=True):
                slots[slot] = each
        for slot in self.done:
            slots[slot] = None


def _slots_in(value: Any) -> Iterator[int]:
    if isinstance(value, Slot):
        yield value.index
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _slots_in(each)


def _has_slots(value: Any) -> bool:
    return any(True for _ in _slots_in(value))


def needed_steps(steps: list[Step], result: Any) -> list[Step]:
    """Return what has to be run for the result, in order, each with the slots that may be let go of after it."""
    needed, kept = set(_slots_in(result)), []
    for each in reversed(steps):
        if each.mutable or not needed.isdisjoint(each.results):
            touched = {*_slots_in(each.arguments), *_slots_in(list(each.keywords.values())), *each.results}
            each.done = tuple(touched - needed)
            kept.append(each)
            needed |= touched
    return kept[::-1]


def filled(value: Any, slots: list[Any]) -> Any:
    """Return arguments with what the slots hold in place of these."""
    if isinstance(value, Slot):
        return slots[value.index]
    if isinstance(value, (list, tuple)):
        return type(value)(filled(each, slots) for each in value)
    return value


def storage_key(tensor: Tensor) -> int:
    """Return what tensors on the same storage have in common."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, nested: never shared
        return id(tensor)


def view_on(storage: torch.UntypedStorage, like: Tensor) -> Tensor:
    """Return the tensor that `like` is, on another storage of the same layout."""
    empty = torch.empty(0, dtype=like.dtype, device=like.device)
    return empty.set_(storage, like.storage_offset(), like.size(), like.stride())


@dataclass(frozen=True, eq=False)
class Suffix:
    """What comes after a layer in one forward pass on one batch.

    Attributes:
        value: z as it was.
        entry: the slot of the layer's values.
        home: where they are written into z itself, its storage and how it lies there.
        steps, result: what is run, and the slot of what comes out.
        initial: the storages that are written to, as they were before.
        views: by slot, the tensors on these; and others, that are as they were.
        slots: how many there are.
        escape: why another level may take another path through the model; "" if there is no such reason.
        random: an operation that draws random numbers, if a dependent one may; else "".
    """

    value: Tensor
    entry: int
    home: tuple[int, Tensor] | None
    steps: list[Step]
    result: Any
    initial: dict[int, torch.UntypedStorage]
    views: dict[int, tuple[int, Tensor]]
    slots: int
    escape: str
    random: str

    def run(self, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the result where the layer's values are changed.

        Args:
            change: gives new values, which the suffix may write into, and leaves the old ones.
        """
        values = change(self.value)
        storages = {self.home[0]: self._home(values, self.home[1])} if self.home is not None else {}
        storages |= {key: storage.clone() for key, storage in self.initial.items() if key not in storages}
        slots: list[Any] = [None] * self.slots
        for slot, (storage, like) in self.views.items():
            slots[slot] = view_on(storages[storage], like) if storage in storages else like
        slots[self.entry] = values if self.home is None else view_on(storages[self.home[0]], self.home[1])
        del values  # so that they go when they're no longer needed
        for step in self.steps:
            step.run(slots)
        result = filled(self.result, slots)
        assert isinstance(result, Tensor)
        return result

    def _home(self, values: Tensor, like: Tensor) -> torch.UntypedStorage:
        """Return a storage with a level's values where z was: their own, if nothing else is on either."""
        initial = self.initial[storage_key(like)]
        own: torch.UntypedStorage = values.untyped_storage()
        alike = (values.dtype, values.stride(), values.storage_offset()) == (like.dtype, like.stride(), 0)
        if (
            alike
            and like.storage_offset() == 0
            and own.nbytes() == initial.nbytes()
            and storage_key(values) != storage_key(self.value)
        ):
            return own
        storage: torch.UntypedStorage = initial.clone()
        view_on(storage, like).copy_(values)
        return storage


# --- how it is recorded ---


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
    """Writes down the operations that depend on layers, from the `cut` at each to `suffixes`.

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
        self._clear()

    def _clear(self) -> None:
        """Hold no tensors, as at first."""
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

    def suffixes(self, wanted: Tensor) -> dict[Hashable, Suffix]:
        """Return the suffix at each cut, by its name; `wanted` is what each run of it returns.

        What none of them needs is let go of.
        """
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
        arguments = list(self._with_slots(noted.arguments))
        keywords = {name: self._with_slots(each) for name, each in noted.keywords.items()}
        results = tuple(map(self._new_slot, noted.results))
        self._steps.append(Step(noted.function, bool(noted.writes), arguments, keywords, results))

    def suffix(self, wanted: Tensor) -> Suffix:
        """Return what was taken, ready to be run."""
        value, key = self._cut.value, storage_key(self._cut.value)
        result = self._with_slots(wanted)
        return Suffix(
            view_on(self._initial[key], value) if key in self._initial else value,
            self._slots[id(self._cut.entry)],
            None if self._cut.saved is None else (key, value),
            needed_steps(self._steps, result), result, self._initial, self._views,
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
