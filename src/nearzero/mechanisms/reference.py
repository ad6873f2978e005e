"""Set the relative costs of a verdict beside those of networks with a planted mechanism.

A network whose relative costs lie in the band of distance behaves as a network that measures distances by
construction, in this respect; the same holds for templates. Noise doesn't tell them apart: it costs about as much
as a signed shift in both. `benchmarks/validation.py` measures the bands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from nearzero.analysis.verdict import RelativeCost, Rules, Verdict

__all__ = [
    "MECHANISMS",
    "PATH",
    "Band",
    "Mechanism",
    "PlacedCost",
    "placed_at_largest",
    "placed_costs",
    "planted_bands",
    "relative_costs",
]

PATH = Path(__file__).with_name("relative_costs.json")
Mechanism = Literal["distance", "template"]
MECHANISMS: dict[Mechanism, str] = {"distance": "planted distance", "template": "planted templates"}
Place = Literal[
    "as with planted distance",
    "between planted distance and templates",
    "as with planted templates",
    "not told",
]


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

    mechanism: Mechanism
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


@dataclass(frozen=True)
class PlacedCost:
    """Hold what a family of intensity costs relative to distance, beside the bands of planted networks.

    Attributes:
        cost: the relative cost, with its 95 % interval.
        bands: by mechanism, the least and the greatest relative cost of planted networks (5 and 95 % quantiles) at
            the same displacement; without those that aren't known.
    """

    cost: RelativeCost
    bands: Mapping[Mechanism, tuple[float, float]]

    @property
    def place(self) -> Place:
        """Return where the whole interval lies.

        At most at the upper edge of planted distance, at least at the lower edge of planted templates, or between
        these edges. It isn't told if the interval contains an edge or is undefined, if the bands overlap, or if
        there are none for the activation or the rules.
        """
        ratio = self.cost.ratio
        if len(self.bands) < 2 or ratio.low is None or ratio.high is None:
            return "not told"
        (_, distance), (template, _) = self.bands["distance"], self.bands["template"]
        if distance >= template:
            return "not told"
        if ratio.high <= distance:
            return "as with planted distance"
        if ratio.low >= template:
            return "as with planted templates"
        between = distance < ratio.low and ratio.high < template
        return "between planted distance and templates" if between else "not told"

    @property
    def text(self) -> str:
        """Return the relative cost, those of planted networks, and the place among them."""
        words = f"{self.cost.intensity} {self.cost.ratio.text}"
        for mechanism, (low, high) in self.bands.items():
            words += f", with {MECHANISMS[mechanism]} {low:.2f} to {high:.2f}"
        return (
            f"{words}: {self.place}" if self.bands else f"{words}, with no planted networks to compare with"
        )


def planted_bands(verdict: Verdict) -> dict[str, tuple[Band, ...]]:
    """Return by network the relative costs of planted networks with its activation.

    There are none for other activations, and for rules with another distance or measure than the default ones.
    """
    default, rules = Rules(), verdict.rules
    if (rules.distance, rules.measure) != (default.distance, default.measure):
        return {}
    activations = {name: verdict.activations.get(name, name) for name in verdict.networks}
    return {name: bands for name, activation in activations.items() if (bands := relative_costs(activation))}


def placed_costs(verdict: Verdict) -> tuple[PlacedCost, ...]:
    """Return the relative costs of a verdict beside those of planted networks, in the order of its comparisons."""
    planted = planted_bands(verdict)
    return tuple(
        PlacedCost(
            cost,
            {
                band.mechanism: (band.low, band.high)
                for band in planted.get(cost.network, ())
                if (band.family, band.target) == (cost.intensity, cost.target)
                and band.low is not None
                and band.high is not None
            },
        )
        for cost in verdict.relative_costs
    )


def placed_at_largest(verdict: Verdict, network: str) -> tuple[PlacedCost, ...]:
    """Return the relative costs of a network at the largest displacement at which one is defined."""
    own = [placed for placed in placed_costs(verdict) if placed.cost.network == network]
    reached = [placed.cost.target for placed in own if placed.cost.ratio.ratio is not None]
    return tuple(placed for placed in own if placed.cost.target == max(reached, default=None))
