"""The tables of docs/validation.md and docs/other_rules.md, made from results/validation.json (`validation.py`)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nearzero.analysis.verdict import CHECKS
from nearzero.mechanisms.power import Rate

__all__ = ["PAGES", "bands", "row", "tables", "write"]

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("validation.md", "other_rules.md")
DIRECTIONS = ("distance costs more", "intensity costs more")
RIGHT = dict(zip(("distance", "template"), DIRECTIONS, strict=True))
ACTIVATIONS = {"abs": "Abs", "relu": "ReLU"}
RULES = {
    "default": "default",
    "earlier": "earlier: shift, difference test",
    "difference test": "signed shift, difference test",
    "distance = shift": "shift, minimum-effect test",
    "distance = noise": "noise, minimum-effect test",
    "centred accuracy": "default, centred accuracy",
}
Rows = Sequence[Mapping[str, Any]]


def tables(kept: Mapping[str, Any]) -> dict[str, str]:
    """Return all tables as Markdown, by the name of their place in the page."""
    results, nulls = kept["results"], kept["nulls"]
    made = {
        "nulls": _nulls(results, nulls),
        "margin": _margin(nulls),
        "planted": _planted(results),
        "rules": _rules(results),
        "robust": _robust(results),
        "mixtures": _mixtures(results),
        "costs": _costs(results),
        "relative": _relative(results),
    }
    return {name: "\n".join(lines) for name, lines in made.items()}


def write(named: Mapping[str, str], *pages: str) -> None:
    """Write tables to pages of the docs, each table between the two marks with its name, on one of the pages."""
    texts = {DOCS / page: (DOCS / page).read_text() for page in pages}
    for name, table in named.items():
        marks = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        places = 0
        for path, text in texts.items():
            texts[path], own = marks.subn(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)
            places += own
        if places != 1:
            raise SystemExit(
                f"{', '.join(pages)} must have one place for the table {name}; they have {places}"
            )
    for path, text in texts.items():
        path.write_text(text)


def _nulls(results: Rows, nulls: Rows) -> Iterator[str]:
    yield _head("null", "networks", "runs are drawn from", "runs:", "studies:", "false:", "rate, %:", "95 %:")
    for each in nulls:
        null, (condition, words) = each["null"], _words(each["null"])
        if null["rules"] != "default":
            continue
        pool = "one study" if null["pool"] == "study" else "all studies"
        for verdict in each["verdicts"]:
            yield row(words, _network(condition), pool, *_false(verdict))
    for result in _of(results, null="common draws"):
        for verdict in _by(result, "default"):
            condition = _network(result["condition"])
            yield row("not a null: the same draws in all runs", condition, "–", *_false(verdict))


def _margin(nulls: Rows) -> Iterator[str]:
    yield _head("rules", "true D", "networks", "runs:", "studies:", "false:", "rate, %:", "95 %:")
    for name in RULES:
        for each in nulls:
            null = each["null"]
            if null["rules"] == name and null["pool"] == "study" and null["difference"]:
                for verdict in each["verdicts"]:
                    difference = f"{null['difference']:+g}"
                    yield row(RULES[name], difference, _network(null["condition"]), *_false(verdict))


def _planted(results: Rows) -> Iterator[str]:
    yield _head(
        "mechanism",
        "activation",
        "strength:",
        "accuracy, %:",
        "runs:",
        "studies:",
        "right, %:",
        "95 %:",
        "wrong, %:",
        "95 %:",
        "undecided, %:",
    )
    for result in _plain(results):
        condition = result["condition"]
        first = condition["mechanism"], ACTIVATIONS[condition["activation"]], f"{condition['strength']:g}"
        for verdict in _by(result, "default"):
            right, wrong, rest = _right_wrong(verdict, condition["mechanism"])
            shares = *_share(right), *_share(wrong), _share(rest)[0]
            yield row(
                *first, f"{100 * result['unperturbed']:.1f}", verdict["runs"], verdict["studies"], *shares
            )


def _rules(results: Rows) -> Iterator[str]:
    shares = ("right, % (95 %):", "wrong, % (95 %):", "undecided, %:")
    yield _head("mechanism", "activation", "distance and test", "runs:", "studies:", *shares)
    for result in _plain(results):
        condition = result["condition"]
        if condition["strength"] != 8:
            continue
        for name, words in RULES.items():
            for verdict in (each for each in _by(result, name) if each["runs"] >= 10):
                right, wrong, rest = map(_share, _right_wrong(verdict, condition["mechanism"]))
                yield row(
                    condition["mechanism"],
                    ACTIVATIONS[condition["activation"]],
                    words,
                    verdict["runs"],
                    verdict["studies"],
                    *(f"{share} ({interval})" for share, interval in (right, wrong)),
                    rest[0],
                )


def _robust(results: Rows) -> Iterator[str]:
    names = (f"{words}: holds / turns" for words in CHECKS.values())
    yield _head("mechanism", "activation", "strength:", "runs:", "found:", "robust:", *names)
    for result in results:
        condition = result["condition"]
        for verdict in _by(result, "default") if condition["checked"] else ():
            found = sum(verdict["overall"].get(name, 0) for name in DIRECTIONS)
            checks = verdict["robustness"]["checks"]
            outcomes = [checks.get(name, {}) for name in CHECKS]
            yield row(
                condition["mechanism"],
                ACTIVATIONS[condition["activation"]],
                f"{condition['strength']:g}",
                verdict["runs"],
                f"{found} of {verdict['studies']}",
                sum(verdict["robustness"]["robust"].values()),
                *(f"{each.get('holds', 0)} / {each.get('turns', 0)}" for each in outcomes),
            )


def _mixtures(results: Rows) -> Iterator[str]:
    findings = (
        "distance costs more",
        "mixed",
        "intensity costs more",
        "equivalent",
        "no effect",
        "inconclusive",
    )
    columns = (f"{name}:" for name in findings)
    yield _head("activation", "share of distance:", "strength:", "runs:", "studies:", *columns)
    for result in _of(results, mechanism="mixed"):
        condition = result["condition"]
        first = ACTIVATIONS[condition["activation"]], condition["share"], f"{condition['strength']:g}"
        for verdict in _by(result, "default"):
            counts = (verdict["overall"].get(name, 0) for name in findings)
            yield row(*first, verdict["runs"], verdict["studies"], *counts)


def _costs(results: Rows) -> Iterator[str]:
    targets = (f"{percent} %:" for percent in (5, 10, 20, 30, 50))
    yield _head("mechanism", "activation", "family", *targets)
    for result in [*_plain(results), *_of(results, mechanism="mixed")]:
        condition = result["condition"]
        if condition["strength"] == 8:
            share = "" if condition["share"] is None else f", {condition['share']:g} distance"
            first = condition["mechanism"] + share, ACTIVATIONS[condition["activation"]]
            for family, costs in zip(result["families"], result["costs"], strict=True):
                yield row(*first, family, *(f"{cost:.1f}" for cost in costs))


def _relative(results: Rows) -> Iterator[str]:
    yield _head(
        "mechanism", "activation", "family", "displacement:", "studies:", "defined:", "5 %:", "50 %:", "95 %:"
    )
    for band in bands(results):
        shares = ("–" if band[name] is None else f"{band[name]:.2f}" for name in ("low", "median", "high"))
        first = (
            band["mechanism"],
            ACTIVATIONS[band["activation"]],
            band["family"],
            f"{100 * band['target']:g} %",
        )
        yield row(*first, band["studies"], band["defined"], *shares)


def bands(results: Rows) -> list[dict[str, Any]]:
    """Return the bands of relative costs over all studies and strengths, for the package."""
    ratios: defaultdict[tuple[str, str, str, float], list[float | None]] = defaultdict(list)
    for result in results:
        condition = result["condition"]
        for row in result.get("relative_costs", ()):
            key = condition["mechanism"], condition["activation"], row["family"], row["target"]
            ratios[key] += row["ratios"]
    rows = []
    for key, values in ratios.items():
        defined = [value for value in values if value is not None]
        low, median, high = np.percentile(defined, [5, 50, 95]).tolist() if defined else (None, None, None)
        names = zip(("mechanism", "activation", "family", "target"), key, strict=True)
        counts = {"studies": len(values), "defined": len(defined)}
        rows.append(dict(names) | {"low": low, "median": median, "high": high} | counts)
    return rows


def _words(null: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return the condition of a null, and its name for readers."""
    condition = null["condition"]
    if null["kind"] == "dealt":
        return condition, "one family, dealt" if condition["null"] else "costs dealt out"
    if condition["null"]:
        return condition, "labels by chance, D = 0"
    return condition, f"D = {null['difference']:+g}"


def _of(results: Rows, **wanted: Any) -> list[Mapping[str, Any]]:
    """Return the results whose condition has the wanted values."""
    return [
        each for each in results if all(each["condition"][name] == value for name, value in wanted.items())
    ]


def _plain(results: Rows) -> list[Mapping[str, Any]]:
    """Return the results of one mechanism without a null or checks."""
    return _of(results, share=None, null="", checked=False)


def _by(result: Mapping[str, Any], rules: str) -> list[Mapping[str, Any]]:
    return [verdict for verdict in result["verdicts"] if verdict["rules"] == rules]


def _network(condition: Mapping[str, Any]) -> str:
    return f"{condition['mechanism']}, {ACTIVATIONS[condition['activation']]}, strength {condition['strength']:g}"


def _right_wrong(verdict: Mapping[str, Any], mechanism: str) -> tuple[Rate, Rate, Rate]:
    """Return the rates of the right direction, of the wrong one, and of all else."""
    studies = verdict["studies"]
    right = verdict["overall"].get(RIGHT[mechanism], 0)
    wrong = sum(verdict["overall"].get(name, 0) for name in DIRECTIONS if name != RIGHT[mechanism])
    return Rate(right, studies), Rate(wrong, studies), Rate(studies - right - wrong, studies)


def _false(verdict: Mapping[str, Any]) -> tuple[object, ...]:
    """Return runs, studies, false findings, and their rate with its interval."""
    count = sum(verdict["overall"].get(name, 0) for name in (*DIRECTIONS, "mixed"))
    return verdict["runs"], verdict["studies"], count, *_share(Rate(count, verdict["studies"]))


def _share(rate: Rate) -> tuple[str, str]:
    """Return a share and its Clopper-Pearson interval, in per cent."""
    low, high = rate.interval
    return f"{100 * rate.share:.1f}", f"{100 * low:.1f}–{100 * high:.1f}"


def _head(*columns: str) -> str:
    """Return the head of a table; a colon after a name aligns its column to the right."""
    rule = ("---:" if name.endswith(":") else "---" for name in columns)
    return row(*(name.removesuffix(":") for name in columns)) + "\n" + row(*rule)


def row(*cells: object) -> str:
    """Return a row of a table in Markdown."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
