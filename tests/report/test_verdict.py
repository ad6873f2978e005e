"""Tables and picture of a verdict, on costs made by hand whose findings are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import nearzero as nz
from nearzero.analysis.verdict import Verdict
from nearzero.mechanisms import reference
from nearzero.mechanisms.reference import Band, planted_bands
from nearzero.report.figures.relative import relative_figure
from nearzero.report.near_far import near_far_table
from nearzero.report.table import Number, Span, Table
from nearzero.report.verdict import (
    checks_table,
    comparisons_table,
    costs_table,
    relative_table,
    robust_table,
)
from nearzero.report.write import write_verdict

TARGETS = (0.1, 0.3)
RULES = nz.Rules(targets=TARGETS, checks=("whitened", "centred_accuracy", "held_out"))
FAMILIES = ("shift", "gains", "cap", "signed_shift")
SPREAD = 0.2 * np.linspace(-1, 1, 8)[:, None]
SAME, OPPOSITE = (
    {"signed_shift": 6.0, "gains": 2.0, "cap": 3.0},
    {"signed_shift": 2.0, "gains": 6.0, "cap": 2.5},
)


def accuracies(costs: dict[str, float]) -> np.ndarray:
    """Return accuracies on (run, family, side, target): costs in points at the second target, half at the first."""
    values = np.full((8, len(FAMILIES), 2, 2), np.nan)
    for row, family in enumerate(FAMILIES):
        phase = np.roll(SPREAD, row, axis=0)
        cost = costs.get(family, 1.0) * np.array([0.5, 1.0]) + phase * np.array([0.5, 1.0])
        sides = {"shift": [0, 1], "cap": [0]}.get(family, [1])
        values[:, row, sides] = 0.99 - cost[:, None] / 100
    return values


def responses(
    networks: dict[str, dict[str, float]], checks: dict[str, dict[str, float]], centred: dict[str, float]
) -> xr.Dataset:
    """Return responses with these costs by family, for each network and each check of all networks."""
    dims = ("network", "run", "family", "side", "target")
    whole = np.full((len(networks), 8), 0.99)
    data = {
        "accuracy": (dims, np.stack([accuracies(costs) for costs in networks.values()])),
        "centred_accuracy": (dims, np.stack([accuracies(centred)] * len(networks))),
        "unperturbed_accuracy": (dims[:2], whole),
    }
    if checks:
        stacked = np.stack([accuracies(costs) for costs in checks.values()])
        data["checked_accuracy"] = (("check", *dims), np.stack([stacked] * len(networks), axis=1))
        data["unperturbed_checked_accuracy"] = (("check", *dims[:2]), np.stack([whole] * len(checks)))
        data["checked"] = (("family",), [name != "shift" for name in FAMILIES])
    coords = {"network": list(networks), "family": list(FAMILIES), "side": ["below", "above"]}
    return xr.Dataset(data, coords | {"target": list(TARGETS), **({"check": list(checks)} if checks else {})})


def band(mechanism: str, family: str, target: float, low: float | None, high: float | None) -> Band:
    return Band(
        mechanism=mechanism,  # type: ignore[arg-type]
        activation="relu",
        family=family,
        target=target,
        low=low,
        median=low,
        high=high,
        studies=20,
        defined=20,
    )


@pytest.fixture(scope="module")
def judged() -> Verdict:
    """ReLU: distance costs more; whitened size says so too, centred accuracy the opposite, held-out data nothing."""
    flat = dict.fromkeys(SAME, 3.0)
    return nz.verdict(responses({"relu": SAME}, {"whitened": SAME, "held_out": flat}, OPPOSITE), RULES)


def column(table: Table, name: str) -> list[object]:
    return list(table.cells(name))


def test_robust_is_said_as_the_verdict_says_it(judged: Verdict) -> None:
    table = robust_table(judged, "made up")
    assert column(table, "check") == ["the rules", "whitened size", "centred accuracy", "held-out data"]
    assert column(table, "finding") == [
        "distance costs more",
        "distance costs more",
        "intensity costs more",
        "equivalent",
    ]
    assert column(table, "outcome") == [None, "holds", "turns", "undecided"]
    phrase = "changes with centred accuracy; undecided by held-out data"
    assert column(table, "robust") == [phrase, "", "", ""]
    assert judged.robustness("relu") == phrase
    ranges = [(row[4].value, row[5].value) for row in table.rows]  # type: ignore[union-attr]
    assert ranges[0] == pytest.approx((1.5, 4.0))  # (6 - 3) / 2 and 6 - 2
    assert ranges[2] == pytest.approx((-4.0, -0.25))  # 2 - 6 and (2 - 2.5) / 2


def test_every_comparison_is_in_the_table_of_checks(judged: Verdict) -> None:
    table = checks_table(judged, "made up")
    assert len(table.rows) == 4 * 4  # comparisons times the rules and three checks
    first = dict(zip([c.name for c in table.columns], table.rows[2], strict=True))
    assert (first["intensity"], first["check"], first["finding"]) == (
        "gains",
        "centred accuracy",
        "intensity costs more",
    )
    assert first["difference"].value == pytest.approx(-2.0)
    assert "Not measured" not in table.caption


def test_a_check_that_wasnt_measured_is_named() -> None:
    judged = nz.verdict(responses({"relu": SAME}, {}, SAME), RULES)
    table = robust_table(judged, "made up")
    assert column(table, "outcome") == [None, "not measured", "holds", "not measured"]
    assert column(table, "robust")[0] == "not measured: whitened size, held-out data"
    assert "Not measured: whitened size, held-out data." in checks_table(judged, "made up").caption


def test_without_a_direction_there_is_nothing_to_check() -> None:
    judged = nz.verdict(responses({"relu": dict.fromkeys(SAME, 3.0)}, {}, SAME), RULES)
    table = robust_table(judged, "made up")
    assert column(table, "finding") == ["equivalent", None, "distance costs more", None]
    assert column(table, "outcome") == [None, "not measured", None, "not measured"]
    assert column(table, "robust")[0] == "no direction to check"


def test_other_adjustments_are_shown_where_they_differ(judged: Verdict) -> None:
    """For one layer alone only where a model has several; over all networks only where there are several models."""
    made = responses({"one": SAME, "two": OPPOSITE, "three": SAME}, {}, SAME)

    def names(responses: xr.Dataset) -> set[str]:
        return {column.name for column in comparisons_table(nz.verdict(responses, RULES), "").columns}

    one_model = made.assign_coords(model=("network", ["m", "m", "m"]))
    two_models = made.assign_coords(model=("network", ["m", "m", "n"]))
    assert "p_alone" not in names(made)
    assert "p_joint" in names(made)
    assert {"p_alone", "p_joint"} & names(one_model) == {"p_alone"}
    assert {"p_alone", "p_joint"} <= names(two_models)
    assert not {"p_alone", "p_joint"} & {column.name for column in comparisons_table(judged, "").columns}
    table = comparisons_table(nz.verdict(one_model, RULES), "")
    smallest = [min(cell.value for cell in column(table, name)) for name in ("p_adjusted", "p_alone")]
    assert smallest[0] > smallest[1]
    assert "decides nothing" in table.caption


def test_the_caption_says_what_was_tested(judged: Verdict) -> None:
    caption = comparisons_table(judged, "made up").caption
    for words in (
        "minimum-effect test",
        "margin 1 points",
        "over all rows of a model",
        "(TOST) is tested in each row",
    ):
        assert words in caption
    earlier = nz.verdict(responses({"relu": SAME}, {}, SAME), nz.Rules(targets=TARGETS, test="difference"))
    assert "paired t-test of D = 0 (an earlier rule" in comparisons_table(earlier, "").caption
    assert comparisons_table(earlier, "").notices


def test_relative_costs_and_why_one_is_undefined() -> None:
    """Half the cost in every run; and a cost of distance that isn't told from 0."""
    made = responses({"relu": SAME}, {}, SAME)
    made.accuracy.loc[{"family": "gains"}] = 0.99 - (0.99 - made.accuracy.sel(family="signed_shift")) / 2
    made.accuracy.loc[{"family": "signed_shift", "target": 0.1}] = (
        0.99 - SPREAD[:, 0, None, None].T.reshape(1, 8, 1) / 100
    )
    table = relative_table(nz.verdict(made, RULES), "made up")
    # the bands of planted networks stand between the interval and the words
    rows = {(row[1], row[2].value): (row[4], row[5], row[-1]) for row in table.rows}  # type: ignore[union-attr]
    ratio, interval, words = rows["gains", 30.0]
    assert (str(ratio), str(interval), words) == ("0.50", "0.50–0.50", "")
    assert table.columns[-1].header == "remark"
    assert rows["gains", 10.0] == (None, None, "undefined: the denominator's interval contains 0")


def test_planted_networks_stand_beside_those_of_their_activation(
    judged: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    bands = {
        "relu": (band("template", "cap", 0.3, 1.5, 2.5),),
        "abs": (band("template", "cap", 0.3, 7.0, 8.0),),
    }
    monkeypatch.setattr(reference, "relative_costs", lambda name: bands.get(name, ()))
    table = relative_table(judged, "made up")
    assert [str(cell) for cell in column(table, "planted_template")] == ["None", "None", "None", "1.50–2.50"]
    assert column(table, "planted_distance") == [None] * 4
    other = nz.verdict(responses({"gelu": SAME}, {}, SAME), RULES)
    assert "planted_template" not in {column.name for column in relative_table(other, "made up").columns}
    earlier = nz.verdict(responses({"relu": SAME}, {}, SAME), nz.Rules(targets=TARGETS, distance=("shift",)))
    assert planted_bands(earlier) == {}  # they are relative to a signed shift


def test_the_costs_table_says_what_decides(judged: Verdict) -> None:
    table = costs_table(judged, "made up")
    assert dict(zip(column(table, "family"), column(table, "decides"), strict=True)) == {
        "shift": "no",
        "gains": "intensity",
        "cap": "intensity",
        "signed_shift": "distance",
    }
    assert [str(cell) for cell in table.rows[3][3:]] == ["3.00", "6.00"]


def test_the_picture_has_each_relative_cost_between_the_bands(judged: Verdict) -> None:
    bands = [
        band("distance", "gains", 0.1, 0.3, 0.6),
        band("distance", "gains", 0.3, 0.25, 40.0),
        band("distance", "cap", 0.3, None, None),
    ]
    figure = relative_figure(judged, {"relu": bands, "abs": [band("template", "cap", 0.3, 1.0, 2.0)]})
    panels = figure.axes
    assert [axes.get_title() for axes in panels] == ["", ""]
    assert [axes.get_title(loc="left") for axes in panels] == [
        "ReLU: gains against signed_shift",
        "ReLU: cap against signed_shift",
    ]
    for axes, family in zip(panels, ("gains", "cap"), strict=True):
        drawn = [line.get_xdata()[0] for line in axes.lines if line.get_marker() in ("s", "D")]
        expected = [cost.ratio.ratio for cost in judged.relative_costs if cost.intensity == family]
        assert drawn == pytest.approx(expected)
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in panels[0].patches]
    assert bars == [pytest.approx((0.3, 0.6)), pytest.approx((0.25, 16.0))]  # cut at the edge
    assert not panels[1].patches
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["this network, 95 % interval", "planted distance"]
    assert figure.get_supxlabel().replace("\n", " ") == f"What this can't tell: {judged.caveats[-1]}."


def test_relative_costs_beyond_the_picture_and_undefined_ones() -> None:
    """Gains cost 40 times as much, and at the first displacement nothing is defined."""
    made = responses({"relu": {"signed_shift": 1.0, "gains": 40.0, "cap": 1.0}}, {}, SAME)
    made.accuracy.loc[{"target": 0.1}] = np.nan
    gains = relative_figure(nz.verdict(made, RULES), {}).axes[0]
    assert [line.get_xdata()[0] for line in gains.lines if line.get_marker() == ">"] == [16.0]
    assert "undefined" in [text.get_text() for text in gains.texts]


def test_a_verdict_on_disk(judged: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearzero.report.figures.style.DOTS_PER_INCH", 20)
    names = {path.relative_to(tmp_path).as_posix() for path in write_verdict(judged, "made up", tmp_path)}
    tables = ("verdict", "robust", "checks", "relative", "costs")
    assert names == {f"tables/{name}.{end}" for name in tables for end in ("md", "csv", "tex")} | {
        f"figures/{name}.{end}" for name in ("figure5_matched", "figure6_relative") for end in ("png", "pdf")
    }


def test_near_against_far() -> None:
    """Two runs that lose 3 and 5 points near zero, 1 and 1 far from it, at the displacement that both reach."""
    dims = ("network", "run", "part", "replacement", "fraction")
    far_too = np.array([[[0.90, 0.80], [0.88, 0.80]]])[..., None, None]
    reached = np.array([[[0.96, 0.98], [0.94, 0.98]]])[..., None, None]
    parts = xr.Dataset(
        {
            "accuracy": (dims, far_too),
            "reach_accuracy": (dims, reached),
            "reach": (("network", "run", "replacement", "fraction"), np.full((1, 2, 1, 1), 0.2)),
            "unperturbed_accuracy": (dims[:2], np.full((1, 2), 0.99)),
        },
        {"network": ["abs"], "part": ["near", "far"], "replacement": ["mean"], "fraction": [0.5]},
    )
    (row,) = near_far_table(parts, "made up").rows
    assert row[:4] == ("Abs", "mean", Number(50.0, 0), 2)
    assert [str(cell) for cell in row[4:10]] == ["10.00", "19.00", "20.00", "4.00", "1.00", "+3.00"]
    assert isinstance(row[10], Span)
    assert (row[10].low, row[10].high) == pytest.approx(
        (3 - 12.7062, 3 + 12.7062), abs=1e-3
    )  # t(1) = 12.7062, se 1
