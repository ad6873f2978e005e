"""PyTorch modules: the nine activations, and a perturbation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nearzero.errors import InputError
from nearzero.perturbations.activations import activation
from nearzero.perturbations.perturbation import Perturbation

__all__ = ["Abs", "PerturbationLayer", "activation_module", "activation_name"]


class Abs(nn.Module):
    """|z|, elementwise."""

    def forward(self, z: Tensor) -> Tensor:
        """z of any shape."""
        return z.abs()


class PerturbationLayer(nn.Module):
    """min(scale * x + offset, clip), for x of shape (..., U): a perturbation to put into a model of one's
    own.

    Put it before the activation, or after it for one with side "post".
    """

    scale: Tensor
    offset: Tensor
    clip: Tensor

    def __init__(self, perturbation: Perturbation, units: int) -> None:
        super().__init__()
        for name, values in zip(("scale", "offset", "clip"), perturbation.per_unit(units), strict=True):
            self.register_buffer(name, torch.from_numpy(values))

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (..., U)."""
        return torch.minimum(self.scale * x + self.offset, self.clip)


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
_DEFAULTS = {nn.LeakyReLU: ("negative_slope", 0.01), nn.GELU: ("approximate", "none"), nn.ELU: ("alpha", 1.0)}


def activation_module(name: str) -> nn.Module:
    """The activation called `name` as a PyTorch module.

    Raises:
        InputError: there is none of that name.
    """
    return _MODULES[activation(name).name]()


def activation_name(module: nn.Module) -> str:
    """Return the name of an activation module.

    Raises:
        InputError: it isn't among the nine, or has other parameters.
    """
    kind = type(module)
    if kind.__name__.lower() == "abs":
        return "abs"
    name = next((name for name, known in _MODULES.items() if kind is known), None)
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
