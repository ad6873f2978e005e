"""Each fault of the published study, measured: a few entries for each network, as published, as run, put right.

"As run" is the paper's conduct on this study's own networks. Where a number can't be had, words say why. The rows
that the entries count are made in `evidence`. A fault gets the evidence on one network and what makes its entries:
`FaultEntry` without the first two arguments.
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

__all__ = ["entries"]

TOO_FEW = "fewer than two runs, so no test"
UNPERTURBED = (("scale", 1.0), ("clip", 1.0), ("offset", 0.0))  # rows that are, or are nearly, the identity
PIXELS = {"raw": "normalized", "normalized": "raw"}
STILL = 0.1  # points: less than this is no movement of the train accuracy
COMPARED = ("offset", "clip", "scale", "shift", "gains", "cap")  # at displacement `MATCHED`, sides averaged
MakeEntry = Callable[..., FaultEntry]
Entries = Iterator[FaultEntry]


def entries(evidence: Evidence) -> tuple[FaultEntry, ...]:
    """Return all entries, fault by fault, each network after the other."""
    faults = (
        wrong_baseline, pixels, dead_units, clip_before, flat_scale, constant, sizes, no_effect, extremes,
        saturation, crossing, order,
    )  # fmt: skip
    return tuple(
        entry
        for number, fault in enumerate(faults, 1)
        for own in evidence.each
        for entry in fault(own, partial(FaultEntry, number, own.network))
    )


def wrong_baseline(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Fault 1: rows that are significant, that are better than their baseline, and that change with the baseline."""
    rows, n = own.levels, own.n
    if n < 2:
        yield entry(f"rows with p < {ALPHA:g}", n=n, words=TOO_FEW)
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
            right = row.words if row.t_identity is None else row.t_identity
            quantity = f"t of {row.family} at {100 * row.level:g} %"
            yield entry(quantity, row.t_published, row.t_entry, right, n, 1)


def _of_rows(own: NetworkEvidence, *names: str) -> Runs:
    """Return attributes of a network's rows, (names, rows); NaN where there is no value, as without a test."""
    return np.array([[getattr(row, name) for row in own.levels] for name in names], dtype=np.float64)


def _counts(own: NetworkEvidence, which: npt.NDArray[np.bool_]) -> list[float | None]:
    """Return how many rows are meant, as published, as run and put right; None for what isn't published."""
    known = own.levels[0].published is not None
    as_published, as_run, right = which.sum(axis=1).astype(np.float64).tolist()
    return [as_published if known else None, as_run, right]


def pixels(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Fault 2: accuracies with raw pixels, as the numbers were made, and with normalised ones, as the text says."""
    facts, other = published().baseline.get(own.network), own.study.other
    here, there = own.study.pixels, PIXELS[own.study.pixels]
    words = "as run: raw pixels; put right: normalized ones"
    if other is None:
        words += f"; {there} ones weren't measured: give a study that has them (--against)"
    elif own.network not in other.history.network.values:
        words += f"; the study with {there} ones has no {label(own.network)}"
        other = None
    else:
        words += f"; {there} ones from: {other.title}"
        if other.differing:
            words += f"; it differs in {', '.join(other.differing)} too"
    for half in ("train", "test"):
        accuracy = own.final(f"{half}_accuracy")
        values = {here: mean_of(accuracy), there: None}
        if other is not None:
            values[there] = mean_of(own.final(f"{half}_accuracy", other.history))
        number = None if facts is None else getattr(facts, half).mean
        n = int(count(accuracy))
        yield entry(f"{half} accuracy, %", number, values["raw"], values["normalized"], n, words=words)


def dead_units(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Fault 3: units for which the formula of the offset isn't a number."""
    if own.network not in AS_RUN_FOR:
        yield entry("units without a number", words=f"the formula isn't defined for {label(own.network)}")
        return
    units = own.runs("nan_units")
    n, lost = int(count(units)), int((units > 0).sum())
    words = "left alone and counted" if lost else "no run has a dead unit, so nothing is lost here"
    yield entry("units without a number, mean over runs", None, mean_of(units), 0.0, n, words=words)
    yield entry("runs in which every offset gives NaN", None, float(lost), 0.0, n, 0)
    if own.study.has("offset") and own.study.conduct.offset == "as-run":
        right = own.percent("accuracy", own.study.row("offset", 0.0))
        formula = np.where(units > 0, own.percent("silent_accuracy"), right)
        words = "as run: where a logit is NaN all of them are, and the first class wins"
        facts = _published(own, "offset", 0.0)
        yield entry("accuracy at offset 0 %, %", facts, mean_of(formula), mean_of(right), n, words=words)


def _published(own: NetworkEvidence, family: str, level: float) -> float | None:
    """Return the published accuracy of a row."""
    return next(row.published for row in own.levels if (row.family, row.level) == (family, level))


def spots(
    own: NetworkEvidence,
    entry: MakeEntry,
    family: str,
    levels: Sequence[float],
    right: str,
    words: str = "",
    as_run: str = "accuracy",
    note: str = "",
) -> Entries:
    """Accuracies at some levels of a family, as published, as run, and measured in the right way; a note says which."""
    for level in levels:
        row = own.study.row(family, level)
        run = own.percent(as_run, row)
        numbers = _published(own, family, level), mean_of(run), mean_of(own.percent(right, row))
        quantity = f"accuracy at {family} {100 * level:g} %{note}, %"
        yield entry(quantity, *numbers, int(count(run)), words=words)


def clip_before(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Fault 4: what a clip before the activation leaves above its threshold."""
    if not own.study.has("clip"):
        yield entry("activations above the clip", words="clip wasn't swept")
        return
    words = "as run: before the activation; put right: after it"
    for level in (0.1, 0.5):
        left = own.percent("untouched", own.study.row("clip", level))
        quantity = f"activations above clip {100 * level:g} % left there, %"
        yield entry(quantity, None, mean_of(left), 0.0, int(count(left)), 1, words)
        yield from spots(own, entry, "clip", [level], "clip_post_accuracy", as_run="clip_pre_accuracy")


def flat_scale(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Fault 5: how far the scale sweep departs from argmax(W2 a + b2 / s)."""
    if not own.study.has("scale"):
        yield entry("examples that depart from algebra", words="scale wasn't swept")
        return
    n = int(count(own.runs("scale_differences")))
    examples, ties, differing, unexplained = (
        float(np.nanmax(own.runs(name)))
        for name in ("examples", "scale_near_ties", "scale_differences", "scale_unexplained")
    )
    words = (
        f"{'flat' if own.flat else 'not flat'} by construction; most: of any run and of all levels; "
        f"up to {ties:,.0f} nearly tie"
    )
    yield entry(
        f"examples of {examples:,.0f} not as argmax(W2 a + b2 / s), most", None, differing, None, n, 0, words
    )
    yield entry("those that don't nearly tie, most", None, unexplained, None, n, 0)
    apart = np.abs(own.curves["scale"].accuracy.values.T - own.percent("predicted_accuracy")) / 100
    quantity = "departure of the accuracy from that, examples, most"
    yield entry(quantity, None, float(np.nanmax(apart) * examples), None, n, 0)
    if own.flat:
        words = "put right: without the output bias, at every scale"
        yield from spots(own, entry, "scale", (0.01, 0.1), "no_bias_accuracy", words)


def constant(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Fault 6: accuracy with the mean logit shift, estimated on the other half of the examples, taken out."""
    if not own.study.has("offset"):
        yield entry("accuracy without the mean logit shift", words="offset wasn't swept")
        return
    changes = {
        row.level: mean_of(own.cost(row) - own.cost(row, "centred_accuracy"))
        for row in own.study.rows
        if row.family == "offset"
    }
    most = max(changes, key=lambda level: abs(changes[level] or 0.0))
    words = "put right: the mean logit shift of the other half taken out"
    for levels, note in (((-0.1, 0.1), ""), ((most,), ", where it matters most")):
        yield from spots(own, entry, "offset", levels, "centred_accuracy", words, note=note)


def sizes(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Fault 7: how far levels of one number displace activations, and the levels at which families do it equally."""
    for row in own.levels:
        if abs(row.level) in (0.1, 0.5):
            quantity = f"displacement at {row.family} {100 * row.level:g} %, %"
            yield entry(quantity, None, row.displacement, None, row.n, 1)
    matched, verdict = own.study.matched, own.study.verdict
    if matched is None or verdict is None:
        words = "not measured at matched displacement yet; `nearzero verdict` does it"
        yield entry("verdict at matched displacement", words=words)
        return
    found: list[tuple[str, Runs, int]] = []  # quantity, values, decimals
    for family, side in (("clip", "below"), ("offset", "below"), ("offset", "above")):
        if has_target(matched, family, MATCHED):
            quantity = f"level of {family} {side} its identity with d = {100 * MATCHED:g} %, %"
            level = matched.level.sel(network=own.network, family=family, side=side, target=MATCHED)
            found.append((quantity, 100 * level.values, 1))
    for family in COMPARED:
        if has_target(verdict.costs, family, MATCHED):
            cost = verdict.costs.sel(network=own.network, family=family, target=MATCHED)
            found.append((f"points lost to {family} at d = {100 * MATCHED:g} %", cost.values, 2))
    for quantity, values, decimals in found:
        if count(values):
            yield entry(quantity, None, None, mean_of(values), int(count(values)), decimals)
    short, _, detail = verdict.of(own.network).partition(" (")
    words = f"{label(own.network)}: {detail.rstrip(')')}"
    yield entry("verdict at matched displacement", put_right=short, words=words)


def no_effect(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Fault 8: what p > 0.05 is taken for, and what an equivalence test says of the same rows."""
    n, margin = own.n, points(own.study.margin)
    if n < 2:
        yield entry(f"rows with p > {ALPHA:g}", n=n, words=TOO_FEW)
        return
    p = _of_rows(own, "p_published", "p_entry", "p_identity")
    within = np.array([bool(row.within) for row in own.levels])
    yield entry(f"rows with p > {ALPHA:g}, of {len(own.levels)}", *_counts(own, p > ALPHA), n, 0)
    _, as_run, right = _counts(own, (p > ALPHA) & within)
    yield entry(f"of these, the identity's accuracy within {margin} (TOST)", None, as_run, right, n, 0)
    _, _, right = _counts(own, (p < ALPHA) & within)
    yield entry(f"rows with p < {ALPHA:g} and yet within {margin}", None, None, right, n, 0)


def extremes(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Fault 9: ranges without the outermost examples, and from examples other than those that respond."""
    width, rare = own.percent("width"), mean_of(own.runs("rare_units"))
    n, words = int(count(width)), "put right: quantiles 0.1 % to 99.9 %"
    yield entry("mean range of a unit, % of the full one", None, 100.0, mean_of(width), n, 1, words)
    yield entry("live units whose range is then 0, mean over runs", None, 0.0, rare, n)
    family, levels = ("offset", (-0.1, 0.1)) if own.study.has("offset") else ("clip", (0.1, 0.5))
    if not own.study.has(family):
        yield entry("accuracy by other ranges", words="neither offset nor clip was swept")
        return
    for name, note in (("quantile", ", by quantiles"), ("other_half", ", by the other half")):
        yield from spots(own, entry, family, levels, f"{name}_accuracy", note=note)


def saturation(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Fault 10: what moves at rows at which the accuracy on the training set doesn't."""
    train, test = own.unperturbed, own.percent("unperturbed_test_accuracy")
    n, words = int(count(test)), "accuracy as run: on the training set; put right: on the test set"
    yield entry("accuracy without perturbation, %", None, mean_of(train), mean_of(test), n, words=words)
    moved = {row: mean_of(own.cost(row)) or 0.0 for row in own.study.rows}
    still = [row for row, cost in moved.items() if abs(cost) < STILL]
    quantity = f"rows at which it moves by less than {STILL:g} points, of {len(moved)}"
    yield entry(quantity, None, float(len(still)), None, n, 0)
    if not still:
        return
    measures: dict[str, Callable[[Row], Runs]] = {
        "% of predictions changed": lambda row: 100.0 - own.percent("agreement", row),
        "points lost on the test set": lambda row: own.cost(row, "test_accuracy"),
        "% of the margin lost, scale left out": partial(_margin_lost, own),
    }
    words = "in the last three, as run: the points lost on the training set at the same row"
    for quantity, measure in measures.items():
        known = {row: value for row in still if (value := mean_of(measure(row))) is not None}
        if not known:
            yield entry(f"{quantity}, most of these", words="there is no such row")
            continue
        row = max(known, key=lambda row: known[row])
        at = f"{row.family} {100 * row.level:g} %"
        yield entry(f"{quantity}, most at {at}", None, moved[row], known[row], n, 3, words)


def _margin_lost(own: NetworkEvidence, row: Row) -> Runs:
    """Return what is lost of the mean margin of the logits, percent; NaN under scale, or with no margin to lose."""
    before, after = own.runs("unperturbed_margin"), own.runs("margin", row)
    lost = np.full_like(before, np.nan)
    if row.family != "scale":
        np.divide(after, before, out=lost, where=before > 0)
    return 100.0 * (1.0 - lost)


def crossing(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Fault 11: significant rows after Holm's adjustment; an interval that holds for new examples too."""
    rows, n = own.levels, own.n
    if n >= 2:
        significant = _of_rows(own, "p_published", "p_identity", "p_holm") < ALPHA
        words = "as run: against the identity; put right: the same after Holm over the rows of all networks"
        quantity = f"rows with p < {ALPHA:g}, of {len(rows)}"
        yield entry(quantity, *_counts(own, significant), n, 0, words)
    else:
        yield entry(f"rows with p < {ALPHA:g}", n=n, words=TOO_FEW)
    number = bootstrap_row(own.study.rows)
    if number is None:
        return
    row = own.study.rows[number]
    cost = summarise(own.cost(row))
    low, high = float(own.runs("bootstrap_low")), float(own.runs("bootstrap_high"))
    quantity = f"95 % interval of the cost of {row.family} {100 * row.level:g} %"
    if cost.n < 2 or not np.isfinite(low):
        yield entry(quantity, n=cost.n, words=cost.words or "no variance")
        return
    words = "points; as run: t, new runs on the same examples; put right: crossed bootstrap, new runs and examples"
    ends = f"{cost.low:.3f} to {cost.high:.3f}", f"{low:.3f} to {high:.3f}"
    yield entry(quantity, None, *ends, cost.n, words=words)


def order(own: NetworkEvidence, entry: MakeEntry) -> Entries:
    """Fault 12: runs that are the same on their own."""
    rows = own.study.rows
    again = np.array([own.percent("unperturbed_accuracy"), *(own.percent("accuracy", row) for row in rows)])
    kept = np.array([own.unperturbed, *map(own.swept, rows)])
    present = np.isfinite(again).all(axis=0)
    apart = np.abs(again - kept)[:, present].max(axis=0) * np.nanmax(own.runs("examples")) / 100
    equal = int((apart < 0.5).sum())  # a half of an example: the same count
    words = f"of {len(apart)}, from their files"
    if equal < len(apart):
        words += f"; greatest difference {apart.max():.0f} examples"
    if own.study.device == "cpu":
        words += "; each run has its own seed, and its weights don't depend on other runs"
    else:
        words += f"; each run has its own seed; trained on {own.study.device}, where sums may depend on the company"
    quantity = "runs with the same accuracies when measured alone"
    yield entry(quantity, None, None, float(equal), len(apart), 0, words)
