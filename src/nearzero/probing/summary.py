"""The texts of the result of a probe: its notes, and a row of its summary for each layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.report.captions import layers_by_conduct
from nearzero.report.figures.scales import metric_text
from nearzero.support.words import number_of
from nearzero.torch_models.assumptions import UNREAD, Assumption, condensed

__all__ = ["ProbeSummary", "notes", "summary_rows"]

Doubles = npt.NDArray[np.float64]
RANKED = {"accuracy", "agreement"}  # an item whose logits are NaN or infinite counts as wrong in these


class ProbeSummary(list[dict[str, str]]):
    """Hold a row for each layer, and the assumptions; as text, two tables.

    Args:
        rows: a row for each layer, by column.
        assumptions: all assumptions.

    Attributes:
        assumptions: a row for each assumption, by column; layers of which the same is assumed share a row.
    """

    def __init__(self, rows: Iterable[dict[str, str]], assumptions: Iterable[Assumption]) -> None:
        super().__init__(rows)
        self.assumptions = [
            {"assumed": row.what, "as": row.value, "from": row.source, "set by": row.argument}
            for row in condensed(assumptions)
        ]

    def __str__(self) -> str:
        return "\n\n".join(_as_table(rows) for rows in (self, self.assumptions) if rows)

    def _repr_html_(self) -> str:
        """Return what notebooks display: the two tables."""
        from nearzero.report.notebook import summary_html

        return summary_html(self, self.assumptions)


def _as_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows as text with aligned columns."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = (map(str.ljust, line, widths) for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in cells)


def summary_rows(response: xr.Dataset) -> list[dict[str, str]]:
    """Return a row of texts for each layer: its properties, and the most extreme response of each family."""
    metric = str(response.attrs["metrics"][0])
    mixed = bool(layers_by_conduct(response))
    lost = _not_finite(response)
    values = response[metric].transpose("layer", "family", "level").values
    levels, base = response.level.values, float(response[f"unperturbed_{metric}"])
    families = [str(name) for name in response.family.values]
    rows = []
    for place, facts in enumerate(_facts(response)):
        row = {
            "layer": str(facts["layer"]),
            "activation": str(facts["activation"]),
            "units": f"{facts['units']:,}",
            "dead": f"{facts['dead_units']:,}",
            "by": str(facts["method"]),
        }
        if mixed:
            row["conduct"] = f"{facts['offset']}, {facts['range']}"
        if "not_finite" in response:
            row["not finite"] = lost[place]
        for family, curve in zip(families, values[place], strict=True):
            row[family] = _most_extreme(metric, levels, curve, base)
        rows.append(row)
    return rows


def _facts(response: xr.Dataset) -> Iterator[dict[str, Any]]:
    """Yield the properties of each layer, by name.

    They are taken from all layers at once: to select a layer takes longer than all of its texts.
    """
    names = [name for name, values in response.variables.items() if values.dims == ("layer",)]
    columns = [response[name].values.tolist() for name in names]
    for row in zip(*columns, strict=True):
        yield dict(zip(map(str, names), row, strict=True))


def _most_extreme(metric: str, levels: Doubles, curve: Doubles, base: float) -> str:
    """Return the value that is farthest from the unperturbed one, and its level; "" if there is no value."""
    measured = np.flatnonzero(~np.isnan(curve))
    if not measured.size:
        return ""
    extreme = measured[np.abs(curve[measured] - base).argmax()]
    return f"{metric_text(metric, curve[extreme])} at {levels[extreme]:.3g}"


def _not_finite(response: xr.Dataset) -> list[str]:
    """Return for how many items of each layer, at how many levels, logits aren't finite; "" if all are."""
    if "not_finite" not in response:
        return [""] * response.sizes["layer"]
    counts = response.not_finite.transpose("layer", "family", "level").values.reshape(
        response.sizes["layer"], -1
    )
    return [
        f"at {number_of(levels, 'level')}, for up to {number_of(int(np.nanmax(row)), 'item')}"
        if (levels := int((row > 0).sum()))
        else ""
        for row in counts
    ]


def notes(response: xr.Dataset, assumptions: Sequence[Assumption]) -> list[str]:
    """Return what restricts the numbers, as texts: what was left out, isn't finite, is dead, can't be compared."""
    left_out = [
        f"{row.what.replace('use of layer ', '')}: {row.value}, since {row.source}"
        for row in assumptions
        if row.value == "left out"
    ]
    by_batch = [
        f"{row.what}: {row.value}; let it return one number for each item to be independent of batches"
        for row in assumptions
        if row.what.startswith("metric ")
    ]
    by_batch += [f"mask: {UNREAD}" for row in assumptions if row.source.endswith(UNREAD)]
    unplaced = [
        f"{row.what.replace('rows of layer ', '')}: {row.value}, since {row.source}"
        for row in assumptions
        if row.what.startswith("rows of layer ")
    ]
    conducts = layers_by_conduct(response)
    mixed = [f"{conduct} in {', '.join(layers)}" for conduct, layers in conducts.items()]
    apart = (
        f"rows that can't be compared, except under scale: {'; '.join(mixed)}; conduct=... sets one for all"
    )
    return [*left_out, *by_batch, *unplaced, *_notes_on_layers(response), *([apart] if mixed else [])]


def _notes_on_layers(response: xr.Dataset) -> list[str]:
    """Return notes on single layers: rows on some examples only, logits that aren't finite, full passes, dead units."""
    wrong = "" if RANKED.isdisjoint(response.attrs["metrics"]) else ", which count as wrong"
    partial, lost, full, dead = [], [], [], []
    for facts, counted in zip(_facts(response), _not_finite(response), strict=True):
        name, reason, count = facts["layer"], facts["reason"], facts["dead_units"]
        if counted:
            lost.append(f"{name}: logits are NaN or infinite {counted}{wrong}")
        if facts.get("partial", False):
            rows, items = number_of(facts["rows"], "row"), number_of(response.attrs["items"], "item")
            partial.append(f"{name}: {rows} on {items}, not as many on every example")
        if reason:
            full.append(f"{name}: full forward pass at every level, since {reason}")
        if count:
            dead.append(f"{name}: {count} of {facts['units']} units are dead and left alone")
    return [*partial, *lost, *full, *dead]
