"""Jobs: done in any process and order, kept in files with the digest of their work, gathered with NaN for lost runs."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numba.core import event
from rich.console import Console
from safetensors.numpy import save

import nearzero as nz
from nearzero.study import steps
from nearzero.study.analysis import AnalysisJob
from nearzero.study.audit import AuditJob
from nearzero.study.data import DataSource
from nearzero.study.jobs import StudyJob, complete, forget, gather, missing, results, run, study_jobs
from nearzero.study.journal import Journal
from nearzero.study.steps import SweepJob
from nearzero.study.store import Store, write_kept
from nearzero.support.files import write_bytes

SETTINGS = {
    "data": "digits",
    "runs": 2,
    "units": 16,
    "steps": 60,
    "batch_size": 64,
    "evaluate_every": 20,
    "learning_rate": 0.01,
    "verdict_targets": [0.1],
    "verdict_draws": 1,
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> nz.Study:
    return nz.Study.create(tmp_path_factory.mktemp("jobs") / "study", "quick", SETTINGS).train().sweep()


@pytest.fixture
def trained(swept: nz.Study, tmp_path: Path) -> nz.Study:
    """Return the same study, not swept yet."""
    study = nz.Study.create(tmp_path / "study", "quick", SETTINGS)
    shutil.copytree(swept.folder / "networks", study.folder / "networks")
    Store.open(study.folder).write({"history": swept.history})
    return study


@pytest.fixture
def source(digits: nz.datasets.Dataset) -> DataSource:
    return DataSource.of(digits, None)


def sweep_jobs(study: nz.Study, source: DataSource) -> list[SweepJob]:
    return study_jobs(SweepJob, Store.open(study.folder), source, "response")


def test_a_compilation_is_said_when_it_begins(
    trained: nz.Study, source: DataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the cache holds other kernels; one that is loaded from it isn't compiled."""
    jobs, printed = sweep_jobs(trained, source), StringIO()
    journal = Journal.unlogged(Console(file=printed, width=200))
    run(jobs[:1], journal, doing="sweeping", did="swept")
    assert "compiling" not in printed.getvalue()
    respond = steps.respond

    def compile_and_respond(*given: Any, **options: Any) -> xr.Dataset:
        event.start_event("numba:compile", {"dispatcher": SimpleNamespace(py_func=respond)})
        return respond(*given, **options)

    monkeypatch.setattr(steps, "respond", compile_and_respond)
    run(jobs, journal, doing="sweeping", did="swept")
    line = "compiling kernels for this processor, once; `nearzero compile` does it beforehand\n"
    assert printed.getvalue().count("compiling") == 1
    assert line in printed.getvalue()


def test_other_processes_do_them(
    trained: nz.Study, swept: nz.Study, source: DataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes get only the pickled job, and the study continues from the files that they write."""
    jobs = sweep_jobs(trained, source)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        list(executor.map(complete, reversed(jobs)))
    assert missing(jobs) == []
    monkeypatch.setattr(steps, "respond", lambda *_, **__: pytest.fail("swept again"))
    xr.testing.assert_identical(trained.sweep().response, swept.response)


@pytest.mark.parametrize("kind", [SweepJob, partial(AnalysisJob, group="untrained"), AuditJob])
def test_a_job_is_plain_data(kind: type[StudyJob], swept: nz.Study, source: DataSource) -> None:
    job = study_jobs(kind, Store.open(swept.folder), source, "group")[1]
    again = pickle.loads(pickle.dumps(job))
    assert again == job
    assert len(pickle.dumps(job)) < 5000
    found, other = job.measure(), again.measure()
    assert found is not None
    xr.testing.assert_identical(found, other)


def test_what_is_done_is_not_done_again(trained: nz.Study, source: DataSource) -> None:
    jobs = sweep_jobs(trained, source)
    assert missing(jobs) == jobs
    complete(jobs[2])
    assert missing(jobs) == [jobs[0], jobs[1], jobs[3]]
    before = jobs[2].path.stat().st_mtime_ns
    complete(jobs[2])
    assert jobs[2].path.stat().st_mtime_ns == before
    with pytest.raises(
        nz.InputError, match=r"response-abs-00\.safetensors is missing, or belongs to other work"
    ):
        list(results(jobs)["abs"])


@pytest.mark.parametrize("damage", ["empty", "cut", "no digest", "other arrays"])
def test_damaged_files_are_done_again(damage: str, trained: nz.Study, source: DataSource) -> None:
    job = sweep_jobs(trained, source)[0]
    complete(job)
    content, found = job.path.read_bytes(), job.result()
    assert found is not None
    if damage == "no digest":
        write_kept(job.path, found)
    elif damage == "other arrays":
        write_bytes(job.path, save({"w1": np.zeros(3)}))
    else:
        job.path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    assert not job.done
    complete(job)
    again = job.result()
    assert again is not None
    xr.testing.assert_identical(again, found)


def test_foreign_files_are_done_again(trained: nz.Study, source: DataSource, tmp_path: Path) -> None:
    """Files of another spec, design, or data are replaced."""
    job = sweep_jobs(trained, source)[0]
    complete(job)
    shifted = nz.Study.create(tmp_path / "shifted", "quick", SETTINGS | {"offset": "shift"})
    Store.open(shifted.folder).write({"history": trained.history})
    store, foreign = Store.open(trained.folder), replace(source, hashes=(("images", "0"),))
    for other in (
        sweep_jobs(shifted, source)[0],
        sweep_jobs(trained, foreign)[0],
        study_jobs(SweepJob, store, source, "response", "another design")[0],
    ):
        other.path.parent.mkdir(exist_ok=True)
        other.path.write_bytes(job.path.read_bytes())
        assert job.done
        assert not other.done


def test_a_lost_run_leaves_a_file_too(trained: nz.Study, source: DataSource) -> None:
    jobs = sweep_jobs(trained, source)
    jobs[1] = replace(jobs[1], diverged=True)
    for job in jobs:
        complete(job)
    assert missing(jobs) == []
    assert jobs[1].result() is None
    found = gather(results(jobs))
    assert found.accuracy.dims == ("network", "run", "family", "level", "split")
    assert found.accuracy.sel(network="abs", run=1).isnull().all()
    kept = jobs[2].result()
    assert kept is not None
    np.testing.assert_array_equal(found.accuracy.sel(network="relu", run=0), kept.accuracy)


def test_all_lost(trained: nz.Study, source: DataSource) -> None:
    jobs = [replace(job, diverged=True) for job in sweep_jobs(trained, source)]
    for job in jobs:
        complete(job)
    with pytest.raises(nz.InputError, match="no run of the study can be measured"):
        gather(results(jobs))
    found = gather(results(jobs), lost=xr.Dataset({"accuracy": ("level", [np.nan])}, {"level": [0.5]}))
    assert found.accuracy.sizes == {"network": 2, "run": 2, "level": 1}
    assert found.accuracy.isnull().all()


def test_weights_that_are_not_finite_are_a_lost_run(trained: nz.Study, source: DataSource) -> None:
    """The run diverged after the last measurement of its loss."""
    network = trained.network("relu", 1)
    Store.open(trained.folder).write_network(replace(network, w2=np.full_like(network.w2, np.inf)), 1)
    assert sweep_jobs(trained, source)[3].measure() is None
    (*_, before) = study_jobs(
        partial(AnalysisJob, group="untrained"), Store.open(trained.folder), source, "untrained"
    )
    assert before.measure() is not None  # its network before the first step


def test_a_run_that_diverged_is_lost_for_the_audit_too(swept: nz.Study, source: DataSource) -> None:
    job = study_jobs(AuditJob, Store.open(swept.folder), source, "audit")[0]
    assert replace(job, diverged=True).measure() is None


def test_forgotten_files(trained: nz.Study, source: DataSource) -> None:
    jobs = sweep_jobs(trained, source)
    state = trained.folder / "state"
    for job in jobs[:2]:
        complete(job)
    (state / "another.nc").write_bytes(b"of another command")
    (state / ".response-abs-00.safetensors-0123.part").write_bytes(b"of a process that was killed")
    forget(jobs)
    assert (state / "another.nc").exists()
    assert missing(jobs) == jobs
    (state / "another.nc").unlink()
    forget(jobs)
    assert not state.exists()
    forget(jobs)


def test_other_data_are_refused(source: DataSource) -> None:
    other = replace(source, hashes=(("images", "0"),))
    with pytest.raises(
        nz.InputError, match="digits from scikit-learn has other contents than when this work began"
    ):
        other.load()


def test_data_at_hand_are_not_loaded_again(
    digits: nz.datasets.Dataset, source: DataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nearzero.study.data as data

    monkeypatch.setattr(data, "load", lambda *_, **__: pytest.fail("loaded again"))
    assert source.load() is digits
    again = pickle.loads(pickle.dumps(source))
    assert again.load() is digits


def test_examples_are_the_same_objects_for_all_threads(swept: nz.Study, source: DataSource) -> None:
    """Arrays that are prepared for examples are found by the identity of the examples."""
    with ThreadPoolExecutor(4) as executor:
        found = list(executor.map(lambda _: source.examples(swept.spec)["train"], range(40)))
    assert all(each is found[0] for each in found)
    assert source.examples(swept.spec.model_copy(update={"pixels": "normalized"}))["train"] is not found[0]


def test_a_run_that_cant_be_measured_is_named(
    trained: nz.Study, source: DataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise nz.InputError("nothing is displaced")

    monkeypatch.setattr(steps, "respond", refuse)
    with pytest.raises(nz.InputError, match=r"^relu, run 1: nothing is displaced"):
        sweep_jobs(trained, source)[3].do()
