"""The spec of a grid: what may vary, its points, and refused values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nearzero as nz
from nearzero.grid.spec import load_grid, named_grids, resolve_grid
from nearzero.study.spec import spec_text

WIDTH = {"title": "Width", "vary": "units", "values": [4, 8], "study": {"data": "digits", "runs": 2}}


def test_each_point_is_a_study_that_differs_in_one_thing() -> None:
    spec = resolve_grid(WIDTH)
    assert [point.label for point in spec.points] == ["4 units", "8 units"]
    assert [point.spec.units for point in spec.points] == [4, 8]
    assert {point.spec.model_copy(update={"units": 4}) for point in spec.points} == {spec.points[0].spec}
    assert spec.name("relu", spec.points[1]) == "ReLU, 8 units"
    assert spec.name("abs", spec.points[0], 2) == "Abs, 4 units, layer 2"


def test_activations_checkpoints_and_layers_are_points_too() -> None:
    base = {"title": "t", "study": {"runs": 2}}
    spec = resolve_grid(base | {"vary": "activations", "values": ["gelu", "relu"]})
    assert [spec.name(*point.spec.activations, point) for point in spec.points] == ["GELU", "ReLU"]
    assert [point.spec.offset for point in spec.points] == [
        "shift",
        "as-run",
    ]  # as a study of its own would have it
    spec = resolve_grid(base | {"vary": "checkpoint", "values": [50, 99]})
    assert [(point.checkpoint, point.label) for point in spec.points] == [
        (50.0, "at 50 %"),
        (99.0, "at 99 %"),
    ]
    spec = resolve_grid(base | {"vary": "layers", "values": [1, 3]})
    assert [(point.layers, point.label) for point in spec.points] == [(1, "1 layer"), (3, "3 layers")]
    spec = resolve_grid(base | {"vary": "learning_rate", "values": [0.1]})
    assert spec.points[0].label == "learning rate 0.1"


def test_every_run_has_draws_of_its_own() -> None:
    spec = resolve_grid(WIDTH)
    designs = [
        design for point in spec.points for name in ("abs", "relu") for design in spec.designs(point, name)
    ]
    firsts = sorted(each.first_draw for each in designs)
    assert min(np.diff(firsts)) >= 5
    assert designs[0].families == ("signed_shift", "gains", "cap", "shift")


def test_it_is_kept_and_read_back(tmp_path: Path) -> None:
    spec = resolve_grid(WIDTH)
    (tmp_path / "grid.toml").write_text(spec_text(spec))
    assert load_grid(tmp_path / "grid.toml") == spec


def test_a_spec_made_directly_is_checked_too() -> None:
    assert nz.GridSpec(**WIDTH) == resolve_grid(WIDTH)
    with pytest.raises(nz.InputError, match="unknown key 'valeus' in the settings: did you mean 'values'"):
        nz.GridSpec(**WIDTH, valeus=[3])


@pytest.mark.parametrize("name", named_grids())
def test_those_that_come_with_nearzero_can_be_read(name: str) -> None:
    assert len(load_grid(name).points) > 1


def test_a_name_that_is_a_file_too_means_the_grid_of_nearzero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = resolve_grid(WIDTH | {"title": "Mine"})
    Path("width").write_text(spec_text(mine))
    assert load_grid("width").title == "Width"
    assert load_grid("./width") == load_grid(Path("width")) == mine


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("widht", r"no grid 'widht': did you mean 'width'\? Known: activations, .*, width; or give the path"),
        ("elephant", "no grid 'elephant': Known: activations"),
        ("widht.toml", "can't read widht.toml: No such file"),
        ("grids/width.toml", r"no grid 'grids/width.toml': did you mean 'width'\?"),
    ],
)
def test_names_and_paths_that_lead_nowhere_are_refused(given: str, message: str) -> None:
    with pytest.raises(nz.InputError, match=message):
        load_grid(given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vary": "unit"}, r"'unit' can't vary: did you mean 'units'\?"),
        ({"vary": "runs"}, "'runs' can't vary: .*the keys that can are data, pixels"),
        ({"vary": None}, "vary = None in the settings can't be used"),
        ({"values": []}, r"values = \[\] in the settings can't be used"),
        ({"values": [4, 4]}, "values must differ from each other"),
        ({"values": [0]}, "units = 0 in .study. with units = 0 can't be used"),
        ({"values": ["many"]}, "units = 'many' in .study. with units = 'many'"),
        ({"values": 4}, "values = 4 in the settings can't be used"),
        ({"study": {"units": 3}}, r"units varies, so it can't be a key under \[study\] too"),
        ({"study": {"unit": 3}}, r"unknown key 'unit' in \[study\] with units = 4: did you mean 'units'\?"),
        ({"study": 3}, "study = 3 in the settings can't be used"),
        ({"units": 3}, "unknown key 'units' in the settings: keys of a study belong under .study."),
        ({"valeus": [3]}, "unknown key 'valeus' in the settings: did you mean 'values'"),
        ({"split": "all"}, "split = 'all' in the settings can't be used"),
        ({"read": ["shfit"]}, "unknown family 'shfit'"),
        ({"read": ["gains"]}, "gains decides the verdict already; `read` is for families that don't"),
        (
            {"vary": "checkpoint", "values": [42]},
            "a checkpoint must be one of the study's thresholds, 10, 20, .*; got 42",
        ),
        ({"vary": "layers", "values": [0]}, "layers must be whole numbers from 1 to 32; got 0"),
        ({"vary": "layers", "values": [True]}, r"values of layers can't be true or false; got \[True\]"),
        ({"vary": "activations", "values": ["rleu"]}, "unknown activation 'rleu': did you mean 'relu'"),
        ({"vary": "data", "values": [3], "study": {}}, "data = 3 in"),
    ],
)
def test_what_cant_be_is_refused_in_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(nz.InputError, match=message) as caught:
        resolve_grid(WIDTH | change)
    assert "\n" not in str(caught.value)


def test_more_values_than_a_grid_has() -> None:
    with pytest.raises(nz.InputError, match="values"):
        resolve_grid(WIDTH | {"values": list(range(1, 1002))})
