"""`nearzero verdict`: what it prints last, and what is measured only where it is asked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import nearzero as nz
from nearzero import cli
from nearzero.cli.output import verdict_conclusion
from nearzero.study import analysis

RESULTS = Path(__file__).parents[2] / "results"
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
        "\nReLU: description only (",
        "\nNothing is judged: there is 1 run, and a verdict needs 6.",
        "Rules: ",
        "\ndescription only: ReLU; no direction is robust; next: nearzero page",
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


def test_the_numbers_that_carry_it_stand_below_the_finding() -> None:
    """The costs at the largest displacement are those of the runs, and so is what intensity costs relative to them."""
    paper = nz.Study.open(RESULTS / "paper").verdict()
    lines = verdict_conclusion(paper)
    costs = paper.costs.sel(network="relu", target=max(paper.rules.targets)).mean("run")
    means = {name: float(costs.sel(family=name)) for name in ("signed_shift", "gains", "cap")}
    (line,) = [line for line in lines if line.startswith("ReLU, at displacement 50 %")]
    assert f"distance costs {means['signed_shift']:.2f} points of accuracy" in line
    for name in ("gains", "cap"):
        assert f"{name} {means[name]:.2f}" in line
        assert f"{name} {means[name] / means['signed_shift']:.2f} (" in line
    assert any(line.startswith("ReLU, is it distance? In part: ") for line in lines)
    assert not any("a verdict needs" in line for line in lines)


def test_a_verdict_makes_the_page_anew(
    study: nz.Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The page keeps its runs; one that shows everything is left alone."""
    monkeypatch.setenv("COLUMNS", "200")
    own = nz.Study.open(shutil.copytree(study.folder, tmp_path / "study"))
    own.judge()
    page = own.folder / "page.html"
    own.to_html(page, runs=[0])
    os.utime(page, ns=(1, 1))  # older than all that it shows
    cli.app(["report", str(own.folder)], standalone_mode=False)
    said = " ".join(capsys.readouterr().out.split())
    assert f"is older than they are; `nearzero page {own.folder}` makes it anew" in said
    out = run(capsys, own.folder)
    assert f"The page of it all is {page}." in " ".join(out.split())
    assert out.rstrip().endswith(f"next: nearzero show {own.folder}")
    text = page.read_text(encoding="utf-8")
    assert text.count(f"nearzero page {own.folder} --runs 0") >= 1
    assert all(check.status == "whole" for check in own.verify() if check.name == "page.html")
    written = page.stat().st_mtime_ns
    assert written > 1
    run(capsys, own.folder)
    assert page.stat().st_mtime_ns == written


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
