"""Whether an activation is positively homogeneous, act(s z) = s act(z) for s > 0, measured on pre-activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["TESTED", "homogeneity_error"]

TESTED = (0.01, 0.1, 0.5, 2.0, 10.0)  # scales at which it is tested


def homogeneity_error(act: Callable[[Any], Any], z: Any, scales: Sequence[float] = TESTED) -> float:
    """Return the greatest |act(s z) - s act(z)|, as a share of the greatest s |act(z)|, over some scales s > 0.

    Args:
        act: the activation, on arrays or tensors of z's kind.
        z: pre-activations of any shape, at least one.
        scales: s.

    Returns:
        0 for a positively homogeneous activation, but for rounding; 0 if act is 0 for all of them.
    """
    errors = []
    for s in scales:
        scaled, taken_out = act(s * z), s * act(z)
        size = float(abs(taken_out).max())
        apart = float(abs(scaled - taken_out).max())
        errors.append(apart / size if size > 0 else float(np.inf) if apart > 0 else 0.0)
    return max(errors)
