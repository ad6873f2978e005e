"""The probe gives the right number or refuses, whatever the model; `random_cases` makes the models."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from random_cases import Case, random_case
from right_answers import LEVELS, Expected, right_answer

import nearzero as nz
from nearzero.torch_models.data import MemoryBudget

TOLERANCE = 1e-4  # of KL divergences
MOST_REFUSED = 0.05  # of the cases of which one reading fits
ANSWERS = 4  # arguments that are given, one after the other, to what is refused


def probed(case: Case, given: Mapping[str, Any]) -> dict[tuple[str, float], dict[str, float]]:
    """Return the metrics of the probe by family and level; ("", 0) is no perturbation."""
    metrics = ["agreement", "kl_divergence"] + ([] if case.traits.targets == "none" else ["accuracy"])
    layers = None if case.traits.default else case.layer
    levels = {family: list(values) for family, values in LEVELS.items()}
    result = nz.probe(case.model, case.data, layers, levels=levels, metrics=metrics, **given)
    if case.layer not in result.layers:  # a default layer that can't be probed
        raise nz.InputError("; ".join(note for note in result.notes if note.startswith(case.layer)))
    response = result.response.sel(layer=case.layer)
    found = {("", 0.0): {name: float(response[f"unperturbed_{name}"]) for name in metrics}}
    for family, values in LEVELS.items():
        for level in values:
            here = response.sel(family=family, level=level)
            found[family, level] = {name: float(here[name]) for name in metrics}
    return found


def differences(
    found: Mapping[tuple[str, float], Mapping[str, float]], right: Mapping[tuple[str, float], Expected]
) -> list[str]:
    """Return the metrics that are wrong, beyond near ties and rounding."""
    wrong = []
    for place, expected in right.items():
        for name, value in found[place].items():
            known = getattr(expected, name)
            if name == "kl_divergence":
                equal = np.isclose(value, known, rtol=TOLERANCE, atol=TOLERANCE)
            else:
                equal = abs(value - known) <= expected.ties / expected.items + 1e-9
            if not equal:
                wrong.append(f"{name} at {place}: {value:.6g}, right is {known:.6g}")
    return wrong


@dataclass
class Outcome:
    """What the probe did with a case: its first refusal, and what was wrong in the end."""

    refusal: str = ""
    given: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    measured: bool = False


def outcome_of(case: Case) -> Outcome:
    """Probe a case; give the arguments that refusals name until there are numbers."""
    right = right_answer(case.traits, case.model, case.batches) if case.traits.measurable else {}
    outcome = Outcome()
    _answer(case, right, outcome, [])
    return outcome


def _answer(
    case: Case, right: Mapping[tuple[str, float], Expected], outcome: Outcome, given: list[str]
) -> None:
    """Probe a case with some arguments given, and again with each that a refusal names, until there are numbers."""
    known = case.arguments(given)
    try:
        outcome.wrong += differences(probed(case, {name: known[name] for name in given}), right)
        if not case.traits.measurable:
            outcome.wrong.append("a model whose passes don't repeat was measured")
        outcome.given, outcome.measured = given, True
    except nz.InputError as error:
        message = str(error)
        outcome.refusal = outcome.refusal or message
        named = [name for name in re.findall(r"\b(\w+)=", message) if known.get(name) is not None]
        for name in dict.fromkeys(named):
            if name not in given and len(given) < ANSWERS and not outcome.measured:
                _answer(case, right, outcome, [*given, name])
        if not (given or outcome.measured or case.unresolved) and case.traits.measurable:
            outcome.wrong.append(f"refused, and no argument that it names helps: {message}")


def run(seeds: range, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return how many seeds ended how; fail if any has wrong numbers or a refusal that nothing resolves."""
    counts: Counter[str] = Counter()
    failures = []
    for seed in seeds:
        case = random_case(seed)
        with monkeypatch.context() as patch:
            if case.traits.blocks:
                rows = case.traits.blocks
                patch.setattr(MemoryBudget, "rows", lambda *_, rows=rows: rows)
            try:
                outcome = outcome_of(case)
            except Exception as error:  # none but a refusal may come
                outcome = Outcome(wrong=[f"{type(error).__name__}: {error}"])
        if outcome.wrong:
            failures.append(f"seed {seed}: {'; '.join(outcome.wrong[:3])}\n{case.traits}")
        fit = "ambiguous" if case.ambiguous else "one reading"
        fit = fit if case.traits.measurable else "can't be measured"
        counts[f"{fit}, {'refused' if outcome.refusal else 'right'}"] += 1
        counts["resolved by an argument"] += bool(outcome.given)
    assert not failures, "\n".join(failures)
    return counts


def test_the_right_number_or_a_refusal(monkeypatch):
    run(range(40), monkeypatch)


@pytest.mark.long("the right number or a refusal, for 500 random models")
def test_the_right_number_or_a_refusal_of_many_models(monkeypatch):
    counts = run(range(500), monkeypatch)
    refused, right = (counts[f"one reading, {end}"] for end in ("refused", "right"))
    assert refused <= MOST_REFUSED * (refused + right), counts
