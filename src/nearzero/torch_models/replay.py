"""The suffix of a forward pass: the operations after a layer, recorded once and run again for every level.

While the model runs on a batch, a *recording* takes every operation that depends on one of the chosen layers,
with its arguments. The recording starts at the first of these layers; the place where a layer's values are
taken is its *cut*. The suffix of a layer is the part of the recording that depends on that layer. All other
tensors that the suffix reads (other branches, weights, earlier outputs of a residual path) are kept as they
were. The suffix runs on other values of the layer by repeating its operations, and nothing before them.

The operations are those that PyTorch dispatches (ATen), after Python and modules have done their part. They
are the same kernels on the same shapes as in the full forward pass, so the logits are equal to the last bit.
A recording can't know whether the model would take another path on other values. Two causes are detected
here, for each layer: values that leave tensors (`.item()`, a condition, `.tolist()`), and shapes that depend
on values. Operations that draw random numbers aren't repeated either, since they would draw others. For all
other causes `nearzero.torch_models.forward` compares the suffix with the full pass.

Operations that write into their arguments are tracked by storage: a storage that is written to after a cut is
copied before the first write, and each run of the suffix starts from a fresh copy.
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

__all__ = ["OpRecorder", "Suffix", "draws", "storage_key", "tensors_in", "tensors_written"]

# --- the steps of a suffix: operations, with numbered slots for the tensors that differ between runs ---


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """A placeholder in arguments for a tensor that differs between runs, by number."""

    index: int


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in an operation's arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)


@dataclass(slots=True, eq=False)
class Step:
    """One operation of the suffix, ready to be run.

    Attributes:
        function: the operation.
        mutable: whether it writes into its arguments.
        arguments, keywords: with a `Slot` in place of each tensor that has one.
        results: the numbers of the slots that take the results.
        done: the numbers of the slots that no later step reads; they are emptied after this one.
        places: for arguments that are slots: pairs of the argument's position and the slot's number.
        nested: for arguments that are lists with slots in them: pairs of the argument's position and the
            list.
        named: for keyword arguments with slots: pairs of the keyword and the value.
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
        slotted = [(place, value) for place, value in enumerate(self.arguments) if _has_slots(value)]
        self.places = [(place, value.index) for place, value in slotted if isinstance(value, Slot)]
        self.nested = [(place, value) for place, value in slotted if not isinstance(value, Slot)]
        self.named = [(name, value) for name, value in self.keywords.items() if _has_slots(value)]

    def run(self, slots: list[Any]) -> None:
        """Run the operation on the contents of the slots, and store its results in theirs."""
        arguments, keywords = self.arguments.copy(), self.keywords
        for place, slot in self.places:
            arguments[place] = slots[slot]
        for place, value in self.nested:
            arguments[place] = fill_slots(value, slots)
        if self.named:
            keywords = {**keywords, **{name: fill_slots(value, slots) for name, value in self.named}}
        result = self.function(*arguments, **keywords)
        if isinstance(result, Tensor):
            slots[self.results[0]] = result
        else:
            for slot, tensor in zip(self.results, tensors_in(result), strict=True):
                slots[slot] = tensor
        for slot in self.done:
            slots[slot] = None


def _slots_in(value: Any) -> Iterator[int]:
    if isinstance(value, Slot):
        yield value.index
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _slots_in(item)


def _has_slots(value: Any) -> bool:
    return any(True for _ in _slots_in(value))


def needed_steps(steps: list[Step], result: Any) -> list[Step]:
    """Return the steps that the result needs, in order, each with the slots that can be emptied after it.

    Steps that write into their arguments are all kept, since a write may show in any tensor on the same
    storage.
    """
    needed, kept = set(_slots_in(result)), []
    for step in reversed(steps):
        if step.mutable or not needed.isdisjoint(step.results):
            touched = {*_slots_in(step.arguments), *_slots_in(list(step.keywords.values())), *step.results}
            step.done = tuple(touched - needed)
            kept.append(step)
            needed |= touched
    return kept[::-1]


def fill_slots(value: Any, slots: list[Any]) -> Any:
    """Return a value with each `Slot` in it replaced by the content of that slot."""
    if isinstance(value, Slot):
        return slots[value.index]
    if isinstance(value, (list, tuple)):
        return type(value)(fill_slots(item, slots) for item in value)
    return value


def storage_key(tensor: Tensor) -> int:
    """Return a number that is equal for tensors on the same storage."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, nested: never shared
        return id(tensor)


def view_on(storage: torch.UntypedStorage, like: Tensor) -> Tensor:
    """Return a tensor with the dtype, shape, strides and offset of `like` on another storage."""
    empty = torch.empty(0, dtype=like.dtype, device=like.device)
    return empty.set_(storage, like.storage_offset(), like.size(), like.stride())


@dataclass(frozen=True, eq=False)
class Suffix:
    """The operations after a layer in one forward pass on one batch.

    Attributes:
        value: the unchanged values z of the layer.
        entry: the number of the slot that takes the layer's values.
        target: for a layer whose values are written over in place: the key of the storage of z, and z for its
            layout there; else None.
        steps: the operations, in order.
        result: the slot of the result, or the result itself if it doesn't depend on the layer.
        initial: by key, the storages that are written to, as they were before the first write.
        views: by slot, a storage key and a tensor. If the storage is in `initial`, the slot takes a view on
            its copy; else it takes the tensor as it was.
        slots: the number of slots.
        unsafe: the reason why other values may take another path through the model; "" if none is known.
    """

    value: Tensor
    entry: int
    target: tuple[int, Tensor] | None
    steps: list[Step]
    result: Any
    initial: dict[int, torch.UntypedStorage]
    views: dict[int, tuple[int, Tensor]]
    slots: int
    unsafe: str

    def run(self, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the result with the layer's values changed.

        Args:
            change: returns new values, which the suffix may write into, and doesn't write into its argument.
        """
        values = change(self.value)
        storages = {} if self.target is None else {self.target[0]: self._in_place(values, self.target[1])}
        storages |= {key: storage.clone() for key, storage in self.initial.items() if key not in storages}
        slots: list[Any] = [None] * self.slots
        for slot, (key, tensor) in self.views.items():
            slots[slot] = view_on(storages[key], tensor) if key in storages else tensor
        slots[self.entry] = (
            values if self.target is None else view_on(storages[self.target[0]], self.target[1])
        )
        del values  # frees them as soon as no step needs them
        for step in self.steps:
            step.run(slots)
        result = fill_slots(self.result, slots)
        assert isinstance(result, Tensor)
        return result

    def _in_place(self, values: Tensor, like: Tensor) -> torch.UntypedStorage:
        """Return a storage with new values in place of z: their own if nothing else is on either storage."""
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


# --- recording ---


# Functions that read values out of tensors and aren't dispatched.
READERS = ("tolist", "numpy", "__array__", "__dlpack__")
SELECTORS = ("aten::index", "aten::masked_select")  # whose shape depends on the selecting argument alone
ENTRY = 1024  # estimated bytes of one operation in a recording, and again in each suffix


@dataclass(frozen=True, slots=True, eq=False)
class _RecordedOp:
    """An operation of a forward pass, function(*arguments, **keywords), and its results.

    Attributes:
        function: the operation; None where values were read outside of PyTorch.
        arguments, keywords: as the operation was called.
        results: the tensors among the results, in order.
        writes: by key of a storage that the operation writes to, its values before; None if no cut needed
            them.
        name: the name of the operation, or of the function that read values.
    """

    function: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    results: tuple[Tensor, ...]
    writes: Mapping[int, torch.UntypedStorage | None]
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """The values of a layer where its suffix begins.

    Attributes:
        value: z, as the model computed it.
        entry: the tensor that the model continues with.
        saved: a copy of the storage of z at the cut, if the next operation writes into it; else None.
        start: the number of operations recorded before.
    """

    value: Tensor
    entry: Tensor
    saved: torch.UntypedStorage | None
    start: int


def _copy(tensor: Tensor) -> Tensor:
    """Return a copy with the same strides: with others, kernels might round differently."""
    copy = tensor.clone()
    return copy if copy.stride() == tensor.stride() else view_on(tensor.untyped_storage().clone(), tensor)


def tensors_written(
    function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> Iterator[Tensor]:
    """Yield the tensors that an operation writes to, by its schema."""
    schema = function._schema
    if not schema.is_mutable:
        return
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = arguments[place] if place < len(arguments) else keywords.get(argument.name)
            yield from tensors_in(value)


def draws(function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> bool:
    """Return whether an operation draws random numbers; attention and RReLU don't if they drop or train nothing."""
    if torch.Tag.nondeterministic_seeded not in function.tags:
        return False
    for place, argument in enumerate(function._schema.arguments):
        if argument.name in ("dropout_p", "training", "train"):
            given = (
                arguments[place]
                if place < len(arguments)
                else keywords.get(argument.name, argument.default_value)
            )
            return given is None or bool(given)
    return True


class OpRecorder(TorchDispatchMode):
    """Records the operations that depend on layers, from the `cut` at each layer to the call of `suffixes`.

    One forward pass runs within `running`, in which hooks call `cut` with each layer's values. The model
    continues with a copy of them. So the readers of the layer can be told from the readers of the tensor
    before the cut. For the other cuts, the copy and its original must stay equal. They don't if one of the
    two is written to and the other is still used. Then the cut is *entangled*, and needs a recording of its
    own.

    Args:
        limit: the bytes that the recording may take; a larger one is given up.

    Attributes:
        entangled: the names of the cuts that can't be recorded together with the others.
    """

    def __init__(self, limit: float = float("inf")) -> None:
        super().__init__()
        self.entangled: set[Hashable] = set()
        self._limit, self._bytes = limit, 0
        self._clear()

    def _clear(self) -> None:
        """Drop all tensors, as at the start."""
        self._cuts: dict[Hashable, _Cut] = {}
        self._recorded: list[_RecordedOp] = []
        self._masks: dict[int, int] = {}  # by storage, a bit mask of the cuts that it depends on
        self._saved: dict[int, torch.UntypedStorage] = {}  # copies of storages, until these are written to
        self._written: set[int] = set()  # storages
        # By storage: its copies and originals, with their cuts.
        self._twins: dict[int, dict[int, Hashable]] = {}
        self._stale: dict[int, Hashable] = {}  # storages whose copy or original was written to, with the cut

    @property
    def overflowed(self) -> bool:
        """Return whether the recording takes more bytes than it may."""
        return self._bytes > self._limit

    @contextmanager
    def running(self) -> Iterator[None]:
        """Record the operations that run within the block."""
        with self, _ReaderWatch(self):
            yield

    def cut(self, value: Tensor, *, in_place: bool, name: Hashable = None) -> Tensor:
        """Start the suffix of a layer at its values, and return the tensor that the model continues with.

        Args:
            value: z, as the model computed it.
            in_place: whether the next operation writes into z, so that other holders of z see the result. New
                values are then written into z too; else they are passed on in a tensor of their own.
            name: the key of this suffix in `suffixes`.
        """
        if self.overflowed:
            return value
        assert name not in self._cuts
        key, start = storage_key(value), len(self._recorded)
        mask, bit = self._masks.get(key, 0), 1 << len(self._cuts)
        self._note_stale([key])
        saved = self._save(value) if in_place else None
        entry = value if in_place else _copy(value)
        self._cuts[name] = _Cut(value, entry, saved, start)
        if not in_place:
            self._bytes += _size(entry)
            self._pair(key, storage_key(entry), name)
            self._masks[storage_key(entry)] = bit
            if mask:  # for the earlier cuts, the copy is an operation like any other
                self._record(_RecordedOp(_copy, (value,), {}, (entry,), {}, "copy"), mask)
        else:
            self._masks[key] = mask | bit
        return entry

    def suffixes(self, wanted: Tensor) -> dict[Hashable, Suffix]:
        """Return the suffix of each cut, by its name, and drop all tensors that no suffix needs.

        Args:
            wanted: the tensor that each suffix computes, such as the logits.
        """
        self._note_stale([storage_key(wanted)])
        suffixes = {}
        for name, cut in self._cuts.items():
            builder = _SuffixBuilder(cut, self._written)
            for operation in self._recorded[cut.start :]:
                builder.add(operation)
            suffixes[name] = builder.suffix(wanted)
        self._clear()
        return suffixes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and record it if it depends on a layer or writes into a tensor."""
        kwargs = kwargs or {}
        if not self._cuts or self.overflowed:
            return func(*args, **kwargs)
        keys = list(map(storage_key, tensors_in((*args, *kwargs.values()))))
        written = list(tensors_written(func, args, kwargs))
        if self._stale:
            self._note_stale(keys)
        mask = 0
        for key in keys:
            mask |= self._masks.get(key, 0)
        if not mask and not written:
            return func(*args, **kwargs)
        writes: dict[int, torch.UntypedStorage | None] = {}
        for tensor in written:
            if storage_key(tensor) not in writes:
                writes[storage_key(tensor)] = self._before_writing(tensor)
        result = func(*args, **kwargs)
        mask = self._every_cut if written else mask
        name = func._schema.name
        self._record(_RecordedOp(func, args, kwargs, tuple(tensors_in(result)), writes, name), mask)
        return result

    def record_reading(self, name: str, args: tuple[Any, ...]) -> None:
        """Record that a function reads values outside of PyTorch, if they depend on a layer."""
        tensors = tuple(tensors_in(args))
        self._note_stale(map(storage_key, tensors))
        dependent = any(self._masks.get(storage_key(tensor)) for tensor in tensors)
        if self._cuts and not self.overflowed and dependent:
            self._recorded.append(_RecordedOp(None, tensors, {}, (), {}, name))

    @property
    def _every_cut(self) -> int:
        return (1 << len(self._cuts)) - 1

    def _record(self, operation: _RecordedOp, mask: int) -> None:
        """Add an operation whose results depend on the cuts in a bit mask."""
        self._recorded.append(operation)
        self._bytes += ENTRY * (1 + mask.bit_count())
        for tensor in operation.results:
            key = storage_key(tensor)
            if key not in self._masks:
                self._bytes += _size(tensor)
            self._masks[key] = self._masks.get(key, 0) | mask
        if self.overflowed:
            self._clear()

    def _before_writing(self, tensor: Tensor) -> torch.UntypedStorage | None:
        """Return a copy of a storage that is written to next, if it doesn't depend on all cuts yet; now it does."""
        key = storage_key(tensor)
        missing = self._every_cut & ~self._masks.get(key, 0)
        saved = self._save(tensor) if missing else None
        self._masks[key] = self._every_cut
        self._saved.pop(key, None)
        self._written.add(key)
        self._stale |= self._twins.get(key, {})
        return saved

    def _save(self, tensor: Tensor) -> torch.UntypedStorage:
        """Return a copy of a tensor's storage as it is now."""
        key = storage_key(tensor)
        if key not in self._saved:
            self._saved[key] = tensor.untyped_storage().clone()
            self._bytes += self._saved[key].nbytes()
        return self._saved[key]

    def _pair(self, original: int, copy: int, name: Hashable) -> None:
        """Note that a storage is a copy of another, and so of all storages that the other is a copy of."""
        originals = {**self._twins.get(original, {}), original: name}
        for key in originals:
            self._twins.setdefault(key, {})[copy] = name
        self._twins[copy] = originals

    def _note_stale(self, keys: Iterable[int]) -> None:
        """Note the cuts as entangled whose copy or original is used after the other was written to."""
        self.entangled.update(self._stale[key] for key in keys if key in self._stale)


def _size(tensor: Tensor) -> int:
    """Return the bytes of a tensor's storage; 0 if it has no plain one (sparse, nested)."""
    try:
        return tensor.untyped_storage().nbytes()
    except (NotImplementedError, RuntimeError):
        return 0


class _ReaderWatch(TorchFunctionMode):
    """Detects functions that read values outside of PyTorch."""

    def __init__(self, recorder: OpRecorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of tensors, and record it if it reads values."""
        name = getattr(func, "__name__", "")
        if name in READERS:
            self._recorder.record_reading(name, args)
        return func(*args, **(kwargs or {}))


class _SuffixBuilder:
    """Collects the operations of a recording that depend on one cut.

    Args:
        cut: the cut.
        written: the storages that any operation of the recording writes to.
    """

    def __init__(self, cut: _Cut, written: set[int]) -> None:
        self._unsafe = ""  # as in `Suffix`
        self._cut, self._written = cut, written
        self._steps: list[Step] = []
        # Slots by the id of their tensor; the recording keeps all tensors, so no id is used twice.
        self._slots: dict[int, int] = {}
        # By slot: a storage that is written to somewhere, and a tensor on it.
        self._views: dict[int, tuple[int, Tensor]] = {}
        self._view_slots: dict[int, int] = {}  # slots of `_views` by the id of their tensor
        self._dependent: set[int] = set()  # storages
        self._initial: dict[int, torch.UntypedStorage] = {}  # storages before the first write
        if cut.saved is not None:
            self._initial[storage_key(cut.value)] = cut.saved
        self._new_slot(cut.entry)

    def add(self, operation: _RecordedOp) -> None:
        """Add an operation if it depends on the cut or writes into a tensor."""
        reads = any(map(self._depends, tensors_in((*operation.arguments, *operation.keywords.values()))))
        if operation.function is None and reads:
            self._unsafe = f"its values are read outside of PyTorch ({operation.name})"
        if operation.function is None or not (reads or operation.writes) or self._is_alias(operation):
            return
        if reads and operation.function is not _copy:
            self._check_repeatable(operation)
        if operation.function is not _copy and draws(
            operation.function, operation.arguments, operation.keywords
        ):
            self._unsafe = self._unsafe or f"it draws random numbers ({operation.name})"
        for key, before in operation.writes.items():
            if key not in self._dependent:
                assert before is not None
                self._dependent.add(key)
                self._initial[key] = before
        arguments = list(self._with_slots(operation.arguments))
        keywords = {name: self._with_slots(value) for name, value in operation.keywords.items()}
        results = tuple(map(self._new_slot, operation.results))
        self._steps.append(Step(operation.function, bool(operation.writes), arguments, keywords, results))

    def suffix(self, wanted: Tensor) -> Suffix:
        """Return the suffix of the added operations, ready to be run."""
        value, key = self._cut.value, storage_key(self._cut.value)
        result = self._with_slots(wanted)
        return Suffix(
            value=view_on(self._initial[key], value) if key in self._initial else value,
            entry=self._slots[id(self._cut.entry)],
            target=None if self._cut.saved is None else (key, value),
            steps=needed_steps(self._steps, result),
            result=result,
            initial=self._initial,
            views=self._views,
            slots=len(self._slots) + len(self._view_slots),
            unsafe=self._unsafe,
        )

    def _is_alias(self, operation: _RecordedOp) -> bool:
        """Return whether an operation is an unneeded copy at another cut; then both tensors share a slot."""
        if operation.function is not _copy:
            return False
        (original,), (copy,) = operation.arguments, operation.results
        if id(original) not in self._slots or not self._written.isdisjoint(
            map(storage_key, (original, copy))
        ):
            return False
        self._slots[id(copy)] = self._slots[id(original)]
        self._dependent.add(storage_key(copy))
        return True

    def _depends(self, tensor: Tensor) -> bool:
        """Return whether a tensor's values depend on the layer."""
        return storage_key(tensor) in self._dependent

    def _check_repeatable(self, operation: _RecordedOp) -> None:
        """Note why an operation can't be repeated with other values."""
        name, tags = operation.name, operation.function.tags
        if torch.Tag.data_dependent_output in tags or name == "aten::is_nonzero":
            self._unsafe = self._unsafe or f"its values decide in Python what the model does ({name})"
        if torch.Tag.dynamic_output_shape in tags:
            indices = [
                tensor
                for tensor in tensors_in(operation.arguments[1:])
                if tensor.dtype in (torch.bool, torch.uint8)
            ]
            deciding = indices if name in SELECTORS else tensors_in(operation.arguments)
            if any(map(self._depends, deciding)):
                self._unsafe = self._unsafe or f"its values decide the shape of what follows ({name})"

    def _new_slot(self, tensor: Tensor) -> int:
        self._dependent.add(storage_key(tensor))
        return self._slot(self._slots, tensor)

    def _slot(self, slots: dict[int, int], tensor: Tensor) -> int:
        return slots.setdefault(id(tensor), len(self._slots) + len(self._view_slots))

    def _with_slots(self, value: Any) -> Any:
        """Return arguments with tensors replaced by their slot, if they have one by now."""
        if isinstance(value, Tensor):
            index = self._slots.get(id(value))
            if index is not None:
                return Slot(index)
            key = storage_key(value)
            if key in self._dependent and key not in self._initial:
                reason = "its values are reached in a way that PyTorch doesn't show (.data)"
                self._unsafe = self._unsafe or reason
            if key not in self._written:
                return value
            slot = self._slot(self._view_slots, value)  # it may be written to after this operation reads it
            self._views[slot] = (key, value)
            return Slot(slot)
        if isinstance(value, (list, tuple)):
            return type(value)(self._with_slots(item) for item in value)
        return value
