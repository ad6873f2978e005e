"""From planted networks to responses that `nearzero.verdict.judge` takes, and from costs back to responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.errors import InputError
from nearzero.matched import SIDES, Design, matched
from nearzero.mechanisms.tasks import Task
from nearzero.networks import TwoLayer
from nearzero.verdict import gathered

__all__ = ["as_responses", "measure_study"]


def measure_study(
    task: Task,
    networks: Sequence[TwoLayer],
    design: Design | None = None,
    *,
    labels: Sequence[npt.NDArray[np.integer]] | None = None,
    own_draws: bool = False,
) -> xr.Dataset:
    """A study: responses at matched displacement of several runs, on (network, run, family, side, target).

    Args:
        task: the examples.
        networks: one for each run, of one activation, by which the network is called.
        design: what is measured; the default one if None.
        labels: for each run, in place of the task's.
        own_draws: whether each run has the draws that follow those of the run before it, as in a real study, and not
            the same draws as all others.

    Raises:
        InputError: no networks, or several activations.
    """
    names = sorted({network.activation for network in networks})
    if len(names) != 1:
        raise InputError(f"a study has runs of one activation; got {', '.join(names) or 'no runs'}")
    truths = [task.y] * len(networks) if labels is None else labels
    base = design or Design()
    step = base.draws if own_draws else 0
    designs = [replace(base, first_draw=base.first_draw + run * step) for run in range(len(networks))]
    runs = [
        matched(network, task.x, y, design=own, threads=1)
        for network, y, own in zip(networks, truths, designs, strict=True)
    ]
    return gathered([runs], names)


def as_responses(costs: xr.DataArray, unperturbed: xr.DataArray, *, measure: str = "accuracy") -> xr.Dataset:
    """Return responses whose costs are these: on each side of a family the measure is what is left.

    Args:
        costs: points, on (network, run, family, target), as `nearzero.verdict.costs` gives them.
        unperturbed: the accuracy of the unperturbed networks, (network, run).
        measure: the variable they are costs of.
    """
    whole = unperturbed if "accuracy" in measure else xr.ones_like(unperturbed)
    left = (whole - costs / 100.0).expand_dims(side=list(SIDES))
    dims = ("network", "run", "family", "side", "target")
    return xr.Dataset({measure: left.transpose(*dims), "unperturbed_accuracy": unperturbed})
