"""The spec of a grid: one study, one thing in it that varies, and its values.

    title = "Width"
    question = "Does the verdict change with the number of hidden units?"
    vary = "units"
    values = [16, 64, 256]

    [study]
    runs = 10

Every key of a study's spec may stand under [study], and any of them may vary. Two more things may: "checkpoint", which
takes one study's networks at the steps where they first reached a train accuracy, in percent, and "layers", networks
of so many hidden layers, each of which is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, model_validator

from nearzero.analysis.matched import Design
from nearzero.errors import InputError, did_you_mean
from nearzero.perturbations.activations import activation
from nearzero.perturbations.families import Conduct, make_family
from nearzero.study.spec import VERDICT, Spec, read_settings, resolve, validated

__all__ = ["CHECKPOINT", "GridSpec", "Point", "load_grid", "resolve_grid"]

CHECKPOINT, LAYERS = "checkpoint", "layers"
MOST_LAYERS = 32
# What no study can differ in without being another kind of study, or what's for reports alone.
FIXED = {
    "preset",
    "runs",
    "first_seed",
    "thresholds",
    "keep_checkpoints",
    "families",
    "test",
    "ttest_baseline",
    *VERDICT,
}
_LABELS = {
    "activations": "",
    "units": "{} units",
    "pixels": "{} pixels",
    "data": "{}",
    CHECKPOINT: "at {:g} %",
}


@dataclass(frozen=True)
class Point:
    """One place of a grid.

    Attributes:
        label: what is said of it: "64 units".
        value: of what varies.
        spec: of the study whose networks are measured there.
        checkpoint: the train accuracy in percent at whose first reaching; None is at the end of training.
        layers: hidden layers; None is the study's own networks, of one.
    """

    label: str
    value: str | int | float
    spec: Spec
    checkpoint: float | None = None
    layers: int | None = None


class GridSpec(BaseModel):
    """What a grid is made from.

    Attributes:
        title: a word or two.
        question: what it's to show, a sentence.
        vary: a key of a study's spec, "checkpoint" or "layers".
        values: what it takes, each once.
        split: the data on which networks are measured; one half gives ranges and levels, the other responses.
        read: families that don't decide, each shown in the place of distance as well.
        study: what all studies have in common.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(min_length=1)
    question: str = ""
    vary: str
    values: tuple[StrictStr | StrictInt | StrictFloat, ...] = Field(min_length=1)
    split: Literal["train", "test"] = "test"
    read: tuple[str, ...] = ("signed_shift",)
    study: dict[str, Any] = {}

    @model_validator(mode="after")
    def _consistent(self) -> GridSpec:
        known = [key for key in Spec.model_fields if key not in FIXED] + [CHECKPOINT, LAYERS]
        if self.vary not in known:
            hint = did_you_mean(self.vary, known)
            raise InputError(f"vary = {self.vary!r} can't be: {hint}what may vary is {', '.join(known)}")
        if self.vary in self.study:
            raise InputError(f"{self.vary} varies, so it can't stand under [study] as well")
        if len(set(self.values)) < len(self.values):
            raise InputError(f"values must be named once each; got {list(self.values)}")
        for point in self.points:  # refuses what can't be
            for name in self.read:
                make_family(name, Conduct())  # refuses unknown names
                if name in point.spec.deciding:
                    raise InputError(f"{name} decides already; read is for families that don't")
        return self

    @property
    def points(self) -> tuple[Point, ...]:
        """The places of the grid, in order."""
        return tuple(map(self._point, self.values))

    def _point(self, value: str | int | float) -> Point:
        if self.vary == CHECKPOINT:
            spec = resolve(settings=self.study, origin="[study]")
            if (
                not isinstance(value, int | float)
                or value not in spec.thresholds
                or not spec.keep_checkpoints
            ):
                known = ", ".join(f"{each:g}" for each in spec.thresholds)
                raise InputError(
                    f"a checkpoint is one of the study's thresholds, {known}, and kept (keep_checkpoints = true); "
                    f"got {value!r}"
                )
            return Point(_LABELS[CHECKPOINT].format(value), value, spec, checkpoint=float(value))
        if self.vary == LAYERS:
            if not isinstance(value, int) or not 1 <= value <= MOST_LAYERS:
                raise InputError(f"layers must be whole numbers from 1 to {MOST_LAYERS}; got {value!r}")
            spec = resolve(settings=self.study, origin="[study]")
            return Point("1 layer" if value == 1 else f"{value} layers", value, spec, layers=value)
        given = {**self.study, self.vary: [value] if self.vary == "activations" else value}
        spec = resolve(settings=given, origin=f"[study] with {self.vary} = {value!r}")
        return Point(_LABELS.get(self.vary, f"{self.vary.replace('_', ' ')} {{}}").format(value), value, spec)

    def design(self, spec: Spec, run: int) -> Design:
        """What is measured on a run: the families that decide, and those to be read, in draws of its own."""
        families = tuple(dict.fromkeys((*spec.deciding, *self.read)))
        return replace(spec.design_of(run), families=families)

    def name(self, network: str, point: Point, layer: int | None = None) -> str:
        """What a measured layer of a network is called: "ReLU, 64 units"; "Abs, 3 layers, layer 2"."""
        parts = [activation(network).label, point.label, "" if layer is None else f"layer {layer}"]
        return ", ".join(part for part in parts if part)


def resolve_grid(settings: Mapping[str, Any], origin: str = "the settings") -> GridSpec:
    """A grid's spec from what was given.

    Raises:
        InputError: an unknown key, or a value that can't be used; `origin` says where it stands.
    """
    return validated(GridSpec, dict(settings), origin, "keys of a study belong under [study]; ")


def load_grid(path: Path) -> GridSpec:
    """Read the spec of a grid.

    Raises:
        InputError: it can't be read, isn't TOML, or holds an unknown key or value.
    """
    return resolve_grid(read_settings(path), str(path))
