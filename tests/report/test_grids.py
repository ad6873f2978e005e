"""The table and the figure of a grid, on costs made by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import xarray as xr

import nearzero as nz
from nearzero.analysis.verdict import Rules, Verdict, judge
from nearzero.report.figures.grid import grid_figure
from nearzero.report.grids import grid_table
from nearzero.report.table import PValue

RULES = nz.Rules(targets=(0.3,), checks=("centred_accuracy",))
FAMILIES = ("shift", "gains", "cap", "signed_shift")
# costs of signed_shift, gains and cap; the same with the mean logit change taken out
COSTS = {
    "robust": ((6.0, 2.0, 2.0), (6.0, 2.0, 2.0)),
    "hangs": ((6.0, 2.0, 2.0), (2.0, 6.0, 6.0)),
    "none": ((0.1, 0.1, 0.1), (0.1, 0.1, 0.1)),
    "constant": ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
}


@dataclass
class MadeUpGrid:
    """Satisfies `GridResults`."""

    responses: xr.Dataset
    title: str = "Made up; 8 runs each"
    notices: tuple[str, ...] = ()

    def verdict(self, rules: Rules | None = None) -> Verdict:
        return judge(self.responses, rules or RULES)

    def read(self) -> dict[str, Verdict]:
        return {"shift": self.verdict(replace(RULES, distance=("shift",)))}


@pytest.fixture(scope="module")
def grid() -> MadeUpGrid:
    values = {name: np.full((len(COSTS), 8, 4, 2, 1), np.nan) for name in ("accuracy", "centred_accuracy")}
    spread = 0.2 * np.linspace(-1, 1, 8)
    for row, (network, measured) in enumerate(COSTS.items()):
        for table, costs in zip(values.values(), measured, strict=True):
            for column, cost in enumerate((1.0, costs[1], costs[2], costs[0])):
                noise = 0.0 if network == "constant" else np.roll(spread, column)
                sides = {0: [0, 1], 2: [0]}.get(column, [1])
                table[row, :, column, sides, 0] = 0.9 - (cost + noise) / 100
    dims = ("network", "run", "family", "side", "target")
    data = {name: (dims, table) for name, table in values.items()}
    data["unperturbed_accuracy"] = (dims[:2], np.full((len(COSTS), 8), 0.9))  # type: ignore[assignment]
    coords = {"network": list(COSTS), "family": list(FAMILIES), "side": ["below", "above"], "target": [0.3]}
    return MadeUpGrid(xr.Dataset(data, coords))


def test_a_network_has_its_finding_what_it_hangs_on_and_both_adjustments(grid: MadeUpGrid) -> None:
    table = grid_table(grid)
    assert list(table.cells("verdict_signed_shift")) == [
        "distance costs more",
        "distance costs more",
        "no effect",
        "degenerate",
    ]
    assert list(table.cells("robust")) == ["robust", "changes with centred accuracy", None, None]
    least = {
        name: min(row.p_adjusted for row in grid.verdict().comparisons if row.network == name)  # type: ignore[type-var]
        for name in ("robust", "hangs")
    }
    within, joint = (list(table.cells(name)) for name in ("p_adjusted", "p_joint"))
    assert within[0] == PValue(least["robust"])
    assert joint[0].value > within[0].value  # type: ignore[union-attr]
    assert [cell is None for cell in joint] == [False, False, False, True]
    assert "over all networks here" not in table.caption
    assert "over all rows of a model" in table.caption


def test_the_figure_marks_findings_and_robust_networks(grid: MadeUpGrid) -> None:
    figure = grid_figure(grid)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["robust (robust)", "hangs", "none", "constant"]
    markers = [
        line.get_marker() for line in figure.axes[0].lines if line.get_marker() not in ("None", "", None)
    ]
    assert markers == ["o", "o", "D", "X"]
    shown = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"no effect", "degenerate", "equivalent"} <= shown


def test_a_side_names_what_costs_more_there(grid: MadeUpGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise is neither distance nor intensity."""

    def sides() -> dict[str, list[str]]:
        figure = grid_figure(grid)
        return {axes.get_title(loc="left"): [text.get_text() for text in axes.texts] for axes in figure.axes}

    words = ["intensity \n← costs more ", " distance\n costs more →"]
    names = [
        f"{distance} against {intensity}"
        for distance in ("signed_shift", "shift")
        for intensity in ("gains", "cap")
    ]
    assert sides() == dict.fromkeys(names, words)
    noisy = grid.responses.assign_coords(family=["noise", *FAMILIES[1:]])
    monkeypatch.setattr(grid, "responses", noisy)
    read = {"noise": grid.verdict(replace(RULES, distance=("noise",)))}
    monkeypatch.setattr(grid, "read", lambda: read)
    assert sides()["noise against cap"] == [words[0], " noise\n costs more →"]
    assert sides()["signed_shift against cap"] == words


@pytest.mark.parametrize(
    ("vary", "values", "title"),
    [
        (
            "units",
            [6, 12],
            "G; digits, raw pixels; 1 run each, 5,000 steps, batches of 256, learning rate 0.001; "
            "test data, 1 draw, r of a",
        ),
        (
            "learning_rate",
            [0.1, 0.01],
            "G; digits, raw pixels, 128 units; 1 run each, 5,000 steps, batches of 256; test data, 1 draw, r of a",
        ),
        (
            "activations",
            ["relu", "gelu"],
            "G; digits, raw pixels, 128 units; 1 run each, 5,000 steps, batches of 256, learning rate 0.001; "
            "test data, 1 draw, r of a or z",
        ),
    ],
)
def test_the_title_has_the_recipe_without_what_varies(
    vary: str, values: list[object], title: str, tmp_path
) -> None:
    study = {"data": "digits", "runs": 1, "verdict_draws": 1}
    spec = nz.GridSpec(title="G", vary=vary, values=values, study=study)  # type: ignore[arg-type]
    assert nz.Grid.create(tmp_path / "grid", spec).title == title
