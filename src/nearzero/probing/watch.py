"""Watching one forward pass: which modules and functions are called, with what, and where the units are.

Each tensor is followed through the operations that PyTorch dispatches. So it's known which dimension the units
are on (a convolution puts them on the second, a matrix product on the last, and they're carried along through
whatever comes after), and which activation takes what a linear layer gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nearzero.probing.layer import Layer

__all__ = ["Watch"]

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
PASSIVE = (nn.Identity, nn.Dropout, nn.Flatten, nn.Unflatten)


@dataclass(eq=False)
class _Call:
    """A module at work."""

    path: str
    module: nn.Module
    number: int
    value: Tensor | None = None  # what it was given
    before: Tensor | None = None  # a copy of that, if it may be written to
    operations: list[tuple[str, Tensor]] = field(default_factory=list)


class Watch(TorchDispatchMode):
    """Follows tensors through one forward pass; tensors are known by id, and kept so that none is given twice."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self.bytes = 0  # of all that operations gave
        self.problems: dict[str, str] = {}  # why a module can't be probed
        self._names = {each: path for path, each in module.named_modules()}
        self._axes: dict[int, int] = {}
        self._sources: dict[
            int, int
        ] = {}  # tensor to the index of the layer whose output it is, views included
        self._kept: list[Tensor] = []
        self._stack: list[_Call] = []
        self.calls: Counter[str] = Counter()
        self._aside = False
        self._operations: Counter[str] = Counter()

    # --- modules -------------------------------------------------------------------------------------------

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module begins."""
        path = self._names[module]
        self.calls[path] += 1
        values = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        call = _Call(path, module, self.calls[path], values[0] if len(values) == 1 else None)
        if call.value is not None and _may_activate(module):
            with self._unwatched():
                call.before = call.value.clone()
        self._stack.append(call)

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A module ends."""
        with self._unwatched():
            self._leave(self._stack.pop(), output)

    def _leave(self, call: _Call, output: Any) -> None:
        module = call.module
        if isinstance(output, Tensor) and output.is_floating_point() and output.ndim > 1:
            if (
                call.before is not None
                and output.shape == call.before.shape
                and self._activates(call, output)
            ):
                self._add_activation(call, output)
            elif (kind := _producer(module)) is not None:
                layer = Layer(
                    call.path, kind, type(module).__name__, tuple(output.shape), self._axis(output), None,
                    call.path, call.number,
                )  # fmt: skip
                self._keep(output)
                self._sources[id(output)] = len(self.layers)
                self.layers.append(layer)
        elif not isinstance(output, Tensor):
            self.problems[call.path] = f"it returns a {type(output).__name__}, not a tensor"
        else:
            self.problems[call.path] = (
                f"it gives {output.dtype} of shape {tuple(output.shape)}, no units to perturb"
            )

    def _activates(self, call: _Call, output: Tensor) -> bool:
        """Whether a module works on each element by itself and changes something: tried on shuffled elements."""
        if isinstance(call.module, ACTIVATION_MODULES):
            return True
        before = call.before
        assert before is not None
        if not before.is_floating_point() or torch.equal(before, output):
            return False
        order = torch.randperm(before.numel(), device=before.device)
        shuffled = before.reshape(-1)[order].reshape(before.shape)
        try:
            again = call.module.forward(shuffled.clone())
        except Exception:  # a stranger's forward that wants something else
            return False
        expected = output.reshape(-1)[order].reshape(before.shape)
        return (
            isinstance(again, Tensor)
            and again.shape == before.shape
            and torch.allclose(again, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
        )

    def _add_activation(self, call: _Call, output: Tensor) -> None:
        value, before = call.value, call.before
        assert value is not None
        assert before is not None
        forward = call.module.forward
        name = _activation_name(call.module, [operation for operation, _ in call.operations])
        self._add(
            Layer(
                call.path, "activation", type(call.module).__name__, tuple(before.shape), self._axis(value), name,
                call.path, call.number, in_place=not torch.equal(value, before),
                act=lambda z: forward(z.clone()),
            ),
            value, output,
        )  # fmt: skip

    def _add(self, layer: Layer, value: Tensor, output: Tensor) -> None:
        source = self._sources.get(id(value))
        if source is not None and self.layers[source].follows is None:
            self.layers[source] = replace(
                self.layers[source], follows=layer, act=layer.act, activation=layer.activation
            )
        self._keep(output)
        self._axes.setdefault(id(output), layer.unit_axis)
        self.layers.append(layer)

    @contextmanager
    def _unwatched(self) -> Iterator[None]:
        """Operations in here aren't the model's."""
        before, self._aside = self._aside, True
        try:
            yield
        finally:
            self._aside = before

    # --- operations ----------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and note what it does to units."""
        kwargs = kwargs or {}
        if self._aside:
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        plain = name.removesuffix("_") if name not in ACTIVATION_OPERATIONS else name
        active = plain in ACTIVATION_OPERATIONS and args and isinstance(args[0], Tensor)
        before = args[0].clone() if active and name != plain else None
        result = func(*args, **kwargs)
        first = result[0] if isinstance(result, (tuple, list)) and result else result
        if isinstance(first, Tensor):
            self.bytes += first.nbytes
            self._follow(name, args, first)
            if active:
                self._function(plain, func, args, kwargs, before, first)
        return result

    def _follow(self, name: str, args: tuple[Any, ...], result: Tensor) -> None:
        """Carry the axis of units, and what layer a tensor is the output of, from arguments to result."""
        self._keep(result)
        values = [each for each in args if isinstance(each, Tensor)]
        axis = _axis_after(name, args, result, lambda tensor: self._axes.get(id(tensor)))
        if axis is not None:
            self._axes[id(result)] = axis
        if values and name in VIEWS and id(values[0]) in self._sources:
            self._sources[id(result)] = self._sources[id(values[0])]

    def _function(
        self, plain: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], before: Tensor | None,
        result: Tensor,
    ) -> None:  # fmt: skip
        """An activation called as a function, unless a module of its own does it."""
        ordinal = self._operations[plain]
        self._operations[plain] += 1
        value = args[0]
        for call in self._stack:
            call.operations.append((ACTIVATION_OPERATIONS[plain], value))
        inside = [call.module for call in self._stack]
        if any(isinstance(each, CLOSED) for each in inside) or (inside and _may_activate(inside[-1])):
            return
        if not value.is_floating_point() or value.ndim < 2 or result.shape != value.shape:
            return
        rest, name = args[1:], ACTIVATION_OPERATIONS[plain]

        def act(z: Tensor) -> Tensor:
            out = func(z.clone(), *rest, **kwargs)
            first: Tensor = out[0] if isinstance(out, tuple) else out
            return first

        path = self._stack[-1].path if self._stack else ""
        layer = Layer(
            f"{path}:{name}", "function", name, tuple(value.shape), self._axis(value), name, path,
            operation=plain, ordinal=ordinal, in_place=before is not None, act=act,
        )  # fmt: skip
        self._add(layer, value, result)

    def _axis(self, tensor: Tensor) -> int:
        """Where the units are: as followed, else 1 for images and volumes, and the last dimension for all else."""
        return self._axes.get(id(tensor), 1 if tensor.ndim in (4, 5) else tensor.ndim - 1)

    def _keep(self, tensor: Tensor) -> None:
        self._kept.append(tensor)


VIEWS = {
    "view",
    "_unsafe_view",
    "alias",
    "detach",
    "clone",
    "contiguous",
    "expand",
    "unsqueeze",
    "squeeze",
    "dropout",
}
AXIS_1 = ("convolution", "batch_norm", "group_norm", "instance_norm")
AXIS_LAST = (
    "addmm",
    "mm",
    "bmm",
    "baddbmm",
    "linear",
    "layer_norm",
    "rms_norm",
    "lstm",
    "gru",
    "mkldnn_rnn_layer",
)


def _axis_after(
    name: str, args: tuple[Any, ...], result: Tensor, known: Callable[[Tensor], int | None]
) -> int | None:
    """The dimension of units after an operation; None if unknown."""
    if any(part in name for part in AXIS_1):
        return 1
    if any(name == part or part in name.split("native_")[-1] for part in AXIS_LAST):
        return result.ndim - 1
    sources = [each for each in args if isinstance(each, Tensor) and known(each) is not None]
    if name in ("cat", "stack") and args and isinstance(args[0], (list, tuple)):
        sources = [each for each in args[0] if isinstance(each, Tensor) and known(each) is not None]
    if not sources:
        return None
    source = next((each for each in sources if each.ndim == result.ndim), sources[0])
    axis = known(source)
    assert axis is not None
    if name == "permute":
        return [dim % source.ndim for dim in args[1]].index(axis)
    if name in ("transpose", "transpose_"):
        swapped = [dim % source.ndim for dim in args[1:3]]
        return swapped[1 - swapped.index(axis)] if axis in swapped else axis
    if name == "t":
        return 1 - axis if source.ndim == 2 else axis
    if source.ndim == result.ndim:
        return axis if result.shape[axis] == source.shape[axis] else None
    if axis == source.ndim - 1 and result.ndim and result.shape[-1] == source.shape[-1]:
        return result.ndim - 1
    if axis < result.ndim and result.shape[: axis + 1] == source.shape[: axis + 1]:
        return axis
    return None


def _may_activate(module: nn.Module) -> bool:
    """Whether a module could be an activation: a known one, or one without parts and weights."""
    if isinstance(module, ACTIVATION_MODULES):
        return True
    plain = not any(True for _ in module.children()) and not any(True for _ in module.parameters())
    return plain and not isinstance(module, (*PASSIVE, nn.Softmax, nn.modules.pooling._MaxPoolNd))


def _producer(module: nn.Module) -> str | None:
    """What a module with weights is, if its output can be a pre-activation."""
    if isinstance(module, nn.Linear) or type(module).__name__ in (
        "Conv1D",
        "NonDynamicallyQuantizableLinear",
    ):
        return "linear"
    if isinstance(module, nn.modules.conv._ConvNd):
        return "convolution"
    norm = type(module).__name__.rstrip("123d").endswith("Norm") or "LayerNorm" in type(module).__name__
    leaf = not any(True for _ in module.children())
    return "normalization" if norm and leaf else None


def _activation_name(module: nn.Module, operations: list[str]) -> str:
    """The activation's name: by class for PyTorch's, else the operation it consists of, else its class."""
    known = {
        nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu", nn.GELU: "gelu", nn.SiLU: "silu", nn.Tanh: "tanh",
        nn.Sigmoid: "sigmoid", nn.Softplus: "softplus", nn.ELU: "elu",
    }  # fmt: skip
    if type(module) in known:
        return known[type(module)]
    if type(module).__name__.lower() == "abs" or operations == ["abs"]:
        return "abs"
    own = type(module).__module__.split(".")[0] == "torch"
    return type(module).__name__ if own or len(operations) != 1 else operations[0]
