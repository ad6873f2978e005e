"""Arrays from whatever a user has at hand: lists, NumPy arrays, PyTorch tensors on any device.

PyTorch isn't imported here: who has a tensor has it imported already.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError

__all__ = ["as_array", "as_numbers"]


def as_array(value: Any, name: str) -> npt.NDArray[Any]:
    """A NumPy array of the same values; tensors are detached, and bfloat16, which NumPy hasn't, becomes float32.

    Raises:
        InputError: it isn't an array: ragged, or a tensor without data.
    """
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            if value.dtype.is_floating_point and value.element_size() < 4:
                value = value.float()
            value = value.numpy()
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name} can't be read as an array: {reason}") from error


def as_numbers(value: Any, name: str) -> npt.NDArray[Any]:
    """The same, of real numbers.

    Raises:
        InputError: it holds something else: complex numbers, text, objects.
    """
    array = as_array(value, name)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} must be real numbers; got {array.dtype}")
    return array
