"""A probe whose layers are measured by workers: numbers and assumptions of one process, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr
from distributed import Client
from probed_networks import NETWORKS, language
from several_runs import X, Y, build
from typer.testing import CliRunner
from work_items import lost

import nearzero as nz
from nearzero.cli import app
from nearzero.probing.sources import is_on_processor
from nearzero.support.progress import Report


def assert_same(found: nz.ProbeResult, expected: nz.ProbeResult) -> None:
    xr.testing.assert_identical(found.response, expected.response)  # the assumptions are attributes
    assert found.assumptions == expected.assumptions
    assert found.notes == expected.notes
    assert (found.at_displacements is None) == (expected.at_displacements is None)
    if expected.at_displacements is not None:
        xr.testing.assert_identical(found.matched, expected.matched)


def check(name: str, executor: Executor) -> None:
    """Compare a probe on the workers of an executor with one here, which begins with the same random states."""
    torch.manual_seed(0)
    model, data, settings = NETWORKS[name]()
    training = [part.training for part in model.modules()]
    torch.manual_seed(1)
    expected = nz.probe(model, data, levels=4, **settings)
    torch.manual_seed(1)
    found = nz.probe(model, data, levels=4, executor=nz.Workers(executor, threads=1), **settings)
    after = torch.get_rng_state()
    assert_same(found, expected)
    assert len(found.layers) > 1
    assert [part.training for part in model.modules()] == training
    torch.manual_seed(1)
    assert torch.equal(after, torch.get_rng_state())


@pytest.mark.parametrize("name", NETWORKS)
def test_threads(name: str) -> None:
    with ThreadPoolExecutor(3) as threads:
        check(name, threads)


@pytest.mark.parametrize("name", NETWORKS)
def test_processes(name: str, pool: ProcessPoolExecutor) -> None:
    check(name, pool)


def test_dask(client: Client) -> None:
    for name in NETWORKS:
        check(name, client.get_executor())


def test_the_notes_are_those_of_one_process() -> None:
    """The cases have notes to compare."""
    torch.manual_seed(0)
    model, data, settings = NETWORKS["perceptron"]()
    with ThreadPoolExecutor(1) as threads:
        result = nz.probe(model, data, levels=2, executor=threads, **settings)
    assert any(note.startswith("matched response of layer 0.act: left out") for note in result.notes)
    assert any("of 4 units are dead" in note for note in result.notes)
    assert any(row.what == "matched response of layer 0.act" for row in result.assumptions)
    assert result.layers == ["0.act", "2", "4"]
    assert result.matched.layer.values.tolist() == ["2", "4"]
    model, data, settings = NETWORKS["convolutional"]()
    with ThreadPoolExecutor(1) as threads:
        result = nz.probe(model, data, levels=2, executor=threads, **settings)
    assert any(row.what == "metric spread" for row in result.assumptions)


def test_from_the_command_line(folder: Path) -> None:
    command = ["probe", "worker_net.py:build", "--data", "data.npz", "--levels", "3", "-q"]
    with_weights = [*command, "--weights", "runs/run0.pt"]
    for name, workers in {"here": [], "found": ["--workers", "2"]}.items():
        done = CliRunner().invoke(app, [*with_weights, "--out", name, *workers])
        assert done.exit_code == 0, done.output
    assert_same(nz.ProbeResult.open("found"), nz.ProbeResult.open("here"))

    def refused(message: str, *arguments: str) -> None:
        done = CliRunner().invoke(app, [*arguments, "--out", "refused"])
        assert done.exit_code != 0
        assert message in str(done.exception)
        assert not (folder / "refused").exists()

    refused(
        "worker_net.py:build gives a worker another model than this process has", *command, "--workers", "2"
    )
    refused("--workers must be at least 1; got 0", *with_weights, "--workers", "0")
    refused("leave out --device cuda", *with_weights, "--workers", "2", "--device", "cuda")
    refused("--workers, for processes on this machine, or --dask", *with_weights, "--workers=2", "--dask=x")


def test_the_progress_bar_counts_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = []

    @contextmanager
    def bar(*_: object) -> Iterator[Report]:
        yield lambda *amounts: reports.append(amounts)

    monkeypatch.setattr(import_module("nearzero.probing.probe"), "python_progress", bar)
    with ThreadPoolExecutor(1) as threads:
        result = nz.probe(build(), (X, Y), levels=2, executor=threads)
    assert reports == [(0, 2), (1, 2), (2, 2)]
    assert len(result.layers) == 2


def test_a_lost_worker_takes_all_that_was_measured_with_it() -> None:
    with (
        ThreadPoolExecutor(1, initializer=lost) as pool,
        pytest.raises(nz.InputError, match="done isn't kept"),
    ):
        nz.probe(build(), (X, Y), levels=2, executor=pool)


def test_what_workers_cant_do_is_refused(pool: ProcessPoolExecutor, folder: Path) -> None:
    def refused(message: str, model: object, data: object, **settings: Any) -> None:
        with pytest.raises(nz.InputError, match=message) as error:
            nz.probe(model, data, levels=2, executor=pool, **settings)
        assert "\n" not in str(error.value)

    refused(r"data is an iterator \(list_iterator\), which can be read only once", build(), iter([(X, Y)]))
    (folder / "stream.py").write_text("import torch\n\ndef batches():\n    yield torch.randn(6, 4)\n")
    refused(r"data is an iterator \(generator\)", build(), "stream.py:batches")
    refused("ranges_from is an iterator", build(), (X, Y), ranges_from=(each for each in [(X, Y)]))
    refused(
        "data or a setting can't be sent to a worker", build(), (X, Y), prepare=lambda batch: (*batch, None)
    )
    refused("no layer", build(), (X, Y), layers="nowhere")
    opened = nz.open_model("worker_net.py:build").with_weights(folder / "runs" / "run0.pt")[0]
    expected = nz.probe(opened, (X, Y), levels=2)
    assert_same(nz.probe(opened, (X, Y), levels=2, executor=pool), expected)
    with torch.no_grad():
        opened.module[0].bias += 1
    refused("gives a worker another model than this process has", opened, (X, Y))


def test_a_model_on_a_device_is_refused(pool: ProcessPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether there is a device here or not."""
    monkeypatch.setattr("nearzero.probing.layer_jobs.is_on_processor", lambda module: False)
    with pytest.raises(nz.InputError, match="the model is on another device; move it"):
        nz.probe(build(), (X, Y), executor=pool)
    assert is_on_processor(build())
    assert not is_on_processor(build().to("meta"))


def test_other_data_on_a_worker_are_refused(pool: ProcessPoolExecutor, folder: Path) -> None:
    """As where machines have other files of one name."""
    (folder / "worker_data.py").write_text(
        "import os, torch\nPARENT = os.getpid()\n\ndef batches():\n"
        "    torch.manual_seed(os.getpid())\n    return [(torch.randn(8, 4), torch.arange(8) % 3)]\n"
    )
    with pytest.raises(nz.InputError, match=r"layer '[13]': a worker reads other data than this process"):
        nz.probe(build(), "worker_data.py:batches", levels=2, executor=pool)


def test_a_layer_that_was_named_and_has_no_response(pool: ProcessPoolExecutor) -> None:
    """Its error is that of one process."""
    model, data, settings = NETWORKS["perceptron"]()
    given: dict[str, Any] = {"layers": ["0.act", "2"], "levels": 2, **settings}
    with pytest.raises(nz.InputError) as expected:
        nz.probe(model, data, **given)
    with pytest.raises(nz.InputError) as found:
        nz.probe(model, data, executor=pool, **given)
    assert str(found.value) == str(expected.value)


def test_each_unit_is_a_job(pool: ProcessPoolExecutor) -> None:
    model, data, settings = language()
    given: dict[str, Any] = {**settings, "layers": "act", "units": [0, 3], "levels": 2}
    given["units"] = {"first": [0], "others": [3, 4]}
    assert_same(nz.probe(model, data, executor=pool, **given), nz.probe(model, data, **given))
