"""The spec: everything that a study needs, as plain data.

Values come from the defaults, a preset, a file and the command line; of these a later one replaces an earlier
one. Unknown keys are refused. The complete spec is kept with the results as `spec.toml`;
`nearzero.study.steps` acts on it.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nearzero.analysis.matched import Design, draw_number
from nearzero.analysis.verdict import REPORTED, Rules, design_for
from nearzero.analysis.verdict.rules import Test
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
    "CheckedModel",
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

AnyModel = TypeVar("AnyModel", bound="CheckedModel")

# The keys that choose between the published and the corrected conduct.
CONDUCT = ("pixels", "offset", "clip", "clip_threshold", "range", "ttest_baseline")
RULES = ("distance", "intensity", "targets", "margin", "test", "checks")
VERDICT = (*(f"verdict_{name}" for name in RULES), "verdict_reported", "verdict_draws")
LISTS = (
    "activations",
    "families",
    "thresholds",
    *(f"verdict_{name}" for name in (*RULES[:3], "checks", "reported")),
)
REPORT_ONLY = {"ttest_baseline", *VERDICT}  # these may be changed in a finished study
# The keys in which a study must agree with a preset, to be set beside the published numbers.
PUBLISHED = ("data", "units", "learning_rate", "steps", "batch_size", *CONDUCT[:-1])

# Strict: `true` isn't 1. The bounds, far beyond any study, keep a typing error from filling the memory.
Positive = Annotated[int, Field(strict=True, ge=1, le=10_000_000)]
Count = Annotated[int, Field(strict=True, ge=1, le=100_000)]
Percent = Annotated[float, Field(gt=0, le=100)]

LARGEST_SPEC = 100_000  # bytes: tomllib takes minutes for some texts of a few hundred thousand
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"batch_size": "all", "evaluate_every": 1, "test_every": 10},
    "quick": {"batch_size": 256, "evaluate_every": 2500, "test_every": 2500},
}


class CheckedModel(BaseModel):
    """A frozen pydantic model. A key or value that can't be used raises `InputError` with one line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    if not TYPE_CHECKING:  # type checkers take the parameters from the fields

        def __init__(self, **values: Any) -> None:
            _fill(self, values, "the settings")


def validated(model: type[AnyModel], values: dict[str, Any], origin: str, otherwise: str = "") -> AnyModel:
    """Return a model with these values.

    Args:
        model: the class of the model.
        values: the values of its fields.
        origin: the source of the values, for messages.
        otherwise: the hint for an unknown key that isn't close to any of the model's.

    Raises:
        InputError: an unknown key, or a value that can't be used; the first of pydantic's errors, in one
            line.
    """
    made = model.__new__(model)
    _fill(made, values, origin, otherwise)
    return made


def _fill(model: CheckedModel, values: dict[str, Any], origin: str, otherwise: str = "") -> None:
    """Set and check the fields of a model, as `BaseModel.__init__` does, with the errors of `validated`."""
    known = type(model).model_fields
    for key in values:
        if key not in known:
            hint = did_you_mean(key, known) or otherwise
            raise InputError(f"unknown key {key!r} in {origin}: {hint}known are {', '.join(known)}")
    try:
        model.__pydantic_validator__.validate_python(values, self_instance=model)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise InputError(f"{message} (in {origin})") from error
        if (
            isinstance(first["input"], dict) and first["type"] == "value_error"
        ):  # a table, whose error names it
            raise InputError(message) from error
        words = re.findall(r"'([^']*)'", message) if first["type"] == "literal_error" else []
        hint, message = did_you_mean(first["input"], words), message[:1].lower() + message[1:]
        raise InputError(
            f"{first['loc'][0]} = {first['input']!r} in {origin} can't be used: {hint}{message}"
        ) from error


class Spec(CheckedModel):
    """A study's networks, their training, and their perturbations, as plain data.

    Keys that aren't given have the values of the quick preset.

    Attributes:
        preset: the preset from which the spec was made.
        data: the name of a data set (see `nz.datasets.names`), or a folder of IDX files.
        pixels: "raw" (0 to 255) or "normalized" (pixel / 255, minus mean, over standard deviation).
        activations: the networks of the study, one for each activation.
        units: hidden units.
        runs: runs of each network. Run k has seed first_seed + k, for initialisation and batch order.
        first_seed: the seed of run 0.
        learning_rate: the learning rate of plain SGD.
        steps: the number of steps.
        batch_size: examples in a step; "all" is the whole training set.
        evaluate_every: steps between measurements on the whole training set; steps 10, 100, ... below it are
            measured too.
        test_every: steps between measurements on the whole test set; a multiple of evaluate_every.
        thresholds: train accuracies in percent; a network has a checkpoint where it first reaches one of
            them.
        keep_checkpoints: whether the weights of checkpoints are kept (about 0.4 MB each for the paper's
            networks).
        families: the families that are swept.
        offset: the formula of the offset, as in `nz.Conduct`.
        clip: the side that is clipped, as in `nz.Conduct`.
        clip_threshold: the threshold of the clip, as in `nz.Conduct`.
        range: the side on which unit ranges are taken, as in `nz.Conduct`.
        test: whether the test data are swept as well.
        ttest_baseline: which t-test comes first in the tables; both are always shown.
        device: "cpu", or a PyTorch device for training ("cuda", "cuda:1", "mps").
        precision: of the products in training on CUDA, see `nearzero.training.products`; float32 elsewhere.
        verdict_distance: the families of distance, as in `nz.Rules`.
        verdict_intensity: the families of intensity, as in `nz.Rules`.
        verdict_targets: the displacements at which families are compared, as in `nz.Rules`.
        verdict_margin: the difference that counts, in points, as in `nz.Rules`.
        verdict_test: the test of a comparison, as in `nz.Rules`.
        verdict_checks: the checks of the verdict, as in `nz.Rules`; "held_out" takes the data set's test data.
        verdict_reported: further families that are measured at the same displacements and reported.
        verdict_draws: the number of draws for families that draw something for each unit.

    Raises:
        InputError: an unknown key, or a value that can't be used.

    Example:
        >>> import nearzero as nz
        >>> spec = nz.Spec(data="digits", runs=3, first_seed=10)
        >>> spec.seeds
        (10, 11, 12)
        >>> spec.activations, spec.steps, spec.batch_size
        (('abs', 'relu'), 5000, 256)
        >>> nz.Spec(step=10)
        Traceback (most recent call last):
            ...
        nearzero.errors.InputError: unknown key 'step' in the settings: did you mean 'steps'? known are ...
    """

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
    verdict_test: Test = Rules().test
    verdict_checks: tuple[str, ...] = Rules().checks
    verdict_reported: tuple[str, ...] = REPORTED
    verdict_draws: Annotated[int, Field(strict=True, ge=1, le=1000)] = Design().draws

    @field_validator("activations", "families")
    @classmethod
    def _known(cls, names: tuple[str, ...], info: Any) -> tuple[str, ...]:
        for name in names:
            _ = activation(name) if info.field_name == "activations" else make_family(name, Conduct())
        if len(set(names)) < len(names):
            raise InputError(f"{info.field_name} has a name twice: {', '.join(names)}")
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
        _ = self.rules, self.design  # these check their own values
        if self.test_every % self.evaluate_every:
            raise InputError(
                f"test_every must be a multiple of evaluate_every; got {self.test_every} and {self.evaluate_every}"
            )
        if self.precision != "float32" and not self.device.startswith("cuda"):
            why = "training on the processor is exact" if self.device == "cpu" else "only CUDA has it"
            raise InputError(
                f"precision = {self.precision!r} isn't available with device = {self.device!r}: {why}; "
                "set precision = 'float32' or device = 'cuda'"
            )
        return self

    @property
    def rules(self) -> Rules:
        """Return the rules of the verdict."""
        return Rules(**{name: getattr(self, f"verdict_{name}") for name in RULES})

    @property
    def deciding(self) -> tuple[str, ...]:
        """Return the families that the verdict compares."""
        return (*self.verdict_distance, *self.verdict_intensity)

    @property
    def design(self) -> Design:
        """Return the design at matched displacement: the families that decide, and those that are reported."""
        return design_for(self.rules, self.verdict_reported, draws=self.verdict_draws, conduct=self.conduct)

    def design_of(self, network: str, run: int) -> Design:
        """Return the design for one run of a network; every run of every network has draws of its own."""
        return replace(self.design, first_draw=self.first_draw(network, run))

    def first_draw(self, network: str, run: int) -> int:
        """Return the number of the first of the draws of one run of a network."""
        return draw_number(self.seeds[run], network, self.verdict_draws)

    @property
    def conduct(self) -> Conduct:
        """Return the reading of the published protocol, as the families take it."""
        return Conduct(self.offset, self.clip, self.clip_threshold, self.range)

    @property
    def recipe(self) -> Recipe:
        """Return the recipe of the training."""
        values = self.model_dump(include={field.name for field in fields(Recipe)})
        return Recipe(**values | {"batch_size": None if self.batch_size == "all" else self.batch_size})

    @property
    def departures(self) -> tuple[str, ...]:
        """Return in what the spec departs from the published study, and from the quick preset in its place.

        Numbers of a study with departures aren't set beside the published ones. Runs and seeds may differ.

        Example:
            >>> import nearzero as nz
            >>> nz.Spec(runs=3).departures, nz.Spec(data="digits", units=16).departures
            ((), ('data = digits, not mnist', 'units = 16, not 128'))
        """
        departures = []
        for key in PUBLISHED:
            default = type(self).model_fields[key].default
            known = list(dict.fromkeys(preset.get(key, default) for preset in PRESETS.values()))
            if getattr(self, key) not in known:
                words = " or ".join(map(str, known))
                departures.append(f"{key} = {getattr(self, key)}, not {words}")
        return tuple(departures)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return one seed for each run."""
        return tuple(self.first_seed + run for run in range(self.runs))

    @property
    def seed_span(self) -> str:
        """Return the seeds in words: "0 to 19", or "0" for one run."""
        return f"{self.seeds[0]} to {self.seeds[-1]}" if self.runs > 1 else f"{self.seeds[0]}"


# Keys that older studies lack, with the values that these studies had. These values must never change.
LATER: dict[str, Any] = {
    "precision": "float32",
    "verdict_distance": ["shift"],
    "verdict_intensity": ["gains", "cap"],
    "verdict_targets": [0.05, 0.1, 0.2, 0.3, 0.5],
    "verdict_margin": 1.0,
    "verdict_test": "difference",
    "verdict_checks": [],
    "verdict_reported": [
        *("offset", "scale", "clip", "signed_shift", "signed_offset", "permuted_shift"),
        *("noise", "covariance_noise"),
    ],
    "verdict_draws": 5,
}


def resolve(
    preset: str | None = None, settings: Mapping[str, Any] | None = None, *, origin: str = "the settings"
) -> Spec:
    """Return the complete spec: the defaults, replaced by the preset's values, replaced by `settings`.

    The conduct that isn't given is the published one for ReLU and Abs, and `Conduct.default` for other
    activations.

    Args:
        preset: a name in `PRESETS`; None for the preset in `settings`, else "quick".
        settings: keys and values of `Spec`; a list may also be one value, or a text with commas.
        origin: the source of the settings, for messages.

    Raises:
        InputError: an unknown preset or key, or a value that can't be used.
    """
    given = dict(settings or {})
    if preset is not None and given.get("preset", preset) != preset:
        raise InputError(
            f"preset = {given['preset']!r} in {origin}, but the preset {preset!r} was given; give one"
        )
    preset = given.get("preset", "quick") if preset is None else preset
    if not isinstance(preset, str) or preset not in PRESETS:
        raise InputError(
            f"unknown preset {preset!r}: {did_you_mean(preset, PRESETS)}known are {', '.join(PRESETS)}"
        )
    values: dict[str, Any] = {**PRESETS[preset], **given, "preset": preset}
    for key in LISTS:
        if isinstance(values.get(key), str):
            values[key] = [item.strip() for item in values[key].split(",") if item.strip()]
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
    """Return the same spec with other rules for its verdict.

    Raises:
        InputError: a key that isn't one of `VERDICT`, or a value that can't be used.
    """
    for key in settings:
        if key not in VERDICT:
            hint = did_you_mean(key, VERDICT)
            raise InputError(
                f"{key!r} isn't a rule of the verdict: {hint}a verdict's rules are {', '.join(VERDICT)}"
            )
    return resolve(settings=spec.model_dump(mode="json") | dict(settings))


def parse_setting(text: str) -> tuple[str, Any]:
    """Return the key and the value of a ``key=value`` of the command line.

    The value is parsed as TOML if it is TOML; otherwise it is the text itself.

    Raises:
        InputError: there is no "=", or no key before it.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise InputError(f"a setting is written key=value; got {text!r}")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):  # not TOML, or integers of thousands of digits
        return key, value
    return key, parsed["value"] if set(parsed) == {"value"} else value


def read_settings(path: Path) -> dict[str, Any]:
    """Return the keys and values of a spec file, unchecked.

    Raises:
        InputError: the file can't be read or isn't TOML.
    """
    content = read_bytes(path)
    if len(content) > LARGEST_SPEC:
        raise InputError(f"{path} has {len(content):,} bytes; a spec has at most {LARGEST_SPEC:,}")
    try:
        return tomllib.loads(content.decode())
    except (
        Exception
    ) as error:  # deep nesting, or integers of thousands of digits, raise errors of other kinds
        raise InputError(f"{path} isn't a TOML file: {str(error).splitlines()[0]}") from error


def load_complete_spec(path: Path) -> Spec:
    """Return the spec of a study from its file, which must have all keys except those that are newer than it.

    Raises:
        InputError: the file can't be read, isn't TOML, lacks a key, or holds an unknown key or value.
    """
    settings = read_settings(path)
    spec = resolve(settings=LATER | settings, origin=str(path))
    missing = [key for key in Spec.model_fields if key not in settings and key not in LATER]
    if missing:
        raise InputError(
            f"{path} lacks the keys {', '.join(missing)}: a study's spec must be complete; restore it"
        )
    return spec


def differing_key(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Return the first key in which two specs differ, of those that affect results; None if there is none."""
    one, other = _affecting_results(one), _affecting_results(other)
    return next((key for key in Spec.model_fields if one.get(key) != other.get(key)), None)


def spec_digest(spec: Spec) -> str:
    """Return a digest of the values that affect results, without keys of `LATER` at their defaults."""
    values = _affecting_results(spec.model_dump(mode="json"))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _affecting_results(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a spec that affect results, without keys of `LATER` at their defaults."""
    keys = (key for key in values if key not in REPORT_ONLY)
    return {key: values[key] for key in keys if key not in LATER or values[key] != LATER[key]}


def spec_text(spec: BaseModel) -> str:
    """Return the complete spec of a study or a grid as TOML; `load_complete_spec` or `load_grid` reads it."""
    return tomli_w.dumps(spec.model_dump(mode="json", exclude_none=True))
