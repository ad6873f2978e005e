"""Studies and grids on threads, processes and a Dask cluster: the values of a run in one process, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import work_items
import xarray as xr
from distributed import Client
from small_studies import SETTINGS, make
from typer.testing import CliRunner

import nearzero as nz
from nearzero.cli import app
from nearzero.study.steps import TrainJob
from nearzero.study.store import Store

THREE = SETTINGS | {"runs": 3}


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of the networks and results in a folder, by their path."""
    paths = [*folder.rglob("*.safetensors"), *folder.rglob("*.nc")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def assert_same(found: nz.Study, expected: nz.Study) -> None:
    xr.testing.assert_identical(found.response, expected.response)
    xr.testing.assert_identical(found.history, expected.history)
    networks = {
        name: content for name, content in contents(expected.folder).items() if name.startswith("networks")
    }
    assert len(networks) >= 2 * expected.spec.runs
    assert {name: contents(found.folder).get(name) for name in networks} == networks
    assert not (found.folder / "state").exists()
    assert {check.status for check in found.verify()} == {"whole"}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> nz.Study:
    study = make(tmp_path_factory.mktemp("local") / "study", runs=3).train().sweep()
    study.judge(near_far=True)
    study.audit()
    return study


def on_one_worker(client: Client, function: Callable[[], None], place: int) -> int:
    """Call a function on a worker, and return its process."""
    address = sorted(client.nthreads())[place]
    client.run(function, workers=[address])
    return int(client.run(os.getpid, workers=[address])[address])


def test_threads(local: nz.Study, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        study = make(tmp_path / "study", runs=3).train(executor=pool).sweep(executor=pool)
        study.judge(near_far=True, executor=pool)
        study.audit(executor=pool)
        other = study.ask({"verdict_targets": [0.05]}, executor=pool)
    assert_same(study, local)
    xr.testing.assert_identical(study.matched, local.matched)
    xr.testing.assert_identical(study.parts, local.parts)
    assert study.audited() == local.audited()
    assert repr(other) == repr(local.ask({"verdict_targets": [0.05]}))  # NaN doesn't equal NaN


def test_processes_from_the_command_line(local: nz.Study, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    settings = [f"--set={key}={value}" for key, value in THREE.items()]
    planned = CliRunner().invoke(
        app, ["reproduce", "--plan", "--out", str(folder), "--workers", "2", *settings]
    )
    assert planned.exit_code == 0
    assert "nothing is done yet" in planned.output
    assert not folder.exists()
    done = CliRunner().invoke(app, ["reproduce", "-q", "--out", str(folder), "--workers", "2", *settings])
    assert done.exit_code == 0, done.output
    assert_same(nz.Study.open(folder), local)


def test_a_grid_on_dask_of_which_two_workers_are_killed(client: Client, tmp_path: Path) -> None:
    study = {key: value for key, value in THREE.items() if key != "units"}
    spec = nz.GridSpec(title="Width", vary="units", values=[8, 12, 16], study=study)
    expected = nz.Grid.create(tmp_path / "local" / "grid", spec).run()
    before = {
        on_one_worker(client, work_items.kill_in_training, 0),
        on_one_worker(client, work_items.kill_in_writing, 1),
    }
    found = nz.Grid.create(tmp_path / "dask" / "grid", spec).run(executor=client.get_executor())
    assert before.isdisjoint(client.run(os.getpid).values())
    xr.testing.assert_identical(found.responses, expected.responses)
    networks = contents(tmp_path / "local" / "networks")
    assert len(networks) > 18
    assert contents(tmp_path / "dask" / "networks") == networks
    for folder in (tmp_path / "dask" / "networks").iterdir():
        assert {check.status for check in nz.Study.open(folder).verify()} == {"whole"}
    assert {check.status for check in found.verify()} == {"whole"}
    assert not list((tmp_path / "dask").rglob("*.part"))


def test_a_study_of_40_networks_on_dask(client: Client, tmp_path: Path) -> None:
    small = {"runs": 20, "units": 4, "steps": 10, "keep_checkpoints": False}
    expected = make(tmp_path / "local", **small).train().sweep()
    killed = on_one_worker(client, work_items.kill_in_writing, 2)
    executor = client.get_executor()
    with client.as_current():  # as a user's is, and then xarray would lock files by it
        found = make(tmp_path / "dask", **small).train(executor=executor).sweep(executor=executor)
    assert killed not in client.run(os.getpid).values()
    assert_same(found, expected)


def test_a_gpu_is_asked_for_where_workers_have_some(client: Client) -> None:
    from nearzero.support.workers import Workers
    from nearzero.support.workers.tasks import _Tasks

    tasks: Any = _Tasks(abs, iter(()), Workers(client.get_executor()), str, True, str)
    assert tasks._dask_options("cuda") == {"pure": False, "resources": {"GPU": 1}}
    assert tasks._dask_options("cpu") == {"pure": False}


@pytest.mark.parametrize("executed", [True, False])
def test_interrupted_with_other_workers_than_it_goes_on_with(
    executed: bool, local: nz.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Progress is that of runs, whichever runs were trained together."""
    study, write, count = make(tmp_path / "study", runs=3), Store.write_network, 0

    def interrupted(*arguments: Any, **named: Any) -> None:
        nonlocal count
        count += 1
        if count > 20:
            raise KeyboardInterrupt
        write(*arguments, **named)

    monkeypatch.setenv("NEARZERO_SAVE_EVERY", "0")
    monkeypatch.setattr(Store, "write_network", interrupted)
    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt):
        study.train(executor=pool if executed else None)
    monkeypatch.setattr(Store, "write_network", write)
    reached = [
        state.progress.step
        for name in study.spec.activations
        for state in Store.open(study.folder).load_progress(name, range(3)).values()
    ]
    assert max(reached) > 0
    with ThreadPoolExecutor(2) as pool:
        study.train(executor=None if executed else pool)
        study.sweep(executor=pool)
    assert_same(study, local)


def test_an_error_in_a_job_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(job: TrainJob, advanced: object) -> None:
        raise nz.InputError("no space is left")

    monkeypatch.setattr(TrainJob, "do_reporting", refuse)
    monkeypatch.setattr(TrainJob, "do", lambda job: job.do_reporting(None))
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(nz.InputError, match=r"^training abs and relu, run") as error,
    ):
        make(tmp_path / "study", runs=3).train(executor=pool)
    assert str(error.value).endswith(": no space is left")


def test_a_plan_counts_jobs_and_writes_nothing(local: nz.Study, tmp_path: Path) -> None:
    study = make(tmp_path / "study", runs=3)
    before = {path: path.read_bytes() for path in study.folder.rglob("*") if path.is_file()}
    with ThreadPoolExecutor(2) as pool:
        plan = study.plan(("train", "sweep", "matched", "audit"), executor=pool)
    assert [(step.name, step.jobs, step.done) for step in plan.steps] == [
        ("train", 3, 0),
        ("sweep", 6, 0),
        ("matched", 6, 0),
        ("audit", 6, 0),
    ]
    assert plan.seconds is not None
    assert plan.seconds > 0
    assert {path: path.read_bytes() for path in study.folder.rglob("*") if path.is_file()} == before
    done = local.plan(("train", "sweep", "matched", "parts", "audit"))
    assert [(step.jobs, step.done) for step in done.steps] == [(1, 1), *[(6, 6)] * 4]
    assert done.seconds == 0
    with pytest.raises(nz.InputError, match="step must be one of train, sweep"):
        study.plan(["trian"])


def test_the_plan_of_a_grid(tmp_path: Path) -> None:
    spec = nz.GridSpec(title="Depth", vary="layers", values=[1, 2], study=SETTINGS)
    grid = nz.Grid.proposed(tmp_path / "grid", spec)
    with ThreadPoolExecutor(2) as pool:
        plan = grid.plan(executor=pool)
    assert [(step.name, step.jobs, step.done, step.at_once) for step in plan.steps] == [
        ("train", 8, 0, 2),
        ("measure", 8, 0, 2),
    ]
    assert plan.seconds
    assert list(tmp_path.iterdir()) == []
