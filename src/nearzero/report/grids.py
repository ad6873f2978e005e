"""The verdict on each network of a grid, as a table."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import xarray as xr

from nearzero.analysis.verdict import Rules, Verdict
from nearzero.report.results import display_name
from nearzero.report.table import Column, Number, Table
from nearzero.report.verdict import p_cell

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
        compared = [row for row in verdict.comparisons if row.network == network]
        own = {(row.intensity, row.target): row for row in compared}
        comparisons = (own.get(pair) for pair in pairs)
        rows.append(
            (
                display_name(network),
                int(np.isfinite(runs).sum()),
                Number.of(float(np.nanmean(runs))),
                *(judged.finding(network) for judged in verdicts.values()),
                verdict.robustness(network) or None,
                p_cell(_least(row.p_adjusted for row in compared)),
                p_cell(_least(row.p_joint for row in compared)),
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
            f"all rows of a model (its layers included); margin {rules.margin:g} points. Robust, or what a direction "
            f"hangs on: by the checks, with {', '.join(rules.distance)} as distance. p: the least of a network's; by "
            "Holm over the rows of its model, which decides; and over all rows of the grid, given beside."
        ),
        columns=(
            Column("network", "network", kind="text"),
            Column("runs", "runs", kind="count", spare=1),
            Column("accuracy", "accuracy, %", "accuracy\n%", unit="percent"),
            *(
                Column(f"verdict_{name}", f"verdict, distance = {name}", f"verdict\n{name}", kind="text")
                for name in verdicts
            ),
            Column("robust", "robust", kind="text", spare=6),
            Column("p_adjusted", "least p, Holm", "least p\nHolm", kind="text", spare=4),
            Column("p_joint", "least p, all networks", "least p\nall", kind="text", spare=5),
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


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)
