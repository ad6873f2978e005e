"""Arrays from whatever a user has at hand: lists, NumPy arrays, PyTorch tensors on any device.

PyTorch isn't imported here: who has a tensor has it imported already.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["as_array"]


def as_array(value: Any) -> npt.NDArray[Any]:
    """A NumPy array of the same numbers; tensors are detached, and bfloat16, which NumPy hasn't, becomes float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if value.dtype.is_floating_point and value.element_size() < 4:
            value = value.float()
        value = value.numpy()
    return np.asarray(value)
