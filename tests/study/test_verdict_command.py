"""`nearzero verdict`: what it prints last, and what is measured only where it is asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import nearzero as nz
from nearzero import cli
from nearzero.study import analysis

SETTINGS = {
    "data": "digits",
    "runs": 1,
    "units": 6,
    "steps": 40,
    "batch_size": 64,
    "evaluate_every": 20,
    "learning_rate": 0.01,
    "activations": ["relu"],
    "verdict_targets": [0.2],
    "verdict_draws": 1,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> nz.Study:
    return nz.Study.create(tmp_path_factory.mktemp("verdict") / "study", "quick", SETTINGS).train().sweep()


@pytest.fixture(autouse=True)
def _coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearzero.report.figures.style.DOTS_PER_INCH", 20)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    cli.app(["verdict", *map(str, arguments)], standalone_mode=False)
    return capsys.readouterr().out


def test_only_the_verdict_is_measured_and_the_findings_come_last(
    study: nz.Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analysis, "near_and_far", None)  # calling it would fail
    monkeypatch.setenv("COLUMNS", "200")
    out = run(capsys, study.folder)
    order = [
        "Tables are in",
        "\nrelu: description only (",
        "Rules: ",
        "\ndescription only: relu; no direction is robust; next: nearzero show",
    ]
    places = [out.index(words) for words in order]
    assert places == sorted(places)
    assert "Before the first step" not in out
    for attribute, option in (("untrained", "--untrained"), ("parts", "--near-far")):
        with pytest.raises(nz.InputError, match=f"yet; run `nearzero verdict {study.folder} {option}`"):
            getattr(nz.Study.open(study.folder), attribute)
    names = {path.stem for path in (study.folder / "tables").glob("*.md")}
    assert {"verdict", "robust", "checks", "relative", "costs"} <= names
    assert not names & {"untrained", "near_far"}


def test_near_far_and_untrained_are_measured_where_asked(
    study: nz.Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = run(capsys, study.folder, "--near-far", "--untrained")
    assert out.index("Tables are in") < out.index("Rules: ")
    opened = nz.Study.open(study.folder)
    before = study.spec.seeds[0]
    first = opened.untrained.unperturbed_accuracy.sel(network="relu", run=0)
    assert float(first) < float(opened.matched.unperturbed_accuracy.sel(network="relu", run=0))
    assert before == 0
    rows = (study.folder / "tables" / "near_far.csv").read_text().splitlines()
    parts = opened.parts.sel(network="relu", replacement="mean", fraction=0.5)
    cost = 100 * float((parts.unperturbed_accuracy - parts.accuracy.sel(part="near")).mean("run"))
    (row,) = [line.split(",") for line in rows if line.startswith("ReLU,mean,50")]
    assert float(row[4]) == pytest.approx(cost)
    assert np.isfinite(cost)
    assert (study.folder / "tables" / "untrained.md").exists()


def test_other_rules_remove_the_tables_of_the_rules_before(
    study: nz.Study, capsys: pytest.CaptureFixture[str]
) -> None:
    def on_request() -> set[str]:
        return {path.stem for path in (study.folder / "tables").glob("*.md")} & {"untrained", "near_far"}

    run(capsys, study.folder, "--near-far", "--untrained")
    run(capsys, study.folder, "--set", "verdict_margin=2")  # asks only
    run(capsys, study.folder, "--set", "verdict_margin=1", "--save")  # the same rules
    assert on_request() == {"untrained", "near_far"}
    run(capsys, study.folder, "--set", "verdict_margin=2", "--save")
    assert on_request() == set()
    run(capsys, study.folder, "--set", "verdict_margin=1", "--save")


def test_a_question_doesnt_measure_what_is_kept(study: nz.Study) -> None:
    with pytest.raises(
        nz.InputError, match="--near-far and --untrained are kept in it; give them without --set"
    ):
        cli.app(
            ["verdict", str(study.folder), "--set", "verdict_margin=2", "--near-far"], standalone_mode=False
        )


def test_rules_by_which_nothing_is_compared(study: nz.Study, tmp_path: Path) -> None:
    """Scale is flat by construction and left out, so that no comparison is left; the costs are drawn anyway."""
    other = nz.Study.open(shutil.copytree(study.folder, tmp_path / "study"))
    judged = other.with_rules({"verdict_intensity": "scale"}).judge()
    assert judged.comparisons == ()
    assert (other.folder / "figures" / "figure6_relative.png").stat().st_size > 5000
    with pytest.raises(nz.InputError, match="displacements of at most 1000"):
        nz.Study.open(other.folder).with_rules({"verdict_targets": [1e308]})
