"""`benchmarks/controls.py` on a few steps, what it keeps, and the page that is made from it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import xarray as xr

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
def kept(controls: ModuleType) -> xr.Dataset:
    with xr.open_dataset(controls.KEPT, engine="h5netcdf") as responses:
        return responses.load()


def test_runs_are_resumed(
    controls: ModuleType, mnist_5k: nz.datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Responses are those of the kept weights, at draws that belong to the run, of both sets of images."""
    splits = {"training": mnist_5k.train, "held-out": mnist_5k.test}
    small = {
        name: Examples(nz.Pixels(each.pixels[:100], 1 / 80, -0.4), each.labels[:100])
        for name, each in splits.items()
    }
    monkeypatch.setattr(controls, "digits", lambda: small)
    monkeypatch.setattr(controls, "STEPS", 20)
    monkeypatch.setattr(controls, "FAMILIES", ("signed_shift", "cap"))
    control, state = controls.CONTROLS[-1], controls.State(tmp_path)
    responses = state.complete(control, 3)
    assert (responses.attrs["layer"], responses.attrs["first_draw"]) == ("0", 15)
    monkeypatch.setattr(controls, "train_by_adam", None)  # the weights are kept, nothing is trained again
    network = controls.trained(control, 3, state.weights(control, 3))
    accuracies = {
        name: float(
            (network(torch.from_numpy(each.pixels.dense())).argmax(dim=1).numpy() == each.labels).mean()
        )
        for name, each in small.items()
    }
    assert accuracies["training"] == float(responses.training_accuracy)
    held_out = responses.unperturbed_checked_accuracy.sel(check="held_out")
    assert accuracies["held-out"] == float(responses.held_out_accuracy) == float(held_out)
    state.responses(control, 3).unlink()
    assert state.complete(control, 3).equals(responses)


def test_runs_of_other_settings_are_told_apart(
    controls: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = controls.State(tmp_path)
    paths = {state.responses(each, run) for each in controls.CONTROLS for run in (0, 1)}
    monkeypatch.setattr(controls, "MEASURED", 10)
    paths |= {state.responses(each, 0) for each in controls.CONTROLS}
    monkeypatch.setattr(controls, "STEPS", 10)
    paths |= {state.responses(each, 0) for each in controls.CONTROLS}
    assert len(paths) == 4 * len(controls.CONTROLS)


@pytest.mark.parametrize(
    ("expected", "found", "holds"),
    [
        (DISTANCE, {0.1: "inconclusive", 0.3: DISTANCE, 0.5: "equivalent"}, True),
        (DISTANCE, {0.1: DISTANCE, 0.3: "inconclusive", 0.5: "equivalent"}, False),
        (DISTANCE, {0.1: INTENSITY, 0.3: DISTANCE, 0.5: DISTANCE}, False),
        ("undecided", {0.1: "equivalent", 0.3: "inconclusive", 0.5: "no effect"}, True),
        ("undecided", {0.1: DISTANCE, 0.3: "inconclusive", 0.5: "inconclusive"}, False),
    ],
)
def test_as_expected(expected: str, found: dict[float, str], holds: bool, tables: ModuleType) -> None:
    assert tables.Expected(expected).holds(found) is holds


def test_the_page_has_the_tables_of_what_is_kept(tables: ModuleType, kept: xr.Dataset) -> None:
    page = (ROOT / "docs" / "controls.md").read_text()
    made = tables.tables(kept)
    assert len(made) == 3
    for name, table in made.items():
        assert f"<!-- {name} -->\n{table}\n<!-- /{name} -->" in page


def test_what_is_kept_was_made_by_these_settings(
    controls: ModuleType, tables: ModuleType, kept: xr.Dataset
) -> None:
    names = [each.name for each in controls.CONTROLS]
    assert kept.network.values.tolist() == names == list(tables.EXPECTATIONS)
    assert kept.family.values.tolist() == list(controls.FAMILIES)
    assert kept.sizes["run"] == controls.RUNS
    assert kept.attrs["examples"] + kept.attrs["reference_examples"] == controls.MEASURED
    assert float(kept.held_out_accuracy.mean("run").min()) > 0.95


def test_a_shift_of_distances_is_an_output_bias(kept: xr.Dataset) -> None:
    """A constant added to units that a linear layer reads: the centred accuracy is that of the whole network."""
    own = kept.sel(network="OffsetL2", family=["shift", "signed_shift"])
    changed = abs(own.centred_accuracy - own.unperturbed_accuracy)
    assert int(changed.notnull().sum()) > 0
    assert float(changed.max()) <= 5e-4  # near ties, by rounding


def test_the_page_says_what_the_tables_say(tables: ModuleType, kept: xr.Dataset) -> None:
    made = tables.tables(kept)
    assert made["control_verdicts"].count("**no**") == 1  # four of five as expected
    assert made["control_findings"].count("**no**") == 6  # 14 of 20
    verdict = nz.verdict(kept)
    robust = [name for name in verdict.networks if verdict.robustness(name) == "robust"]
    assert robust == ["smallest wins, ReLU"]
    for family, low, high in (("gains", 0.15, 0.26), ("cap", 0.03, 0.13)):
        ratios = [
            each.ratio.ratio
            for each in verdict.relative_costs
            if each.network.startswith("smallest")
            and each.intensity == family
            and each.target in tables.SHOWN
        ]
        assert (round(min(ratios), 2), round(max(ratios), 2)) == (low, high)
    fixed = kept.sel(network=[name for name in verdict.networks if "wins" in name], target=[0.3, 0.5])
    cost = costs(fixed).mean("run")
    noise = cost.sel(family="noise") / cost.sel(family="signed_shift")
    assert (round(float(noise.min()), 1), round(float(noise.max()), 1)) == (0.8, 1.2)
