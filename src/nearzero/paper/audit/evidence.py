"""The evidence of an audit: a study's responses and history, the measurements of `measure`, and optional results.

Faults and sentences take their numbers from here, so that a quantity is always read in the same way. This
module also makes the rows of the published tables: as published, as run and put right, with all tests.
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
    """Another study, with normalised pixels if this one has raw ones, and vice versa.

    Attributes:
        title: of that study.
        history: its training history.
        differing: keys of the spec, other than the pixels, in which the two studies differ.
    """

    title: str
    history: xr.Dataset
    differing: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything that an audit is made from.

    Attributes:
        title: of the study.
        response, history: its results.
        measured: its measurements, made by `gathered`, on (network, run, row).
        pixels, device, conduct: of its spec.
        margin: the smallest difference that matters, in percentage points.
        matched: responses at matched displacement; None if they aren't measured yet.
        verdict: by the study's rules, on `matched`; None if that isn't measured yet.
        other: the study with the other pixels; None if none is given.
        notices: warnings for a reader.
        departures: in what the study departs from the published one; if in anything, no published number stands
            beside its own.
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
    departures: tuple[str, ...] = ()

    @property
    def networks(self) -> tuple[str, ...]:
        """Return the names of the study's networks, without those of which every run diverged."""
        present = self.measured.unperturbed_accuracy.notnull().any("run")
        return tuple(str(name) for name in self.measured.network.values[present.values])

    @cached_property
    def by_network(self) -> tuple[NetworkEvidence, ...]:
        """Return the evidence on each of these networks."""
        return tuple(NetworkEvidence(self, network) for network in self.networks)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Return the rows of the published tables that the study has."""
        return _rows_of(self.measured)

    @cached_property
    def levels(self) -> tuple[LevelRow, ...]:
        """Return a row for each network and published level that the study has.

        Holm's adjustment is over all rows and networks of the study, since a reader sees them all together.
        """
        rows = [_level_row(own, row) for own in self.by_network for row in self.rows]
        adjusted = holm([np.nan if row.p_identity is None else row.p_identity for row in rows])
        return tuple(
            row if row.p_identity is None else replace(row, p_holm=float(p))
            for row, p in zip(rows, adjusted, strict=True)
        )

    def has(self, family: str) -> bool:
        """Return whether the study has the rows of a family; it has all published ones or none."""
        return any(row.family == family for row in self.rows)

    def row(self, family: str, level: float) -> Row:
        """Return the row of a published level, of a family that the study has."""
        return next(row for row in self.rows if (row.family, row.level) == (family, level))


@dataclass(frozen=True, eq=False)
class NetworkEvidence:
    """The evidence on one network. Methods return one number per run, `(R,)`, unless they say otherwise.

    Attributes:
        study: the evidence on all networks.
        network: the name of the network.
    """

    study: Evidence
    network: str

    @cached_property
    def levels(self) -> tuple[LevelRow, ...]:
        """Return the network's rows."""
        return tuple(row for row in self.study.levels if row.network == self.network)

    @property
    def n(self) -> int:
        """Return the number of runs of its rows, the greatest if they differ."""
        return max(row.n for row in self.levels)

    @property
    def flat(self) -> bool:
        """Return whether the scale sweep is flat by construction in every run."""
        flat = self.runs("flat")
        present = flat[np.isfinite(flat)]
        return bool(present.size and present.all())

    @cached_property
    def _measured(self) -> dict[str, Runs]:
        """Return all measured variables, runs first."""
        own = self.study.measured.sel(network=self.network).transpose("run", ...)
        return {str(name): variable.values.astype(np.float64) for name, variable in own.items()}

    def runs(self, name: str, row: Row | None = None) -> Runs:
        """Return a measured variable; one that has a value for each row, at the given row."""
        values = self._measured[name]
        return values if row is None or values.ndim == 1 else values[:, self.study.rows.index(row)]

    def percent(self, name: str, row: Row | None = None) -> Runs:
        """Return a measured variable in percent, see `runs`."""
        return 100.0 * self.runs(name, row)

    def cost(self, row: Row, name: str = "accuracy") -> Runs:
        """Return the cost of a row in percentage points; `name` is the accuracy that the cost is computed from."""
        unperturbed = "unperturbed_test_accuracy" if name == "test_accuracy" else "unperturbed_accuracy"
        return self.percent(unperturbed) - self.percent(name, row)

    @cached_property
    def curves(self) -> dict[str, xr.Dataset]:
        """Return the study's responses in percent, on (level, run), by family, at the family's levels, ascending."""
        own = self.study.response[["accuracy", "agreement"]].sel(network=self.network, split="train")
        own = 100.0 * own.transpose("level", "run", ...)
        return {str(name): own.sel(family=name).dropna("level", how="all") for name in own.family.values}

    def swept(self, row: Row, name: str = "accuracy") -> Runs:
        """Return the study's response at a row, in percent.

        The nearest level is used, because a logarithm can be rounded differently on the machine on which the
        study was swept. Only levels of the row's family are considered, because a level of another family may
        be as near.
        """
        curve = self.curves[row.family][name]
        return np.asarray(curve.values[np.abs(curve.level.values - row.grid).argmin()])

    @cached_property
    def unperturbed(self) -> Runs:
        """Return the study's accuracy without perturbation, in percent."""
        accuracy = self.study.response.unperturbed_accuracy.sel(network=self.network, split="train")
        return 100.0 * np.asarray(accuracy.values, dtype=np.float64)

    def final(self, name: str, history: xr.Dataset | None = None) -> Runs:
        """Return an accuracy at the end of training, in percent; of another study if its history is given."""
        accuracy = (self.study.history if history is None else history)[name].sel(network=self.network)
        return 100.0 * np.asarray(accuracy.isel(step=-1).values, dtype=np.float64)


def _level_row(own: NetworkEvidence, row: Row) -> LevelRow:
    tables, perturbed, unperturbed = published(), own.swept(row), own.unperturbed
    facts = next(facts for facts in tables.families[row.family] if facts.level == row.level)
    response = None if own.study.departures else facts.networks.get(own.network)
    accuracy, t, p = (None, None, None) if response is None else astuple(response)
    entry = paired_t_test(own.curves[row.family].accuracy[tables.ttest_entry].values, perturbed)
    identity = paired_t_test(unperturbed, perturbed)
    return LevelRow(
        network=own.network,
        **asdict(row),
        n=identity.n,
        displacement=mean_of(own.percent("displacement", row)),
        published=accuracy,
        as_run=mean_of(perturbed),
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
        within=within_margin(equivalence_test(unperturbed, perturbed, margin=own.study.margin)),
        reason=identity.reason,
    )


def _put_right(own: NetworkEvidence, row: Row) -> float | None:
    if row.family in PUT_RIGHT:
        return mean_of(own.percent(PUT_RIGHT[row.family], row))
    if not own.flat:
        return None
    index = np.abs(own.study.measured.scale_level.values - row.grid).argmin()
    return mean_of(own.percent("predicted_accuracy")[:, index])


def within_margin(test: EquivalenceTest) -> bool | None:
    """Return whether the mean difference is within the margin; None with fewer than two runs.

    If all differences are equal there is no test, and the difference itself is compared with the margin.
    """
    if test.equivalent is None and test.n >= 2:
        return abs(test.mean_difference) < test.margin
    return test.equivalent


def gathered(parts: Sequence[Sequence[xr.Dataset | None]], networks: Sequence[str]) -> xr.Dataset:
    """Join the measurements of all runs into a Dataset on (network, run, row), with NaN for runs that diverged.

    `right`, the examples that were predicted correctly, is large and isn't kept. In its place are the mean
    and the crossed bootstrap's interval of the cost at `bootstrap_row`, in points: `bootstrap_mean`,
    `bootstrap_low` and `bootstrap_high` on network.

    Args:
        parts: the results of `measure`, by network and run; None for a run that diverged.
        networks: their names.
    """
    present = next(run for runs in parts for run in runs if run is not None)
    diverged = xr.full_like(present.drop_vars("right"), np.nan)
    rows = [
        xr.concat([diverged if run is None else run.drop_vars("right") for run in runs], "run")
        for runs in parts
    ]
    joined = xr.concat(rows, "network").assign_coords(network=list(networks))
    intervals = np.transpose([_interval([run for run in runs if run is not None]) for runs in parts])
    return joined.assign({name: ("network", ends) for name, ends in zip(INTERVAL, intervals, strict=True)})


def _interval(runs: Sequence[xr.Dataset]) -> list[float]:
    """Return mean and interval of the cost of `bootstrap_row` for new runs and new examples; NaN if there is none."""
    if not runs or bootstrap_row(_rows_of(runs[0])) is None:
        return [np.nan] * len(INTERVAL)
    right = np.stack([np.unpackbits(run.right.values, axis=1, count=int(run.examples)) for run in runs])
    before, after = (right[:, which].astype(np.float32) for which in (0, 1))
    cost = crossed_bootstrap(before, after, rng=np.random.default_rng(0))
    return [np.nan if value is None else 100.0 * value for value in (cost.mean, cost.t_low, cost.t_high)]


def _rows_of(measured: xr.Dataset) -> tuple[Row, ...]:
    """Return the rows of measurements."""
    columns = (measured[name].values.tolist() for name in ("family", "level", "grid"))
    return tuple(Row(*values) for values in zip(*columns, strict=True))


def mean_of(values: Any) -> float | None:
    """Return the mean over the runs with a value; None if there are none."""
    average = mean(np.asarray(values, dtype=np.float64))
    return float(average) if np.isfinite(average) else None


def has_target(responses: xr.Dataset | xr.DataArray, family: str, target: float) -> bool:
    """Return whether responses at matched displacement have a family and a displacement."""
    return family in responses.family.values and target in responses.target.values
