"""Studies in which neither distance nor intensity costs more, by construction. The proofs are in `docs/validation.md`.

`dealt` takes real costs and deals them out to the families of a run at random; `one_family` measures one random
family three times and calls it by three names; `chance_labels` leaves everything as it is, but for labels that have
nothing to do with the examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.matched import Design
from nearzero.mechanisms.studies import as_responses, measure_study
from nearzero.mechanisms.tasks import Task
from nearzero.networks import TwoLayer
from nearzero.verdict import Rules, costs

__all__ = ["chance_labels", "dealt", "one_family"]


def dealt(found: xr.DataArray, generator: np.random.Generator) -> xr.DataArray:
    """Costs, on (network, run, family, target), those of each run dealt out to its families at random.

    One permutation of the families is drawn for a run, and used at all displacements: which cost is called distance
    is then a matter of chance, whatever the costs are.
    """
    values = found.transpose("network", "run", "family", "target").values.copy()
    for run in values.reshape(-1, *values.shape[2:]):
        run[:] = run[generator.permutation(len(run))]
    return found.transpose("network", "run", "family", "target").copy(data=values)


def one_family(
    task: Task,
    networks: Sequence[TwoLayer],
    generator: np.random.Generator,
    *,
    family: str = "gains",
    design: Design | None = None,
    rules: Rules | None = None,
    common: bool = False,
) -> xr.Dataset:
    """Return responses in which all families of the rules are measurements of one family, each with seeds of its own.

    By the default rules they are called shift, gains and cap. Given its network, the costs of a run are independent
    and have one distribution.

    Args:
        task, networks: as for `measure_study`.
        generator: draws the seeds, of the draws and of the halves, one for each run and family of the rules.
        family: one in which something is drawn for each unit.
        design: targets and draws; its families and its seed aren't used.
        rules: whose families they are called by, and by whose measure costs are taken; the default ones if None.
        common: the same seeds in all runs. That isn't a null: what a draw costs is then the same for all of
            them, and one of these draws is the worst.

    Returns:
        Accuracies that have the measured costs; all are given the unperturbed accuracy of the first measurement.

    Raises:
        InputError: as `measure_study`.
    """
    rules = rules or Rules()
    roles = (*rules.distance, *rules.intensity)
    base = replace(design or Design(), families=(family,))
    seeds = generator.integers(2**31, size=(len(networks), len(roles)))
    if common:
        seeds[:] = seeds[0]
    runs = []
    for network, own in zip(networks, seeds, strict=True):
        found = [measure_study(task, [network], replace(base, seed=int(seed))) for seed in own]
        named = [
            costs(each, rules.measure).assign_coords(family=[role])
            for role, each in zip(roles, found, strict=True)
        ]
        whole = found[0].unperturbed_accuracy
        runs.append(as_responses(xr.concat(named, "family"), whole, measure=rules.measure))
    return xr.concat(runs, "run")


def chance_labels(task: Task, runs: int, generator: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    """Labels for each of several runs, drawn anew, all classes alike: no prediction is better than another."""
    return [generator.integers(task.classes, size=len(task.y)) for _ in range(runs)]
