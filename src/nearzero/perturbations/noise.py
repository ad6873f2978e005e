"""Noise on pre-activations, drawn for each example: controls that can't be written as per-unit perturbations.

z' = z + p E. Isotropic noise: the entries of E are independent and normal, with one standard deviation for
all live units, the root mean square of the units' standard deviations over rows. Covariance-shaped noise: the
rows of E are normal with the covariance of z. Dead units get no noise. The noise of an example depends on the
seed and the number of the example alone: it is the same in all batches, halves and backends. Families of
per-unit perturbations are in `nearzero.perturbations.families`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError, did_you_mean

__all__ = ["NOISES", "Noise", "NoiseShape"]

NoiseShape = Literal["noise", "covariance_noise"]
NOISES: tuple[NoiseShape, ...] = get_args(NoiseShape)
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Noise:
    """One shape of noise on one layer.

    Attributes:
        root: (U, U), such that the covariance of E is root' root.
        seed: the seed of the draws.
    """

    root: Doubles
    seed: int = 0

    @classmethod
    def of(
        cls, shape: NoiseShape, z: npt.NDArray[np.floating], live: npt.NDArray[np.bool_], seed: int = 0
    ) -> Noise:
        """Return the noise of a layer.

        Args:
            shape: "noise" (isotropic) or "covariance_noise".
            z: pre-activations, (R, U), from which the size and the covariance of the noise are taken.
            live: (U,), the live units; the others get no noise.
            seed: the seed of the draws.

        Raises:
            InputError: an unknown shape.
        """
        if shape not in NOISES:
            hint = did_you_mean(shape, NOISES)
            raise InputError(f"noise is one of {', '.join(NOISES)}; {hint}got {shape!r}")
        root = np.zeros((z.shape[1], z.shape[1]))
        centred = z[:, live].astype(np.float64)
        centred -= centred.mean(axis=0)
        covariance = centred.T @ centred / len(centred)
        if shape == "noise":
            live_root = np.sqrt(np.trace(covariance) / max(1, len(covariance))) * np.eye(len(covariance))
        else:
            values, vectors = np.linalg.eigh(covariance)
            live_root = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
        root[np.ix_(live, live)] = live_root
        return cls(root, seed)

    def draw(self, examples: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Return E for the rows of the given examples, (R, U) float32.

        Args:
            examples: (R,), for each row the number of its example in the data. The rows of an example must
                follow each other; they are drawn in this order from the generator of that example.
        """
        normal = np.empty((len(examples), len(self.root)), np.float32)
        firsts = np.flatnonzero(np.diff(examples, prepend=-1))
        ends = np.append(firsts[1:], len(examples))
        key = np.random.SeedSequence([self.seed, *b"noise"]).generate_state(2, np.uint64)
        bits = np.random.Philox(key=key)
        generator, state = np.random.Generator(bits), bits.state
        for number, first, end in zip(examples[firsts].tolist(), firsts, ends, strict=True):
            # One generator, set to a new counter for each example: new generators would take ten times as long.
            state["state"]["counter"][:] = (0, number, 0, 0)
            bits.state = state
            generator.standard_normal(out=normal[first:end], dtype=np.float32)
        return np.asarray(normal @ self.root.astype(np.float32))
