"""What an audit rests on: a study's responses and history, what `measure` found, and what may be there besides.

Faults and sentences take their numbers from here, so that one quantity is read in one way. The rows of the published
tables are made here too: as published, as run, put right, with all tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.analysis.verdict import Verdict
from nearzero.paper.audit.measure import Row, bootstrap_row
from nearzero.paper.audit.values import LevelRow
from nearzero.paper.published import published
from nearzero.perturbations.families import Conduct
from nearzero.statistics.bootstrap import crossed_bootstrap
from nearzero.statistics.multiplicity import holm
from nearzero.statistics.paired import EquivalenceTest, equivalence_test, paired_t_test
from nearzero.statistics.summaries import mean

__all__ = [
    "Evidence",
    "NetworkEvidence",
    "Other",
    "Runs",
    "gathered",
    "has_target",
    "mean_of",
    "within_margin",
]

Runs = npt.NDArray[np.float64]
INTERVAL = ("bootstrap_mean", "bootstrap_low", "bootstrap_high")
PUT_RIGHT = {"offset": "centred_accuracy", "clip": "clip_post_accuracy"}


@dataclass(frozen=True, eq=False)
class Other:
    """Another study, with the other conduct of the pixels.

    Attributes:
        title: of that study.
        history: its training history.
        differing: keys of the spec, besides the pixels, in which it's another.
    """

    title: str
    history: xr.Dataset
    differing: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything an audit is made from.

    Attributes:
        title: of the study.
        response, history: its results.
        measured: what `gathered` made of the measurements, on (network, run, row).
        pixels, device, conduct: of its spec.
        margin: the difference that matters, in percentage points.
        matched: responses at matched displacement, and
        verdict: what its rules say of them; None where they aren't measured yet.
        other: the study with the other pixels; None if none is given.
        notices: what a reader must know first.
    """

    title: str
    response: xr.Dataset
    history: xr.Dataset
    measured: xr.Dataset
    pixels: str
    device: str
    conduct: Conduct
    margin: float = 1.0
    matched: xr.Dataset | None = None
    verdict: Verdict | None = None
    other: Other | None = None
    notices: tuple[str, ...] = ()

    @property
    def networks(self) -> tuple[str, ...]:
        """The study's networks, but for those of which every run diverged."""
        some = self.measured.unperturbed_accuracy.notnull().any("run")
        return tuple(str(each) for each in self.measured.network.values[some.values])

    @cached_property
    def each(self) -> tuple[NetworkEvidence, ...]:
        """The evidence on each of these networks."""
        return tuple(NetworkEvidence(self, network) for network in self.networks)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The rows of the published tables that the study has."""
        return _rows_of(self.measured)

    @cached_property
    def levels(self) -> tuple[LevelRow, ...]:
        """A row for each network and published level that the study has.

        Holm's adjustment is over all rows and networks of the study, since a reader meets them all together.
        """
        rows = [_level_row(own, row) for own in self.each for row in self.rows]
        adjusted = holm([np.nan if row.p_identity is None else row.p_identity for row in rows])
        return tuple(
            row if row.p_identity is None else replace(row, p_holm=float(p))
            for row, p in zip(rows, adjusted, strict=True)
        )

    def has(self, family: str) -> bool:
        """Return whether rows of this family are there, and so all that were published."""
        return any(row.family == family for row in self.rows)

    def row(self, family: str, level: float) -> Row:
        """Return the row of a published level, of a family that the study has."""
        return next(row for row in self.rows if (row.family, row.level) == (family, level))


@dataclass(frozen=True, eq=False)
class NetworkEvidence:
    """The evidence on one network: numbers of each run, (R,), unless a method says otherwise.

    Attributes:
        study: the evidence on all networks.
        network: the name of this one.
    """

    study: Evidence
    network: str

    @cached_property
    def levels(self) -> tuple[LevelRow, ...]:
        """Its rows."""
        return tuple(row for row in self.study.levels if row.network == self.network)

    @property
    def n(self) -> int:
        """How many runs its rows have."""
        return max(row.n for row in self.levels)

    @property
    def flat(self) -> bool:
        """Whether the scale sweep is flat by construction, in every run."""
        found = self.runs("flat")
        present = found[np.isfinite(found)]
        return bool(present.size and present.all())

    @cached_property
    def _measured(self) -> dict[str, Runs]:
        """What was measured, with runs first."""
        own = self.study.measured.sel(network=self.network).transpose("run", ...)
        return {str(name): each.values.astype(np.float64) for name, each in own.items()}

    def runs(self, name: str, row: Row | None = None) -> Runs:
        """Return a variable as it was measured; at a row if it's about rows."""
        values = self._measured[name]
        return values if row is None or values.ndim == 1 else values[:, self.study.rows.index(row)]

    def percent(self, name: str, row: Row | None = None) -> Runs:
        """Return the same in percent."""
        return 100.0 * self.runs(name, row)

    def cost(self, row: Row, name: str = "accuracy") -> Runs:
        """Return what a row costs, points: of accuracy, measured in one of several ways."""
        whole = "unperturbed_test_accuracy" if name == "test_accuracy" else "unperturbed_accuracy"
        return self.percent(whole) - self.percent(name, row)

    @cached_property
    def curves(self) -> dict[str, xr.Dataset]:
        """The study's own responses in percent, on (level, run), by family: at the levels that each has, ascending."""
        own = self.study.response[["accuracy", "agreement"]].sel(network=self.network, split="train")
        own = 100.0 * own.transpose("level", "run", ...)
        return {str(each): own.sel(family=each).dropna("level", how="all") for each in own.family.values}

    def swept(self, row: Row, name: str = "accuracy") -> Runs:
        """Return the study's own response at a row, in percent.

        Levels are looked for by nearness and not by value, since a logarithm can round otherwise on the machine that
        a study was swept on; and among the family's own, since another's may be as near.
        """
        curve = self.curves[row.family][name]
        return np.asarray(curve.values[np.abs(curve.level.values - row.grid).argmin()])

    @cached_property
    def unperturbed(self) -> Runs:
        """The study's own accuracy without perturbation, in percent."""
        found = self.study.response.unperturbed_accuracy.sel(network=self.network, split="train")
        return 100.0 * np.asarray(found.values, dtype=np.float64)

    def final(self, name: str, history: xr.Dataset | None = None) -> Runs:
        """Return an accuracy at the end of training, in percent; of another study by its history."""
        found = (self.study.history if history is None else history)[name].sel(network=self.network)
        return 100.0 * np.asarray(found.isel(step=-1).values, dtype=np.float64)


def _level_row(own: NetworkEvidence, row: Row) -> LevelRow:
    tables, here, whole = published(), own.swept(row), own.unperturbed
    facts = next(each for each in tables.families[row.family] if each.level == row.level)
    response = facts.networks.get(own.network)
    accuracy, t, p = (None, None, None) if response is None else astuple(response)
    entry = paired_t_test(own.curves[row.family].accuracy[tables.ttest_entry].values, here)
    identity = paired_t_test(whole, here)
    return LevelRow(
        network=own.network,
        **asdict(row),
        n=identity.n,
        displacement=mean_of(own.percent("displacement", row)),
        published=accuracy,
        as_run=mean_of(here),
        put_right=_put_right(own, row),
        agreement=mean_of(own.swept(row, "agreement")),
        test=mean_of(own.percent("test_accuracy", row)),
        t_published=t,
        p_published=p,
        t_entry=entry.t,
        p_entry=entry.p,
        t_identity=identity.t,
        p_identity=identity.p,
        p_holm=None,
        within=within_margin(equivalence_test(whole, here, margin=own.study.margin)),
        words=identity.words,
    )


def _put_right(own: NetworkEvidence, row: Row) -> float | None:
    if row.family in PUT_RIGHT:
        return mean_of(own.percent(PUT_RIGHT[row.family], row))
    if not own.flat:
        return None
    place = np.abs(own.study.measured.scale_level.values - row.grid).argmin()
    return mean_of(own.percent("predicted_accuracy")[:, place])


def within_margin(test: EquivalenceTest) -> bool | None:
    """Return whether differences are within the margin, by themselves where all are equal; None for one run."""
    if test.equivalent is None and test.n >= 2:
        return abs(test.mean_difference) < test.margin
    return test.equivalent


def gathered(parts: Sequence[Sequence[xr.Dataset | None]], networks: Sequence[str]) -> xr.Dataset:
    """Return measurements of all runs, network by network, on (network, run, row); NaN for runs that diverged.

    Of the examples that were predicted right, which would be long, the crossed bootstrap's interval of the cost at
    `bootstrap_row` is kept, in points: `bootstrap_mean`, `bootstrap_low`, `bootstrap_high` on network.
    """
    present = next(each for runs in parts for each in runs if each is not None)
    lost = xr.full_like(present.drop_vars("right"), np.nan)
    rows = [
        xr.concat([lost if each is None else each.drop_vars("right") for each in runs], "run")
        for runs in parts
    ]
    whole = xr.concat(rows, "network").assign_coords(network=list(networks))
    intervals = np.transpose([_interval([each for each in runs if each is not None]) for runs in parts])
    return whole.assign({name: ("network", ends) for name, ends in zip(INTERVAL, intervals, strict=True)})


def _interval(runs: Sequence[xr.Dataset]) -> list[float]:
    """Return mean and interval of the cost of one row over new runs and new examples; NaN where there is none."""
    if not runs or bootstrap_row(_rows_of(runs[0])) is None:
        return [np.nan] * len(INTERVAL)
    bits = np.stack([np.unpackbits(each.right.values, axis=1, count=int(each.examples)) for each in runs])
    before, after = (bits[:, which].astype(np.float32) for which in (0, 1))
    found = crossed_bootstrap(before, after, rng=np.random.default_rng(0))
    return [np.nan if each is None else 100.0 * each for each in (found.mean, found.t_low, found.t_high)]


def _rows_of(found: xr.Dataset) -> tuple[Row, ...]:
    """Return the rows that measurements are about."""
    columns = (found[name].values.tolist() for name in ("family", "level", "grid"))
    return tuple(Row(*each) for each in zip(*columns, strict=True))


def mean_of(values: Any) -> float | None:
    """Return the mean over the runs that have a value; None if none has."""
    found = mean(np.asarray(values, dtype=np.float64))
    return float(found) if np.isfinite(found) else None


def has_target(found: xr.Dataset | xr.DataArray, family: str, target: float) -> bool:
    """Return whether a family was measured at a displacement."""
    return family in found.family.values and target in found.target.values
