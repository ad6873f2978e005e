"""Discovery of a model's layers, by watching one forward pass.

A layer is a place in a forward pass where a pre-activation occurs: the input of an activation (a module, or a
function like `F.relu` called in some module's forward), or the output of a linear, convolution or
normalization module. The outputs of all other modules are found too, and can be asked for by name.

The watch sees the modules and functions that are called, and their arguments. It follows each tensor through
the operations that PyTorch dispatches. These show the dimension of the units, the activation that follows a
linear layer, and the inputs that a layer depends on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from nearzero.errors import InputError
from nearzero.perturbations.activations import ACTIVATIONS
from nearzero.torch_models.batches import Batch
from nearzero.torch_models.hooks import elements_of, plain_name
from nearzero.torch_models.layer import Layer
from nearzero.torch_models.replay import storage_key, tensors_in, tensors_written
from nearzero.torch_models.state import Model

__all__ = ["CannotRunError", "Discovery", "find_layers"]


@dataclass(frozen=True, eq=False)
class Discovery:
    """The findings of one forward pass.

    Attributes:
        places: the layers and the outputs of all other modules, in the order of the forward pass.
        batch: the batch of that pass.
        bytes: the new memory that the operations of the pass took for their results, for all examples of the
            batch.
        logits: the bytes of the logits as float32.
        called: the paths of the modules that were called.
        problems: by path, why a module that was called can't be probed.
    """

    places: tuple[Layer, ...]
    batch: Batch
    bytes: int
    logits: int
    called: frozenset[str]
    problems: dict[str, str]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Return the layers, without the outputs of other modules."""
        return tuple(place for place in self.places if place.kind != "output")


class CannotRunError(InputError):
    """The model can't be run on a batch."""


def find_layers(model: Model, batch: Batch) -> Discovery:
    """Return the layers of a model, found in one forward pass on a batch.

    Sets `model.writes_inputs` too.

    Raises:
        CannotRunError: the model can't be run on the batch.
        InputError: the model returns no logits, or changes its weights.
    """
    copy = batch.copy()
    versions = [tensor._version for tensor in copy.inputs]
    for follow in (True, False):  # if some operation can't be followed, the modules still can
        watch = _Watch(model.module, copy.named)
        try:
            logits = _watched(model, copy, watch, follow=follow)
            break
        except InputError:
            raise
        except Exception as error:  # a user's forward may raise anything
            if not follow:
                raise CannotRunError(
                    f"the model can't be run on a batch of {batch.describe()}: {_reason(error)}; prepare=... makes "
                    "what it takes"
                ) from error
    model.writes_inputs = versions != [tensor._version for tensor in copy.inputs]
    return Discovery(
        places=tuple(_numbered(watch.layers)),
        batch=batch,
        bytes=watch.bytes,
        logits=4 * logits.numel(),
        called=frozenset(watch.calls),
        problems=watch.problems,
    )


def _reason(error: Exception, most: int = 200) -> str:
    """Return the first line of an error's message, cut after a word to at most some characters."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return line if len(line) <= most else f"{line[:most].rsplit(' ', 1)[0]} ..."


def _watched(model: Model, batch: Batch, watch: _Watch, *, follow: bool) -> Tensor:
    """Return the logits of a pass in which a watch sees the modules, and with `follow` the operations."""
    with ExitStack() as stack:
        for module in model.module.modules():
            if not isinstance(module, torch.jit.ScriptModule):  # these take no hooks
                handle = module.register_forward_pre_hook(watch.enter, with_kwargs=True, prepend=True)
                stack.callback(handle.remove)
                stack.callback(module.register_forward_hook(watch.leave, with_kwargs=True).remove)
        if follow:
            stack.enter_context(watch)
        return model.logits(batch)


def _numbered(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers with @1, @2, ... added to names that occur more than once, in order, and their elements."""
    total, seen = Counter((layer.name, layer.element) for layer in layers), Counter[Any]()
    numbered = {}
    for layer in layers:
        key = layer.name, layer.element
        seen[key] += 1
        name = f"{layer.name}@{seen[key]}" if total[key] > 1 else layer.name
        element = "".join(f"[{part}]" for part in layer.element)
        numbered[id(layer)] = replace(layer, name=name + element)
    return [replace(layer, follows=numbered.get(id(layer.follows))) for layer in numbered.values()]


# --- watching a forward pass ---


COMPILED = "_orig_mod"  # the attribute in which torch.compile keeps the wrapped module
WEIGHTS = "parametrizations"  # the path of modules that compute weights


@dataclass(eq=False)
class _Call:
    """A call of a module that is under way.

    Attributes:
        path, module: the module.
        number: which of its calls this is, counted from 1.
        given: the argument and a copy of it, if the module may be an activation; else None.
        operations: by operation, the number of its calls so far within this call.
        functions: the functions called within this call, each with its argument and result; they are layers
            unless the module turns out to be an activation itself.
    """

    path: str
    module: nn.Module
    number: int
    given: tuple[Tensor, Tensor] | None
    operations: Counter[str] = field(default_factory=Counter)
    functions: list[tuple[Layer, Tensor, Tensor]] = field(default_factory=list)


class _Watch(TorchDispatchMode):
    """Follows tensors through one forward pass.

    Tensors are identified by id, and kept until the end, so that no id is used twice.

    Args:
        module: the model.
        inputs: the names and tensors of the model's inputs.

    Attributes:
        layers: the layers and outputs found, in the order of the pass.
        calls: by path, the number of calls of a module.
        problems: by path, why a module that was called can't be probed.
    """

    def __init__(self, module: nn.Module, inputs: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self.calls: Counter[str] = Counter()
        self.problems: dict[str, str] = {}
        self._reads = {storage_key(tensor): frozenset([name]) for name, tensor in inputs}  # by storage
        self._module_bytes = self._operation_bytes = 0
        self._paths = {submodule: path for path, submodule in module.named_modules()}
        self._weights = {storage_key(weight): name for name, weight in module.named_parameters()}
        self._unit_axes: dict[int, int] = {}  # by tensor
        self._sources: dict[
            int, int
        ] = {}  # by tensor, also views: the index of the layer it is the output of
        self._kept: list[Tensor] = []
        self._stack: list[_Call] = []

    @property
    def bytes(self) -> int:
        """Return the bytes of all new results of operations, or of modules if operations can't be followed."""
        return self._operation_bytes or self._module_bytes

    # --- modules -------------------------------------------------------------------------------------------

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note that a call of a module begins."""
        path = self._paths[module]
        self.calls[path] += 1
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        with _disable_current_modes():  # this copy is not part of the model
            candidate = len(tensors) == 1 and may_be_activation(module)
            given = (tensors[0], tensors[0].clone()) if candidate else None
        self._stack.append(_Call(path, module, self.calls[path], given))

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Note that a call of a module ends, and drop calls in it that ended by an exception."""
        call = self._stack.pop()
        while call.module is not module:
            call = self._stack.pop()
        with _disable_current_modes():
            self._add_layers(call, output)
        if isinstance(output, Tensor):
            self._module_bytes += _bytes(output)

    def _add_layers(self, call: _Call, output: Any) -> None:
        """Add the layers of a call that ended: the module if it is one, and the functions called in it."""
        if WEIGHTS in call.path.split("."):
            return
        tensors = {place: tensor for place, tensor in elements_of(output) if _has_units(tensor)}
        if () in tensors and call.given is not None and output.shape == call.given[1].shape:
            known = isinstance(call.module, ACTIVATION_MODULES)
            samples = None if known else elementwise_samples(call.module, call.given[1])
            if known or samples is not None:
                self._add_activation(call, *call.given, output, activation_name(call.module, samples))
                return
        for layer, value, result in call.functions:
            self._add(layer, value, result)
        if not tensors:
            self.problems[call.path] = _without_units(output)
        for element, tensor in tensors.items():
            kind = producer_kind(call.module) if not element else None
            self._kept.append(tensor)
            if kind is not None:
                self._sources[id(tensor)] = len(self.layers)
            if kind or (call.path and COMPILED not in call.module._modules):  # not the model, not wrappers
                layer = self._module_layer(call, kind or "output", tensor)
                self.layers.append(replace(layer, element=element))

    def _add_activation(self, call: _Call, value: Tensor, before: Tensor, output: Tensor, name: str) -> None:
        """Add an activation module, from its argument, a copy of that before the call, and its output."""
        forward, in_place = call.module.forward, not torch.allclose(value, before, 0, 0, equal_nan=True)
        layer = self._module_layer(call, "activation", value)
        layer = replace(layer, activation=name, in_place=in_place, act=lambda z: forward(z.clone()))
        self._add(layer, value, output)

    def _module_layer(self, call: _Call, kind: str, values: Tensor) -> Layer:
        """Return the layer for one call of a module; `values` are its pre-activations."""
        return Layer(
            name=_display_path(call.path),
            kind=kind,
            type=type(call.module).__name__,
            shape=tuple(values.shape),
            unit_axis=self._unit_axis(values),
            activation=None,
            path=call.path,
            call=call.number,
            reads=self._inputs_of(values),
        )

    def _add(self, layer: Layer, value: Tensor, output: Tensor) -> None:
        """Add an activation, and enter it in the layer whose output it takes."""
        source = self._sources.get(id(value))
        if source is not None and self.layers[source].follows is None:
            self.layers[source] = replace(
                self.layers[source], follows=layer, act=layer.act, activation=layer.activation
            )
        self._kept.append(output)
        self._unit_axes.setdefault(id(output), layer.unit_axis)
        self.layers.append(layer)

    # --- operations ----------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and follow units, layers and inputs from its arguments to its results."""
        kwargs = kwargs or {}
        self._refuse_training(func, args, kwargs)
        name = func._schema.name.removeprefix("aten::")
        activates = plain_name(func, ACTIVATION_OPERATIONS) in ACTIVATION_OPERATIONS
        result = func(*args, **kwargs)
        self._note_inputs(func, args, kwargs, result)
        first = result[0] if isinstance(result, (tuple, list)) and result else result
        if isinstance(first, Tensor):
            given = set(map(storage_key, tensors_in((*args, *kwargs.values()))))
            for tensor in tensors_in(result):
                # a result on the storage of an argument takes no new memory
                self._operation_bytes += 0 if storage_key(tensor) in given else _bytes(tensor)
                self._follow(name, args, tensor)
            if activates and self._stack and isinstance(args[0], Tensor):
                self._add_function(func, args, kwargs, first)
        return result

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
        given = map(storage_key, tensors_in((*args, *kwargs.values())))
        reads = frozenset[str]().union(*(self._reads.get(key, frozenset()) for key in given))
        for tensor in tensors_in((result, *tensors_written(func, args, kwargs))):
            self._kept.append(tensor)  # so that its storage isn't freed and its key used for another
            self._reads[storage_key(tensor)] = reads | self._reads.get(storage_key(tensor), frozenset())

    def _inputs_of(self, tensor: Tensor) -> frozenset[str] | None:
        """Return the inputs that a tensor depends on; None if operations couldn't be followed."""
        return self._reads.get(storage_key(tensor), frozenset()) if self._operation_bytes else None

    def _follow(self, name: str, args: tuple[Any, ...], result: Tensor) -> None:
        """Note the unit axis of a result, and the layer that it is the output of, from the arguments."""
        if name in RESHAPING_IN_PLACE:
            self._unit_axes.pop(id(result), None)
        axis = unit_axis_after(name, args, result, lambda tensor: self._unit_axes.get(id(tensor)))
        if axis is not None:
            self._unit_axes[id(result)] = axis
        first = args[0] if args else None
        if isinstance(first, Tensor) and name in VALUE_PRESERVING and id(first) in self._sources:
            self._sources[id(result)] = self._sources[id(first)]

    def _add_function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> None:
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
            caller.functions.append((layer, value, result))
        else:
            self._add(layer, value, result)

    def _unit_axis(self, tensor: Tensor) -> int:
        """Return the dimension of units as followed through the pass, or the default one."""
        return self._unit_axes.get(id(tensor), default_unit_axis(tensor))


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


# --- module types: the kind of layer that a module is, and the name of its activation ---


ACTIVATION_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Threshold),
    *(nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softsign),
    *(nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid),
    *(nn.Hardshrink, nn.Softshrink, nn.Tanhshrink),
)
# Activations by the name of their operation; that of an in-place one has a trailing underscore.
ACTIVATION_OPERATIONS = {
    **{name: name for name in ("relu", "leaky_relu", "threshold", "abs")},
    **{name: name for name in ("elu", "celu", "gelu", "silu", "mish", "softplus")},
    **{name: name for name in ("tanh", "sigmoid", "hardtanh", "hardswish", "hardsigmoid")},
    **{name: name for name in ("hardshrink", "softshrink")},
    "_prelu_kernel": "prelu",
    "log_sigmoid_forward": "log_sigmoid",
}
RECURRENT = (nn.RNNBase, nn.RNNCellBase)  # the activations in these are gates, not layers
PASSIVE = (nn.Identity, nn.Dropout, nn.Flatten, nn.Unflatten, nn.Softmax, nn.modules.pooling._MaxPoolNd)
# Linear layers of other types: Hugging Face's, and that of attention in PyTorch.
LINEAR = ("Conv1D", "NonDynamicallyQuantizableLinear")


def may_be_activation(module: nn.Module) -> bool:
    """Return whether a module could be an activation: a known type, or one without submodules and weights."""
    plain = not any(True for _ in chain(module.children(), module.parameters()))
    return isinstance(module, ACTIVATION_MODULES) or (plain and not isinstance(module, PASSIVE))


def elementwise_samples(module: nn.Module, like: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return sample inputs and outputs if the module is elementwise and nonlinear, else None.

    A module is taken for elementwise if it commutes with a permutation of the numbers, and for nonlinear if
    its outputs aren't those of the straight line through its values at 0 and 1.

    Args:
        module: one that may be an activation.
        like: an argument of the module; the samples have its shape, dtype and device.
    """
    if not like.is_floating_point():
        return None
    generator = torch.Generator().manual_seed(0)
    inputs = (3 * torch.randn(like.shape, generator=generator)).to(like)
    order = torch.randperm(inputs.numel(), generator=generator).to(like.device)
    shuffled = inputs.reshape(-1)[order].reshape(inputs.shape)
    zeros, ones = torch.zeros_like(inputs), torch.ones_like(inputs)
    try:
        outputs, of_shuffled, at_zero, at_one = (
            module.forward(values.clone()) for values in (inputs, shuffled, zeros, ones)
        )
    except Exception:  # a user's forward that needs other arguments
        return None
    if not isinstance(outputs, Tensor) or outputs.shape != inputs.shape or not outputs.is_floating_point():
        return None
    elementwise = _close(of_shuffled, outputs.reshape(-1)[order].reshape(inputs.shape))
    linear = _close(outputs, at_zero + inputs * (at_one - at_zero))
    return (inputs, outputs) if elementwise and not linear else None


def _close(left: Tensor, right: Tensor) -> bool:
    tolerance = 1e-5 if left.dtype.itemsize >= 4 else 1e-2
    return torch.allclose(left, right.to(left.dtype), rtol=tolerance, atol=tolerance, equal_nan=True)


def activation_name(module: nn.Module, samples: tuple[Tensor, Tensor] | None) -> str:
    """Return an activation's name: PyTorch's, or a known activation's with equal outputs, or the class.

    Args:
        module: the activation.
        samples: as `elementwise_samples` returns them; None for PyTorch's types.
    """
    names: dict[type[nn.Module], str] = {nn.LeakyReLU: "leaky_relu", nn.LogSigmoid: "log_sigmoid"}
    if type(module) in ACTIVATION_MODULES:
        return names.get(type(module), type(module).__name__.lower())
    if samples is not None:
        inputs, outputs = samples
        for name, function in ACTIVATIONS.items():
            if _close(outputs, torch.from_numpy(function(inputs.double().cpu().numpy())).to(outputs)):
                return name
    return type(module).__name__


def producer_kind(module: nn.Module) -> str | None:
    """Return the kind of a module whose output can be a pre-activation; None for all other modules."""
    if isinstance(module, nn.Linear) or type(module).__name__ in LINEAR:
        return "linear"
    if isinstance(module, nn.modules.conv._ConvNd):
        return "convolution"
    norm = type(module).__name__.rstrip("123d").endswith("Norm") or "LayerNorm" in type(module).__name__
    leaf = not any(True for _ in module.children())
    return "normalization" if norm and leaf else None


# --- unit axes: the dimension on which an operation puts the units, followed through the pass ---


# Operations that keep the values of a layer's output: the result is still the output of that layer.
VALUE_PRESERVING = {
    *("view", "_unsafe_view", "expand", "unsqueeze", "squeeze"),
    *("alias", "detach", "clone", "contiguous", "dropout"),
}
UNITS_SECOND = ("convolution", "batch_norm", "group_norm", "instance_norm")  # parts of names
UNITS_LAST = ("addmm", "mm", "bmm", "baddbmm", "linear", "lstm", "gru", "mkldnn_rnn_layer", "embedding")
# Operations that change the shape of their argument, so that its unit axis as noted before no longer holds.
RESHAPING_IN_PLACE = {
    *("squeeze_", "unsqueeze_", "t_", "swapaxes_", "swapdims_"),
    *("resize_", "resize_as_", "set_", "as_strided_"),
}
# Operations after which only the shape hints at the unit axis.
RESHAPING = ("view", "_unsafe_view", "reshape", "as_strided")


def default_unit_axis(values: Tensor) -> int:
    """Return the second dimension for images and volumes, and the last for all other values."""
    return 1 if values.ndim in (4, 5) else values.ndim - 1


def unit_axis_after(
    name: str, args: tuple[Any, ...], result: Tensor, known: Callable[[Tensor], int | None]
) -> int | None:
    """Return the dimension of units after an operation; None if unknown.

    Args:
        name, args, result: the operation.
        known: returns the dimension of a tensor's units; None if unknown.
    """
    source = _source(args, result, known)
    axis = None if source is None else known(source)
    if any(part in name for part in UNITS_SECOND):
        return 1
    if name in UNITS_LAST:
        return result.ndim - 1
    if "layer_norm" in name or "rms_norm" in name:  # over the last dimensions, of which units may be any
        return result.ndim - 1 if axis is None else axis
    if source is None or axis is None:
        return None
    if name in ("permute", "transpose", "transpose_", "t"):
        return _permuted(name, args, source, axis)
    if source.ndim == result.ndim and (name not in RESHAPING or result.shape[axis] == source.shape[axis]):
        return axis
    if axis == source.ndim - 1 and result.ndim and result.shape[-1] == source.shape[-1]:
        return result.ndim - 1
    if axis < result.ndim and result.shape[: axis + 1] == source.shape[: axis + 1]:
        return axis
    return None


def _source(args: tuple[Any, ...], result: Tensor, known: Callable[[Tensor], int | None]) -> Tensor | None:
    """Return the first argument with a known unit axis, preferably one with the dimensions of the result."""
    sources = [tensor for tensor in tensors_in(args) if known(tensor) is not None]
    return next((tensor for tensor in sources if tensor.ndim == result.ndim), sources[0] if sources else None)


def _permuted(name: str, args: tuple[Any, ...], source: Tensor, axis: int) -> int:
    """Return the position of a dimension after a permutation."""
    if name == "permute":
        return [dim % source.ndim for dim in args[1]].index(axis)
    if name == "t":
        return 1 - axis if source.ndim == 2 else axis
    swapped = [dim % source.ndim for dim in args[1:3]]
    return swapped[1 - swapped.index(axis)] if axis in swapped else axis
