"""The effects near zero and far from it as a table; `nearzero.analysis.near_far` measures them."""

import numpy as np
import xarray as xr

from nearzero.report.results import display_name
from nearzero.report.table import Cell, Column, Number, Span, Table
from nearzero.statistics.summaries import mean, summarise

__all__ = ["near_far_table"]


def near_far_table(parts: xr.Dataset, title: str) -> Table:
    """Return a table with a row for each network, replacement and fraction of the rows.

    Args:
        parts: the results of `near_and_far`, on (network, run, part, replacement, fraction).
        title: the title of the study.
    """
    rows = [
        _row(parts.sel(network=network, replacement=replacement, fraction=fraction))
        for network in parts.network.values
        for replacement in parts.replacement.values
        for fraction in parts.fraction.values
    ]
    costs = ("near_cost", "near"), ("far_cost", "far")
    return Table(
        name="near_far",
        title=f"Near zero against far from it: {title}",
        caption=(
            "Points of accuracy lost where each unit's activations nearest to z = 0, or farthest from it, are "
            "replaced; means over n runs. At equal displacement: the greatest one that both parts reach. Near - far "
            "is the difference there, with its 95 % t interval over runs; positive: the part near zero matters more."
        ),
        columns=(
            Column("network", "network", kind="text"),
            Column("replacement", "replaced by", kind="text"),
            Column("fraction", "rows, %", "rows\n%"),
            Column("n", "n", kind="count", spare=2),
            *(Column(name, f"cost, {part}", f"cost\n{part}", unit="points", spare=1) for name, part in costs),
            Column("reach", "equal displacement, %", "d\n%"),
            *(
                Column(
                    f"reach_{name}", f"cost, {part}, at equal displacement", f"at d\n{part}", unit="points"
                )
                for name, part in costs
            ),
            Column("difference", "near - far", unit="points"),
            Column("interval95", "95 % interval", "95 %\ninterval", kind="interval", unit="points"),
        ),
        rows=tuple(rows),
    )


def _row(own: xr.Dataset) -> tuple[Cell, ...]:
    """Return the row of one network, replacement and fraction."""
    whole = own.unperturbed_accuracy.values

    def costs(name: str) -> list[np.ndarray]:
        return [100 * (whole - own[name].sel(part=part).transpose("run").values) for part in ("near", "far")]

    at_rows, (near, far) = costs("accuracy"), costs("reach_accuracy")
    difference = summarise(near - far)
    return (
        display_name(str(own.network.item())),
        str(own.replacement.item()),
        Number(100 * float(own.fraction), 0),
        difference.n,
        *(_mean(values) for values in at_rows),
        _mean(100 * own.reach.values.ravel()),
        *(_mean(values) for values in (near, far)),
        Number.of(difference.mean, signed=True),
        Span.of(difference),
    )


def _mean(values: np.ndarray) -> Number | None:
    return Number.of(float(mean(values[np.isfinite(values)])))
