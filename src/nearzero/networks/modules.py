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
    """Read a network of the shape Linear, activation, Linear; flatten and dropout are passed over.

    The module is run once on a few inputs, to see that it computes what its layers say.

    Raises:
        InputError: the module has another shape, or computes something else, and what was seen instead.
    """
    passive = (nn.Flatten, nn.Dropout)
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
    network = TwoLayer(hidden.weight, hidden.bias, output.weight, output.bias, activation=_name_of(act))
    if network.finite:
        _check_forward(module, network, hidden.weight)
    return network


def _check_forward(module: nn.Module, network: TwoLayer, like: Tensor) -> None:
    """Hold what the module computes on a few inputs against what its layers say; `like` has its precision and device.

    The order of layers says nothing about `forward`. Logits may differ by a constant per example, as
    log-probabilities do. The module's mode is put back.
    """
    generator = torch.Generator().manual_seed(0)
    x = 10 * torch.randn(32, network.inputs, generator=generator)
    modes = [(each, each.training) for each in module.modules()]
    try:
        module.eval()
        with torch.no_grad():
            found = module(x.to(like)).double().cpu()
            hidden, act, output = network.to_module().double()
            expected = output(act(hidden(x.to(like).double().cpu())))
    except Exception as error:  # whatever a stranger's forward may raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the module can't be run on inputs (examples, {network.inputs}): {reason}"
        ) from error
    finally:
        for each, mode in modes:
            each.training = mode
    if found.shape != expected.shape:
        raise InputError(
            f"the module gives {tuple(found.shape)} where its layers give {tuple(expected.shape)}"
        )
    found, expected = (each - each.mean(dim=1, keepdim=True) for each in (found, expected))
    slack = 64 * torch.finfo(like.dtype).eps * max(1.0, float(expected.abs().max()))
    if not float((found - expected).abs().max()) <= slack:
        raise InputError(
            "the module's forward computes something else than Linear, activation, Linear of its layers "
            f"(logits differ by up to {float((found - expected).abs().max()):.3g}); make a TwoLayer from its arrays"
        )
