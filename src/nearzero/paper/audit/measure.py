"""What the audit measures of one network: the published levels in the paper's conduct, and with each fault put right.

Here are numbers of one network on its examples, and nothing over runs: what they say of the paper is in `evidence`,
`faults` and `sentences`. Ranges "of the other half" and mean logit shifts are set by one half of the examples and
measured on the other, both ways around, so that the accuracy is one over all of them.
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
# metrics, and what they are called in the result
METRICS = {"accuracy": "accuracy", "agreement": "agreement", "cross_entropy": "loss", "margin": "margin"}
BOOTSTRAPPED = (("offset", 0.01), ("clip", 0.5), ("scale", 0.1))  # the first of these that was swept
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
    """A row of the published tables 2 to 4: a family, the level it names, and the nearest of the family's grid."""

    family: str
    level: float
    grid: float


def published_rows(families: Sequence[str], conduct: Conduct) -> tuple[Row, ...]:
    """The rows of the paper's families among those that a study has."""
    rows = []
    for family, named in published().families.items():
        if family in families:
            grid = make_family(family, conduct).levels
            rows += [Row(family, row.level, float(grid[np.abs(grid - row.level).argmin()])) for row in named]
    return tuple(rows)


def bootstrap_row(rows: Sequence[Row]) -> int | None:
    """The number of the row whose cost is shown with both kinds of interval; None if there are no rows."""
    places = [(row.family, row.level) for row in rows]
    return next((places.index(each) for each in BOOTSTRAPPED if each in places), None)


def quantile_ranges(z: npt.NDArray[np.floating], activations: npt.NDArray[np.floating]) -> Ranges:
    """Return unit ranges from the quantiles `QUANTILE` and 1 - `QUANTILE` of z and of act(z), (R, U) each."""
    shares = [QUANTILE, 1 - QUANTILE]
    pre, post = (np.quantile(each, shares, axis=0).astype(np.float64) for each in (z, activations))
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
        train, test: examples (N, D) and labels (N,) of either set.
        rows: L rows of the published tables.
        conduct: the reading of the protocol that the study followed.
        options: of other models than a `TwoLayer`, see `nearzero.evaluators.select.ModelOptions`.

    Returns:
        A Dataset with

        - the variables of `MEASURED` on `row`, NaN where one isn't about a family;
        - `unperturbed_accuracy`, `unperturbed_test_accuracy`, `unperturbed_loss`, `unperturbed_margin`; `examples`, N;
        - of units: `dead_units`; `nan_units`, those for which (max - p r) / max isn't a number; `rare_units`, live
          ones whose quantile range is 0; `width`, the mean over live units of the quantile range over the full one;
        - of scale: `predicted_accuracy` on `scale_level`, what algebra says; `scale_differences`,
          `scale_unexplained`, `scale_near_ties`, the greatest numbers of examples at any level; `flat`, 0 or 1;
        - `silent_accuracy`, what is right if every logit is NaN; `no_bias_accuracy`, without the output bias, NaN where
          that isn't known;
        - `right`, packed bits, (2, ceil(N / 8)): which examples are predicted right without perturbation, and at
          `bootstrap_row`.

    Raises:
        InputError: as `nz.sweep`.
    """
    with open_evaluator(network, *train, options=options, metrics=list(METRICS)) as evaluator:
        bench = _FaultMeasurement(evaluator, np.asarray(train[1]), rows, conduct)
        found = bench.levels() | bench.units() | bench.halved() | bench.ranged() | bench.clipped()
        found |= bench.scaled()
    with open_evaluator(network, *test, options=options, metrics=list(METRICS)) as held_out:
        scores = held_out.scores(bench.perturbations, ["accuracy"])
    found["test_accuracy"] = scores.means["accuracy"]
    found["unperturbed_test_accuracy"] = scores.unperturbed["accuracy"]
    return _as_dataset(found, rows)


@dataclass(frozen=True)
class _FaultMeasurement:
    """One layer on its training set, and the perturbations of all rows."""

    evaluator: LayerEvaluator
    labels: npt.NDArray[np.integer]
    rows: Sequence[Row]
    conduct: Conduct

    @property
    def ranges(self) -> Ranges:
        """Unit ranges over the training set."""
        return self.evaluator.ranges

    @cached_property
    def perturbations(self) -> list[Perturbation]:
        """The perturbations of all rows."""
        return self.at(self.ranges)

    def at(self, ranges: Ranges) -> list[Perturbation]:
        """Return the perturbations of all rows by these ranges."""
        return [make_family(row.family, self.conduct).at(row.grid, ranges) for row in self.rows]

    def of(self, family: str) -> list[int]:
        """Return the numbers of a family's rows."""
        return [number for number, row in enumerate(self.rows) if row.family == family]

    def accuracy(self, perturbations: Sequence[Perturbation]) -> Doubles:
        """Return the accuracy under each perturbation."""
        return self.evaluator.scores(perturbations, ["accuracy"]).means["accuracy"]

    def levels(self) -> dict[str, Any]:
        """Return every row in the study's conduct, and the network as it is."""
        scores = self.evaluator.scores(self.perturbations, METRICS)
        number = bootstrap_row(self.rows)
        kept = [Perturbation(), Perturbation() if number is None else self.perturbations[number]]
        right = self.evaluator.scores(kept, ["accuracy"], keep=True).values["accuracy"]
        sizes = np.full(len(self.rows), np.nan)
        if self.ranges.live.any():
            sizes = Displacements(self.evaluator, self.ranges).of(self.perturbations)
        found: dict[str, Any] = {METRICS[name]: each for name, each in scores.means.items()}
        found |= {f"unperturbed_{METRICS[name]}": each for name, each in scores.unperturbed.items()}
        del found["unperturbed_agreement"]  # it's 1
        return found | {
            "displacement": sizes,
            "examples": scores.items,
            "right": np.packbits(right.astype(np.bool_), axis=1),
        }

    def units(self) -> dict[str, Any]:
        """Return what is special about units and about the output bias."""
        post, readout = self.ranges.post, self.evaluator.readout
        with np.errstate(divide="ignore", invalid="ignore"):
            by_formula = (post.maximum - 0.1 * post.width) / post.maximum
        without = np.nan
        if readout is not None:
            shift = readout[1].astype(np.float64)[None]
            scores = self.evaluator.scores([Perturbation()], ["accuracy"], shift)
            without = float(scores.means["centred_accuracy"][0])
        return {
            "no_bias_accuracy": without,
            # of logits that are all NaN the first is the greatest
            "silent_accuracy": float(np.mean(self.labels == 0)),
            "dead_units": self.ranges.dead_units,
            "nan_units": int(np.isnan(by_formula).sum()),
        }

    def halved(self) -> dict[str, Any]:
        """Return accuracies for which one half sets and the other responds, both ways around."""
        offsets = self.of("offset")
        some = [self.perturbations[number] for number in offsets]
        centred, other = np.full(len(self.rows), np.nan), np.zeros(len(self.rows))
        centred[offsets] = 0.0
        first, second = self.evaluator.split(0)
        items = 0
        for setting, here in ((first, second), (second, first)):
            scores = here.scores(self.at(setting.ranges), ["accuracy"])
            other += scores.means["accuracy"] * scores.items
            items += scores.items
            if some:
                shift = setting.mean_logit_change(some)
                moved = here.scores(some, ["accuracy"], shift)
                centred[offsets] += moved.means["centred_accuracy"] * moved.items
        return {"centred_accuracy": centred / items, "other_half_accuracy": other / items}

    def ranged(self) -> dict[str, Any]:
        """Return what becomes of it without the outermost rows of each unit."""
        live = self.ranges.live
        without = quantile_ranges(self.evaluator.preactivations(), self.evaluator.activations())
        full, part = (each.on(self.conduct.range).width[live] for each in (self.ranges, without))
        return {
            "quantile_accuracy": self.accuracy(self.at(without)),
            "rare_units": int((live & ~without.live).sum()),
            "width": float(np.mean(part / full)) if live.any() else np.nan,
        }

    def clipped(self) -> dict[str, Any]:
        """Return the clip before the activation and after it, by the range after it."""
        names = ("clip_pre_accuracy", "clip_post_accuracy", "untouched")
        found = {name: np.full(len(self.rows), np.nan) for name in names}
        numbers = self.of("clip")
        if not numbers:
            return found
        conducts = (replace(self.conduct, clip=side, range="post") for side in ("pre", "post"))
        before, after = (
            [make_family("clip", conduct).at(self.rows[number].grid, self.ranges) for number in numbers]
            for conduct in conducts
        )
        found["clip_pre_accuracy"][numbers] = self.accuracy(before)
        found["clip_post_accuracy"][numbers] = self.accuracy(after)
        z, a = self.evaluator.preactivations(), self.evaluator.activations()
        for number, each in zip(numbers, before, strict=True):
            above = a > each.clip
            with np.errstate(invalid="ignore"):
                found["untouched"][number] = np.divide((above & (z <= each.clip)).sum(), above.sum())
        return found

    def scaled(self) -> dict[str, Any]:
        """Return what algebra says of the scale sweep, example by example."""
        levels = Scale().levels
        if not self.of("scale"):
            names = ("scale_differences", "scale_unexplained", "scale_near_ties", "flat")
            return dict.fromkeys(names, np.nan) | {"predicted_accuracy": np.full(len(levels), np.nan)}
        found = scale_audit_of(self.evaluator, levels)
        return {
            "scale_differences": found.greatest_difference,
            "scale_unexplained": found.unexplained,
            "scale_near_ties": int(found.curves.near_ties.max()),
            "flat": found.flat,
            "predicted_accuracy": found.curves.predicted_accuracy.values,
        }


def _as_dataset(found: Mapping[str, Any], rows: Sequence[Row]) -> xr.Dataset:
    """Return what was measured, array by array, as labelled arrays."""
    dims = {"right": ("which", "byte"), "predicted_accuracy": ("scale_level",)}
    data: dict[str, Any] = {}
    for name, value in found.items():
        about = {"long_name": MEASURED[name]} if name in MEASURED else {}
        array = np.asarray(value, dtype=None if name == "right" else np.float64)
        data[name] = (dims.get(name, ("row",) if array.ndim else ()), array, about)
    coords = {name: ("row", [getattr(row, name) for row in rows]) for name in ("family", "level", "grid")}
    return xr.Dataset(data, {**coords, "scale_level": Scale().levels})
