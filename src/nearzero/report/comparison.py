"""Compare measured numbers with the published ones.

The criterion of agreement is fixed beforehand and is the same for every row, so that a replication can fail.
Tables and figures take their differences from here; the published numbers are in `nearzero.paper`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nearzero.errors import InputError, did_you_mean
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
    """A published number and its measured counterpart, in the published unit.

    Attributes:
        network: its name in the study.
        quantity: "train_accuracy", "test_accuracy" or "loss" of table 1, or a family of tables 2 to 4.
        level: the published level, as a fraction; None in table 1.
        grid_level: the nearest level of the study's grid, which was measured; None if none is close.
        published: the published mean.
        measured: summary of the study's runs; None if the study didn't measure this.
        standard_error: of the difference of the two means; NaN if it is unknown.
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
        """Return the measured mean minus the published one; NaN if nothing was measured."""
        return math.nan if self.measured is None else self.measured.mean - self.published

    @property
    def in_standard_errors(self) -> float:
        """Return the difference over its standard error; NaN if that is 0 or unknown."""
        return self.difference / self.standard_error if self.standard_error > 0.0 else math.nan

    @property
    def is_measured(self) -> bool:
        """Return whether any run has a value."""
        return math.isfinite(self.difference)

    @property
    def agrees(self) -> bool:
        """Return whether the difference is at most the allowed one; False if nothing was measured."""
        errors = 0.0 if math.isnan(self.standard_error) else STANDARD_ERRORS * self.standard_error
        allowed = self.slack + errors if self.level is None else max(self.slack, errors)
        return self.is_measured and abs(self.difference) <= allowed

    def __str__(self) -> str:
        place = self.quantity.replace("_", " ")
        if self.level is not None:
            place += f" at {100 * self.level:g} %"
        measured = "not measured"
        if self.measured is not None and self.is_measured:
            measured = f"measured {self.measured.mean:.4g} ({self.difference:+.4g})"
        return f"{display_name(self.network)}, {place}: published {self.published:g}, {measured}"


@dataclass(frozen=True)
class Reproduction:
    """A set of comparisons with the paper, by agreement.

    Attributes:
        comparisons: a row for each published accuracy; none if the study departs from the published one.
        departures: in what it does, see `StudyResults`.
    """

    comparisons: tuple[PublishedComparison, ...]
    departures: tuple[str, ...] = ()

    @cached_property
    def agreeing(self) -> tuple[PublishedComparison, ...]:
        """Return the rows that agree."""
        return tuple(row for row in self.comparisons if row.agrees)

    @cached_property
    def differing(self) -> tuple[PublishedComparison, ...]:
        """Return the rows that were measured and do not agree."""
        return tuple(row for row in self.comparisons if row.is_measured and not row.agrees)

    @cached_property
    def unmeasured(self) -> tuple[PublishedComparison, ...]:
        """Return the published rows for which the study has no number."""
        return tuple(row for row in self.comparisons if not row.is_measured)

    @property
    def headline(self) -> str:
        """Return how many published accuracies agree, in a few words, or why none is compared."""
        if self.departures:
            return f"not compared with the published numbers: {'; '.join(self.departures)}"
        return f"{len(self.agreeing)} of {len(self.comparisons)} published accuracies agree"

    def __str__(self) -> str:
        if self.departures:
            return f"{self.headline[0].upper()}{self.headline[1:]}."
        text = (
            f"{len(self.agreeing)} of the {len(self.comparisons)} published accuracies of tables 2 to 4 lie "
            f"within {POINTS:g} points or {STANDARD_ERRORS:g} standard errors of ours"
        )
        if self.differing:
            text += f"; {len(self.differing)} do not"
        return text + (f"; {len(self.unmeasured)} were not measured." if self.unmeasured else ".")


def reproduction(study: StudyResults) -> Reproduction:
    """Compare all 72 accuracies of tables 2 to 4 with the study's; one that wasn't measured doesn't agree.

    A study that departs from the published one has no comparisons.
    """
    if study.departures:
        return Reproduction((), study.departures)
    blocks = [
        compare_responses(study, network, family)
        for family in published().families
        for network in published().baseline
    ]
    return Reproduction(tuple(row for block in blocks for row in block))


def compare_responses(study: StudyResults, network: str, family: str) -> tuple[PublishedComparison, ...]:
    """Compare one network's accuracies (percent) with table 2, 3 or 4: a comparison for each published level.

    They agree if they differ by at most 1.5 points or 3 standard errors, whichever is greater. The paper
    gives no deviations here, so the study's sample sd is used for both sides: se = sd * sqrt(1 / n + 1 / 20),
    which is sd * sqrt(2 / 20) for 20 runs. With fewer than two runs only the 1.5 points count.

    Raises:
        InputError: nothing was published for this network or family, or the study departs from the published one.
    """
    _check_comparable(study)
    facts = published()
    _check_published("family", family, facts.families)
    _check_published("network", network, facts.baseline)
    swept = network in networks(study) and family in families(study)
    grid = curve(study, network, family) if swept else Curve(np.empty(0), np.empty((0, 0)))
    comparisons = []
    for row in facts.families[family]:
        summary, level, error = None, None, math.nan
        if (index := grid.nearest(row.level)) is not None:
            summary, level = summarise(grid.accuracy[index]), float(grid.levels[index])
            error = summary.sd * math.sqrt(1.0 / max(summary.n, 1) + 1.0 / facts.runs)
        accuracy = row.networks[network].accuracy
        comparisons.append(
            PublishedComparison(network, family, row.level, level, accuracy, summary, error, POINTS)
        )
    return tuple(comparisons)


def compare_baseline(study: StudyResults, network: str) -> tuple[PublishedComparison, ...]:
    """Compare one network with table 1: train and test accuracy (percent) and loss (nats).

    They agree if they differ by at most 3 standard errors of the difference of the two means plus half a unit
    of the last published digit. se = sqrt(sd^2 / n + sd_published^2 / (20 - 1)); the published sd has ddof 0,
    so its square over 20 - 1 is the sample variance over 20.

    Raises:
        InputError: nothing was published for this network, or the study departs from the published one.
    """
    _check_comparable(study)
    facts = published()
    _check_published("network", network, facts.baseline)
    baseline = facts.baseline[network]
    quantities = (
        ("train_accuracy", baseline.train, 0.005),
        ("test_accuracy", baseline.test, 0.005),
        ("loss", baseline.loss, 0.00005),
    )
    comparisons = []
    for quantity, number, half_digit in quantities:
        summary, error = None, math.nan
        if network in networks(study) and quantity in study.history:
            summary = summarise(final_values(study, network, quantity))
            error = math.sqrt(summary.sd**2 / max(summary.n, 1) + number.sd**2 / (facts.runs - 1))
        comparisons.append(
            PublishedComparison(network, quantity, None, None, number.mean, summary, error, half_digit)
        )
    return tuple(comparisons)


def _check_comparable(study: StudyResults) -> None:
    """Raise InputError if the study departs from the published one."""
    if study.departures:
        raise InputError(Reproduction((), study.departures).headline)


def _check_published(kind: str, name: str, names: Iterable[str]) -> None:
    """Raise InputError if a name isn't among the published ones."""
    if name not in names:
        hint = did_you_mean(name, names)
        raise InputError(f"the paper has no {kind} {name!r}; {hint}it has {', '.join(names)}")
