"""Measure each fault of the published study: a few entries for each network, as published, as run and put right.

"As run" is the paper's conduct on this study's networks. If there is no number, the entry's note says why.
The rows that entries count are made in `evidence`. There is a function for each fault. It takes the evidence
on one network and `entry`, which makes its entries: `FaultEntry` with the first two arguments, fault and
network, bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from nearzero.paper.audit.evidence import Evidence, NetworkEvidence, Runs, has_target, mean_of
from nearzero.paper.audit.measure import Row, bootstrap_row
from nearzero.paper.audit.values import ALPHA, MATCHED, FaultEntry, label, points
from nearzero.paper.published import published
from nearzero.perturbations.families import AS_RUN_FOR
from nearzero.statistics.summaries import count, summarise
from nearzero.support.words import number_of

__all__ = ["entries"]

TOO_FEW = "fewer than two runs, so no test"
UNPERTURBED = (("scale", 1.0), ("clip", 1.0), ("offset", 0.0))  # rows at, or nearly at, the identity
OTHER_PIXELS = {"raw": "normalized", "normalized": "raw"}
STILL = 0.1  # points; with a smaller change, the accuracy on the training set counts as unchanged
COMPARED = ("offset", "clip", "scale", "shift", "gains", "cap")  # at displacement `MATCHED`, sides averaged
MakeEntry = Callable[..., FaultEntry]
Entries = Iterator[FaultEntry]


def entries(evidence: Evidence) -> tuple[FaultEntry, ...]:
    """Return all entries, fault by fault, and network by network within a fault."""
    faults = [wrong_baseline, pixels, dead_units, clip_before, flat_scale, constant]  # 1 to 6
    faults += [sizes, no_effect, extremes, saturation, crossing, order]  # 7 to 12
    return tuple(
        entry
        for number, fault in enumerate(faults, 1)
        for own in evidence.by_network
        for entry in fault(own, partial(FaultEntry, number, own.network))
    )


def wrong_baseline(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Yield entries on fault 1: rows that are significant, better than their baseline, or depend on the baseline."""
    rows, n = own.levels, own.n
    if n < 2:
        yield entry(f"rows with p < {ALPHA:g}", n=n, note=TOO_FEW)
        return
    significant = _of_rows(own, "p_published", "p_entry", "p_identity") < ALPHA
    sign = np.sign(np.nan_to_num(_of_rows(own, "t_published", "t_entry", "t_identity")))
    counted = {
        f"rows with p < {ALPHA:g}, of {len(rows)}": significant,
        "of these, better than their baseline (t < 0)": significant & (sign < 0),
        "rows whose t has another sign than against the identity": sign != sign[2],
        "rows significant in one of these two tests alone": significant != significant[2],
    }
    for quantity, which in counted.items():
        yield entry(quantity, *_counts(own, which), n, 0)
    for row in rows:
        if (row.family, row.level) in UNPERTURBED:
            right = row.reason if row.t_identity is None else row.t_identity
            quantity = f"t of {row.family} at {100 * row.level:g} %"
            yield entry(quantity, row.t_published, row.t_entry, right, n, 1)


def _of_rows(own: NetworkEvidence, *names: str) -> Runs:
    """Return attributes of a network's rows, (names, rows); NaN if there is no value, for example without a test."""
    return np.array([[getattr(row, name) for row in own.levels] for name in names], dtype=np.float64)


def _counts(own: NetworkEvidence, which: npt.NDArray[np.bool_]) -> list[float | None]:
    """Count rows as published, as run and put right: the sums of `which` (3, rows); None if nothing is published."""
    is_published = own.levels[0].published is not None
    as_published, as_run, right = which.sum(axis=1).astype(np.float64).tolist()
    return [as_published if is_published else None, as_run, right]


def pixels(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Yield entries on fault 2: accuracy with raw pixels, which the paper's code used, and with normalised ones.

    The paper's text says that pixels were normalised.
    """
    facts = None if own.study.departures else published().baseline.get(own.network)
    other = own.study.other
    own_pixels, other_pixels = own.study.pixels, OTHER_PIXELS[own.study.pixels]
    note = "as run: raw pixels; put right: normalized ones"
    if other is None:
        note += f"; {other_pixels} ones weren't measured: `nearzero audit STUDY --against OTHER` does"
    elif own.network not in other.history.network.values:
        note += f"; the study with {other_pixels} ones has no {label(own.network)}"
        other = None
    else:
        note += f"; {other_pixels} ones from: {other.title}"
        if other.differing:
            note += f"; it differs in {', '.join(other.differing)} too"
    for split in ("train", "test"):
        accuracy = own.final(f"{split}_accuracy")
        values = {own_pixels: mean_of(accuracy), other_pixels: None}
        if other is not None:
            values[other_pixels] = mean_of(own.final(f"{split}_accuracy", other.history))
        number = None if facts is None else getattr(facts, split).mean
        n = int(count(accuracy))
        yield entry(f"{split} accuracy, %", number, values["raw"], values["normalized"], n, note=note)


def dead_units(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Yield entries on fault 3: units for which the formula of the offset gives NaN."""
    if own.network not in AS_RUN_FOR:
        yield entry("units without a number", note=f"the formula isn't defined for {label(own.network)}")
        return
    units = own.runs("nan_units")
    n, affected = int(count(units)), int((units > 0).sum())
    note = "left alone and counted" if affected else "no run has a dead unit, so nothing is lost here"
    yield entry("units without a number, mean over runs", None, mean_of(units), 0.0, n, note=note)
    yield entry("runs in which every offset gives NaN", None, float(affected), 0.0, n, 0)
    if own.study.has("offset") and own.study.conduct.offset == "as-run":
        right = own.percent("accuracy", own.study.row("offset", 0.0))
        formula = np.where(units > 0, own.percent("silent_accuracy"), right)
        note = "as run: where a logit is NaN all of them are, and the first class wins"
        number = _published(own, "offset", 0.0)
        yield entry("accuracy at offset 0 %, %", number, mean_of(formula), mean_of(right), n, note=note)


def _published(own: NetworkEvidence, family: str, level: float) -> float | None:
    """Return the published accuracy of a row."""
    return next(row.published for row in own.levels if (row.family, row.level) == (family, level))


def accuracies_at(
    own: NetworkEvidence,
    entry: MakeEntry,
    family: str,
    levels: Sequence[float],
    put_right: str,
    note: str = "",
    as_run: str = "accuracy",
    suffix: str = "",
) -> Entries:
    """Yield an entry with the accuracy at each of some levels of a family: as published, as run and put right.

    Args:
        own: the evidence on the network.
        entry: makes the entries.
        family: of the rows.
        levels: published levels of the family.
        put_right: the measured variable that is put right.
        note: of each entry.
        as_run: the measured variable with the fault.
        suffix: of the quantity, which tells entries at the same level apart.
    """
    for level in levels:
        row = own.study.row(family, level)
        accuracy = own.percent(as_run, row)
        numbers = _published(own, family, level), mean_of(accuracy), mean_of(own.percent(put_right, row))
        quantity = f"accuracy at {family} {100 * level:g} %{suffix}, %"
        yield entry(quantity, *numbers, int(count(accuracy)), note=note)


def clip_before(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Yield entries on fault 4: activations that remain above the threshold of a clip before the activation."""
    if not own.study.has("clip"):
        yield entry("activations above the clip", note="clip wasn't swept")
        return
    note = "as run: before the activation; put right: after it"
    for level in (0.1, 0.5):
        left = own.percent("untouched", own.study.row("clip", level))
        quantity = f"activations above clip {100 * level:g} % left there, %"
        yield entry(quantity, None, mean_of(left), 0.0, int(count(left)), 1, note)
        yield from accuracies_at(
            own, entry, "clip", [level], "clip_post_accuracy", as_run="clip_pre_accuracy"
        )


def flat_scale(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Yield entries on fault 5: departures of the scale sweep from argmax(W2 a + b2 / s)."""
    if not own.study.has("scale"):
        yield entry("examples that depart from algebra", note="scale wasn't swept")
        return
    n = int(count(own.runs("scale_differences")))
    examples, ties, differing, unexplained = (
        float(np.nanmax(own.runs(name)))
        for name in ("examples", "scale_near_ties", "scale_differences", "scale_unexplained")
    )
    note = (
        f"{'flat' if own.flat else 'not flat'} by construction; most: of any run and of all levels; "
        f"up to {ties:,.0f} nearly tie"
    )
    quantity = f"examples of {examples:,.0f} not as argmax(W2 a + b2 / s), most"
    yield entry(quantity, None, differing, None, n, 0, note)
    yield entry("those that don't nearly tie, most", None, unexplained, None, n, 0)
    departure = np.abs(own.curves["scale"].accuracy.values.T - own.percent("predicted_accuracy")) / 100
    quantity = "departure of the accuracy from that, examples, most"
    yield entry(quantity, None, float(np.nanmax(departure) * examples), None, n, 0)
    if own.flat:
        note = "put right: without the output bias, at every scale"
        yield from accuracies_at(own, entry, "scale", (0.01, 0.1), "no_bias_accuracy", note)


def constant(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Yield entries on fault 6: accuracy without the mean logit shift, which the other half of the examples gives."""
    if not own.study.has("offset"):
        yield entry("accuracy without the mean logit shift", note="offset wasn't swept")
        return
    changes = {
        row.level: mean_of(own.cost(row) - own.cost(row, "centred_accuracy"))
        for row in own.study.rows
        if row.family == "offset"
    }
    most = max(changes, key=lambda level: abs(changes[level] or 0.0))
    note = "put right: the mean logit shift of the other half taken out"
    for levels, suffix in (((-0.1, 0.1), ""), ((most,), ", where it matters most")):
        yield from accuracies_at(own, entry, "offset", levels, "centred_accuracy", note, suffix=suffix)


def sizes(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Yield entries on fault 7: displacements at the same level, and levels at the same displacement."""
    for row in own.levels:
        if abs(row.level) in (0.1, 0.5):
            quantity = f"displacement at {row.family} {100 * row.level:g} %, %"
            yield entry(quantity, None, row.displacement, None, row.n, 1)
    matched, verdict = own.study.matched, own.study.verdict
    if matched is None or verdict is None:
        note = "not measured at matched displacement yet; `nearzero verdict` does it"
        yield entry("verdict at matched displacement", note=note)
        return
    quantities: list[tuple[str, Runs, int]] = []  # with values and decimals
    for family, side in (("clip", "below"), ("offset", "below"), ("offset", "above")):
        if has_target(matched, family, MATCHED):
            quantity = f"level of {family} {side} its identity with d = {100 * MATCHED:g} %, %"
            level = matched.level.sel(network=own.network, family=family, side=side, target=MATCHED)
            quantities.append((quantity, 100 * level.values, 1))
    for family in COMPARED:
        if has_target(verdict.costs, family, MATCHED):
            cost = verdict.costs.sel(network=own.network, family=family, target=MATCHED)
            quantities.append((f"points lost to {family} at d = {100 * MATCHED:g} %", cost.values, 2))
    for quantity, values, decimals in quantities:
        if count(values):
            yield entry(quantity, None, None, mean_of(values), int(count(values)), decimals)
    note = f"{label(own.network)}: {verdict.of(own.network)}"
    yield entry("verdict at matched displacement", put_right=verdict.finding(own.network), note=note)


def no_effect(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Yield entries on fault 8: rows with p > 0.05, and the outcome of an equivalence test on the same rows."""
    n, margin = own.n, points(own.study.margin)
    if n < 2:
        yield entry(f"rows with p > {ALPHA:g}", n=n, note=TOO_FEW)
        return
    p = _of_rows(own, "p_published", "p_entry", "p_identity")
    within = np.array([bool(row.within) for row in own.levels])
    yield entry(f"rows with p > {ALPHA:g}, of {len(own.levels)}", *_counts(own, p > ALPHA), n, 0)
    _, as_run, right = _counts(own, (p > ALPHA) & within)
    yield entry(f"of these, the identity's accuracy within {margin} (TOST)", None, as_run, right, n, 0)
    _, _, right = _counts(own, (p < ALPHA) & within)
    yield entry(f"rows with p < {ALPHA:g} and yet within {margin}", None, None, right, n, 0)


def extremes(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Yield entries on fault 9: unit ranges without the outermost examples, and unit ranges of other examples."""
    width, rare = own.percent("width"), mean_of(own.runs("rare_units"))
    n, note = int(count(width)), "put right: quantiles 0.1 % to 99.9 %"
    yield entry("mean range of a unit, % of the full one", None, 100.0, mean_of(width), n, 1, note)
    yield entry("live units whose range is then 0, mean over runs", None, 0.0, rare, n)
    family, levels = ("offset", (-0.1, 0.1)) if own.study.has("offset") else ("clip", (0.1, 0.5))
    if not own.study.has(family):
        yield entry("accuracy by other ranges", note="neither offset nor clip was swept")
        return
    for name, suffix in (("quantile", ", by quantiles"), ("other_half", ", by the other half")):
        yield from accuracies_at(own, entry, family, levels, f"{name}_accuracy", suffix=suffix)


def saturation(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Yield entries on fault 10: measures that change at rows at which the accuracy on the training set doesn't."""
    train, test = own.unperturbed, own.percent("unperturbed_test_accuracy")
    n, note = int(count(test)), "accuracy as run: on the training set; put right: on the test set"
    yield entry("accuracy without perturbation, %", None, mean_of(train), mean_of(test), n, note=note)
    costs = {row: mean_of(own.cost(row)) or 0.0 for row in own.study.rows}
    still = [row for row, cost in costs.items() if abs(cost) < STILL]
    quantity = f"rows at which it moves by less than {STILL:g} points, of {len(costs)}"
    yield entry(quantity, None, float(len(still)), None, n, 0)
    if not still:
        return
    measures: dict[str, Callable[[Row], Runs]] = {
        "% of predictions changed": lambda row: 100.0 - own.percent("agreement", row),
        "points lost on the test set": lambda row: own.cost(row, "test_accuracy"),
        "% of the margin lost, scale left out": partial(_margin_lost, own),
    }
    note = "in the last three, as run: the points lost on the training set at the same row"
    for quantity, measure in measures.items():
        values = {row: value for row in still if (value := mean_of(measure(row))) is not None}
        if not values:
            yield entry(f"{quantity}, most of these", note="there is no such row")
            continue
        row = max(values, key=lambda row: values[row])
        quantity_at = f"{quantity}, most at {row.family} {100 * row.level:g} %"
        yield entry(quantity_at, None, costs[row], values[row], n, 3, note)


def _margin_lost(own: NetworkEvidence, row: Row) -> Runs:
    """Return the loss of the mean margin of the logits in percent; NaN under scale, or if the margin isn't positive."""
    before, after = own.runs("unperturbed_margin"), own.runs("margin", row)
    lost = np.full_like(before, np.nan)
    if row.family != "scale":
        np.divide(after, before, out=lost, where=before > 0)
    return 100.0 * (1.0 - lost)


def crossing(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Yield entries on fault 11: significant rows after Holm's adjustment, and an interval for new examples too."""
    rows, n = own.levels, own.n
    if n >= 2:
        significant = _of_rows(own, "p_published", "p_identity", "p_holm") < ALPHA
        note = "as run: against the identity; put right: the same after Holm over the rows of all networks"
        quantity = f"rows with p < {ALPHA:g}, of {len(rows)}"
        yield entry(quantity, *_counts(own, significant), n, 0, note)
    else:
        yield entry(f"rows with p < {ALPHA:g}", n=n, note=TOO_FEW)
    number = bootstrap_row(own.study.rows)
    if number is None:
        return
    row = own.study.rows[number]
    cost = summarise(own.cost(row))
    low, high = float(own.runs("bootstrap_low")), float(own.runs("bootstrap_high"))
    quantity = f"95 % interval of the cost of {row.family} {100 * row.level:g} %"
    if cost.n < 2 or not np.isfinite(low):
        yield entry(quantity, n=cost.n, note=cost.reason or "no variance")
        return
    note = "points; as run: t, new runs on the same examples; put right: crossed bootstrap, new runs and examples"
    intervals = f"{cost.low:.3f} to {cost.high:.3f}", f"{low:.3f} to {high:.3f}"
    yield entry(quantity, None, *intervals, cost.n, note=note)


def order(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Yield the entry on fault 12: runs that have the same accuracies when they are measured alone."""
    rows = own.study.rows
    alone = np.array([own.percent("unperturbed_accuracy"), *(own.percent("accuracy", row) for row in rows)])
    together = np.array([own.unperturbed, *map(own.swept, rows)])
    present = np.isfinite(alone).all(axis=0)
    differences = np.abs(alone - together)[:, present].max(axis=0) * np.nanmax(own.runs("examples")) / 100
    equal = int((differences < 0.5).sum())  # less than half an example: the counts are equal
    note = f"of {len(differences)}, from their files"
    if equal < len(differences):
        note += f"; greatest difference {number_of(round(differences.max()), 'example')}"
    if own.study.device == "cpu":
        note += "; each run has its own seed, and its weights don't depend on other runs"
    else:
        note += (
            f"; each run has its own seed; trained on {own.study.device}, where sums may depend on other runs"
        )
    quantity = "runs with the same accuracies when measured alone"
    yield entry(quantity, None, None, float(equal), len(differences), 0, note)
