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
predictions are compared item by item with those that algebra gives. What follows a layer is known as a formula in the
paper's networks. Of other models it is measured. How far logits may be apart and yet be called the same is then counted
in what the layer is worth: how much they change if each example gets another's values there. Otherwise a layer that
hardly matters would seem to be normalised. And an operation that divides by what depends on the layer must follow,
since a later function may as well be saturated on these data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.errors import InputError
from nearzero.evaluators.base import LayerEvaluator, ScaledBlock
from nearzero.evaluators.select import ModelOptions, open_evaluator
from nearzero.networks import TwoLayer
from nearzero.perturbations.activations import ACTIVATIONS
from nearzero.perturbations.families import Scale
from nearzero.support.arrays import as_numbers

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Form", "ScaleAudit", "as_scales", "comparison_counts", "curves", "scale_audit", "scale_audit_of"]

Form = Literal["affine", "normalised", "free"]
Doubles = npt.NDArray[np.float64]

CONSTANT = 0.01  # of what another example's values would change
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
KEPT = ("apart", "sizes", "terms", "moved", "worth", "homogeneity", "rounding", "constant")  # of each block


@dataclass(frozen=True, eq=False)
class ScaleAudit:
    """What algebra says of a layer's scale sweep, and how well what is measured agrees with it.

    Attributes:
        backend: what computed it, "two-layer" or "model".
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

    backend: str
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
        where = f"a scale of {self.constant_from:.2g}"
        if self.form == "normalised":
            shows = self.constant_from > self.curves.level[0]
            below = f"; below {where} its eps shows" if shows else ""
            return f"A normalisation divides the scale of this layer out again{below}. {NOTHING}"
        still = self.constant_from <= HALF
        seen = f" On these data the logits stay the same from {where} on." if still else ""
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


def comparison_counts(
    expected: npt.NDArray[np.floating],
    slack: npt.NDArray[np.floating],
    measured: npt.NDArray[np.integer],
    unperturbed: npt.NDArray[np.integer],
    labels: npt.NDArray[np.integer] | None,
) -> dict[str, int]:
    """Compare predicted and measured predictions at one level; return the counts of `ScaleAudit.curves`, by name.

    Args:
        expected: (n, K), the logits that algebra gives.
        slack: (n,), what two logits may differ by and nearly tie.
        measured: (n,), the predictions.
        unperturbed: (n,), the predictions without perturbation.
        labels: (n,), or None.
    """
    predicted = expected.argmax(axis=1)
    best = np.take_along_axis(expected, predicted[:, None], axis=1)[:, 0]
    near = ((best[:, None] - expected) <= slack[:, None]).sum(axis=1) > 1
    differ = predicted != measured
    found = {
        "differences": differ, "unexplained": differ & ~near, "near_ties": near,
        "predicted_agreement": predicted == unperturbed, "measured_agreement": measured == unperturbed,
    }  # fmt: skip
    if labels is not None:
        found |= {"predicted_accuracy": predicted == labels, "measured_accuracy": measured == labels}
    return {name: int(np.count_nonzero(each)) for name, each in found.items()}


def curves(levels: Doubles, blocks: Sequence[Sequence[Mapping[str, int]]], items: int) -> xr.Dataset:
    """Return `ScaleAudit.curves` from the counts of each block of items at each level."""
    data = {}
    for name in blocks[0][0]:
        counts = np.sum([[level[name] for level in block] for block in blocks], axis=0, dtype=np.int64)
        data[name] = ("level", counts if name in COUNTS else counts / max(items, 1))
    return xr.Dataset(data, {"level": levels}, {"items": items})


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
    x: Any,
    y: npt.ArrayLike | None = None,
    *,
    levels: npt.ArrayLike | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
    **options: Unpack[ModelOptions],
) -> ScaleAudit:
    """Find what algebra says of a layer's scale sweep, and hold the sweep against it, item by item.

    With a homogeneous activation the logits of a two-layer network under a scale s of the live units are s B + A,
    where B = W2 a over the live units and A = b2, with what dead units add; these are computed in float64, from z on.
    Of other models B and A are measured: from the logits at the least and the greatest scale, held against those at
    all scales between.

    Args:
        network: a `TwoLayer`, or any `torch.nn.Module`.
        x: inputs (N, D), or whatever `nz.probe` takes as data.
        y: the labels of inputs that come as an array, (N,), for the accuracies.
        levels: the scales; the family's 100 unless given.
        threads, memory: as in `nz.sweep`.
        options: of other models the layer, and what else is to be said, see
            `nearzero.evaluators.select.ModelOptions`.

    Raises:
        InputError: as `nz.sweep` and `nz.probe`; levels that aren't scales; logits that aren't finite.
    """
    scales = as_scales(levels)
    with open_evaluator(
        network, x, y, options, metrics="agreement", threads=threads, memory=memory
    ) as evaluator:
        return scale_audit_of(evaluator, scales)


def scale_audit_of(evaluator: LayerEvaluator, scales: Doubles) -> ScaleAudit:
    """Return `scale_audit` for an evaluator that is at hand; see there."""

    def take(block: ScaledBlock) -> dict[str, Any]:
        affine, constant = [], []
        for place, measured in enumerate(block.measured):
            seen = measured, block.unperturbed, block.labels
            affine.append(comparison_counts(block.expected(place), block.slack(place), *seen))
            if block.plain is not None:
                slack = block.rounding * np.abs(block.plain).max(axis=1)
                constant.append(comparison_counts(block.plain, slack, *seen))
        kept = {name: getattr(block, name) for name in KEPT}
        return kept | {"affine": affine, "constant_logits": constant, "items": len(block.unperturbed)}

    blocks = evaluator.gather_scaled(scales, take)
    parts = {name: [each[name] for each in blocks] for name in blocks[0]}
    items = sum(parts["items"])
    apart, sizes, terms = (np.max(parts[name], axis=0) for name in ("apart", "sizes", "terms"))
    constant_from = float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        error = float(np.nanmax(np.where(sizes > 0, apart / sizes, 0.0)))
        if parts["moved"][0] is not None:
            moved = np.sqrt(np.sum(parts["moved"], axis=0) / np.sum(parts["worth"]))
            constant_from = _constant_from(scales, moved)
    homogeneity, rounding = max(parts["homogeneity"]), max(parts["rounding"])
    normalisations = evaluator.normalisations
    form: Form = "free"
    formula = ""
    if normalisations:  # so they aren't affine, even where this layer hardly matters and it can't be seen
        form = "normalised" if constant_from <= HALF else "free"
    elif max(homogeneity, error) <= rounding:
        if parts["constant"][0] is not None:  # the weights are known
            formula = "W2 a" if all(parts["constant"]) else "W2 a + b2 / s"
        else:
            matters = np.sqrt(np.sum(parts["worth"]) / max(items, 1)) > rounding * sizes.max()
            formula = _formula(scales, terms, rounding, matters=bool(matters))
        form = "affine" if formula else "free"
    registered = ACTIVATIONS.get(evaluator.activation or "")
    return ScaleAudit(
        backend=evaluator.backend, layer=evaluator.layer, activation=evaluator.activation,
        homogeneous=homogeneity <= rounding,
        homogeneity_error=homogeneity,
        registered=None if registered is None else registered.homogeneous, form=form, formula=formula,
        logit_error=error, normalisations=normalisations, constant_from=constant_from,
        curves=curves(scales, parts["constant_logits" if form == "normalised" else "affine"], items),
    )  # fmt: skip


def _formula(scales: Doubles, terms: Doubles, rounding: float, *, matters: bool) -> str:
    """What the prediction is the argmax of, by the greatest of B and A; "" if a layer that matters adds nothing."""
    slope, rest = terms
    if scales[-1] * slope <= rounding * rest:
        return "" if matters else "A"
    return "B" if rest <= rounding * scales[0] * slope else "B + A / s"


def _constant_from(levels: Doubles, moved: Doubles) -> float:
    """The least level from which on logits have moved no further than they may; NaN if there is none."""
    far = np.flatnonzero(~(moved <= CONSTANT))
    first = int(far[-1]) + 1 if far.size else 0
    return float(levels[first]) if first < len(levels) else float("nan")
