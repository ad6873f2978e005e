"""A copy of all that a forward pass may change in a user's objects, to notice changes and take them back.

Everything that is reachable is copied, whether a module registers it or not: attributes, the contents of
containers, the values of tensors and arrays, and the states of random generators. Hooks and closures aren't
followed: what they collect belongs to whoever set them.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections import OrderedDict, UserDict, UserList, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from operator import is_
from types import MethodType, ModuleType, SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
import torch.utils.data
from torch import Tensor, nn

from nearzero.errors import InputError
from nearzero.torch_models.placement import HOOK

__all__ = ["Snapshot", "is_constant"]

CONTAINERS = (OrderedDict, dict, list, deque, set)  # a subclass is handled as the first of these
CONSTANTS = (type(None), bool, int, float, complex, str, bytes, Enum, np.generic, torch.dtype, torch.device)
# Types of the standard library whose attributes may be a model's state; those of its other types aren't.
NAMESPACES = (SimpleNamespace, UserDict, UserList, *CONTAINERS)
OPAQUE = (type, ModuleType, torch.jit.ScriptModule, torch.fx.Graph, torch.utils.data.DataLoader)
UNSET = Enum("Unset", "UNSET").UNSET  # type: ignore[attr-defined]  # in place of an attribute that has no value
REGISTRIES = ("_parameters", "_buffers", "_modules")  # of a module; what they hold goes by its name there
OBJECTS = 10**6  # at most, so that an object from which everything is reachable takes seconds
COPIED = 2**29  # bytes of unregistered tensors and arrays that are copied; those nearest the root go first


class _Record(Protocol):
    """One object, and a copy of what it held."""

    def changed(self) -> list[str]:
        """Return the names of what differs from the copy."""

    def restore(self, *, compare: bool) -> None:
        """Restore what has changed; without `compare`, a tensor that has no new version is taken to be unchanged."""


class Snapshot:
    """A copy of all that a forward pass may change in a module, or in the inputs of a model.

    Of a module's parameters only the references to their data are kept, since `find_layers` refuses a pass
    that writes to their values.

    Args:
        roots: the objects by name; the names of all that is reachable from them begin with theirs.
    """

    def __init__(self, roots: Mapping[str, Any]) -> None:
        self._records: list[_Record] = []
        self._hooks: list[dict[Any, Any]] = []
        modules = [root for root in roots.values() if isinstance(root, nn.Module)]
        weights = [weight for module in modules for weight in module.parameters()]
        self._buffers = {id(buffer) for module in modules for buffer in module.buffers()}
        self._records += [_Data(weight, weight.data, _address(weight)) for weight in weights]
        self._seen: dict[int, Any] = {id(weight): weight for weight in weights}  # by id, kept alive
        self._bytes = 0
        waiting = deque(roots.items())
        while waiting and len(self._seen) < OBJECTS:
            name, value = waiting.popleft()
            if not is_constant(value) and id(value) not in self._seen:
                self._seen[id(value)] = value
                waiting.extend(self._take(name, value))

    @property
    def tensors(self) -> list[Tensor]:
        """Return all tensors that are reachable."""
        return [value for value in self._seen.values() if isinstance(value, Tensor)]

    @contextlib.contextmanager
    def same_hooks(self) -> Iterator[None]:
        """Remove hooks that a forward pass within the block sets, as the first pass of some models does."""
        copies = [hooks.copy() if hooks else None for hooks in self._hooks]
        try:
            yield
        finally:
            for now, before in zip(self._hooks, copies, strict=True):
                if len(now) != len(before or ()):
                    now.clear()
                    now.update(before or {})

    def changed(self) -> list[str]:
        """Return the names of all that has changed, and note which tensors were written to without a new version."""
        return [name for record in self._records for name in record.changed()]

    def restore(self) -> None:
        """Restore all that is known to have changed."""
        for record in self._records:
            record.restore(compare=False)

    def restore_all(self) -> None:
        """Restore all, and compare tensors by value, since some kernels write without counting a version."""
        for record in self._records:
            record.restore(compare=True)

    def _take(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Copy one object, and yield the objects that it holds, with their names."""
        if isinstance(value, Tensor):
            self._take_tensor(name, value)
            return
        if isinstance(value, np.ndarray) and value.dtype != object:
            self._bytes += value.nbytes
            if value.flags.writeable and self._bytes <= COPIED:
                self._records.append(_Array(name, value, value.copy()))
        elif isinstance(value, (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)):
            get, put = _state_of(value)
            self._records.append(_State(name, get, put, get()))
        elif isinstance(value, CONTAINERS):
            contents = _Contents.of(name, value)
            self._records.append(contents)
            items = contents.before
            pairs = items.items() if isinstance(items, dict) else enumerate(items)
            yield from ((f"{name}[{key!r}]" if is_constant(key) else name, item) for key, item in pairs)
        elif isinstance(value, (tuple, frozenset)):
            yield from ((f"{name}[{place}]", item) for place, item in enumerate(value))
        elif isinstance(value, MethodType):
            yield name, value.__self__
        elif isinstance(value, partial):
            yield from ((name, part) for part in (value.func, value.args, value.keywords))
        yield from self._take_attributes(name, value)

    def _take_tensor(self, name: str, tensor: Tensor) -> None:
        plain = tensor.layout == torch.strided and not tensor.is_nested and tensor.device.type != "meta"
        registered = id(tensor) in self._buffers
        self._bytes += tensor.nbytes if plain and not registered else 0
        copied = plain and (registered or self._bytes <= COPIED)
        self._records.append(
            _Values(name, tensor, tensor.detach().clone() if copied else None, _version(tensor))
        )

    def _take_attributes(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Copy the attributes of an object, unless its type says that they are no state of a model."""
        standard = type(value).__module__.partition(".")[0] in sys.stdlib_module_names
        if isinstance(value, OPAQUE) or (standard and not isinstance(value, NAMESPACES)):
            return
        for slot in _slots_of(type(value)):
            self._records.append(_Attribute(_joined(name, slot), value, slot, _held(value, slot)))
            yield _joined(name, slot), _held(value, slot)
        namespace = getattr(value, "__dict__", None)
        if not isinstance(namespace, dict):
            return
        contents = _Contents.of(name, namespace, attributes=True)
        self._records.append(contents)
        for attribute, held in contents.before.items():
            if attribute == HOOK:  # of accelerate: what it does to the model shows there
                self._seen[id(held)] = held
                continue
            registry = isinstance(value, nn.Module) and isinstance(held, dict)
            if registry and "_hooks" in attribute:  # the probe's own hooks come and go
                self._hooks.append(held)
                self._seen[id(held)] = held
            elif registry and attribute in REGISTRIES:
                self._seen[id(held)] = held
                self._records.append(_Contents.of(name, held, attributes=True))
                yield from ((_joined(name, key), item) for key, item in held.items())
            else:
                yield _joined(name, attribute), held


def is_constant(value: Any) -> bool:
    """Return whether a value can't be changed and holds nothing that can."""
    return isinstance(value, CONSTANTS)


def _joined(name: str, attribute: object) -> str:
    return f"{name}.{attribute}" if name else str(attribute)


def _held(owner: Any, attribute: str) -> Any:
    """Return the value of an attribute, or `UNSET` if it has none."""
    try:
        return getattr(owner, attribute)
    except AttributeError:
        return UNSET


def _slots_of(kind: type) -> list[str]:
    """Return the names of the attributes that a class has in slots."""
    slots: list[str] = []
    for each in kind.__mro__:
        if each.__module__.partition(".")[0] not in sys.stdlib_module_names:
            own = each.__dict__.get("__slots__", ())
            slots += [own] if isinstance(own, str) else list(own)
    return [slot for slot in slots if not slot.startswith("__")]


def _state_of(generator: Any) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    """Return the functions that get and set the state of a random generator."""
    if isinstance(generator, torch.Generator):
        return generator.get_state, generator.set_state
    if isinstance(generator, random.Random):
        return generator.getstate, generator.setstate
    if isinstance(generator, np.random.RandomState):
        return generator.get_state, generator.set_state
    bits = generator.bit_generator
    return lambda: bits.state, lambda state: setattr(bits, "state", state)


# --- records ---


@dataclass(frozen=True, eq=False)
class _Contents:
    """A container or the attributes of an object, and a copy of its contents.

    Attributes:
        name, now, before: the container's name, itself and its copy.
        kind: the type whose methods change it.
        attributes: whether it holds attributes.
    """

    name: str
    now: Any
    before: Any
    kind: Any
    attributes: bool

    @classmethod
    def of(cls, name: str, value: Any, *, attributes: bool = False) -> _Contents:
        """Return a container with a copy of its contents."""
        kind = next(kind for kind in CONTAINERS if isinstance(value, kind))
        return cls(name, value, kind.copy(value), kind, attributes)

    def changed(self) -> list[str]:
        """Return the names of the entries that aren't the same objects as before; of a set or list, its own name."""
        if self._same():
            return []
        if not isinstance(self.now, dict):
            return [self.name]
        keys = [
            key
            for key in {**self.before, **self.now}
            if self.now.get(key, self) is not self.before.get(key, self)
            and not (_is_empty(self.now.get(key)) and _is_empty(self.before.get(key)))
        ]
        if not self.attributes:
            return [f"{self.name}[{key!r}]" for key in keys] or [self.name]
        return [_joined(self.name, key) for key in keys]

    def restore(self, *, compare: bool) -> None:
        """Give the container the contents of its copy, if it has others."""
        if not self._same():
            self.kind.clear(self.now)
            fill = self.kind.update if isinstance(self.now, (dict, set)) else self.kind.extend
            fill(self.now, self.before)

    def _same(self) -> bool:
        now, before = self.now, self.before
        if len(now) != len(before):
            return False
        if isinstance(now, dict):
            return all(map(is_, now, before)) and all(map(is_, now.values(), before.values()))
        return bool(now == before) if isinstance(now, set) else all(map(is_, now, before))


@dataclass(eq=False)
class _Values:
    """A tensor, a copy of its values (None if it is too large or not dense), and its version.

    Attributes:
        name, tensor, before, version: as above.
        silent: whether it was written to without a new version.
    """

    name: str
    tensor: Tensor
    before: Tensor | None
    version: int
    silent: bool = False

    def changed(self) -> list[str]:
        """Return the tensor's name if its values differ, or if it has no copy and a new version."""
        newer = _version(self.tensor) != self.version
        if not (newer if self.before is None else not _equal(self.tensor, self.before)):
            return []
        self.silent = not newer
        return [self.name]

    def restore(self, *, compare: bool) -> None:
        """Restore the values.

        Raises:
            InputError: there is no copy of them.
        """
        newer = _version(self.tensor) != self.version
        if self.before is None:
            if newer:
                self.version = _version(self.tensor)
                raise InputError(
                    f"a forward pass writes into {self.name}, which is too large or not dense, so that it can't be "
                    "put back; make it a buffer of the model, or give the model without it"
                )
        elif newer or self.silent or (compare and not _equal(self.tensor, self.before)):
            with torch.no_grad():
                self.tensor.copy_(self.before)
            self.version = _version(self.tensor)


@dataclass(frozen=True, eq=False)
class _Data:
    """A parameter, and the reference to its data."""

    weight: Tensor
    data: Tensor
    address: int

    def changed(self) -> list[str]:
        """Return nothing: a pass that changes parameters is refused elsewhere."""
        return []

    def restore(self, *, compare: bool) -> None:
        """Give the parameter its data again, if it has others."""
        if _address(self.weight) != self.address:
            self.weight.data = self.data


@dataclass(frozen=True, eq=False)
class _Array:
    """An array, and a copy of it."""

    name: str
    array: np.ndarray[Any, Any]
    before: np.ndarray[Any, Any]

    def changed(self) -> list[str]:
        """Return the array's name if it differs."""
        return [] if self.array.tobytes() == self.before.tobytes() else [self.name]

    def restore(self, *, compare: bool) -> None:
        """Restore the values; nothing says without a comparison of them whether they changed."""
        self.array[...] = self.before


@dataclass(frozen=True, eq=False)
class _State:
    """A random generator, and its state."""

    name: str
    get: Callable[[], Any]
    put: Callable[[Any], object]
    state: Any

    def changed(self) -> list[str]:
        """Return the generator's name if it has another state."""
        same = str(self.get()) == str(self.state)
        if isinstance(self.state, Tensor):
            same = torch.equal(self.get(), self.state)
        return [] if same else [self.name]

    def restore(self, *, compare: bool) -> None:
        """Restore the state."""
        self.put(self.state)


@dataclass(frozen=True, eq=False)
class _Attribute:
    """An attribute in a slot, and what it was."""

    name: str
    owner: Any
    attribute: str
    before: Any

    def changed(self) -> list[str]:
        """Return the attribute's name if it is another object."""
        return [] if _held(self.owner, self.attribute) is self.before else [self.name]

    def restore(self, *, compare: bool) -> None:
        """Set the attribute again, if it is another object."""
        if not self.changed():
            return
        if self.before is UNSET:
            object.__delattr__(self.owner, self.attribute)
        else:
            object.__setattr__(self.owner, self.attribute, self.before)


def _is_empty(value: Any) -> bool:
    """Return whether a value is a tensor without values, which a hook that loads weights makes anew in each pass."""
    return isinstance(value, Tensor) and value.device.type == "meta"


def _equal(tensor: Tensor, before: Tensor) -> bool:
    """Return whether two tensors are equal; NaN equals NaN."""
    if tensor.shape != before.shape or tensor.dtype != before.dtype:
        return False
    equal = torch.equal(tensor, before)
    return equal or (
        tensor.is_floating_point() and bool(torch.allclose(tensor, before, 0, 0, equal_nan=True))
    )


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written to; 0 for tensors of inference mode, which don't count that."""
    return 0 if tensor.is_inference() else tensor._version


def _address(tensor: Tensor) -> int:
    """Return the address of a tensor's values; 0 if it has no plain storage."""
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return 0
