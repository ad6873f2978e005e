"""`benchmarks/controls.py` on a few steps, what it keeps, and the page that is made from it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import nearzero as nz
from nearzero.analysis.verdict import costs
from nearzero.training.engine import Examples

ROOT = Path(__file__).parents[2]
DISTANCE, INTENSITY = "distance costs more", "intensity costs more"


@pytest.fixture(scope="module")
def controls() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("controls")
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def tables(controls: ModuleType) -> ModuleType:
    return importlib.import_module("controls_tables")


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    return json.loads((ROOT / "results" / "controls.json").read_text())


@pytest.mark.parametrize("number", [0, 4])
def test_what_is_kept_of_a_run_are_its_costs(
    number: int,
    controls: ModuleType,
    tables: ModuleType,
    mnist_5k: nz.datasets.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    splits = {"training": mnist_5k.train, "held-out": mnist_5k.test}
    small = {
        name: Examples(nz.Pixels(each.pixels[:100], 1 / 80, -0.4), each.labels[:100])
        for name, each in splits.items()
    }
    monkeypatch.setattr(controls, "digits", lambda: small)
    monkeypatch.setattr(controls, "STEPS", 20)
    monkeypatch.setattr(controls, "FAMILIES", ("signed_shift", "cap"))
    control, state = controls.CONTROLS[number], controls.State(tmp_path)
    record = state.complete(control, 3)
    network = controls.trained(control, 3, state.path(control, 3, "npz"))
    design = nz.Design(families=("signed_shift", "cap"), first_draw=15)
    kept = {"families": ["signed_shift", "cap"], "targets": list(design.targets)}
    for images, examples in small.items():
        layer = {"layer": "0"} if number == 4 else {}
        direct = nz.matched(network, examples.pixels, examples.labels, design=design, **layer)
        for measure in ("accuracy", "centred_accuracy"):
            (again,) = tables.runs_of(kept, asdict(control) | {"runs": [record]}, images, measure)
            difference = costs(again.isel(network=0), measure) - costs(direct, measure)
            assert float(abs(difference).max()) < 1e-4
            assert bool((costs(direct, measure).notnull() == difference.notnull()).all())
    state.path(control, 3, "json").unlink()
    monkeypatch.setattr(controls, "train_by_adam", None)  # the weights are kept, nothing is trained again
    assert state.complete(control, 3) == record


def test_runs_of_other_settings_are_told_apart(
    controls: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = controls.State(tmp_path)
    paths = {state.path(each, run, "json") for each in controls.CONTROLS for run in (0, 1)}
    monkeypatch.setattr(controls, "STEPS", 10)
    paths |= {state.path(each, 0, "json") for each in controls.CONTROLS}
    assert len(paths) == 3 * len(controls.CONTROLS)


@pytest.mark.parametrize(
    ("expected", "found", "holds"),
    [
        (
            {"finding": DISTANCE, "targets": [0.3, 0.5]},
            {0.1: "inconclusive", 0.3: DISTANCE, 0.5: "equivalent"},
            True,
        ),
        (
            {"finding": DISTANCE, "targets": [0.3, 0.5]},
            {0.1: DISTANCE, 0.3: "inconclusive", 0.5: "equivalent"},
            False,
        ),
        ({"finding": DISTANCE, "targets": [0.3, 0.5]}, {0.1: INTENSITY, 0.3: DISTANCE, 0.5: DISTANCE}, False),
        ({"finding": "undecided", "targets": [0.3, 0.5]}, {0.1: "equivalent", 0.3: "inconclusive"}, True),
        ({"finding": "undecided", "targets": [0.3, 0.5]}, {0.1: DISTANCE, 0.3: "inconclusive"}, False),
    ],
)
def test_as_expected(
    expected: dict[str, Any], found: dict[float, str], holds: bool, tables: ModuleType
) -> None:
    assert tables.as_expected(expected, found) is holds


def test_the_page_has_the_tables_of_what_is_kept(tables: ModuleType, kept: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "validation.md").read_text()
    made = tables.tables(kept)
    assert len(made) == 3
    for name, table in made.items():
        assert f"<!-- {name} -->\n{table}\n<!-- /{name} -->" in page


def test_what_is_kept_was_made_by_these_settings(controls: ModuleType, kept: dict[str, Any]) -> None:
    assert [{**each, "runs": None} for each in kept["controls"]] == json.loads(
        json.dumps([{**asdict(each), "runs": None} for each in controls.CONTROLS])
    )
    assert kept["families"] == list(controls.FAMILIES)
    for each in kept["controls"]:
        assert [run["run"] for run in each["runs"]] == list(range(controls.RUNS))
        assert np.mean([run["held-out"]["all"] for run in each["runs"]]) > 0.95


def test_a_shift_of_distances_is_an_output_bias(kept: dict[str, Any]) -> None:
    """A constant added to units that a linear layer reads: the centred accuracy is that of the whole network."""
    (own,) = (each for each in kept["controls"] if each["name"] == "OffsetL2")
    for name in ("shift", "signed_shift"):
        row = kept["families"].index(name)
        found = [
            run[images]["centred_accuracy"][row] for run in own["runs"] for images in ("training", "held-out")
        ]
        assert np.abs(np.array(found, dtype=float)).max() <= 0.05  # near ties, by rounding
