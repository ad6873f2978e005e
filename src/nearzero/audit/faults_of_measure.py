"""Faults 7 to 12 of the published study, those of how it measures and infers. The first six are in `faults`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from nearzero.audit.evidence import Evidence, mean_of
from nearzero.audit.measure import bootstrap_row
from nearzero.audit.values import ALPHA, TOO_FEW, Entry, LevelRow, label
from nearzero.statistics.summaries import summarise

__all__ = ["crossing", "extremes", "no_effect", "order", "saturation", "sizes", "spots"]

STILL = 0.1  # points: less than this is no movement of the train accuracy
MATCHED = 0.1  # the displacement for which levels are shown
COMPARED = ("offset", "clip", "scale", "shift", "gains", "cap")  # at that displacement, sides averaged
NOT_MATCHED = "not measured at matched displacement yet; `nearzero verdict` does it"


def spots(
    evidence: Evidence,
    network: str,
    rows: Sequence[LevelRow],
    fault: int,
    family: str,
    levels: Sequence[float],
    right: str,
    words: str = "",
    as_run: str = "accuracy",
    note: str = "",
) -> Iterator[Entry]:
    """Accuracies at some levels of a family, as published, as run, and measured in the right way; a note says which."""
    for level in levels:
        number = evidence.row(family, level)
        if number is None:
            continue
        fact = next(row.published for row in rows if (row.family, row.level) == (family, level))
        run = evidence.percent(as_run, network, number)
        per_row = "row" in evidence.measured[right].dims
        put = evidence.percent(right, network, number if per_row else None)
        yield Entry(
            fault, network, f"accuracy at {family} {100 * level:g} %{note}, %", fact, mean_of(run), mean_of(put),
            int(np.isfinite(run).sum()), words=words,
        )  # fmt: skip


def sizes(evidence: Evidence, network: str, rows: Sequence[LevelRow]) -> Iterator[Entry]:
    """Fault 7: how far levels of one number displace activations, and the levels at which families do it equally."""
    wanted = [("scale", 0.1), ("clip", 0.1), ("offset", -0.1), ("offset", 0.1)]
    wanted += [("scale", 0.5), ("clip", 0.5), ("offset", -0.5), ("offset", 0.5)]
    for row in rows:
        if (row.family, row.level) in wanted:
            quantity = f"displacement at {row.family} {100 * row.level:g} %, %"
            yield Entry(7, network, quantity, None, row.displacement, None, row.n, 1)
    found, verdict = evidence.matched, evidence.verdict
    if found is None or verdict is None:
        yield Entry(7, network, "verdict at matched displacement", words=NOT_MATCHED)
        return
    for family, side in (("clip", "below"), ("offset", "below"), ("offset", "above")):
        if MATCHED in found.target.values and family in found.family.values:
            levels = found.level.sel(network=network, family=family, side=side, target=MATCHED).values
            quantity = f"level of {family} {side} its identity with d = {100 * MATCHED:g} %, %"
            level = mean_of(100 * levels)
            if level is not None:
                yield Entry(7, network, quantity, None, None, level, int(np.isfinite(levels).sum()), 1)
    for family in (each for each in COMPARED if each in verdict.costs.family.values):
        if MATCHED in verdict.costs.target.values:
            costs = verdict.costs.sel(network=network, family=family, target=MATCHED).values
            cost = mean_of(costs)
            if cost is not None:
                quantity = f"points lost to {family} at d = {100 * MATCHED:g} %"
                yield Entry(7, network, quantity, None, None, cost, int(np.isfinite(costs).sum()))
    short, _, detail = verdict.of(network).partition(" (")
    yield Entry(
        7,
        network,
        "verdict at matched displacement",
        put_right=short,
        words=f"{label(network)}: {detail.rstrip(')')}",
    )


def no_effect(evidence: Evidence, network: str, rows: Sequence[LevelRow]) -> Iterator[Entry]:
    """Fault 8: what p > 0.05 is taken for, and what an equivalence test says of the same rows."""
    n = max(row.n for row in rows)
    if n < 2:
        yield Entry(8, network, f"rows with p > {ALPHA:g}", n=n, words=TOO_FEW)
        return
    paper, entry50, identity = (
        [p is not None and p > ALPHA for p in (getattr(row, name) for row in rows)]
        for name in ("p_published", "p_entry", "p_identity")
    )
    known = rows[0].published is not None
    published, as_run, right = (float(sum(each)) for each in (paper, entry50, identity))
    quantity = f"rows with p > {ALPHA:g}, of {len(rows)}"
    yield Entry(8, network, quantity, published if known else None, as_run, right, n, 0)
    margin = f"{evidence.margin:g} {'point' if evidence.margin == 1 else 'points'}"
    as_run, right = (
        float(sum(bool(row.within) for row, wanted in zip(rows, each, strict=True) if wanted))
        for each in (entry50, identity)
    )
    quantity = f"of these, the identity's accuracy within {margin} (TOST)"
    yield Entry(8, network, quantity, None, as_run, right, n, 0)
    small = [row for row in rows if row.p_identity is not None and row.p_identity < ALPHA]
    yield Entry(
        8, network, f"rows with p < {ALPHA:g} and yet within {margin}", None, None,
        float(sum(bool(row.within) for row in small)), n, 0,
    )  # fmt: skip


def extremes(evidence: Evidence, network: str, rows: Sequence[LevelRow]) -> Iterator[Entry]:
    """Fault 9: ranges without the outermost examples, and from examples other than those that respond."""
    n = int(np.isfinite(evidence.runs("width", network)).sum())
    width, rare = evidence.percent("width", network), mean_of(evidence.runs("rare_units", network))
    yield Entry(
        9, network, "mean range of a unit, % of the full one", None, 100.0, mean_of(width),
        n, 1,
        "put right: quantiles 0.1 % to 99.9 %",
    )  # fmt: skip
    yield Entry(9, network, "live units whose range is then 0, mean over runs", None, 0.0, rare, n)
    family, levels = ("offset", (-0.1, 0.1)) if evidence.has("offset") else ("clip", (0.1, 0.5))
    if not evidence.has(family):
        yield Entry(9, network, "accuracy by other ranges", words="neither offset nor clip was swept")
        return
    for name, note in (("quantile", ", by quantiles"), ("other_half", ", by the other half")):
        yield from spots(evidence, network, rows, 9, family, levels, f"{name}_accuracy", note=note)


def saturation(evidence: Evidence, network: str, rows: Sequence[LevelRow]) -> Iterator[Entry]:
    """Fault 10: what moves at rows at which the accuracy on the training set doesn't."""
    test = evidence.percent("unperturbed_test_accuracy", network)
    n = int(np.isfinite(test).sum())
    train = mean_of(evidence.unperturbed(network))
    yield Entry(
        10, network, "accuracy without perturbation, %", None, train, mean_of(test), n,
        words="accuracy as run: on the training set; put right: on the test set",
    )  # fmt: skip
    moved = {number: mean_of(evidence.cost(network, number)) or 0.0 for number in range(len(evidence.rows))}
    still = [number for number, cost in moved.items() if abs(cost) < STILL]
    quantity = f"rows at which it moves by less than {STILL:g} points, of {len(moved)}"
    yield Entry(10, network, quantity, None, float(len(still)), None, n, 0)
    if not still:
        return
    seen = {
        "% of predictions changed": {
            number: mean_of(100.0 - evidence.percent("agreement", network, number)) for number in still
        },
        "points lost on the test set": {
            number: mean_of(evidence.cost(network, number, "test_accuracy")) for number in still
        },
        "% of the margin lost, scale left out": {
            number: _margin_lost(evidence, network, number)
            for number in still
            if evidence.rows[number].family != "scale"
        },
    }
    for quantity, values in seen.items():
        known = {number: value for number, value in values.items() if value is not None}
        if not known:
            yield Entry(10, network, f"{quantity}, most of these", words="there is no such row")
            continue
        most = max(known, key=lambda number: known[number])
        row = evidence.rows[most]
        yield Entry(
            10, network, f"{quantity}, most at {row.family} {100 * row.level:g} %", None, moved[most], known[most],
            n, 3, "in the last three, as run: the points lost on the training set at the same row",
        )  # fmt: skip


def _margin_lost(evidence: Evidence, network: str, number: int) -> float | None:
    """What is lost of the mean margin of the logits, percent; None where there is none to lose."""
    before = evidence.runs("unperturbed_margin", network)
    after = evidence.runs("margin", network, number)
    with np.errstate(invalid="ignore"):
        return mean_of(
            np.where(before > 0, 100.0 * (1.0 - after / np.where(before > 0, before, 1.0)), np.nan)
        )


def crossing(evidence: Evidence, network: str, rows: Sequence[LevelRow]) -> Iterator[Entry]:
    """Fault 11: significant rows after Holm's adjustment; an interval that holds for new examples too."""
    n = max(row.n for row in rows)
    facts = rows[0].published is not None
    if n >= 2:
        yield Entry(
            11, network, f"rows with p < {ALPHA:g}, of {len(rows)}",
            float(sum((row.p_published or 0.0) < ALPHA for row in rows)) if facts else None,
            float(sum(row.p_identity is not None and row.p_identity < ALPHA for row in rows)),
            float(sum(row.p_holm is not None and row.p_holm < ALPHA for row in rows)), n, 0,
            "as run: against the identity; put right: the same after Holm over the rows of all networks",
        )  # fmt: skip
    else:
        yield Entry(11, network, f"rows with p < {ALPHA:g}", n=n, words=TOO_FEW)
    number = bootstrap_row(evidence.rows)
    if number is None:
        return
    row, cost = evidence.rows[number], summarise(evidence.cost(network, number))
    quantity = f"95 % interval of the cost of {row.family} {100 * row.level:g} %"
    low, high = (float(evidence.measured[f"bootstrap_{end}"].sel(network=network)) for end in ("low", "high"))
    if cost.n < 2 or not np.isfinite(low):
        yield Entry(11, network, quantity, n=cost.n, words=cost.words or "no variance")
        return
    yield Entry(
        11, network, quantity, None, f"{cost.low:.3f} to {cost.high:.3f}", f"{low:.3f} to {high:.3f}", cost.n,
        words="points; as run: t, new runs on the same examples; put right: crossed bootstrap, new runs and examples",
    )  # fmt: skip


def order(evidence: Evidence, network: str, rows: Sequence[LevelRow]) -> Iterator[Entry]:
    """Fault 12: runs that are the same on their own."""
    again = np.column_stack(
        [evidence.percent("unperturbed_accuracy", network)]
        + [evidence.percent("accuracy", network, number) for number in range(len(evidence.rows))]
    )
    kept = np.column_stack(
        [evidence.unperturbed(network)] + [evidence.swept(network, row) for row in evidence.rows]
    )
    present = np.isfinite(again).all(axis=1)
    apart = np.abs(again - kept)[present].max(axis=1) * np.nanmax(evidence.runs("examples", network)) / 100
    equal = int((apart < 0.5).sum())  # a half of an example: the same count
    most = f"; greatest difference {apart.max():.0f} examples" if equal < len(apart) else ""
    trained = (
        "each run has its own seed, and its weights don't depend on other runs"
        if evidence.device == "cpu"
        else f"each run has its own seed; trained on {evidence.device}, where sums may depend on the company"
    )
    yield Entry(
        12, network, "runs with the same accuracies when measured alone", None, None,
        float(equal), len(apart), 0, f"of {len(apart)}, from their files{most}; {trained}",
    )  # fmt: skip
