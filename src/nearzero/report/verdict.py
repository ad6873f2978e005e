"""A verdict as tables: every comparison by the rules, the checks, relative costs, and the cost of every family.

The rules and their application are in `nearzero.analysis.verdict`; `render` decides on the layout of tables.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from nearzero.analysis.verdict import CHECKS, Comparison, RelativeCost, Rules, Verdict
from nearzero.mechanisms.reference import Band, relative_costs
from nearzero.report.results import display_name
from nearzero.report.table import Cell, Column, Number, PValue, Span, Table
from nearzero.statistics.summaries import mean

__all__ = [
    "MECHANISMS",
    "checks_table",
    "comparisons_table",
    "costs_table",
    "judged_tables",
    "p_cell",
    "planted_bands",
    "relative_table",
    "robust_table",
    "untrained_table",
]

NETWORK = Column("network", "network", kind="text")
INTENSITY = Column("intensity", "intensity", kind="text")
DISPLACEMENT = Column("displacement", "displacement, %", "d\n%")
RUNS = Column("n", "n", kind="count", spare=1)
DIFFERENCE = Column("difference", "D, points", "D\npoints", unit="points")
INTERVAL = Column("interval90", "90 % interval", "90 %\ninterval", kind="interval", unit="points")
HOLM = Column("p_adjusted", "p, Holm", "p, Holm", kind="text", spare=2)
FINDING = Column("finding", "finding", kind="text")
ALONE = Column("p_alone", "p, Holm, this layer alone", "p, layer\nalone", kind="text", spare=5)
JOINT = Column("p_joint", "p, Holm, all networks", "p, all\nnetworks", kind="text", spare=6)
MECHANISMS = {"distance": "planted distance", "template": "planted templates"}
PLANTED = (
    " Planted: the 5 to 95 % quantiles of the relative costs of two-layer networks that measure distances, or match "
    "templates, by construction."
)
TESTS = {
    "minimum-effect": "p of the minimum-effect test, which asks if |D| exceeds the margin",
    "difference": "p of the paired t-test of D = 0 (an earlier rule: D isn't tested against the margin)",
}


def judged_tables(verdict: Verdict, title: str) -> tuple[Table, ...]:
    """Return all tables of a verdict: comparisons, checks in short and in full, relative costs, and costs."""
    return (
        comparisons_table(verdict, title),
        robust_table(verdict, title),
        checks_table(verdict, title),
        relative_table(verdict, title),
        costs_table(verdict, title),
    )


def comparisons_table(verdict: Verdict, title: str) -> Table:
    """Return a table with a row for each network, intensity family and displacement, and with the rules' finding."""
    rules, models = verdict.rules, set(verdict.models.values())
    layers = len(models) < len(verdict.networks) and bool(models)
    further = (*((ALONE,) if layers else ()), *((JOINT,) if len(models) > 1 else ()))
    columns = (
        *(NETWORK, INTENSITY, DISPLACEMENT, RUNS),
        Column("distance_cost", "cost of distance", "distance\npoints", unit="points"),
        Column("intensity_cost", "cost of intensity", "intensity\npoints", unit="points"),
        *(DIFFERENCE, INTERVAL),
        Column("effect", "effect size", "g_z", spare=3),
        *(HOLM, *further),
        Column("p_sign_flip", "p, sign flips", "p, signs", kind="text", spare=4),
        FINDING,
    )
    return Table(
        name="verdict",
        title=f"Verdict: {title}",
        caption=(
            f"Costs in points of {_measure(rules)}, means over n runs, data fixed: what the unperturbed network has "
            f"more. D is the cost of distance ({', '.join(rules.distance)}, sides averaged) minus that of intensity, "
            f"with its {100 * (1 - 2 * rules.alpha):g} % t interval. {_tested(rules)}; {_adjustments(further)} Sign "
            f"flips: exact test of D = 0, not adjusted."
        ),
        columns=columns,
        rows=tuple(_comparison_row(row, further) for row in verdict.comparisons),
        notices=tuple(_notices(verdict)),
    )


def _measure(rules: Rules) -> str:
    return rules.measure.replace("_", " ")


def _tested(rules: Rules) -> str:
    """Return a sentence, without its end, on the test, the margin, and what is adjusted."""
    return (
        f"{TESTS[rules.test]}, margin {rules.margin:g} points, alpha {rules.alpha:g}, adjusted by Holm over all rows "
        "of a model (its layers included)"
    )


def _adjustments(further: Sequence[Column]) -> str:
    """Return sentences on equivalence, and on the other adjustments that a table has."""
    words = {
        ALONE: " p for this layer alone is adjusted over the rows of the layer, and decides nothing: a statement "
        "about some layer needs the one over all layers.",
        JOINT: " p over all networks is the joint adjustment over the whole table, given beside.",
    }
    equivalence = "equivalence (TOST) is tested in each row by itself, and not adjusted."
    return equivalence + "".join(words[column] for column in further)


def _comparison_row(row: Comparison, further: Sequence[Column]) -> tuple[Cell, ...]:
    return (
        *_place(row),
        row.n,
        Number.of(row.distance_cost),
        Number.of(row.intensity_cost),
        *_difference(row),
        Number.of(row.effect),
        p_cell(row.p_adjusted),
        *(p_cell(getattr(row, column.name)) for column in further),
        p_cell(row.p_sign_flip),
        _finding(row),
    )


def _place(row: Comparison | RelativeCost) -> tuple[Cell, Cell, Cell]:
    return display_name(row.network), row.intensity, Number(100 * row.target, 0)


def _difference(row: Comparison) -> tuple[Cell, Cell]:
    """Return D and its interval."""
    interval = None if row.low is None or row.high is None else Span(row.low, row.high)
    return Number.of(row.difference, signed=True), interval


def _finding(row: Comparison) -> str:
    return f"{row.finding} ({row.words})" if row.words else row.finding


def p_cell(value: float | None) -> PValue | None:
    """Return a p value as a cell; None if there is none."""
    return None if value is None else PValue(value)


def _notices(verdict: Verdict) -> Iterator[str]:
    yield from verdict.rules.notices
    for network, reasons in verdict.left_out.items():
        yield from (f"{display_name(network)}: {reason}" for reason in reasons)


# --- the checks ---


def robust_table(verdict: Verdict, title: str) -> Table:
    """Return a table with the finding on each network, and below it a row for each check and its outcome."""
    rows: list[tuple[Cell, ...]] = []
    for network in verdict.networks:
        name, phrase = display_name(network), verdict.robustness(network) or "no direction to check"
        spans = _range(verdict.comparisons, network)
        rows.append((name, "the rules", verdict.finding(network), None, *spans, phrase))
        outcomes = {result.check: result.outcome for result in verdict.checked(network)}
        for check in verdict.rules.checks:
            found = verdict.found_by(check, network)
            outcome = outcomes.get(check, None if found else "not measured")
            spans = _range(verdict.checks.get(check, ()), network)
            rows.append((name, CHECKS[check], found or None, outcome, *spans, ""))
    return Table(
        name="robust",
        title=f"Robust or not: {title}",
        caption=(
            "The first row of a network is the finding by the rules. A check holds if it finds the same direction by "
            "the same test, turns if any of its comparisons finds the opposite one, and is undecided in all other "
            "cases. Robust: all checks hold. D from, to: the least and the greatest D of all comparisons; each of "
            "them is in the table of checks."
        ),
        columns=(
            NETWORK,
            Column("check", "check", kind="text"),
            FINDING,
            Column("outcome", "outcome", kind="text"),
            Column("least", "D from", unit="points", spare=1),
            Column("greatest", "to", unit="points", spare=1),
            Column("robust", "robust", kind="text", spare=9),
        ),
        rows=tuple(rows),
        notices=tuple(_notices(verdict)),
    )


def _range(comparisons: Sequence[Comparison], network: str) -> tuple[Number | None, Number | None]:
    """Return the least and the greatest D of a network's comparisons; None where there is none."""
    own = [row.difference for row in comparisons if row.network == network and row.n]
    return (Number.of(min(own), signed=True), Number.of(max(own), signed=True)) if own else (None, None)


def checks_table(verdict: Verdict, title: str) -> Table:
    """Return a table with every comparison as the rules make it, and below it as each check makes it."""
    sources = {"the rules": verdict.comparisons}
    sources |= {
        CHECKS[check]: verdict.checks[check] for check in verdict.rules.checks if check in verdict.checks
    }
    missing = [CHECKS[check] for check in verdict.rules.checks if check not in verdict.checks]
    unmeasured = f" Not measured: {', '.join(missing)}." if missing else ""
    return Table(
        name="checks",
        title=f"Every comparison, and its checks: {title}",
        caption=(
            f"D in points of {_measure(verdict.rules)}: the cost of distance minus that of intensity. Whitened size "
            "and centred logit change: the same at levels of equal size in these measures, the sizes being those of "
            "signed shifts at the displacement. Centred accuracy: the mean logit change taken out. Held-out data: "
            "levels as before, responses of data that neither training nor levels used. Each check is adjusted by "
            f"Holm over its own rows of a model.{unmeasured}"
        ),
        columns=(
            *(NETWORK, INTENSITY, DISPLACEMENT, Column("check", "check", kind="text")),
            *(RUNS, DIFFERENCE, INTERVAL, HOLM, FINDING),
        ),
        rows=tuple(
            (*_place(row), name, row.n, *_difference(row), p_cell(row.p_adjusted), _finding(row))
            for rows in zip(*sources.values(), strict=True)
            for name, row in zip(sources, rows, strict=True)
        ),
    )


# --- costs ---


def planted_bands(verdict: Verdict) -> dict[str, tuple[Band, ...]]:
    """Return by network the relative costs of planted networks with its activation.

    There are none for other activations, and for rules with another distance or measure than the default ones.
    """
    default, rules = Rules(), verdict.rules
    if (rules.distance, rules.measure) != (default.distance, default.measure):
        return {}
    activations = {name: verdict.activations.get(name, name) for name in verdict.networks}
    return {name: bands for name, activation in activations.items() if (bands := relative_costs(activation))}


def relative_table(verdict: Verdict, title: str) -> Table:
    """Return a table of what each family of intensity costs relative to distance, at each displacement.

    Beside it are the relative costs of planted networks, if there are any for the activation.
    """
    rows, planted = [], planted_bands(verdict)
    mechanisms = MECHANISMS if planted else {}
    for row in verdict.relative_costs:
        ratio = row.ratio
        defined = ratio.ratio is not None and ratio.low is not None and ratio.high is not None
        interval = Span(ratio.low, ratio.high) if defined else None  # type: ignore[arg-type]
        bands: dict[str, Span] = {
            band.mechanism: Span(band.low, band.high)
            for band in planted.get(row.network, ())
            if (band.family, band.target) == (row.intensity, row.target)
            and band.low is not None
            and band.high is not None
        }
        spans = (bands.get(mechanism) for mechanism in mechanisms)
        rows.append(
            (*_place(row), ratio.n, Number.of(ratio.ratio), interval, *spans, _undefined(ratio.reason))
        )
    return Table(
        name="relative",
        title=f"Relative costs: {title}",
        caption=(
            "The mean cost of intensity over the mean cost of distance "
            f"({', '.join(verdict.rules.distance)}) at equal displacement, over the same n runs, with its 95 % "
            "interval (Fieller). 1: both cost the same; below 1 distance costs more. Undefined where the interval of "
            "the cost of distance contains 0." + (PLANTED if planted else "")
        ),
        columns=(
            *(NETWORK, INTENSITY, DISPLACEMENT, RUNS),
            Column("ratio", "relative cost", "relative\ncost"),
            Column("interval95", "95 % interval", "95 %\ninterval", kind="interval"),
            *(
                Column(f"planted_{name}", words, words.replace(" ", "\n"), kind="interval", spare=1)
                for name, words in mechanisms.items()
            ),
            Column("words", "", kind="text"),
        ),
        rows=tuple(rows),
    )


def _undefined(reason: str) -> str:
    return f"undefined: {reason}" if reason else ""


def costs_table(verdict: Verdict, title: str) -> Table:
    """Return a table of the mean cost over runs of every family at each displacement, deciding or not."""
    targets = [float(target) for target in verdict.costs.target.values]
    roles = _roles(verdict.rules)
    rows = []
    for network in verdict.networks:
        for family in map(str, verdict.costs.family.values):
            costs = verdict.costs.sel(network=network, family=family).transpose("target", "run").values
            means = (Number.of(float(mean(runs[np.isfinite(runs)]))) for runs in costs)
            rows.append((display_name(network), family, roles.get(family, "no"), *means))
    return Table(
        name="costs",
        title=f"Costs at matched displacement: {title}",
        caption=(
            f"Points of {_measure(verdict.rules)} lost, means over runs, the sides of a family averaged; a dash: some "
            "side or draw doesn't reach the displacement. Decides: as distance, as intensity, or not at all; families "
            "that don't decide are here for reading."
        ),
        columns=(
            NETWORK,
            Column("family", "family", kind="text"),
            Column("decides", "decides", kind="text"),
            *(Column(f"d{100 * target:g}", f"d = {100 * target:g} %", unit="points") for target in targets),
        ),
        rows=tuple(rows),
    )


def _roles(rules: Rules) -> Mapping[str, str]:
    """Return which families decide, and as what."""
    return dict.fromkeys(rules.distance, "distance") | dict.fromkeys(rules.intensity, "intensity")


def untrained_table(verdict: Verdict, title: str) -> Table:
    """Return the comparisons of the networks before their first step: what isn't learned."""
    table = comparisons_table(verdict, title)
    return replace(
        table,
        name="untrained",
        title=f"Before the first step: {title}",
        caption=f"The same networks before training: what this shows isn't learned. {table.caption}",
    )
