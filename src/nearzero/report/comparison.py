"""Measured numbers beside the published ones, and whether they agree.

The yardstick is set beforehand and is the same for every row, so that a replication can fail. Tables and
figures take their differences from here; what is published lives in `nearzero.paper`.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nearzero.paper.published import published
from nearzero.report.results import (
    Curve,
    StudyResults,
    curve,
    display_name,
    families,
    final_values,
    networks,
)
from nearzero.statistics.summaries import Summary, summarise

__all__ = ["PublishedComparison", "Reproduction", "compare_baseline", "compare_responses", "reproduction"]

POINTS = 1.5
STANDARD_ERRORS = 3.0


@dataclass(frozen=True)
class PublishedComparison:
    """One published number and what was measured in its place, in the unit published.

    Attributes:
        network: its name in the study.
        quantity: "train_accuracy", "test_accuracy" or "loss" of table 1, or a family of tables 2 to 4.
        level: the published level, as a fraction; None in table 1.
        grid_level: the level measured, the grid's nearest; None where there is none close by.
        published: the published mean.
        measured: our runs; None where the study did not measure this.
        standard_error: of the difference of the two means; NaN where it is unknown.
        slack: an absolute difference that is always allowed.
    """

    network: str
    quantity: str
    level: float | None
    grid_level: float | None
    published: float
    measured: Summary | None
    standard_error: float
    slack: float

    @property
    def difference(self) -> float:
        """Measured mean less the published; NaN where nothing was measured."""
        return math.nan if self.measured is None else self.measured.mean - self.published

    @property
    def in_standard_errors(self) -> float:
        """The difference over its standard error; NaN where that is 0 or unknown."""
        return self.difference / self.standard_error if self.standard_error > 0.0 else math.nan

    @property
    def is_measured(self) -> bool:
        """Whether any run has a value."""
        return math.isfinite(self.difference)

    @property
    def agrees(self) -> bool:
        """Whether the difference is within what is allowed; False where nothing was measured."""
        errors = 0.0 if math.isnan(self.standard_error) else STANDARD_ERRORS * self.standard_error
        allowed = self.slack + errors if self.level is None else max(self.slack, errors)
        return self.is_measured and abs(self.difference) <= allowed

    def __str__(self) -> str:
        place = self.quantity.replace("_", " ")
        if self.level is not None:
            place += f" at {100 * self.level:g} %"
        found = "not measured"
        if self.measured is not None and self.is_measured:
            found = f"measured {self.measured.mean:.4g} ({self.difference:+.4g})"
        return f"{display_name(self.network)}, {place}: published {self.published:g}, {found}"


@dataclass(frozen=True)
class Reproduction:
    """How far a set of comparisons agrees with the paper."""

    comparisons: tuple[PublishedComparison, ...]

    @cached_property
    def agreeing(self) -> tuple[PublishedComparison, ...]:
        """The rows that agree."""
        return tuple(row for row in self.comparisons if row.agrees)

    @cached_property
    def differing(self) -> tuple[PublishedComparison, ...]:
        """The rows that were measured and do not agree."""
        return tuple(row for row in self.comparisons if row.is_measured and not row.agrees)

    @cached_property
    def unmeasured(self) -> tuple[PublishedComparison, ...]:
        """The published rows that this study has no number for."""
        return tuple(row for row in self.comparisons if not row.is_measured)

    def __str__(self) -> str:
        text = (
            f"{len(self.agreeing)} of the {len(self.comparisons)} published accuracies of tables 2 to 4 lie "
            f"within {POINTS:g} points or {STANDARD_ERRORS:g} standard errors of ours"
        )
        if self.differing:
            text += f"; {len(self.differing)} do not"
        return text + (f"; {len(self.unmeasured)} were not measured." if self.unmeasured else ".")


def reproduction(study: StudyResults) -> Reproduction:
    """Set all 72 accuracies of tables 2 to 4 beside ours; what was not measured counts as not agreeing."""
    rows = [
        compare_responses(study, network, family)
        for family in published().families
        for network in published().baseline
    ]
    return Reproduction(tuple(row for block in rows for row in block))


def compare_responses(study: StudyResults, network: str, family: str) -> tuple[PublishedComparison, ...]:
    """One network's accuracies of table 2, 3 or 4 (percent), a comparison per published level.

    They agree within the greater of 1.5 points and 3 standard errors. The paper gives no deviations here,
    so our sample sd is taken for both sides: se = sd * sqrt(1 / n + 1 / 20), which at our 20 runs is
    sd * sqrt(2 / 20). Where fewer than two runs are at hand, the 1.5 points alone count.
    """
    facts = published()
    swept = network in networks(study) and family in families(study)
    grid = curve(study, network, family) if swept else Curve(np.empty(0), np.empty((0, 0)))
    comparisons = []
    for row in facts.families[family]:
        summary, level, error = None, None, math.nan
        if (entry := grid.nearest(row.level)) is not None:
            summary, level = summarise(grid.accuracy[entry]), float(grid.levels[entry])
            error = summary.sd * math.sqrt(1.0 / max(summary.n, 1) + 1.0 / facts.runs)
        accuracy = row.networks[network].accuracy
        comparisons.append(
            PublishedComparison(network, family, row.level, level, accuracy, summary, error, POINTS)
        )
    return tuple(comparisons)


def compare_baseline(study: StudyResults, network: str) -> tuple[PublishedComparison, ...]:
    """Table 1 for one network: train and test accuracy (percent) and loss (nats).

    They agree within 3 standard errors of the difference of the two means plus half a unit of the last
    published digit. se = sqrt(sd^2 / n + sd_published^2 / (20 - 1)); the published sd has ddof 0, so its
    square over 20 - 1 is the sample variance over 20.
    """
    facts = published()
    entry = facts.baseline[network]
    wanted = (
        ("train_accuracy", entry.train, 0.005),
        ("test_accuracy", entry.test, 0.005),
        ("loss", entry.loss, 0.00005),
    )
    comparisons = []
    for quantity, number, half_digit in wanted:
        summary, error = None, math.nan
        if network in networks(study) and quantity in study.history:
            summary = summarise(final_values(study, network, quantity))
            error = math.sqrt(summary.sd**2 / max(summary.n, 1) + number.sd**2 / (facts.runs - 1))
        comparisons.append(
            PublishedComparison(network, quantity, None, None, number.mean, summary, error, half_digit)
        )
    return tuple(comparisons)
