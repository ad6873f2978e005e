"""The cells of a probe, which are its measured levels, one after the other, as the page's script reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.report.figures.scales import (
    LOSSES,
    SHARES,
    UNITS,
    identity_level,
    is_logarithmic,
    level_title,
    reading_of,
    scale_ends,
    short_names,
    spelled,
)

__all__ = ["Cells", "Ends", "class_arrays", "common_classes", "metrics_of"]

MOST_DOUBLES = 200_000  # cells; beyond it, values are embedded in float32
Ends = tuple[float, float]


def metrics_of(response: xr.Dataset) -> list[str]:
    """Return the names of the metrics of items that a probe measured; a perplexity is none, and its loss is."""
    names = map(str, response.attrs["metrics"])
    return [name for name in names if "exp_of" not in response[name].attrs]


@dataclass(frozen=True, eq=False)
class Cells:
    """Hold where a probe measured: n cells, ordered by layer, family and level.

    Attributes:
        response: of the probe, on (layer, family, level).
        places: of the cells, on the three axes, each (n,).
    """

    response: xr.Dataset
    places: tuple[npt.NDArray[np.int64], ...]

    @classmethod
    def of(cls, response: xr.Dataset) -> Cells:
        """Return the cells at which something was measured, if only that logits aren't finite."""
        names = [*metrics_of(response), *(["not_finite"] if "not_finite" in response else [])]
        measured = np.logical_or.reduce([response[name].notnull().values for name in names])
        return cls(response, np.nonzero(measured))

    def __len__(self) -> int:
        return len(self.places[0])

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """Return the type in which values are embedded."""
        return np.float64 if len(self) <= MOST_DOUBLES else np.float32

    @cached_property
    def levels(self) -> npt.NDArray[np.float64]:
        """Return the level of each cell."""
        return np.asarray(self.response.level.values, np.float64)[self.places[2]]

    @cached_property
    def starts(self) -> npt.NDArray[np.uint32]:
        """Return the first cell of each layer and family, and the number of cells: (L F + 1,)."""
        families = self.response.sizes["family"]
        owner = self.places[0] * families + self.places[1]
        return np.searchsorted(owner, np.arange(self.response.sizes["layer"] * families + 1)).astype(
            np.uint32
        )

    def take(self, values: xr.DataArray) -> npt.NDArray[Any]:
        """Return the cells of values on (layer, family, level, ...): (n, ...)."""
        axes = ("layer", "family", "level")
        return np.asarray(values.transpose(*axes, ...).values[self.places])

    def family_levels(self, family: int) -> npt.NDArray[np.float64]:
        """Return the levels of a family, in any layer, ascending."""
        return np.unique(self.levels[self.places[1] == family])

    def arrays(self, intervals: Mapping[str, xr.Dataset]) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of the cells: levels, means, and the ends of intervals by metric."""
        response = self.response
        arrays: dict[str, npt.NDArray[Any]] = {"cell/level": self.levels, "cell/start": self.starts}
        for name in metrics_of(response):
            arrays[f"mean/{name}"] = self.take(response[name]).astype(self.dtype)
            if name in intervals:
                for end in ("low", "high"):
                    arrays[f"{end}/{name}"] = self.take(intervals[name][end]).astype(self.dtype)
        if "not_finite" in response:
            arrays["cell/not-finite"] = np.nan_to_num(self.take(response.not_finite)).astype(np.uint32)
        return arrays | self._units()

    def _units(self) -> dict[str, npt.NDArray[Any]]:
        """Return minimum and maximum of the units of all layers, one layer after the other."""
        if "unit_minimum" not in self.response:
            return {}
        counts = np.asarray(self.response.units.values, np.int64)
        ends = {
            f"unit/{end}": np.concatenate(
                [row[:count] for row, count in zip(self.response[f"unit_{end}"].values, counts, strict=True)]
            ).astype(np.float64)
            for end in ("minimum", "maximum")
        }
        return ends | {"unit/start": np.concatenate([[0], counts.cumsum()]).astype(np.uint32)}

    def values(self, plain: Mapping[str, Ends]) -> dict[str, Any]:
        """Return names and scales, for JSON; `plain` has the intervals of the unperturbed metrics."""
        response = self.response
        layers = [str(name) for name in response.layer.values]
        return {
            "layers": layers,
            "short": short_names(layers),
            "dead": np.asarray(response.dead_units.values, np.int64).tolist(),
            "sides": [f"{side}-activation" for side in response.range.values],
            "families": [self._family(place, str(name)) for place, name in enumerate(response.family.values)],
            "metrics": [self._metric(name, plain.get(name)) for name in metrics_of(response)],
        }

    def _family(self, place: int, name: str) -> dict[str, Any]:
        identity = identity_level(name, [str(each) for each in self.response.offset.values])
        return {
            "name": name,
            "reading": reading_of(name),
            "axis": level_title(name),
            "identity": identity if identity is not None and np.isfinite(identity) else None,
            "logarithmic": is_logarithmic(self.family_levels(place)),
        }

    def _metric(self, name: str, ends: Ends | None) -> dict[str, Any]:
        base = float(self.response[f"unperturbed_{name}"])
        return {
            "name": name,
            "label": spelled(name),
            "share": name in SHARES,
            "loss": name in LOSSES,
            "unit": "%" if name in SHARES else UNITS.get(name, ""),
            "base": base if np.isfinite(base) else None,
            "interval": None if ends is None or not np.isfinite(ends).all() else list(ends),
            "scale": list(scale_ends(name, self.take(self.response[name]).astype(np.float64), base)),
        }


def common_classes(
    response: xr.Dataset, most: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Return the most frequent classes of the items, their numbers of items, and how many classes there are."""
    classes, counts = np.unique(response.target.values, return_counts=True)
    kept = np.sort(np.argsort(-counts, kind="stable")[:most])
    return classes[kept], counts[kept], len(classes)


def class_arrays(
    cells: Cells, by_class: Mapping[str, xr.DataArray], classes: Sequence[int]
) -> dict[str, npt.NDArray[Any]]:
    """Return, by metric, the means over the items of each class: of the cells, (n, C), and unperturbed, (C,)."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, values in by_class.items():
        arrays[f"class/{name}"] = cells.take(values.sel(target=list(classes))).astype(np.float32)
        plain = cells.response.get(f"unperturbed_{name}_items")
        if plain is not None:
            own = plain.astype(np.float64).groupby("target").mean("item", skipna=False)
            arrays[f"class-plain/{name}"] = own.sel(target=list(classes)).values.astype(np.float64)
    return arrays
