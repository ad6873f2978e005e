"""From pre-activations to loss, correct predictions and gradients.

This is all of a training step except the products with the pixels.

On a GPU, tensor cores compute these products quickly, and most of the time goes to reading and writing arrays
of the size of the pre-activations, (R, n, U). So there are few of these arrays: z; a, which the gradient with
respect to a overwrites; and at most one more, the gradient with respect to z. On CUDA a single kernel that
only needs z can do all of this (`nearzero.training.readout_kernel`). This module is the reference for that
kernel, and does the work wherever the kernel can't be used.

Logits are (R, K, n), classes before examples, so that examples that are processed together are adjacent in
memory.
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
    """Sums over n examples, for each of R runs.

    Attributes:
        loss: (R,) float64 (float32 on MPS), the sum of cross-entropies in nats.
        correct: (R,) int64, the number of correct predictions.
        dz: (R, n, U), the gradient of the summed loss with respect to z, in z's type and layout. None, like
            the following, if gradients weren't computed.
        w2, b2: (R, K, U) and (R, K) float32, the gradients with respect to the second layer.
    """

    loss: Tensor
    correct: Tensor
    dz: Tensor | None = None
    w2: Tensor | None = None
    b2: Tensor | None = None


# act(z), and a function of (da, z) that returns dz and may overwrite both. Where PyTorch has a kernel for it,
# which autograd uses too, this is one pass over memory.
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
    """Return loss, correct predictions and, if wanted, gradients.

    Args:
        activation: the name of the activation.
        z: (R, n, U), float32 or bfloat16; overwritten.
        labels: (n,) for all runs, or (R, n).
        w2: (R, K, U) in z's type.
        b2: (R, K) float32.
        gradients: whether to compute gradients.
    """
    act, backward = _ACTIVATIONS[activation]
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
    return Readout(loss, correct, backward(da, z), w2_gradient, b2_gradient)
