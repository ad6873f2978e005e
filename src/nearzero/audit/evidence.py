"""What an audit rests on: a study's responses and history, what `measure` found, and what may be there besides.

Faults, rows and sentences take their numbers from here, so that one quantity is read in one way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.audit.measure import Row, bootstrap_row
from nearzero.families import Conduct
from nearzero.statistics.bootstrap import crossed_bootstrap
from nearzero.statistics.summaries import mean
from nearzero.verdict import Verdict

__all__ = ["Evidence", "Other", "Runs", "gathered", "mean_of", "side_costs"]

Runs = npt.NDArray[np.float64]
INTERVAL = ("bootstrap_mean", "bootstrap_low", "bootstrap_high")


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
    def rows(self) -> tuple[Row, ...]:
        """The rows of the published tables that the study has."""
        columns = (self.measured[name].values for name in ("family", "level", "grid"))
        return tuple(
            Row(str(family), float(level), float(grid)) for family, level, grid in zip(*columns, strict=True)
        )

    def has(self, family: str) -> bool:
        """Whether rows of this family are there."""
        return any(row.family == family for row in self.rows)

    def row(self, family: str, level: float) -> int | None:
        """The number of a row; None if the study hasn't swept that family."""
        places = [(row.family, row.level) for row in self.rows]
        return places.index((family, level)) if (family, level) in places else None

    def flat(self, network: str) -> bool:
        """Whether the scale sweep is flat by construction, in every run."""
        found = self.runs("flat", network)
        present = found[np.isfinite(found)]
        return bool(present.size and present.all())

    def percent(self, name: str, network: str, row: int | None = None) -> Runs:
        """A measured variable of each run, (R,), in percent; at a row if it's about rows."""
        return 100.0 * self.runs(name, network, row)

    def runs(self, name: str, network: str, row: int | None = None) -> Runs:
        """The same as it was measured."""
        if name not in self._arrays:
            self._arrays[name] = self.measured[name].transpose("network", "run", ...).values
        values = self._arrays[name][self._places[network]]
        return np.asarray(values if row is None else values[..., row], dtype=np.float64)

    def cost(self, network: str, row: int, name: str = "accuracy") -> Runs:
        """What a row costs each run, (R,), points: of accuracy, measured in one of several ways."""
        whole = "unperturbed_test_accuracy" if name == "test_accuracy" else "unperturbed_accuracy"
        return self.percent(whole, network) - self.percent(name, network, row)

    def swept(self, network: str, row: Row, name: str = "accuracy") -> Runs:
        """The study's own response of each run, (R,), in percent."""
        levels, _ = self._curves(row.family)
        return np.asarray(self.curve(network, row.family, name)[np.abs(levels - row.grid).argmin()])

    def curve(self, network: str, family: str, name: str = "accuracy") -> Runs:
        """The study's own responses at all levels of a family, ascending, (L, R), in percent."""
        _, curves = self._curves(family)
        return np.asarray(100.0 * curves[name][self._places[network]], dtype=np.float64)

    def _curves(self, family: str) -> tuple[Runs, dict[str, Runs]]:
        """The levels that a family has, and its responses at these, (K, L, R), by name.

        Levels are looked for by nearness and not by value, since a logarithm can round otherwise on the machine that
        a study was swept on; and among the family's own, since another's may be as near.
        """
        if family not in self._cache:
            found = self.response.sel(family=family, split="train").dropna(
                "level", how="all", subset=["accuracy"]
            )
            found = found.sel(network=self.measured.network.values).transpose("network", "level", "run", ...)
            names = ("accuracy", "agreement")
            self._cache[family] = (found.level.values, {name: found[name].values for name in names})
        return self._cache[family]

    @cached_property
    def _cache(self) -> dict[str, tuple[Runs, dict[str, Runs]]]:
        """Families' curves, once they were asked for: an audit asks for everything hundreds of times."""
        return {}

    @cached_property
    def _arrays(self) -> dict[str, Runs]:
        """What was measured, likewise."""
        return {}

    @cached_property
    def _places(self) -> dict[str, int]:
        """Where each network stands in what was measured."""
        return {str(name): place for place, name in enumerate(self.measured.network.values)}

    def unperturbed(self, network: str) -> Runs:
        """The study's own accuracy without perturbation, (R,), in percent."""
        found = self.response.unperturbed_accuracy.sel(network=network, split="train")
        return 100.0 * np.asarray(found.values, dtype=np.float64)

    def final(self, network: str, name: str, history: xr.Dataset | None = None) -> Runs:
        """An accuracy at the end of training, (R,), in percent."""
        found = (self.history if history is None else history)[name].sel(network=network).isel(step=-1)
        return 100.0 * np.asarray(found.values, dtype=np.float64)


def gathered(parts: Sequence[Sequence[xr.Dataset | None]], networks: Sequence[str]) -> xr.Dataset:
    """Measurements of all runs, network by network, on (network, run, row); NaN for runs that diverged.

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
    intervals = np.array([_interval([each for each in runs if each is not None]) for runs in parts])
    return whole.assign({name: ("network", intervals[:, place]) for place, name in enumerate(INTERVAL)})


def _interval(runs: Sequence[xr.Dataset]) -> tuple[float, float, float]:
    """Mean and interval of the cost of one row over new runs and new examples; NaN where there is none."""
    nothing = (np.nan, np.nan, np.nan)
    places = (
        [
            Row(*each)
            for each in zip(*(runs[0][name].values for name in ("family", "level", "grid")), strict=True)
        ]
        if runs
        else []
    )
    if bootstrap_row(places) is None:
        return nothing
    bits = np.stack([np.unpackbits(each.right.values, axis=1, count=int(each.examples)) for each in runs])
    before, after = (bits[:, which].astype(np.float32) for which in (0, 1))
    found = crossed_bootstrap(before, after, rng=np.random.default_rng(0))
    ends = (found.mean, found.t_low, found.t_high)
    return tuple(np.nan if each is None else 100.0 * each for each in ends)  # type: ignore[return-value]


def mean_of(values: Any) -> float | None:
    """The mean over the runs that have a value; None if none has."""
    found = mean(np.asarray(values, dtype=np.float64))
    return float(found) if np.isfinite(found) else None


def side_costs(evidence: Evidence, network: str, family: str, side: str, target: float) -> Runs | None:
    """What one side of a family costs at a displacement, (R,), points; None where that wasn't measured."""
    found = evidence.matched
    if found is None or family not in found.family.values or target not in found.target.values:
        return None
    if "accuracy" not in found:
        return None
    own = found.sel(network=network)
    return 100.0 * np.asarray(
        own.unperturbed_accuracy - own.accuracy.sel(family=family, side=side, target=target), dtype=np.float64
    )
