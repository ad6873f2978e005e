"""A study that is older than a key of the spec is read, continued and reported as before."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import tomli_w
import xarray as xr
from safetensors.numpy import load_file

import nearzero as nz
import nearzero.support.checksums
from nearzero.study.spec import LATER, VERDICT, Spec
from nearzero.training.engine import Examples
from nearzero.training.stacked import StackedEngine

SETTINGS = {
    "data": "digits",
    "runs": 2,
    "units": 16,
    "steps": 60,
    "batch_size": 64,
    "evaluate_every": 20,
    "learning_rate": 0.01,
}


def older(text: str) -> str:
    """Return a spec as it was written before the later keys."""
    values = tomllib.loads(text)
    assert set(values) >= set(LATER)
    return tomli_w.dumps({key: value for key, value in values.items() if key not in LATER})


def make_older(folder: Path) -> None:
    """Remove from a study what is newer: checksums, and keys in its spec and in the spec in its results."""
    (folder / "checksums").unlink(missing_ok=True)
    path = folder / "spec.toml"
    path.write_text(older(path.read_text()))
    if (folder / "results.nc").exists():
        with h5py.File(folder / "results.nc", "r+") as file:
            for group in (file, file["history"]):
                if "spec" in group.attrs:
                    group.attrs["spec"] = older(str(group.attrs["spec"]))


def make(folder: Path) -> nz.Study:
    return nz.Study.create(folder, "quick", SETTINGS)


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory) -> nz.Study:
    return make(tmp_path_factory.mktemp("now") / "study").train().sweep()


def assert_same_results(found: nz.Study, expected: nz.Study) -> None:
    for one, other in ((found.history, expected.history), (found.response, expected.response)):
        xr.testing.assert_equal(one, other)
    for path in expected.folder.glob("networks/**/*.safetensors"):
        one, other = load_file(found.folder / path.relative_to(expected.folder)), load_file(path)
        assert all(one[key].tobytes() == other[key].tobytes() for key in other)


@pytest.mark.parametrize("how", ["opened", "created"])
def test_a_finished_one(how: str, now: nz.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "study"
    make(folder).train().sweep()
    make_older(folder)
    text = (folder / "spec.toml").read_text()
    monkeypatch.setattr("nearzero.study.steps.TrainJob.do", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr("nearzero.study.steps.respond", lambda *_, **__: pytest.fail("swept again"))
    study = nz.Study.open(folder) if how == "opened" else make(folder)
    assert study.spec.model_copy(update=now.spec.model_dump(include=set(VERDICT))) == now.spec
    assert study.spec.precision == "float32"
    assert (study.spec.verdict_distance, study.spec.verdict_test) == (
        ("shift",),
        "difference",
    )  # its own rules
    assert set(study.spec.rules.changed) == {"distance", "test", "checks"}
    assert_same_results(study.train().sweep(), now)
    study.report()
    assert (folder / "tables" / "table1_baseline.md").exists()
    assert study.summary()["done"] == "trained, swept"
    assert (folder / "spec.toml").read_text() == text  # what's done is left as it is


def test_one_that_is_trained_and_not_swept(now: nz.Study, tmp_path: Path) -> None:
    make(tmp_path / "study").train()
    make_older(tmp_path / "study")
    assert_same_results(make(tmp_path / "study").train().sweep(), now)


def train_and_be_interrupted(study: nz.Study) -> None:
    """Train until the progress of the second network was saved for the fourth time."""
    write, saved = nearzero.support.checksums.write_bytes, []

    def write_and_stop(path: Path, content: bytes) -> None:
        write(path, content)
        saved.extend([path] if path.name.startswith("training-relu") else [])
        if len(saved) == 4:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("NEARZERO_SAVE_EVERY", "0")
        patched.setattr(nearzero.support.checksums, "write_bytes", write_and_stop)
        with pytest.raises(KeyboardInterrupt):
            study.train()


def test_one_that_was_interrupted(now: nz.Study, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    make(folder)
    make_older(folder)
    train_and_be_interrupted(nz.Study.open(folder))
    assert "precision" not in (folder / "spec.toml").read_text()
    assert_same_results(make(folder).train().sweep(), now)
    assert "Abs and ReLU: 2 runs each, 60 steps, continuing from step" in (folder / "log").read_text()


def test_another_precision_is_another_study(now: nz.Study, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    make(folder).train()
    make_older(folder)
    rounded = SETTINGS | {"device": "cuda", "precision": "tf32"}
    with pytest.raises(nz.InputError, match="holds a study with device = 'cpu', but 'cuda' was given"):
        nz.Study.create(folder, "quick", rounded)


def test_the_engine_in_pytorch_through_a_study(
    now: nz.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with --device cuda, but on CPU tensors: after an interruption the numbers are the same."""

    def engine(
        spec: Spec, stack: nz.Stack, seeds: Sequence[int], examples: dict[str, Examples]
    ) -> StackedEngine:
        arguments = {"seeds": seeds, "learning_rate": spec.learning_rate, "batch_size": spec.batch_size}
        return StackedEngine(stack, examples["train"], examples["test"], device="cpu", **arguments)

    monkeypatch.setattr("nearzero.study.steps._engine", engine)
    monkeypatch.setattr(
        "nearzero.study.steps.runs_together",
        lambda spec, workers: [((name,), tuple(range(spec.runs))) for name in spec.activations],
    )
    whole = make(tmp_path / "whole").train()
    study = make(tmp_path / "study")
    train_and_be_interrupted(study)
    again = study.train()
    xr.testing.assert_identical(again.history, whole.history)
    for run in range(2):
        assert np.array_equal(again.network("relu", run).w1, whole.network("relu", run).w1)
    np.testing.assert_allclose(again.history.loss, now.history.loss, rtol=1e-3)
