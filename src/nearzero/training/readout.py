"""From pre-activations to loss, hits and gradients: all of a step but the two products with the pixels.

On a GPU these products are short work for tensor cores, and what takes time is to read and write arrays as
large as the pre-activations, (R, n, U). So there are few of these: z, a, over which the gradient by a is written,
and at most one more, the gradient by z. On CUDA all of it can be one kernel, which makes do with z; this module is
what that kernel is held against, and what does the work everywhere else.

Logits are kept as (R, K, n), classes before examples, so that neighbours in memory are neighbours in work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nearzero.training.products import product

__all__ = ["Readout", "read_out"]

aten = torch.ops.aten


class Readout(NamedTuple):
    """What some examples contribute, for each of R runs.

    Attributes:
        loss: (R,) float64, sum of cross-entropies in nats. correct: (R,) int64.
        dz: (R, n, U) gradient of the summed loss by z, in z's type and layout. w2: (R, K, U), b2: (R, K)
            float32, likewise by the second layer. None where gradients weren't asked for.
    """

    loss: Tensor
    correct: Tensor
    dz: Tensor | None = None
    w2: Tensor | None = None
    b2: Tensor | None = None


# a = act(z), and the gradient by z from the gradient by a and z, both of which it may overwrite. These are
# autograd's own kernels, one pass over memory each, where PyTorch has one.
_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "relu": (torch.relu, lambda da, z: aten.threshold_backward(da, z, 0)),
    "abs": (torch.abs, lambda da, z: da.mul_(z.sign_())),
    "leaky_relu": (F.leaky_relu, lambda da, z: aten.leaky_relu_backward(da, z, 0.01, False)),
    "gelu": (F.gelu, lambda da, z: aten.gelu_backward(da, z)),
    "silu": (F.silu, lambda da, z: aten.silu_backward(da, z)),
    "tanh": (torch.tanh, lambda da, z: aten.tanh_backward(da, z.tanh_())),
    "sigmoid": (torch.sigmoid, lambda da, z: aten.sigmoid_backward(da, z.sigmoid_())),
    "softplus": (F.softplus, lambda da, z: aten.softplus_backward(da, z, 1, 20)),
    "elu": (F.elu, lambda da, z: aten.elu_backward(da, 1, 1, 1, False, z)),
}


def read_out(
    activation: str, z: Tensor, labels: Tensor, w2: Tensor, b2: Tensor, *, gradients: bool
) -> Readout:
    """Loss, hits and, if asked for, gradients.

    Args:
        activation: its name.
        z: (R, n, U), float32 or bfloat16; overwritten.
        labels: (n,) for all runs, or (R, n).
        w2: (R, K, U) in z's type. b2: (R, K) float32.
        gradients: whether to compute them.
    """
    act, slope = _ACTIVATIONS[activation]
    labels = labels.expand(len(z), -1)
    a = act(z)
    logits = product(w2, a.transpose(1, 2)).add_(b2[:, :, None])
    correct = (logits.argmax(1) == labels).sum(1)
    logs = torch.log_softmax(logits, 1)
    exact = torch.float32 if z.device.type == "mps" else torch.float64
    loss = -logs.gather(1, labels[:, None]).sum((1, 2), dtype=exact)
    if not gradients:
        return Readout(loss, correct)
    residual = logs.exp_()
    residual.scatter_add_(1, labels[:, None], residual.new_full((1, 1, 1), -1).expand_as(labels[:, None]))
    b2_gradient = residual.sum(2)
    residual = residual.to(z.dtype)
    w2_gradient = product(residual, a)
    da = torch.bmm(residual.transpose(1, 2), w2, out=a)
    return Readout(loss, correct, slope(da, z), w2_gradient, b2_gradient)
