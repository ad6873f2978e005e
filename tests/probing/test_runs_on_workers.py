"""The verdict on several runs of a model, measured by workers: the numbers of one process, bit for bit."""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
import xarray as xr
from distributed import Client
from several_runs import DESIGN, OTHER, RULES, X, Y, build
from torch import nn
from typer.testing import CliRunner
from work_items import lost

import nearzero as nz
from nearzero.cli import app


def assert_same(found: nz.Verdict, expected: nz.Verdict) -> None:
    assert found.comparisons == expected.comparisons
    assert found.checks == expected.checks
    xr.testing.assert_identical(found.costs, expected.costs)


def test_processes_give_the_same_numbers(pool: ProcessPoolExecutor, folder: Path) -> None:
    given: dict[str, object] = {"held_out": OTHER, "rules": RULES, "design": DESIGN}
    modules = [build(run) for run in range(6)]
    assert_same(
        nz.judge_runs(modules, (X, Y), executor=pool, **given),  # type: ignore[arg-type]
        nz.judge_runs(modules, (X, Y), **given),  # type: ignore[arg-type]
    )
    # the workers began in another working folder
    named = {"weights": "runs", "rules": RULES, "design": DESIGN}
    found = nz.judge_runs("worker_net.py:build", "data.npz", executor=pool, **named)  # type: ignore[arg-type]
    assert_same(found, nz.judge_runs("worker_net.py:build", "data.npz", **named))  # type: ignore[arg-type]
    first = nz.Origin.from_json(str(found.costs.origin.values[0]))
    assert first.name == "worker_net.py:build with runs/run0.pt"


def test_threads_take_turns(folder: Path) -> None:
    given: dict[str, object] = {"weights": folder / "runs", "rules": RULES, "design": DESIGN}
    with ThreadPoolExecutor(3) as threads:
        found = nz.judge_runs(build, (X, Y), executor=threads, **given)  # type: ignore[arg-type]
    assert_same(found, nz.judge_runs(build, (X, Y), **given))  # type: ignore[arg-type]


def test_a_lost_worker_takes_all_that_was_measured_with_it() -> None:
    with (
        ThreadPoolExecutor(1, initializer=lost) as pool,
        pytest.raises(nz.InputError, match="done isn't kept"),
    ):
        nz.judge_runs([build()], (X, Y), rules=RULES, design=DESIGN, executor=pool)


def test_what_cant_go_to_a_worker_is_refused(
    pool: ProcessPoolExecutor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(message: str, model: object, **settings: object) -> None:
        with pytest.raises(nz.InputError, match=message):
            nz.judge_runs(model, (X, Y), "1", rules=RULES, design=DESIGN, executor=pool, **settings)  # type: ignore[arg-type]

    refused(r"the model can't be sent to a worker \(.*\); name it", lambda: build(), weights=folder / "runs")
    only_here = ModuleType("only_here")
    exec("from torch import nn\nclass Net(nn.Sequential): pass", vars(only_here))
    only_here.Net.__module__ = "only_here"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "only_here", only_here)
    model = only_here.Net(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))  # type: ignore[attr-defined]
    refused(r"run 0 can't be sent to a worker \(.*No module named 'only_here'\); name it", [model])
    prepare = {"prepare": lambda batch: (batch[0], batch[1], None)}
    refused(r"data or a setting can't be sent to a worker", [build()], **prepare)
    refused("run 1 and run 0 have the same weights", [build(), build()])
    refused("run 1: .*no layer", [build(), nn.Linear(4, 3)])
    assert_same(  # and the pool can be used further
        nz.judge_runs([build()], (X, Y), "1", rules=RULES, design=DESIGN, executor=pool),
        nz.judge_runs([build()], (X, Y), "1", rules=RULES, design=DESIGN),
    )


def test_dask_from_the_command_line(folder: Path, client: Client) -> None:
    command = ["judge-runs", "worker_net.py:build", "--weights", "runs", "--data", "data.npz", "--json", "-q"]
    command += ["--set", "verdict_targets=0.2", "--set", "verdict_draws=2", "--set", "verdict_checks="]
    here = CliRunner().invoke(app, command)
    assert client.scheduler is not None
    found = CliRunner().invoke(app, [*command, "--dask", client.scheduler.address])
    assert found.exit_code == 0, found.output
    assert found.stdout == here.stdout


def test_workers_from_the_command_line(folder: Path) -> None:
    command = ["judge-runs", "worker_net.py:build", "--weights", "runs", "--data", "data.npz", "--json", "-q"]
    command += ["--set", "verdict_targets=0.2", "--set", "verdict_draws=2", "--set", "verdict_checks="]
    here = CliRunner().invoke(app, command)
    found = CliRunner().invoke(app, [*command, "--workers", "2"])
    assert found.exit_code == 0, found.output
    assert found.stdout == here.stdout
    assert '"findings"' in found.stdout or '"finding"' in found.stdout
    refused = CliRunner().invoke(app, [*command, "--workers", "2", "--device", "cuda"])
    assert "workers measure on their processors; leave out --device cuda" in str(refused.exception)
