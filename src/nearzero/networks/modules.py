"""PyTorch modules: the nine activations, and a layer that applies a perturbation."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nearzero.errors import InputError
from nearzero.perturbations.activations import activation
from nearzero.perturbations.perturbation import PARAMETERS, Perturbation

__all__ = ["Abs", "PerturbationLayer", "activation_module", "activation_name", "run_between"]


class Abs(nn.Module):
    """The activation |z|, elementwise."""

    def forward(self, z: Tensor) -> Tensor:
        """Return |z| for z of any shape."""
        return z.abs()


class PerturbationLayer(nn.Module):
    """A layer y = min(max(scale * x + offset, low), clip), for x of shape (..., U), to insert into a PyTorch model.

    Insert it before the activation if the side of the perturbation is "pre", after the activation if it is
    "post".

    Args:
        perturbation: the perturbation that the layer applies.
        units: U.

    Raises:
        InputError: the perturbation is for another number of units.

    Example:
        >>> import torch
        >>> import nearzero as nz
        >>> from nearzero.networks.modules import PerturbationLayer
        >>> layer = PerturbationLayer(nz.Perturbation(scale=2.0, clip=3.0), units=2)
        >>> layer(torch.tensor([[1.0, 2.0]])).tolist()
        [[2.0, 3.0]]
    """

    scale: Tensor
    offset: Tensor
    clip: Tensor
    low: Tensor

    def __init__(self, perturbation: Perturbation, units: int) -> None:
        super().__init__()
        for name, values in zip(PARAMETERS, perturbation.per_unit(units), strict=True):
            self.register_buffer(name, torch.from_numpy(values))

    def forward(self, x: Tensor) -> Tensor:
        """Return y for x, (..., U)."""
        return torch.minimum(torch.maximum(self.scale * x + self.offset, self.low), self.clip)


_MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "abs": Abs,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
}
# the parameter of a module that changes its function, and the value that it must have
_DEFAULTS = {nn.LeakyReLU: ("negative_slope", 0.01), nn.GELU: ("approximate", "none"), nn.ELU: ("alpha", 1.0)}


def activation_module(name: str) -> nn.Module:
    """Return the activation called `name` as a PyTorch module.

    Raises:
        InputError: no activation has that name.

    Example:
        >>> from nearzero.networks.modules import activation_module, activation_name
        >>> activation_module("gelu")
        GELU(approximate='none')
        >>> activation_name(activation_module("gelu"))
        'gelu'
    """
    return _MODULES[activation(name).name]()


def activation_name(module: nn.Module) -> str:
    """Return the name of an activation module.

    A class called Abs, of whatever origin, counts as the activation "abs".

    Raises:
        InputError: it isn't one of the nine activations, or its parameters aren't PyTorch's defaults.
    """
    kind = type(module)
    if kind.__name__.lower() == "abs":
        return "abs"
    name = next((name for name, module_type in _MODULES.items() if kind is module_type), None)
    if name is None:
        raise InputError(f"activation {module} isn't among the nine; known are {', '.join(_MODULES)}")
    attribute, value = _DEFAULTS.get(kind, ("", None))
    if attribute and getattr(module, attribute) != value:
        raise InputError(
            f"{module} has {attribute} other than {value}, which isn't among the nine activations"
        )
    if isinstance(module, nn.Softplus) and not (module.beta == 1 and module.threshold == 20):
        raise InputError(f"{module} isn't the default softplus, which alone is among the nine activations")
    return name


def run_between(module: nn.Module, parts: Iterable[nn.Module], x: Tensor) -> tuple[Tensor, set[str]]:
    """Return a module's output, and the names of the operations that it runs outside of some of its parts.

    Example:
        >>> import torch
        >>> from nearzero.networks.modules import run_between
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Hardtanh())
        >>> run_between(model, [model[0]], torch.zeros(1, 3))[1]
        {'hardtanh'}
    """
    operations = _Operations()
    with ExitStack() as stack:
        for part in parts:
            stack.callback(part.register_forward_pre_hook(operations.enter).remove)
            stack.callback(part.register_forward_hook(operations.leave, always_call=True).remove)
        with operations:
            return module(x), operations.names


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the names of operations, without the underscore of those in place, while no part is running."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()
        self._inside = 0

    def enter(self, *_: Any) -> None:
        self._inside += 1

    def leave(self, *_: Any) -> None:
        self._inside -= 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self._inside:
            self.names.add(func._schema.name.split("::")[-1].removesuffix("_"))
        return func(*args, **(kwargs or {}))
