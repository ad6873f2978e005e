"""The end of what a command prints: tables or JSON, small plots, and the line that concludes them."""

from __future__ import annotations

import shlex
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from nearzero.support.words import number_of

if TYPE_CHECKING:
    from rich.console import Console

    from nearzero.analysis.verdict import Verdict
    from nearzero.mechanisms.power import Power
    from nearzero.paper.audit.values import Audit
    from nearzero.probing import ProbeResult
    from nearzero.report.table import Table
    from nearzero.study.plan import WorkPlan

__all__ = [
    "audit_conclusion",
    "finish",
    "folders_line",
    "grid_plot",
    "power_numbers",
    "print_line",
    "print_plan",
    "probe_plot",
    "probe_tables",
    "response_table",
    "study_conclusion",
    "study_plot",
    "this_command",
    "verdict_conclusion",
]

NAMED = 4  # networks; more of them are counted


def finish(
    console: Console | None,
    tables: Iterable[Table] = (),
    lines: Iterable[str] = (),
    *,
    as_json: bool = False,
    for_scripts: Iterable[Table] = (),
) -> None:
    """Print tables and then lines, each whole; or all of it as JSON on standard output.

    Args:
        console: where they are printed; None prints nothing but JSON.
        tables: the tables.
        lines: the lines, the last of which is the conclusion.
        as_json: whether `--json` was given.
        for_scripts: tables that are only in the JSON.
    """
    if as_json:
        from nearzero.report.render import to_json

        print(to_json([*tables, *for_scripts], lines), end="")
    elif console is not None:
        from nearzero.report.render.terminal import print_table

        for table in tables:
            print_table(table, console)
        for line in lines:
            print_line(console, line)


def print_line(console: Console, text: str, *, hanging: int = 0) -> None:
    """Print text as it is, with line breaks between words alone; a command after "next: " isn't broken at all.

    Args:
        console: where it is printed.
        text: the text.
        hanging: the columns by which further lines are indented.
    """
    first, separator, command = text.rpartition("; next: ")
    if not separator or len(text) <= console.width:
        first, command = text, ""
    lines = textwrap.wrap(
        first, console.width, subsequent_indent=" " * hanging, break_long_words=False, break_on_hyphens=False
    )
    for line in [*(lines or [""]), *([f"next: {command}"] if command else [])]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def this_command(*less: str, more: Sequence[str] = ()) -> str:
    """Return the command that runs, as it can be typed again.

    Args:
        less: words that are left out.
        more: words that are added at the end.
    """
    return shlex.join(["nearzero", *(word for word in sys.argv[1:] if word not in less), *more])


def print_plan(plan: WorkPlan, console: Console | None, *, as_json: bool = False) -> None:
    """Print a plan, and the command that does the work: this one without `--plan`."""
    from nearzero.report.table import text_table

    *lines, last = plan.sentences()
    finish(
        console,
        [text_table("plan", plan.rows(), f"Plan of {plan.title}; nothing is done yet")],
        [*lines, _bottom(last.rstrip("."), this_command("--plan"))],
        as_json=as_json,
    )


def folders_line(folder: Path) -> str:
    """Return a line that says where tables and figures are, and the page, if there is one."""
    from nearzero.study.page.renew import is_outdated
    from nearzero.study.store import PAGE

    page = folder / PAGE
    line = f"Tables are in {folder / 'tables'}, figures in {folder / 'figures'}."
    if not page.is_file():
        return line
    if is_outdated(folder):
        return f"{line} {page} is older than they are; `nearzero page {folder}` makes it anew."
    return f"{line} The page of it all is {page}."


def study_conclusion(study: Any, following: str = "") -> list[str]:
    """Return the accuracies of a study's networks, and how many published ones they agree with.

    Args:
        study: a `Study` that has been swept.
        following: what to run next.
    """
    from nearzero.report.comparison import reproduction
    from nearzero.report.results import display_name, final_values, networks
    from nearzero.statistics.summaries import summarise

    lines = [f"NOTICE: {notice}" for notice in study.notices]
    for network in networks(study):
        train, test = (
            summarise(final_values(study, network, f"{split}_accuracy")) for split in ("train", "test")
        )
        lines.append(
            f"{display_name(network)}: accuracy {train.mean:.2f} % (train), {test.mean:.2f} % (test), mean over "
            + number_of(train.n, "run")
        )
    return [*lines, _bottom(reproduction(study).headline, following)]


def verdict_conclusion(verdict: Verdict, following: str = "") -> list[str]:
    """Return the verdict on each network with its numbers, the rules, the caveats, and the findings in a line.

    Numbers are those of a few networks; tables have those of many.
    """
    from nearzero.report.results import display_name

    findings: dict[str, list[str]] = {}
    lines: list[str] = []
    for network in verdict.networks:
        name = display_name(network)
        findings.setdefault(verdict.finding(network), []).append(name)
        lines.append(f"{name}: {verdict.of(network)}")
        if len(verdict.networks) <= NAMED:
            lines += [f"{name}, {words}" for words in _numbers(verdict, network)]
    robust = [display_name(name) for name in verdict.networks if verdict.robustness(name) == "robust"]
    parts = [f"{finding}: {_named(names)}" for finding, names in findings.items()]
    parts += [f"robust: {_named(robust)}"] if robust else ["no direction is robust"]
    lines += [*_too_few(verdict), *verdict.conditions]
    return [*lines, _bottom("; ".join(parts), following)]


def _numbers(verdict: Verdict, network: str) -> Iterator[str]:
    """Yield what distance and intensity cost at the largest displacement, and what planted networks say to that."""
    from nearzero.page.answer import mechanism_words
    from nearzero.report.verdict import cost_cell

    measured = [row for row in verdict.comparisons if row.network == network and row.n]
    rows = [row for row in measured if row.target == max(each.target for each in measured)]
    if not rows:
        return
    target, decided = rows[0].target, verdict.rules
    costs = ", ".join(f"{row.intensity} {cost_cell(row.intensity_cost, decided)}" for row in rows)
    relative = ", ".join(
        f"{row.intensity} {row.ratio.text}"
        for row in verdict.relative_costs
        if (row.network, row.target) == (network, target) and row.ratio.ratio is not None
    )
    yield (
        f"at displacement {100 * target:g} %: distance costs {cost_cell(rows[0].distance_cost, decided)} "
        f"{decided.measured_in}, {costs}"
        + (f"; relative to distance, with 95 % intervals: {relative}" if relative else "")
    )
    if mechanism := mechanism_words(verdict, network):
        yield f"is it distance? {mechanism}"


def _too_few(verdict: Verdict) -> Iterator[str]:
    """Yield how many runs a verdict needs, if no network has as many."""
    runs = max((row.n for row in verdict.comparisons), default=0)
    if runs < verdict.rules.minimum_runs:
        yield (
            f"Nothing is judged: there {'is' if runs == 1 else 'are'} {number_of(runs, 'run')}, and a verdict needs "
            f"{verdict.rules.minimum_runs}."
        )


def _named(networks: Sequence[str]) -> str:
    """Return the names of networks; their number if they are many, or if the names hold commas."""
    few = len(networks) <= NAMED and not any("," in name for name in networks)
    return ", ".join(networks) if few else number_of(len(networks), "network")


def audit_conclusion(audit: Audit, following: str = "") -> list[str]:
    """Return the finding on each sentence, and how many sentences have which."""
    counts = Counter(audit.of(name).partition(" (")[0] for name in audit.names)
    found = ", ".join(f"{finding} {count}" for finding, count in counts.most_common())
    line = f"of the paper's {len(audit.names)} sentences: {found}"
    return [*audit.text().splitlines(), _bottom(line, following)]


def _bottom(line: str, following: str) -> str:
    return f"{line}; next: {following}" if following else line


def probe_tables(result: ProbeResult, *, numbers: bool = False) -> list[Table]:
    """Return the summary of a probe as tables: its layers, and what was assumed.

    Args:
        result: of the probe.
        numbers: whether to leave out the texts with each family's farthest response, for scripts, which have all
            responses in `response_table`.
    """
    from nearzero.report.table import text_table

    summary = result.summary()
    assumed = summary.assumptions
    texts = set(map(str, result.response.family.values)) if numbers else set()
    rows = [{name: text for name, text in row.items() if name not in texts} for row in summary]
    return [text_table("layers", rows), *([text_table("assumptions", assumed)] if assumed else [])]


def response_table(result: ProbeResult) -> Table:
    """Return every response of a probe as a table of numbers: a row for each layer, family and level."""
    from nearzero.report.table import Column, Number, Table

    metrics = [str(name) for name in result.response.attrs["metrics"]]
    frame = result.response[metrics].to_dataframe()[metrics].dropna(how="all").reset_index()
    names: Mapping[str, str] = {"layer": "text", "family": "text"}
    order = ("layer", "family", "level", *metrics)
    return Table(
        name="responses",
        title="Responses",
        caption="",
        columns=tuple(Column(name, name, kind=names.get(name, "number")) for name in order),  # type: ignore[arg-type]
        rows=tuple(
            (str(row.layer), str(row.family), *(Number.of(float(getattr(row, name))) for name in order[2:]))
            for row in frame.itertuples()
        ),
        group="layer",
    )


def power_numbers(measured: Power) -> Table:
    """Return the counts of `nearzero power` as numbers: of each finding, the number of studies that have it."""
    from nearzero.analysis.verdict.rules import Finding
    from nearzero.mechanisms.power import CAPTION, NO_COMPARISON, TOO_HARD
    from nearzero.report.table import Cell, Column, Number, Span, Table

    names = (*get_args(Finding), "mixed", TOO_HARD, NO_COMPARISON)
    rates = {"right": "right", "wrong": "wrong direction", "undecided": "undecided"}
    rows: list[tuple[Cell, ...]] = []
    for counts in measured.counts:
        condition, cells = counts.condition, list[Cell]()
        for name in rates.values():
            rate = counts.rates[name]
            ends = None if rate is None else Span(100 * rate.interval[0], 100 * rate.interval[1])
            cells += [None if rate is None else Number(100 * rate.share), ends]
        own = (counts.row["mechanism"], condition.activation, Number(condition.strength), counts.runs)
        found = (counts.findings.get(name, 0) for name in names)
        rows.append((*own, sum(counts.findings.values()), *cells, *found))
    shares = ((name, f"{name}_interval95") for name in rates)
    return Table(
        name="power",
        title="",
        caption=CAPTION,
        columns=(
            *(Column(name, name, kind="text") for name in ("mechanism", "activation")),
            *(Column(name, name) for name in ("strength", "runs", "studies")),
            *(
                Column(name, name, kind=kind, unit="percent")  # type: ignore[arg-type]
                for pair in shares
                for name, kind in zip(pair, ("number", "interval"), strict=True)
            ),
            *(Column(f"studies_{name.replace(' ', '_')}", name, kind="count") for name in names),
        ),
        rows=tuple(rows),
        group="",
    )


# --- small plots ---


def study_plot(study: Any) -> Table:
    """Return the mean accuracy of a study's networks against level, as a table of small curves."""
    from nearzero.report.render.sparkline import curves_table
    from nearzero.report.results import curve, display_name, families, networks
    from nearzero.statistics.summaries import mean

    curves = {}
    for network in networks(study):
        for family in families(study):
            grid = curve(study, network, family)
            curves[display_name(network), family] = (grid.levels, mean(grid.accuracy))
    title = "Accuracy over the training set, %, against level, mean over runs"
    return curves_table(curves, ("network", "family"), title, ends=(0.0, 100.0))


def probe_plot(result: ProbeResult) -> Table:
    """Return the first metric of a probe against level, as a table of small curves."""
    import numpy as np

    from nearzero.report.render.sparkline import curves_table

    metric = str(result.response.attrs["metrics"][0])
    share = metric in ("accuracy", "agreement")
    curves = {}
    for layer in result.layers:
        for family in map(str, result.response.family.values):
            own = result.response[metric].sel(layer=layer, family=family).dropna("level")
            values = np.asarray(own.values, dtype=np.float64) * (100 if share else 1)
            curves[layer, family] = (own.level.values, values)
    title = f"{metric.replace('_', ' ').capitalize()}{', %,' if share else ''} against level"
    ends = (0.0, 100.0) if share else None
    return curves_table(curves, ("layer", "family"), title, unit="percent" if share else "", ends=ends)


def grid_plot(verdict: Verdict) -> Table:
    """Return D of each network of a grid, at the largest displacement that it reaches, as a table of bars."""
    from nearzero.report.render.sparkline import bar
    from nearzero.report.results import display_name
    from nearzero.report.table import Column, Number, Table
    from nearzero.report.verdict import cost_cell

    rows = {
        (row.network, row.intensity): row for row in verdict.comparisons if row.n
    }  # the last is the largest
    most = max((abs(row.difference) for row in rows.values()), default=0.0)
    return Table(
        name="bars",
        title="D, the cost of distance minus that of intensity, at the largest displacement",
        caption="To the left intensity costs more, to the right distance.",
        columns=(
            Column("network", "network", kind="text"),
            Column("intensity", "intensity", kind="text"),
            Column("displacement", "d, %"),
            Column("difference", f"D, {verdict.rules.unit}", unit=verdict.rules.unit),
            Column("bar", "intensity │ distance", kind="text"),
        ),
        rows=tuple(
            (
                display_name(row.network),
                row.intensity,
                Number(100 * row.target, 0),
                cost_cell(row.difference, verdict.rules, signed=True),
                bar(row.difference, most),
            )
            for row in rows.values()
        ),
    )
