"""The verdict on several trainings of a user's own model."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from several_runs import CODE, DESIGN, OTHER, RULES, X, Y, build
from torch import nn

import nearzero as nz
from nearzero import cli
from nearzero.torch_models.loading import weights_of_runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the weights of six runs, of which the last is run 10."""
    made = tmp_path_factory.mktemp("runs")
    for number, seed in enumerate((0, 1, 2, 3, 4, 10)):
        torch.save(build(number).state_dict(), made / f"run{seed}.pt")
    return made


def test_it_is_the_verdict_on_the_responses_of_each_run(folder: Path) -> None:
    """Run k has the draws from 2 k on, both layers are one model, and the module given isn't changed."""
    given = build(77)
    before = {name: value.clone() for name, value in given.state_dict().items()}
    found = nz.judge_runs(given, (X, Y), weights=folder, held_out=OTHER, rules=RULES, design=DESIGN)
    assert all((given.state_dict()[name] == value).all() for name, value in before.items())
    assert found.networks == ("1", "3")
    assert set(found.models.values()) == {"model"}
    assert dict(found.activations) == {"1": "relu", "3": "tanh"}
    assert set(found.checks) == {"held_out"}
    for layer in ("1", "3"):
        alone = nz.verdict(
            [
                nz.matched(
                    build(run),
                    (X, Y),
                    layer=layer,
                    design=replace(DESIGN, first_draw=2 * run),
                    held_out=OTHER,
                )
                for run in range(6)
            ],
            RULES,
        )
        own = [row for row in found.comparisons if row.network == layer]
        assert [row.difference for row in own] == [row.difference for row in alone.comparisons]
        assert [row.p_alone for row in own] == [row.p_adjusted for row in alone.comparisons]
        held_out = [row.difference for row in found.checks["held_out"] if row.network == layer]
        assert held_out == [row.difference for row in alone.checks["held_out"]]
    for row in found.comparisons:  # Holm over both layers
        assert row.p_adjusted is not None
        assert row.p_alone is not None
        assert row.p_adjusted >= row.p_alone


def test_models_and_builders_are_taken_too(folder: Path) -> None:
    files = [folder / "run0.pt", folder / "run1.pt"]
    modules = nz.judge_runs([build(0), build(1)], (X, Y), "1", rules=RULES, design=DESIGN)
    built = nz.judge_runs(build, (X, Y), "1", weights=files, rules=RULES, design=DESIGN)
    loaded = nz.judge_runs(build(77), (X, Y), "1", weights=files, rules=RULES, design=DESIGN)
    assert modules.comparisons == built.comparisons == loaded.comparisons
    assert modules.finding("1") == "description only"  # fewer than six runs


def test_families_that_are_reported_are_measured_too() -> None:
    found = nz.judge_runs([build(0)], (X, Y), "1", rules=RULES)
    assert set(found.costs.family.values) == {"shift", "signed_shift", "gains", "cap"}


def test_runs_are_taken_in_the_order_of_their_numbers(folder: Path, tmp_path: Path) -> None:
    assert [path.name for path in weights_of_runs(folder)] == [f"run{run}.pt" for run in (0, 1, 2, 3, 4, 10)]
    for run in ("b", "a"):
        (tmp_path / run).mkdir()
        torch.save(build().state_dict(), tmp_path / run / "net.pt")
    (tmp_path / "notes").mkdir()
    assert weights_of_runs(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert weights_of_runs([tmp_path / "b", folder]) == [tmp_path / "b", folder]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds no weights; they are read from .safetensors"),
        (("a.pt", "a.bin"), "holds a in two formats; name the weights of each run instead"),
        (("a.pt", "old/b.pt"), "holds files of weights, and folders with such files; name"),
        (("a.safetensors.index.json", "b.safetensors"), "holds one model in several files"),
    ],
)
def test_folders_that_arent_clear_are_refused(names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(nz.InputError, match=message):
        weights_of_runs(tmp_path)


def test_what_cant_be_judged_is_refused(folder: Path, tmp_path: Path) -> None:
    def refused(message: str, model: object, data: object = (X, Y), **settings: object) -> None:
        with pytest.raises(nz.InputError, match=message):
            nz.judge_runs(model, data, **{"rules": RULES, "design": DESIGN, **settings})  # type: ignore[arg-type]

    refused("a verdict needs several runs: give a list of trained models, or weights=", build())
    refused("at least one run; got an empty list", [])
    refused("model must be a module or a function that builds one; got list", [build()], weights=folder)
    refused("run 1 and run 0 have the same weights; runs must be trainings of their own", [build(), build()])
    twice = [folder / "run0.pt"] * 2
    refused("run0.pt and .*run0.pt have the same weights", build(), weights=twice)
    refused("run 1: .*no layer", [build(), nn.Linear(4, 3)], layers="3")
    refused("run 0: .*'nothing'", [build()], layers="nothing")
    refused("takes layers=..., names or globs", [build()], layer="1")
    refused("there is agreement alone", [build()], X)
    refused("the rules ask for target 0.5", [build()], rules=nz.Rules(targets=(0.5,)))
    data = (X, Y)
    refused("held_out is the data themselves", [build()], data, held_out=data)
    torch.save(nn.Linear(4, 3).state_dict(), tmp_path / "other.pt")
    refused("the weights in .*other.pt don't fit the model", build(), weights=[tmp_path / "other.pt"])


def test_the_command_prints_and_writes_the_verdict(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nearzero.report.figures.style.DOTS_PER_INCH", 20)
    monkeypatch.setattr(cli, "printing_lines", nullcontext)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "judged_net.py").write_text(CODE)
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    np.savez(tmp_path / "held_out.npz", x=OTHER[0], y=OTHER[1])

    def run(*arguments: object) -> tuple[int, str, str]:
        start = ["nearzero", "judge-runs", "judged_net.py:build", "--weights", folder, "--data", "data.npz"]
        monkeypatch.setattr(sys, "argv", [str(word) for word in (*start, *arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    rules = ("--set", "verdict_targets=0.2", "--set", "verdict_draws=2", "--set", "verdict_checks=held_out")
    code, out, err = run("--layer", "1", "--held-out", "held_out.npz", "--out", "out", *rules)
    assert (code, err) == (0, "")
    models = [build(run) for run in range(6)]
    expected = nz.judge_runs(models, (X, Y), "1", held_out=OTHER, rules=RULES, design=DESIGN)
    assert (
        "Verdict: judged_net.py:build, 6 runs, data.npz" in (tmp_path / "out/tables/verdict.md").read_text()
    )
    assert f"\n1: {expected.of('1')}" in out
    assert (tmp_path / "out" / "tables" / "robust.md").exists()
    assert (tmp_path / "out" / "figures" / "figure6_relative.png").exists()
    code, _, err = run("--held-out", "data.npz")
    assert code == 2
    assert err == "nearzero: --held-out and --data are the same data, data.npz; give others\n"
    code, _, err = run("--measure", "acuracy")
    assert (code, err.count("\n")) == (2, 1)
    assert "did you mean 'accuracy'" in err


def test_groups_of_units_are_judged_as_layers() -> None:
    """Each group has rows of its own, which are those of the group alone."""
    groups = {"first": range(4), "last": [5]}
    modules = [build(seed) for seed in range(6)]
    rules = replace(RULES, checks=())
    found = nz.judge_runs(modules, (X, Y), "1", units=groups, rules=rules, design=DESIGN)
    assert found.networks == ("1{first}", "1{last}")
    for name, units in groups.items():
        alone = nz.judge_runs(modules, (X, Y), "1", units=units, rules=rules, design=DESIGN)
        own = [row.difference for row in found.comparisons if row.network == f"1{{{name}}}"]
        assert own == [row.difference for row in alone.comparisons]


def test_a_loss_costs_its_rise_in_nats() -> None:
    """The same numbers come from `nz.matched` with the metric, and the margin is in nats."""
    modules = [build(seed) for seed in range(6)]
    rules = replace(RULES, measure="cross_entropy", margin=0.02)
    found = nz.judge_runs(modules, (X, Y), "1", held_out=OTHER, rules=rules, design=DESIGN)
    assert found.rules.unit == "nats"
    assert "margin 0.02 nats of cross-entropy" in found.text()
    metrics = ("accuracy", "agreement", "cross_entropy")
    for run in range(6):
        design = replace(DESIGN, first_draw=2 * run)
        alone = nz.matched(modules[run], (X, Y), layer="1", design=design, metrics=metrics, held_out=OTHER)
        rise = alone.cross_entropy - alone.unperturbed_cross_entropy
        cost = found.costs.sel(network="1").isel(run=run)
        own = rise.sel(family="signed_shift").mean("side")
        np.testing.assert_array_equal(cost.sel(family="signed_shift").values, own.values)
        assert float(cost.sel(family="gains", target=0.2)) == float(rise.sel(family="gains", side="above")[0])
    assert set(found.checks) == {"held_out"}
    assert found.checks["held_out"][0].difference != found.comparisons[0].difference
    with pytest.raises(nz.InputError, match=r"have no cross_entropy; measure it with metrics=\['accuracy'"):
        nz.verdict([nz.matched(modules[0], (X, Y), layer="1", design=DESIGN)], rules)
    with pytest.raises(nz.InputError, match="margin must be a positive number of nats; got 0"):
        replace(rules, margin=0)
