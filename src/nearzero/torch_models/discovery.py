"""What can be probed in a model: its layers, found by watching one forward pass, and chosen by name.

A layer is a place where a pre-activation comes by: the input of an activation (a module, or a function like
`F.relu` called in some module's forward), or the output of a linear, convolution or normalisation module.

The watch sees which modules and functions are called, and with what. Each tensor is followed through the operations
that PyTorch dispatches. So it's known which dimension the units are on, which activation takes what a linear layer
gives, and which of the inputs a layer depends on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from nearzero.errors import InputError, did_you_mean
from nearzero.perturbations.activations import ACTIVATIONS
from nearzero.torch_models.batches import Batch
from nearzero.torch_models.hooks import plain_name
from nearzero.torch_models.layer import Layer
from nearzero.torch_models.replay import storage_key, tensors_in, written
from nearzero.torch_models.state import Model

__all__ = ["CannotRunError", "Discovery", "find_layers", "select_layers"]


@dataclass(frozen=True, eq=False)
class Discovery:
    """What one forward pass showed.

    Attributes:
        layers: in the order in which the forward pass comes by them.
        batch: what was watched.
        bytes: what the operations of the pass gave in new memory, for all of its examples.
        logits: bytes of the logits as float32.
        called: the paths of modules that were called.
        problems: by path, why a module that was called can't be probed.
    """

    layers: tuple[Layer, ...]
    batch: Batch
    bytes: int
    logits: int
    called: frozenset[str]
    problems: dict[str, str]


class CannotRunError(InputError):
    """The model can't be run on a batch."""


def find_layers(model: Model, batch: Batch) -> Discovery:
    """Watch one forward pass on a batch; also finds whether the model writes into its inputs.

    Raises:
        CannotRunError: the model can't be run on the batch.
        InputError: what it returns holds no logits, or it changes its weights.
    """
    copy = batch.copy()
    versions = [each._version for each in copy.inputs]
    for follow in (True, False):  # some operations can't be followed; modules can nevertheless
        watch = _Watch(model.module, copy.named)
        try:
            logits = _watched(model, copy, watch, follow=follow)
            break
        except InputError:
            raise
        except Exception as error:  # whatever a stranger's forward may raise
            if not follow:
                raise CannotRunError(
                    f"the model can't be run on a batch of {batch.describe()}: {_reason(error)}; prepare=... makes "
                    "what it takes"
                ) from error
    model.writes_inputs = versions != [each._version for each in copy.inputs]
    return Discovery(
        tuple(_numbered(watch.layers)), batch, watch.bytes, 4 * logits.numel(), frozenset(watch.calls),
        watch.problems,
    )  # fmt: skip


def _reason(error: Exception, most: int = 200) -> str:
    """The first line of what a stranger's code raises, or as much of it as a sentence can bear."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return line if len(line) <= most else f"{line[:most].rsplit(' ', 1)[0]} ..."


def _watched(model: Model, batch: Batch, watch: _Watch, *, follow: bool) -> Tensor:
    """The logits of a pass in which a watch sees modules, and operations too if it's to follow them."""
    with ExitStack() as stack:
        for each in model.module.modules():
            if not isinstance(each, torch.jit.ScriptModule):  # these take no hooks
                handle = each.register_forward_pre_hook(watch.enter, with_kwargs=True, prepend=True)
                stack.callback(handle.remove)
                stack.callback(each.register_forward_hook(watch.leave, with_kwargs=True).remove)
        if follow:
            stack.enter_context(watch)
        return model.logits(batch)


def _numbered(layers: Sequence[Layer]) -> list[Layer]:
    """Names that are used more than once get @1, @2, ... in the order of the pass."""
    total, seen = Counter(each.name for each in layers), Counter[str]()
    named = {}
    for each in layers:
        seen[each.name] += 1
        name = f"{each.name}@{seen[each.name]}" if total[each.name] > 1 else each.name
        named[id(each)] = replace(each, name=name)
    return [replace(each, follows=named.get(id(each.follows))) for each in named.values()]


def select_layers(model: Model, found: Discovery, wanted: Sequence[str] | None) -> list[Layer]:
    """The layers that names or globs stand for, in the order of the pass; all activations if None.

    A module or function that is called several times stands for all of its calls; name@k is one of them.

    Raises:
        InputError: a name that stands for none, and why.
    """
    if wanted is None:
        chosen = [each for each in found.layers if each.kind in ("activation", "function")]
        if not chosen:
            instead = (
                f"name layers whose output is a pre-activation, of {_some([each.name for each in found.layers])}"
                if found.layers
                else "nor any linear, convolution or normalization layer, so nothing can be probed"
            )
            raise InputError(f"no activation was found in a forward pass; {instead}")
        return chosen
    names: set[str] = set()
    for name in wanted:
        known = [each.name for each in found.layers]
        matched = {each for each in known if name in (each, each.split("@")[0])}
        if not matched and _is_glob(name):
            matched = {each for each in known if fnmatchcase(each, name)}
        if not matched:
            raise InputError(_why_not(model, found, name))
        names |= matched
    return [each for each in found.layers if each.name in names]


def _is_glob(name: str) -> bool:
    return any(mark in name for mark in "*?[")


def _why_not(model: Model, found: Discovery, name: str) -> str:
    """Why there is no layer of a name, and what to do."""
    names = [each.name for each in found.layers]
    if _is_glob(name):
        return f"no layer matches {name!r}; the layers are {_some(names)}"
    path = name.split("@")[0]
    modules = dict(model.module.named_modules(remove_duplicate=False))
    if path in modules:
        path = next(known for known, each in model.module.named_modules() if each is modules[path])
        alias = [each for each in names if each.split("@")[0] == path]
        if alias:
            return f"layer {name!r} is known as {_some(alias)}"
        if path not in found.called:
            return (
                f"layer {name!r} isn't called in a forward pass, so nothing can be perturbed there (its weights may be "
                f"used directly); layers that are: {_some(names)}"
            )
        kind = type(modules[path]).__name__
        why = found.problems.get(
            path, "it is neither an activation nor a linear, convolution or normalization layer"
        )
        inside = [each for each in names if each.startswith((f"{path}.", f"{path}:"))]
        instead = f"; layers in it: {_some(inside)}" if inside else f"; layers are: {_some(names)}"
        return f"layer {name!r} ({kind}) can't be probed: {why}{instead}"
    return f"there is no layer {name!r}: {did_you_mean(name, names)}the layers are {_some(names)}"


def _some(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most]) or "none"
    return f"{shown}, ... ({len(names)} in all)" if len(names) > most else shown


# --- watching a forward pass ---


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


class _Watch(TorchDispatchMode):
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
            shown = (
                None
                if isinstance(call.module, ACTIVATION_MODULES)
                else elementwise(call.module, call.given[1])
            )
            if isinstance(call.module, ACTIVATION_MODULES) or shown is not None:
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


# --- what kind of layer a module is, and what its activation is called ---


ACTIVATION_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Softplus, nn.Softsign, nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid,
    nn.Threshold, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink,
)  # fmt: skip
# Activations as operations, and how they're called; those that write into their argument have a trailing _.
ACTIVATION_OPERATIONS = {
    "relu": "relu", "leaky_relu": "leaky_relu", "_prelu_kernel": "prelu", "elu": "elu", "gelu": "gelu",
    "silu": "silu", "mish": "mish", "softplus": "softplus", "tanh": "tanh", "sigmoid": "sigmoid", "abs": "abs",
    "hardtanh": "hardtanh", "hardswish": "hardswish", "hardsigmoid": "hardsigmoid",
    "log_sigmoid_forward": "log_sigmoid", "threshold": "threshold", "hardshrink": "hardshrink",
    "softshrink": "softshrink", "celu": "celu",
}  # fmt: skip
CLOSED = (nn.RNNBase, nn.RNNCellBase)  # activations inside of these are gates, not layers
PASSIVE = (nn.Identity, nn.Dropout, nn.Flatten, nn.Unflatten, nn.Softmax, nn.modules.pooling._MaxPoolNd)
# Linear layers by another name: Hugging Face's, and that of attention.
LINEAR = ("Conv1D", "NonDynamicallyQuantizableLinear")


def may_activate(module: nn.Module) -> bool:
    """Whether a module could be an activation: a known one, or one without parts and weights."""
    plain = not any(True for _ in chain(module.children(), module.parameters()))
    return isinstance(module, ACTIVATION_MODULES) or (plain and not isinstance(module, PASSIVE))


def elementwise(module: nn.Module, like: Tensor) -> tuple[Tensor, Tensor] | None:
    """Numbers, and what a module makes of them, if it works on each by itself and not along a straight line.

    Args:
        module: one that may be an activation.
        like: what it was given.
    """
    if not like.is_floating_point():
        return None
    generator = torch.Generator().manual_seed(0)
    tried = (3 * torch.randn(like.shape, generator=generator)).to(like)
    order = torch.randperm(tried.numel(), generator=generator).to(like.device)
    shuffled = tried.reshape(-1)[order].reshape(tried.shape)
    zeros, ones = torch.zeros_like(tried), torch.ones_like(tried)
    try:
        out, again, zero, one = (module.forward(each.clone()) for each in (tried, shuffled, zeros, ones))
    except Exception:  # a stranger's forward that wants something else
        return None
    if not isinstance(out, Tensor) or out.shape != tried.shape or not out.is_floating_point():
        return None
    in_order = _close(again, out.reshape(-1)[order].reshape(tried.shape))
    straight = _close(out, zero + tried * (one - zero))
    return (tried, out) if in_order and not straight else None


def _close(one: Tensor, other: Tensor) -> bool:
    slack = 1e-5 if one.dtype.itemsize >= 4 else 1e-2
    return torch.allclose(one, other.to(one.dtype), rtol=slack, atol=slack, equal_nan=True)


def name_of(module: nn.Module, shown: tuple[Tensor, Tensor] | None) -> str:
    """An activation's name: by class for PyTorch's, by what it does if that's one of the nine, else its class.

    Args:
        module: the activation.
        shown: as `elementwise` gives it, for those that aren't PyTorch's.
    """
    names: dict[type[nn.Module], str] = {nn.LeakyReLU: "leaky_relu", nn.LogSigmoid: "log_sigmoid"}
    if type(module) in ACTIVATION_MODULES:
        return names.get(type(module), type(module).__name__.lower())
    if shown is not None:
        tried, out = shown
        for name, known in ACTIVATIONS.items():
            if _close(out, torch.from_numpy(known(tried.double().cpu().numpy())).to(out)):
                return name
    return type(module).__name__


def producer(module: nn.Module) -> str | None:
    """What a module with weights is, if its output can be a pre-activation."""
    if isinstance(module, nn.Linear) or type(module).__name__ in LINEAR:
        return "linear"
    if isinstance(module, nn.modules.conv._ConvNd):
        return "convolution"
    norm = type(module).__name__.rstrip("123d").endswith("Norm") or "LayerNorm" in type(module).__name__
    leaf = not any(True for _ in module.children())
    return "normalization" if norm and leaf else None


# --- where the units are: the dimension that a convolution or a matrix product puts them on, carried along ---


# What leaves values, and who computed them, as they are.
VIEWS = {
    "view", "_unsafe_view", "alias", "detach", "clone", "contiguous", "expand", "unsqueeze", "squeeze", "dropout",
}  # fmt: skip
SECOND = ("convolution", "batch_norm", "group_norm", "instance_norm")
LAST = ("addmm", "mm", "bmm", "baddbmm", "linear", "lstm", "gru", "mkldnn_rnn_layer", "embedding")
# What changes a tensor's own shape, so that what was known of it no longer holds.
RESHAPED = {
    "squeeze_", "unsqueeze_", "t_", "swapaxes_", "swapdims_", "resize_", "resize_as_", "set_", "as_strided_",
}  # fmt: skip
SHAPED = ("view", "_unsafe_view", "reshape", "as_strided")  # of which nothing is known but the shape


def usual_axis(values: Tensor) -> int:
    """The second dimension for images and volumes, and the last for all else."""
    return 1 if values.ndim in (4, 5) else values.ndim - 1


def axis_after(
    name: str, args: tuple[Any, ...], result: Tensor, known: Callable[[Tensor], int | None]
) -> int | None:
    """The dimension of units after an operation; None if unknown.

    Args:
        name, args, result: the operation.
        known: the dimension of a tensor's units, if that's known.
    """
    source = _source(args, result, known)
    axis = None if source is None else known(source)
    if any(part in name for part in SECOND):
        return 1
    if name in LAST:
        return result.ndim - 1
    if "layer_norm" in name or "rms_norm" in name:  # over the last dimensions, of which units may be any
        return result.ndim - 1 if axis is None else axis
    if source is None or axis is None:
        return None
    if name in ("permute", "transpose", "transpose_", "t"):
        return _turned(name, args, source, axis)
    if source.ndim == result.ndim and (name not in SHAPED or result.shape[axis] == source.shape[axis]):
        return axis
    if axis == source.ndim - 1 and result.ndim and result.shape[-1] == source.shape[-1]:
        return result.ndim - 1
    if axis < result.ndim and result.shape[: axis + 1] == source.shape[: axis + 1]:
        return axis
    return None


def _source(args: tuple[Any, ...], result: Tensor, known: Callable[[Tensor], int | None]) -> Tensor | None:
    """The argument, or the first of a list that is one, whose units are known."""
    sources = [each for each in tensors_in(args) if known(each) is not None]
    return next((each for each in sources if each.ndim == result.ndim), sources[0] if sources else None)


def _turned(name: str, args: tuple[Any, ...], source: Tensor, axis: int) -> int:
    """Where a dimension is after a permutation."""
    if name == "permute":
        return [dim % source.ndim for dim in args[1]].index(axis)
    if name == "t":
        return 1 - axis if source.ndim == 2 else axis
    swapped = [dim % source.ndim for dim in args[1:3]]
    return swapped[1 - swapped.index(axis)] if axis in swapped else axis
