"""Noise on pre-activations, drawn for each example: controls that no per-unit perturbation can be.

z' = z + p E. Isotropic: the entries of E are independent and normal, with one standard deviation for all live
units, the root mean square of theirs over examples. Covariance-shaped: the rows of E are normal with the
covariance of z. Dead units get none. Families of per-unit perturbations are in `nearzero.families`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError

__all__ = ["NOISES", "Noise", "NoiseShape"]

NoiseShape = Literal["noise", "covariance_noise"]
NOISES: tuple[NoiseShape, ...] = get_args(NoiseShape)
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Noise:
    """One shape of noise on one layer.

    Attributes:
        root: (U, U), with the covariance of E = root' root.
        seed: of what is drawn.
    """

    root: Doubles
    seed: int = 0

    @classmethod
    def of(
        cls, shape: NoiseShape, z: npt.NDArray[np.floating], live: npt.NDArray[np.bool_], seed: int = 0
    ) -> Noise:
        """The noise of a layer with pre-activations z, (N, U).

        Raises:
            InputError: an unknown shape.
        """
        if shape not in NOISES:
            raise InputError(f"noise is one of {', '.join(NOISES)}; got {shape!r}")
        root = np.zeros((z.shape[1], z.shape[1]))
        part = z[:, live].astype(np.float64)
        part -= part.mean(axis=0)
        covariance = part.T @ part / len(part)
        if shape == "noise":
            own = np.sqrt(np.trace(covariance) / max(1, len(covariance))) * np.eye(len(covariance))
        else:
            values, vectors = np.linalg.eigh(covariance)
            own = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
        root[np.ix_(live, live)] = own
        return cls(root, seed)

    def draw(self, examples: int, part: int = 0) -> npt.NDArray[np.float32]:
        """E, (N, U) float32; `part` tells one set of examples from another."""
        generator = np.random.default_rng([self.seed, part])
        normal = generator.standard_normal((examples, len(self.root)), dtype=np.float32)
        return np.asarray(normal @ self.root.astype(np.float32))
