"""The weights that give a layer's values, where they are known: those of a linear layer or a convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nearzero.torch_models.placement import loaded

__all__ = ["gives", "unit_norms"]

PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = "Conv1D"  # Hugging Face's linear layer, with weights (inputs, units)
TOLERANCE = {8: 1e-9, 4: 1e-5, 2: 2e-2}  # by the number of bytes of a number, as a share of the greatest


def gives(module: nn.Module, arguments: Sequence[Any], output: Tensor) -> bool:
    """Return True if a call of a module computed w_u x + b_u with the module's weights, for units u and inputs x.

    The plain computation is repeated and compared. So it is False for modules whose subclass, hooks or packed
    weights compute something else, and for transposed convolutions, whose weights depend on the position.

    Args:
        module: the module.
        arguments: all arguments of the call.
        output: the result of the call.
    """
    tensors = [value for value in arguments if isinstance(value, Tensor)]
    tolerance = TOLERANCE.get(output.dtype.itemsize)
    try:
        with loaded(module):
            expected = _plain(module, *tensors)
    except Exception:  # a user's subclass may have any arguments and weights
        return False
    if tolerance is None or expected is None:
        return False
    if (expected.shape, expected.dtype) != (output.shape, output.dtype) or not output.numel():
        return False
    return bool(((output - expected).abs() <= tolerance * expected.abs().max()).all())


def unit_norms(module: nn.Module) -> npt.NDArray[np.float64]:
    """Return ||w_u|| of a module that `gives` its output, (U,): over the inputs, or over a filter's patch."""
    with loaded(module):
        weight = _weight(module).detach().cpu()
    rows = weight.T if type(module).__name__ == TRANSPOSED else weight.flatten(1)
    return np.asarray(torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).numpy())


def _plain(module: nn.Module, x: Tensor) -> Tensor | None:
    """Return w_u x + b_u; None for modules of other kinds."""
    if type(module).__name__ == TRANSPOSED:
        return x @ _weight(module) + module.get_parameter("bias")
    kind = next((kind for kind in PLAIN if isinstance(module, kind)), None)
    return None if kind is None else kind.forward(module, x)  # type: ignore[arg-type]


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
