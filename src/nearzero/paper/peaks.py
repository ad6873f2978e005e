"""The five-peak toy model of figures 2 and 3, computed exactly.

A linear feature z is drawn from five narrow Gaussian peaks, a to e; a unit sees y = z - boundary and puts
out act(y). The distribution of what it puts out follows from the mixture by a change of variables, so
nothing here is sampled or drawn by hand. The drawing lives in `nearzero.report.figures`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from nearzero.errors import InputError

__all__ = ["FIGURE_2", "FIGURE_3", "FivePeaks", "PeakUnit"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FivePeaks:
    """The mixture f(z) = sum_k w f_k(z), with f_k the normal density of mean m_k and sd sigma, w = 1/5."""

    names: tuple[str, ...] = ("a", "b", "c", "d", "e")
    means: tuple[float, ...] = (-3.0, -1.0, 0.0, 2.0, 4.0)
    sigma: float = 0.2

    @property
    def weight(self) -> float:
        """Probability of each peak; all are equal."""
        return 1.0 / len(self.names)

    def densities(self, z: ArrayLike) -> Floats:
        """Weighted density of each peak at z, shape `(M,)` to `(5, M)`; the mixture is the sum over peaks."""
        points = np.asarray(z, dtype=np.float64)
        deviations = (points[None, :] - np.asarray(self.means)[:, None]) / self.sigma
        height = self.weight / (self.sigma * math.sqrt(2.0 * math.pi))
        return np.asarray(height * np.exp(-0.5 * deviations**2))

    def masses_below(self, z: float) -> Floats:
        """Weighted probability that each peak lies below z, shape `(5,)`."""
        return np.asarray(self.weight * ndtr((z - np.asarray(self.means)) / self.sigma))


@dataclass(frozen=True)
class PeakUnit:
    """A unit looking at the peaks: it puts out act(z - boundary), and its boundary can be moved by an offset.

    Mind the sign. The unit adds `offset` before the activation, y = z - home + offset, and so its boundary
    goes the other way, to home - offset. What the paper's figure 3 calls a negative offset is a boundary
    that went negative: a positive offset, and a positive level of the offset family.

    Attributes:
        activation: "relu" or "abs".
        home: the boundary before any perturbation.
        offset: what the perturbation adds to y.
        peaks: what the unit looks at.
    """

    activation: Literal["relu", "abs"]
    home: float
    offset: float = 0.0
    peaks: FivePeaks = FivePeaks()

    def __post_init__(self) -> None:
        if self.activation not in ("relu", "abs"):
            raise InputError(
                f"the five-peak model knows the activations 'relu' and 'abs', not {self.activation!r}"
            )

    @property
    def boundary(self) -> float:
        """The z that the unit maps to y = 0: home - offset."""
        return self.home - self.offset

    @property
    def range(self) -> float:
        """Post-activation range of the unperturbed unit, over the centres of the peaks."""
        y = np.asarray(self.peaks.means) - self.home
        a = np.abs(y) if self.activation == "abs" else np.maximum(y, 0.0)
        return float(np.ptp(a))

    @property
    def level(self) -> float:
        """Level p of the offset family as a plain shift, y = z + p * range, that gives this offset."""
        return self.offset / self.range

    def densities(self, a: ArrayLike) -> Floats:
        """Weighted density of the activation at a, per peak: shape `(M,)` to `(5, M)`.

        Abs: f_k(boundary + a) + f_k(boundary - a). ReLU: f_k(boundary + a), beside the mass at zero, which
        has no density. Both for a >= 0 (at 0 the limit from above), and 0 below.
        """
        points = np.asarray(a, dtype=np.float64)
        above = self.peaks.densities(self.boundary + points)
        if self.activation == "abs":
            above = above + self.peaks.densities(self.boundary - points)
        return np.where(points >= 0.0, above, 0.0)

    def masses_at_zero(self) -> Floats:
        """Probability of each peak that the activation maps to exactly zero, shape `(5,)`.

        ReLU: the part of the peak below the boundary. Abs: none.
        """
        if self.activation == "abs":
            return np.zeros(len(self.peaks.names))
        return self.peaks.masses_below(self.boundary)


FIGURE_2 = (PeakUnit("relu", home=0.5), PeakUnit("abs", home=0.0))
"""Figure 2: the two activations, unperturbed."""

FIGURE_3 = (
    PeakUnit("relu", home=0.5, offset=1.0),
    PeakUnit("relu", home=0.5, offset=-1.0),
    PeakUnit("abs", home=0.0, offset=1.0),
    PeakUnit("abs", home=0.0, offset=-1.0),
)
"""Figure 3: the same two, with the boundary moved to the left (offset +1) and to the right (offset -1)."""
