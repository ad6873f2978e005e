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

With [network] the networks are a user's own (`nearzero.grid.own.spec`). What varies is then an argument of the
functions that build and train them, or "data"; under [study] are the rules of the verdict alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, field_validator, model_validator

from nearzero.analysis.matched import HELD_OUT, Design
from nearzero.analysis.verdict import Rules
from nearzero.errors import InputError, did_you_mean
from nearzero.grid.own.spec import DATA, SEED, OwnNetwork, absolute, relative_to, with_names
from nearzero.perturbations.activations import ACTIVATIONS, activation
from nearzero.perturbations.families import Conduct, make_family
from nearzero.perturbations.noise import NOISES
from nearzero.study.spec import LATER, VERDICT, CheckedModel, Spec, read_settings, resolve, validated
from nearzero.support.words import number_of

__all__ = [
    "CHECKPOINT",
    "GridSpec",
    "Point",
    "complete",
    "kept_values",
    "load_grid",
    "load_kept_grid",
    "named_grids",
    "resolve_grid",
]

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
        spec: of the study whose networks are measured; of own networks, only its rules, runs and seeds count.
        checkpoint: networks are measured where they first reach this train accuracy, in percent; if None, at
            the end of training.
        layers: the number of hidden layers; None for the study's own networks, which have one.
    """

    label: str
    value: str | int | float | bool
    spec: Spec
    checkpoint: float | None = None
    layers: int | None = None


class GridSpec(CheckedModel):
    """The spec of a grid: what varies, its values, and what all of its studies have in common.

    Attributes:
        title: a word or two.
        question: the question that the grid answers, in a sentence.
        vary: a key of a study's spec, "checkpoint" or "layers"; with `network`, an argument of its functions, or
            "data".
        values: the values of what varies, each once.
        split: the data on which networks are measured; one half gives ranges and levels, the other responses.
        read: families that don't decide, or noise; a verdict with each of them in the place of distance is shown as
            well.
        study: keys and values of `Spec` that all studies share; with `network`, only the rules of the verdict.
        network: networks of the user's own in the place of a study's, an `OwnNetwork` or a mapping of its keys;
            None for a study's.

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
    values: tuple[StrictBool | StrictStr | StrictInt | StrictFloat, ...] = Field(
        min_length=1, max_length=1000
    )
    split: Literal["train", "test"] = "test"
    read: tuple[str, ...] = ("shift",)
    study: dict[str, Any] = Field(default_factory=dict)
    network: OwnNetwork | None = None

    @field_validator("network", mode="before")
    @classmethod
    def _checked_network(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return validated(OwnNetwork, with_names(value, absolute(Path.cwd())), "[network]")

    @model_validator(mode="after")
    def _consistent(self) -> GridSpec:
        if self.network is None:
            self._check_study()
        else:
            self._check_network(self.network)
        if len({(type(value), value) for value in self.values}) < len(self.values):
            raise InputError(f"values must differ from each other; got {list(self.values)}")
        for point in self.points:  # each is checked as it's made
            for name in self.read:
                if name not in NOISES:
                    make_family(name, Conduct())  # refuses unknown names
                if name in point.spec.deciding:
                    raise InputError(f"{name} decides the verdict already; `read` is for families that don't")
        return self

    def _check_study(self) -> None:
        known = [key for key in Spec.model_fields if key not in FIXED] + [CHECKPOINT, LAYERS]
        if self.vary not in known:
            hint = did_you_mean(self.vary, known)
            raise InputError(f"{self.vary!r} can't vary: {hint}the keys that can are {', '.join(known)}")
        if self.vary in self.study:
            raise InputError(f"{self.vary} varies, so it can't be a key under [study] too; remove it there")
        if any(isinstance(value, bool) for value in self.values):
            raise InputError(f"values of {self.vary} can't be true or false; got {list(self.values)}")

    def _check_network(self, network: OwnNetwork) -> None:
        for key in self.study:
            if key not in VERDICT:
                hint = did_you_mean(key, VERDICT)
                raise InputError(
                    f"with [network], [study] has the rules of the verdict alone; got {key!r}: {hint}arguments of your "
                    "functions belong under [network.arguments]"
                )
        if not self.vary.isidentifier() or self.vary == SEED:
            raise InputError(
                f"{self.vary!r} can't vary; with [network] it must be an argument of build, train or data, or 'data'"
            )
        if self.vary in network.arguments:
            raise InputError(
                f"{self.vary} varies, so it can't be under [network.arguments] too; remove it there"
            )
        if (self.vary == DATA) != (network.data is None):
            raise InputError(
                "data varies, so it can't be a key under [network] too; remove it there"
                if self.vary == DATA
                else "[network] needs data: the name of a data set, or file.py:function"
            )
        if self.vary == DATA and not all(isinstance(value, str) for value in self.values):
            raise InputError(f"data must be names; got {list(self.values)}")
        labels = [_own_label(self.vary, value) for value in self.values]
        if len(set(labels)) < len(labels) and len(set(self.values)) == len(labels):
            raise InputError(f"values must differ in their names in tables too; got {', '.join(labels)}")
        if network.probe.of_loss and "verdict_margin" not in self.study:
            raise InputError(
                "a verdict on cross_entropy needs a margin in nats, the smallest rise of the loss that matters; give "
                "verdict_margin under [study]"
            )

    @property
    def rules(self) -> Rules:
        """Return the rules of the verdict."""
        rules = self.points[0].spec.rules
        return rules if self.network is None else replace(rules, measure=self.network.probe.measure)

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """Return the points of the grid, in the order of the values."""
        return tuple(map(self._point, self.values))

    def _point(self, value: str | int | float | bool) -> Point:
        if self.network is not None:
            own = {"runs": self.network.runs, "first_seed": self.network.first_seed}
            return Point(
                _own_label(self.vary, value), value, resolve(settings=self.study | own, origin="[study]")
            )
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
            return Point(number_of(value, "layer"), value, spec, layers=value)
        settings = {**self.study, self.vary: [value] if self.vary == "activations" else value}
        spec = resolve(settings=settings, origin=f"[study] with {self.vary} = {value!r}")
        return Point(_LABELS.get(self.vary, f"{self.vary.replace('_', ' ')} {{}}").format(value), value, spec)

    def designs(self, point: Point, network: str) -> list[Design]:
        """Return the design for each run of a network of a point: the deciding families and those in `read`.

        Every run of every network of a grid has draws of its own. Layers of own networks are measured by the conduct of
        their activations.
        """
        families = tuple(dict.fromkeys((*point.spec.deciding, *self.read)))
        design = replace(point.spec.design, families=families)
        design = design if self.network is None else replace(design, conduct=None)
        name = self.name(network, point)
        return [
            replace(design, first_draw=point.spec.first_draw(name, run)) for run in range(point.spec.runs)
        ]

    def name(self, network: str, point: Point, layer: int | str | None = None) -> str:
        """Return the name of a measured layer of a network: "ReLU, 64 units"; "Abs, 3 layers, layer 2".

        Own networks are named by their point, and their layers as in the module: "width 64, block1.act".
        """
        if self.network is not None:
            return ", ".join([point.label, *([] if layer is None else [str(layer)])])
        parts = [activation(network).label, point.label, "" if layer is None else f"layer {layer}"]
        return ", ".join(part for part in parts if part)


def _own_label(vary: str, value: str | int | float | bool) -> str:
    """Return a value of own networks in words: a text says what it is, a number needs the name of the argument."""
    if vary == "activation" and value in ACTIVATIONS:
        return ACTIVATIONS[str(value)].label
    words = vary.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    return value if isinstance(value, str) else f"{words} {value:g}"


def kept_values(spec: GridSpec, folder: Path) -> dict[str, Any]:
    """Return a grid's spec as the plain values that its folder keeps, files relative to the folder."""
    values = spec.model_dump(mode="json", exclude_none=True)
    if spec.network is not None:
        values["network"] = with_names(values["network"], relative_to(folder.absolute()))
    return values


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
    values = spec.model_dump(exclude_none=True) | {"study": study, "read": read}
    return validated(GridSpec, values, "the grid's spec")


def load_kept_grid(path: Path) -> GridSpec:
    """Return the complete spec of a grid that was begun; one that doesn't state its rules has the earlier ones.

    Raises:
        InputError: as for `load_grid`.
    """
    settings = _read(path)
    if isinstance(settings.get("study"), dict):
        settings["study"] = {key: LATER[key] for key in VERDICT} | settings["study"]
    return resolve_grid(settings, str(path))


def named_grids() -> dict[str, Path]:
    """Return the specs that come with nearzero: for each name, the path of its file.

    Example:
        >>> from nearzero.grid.spec import named_grids
        >>> list(named_grids())
        ['activations', 'data', 'depth', 'pixels', 'training', 'width']
    """
    return {path.stem: path for path in sorted((Path(__file__).parent / "specs").glob("*.toml"))}


def load_grid(spec: str | PathLike[str]) -> GridSpec:
    """Return the spec of a grid from its file, or one that comes with nearzero by its name.

    Args:
        spec: one of `named_grids()`, or the path of a TOML file. A string that is one of these names means that
            spec; for a file with such a name, write `./width` or give a `Path`.

    Raises:
        InputError: the name is unknown, or the file can't be read, isn't TOML, or holds an unknown key or value.

    Example:
        >>> from nearzero.grid.spec import load_grid
        >>> load_grid("width").vary
        'units'
        >>> load_grid("widht")
        Traceback (most recent call last):
        nearzero.errors.InputError: no grid 'widht': did you mean 'width'? Known: activations, ... or give ... file
    """
    known, path = named_grids(), Path(spec)
    if isinstance(spec, str) and spec in known:
        path = known[spec]
    elif not path.exists() and (path.stem in known or path.name == path.stem == str(spec)):
        hint = did_you_mean(path.stem, known)
        raise InputError(
            f"no grid {spec!r}: {hint}Known: {', '.join(known)}; or give the path of a grid's TOML file"
        )
    return resolve_grid(_read(path), str(spec))


def _read(path: Path) -> dict[str, Any]:
    """Return the keys and values of a grid's file; the names of files in it are relative to its folder."""
    settings = read_settings(path)
    if isinstance(settings.get("network"), dict):
        settings["network"] = with_names(settings["network"], absolute(path.absolute().parent))
    return settings
