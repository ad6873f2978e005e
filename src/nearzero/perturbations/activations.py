"""The nine activations, by name: what each is, and which of its properties the measurements rest on.

Plain NumPy, in the precision of the argument; nothing is trained or swept with these functions. The fast
versions are in `nearzero.kernels.activations` (float32 vectors) and in PyTorch; the tests hold all three
against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from nearzero.errors import InputError, did_you_mean

__all__ = ["ACTIVATIONS", "Activation", "activation"]

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Activation:
    """A function a = act(z), applied to each unit.

    Attributes:
        name: how specs, files and the command line call it; also its name in `torch.nn.functional`, `abs`
            apart.
        label: how tables and figures call it.
        function: a = act(z), elementwise, keeping shape and dtype.
        homogeneous: whether act(s z) = s act(z) for every s > 0. For these a common scale of all units passes
            through to the logits, so that the prediction is argmax(W2 a + b2 / s).
        piecewise_linear: whether act is linear on either side of zero.
    """

    name: str
    label: str
    function: Callable[[Array], Array]
    homogeneous: bool = False
    piecewise_linear: bool = False

    def __call__(self, z: Array) -> Array:
        """act(z), elementwise."""
        return self.function(z)


def _leaky_relu(z: Array) -> Array:
    return np.where(z > 0, z, z * z.dtype.type(0.01))


_ALL = (
    Activation("relu", "ReLU", lambda z: np.maximum(z, 0), homogeneous=True, piecewise_linear=True),
    Activation("abs", "Abs", np.abs, homogeneous=True, piecewise_linear=True),
    Activation("leaky_relu", "Leaky ReLU", _leaky_relu, homogeneous=True, piecewise_linear=True),
    Activation("gelu", "GELU", lambda z: np.asarray(z * special.ndtr(z), dtype=z.dtype)),
    Activation("silu", "SiLU", lambda z: np.asarray(z * special.expit(z))),
    Activation("tanh", "tanh", np.tanh),
    Activation("sigmoid", "sigmoid", lambda z: np.asarray(special.expit(z))),
    Activation("softplus", "softplus", lambda z: np.asarray(np.logaddexp(z, z.dtype.type(0)))),
    Activation("elu", "ELU", lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0)))),
)

ACTIVATIONS: dict[str, Activation] = {each.name: each for each in _ALL}


def activation(name: str) -> Activation:
    """The activation called `name`.

    Raises:
        InputError: there is none of that name.
    """
    try:
        return ACTIVATIONS[name]
    except (KeyError, TypeError):
        hint = did_you_mean(name, ACTIVATIONS)
        raise InputError(f"unknown activation {name!r}: {hint}known are {', '.join(ACTIVATIONS)}") from None
