"""Give the costs of gains and a cap relative to a signed shift in networks with a planted mechanism.

A network whose relative costs lie in the band of distance behaves as a network that measures distances by
construction, in this respect; the same holds for templates. `benchmarks/validation.py` measures the bands.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

__all__ = ["PATH", "Band", "relative_costs"]

PATH = Path(__file__).with_name("relative_costs.json")


@dataclass(frozen=True, kw_only=True)
class Band:
    """The costs of a family of intensity relative to a signed shift, in planted studies of all strengths.

    Attributes:
        mechanism: "distance" or "template".
        activation: "abs" or "relu".
        family: the family of intensity.
        target: the displacement.
        low, median, high: the 5, 50 and 95 % quantiles over the studies in which the ratio is defined; None
            if there are none.
        studies: the number of studies.
        defined: the number of those in which the ratio is defined, see `nearzero.statistics.ratios`.
    """

    mechanism: Literal["distance", "template"]
    activation: str
    family: str
    target: float
    low: float | None
    median: float | None
    high: float | None
    studies: int
    defined: int


@cache
def relative_costs(activation: str) -> tuple[Band, ...]:
    """Return the bands of both mechanisms, for an activation; none if it wasn't planted.

    Example:
        >>> from nearzero.mechanisms.reference import relative_costs
        >>> bands = {(band.mechanism, band.family): band for band in relative_costs("abs") if band.target == 0.5}
        >>> bands["distance", "cap"].high < 1 < bands["template", "cap"].low
        True
        >>> relative_costs("gelu")
        ()
    """
    rows = json.loads(PATH.read_text(encoding="utf-8"))
    return tuple(Band(**row) for row in rows if row["activation"] == activation)
