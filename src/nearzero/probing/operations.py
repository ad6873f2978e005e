"""The operations of a suffix, ready to be run: tensors that aren't the same in every run stand in numbered slots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Slot", "Step", "Suffix", "make_step", "needed_steps", "storage_key", "tensors_in", "view_on"]


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
        arguments, keywords: with anything where a slot's tensor goes.
        places: pairs of where, and which slot's tensor goes there.
        nested: pairs of where, and the list with slots that goes there.
        named: pairs of a keyword, and the value with slots.
        results: the slots of what comes out.
        done: the slots that nothing reads afterwards.
    """

    function: Callable[..., Any]
    mutable: bool
    arguments: list[Any]
    keywords: dict[str, Any]
    places: list[tuple[int, int]]
    nested: list[tuple[int, Any]]
    named: list[tuple[str, Any]]
    results: tuple[int, ...]
    done: tuple[int, ...] = ()

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


def make_step(
    function: Any, mutable: bool, arguments: Sequence[Any], keywords: dict[str, Any], results: tuple[int, ...]
) -> Step:
    """Return an operation of a suffix, from arguments with slots for the tensors that have one."""
    slotted = [(place, each) for place, each in enumerate(arguments) if any(True for _ in _slots_in(each))]
    return Step(
        function, mutable, list(arguments), keywords,
        places=[(place, each.index) for place, each in slotted if isinstance(each, Slot)],
        nested=[(place, each) for place, each in slotted if not isinstance(each, Slot)],
        named=[(name, each) for name, each in keywords.items() if any(True for _ in _slots_in(each))],
        results=results,
    )  # fmt: skip


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
