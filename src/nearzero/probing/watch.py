"""Watching one forward pass: which modules and functions are called, with what, and where the units are.

Each tensor is followed through the operations that PyTorch dispatches. So it's known which dimension the units
are on, which activation takes what a linear layer gives, and which of the inputs a layer depends on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from nearzero.errors import InputError
from nearzero.probing.axes import RESHAPED, VIEWS, axis_after, usual_axis
from nearzero.probing.kinds import (
    ACTIVATION_OPERATIONS,
    CLOSED,
    elementwise,
    is_known,
    may_activate,
    name_of,
    producer,
)
from nearzero.probing.layer import Layer
from nearzero.probing.operations import storage_key, tensors_in
from nearzero.probing.suffix import written
from nearzero.probing.taps import plain_name

__all__ = ["Watch"]

COMPILED = "_orig_mod"  # as torch.compile names what it wraps
WEIGHTS = "parametrizations"  # modules in here work on weights


@dataclass(eq=False)
class _Call:
    """A module at work."""

    path: str
    module: nn.Module
    number: int
    given: tuple[Tensor, Tensor] | None  # its argument and a copy of that, if it may be an activation
    operations: Counter[str] = field(default_factory=Counter)
    functions: list[tuple[Layer, Tensor, Tensor]] = field(default_factory=list)  # with argument and result


class Watch(TorchDispatchMode):
    """Follows tensors through one forward pass; tensors are known by id, and kept so that none is given twice.

    Args:
        module: the model.
        inputs: the names and tensors of what it's given.

    Attributes:
        layers: what was found, in the order of the pass.
        calls: how often the module at a path was called.
        problems: by path, why a module that was called can't be probed.
    """

    def __init__(self, module: nn.Module, inputs: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self._reads = {storage_key(each): frozenset([name]) for name, each in inputs}  # by storage
        self._given = self._computed = 0  # bytes
        self.calls: Counter[str] = Counter()
        self.problems: dict[str, str] = {}
        self._names = {each: path for path, each in module.named_modules()}
        self._weights = {storage_key(each): name for name, each in module.named_parameters()}
        self._axes: dict[int, int] = {}
        self._sources: dict[int, int] = {}  # tensor to the number of the layer that gave it, views included
        self._kept: list[Tensor] = []
        self._stack: list[_Call] = []

    @property
    def bytes(self) -> int:
        """What operations gave in new memory; what modules gave, if those couldn't be followed."""
        return self._computed or self._given

    # --- modules -------------------------------------------------------------------------------------------

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module begins."""
        path = self._names[module]
        self.calls[path] += 1
        values = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        with _disable_current_modes():  # what is computed here isn't the model's
            alone = len(values) == 1 and may_activate(module)
            given = (values[0], values[0].clone()) if alone else None
        self._stack.append(_Call(path, module, self.calls[path], given))

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A module ends; those that ended by an exception which the model caught end with it."""
        call = self._stack.pop()
        while call.module is not module:
            call = self._stack.pop()
        with _disable_current_modes():
            self._leave(call, output)
        if isinstance(output, Tensor):
            self._given += _bytes(output)

    def _leave(self, call: _Call, output: Any) -> None:
        """Add the layer that a module is, if it's one."""
        if WEIGHTS in call.path.split("."):
            return
        units = isinstance(output, Tensor) and _has_units(output)
        if units and call.given is not None and output.shape == call.given[1].shape:
            shown = None if is_known(call.module) else elementwise(call.module, call.given[1])
            if is_known(call.module) or shown is not None:
                self._add_activation(call, *call.given, output, name_of(call.module, shown))
                return
        for layer, value, result in call.functions:
            self._add(layer, value, result)
        if not isinstance(output, Tensor):
            self.problems[call.path] = f"it returns a {type(output).__name__}, not a tensor"
        elif not units:
            what = str(output.dtype if output.layout == torch.strided else output.layout)
            self.problems[call.path] = (
                f"it gives {what.removeprefix('torch.')} of shape {tuple(output.shape)}, no units to perturb"
            )
        elif (kind := producer(call.module)) is not None:
            layer = Layer(
                _shown(call.path), kind, type(call.module).__name__, tuple(output.shape), self._axis(output), None,
                call.path, call.number, reads=self._inputs_of(output),
            )  # fmt: skip
            self._kept.append(output)
            self._sources[id(output)] = len(self.layers)
            self.layers.append(layer)

    def _add_activation(self, call: _Call, value: Tensor, before: Tensor, output: Tensor, name: str) -> None:
        forward, in_place = call.module.forward, not torch.allclose(value, before, 0, 0, equal_nan=True)
        self._add(
            Layer(
                _shown(call.path), "activation", type(call.module).__name__, tuple(before.shape), self._axis(value),
                name, call.path, call.number, in_place=in_place, reads=self._inputs_of(value),
                act=lambda z: forward(z.clone()),
            ),
            value, output,
        )  # fmt: skip

    def _add(self, layer: Layer, value: Tensor, output: Tensor) -> None:
        """Add an activation, and say so to the layer whose output it takes."""
        source = self._sources.get(id(value))
        if source is not None and self.layers[source].follows is None:
            self.layers[source] = replace(
                self.layers[source], follows=layer, act=layer.act, activation=layer.activation
            )
        self._kept.append(output)
        self._axes.setdefault(id(output), layer.unit_axis)
        self.layers.append(layer)

    # --- operations ----------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and note what it does to units."""
        kwargs = kwargs or {}
        self._refuse_training(func, args, kwargs)
        name = func._schema.name.removeprefix("aten::")
        plain = plain_name(func, ACTIVATION_OPERATIONS)
        active = plain in ACTIVATION_OPERATIONS and isinstance(args[0], Tensor)
        result = func(*args, **kwargs)
        self._note_inputs(func, args, kwargs, result)
        first = result[0] if isinstance(result, (tuple, list)) and result else result
        if isinstance(first, Tensor):
            given = set(map(storage_key, tensors_in((*args, *kwargs.values()))))
            for each in tensors_in(result):
                self._computed += 0 if storage_key(each) in given else _bytes(each)  # views are of something
                self._follow(name, args, each)
            if active and self._stack:
                self._function(plain, func, args, kwargs, name != plain, first)
        return result

    def _refuse_training(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for each in written(func, args, kwargs):
            name = self._weights.get(storage_key(each))
            if name is not None:
                raise InputError(
                    f"the model's forward pass changes its parameter {name!r}; a model that trains itself can't be "
                    "probed"
                )

    def _note_inputs(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """What an operation gives, or writes to, depends on the inputs that any of its arguments does."""
        given = map(storage_key, tensors_in((*args, *kwargs.values())))
        reads = frozenset[str]().union(*(self._reads.get(key, frozenset()) for key in given))
        for each in tensors_in((result, *written(func, args, kwargs))):
            self._kept.append(each)  # so that no storage is taken for another
            self._reads[storage_key(each)] = reads | self._reads.get(storage_key(each), frozenset())

    def _inputs_of(self, tensor: Tensor) -> frozenset[str] | None:
        """The inputs that a tensor depends on; None if operations couldn't be followed."""
        return self._reads.get(storage_key(tensor), frozenset()) if self._computed else None

    def _follow(self, name: str, args: tuple[Any, ...], result: Tensor) -> None:
        """Carry the axis of units, and what layer a tensor is the output of, from arguments to result."""
        if name in RESHAPED:
            self._axes.pop(id(result), None)
        axis = axis_after(name, args, result, lambda tensor: self._axes.get(id(tensor)))
        if axis is not None:
            self._axes[id(result)] = axis
        first = args[0] if args else None
        if isinstance(first, Tensor) and name in VIEWS and id(first) in self._sources:
            self._sources[id(result)] = self._sources[id(first)]

    def _function(
        self, plain: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], in_place: bool, result: Tensor
    ) -> None:  # fmt: skip
        """An activation called as a function, unless a module of its own does it."""
        caller, value = self._stack[-1], args[0]
        ordinal = caller.operations[plain]
        for call in self._stack:
            call.operations[plain] += 1
        if any(isinstance(each.module, CLOSED) for each in self._stack):
            return
        if not _has_units(value) or result.shape != value.shape:
            return
        rest, name = args[1:], ACTIVATION_OPERATIONS[plain]

        def act(z: Tensor) -> Tensor:
            out = func(z.clone(), *rest, **kwargs)
            first: Tensor = out[0] if isinstance(out, tuple) else out
            return first

        layer = Layer(
            f"{_shown(caller.path)}:{name}", "function", name, tuple(value.shape), self._axis(value), name,
            caller.path, caller.number, operation=plain, ordinal=ordinal, in_place=in_place,
            reads=self._inputs_of(value), act=act,
        )  # fmt: skip
        if may_activate(caller.module):  # it's known at the end whether the module itself is one
            caller.functions.append((layer, value, result))
        else:
            self._add(layer, value, result)

    def _axis(self, tensor: Tensor) -> int:
        """Where the units are, as followed, else as usual."""
        return self._axes.get(id(tensor), usual_axis(tensor))


def _bytes(tensor: Tensor) -> int:
    """What a tensor takes; nothing for those that don't say, as sparse ones."""
    return tensor.nbytes if tensor.layout == torch.strided else 0


def _has_units(tensor: Tensor) -> bool:
    """Whether there can be units: floating-point numbers in rows and columns, and not sparse or ragged."""
    plain = tensor.layout == torch.strided and not tensor.is_nested
    return plain and tensor.is_floating_point() and tensor.ndim > 1


def _shown(path: str) -> str:
    """A path without the wrappers of compiled modules."""
    return ".".join(part for part in path.split(".") if part != COMPILED)
