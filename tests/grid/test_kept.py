"""The kept grids in `results/grids`: one point of each, trained and measured again with two runs, gives the same.

Run k of a network is the same with two runs as with ten. On other processors a float32 sum can round otherwise, and
training enlarges the difference, so values are compared with the tolerance that the page of grids states.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import nearzero as nz
from nearzero.grid.spec import load_kept_grid

KEPT = Path(__file__).parents[2] / "results" / "grids"
PAGE = Path(__file__).parents[2] / "docs" / "grids.md"
POINTS = {"activations": "tanh", "data": "mnist-5k", "depth": 1, "pixels": "raw", "training": 80, "width": 16}
RUNS = 2


def tolerances() -> tuple[float, float]:
    """Return the page's tolerances of an accuracy and of a cost, as shares."""
    said = r"accuracies to ([\d.]+) points of accuracy, and costs to ([\d.]+) points up to a displacement of 20 %"
    found = re.search(said, PAGE.read_text())
    assert found
    return float(found[1]) / 100, float(found[2]) / 100


def test_every_grid_has_a_point() -> None:
    assert set(POINTS) == {path.name for path in KEPT.iterdir()}


@pytest.mark.parametrize("name", POINTS)
def test_a_point_made_again_gives_the_kept_values(name: str, tmp_path: Path) -> None:
    kept = nz.Grid.open(KEPT / name)
    spec = load_kept_grid(KEPT / name / "grid.toml")
    value = POINTS[name]
    assert value in spec.values
    one = spec.model_copy(update={"values": (value,), "study": spec.study | {"runs": RUNS}})
    data = value if name == "data" else one.points[0].spec.data
    try:
        nz.datasets.load(data)
    except nz.InputError as error:
        pytest.skip(f"needs {data}: {error}")
    again = nz.Grid.create(tmp_path / name, one).run().responses
    before = kept.responses.sel(network=again.network, run=range(RUNS))
    accuracy, cost = tolerances()
    assert float(abs(again.unperturbed_accuracy - before.unperturbed_accuracy).max()) <= accuracy
    near = {"target": slice(0.0, 0.2)}
    apart = abs(again.accuracy.sel(near) - before.accuracy.sel(near))
    assert again.accuracy.notnull().equals(before.accuracy.notnull())
    assert float(apart.mean("run").max()) <= cost  # NaN fails too
