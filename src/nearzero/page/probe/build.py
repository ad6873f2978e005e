"""The page of a probe from its result: intervals, classes and examples are computed or chosen here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import xarray as xr

from nearzero.errors import InputError
from nearzero.page.probe.cells import Cells, Ends, common_classes, metrics_of
from nearzero.page.probe.displaced import Displaced
from nearzero.page.probe.items import Decode, choose_items
from nearzero.page.probe.page import ProbeContents, probe_page
from nearzero.report.notebook.results import summary_tables
from nearzero.statistics.bootstrap import bootstrap_items

__all__ = ["Probed", "build_page"]

MOST_CLASSES = 100
CLASS_VALUES = 1_000_000  # of all classes, cells and metrics together


class Probed(Protocol):
    """The result of a probe, as its page reads it; `nearzero.probing.ProbeResult` describes it."""

    @property
    def response(self) -> xr.Dataset: ...  # noqa: D102 (documented there)
    @property
    def at_displacements(self) -> xr.Dataset | None: ...  # noqa: D102
    @property
    def notes(self) -> list[str]: ...  # noqa: D102
    def summary(self) -> Any: ...  # noqa: D102
    def intervals(self, metric: str | None = None) -> xr.Dataset: ...  # noqa: D102
    def by_class(self, metric: str | None = None) -> xr.DataArray: ...  # noqa: D102
    def of_items(self, kept: Any) -> Probed: ...  # noqa: D102


def build_page(
    result: Probed,
    title: str,
    inputs: Any,
    decode: Decode | None,
    class_names: Sequence[str] | None,
    examples: int,
    code: str,
) -> str:
    """Return the page of a result; `ProbeResult.to_html` describes the arguments.

    Raises:
        InputError: as there.
    """
    response = result.response
    cells, names = Cells.of(response), metrics_of(response)
    if not len(cells):
        raise InputError("the result holds no measured level, so there is nothing to show")
    kept = all(f"{name}_items" in response for name in names)
    classes = _classes(cells)
    of_classes = result.of_items(np.isin(response.target.values, classes[0])) if len(classes[0]) else None
    summary = result.summary()
    layers, *assumed = summary_tables(summary, summary.assumptions)
    contents = ProbeContents(
        cells=cells,
        title=title,
        notes=result.notes,
        layers=layers,
        assumptions=replace(assumed[0], title="Assumed, and the argument that sets it") if assumed else None,
        intervals={name: result.intervals(name) for name in names} if kept else {},
        plain=_plain(response, names) if kept else {},
        by_class={name: of_classes.by_class(name) for name in names} if of_classes else {},
        classes=classes,
        names=class_names,
        items=choose_items(cells, examples, inputs, decode),
        displaced=None if result.at_displacements is None else Displaced.of(result.at_displacements),
        code=code,
    )
    return probe_page(contents)


def _plain(response: xr.Dataset, names: Sequence[str]) -> Mapping[str, Ends]:
    """Return the intervals of the unperturbed metrics over examples; none from results of older versions."""
    ends = {}
    for name in names:
        if (values := response.get(f"unperturbed_{name}_items")) is not None:
            rng = np.random.default_rng(0)
            low, high = bootstrap_items(values.values[None].astype(np.float64), response.sequence.values, rng)
            ends[name] = float(low[0]), float(high[0])
    return ends


def _classes(cells: Cells) -> tuple[Any, Any, int]:
    """Return the classes that the page holds, the most frequent ones; none if the items have none."""
    response, names = cells.response, metrics_of(cells.response)
    if "target" not in response.coords:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), 0
    return common_classes(response, min(MOST_CLASSES, max(1, CLASS_VALUES // (len(cells) * len(names)))))
