"""What was damaged, changed by hand or changed by another process is refused, and named by `nearzero verify`."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from filelock import FileLock
from small_studies import SETTINGS, make
from typer.testing import CliRunner

import nearzero as nz
from nearzero.cli import app
from nearzero.study.data import DataSource
from nearzero.study.store import Store


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> nz.Study:
    study = make(tmp_path_factory.mktemp("whole") / "study").run()
    study.judge()
    study.audit()
    return study


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def verify(folder: Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["verify", str(folder)])
    return result.exit_code, result.output


def test_a_flipped_bit_in_any_file_is_found(whole: nz.Study) -> None:
    rng, paths = random.Random(19), [path for path in whole.folder.rglob("*") if path.is_file()]
    assert {check.status for check in whole.verify()} == {"whole"}
    assert len(paths) > 60
    for path in paths:
        if path.name in ("log", ".lock"):
            continue
        content = path.read_bytes()
        flip(path, rng)
        assert {check.status for check in whole.verify()} != {"whole"}, path
        path.write_bytes(content)
    assert verify(whole.folder)[0] == 0


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("results.nc", lambda study: study.response),
        ("results.nc", lambda study: study.history),
        ("analysis.nc", lambda study: study.matched),
        ("audit.nc", lambda study: study.audited()),
        ("provenance.json", lambda study: study.provenance),
        ("networks/relu-01.safetensors", lambda study: study.network("relu", 1)),
        ("networks/checkpoints/abs-00-step000000.safetensors", lambda study: study.network("abs", step=0)),
    ],
)
def test_a_damaged_part_is_refused(name: str, read: Any, whole: nz.Study) -> None:
    path, rng = whole.folder / name, random.Random(19)
    content = path.read_bytes()
    try:
        for _ in range(20):
            flip(path, rng)
            with pytest.raises(nz.InputError, match=f"{name} is damaged, or was changed by hand: .*; "):
                read(nz.Study.open(whole.folder))
            path.write_bytes(content)
    finally:
        path.write_bytes(content)


def test_the_command_names_what_is_wrong_and_what_makes_it_again(whole: nz.Study) -> None:
    results, figure = whole.folder / "results.nc", whole.folder / "figures" / "figure1_response.png"
    content, drawn = results.read_bytes(), figure.read_bytes()
    flip(results, random.Random(19))
    figure.unlink()
    try:
        code, said = verify(whole.folder)
        scripted = CliRunner().invoke(app, ["verify", str(whole.folder), "--json"])
    finally:
        results.write_bytes(content)
        figure.write_bytes(drawn)
    rows = {row["file"]: row for row in json.loads(scripted.stdout)["tables"]["files"]["rows"]}
    assert rows["results.nc"]["status"] == "damaged"
    assert "nearzero sweep" in rows["results.nc"]["remedy"]
    assert [name for name, row in rows.items() if row["status"] == "missing"] == [
        "figures/figure1_response.png"
    ]
    assert (code, scripted.exit_code) == (2, 2)
    assert "results.nc" in said
    assert "damaged, or changed by hand" in said
    assert "figure1_response.png" in said
    assert "missing" in said
    assert "nearzero sweep" in said
    assert "nearzero report" in said


def test_a_folder_without_checksums(tmp_path: Path) -> None:
    study = make(tmp_path / "study").train()
    (study.folder / "checksums").unlink()
    code, said = verify(study.folder)
    assert code == 1
    assert "can't be checked" in " ".join(said.split())
    assert study.sweep().response.sizes["run"] == 2


def test_damaged_progress_is_not_trained_on(tmp_path: Path) -> None:
    study = make(tmp_path / "study")
    store = Store.open(study.folder)
    from nearzero.training.train import History, Progress

    data = DataSource.of(nz.datasets.load("digits"), None)
    stack = data.initial(store.spec, "relu", store.spec.seeds)
    store.save_progress("relu", (0, 1), Progress(20, History.empty(2, store.spec.recipe)), stack, {})
    assert list(store.load_progress("relu", range(2))) == [0, 1]
    path = study.folder / "state" / "training-relu.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1  # in the weights, which stay finite
    path.write_bytes(content)
    assert store.load_progress("relu", range(2)) == {}


def test_a_damaged_checkpoint_is_trained_again(tmp_path: Path) -> None:
    study = make(tmp_path / "study").train()
    path = study.folder / "networks" / "checkpoints" / "relu-01-step000000.safetensors"
    content = path.read_bytes()
    flip(path, random.Random(19))
    study.train()
    assert path.read_bytes() == content


def test_a_network_of_another_width_is_refused(tmp_path: Path) -> None:
    """Its file may be from a study with other units that is older than checksums."""
    study, narrow = make(tmp_path / "study").train(), make(tmp_path / "narrow", units=5).train()
    name = "networks/relu-01.safetensors"
    (study.folder / name).write_bytes((narrow.folder / name).read_bytes())
    (study.folder / "checksums").unlink()
    with pytest.raises(nz.InputError, match=r"holds another network, .*'units': 5"):
        study.sweep()


def test_a_run_whose_weights_are_not_finite_has_a_notice(tmp_path: Path) -> None:
    study = make(tmp_path / "study").train()
    network = study.network("relu", 1)
    w1 = network.w1.copy()
    w1[3, 5] = np.nan
    Store.open(study.folder).write_network(nz.TwoLayer(w1, network.b1, network.w2, network.b2, "relu"), 1)
    (notice,) = study.sweep().notices
    assert notice.startswith("ReLU run 1 has weights that aren't finite")


# --- two processes on one folder ---


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize("begun", [False, True])
def test_a_refused_command_has_changed_nothing(begun: bool, tmp_path: Path) -> None:
    study = make(tmp_path / "study")
    if begun:
        study.train().sweep()
    before = files_of(study.folder)
    arguments = ["--set", "verdict_margin=3", "--save"]
    with FileLock(study.folder / ".lock"):
        for again in (
            lambda: nz.reproduce(out=study.folder, settings=SETTINGS | {"learning_rate": 0.001}),
            lambda: nz.reproduce(out=study.folder, settings=SETTINGS | {"verdict_margin": 3.0}),
            lambda: make(study.folder, verdict_margin=3.0),
            lambda: study.with_rules({"verdict_margin": 3.0}),
            lambda: CliRunner().invoke(
                app, ["verdict", str(study.folder), *arguments], catch_exceptions=False
            ),
        ):
            with pytest.raises(nz.InputError, match="another process is working"):
                again()
    assert files_of(study.folder) == before


def test_results_never_carry_another_spec_than_that_of_their_networks(tmp_path: Path) -> None:
    """Another command rewrote the spec between two looks at it: the first is refused before it computes."""
    study = make(tmp_path / "study")
    other = make(tmp_path / "study", learning_rate=0.001)
    with pytest.raises(nz.InputError, match=r"learning_rate = 0\.001 and had 0\.01 when this command began"):
        study.train()
    assert other.train().spec.learning_rate == 0.001


def test_a_spec_that_is_edited_while_work_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results carry the spec with which they were made, so that the edit is noticed."""
    study = make(tmp_path / "study")
    path = study.folder / "spec.toml"
    text = path.read_text()

    def edited(*_: object) -> None:
        path.write_text(text.replace("learning_rate = 0.01", "learning_rate = 0.5"))

    monkeypatch.setattr("nearzero.study.steps._check_device", edited)
    study.train()
    with pytest.raises(nz.InputError, match=r"made with learning_rate = 0\.01, but spec\.toml says 0\.5"):
        _ = nz.Study.open(study.folder).history
    path.write_text(text)
    xr.testing.assert_identical(
        nz.Study.open(study.folder).history, make(tmp_path / "undisturbed").train().history
    )


def test_two_commands_begun_together(tmp_path: Path) -> None:
    """One of them does its work under its own spec; the other is refused."""
    folder = tmp_path / "study"
    rates = (0.01, 0.001)
    processes = []
    for rate in rates:
        settings = [f"{key}={value}" for key, value in (SETTINGS | {"learning_rate": rate}).items()]
        options = [part for setting in settings for part in ("--set", setting)]
        command = [sys.executable, "-m", "nearzero", "reproduce", "-q", "--out", str(folder), *options]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ))
    codes = [process.wait(timeout=300) if process.communicate() else None for process in processes]
    assert sorted(codes) == [0, 2]
    study = nz.Study.open(folder)
    winner = rates[codes.index(0)]
    assert study.spec.learning_rate == winner
    alone = make(tmp_path / "alone", learning_rate=winner).train()
    xr.testing.assert_equal(study.history.loss, alone.history.loss)
