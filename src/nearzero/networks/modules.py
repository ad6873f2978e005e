"""Where the paper's networks meet PyTorch modules: activations and perturbations as modules, and a module of
this shape read back.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nearzero.activations import activation
from nearzero.errors import InputError
from nearzero.networks.two_layer import TwoLayer
from nearzero.perturbation import Perturbation

__all__ = ["Abs", "PerturbationLayer", "activation_module", "from_module"]


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


def _name_of(module: nn.Module) -> str:
    kind = type(module)
    if kind.__name__.lower() == "abs":
        return "abs"
    for name, known in _MODULES.items():
        if kind is known:
            attribute, value = _DEFAULTS.get(kind, ("", None))
            if attribute and getattr(module, attribute) != value:
                raise InputError(
                    f"{module} has {attribute} other than {value}, which isn't among the nine activations"
                )
            if isinstance(module, nn.Softplus) and not (module.beta == 1 and module.threshold == 20):
                raise InputError(
                    f"{module} isn't the default softplus, which alone is among the nine activations"
                )
            return name
    raise InputError(f"activation {module} isn't among the nine; known are {', '.join(_MODULES)}")


def from_module(module: nn.Module) -> TwoLayer:
    """Read a network of the shape Linear, activation, Linear (flatten, identity and dropout in between are
    passed over).

    Raises:
        InputError: the module has another shape, and what was seen instead.
    """
    passive = (nn.Flatten, nn.Identity, nn.Dropout)
    leaves = [each for each in module.modules() if not any(True for _ in each.children())]
    parts = [each for each in leaves if not isinstance(each, passive)]
    shape = [type(each).__name__ for each in parts]
    fits = len(parts) == 3 and isinstance(parts[0], nn.Linear) and isinstance(parts[2], nn.Linear)
    if not fits:
        raise InputError(
            f"a two-layer network is Linear, activation, Linear; this module has {', '.join(shape) or 'no layers'}"
        )
    hidden, act, output = parts
    assert isinstance(hidden, nn.Linear)
    assert isinstance(output, nn.Linear)
    if hidden.bias is None or output.bias is None:
        raise InputError("both Linear layers need a bias; give zeros where there is none")
    return TwoLayer(hidden.weight, hidden.bias, output.weight, output.bias, activation=_name_of(act))
