"""Measure one network for the audit: the published levels in the paper's conduct, and with each fault put right.

The numbers are of one network on its examples. Statistics over runs, and what follows for the paper, are in
`evidence`, `faults` and `sentences`. Ranges "of the other half" and mean logit shifts are set by one half of
the examples and applied to the other, and vice versa, so that the accuracy is over all examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.analysis.displacement import Displacements
from nearzero.analysis.scale_invariance import scale_audit_of
from nearzero.evaluators.base import LayerEvaluator
from nearzero.evaluators.select import ModelOptions, open_evaluator
from nearzero.networks import TwoLayer
from nearzero.paper.published import published
from nearzero.perturbations.families import Conduct, Scale, make_family
from nearzero.perturbations.perturbation import Perturbation
from nearzero.perturbations.ranges import Ranges, UnitRange

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MEASURED", "QUANTILE", "Row", "bootstrap_row", "measure", "published_rows", "quantile_ranges"]

Doubles = npt.NDArray[np.float64]
QUANTILE = 0.001  # and 0.999: ranges without the outermost examples
# Metrics by the names of their variables in the result.
METRICS = {"accuracy": "accuracy", "agreement": "agreement", "cross_entropy": "loss", "margin": "margin"}
BOOTSTRAPPED = (("offset", 0.01), ("clip", 0.5), ("scale", 0.1))  # the first that was swept is bootstrapped
MEASURED = {
    "accuracy": "share of training examples predicted right",
    "agreement": "share of predictions that are those of the unperturbed network",
    "test_accuracy": "share of test examples predicted right, ranges of the training set",
    "displacement": "displacement on the training set",
    "loss": "mean cross-entropy on the training set, nats",
    "margin": "mean of the label's logit less the greatest other one",
    "centred_accuracy": "accuracy, the mean logit shift of the other half taken out",
    "other_half_accuracy": "accuracy, unit ranges from the other half",
    "quantile_accuracy": "accuracy, unit ranges from 0.1 % to 99.9 %",
    "clip_pre_accuracy": "accuracy, clip before the activation",
    "clip_post_accuracy": "accuracy, clip after the activation",
    "untouched": "share of activations above the threshold that a clip before the activation leaves there",
}


@dataclass(frozen=True)
class Row:
    """A row of the published tables 2 to 4: family, published level, and the nearest level of the family's grid."""

    family: str
    level: float
    grid: float


def published_rows(families: Sequence[str], conduct: Conduct) -> tuple[Row, ...]:
    """Return the rows of those of the paper's families that a study has."""
    rows = []
    for family, facts in published().families.items():
        if family in families:
            grid = make_family(family, conduct).levels
            rows += [Row(family, row.level, float(grid[np.abs(grid - row.level).argmin()])) for row in facts]
    return tuple(rows)


def bootstrap_row(rows: Sequence[Row]) -> int | None:
    """Return the index of the row whose cost gets both kinds of interval; None if none is in `BOOTSTRAPPED`."""
    levels = [(row.family, row.level) for row in rows]
    return next((levels.index(level) for level in BOOTSTRAPPED if level in levels), None)


def quantile_ranges(z: npt.NDArray[np.floating], activations: npt.NDArray[np.floating]) -> Ranges:
    """Return unit ranges from the quantiles `QUANTILE` and 1 - `QUANTILE` of z and of act(z), `(N, U)` each."""
    shares = [QUANTILE, 1 - QUANTILE]
    pre, post = (np.quantile(values, shares, axis=0).astype(np.float64) for values in (z, activations))
    return Ranges(UnitRange(pre[0], pre[1], "pre"), UnitRange(post[0], post[1], "post"))


def measure(
    network: TwoLayer | nn.Module,
    train: tuple[Any, npt.ArrayLike],
    test: tuple[Any, npt.ArrayLike],
    *,
    rows: Sequence[Row],
    conduct: Conduct,
    **options: Unpack[ModelOptions],
) -> xr.Dataset:
    """Measure one network.

    Args:
        network: with finite weights.
        train, test: examples `(N, D)` and labels `(N,)` of both sets.
        rows: the rows of the published tables to measure.
        conduct: the reading of the protocol that the study followed.
        options: for models other than a `TwoLayer`, see `nearzero.evaluators.select.ModelOptions`.

    Returns:
        A Dataset with

        - the variables of `MEASURED` on `row`, NaN at rows of families to which a variable doesn't apply;
        - `unperturbed_accuracy`, `unperturbed_test_accuracy`, `unperturbed_loss`, `unperturbed_margin`;
          `examples`, N;
        - of units: `dead_units`, their number; `nan_units`, the number for which (max - p r) / max is NaN;
          `rare_units`, the number of live ones whose quantile range is 0; `width`, the quantile range over
          the full one, mean over live units;
        - of scale: `predicted_accuracy` on `scale_level`, computed by algebra; `scale_differences`,
          `scale_unexplained`, `scale_near_ties`, numbers of examples, the greatest of all levels; `flat`, 0
          or 1;
        - `silent_accuracy`, the accuracy if every logit is NaN; `no_bias_accuracy`, without the output bias,
          NaN if the bias isn't known;
        - `right`, packed bits, `(2, ceil(N / 8))`: the examples that are predicted correctly without
          perturbation and at `bootstrap_row`.

    Raises:
        InputError: as `nz.sweep`.
    """
    with open_evaluator(network, *train, options=options, metrics=list(METRICS)) as evaluator:
        faults = _FaultMeasurement(evaluator, np.asarray(train[1]), rows, conduct)
        measured = faults.levels() | faults.units() | faults.by_halves() | faults.by_quantile_ranges()
        measured |= faults.clipped() | faults.scaled()
    with open_evaluator(network, *test, options=options, metrics=list(METRICS)) as held_out:
        scores = held_out.scores(faults.perturbations, ["accuracy"])
    measured["test_accuracy"] = scores.means["accuracy"]
    measured["unperturbed_test_accuracy"] = scores.unperturbed["accuracy"]
    return _as_dataset(measured, rows)


@dataclass(frozen=True)
class _FaultMeasurement:
    """Measurements of one layer on its training set, at the published rows. Methods return variables by name."""

    evaluator: LayerEvaluator
    labels: npt.NDArray[np.integer]
    rows: Sequence[Row]
    conduct: Conduct

    @property
    def ranges(self) -> Ranges:
        """Return the unit ranges over the training set."""
        return self.evaluator.ranges

    @cached_property
    def perturbations(self) -> list[Perturbation]:
        """Return the perturbations of all rows."""
        return self.at(self.ranges)

    def at(self, ranges: Ranges) -> list[Perturbation]:
        """Return the perturbations of all rows by some ranges."""
        return [make_family(row.family, self.conduct).at(row.grid, ranges) for row in self.rows]

    def of(self, family: str) -> list[int]:
        """Return the indices of a family's rows."""
        return [index for index, row in enumerate(self.rows) if row.family == family]

    def accuracy(self, perturbations: Sequence[Perturbation]) -> Doubles:
        """Return the accuracy under each perturbation."""
        return self.evaluator.scores(perturbations, ["accuracy"]).means["accuracy"]

    def levels(self) -> dict[str, Any]:
        """Measure every row in the study's conduct, and the unperturbed network."""
        scores = self.evaluator.scores(self.perturbations, METRICS)
        index = bootstrap_row(self.rows)
        kept = [Perturbation(), Perturbation() if index is None else self.perturbations[index]]
        right = self.evaluator.scores(kept, ["accuracy"], keep=True).values["accuracy"]
        displacement = np.full(len(self.rows), np.nan)
        if self.ranges.live.any():
            displacement = Displacements(self.evaluator, self.ranges).of(self.perturbations)
        measured: dict[str, Any] = {METRICS[name]: mean for name, mean in scores.means.items()}
        measured |= {f"unperturbed_{METRICS[name]}": score for name, score in scores.unperturbed.items()}
        del measured["unperturbed_agreement"]  # it's 1
        return measured | {
            "displacement": displacement,
            "examples": scores.items,
            "right": np.packbits(right.astype(np.bool_), axis=1),
        }

    def units(self) -> dict[str, Any]:
        """Count units with special ranges, and measure accuracy without the output bias and with NaN logits."""
        post, readout = self.ranges.post, self.evaluator.readout
        with np.errstate(divide="ignore", invalid="ignore"):
            by_formula = (post.maximum - 0.1 * post.width) / post.maximum
        no_bias_accuracy = np.nan
        if readout is not None:
            bias = readout[1].astype(np.float64)[None]
            scores = self.evaluator.scores([Perturbation()], ["accuracy"], bias)
            no_bias_accuracy = float(scores.means["centred_accuracy"][0])
        return {
            "no_bias_accuracy": no_bias_accuracy,
            # if all logits are NaN, argmax takes the first
            "silent_accuracy": float(np.mean(self.labels == 0)),
            "dead_units": self.ranges.dead_units,
            "nan_units": int(np.isnan(by_formula).sum()),
        }

    def by_halves(self) -> dict[str, Any]:
        """Measure accuracies with one half of the examples as reference and the other responding, and vice versa."""
        rows = self.of("offset")
        offsets = [self.perturbations[index] for index in rows]
        centred, other_half = np.full(len(self.rows), np.nan), np.zeros(len(self.rows))
        centred[rows] = 0.0
        first, second = self.evaluator.split(0)
        items = 0
        for reference, responding in ((first, second), (second, first)):
            scores = responding.scores(self.at(reference.ranges), ["accuracy"])
            other_half += scores.means["accuracy"] * scores.items
            items += scores.items
            if offsets:
                shift = reference.mean_logit_change(offsets)
                scores = responding.scores(offsets, ["accuracy"], shift)
                centred[rows] += scores.means["centred_accuracy"] * scores.items
        return {"centred_accuracy": centred / items, "other_half_accuracy": other_half / items}

    def by_quantile_ranges(self) -> dict[str, Any]:
        """Measure accuracy by unit ranges without each unit's outermost examples, and how much narrower these are."""
        live = self.ranges.live
        ranges = quantile_ranges(self.evaluator.preactivations(), self.evaluator.activations())
        full, narrow = (both.on(self.conduct.range).width[live] for both in (self.ranges, ranges))
        return {
            "quantile_accuracy": self.accuracy(self.at(ranges)),
            "rare_units": int((live & ~ranges.live).sum()),
            "width": float(np.mean(narrow / full)) if live.any() else np.nan,
        }

    def clipped(self) -> dict[str, Any]:
        """Measure the clip before and after the activation, both by the range after it."""
        names = ("clip_pre_accuracy", "clip_post_accuracy", "untouched")
        measured = {name: np.full(len(self.rows), np.nan) for name in names}
        rows = self.of("clip")
        if not rows:
            return measured
        conducts = (replace(self.conduct, clip=side, range="post") for side in ("pre", "post"))
        before, after = (
            [make_family("clip", conduct).at(self.rows[index].grid, self.ranges) for index in rows]
            for conduct in conducts
        )
        measured["clip_pre_accuracy"][rows] = self.accuracy(before)
        measured["clip_post_accuracy"][rows] = self.accuracy(after)
        z, a = self.evaluator.preactivations(), self.evaluator.activations()
        for index, perturbation in zip(rows, before, strict=True):
            above = a > perturbation.clip
            left = above & (z <= perturbation.clip)
            with np.errstate(invalid="ignore"):
                measured["untouched"][index] = np.divide(left.sum(), above.sum())
        return measured

    def scaled(self) -> dict[str, Any]:
        """Return how the predictions of the scale sweep differ from algebra's; NaN if no row is of the family scale."""
        levels = Scale().levels
        if not self.of("scale"):
            names = ("scale_differences", "scale_unexplained", "scale_near_ties", "flat")
            return dict.fromkeys(names, np.nan) | {"predicted_accuracy": np.full(len(levels), np.nan)}
        audit = scale_audit_of(self.evaluator, levels)
        return {
            "scale_differences": audit.greatest_difference,
            "scale_unexplained": audit.unexplained,
            "scale_near_ties": int(audit.curves.near_ties.max()),
            "flat": audit.flat,
            "predicted_accuracy": audit.curves.predicted_accuracy.values,
        }


def _as_dataset(measured: Mapping[str, Any], rows: Sequence[Row]) -> xr.Dataset:
    """Return measured variables as labelled arrays."""
    dims = {"right": ("which", "byte"), "predicted_accuracy": ("scale_level",)}
    data: dict[str, Any] = {}
    for name, value in measured.items():
        attributes = {"long_name": MEASURED[name]} if name in MEASURED else {}
        array = np.asarray(value, dtype=None if name == "right" else np.float64)
        data[name] = (dims.get(name, ("row",) if array.ndim else ()), array, attributes)
    coords = {name: ("row", [getattr(row, name) for row in rows]) for name in ("family", "level", "grid")}
    return xr.Dataset(data, {**coords, "scale_level": Scale().levels})
