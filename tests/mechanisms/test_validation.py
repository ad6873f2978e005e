"""`benchmarks/validation.py` on a few studies, what it keeps, and the page that is made from it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

import nearzero as nz
from nearzero.analysis.verdict import costs, judge
from nearzero.mechanisms.studies import as_responses, dealt, study_responses

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
def few(validation: ModuleType) -> dict[str, dict[int, dict[str, Any]]]:
    """Six studies of six runs of each mechanism."""
    conditions = {each.mechanism: replace(each, studies=6, runs=6) for each in validation.HEADLINE}
    return {
        name: {study: validation.measured(condition, study) for study in range(6)}
        for name, condition in conditions.items()
    }


def overall(responses: Any, rules: nz.Rules | None = None) -> str:
    verdict = judge(responses, rules)
    return verdict.of(verdict.networks[0]).split(" (")[0]


# --- a few studies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mechanism", "right"), [("distance", "distance costs more"), ("template", "intensity costs more")]
)
def test_planted_mechanisms_are_found(
    mechanism: str, right: str, validation: ModuleType, few: dict[str, dict[int, dict[str, Any]]]
) -> None:
    for rules in (nz.Rules(), nz.Rules(distance=("signed_shift",))):
        found = [overall(validation._again(each, rules, 6), rules) for each in few[mechanism].values()]
        assert found.count(right) >= 5
        assert set(found) <= {right, "inconclusive"}


def test_dealt_studies_find_nothing_as_a_rule(
    validation: ModuleType, few: dict[str, dict[int, dict[str, Any]]]
) -> None:
    """Of 24 studies; five or more false ones have a probability below 0.006 at 5 %."""
    false = 0
    for number, record in enumerate([each for own in few.values() for each in own.values()]):
        responses = validation._again(record, nz.Rules(), 6)
        before = costs(responses).sel(family=["shift", "gains", "cap"])
        for deal in range(2):
            after = dealt(before, np.random.default_rng([number, deal]))
            false += overall(as_responses(after, responses.unperturbed_accuracy)) in MORE
    assert stats.binom.sf(4, 24, 0.05) < 0.006
    assert false <= 4


def test_what_is_kept_of_a_study_gives_the_verdict_of_the_study(
    validation: ModuleType, few: dict[str, dict[int, dict[str, Any]]]
) -> None:
    condition = replace(validation.HEADLINE[0], runs=6)
    design = nz.Design(draws=validation.DRAWS)
    direct = judge(study_responses(condition, 3, seed=validation.SEED, design=design))
    record = json.loads(json.dumps(few["distance"][3]))
    again = judge(validation._again(record, nz.Rules(), 6))
    for one, other in zip(direct.comparisons, again.comparisons, strict=True):
        assert (one.finding, one.n) == (other.finding, other.n)
        assert one.difference == pytest.approx(other.difference, abs=1e-9, nan_ok=True)


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


def test_conditions_are_told_apart(validation: ModuleType) -> None:
    names = [each.name for each in validation.CONDITIONS]
    assert len(set(names)) == len(names)
    drawn = [each.generator(validation.SEED, "task", 0).integers(2**62) for each in validation.CONDITIONS]
    assert len(set(drawn)) == len(names)


# --- what is kept -------------------------------------------------------------------------------------------


def test_the_page_has_the_tables_of_what_is_kept(tables: ModuleType, kept: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "validation.md").read_text()
    made = tables.tables(kept)
    assert set(made) == {"nulls", "planted", "costs", "strength", "mixtures"}
    for name, table in made.items():
        assert f"<!-- {name} -->\n{table}\n<!-- /{name} -->" in page


def test_what_is_kept_was_made_by_these_settings(validation: ModuleType, kept: dict[str, Any]) -> None:
    assert (kept["seed"], kept["draws"]) == (validation.SEED, validation.DRAWS)
    conditions = [each["condition"] for each in kept["results"] if each["condition"]["null"] != "dealt"]
    plain = json.loads(json.dumps([validation.asdict(each) for each in validation.CONDITIONS]))
    assert conditions == plain
    assert kept["rules"] == json.loads(json.dumps(validation.asdict(nz.Rules())))


def test_false_positives_and_power_are_what_was_asked_for(tables: ModuleType, kept: dict[str, Any]) -> None:
    """The interval of the false-positive rate reaches down to 5 %; nine in ten planted mechanisms are found."""
    nulls = [
        (sum(one["overall"].get(name, 0) for name in MORE), one["studies"])
        for each in kept["results"]
        if each["condition"]["null"] in ("one family", "dealt", "chance labels")
        for one in each["verdicts"]
        if one["rules"] == "default"
    ]
    assert sum(studies for _, studies in nulls) >= 400
    for false, studies in nulls:
        low = stats.beta.ppf(0.025, false, studies - false + 1) if false else 0.0
        assert low <= 0.05
    for condition, right in (("distance", "distance costs more"), ("template", "intensity costs more")):
        (main,) = (
            each
            for each in kept["results"]
            if each["condition"]["mechanism"] == condition
            and each["condition"]["null"] == ""
            and each["condition"]["runs"] == 20
        )
        counts = {one["runs"]: one for one in main["verdicts"] if one["rules"] == "default"}
        assert set(counts) == {6, 10, 20}
        for one in counts.values():
            assert one["studies"] >= 200
            assert one["overall"].get(right, 0) >= 0.9 * one["studies"]


def test_shares_have_their_clopper_pearson_interval(tables: ModuleType) -> None:
    low, high = stats.beta.ppf(0.025, 12, 400 - 12 + 1), stats.beta.ppf(0.975, 13, 400 - 12)
    assert tables._share(12, 400) == ("3.0", f"{100 * low:.1f}–{100 * high:.1f}")
    assert tables._share(0, 400)[1].startswith("0.0–0.9")
