"""What the audit measures of one network: the published levels in the paper's conduct, and with each fault put right.

Here are numbers of one network on its examples, and nothing over runs: what they say of the paper is in `faults`,
`rows` and `sentences`. Ranges "of the other half" and mean logit shifts are set by one half of the examples and
measured on the other, both ways around, so that the accuracy is one over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from threadpoolctl import threadpool_limits

from nearzero import metrics
from nearzero.activations import Activation
from nearzero.displacement import Displacements
from nearzero.families import Conduct, Scale, make_family
from nearzero.hidden import HiddenLayer
from nearzero.invariance import scale_audit
from nearzero.matched import halves
from nearzero.networks import TwoLayer
from nearzero.paper import published
from nearzero.perturbation import Perturbation
from nearzero.pixels import Pixels
from nearzero.ranges import Ranges, UnitRange
from nearzero.sweep import as_labels

__all__ = [
    "MEASURED",
    "QUANTILE",
    "Row",
    "as_dataset",
    "bootstrap_row",
    "measure",
    "published_rows",
    "quantile_ranges",
]

Doubles = npt.NDArray[np.float64]
QUANTILE = 0.001  # and 0.999: ranges without the outermost examples
ROWS = 2048  # whose activations stay in cache
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


def quantile_ranges(z: npt.NDArray[np.floating], act: Activation, share: float = QUANTILE) -> Ranges:
    """Unit ranges from the quantiles `share` and 1 - `share` of z, (N, U), and of act(z), in place of the extremes."""
    sides = (np.quantile(each, [share, 1 - share], axis=0).astype(np.float64) for each in (z, act(z)))
    pre, post = sides
    return Ranges(UnitRange(pre[0], pre[1], "pre"), UnitRange(post[0], post[1], "post"))


def measure(
    network: TwoLayer,
    train: tuple[Pixels | npt.ArrayLike, npt.ArrayLike],
    test: tuple[Pixels | npt.ArrayLike, npt.ArrayLike],
    *,
    rows: Sequence[Row],
    conduct: Conduct,
    seed: int = 0,
    threads: int | None = None,
    memory: int | str | None = None,
) -> xr.Dataset:
    """Measure one network.

    Args:
        network: with finite weights.
        train, test: examples (N, D) and labels (N,) of either set.
        rows: L rows of the published tables.
        conduct: the reading of the protocol that the study followed.
        seed: of which examples are the first half.
        threads, memory: as for `nz.sweep`.

    Returns:
        A Dataset with

        - the variables of `MEASURED` on `row`, NaN where one isn't about a family;
        - `unperturbed_accuracy`, `unperturbed_test_accuracy`, `unperturbed_loss`, `unperturbed_margin`; `examples`, N;
        - of units: `dead_units`; `nan_units`, those for which (max - p r) / max isn't a number; `rare_units`, live
          ones whose quantile range is 0; `width`, the mean over live units of the quantile range over the full one;
        - of scale: `predicted_accuracy` on `scale_level`, what algebra says; `scale_differences`,
          `scale_unexplained`, `scale_near_ties`, the greatest numbers of examples at any level; `flat`, 0 or 1;
        - `silent_accuracy`, what is right if every logit is NaN; `no_bias_accuracy`, without the output bias;
        - `right`, packed bits, (2, ceil(N / 8)): which examples are predicted right without perturbation, and at
          `bootstrap_row`.

    Raises:
        InputError: as `nz.sweep`.
    """
    hidden = HiddenLayer(network, train[0], threads=threads, memory=memory)
    labels = as_labels(train[1], len(hidden), network.classes)
    bench = _Bench(hidden, labels, tuple(rows), conduct, seed)
    # The products are small, and threads that wait for each other cost more than they bring.
    with threadpool_limits(limits=1, user_api="blas"):
        found = bench.unperturbed() | bench.levels() | bench.halved() | bench.ranged() | bench.clipped()
        found |= bench.logits() | bench.scaled((train[0], labels))
    held_out = HiddenLayer(network, test[0], threads=threads, memory=memory)
    test_labels = as_labels(test[1], len(held_out), network.classes)
    found["test_accuracy"] = metrics.accuracy(held_out.predict(bench.perturbations), test_labels)
    found["unperturbed_test_accuracy"] = metrics.accuracy(held_out.unperturbed, test_labels)
    return as_dataset(found, rows)


class _Bench:
    """One network on its training set, and the perturbations of all rows."""

    def __init__(
        self,
        hidden: HiddenLayer,
        labels: npt.NDArray[np.int64],
        rows: tuple[Row, ...],
        conduct: Conduct,
        seed: int,
    ) -> None:
        self.hidden, self.labels, self.rows, self.conduct, self.seed = hidden, labels, rows, conduct, seed
        self.ranges = hidden.ranges
        self.perturbations = self.at(self.ranges)

    def at(self, ranges: Ranges) -> list[Perturbation]:
        """The perturbations of all rows by these ranges."""
        return [make_family(row.family, self.conduct).at(row.grid, ranges) for row in self.rows]

    def of(self, family: str) -> list[int]:
        """The numbers of a family's rows."""
        return [number for number, row in enumerate(self.rows) if row.family == family]

    def unperturbed(self) -> dict[str, Any]:
        """The network as it is, and its units."""
        hidden, labels, post = self.hidden, self.labels, self.ranges.post
        with np.errstate(divide="ignore", invalid="ignore"):
            by_formula = (post.maximum - 0.1 * post.width) / post.maximum
        without = hidden.with_b2(np.zeros(hidden.network.classes))
        return {
            "unperturbed_accuracy": metrics.accuracy(hidden.unperturbed, labels),
            "no_bias_accuracy": metrics.accuracy(without.unperturbed, labels),
            "silent_accuracy": float(
                np.mean(labels == 0)
            ),  # of logits that are all NaN the first is the greatest
            "dead_units": self.ranges.dead_units,
            "nan_units": int(np.isnan(by_formula).sum()),
            "examples": len(hidden),
        }

    def levels(self) -> dict[str, Any]:
        """Every row in the study's conduct."""
        hidden, labels = self.hidden, self.labels
        predictions = hidden.predict(self.perturbations)
        number = bootstrap_row(self.rows)
        kept = hidden.unperturbed if number is None else predictions[number]
        sizes = np.full(len(self.rows), np.nan)
        if self.ranges.live.any():
            sizes = Displacements(hidden, self.ranges).of(self.perturbations)
        return {
            "accuracy": metrics.accuracy(predictions, labels),
            "agreement": metrics.agreement(predictions, hidden.unperturbed),
            "displacement": sizes,
            "right": np.packbits([hidden.unperturbed == labels, kept == labels], axis=1),
        }

    def halved(self) -> dict[str, Any]:
        """Accuracies for which one half sets and the other responds, both ways around."""
        hidden, offsets = self.hidden, self.of("offset")
        centred, other = np.full(len(self.rows), np.nan), np.zeros(len(self.rows))
        centred[offsets] = 0.0
        w2 = hidden.network.w2.astype(np.float64)
        first, second = halves(len(hidden), self.seed)
        for reference, responding in ((first, second), (second, first)):
            setting, here = hidden.part(reference), hidden.part(responding)
            labels = self.labels[responding]
            # first, so that the copies with other biases have z and the ranges too
            other += metrics.matches(here.predict(self.at(setting.ranges)), labels)
            _, sums = setting.changes([self.perturbations[number] for number in offsets])
            for number, shift in zip(offsets, (sums / len(setting)) @ w2.T, strict=True):
                moved = here.with_b2(hidden.network.b2 - shift)
                predicted = moved.predict([self.perturbations[number]])[0]
                centred[number] += np.count_nonzero(predicted == labels)
        return {"centred_accuracy": centred / len(hidden), "other_half_accuracy": other / len(hidden)}

    def ranged(self) -> dict[str, Any]:
        """What becomes of it without the outermost examples of each unit."""
        hidden, live = self.hidden, self.ranges.live
        without = quantile_ranges(hidden.z, hidden.network.act)
        full, part = (each.on(self.conduct.range).width[live] for each in (self.ranges, without))
        predictions = hidden.predict(self.at(without))
        return {
            "quantile_accuracy": metrics.accuracy(predictions, self.labels),
            "rare_units": int((live & ~without.live).sum()),
            "width": float(np.mean(part / full)) if live.any() else np.nan,
        }

    def clipped(self) -> dict[str, Any]:
        """The clip before the activation and after it, by the range after it."""
        found = {
            name: np.full(len(self.rows), np.nan)
            for name in ("clip_pre_accuracy", "clip_post_accuracy", "untouched")
        }
        numbers = self.of("clip")
        if not numbers:
            return found
        conducts = (replace(self.conduct, clip=side, range="post") for side in ("pre", "post"))
        pre, post = (make_family("clip", conduct) for conduct in conducts)
        before, after = (
            [family.at(self.rows[number].grid, self.ranges) for number in numbers] for family in (pre, post)
        )
        for name, some in (("clip_pre_accuracy", before), ("clip_post_accuracy", after)):
            found[name][numbers] = metrics.accuracy(self.hidden.predict(some), self.labels)
        counts = np.zeros((2, len(numbers)))
        for z, a, _ in self.parts():
            for place, each in enumerate(before):
                above = a > each.clip
                counts[:, place] += above.sum(), (above & (z <= each.clip)).sum()
        with np.errstate(invalid="ignore"):
            found["untouched"][numbers] = counts[1] / counts[0]
        return found

    def logits(self) -> dict[str, Any]:
        """Loss and margin, which see what accuracy doesn't."""
        network = self.hidden.network
        perturbations = [Perturbation(), *self.perturbations]
        loss, margin = np.zeros(len(perturbations)), np.zeros(len(perturbations))
        for z, a, labels in self.parts():
            own = np.arange(len(labels)), labels
            for number, each in enumerate(perturbations):
                changed = each(a) if each.side == "post" else network.act(each(z))
                logits = (changed @ network.w2.T + network.b2).astype(np.float64)
                logits -= logits[own][:, None]
                greatest = logits.max(axis=1)
                loss[number] += (greatest + np.log(np.exp(logits - greatest[:, None]).sum(axis=1))).sum()
                logits[own] = -np.inf
                margin[number] -= logits.max(axis=1).sum()
        loss, margin = loss / len(self.labels), margin / len(self.labels)
        return {
            "loss": loss[1:],
            "margin": margin[1:],
            "unperturbed_loss": loss[0],
            "unperturbed_margin": margin[0],
        }

    def parts(self) -> Iterator[tuple[Any, Any, Any]]:
        """z, act(z) and labels of some examples after others."""
        for first in range(0, len(self.hidden), ROWS):
            z = self.hidden.z[first : first + ROWS]
            yield z, self.hidden.network.act(z), self.labels[first : first + ROWS]

    def scaled(self, train: tuple[Any, npt.NDArray[np.int64]]) -> dict[str, Any]:
        """What algebra says of the scale sweep, example by example."""
        names = ("scale_differences", "scale_unexplained", "scale_near_ties", "flat")
        levels = Scale().levels
        if not self.of("scale"):
            return dict.fromkeys(names, np.nan) | {"predicted_accuracy": np.full(len(levels), np.nan)}
        found = scale_audit(self.hidden.network, *train, levels=levels, threads=self.hidden.threads)
        counts = (found.greatest_difference, found.unexplained, int(found.curves.near_ties.max()), found.flat)
        return dict(zip(names, counts, strict=True)) | {
            "predicted_accuracy": found.curves.predicted_accuracy.values
        }


def as_dataset(found: Mapping[str, Any], rows: Sequence[Row]) -> xr.Dataset:
    """What was measured, array by array, as labelled arrays; also read back from a file."""
    dims = {"right": ("which", "byte"), "predicted_accuracy": ("scale_level",)}
    data: dict[str, Any] = {}
    for name, value in found.items():
        about = {"long_name": MEASURED[name]} if name in MEASURED else {}
        array = np.asarray(value if name == "right" else np.asarray(value, dtype=np.float64))
        data[name] = (dims.get(name, ("row",) if array.ndim else ()), array, about)
    coords = {
        "family": ("row", [row.family for row in rows]),
        "level": ("row", [row.level for row in rows]),
        "grid": ("row", [row.grid for row in rows]),
        "scale_level": Scale().levels,
    }
    return xr.Dataset(data, coords)
