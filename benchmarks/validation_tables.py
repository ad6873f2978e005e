"""The tables of docs/validation.md, made from the results of `validation.py` in results/validation.json."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nearzero.mechanisms.power import Rate

__all__ = ["PAGE", "row", "tables", "write"]

PAGE = Path(__file__).parents[1] / "docs" / "validation.md"
RIGHT = {"distance": "distance costs more", "template": "intensity costs more"}
WRONG = {"distance": "intensity costs more", "template": "distance costs more"}
MAIN = 8.0  # the strength in tables without a column for it
NULLS = {
    "one family": "one family, three measurements",
    "dealt": "costs dealt out",
    "chance labels": "labels by chance",
    "common draws": "not a null: one family, the same draws in all runs",
}
ACTIVATIONS = {"abs": "Abs", "relu": "ReLU"}
RULES = {"default": "default", "signed shift": "distance = signed_shift", "centred": "centred accuracy"}


def tables(kept: Mapping[str, Any]) -> dict[str, str]:
    """Return all tables as Markdown, by the name of their place in the page."""
    makers = {
        "nulls": _nulls,
        "planted": _planted,
        "costs": _costs,
        "strength": _strength,
        "mixtures": _mixtures,
    }
    return {name: "\n".join(make(kept["results"])) for name, make in makers.items()}


def write(named: Mapping[str, str]) -> None:
    """Write tables to the page, each between the two marks with its name."""
    page = PAGE.read_text()
    for name, table in named.items():
        marks = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page, places = marks.subn(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", page)
        if places != 1:
            raise SystemExit(f"{PAGE} must have one place for the table {name}; it has {places}")
    PAGE.write_text(page)


def _nulls(results: list[dict[str, Any]]) -> Iterator[str]:
    yield "| null | networks | runs | studies | false positives | rate, % | 95 % interval | any adjusted p below .05 |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for null, words in NULLS.items():
        for result in _of(results, null=null):
            for verdict in _by(result, "default"):
                count = sum(verdict["overall"].get(name, 0) for name in (*RIGHT.values(), "mixed"))
                studies = verdict["studies"]
                shares = count, *_share(count, studies), verdict["any_p_below_alpha"]
                yield row(words, _network(result), verdict["runs"], studies, *shares)


def _planted(results: list[dict[str, Any]]) -> Iterator[str]:
    yield (
        "| mechanism | activation | rules | runs | studies | right, % | 95 % interval | wrong direction "
        "| mixed | equivalent | no effect | inconclusive |"
    )
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for result in _of(results, strength=MAIN, share=None, null=""):
        mechanism = result["condition"]["mechanism"]
        for rules, words in RULES.items():
            for verdict in _by(result, rules):
                findings, studies = verdict["overall"], verdict["studies"]
                rest = (WRONG[mechanism], "mixed", "equivalent", "no effect to compare", "inconclusive")
                right = _share(findings.get(RIGHT[mechanism], 0), studies)
                activation = ACTIVATIONS[result["condition"]["activation"]]
                counts = (findings.get(name, 0) for name in rest)
                yield row(mechanism, activation, words, verdict["runs"], studies, *right, *counts)


def _costs(results: list[dict[str, Any]]) -> Iterator[str]:
    yield "| mechanism | activation | accuracy, % | family | 5 % | 10 % | 20 % | 30 % | 50 % |"
    yield "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    for result in _of(results, strength=MAIN, null=""):
        condition = result["condition"]
        for family, costs in zip(result["families"], result["costs"], strict=True):
            first = (
                _mechanism(condition),
                ACTIVATIONS[condition["activation"]],
                f"{100 * result['unperturbed']:.1f}",
            )
            yield row(*first, family, *("–" if cost is None else f"{cost:.1f}" for cost in costs))


def _strength(results: list[dict[str, Any]]) -> Iterator[str]:
    yield (
        "| mechanism | activation | strength | accuracy, % | runs | studies | right, % | 95 % interval "
        "| wrong direction |"
    )
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for mechanism, activation in (("distance", "abs"), ("template", "relu")):
        own = _of(results, mechanism=mechanism, activation=activation, share=None, null="")
        for result in sorted(own, key=lambda one: float(one["condition"]["strength"])):
            for verdict in _by(result, "default"):
                findings, studies = verdict["overall"], verdict["studies"]
                right = _share(findings.get(RIGHT[mechanism], 0), studies)
                strength, accuracy = result["condition"]["strength"], 100 * result["unperturbed"]
                condition = mechanism, ACTIVATIONS[activation], f"{strength:g}", f"{accuracy:.1f}"
                yield row(*condition, verdict["runs"], studies, *right, findings.get(WRONG[mechanism], 0))


def _mixtures(results: list[dict[str, Any]]) -> Iterator[str]:
    findings = ("distance costs more", "mixed", "intensity costs more", "equivalent", "no effect to compare")
    yield f"| share of distance | runs | studies | {' | '.join(findings)} | inconclusive |"
    yield f"| ---: | ---: | ---: {'| ---: ' * len(findings)}| ---: |"
    for result in _of(results, mechanism="mixed"):
        for verdict in _by(result, "default"):
            counts = (verdict["overall"].get(name, 0) for name in (*findings, "inconclusive"))
            yield row(f"{result['condition']['share']:g}", verdict["runs"], verdict["studies"], *counts)


def _of(results: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    """Return the results whose condition has the wanted values."""
    return [
        each for each in results if all(each["condition"][name] == value for name, value in wanted.items())
    ]


def _by(result: dict[str, Any], rules: str) -> list[dict[str, Any]]:
    return [verdict for verdict in result["verdicts"] if verdict["rules"] == rules]


def _mechanism(condition: dict[str, Any]) -> str:
    share = condition["share"]
    return condition["mechanism"] if share is None else f"mixed, {share:g} distance"


def _network(result: dict[str, Any]) -> str:
    condition = result["condition"]
    return f"{condition['mechanism']}, {ACTIVATIONS[condition['activation']]}, strength {condition['strength']:g}"


def _share(count: int, studies: int) -> tuple[str, str]:
    """Return a share and its Clopper-Pearson interval, in per cent."""
    rate = Rate(count, studies)
    low, high = rate.interval
    return f"{100 * rate.share:.1f}", f"{100 * low:.1f}–{100 * high:.1f}"


def row(*cells: object) -> str:
    """Return a row of a table in Markdown."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
