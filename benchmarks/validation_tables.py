"""The tables of docs/validation.md, made from what `validation.py` keeps in results/validation.json."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nearzero.mechanisms.power import Rate

__all__ = ["PAGE", "tables", "write"]

PAGE = Path(__file__).parents[1] / "docs" / "validation.md"
RIGHT = {"distance": "distance costs more", "template": "intensity costs more"}
WRONG = {"distance": "intensity costs more", "template": "distance costs more"}
MAIN = 8.0  # the strength of the tables that don't show several
NULLS = {
    "one family": "one family, three measurements",
    "dealt": "costs dealt out",
    "chance labels": "labels by chance",
    "common draws": "not a null: one family, the same draws in all runs",
}
ACTIVATIONS = {"abs": "Abs", "relu": "ReLU"}
RULES = {"default": "default", "signed shift": "distance = signed_shift", "centred": "centred accuracy"}


def tables(kept: Mapping[str, Any]) -> dict[str, str]:
    """All tables as Markdown, by the name that their place in the page has."""
    makers = {
        "nulls": _nulls,
        "planted": _planted,
        "costs": _costs,
        "strength": _strength,
        "mixtures": _mixtures,
    }
    return {name: "\n".join(make(kept["results"])) for name, make in makers.items()}


def write(kept: Mapping[str, Any]) -> None:
    """Put the tables into the page, each between its two marks."""
    page = PAGE.read_text()
    for name, table in tables(kept).items():
        marks = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page, found = marks.subn(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", page)
        if found != 1:
            raise SystemExit(f"{PAGE} must have one place for the table {name}; it has {found}")
    PAGE.write_text(page)


def _nulls(results: list[dict[str, Any]]) -> Iterator[str]:
    yield "| null | networks | runs | studies | false positives | rate, % | 95 % interval | any adjusted p below .05 |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for null, words in NULLS.items():
        for each in _of(results, null=null):
            for one in _by(each, "default"):
                count = sum(one["overall"].get(name, 0) for name in (*RIGHT.values(), "mixed"))
                yield _row(
                    words, _network(each), one["runs"], one["studies"], count,
                    *_share(count, one["studies"]), one["any_p_below_alpha"],
                )  # fmt: skip


def _planted(results: list[dict[str, Any]]) -> Iterator[str]:
    yield (
        "| mechanism | activation | rules | runs | studies | right, % | 95 % interval | wrong direction "
        "| mixed | equivalent | no effect | inconclusive |"
    )
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for each in _of(results, strength=MAIN, share=None, null=""):
        mechanism = each["condition"]["mechanism"]
        for rules, words in RULES.items():
            for one in _by(each, rules):
                found = one["overall"]
                rest = (WRONG[mechanism], "mixed", "equivalent", "no effect to compare", "inconclusive")
                yield _row(
                    mechanism, ACTIVATIONS[each["condition"]["activation"]], words, one["runs"], one["studies"],
                    *_share(found.get(RIGHT[mechanism], 0), one["studies"]), *(found.get(name, 0) for name in rest),
                )  # fmt: skip


def _costs(results: list[dict[str, Any]]) -> Iterator[str]:
    yield "| mechanism | activation | accuracy, % | family | 5 % | 10 % | 20 % | 30 % | 50 % |"
    yield "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    for each in _of(results, strength=MAIN, null=""):
        condition = each["condition"]
        for family, costs in zip(each["families"], each["costs"], strict=True):
            first = (
                _mechanism(condition),
                ACTIVATIONS[condition["activation"]],
                f"{100 * each['unperturbed']:.1f}",
            )
            yield _row(*first, family, *("–" if cost is None else f"{cost:.1f}" for cost in costs))


def _strength(results: list[dict[str, Any]]) -> Iterator[str]:
    yield (
        "| mechanism | activation | strength | accuracy, % | runs | studies | right, % | 95 % interval "
        "| wrong direction |"
    )
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for mechanism, activation in (("distance", "abs"), ("template", "relu")):
        own = _of(results, mechanism=mechanism, activation=activation, share=None, null="")
        for each in sorted(own, key=lambda one: float(one["condition"]["strength"])):
            for one in _by(each, "default"):
                found = one["overall"]
                yield _row(
                    mechanism, ACTIVATIONS[activation], f"{each['condition']['strength']:g}",
                    f"{100 * each['unperturbed']:.1f}", one["runs"], one["studies"],
                    *_share(found.get(RIGHT[mechanism], 0), one["studies"]), found.get(WRONG[mechanism], 0),
                )  # fmt: skip


def _mixtures(results: list[dict[str, Any]]) -> Iterator[str]:
    findings = ("distance costs more", "mixed", "intensity costs more", "equivalent", "no effect to compare")
    yield f"| share of distance | runs | studies | {' | '.join(findings)} | inconclusive |"
    yield f"| ---: | ---: | ---: {'| ---: ' * len(findings)}| ---: |"
    for each in _of(results, mechanism="mixed"):
        for one in _by(each, "default"):
            counts = (one["overall"].get(name, 0) for name in (*findings, "inconclusive"))
            yield _row(f"{each['condition']['share']:g}", one["runs"], one["studies"], *counts)


def _of(results: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    """The results whose condition is that."""
    return [
        each for each in results if all(each["condition"][name] == value for name, value in wanted.items())
    ]


def _by(result: dict[str, Any], rules: str) -> list[dict[str, Any]]:
    return [each for each in result["verdicts"] if each["rules"] == rules]


def _mechanism(condition: dict[str, Any]) -> str:
    share = condition["share"]
    return condition["mechanism"] if share is None else f"mixed, {share:g} distance"


def _network(result: dict[str, Any]) -> str:
    condition = result["condition"]
    return f"{condition['mechanism']}, {ACTIVATIONS[condition['activation']]}, strength {condition['strength']:g}"


def _share(count: int, studies: int) -> tuple[str, str]:
    """A share, and its Clopper-Pearson interval, in per cent."""
    rate = Rate(count, studies)
    low, high = rate.interval
    return f"{100 * rate.share:.1f}", f"{100 * low:.1f}–{100 * high:.1f}"


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
