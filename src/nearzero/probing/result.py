"""What a probe gives: the responses as labelled arrays, with how they were had; saved, opened, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.errors import InputError
from nearzero.evaluators.base import EARLIER_HALVES, Scores
from nearzero.evaluators.plan import LayerPlan
from nearzero.support.files import make_folder, write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LayerResponse", "ProbeResult", "dataset"]

FORMAT = "nearzero probe 1"
FILE, MATCHED = "probe.nc", "matched.nc"


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """The responses of some layers of one model.

    Attributes:
        response: a Dataset on (layer, family, level). For each metric its mean over the items (examples, or
            tokens that count), NaN where a family hasn't a level, and `unperturbed_<metric>`; for each layer
            `units`, `dead_units`, `activation`, `unit_axis`, `method` (how its logits were had) and `reason`
            (why not by the suffix), `offset` and `range` (the conduct). With `keep_items`, also
            `<metric>_items` on (layer, family, level, item), and `sequence` and `token` of each item.
        at_displacements: with a `design`, responses at matched displacement, see `matched`; else None.
    """

    response: xr.Dataset
    at_displacements: xr.Dataset | None = None

    @property
    def matched(self) -> xr.Dataset:
        """Responses on (layer, family, side, target) at levels that displace a layer's activations equally far.

        They are measured on one half of the examples, with unit ranges and levels of the other. What
        `nz.verdict` takes, one result for each run of a model.

        Raises:
            InputError: they weren't asked for.
        """
        if self.at_displacements is None:
            raise InputError(
                "this probe has no responses at matched displacement; probe with design=nz.Design(...)"
            )
        return self.at_displacements

    @property
    def layers(self) -> list[str]:
        """Their names, in the order of the forward pass."""
        return [str(name) for name in self.response.layer.values]

    @property
    def notes(self) -> list[str]:
        """What a reader must know before the numbers."""
        found, dead = [], []
        for name in self.layers:
            layer = self.response.sel(layer=name)
            reason, count = layer.reason.item(), layer.dead_units.item()
            if reason:
                found.append(f"{name}: full forward pass at every level, since {reason}")
            if count:
                dead.append(f"{name}: {count} of {layer.units.item()} units are dead and left alone")
        return [*found, *dead]

    def summary(self) -> list[dict[str, str]]:
        """A row for each layer, as words: what it is, and the extreme response in each family and its level."""
        data, metric = self.response, str(self.response.attrs["metrics"][0])
        rows = []
        for name in self.layers:
            layer = data.sel(layer=name)
            row = {
                "layer": name,
                "activation": str(layer.activation.item()),
                "units": f"{layer.units.item():,}",
                "dead": f"{layer.dead_units.item():,}",
                "by": str(layer.method.item()),
            }
            for family in map(str, data.family.values):
                curve = layer[metric].sel(family=family).dropna("level")
                row[family] = ""
                if curve.size:
                    values, levels = curve.values, curve.level.values
                    far = int(np.abs(values - float(data[f"unperturbed_{metric}"])).argmax())
                    row[family] = f"{_shown(metric, values[far])} at {levels[far]:.3g}"
            rows.append(row)
        return rows

    @property
    def headline(self) -> str:
        """What was measured without any perturbation."""
        data = self.response
        words = (
            f"{str(metric).replace('_', ' ')} {_shown(str(metric), float(data[f'unperturbed_{metric}']))}"
            for metric in data.attrs["metrics"]
        )
        return f"{data.attrs['model']}, {int(data.attrs['items']):,} items, unperturbed: {', '.join(words)}"

    def plot(self, metric: str | None = None) -> Figure:
        """A map of layers against families: a panel for each family, a row for each layer, the metric as colour.

        Raises:
            InputError: a metric that wasn't measured.
        """
        from nearzero.report.figures.layers import layer_map

        known = [str(each) for each in self.response.attrs["metrics"]]
        if metric is not None and metric not in known:
            raise InputError(f"metric {metric!r} wasn't measured; there are {', '.join(known)}")
        return layer_map(self.response, metric or known[0])

    def save(self, folder: str | Path) -> Path:
        """Write the responses, a table (CSV) and the figure (PNG, PDF) into a folder; returns it.

        Raises:
            InputError: the folder can't be written.
        """
        from nearzero.report.figures.style import figure_files

        folder = make_folder(Path(folder))
        files = figure_files("layers", self.plot())  # first: what fails here leaves nothing half-written
        for name, data in {FILE: self.response, MATCHED: self.at_displacements}.items():
            if data is not None:
                write_bytes(folder / name, bytes(data.to_netcdf(engine="h5netcdf") or b""))
        table = self.response[[*self.response.attrs["metrics"]]].to_dataframe().dropna(how="all")
        write_text(folder / "response.csv", table.to_csv())
        for name, content in files.items():
            write_bytes(folder / name, content)
        return folder

    @classmethod
    def open(cls, folder: str | Path) -> ProbeResult:
        """What `save` has written.

        Raises:
            InputError: nothing there, or something else.
        """
        path = Path(folder) / FILE
        try:
            response = xr.load_dataset(path, engine="h5netcdf")
            other = Path(folder) / MATCHED
            matched = xr.load_dataset(other, engine="h5netcdf") if other.exists() else None
            if matched is not None:
                matched.attrs.setdefault("halves", EARLIER_HALVES)
        except FileNotFoundError:
            raise InputError(f"{folder} holds no probe: there is no {FILE}") from None
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path} can't be read ({error}); probe again") from error
        if response.attrs.get("format") != FORMAT:
            raise InputError(f"{path} isn't a probe's result (format {response.attrs.get('format')!r})")
        return cls(response, matched)


def _shown(metric: str, value: float) -> str:
    """A metric's value for people."""
    return f"{100 * value:.2f} %" if metric in ("accuracy", "agreement") else f"{value:.4g}"


@dataclass(frozen=True, eq=False)
class LayerResponse:
    """What was measured of one layer.

    Attributes:
        plan: what was done to it.
        scores: under its perturbations.
        method: how the logits were had: "suffix", "full" or "two-layer".
        reason: why it's full passes, if it is.
    """

    plan: LayerPlan
    scores: Scores
    method: str
    reason: str


def dataset(found: Sequence[LayerResponse], model: str) -> xr.Dataset:
    """Return all layers' responses as labelled arrays."""
    plans, scores = [each.plan for each in found], [each.scores for each in found]
    families = list(plans[0].grids)
    axis = np.unique(np.concatenate([grid for plan in plans for grid in plan.grids.values()]))
    metrics = list(scores[0].means)

    def on_axis(values: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """(L, ...) of each layer on (layer, family, level, ...), NaN where a family hasn't a level."""
        full = np.full((len(found), len(families), len(axis), *values[0].shape[1:]), np.nan, values[0].dtype)
        for index, (plan, rows) in enumerate(zip(plans, values, strict=True)):
            first = 0
            for number, grid in enumerate(plan.grids.values()):
                full[index, number, np.searchsorted(axis, grid)] = rows[first : first + len(grid)]
                first += len(grid)
        return full

    curve, layer = ("layer", "family", "level"), ("layer",)
    data: dict[str, Any] = {}
    for name in metrics:
        data[name] = (curve, on_axis([each.means[name] for each in scores]))
        data[f"unperturbed_{name}"] = ((), scores[0].unperturbed[name])
    about: dict[str, list[Any]] = {
        "kind": [plan.layer.kind for plan in plans],
        "type": [plan.layer.type for plan in plans],
        "activation": [plan.layer.activation or "none" for plan in plans],
        "units": [plan.layer.units for plan in plans],
        "unit_axis": [plan.layer.unit_axis for plan in plans],
        "dead_units": [plan.ranges.dead_units for plan in plans],
        "offset": [plan.conduct.offset for plan in plans],
        "range": [plan.conduct.range for plan in plans],
        "method": [each.method for each in found],
        "reason": [each.reason for each in found],
    }
    data |= {name: (layer, np.array(values)) for name, values in about.items()}
    coords: dict[str, Any] = {"layer": [plan.layer.name for plan in plans], "family": families, "level": axis}
    places = scores[0].places
    if places is not None:
        coords |= {"sequence": ("item", places[:, 0]), "token": ("item", places[:, 1])}
        for name in metrics:
            values = [each.values[name].astype(np.float32) for each in scores]
            data[f"{name}_items"] = ((*curve, "item"), on_axis(values))
    attributes = {
        "format": FORMAT, "model": model, "metrics": metrics, "examples": scores[0].examples,
        "items": scores[0].items,
    }  # fmt: skip
    return xr.Dataset(data, coords, attributes)
