"""What a study's page says: the same numbers as the study, and what it doesn't know it doesn't say."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats

import nearzero as nz
from nearzero.analysis.verdict import against_noise
from nearzero.evaluators.base import halves
from nearzero.page.answer import (
    answers,
    families_words,
    headline,
    mechanism_words,
    numbers_table,
    planted_table,
    power_words,
    ways_table,
    within,
)
from nearzero.page.curves import cost_charts
from nearzero.page.examples import EXAMPLES, choose_examples, matched_examples
from nearzero.page.terms import description
from nearzero.perturbations.families import FAMILIES
from nearzero.perturbations.noise import NOISES
from nearzero.report.figures.scales import reading_of
from nearzero.report.table import Column, Table
from nearzero.statistics.summaries import t_interval
from nearzero.study.spec import parse_setting, resolve

SETTINGS = {"data": "digits", "runs": 2, "units": 12, "steps": 60, "learning_rate": 0.01, "batch_size": 64}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> nz.Study:
    place = tmp_path_factory.mktemp("study") / "digits"
    return nz.Study.create(place, "quick", SETTINGS | {"test": True}).train().sweep()


@pytest.fixture(scope="module")
def page(study: nz.Study) -> str:
    return study.to_html()


def values(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="page-data">(.*?)</script>', page)
    assert found is not None
    return dict(json.loads(found[1]))


def array(page: str, name: str, dtype: str) -> np.ndarray:
    found = re.search(rf'data-array="{re.escape(name)}" data-type="\w+" data-shape="([\d,]*)">([^<]*)<', page)
    assert found is not None
    shape = [int(size) for size in found[1].split(",")]
    return np.frombuffer(base64.b64decode(found[2]), dtype).reshape(shape)


def test_curves_are_those_of_the_study(page: str, study: nz.Study) -> None:
    chart = values(page)["charts"]["level-relu-test-intensity"]
    curve = study.curve("relu", "clip", split="test")
    rows = [i for i, name in enumerate(chart["columns"]["series"]) if name == "clip"]
    assert np.allclose([chart["columns"]["x"][i] for i in rows], curve.level)
    assert np.allclose([chart["columns"]["y"][i] for i in rows], 100 * curve.mean("run"), atol=1e-5)
    ends = t_interval(100 * curve.sel(level=curve.level[0]).values)
    interval = [float(np.clip(end, 0.0, 100.0)) for end in ends]
    assert [chart["columns"][end][rows[0]] for end in ("low", "high")] == pytest.approx(interval, abs=1e-5)
    assert chart["marks"] == {}  # nothing published is about digits


def test_no_interval_of_an_accuracy_leaves_the_scale(page: str) -> None:
    """With two runs the t intervals of high accuracies would reach beyond 100 %."""
    charts = [chart for name, chart in values(page)["charts"].items() if name.startswith("level")]
    assert charts
    ends = [end for chart in charts for key in ("low", "high") for end in chart["columns"][key]]
    assert (min(ends), max(ends)) == (0.0, 100.0)


def test_nothing_published_is_mentioned_beside_a_study_that_departs(page: str) -> None:
    assert "Not compared with the published numbers: data = digits" in page
    for words in ("Tables: measured, published, difference", "Beside the published numbers", "Open markers"):
        assert words not in page


def test_networks_are_those_of_the_study(page: str, study: nz.Study, digits: nz.datasets.Dataset) -> None:
    network = study.network("abs")
    layer = nz.HiddenLayer(network, digits.test.pixels)
    ranges = nz.unit_ranges(network, digits.train.pixels)
    assert np.array_equal(array(page, "abs-00/z", "<f4"), layer.z)
    assert np.array_equal(array(page, "abs-00/w2", "<f4"), network.w2)
    assert np.array_equal(array(page, "abs-00/b2", "<f4"), network.b2)
    assert np.array_equal(array(page, "images", "u1"), digits.test.pixels)
    assert np.array_equal(array(page, "labels", "<u2"), digits.test.labels)
    assert np.array_equal(array(page, "abs-00/unit/offset", "<f8"), ranges.post.width)
    critical = nz.critical_levels(network, digits.test.pixels, family="offset", ranges=ranges)
    found = array(page, "abs-00/critical/offset/below", "<f4")
    assert np.array_equal(found, critical.critical("below").astype(np.float32), equal_nan=True)
    weights = array(page, "abs-00/weights", "u1").astype(float) - 128
    assert (
        np.abs(weights / 127 - network.w1 / np.abs(network.w1).max(axis=1, keepdims=True)).max() < 0.5 / 126
    )


def test_the_explorer_opens_on_the_unit_whose_removal_changes_most(
    page: str, study: nz.Study, digits: nz.datasets.Dataset
) -> None:
    for each in values(page)["networks"]:
        network = study.network(each["activation"])
        kept = np.ones(network.units)
        before = plain_predictions(network, digits.test.pixels, lambda z, act: act(z))
        shares = []
        for unit in range(network.units):
            kept[unit] = 0.0
            after = plain_predictions(network, digits.test.pixels, lambda z, act: act(z) * kept)  # noqa: B023
            shares.append((after != before).mean())
            kept[unit] = 1.0
        assert each["removed"] == pytest.approx(max(shares), abs=1.5 / len(before))  # a near tie
        assert shares[each["first"]] == pytest.approx(max(shares), abs=1.5 / len(before))
        assert max(shares) > 0.02


def test_without_a_verdict_the_page_says_so(page: str, study: nz.Study) -> None:
    assert "No verdict was made for this study, so the question isn't answered." in page.replace(
        "&#x27;", "'"
    )
    assert f"nearzero verdict {study.folder}" in page
    assert "data-finding" not in page
    low, high = within(study, "relu", "scale", 1.0)  # type: ignore[misc]
    curve = 100 * study.curve("relu", "scale").mean("run")
    whole = 100 * float(study.response.unperturbed_accuracy.sel(network="relu", split="train").mean())
    assert (curve.sel(level=slice(low, high)) >= whole - 1.0).all()
    assert float(curve.sel(level=slice(None, low * 0.999))[-1]) < whole - 1.0


def test_with_a_verdict_the_page_gives_its_findings(study: nz.Study, page: str) -> None:
    judged = nz.Study.create(study.folder, "quick", SETTINGS | {"test": True, "verdict_draws": 1})
    verdict = judged.judge()
    text = judged.to_html()
    for network in verdict.networks:
        assert f'data-finding="{verdict.finding(network)}"' in text
    assert f"D, points: distance minus cap, displacement {100 * max(verdict.rules.targets):g} %" in text
    links = re.findall(r'href="#(term-[^"]+)"', text)
    assert {"term-signed-shift", "term-gains", "term-cap", "term-the-rules"} <= set(links)
    assert all(f'<dt id="{link}">' in text for link in links)
    costs = values(text)["charts"]["cost-abs"]["columns"]
    row = next(row for row in verdict.comparisons if (row.network, row.intensity) == ("abs", "gains"))
    place = list(zip(costs["series"], costs["x"], strict=True)).index(("gains", 100 * row.target))
    assert costs["y"][place] == pytest.approx(row.intensity_cost, abs=1e-5)
    assert (
        "gains: A gain drawn for each unit: y = z exp(p g), g from the standard normal distribution. cap: "
        in text
    )


def judged_twice(noise: float = 0.2) -> nz.analysis.verdict.Verdict:
    """Return a verdict on planted costs: one direction by the rules, the opposite one by centred accuracy."""
    return nz.analysis.verdict.judge(*planted(noise))


def planted(noise: float, gains: float = 0.1, cap: float = 0.0) -> tuple[xr.Dataset, nz.Rules]:
    """Return responses in which distance costs 20 points at 50 %, and others as given, and the rules."""
    rules = nz.Rules(targets=(0.1, 0.5), checks=("centred_accuracy",))
    families, sides, runs = ("signed_shift", "gains", "cap", "floor", "noise"), ("below", "above"), 8
    jitter = np.random.default_rng(0).normal(0, 0.003, (1, runs, len(families), 2, 2))
    lost = np.zeros((1, runs, len(families), 2, 2))
    lost[..., 0, :, 1], lost[..., 1, :, 1], lost[..., 3, :, 1], lost[..., 4, :, 1] = 0.2, gains, 0.4, noise
    lost[..., 2, :, 1] = cap
    centred = lost.copy()
    centred[..., 2, :, 1] = 0.5
    place = ("network", "run", "family", "side", "target")
    responses = xr.Dataset(
        {
            "accuracy": (place, 0.9 - lost - jitter),
            "centred_accuracy": (place, 0.9 - centred - jitter),
            "unperturbed_accuracy": (("network", "run"), np.full((1, runs), 0.9)),
        },
        {"network": ["relu"], "family": list(families), "side": list(sides), "target": [0.1, 0.5]},
    )
    return responses, rules


def test_a_card_counts_what_each_way_of_measuring_finds() -> None:
    verdict = judged_twice()
    assert verdict.robustness("relu") == "changes with centred accuracy"
    table = ways_table(verdict, "relu")
    names = [column.name for column in table.columns]
    rules, centred = (dict(zip(names, row, strict=True)) for row in table.rows)
    assert (rules["distance_costs_more"], rules["intensity_costs_more"]) == (2, 0)
    assert (centred["distance_costs_more"], centred["intensity_costs_more"]) == (1, 1)
    worst = min(verdict.checks["centred_accuracy"], key=lambda row: row.difference)
    assert worst.difference == pytest.approx(-30, abs=1)
    assert centred["min"] == f"{worst.difference:+.2f} [{worst.low:.2f} to {worst.high:.2f}], cap 50 %"
    said = headline(verdict, "relu")
    assert said.startswith("It depends on how it is measured.")
    assert said.endswith(
        "in 2 of 4 comparisons on training images; but centred accuracy also finds the opposite."
    )
    families = families_words(verdict, "relu")
    costs = verdict.costs.sel(network="relu", target=0.5).mean("run")
    assert f"signed_shift {float(costs.sel(family='signed_shift')):.2f} (as distance)" in families
    assert f"floor {float(costs.sel(family='floor')):.2f} (of intensity, more than distance)" in families
    assert f"noise {float(costs.sel(family='noise')):.2f} (neither of them" in families


@pytest.mark.parametrize(
    ("gains", "cap", "words"),
    [
        (0.01, 0.01, "As far as"),
        (0.1, 0.1, "In part: "),
        (0.25, 0.6, "No: "),
        (0.01, 0.1, "Not told: one family"),
    ],
)
def test_a_card_says_where_a_network_lies_among_planted_ones(gains: float, cap: float, words: str) -> None:
    responses, rules = planted(0.2, gains, cap)
    verdict = nz.analysis.verdict.judge(responses, rules)
    said = mechanism_words(verdict, "relu", against_noise(responses, rules))
    assert said.startswith(words)
    table = planted_table(verdict, "relu")
    assert table is not None
    costs = verdict.costs.sel(network="relu", target=0.5).mean("run")
    shown = {str(family): float(str(words).split()[0]) for family, words, *_ in table.rows}
    for family in ("gains", "cap"):
        ratio = float(costs.sel(family=family) / costs.sel(family="signed_shift"))
        assert shown[family] == pytest.approx(ratio, abs=0.005)
    card = answers(None, verdict, 1.0, "", beside=against_noise(responses, rules))  # type: ignore[arg-type]
    assert card.index('class="finding"') < card.index(html.escape(said)) < card.index("By how much")


@pytest.mark.parametrize("noise", [0.3, 0.0])
def test_a_card_and_the_numbers_say_what_distance_costs_beyond_noise(noise: float, study: nz.Study) -> None:
    responses, rules = planted(noise)
    both = xr.concat([responses.assign_coords(network=["abs"]), responses], "network")
    beside = against_noise(both, rules)
    costs = nz.analysis.verdict.judge(both, rules).costs.sel(network="relu", target=0.5)
    differences = (costs.sel(family="signed_shift") - costs.sel(family="noise")).values
    interval = stats.ttest_1samp(differences, 0.0).confidence_interval(0.9)
    words = f"{differences.mean():+.2f} [{interval.low:.2f} to {interval.high:.2f}] (noise)"
    assert f"here distance costs, minus noise, at displacement 50 %, {words}." in mechanism_words(
        nz.analysis.verdict.judge(both, rules), "relu", beside
    )
    rows = numbers_table(study, nz.analysis.verdict.judge(both, rules), beside).rows
    row = next(
        row for row in rows if row[:2] == ("ReLU", "D, points: distance minus noise, displacement 50 %")
    )
    assert row[3].value == pytest.approx(differences.mean())  # type: ignore[union-attr]


def test_the_picture_of_a_card_shows_noise() -> None:
    verdict = judged_twice()
    chart = next(iter(cost_charts(verdict)))
    assert chart.series == ["signed_shift", "gains", "cap", "noise"]
    place = list(zip(chart.columns["series"], chart.columns["x"], strict=True)).index(("noise", 50.0))
    costs = verdict.costs.sel(network="relu", family="noise", target=0.5)
    assert chart.columns["y"][place] == pytest.approx(float(costs.mean("run")), abs=1e-5)


def test_without_noise_a_card_says_nothing_of_it() -> None:
    responses, rules = planted(0.2)
    without = responses.sel(family=["signed_shift", "gains", "cap", "floor"])
    verdict = nz.analysis.verdict.judge(without, rules)
    assert against_noise(without, rules) is None
    assert "oise" not in answers(None, verdict, 1.0, "")  # type: ignore[arg-type]


def test_the_numbers_have_the_extremes_of_all_checks(study: nz.Study) -> None:
    responses, rules = planted(0.2)
    both = xr.concat([responses.assign_coords(network=["abs"]), responses], "network")
    verdict = nz.analysis.verdict.judge(both, rules)
    rows = {row[1]: row for row in numbers_table(study, verdict).rows if row[0] == "ReLU"}
    every = [
        row for row in (*verdict.comparisons, *verdict.checks["centred_accuracy"]) if row.network == "relu"
    ]
    least, greatest = (choose(row.difference for row in every) for choose in (min, max))
    named = {str(words).split(" D,")[0]: row[3] for words, row in rows.items() if " D," in str(words)}
    assert {name: cell.value for name, cell in named.items()} == {"least": least, "greatest": greatest}  # type: ignore[union-attr]
    assert any(str(words).endswith("cap, displacement 50 %, by centred accuracy") for words in rows)


def test_intervals_of_accuracies_end_with_the_scale(study: nz.Study) -> None:
    """Two runs far apart have a t interval that reaches beyond 0 and 100 %; the page cuts it there."""
    other = nz.Study.open(study.folder)
    apart = xr.DataArray([0.05, 0.95], dims="run")
    other.history = study.history.assign(train_accuracy=xr.ones_like(study.history.train_accuracy) * apart)
    rows = [row for row in numbers_table(other, None).rows if row[1] == "training accuracy, %"]
    assert len(rows) == 2
    assert all(str(row[4]) == "0.00–100.00" for row in rows)


def test_families_are_described_by_their_docstrings() -> None:
    for name in (*FAMILIES, *NOISES):
        words = description(name, nz.Conduct())
        assert "=" in words
        assert "`" not in words
        assert "Example" not in words
    assert "as-run: y = z (max - p r) / max + p r. " in description("offset", nz.Conduct())
    assert "as-written" not in description("offset", nz.Conduct())
    assert "as-written: y = z (1 - p) r + p r. " in description("offset", nz.Conduct(offset="as-written"))
    assert description("offset", nz.Conduct(offset="shift")).endswith(
        "Here: the offset is added to z, and nothing else; unit ranges are taken after the activation."
    )


def test_the_commands_make_the_spec_again(page: str, study: nz.Study) -> None:
    found = re.search(r'<pre id="commands"[^>]*>(.*?)</pre>', page, re.DOTALL)
    assert found is not None
    first, *_, last = html.unescape(found[1]).splitlines()
    words = shlex.split(first)
    assert words[:3] == ["nearzero", "reproduce", "--preset"]
    settings = dict(parse_setting(words[place + 1]) for place, word in enumerate(words) if word == "--set")
    assert resolve(words[3], settings) == study.spec
    assert last == f"nearzero page {study.folder}"


def test_the_papers_name_and_the_terms_are_on_the_page(page: str) -> None:
    assert "Alan Oursland, Neural Networks Use Distance Metrics, arXiv 2411.17932 (2024)" in page
    wanted = (
        "boundary",
        "displacement d",
        "unit range r",
        "equivalent",
        "robust",
        "mixed",
        "the rules",
        "changes with",
    )
    for term in (*wanted, "audit", "holds, turns, undecided"):
        assert f">{term}</dt>" in page
    assert page.count("ttest baseline identity") == 2  # in what was run, and in the methods to be copied


def test_runs_are_chosen(study: nz.Study, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    text = study.to_html(path, runs=[1])
    assert path.read_text(encoding="utf-8") == text
    assert [each["key"] for each in values(text)["networks"]] == ["abs-01", "relu-01"]
    assert f"nearzero page {study.folder} --runs 1" in text
    with pytest.raises(nz.InputError, match="there is no run 7: the study has the runs 0 to 1"):
        study.to_html(runs=[7])


def test_a_study_that_diverged_still_has_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nearzero.study.data as data

    def hot_start(seeds: object, name: str, **shape: int) -> nz.Stack:
        stack = nz.networks.initial_stack(seeds, name, **shape)
        stack.w2[:] *= 1e30
        return stack

    monkeypatch.setattr(data, "initial_stack", hot_start)
    study = nz.Study.create(tmp_path / "study", "quick", SETTINGS | {"activations": "relu"}).train().sweep()
    text = study.to_html()
    assert "No run has an accuracy: all of them diverged." in text
    assert values(text)["networks"] == []
    with pytest.raises(nz.InputError, match="run 0 of ReLU diverged; choose another run for the page"):
        study.to_html(runs=[0])


def test_a_kept_power_table_is_shown(study: nz.Study, page: str) -> None:
    assert "No power table of these rules is kept" in page
    path = study.folder / "power.json"
    kept = {"rules": asdict(study.spec.rules), "table": [{"mechanism": "<b>", "right": "1.00"}]}
    path.write_text(json.dumps(kept), encoding="utf-8")
    assert "&lt;b&gt;" in study.to_html()
    path.write_text(json.dumps(kept | {"rules": asdict(nz.Rules(margin=2))}), encoding="utf-8")
    assert "No power table of these rules is kept" in study.to_html()
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(nz.InputError, match=r"power.json can't be read \(KeyError: 'table'\); delete it"):
        study.to_html()
    path.unlink()


def test_a_card_says_how_often_the_rules_are_right() -> None:
    row = {"activation": "Abs", "strength": "8", "right": "90 %", "wrong direction": "1 %", "studies": "20"}
    row |= {"findings": "distance 19, mixed 1"}
    rows = [
        row | {"mechanism": "distance", "runs": "10", "right": "50 %"},
        row | {"mechanism": "distance", "runs": "20"},
        row | {"mechanism": "mixed", "runs": "20"},
        row | {"mechanism": "null", "runs": "20", "wrong direction": "3 %"},
        row | {"mechanism": "template", "activation": "ReLU", "runs": "20"},
    ]
    table = Table(
        name="power",
        title="",
        caption="",
        columns=tuple(Column(name, name, kind="text") for name in rows[0]),
        rows=tuple(tuple(row[name] for name in rows[0]) for row in rows),
        group="activation",
    )
    assert power_words(table, "abs") == (
        " In planted studies of 20 runs (strength 8) these rules find planted distance in 90 % and the opposite in "
        "1 %; in networks that do half of each: distance 19, mixed 1 of 20 (they can't tell these apart); a direction "
        "where nothing differs in 3 %; with 95 % intervals."
    )
    assert power_words(table, "gelu") == power_words(None, "abs") == ""


def test_reproducing_makes_the_page(tmp_path: Path) -> None:
    study = nz.reproduce("quick", tmp_path / "study", settings=SETTINGS | {"runs": 1, "activations": "relu"})
    assert "<!DOCTYPE html>" in (study.folder / "page.html").read_text(encoding="utf-8")


def test_examples_are_a_fixed_choice() -> None:
    chosen = choose_examples(10_000)
    assert len(set(chosen.tolist())) == EXAMPLES
    assert np.array_equal(chosen, np.sort(chosen))
    assert np.array_equal(chosen, choose_examples(10_000))
    assert chosen.max() < 10_000
    assert np.abs(np.histogram(chosen, 10)[0] - EXAMPLES / 10).max() < 60  # from everywhere


def plain_predictions(network: nz.TwoLayer, x: np.ndarray, change: Callable[..., np.ndarray]) -> np.ndarray:
    """Return predictions by a plain forward pass in float64; `change` gives a' from z and the activation."""
    z = x.astype(np.float64) @ network.w1.T.astype(np.float64) + network.b1
    act = {"relu": lambda z: np.maximum(z, 0.0), "abs": np.abs}[network.activation]
    return np.asarray((change(z, act) @ network.w2.T.astype(np.float64) + network.b2).argmax(axis=1))


@pytest.mark.parametrize("name", ["abs", "relu"])
def test_examples_at_equal_displacement_are_those_of_a_plain_forward_pass(
    study: nz.Study, digits: nz.datasets.Dataset, name: str
) -> None:
    network, design, rules = study.network(name), study.spec.design_of(name, 0), study.spec.rules
    labels, inputs = digits.test.labels, digits.test.pixels
    found = matched_examples(
        network,
        training=nz.Pixels(digits.train.pixels),
        examples=nz.Pixels(inputs),
        labels=labels,
        design=design,
        rules=rules,
    )
    assert found is not None
    assert found.target == 0.3
    reference, _ = halves(len(digits.train), design.seed)
    x = digits.train.pixels[reference].astype(np.float64)
    z = x @ network.w1.T.astype(np.float64) + network.b1
    a = np.abs(z) if name == "abs" else np.maximum(z, 0.0)
    low, high = a.min(axis=0), a.max(axis=0)
    live = high > low
    drawn = {
        family: nz.make_family(family, design.conduct, design.first_draw)
        for family in ("signed_shift", "gains")
    }
    ranges = nz.unit_ranges(network, digits.train.pixels[reference])
    sign = np.sign(np.asarray(drawn["signed_shift"].at(1.0, ranges).offset, np.float64))
    growth = np.log(np.asarray(drawn["gains"].at(1.0, ranges).scale, np.float64))
    assert set(np.unique(sign[live])) == {-1.0, 1.0}
    level = {family: value for (family, _), value in found.levels.items()}

    def cap(z: np.ndarray, act: Callable[..., np.ndarray]) -> np.ndarray:
        return np.where(live, np.minimum(act(z), low + level["cap"] * (high - low)), act(z))

    changes: dict[str, Callable[..., np.ndarray]] = {
        "signed_shift": lambda z, act: act(
            z + level["signed_shift"] * sign * np.where(live, high - low, 0.0)
        ),
        "gains": lambda z, act: act(z * np.exp(level["gains"] * growth)),
        "cap": cap,
    }
    before = plain_predictions(network, inputs, lambda z, act: act(z))
    changed = {}
    for family, change in changes.items():
        moved = change(z, lambda z: np.abs(z) if name == "abs" else np.maximum(z, 0.0))
        assert np.sqrt(np.square(moved - a).sum() / np.square(a).sum()) == pytest.approx(0.3, rel=1e-3)
        changed[family] = (before == labels) & (plain_predictions(network, inputs, change) != before)
        assert (changed[family] != found.changed(family)).sum() <= 1  # a near tie
    assert changed["signed_shift"].sum() > 10
    for intensity in rules.intensity:
        first, second = changed["signed_shift"], changed[intensity]
        expected = [int(own.sum()) for own in (first & ~second, second & ~first, first & second)]
        assert (
            np.abs(np.subtract(expected, [own.sum() for own in found.sets("signed_shift", intensity)])).max()
            <= 2
        )


def test_the_page_counts_what_changes_at_equal_displacement(study: nz.Study) -> None:
    judged = nz.Study.create(study.folder, "quick", SETTINGS | {"test": True, "verdict_draws": 1})
    verdict = judged.judge()
    text = judged.to_html()
    assert "Which predictions change at equal displacement" in text
    for each in values(text)["networks"]:
        assert len(each["matched"]) == 3 * len(verdict.rules.distance) * len(verdict.rules.intensity)
        for strip in each["matched"]:
            assert f'id="{strip["id"]}"' in text
            shown = re.search(rf'<h4>[^<]*: (\d+)</h4><div id="{strip["id"]}"', text)
            assert shown is not None
            assert len(strip["items"]) == min(8, int(shown[1]))


def test_every_family_has_a_reading() -> None:
    readings = {name: reading_of(name) for name in (*FAMILIES, *NOISES)}
    assert {name for name, reading in readings.items() if reading == "neither"} == set(NOISES)
    assert nz.Rules().distance[0] in [name for name, reading in readings.items() if reading == "distance"]
    assert all(readings[name] == "intensity" for name in nz.Rules().intensity)
