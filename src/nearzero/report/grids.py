"""The verdict on each network of a grid, and the unperturbed networks run by run, as tables."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.analysis.verdict import LOSS, Rules, Verdict, measure_words
from nearzero.report.results import display_name
from nearzero.report.table import Column, Number, Table
from nearzero.report.verdict import cost_cell, judged_tables, p_cell

__all__ = ["GridResults", "grid_table", "grid_tables", "judgements"]

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


def grid_tables(grid: GridResults) -> tuple[Table, ...]:
    """Return all tables of a grid: the verdict on each network, those of the verdict, and the runs."""
    return (grid_table(grid), *judged_tables(grid.verdict(), grid.title), runs_table(grid))


def grid_table(grid: GridResults) -> Table:
    """Return a table with a row for each network of a grid: its unperturbed scores, the verdict on it, and D."""
    verdicts = judgements(grid)
    verdict = next(iter(verdicts.values()))
    rules = verdict.rules
    shown = [target for target in rules.targets if target >= SHOWN] or list(rules.targets)[-1:]
    pairs = [(name, target) for name in rules.intensity for target in shown]
    rows, scores, placed = [], list(_scores(grid.responses)), "layers" in grid.responses.coords
    for network in verdict.networks:
        own_scores = [scale * grid.responses[name].sel(network=network).values for _, name, scale in scores]
        compared = [row for row in verdict.comparisons if row.network == network]
        own = {(row.intensity, row.target): row for row in compared}
        comparisons = (own.get(pair) for pair in pairs)
        rows.append(
            (
                display_name(network),
                *([_place(grid.responses, network)] if placed else []),
                int(_measured(grid.responses, network).sum()),
                *(
                    Number.of(float(np.nanmean(runs)), _decimals(column))
                    for runs, (column, _, _) in zip(own_scores, scores, strict=True)
                ),
                *(judged.finding(network) for judged in verdicts.values()),
                verdict.robustness(network) or None,
                p_cell(_least(row.p_adjusted for row in compared)),
                p_cell(_least(row.p_joint for row in compared)),
                *(
                    None if row is None else cost_cell(row.difference, rules, signed=True)
                    for row in comparisons
                ),
            )
        )
    return Table(
        name="grid",
        title=grid.title,
        caption=_caption(rules),
        columns=(
            Column("network", "network", kind="text"),
            *([Column("layer", "layer", kind="text", spare=8)] if placed else []),
            Column("runs", "runs", kind="count", spare=1),
            *(column for column, _, _ in scores),
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
                    unit=rules.unit,
                    spare=2 if target < max(shown) else 0,
                )
                for name, target in pairs
            ),
        ),
        rows=tuple(rows),
        notices=(*grid.notices, *rules.notices),
        group="runs",  # networks usually have equally many runs, and so form one block
    )


def _caption(rules: Rules) -> str:
    """Return the sentences on how to read the table of a grid."""
    distance = ", ".join(rules.distance)
    return (
        f"D is the cost of distance ({distance}, sides averaged) minus that of intensity, at equal displacement of the "
        f"activations, in {rules.measured_in}, mean over runs; a dash: one of the two doesn't reach it. Verdicts are "
        "by the rules, over all displacements, Holm over all rows of a model (its layers included); margin "
        f"{rules.margin:g} {rules.unit}. Robust, or what a direction changes with: by the checks, with {distance} as "
        "distance. p: the least of a network's; by Holm over the rows of its model, which decides; and over all rows "
        "of the grid, given beside."
    )


def _scores(responses: xr.Dataset) -> Iterator[tuple[Column, str, float]]:
    """Yield a column for each score of the unperturbed networks, its variable, and the factor to its unit."""
    if "unperturbed_accuracy" in responses:
        yield Column("accuracy", "accuracy, %", "accuracy\n%", unit="percent"), "unperturbed_accuracy", 100.0
    if f"unperturbed_{LOSS}" in responses:
        words = measure_words(LOSS)
        yield Column(LOSS, f"{words}, nats", f"{words}\nnats", unit="nats"), f"unperturbed_{LOSS}", 1.0


def _measured(responses: xr.Dataset, network: str) -> npt.NDArray[np.bool_]:
    """Return for each run whether it was measured, and isn't lost."""
    known = next((name for _, name, _ in _scores(responses)), "dead_units")
    return np.asarray(np.isfinite(responses[known].sel(network=network).values))


def _decimals(column: Column) -> int:
    return 4 if column.unit == "nats" else 2


def _place(responses: xr.Dataset, network: str) -> str:
    own = responses.sel(network=network)
    return f"{int(own.layer)} of {int(own.layers)}"


def runs_table(grid: GridResults) -> Table:
    """Return a table with a row for each run of each model of a grid: its unperturbed scores, or that it is lost."""
    responses, rows = grid.responses, []
    networks = responses.network.values.tolist()
    named = responses.model.values.tolist() if "model" in responses.coords else networks
    models = dict(zip(named, networks, strict=True))
    scores = list(_scores(responses))
    seeds = responses.seed.values.tolist() if "seed" in responses.coords else None
    for model, network in models.items():
        for run in range(responses.sizes["run"]):
            own = responses.sel(network=network).isel(run=run)
            values = (
                Number.of(scale * float(own[name]), _decimals(column)) for column, name, scale in scores
            )
            lost = "" if _measured(responses, network)[run] else "lost"
            rows.append(
                (display_name(model), run, *([] if seeds is None else [int(seeds[run])]), *values, lost)
            )
    return Table(
        name="runs",
        title=f"Unperturbed networks, run by run: {grid.title}",
        caption="On the examples that respond.",
        columns=(
            Column("network", "network", kind="text"),
            Column("run", "run", kind="count"),
            *([] if seeds is None else [Column("seed", "seed", kind="count")]),
            *(column for column, _, _ in scores),
            Column("lost", "", kind="text"),
        ),
        rows=tuple(rows),
        notices=grid.notices,
    )


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)
