"""Each fault of the published study, measured: a few entries for each network, as published, as run, put right.

"As run" is the paper's conduct on this study's own networks. Where a number can't be had, words say why. The rows
that the entries count are made in `rows`; faults 7 to 12 are in `faults_of_measure`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from nearzero.activations import ACTIVATIONS
from nearzero.audit.evidence import Evidence, mean_of
from nearzero.audit.faults_of_measure import (
    crossing,
    extremes,
    no_effect,
    order,
    saturation,
    sizes,
    spots,
)
from nearzero.audit.values import ALPHA, TOO_FEW, Entry, LevelRow, label
from nearzero.families import AS_RUN_FOR
from nearzero.paper.published import published

__all__ = ["entries"]

NOT_SWEPT = "{} wasn't swept"
UNPERTURBED = (("scale", 1.0), ("clip", 1.0), ("offset", 0.0))  # rows that are, or are nearly, the identity
PIXELS = {"raw": "normalized", "normalized": "raw"}
Test = tuple[float | None, float | None]  # t and p
Fault = Callable[[Evidence, str, Sequence[LevelRow]], Iterator[Entry]]


def entries(evidence: Evidence, rows: Sequence[LevelRow]) -> tuple[Entry, ...]:
    """All entries, fault by fault, each network after the other."""
    faults: tuple[Fault, ...] = (
        wrong_baseline, pixels, dead_units, clip_before, flat_scale, constant, sizes, no_effect, extremes,
        saturation, crossing, order,
    )  # fmt: skip
    return tuple(
        entry
        for fault in faults
        for network in evidence.networks
        for entry in fault(evidence, network, [row for row in rows if row.network == network])
    )


def wrong_baseline(evidence: Evidence, network: str, rows: Sequence[LevelRow]) -> Iterator[Entry]:
    """Fault 1: rows that are significant, that are better than their baseline, and that change with the baseline."""
    n = max(row.n for row in rows)
    if n < 2:
        yield Entry(1, network, f"rows with p < {ALPHA:g}", n=n, words=TOO_FEW)
        return
    identity: list[Test] = [(row.t_identity, row.p_identity) for row in rows]
    entry50: list[Test] = [(row.t_entry, row.p_entry) for row in rows]
    paper: list[Test] = [(row.t_published, row.p_published) for row in rows]
    known = rows[0].published is not None

    def entry(quantity: str, count: Callable[[Sequence[Test]], int]) -> Entry:
        values = [float(count(tests)) for tests in (paper, entry50, identity)]
        return Entry(1, network, quantity, values[0] if known else None, values[1], values[2], n, 0)

    yield entry(f"rows with p < {ALPHA:g}, of {len(rows)}", lambda tests: sum(map(_significant, tests)))
    yield entry(
        "of these, better than their baseline (t < 0)",
        lambda tests: sum(_significant(each) and _sign(each) < 0 for each in tests),
    )
    yield entry(
        "rows whose t has another sign than against the identity",
        lambda tests: sum(_sign(one) != _sign(other) for one, other in zip(tests, identity, strict=True)),
    )
    yield entry(
        "rows significant in one of these two tests alone",
        lambda tests: sum(
            _significant(one) != _significant(other) for one, other in zip(tests, identity, strict=True)
        ),
    )
    for row in rows:
        if (row.family, row.level) in UNPERTURBED:
            right = row.words if row.t_identity is None else row.t_identity
            quantity = f"t of {row.family} at {100 * row.level:g} %"
            yield Entry(1, network, quantity, row.t_published, row.t_entry, right, n, 1)


def _significant(test: Test) -> bool:
    """Whether a test found something, by itself."""
    _, p = test
    return p is not None and p < ALPHA


def _sign(test: Test) -> int:
    """Of t; 0 where there is no test, since all pairs are equal."""
    t, _ = test
    return 0 if t is None else int(np.sign(t))


def pixels(evidence: Evidence, network: str, rows: Sequence[LevelRow]) -> Iterator[Entry]:
    """Fault 2: accuracies with raw pixels, as the numbers were made, and with normalised ones, as the text says."""
    facts, other = published().baseline.get(network), evidence.other
    here, there = evidence.pixels, PIXELS[evidence.pixels]
    words = "as run: raw pixels; put right: normalized ones"
    if other is None:
        words += f"; {there} ones weren't measured: give a study that has them (--against)"
    elif network not in other.history.network.values:
        words += f"; the study with {there} ones has no {label(network)}"
        other = None
    else:
        words += f"; {there} ones from: {other.title}"
        if other.differing:
            words += f"; it differs in {', '.join(other.differing)} too"
    for quantity in ("train_accuracy", "test_accuracy"):
        values = {here: mean_of(evidence.final(network, quantity)), there: None}
        if other is not None:
            values[there] = mean_of(evidence.final(network, quantity, other.history))
        number = None if facts is None else getattr(facts, quantity.removesuffix("_accuracy")).mean
        n = int(np.isfinite(evidence.final(network, quantity)).sum())
        yield Entry(
            2,
            network,
            f"{quantity.replace('_', ' ')}, %",
            number,
            values["raw"],
            values["normalized"],
            n,
            words=words,
        )


def dead_units(evidence: Evidence, network: str, rows: Sequence[LevelRow]) -> Iterator[Entry]:
    """Fault 3: units for which the formula of the offset isn't a number."""
    if network not in ACTIVATIONS or network not in AS_RUN_FOR:
        words = f"the formula isn't defined for {label(network)}"
        yield Entry(3, network, "units without a number", words=words)
        return
    units = evidence.runs("nan_units", network)
    present = np.isfinite(units)
    n, lost = int(present.sum()), int((units[present] > 0).sum())
    words = "left alone and counted" if lost else "no run has a dead unit, so nothing is lost here"
    yield Entry(
        3, network, "units without a number, mean over runs", None, mean_of(units), 0.0, n, words=words
    )
    yield Entry(3, network, "runs in which every offset gives NaN", None, float(lost), 0.0, n, 0)
    number = evidence.row("offset", 0.0)
    if number is not None and evidence.conduct.offset == "as-run":
        right = evidence.percent("accuracy", network, number)
        formula = np.where(units > 0, evidence.percent("silent_accuracy", network), right)
        facts = next(row.published for row in rows if (row.family, row.level) == ("offset", 0.0))
        yield Entry(
            3, network, "accuracy at offset 0 %, %", facts, mean_of(formula), mean_of(right), n,
            words="as run: where a logit is NaN all of them are, and the first class wins",
        )  # fmt: skip


def clip_before(evidence: Evidence, network: str, rows: Sequence[LevelRow]) -> Iterator[Entry]:
    """Fault 4: what a clip before the activation leaves above its threshold."""
    if not evidence.has("clip"):
        yield Entry(4, network, "activations above the clip", words=NOT_SWEPT.format("clip"))
        return
    for level in (0.1, 0.5):
        number = evidence.row("clip", level)
        assert number is not None
        left = evidence.percent("untouched", network, number)
        yield Entry(
            4, network, f"activations above clip {100 * level:g} % left there, %", None, mean_of(left), 0.0,
            int(np.isfinite(left).sum()), 1, "as run: before the activation; put right: after it",
        )  # fmt: skip
        yield from spots(
            evidence, network, rows, 4, "clip", (level,), "clip_post_accuracy", as_run="clip_pre_accuracy"
        )


def flat_scale(evidence: Evidence, network: str, rows: Sequence[LevelRow]) -> Iterator[Entry]:
    """Fault 5: how far the scale sweep departs from argmax(W2 a + b2 / s)."""
    if not evidence.has("scale"):
        yield Entry(5, network, "examples that depart from algebra", words=NOT_SWEPT.format("scale"))
        return
    differing = evidence.runs("scale_differences", network)
    present = np.isfinite(differing)
    n, flat = int(present.sum()), evidence.flat(network)
    examples = int(np.nanmax(evidence.runs("examples", network)))
    ties = int(np.nanmax(evidence.runs("scale_near_ties", network)))
    words = "flat" if flat else "not flat"
    yield Entry(
        5, network, f"examples of {examples:,} not as argmax(W2 a + b2 / s), most", None,
        float(differing[present].max()), None, n, 0,
        f"{words} by construction; most: of any run and of all levels; up to {ties:,} nearly tie",
    )  # fmt: skip
    unexplained = float(np.nanmax(evidence.runs("scale_unexplained", network)))
    yield Entry(5, network, "those that don't nearly tie, most", None, unexplained, None, n, 0)
    predicted = evidence.percent("predicted_accuracy", network)
    apart = np.abs(evidence.curve(network, "scale").T - predicted) / 100
    yield Entry(
        5, network, "departure of the accuracy from that, examples, most", None,
        float(np.nanmax(apart) * examples), None, n, 0,
    )  # fmt: skip
    if flat:
        yield from spots(
            evidence, network, rows, 5, "scale", (0.01, 0.1), "no_bias_accuracy",
            "put right: without the output bias, at every scale",
        )  # fmt: skip


def constant(evidence: Evidence, network: str, rows: Sequence[LevelRow]) -> Iterator[Entry]:
    """Fault 6: accuracy with the mean logit shift, estimated on the other half of the examples, taken out."""
    if not evidence.has("offset"):
        yield Entry(6, network, "accuracy without the mean logit shift", words=NOT_SWEPT.format("offset"))
        return
    changes = {
        row.level: mean_of(
            evidence.cost(network, number) - evidence.cost(network, number, "centred_accuracy")
        )
        for number, row in enumerate(evidence.rows)
        if row.family == "offset"
    }
    most = max(changes, key=lambda level: abs(changes[level] or 0.0))
    words = "put right: the mean logit shift of the other half taken out"
    yield from spots(evidence, network, rows, 6, "offset", (-0.1, 0.1), "centred_accuracy", words)
    yield from spots(
        evidence,
        network,
        rows,
        6,
        "offset",
        (most,),
        "centred_accuracy",
        words,
        note=", where it matters most",
    )
