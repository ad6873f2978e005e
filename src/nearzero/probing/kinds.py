"""What kind of layer a module is, and what its activation is called."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from nearzero.activations import ACTIVATIONS

__all__ = [
    "ACTIVATION_OPERATIONS",
    "CLOSED",
    "elementwise",
    "is_known",
    "may_activate",
    "name_of",
    "producer",
]

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


def is_known(module: nn.Module) -> bool:
    """Whether it's one of PyTorch's activations."""
    return isinstance(module, ACTIVATION_MODULES)


def may_activate(module: nn.Module) -> bool:
    """Whether a module could be an activation: a known one, or one without parts and weights."""
    plain = not any(True for _ in chain(module.children(), module.parameters()))
    return is_known(module) or (plain and not isinstance(module, PASSIVE))


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
