"""How often rules are right: laws of the counts, and the command."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats

import nearzero as nz
from nearzero import cli, datasets
from nearzero.analysis.verdict import costs
from nearzero.mechanisms import power as power_module
from nearzero.mechanisms.planted import prototype_task, template_network
from nearzero.mechanisms.power import Counts, Power, Rate, power
from nearzero.mechanisms.studies import Condition, measure_study, study_responses
from nearzero.study.spec import resolve

TARGETS = (0.5,)
RULES = nz.Rules(targets=TARGETS)
DESIGN = nz.Design(draws=1)
SETTINGS = ("--set", "verdict_targets=0.5", "--set", "verdict_draws=1")


@pytest.fixture(scope="module")
def found() -> Power:
    return power(RULES, design=DESIGN, runs=(7, 6), activations=("abs",), studies=2)


def by_what(found: Power, what: str, runs: int = 6) -> Counts:
    (one,) = (each for each in found.counts if each.row["mechanism"] == what and each.runs == runs)
    return one


# --- laws ---------------------------------------------------------------------------------------------------


def test_counts_add_up(found: Power) -> None:
    assert Counter(each.row["mechanism"] for each in found.counts) == dict.fromkeys(
        ("distance", "template", "mixed", "null"), 2
    )
    assert [each.runs for each in found.counts] == [6, 7] * 4
    for each in found.counts:
        assert sum(each.findings.values()) == 2
        known = [rate for rate in each.rates.values() if rate is not None]
        assert len(known) == (1 if each.condition.mechanism == "mixed" else 3)
        assert {rate.studies for rate in known} == {2}
        if len(known) == 3:
            assert sum(rate.count for rate in known) == 2


def test_planted_mechanisms_are_found(found: Power) -> None:
    assert by_what(found, "distance").findings == {"distance costs more": 2}
    assert by_what(found, "template").findings == {"intensity costs more": 2}


def test_a_study_is_a_function_of_its_seed_and_number(found: Power) -> None:
    """Not of how many studies, runs or processes there are."""
    alone = power(RULES, design=DESIGN, activations=("abs",), runs=(6,), studies=1, workers=2)
    assert len(alone.counts) == 4
    for one in alone.counts:
        assert Counter(one.findings) <= Counter(by_what(found, one.row["mechanism"]).findings)
    condition = Condition(mechanism="distance", activation="abs", runs=3)
    design = nz.Design(targets=TARGETS, draws=1)
    three, two, other = (
        study_responses(each, study, seed=0, design=design)
        for each, study in ((condition, 4), (replace(condition, runs=2, studies=9), 4), (condition, 5))
    )
    xr.testing.assert_identical(three.isel(run=slice(0, 2)), two)
    assert (three.level != other.level).any()


def test_rules_that_cant_be_wrong_never_are() -> None:
    """No cost comes up to a margin of 99 points, so that nothing is found."""
    rules = nz.Rules(targets=TARGETS, margin=99.0)
    strict = power(rules, design=DESIGN, runs=(6,), activations=("relu",), studies=2)
    for each in strict.counts:
        assert each.findings == {"no effect": 2}
        assert each.rates["undecided"] == Rate(2, 2)
    assert "no number of runs tried was enough" in strict.sentences()[0]


def test_rules_without_a_comparison_decide_nothing() -> None:
    rules = nz.Rules(targets=(0.3,), intensity=("scale",))  # flat by construction
    flat = power(rules, design=DESIGN, runs=(6,), activations=("abs",), studies=1)
    assert {name for each in flat.counts for name in each.findings} == {"nothing to compare"}


def test_a_mixture_that_cant_be_planted_is_counted_as_such() -> None:
    hard = power(RULES, design=DESIGN, runs=(6,), strengths=(0.5,), activations=("abs",), studies=1)
    assert by_what(hard, "mixed").findings == {"too hard to plant": 1}
    assert "too hard to plant" not in by_what(hard, "distance").findings
    for arguments, message in (
        ({"strengths": (0.0,)}, "strength must be positive"),
        ({"activations": ("gelu",)}, "planted with abs or relu; got 'gelu'"),
    ):
        with pytest.raises(nz.InputError, match=message):
            power(studies=1, **arguments)


@pytest.mark.parametrize(("count", "studies"), [(0, 20), (3, 20), (20, 20), (197, 200)])
def test_intervals_are_clopper_and_pearsons(count: int, studies: int) -> None:
    low = stats.beta.ppf(0.025, count, studies - count + 1) if count else 0.0
    high = stats.beta.ppf(0.975, count + 1, studies - count) if count < studies else 1.0
    rate = Rate(count, studies)
    assert rate.interval == pytest.approx((low, high), abs=1e-9)
    assert str(rate) == f"{100 * count / studies:.0f} % ({100 * low:.0f}–{100 * high:.0f})"


# --- what counts as right -----------------------------------------------------------------------------------

ALL = {
    name: number
    for number, name in enumerate(
        ("distance costs more", "intensity costs more", "mixed", "equivalent", "inconclusive"), 1
    )
}  # 1, 2, 3, 4 and 5 of 15


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Condition(mechanism="distance", activation="abs"), (1, 2, 12)),
        (Condition(mechanism="template", activation="abs"), (2, 1, 12)),
        (Condition(mechanism="template", activation="abs", null="one family"), (4, 6, 5)),
        (Condition(mechanism="mixed", activation="abs", share=0.5), (None, None, 12)),
    ],
)
def test_right_wrong_and_undecided(condition: Condition, expected: tuple[int | None, ...]) -> None:
    rates = Counts(condition, 6, ALL).rates
    assert list(rates) == ["right", "wrong direction", "undecided"]
    assert tuple(None if each is None else each.count for each in rates.values()) == expected
    assert all(each is None or each.studies == 15 for each in rates.values())


def test_the_fewest_runs_that_are_enough() -> None:
    condition = Condition(mechanism="distance", activation="relu")
    right = {6: 5, 10: 19, 20: 20}
    counts = tuple(
        Counts(condition, runs, {"distance costs more": n, "inconclusive": 20 - n})
        for runs, n in right.items()
    )
    found = Power(nz.Rules(), 5, 0, counts)
    assert found.enough == 10
    assert found.conclusion == "10 runs are enough to find every planted mechanism in 90 % of studies"
    assert Power(nz.Rules(), 5, 0, counts[:1]).enough is None
    (sentence,) = found.sentences()
    assert sentence == (
        "With 20 runs these rules find planted distance (ReLU, strength 8) in 100 % (83–100) of studies and the wrong "
        "direction in 0 % (0–17); 10 runs are enough for 90 %."
    )


# --- conditions ---------------------------------------------------------------------------------------------


def test_a_null_has_the_families_of_the_rules() -> None:
    rules = nz.Rules(
        targets=TARGETS, distance=("signed_shift", "noise"), intensity=("cap",), measure="agreement"
    )
    condition = Condition(mechanism="template", activation="relu", null="one family", runs=2)
    design = nz.Design(targets=TARGETS, draws=1)
    responses = study_responses(condition, 0, seed=1, design=design, rules=rules)
    assert list(responses.family.values) == ["signed_shift", "noise", "cap"]
    found = costs(responses, "agreement").values
    assert np.isfinite(found).all()
    assert found.min() >= 0  # what is lost of agreement, from 100 %
    assert found.max() > 1


def test_runs_have_draws_of_their_own() -> None:
    task = prototype_task(np.random.default_rng(0), examples=100)
    network = template_network(task, np.random.default_rng(1))
    design = nz.Design(families=("gains",), targets=(0.5,), draws=2, checks=())
    own = measure_study(task, [network] * 2, design).level[0, :, 0, :, 0].values
    assert (own[1] != own[0]).all()
    for run in range(2):
        alone = measure_study(task, [network], replace(design, first_draw=2 * run))
        np.testing.assert_array_equal(own[run], alone.level[0, 0, 0, :, 0].values)


def test_checked_studies_are_those_that_arent_checked_with_a_fresh_sample_beside() -> None:
    condition = Condition(mechanism="template", activation="relu", strength=2.0, runs=2)
    design = nz.Design(targets=TARGETS, draws=1)
    plain, checked = (
        study_responses(each, 0, seed=0, design=design)
        for each in (condition, replace(condition, checked=True))
    )
    xr.testing.assert_identical(plain.accuracy, checked.accuracy)
    assert "check" not in plain.dims
    assert list(checked.check.values) == ["whitened", "centred_logits", "held_out"]
    task = prototype_task(condition.generator(0, "task", 0), strength=2.0)
    other = task.sample(condition.generator(0, "held out", 0), 600)
    network = condition.network(task, condition.generator(0, "network", 0, 1))
    hidden = np.maximum(other.x @ network.w1.T + network.b1, 0.0)
    right = ((hidden @ network.w2.T + network.b2).argmax(axis=1) == other.y).mean()
    held_out = checked.unperturbed_checked_accuracy.sel(check="held_out")[0]
    assert float(held_out[1]) == pytest.approx(right, abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mechanism": "magic"}, "unknown mechanism 'magic': known are distance, template, mixed"),
        ({"mechanism": "templte"}, "unknown mechanism 'templte': did you mean 'template'"),
        ({"null": "one famly"}, "unknown null 'one famly': did you mean 'one family'"),
        ({"share": 0.5}, "mixed networks need a share, and other networks have none"),
        ({"mechanism": "mixed"}, "mixed networks need a share, and other networks have none"),
    ],
)
def test_conditions_that_cant_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(nz.InputError, match=message):
        Condition(**{"mechanism": "distance", "activation": "abs"} | settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runs": ()}, r"runs must be at least 6 by these rules; got \[\]"),
        ({"runs": (10, 5)}, r"runs must be at least 6 by these rules; got \[10, 5\]"),
        ({"studies": 0}, "studies must be a whole number, at least 1; got 0"),
        ({"seed": -1}, "seed must be a whole number, at least 0; got -1"),
        ({"workers": 0}, "workers must be a whole number, at least 1; got 0"),
    ],
)
def test_numbers_that_cant_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(nz.InputError, match=message):
        power(**arguments)


# --- the command --------------------------------------------------------------------------------------------

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Exit code, standard output and standard error of `nearzero ARGUMENTS`, in one process."""
    monkeypatch.setattr("nearzero.support.threads.thread_count", lambda: 1)
    monkeypatch.setattr(cli, "printing_lines", nullcontext)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nearzero", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.mark.parametrize("width", [80, 160])
def test_the_command_prints_a_table_and_what_follows(
    width: int, command: Command, tmp_path: Path, found: Power, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = tmp_path / "new" / "power"
    code, text, err = command(
        "power", *SETTINGS, "--runs", 6, "--runs", 7, "--activation", "abs", "--studies", 2, "--out", out
    )
    assert (code, err) == (0, "")
    words = " ".join(text.replace("─", "").split())
    table = text[: text.index("Shares of studies")].replace("─", "")
    assert all(len(line) <= width for line in table.splitlines())
    assert words.startswith("networks runs right wrong undecided findings")
    for each in found.counts:
        shares = " ".join(each.row[name] for name in ("runs", "right", "wrong direction", "undecided"))
        assert f"{each.row['mechanism']}, {each.row['activation']} {shares}" in words
        assert f"strength {each.row['strength']}" in table
    shown = [
        each.row | {"strength": f"strength {each.row['strength']}", "studies": ""} for each in found.counts
    ]
    whole = [
        "networks runs right wrong undecided findings",
        *(cell for row in shown for cell in row.values()),
    ]
    assert Counter(table.replace(",", " ").split()) == Counter(" ".join(whole).replace(",", " ").split())
    for sentence in found.sentences():
        assert sentence in words
    kept = json.loads((out / "power.json").read_text())
    assert (kept["rules"]["targets"], kept["draws"], kept["seed"]) == ([0.5], 1, 0)
    assert [each["findings"] for each in kept["counts"]] == [each.findings for each in found.counts]
    assert kept["table"] == [each.row for each in found.counts]


def test_the_rules_are_a_studys(command: Command, tmp_path: Path) -> None:
    study = tmp_path / "study"
    settings = {"data": "digits", "verdict_targets": [0.3], "verdict_margin": 99, "verdict_draws": 1}
    nz.Study.create(study, "quick", settings)
    before = (study / "spec.toml").read_bytes()
    arguments = (
        "power",
        study,
        "--runs",
        6,
        "--activation",
        "abs",
        "--studies",
        1,
        "--out",
        tmp_path / "out",
    )
    assert command(*arguments, "--quiet") == (0, "", "")
    kept = json.loads((tmp_path / "out" / "power.json").read_text())
    assert (kept["rules"]["margin"], kept["rules"]["targets"]) == (99, [0.3])
    assert all(each["findings"] == {"no effect": 1} for each in kept["counts"])
    assert command(*arguments, "--quiet", "--set", "verdict_margin=98") == (0, "", "")
    assert json.loads((tmp_path / "out" / "power.json").read_text())["rules"]["margin"] == 98
    assert (study / "spec.toml").read_bytes() == before  # another rule is asked about, not written down


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "5"], "runs must be at least 6 by these rules; got [5]"),
        (["--studies", "0"], "studies must be a whole number, at least 1; got 0"),
        (["--strength", "0"], "strength must be positive and finite; got 0.0"),
        (["--activation", "gelu"], "planted with abs or relu; got 'gelu'"),
        (["--set", "steps=3"], "a verdict's rules are verdict_distance"),
        (["--set", "verdict_margin=0"], "margin must be a positive number of percentage points; got 0.0"),
        (["--set", "verdict_distance=nothing"], "distance must name families"),
        (["nowhere"], "nowhere isn't a folder"),
        (["--runs", "many"], "Invalid value for '--runs'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], message: str, command: Command, tmp_path: Path
) -> None:
    code, text, err = command("power", *arguments, "--out", tmp_path / "out")
    assert (code, text) == (2, "")
    assert err.startswith("nearzero: ")
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


def interrupt(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("module", "name", "arguments", "line"),
    [
        (power_module, "power", ["power"], "interrupted; nothing is kept, the same command begins anew"),
        (datasets, "entries", ["data", "list"], "interrupted; the same command goes on where it was"),
    ],
)
def test_an_interruption_is_one_line(
    module: Any, name: str, arguments: list[str], line: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, interrupt)
    assert command(*arguments) == (130, "", f"nearzero: {line}\n")


def test_the_default_rules_are_those_of_a_new_study() -> None:
    assert resolve().rules == nz.Rules()
