"""Types of modules: the kind of layer that a module is, and the name of its activation."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from nearzero.perturbations.activations import ACTIVATIONS

__all__ = [
    "ACTIVATION_MODULES",
    "ACTIVATION_OPERATIONS",
    "RECURRENT",
    "activation_name",
    "elementwise_samples",
    "may_be_activation",
    "producer_kind",
]

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
