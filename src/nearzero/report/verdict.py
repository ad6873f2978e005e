"""A verdict as tables: every comparison by the rules, the checks, relative costs, and the cost of every family.

The rules and their application are in `nearzero.analysis.verdict`; `render` decides on the layout of tables.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from nearzero.analysis.verdict import Comparison, RelativeCost, Rules, Verdict, measure_words
from nearzero.mechanisms.reference import MECHANISMS, placed_costs
from nearzero.report.results import display_name
from nearzero.report.table import Cell, Column, Number, PValue, Span, Table
from nearzero.statistics.summaries import mean

__all__ = [
    "checks_table",
    "comparisons_table",
    "cost_cell",
    "costs_table",
    "judged_tables",
    "p_cell",
    "relative_table",
    "robust_table",
    "untrained_table",
]

NETWORK = Column("network", "network", kind="text")
INTENSITY = Column("intensity", "intensity", kind="text")
DISPLACEMENT = Column("displacement", "displacement, %", "d\n%")
RUNS = Column("n", "n", kind="count", spare=1)
HOLM = Column("p_adjusted", "p, Holm", "p, Holm", kind="text", spare=2)
FINDING = Column("finding", "finding", kind="text")
ALONE = Column("p_alone", "p, Holm, this layer alone", "p, layer\nalone", kind="text", spare=5)
JOINT = Column("p_joint", "p, Holm, all networks", "p, all\nnetworks", kind="text", spare=6)
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
        Column("distance_cost", "cost of distance", f"distance\n{rules.unit}", unit=rules.unit),
        Column("intensity_cost", "cost of intensity", f"intensity\n{rules.unit}", unit=rules.unit),
        *_difference_columns(rules),
        Column("effect", "effect size", "g_z", spare=3),
        *(HOLM, *further),
        Column("p_sign_flip", "p, sign flips", "p, signs", kind="text", spare=4),
        FINDING,
    )
    return Table(
        name="verdict",
        title=f"Verdict: {title}",
        caption=(
            f"Costs in {rules.measured_in}, means over n runs, data fixed: {_cost_words(rules)}. "
            f"D is the cost of distance ({', '.join(rules.distance)}, sides averaged) minus that of intensity, "
            f"with its {100 * (1 - 2 * rules.alpha):g} % t interval. {_tested(rules)}; {_adjustments(further)} Sign "
            f"flips: exact test of D = 0, not adjusted."
        ),
        columns=columns,
        rows=tuple(_comparison_row(row, rules, further) for row in verdict.comparisons),
        notices=tuple(_notices(verdict)),
    )


def _cost_words(rules: Rules) -> str:
    return (
        "by how much the loss rises, in nats per item"
        if rules.of_loss
        else "what the unperturbed network has more"
    )


def _lost(rules: Rules) -> str:
    words = measure_words(rules.measure)
    return f"Rise of the {words} in nats per item" if rules.of_loss else f"Points of {words} lost"


def cost_cell(value: float | None, rules: Rules, *, signed: bool = False) -> Number | None:
    """Return a cost, or a difference of costs, as a cell, with decimals that suit its unit."""
    return Number.of(value, _decimals(rules), signed=signed)


def _decimals(rules: Rules) -> int:
    return 4 if rules.of_loss else 2


def _difference_columns(rules: Rules) -> tuple[Column, Column]:
    unit = rules.unit
    return (
        Column("difference", f"D, {unit}", f"D\n{unit}", unit=unit),
        Column("interval90", "90 % interval", "90 %\ninterval", kind="interval", unit=unit),
    )


def _tested(rules: Rules) -> str:
    """Return a sentence, without its end, on the test, the margin, and what is adjusted."""
    return (
        f"{TESTS[rules.test]}, margin {rules.margin:g} {rules.unit}, alpha {rules.alpha:g}, adjusted by Holm over all "
        "rows of a model (its layers included)"
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


def _comparison_row(row: Comparison, rules: Rules, further: Sequence[Column]) -> tuple[Cell, ...]:
    return (
        *_place(row),
        row.n,
        cost_cell(row.distance_cost, rules),
        cost_cell(row.intensity_cost, rules),
        *_difference(row, rules),
        Number.of(row.effect),
        p_cell(row.p_adjusted),
        *(p_cell(getattr(row, column.name)) for column in further),
        p_cell(row.p_sign_flip),
        _finding(row),
    )


def _place(row: Comparison | RelativeCost) -> tuple[Cell, Cell, Cell]:
    return display_name(row.network), row.intensity, Number(100 * row.target, 0)


def _difference(row: Comparison, rules: Rules) -> tuple[Cell, Cell]:
    """Return D and its interval."""
    interval = None if row.low is None or row.high is None else Span(row.low, row.high, _decimals(rules))
    return cost_cell(row.difference, rules, signed=True), interval


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
    names = verdict.rules.check_names
    for network in verdict.networks:
        name, phrase = display_name(network), verdict.robustness(network) or "no direction to check"
        spans = _range(verdict, verdict.comparisons, network)
        rows.append((name, "the rules", verdict.finding(network), None, *spans, phrase))
        outcomes = {result.check: result.outcome for result in verdict.checked(network)}
        for check in verdict.rules.checks:
            found = verdict.found_by(check, network)
            outcome = outcomes.get(check, None if found else "not measured")
            spans = _range(verdict, verdict.checks.get(check, ()), network)
            rows.append((name, names[check], found or None, outcome, *spans, ""))
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
            Column("least", "D from", unit=verdict.rules.unit, spare=1),
            Column("greatest", "to", unit=verdict.rules.unit, spare=1),
            Column("robust", "robust", kind="text", spare=9),
        ),
        rows=tuple(rows),
        notices=tuple(_notices(verdict)),
    )


def _range(
    verdict: Verdict, comparisons: Sequence[Comparison], network: str
) -> tuple[Number | None, Number | None]:
    """Return the least and the greatest D of a network's comparisons; None where there is none."""
    own = [row.difference for row in comparisons if row.network == network and row.n]
    least, greatest = (min(own), max(own)) if own else (None, None)
    return cost_cell(least, verdict.rules, signed=True), cost_cell(greatest, verdict.rules, signed=True)


def checks_table(verdict: Verdict, title: str) -> Table:
    """Return a table with every comparison as the rules make it, and below it as each check makes it."""
    rules, names = verdict.rules, verdict.rules.check_names
    sources = {"the rules": verdict.comparisons}
    sources |= {names[check]: verdict.checks[check] for check in rules.checks if check in verdict.checks}
    missing = [names[check] for check in rules.checks if check not in verdict.checks]
    unmeasured = f" Not measured: {', '.join(missing)}." if missing else ""
    return Table(
        name="checks",
        title=f"Every comparison, and its checks: {title}",
        caption=(
            f"D in {rules.measured_in}: the cost of distance minus that of intensity. Whitened size "
            "and centred logit change: the same at levels of equal size in these measures, the sizes being those of "
            f"signed shifts at the displacement. {names['centred_accuracy'].capitalize()}: the mean logit change taken "
            "out. Held-out data: "
            "levels as before, responses of data that neither training nor levels used. Each check is adjusted by "
            f"Holm over its own rows of a model.{unmeasured}"
        ),
        columns=(
            *(NETWORK, INTENSITY, DISPLACEMENT, Column("check", "check", kind="text")),
            *(RUNS, *_difference_columns(rules), HOLM, FINDING),
        ),
        rows=tuple(
            (*_place(row), name, row.n, *_difference(row, rules), p_cell(row.p_adjusted), _finding(row))
            for rows in zip(*sources.values(), strict=True)
            for name, row in zip(sources, rows, strict=True)
        ),
    )


# --- costs ---


def relative_table(verdict: Verdict, title: str) -> Table:
    """Return a table of what each family of intensity costs relative to distance, at each displacement.

    Beside it are the relative costs of planted networks, if there are any for the activation.
    """
    rows, placed = [], placed_costs(verdict)
    planted = any(each.bands for each in placed)
    mechanisms = MECHANISMS if planted else {}
    undefined = any(each.cost.ratio.reason for each in placed)
    for each in placed:
        row, ratio = each.cost, each.cost.ratio
        defined = ratio.ratio is not None and ratio.low is not None and ratio.high is not None
        interval = Span(ratio.low, ratio.high) if defined else None  # type: ignore[arg-type]
        bands: dict[str, Span] = {name: Span(*band) for name, band in each.bands.items()}
        spans = (bands.get(mechanism) for mechanism in mechanisms)
        rows.append(
            (
                *(*_place(row), ratio.n, Number.of(ratio.ratio), interval, *spans),
                *([_undefined(ratio.reason)] if undefined else []),
            )
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
            *([Column("words", "remark", kind="text")] if undefined else []),
        ),
        rows=tuple(rows),
    )


def _undefined(reason: str) -> str:
    return f"undefined: {reason}" if reason else ""


def costs_table(verdict: Verdict, title: str) -> Table:
    """Return a table of the mean cost over runs of every family at each displacement, deciding or not."""
    targets = [float(target) for target in verdict.costs.target.values]
    roles = _roles(verdict.rules)
    whole = verdict.costs.transpose("network", "family", "target", "run")
    families, values = (
        [str(name) for name in whole.family.values],
        dict(zip(whole.network.values, whole.values, strict=True)),
    )
    rows = []
    for network in verdict.networks:
        for family, costs in zip(families, values[network], strict=True):
            means = (cost_cell(float(mean(runs[np.isfinite(runs)])), verdict.rules) for runs in costs)
            rows.append((display_name(network), family, roles.get(family, "no"), *means))
    return Table(
        name="costs",
        title=f"Costs at matched displacement: {title}",
        caption=(
            f"{_lost(verdict.rules)}, means over runs, the sides of a family averaged; a dash: some "
            "side or draw doesn't reach the displacement. Decides: as distance, as intensity, or not at all; families "
            "that don't decide are here for reading."
        ),
        columns=(
            NETWORK,
            Column("family", "family", kind="text"),
            Column("decides", "decides", kind="text"),
            *(
                Column(f"d{100 * target:g}", f"d = {100 * target:g} %", unit=verdict.rules.unit)
                for target in targets
            ),
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
