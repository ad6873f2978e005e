"""What is measured on one network of a grid, and how the measurements of all become one Dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from torch import nn

from nearzero.analysis import probe
from nearzero.errors import InputError
from nearzero.grid.spec import GridSpec, Point
from nearzero.matched import Design, matched
from nearzero.networks import TwoLayer
from nearzero.threads import one_torch_thread
from nearzero.training.engine import Examples
from nearzero.verdict import gathered

__all__ = ["assembled", "measured"]

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
            result = probe(network, whole, names, families="shift", levels=1, batch_size=BATCH, design=design)
        found = result.matched.assign_coords(layer=np.arange(1, len(names) + 1))
    return found[list(KEPT)].drop_attrs()


def assembled(parts: Mapping[tuple[Point, str], Sequence[xr.Dataset | None]], spec: GridSpec) -> xr.Dataset:
    """Everything on (network, run, family, side, target), a network for each layer of each point; NaN for runs that
    diverged or never came so far. Networks of which no run is left are left out.

    Raises:
        InputError: nothing is left.
    """
    rows, names, activations, values, layers = [], [], [], [], []
    for (point, name), runs in parts.items():
        present = next((each for each in runs if each is not None), None)
        if present is None:
            continue
        for layer in present.layer.values:
            rows.append([None if each is None else each.sel(layer=layer, drop=True) for each in runs])
            names.append(spec.name(name, point, int(layer) if point.layers is not None else None))
            activations.append(name)
            values.append(str(point.value))
            layers.append(int(layer))
    if not rows:
        raise InputError(
            "no run of the grid is left to be measured; all of them diverged or never came so far"
        )
    found = gathered(rows, names)
    return found.assign_coords(
        activation=("network", activations),
        value=("network", values),
        layer=("network", layers),
        run=np.arange(found.sizes["run"]),
    )
