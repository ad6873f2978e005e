"""The step that measures for a verdict: it can continue, belongs to a design, and is written into the study."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from commands import beside_progress

import nearzero as nz
from nearzero import cli

SETTINGS = {
    "data": "digits",
    "runs": 4,
    "units": 16,
    "steps": 60,
    "batch_size": 64,
    "evaluate_every": 20,
    "learning_rate": 0.01,
    "activations": ["abs", "relu"],
    "verdict_targets": [0.1, 0.3],
    "verdict_draws": 2,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> nz.Study:
    made = nz.Study.create(tmp_path_factory.mktemp("analysis") / "study", "quick", SETTINGS)
    return made.train().sweep().analyse(untrained=True, near_far=True)


def test_it_is_what_matched_gives_for_each_network(study: nz.Study) -> None:
    digits = nz.datasets.load("digits")
    data, held_out = digits.train, (digits.test.pixels, digits.test.labels)
    firsts = set()
    for name in ("abs", "relu"):
        for run in (0, 3):
            design = study.spec.design_of(name, run)
            firsts.add(design.first_draw)
            network = study.network(name, run)
            alone = nz.matched(network, data.pixels, data.labels, design=design, held_out=held_out)
            kept = study.matched.sel(network=name, run=run)
            for variable in alone.data_vars:
                np.testing.assert_array_equal(alone[variable].values, kept[variable].values)
    assert len(firsts) == 4  # every run of every network has draws of its own
    sizes = {"network": 2, "run": 4, "family": 4, "side": 2, "target": 2, "check": 3}
    assert dict(study.matched.sizes) == sizes
    assert list(study.matched.family.values) == ["shift", "signed_shift", "gains", "cap"]


def test_the_untrained_are_those_before_the_first_step(study: nz.Study) -> None:
    gained = study.matched.unperturbed_accuracy - study.untrained.unperturbed_accuracy
    assert (gained > 0.3).all()
    assert list(study.untrained.family.values) == ["signed_shift", "gains", "cap"]


def test_interrupted_it_goes_on_to_the_same_numbers(
    study: nz.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nearzero.study import analysis

    again = nz.Study.create(tmp_path / "again", "quick", SETTINGS).train().sweep()
    real, calls = analysis.matched, []

    def interrupted(*args: object, **kwargs: object) -> xr.Dataset:
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(analysis, "matched", interrupted)
    with pytest.raises(KeyboardInterrupt):
        again.analyse()
    with pytest.raises(
        nz.InputError, match="hasn't been measured at matched displacement yet; run `nearzero verdict"
    ):
        _ = again.matched
    counted: list[int] = []
    monkeypatch.setattr(
        analysis, "matched", lambda *args, **kwargs: (counted.append(1), real(*args, **kwargs))[1]
    )
    xr.testing.assert_equal(again.analyse().matched, study.matched)
    assert len(counted) == 8 - 5
    counted.clear()
    again.analyse()
    assert not counted


def test_another_design_is_measured_anew_and_other_rules_are_not(study: nz.Study) -> None:
    wide = study.with_rules({"verdict_margin": 20.0})
    assert wide.verdict().rules.changed == {"margin": 20.0, "targets": (0.1, 0.3)}
    other = study.with_rules({"verdict_margin": 1.0, "verdict_targets": [0.2]})
    with pytest.raises(nz.InputError, match="hasn't been measured at matched displacement yet"):
        other.verdict()
    study.with_rules({"verdict_targets": [0.1, 0.3]})
    with pytest.raises(
        nz.InputError, match=r"'steps' isn't a rule of the verdict: .*rules are verdict_distance, "
    ):
        study.with_rules({"steps": 3})


def test_a_run_that_diverged_is_left_out(study: nz.Study, tmp_path: Path) -> None:
    wild = SETTINGS | {"learning_rate": 1e30, "activations": ["relu"], "runs": 2}
    made = nz.Study.create(tmp_path / "wild", "quick", wild).train().sweep()
    with pytest.raises(nz.InputError, match="no run of the study can be measured"):
        made.analyse()


def test_dead_networks_are_rows_with_words(tmp_path: Path) -> None:
    """Training kills all units: the study is measured, judged and written all the same, its parts as NaN."""
    settings = SETTINGS | {"activations": ["relu"], "runs": 2, "units": 3, "learning_rate": 0.5}
    made = nz.Study.create(tmp_path / "dead", "quick", settings).train().sweep().report()
    assert (made.history.diverged_at == -1).all()
    made.analyse(near_far=True)
    judged = made.judge()
    assert {row.finding for row in judged.comparisons} == {"not reached"}
    assert judged.comparisons[0].words == "distance and gains doesn't reach it; 2 of 2 runs: no unit is live"
    assert "no unit is live" in (made.folder / "tables" / "verdict.csv").read_text()
    assert made.parts.accuracy.isnull().all()
    assert nz.Study.open(made.folder).matched.reason.values.tolist() == [["no unit is live"] * 2]


@pytest.mark.parametrize("bright", ["one pixel of one training image", "all but one pixel"])
def test_nearly_constant_images_have_a_finding_in_words(bright: str, tmp_path: Path) -> None:
    """Units hardly move, so their covariance can't be inverted, or no change has the wanted size."""
    for name, count in (("train", 90), ("t10k", 30)):
        images, labels = np.zeros((count, 4, 4), np.uint8), (np.arange(count) % 3).astype(np.uint8)
        if name == "train":
            images[7, 2, 1] = 1
        if bright.startswith("all"):
            images = 255 - images
        for array, kind in ((images, "images-idx3"), (labels, "labels-idx1")):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (tmp_path / f"{name}-{kind}-ubyte").write_bytes(head + array.tobytes())
    settings = SETTINGS | {
        "data": str(tmp_path),
        "runs": 6,
        "units": 4,
        "steps": 20,
        "verdict_targets": [0.1],
    }
    study = nz.Study.create(tmp_path / "study", "quick", settings).train().sweep()
    judged = study.judge()
    assert {judged.finding(name) for name in judged.networks} <= {"degenerate", "not reached", "inconclusive"}
    assert not any("nan" in row.words for row in judged.comparisons)


def test_the_command_writes_and_prints(study: nz.Study) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nearzero", "verdict", str(study.folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert study.verdict().text().splitlines()[0] in done.stdout.replace("\n", " ").replace("  ", " ") or (
        study.verdict().of("abs").split(" (")[0] in done.stdout
    )
    for name in (
        "tables/verdict.md",
        "tables/costs.csv",
        "figures/figure5_matched.png",
        "figures/figure5_matched.pdf",
    ):
        assert (study.folder / name).stat().st_size > 300
    rows = (study.folder / "tables" / "verdict.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2 * 2


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the time of change and the content of every file in a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.parametrize("setting", ["verdict_margin=7", "verdict_targets=[0.2]", "verdict_draws=1"])
def test_other_rules_are_asked_and_nothing_in_the_folder_changes(
    study: nz.Study, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(study.folder)
    cli.app(["verdict", str(study.folder), "--set", setting], standalone_mode=False)
    out = " ".join(capsys.readouterr().out.split())
    assert ("margin 7 points" in out) == (setting == "verdict_margin=7")
    assert ("for this question alone" in out) == (setting != "verdict_margin=7")
    assert "is as before; --save makes these its rules" in out
    assert contents(study.folder) == before


def test_a_question_has_the_answer_that_is_saved(study: nz.Study, tmp_path: Path) -> None:
    """Of a study that isn't measured yet; only --save writes the spec, the measurements and the tables."""
    folder = tmp_path / "copy"
    shutil.copytree(study.folder, folder)
    (folder / "analysis.nc").unlink()
    shutil.rmtree(folder / "tables", ignore_errors=True)
    copy, before, rules = (
        nz.Study.open(folder),
        contents(folder),
        {"verdict_targets": [0.2], "verdict_draws": 1},
    )
    asked = copy.ask(rules)
    assert contents(folder) == before
    settings = ["--set", "verdict_targets=[0.2]", "--set", "verdict_draws=1"]
    cli.app(["verdict", str(folder), *settings, "--save", "--quiet"], standalone_mode=False)
    saved = nz.Study.open(folder)
    assert (saved.spec.verdict_targets, saved.spec.verdict_draws) == ((0.2,), 1)
    assert saved.verdict().comparisons == asked.comparisons
    assert (folder / "tables" / "verdict.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "verdict_margin=0"], "margin must be a positive number"),
        (["--set", "verdict_intensity=loud"], "intensity must name families"),
        (["--set", "runs=3"], "a verdict's rules are"),
    ],
)
def test_bad_input_is_one_line(study: nz.Study, arguments: list[str], message: str) -> None:
    before = (study.folder / "spec.toml").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "nearzero", "verdict", str(study.folder), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert len(beside_progress(done.stderr).splitlines()) == 1
    assert message in done.stderr
    assert (study.folder / "spec.toml").read_text() == before
