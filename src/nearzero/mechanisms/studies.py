"""Studies with a known answer: planted networks, and nulls. A study is a function of its seed and number.

`measure_study` returns responses that `nearzero.analysis.verdict.judge` takes. In a null neither distance nor
intensity costs more than the other by more than the margin, by construction; the proofs are in
`docs/validation.md`. `one_family` measures gains several times, once under the name of each family.
`chance_labels` replaces the labels by random ones that have nothing to do with the examples. `dealt` permutes
costs at random among the families of a run, and `shifted` gives the mean difference of a pool of runs an exact
value; runs are then drawn from the pool (`resampled`). `nearzero.mechanisms.power` judges and counts studies by
the rules of a user; `benchmarks/validation.py` does so for the tables of docs/validation.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.analysis.displacement import SIDES
from nearzero.analysis.matched import Design, matched
from nearzero.analysis.verdict import Rules, costs, gathered
from nearzero.errors import InputError, did_you_mean
from nearzero.mechanisms.planted import (
    Task,
    distance_network,
    mixed_network,
    prototype_task,
    template_network,
)
from nearzero.networks import TwoLayer

__all__ = [
    "Condition",
    "as_responses",
    "chance_labels",
    "dealt",
    "measure_study",
    "one_family",
    "resampled",
    "shifted",
    "study_responses",
]

TRUTHS = {"distance": "distance costs more", "template": "intensity costs more"}
MADE = {"distance": distance_network, "template": template_network}
NULLS = ("one family", "chance labels", "common draws")


def measure_study(
    task: Task,
    networks: Sequence[TwoLayer],
    design: Design | None = None,
    *,
    labels: Sequence[npt.NDArray[np.integer]] | None = None,
    held_out: Task | None = None,
) -> xr.Dataset:
    """Return responses of several runs at matched displacement, on (network, run, family, side, target).

    Args:
        task: the examples.
        networks: one for each run, with the same activation, which is the name of the network in the result.
        design: families, targets and draws; `Design()` if None.
        labels: for each run, labels that replace those of the task.
        held_out: other examples of the task, for the check on held-out data; None for no such check.

    The draws of each run follow those of the run before it, so that no two runs share a draw.

    Raises:
        InputError: no networks, or several activations.
    """
    names = sorted({network.activation for network in networks})
    if len(names) != 1:
        raise InputError(f"a study has runs of one activation; got {', '.join(names) or 'no runs'}")
    truths = [task.y] * len(networks) if labels is None else labels
    base = design or Design()
    designs = [replace(base, first_draw=base.first_draw + run * base.draws) for run in range(len(networks))]
    other = None if held_out is None else (held_out.x, held_out.y)
    runs = [
        matched(network, task.x, y, design=own, held_out=other, threads=1)
        for network, y, own in zip(networks, truths, designs, strict=True)
    ]
    return gathered([runs], names)


def as_responses(costs: xr.DataArray, unperturbed: xr.DataArray, *, measure: str = "accuracy") -> xr.Dataset:
    """Return responses that have given costs, equal on both sides of a family.

    Args:
        costs: the costs in points, on (network, run, family, target), as `nearzero.analysis.verdict.costs`
            returns them.
        unperturbed: the accuracy of the unperturbed networks, (network, run).
        measure: the variable whose loss they are.
    """
    whole = unperturbed if "accuracy" in measure else xr.ones_like(unperturbed)
    values = (whole - costs / 100.0).expand_dims(side=list(SIDES))
    dims = ("network", "run", "family", "side", "target")
    return xr.Dataset({measure: values.transpose(*dims), "unperturbed_accuracy": unperturbed})


def dealt(costs: xr.DataArray, generator: np.random.Generator) -> xr.DataArray:
    """Return costs, on (network, run, family, target), permuted at random among the families of each run.

    The generator draws one permutation of the families for each run, which applies at all displacements.
    Chance alone then decides which cost has the name of distance, whatever the costs are.
    """
    values = costs.transpose("network", "run", "family", "target").values.copy()
    for run in values.reshape(-1, *values.shape[2:]):
        run[:] = run[generator.permutation(len(run))]
    return costs.transpose("network", "run", "family", "target").copy(data=values)


def resampled(costs: xr.DataArray, generator: np.random.Generator, runs: int) -> xr.DataArray:
    """Return the costs of runs drawn with replacement, each run of the pool equally likely every time."""
    return costs.isel(run=generator.integers(costs.sizes["run"], size=runs))


def shifted(costs: xr.DataArray, difference: float, rules: Rules | None = None) -> xr.DataArray:
    """Return costs whose mean difference, distance minus intensity, is exact in each comparison of the rules.

    A constant is added to the costs of each family of intensity at each displacement. So a run that is drawn
    from these runs, all equally likely, has the expected difference `difference`, and the shape of its
    distribution is the measured one.

    Args:
        costs: on (run, family, target); runs that don't reach a displacement don't count in its mean.
        difference: the mean of D over the runs, in points.
        rules: the names of the families; `Rules()` if None.
    """
    rules = rules or Rules()
    names = list(rules.intensity)
    distance = costs.sel(family=list(rules.distance)).mean("family", skipna=False)
    intensity = costs.sel(family=names)
    moved = intensity + (distance - intensity).mean("run") - difference
    others = costs.drop_sel(family=names)
    return xr.concat([others, moved.transpose(*others.dims)], "family").sel(family=costs.family)


def one_family(
    task: Task,
    networks: Sequence[TwoLayer],
    generator: np.random.Generator,
    *,
    design: Design | None = None,
    rules: Rules | None = None,
    common: bool = False,
) -> xr.Dataset:
    """Return responses in which every family of the rules is a measurement of gains, each with its own seeds.

    With the default rules these measurements have the names signed_shift, gains and cap. Given its network, the
    costs of a run are independent and have the same distribution.

    Args:
        task, networks: as for `measure_study`.
        generator: draws the seeds of the draws and of the halves, one for each run and family of the rules.
        design: targets and draws; its families and its seed aren't used.
        rules: the names of the families, and the measure whose loss is the cost; `Rules()` if None.
        common: use the same seeds in all runs. This isn't a null: the effect of a draw is then the same in
            all runs, and one of the draws costs most.

    Returns:
        Responses that have the measured costs; all have the unperturbed accuracy of the first measurement.

    Raises:
        InputError: as `measure_study`.
    """
    rules = rules or Rules()
    roles = (*rules.distance, *rules.intensity)
    base = replace(design or Design(), families=("gains",), checks=())
    seeds = generator.integers(2**31, size=(len(networks), len(roles)))
    if common:
        seeds[:] = seeds[0]
    runs = []
    for network, own in zip(networks, seeds, strict=True):
        measured = [measure_study(task, [network], replace(base, seed=int(seed))) for seed in own]
        named = [
            costs(responses, rules.measure).assign_coords(family=[role])
            for role, responses in zip(roles, measured, strict=True)
        ]
        whole = measured[0].unperturbed_accuracy
        runs.append(as_responses(xr.concat(named, "family"), whole, measure=rules.measure))
    return xr.concat(runs, "run")


def chance_labels(task: Task, runs: int, generator: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    """Return random labels for each run, all classes equally likely: no prediction is better than another."""
    return [generator.integers(task.classes, size=len(task.y)) for _ in range(runs)]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """The conditions of a group of studies: the mechanism, the task and the numbers of studies and runs.

    Attributes:
        mechanism: "distance", "template" or "mixed".
        activation: the activation of the networks.
        strength: the strength of the task, see `prototype_task`.
        share: the share of distance in a mixed network, see `mixed_network`; None for other mechanisms.
        null: "" for networks as they are; "one family"; "chance labels"; or "common draws", which is one
            family with the same three seeds in all runs.
        studies: the number of studies.
        runs: the number of runs of each study. A study with fewer runs has the first of these.
        families: the families that are measured.
        checked: measure the checks too, and a fresh sample of the task as held-out data. The studies of two
            conditions that differ in this alone have the same tasks, networks and draws.

    Raises:
        InputError: an unknown mechanism or null, or a share without a mixture.
    """

    mechanism: str
    activation: str
    strength: float = 8.0
    share: float | None = None
    null: str = ""
    studies: int = 200
    runs: int = 20
    families: tuple[str, ...] = (*Rules().distance, *Rules().intensity)
    checked: bool = False

    def __post_init__(self) -> None:
        for what, name, known in (
            ("mechanism", self.mechanism, (*MADE, "mixed")),
            ("null", self.null, ("", *NULLS)),
        ):
            if name not in known:
                names = ", ".join(filter(None, known))
                raise InputError(f"unknown {what} {name!r}: {did_you_mean(name, known)}known are {names}")
        if (self.share is not None) != (self.mechanism == "mixed"):
            raise InputError(
                "mixed networks need a share, and other networks have none; got "
                f"{self.mechanism}, {self.share}"
            )

    @property
    def name(self) -> str:
        """Return a name made of everything that distinguishes the condition from others."""
        share = "" if self.share is None else f"share {self.share:g}"
        parts = (self.mechanism, self.activation, f"strength {self.strength:g}", share, self.null)
        return ", ".join(filter(None, parts))

    @property
    def truth(self) -> str | None:
        """Return the right finding: "equivalent" for a null, None for a mixture."""
        return "equivalent" if self.null else TRUTHS.get(self.mechanism)

    def generator(self, seed: int, purpose: str, *numbers: int) -> np.random.Generator:
        """Return a generator that depends on the seed, the name of this condition, a purpose and numbers."""
        own = int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "big")
        return np.random.default_rng([seed, own, *purpose.encode(), *numbers])

    def network(self, task: Task, generator: np.random.Generator) -> TwoLayer:
        """Return a network of this mechanism for a task."""
        if self.share is not None:
            return mixed_network(task, generator, share=self.share, activation=self.activation)
        return MADE[self.mechanism](task, generator, activation=self.activation)


def study_responses(
    condition: Condition,
    study: int,
    *,
    seed: int,
    design: Design,
    rules: Rules | None = None,
) -> xr.Dataset:
    """Return the responses of one study at matched displacement, on (network, run, family, side, target).

    Args:
        condition: the planted mechanism and the families.
        study: the number of the study.
        seed: the seed. A study is a function of the seed, the name of the condition and the number of the
            study.
        design: targets and draws; the families are those of the condition, and its seed is drawn. Its checks
            are measured if the condition is checked.
        rules: the rules that name the families of a null; `Rules()` if None.

    Raises:
        InputError: as `measure_study`.
    """

    def generator(purpose: str, *numbers: int) -> np.random.Generator:
        return condition.generator(seed, purpose, study, *numbers)

    task = prototype_task(generator("task"), strength=condition.strength)
    networks = [condition.network(task, generator("network", run)) for run in range(condition.runs)]
    design = replace(
        design,
        families=condition.families,
        seed=int(generator("design").integers(2**31)),
        first_draw=0,
        checks=design.checks if condition.checked else (),
    )
    if condition.null in ("one family", "common draws"):
        common = condition.null == "common draws"
        return one_family(task, networks, generator("null"), design=design, rules=rules, common=common)
    chance = condition.null == "chance labels"
    labels = chance_labels(task, len(networks), generator("null")) if chance else None
    held_out = task.sample(generator("held out"), len(task.y)) if condition.checked else None
    return measure_study(task, networks, design, labels=labels, held_out=held_out)
