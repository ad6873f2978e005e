"""Noise on pre-activations, drawn for each example: controls that no per-unit perturbation can be.

z' = z + p E. Isotropic: the entries of E are independent and normal, with one standard deviation for all live
units, the root mean square of theirs over rows. Covariance-shaped: the rows of E are normal with the covariance of z.
Dead units get none. What an example gets is drawn by (seed, number of the example) alone: the same draws whatever
batches, halves or backend it comes in. Families of per-unit perturbations are in `nearzero.perturbations.families`.
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
        """Return the noise of a layer with pre-activations z, (R, U).

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

    def draw(self, examples: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Return E for rows that belong to these examples, (R, U) float32.

        Args:
            examples: (R,), the number of each row's example in the data. The rows of an example follow each other;
                they are drawn one after the other from its own generator.
        """
        normal = np.empty((len(examples), len(self.root)), np.float32)
        firsts = np.flatnonzero(np.diff(examples, prepend=-1))
        ends = np.append(firsts[1:], len(examples))
        key = np.random.SeedSequence([self.seed, *b"noise"]).generate_state(2, np.uint64)
        bits = np.random.Philox(key=key)
        generator, state = np.random.Generator(bits), bits.state
        for number, first, end in zip(examples[firsts].tolist(), firsts, ends, strict=True):
            # a counter of its own for each example: a generator made anew would take ten times as long
            state["state"]["counter"][:] = (0, number, 0, 0)
            bits.state = state
            generator.standard_normal(out=normal[first:end], dtype=np.float32)
        return np.asarray(normal @ self.root.astype(np.float32))
