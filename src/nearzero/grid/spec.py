"""The spec of a grid: one study, one thing in it that varies, and its values.

    title = "Width"
    question = "Does the verdict change with the number of hidden units?"
    vary = "units"
    values = [16, 64, 256]

    [study]
    runs = 10

Under [study] may be any keys of a study's spec. What may vary is one of these keys, except those in `FIXED`,
or one of two more things. "checkpoint" takes one study's networks at the steps where they first reached a
train accuracy, in percent. "layers" takes networks with several hidden layers, and measures each layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, StrictFloat, StrictInt, StrictStr, model_validator

from nearzero.analysis.matched import HELD_OUT, Design
from nearzero.errors import InputError, did_you_mean
from nearzero.perturbations.activations import activation
from nearzero.perturbations.families import Conduct, make_family
from nearzero.study.spec import LATER, VERDICT, CheckedModel, Spec, read_settings, resolve, validated

__all__ = ["CHECKPOINT", "GridSpec", "Point", "complete", "load_grid", "load_kept_grid", "resolve_grid"]

CHECKPOINT, LAYERS = "checkpoint", "layers"
MOST_LAYERS = 32
# These can't vary: studies that differ in them can't be compared, or differ in their reports alone.
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
    """One value of what varies in a grid, and the study with this value.

    Attributes:
        label: the value in words: "64 units".
        value: the value of what varies.
        spec: of the study whose networks are measured.
        checkpoint: networks are measured where they first reach this train accuracy, in percent; if None, at
            the end of training.
        layers: the number of hidden layers; None for the study's own networks, which have one.
    """

    label: str
    value: str | int | float
    spec: Spec
    checkpoint: float | None = None
    layers: int | None = None


class GridSpec(CheckedModel):
    """The spec of a grid: what varies, its values, and what all of its studies have in common.

    Attributes:
        title: a word or two.
        question: the question that the grid answers, in a sentence.
        vary: a key of a study's spec, "checkpoint" or "layers".
        values: the values of what varies, each once.
        split: the data on which networks are measured; one half gives ranges and levels, the other responses.
        read: families that don't decide; a verdict with each of them in the place of distance is shown as
            well.
        study: keys and values of `Spec` that all studies share.

    Raises:
        InputError: an unknown key, or a value that can't be used.

    Example:
        >>> import nearzero as nz
        >>> study = {"data": "digits", "runs": 2}
        >>> spec = nz.GridSpec(title="Width", vary="units", values=[16, 64], study=study)
        >>> [point.spec.units for point in spec.points]
        [16, 64]
        >>> [spec.name("relu", point) for point in spec.points]
        ['ReLU, 16 units', 'ReLU, 64 units']
    """

    title: str = Field(min_length=1)
    question: str = ""
    vary: str
    values: tuple[StrictStr | StrictInt | StrictFloat, ...] = Field(min_length=1)
    split: Literal["train", "test"] = "test"
    read: tuple[str, ...] = ("shift",)
    study: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> GridSpec:
        known = [key for key in Spec.model_fields if key not in FIXED] + [CHECKPOINT, LAYERS]
        if self.vary not in known:
            hint = did_you_mean(self.vary, known)
            raise InputError(f"{self.vary!r} can't vary: {hint}the keys that can are {', '.join(known)}")
        if self.vary in self.study:
            raise InputError(f"{self.vary} varies, so it can't be a key under [study] too; remove it there")
        if len(set(self.values)) < len(self.values):
            raise InputError(f"values must differ from each other; got {list(self.values)}")
        for point in self.points:  # each is checked as it's made
            for name in self.read:
                make_family(name, Conduct())  # refuses unknown names
                if name in point.spec.deciding:
                    raise InputError(f"{name} decides the verdict already; `read` is for families that don't")
        return self

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """Return the points of the grid, in the order of the values."""
        return tuple(map(self._point, self.values))

    def _point(self, value: str | int | float) -> Point:
        if self.vary == CHECKPOINT:
            spec = resolve(settings=self.study, origin="[study]")
            if (
                not isinstance(value, int | float)
                or value not in spec.thresholds
                or not spec.keep_checkpoints
            ):
                known = ", ".join(f"{threshold:g}" for threshold in spec.thresholds)
                raise InputError(
                    f"a checkpoint must be one of the study's thresholds, {known}, and keep_checkpoints must be true; "
                    f"got {value!r}"
                )
            return Point(_LABELS[CHECKPOINT].format(value), value, spec, checkpoint=float(value))
        if self.vary == LAYERS:
            if not isinstance(value, int) or not 1 <= value <= MOST_LAYERS:
                raise InputError(f"layers must be whole numbers from 1 to {MOST_LAYERS}; got {value!r}")
            spec = resolve(settings=self.study, origin="[study]")
            return Point("1 layer" if value == 1 else f"{value} layers", value, spec, layers=value)
        settings = {**self.study, self.vary: [value] if self.vary == "activations" else value}
        spec = resolve(settings=settings, origin=f"[study] with {self.vary} = {value!r}")
        return Point(_LABELS.get(self.vary, f"{self.vary.replace('_', ' ')} {{}}").format(value), value, spec)

    def design(self, point: Point, network: str, run: int) -> Design:
        """Return the design for one run of a network of a point: the deciding families and those in `read`.

        Every run of every network of a grid has draws of its own.
        """
        families = tuple(dict.fromkeys((*point.spec.deciding, *self.read)))
        return replace(point.spec.design_of(self.name(network, point), run), families=families)

    def name(self, network: str, point: Point, layer: int | None = None) -> str:
        """Return the name of a measured layer of a network: "ReLU, 64 units"; "Abs, 3 layers, layer 2"."""
        parts = [activation(network).label, point.label, "" if layer is None else f"layer {layer}"]
        return ", ".join(part for part in parts if part)


def resolve_grid(settings: Mapping[str, Any], origin: str = "the settings") -> GridSpec:
    """Return the spec of a grid with these keys and values; `origin` names their source in messages.

    Raises:
        InputError: an unknown key, or a value that can't be used.
    """
    return validated(GridSpec, dict(settings), origin, "keys of a study belong under [study]; ")


def complete(spec: GridSpec, begun: GridSpec | None = None) -> GridSpec:
    """Return a spec that states the rules of its verdict: its own, else those of the grid that was begun.

    Args:
        spec: the spec that was given.
        begun: the complete spec of the grid in the folder; None for a new grid, which has the default rules.
    """
    known = Spec().model_dump(mode="json") if begun is None else begun.study
    study = {key: known[key] for key in VERDICT} | spec.study
    if begun is None and spec.split == "test" and "verdict_checks" not in spec.study:
        # the responses are those of held-out data already
        study["verdict_checks"] = [check for check in study["verdict_checks"] if check != HELD_OUT]
    read = spec.read if begun is None or "read" in spec.model_fields_set else begun.read
    return validated(GridSpec, spec.model_dump() | {"study": study, "read": read}, "the grid's spec")


def load_kept_grid(path: Path) -> GridSpec:
    """Return the complete spec of a grid that was begun; one that doesn't state its rules has the earlier ones.

    Raises:
        InputError: as for `load_grid`.
    """
    settings = read_settings(path)
    if isinstance(settings.get("study"), dict):
        settings["study"] = {key: LATER[key] for key in VERDICT} | settings["study"]
    return resolve_grid(settings, str(path))


def load_grid(path: Path) -> GridSpec:
    """Return the spec of a grid from its file.

    Raises:
        InputError: the file can't be read, isn't TOML, or holds an unknown key or value.
    """
    return resolve_grid(read_settings(path), str(path))
