"""What is measured on one network of a grid, as a job, and how the measurements of all become one Dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from torch import nn

from nearzero.grid.networks import Networks
from nearzero.grid.spec import GridSpec, Point
from nearzero.halves import RULE
from nearzero.matched import Design, matched
from nearzero.networks import TwoLayer
from nearzero.study.data import Source
from nearzero.study.jobs import MeasureJob, Results, digest, gather
from nearzero.study.spec import spec_digest
from nearzero.threads import one_torch_thread
from nearzero.training.engine import Examples
from nearzero.verdict import gathered

__all__ = ["GridJob", "assembled", "grid_jobs", "measured"]

KEPT = ("level", "displacement", "accuracy", "agreement", "unperturbed_accuracy", "dead_units")
BATCH = 2000  # examples of a deep network at a time


def measured(network: TwoLayer | nn.Sequential, examples: Examples, design: Design) -> xr.Dataset:
    """Responses of every hidden layer at matched displacement, on (layer, family, side, target)."""
    if isinstance(network, TwoLayer):
        found = matched(network, examples.pixels, examples.labels, design=design).expand_dims(layer=[1])
    else:
        names = [str(place) for place in range(1, len(network) - 1, 2)]  # the activations
        whole = (examples.pixels.dense(), examples.labels)
        with one_torch_thread():
            each = [matched(network, whole, layer=name, batch_size=BATCH, design=design) for name in names]
        found = xr.concat(each, "layer", combine_attrs="drop_conflicts")
        found = found.assign_coords(layer=np.arange(1, len(names) + 1))
    return found[list(KEPT)].drop_attrs().assign_attrs(halves=found.attrs["halves"])


@dataclass(frozen=True)
class GridJob(MeasureJob):
    """The responses of one run of one network of a point.

    Attributes:
        activation, point: which network.
        data: of the point's study.
        shelf: where networks lie.
        split, design: what is measured.
    """

    activation: str
    point: Point
    data: Source
    shelf: Networks
    split: str
    design: Design

    def measure(self) -> xr.Dataset | None:
        """Return its responses; None if it diverged or never reached the checkpoint."""
        network = self.shelf.read(self.point, self.activation, self.run, self.data)
        if network is None:
            return None
        return measured(network, self.data.examples(self.point.spec)[self.split], self.design)


def grid_jobs(
    spec: GridSpec, folder: Path, shelf: Networks, point: Point, activation: str, data: Source
) -> list[GridJob]:
    """Return a job for every run of a network of a point of a grid."""
    one, jobs = point.spec, []
    for run in range(one.runs):
        name, design = f"{spec.points.index(point):02d}-{activation}-{run:02d}", spec.design(one, run)
        work = digest(
            [spec_digest(one), spec.vary, point.value, spec.split, asdict(design), data.hashes, RULE]
        )
        what = (activation, point, data, shelf, spec.split, design)
        jobs.append(GridJob(folder, spec.name(activation, point), run, name, work, *what))
    return jobs


def assembled(spec: GridSpec, jobs: Sequence[GridJob], found: Results) -> xr.Dataset:
    """Return the results of jobs on (network, run, family, side, target), a network for each layer of each point.

    Runs that diverged or never came so far are NaN; networks of which no run is left are left out.

    Raises:
        InputError: nothing is left.
    """
    job_of = {job.network: job for job in jobs}

    def by_layer(parts: Sequence[Sequence[xr.Dataset | None]], networks: Sequence[str]) -> xr.Dataset:
        rows, names, coords = [], [], []
        for network, runs in zip(networks, parts, strict=True):
            job = job_of[network]
            for layer in next((each.layer.values for each in runs if each is not None), ()):
                rows.append([None if each is None else each.sel(layer=layer, drop=True) for each in runs])
                numbered = layer if job.point.layers is not None else None
                names.append(spec.name(job.activation, job.point, numbered))
                coords.append((job.activation, str(job.point.value), int(layer)))
        columns = zip(("activation", "value", "layer"), zip(*coords, strict=True), strict=True)
        return gathered(rows, names).assign_coords({key: ("network", list(each)) for key, each in columns})

    refusal = "no run of the grid is left to be measured; all of them diverged or never came so far"
    return gather(found, by_layer, refusal=refusal)
