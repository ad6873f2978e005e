"""The networks of a grid that are a user's own: the functions that build and train them, and their layers.

    [network]
    build = "networks.py:build"      # build(...) -> nn.Module
    train = "networks.py:train"      # train(model, data, ...) -> None, or the trained module
    data = "mnist"                   # or "networks.py:data", data(...) -> {"train": ..., "test": ...}
    layers = ["stage1.relu"]
    runs = 10

    [network.arguments]
    steps = 600

    [network.probe]
    batch_size = 500

Files are named relative to the file of the spec. In the place of a function, `build` and `data` take names
(`nearzero.grid.own.names`):

    build = "hf:org/name-seed{seed}"
    data = "hf:wikitext:wikitext-2-raw-v1:test"
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, field_validator, model_validator

from nearzero.analysis.verdict import LOSS, Measure
from nearzero.errors import InputError
from nearzero.grid.own.names import (
    OF_DATA,
    OF_MODELS,
    is_data_name,
    is_model_name,
    loading_of,
    placeholders,
    with_path,
)
from nearzero.study.spec import CheckedModel, Count, Positive, validated

__all__ = ["DATA", "SEED", "OwnNetwork", "OwnProbe", "absolute", "relative_to", "shown", "with_names"]

SEED, DATA = "seed", "data"
NAMES = ("build", "train", "data")  # keys whose value may name a function
CALLED = ("prepare", "output", "activation")  # the same under [network.probe]


class OwnProbe(CheckedModel):
    """Settings of the measurement of a user's own networks, and the metric that decides.

    Attributes:
        metric: what a perturbation costs: "accuracy" and "agreement" lose points, "cross_entropy" rises in nats.
        examples: the first so many examples of the split are measured; all if None. One half of them gives
            ranges and levels, the other responses.
        batch_size, batch_axis, unit_axis, output_kind, class_axis, causal, units, method, memory, backend: as for
            `nz.probe`.
        prepare, output, activation: as for `nz.probe`; a function is named as those of the network are.

    Raises:
        InputError: an unknown key, or a value of another type.

    Example:
        >>> import nearzero as nz
        >>> nz.OwnProbe(metric="cross_entropy", causal=True).settings
        {'causal': True}
        >>> nz.OwnProbe(metrik="accuracy")
        Traceback (most recent call last):
        nearzero.errors.InputError: unknown key 'metrik' in the settings: did you mean 'metric'? ...
    """

    metric: Literal["accuracy", "agreement", "cross_entropy"] = "accuracy"
    examples: Positive | None = None
    batch_size: Positive | None = None
    batch_axis: Literal[0, 1, "none"] | None = None
    unit_axis: int | None = None
    prepare: str | None = None
    output: str | int | None = None
    output_kind: Literal["logits", "probabilities", "log-probabilities"] | None = None
    class_axis: int | Literal["none"] | None = None
    causal: bool | None = None
    activation: str | None = None
    units: list[int] | dict[str, list[int]] | None = None
    method: Literal["auto", "suffix", "full"] | None = None
    memory: str | int | None = None
    backend: Literal["two-layer", "model"] | None = None

    @property
    def measure(self) -> Measure:
        """Return the measure of the verdict's rules."""
        return self.metric

    @property
    def of_loss(self) -> bool:
        """Return whether the metric is a loss."""
        return self.metric == LOSS

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of the probe that are given; functions by name."""
        return self.model_dump(exclude_none=True, exclude={"metric", "examples", "backend"})

    @property
    def functions(self) -> dict[str, str]:
        """Return the names of the functions among the settings, by key."""
        values = {key: getattr(self, key) for key in CALLED}
        return {key: shown(value) for key, value in values.items() if isinstance(value, str) and ":" in value}


class OwnNetwork(CheckedModel):
    """Networks that are a user's own, and how they are trained and measured.

    A name is `file.py:function` or `package.module:function`. Each function is given those of `seed`, what varies and
    `arguments` that its signature names.

    Attributes:
        build: makes the untrained module of a seed. Or the name of a model, as `nz.open_model` takes it, into which
            `{seed}`, what varies and `arguments` are filled: "hf:org/name-seed{seed}"; or a list of such names, one for
            each run.
        train: trains the module on the training split, in place or by returning it; if None, the networks are
            measured as they are built, from other weights for each seed.
        data: the name of a data set, or of a function that returns {"train": ..., "test": ...}, each in a form
            that `nz.probe` takes; or texts or images by name, as `nz.open_data` takes them, prepared as the model of
            the first run asks for. None if the data are what varies.
        layers: names or globs of the layers that are measured, as `nz.layers` lists them; all activations if None.
        runs, first_seed: how many networks are trained at each point, and the seed of the first.
        pixels: of a data set by name: "raw" for values from 0 to 255, "unit" for 0 to 1, or "normalized" for
            (x - m) / s with mean and standard deviation of the training set.
        arguments: constants for the functions.
        probe: settings of the measurement.
        loading: settings of models and data by name, those of `nz.Loading`; all inferred if None.

    Raises:
        InputError: an unknown key, or a value that can't be used.

    Example:
        >>> import nearzero as nz
        >>> network = nz.OwnNetwork(build="nets:build", train="nets:train", data="digits", arguments={"steps": 9})
        >>> spec = nz.GridSpec(title="Width", vary="width", values=[8, 16], network=network)
        >>> [point.label for point in spec.points], spec.points[0].spec.seeds[:3]
        (['width 8', 'width 16'], (0, 1, 2))
    """

    build: str | Annotated[tuple[str, ...], Field(min_length=1)]
    train: str | None = None
    data: str | None = None
    layers: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    runs: Count = 10
    first_seed: Annotated[int, Field(strict=True, ge=0, le=2**62)] = 0
    pixels: Literal["raw", "unit", "normalized"] = "unit"
    arguments: dict[str, Any] = Field(default_factory=dict)
    probe: OwnProbe = Field(default_factory=OwnProbe)
    loading: dict[str, Any] | None = None

    @field_validator("probe", mode="before")
    @classmethod
    def _checked_probe(cls, value: Any) -> Any:
        return validated(OwnProbe, value, "[network.probe]") if isinstance(value, dict) else value

    @field_validator("layers", mode="before")
    @classmethod
    def _as_names(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("arguments")
    @classmethod
    def _plain(cls, values: dict[str, Any]) -> dict[str, Any]:
        try:
            tomli_w.dumps(values)
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(
                "[network.arguments] must be values that TOML has: texts, numbers, true or false, lists and "
                f"tables of these; {str(error).splitlines()[0]}"
            ) from error
        if SEED in values:
            raise InputError("seed is given to each function as it is; set first_seed under [network]")
        return values

    @model_validator(mode="before")
    @classmethod
    def _as_many_runs(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("build"), (list, tuple)):
            return values
        names = len(values["build"])
        if values.get("runs", names) != names:
            raise InputError(
                f"build lists {names} names, one for each run, but runs = {values['runs']}; leave runs out"
            )
        return {**values, "runs": names}

    @model_validator(mode="after")
    def _named(self) -> OwnNetwork:
        functions = {"train": self.train} | ({} if self.is_by_name else {"build": self.build})
        for key, name in functions.items():
            if name is not None and (not isinstance(name, str) or not all(name.rpartition(":")[::2])):
                others = ", or a name such as hf:org/name" if key == "build" else ""
                raise InputError(
                    f"{key} is named file.py:function or package.module:function{others}; got {name!r}"
                )
        if self.is_by_name:
            self._check_names()
        loading = loading_of(self.loading)
        if not self.is_by_name:
            loading.refuse(OF_MODELS, "build is a function, and no name of a model")
        if self.data is not None and not self.data_by_name:
            loading.refuse(OF_DATA, f"data = {self.data!r} are no texts or images by name")
        return self

    def _check_names(self) -> None:
        for name in self.build_names:
            if not is_model_name(name):
                raise InputError(f"build lists names of models, such as hf:org/name; got {name!r}")
        seeded = len(self.build_names) > 1 or "seed" in placeholders(self.build_names[0])
        if not seeded and self.train is None and not (self.loading or {}).get("untrained") and self.runs > 1:
            raise InputError(
                f"build = {self.build_names[0]!r} is one model, the same for all runs; put {{seed}} into the name, or "
                "list a name for each run"
            )

    @property
    def build_names(self) -> tuple[str, ...]:
        """Return the names under `build`: one for all runs, or one for each."""
        return (self.build,) if isinstance(self.build, str) else self.build

    @property
    def is_by_name(self) -> bool:
        """Return whether `build` names models of a library, and no function."""
        return not isinstance(self.build, str) or is_model_name(self.build)

    @property
    def data_by_name(self) -> bool:
        """Return whether `data` are texts or images by name."""
        return self.data is not None and is_data_name(self.data)

    @property
    def functions(self) -> dict[str, str]:
        """Return the names of all functions that are the user's own, by key; files relative to the working folder."""
        by_name = {"build": self.is_by_name, "data": self.data_by_name}
        own = {key: getattr(self, key) for key in NAMES if not by_name.get(key)}
        named = {key: name for key, name in own.items() if name is not None and ":" in name}
        return {key: shown(name) for key, name in (named | self.probe.functions).items()}


def shown(name: str) -> str:
    """Return the name of a function as messages show it: a file in the working folder relative to that."""
    here = f"{Path.cwd()}{os.sep}"
    return name.removeprefix(here)


def with_names(values: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Return the values of [network] with each name of a file of the user's own changed by a function."""
    changed = dict(values)
    for key in NAMES:
        if isinstance(changed.get(key), str):
            changed[key] = _changed(changed[key], change)
        elif isinstance(changed.get(key), (list, tuple)):
            changed[key] = [
                _changed(each, change) if isinstance(each, str) else each for each in changed[key]
            ]
    if isinstance(changed.get("probe"), dict):
        changed["probe"] = {
            key: _in_file(value, change) if key in CALLED and isinstance(value, str) else value
            for key, value in changed["probe"].items()
        }
    return changed


def _changed(name: str, change: Callable[[str], str]) -> str:
    in_file = _in_file(name, change)
    return with_path(name, change) if in_file == name else in_file


def _in_file(name: str, change: Callable[[str], str]) -> str:
    path, colon, function = name.rpartition(":")
    return f"{change(path)}:{function}" if colon and path.endswith(".py") else name


def absolute(folder: Path) -> Callable[[str], str]:
    """Return a function that makes the path of a file, given relative to a folder, absolute."""
    return lambda path: os.path.abspath(folder / path)


def relative_to(folder: Path) -> Callable[[str], str]:
    """Return a function that makes the path of a file relative to a folder, with slashes."""

    def relative(path: str) -> str:
        try:
            return Path(os.path.relpath(path, folder)).as_posix()
        except ValueError:  # on another drive
            return path

    return relative
