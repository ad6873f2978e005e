"""The nine activations by name, with the properties that the measurements use.

Plain NumPy, in the precision of the argument. No network is trained or swept with these functions: the fast
versions are in `nearzero.kernels.activations` (float32 vectors) and in PyTorch. The tests compare all three.
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
        name: the name in specs, in files and on the command line; also the name in `torch.nn.functional`,
            except for `abs`.
        label: the name in tables and figures.
        function: a = act(z), elementwise; keeps shape and dtype.
        homogeneous: True if act(s z) = s act(z) for every s > 0. A common scale s of all units then
            multiplies W2 a, so that the prediction is argmax(W2 a + b2 / s).
        piecewise_linear: True if act is linear below zero and linear above zero.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> act = nz.activation("leaky_relu")
        >>> act(np.array([-100.0, 0.0, 3.0])).tolist()
        [-1.0, 0.0, 3.0]
        >>> act.label, act.homogeneous, act.piecewise_linear
        ('Leaky ReLU', True, True)
    """

    name: str
    label: str
    function: Callable[[Array], Array]
    homogeneous: bool = False
    piecewise_linear: bool = False

    def __call__(self, z: Array) -> Array:
        """Return act(z), elementwise."""
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

ACTIVATIONS: dict[str, Activation] = {act.name: act for act in _ALL}


def activation(name: str) -> Activation:
    """Return the activation called `name`, one of the keys of `ACTIVATIONS`.

    Raises:
        InputError: no activation has that name.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> nz.activation("abs")(np.array([-2.0, 0.5])).tolist()
        [2.0, 0.5]
        >>> list(nz.ACTIVATIONS)
        ['relu', 'abs', 'leaky_relu', 'gelu', 'silu', 'tanh', 'sigmoid', 'softplus', 'elu']
    """
    try:
        return ACTIVATIONS[name]
    except (KeyError, TypeError):
        hint = did_you_mean(name, ACTIVATIONS)
        raise InputError(f"unknown activation {name!r}: {hint}known are {', '.join(ACTIVATIONS)}") from None
