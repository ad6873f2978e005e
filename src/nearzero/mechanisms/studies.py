"""Studies in which the answer is known: planted networks, or a null. Each is a function of its number.

`measure_study` gives responses that `nearzero.analysis.verdict.judge` takes. In a null neither distance nor intensity
costs more, by construction; the proofs are in `docs/validation.md`. `dealt` takes real costs and deals them out to the
families of a run at random; `one_family` measures one random family three times and calls it by three names;
`chance_labels` leaves everything as it is, but for labels that have nothing to do with the examples.
`nearzero.mechanisms.power` judges and counts studies for the rules of a user; `benchmarks/validation.py` does so for
the tables of docs/validation.md.
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
from nearzero.errors import InputError
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
    "study_responses",
]

TRUTHS = {"distance": "distance costs more", "template": "intensity costs more"}
MADE = {"distance": distance_network, "template": template_network}


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
        costs: points, on (network, run, family, target), as `nearzero.analysis.verdict.costs` gives them.
        unperturbed: the accuracy of the unperturbed networks, (network, run).
        measure: the variable they are costs of.
    """
    whole = unperturbed if "accuracy" in measure else xr.ones_like(unperturbed)
    left = (whole - costs / 100.0).expand_dims(side=list(SIDES))
    dims = ("network", "run", "family", "side", "target")
    return xr.Dataset({measure: left.transpose(*dims), "unperturbed_accuracy": unperturbed})


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
    design: Design | None = None,
    rules: Rules | None = None,
    common: bool = False,
) -> xr.Dataset:
    """Return responses in which all families of the rules are measurements of gains, each with seeds of its own.

    By the default rules they are called shift, gains and cap. Given its network, the costs of a run are independent
    and have one distribution.

    Args:
        task, networks: as for `measure_study`.
        generator: draws the seeds, of the draws and of the halves, one for each run and family of the rules.
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
    base = replace(design or Design(), families=("gains",))
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


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Studies of one kind.

    Attributes:
        mechanism: "distance", "template" or "mixed".
        activation, strength, share: of the networks and of their task; a share where they are mixed.
        null: "" for networks as they are; "one family", "chance labels", or "common draws": one family with the same
            three seeds in all runs.
        studies, runs: how many, and of how many runs; a study of fewer runs has the first of these.
        families: what is measured.

    Raises:
        InputError: an unknown mechanism, or a share without a mixture.
    """

    mechanism: str
    activation: str
    strength: float = 8.0
    share: float | None = None
    null: str = ""
    studies: int = 200
    runs: int = 20
    families: tuple[str, ...] = (*Rules().distance, *Rules().intensity)

    def __post_init__(self) -> None:
        if self.mechanism not in (*MADE, "mixed"):
            raise InputError(f"mechanisms are {', '.join(MADE)} and mixed; got {self.mechanism!r}")
        if (self.share is not None) != (self.mechanism == "mixed"):
            raise InputError(
                f"mixed networks have a share, and no others; got {self.mechanism}, {self.share}"
            )

    @property
    def name(self) -> str:
        """Return all that tells the condition from others."""
        share = "" if self.share is None else f"share {self.share:g}"
        parts = (self.mechanism, self.activation, f"strength {self.strength:g}", share, self.null)
        return ", ".join(filter(None, parts))

    @property
    def truth(self) -> str | None:
        """Return the finding that is right: of a null, that the costs are equivalent; None for a mixture."""
        return "equivalent" if self.null else TRUTHS.get(self.mechanism)

    def generator(self, seed: int, what: str, *numbers: int) -> np.random.Generator:
        """Return a generator that belongs to this condition's name, whatever other conditions there are."""
        own = int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "big")
        return np.random.default_rng([seed, own, *what.encode(), *numbers])

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
    own_draws: bool = False,
) -> xr.Dataset:
    """Return the responses of one study at matched displacement, on (network, run, family, side, target).

    Args:
        condition: what is planted, and what is measured.
        study: its number.
        seed: of everything: a study is a function of the seed, the condition's name and its number.
        design: targets and draws; its families are the condition's, its seed is drawn.
        rules: whose families a null has; the default ones if None.
        own_draws: whether runs have draws of their own, as those of a real study have; see `measure_study`.

    Raises:
        InputError: as `measure_study`.
    """

    def generator(what: str, *numbers: int) -> np.random.Generator:
        return condition.generator(seed, what, study, *numbers)

    task = prototype_task(generator("task"), strength=condition.strength)
    networks = [condition.network(task, generator("network", run)) for run in range(condition.runs)]
    design = replace(
        design, families=condition.families, seed=int(generator("design").integers(2**31)), first_draw=0
    )
    if condition.null in ("one family", "common draws"):
        common = condition.null == "common draws"
        return one_family(task, networks, generator("null"), design=design, rules=rules, common=common)
    chance = condition.null == "chance labels"
    labels = chance_labels(task, len(networks), generator("null")) if chance else None
    return measure_study(task, networks, design, labels=labels, own_draws=own_draws)
