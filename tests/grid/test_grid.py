"""Grids: the same measurements as a study and a probe of the same networks; interruptions; files."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import nearzero as nz
from nearzero.analysis.displacement import displacement
from nearzero.evaluators.base import halves
from nearzero.grid import grid as grid_module
from nearzero.grid.networks import DeepJob, Networks, grid_jobs
from nearzero.grid.spec import resolve_grid
from nearzero.study.data import DataSource
from nearzero.study.jobs import complete
from nearzero.study.steps import TrainJob
from nearzero.support.netcdf import netcdf_content

STUDY = {
    "data": "digits",
    "activations": ["relu", "gelu"],
    "runs": 2,
    "units": 12,
    "steps": 80,
    "batch_size": 64,
    "learning_rate": 0.01,
    "evaluate_every": 10,
    "verdict_targets": [0.1, 0.3],
    "verdict_draws": 2,
}
TARGETS = tuple(STUDY["verdict_targets"])  # type: ignore[arg-type]


def spec_of(vary: str, values: list[object], **study: object) -> nz.GridSpec:
    common = {key: value for key, value in (STUDY | study).items() if key != vary}
    return resolve_grid({"title": vary, "vary": vary, "values": values, "study": common})


def made(folder: Path, spec: nz.GridSpec) -> nz.Grid:
    return nz.Grid.create(folder / spec.vary, spec).run(networks=folder / "networks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("grids")


@pytest.fixture(scope="module")
def width(folder: Path) -> nz.Grid:
    return made(folder, spec_of("units", [6, 12]))


@pytest.fixture(scope="module")
def depth(folder: Path) -> nz.Grid:
    return made(folder, spec_of("layers", [1, 2]))


def test_responses_are_those_of_matched(width: nz.Grid, folder: Path, digits: nz.datasets.Dataset) -> None:
    networks = Networks(folder / "networks")
    assert list(width.responses.network.values) == [
        "ReLU, 6 units",
        "GELU, 6 units",
        "ReLU, 12 units",
        "GELU, 12 units",
    ]
    point = width.spec.points[1]
    for name in ("relu", "gelu"):
        network = networks.read(point, name, 1, DataSource.of(digits, None))
        assert isinstance(network, nz.TwoLayer)
        assert network.units == 12
        design = width.spec.designs(point, name)[1]
        alone = nz.matched(network, digits.test.pixels, digits.test.labels, design=design)
        kept = width.responses.sel(network=width.spec.name(name, point), run=1)
        for variable in ("level", "accuracy", "agreement", "unperturbed_accuracy"):
            np.testing.assert_array_equal(kept[variable].values, alone[variable].values)


def test_every_layer_of_a_deep_network_is_measured(
    depth: nz.Grid, folder: Path, digits: nz.datasets.Dataset
) -> None:
    """The reference is a plain forward pass with a shift."""
    names = ["ReLU, 1 layer, layer 1", "GELU, 1 layer, layer 1"]
    names += [f"{name}, 2 layers, layer {layer}" for name in ("ReLU", "GELU") for layer in (1, 2)]
    assert list(depth.responses.network.values) == names
    data = DataSource.of(digits, None)
    network = Networks(folder / "networks").read(depth.spec.points[1], "relu", 0, data)
    assert isinstance(network, torch.nn.Sequential)
    x, y = torch.from_numpy(digits.test.pixels).float(), digits.test.labels
    there, here = halves(len(x), 0)
    for layer in (1, 2):
        row = depth.responses.sel(network=f"ReLU, 2 layers, layer {layer}", run=0)
        with torch.no_grad():
            z = network[: 2 * layer - 1](x)
            a = z.clamp(min=0)
            live = a[there].amax(0) > a[there].amin(0)
            moved = (z[there].amax(0) - z[there].amin(0)) * live
            for side in ("below", "above"):
                for target in TARGETS:
                    one = row.sel(family="shift", side=side, target=target)
                    changed = (z + float(one.level) * moved).clamp(min=0)
                    d = displacement(a[there].numpy(), changed[there].numpy())
                    assert d == pytest.approx(target, rel=1e-3)
                    right = network[2 * layer :](changed[here]).argmax(1).numpy() == y[here]
                    assert float(one.accuracy) == pytest.approx(right.mean(), abs=1e-12)


def test_the_verdict_is_over_the_whole_grid(width: nz.Grid) -> None:
    judged = width.verdict()
    assert len(judged.comparisons) == 4 * 2 * 2
    assert {each.finding for each in judged.comparisons} <= {"description only", "degenerate"}  # two runs
    assert set(judged.models) == set(judged.models.values())
    assert list(width.read()) == ["shift"]
    rules = nz.Rules(targets=TARGETS, intensity=("scale", "cap"))
    flat = nz.verdict(width.responses.assign(), nz.Rules(targets=TARGETS)).left_out
    assert flat == {}
    with pytest.raises(nz.InputError, match="the rules ask for family scale, which wasn't measured"):
        width.verdict(rules)


def test_scale_is_left_out_where_the_activation_makes_it_flat(width: nz.Grid) -> None:
    renamed = width.responses.assign_coords(family=["shift", "signed_shift", "scale", "cap"])
    left_out = nz.verdict(renamed, nz.Rules(targets=TARGETS, intensity=("scale", "cap"))).left_out
    assert set(left_out) == {"ReLU, 6 units", "ReLU, 12 units"}


def test_grids_share_networks(width: nz.Grid, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("nearzero.study.steps.TrainJob.do_reporting", refuse)
    again = made(folder, spec_of("pixels", ["raw"]))
    kept, mine = (
        each.responses.sel(network=name)
        for each, name in ((width, "ReLU, 12 units"), (again, "ReLU, raw pixels"))
    )
    # a draw belongs to the name of a network in its grid; what draws nothing is the same
    same = ["shift", "cap"]
    np.testing.assert_array_equal(kept.accuracy.sel(family=same), mine.accuracy.sel(family=same))
    assert (kept.accuracy.sel(family="gains") != mine.accuracy.sel(family="gains")).any()


def test_checkpoints_and_runs_that_never_get_there(folder: Path, digits: nz.datasets.Dataset) -> None:
    grid = made(folder, spec_of("checkpoint", [20, 50, 100], activations=["relu"]))
    assert list(grid.responses.network.values) == ["ReLU, at 20 %", "ReLU, at 50 %"]
    assert grid.notices == ("2 of 2 runs of ReLU, at 100 % diverged or never came so far",)
    accuracy = grid.responses.unperturbed_accuracy.mean("run")
    assert 0.1 < accuracy[0] < accuracy[1] < 0.95


def test_interrupted_it_goes_on_to_the_same_numbers(
    width: nz.Grid, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nearzero.grid import networks

    real, calls = networks.measured, []

    def interrupted(*args: object) -> object:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(networks, "measured", interrupted)
    again = nz.Grid.create(tmp_path / "again", width.spec)
    with pytest.raises(KeyboardInterrupt):
        again.run(networks=folder / "networks")
    assert len(list((tmp_path / "again" / "state").iterdir())) == 3
    with pytest.raises(nz.InputError, match="hasn't been measured yet; run `nearzero grid"):
        _ = again.responses
    again.run(networks=folder / "networks")
    assert len(calls) == 4 + 8 - 3
    assert again.responses.equals(width.responses)
    assert not (tmp_path / "again" / "state").exists()
    again.run(networks=folder / "networks")  # nothing left to do
    assert len(calls) == 9


def test_what_lies_in_its_folder(width: nz.Grid) -> None:
    found = {str(path.relative_to(width.folder)) for path in width.folder.rglob("*") if path.is_file()}
    names = ("grid", "verdict", "robust", "checks", "relative", "costs", "runs")
    tables = {f"tables/{name}.{end}" for name in names for end in ("md", "csv", "tex")}
    files = {
        "grid.toml",
        "provenance.json",
        "log",
        "responses.nc",
        "checksums",
        "figures/grid.png",
        "figures/grid.pdf",
        ".lock",
    }
    assert found <= tables | files
    assert tables < found
    table = (width.folder / "tables" / "grid.md").read_text()
    assert table.count("\n| ReLU, ") == 2
    again = nz.Grid.open(width.folder)
    assert again.spec == width.spec
    assert again.title == (
        "units; digits, raw pixels; 2 runs each, 80 steps, batches of 64, learning rate 0.01; "
        "test data, 2 draws, r of z"
    )


def test_another_spec_or_folder_is_refused(width: nz.Grid, tmp_path: Path) -> None:
    with pytest.raises(nz.InputError, match=r"holds a grid with values = \[6, 12\], but \[6, 13\] was given"):
        nz.Grid.create(width.folder, spec_of("units", [6, 13]))
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(nz.InputError, match=r"holds other files and no grid\.toml"):
        nz.Grid.create(tmp_path, width.spec)
    with pytest.raises(nz.InputError, match=r"isn't a grid: it has no grid\.toml"):
        nz.Grid.open(tmp_path)


def test_a_network_that_isnt_one_is_refused(
    depth: nz.Grid, folder: Path, digits: nz.datasets.Dataset
) -> None:
    point = depth.spec.points[1]
    job = DeepJob(folder / "networks", "gelu", 1, point, DataSource.of(digits, None))
    path = job.path
    content = path.read_bytes()
    try:
        path.write_bytes(content[:100])
        with pytest.raises(
            nz.InputError, match=r"gelu-01.safetensors is damaged, .*; delete it and run again"
        ):
            Networks(folder / "networks").read(point, "gelu", 1, job.data)
    finally:
        path.write_bytes(content)


def test_all_lost_is_said(tmp_path: Path) -> None:
    grid = nz.Grid.create(
        tmp_path / "lost", spec_of("checkpoint", [100], activations=["relu"], steps=2, runs=1)
    )
    with pytest.raises(nz.InputError, match="no run of the grid can be measured"):
        grid.run()


def test_degenerate_runs_are_rows_with_words(tmp_path: Path) -> None:
    """Training kills all units at one of the points; it has its rows like the other."""
    spec = spec_of("learning_rate", [0.01, 0.5], activations=["relu"], units=3)
    grid = made(tmp_path, spec)
    assert list(grid.responses.network.values) == ["ReLU, learning rate 0.01", "ReLU, learning rate 0.5"]
    alive, dead = (grid.verdict().of(name) for name in grid.responses.network.values)
    assert (alive.split(" (")[0], dead.split(" (")[0]) == ("description only", "not reached")
    words = {row.words for row in grid.verdict().comparisons if row.network.endswith("0.5")}
    assert words == {
        f"distance and {name} doesn't reach it; 2 of 2 runs: no unit is live" for name in ("gains", "cap")
    }
    assert "no unit is live" in (grid.folder / "tables" / "verdict.csv").read_text()
    reopened = nz.Grid.open(grid.folder)
    assert (
        reopened.responses.reason.sel(network="ReLU, learning rate 0.5").values.tolist()
        == ["no unit is live"] * 2
    )


def test_damaged_files_are_measured_again_or_refused(width: nz.Grid, folder: Path, tmp_path: Path) -> None:
    grid = nz.Grid.create(tmp_path / "grid", width.spec)
    (grid.folder / "state").mkdir()
    (grid.folder / "state" / "00-relu-00.safetensors").write_bytes(b"no")
    assert grid.run(networks=folder / "networks").responses.equals(width.responses)
    (grid.folder / "responses.nc").unlink()
    (grid.folder / "provenance.json").write_text("[")
    with pytest.raises(nz.InputError, match=r"provenance\.json is damaged, .*; restore it, or delete it"):
        grid.run(networks=folder / "networks")


def test_a_kept_file_that_cant_be_read(width: nz.Grid, tmp_path: Path) -> None:
    grid = nz.Grid.create(tmp_path / "grid", width.spec)
    (grid.folder / grid_module.RESPONSES).write_bytes(b"no")
    with pytest.raises(nz.InputError, match="can't be read"):
        _ = grid.responses


@pytest.mark.parametrize("notices", [None, "5", "["])
def test_notices_that_are_missing_or_damaged(notices: str | None, width: nz.Grid, tmp_path: Path) -> None:
    grid = nz.Grid.create(tmp_path / "grid", width.spec)
    changed = width.responses.assign_attrs(notices=notices)
    if notices is None:
        del changed.attrs["notices"]
    (grid.folder / grid_module.RESPONSES).write_bytes(netcdf_content(changed))
    with pytest.raises(nz.InputError, match=r"responses\.nc can't be read \(.*\); delete it and run"):
        _ = grid.notices


def test_a_kept_file_with_more_runs_than_the_spec(width: nz.Grid, tmp_path: Path) -> None:
    grid = nz.Grid.create(tmp_path / "grid", width.spec)
    more = width.responses.isel(run=[0, 1, 1]).assign_coords(run=[0, 1, 2])
    (grid.folder / grid_module.RESPONSES).write_bytes(netcdf_content(more))
    with pytest.raises(
        nz.InputError, match=r"responses\.nc has 3 runs of each network, and grid\.toml says 2; delete"
    ):
        _ = grid.responses


@pytest.mark.parametrize("kind", ["width", "depth"])
def test_its_jobs_are_plain_data(
    kind: str, folder: Path, digits: nz.datasets.Dataset, request: pytest.FixtureRequest
) -> None:
    grid: nz.Grid = request.getfixturevalue(kind)
    networks, point = Networks(folder / "networks"), grid.spec.points[1]
    jobs = grid_jobs(grid.spec, grid.folder, networks, point, "relu", DataSource.of(digits, None))
    again = pickle.loads(pickle.dumps(jobs[1]))
    assert again == jobs[1]
    assert len({job.path for job in jobs}) == len({job.work for job in jobs}) == 2
    found = again.measure()
    assert found is not None
    for layer in found.layer.values:
        name = grid.spec.name("relu", point, None if point.layers is None else layer)
        kept = grid.responses.sel(network=name, run=1)
        np.testing.assert_array_equal(found.accuracy.sel(layer=layer), kept.accuracy)


def test_training_a_deep_network_is_a_job(
    depth: nz.Grid, folder: Path, digits: nz.datasets.Dataset, tmp_path: Path
) -> None:
    """The bits don't depend on the process or on the number of PyTorch's threads."""
    job = DeepJob(folder / "networks", "gelu", 1, depth.spec.points[1], DataSource.of(digits, None))
    elsewhere = replace(pickle.loads(pickle.dumps(job)), folder=tmp_path)
    assert job.done
    assert not elsewhere.done
    complete(elsewhere)
    assert elsewhere.path.read_bytes() == job.path.read_bytes()


def test_responses_of_another_spec_are_refused(width: nz.Grid, tmp_path: Path) -> None:
    grid = nz.Grid.open(shutil.copytree(width.folder, tmp_path / "grid"))
    assert {check.status for check in grid.verify()} == {"whole"}
    path = grid.folder / "grid.toml"
    text = path.read_text()
    path.write_text(text.replace("learning_rate = 0.01", "learning_rate = 0.5"))
    assert path.read_text() != text
    with pytest.raises(
        nz.InputError, match=r"made with learning_rate = 0\.01, but grid\.toml says 0\.5; restore"
    ):
        _ = nz.Grid.open(grid.folder).responses
    with pytest.raises(nz.InputError, match="was changed in the meantime"):
        grid.run()
    path.write_text(text.replace('title = "', 'title = "Another '))
    assert nz.Grid.open(grid.folder).responses.equals(width.responses)


def test_studies_are_begun_when_their_first_job_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a grid of many points would write for seconds before anything is trained."""
    study = {"data": "digits", "runs": 1, "steps": 5, "activations": ["relu"]}
    spec = nz.GridSpec(title="Width", vary="units", values=[4, 6, 8], study=study)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainJob, "do_reporting", stop)
    with pytest.raises(KeyboardInterrupt):
        nz.Grid.create(tmp_path / "width", spec).run()
    assert len(list((tmp_path / "networks").iterdir())) == 1


def test_a_plan_of_studies_needs_no_torch(tmp_path: Path) -> None:
    """PyTorch takes longer to import than all else that a plan does."""
    code = """
import sys
from nearzero.grid import Grid, GridSpec
study = {"data": "digits", "runs": 1, "steps": 5, "activations": ["relu"]}
spec = GridSpec(title="Width", vary="units", values=[4, 6], study=study)
plan = Grid.proposed(sys.argv[1], spec).plan()
print(len(plan.steps), "torch" in sys.modules, "nearzero.page" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "grid")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["2", "False", "False"]
