"""Images as inputs of networks: whole-number pixels, and the affine map that a recipe applies to them.

Pixels stay uint8, and most of them are zero. The engines and the sweep fold the map into the first layer:
W1 (g p + s) + b1 = (g W1) p + (b1 + s W1 1). So they can skip zeros whether a study normalises its pixels or
not. `nearzero.datasets` loads images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError

__all__ = ["Pixels"]


@dataclass(frozen=True, eq=False)
class Pixels:
    """Inputs x = gain * values + shift, kept as whole-number pixels.

    Attributes:
        values: (N, D) uint8, C-contiguous.
        gain, shift: the same for every pixel; 1 and 0 for raw pixels, 1 / (white * std) and -mean / std for
            normalised ones.

    Raises:
        InputError: the values aren't uint8, or don't have two dimensions.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> pixels = nz.Pixels(np.array([[0, 200], [100, 0]], np.uint8), gain=0.5, shift=-1.0)
        >>> len(pixels)
        2
        >>> pixels.dense().tolist()
        [[-1.0, 99.0], [49.0, -1.0]]
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
        """Return the inputs x of the given rows, (rows, D) float32, as a plain PyTorch network takes them."""
        values = self.values[rows].astype(np.float32)
        if (self.gain, self.shift) != (1.0, 0.0):
            values *= np.float32(self.gain)
            values += np.float32(self.shift)
        return values
