"""Options of `nearzero probe` and `nearzero judge-runs`: the same numbers as the argument of the library gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from commands import run
from torch import nn

import nearzero as nz

CODE = """
import torch
from torch import nn

class Both(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.act, self.head, self.second = (
            nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), nn.Linear(8, 3)
        )

    def forward(self, x):
        a = self.act(self.hidden(x))
        return {"logits": self.head(a), "other": self.second(a), "pair": (self.second(a), self.head(a))}

class Pair(Both):
    def forward(self, x):
        a = self.act(self.hidden(x))
        return self.second(a), self.head(a)

def spread(logits, target):
    return logits.std(1)

def agreement(logits, target):
    return logits[:, 0]

def breaks(logits, target):
    raise ValueError("no such thing")

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Enter a folder with a module of models and metrics, data, and the weights of six runs."""
    (tmp_path / "own_models.py").write_text(CODE)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=rng.normal(size=(40, 6)).astype(np.float32), y=rng.integers(0, 3, 40))
    monkeypatch.chdir(tmp_path)
    paths = list(sys.path)
    yield tmp_path
    sys.path[:] = paths
    sys.modules.pop("own_models", None)


def made(folder: Path) -> tuple[Any, tuple[np.ndarray, np.ndarray]]:
    from nearzero.torch_models.loading import object_of

    data = np.load(folder / "data.npz")
    return object_of, (data["x"], data["y"])


def is_close(left: xr.Dataset, right: xr.Dataset) -> bool:
    """Return whether two responses are equal except for rounding, which other batches bring."""
    try:
        xr.testing.assert_allclose(left, right, rtol=1e-5)
    except (AssertionError, TypeError, ValueError):  # they may differ in layers and texts
        return False
    return True


OPTIONS = [
    ("Both", ["--output", "other"], {"output": "other"}),
    ("Pair", ["--output", "1"], {"output": 1}),
    ("Pair", ["--output", "0", "--quantiles", "0.1,0.9"], {"output": 0, "quantiles": (0.1, 0.9)}),
    ("Both", ["--units", "0,3,5-7"], {"units": [0, 3, 5, 6, 7]}),
    ("Both", ["--units", "each"], {"units": "each"}),
    ("Both", ["--unit-axis", "1"], {"unit_axis": 1}),
    ("Both", ["--batch-axis", "none"], {"batch_axis": "none"}),
    ("Both", ["--batch-axis", "0", "--batch-size", "7"], {"batch_axis": 0, "batch_size": 7}),
]


@pytest.mark.parametrize(("model", "options", "settings"), OPTIONS)
def test_an_option_is_the_argument_of_the_library(
    model: str, options: list[str], settings: dict[str, Any], folder: Path, capsys: Any
) -> None:
    name = f"own_models.py:{model}"
    common = ["--data", "data.npz", "--layer", "act", "--levels", 5, "--out", "kept"]
    code, _, err = run(capsys, "probe", name, *common, *options)
    assert (code, err) == (0, "")
    object_of, data = made(folder)
    expected = nz.probe(object_of(name, "it")(), data, "act", levels=5, **settings)
    kept = nz.ProbeResult.open("kept")
    assert kept.response.drop_attrs().identical(expected.response.drop_attrs())
    plain = {} if model == "Both" else {"output": 0}
    without = nz.probe(object_of(name, "it")(), data, "act", levels=5, **plain)
    changes = {"output", "quantiles", "units"} & {key for key in settings if settings[key] != plain.get(key)}
    assert bool(changes) != is_close(kept.response, without.response)


def test_a_metric_of_the_users_own_by_name(folder: Path, capsys: Any) -> None:
    code, out, err = run(
        capsys,
        *("probe", "own_models.py:Both", "--data", "data.npz", "--layer", "act", "--levels", 3),
        *("--metric", "own_models.py:spread", "--metric", "accuracy", "--out", "kept"),
    )
    assert (code, err) == (0, "")
    object_of, data = made(folder)
    spread = object_of("own_models.py:spread", "it")
    expected = nz.probe(
        object_of("own_models.py:Both", "it")(), data, "act", levels=3, metrics=[spread, "accuracy"]
    )
    assert nz.ProbeResult.open("kept").response.spread.equals(expected.response.spread)
    assert "spread" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--units", "0,x"],
            "--units takes numbers and spans of units, such as 0,3,8-15, or each; got '0,x'",
        ),
        (["--units", "5-"], "--units takes numbers and spans"),
        (["--units", "7-2"], "--units takes spans from a unit to a later one, below 10,000,000; got 7-2"),
        (["--units", "0-99999999999"], "--units takes spans from a unit to a later one, below 10,000,000"),
        (["--units", ""], "--units takes numbers and spans of units, such as 0,3,8-15, or each; got ''"),
        (
            ["--metric", "own_models.py:agreement", "--metric", "agreement"],
            "two metrics are called 'agreement'",
        ),
        (["--units", "99"], "units: layer 'act' has 8 units, 0 to 7; got unit 99"),
        (["--quantiles", "0.1"], "--quantiles takes two numbers from 0 to 1, such as 0.001,0.999; got 0.1"),
        (["--quantiles", "0.9,0.1"], "quantiles must be two numbers from 0 to 1, the lower first"),
        (["--output", "nothing"], "nothing"),
        (["--unit-axis", "7"], "unit_axis=7 isn't a dimension of units of layer 'act'"),
        (["--batch-axis", "5"], "batch_axis must be 0, 1, 'none' or None; got 5"),
        (["--metric", "own_models.py:nothing"], "own_models.py has no 'nothing'"),
        (["--metric", "own_models.py:number"], "--metric own_models.py:number is int, not a function"),
        (["--metric", "own_models.py:breaks"], "no such thing"),
        (["--metric", "missing.py:f"], "there is no file missing.py"),
    ],
)
def test_bad_values_are_one_line_and_exit_code_2(
    options: list[str], message: str, folder: Path, capsys: Any
) -> None:
    common = ["own_models.py:Both", "--data", "data.npz", "--layer", "act", "--levels", 2]
    code, out, err = run(capsys, "probe", *common, *options)
    assert code == 2
    assert message in err
    assert "bug in nearzero" not in err + out
    assert len(err.strip().splitlines()) == 1


def test_judge_runs_takes_them_too(folder: Path, capsys: Any) -> None:
    object_of, _ = made(folder)
    (folder / "runs").mkdir()
    for seed in range(6):
        model = object_of("own_models.py:Pair", "it")()
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        torch.save(model.state_dict(), folder / "runs" / f"{seed}.pt")
    settings = ["--set", "verdict_targets=0.2", "--set", "verdict_draws=1", "--set", "verdict_checks="]
    common = ["own_models.py:Pair", "--data", "data.npz", "--weights", "runs", "--layer", "act", *settings]
    code, _, err = run(capsys, "judge-runs", *common, "--output", "1", "--units", "0-3", "--out", "judged")
    assert (code, err) == (0, "")
    costs = (folder / "judged" / "tables" / "costs.csv").read_text()
    code, _, err = run(capsys, "judge-runs", *common, "--output", "0", "--units", "0-3", "--out", "other")
    assert (code, err) == (0, "")
    assert (folder / "other" / "tables" / "costs.csv").read_text() != costs


# --- progress ---


@pytest.mark.parametrize("shown", [True, False, None])
def test_the_bar_is_on_standard_error_and_only_where_it_is_asked_for(shown: bool | None, capsys: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    nz.probe(model, [torch.randn(10, 6)] * 3, levels=3, progress=shown)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("probing" in err) is (shown is True)  # pytest's standard error isn't a terminal
    runs = [nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(6)]
    rules, data = nz.Rules(targets=(0.2,), checks=()), (torch.randn(20, 6), torch.randint(3, (20,)))
    nz.judge_runs(runs, data, rules=rules, progress=shown)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("measuring runs" in err) is (shown is True)


def test_what_a_users_code_prints_stays_on_its_stream(capsys: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def talks(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        print("here")
        return logits[:, 0]

    nz.probe(model, (torch.randn(10, 6), torch.zeros(10).long()), levels=2, metrics=[talks], progress=True)
    out, err = capsys.readouterr()
    assert "here" in out
    assert "here" not in err
    assert "probing" not in out


def test_an_error_passes_through_the_bar(capsys: Any) -> None:
    def fails(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise nz.InputError("no")

    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(nz.InputError, match="no"):
        nz.probe(model, [torch.randn(10, 6)], levels=2, metrics=[fails], progress=True)
    capsys.readouterr()


@pytest.mark.parametrize("shown", [True, False, None])
def test_the_bar_leaves_random_states_as_they_are(shown: bool | None) -> None:
    """In a process of its own, since modules draw random numbers while they are imported."""
    code = f"""
import random, torch, nearzero as nz
from torch import nn
model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(10, 6)
before = random.getstate(), torch.get_rng_state()
nz.probe(model, [x], levels=2, progress={shown})
assert random.getstate() == before[0]
assert bool((torch.get_rng_state() == before[1]).all())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
