"""The suffix of a forward pass: what comes after a layer, recorded once and run again for every level.

While the model runs on a batch, every operation after the cut that depends on the layer is written down, with
what it reads: a *recording*. Everything else that crosses the cut (other branches, weights, earlier outputs
of a residual path) is kept as it was. To run the suffix on other values of the layer is to run those
operations again, and nothing before them.

The operations are those that PyTorch dispatches (ATen), after Python and modules have done their part: the
same kernels on the same shapes as in the full forward pass, so the logits are the same to the last bit. What
a recording can't know is whether the model would have taken another path: numbers that leave tensors (`.item()`,
a condition) are noticed here; for all else, `nearzero.probing.passes` holds the first batch against the full pass.

Operations that write into their arguments are followed by storage: a storage that is written to after the cut
is copied before the first time, and each run of the suffix begins with a fresh copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Recorder", "Suffix"]

# What a tensor's value decides outside of tensors; after one of these another level may take another path.
ESCAPES = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::allclose"}


@dataclass(frozen=True, slots=True, eq=False)
class _Slot:
    """A tensor that depends on the layer, by number."""

    index: int


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """A tensor that doesn't."""

    tensor: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """A tensor on a storage that is written to, by the storage's key."""

    storage: int
    like: Tensor


_Reference = _Slot | _Kept | _View


@dataclass(frozen=True, slots=True, eq=False)
class _Operation:
    """function(*arguments, **keywords), references in place of tensors."""

    function: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    results: tuple[int, ...]  # slots of the tensors that come out, in order
    done: tuple[int, ...] = ()  # slots that nothing reads afterwards


def _storage_key(tensor: Tensor) -> int:
    """What tensors on the same storage have in common."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, nested: never shared
        return id(tensor)


def _view(storage: torch.UntypedStorage, like: Tensor) -> Tensor:
    """The tensor that `like` is, on another storage of the same layout."""
    empty = torch.empty(0, dtype=like.dtype, device=like.device)
    return empty.set_(storage, like.storage_offset(), like.size(), like.stride())


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in an operation's arguments or results: lists of them are at most one deep."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)


def _written(function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors that an operation writes to, by its schema."""
    schema = function._schema
    if not schema.is_mutable:
        return
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = arguments[place] if place < len(arguments) else keywords.get(argument.name)
            yield from _tensors(value)


class Recorder(TorchDispatchMode):
    """Writes down the operations that depend on a layer, from `cut` to `finish`.

    It is entered around one forward pass; `cut` is called by whoever sees the layer's value come by.
    """

    def __init__(self) -> None:
        super().__init__()
        self.escape: str | None = None  # the operation through which a dependent value left
        self._operations: list[_Operation] = []
        self._slots: dict[int, int] = {}  # of tensors, by id
        self._alive: list[Tensor] = []  # so that no id is given twice
        self._dependent: set[int] = set()  # storages
        self._initial: dict[int, torch.UntypedStorage] = {}  # of those written to, before the first time
        self._value: Tensor | None = None
        self._in_place, self._entry = False, 0

    @property
    def started(self) -> bool:
        """Whether the layer's value has come by."""
        return self._value is not None

    def cut(self, value: Tensor, *, in_place: bool) -> Tensor:
        """Begin with the layer's value; returns what the model is to go on with in its place.

        Args:
            value: z, as the model computed it.
            in_place: whether what follows writes into z, so that others who hold it see that. The values of
                a level are then written into it as well, in place of being handed on beside it.
        """
        assert not self.started
        if in_place:
            self._save(value)
        handed_on = value if in_place else value.clone()
        self._entry = self._new_slot(handed_on)
        self._value, self._in_place = value, in_place  # from here on operations are written down
        return handed_on

    def finish(self, *wanted: Tensor) -> Suffix:
        """The recording; `wanted` are the tensors that each run of it returns."""
        assert self._value is not None
        value, *results = (
            self._settled(each) for each in (_Kept(self._value), *map(self._reference, wanted))
        )
        operations = [
            replace(
                each,
                arguments=self._settled(each.arguments),
                keywords={name: self._settled(argument) for name, argument in each.keywords.items()},
            )
            for each in self._operations
        ]
        return Suffix(
            value=_view(self._initial[value.storage], value.like)
            if isinstance(value, _View)
            else value.tensor,
            entry=self._entry,
            written=value if self._in_place else None,
            operations=_with_last_uses(operations, results),
            results=tuple(results),
            initial=self._initial,
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and write it down if it depends on the layer or writes to something."""
        kwargs = kwargs or {}
        if not self.started:
            return func(*args, **kwargs)
        written = list(_written(func, args, kwargs))
        reads = any(self._depends(each) for each in (*_tensors(args), *_tensors(tuple(kwargs.values()))))
        if not reads and not written:
            return func(*args, **kwargs)
        if reads and func._schema.name in ESCAPES:
            self.escape = func._schema.name.removeprefix("aten::")
        for each in written:
            self._save(each)
        arguments = self._references(args)
        keywords = {name: self._references(value) for name, value in kwargs.items()}
        result = func(*args, **kwargs)
        slots = tuple(self._new_slot(each) for each in _tensors(result))
        self._operations.append(_Operation(func, arguments, keywords, slots))
        return result

    def _depends(self, tensor: Tensor) -> bool:
        return id(tensor) in self._slots or _storage_key(tensor) in self._dependent

    def _save(self, tensor: Tensor) -> None:
        """Copy a storage before it's written to for the first time, unless it was made after the cut from the layer."""
        key = _storage_key(tensor)
        if key not in self._dependent:
            self._dependent.add(key)
            self._initial[key] = tensor.untyped_storage().clone()
            self._alive.append(tensor)

    def _new_slot(self, tensor: Tensor) -> int:
        if id(tensor) not in self._slots:
            self._slots[id(tensor)] = len(self._alive)
            self._alive.append(tensor)
            self._dependent.add(_storage_key(tensor))
        return self._slots[id(tensor)]

    def _references(self, value: Any) -> Any:
        """Arguments with slots and kept tensors in place of tensors."""
        if isinstance(value, Tensor):
            return self._reference(value)
        if isinstance(value, (list, tuple)):
            return type(value)(self._references(each) for each in value)
        return value

    def _reference(self, tensor: Tensor) -> _Reference:
        index = self._slots.get(id(tensor))
        if index is not None:
            return _Slot(index)
        key = _storage_key(tensor)
        return _View(key, tensor) if key in self._initial else _Kept(tensor)

    def _settled(self, value: Any) -> Any:
        """References once all is known: what was kept may have been written to later."""
        if isinstance(value, _Kept):
            key = _storage_key(value.tensor)
            return _View(key, value.tensor) if key in self._initial else value
        if isinstance(value, (list, tuple)):
            return type(value)(self._settled(each) for each in value)
        return value


def _slots_in(value: Any) -> Iterator[int]:
    if isinstance(value, _Slot):
        yield value.index
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _slots_in(each)


def _with_last_uses(operations: list[_Operation], results: list[_Reference]) -> list[_Operation]:
    """The operations, each with the slots that may be let go of after it."""
    seen = set(_slots_in(results))
    marked = []
    for each in reversed(operations):
        touched = {*_slots_in(each.arguments), *_slots_in(list(each.keywords.values())), *each.results}
        marked.append(replace(each, done=tuple(touched - seen)))
        seen |= touched
    return marked[::-1]


@dataclass(frozen=True, eq=False)
class Suffix:
    """What comes after a layer in one forward pass on one batch.

    Attributes:
        value: z as it was.
    """

    value: Tensor
    entry: int
    written: _View | None
    operations: list[_Operation]
    results: tuple[_Reference, ...]
    initial: dict[int, torch.UntypedStorage]

    def run(self, values: Tensor) -> tuple[Tensor, ...]:
        """The wanted tensors where the layer has other values, of z's shape; `values` may be written to."""
        storages = {key: storage.clone() for key, storage in self.initial.items()}
        slots: dict[int, Tensor] = {}

        def filled(value: Any) -> Any:
            if isinstance(value, _Slot):
                return slots[value.index]
            if isinstance(value, _Kept):
                return value.tensor
            if isinstance(value, _View):
                return _view(storages[value.storage], value.like)
            if isinstance(value, (list, tuple)):
                return type(value)(filled(each) for each in value)
            return value

        slots[self.entry] = values if self.written is None else filled(self.written).copy_(values)
        for each in self.operations:
            arguments = [filled(argument) for argument in each.arguments]
            keywords = {name: filled(argument) for name, argument in each.keywords.items()}
            result = each.function(*arguments, **keywords)
            slots.update(zip(each.results, _tensors(result), strict=True))
            for done in each.done:
                del slots[done]
        return tuple(filled(each) for each in self.results)
