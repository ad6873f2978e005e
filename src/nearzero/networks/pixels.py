"""Images as networks see them: whole-number pixels, and the affine map that a recipe puts before them.

It stands apart because both the engines and the sweep rest on it: pixels stay uint8, most of them zero, and
the map is folded into the first layer, W1 (g p + s) + b1 = (g W1) p + (b1 + s W1 1), so that zeros can be
skipped whether a study normalises its pixels or not. Where images come from is the business of
`nearzero.datasets`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError

__all__ = ["Pixels"]


@dataclass(frozen=True, eq=False)
class Pixels:
    """Inputs x = gain * values + shift.

    Attributes:
        values: (N, D) uint8, C-contiguous.
        gain, shift: the same for every pixel; 1 and 0 for raw pixels, 1 / (white * std) and -mean / std for
            normalised ones.
    """

    values: npt.NDArray[np.uint8]
    gain: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype != np.uint8:
            raise InputError(
                f"pixels must be a uint8 array (examples, pixels); got {self.values.dtype} of shape {self.values.shape}"
            )
        object.__setattr__(self, "values", np.ascontiguousarray(self.values))

    def __len__(self) -> int:
        return len(self.values)

    def dense(self, rows: slice | npt.NDArray[np.integer] = slice(None)) -> npt.NDArray[np.float32]:
        """The inputs themselves, (rows, D) float32: what a plain PyTorch network is fed."""
        values = self.values[rows].astype(np.float32)
        if (self.gain, self.shift) != (1.0, 0.0):
            values *= np.float32(self.gain)
            values += np.float32(self.shift)
        return values
