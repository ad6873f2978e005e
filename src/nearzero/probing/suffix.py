"""The suffix of a forward pass: what comes after a layer, recorded once and run again for every level.

While the model runs on a batch, every operation after the cut that depends on the layer is written down, with
what it reads: a *recording*. Everything else that crosses the cut (other branches, weights, earlier outputs
of a residual path) is kept as it was. To run the suffix on other values of the layer is to run those
operations again, and nothing before them.

The operations are those that PyTorch dispatches (ATen), after Python and modules have done their part: the
same kernels on the same shapes as in the full forward pass, so the logits are the same to the last bit. What
a recording can't know is whether the model would have taken another path: values that leave tensors (`.item()`,
a condition, `.tolist()`) and shapes that depend on values are noticed here; for all else,
`nearzero.probing.passes` holds the suffix against the full pass.

Operations that write into their arguments are followed by storage: a storage that is written to after the cut
is copied before the first time, and each run of the suffix begins with a fresh copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Recorder", "Suffix", "storage_key", "written"]

# Ways out of tensors that aren't dispatched.
READERS = ("tolist", "numpy", "__array__", "__dlpack__")
SELECTORS = ("aten::index", "aten::masked_select")  # whose shape depends on what selects alone


@dataclass(frozen=True, slots=True, eq=False)
class _Slot:
    """A tensor that isn't the same in every run, by number."""

    index: int


@dataclass(frozen=True, slots=True, eq=False)
class _Noted:
    """An operation as it came by: function(*arguments, **keywords), and what it gave."""

    function: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    results: tuple[int, ...]  # slots of the tensors that come out, in order


def storage_key(tensor: Tensor) -> int:
    """What tensors on the same storage have in common."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, nested: never shared
        return id(tensor)


def _view(storage: torch.UntypedStorage, like: Tensor) -> Tensor:
    """The tensor that `like` is, on another storage of the same layout."""
    empty = torch.empty(0, dtype=like.dtype, device=like.device)
    return empty.set_(storage, like.storage_offset(), like.size(), like.stride())


def _copy(tensor: Tensor) -> Tensor:
    """A copy that lies in memory as the tensor does, or kernels might round otherwise."""
    copy = tensor.clone()
    return copy if copy.stride() == tensor.stride() else _view(tensor.untyped_storage().clone(), tensor)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in an operation's arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)


def written(function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors that an operation writes to, by its schema."""
    schema = function._schema
    if not schema.is_mutable:
        return
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = arguments[place] if place < len(arguments) else keywords.get(argument.name)
            yield from _tensors(value)


class _Views:
    """Slots for tensors on storages that are written to, perhaps later than they were read.

    Args:
        initial: these storages.
        first: the first slot that is free.

    Attributes:
        likes: by slot, the storage and a tensor that lies on it as wanted.
    """

    def __init__(self, initial: Mapping[int, torch.UntypedStorage], first: int) -> None:
        self.likes: dict[int, tuple[int, Tensor]] = {}
        self._initial, self._first = initial, first
        self._slots: dict[int, int] = {}  # by id of the tensor

    def in_place_of(self, value: Any) -> Any:
        """Arguments with slots in place of such tensors."""
        if isinstance(value, Tensor):
            key = storage_key(value)
            if key not in self._initial:
                return value
            slot = self._slots.setdefault(id(value), self._first + len(self.likes))
            self.likes[slot] = (key, value)
            return _Slot(slot)
        if isinstance(value, (list, tuple)):
            return type(value)(self.in_place_of(each) for each in value)
        return value


class Recorder(TorchDispatchMode):
    """Writes down the operations that depend on a layer, from `cut` to `finish`.

    One forward pass runs within `running`; `cut` is called by whoever sees the layer's values come by.

    Attributes:
        escape: why another level may take another path through the model; "" if there is no such reason.
        random: an operation that draws random numbers, if a dependent one may; else "".
    """

    def __init__(self) -> None:
        super().__init__()
        self.escape = self.random = ""
        self._noted: list[_Noted] = []
        self._slots: dict[int, int] = {}  # of tensors, by id
        self._alive: list[Tensor] = []  # so that no id is given twice
        self._dependent: set[int] = set()  # storages
        self._initial: dict[int, torch.UntypedStorage] = {}  # of those written to, before the first time
        self._value: Tensor | None = None
        self._in_place, self._entry = False, 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around the forward pass."""
        with self, _Readers(self):
            yield

    def cut(self, value: Tensor, *, in_place: bool) -> Tensor:
        """Begin with the layer's values; returns what the model is to go on with in their place.

        Args:
            value: z, as the model computed it.
            in_place: whether what follows writes into z, so that others who hold it see that. The values of
                a level are then written into it as well, in place of being handed on beside it.
        """
        assert self._value is None
        if in_place:
            self._save(value)
        handed_on = value if in_place else _copy(value)
        self._entry = self._new_slot(handed_on)
        self._value, self._in_place = value, in_place  # from here on operations are written down
        return handed_on

    def finish(self, wanted: Tensor) -> Suffix:
        """The recording; `wanted` is what each run of it returns."""
        assert self._value is not None
        views = _Views(self._initial, len(self._alive))
        written_to = storage_key(self._value) in self._initial
        value = _view(self._initial[storage_key(self._value)], self._value) if written_to else self._value
        result = views.in_place_of(self._marked(wanted))
        noted = [
            _Noted(
                each.function,
                views.in_place_of(each.arguments),
                {name: views.in_place_of(argument) for name, argument in each.keywords.items()},
                each.results,
            )
            for each in self._noted
        ]
        home = (storage_key(self._value), self._value) if self._in_place else None
        slots = len(self._alive) + len(views.likes)
        return Suffix(
            value, self._entry, home, _steps(noted, result), result, self._initial, views.likes, slots
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and write it down if it depends on the layer or writes to something."""
        kwargs = kwargs or {}
        if self._value is None:
            return func(*args, **kwargs)
        writes = list(written(func, args, kwargs))
        reads = any(map(self.depends, _tensors((*args, *kwargs.values()))))
        if not reads and not writes:
            return func(*args, **kwargs)
        if reads:
            self._look_at(func, args)
        for each in writes:
            self._save(each)
        arguments, keywords = self._marked(args), {name: self._marked(each) for name, each in kwargs.items()}
        result = func(*args, **kwargs)
        slots = tuple(self._new_slot(each) for each in _tensors(result))
        self._noted.append(_Noted(func, arguments, keywords, slots))
        return result

    def depends(self, tensor: Tensor) -> bool:
        """Whether a tensor's values depend on the layer."""
        return id(tensor) in self._slots or storage_key(tensor) in self._dependent

    def _look_at(self, func: Any, args: tuple[Any, ...]) -> None:
        """Notice what can't be repeated with other values."""
        name = func._schema.name
        if torch.Tag.data_dependent_output in func.tags or name == "aten::is_nonzero":
            self.escape = self.escape or f"its values decide in Python what the model does ({name})"
        if torch.Tag.dynamic_output_shape in func.tags:
            selecting = [each for each in _tensors(args[1:]) if each.dtype in (torch.bool, torch.uint8)]
            deciding = selecting if name in SELECTORS else _tensors(args)
            if any(map(self.depends, deciding)):
                self.escape = self.escape or f"its values decide the shape of what follows ({name})"
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.random = self.random or name

    def _save(self, tensor: Tensor) -> None:
        """Copy a storage before it's written to for the first time, unless it was made after the cut from the layer."""
        key = storage_key(tensor)
        if key not in self._dependent:
            self._dependent.add(key)
            self._initial[key] = tensor.untyped_storage().clone()
            self._alive.append(tensor)

    def _new_slot(self, tensor: Tensor) -> int:
        if id(tensor) not in self._slots:
            self._slots[id(tensor)] = len(self._alive)
            self._alive.append(tensor)
            self._dependent.add(storage_key(tensor))
        return self._slots[id(tensor)]

    def _marked(self, value: Any) -> Any:
        """Arguments with slots in place of the tensors that have one already: others may get one later."""
        if isinstance(value, Tensor):
            index = self._slots.get(id(value))
            if index is not None:
                return _Slot(index)
            key = storage_key(value)
            if key in self._dependent and key not in self._initial:
                self.escape = (
                    self.escape or "its values are reached in a way that PyTorch doesn't show (.data)"
                )
            return value
        if isinstance(value, (list, tuple)):
            return type(value)(self._marked(each) for each in value)
        return value


class _Readers(TorchFunctionMode):
    """Notices that values which depend on the layer are read outside of PyTorch."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of tensors."""
        name = getattr(func, "__name__", "")
        if name in READERS and any(map(self._recorder.depends, _tensors(args))):
            self._recorder.escape = f"its values are read outside of PyTorch ({name})"
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """One operation of the suffix, ready to be run.

    Attributes:
        arguments, keywords: with anything where a slot's tensor goes.
        places: pairs of where, and which slot's tensor goes there.
        nested: pairs of where, and the list with slots that goes there.
        named: pairs of a keyword, and the value with slots.
        results: the slots of what comes out.
        done: the slots that nothing reads afterwards.
    """

    function: Callable[..., Any]
    arguments: list[Any]
    keywords: dict[str, Any]
    places: list[tuple[int, int]]
    nested: list[tuple[int, Any]]
    named: list[tuple[str, Any]]
    results: tuple[int, ...]
    done: tuple[int, ...]

    def run(self, slots: list[Any]) -> None:
        """Run it on what the slots hold, and put there what comes out."""
        arguments, keywords = self.arguments.copy(), self.keywords
        for place, slot in self.places:
            arguments[place] = slots[slot]
        for place, value in self.nested:
            arguments[place] = _filled(value, slots)
        if self.named:
            keywords = {**keywords, **{name: _filled(value, slots) for name, value in self.named}}
        result = self.function(*arguments, **keywords)
        if isinstance(result, Tensor):
            slots[self.results[0]] = result
        else:
            for slot, each in zip(self.results, _tensors(result), strict=True):
                slots[slot] = each
        for slot in self.done:
            slots[slot] = None


def _slots_in(value: Any) -> Iterator[int]:
    if isinstance(value, _Slot):
        yield value.index
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _slots_in(each)


def _steps(noted: list[_Noted], result: Any) -> list[_Step]:
    """What has to be run for the result, in order, each with the slots that may be let go of after it."""
    needed = set(_slots_in(result))
    steps = []
    for each in reversed(noted):
        if not each.function._schema.is_mutable and needed.isdisjoint(each.results):
            continue
        touched = {*_slots_in(each.arguments), *_slots_in(list(each.keywords.values())), *each.results}
        arguments, keywords = list(each.arguments), each.keywords
        step = _Step(
            each.function, arguments, keywords,
            places=[(place, value.index) for place, value in enumerate(arguments) if isinstance(value, _Slot)],
            nested=[
                (place, value) for place, value in enumerate(arguments)
                if isinstance(value, (list, tuple)) and any(True for _ in _slots_in(value))
            ],
            named=[(name, value) for name, value in keywords.items() if any(True for _ in _slots_in(value))],
            results=each.results, done=tuple(touched - needed),
        )  # fmt: skip
        steps.append(step)
        needed |= touched
    return steps[::-1]


def _filled(value: Any, slots: list[Any]) -> Any:
    if isinstance(value, _Slot):
        return slots[value.index]
    if isinstance(value, (list, tuple)):
        return type(value)(_filled(each, slots) for each in value)
    return value


@dataclass(frozen=True, eq=False)
class Suffix:
    """What comes after a layer in one forward pass on one batch.

    Attributes:
        value: z as it was.
        entry: the slot of the layer's values.
        home: where they are written into z itself, its storage and how it lies there.
        steps, result: what is run, and the slot of what comes out.
        initial: the storages that are written to, as they were before.
        views: the slots of tensors on these.
        slots: how many there are.
    """

    value: Tensor
    entry: int
    home: tuple[int, Tensor] | None
    steps: list[_Step]
    result: Any
    initial: dict[int, torch.UntypedStorage]
    views: dict[int, tuple[int, Tensor]]
    slots: int

    def run(self, change: Callable[[Tensor], Tensor]) -> Tensor:
        """The result where the layer's values are changed; `change` gives new values and leaves the old ones."""
        storages = {key: storage.clone() for key, storage in self.initial.items()}
        slots: list[Any] = [None] * self.slots
        for slot, (storage, like) in self.views.items():
            slots[slot] = _view(storages[storage], like)
        slots[self.entry] = self._entering(change, storages)
        for step in self.steps:
            step.run(slots)
        result = _filled(self.result, slots)
        assert isinstance(result, Tensor)
        return result

    def _entering(
        self, change: Callable[[Tensor], Tensor], storages: Mapping[int, torch.UntypedStorage]
    ) -> Tensor:
        """What the first operation is to read, held by nobody else, so that it goes when it's no longer needed."""
        values = change(self.value)
        if self.home is None:
            return values
        storage, like = self.home
        return _view(storages[storage], like).copy_(values)
