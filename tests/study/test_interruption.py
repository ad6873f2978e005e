"""A study that was killed continues, and ends with the same numbers as one that wasn't killed."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import xarray as xr
from safetensors.numpy import load_file

import nearzero as nz
from nearzero.networks import Stack
from nearzero.study.store import Store
from nearzero.training.train import History, Progress

SETTINGS = {
    "data": "digits",
    "runs": 3,
    "units": 24,
    "steps": 120,
    "batch_size": 64,
    "evaluate_every": 50,
    "learning_rate": 0.01,
    "test": True,
}

# The process kills itself with SIGKILL when it writes its n-th file of a kind.
KILLED = """
import os, signal, sys
import nearzero as nz
from nearzero.support import checksums

kind, count, folder, settings = sys.argv[1], int(sys.argv[2]), sys.argv[3], eval(sys.argv[4])
write, seen = checksums.write_bytes, [0]

def write_and_die(path, content):
    if kind in str(path.relative_to(folder)):
        seen[0] += 1
        if seen[0] == count:
            path.with_name(path.name + ".part").write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
    write(path, content)

checksums.write_bytes = write_and_die
nz.Study.create(folder, "quick", settings).train().sweep()
"""


def complete(folder: Path) -> nz.Study:
    """Do the work of `nz.reproduce`, without the report."""
    return nz.Study.create(folder, "quick", SETTINGS).train().sweep()


def run_until_killed(kind: str, count: int, folder: Path) -> None:
    environment = os.environ | {"NEARZERO_SAVE_EVERY": "0"}
    command = [sys.executable, "-c", KILLED, kind, str(count), str(folder), repr(SETTINGS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def steps_of(folder: Path) -> dict[str, int]:
    """Return the step up to which the training of each network is saved."""
    found = {name: Store.open(folder).load_progress(name, range(3)) for name in ("abs", "relu")}
    return {name: begun[0].progress.step for name, begun in found.items() if begun}


def taken_up(folder: Path, expected: nz.Study) -> str:
    """Complete an interrupted study, compare it with one that wasn't interrupted, and return its log."""
    assert_same(complete(folder), expected)
    return (folder / "log").read_text()


def assert_same(found: nz.Study, expected: nz.Study) -> None:
    xr.testing.assert_identical(found.response, expected.response)
    xr.testing.assert_identical(found.history, expected.history)
    paths = sorted(
        path.relative_to(expected.folder) for path in expected.folder.glob("networks/**/*.safetensors")
    )
    assert len(paths) > 6
    assert paths == sorted(
        path.relative_to(found.folder) for path in found.folder.glob("networks/**/*.safetensors")
    )
    for path in paths:
        one, other = load_file(found.folder / path), load_file(expected.folder / path)
        assert one.keys() == other.keys()
        assert all(one[key].tobytes() == other[key].tobytes() for key in one)
    assert not (found.folder / "state").exists()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> nz.Study:
    return complete(tmp_path_factory.mktemp("whole") / "study")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int, Path], None]:
    """Do as `run_until_killed`, or copy the study if another test was killed at the same place."""

    @cache
    def once(kind: str, count: int) -> Path:
        folder = tmp_path_factory.mktemp("killed") / "study"
        run_until_killed(kind, count, folder)
        return folder

    return lambda kind, count, folder: shutil.copytree(once(kind, count), folder)


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("checkpoints/relu", 3),
        ("state/training-relu", 5),
        ("networks/relu-01", 1),
        ("state/response-abs", 2),
        ("results.nc", 1),
        ("results.nc", 2),
    ],
)
def test_killed_and_taken_up(
    kind: str, count: int, killed: Callable[[str, int, Path], None], uninterrupted: nz.Study, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    killed(kind, count, folder)
    assert_same(complete(folder), uninterrupted)


def test_killed_again_and_again(uninterrupted: nz.Study, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    for kind, count in (
        ("state/training-abs", 1),
        ("state/training-relu", 2),
        ("state/response", 1),
        ("state/response", 3),
    ):
        run_until_killed(kind, count, folder)
    assert_same(complete(folder), uninterrupted)
    assert len(nz.Study.open(folder).provenance["sittings"]) == 5


def test_it_does_go_on_where_it_was(
    killed: Callable[[str, int, Path], None], uninterrupted: nz.Study, tmp_path: Path
) -> None:
    """Training from the start would end with the same numbers, so the log is checked."""
    folder = tmp_path / "study"
    killed("state/training-abs", 5, folder)
    steps = steps_of(folder)
    assert 0 < steps["abs"] == steps["relu"] < SETTINGS["steps"]
    words = f"training Abs and ReLU: 3 runs each, 120 steps, continuing from step {steps['abs']}"
    assert words in taken_up(folder, uninterrupted)


def test_networks_that_stand_at_different_steps_go_on_by_themselves(
    killed: Callable[[str, int, Path], None], uninterrupted: nz.Study, tmp_path: Path
) -> None:
    """The process is killed when the progress of one network is saved and that of the other isn't."""
    folder = tmp_path / "study"
    killed("state/training-relu", 5, folder)
    steps = steps_of(folder)
    assert 0 < steps["relu"] < steps["abs"] < SETTINGS["steps"]
    lines = taken_up(folder, uninterrupted)
    for name, label in (("abs", "Abs"), ("relu", "ReLU")):
        assert f"training {label}: 3 runs, 120 steps, continuing from step {steps[name]}" in lines


def test_interrupted_work_that_was_measured_at_other_steps_is_done_again(
    killed: Callable[[str, int, Path], None], uninterrupted: nz.Study, tmp_path: Path
) -> None:
    """A version with another schedule made it, with the same spec."""
    folder = tmp_path / "study"
    killed("state/training-relu", 5, folder)
    store = Store.open(folder)
    for name in ("abs", "relu"):
        begun = store.load_progress(name, range(3))
        progress = begun[0].progress
        stack = Stack.joined([begun[run].stack for run in range(3)])
        other = dataclasses.replace(store.spec.recipe, evaluate_every=1)
        history = History.empty(len(stack), other)
        store.save_progress(name, range(3), Progress(progress.step, history), stack, {})
        assert store.load_progress(name, range(3)) == {}
    complete(folder)
    assert_same(nz.Study.open(folder), uninterrupted)


def test_interrupted_work_of_another_spec_is_done_again(
    killed: Callable[[str, int, Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    killed("state/training-relu", 5, folder)
    path = folder / "spec.toml"
    path.write_text(path.read_text().replace("learning_rate = 0.01", "learning_rate = 0.02"))
    for name in ("abs", "relu"):
        assert Store.open(folder).load_progress(name, range(3)) == {}


def test_a_finished_study_is_not_computed_again(
    uninterrupted: nz.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nearzero.study.steps as steps

    monkeypatch.setattr(steps.TrainJob, "do_reporting", lambda *arguments: pytest.fail("trained again"))
    monkeypatch.setattr(steps, "respond", lambda *arguments, **named: pytest.fail("swept again"))
    complete(uninterrupted.folder)


def test_a_network_that_is_gone_is_trained_again_to_the_same_bits(
    uninterrupted: nz.Study, tmp_path: Path
) -> None:
    study = complete(tmp_path / "study")
    (study.folder / "networks" / "relu-02.safetensors").unlink()
    assert_same(complete(study.folder), uninterrupted)


def test_a_damaged_state_is_done_again(
    killed: Callable[[str, int, Path], None], uninterrupted: nz.Study, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    killed("state/training-relu", 5, folder)
    (folder / "state" / "training-relu.safetensors").write_bytes(b"not a safetensors file")
    said = "the progress of relu is damaged, or of another spec: its training begins anew"
    assert said in taken_up(folder, uninterrupted)
