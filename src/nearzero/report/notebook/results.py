"""The parts of the display of each result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import singledispatch
from typing import TYPE_CHECKING

import numpy as np

from nearzero.analysis.critical import CriticalLevels
from nearzero.analysis.scale_invariance import ScaleAudit
from nearzero.analysis.verdict import Verdict
from nearzero.errors import InputError
from nearzero.mechanisms.power import CAPTION, Power
from nearzero.paper.audit.values import Audit, sentence_case
from nearzero.report.audit import fault_tables, levels_table, sentences_table
from nearzero.report.comparison import reproduction
from nearzero.report.grids import GridResults, grid_table
from nearzero.report.notebook.fragment import Fragment, Picture
from nearzero.report.results import StudyResults
from nearzero.report.table import Cell, Column, Number, Table, text_table
from nearzero.report.tables import tables
from nearzero.report.verdict import judged_tables
from nearzero.support.words import number_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "generation_html",
    "grid_html",
    "probe_html",
    "refusal_html",
    "study_html",
    "summary_html",
    "summary_tables",
    "to_html",
]

CHANGED = (0.1, 0.5, 0.9)  # shares of examples
NAMED = 4  # networks; more of them are counted in a title


@singledispatch
def to_html(result: object) -> str:
    """Return a result as HTML: its text, if nothing else is registered for its class."""
    first, *others = str(result).splitlines() or [""]
    return Fragment(type(result).__name__, lines=[first], notes=others).html()


@to_html.register
def _(result: Table) -> str:
    return Fragment(
        "", tables=[result], rest=f"nearzero.report.render.to_csv has all {len(result.rows):,}"
    ).html()


@to_html.register
def _(result: Verdict) -> str:
    networks = result.networks
    names = ", ".join(networks) if len(networks) <= NAMED else f"{len(networks)} networks"
    comparisons, robust, *others = (replace(table, notices=()) for table in judged_tables(result, names))
    notices = result.rules.notices  # which are among the caveats too
    return Fragment(
        f"Verdict on {names}",
        notices=notices,
        lines=_findings(result),
        tables=[comparisons, robust],
        further=others,
        notes=[f"{sentence_case(caveat)}." for caveat in result.caveats if caveat not in notices],
        rest="comparisons, checks, relative_costs and costs of the verdict have all, its text() every sentence",
    ).html()


def _findings(verdict: Verdict) -> list[str]:
    return [f"{network}: {verdict.of(network)}" for network in verdict.networks]


@to_html.register
def _(result: Audit) -> str:
    return Fragment(
        f"Audit of the published study: {result.title}",
        lines=result.text().splitlines(),
        further=[sentences_table(result), *fault_tables(result), levels_table(result)],
        rest="entries, levels and sentences of the audit have all",
    ).html()


@to_html.register
def _(result: Power) -> str:
    table = text_table("power", [counts.row for counts in result.counts], "Findings", CAPTION)
    rest = "counts and sentences() have all"
    return Fragment("Power of the rules", lines=result.sentences(), tables=[table], rest=rest).html()


@to_html.register
def _(result: CriticalLevels) -> str:
    family = result.family
    return Fragment(
        f"Critical levels of {family}",
        lines=[
            f"{number_of(len(result), 'example')}, levels from {result.low:g} to {result.high:g}: "
            f"{number_of(len(result.starts), 'interval')} with one prediction."
        ],
        tables=[_first_changes(result)] if result.sides else (),
        notes=[f"Assumption: {result.assumption}", f"Computed by the backend {result.backend}."],
    ).html()


def _first_changes(result: CriticalLevels) -> Table:
    """Return a table of the levels by which shares of the predictions have changed, a row for each side."""
    rows: list[tuple[Cell, ...]] = []
    for side in result.sides:
        levels = result.critical(side)
        order = result.first_to_break(len(result), side)  # those that never change aren't among them
        nth = [int(np.ceil(share * len(result))) - 1 for share in CHANGED]
        by = [f"{levels[order[place]]:.4g}" if place < len(order) else None for place in nth]
        never = result.censored(side)
        back = int((result.changes_back(side) > 0).sum())
        rows.append((side, *by, never, Number(100 * never / len(result)), back))
    return Table(
        name="critical",
        title=f"Levels by which predictions change first, {result.family}",
        caption=(
            "From the identity outwards on each side: the level by which so many of all predictions have changed for "
            "the first time; a dash: fewer change. Never: predictions that don't change up to the end of the levels. "
            "Back: predictions that return at least once to the unperturbed one."
        ),
        columns=(
            Column("side", "side of the identity", kind="text"),
            *(Column(f"changed_{100 * share:g}", f"{100 * share:g} % changed by") for share in CHANGED),
            Column("never", "never", kind="count"),
            Column("never_share", "never, %"),
            Column("back", "back", kind="count"),
        ),
        rows=tuple(rows),
        group="side",
    )


@to_html.register
def _(result: ScaleAudit) -> str:
    activation = result.activation or "no activation"
    known = {True: "homogeneous", False: "not homogeneous", None: "not in the registry"}
    facts = {
        "homogeneous on these data": f"{'yes' if result.homogeneous else 'no'}, error {result.homogeneity_error:.2g}",
        "by the registry": known[result.registered],
        "deviation of the logits from s B + A": f"{result.logit_error:.2g}",
        "normalisations after the layer": ", ".join(result.normalisations) or "none",
        "computed by": f"the backend {result.backend}",
    }
    return Fragment(
        f"Scale audit of layer {result.layer} ({activation}): {result.words}",
        lines=[result.meaning, f"{sentence_case(result.comparison)}."],
        further=[_scale_table(result)],
        facts=facts,
        rest="curves.to_dataframe() of the audit has all",
    ).html()


def _scale_table(result: ScaleAudit) -> Table:
    """Return the curves of a scale audit as a table, a row for each level."""
    curves = result.curves
    shares = [name for name in map(str, curves) if name.startswith(("predicted", "measured"))]
    counts = [name for name in map(str, curves) if name not in shares]
    rows: list[tuple[Cell, ...]] = []
    for level in curves.level.values:
        own = curves.sel(level=level)
        cells: tuple[Cell, ...] = (
            *(Number(100 * float(own[name])) for name in shares),
            *(int(own[name]) for name in counts),
        )
        rows.append((f"{level:.4g}", *cells))
    return Table(
        name="scale_audit",
        title="Predictions at each scale, by algebra and measured",
        caption=f"Of {number_of(result.items, 'item')}: shares in percent, and numbers of items.",
        columns=(
            Column("level", "scale"),
            *(Column(name, f"{name.replace('_', ' ')}, %", unit="percent") for name in shares),
            *(Column(name, name.replace("_", " "), kind="count") for name in counts),
        ),
        rows=tuple(rows),
        group="level",
    )


def refusal_html(title: str, error: InputError) -> str:
    """Return the display of a result that can't be read, with the reason and what to do."""
    return Fragment(title, notices=[str(error)]).html()


def study_html(
    title: str, facts: Mapping[str, str], results: StudyResults | None, verdict: Verdict | None
) -> str:
    """Return the display of a study.

    Args:
        title: of the study.
        facts: its summary.
        results: its results; None if it hasn't been swept yet.
        verdict: the verdict; None if it hasn't been measured at matched displacement yet.
    """
    lines: list[str] = []
    notes: list[str] = []
    picture: Picture | None = None
    made: tuple[Table, ...] = ()
    if results is None:
        notes.append("Not swept yet: run() trains the networks, if they aren't trained, and sweeps them.")
    else:
        from nearzero.report.figures.response import response_figure

        words = "Accuracy against level: mean over runs with its 95 % interval"
        words += "" if results.departures else ", published values as open markers"
        picture, made = Picture(response_figure(results), words), tables(results)
        lines.append(f"Reproduction: {reproduction(results)}")
    if verdict is None and results is not None:
        notes.append("No verdict at equal displacement yet: judge() measures the networks and judges them.")
    if verdict is not None:
        lines += [f"Verdict at equal displacement, {line}" for line in _findings(verdict)]
    return Fragment(
        f"Study: {title}",
        lines=lines,
        picture=picture,
        tables=made[:1],
        further=made[1:],
        facts=facts,
        notes=notes,
        rest="report() writes all tables to files",
    ).html()


def grid_html(title: str, question: str, results: GridResults | None) -> str:
    """Return the display of a grid; `results` is None if it hasn't been measured yet."""
    return Fragment(
        f"Grid: {title}",
        lines=[question] if question else (),
        tables=() if results is None else [replace(grid_table(results), title="The verdict on each network")],
        notes=["Not measured yet: run() trains and measures."] if results is None else (),
        rest="run() writes all tables to files",
    ).html()


def generation_html(facts: Mapping[str, str], lines: Sequence[str], conclusion: str) -> str:
    """Return the display of texts that were generated with and without a perturbation.

    Args:
        facts: what made the perturbed text, by name.
        lines: the prompt and the texts.
        conclusion: one line on where the texts differ.
    """
    return Fragment(
        "Greedy generation under a perturbation", lines=lines, facts=facts, notes=[conclusion]
    ).html()


def summary_html(rows: Sequence[Mapping[str, str]], assumptions: Sequence[Mapping[str, str]]) -> str:
    """Return the display of a probe's summary: a row of texts for each layer, and the assumptions."""
    first, *further = summary_tables(rows, assumptions)
    return Fragment("", tables=[first], further=further, rest="print it to see all").html()


def probe_html(
    headline: str,
    summary: tuple[Sequence[Mapping[str, str]], Sequence[Mapping[str, str]]],
    notes: Sequence[str],
    draw: Callable[[], Figure],
    metric: str,
) -> str:
    """Return the display of a probe's result.

    Args:
        headline: of the result.
        summary: the rows of layers and of assumptions.
        notes: of the result.
        draw: a function that draws the map of layers.
        metric: the metric that the map shows.
    """
    words = (
        f"Map of {metric.replace('_', ' ')}: a panel for each family, a row for each layer, levels along x"
    )
    first, *further = summary_tables(*summary)
    return Fragment(
        headline,
        picture=Picture(draw(), words),
        tables=[first],
        further=further,
        notes=notes,
        rest="summary() and notes of the result have all",
    ).html()


def summary_tables(
    rows: Sequence[Mapping[str, str]], assumptions: Sequence[Mapping[str, str]]
) -> list[Table]:
    """Return the tables of a summary; the second if there are assumptions."""
    extreme = "The most extreme response of each family, and its level."
    layers = text_table("layers", rows, "Layers", extreme)
    return [layers, *([text_table("assumptions", assumptions, "Assumed")] if assumptions else [])]
