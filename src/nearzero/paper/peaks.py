"""The five-peak toy model of figures 2 and 3, computed exactly.

A linear feature z is distributed as a mixture of five narrow Gaussian peaks, a to e. A unit computes
y = z - boundary and its output act(y). The distribution of the output follows from the mixture by a change of
variables, so nothing is sampled. `nearzero.report.figures` draws it.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from nearzero.errors import InputError, did_you_mean

__all__ = ["FIGURE_2", "FIGURE_3", "FivePeaks", "PeakUnit"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FivePeaks:
    """The mixture f(z) = sum_k w f_k(z), with f_k the normal density of mean m_k and sd sigma, and w = 1/5."""

    names: tuple[str, ...] = ("a", "b", "c", "d", "e")
    means: tuple[float, ...] = (-3.0, -1.0, 0.0, 2.0, 4.0)
    sigma: float = 0.2

    @property
    def weight(self) -> float:
        """Return the probability of each peak; all are equal."""
        return 1.0 / len(self.names)

    def densities(self, z: ArrayLike) -> Floats:
        """Return the weighted density of each peak at z, shape `(M,)` to `(5, M)`; their sum is the mixture."""
        points = np.asarray(z, dtype=np.float64)
        deviations = (points[None, :] - np.asarray(self.means)[:, None]) / self.sigma
        height = self.weight / (self.sigma * math.sqrt(2.0 * math.pi))
        return np.asarray(height * np.exp(-0.5 * deviations**2))

    def masses_below(self, z: float) -> Floats:
        """Return the mass of each peak that lies below z, its weight included, shape `(5,)`."""
        return np.asarray(self.weight * ndtr((z - np.asarray(self.means)) / self.sigma))


@dataclass(frozen=True)
class PeakUnit:
    """A unit whose input z has the peaks: its output is act(z - boundary), and an offset moves its boundary.

    Note the sign. The unit adds `offset` before the activation, y = z - home + offset, so its boundary moves
    the other way, to home - offset. The negative offset of the paper's figure 3 is a boundary that became
    negative: a positive offset, and a positive level of the offset family.

    Attributes:
        activation: "relu" or "abs".
        home: the boundary without perturbation.
        offset: the number that the perturbation adds to y.
        peaks: the distribution of z.

    Example:
        >>> from nearzero.paper.peaks import PeakUnit
        >>> unit = PeakUnit("abs", home=0.0, offset=1.0)
        >>> unit.boundary, unit.range, unit.level  # activations |m| of the peaks are 0 to 4
        (-1.0, 4.0, 0.25)
    """

    activation: Literal["relu", "abs"]
    home: float
    offset: float = 0.0
    peaks: FivePeaks = FivePeaks()

    def __post_init__(self) -> None:
        if self.activation not in ("relu", "abs"):
            hint = did_you_mean(self.activation, ("relu", "abs"))
            raise InputError(f"the five-peak model has 'relu' and 'abs' units; {hint}got {self.activation!r}")

    @property
    def boundary(self) -> float:
        """Return the z that the unit maps to y = 0: home - offset."""
        return self.home - self.offset

    @property
    def range(self) -> float:
        """Return the post-activation range of the unperturbed unit over the centres of the peaks."""
        y = np.asarray(self.peaks.means) - self.home
        a = np.abs(y) if self.activation == "abs" else np.maximum(y, 0.0)
        return float(np.ptp(a))

    @property
    def level(self) -> float:
        """Return the level p at which the offset family, as a plain shift y = z + p * range, gives this offset."""
        return self.offset / self.range

    def densities(self, a: ArrayLike) -> Floats:
        """Return the weighted density of the activation at a for each peak: shape `(M,)` to `(5, M)`.

        Abs: f_k(boundary + a) + f_k(boundary - a). ReLU: f_k(boundary + a); its mass at exactly zero has no
        density and is in `masses_at_zero`. Both for a >= 0 (at 0 the limit from above); for a < 0 the density
        is 0.
        """
        points = np.asarray(a, dtype=np.float64)
        above = self.peaks.densities(self.boundary + points)
        if self.activation == "abs":
            above = above + self.peaks.densities(self.boundary - points)
        return np.where(points >= 0.0, above, 0.0)

    def masses_at_zero(self) -> Floats:
        """Return the weighted probability of each peak that is mapped to exactly zero, shape `(5,)`.

        ReLU: the part of the peak below the boundary. Abs: 0.
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
