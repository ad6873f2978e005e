"""Grids of a user's own networks: known mechanisms come out, values are those of `judge_runs`, and files are kept."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from commands import run
from torch import nn

import nearzero as nz
from nearzero.grid.own.runs import TrainingJob
from nearzero.grid.own.source import OwnNetworks, code_of
from nearzero.mechanisms.planted import prototype_task
from nearzero.study.jobs import complete
from nearzero.torch_models.loading import load_weights

pytestmark = pytest.mark.usefixtures("one_torch_thread")

CODE = """
import os
import signal

import numpy as np
import torch
from torch import nn

from nearzero.mechanisms.planted import distance_network, prototype_task, template_network

MECHANISMS = {"distance": distance_network, "template": template_network}
STARTED = []  # what a run leaves in the module must not reach the next one


class Abs(nn.Module):
    def forward(self, z):
        return z.abs()


def task():
    return prototype_task(np.random.default_rng(0), examples=300)


def data():
    known = task()
    other = known.sample(np.random.default_rng(1), 300)
    return {"train": (known.x, known.y), "test": (other.x, other.y)}


def build(width=20):
    return nn.Sequential(nn.Linear(12, width), Abs(), nn.Linear(width, 5))


def train(model, data, mechanism, seed):
    if os.environ.get("STOP_AT") == str(seed):
        os.kill(os.getpid(), signal.SIGKILL)
    assert not STARTED
    STARTED.append(seed)
    draws = np.random.default_rng(np.random.randint(2**31))  # from the global generator, which is seeded
    planted = MECHANISMS[mechanism](task(), draws, activation="abs").to_module()
    model.load_state_dict(planted.state_dict())
    data[0][:] = 0  # of this run alone
"""
SPEC = """
title = "Planted"
question = "Do known mechanisms come out?"
vary = "mechanism"
values = ["distance", "template"]
read = ["shift", "noise"]

[network]
build = "networks.py:build"
train = "networks.py:train"
data = "networks.py:data"
layers = "1"
runs = 6

[study]
verdict_targets = [0.5]
verdict_draws = 1
verdict_checks = []
"""


def written(folder: Path, spec: str = SPEC, code: str = CODE) -> Path:
    """Return the path of a spec, with the code beside it."""
    folder.mkdir(exist_ok=True)
    (folder / "networks.py").write_text(code)
    (folder / "grid.toml").write_text(spec)
    return folder / "grid.toml"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("own") / "code")


@pytest.fixture(scope="module")
def planted(spec: Path) -> nz.Grid:
    return nz.Grid.create(spec.parent.parent / "planted", spec).run()


def weights(grid: nz.Grid) -> list[Path]:
    return sorted((grid.folder.parent / "networks").rglob("*.safetensors"))


def jobs_of(grid: nz.Grid) -> list[TrainingJob]:
    assert grid.spec.network is not None
    networks = grid.folder.parent / "networks"
    source = OwnNetworks(grid.spec, grid.folder, networks, None, code_of(grid.spec.network))
    source.check()
    return [job.training for job in source.jobs()]  # type: ignore[attr-defined]


def test_known_mechanisms_come_out(planted: nz.Grid) -> None:
    judged = planted.verdict()
    assert judged.networks == ("distance, 1", "template, 1")
    assert judged.finding("distance, 1") == "distance costs more"
    assert judged.finding("template, 1") == "intensity costs more"
    noise = planted.read()["noise"]  # it costs what distance costs, whatever the mechanism
    assert [noise.finding(network) for network in noise.networks] == [
        "distance costs more",
        "intensity costs more",
    ]
    assert dict(judged.models) == {"distance, 1": "distance", "template, 1": "template"}
    assert planted.responses.activation.values.tolist() == ["abs", "abs"]
    assert planted.responses.layers.values.tolist() == [1, 1]
    assert len(weights(planted)) == 12
    assert {check.status for check in planted.verify()} == {"whole"}


def test_values_are_those_of_judge_runs(planted: nz.Grid) -> None:
    """The weights are read by hand, and each run has the draws of its name and seed."""
    task = prototype_task(np.random.default_rng(0), examples=300).sample(np.random.default_rng(1), 300)
    costs = planted.verdict().costs
    for job in jobs_of(planted):
        network = nz.TwoLayer(np.zeros((20, 12)), np.zeros(20), np.zeros((5, 20)), np.zeros(5), "abs")
        module = network.to_module()
        load_weights(module, job.path)
        point = next(point for point in planted.spec.points if point.label == job.network)
        design = planted.spec.designs(point, "")[job.run]
        alone = nz.judge_runs([module], (task.x, task.y), "1", rules=planted.spec.rules, design=design)
        kept = costs.sel(network=f"{job.network}, 1", run=job.run)
        own = alone.costs.sel(network="1").isel(run=0)
        np.testing.assert_array_equal(kept.values, own.sel(family=kept.family.values).values)
        accuracy = (module(torch.from_numpy(task.x)).argmax(1).numpy() == task.y).mean()
        kept_accuracy = planted.responses.unperturbed_accuracy.sel(network=f"{job.network}, 1", run=job.run)
        assert float(kept_accuracy) == pytest.approx(accuracy, abs=0.05)  # one half of the examples
    draws = {design.first_draw for point in planted.spec.points for design in planted.spec.designs(point, "")}
    assert len(draws) == 12


def test_a_run_is_a_script_of_the_same_seed(planted: nz.Grid, spec: Path) -> None:
    """Generators are seeded once, before the network is built, as in a script that trains one."""
    scope: dict[str, object] = {}
    exec(spec.with_name("networks.py").read_text(), scope)
    job = jobs_of(planted)[4]
    torch.manual_seed(4)
    np.random.seed(4)  # noqa: NPY002
    model = scope["build"]()  # type: ignore[operator]
    scope["train"](model, scope["data"]()["train"], "distance", 4)  # type: ignore[operator]
    kept = nn.Sequential(nn.Linear(12, 20), nn.Identity(), nn.Linear(20, 5))
    load_weights(kept, job.path)
    for name, value in model.state_dict().items():
        assert torch.equal(kept.state_dict()[name], value)


def test_killed_in_training_it_goes_on_to_the_same_numbers(planted: nz.Grid, tmp_path: Path) -> None:
    """The second process trains what is left; what ran before in a process makes no difference."""
    spec = written(tmp_path / "code")
    command = [sys.executable, "-m", "nearzero", "grid", str(spec), "--out", str(tmp_path / "out"), "--quiet"]
    killed = subprocess.run(command, env=os.environ | {"STOP_AT": "3"}, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "networks").rglob("*.safetensors"))) == 3
    again = nz.Grid.create(tmp_path / "out", spec).run()
    assert again.responses.equals(planted.responses)
    assert [path.name for path in weights(again)] == [path.name for path in weights(planted)]
    assert [path.read_bytes() for path in weights(again)] == [path.read_bytes() for path in weights(planted)]


def test_jobs_are_plain_data_for_any_process(planted: nz.Grid, tmp_path: Path) -> None:
    job = jobs_of(planted)[7]
    elsewhere = replace(pickle.loads(pickle.dumps(job)), folder=tmp_path)
    assert job.done
    assert not elsewhere.done
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(complete, elsewhere).result()
    assert elsewhere.path.read_bytes() == job.path.read_bytes()


def test_a_plan_knows_the_time_of_trainings_that_are_done(planted: nz.Grid, spec: Path) -> None:
    """The time of measuring comes from the network before its training; of a training no part can be done."""
    place = spec.parent.parent
    fresh = nz.Grid.proposed(place / "elsewhere" / "fresh", spec).plan()
    train, measure = fresh.steps
    assert (train.jobs, train.done, train.seconds, measure.jobs, measure.done) == (12, 0, None, 12, 0)
    assert measure.seconds is not None
    assert measure.seconds > 0
    assert fresh.sentences()[:2] == [
        "Expected time: unknown.",
        "The time of training isn't known before one network is trained; no part of it can be done.",
    ]
    assert not (place / "elsewhere").exists()
    known = [job.seconds or 0.0 for job in jobs_of(planted)]
    assert len(known) == 12
    assert min(known) > 0
    (spec.parent / "more.toml").write_text(SPEC.replace("runs = 6", "runs = 8"))
    train, _ = nz.Grid.proposed(place / "more", spec.parent / "more.toml").plan().steps
    assert (train.jobs, train.done) == (16, 12)
    assert train.note == "The time of training is that of the 12 trainings done so far."
    assert train.seconds == pytest.approx(2 * fmean(known[:6]) + 2 * fmean(known[6:]))
    finished = planted.plan()
    assert (finished.seconds, [step.note for step in finished.steps]) == (0.0, ["", ""])


def test_edited_code_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither weights nor responses are used again, whether the grid is finished or not."""
    spec = written(tmp_path / "code", SPEC.replace("runs = 6", "runs = 2"))
    grid = nz.Grid.create(tmp_path / "out", spec).run()
    grid.run()
    path = spec.with_name("networks.py")
    path.write_text(CODE.replace("width=20", "width=20, slope=1.0"))
    code, _, err = run(capsys, "grid", spec, "--out", tmp_path / "out", "--quiet")
    assert (code, err.count("\n")) == (2, 1)
    assert "was begun with other code (networks.py); give the same code, or choose another folder" in err
    (grid.folder / "responses.nc").unlink()
    with pytest.raises(nz.InputError, match=r"was begun with other code \(networks.py\)"):
        nz.Grid.open(grid.folder).run()
    assert len(weights(grid)) == 4
    nz.Grid.create(tmp_path / "other", spec).run()
    assert len(weights(grid)) == 8
    path.write_text(CODE)
    again = nz.Grid.open(grid.folder).run()  # with the weights that are there
    assert len(weights(grid)) == 8
    assert again.verdict().comparisons


def test_files_and_commands(planted: nz.Grid, spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = (planted.folder / "grid.toml").read_text()
    assert 'build = "../code/networks.py:build"' in kept
    assert str(spec.parent) not in kept + (planted.folder / "provenance.json").read_text()
    assert str(spec.parent) not in planted.responses.attrs["spec"]
    record = json.loads((planted.folder / "provenance.json").read_text())
    assert list(record["code"]) == ["../code/networks.py"]
    assert set(record["data"]["networks.py:data()"]) == {"train", "test"}
    runs = (planted.folder / "tables" / "runs.csv").read_text().splitlines()
    assert runs[0] == "network,run,seed,accuracy_percent,lost,notice"
    assert len(runs) == 13
    code, out, err = run(capsys, "show", planted.folder, "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert "distance, 1: distance costs more (distance costs more 2; of 2)" in shown["conclusions"]
    code, out, _ = run(capsys, "show", planted.folder)
    assert code == 0
    assert "Do known mechanisms come out?" in out
    again = nz.Grid.open(planted.folder)
    assert again.spec == planted.spec
    assert again.title == "Planted; 6 runs each; test data, 1 draw"


def test_a_folder_is_read_without_its_code_and_refused_with_another_spec(
    planted: nz.Grid, spec: Path, tmp_path: Path
) -> None:
    moved = nz.Grid.open(shutil.copytree(planted.folder, tmp_path / "moved"))
    assert moved.responses.equals(planted.responses)
    assert moved.verdict().finding("distance, 1") == "distance costs more"
    with pytest.raises(nz.InputError, match=r"there is no file .*networks.py"):
        moved.run()
    for before, after, message in (
        ("runs = 6", "runs = 7", r"holds a grid with network.runs = 6, but 7 was given"),
        ('layers = "1"', "", r"holds a grid with network.layers = \['1'\], but None was given"),
        (
            "[study]",
            "[network.arguments]\nwidth = 20\n[study]",
            r"network.arguments.width = None, but 20 was",
        ),
    ):
        spec.with_name("changed.toml").write_text(SPEC.replace(before, after))
        with pytest.raises(nz.InputError, match=message):
            nz.Grid.create(planted.folder, spec.with_name("changed.toml"))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    spec = written(tmp_path / "code", SPEC.replace("runs = 6", "runs = 2"))
    grid = nz.Grid.create(tmp_path / "out", spec).run()
    (grid.folder / "responses.nc").unlink()
    path = weights(grid)[1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        nz.InputError, match=rf"{path.name} is damaged, .*; delete it and run the same command again"
    ):
        grid.run()
    path.unlink()
    grid.run()
    content[-1] ^= 1
    assert path.read_bytes() == content
