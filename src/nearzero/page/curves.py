"""The curves of a study's page: accuracy against level and against displacement, and costs at equal displacement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from nearzero.analysis.verdict import Verdict
from nearzero.page.charts import Chart
from nearzero.paper.published import published
from nearzero.perturbations.noise import NOISES
from nearzero.report.comparison import compare_responses
from nearzero.report.figures.scales import Reading, reading_of
from nearzero.report.results import StudyResults, curve, display_name, families, networks, splits
from nearzero.statistics.summaries import Summary, summarise

__all__ = ["cost_charts", "displacement_charts", "level_charts"]

TITLES: dict[Reading, str] = {
    "intensity": "families of intensity",
    "distance": "families of distance",
    "neither": "other families",
}
INTERVAL = "Lines are means over runs; bands are 95 % t intervals of the mean at each point."
ACCURACIES = f"{INTERVAL[:-1]}, cut at 0 and 100 %."
SPLITS = {"train": "training set", "test": "test set"}


@dataclass
class _Columns:
    """The columns of a chart, filled row by row."""

    rows: list[tuple[Any, ...]]

    @classmethod
    def of(cls, rows: Iterable[tuple[str, float, Summary]]) -> _Columns:
        """Return columns from series, x, and the summary of y over runs; rows without a run are left out."""
        return cls([(name, x, *_numbers(summary)) for name, x, summary in rows if summary.n])

    def columns(self) -> dict[str, list[Any]]:
        """Return the columns by name."""
        names = ("series", "x", "y", "low", "high", "n")
        return {name: [row[place] for row in self.rows] for place, name in enumerate(names)}


def _numbers(summary: Summary) -> tuple[float | int | None, ...]:
    """Return mean, low, high and n; a mean of one run has no interval."""
    low, high = (summary.low, summary.high) if summary.n > 1 else (None, None)
    return (
        *(None if value is None else round(float(value), 6) for value in (summary.mean, low, high)),
        summary.n,
    )


def level_charts(study: StudyResults) -> list[Chart]:
    """Return a chart for each network, split and reading of the families: accuracy against the family's level.

    The published points of tables 2 to 4 are marked, unless the study departs from the published one.
    """
    return [
        chart
        for split in splits(study)
        for reading in TITLES
        for network in networks(study)
        if (chart := _level_chart(study, network, split, reading)) is not None
    ]


def _level_chart(study: StudyResults, network: str, split: str, reading: Reading) -> Chart | None:
    names = [name for name in families(study) if reading_of(name) == reading]
    if not names:
        return None
    columns = _Columns.of(_level_rows(study, network, split, names)).columns()
    if not columns["x"]:
        return None
    positive = all(level > 0 for level in columns["x"])
    marks = _published_marks(study, network, names) if split == "train" else {}
    place = SPLITS.get(split, split)
    title = f"{display_name(network)}: {TITLES[reading]}, {place}"
    return Chart(
        name=f"level-{network}-{split}-{reading}",
        title=title,
        description=f"Accuracy against level. {title}: {', '.join(names)}. {ACCURACIES}",
        x="level" + (" (logarithmic)" if positive else ", in unit ranges"),
        y="accuracy, %",
        columns=columns,
        headings={
            "series": "family",
            "x": "level",
            "y": "accuracy_percent",
            "low": "interval95_low_percent",
            "high": "interval95_high_percent",
            "n": "runs",
        },
        marks=marks,
        logarithmic=positive,
        group="curves",
        labels={"network": network, "axis": "level", "split": split},
    )


def _level_rows(
    study: StudyResults, network: str, split: str, names: Iterable[str]
) -> Iterator[tuple[str, float, Summary]]:
    for name in names:
        own = curve(study, network, name, split)
        for level, runs in zip(own.levels, own.accuracy, strict=True):
            yield name, float(level), summarise(runs).cut(0.0, 100.0)


def _published_marks(study: StudyResults, network: str, names: Iterable[str]) -> dict[str, list[Any]]:
    """Return the published points of the families; none if the paper has no such network, or isn't comparable."""
    facts = published()
    if study.departures or network not in facts.baseline:
        return {}
    rows = [
        (name, row.level, row.published)
        for name in names
        if name in facts.families
        for row in compare_responses(study, network, name)
    ]
    if not rows:
        return {}
    return {name: [row[place] for row in rows] for place, name in enumerate(("series", "x", "y"))}


def displacement_charts(matched: xr.Dataset) -> list[Chart]:
    """Return a chart for each network and reading: accuracy against the displacement at which it was measured."""
    found = []
    for reading, words in TITLES.items():
        for network in map(str, matched.network.values):
            own = matched.sel(network=network)
            columns = _Columns.of(_displacement_rows(own, reading)).columns()
            if not columns["series"]:
                continue
            title = f"{display_name(network)}: {words}"
            found.append(
                Chart(
                    name=f"displacement-{network}-{reading}",
                    title=title,
                    description=f"Accuracy against displacement. {title}, by side of the identity. {ACCURACIES}",
                    x="displacement of the activations, %",
                    y="accuracy, %",
                    columns=columns,
                    headings={
                        "series": "family_side",
                        "x": "displacement_percent",
                        "y": "accuracy_percent",
                        "low": "interval95_low_percent",
                        "high": "interval95_high_percent",
                        "n": "runs",
                    },
                    group="curves",
                    labels={"network": network, "axis": "displacement", "split": "train"},
                )
            )
    return found


def _displacement_rows(own: xr.Dataset, reading: Reading) -> Iterator[tuple[str, float, Summary]]:
    """Yield series, displacement in percent and accuracy over the runs that reach it."""
    for family in map(str, own.family.values):
        if reading_of(family) != reading:
            continue
        for side in map(str, own.side.values):
            if not np.isfinite(own.accuracy.sel(family=family, side=side).values).any():
                continue
            unperturbed = summarise(100 * own.unperturbed_accuracy.values).cut(0.0, 100.0)
            yield f"{family} {side}", 0.0, unperturbed
            for target in own.target.values:
                values = own.accuracy.sel(family=family, side=side, target=target).values
                yield f"{family} {side}", 100 * float(target), summarise(100 * values).cut(0.0, 100.0)


def cost_charts(verdict: Verdict, most: int | None = None) -> list[Chart]:
    """Return a chart for each network: the cost of the families that decide and of noise, at equal displacement.

    Args:
        verdict: the verdict.
        most: the greatest number of charts, which are those of the first networks; None for all.
    """
    networks = verdict.networks[:most]
    rules, measured = verdict.rules, verdict.costs.family.values
    names = list(
        dict.fromkeys((*rules.distance, *rules.intensity, *(name for name in NOISES if name in measured)))
    )
    measure = rules.measure.replace("_", " ")
    columns = {network: _Columns.of(_cost_rows(verdict, network, names)).columns() for network in networks}
    ends = [
        float(value)
        for own in columns.values()
        for end in ("y", "low", "high")
        for value in own[end]
        if value is not None
    ]
    return [
        Chart(
            name=f"cost-{network}",
            title=f"{display_name(network)}: what each change costs at equal displacement",
            description=(
                f"{measure} lost, in points, against displacement, for {', '.join(names)}. {INTERVAL} A line of "
                "distance above those of intensity: distance costs more."
            ),
            x="displacement of the activations, %",
            y=f"{measure} lost, points",
            columns=columns[network],
            y_range=(min(ends), max(ends)) if ends else None,
            headings={
                "series": "family",
                "x": "displacement_percent",
                "y": "cost_points",
                "low": "interval95_low_points",
                "high": "interval95_high_points",
                "n": "runs",
            },
            group="answer",
            labels={"network": network},
        )
        for network in networks
    ]


def _cost_rows(verdict: Verdict, network: str, names: Iterable[str]) -> Iterator[tuple[str, float, Summary]]:
    for name in names:
        own = verdict.costs.sel(network=network, family=name)
        for target in own.target.values:
            yield name, 100 * float(target), summarise(own.sel(target=target).values)
