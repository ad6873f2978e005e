"""What a probe gives: the responses as labelled arrays, with how they were had; saved, opened, drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

from nearzero.errors import InputError
from nearzero.files import make_folder, write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ProbeResult"]

FORMAT = "nearzero probe 1"
FILE = "probe.nc"


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """The responses of some layers of one model.

    Attributes:
        response: a Dataset on (layer, family, level). For each metric its mean over the items (examples, or
            tokens that count), NaN where a family hasn't a level, and `unperturbed_<metric>`; for each layer
            `units`, `dead_units`, `activation`, `unit_axis`, `method` (how its logits were had) and `reason`
            (why not by the suffix), `offset` and `range` (the conduct). With `keep_items`, also
            `<metric>_items` on (layer, family, level, item), and `sequence` and `token` of each item.
    """

    response: xr.Dataset

    @property
    def layers(self) -> list[str]:
        """Their names, in the order of the forward pass."""
        return [str(name) for name in self.response.layer.values]

    @property
    def notes(self) -> list[str]:
        """What a reader must know before the numbers."""
        found = [
            f"{name}: full forward pass at every level, since {reason}"
            for name, reason in zip(self.layers, self.response.reason.values.tolist(), strict=True)
            if reason
        ]
        dead = [
            f"{name}: {int(count)} of {int(units)} units are dead and left alone"
            for name, count, units in zip(
                self.layers, self.response.dead_units.values, self.response.units.values, strict=True
            )
            if count
        ]
        return [*found, *dead]

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
        from nearzero.report.figures.style import pdf_bytes, png_bytes

        folder = make_folder(Path(folder))
        figure = self.plot()
        write_bytes(folder / FILE, _to_bytes(self.response))
        table = self.response[[*self.response.attrs["metrics"]]].to_dataframe().dropna(how="all")
        write_text(folder / "response.csv", table.to_csv())
        write_bytes(folder / "layers.png", png_bytes(figure))
        write_bytes(folder / "layers.pdf", pdf_bytes(figure))
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
        except FileNotFoundError:
            raise InputError(f"{folder} holds no probe: there is no {FILE}") from None
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path} can't be read ({error}); probe again") from error
        if response.attrs.get("format") != FORMAT:
            raise InputError(f"{path} isn't a probe's result (format {response.attrs.get('format')!r})")
        return cls(response)


def _to_bytes(dataset: xr.Dataset) -> bytes:
    data = dataset.to_netcdf(engine="h5netcdf")
    assert data is not None
    return bytes(data)
