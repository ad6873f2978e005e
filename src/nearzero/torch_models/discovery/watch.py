"""The watch over one forward pass: it sees modules, functions and tensors, and finds the layers.

The watch sees the modules and functions that are called, and their arguments. It follows each tensor through
the operations that PyTorch dispatches. These show the dimension of the units, the activation that follows a
linear layer, and the inputs that a layer depends on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from nearzero.errors import InputError
from nearzero.torch_models.assumptions.origins import Origins
from nearzero.torch_models.assumptions.unit_axes import UnitAxes, default_unit_axis
from nearzero.torch_models.discovery.chains import Chains, Values
from nearzero.torch_models.discovery.module_types import (
    ACTIVATION_MODULES,
    ACTIVATION_OPERATIONS,
    RECURRENT,
    activation_name,
    elementwise_samples,
    may_be_activation,
    producer_kind,
)
from nearzero.torch_models.discovery.norms import gives
from nearzero.torch_models.hooks import elements_of, plain_name
from nearzero.torch_models.layer import Layer
from nearzero.torch_models.placement import weights_of
from nearzero.torch_models.replay import draws, storage_key, tensors_in, tensors_written

__all__ = ["Watch"]

COMPILED = "_orig_mod"  # the attribute in which torch.compile keeps the wrapped module
DRAWN = "drawn by "  # before the name of an operation, among the inputs that a tensor depends on
WEIGHTS = "parametrizations"  # the path of modules that compute weights
# Operations that keep the values of a layer's output: the result is still the output of that layer.
VALUE_PRESERVING = {
    *("view", "_unsafe_view", "expand", "unsqueeze", "squeeze"),
    *("alias", "detach", "clone", "contiguous", "dropout"),
}
UNSEEN = (
    "?"  # stands among the inputs that a tensor reads for tensors that came from outside of the operations
)


@dataclass(frozen=True, eq=False)
class _Given:
    """The argument of a module at its call: the tensor, a copy of its values, and their key."""

    tensor: Tensor
    copy: Tensor
    values: Values


@dataclass(eq=False)
class _Call:
    """A call of a module that is under way.

    Attributes:
        path, module: the module.
        number: which of its calls this is, counted from 1.
        given: the argument as it was at the call, if the module may be an activation; else None.
        operations: by operation, the number of its calls so far within this call.
        functions: the functions called within this call, each with its argument, its result and the number of
            its operation; they are layers unless the module turns out to be an activation itself.
    """

    path: str
    module: nn.Module
    number: int
    given: _Given | None
    operations: Counter[str] = field(default_factory=Counter)
    functions: list[tuple[Layer, Values, Tensor, int]] = field(default_factory=list)


class Watch(TorchDispatchMode):
    """Follows tensors through one forward pass.

    Tensors are identified by id, and kept until the end, so that no id is used twice. Their values are
    identified by the number of writes to their storage too. Views and copies have the values of their
    original.

    Args:
        module: the model.
        inputs: the names and tensors of the model's inputs.

    Attributes:
        layers: the layers and outputs found, in the order of the pass.
        calls: by path, the number of calls of a module.
        problems: by path, why a module that was called can't be probed.
        threaded: whether modules were called in another thread than the model.
        unit_axes, origins: what is known of each tensor.
    """

    def __init__(self, module: nn.Module, inputs: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self.calls: Counter[str] = Counter()
        self.problems: dict[str, str] = {}
        self._reads = {storage_key(tensor): frozenset([name]) for name, tensor in inputs}  # by storage
        self._module_bytes = self._operation_bytes = 0
        self._read = ""  # the operation that drew numbers which Python has read
        self._thread = get_ident()
        self.threaded = False
        self._paths = {submodule: path for path, submodule in module.named_modules()}
        self._weights = {storage_key(weight): name for name, weight in module.named_parameters()}
        self._constants = {*self._weights, *map(storage_key, module.buffers())}
        self._used: set[int] = set()  # storages that operations read
        self._is_loading = False  # whether a hook loads weights, or drops them
        self._loaded: dict[int, list[Tensor]] = {}  # by storage of loaded weights, what shares it
        self.unit_axes = UnitAxes(
            lambda tensor: bool(self._reads.get(storage_key(tensor))), module.parameters()
        )
        self.origins = Origins()
        self._chains = Chains()
        self._writes: Counter[int] = Counter()  # by storage
        self._originals: dict[Values, Values] = {}  # by the values of a view or copy
        self._operations = 0
        # By values: the operations that read them, by number, and the calls under way then.
        self._readers: defaultdict[Values, list[tuple[int, tuple[_Call, ...]]]] = defaultdict(list)
        self._sources: dict[Values, int] = {}  # the index of the layer whose output they are
        # By index of an activation: the values that it takes, and its call or the number of its operation.
        self._taken: dict[int, tuple[Values, _Call | int]] = {}
        self._kept: list[Tensor] = []
        self._stack: list[_Call] = []

    @property
    def bytes(self) -> int:
        """Return the bytes of all new results of operations, or of modules if operations can't be followed."""
        return self._operation_bytes or self._module_bytes

    # --- modules -------------------------------------------------------------------------------------------

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note that a call of a module begins."""
        self.threaded |= get_ident() != self._thread
        path = self._paths[module]
        self.calls[path] += 1
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        with _disable_current_modes():  # this copy is not part of the model
            candidate = len(tensors) == 1 and may_be_activation(module)
            given = _Given(tensors[0], tensors[0].clone(), self._values(tensors[0])) if candidate else None
        self._stack.append(_Call(path, module, self.calls[path], given))

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Note that a call of a module ends, and drop calls in it that ended by an exception."""
        call = self._stack.pop()
        while call.module is not module:
            call = self._stack.pop()
        with _disable_current_modes():
            self._add_layers(call, [*args, *kwargs.values()], output)
        if isinstance(output, Tensor):
            self._module_bytes += _bytes(output)

    def _add_layers(self, call: _Call, arguments: Sequence[Any], output: Any) -> None:
        """Add the layers of a call that ended: the module if it is one, and the functions called in it."""
        if WEIGHTS in call.path.split("."):
            return
        tensors = {place: tensor for place, tensor in elements_of(output) if _has_units(tensor)}
        if () in tensors and call.given is not None and output.shape == call.given.copy.shape:
            known = isinstance(call.module, ACTIVATION_MODULES)
            samples = None if known else elementwise_samples(call.module, call.given.copy)
            if known or samples is not None:
                self._add_activation(call, call.given, output, activation_name(call.module, samples))
                return
        for function in call.functions:
            self._add(*function)
        if not tensors:
            self.problems[call.path] = _without_units(output)
        given = next((each for each in arguments if isinstance(each, Tensor)), None)
        if (
            given is not None
            and _has_units(given)
            and producer_kind(call.module) in ("linear", "convolution")
        ):
            layer = self._module_layer(call, "input", given)
            self.layers.append(replace(layer, name=f"{layer.name}:input", operation="input"))
        for element, tensor in tensors.items():
            kind = producer_kind(call.module) if not element else None
            self._kept.append(tensor)
            if kind is not None:
                self._sources[self._values(tensor)] = len(self.layers)
            if kind or (call.path and COMPILED not in call.module._modules):  # not the model, not wrappers
                layer = self._module_layer(call, kind or "output", tensor)
                known = bool(kind) and layer.is_followed and gives(call.module, arguments, output)
                self.layers.append(replace(layer, element=element, producer=call.path if known else None))

    def _add_activation(self, call: _Call, given: _Given, output: Tensor, name: str) -> None:
        """Add an activation module, from its argument and its output."""
        forward, in_place = (
            call.module.forward,
            not torch.allclose(given.tensor, given.copy, 0, 0, equal_nan=True),
        )
        layer = self._module_layer(call, "activation", given.tensor)
        layer = replace(layer, activation=name, in_place=in_place, act=lambda z: forward(z.clone()))
        self.unit_axes.copy(given.tensor, output)
        self._add(layer, given.values, output, call)

    def _module_layer(self, call: _Call, kind: str, values: Tensor) -> Layer:
        """Return the layer for one call of a module; `values` are its pre-activations."""
        axes = self.unit_axes.of(values)
        return Layer(
            name=_display_path(call.path),
            kind=kind,
            type=type(call.module).__name__,
            shape=tuple(values.shape),
            unit_axis=axes[0] if axes is not None and len(axes) == 1 else default_unit_axis(values),
            unit_axes=axes,
            activation=None,
            path=call.path,
            call=call.number,
            reads=self._inputs_of(values),
        )

    def _add(self, layer: Layer, values: Values, output: Tensor, by: _Call | int) -> None:
        """Add an activation, with the values that it takes, its result, and its call or operation."""
        self._taken[len(self.layers)] = values, by
        self._kept.append(output)
        self.layers.append(layer)

    # --- weights that are loaded for a call ---------------------------------------------------------------

    @contextmanager
    def of_loader(self, module: nn.Module, hook: Any) -> Iterator[None]:
        """Know the weights that a hook loads before each call of a module, and forget them after it.

        So no more weights are held at a time than the hooks load.
        """
        before, after = hook.pre_forward, hook.post_forward

        def load(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            with self._loading():
                given = before(module, *args, **kwargs)
            for weight in weights_of(module, hook):
                key = storage_key(weight)
                if weight.device.type != "meta" and key not in self._constants:
                    self._constants.add(key)
                    self._loaded[key] = [weight]
                    self.unit_axes.weights.add(key)
            return given

        def drop(module: nn.Module, output: Any) -> Any:
            keys = {storage_key(weight) for weight in weights_of(module, hook)} & self._loaded.keys()
            with self._loading():
                result = after(module, output)
            for key in keys:
                self._forget(key)
            return result

        hook.pre_forward, hook.post_forward = load, drop
        try:
            yield
        finally:
            del hook.pre_forward, hook.post_forward

    @contextmanager
    def _loading(self) -> Iterator[None]:
        self._is_loading = True
        try:
            yield
        finally:
            self._is_loading = False

    def _forget(self, key: int) -> None:
        """Forget the weights on a storage, and the tensors that share it."""
        for tensor in self._loaded.pop(key):
            self.unit_axes.forget(tensor)
            self.origins.forget(tensor)
            values = id(tensor), self._writes[key]
            self._originals.pop(values, None)
            self._readers.pop(values, None)
        self._constants.discard(key)
        self.unit_axes.weights.discard(key)
        self._reads.pop(key, None)
        self._used.discard(key)

    def _keep(self, tensor: Tensor) -> None:
        """Keep a tensor, or its storage could be freed and its key used for another; of loaded weights, for a call."""
        self._loaded.get(storage_key(tensor), self._kept).append(tensor)

    # --- operations ----------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and follow units, layers and inputs from its arguments to its results."""
        kwargs = kwargs or {}
        if self._is_loading and not any(
            self._reads.get(storage_key(each)) for each in tensors_in((args, *kwargs.values()))
        ):
            return func(*args, **kwargs)  # of weights; those of arguments, which are moved too, are followed
        self._refuse_training(func, args, kwargs)
        name = func._schema.name.removeprefix("aten::")
        activates = plain_name(func, ACTIVATION_OPERATIONS) in ACTIVATION_OPERATIONS
        self._operations += 1
        self._note_reading(name, (*args, *kwargs.values()))
        values = self._values(args[0]) if activates and isinstance(args[0], Tensor) else None
        variable = [
            self._values(tensor)
            for tensor in tensors_in((*args, *kwargs.values()))
            if self._reads_of(storage_key(tensor))
        ]
        result = func(*args, **kwargs)
        self._note_inputs(func, args, kwargs, result)
        first = result[0] if isinstance(result, (tuple, list)) and result else result
        if isinstance(first, Tensor):
            given = set(map(storage_key, tensors_in((*args, *kwargs.values()))))
            for tensor in tensors_in(result):
                # a result on the storage of an argument takes no new memory
                self._operation_bytes += 0 if storage_key(tensor) in given else _bytes(tensor)
                self._follow(name, args, tensor)
            if values is not None and self._stack:
                self._add_function(func, args, kwargs, first, values)
        self._writes.update({storage_key(tensor): 1 for tensor in tensors_written(func, args, kwargs)})
        if isinstance(first, Tensor) and variable:
            self._chains.follow(name, self._operations, variable, self._values(first))
        return result

    def _values(self, tensor: Tensor) -> Values:
        """Return the key of a tensor's present values: that of its original for a view or a copy."""
        values = id(tensor), self._writes[storage_key(tensor)]
        return self._originals.get(values, values)

    def _note_reading(self, name: str, arguments: Any) -> None:
        """Note an operation that reads the values of its arguments, except those that only pass them on."""
        if name in VALUE_PRESERVING or name.startswith("new_") or name.endswith("_like"):
            return
        for tensor in tensors_in(arguments):
            self._readers[self._values(tensor)].append((self._operations, tuple(self._stack)))

    def _refuse_training(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for tensor in tensors_written(func, args, kwargs):
            name = self._weights.get(storage_key(tensor))
            if name is not None:
                raise InputError(
                    f"the model's forward pass changes its parameter {name!r}; a model that trains itself can't be "
                    "probed"
                )

    def _note_inputs(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Note the inputs that the results of an operation, and the tensors it writes to, depend on."""
        given = set(map(storage_key, tensors_in((*args, *kwargs.values()))))
        self._used |= given
        reads = frozenset[str]().union(*map(self._reads_of, given))
        if draws(func, args, kwargs):
            reads |= {DRAWN + func._schema.name}
        if torch.Tag.data_dependent_output in func.tags or func._schema.name == "aten::is_nonzero":
            self._read = self._read or _drawn(reads)
        for tensor in tensors_in((result, *tensors_written(func, args, kwargs))):
            self._keep(tensor)
            self._reads[storage_key(tensor)] = reads | self._reads.get(storage_key(tensor), frozenset())

    def _reads_of(self, key: int) -> frozenset[str]:
        """Return the inputs that a storage depends on; `UNSEEN` if no operation made it."""
        return self._reads.get(key, frozenset() if key in self._constants else frozenset([UNSEEN]))

    def _inputs_of(self, tensor: Tensor) -> frozenset[str] | None:
        """Return the inputs that a tensor depends on; None if operations couldn't be followed."""
        if not self._operation_bytes:
            return None
        reads = self._reads_of(storage_key(tensor))
        return frozenset(name for name in reads if not name.startswith(DRAWN))

    def random_in(self, logits: Tensor) -> str:
        """Return the operation that drew random numbers on which the logits depend, or which Python has read; or ""."""
        return self._read or _drawn(self._reads.get(storage_key(logits), frozenset()))

    def _follow(self, name: str, args: tuple[Any, ...], result: Tensor) -> None:
        """Note the unit axis of a result, and the layer that it is the output of, from the arguments."""
        self.unit_axes.follow(name, args, result)
        self.origins.follow(name, args, result)
        first = args[0] if args else None
        if isinstance(first, Tensor) and name in VALUE_PRESERVING:
            copied = id(result), self._writes[storage_key(result)]
            self._originals[copied] = self._values(first)

    def _add_function(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Tensor,
        values: Values,
    ) -> None:
        """Add an activation that was called as a function, unless it is part of an activation module."""
        caller, value = self._stack[-1], args[0]
        plain = plain_name(func, ACTIVATION_OPERATIONS)
        ordinal = caller.operations[plain]
        for call in self._stack:
            call.operations[plain] += 1
        if any(isinstance(call.module, RECURRENT) for call in self._stack):
            return
        if not _has_units(value) or result.shape != value.shape:
            return
        more_args, name = args[1:], ACTIVATION_OPERATIONS[plain]

        def act(z: Tensor) -> Tensor:
            output = func(z.clone(), *more_args, **kwargs)
            first: Tensor = output[0] if isinstance(output, tuple) else output
            return first

        layer = replace(
            self._module_layer(caller, "function", value),
            name=f"{_display_path(caller.path)}:{name}",
            type=name,
            activation=name,
            operation=plain,
            ordinal=ordinal,
            in_place=func._schema.name != f"aten::{plain}",
            act=act,
        )
        if may_be_activation(caller.module):  # whether the module itself is one shows at its end
            caller.functions.append((layer, values, result, self._operations))
        else:
            self._add(layer, values, result, self._operations)

    # --- the end of the pass ---------------------------------------------------------------------------------

    def found(self, logits: Tensor) -> list[Layer]:
        """Return the layers, each with the activation that follows it, after the pass has given some logits.

        An activation follows a layer if nothing else reads the layer's output. Layers that depend on no input
        of the model aren't layers; of these, modules are kept as outputs.
        """
        self._readers[self._values(logits)].append((self._operations + 1, ()))
        layers = list(self.layers)
        for index, (values, by) in self._taken.items():
            activation = layers[index]
            alone = all(by == number or by in calls for number, calls in self._readers[values])
            source = self._sources.get(values)
            if source is not None:
                producer = layers[source]
                known = activation.is_followed and activation.units == producer.units
                activation = replace(activation, producer=producer.producer if known else None)
            layers[index] = activation = replace(
                activation, branch=not (alone and self._is_whole(values, by))
            )
            if source is not None and alone:
                layers[source] = replace(
                    producer, follows=activation, act=activation.act, activation=activation.activation
                )
        return [reading for layer in layers if (reading := self._with_inputs(layer)) is not None]

    def _is_whole(self, values: Values, by: _Call | int) -> bool:
        """Return whether nothing but an activation, by its call or operation, reads what its argument is made of.

        In h * sigmoid(1.7 h) the sigmoid isn't whole: its argument is made of h, which the product reads.
        """
        chain = self._chains.of(values)
        return all(
            by == number or by in calls or number in chain.operations
            for made_of in chain.values
            for number, calls in self._readers[made_of]
        )

    def _with_inputs(self, layer: Layer) -> Layer | None:
        """Return a layer that reads an input of the model; of others, modules as outputs, and None for all else."""
        if layer.kind == "output" or layer.reads is None or layer.reads:
            return layer
        if layer.is_input_of_activation or layer.kind == "input":
            if layer.kind == "activation":
                self.problems[layer.path] = "it reads no input of the model, only weights"
            return None
        return replace(layer, kind="output", activation=None, act=None, follows=None)

    @property
    def idle(self) -> frozenset[str]:
        """Return the paths of the modules with weights that the pass has neither called nor read."""
        return frozenset(
            path
            for module, path in self._paths.items()
            if path not in self.calls
            and WEIGHTS not in path.split(".")
            and not any(True for _ in module.children())
            and (weights := list(module.parameters(recurse=False)))
            and self._used.isdisjoint(map(storage_key, weights))
        )


def _drawn(reads: Iterable[str]) -> str:
    """Return an operation that drew random numbers, of what a tensor depends on; "" if there is none."""
    return next((name.removeprefix(DRAWN) for name in sorted(reads) if name.startswith(DRAWN)), "")


def _without_units(output: Any) -> str:
    """Return the reason why nothing that a module returns can be perturbed."""
    if not isinstance(output, Tensor):
        return f"it returns a {type(output).__name__}, in which no tensor has units to perturb"
    dtype = str(output.dtype if output.layout == torch.strided else output.layout)
    return f"it gives {dtype.removeprefix('torch.')} of shape {tuple(output.shape)}, no units to perturb"


def _bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor; 0 for sparse and nested ones, which don't tell."""
    return tensor.nbytes if tensor.layout == torch.strided else 0


def _has_units(tensor: Tensor) -> bool:
    """Return whether a tensor can have units: dense floating-point numbers of at least two dimensions."""
    plain = tensor.layout == torch.strided and not tensor.is_nested
    return plain and tensor.is_floating_point() and tensor.ndim > 1


def _display_path(path: str) -> str:
    """Return a path without the wrappers of compiled modules."""
    return ".".join(part for part in path.split(".") if part != COMPILED)
