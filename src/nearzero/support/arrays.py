"""Arrays from lists, NumPy arrays or PyTorch tensors on any device.

PyTorch isn't imported: a caller who has a tensor has imported it already.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError

__all__ = ["as_array", "as_numbers"]


def as_array(value: Any, name: str) -> npt.NDArray[Any]:
    """Return the values as a NumPy array.

    Tensors are detached and copied to the processor. 16-bit floats of PyTorch become float32, because NumPy
    has no bfloat16.

    Args:
        value: numbers in any form.
        name: the name of the value in error messages.

    Raises:
        InputError: the value can't be an array: it is ragged, or a tensor without data.

    Example:
        >>> from nearzero.support.arrays import as_array
        >>> as_array([[1, 2], [3, 4]], "labels").shape
        (2, 2)
        >>> as_array([[1], [2, 3]], "labels")
        Traceback (most recent call last):
        nearzero.errors.InputError: labels can't be read as an array: ...
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
    """Return the values as a NumPy array of real numbers, as `as_array` does.

    Raises:
        InputError: the array holds something else: complex numbers, text, objects.

    Example:
        >>> from nearzero.support.arrays import as_numbers
        >>> as_numbers([True, False], "mask").dtype.name
        'bool'
        >>> as_numbers(["a"], "labels")
        Traceback (most recent call last):
        nearzero.errors.InputError: labels must be real numbers; got <U1
    """
    array = as_array(value, name)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} must be real numbers; got {array.dtype}")
    return array
