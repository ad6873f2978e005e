"""The spec: everything that a study needs, as plain data.

Defaults, then a preset, then a file, then the command line; unknown keys are refused. The resolved spec is
kept with the results as `spec.toml`. What is done with it is in `nearzero.study.steps`.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nearzero.analysis.matched import Design
from nearzero.analysis.verdict import Rules
from nearzero.errors import InputError, did_you_mean
from nearzero.perturbations.activations import activation
from nearzero.perturbations.families import BY_FORMULA, Conduct, make_family
from nearzero.support.files import read_bytes
from nearzero.training.engine import Precision
from nearzero.training.train import Recipe

__all__ = [
    "CONDUCT",
    "PRESETS",
    "REPORT_ONLY",
    "VERDICT",
    "Spec",
    "differing_key",
    "load_complete_spec",
    "parse_setting",
    "read_settings",
    "resolve",
    "spec_digest",
    "spec_text",
    "validated",
    "with_rules",
]

AnyModel = TypeVar("AnyModel", bound=BaseModel)

# The named switches between the published and the corrected conduct.
CONDUCT = ("pixels", "offset", "clip", "clip_threshold", "range", "ttest_baseline")
RULES = ("distance", "intensity", "targets", "margin")
VERDICT = (*(f"verdict_{name}" for name in RULES), "verdict_draws")
REPORT_ONLY = {"ttest_baseline", *VERDICT}  # these may be changed in a study that's finished

# Strict: `true` isn't 1. The bounds are far beyond any study; they keep a slip of the hand from filling the memory.
Positive = Annotated[int, Field(strict=True, ge=1, le=10_000_000)]
Count = Annotated[int, Field(strict=True, ge=1, le=100_000)]
Percent = Annotated[float, Field(gt=0, le=100)]

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"batch_size": "all", "evaluate_every": 1, "test_every": 10},
    "quick": {"batch_size": 256, "evaluate_every": 2500, "test_every": 2500},
}


class Spec(BaseModel):
    """A study: networks, how they are trained, and how they are perturbed. All values are resolved.

    Attributes:
        preset: the preset it was made from.
        data: a registry name or a folder of IDX files.
        pixels: "raw" (0 to 255) or "normalized" (pixel / 255, minus mean, over standard deviation).
        activations: the networks of the study, one for each.
        units: hidden units.
        runs, first_seed: run k has seed first_seed + k, for initialisation and batch order.
        learning_rate, steps, batch_size: plain SGD; a batch size of "all" is the whole training set.
        evaluate_every: steps between measurements on the whole training set; also at 10, 100, ...
            below it.
        test_every: steps between measurements on the whole test set; a multiple of evaluate_every.
        thresholds: train accuracies in percent whose first reaching is a checkpoint.
        keep_checkpoints: whether the weights of checkpoints are kept (about 0.4 MB each for the paper's
            networks).
        families: what is swept.
        offset, clip, clip_threshold, range: the conduct, see `nearzero.perturbations.families.Conduct`.
        test: whether the test data are swept as well.
        ttest_baseline: which t-test leads in the tables; both are always shown.
        device: "cpu", or a PyTorch device for training ("cuda", "cuda:1", "mps").
        precision: of the products in training on CUDA, see `nearzero.training.products`; float32 elsewhere.
        verdict_distance, verdict_intensity, verdict_targets, verdict_margin: by which rules a verdict is reached, see
            `nearzero.analysis.verdict.Rules`.
        verdict_draws: of families in which something is drawn for each unit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    preset: Literal["paper", "quick"] = "quick"
    data: str = "mnist"
    pixels: Literal["raw", "normalized"] = "raw"
    activations: Annotated[tuple[str, ...], Field(min_length=1)] = ("abs", "relu")
    units: Count = 128
    runs: Count = 20
    first_seed: Annotated[int, Field(strict=True, ge=0, le=2**62)] = 0
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.001
    steps: Positive = 5000
    batch_size: Positive | Literal["all"] = 256
    evaluate_every: Positive = 2500
    test_every: Positive = 2500
    thresholds: tuple[Percent, ...] = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 100)
    keep_checkpoints: Annotated[bool, Field(strict=True)] = True
    families: Annotated[tuple[str, ...], Field(min_length=1)] = ("offset", "scale", "clip")
    offset: Literal["as-run", "as-written", "shift"] = "as-run"
    clip: Literal["pre", "post"] = "pre"
    clip_threshold: Literal["min+pr", "pr"] = "min+pr"
    range: Literal["post", "pre"] = "post"
    test: Annotated[bool, Field(strict=True)] = False
    ttest_baseline: Literal["identity", "published"] = "identity"
    device: str = "cpu"
    precision: Precision = "float32"
    verdict_distance: tuple[str, ...] = Rules().distance
    verdict_intensity: tuple[str, ...] = Rules().intensity
    verdict_targets: tuple[float, ...] = Rules().targets
    verdict_margin: float = Rules().margin
    verdict_draws: Annotated[int, Field(strict=True, ge=1, le=1000)] = Design().draws

    @field_validator("activations", "families")
    @classmethod
    def _known(cls, names: tuple[str, ...], info: Any) -> tuple[str, ...]:
        for name in names:
            _ = activation(name) if info.field_name == "activations" else make_family(name, Conduct())
        if len(set(names)) < len(names):
            raise InputError(f"{info.field_name} names one of them twice: {', '.join(names)}")
        return names

    @field_validator("device")
    @classmethod
    def _device(cls, device: str) -> str:
        if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
            raise InputError(f"device must be cpu, cuda, cuda:N or mps; got {device!r}")
        return device

    @model_validator(mode="after")
    def _consistent(self) -> Spec:
        if not BY_FORMULA.isdisjoint(self.families):
            self.conduct.check(self.activations)
        _ = self.rules, self.design  # refuses what can't be
        if self.test_every % self.evaluate_every:
            raise InputError(
                f"test_every must be a multiple of evaluate_every; got {self.test_every} and {self.evaluate_every}"
            )
        if self.precision != "float32" and not self.device.startswith("cuda"):
            exact = "the processor's engine is exact" if self.device == "cpu" else "it's made for CUDA"
            raise InputError(
                f"precision = {self.precision!r} can't be had with device = {self.device!r}: {exact}; "
                "take precision = 'float32', or device = 'cuda'"
            )
        return self

    @property
    def rules(self) -> Rules:
        """By which a verdict is reached."""
        return Rules(**{name: getattr(self, f"verdict_{name}") for name in RULES})

    @property
    def deciding(self) -> tuple[str, ...]:
        """The families that the verdict compares."""
        return (*self.verdict_distance, *self.verdict_intensity)

    @property
    def design(self) -> Design:
        """What is measured for a verdict: every family there is, whether it decides or not."""
        return Design(targets=self.verdict_targets, draws=self.verdict_draws, conduct=self.conduct)

    def design_of(self, run: int) -> Design:
        """The same for one run, with draws of its own; they go with its seed."""
        return replace(self.design, first_draw=self.seeds[run] * self.verdict_draws)

    @property
    def conduct(self) -> Conduct:
        """The reading of the protocol, as the families take it."""
        return Conduct(self.offset, self.clip, self.clip_threshold, self.range)

    @property
    def recipe(self) -> Recipe:
        """How the networks are trained, as the training takes it."""
        given = self.model_dump(include={each.name for each in fields(Recipe)})
        return Recipe(**given | {"batch_size": None if self.batch_size == "all" else self.batch_size})

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed for each run."""
        return tuple(self.first_seed + run for run in range(self.runs))


# Keys that came later, and what a study from before them was: their defaults, and never anything else.
LATER: dict[str, Any] = Spec().model_dump(mode="json", include={"precision", *VERDICT})


def resolve(
    preset: str | None = None, settings: Mapping[str, Any] | None = None, *, origin: str = "the settings"
) -> Spec:
    """The complete spec: defaults, then the preset, then `settings`.

    The conduct that isn't given is the published one for ReLU and Abs, and `Conduct.default` for other
    activations.

    Raises:
        InputError: an unknown preset or key, or a value that can't be used; `origin` says where it stands.
    """
    given = dict(settings or {})
    preset = preset or given.get("preset", "quick")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
    values: dict[str, Any] = {**PRESETS[preset], **given, "preset": preset}
    for key in ("activations", "families", "thresholds", *VERDICT[:3]):  # the lists
        if isinstance(values.get(key), str):
            values[key] = [each.strip() for each in values[key].split(",") if each.strip()]
        elif isinstance(values.get(key), int | float):
            values[key] = [values[key]]
    names = values.get("activations", Spec.model_fields["activations"].default)
    if isinstance(names, list | tuple) and names:
        default = Conduct.default(names)
        values = {"offset": default.offset, "range": default.range, **values}
    if "evaluate_every" in given and "test_every" not in given:
        values["test_every"] = given["evaluate_every"]
    return validated(Spec, values, origin)


def with_rules(spec: Spec, settings: Mapping[str, Any]) -> Spec:
    """The same spec with other rules for its verdict.

    Raises:
        InputError: keys that have nothing to do with the verdict, or values that can't be.
    """
    other = [key for key in settings if key not in VERDICT]
    if other:
        raise InputError(f"a verdict's rules are {', '.join(VERDICT)}; got {other[0]!r}")
    return resolve(settings=spec.model_dump(mode="json") | dict(settings))


def validated(model: type[AnyModel], values: dict[str, Any], origin: str, otherwise: str = "") -> AnyModel:
    """Return a model of values; the first of pydantic's complaints is said in one line.

    Args:
        model, values: what is made, and of what.
        origin: where the values stand.
        otherwise: is said of an unknown key where none of the model's is close.

    Raises:
        InputError: which key, what was seen, what is wanted.
    """
    for key in values:
        if key not in model.model_fields:
            hint = did_you_mean(key, model.model_fields) or otherwise
            raise InputError(
                f"unknown key {key!r} in {origin}: {hint}known are {', '.join(model.model_fields)}"
            )
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise InputError(f"{message} (in {origin})") from error
        raise InputError(
            f"{first['loc'][0]} = {first['input']!r} in {origin} can't be used: {message[:1].lower()}{message[1:]}"
        ) from error


def parse_setting(text: str) -> tuple[str, Any]:
    """One ``key=value`` of the command line; the value is read as TOML where it is TOML, and as text
    otherwise.

    Raises:
        InputError: there is no "=".
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise InputError(f"a setting is written key=value; got {text!r}")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return key, value
    return key, parsed["value"] if set(parsed) == {"value"} else value


def read_settings(path: Path) -> dict[str, Any]:
    """The keys and values of a spec file, as they stand.

    Raises:
        InputError: it can't be read or isn't TOML.
    """
    try:
        return tomllib.loads(read_bytes(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} isn't a TOML file: {error}") from error


def load_complete_spec(path: Path) -> Spec:
    """Read the spec of a study, in which nothing may be missing but what came after it.

    Raises:
        InputError: it can't be read, isn't TOML, lacks a key, or holds an unknown key or value.
    """
    settings = read_settings(path)
    spec = resolve(settings=settings, origin=str(path))
    missing = [key for key in Spec.model_fields if key not in settings and key not in LATER]
    if missing:
        raise InputError(
            f"{path} lacks the keys {', '.join(missing)}: a study's spec is complete; restore it"
        )
    return spec


def differing_key(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The first key in which two specs differ, of those that matter to results; None if they're the same."""
    one, other = _mattering(one), _mattering(other)
    return next((key for key in Spec.model_fields if one.get(key) != other.get(key)), None)


def spec_digest(spec: Spec) -> str:
    """A digest of what matters to results in a spec; a later key at its default doesn't change it."""
    values = _mattering(spec.model_dump(mode="json"))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _mattering(values: Mapping[str, Any]) -> dict[str, Any]:
    """What matters to results in a spec, without the later keys that are at their defaults."""
    ours = (key for key in values if key not in REPORT_ONLY)
    return {key: values[key] for key in ours if key not in LATER or values[key] != LATER[key]}


def spec_text(spec: BaseModel) -> str:
    """Return the complete spec of a study or a grid as TOML; `load_complete_spec` or `load_grid` reads it."""
    return tomli_w.dumps(spec.model_dump(mode="json"))
