"""Studies of one kind, in which the answer is known: planted networks, or a null. Each is a function of its number.

`nearzero.mechanisms.power` judges and counts them, for the rules of a user; `benchmarks/validation.py` for the tables
of docs/validation.md.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from nearzero.errors import InputError
from nearzero.matched import Design
from nearzero.mechanisms.nulls import chance_labels, one_family
from nearzero.mechanisms.planted import distance_network, mixed_network, template_network
from nearzero.mechanisms.studies import measure_study
from nearzero.mechanisms.tasks import Task, prototype_task
from nearzero.networks import TwoLayer
from nearzero.verdict import Rules

__all__ = ["Condition", "study_responses"]

TRUTHS = {"distance": "distance costs more", "template": "intensity costs more"}
MADE = {"distance": distance_network, "template": template_network}


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Studies of one kind.

    Attributes:
        mechanism: "distance", "template" or "mixed".
        activation, strength, share: of the networks and of their task; a share where they are mixed.
        null: "" for networks as they are; "one family" or "chance labels" of `nearzero.mechanisms.nulls`, or "common
            draws": one family with the same three seeds in all runs.
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
