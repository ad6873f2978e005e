"""Specs: defaults, presets, files, the command line, and refused values."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest

from nearzero import InputError
from nearzero.study.spec import (
    PRESETS,
    REPORT_ONLY,
    Spec,
    differing_key,
    load_complete_spec,
    parse_setting,
    resolve,
    spec_digest,
    spec_text,
    with_rules,
)
from nearzero.training.train import Recipe


@pytest.mark.parametrize("preset", PRESETS)
def test_a_spec_comes_back_from_its_file(preset: str, tmp_path: Path) -> None:
    spec = resolve(preset, {"activations": ["relu", "tanh"], "learning_rate": 0.5})
    path = tmp_path / "spec.toml"
    path.write_text(spec_text(spec))
    assert load_complete_spec(path) == spec
    assert set(spec_text(spec).split()) >= {
        f"{key}" for key in Spec.model_fields
    }  # complete: every key is there


def test_presets_are_the_issue() -> None:
    for preset, batch in (("paper", "all"), ("quick", 256)):
        spec = resolve(preset)
        assert (spec.runs, spec.activations, spec.steps, spec.learning_rate) == (
            20,
            ("abs", "relu"),
            5000,
            0.001,
        )
        assert (spec.batch_size, spec.pixels, spec.data, spec.units) == (batch, "raw", "mnist", 128)
        assert (spec.offset, spec.clip, spec.clip_threshold, spec.range) == (
            "as-run",
            "pre",
            "min+pr",
            "post",
        )
        assert spec.seeds == tuple(range(20))


def test_conduct_defaults_follow_the_activations() -> None:
    assert resolve("quick", {"activations": "gelu"}).offset == "shift"
    assert resolve("quick", {"activations": "gelu"}).range == "pre"
    assert resolve("quick", {"activations": "gelu,relu", "range": "post"}).range == "post"
    assert resolve("quick", {"activations": "relu"}).offset == "as-run"


def test_as_run_matters_only_where_offset_is_swept() -> None:
    assert (
        resolve("quick", {"activations": "gelu", "offset": "as-run", "families": "scale,clip"}).offset
        == "as-run"
    )


def test_settings_of_the_command_line() -> None:
    assert parse_setting("steps=10") == ("steps", 10)
    assert parse_setting(" offset = shift ") == ("offset", "shift")
    assert parse_setting("test=true") == ("test", True)
    assert parse_setting('activations=["abs"]') == ("activations", ["abs"])
    with pytest.raises(InputError, match="a setting is written key=value; got 'steps'"):
        parse_setting("steps")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"ofset": "shift"},
            "^unknown key 'ofset' in the settings: did you mean 'offset'\\? known are preset, data",
        ),
        ({"preset": "fast"}, "^unknown preset 'fast': known are paper, quick$"),
        ({"preset": "papr"}, "^unknown preset 'papr': did you mean 'paper'\\? known are paper, quick$"),
        (
            {"pixels": "normalised"},
            "^pixels = 'normalised' in the settings can't be used: did you mean 'normalized'\\? input should be 'raw'",
        ),
        ({"runs": 0}, "^runs = 0 in the settings can't be used: input should be greater than or equal to 1$"),
        ({"runs": 1.5}, "^runs = 1.5 in the settings can't be used"),
        ({"batch_size": "some"}, "^batch_size = 'some' in the settings can't be used"),
        ({"learning_rate": float("inf")}, "^learning_rate = inf in the settings can't be used"),
        (
            {"offset": "sideways"},
            "^offset = 'sideways' in the settings can't be used: input should be 'as-run'",
        ),
        ({"activations": "rellu"}, "unknown activation 'rellu': did you mean 'relu'"),
        ({"activations": "relu,relu"}, "activations has a name twice: relu, relu"),
        ({"families": "offset,skale"}, "unknown family 'skale': did you mean 'scale'"),
        ({"families": ""}, "^families = .* can't be used"),
        ({"thresholds": "50,200"}, "can't be used: input should be less than or equal to 100"),
        ({"activations": "gelu", "offset": "as-run"}, "offset=as-run isn't defined for gelu"),
        (
            {"evaluate_every": 20, "test_every": 30},
            "test_every must be a multiple of evaluate_every; got 30 and 20",
        ),
        ({"device": "gpu"}, "device must be cpu, cuda, cuda:N or mps; got 'gpu'"),
        ({"precision": "half"}, "^precision = 'half' in the settings can't be used: input should be"),
        (
            {"precision": "tf32"},
            "^precision = 'tf32' isn't available with device = 'cpu': training on the processor is exact; "
            "set precision = 'float32' or device = 'cuda'",
        ),
        ({"precision": "bfloat16", "device": "mps"}, "isn't available with device = 'mps': only CUDA has it"),
    ],
)
def test_what_is_refused_and_how(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        resolve(None, settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pixel": "raw"}, "^unknown key 'pixel' in the settings: did you mean 'pixels'"),
        ({"activations": ("rleu",)}, "unknown activation 'rleu': did you mean 'relu'"),
        ({"runs": 0}, "^runs = 0 in the settings can't be used"),
    ],
)
def test_a_spec_made_directly_is_checked_too(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Spec(**values)
    assert "\n" not in str(caught.value)
    assert Spec(runs=3) == resolve(settings={"runs": 3})


def test_rules_are_the_keys_of_the_verdict_alone() -> None:
    assert with_rules(Spec(), {"verdict_margin": 2.0}).rules.margin == 2.0
    with pytest.raises(
        InputError, match="'verdict_margn' isn't a rule of the verdict: did you mean 'verdict_margin'"
    ):
        with_rules(Spec(), {"verdict_margn": 2.0})


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_precision_is_a_setting(precision: str, device: str) -> None:
    settings = dict(map(parse_setting, (f"precision={precision}", f"device={device}")))
    assert resolve("paper", settings).precision == precision
    assert resolve("paper").precision == "float32"


def test_a_later_key_at_its_default_is_no_other_spec() -> None:
    """Older results and interrupted work stay valid, unless the key has another value."""
    now, rounded = resolve("paper"), resolve("paper", {"device": "cuda", "precision": "tf32"})
    before = {key: value for key, value in now.model_dump(mode="json").items() if key != "precision"}
    assert differing_key(before, now.model_dump(mode="json")) is None
    assert differing_key(now.model_dump(mode="json"), before) is None
    assert differing_key(before | {"device": "cuda"}, rounded.model_dump(mode="json")) == "precision"
    without = {key: value for key, value in before.items() if key not in REPORT_ONLY}
    assert spec_digest(now) == hashlib.sha256(json.dumps(without, sort_keys=True).encode()).hexdigest()
    digests = {spec_digest(each) for each in (now, rounded, resolve("paper", {"device": "cuda"}))}
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"runs = ", "isn't a TOML file"),
        (b"\xff\xfe", "isn't a TOML file"),
        (b"rums = 3", "unknown key 'rums' in .*spec.toml: did you mean 'runs'"),
    ],
)
def test_bad_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_complete_spec(path)
    with pytest.raises(InputError, match=r"can't read .*: No such file"):
        load_complete_spec(tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("recipe", "schedule"),
    [
        (Recipe(steps=3, evaluate_every=1), (0, 1, 2, 3)),
        (Recipe(steps=25, evaluate_every=10), (0, 10, 20, 25)),
        (Recipe(steps=10, evaluate_every=100), (0, 10)),
        (Recipe(steps=300, evaluate_every=1000), (0, 10, 100, 300)),
        (Recipe(steps=1, evaluate_every=100), (0, 1)),
    ],
)
def test_schedule(recipe: Recipe, schedule: tuple[int, ...]) -> None:
    assert recipe.schedule == schedule


def test_the_test_set_is_measured_at_its_own_interval_and_at_the_end() -> None:
    recipe = Recipe(steps=25, evaluate_every=5, test_every=10)
    assert [step for step in recipe.schedule if recipe.tests_at(step)] == [0, 10, 20, 25]


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 2000 + "]" * 2000, "runs = " + "9" * 5000, ".".join(["a"] * 200_000) + " = 1"]
)
def test_texts_that_are_too_much_for_a_parser(text: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(text)
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        load_complete_spec(path)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 10


def test_an_integer_of_thousands_of_digits_on_the_command_line() -> None:
    assert parse_setting("runs=" + "9" * 5000) == ("runs", "9" * 5000)
