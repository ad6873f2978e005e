"""`benchmarks/validation.py` on a few studies, what it keeps, and the page that is made from it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats

import nearzero as nz
from nearzero.analysis.verdict import costs, judge
from nearzero.mechanisms import reference
from nearzero.mechanisms.power import Rate
from nearzero.mechanisms.studies import Condition, as_responses, study_responses

ROOT = Path(__file__).parents[2]
MORE = ("distance costs more", "intensity costs more", "mixed")


@pytest.fixture(scope="module")
def validation() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("validation")
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def tables(validation: ModuleType) -> ModuleType:
    return importlib.import_module("validation_tables")


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    return json.loads((ROOT / "results" / "validation.json").read_text())


@pytest.fixture(scope="module")
def few(validation: ModuleType) -> dict[str, list[dict[str, Any]]]:
    """Three studies of six runs of each mechanism, in the activation that the earlier rules got wrong."""
    own = [each for each in validation.HEADLINE if each.activation == "relu"]
    return {
        each.mechanism: [validation.measured(replace(each, runs=6), study) for study in range(3)]
        for each in own
    }


def costs_of(validation: ModuleType, records: list[dict[str, Any]]) -> xr.DataArray:
    found = [costs(validation.responses_of(each)).isel(network=0, drop=True) for each in records]
    return xr.concat(found, "study").transpose("study", "run", "family", "target")


# --- a few studies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mechanism", "right"), [("distance", "distance costs more"), ("template", "intensity costs more")]
)
def test_planted_mechanisms_are_found(
    mechanism: str, right: str, validation: ModuleType, few: dict[str, list[dict[str, Any]]]
) -> None:
    for record in few[mechanism]:
        assert judge(validation.responses_of(record)).finding("relu") in (right, "inconclusive")
    (batch,) = validation.batched([validation.responses_of(each) for each in few[mechanism]], "relu")
    counts = validation._counts([judge(batch)])
    assert (counts["studies"], counts["overall"].get(right, 0) >= 2) == (3, True)


def test_what_is_kept_of_a_study_gives_the_verdict_of_the_study(validation: ModuleType) -> None:
    condition = replace(validation.CHECKED[1], runs=6)
    record = json.loads(json.dumps(validation.measured(condition, 3)))
    direct = judge(
        study_responses(condition, 3, seed=validation.SEED, design=nz.Design(draws=validation.DRAWS))
    )
    again = judge(validation.responses_of(record))
    assert (
        set(again.checks)
        == set(direct.checks)
        == {"whitened", "centred_logits", "centred_accuracy", "held_out"}
    )
    for name in ("", *direct.checks):
        one, other = (each.checks[name] if name else each.comparisons for each in (direct, again))
        for first, second in zip(one, other, strict=True):
            assert (first.finding, first.n) == (second.finding, second.n)
            assert first.difference == pytest.approx(second.difference, abs=1e-9, nan_ok=True)
    fewer = judge(validation.responses_of(record, 5))
    assert fewer.finding("relu") == "description only"


# --- nulls --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("difference", [1.0, -1.0])
@pytest.mark.parametrize("pool", ["study", "all"])
def test_a_null_at_the_margin_is_there(
    difference: float, pool: str, validation: ModuleType, few: dict[str, list[dict[str, Any]]]
) -> None:
    null = validation.Null(validation.HEADLINE[1], "shifted", pool, difference)
    measured = costs_of(validation, few["distance"]).sel(family=list(validation.DEFAULT))
    pools = null.pools(measured)
    assert [each.sizes["run"] for each in pools] == ([6, 6, 6] if pool == "study" else [18])
    for each in pools:
        gap = each.sel(family="signed_shift") - each.sel(family=["gains", "cap"])
        np.testing.assert_allclose(gap.mean("run"), difference, atol=1e-10)
    drawn = null.study(pools, 0)
    assert drawn.sizes["run"] == max(validation.RUNS)
    rows = drawn.isel(network=0).transpose("run", "family", "target").values
    sources = [{run.tobytes() for run in each.transpose("run", "family", "target").values} for each in pools]
    assert any(all(row.tobytes() in source for row in rows) for source in sources)  # of one pool
    assert (null.study(pools, 1) != drawn).any()


def test_dealt_studies_find_nothing_as_a_rule(
    validation: ModuleType, few: dict[str, list[dict[str, Any]]]
) -> None:
    """Of 24 studies; five or more false ones have a probability below 0.006 at 5 %."""
    false = 0
    for mechanism, records in few.items():
        null = validation.Null(Condition(mechanism=mechanism, activation="relu"), "dealt")
        pools = null.pools(costs_of(validation, records).sel(family=list(validation.DEFAULT)))
        drawn = xr.concat([null.study(pools, number) for number in range(12)], "network")
        whole = xr.ones_like(drawn.isel(family=0, target=0, drop=True))
        verdict = judge(validation.named(as_responses(drawn, whole), 0, "relu").isel(run=slice(0, 6)))
        false += sum(verdict.finding(study) in MORE for study in verdict.networks)
    assert stats.binom.sf(4, 24, 0.05) < 0.006
    assert false <= 4


# --- what is kept while measuring ---------------------------------------------------------------------------


def test_a_study_cut_off_is_measured_again(validation: ModuleType, tmp_path: Path) -> None:
    condition = replace(validation.HEADLINE[1], studies=2, runs=2)
    state = validation.State(tmp_path)
    for study in range(2):
        state.add(condition, {"study": study, "value": 1.5})
    path = state.path(condition)
    path.write_text(path.read_text()[:-9])
    assert set(state.of(condition)) == {0}
    assert state.of(replace(condition, strength=3.0)) == {}
    assert state.path(replace(condition, studies=9)) == path  # more studies are added to those there are


def test_a_line_that_was_cut_off_doesnt_swallow_the_next(validation: ModuleType, tmp_path: Path) -> None:
    condition = replace(validation.HEADLINE[1], studies=3)
    state = validation.State(tmp_path)
    state.path(condition).write_text('{"study": 0, "val')
    state.add(condition, {"study": 1})
    assert set(state.of(condition)) == {1}


def test_studies_are_measured_in_rounds_of_all_conditions(validation: ModuleType, tmp_path: Path) -> None:
    state = validation.State(tmp_path)
    first = validation.CONDITIONS[0]
    state.add(first, {"study": 0})
    jobs = list(validation.rounds(state))
    assert len(jobs) == len(set(jobs)) == sum(each.studies for each in validation.CONDITIONS) - 1
    tenth = jobs[: len(jobs) // 5]
    assert {condition for condition, _ in tenth} == set(validation.CONDITIONS)


def test_conditions_are_told_apart(validation: ModuleType) -> None:
    plain = [each for each in validation.CONDITIONS if not each.checked]
    names = [each.name for each in plain]
    assert len(set(names)) == len(names)
    assert {each.name for each in validation.CHECKED} == {each.name for each in validation.PLANTED}
    drawn = [each.generator(validation.SEED, "task", 0).integers(2**62) for each in plain]
    assert len(set(drawn)) == len(names)


# --- what is kept -------------------------------------------------------------------------------------------


def test_the_page_has_the_tables_of_what_is_kept(tables: ModuleType, kept: dict[str, Any]) -> None:
    page = "".join((ROOT / "docs" / name).read_text() for name in tables.PAGES)
    for name, table in tables.tables(kept).items():
        assert f"<!-- {name} -->\n{table}\n<!-- /{name} -->" in page


def test_what_is_kept_was_made_by_these_settings(validation: ModuleType, kept: dict[str, Any]) -> None:
    assert (kept["seed"], kept["draws"]) == (validation.SEED, validation.DRAWS)
    conditions = [each["condition"] for each in kept["results"]]
    assert conditions == json.loads(json.dumps([validation.asdict(each) for each in validation.CONDITIONS]))
    nulls = [each["null"] for each in kept["nulls"]]
    assert nulls == json.loads(json.dumps([validation.asdict(each) for each in validation.NULLS]))
    assert kept["rules"] == json.loads(json.dumps(validation.asdict(nz.Rules())))
    assert not kept["commit"].endswith("-dirty")


def test_the_packages_bands_are_those_of_what_is_kept(tables: ModuleType, kept: dict[str, Any]) -> None:
    rows = [band for name in ("abs", "relu") for band in reference.relative_costs(name)]
    key = itemgetter("mechanism", "activation", "family", "target")
    assert sorted(map(vars, rows), key=key) == sorted(tables.bands(kept["results"]), key=key)
    own = next(
        each["ratios"]
        for result in kept["results"]
        if result["condition"]["mechanism"] == "template" and "relative_costs" in result
        for each in result["relative_costs"]
        if (each["family"], each["target"]) == ("cap", 0.3)
    )
    results = [
        {
            "condition": {"mechanism": "template", "activation": "abs"},
            "relative_costs": [{"family": "cap", "target": 0.3, "ratios": [*own, None]}],
        }
    ]
    (band,) = tables.bands(results)
    assert (band["studies"], band["defined"]) == (len(own) + 1, sum(each is not None for each in own))
    assert band["low"] == pytest.approx(np.nanquantile(np.array(own, float), 0.05))


def test_false_findings_are_as_rare_as_they_should_be(kept: dict[str, Any]) -> None:
    """For every null of the default rules, the interval of the rate reaches down to 5 % or below."""
    own = [
        (null["null"], each)
        for null in kept["nulls"]
        for each in null["verdicts"]
        if each["rules"] == "default"
    ]
    assert len(own) == 22 * 3
    for null, each in own:
        false, studies = sum(each["overall"].get(name, 0) for name in MORE), each["studies"]
        assert studies >= 1000
        low = stats.beta.ppf(0.025, false, studies - false + 1) if false else 0.0
        assert low <= 0.05, (null, each)


def test_planted_mechanisms_are_told_and_never_as_the_other(kept: dict[str, Any]) -> None:
    """With 10 and 20 runs, at least 95 % right and at most 1 % wrong, in 300 studies at strength 8, 100 elsewhere."""
    for result in kept["results"]:
        condition = result["condition"]
        if condition["null"] or condition["checked"] or condition["share"] is not None:
            continue
        right, wrong = MORE[:2] if condition["mechanism"] == "distance" else MORE[1::-1]
        for each in result["verdicts"]:
            if each["rules"] == "default" and each["runs"] >= 10:
                assert each["studies"] >= (300 if condition["strength"] == 8 else 100)
                assert each["overall"].get(right, 0) >= 0.95 * each["studies"], condition
                assert each["overall"].get(wrong, 0) <= 0.01 * each["studies"], condition


def test_relu_mixtures_are_never_told_as_what_doesnt_dominate(kept: dict[str, Any]) -> None:
    for result in kept["results"]:
        condition = result["condition"]
        if condition["activation"] == "relu" and condition["share"] in (0.25, 0.75):
            other = MORE[0] if condition["share"] < 0.5 else MORE[1]
            for each in result["verdicts"]:
                if each["rules"] == "default":
                    assert each["overall"].get(other, 0) <= 0.05 * each["studies"], condition


def test_shares_have_their_clopper_pearson_interval(tables: ModuleType) -> None:
    low, high = stats.beta.ppf(0.025, 12, 400 - 12 + 1), stats.beta.ppf(0.975, 13, 400 - 12)
    assert tables._share(Rate(12, 400)) == ("3.0", f"{100 * low:.1f}–{100 * high:.1f}")
    assert tables._share(Rate(0, 400))[1].startswith("0.0–0.9")
