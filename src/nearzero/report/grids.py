"""The verdict on each network of a grid, as a table."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import xarray as xr

from nearzero.analysis.verdict import Rules, Verdict
from nearzero.report.results import display_name
from nearzero.report.table import Column, Number, Table

__all__ = ["GridResults", "grid_table", "judgements"]

SHOWN = 0.2  # the smallest displacement that a table shows


class GridResults(Protocol):
    """The results of a grid that a report reads; `nearzero.grid.Grid` documents them."""

    @property
    def title(self) -> str: ...  # noqa: D102

    @property
    def notices(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def responses(self) -> xr.Dataset: ...  # noqa: D102

    def verdict(self, rules: Rules | None = None) -> Verdict: ...  # noqa: D102

    def read(self) -> dict[str, Verdict]: ...  # noqa: D102


def judgements(grid: GridResults) -> Mapping[str, Verdict]:
    """Return the verdict by the rules, and one for each family that is read in place of distance, by family."""
    verdict = grid.verdict()
    return {", ".join(verdict.rules.distance): verdict} | grid.read()


def grid_table(grid: GridResults) -> Table:
    """Return a table with a row for each network of a grid: its accuracy, the verdict on it, and D."""
    verdicts = judgements(grid)
    verdict = next(iter(verdicts.values()))
    rules = verdict.rules
    shown = [target for target in rules.targets if target >= SHOWN] or list(rules.targets)[-1:]
    pairs = [(name, target) for name in rules.intensity for target in shown]
    rows = []
    for network in verdict.networks:
        runs = 100 * grid.responses.unperturbed_accuracy.sel(network=network).values
        own = {(row.intensity, row.target): row for row in verdict.comparisons if row.network == network}
        comparisons = (own.get(pair) for pair in pairs)
        rows.append(
            (
                display_name(network),
                int(np.isfinite(runs).sum()),
                Number.of(float(np.nanmean(runs))),
                *(judged.of(network).split(" (")[0] for judged in verdicts.values()),
                *(None if row is None else Number.of(row.difference, signed=True) for row in comparisons),
            )
        )
    return Table(
        name="grid",
        title=grid.title,
        caption=(
            f"D is the cost of distance ({', '.join(rules.distance)}, sides averaged) minus that of intensity, at "
            f"equal displacement of the activations, in points of {rules.measure.replace('_', ' ')}, mean over runs; a "
            "dash: one of the two doesn't reach it. Verdicts are by the rules, over all displacements, Holm over "
            f"all networks here; margin {rules.margin:g} points."
        ),
        columns=(
            Column("network", "network", kind="text"),
            Column("runs", "runs", kind="count", spare=1),
            Column("accuracy", "accuracy, %", "accuracy\n%", unit="percent"),
            *(
                Column(f"verdict_{name}", f"verdict, distance = {name}", f"verdict\n{name}", kind="text")
                for name in verdicts
            ),
            *(
                Column(
                    f"D_{name}_{100 * target:g}",
                    f"D, {name}, {100 * target:g} %",
                    f"D, {name}\n{100 * target:g} %",
                    unit="points",
                    spare=2 if target < max(shown) else 0,
                )
                for name, target in pairs
            ),
        ),
        rows=tuple(rows),
        notices=(*grid.notices, *rules.notices),
        group="runs",  # networks usually have equally many runs, and so form one block
    )
