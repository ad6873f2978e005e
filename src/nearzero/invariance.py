"""What algebra says of a scale sweep beforehand: the invariance audit.

An activation is positively homogeneous if act(s z) = s act(z) for every s > 0, as ReLU, Abs and leaky ReLU are. Then a
common scale s of a layer's units goes through the activation, and what becomes of it is decided by what follows:

- all that follows is affine in the activations, as in the paper's networks. The logits are s B + A, B linear in the
  activations and A constant or of other paths, and the prediction is argmax(B + A / s): the curve shows the output
  bias and nothing else.
- a normalisation follows and divides the scale out again. The logits stay as they were, but where the scale is so
  small that the normalisation's eps counts.
- neither. Then a scale sweep is a measurement.

Nothing is taken on trust. Homogeneity is measured on real pre-activations, beside what the registry says, and
predictions are compared example by example with those that algebra gives. Here is the paper's network;
`nearzero.probing.invariance` has the same for any layer of a PyTorch model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.arrays import as_numbers
from nearzero.errors import InputError
from nearzero.families import Scale
from nearzero.hidden import HiddenLayer
from nearzero.networks import TwoLayer, as_network
from nearzero.perturbation import Perturbation
from nearzero.pixels import Pixels
from nearzero.sweep import as_labels

if TYPE_CHECKING:
    from torch import nn

__all__ = ["HALF", "Form", "ScaleAudit", "Tally", "as_scales", "homogeneity_error", "scale_audit"]

Form = Literal["affine", "normalised", "free"]
Doubles = npt.NDArray[np.float64]

HOMOGENEOUS = 1e-5  # of the greatest activation: how far act(s z) may be from s act(z) in float32
ROUNDING = 2.0**-20  # of the sum of absolute terms: what float32 sums of them may be wrong by
TESTED = (0.01, 0.1, 0.5, 2.0, 10.0)  # scales at which homogeneity and logits are tested
SAMPLE = 2048  # examples on which they are
ROWS = 4096  # examples at a time
HALF = 0.5  # logits that stay the same from this scale on are called constant
NOTHING = "How flat the curve is says nothing about what the units measure."
AFFINE = {
    "W2 a + b2 / s": "A scale sweep shows the output bias and nothing else: the larger the scale, the less it counts.",
    "W2 a": "The output bias is the same for all classes, so no positive scale can change a prediction.",
    "B + A / s": (
        "A scale sweep of this layer shows what reaches the logits past it, biases and other paths, and nothing else: "
        "the larger the scale, the less these count."
    ),
    "B": "Nothing but this layer decides between classes, so no positive scale can change a prediction.",
    "A": "Nothing of this layer comes through to the logits, so no scale can change a prediction.",
}  # what each formula means for a sweep
COUNTS = ("differences", "unexplained", "near_ties")
SHARES = ("predicted_agreement", "measured_agreement", "predicted_accuracy", "measured_accuracy")


@dataclass(frozen=True, eq=False)
class ScaleAudit:
    """What algebra says of a layer's scale sweep, and how well what is measured agrees with it.

    Attributes:
        layer: its name; "hidden" in a two-layer network.
        activation: its name; None if none follows.
        homogeneous: whether act(s z) = s act(z) on these data, s > 0; without an activation it's so.
        homogeneity_error: the greatest |act(s z) - s act(z)|, as a share of the greatest s |act(z)|, over five scales.
        registered: whether the registry of activations says so; None for one that isn't in it.
        form: "affine", the logits are s B + A; "normalised", a later normalisation takes the scale out; "free",
            neither.
        formula: what the prediction is the argmax of, where the form is affine: "W2 a + b2 / s" in a two-layer
            network, "B + A / s" in others; without a term that doesn't tell classes apart.
        logit_error: the greatest departure of the logits from s B + A, as a share of the greatest logit.
        normalisations: the operations after the layer that may take its scale out.
        constant_from: the least level from which on the logits stay where they are at s = 1, but for 1 % of what
            another example's values in the layer would change; NaN if there is none, or it wasn't looked for, as in
            a two-layer network.
        curves: a Dataset on `level`. `predicted_agreement` and `measured_agreement`, the shares of items (examples,
            or tokens that count) predicted as without perturbation; with labels, `predicted_accuracy` and
            `measured_accuracy`; and numbers of items: `differences`, where the two predictions differ;
            `near_ties`, where the two greatest of the predicted logits differ by less than rounding;
            `unexplained`, the differences that are no near ties. What is predicted is argmax(s B + A), or, for a
            normalisation, the prediction at s = 1; if the form is free, argmax(s B + A) for comparison.
    """

    layer: str
    activation: str | None
    homogeneous: bool
    homogeneity_error: float
    registered: bool | None
    form: Form
    formula: str
    logit_error: float
    normalisations: tuple[str, ...]
    constant_from: float
    curves: xr.Dataset

    @property
    def flat(self) -> bool:
        """Whether a scale sweep here is flat by construction."""
        return self.form != "free"

    @property
    def items(self) -> int:
        """How many examples, or tokens that count, were looked at."""
        return int(self.curves.attrs["items"])

    @property
    def greatest_difference(self) -> int:
        """The most items at one level that are predicted otherwise than algebra says, near ties included."""
        return int(self.curves.differences.max())

    @property
    def unexplained(self) -> int:
        """The most items at one level that are predicted otherwise than algebra says, near ties left out."""
        return int(self.curves.unexplained.max())

    @property
    def words(self) -> str:
        """The finding."""
        if self.form == "affine":
            return f"flat by construction: the prediction is argmax({self.formula})"
        if self.form == "normalised":
            return "flat by construction: a normalisation follows"
        return "not flat by construction"

    @property
    def meaning(self) -> str:
        """What follows for whoever reads a scale sweep of this layer."""
        if self.form == "affine":
            return f"{AFFINE[self.formula]} {NOTHING}"
        if self.form == "normalised":
            low = float(self.curves.level[0])
            below = (
                f"; below a scale of {self.constant_from:.2g} its eps shows"
                if self.constant_from > low
                else ""
            )
            return f"A normalisation divides the scale of this layer out again{below}. {NOTHING}"
        still = self.constant_from <= HALF
        seen = (
            f" On these data the logits stay the same from a scale of {self.constant_from:.2g} on."
            if still
            else ""
        )
        return (
            "Algebra doesn't decide the scale sweep of this layer: how flat the curve is, is a finding about this "
            f"network and these data.{seen}"
        )

    @property
    def comparison(self) -> str:
        """How the measured predictions compare with those that algebra gives."""
        curves = self.curves
        where = f"of {self.items:,} at each of {curves.sizes['level']} levels"
        ties = f"up to {int(curves.near_ties.max()):,} nearly tie"
        if not self.greatest_difference:
            return f"{where}, none is predicted otherwise than algebra says ({ties})"
        found = (
            f"{where}, up to {self.greatest_difference:,} are predicted otherwise than algebra says, "
            f"{self.unexplained:,} that don't nearly tie ({ties})"
        )
        if self.form != "normalised" or not self.constant_from > curves.level[0]:
            return found
        above = int(curves.unexplained.sel(level=slice(self.constant_from, None)).max())
        return f"{found}; from a scale of {self.constant_from:.2g} on, up to {above:,}"


class Tally:
    """Predicted and measured predictions compared, level by level and item by item.

    Args:
        levels: L of them.
    """

    def __init__(self, levels: Doubles) -> None:
        self._levels = levels
        self._counts = {name: np.zeros(len(levels), np.int64) for name in (*COUNTS, *SHARES)}
        self.items = 0
        self.labelled = False

    def compare(
        self,
        place: int,
        expected: npt.NDArray[np.floating],
        measured: npt.NDArray[np.integer],
        slack: npt.NDArray[np.floating],
        unperturbed: npt.NDArray[np.integer],
        labels: npt.NDArray[np.integer] | None,
    ) -> None:
        """Count what some items do at one level.

        Args:
            place: the number of the level.
            expected: (n, K), the logits that algebra gives.
            measured: (n,), the predictions.
            slack: (n,), what two logits may differ by and nearly tie.
            unperturbed: (n,), the predictions without perturbation.
            labels: (n,), or None.
        """
        predicted = expected.argmax(axis=1)
        best = np.take_along_axis(expected, predicted[:, None], axis=1)[:, 0]
        near = ((best[:, None] - expected) <= slack[:, None]).sum(axis=1) > 1
        differ = predicted != measured
        found = {
            "differences": differ, "near_ties": near, "unexplained": differ & ~near,
            "predicted_agreement": predicted == unperturbed, "measured_agreement": measured == unperturbed,
        }  # fmt: skip
        if labels is not None:
            self.labelled = True
            found |= {"predicted_accuracy": predicted == labels, "measured_accuracy": measured == labels}
        for name, each in found.items():
            self._counts[name][place] += np.count_nonzero(each)

    def add(self, other: Tally) -> None:
        """Add what another has counted on other items."""
        self.items += other.items
        self.labelled |= other.labelled
        for name, counts in other._counts.items():
            self._counts[name] += counts

    def curves(self) -> xr.Dataset:
        """Everything as labelled arrays, as `ScaleAudit.curves` describes them."""
        data: dict[str, Any] = {name: ("level", self._counts[name]) for name in COUNTS}
        for name in SHARES:
            if self.labelled or "agreement" in name:
                data[name] = ("level", self._counts[name] / max(self.items, 1))
        return xr.Dataset(data, {"level": self._levels}, {"items": self.items})


def homogeneity_error(act: Callable[[Any], Any], z: Any, scales: Sequence[float] = TESTED) -> float:
    """The greatest |act(s z) - s act(z)|, as a share of the greatest s |act(z)|, over some scales s > 0.

    Args:
        act: the activation, on arrays or tensors of z's kind.
        z: pre-activations of any shape, at least one.
        scales: s.

    Returns:
        0 for a positively homogeneous activation, but for rounding; 0 if act is 0 for all of them.
    """
    errors = []
    for s in scales:
        scaled, taken_out = act(s * z), s * act(z)
        size = float(abs(taken_out).max())
        apart = float(abs(scaled - taken_out).max())
        errors.append(apart / size if size > 0 else float(np.inf) if apart > 0 else 0.0)
    return max(errors)


def as_scales(levels: npt.ArrayLike | None) -> Doubles:
    """The levels of an audit, ascending; the scale family's own 100 if None.

    Raises:
        InputError: fewer than three, or levels that aren't positive and finite.
    """
    if levels is None:
        return Scale().levels
    array = np.unique(as_numbers(levels, "levels").astype(np.float64))
    if array.size < 3 or not (np.isfinite(array).all() and array[0] > 0):
        raise InputError(f"an audit needs three levels at least, positive and finite; got {levels!r}")
    return array


def scale_audit(
    network: TwoLayer | nn.Module,
    x: Pixels | npt.ArrayLike,
    y: npt.ArrayLike | None = None,
    *,
    levels: npt.ArrayLike | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
) -> ScaleAudit:
    """Hold a network's scale sweep against what algebra says of it, example by example.

    With a homogeneous activation the logits under a scale s of the live units are s B + A, where B = W2 a over the
    live units and A = b2, with what dead units add. These are computed in float64, from z on. The measured
    predictions are those of the network itself, each z scaled, in float32; a sweep makes use of the algebra, and so
    isn't asked.

    Args:
        network: a `TwoLayer`, or a PyTorch module Linear, activation, Linear.
        x: the examples, (N, D).
        y: the labels, (N,), for the accuracies.
        levels: the scales; the family's 100 unless given.
        threads, memory: as in `nz.sweep`.

    Raises:
        InputError: shapes that don't fit, or levels that aren't scales.
    """
    network, scales = as_network(network), as_scales(levels)
    hidden = HiddenLayer(network, x, threads=threads, memory=memory)
    labels = None if y is None else as_labels(y, len(hidden), network.classes)
    live = hidden.ranges.live
    few = hidden.exact(slice(0, SAMPLE)).astype(np.float32)
    error = homogeneity_error(network.act, few)
    algebra = _Algebra(network, live)
    tally, constant = Tally(scales), True
    tally.items = len(hidden)
    perturbations = [Perturbation(scale=np.where(live, level, 1.0)) for level in scales]
    for rows in hidden.blocks(len(scales)):
        measured = hidden.predict(perturbations, rows, by_algebra=False)
        plain = hidden.predict([Perturbation()], rows)[0]
        for first in range(rows.start, rows.stop, ROWS):
            part = slice(first, min(first + ROWS, rows.stop))
            here = slice(part.start - rows.start, part.stop - rows.start)
            slope, rest, size, base = algebra.of(network.act(hidden.exact(part)))
            constant &= bool((rest.max(axis=1) - rest.min(axis=1) <= ROUNDING * base).all())
            for place, s in enumerate(scales):
                tally.compare(
                    place, s * slope + rest, measured[place, here], ROUNDING * (s * size + base), plain[here],
                    None if labels is None else labels[part],
                )  # fmt: skip
    logit_error = algebra.error(few)
    affine = error <= HOMOGENEOUS and logit_error <= HOMOGENEOUS
    return ScaleAudit(
        layer="hidden", activation=network.activation, homogeneous=error <= HOMOGENEOUS, homogeneity_error=error,
        registered=network.act.homogeneous, form="affine" if affine else "free",
        formula=("W2 a" if constant else "W2 a + b2 / s") if affine else "", logit_error=logit_error,
        normalisations=(), constant_from=float("nan"), curves=tally.curves(),
    )  # fmt: skip


class _Algebra:
    """What a two-layer network's logits are made of, in float64."""

    def __init__(self, network: TwoLayer, live: npt.NDArray[np.bool_]) -> None:
        self._network, self._live = network, live
        self._w2, self._b2 = network.w2.astype(np.float64), network.b2.astype(np.float64)

    def of(self, a: npt.NDArray[np.floating]) -> tuple[Doubles, Doubles, Doubles, Doubles]:
        """B and A, (n, K), and for each the greatest sum of absolute terms over classes, (n,)."""
        w2, live = self._w2, self._live
        parts = [(a[:, mask], w2[:, mask]) for mask in (live, ~live)]
        slope, rest = (each @ weights.T for each, weights in parts)
        size, base = ((np.abs(each) @ np.abs(weights).T) for each, weights in parts)
        return slope, rest + self._b2, size.max(axis=1), (base + np.abs(self._b2)).max(axis=1)

    def error(self, z: npt.NDArray[np.float32]) -> float:
        """The greatest departure of the network's own logits from s B + A, as a share of the greatest logit."""
        network = self._network
        slope, rest, _, _ = self.of(network.act(z.astype(np.float64)))
        errors = []
        for s in TESTED:
            scaled = np.where(self._live, np.float32(s) * z, z)
            logits = network.act(scaled) @ network.w2.T + network.b2
            errors.append(float(np.abs(logits - (s * slope + rest)).max() / np.abs(logits).max()))
        return max(errors)
