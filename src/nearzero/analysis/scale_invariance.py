"""The audit of scale sweeps: compare the measured predictions with those that follow from algebra.

An activation is positively homogeneous if act(s z) = s act(z) for every s > 0. ReLU, Abs and leaky ReLU are.
A common scale s of a layer's units then passes through the activation, and the operations that follow decide
its effect:

- All of them are affine in the activations, as in the paper's networks. The logits are s B + A, with B linear
  in the activations, and A constant or from other paths. The prediction is argmax(B + A / s): the curve shows
  the output bias and nothing else.
- A normalisation follows and divides the scale out again. The logits don't change, except at scales so small
  that the eps of the normalisation counts.
- Neither. A scale sweep is then a measurement.

The audit measures what it concludes. It measures homogeneity on real pre-activations, in addition to the
entry in the registry of activations, and compares predictions item by item with those from algebra. In the
paper's networks the operations after the layer are known as a formula. In other models their effect is
measured. The tolerance for equal logits is then relative to the worth of the layer: the change of the logits
if each example gets another example's values at the layer. With a fixed tolerance, a layer that hardly
matters would seem to be normalised. The audit also requires an operation after the layer that divides by a
quantity that depends on the layer: constant logits alone may come from a later function that is saturated on
these data.
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
from nearzero.support.display import Displayed
from nearzero.support.words import number_of

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Form", "ScaleAudit", "as_scales", "comparison_counts", "curves", "scale_audit", "scale_audit_of"]

Form = Literal["affine", "normalised", "free"]
Doubles = npt.NDArray[np.float64]

CONSTANT = 0.01  # the tolerance for constant logits, as a share of the worth of the layer
HALF = 0.5  # logits that stay the same from this scale upwards are called constant
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
}  # the meaning of each formula for a sweep
COUNTS = ("differences", "unexplained", "near_ties")
# the fields of each block that the audit keeps
KEPT = ("apart", "sizes", "terms", "moved", "worth", "homogeneity", "rounding", "constant")


@dataclass(frozen=True, eq=False)
class ScaleAudit(Displayed):
    """The result of `scale_audit`: the effect of a scale by algebra, and the agreement with measurements.

    Attributes:
        backend: the backend that computed the audit, "two-layer" or "model".
        layer: the name of the layer; "hidden" in a two-layer network.
        activation: the name of the activation; None if none follows the layer.
        homogeneous: True if act(s z) = s act(z) on these data, s > 0, or if there is no activation.
        homogeneity_error: the greatest |act(s z) - s act(z)|, as a share of the greatest s |act(z)|, over
            five scales.
        registered: True if the activation is homogeneous by the registry of activations; None if it isn't in
            the registry.
        form: "affine", the logits are s B + A; "normalised", a later normalisation takes the scale out;
            "free", neither.
        formula: the expression whose argmax is the prediction if the form is affine: "W2 a + b2 / s" in a
            two-layer network, "B + A / s" in others. A term that is the same for all classes is left out.
        logit_error: the greatest deviation of the logits from s B + A, as a share of the greatest logit.
        normalisations: the operations after the layer that may take its scale out.
        constant_from: the least level from which upwards the logits stay as they are at s = 1, within 1 % of
            the worth of the layer (the change that another example's values would make). NaN if there is no
            such level, or if it isn't measured, as in a two-layer network.
        curves: a Dataset on `level`. `predicted_agreement` and `measured_agreement` are the shares of items
            (examples, or tokens that count) whose prediction is the unperturbed one; with labels there are
            `predicted_accuracy` and `measured_accuracy`. Numbers of items: `differences`, where the predicted
            and the measured prediction differ; `near_ties`, where the two greatest predicted logits differ by
            less than rounding; `unexplained`, the differences that aren't near ties. The predicted prediction
            is argmax(s B + A); for a normalisation, it is the prediction at s = 1; if the form is free,
            argmax(s B + A) serves for comparison.

    Example:
        >>> import nearzero as nz
        >>> network = nz.TwoLayer([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.5], "relu")
        >>> audit = nz.scale_audit(network, [[-2.0], [-1.0], [0.25], [1.0]], levels=[0.25, 1.0, 4.0])
        >>> audit.form, audit.formula, audit.activation, audit.homogeneous
        ('affine', 'W2 a + b2 / s', 'relu', True)
        >>> audit.curves.measured_agreement.values.tolist()
        [0.75, 1.0, 0.75]
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
        """Return True if a scale sweep of this layer is flat by construction."""
        return self.form != "free"

    @property
    def items(self) -> int:
        """Return the number of examples, or of tokens that count, in the audit."""
        return int(self.curves.attrs["items"])

    @property
    def greatest_difference(self) -> int:
        """Return the greatest number of differences at a single level, near ties included."""
        return int(self.curves.differences.max())

    @property
    def unexplained(self) -> int:
        """Return the greatest number of differences at a single level, near ties excluded."""
        return int(self.curves.unexplained.max())

    @property
    def words(self) -> str:
        """Return the finding as a short sentence."""
        if self.form == "affine":
            return f"flat by construction: the prediction is argmax({self.formula})"
        if self.form == "normalised":
            return "flat by construction: a normalisation follows"
        return "not flat by construction"

    @property
    def meaning(self) -> str:
        """Return what the finding means for the interpretation of a scale sweep of this layer."""
        if self.form == "affine":
            return f"{AFFINE[self.formula]} {NOTHING}"
        threshold = f"a scale of {self.constant_from:.2g}"
        if self.form == "normalised":
            shows = self.constant_from > self.curves.level[0]
            below = f"; below {threshold} its eps shows" if shows else ""
            return f"A normalisation divides the scale of this layer out again{below}. {NOTHING}"
        constant = self.constant_from <= HALF
        observed = f" On these data the logits stay the same from {threshold} on." if constant else ""
        return (
            "Algebra doesn't decide the scale sweep of this layer: how flat the curve is, is a finding about this "
            f"network and these data.{observed}"
        )

    @property
    def comparison(self) -> str:
        """Return a sentence that compares the measured predictions with those from algebra."""
        curves = self.curves
        scope = f"of {self.items:,} at each of {number_of(curves.sizes['level'], 'level')}"
        ties = f"up to {int(curves.near_ties.max()):,} nearly tie"
        if not self.greatest_difference:
            return f"{scope}, none is predicted otherwise than algebra says ({ties})"
        sentence = (
            f"{scope}, up to {self.greatest_difference:,} are predicted otherwise than algebra says, "
            f"{self.unexplained:,} that don't nearly tie ({ties})"
        )
        if self.form != "normalised" or not self.constant_from > curves.level[0]:
            return sentence
        above = int(curves.unexplained.sel(level=slice(self.constant_from, None)).max())
        return f"{sentence}; from a scale of {self.constant_from:.2g} on, up to {above:,}"


def comparison_counts(
    expected: npt.NDArray[np.floating],
    slack: npt.NDArray[np.floating],
    measured: npt.NDArray[np.integer],
    unperturbed: npt.NDArray[np.integer],
    labels: npt.NDArray[np.integer] | None,
) -> dict[str, int]:
    """Compare the predictions from algebra with the measured ones at one level.

    Args:
        expected: (n, K), the logits from algebra.
        slack: (n,), the difference up to which two logits nearly tie.
        measured: (n,), the measured predictions.
        unperturbed: (n,), the predictions without perturbation.
        labels: (n,), or None.

    Returns:
        The counts of `ScaleAudit.curves`, by name.
    """
    predicted = expected.argmax(axis=1)
    best = np.take_along_axis(expected, predicted[:, None], axis=1)[:, 0]
    near = ((best[:, None] - expected) <= slack[:, None]).sum(axis=1) > 1
    differ = predicted != measured
    counted = {
        "differences": differ,
        "unexplained": differ & ~near,
        "near_ties": near,
        "predicted_agreement": predicted == unperturbed,
        "measured_agreement": measured == unperturbed,
    }
    if labels is not None:
        counted |= {"predicted_accuracy": predicted == labels, "measured_accuracy": measured == labels}
    return {name: int(np.count_nonzero(items)) for name, items in counted.items()}


def curves(levels: Doubles, blocks: Sequence[Sequence[Mapping[str, int]]], items: int) -> xr.Dataset:
    """Return `ScaleAudit.curves` from the counts of each block of items at each level."""
    data = {}
    for name in blocks[0][0]:
        counts = np.sum([[level[name] for level in block] for block in blocks], axis=0, dtype=np.int64)
        data[name] = ("level", counts if name in COUNTS else counts / max(items, 1))
    return xr.Dataset(data, {"level": levels}, {"items": items})


def as_scales(levels: npt.ArrayLike | None) -> Doubles:
    """Return the levels of an audit, ascending; the 100 levels of the scale family if None.

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
    """Compare a layer's scale sweep, item by item, with the predictions that follow from algebra.

    With a homogeneous activation, the logits of a two-layer network under a scale s of the live units are
    s B + A. Here B = W2 a over the live units, and A = b2 plus the contribution of dead units. Both are
    computed from z in float64. In other models B and A are determined from the logits at the least and the greatest
    scale, and compared with the logits at all scales between.

    Args:
        network: a `TwoLayer`, or any `torch.nn.Module`.
        x: inputs (N, D), or any data that `nz.probe` takes.
        y: the labels, (N,), if the inputs are an array; needed for the accuracies.
        levels: the scales, at least three; the 100 levels of the scale family by default.
        threads, memory: as in `nz.sweep`.
        options: the layer and other settings of models that aren't a `TwoLayer`, see
            `nearzero.evaluators.select.ModelOptions`.

    Raises:
        InputError: as `nz.sweep` and `nz.probe`; levels that aren't scales; logits that aren't finite.

    Example:
        >>> import nearzero as nz
        >>> network = nz.TwoLayer([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.5], "relu")
        >>> audit = nz.scale_audit(network, [[-2.0], [-1.0], [0.25], [1.0]])
        >>> print(audit.words)
        flat by construction: the prediction is argmax(W2 a + b2 / s)
        >>> audit.flat, audit.unexplained  # no prediction differs from algebra, except near ties
        (True, 0)
    """
    scales = as_scales(levels)
    with open_evaluator(
        network, x, y, options, metrics="agreement", threads=threads, memory=memory
    ) as evaluator:
        return scale_audit_of(evaluator, scales)


def scale_audit_of(evaluator: LayerEvaluator, scales: Doubles) -> ScaleAudit:
    """Return the result of `scale_audit` for an evaluator that is already open."""

    def take(block: ScaledBlock) -> dict[str, Any]:
        affine, constant = [], []
        for place, measured in enumerate(block.measured):
            observed = measured, block.unperturbed, block.labels
            affine.append(comparison_counts(block.expected(place), block.slack(place), *observed))
            if block.plain is not None:
                slack = block.rounding * np.abs(block.plain).max(axis=1)
                constant.append(comparison_counts(block.plain, slack, *observed))
        kept = {name: getattr(block, name) for name in KEPT}
        return kept | {"affine": affine, "constant_logits": constant, "items": len(block.unperturbed)}

    blocks = evaluator.gather_scaled(scales, take)
    parts = {name: [block[name] for block in blocks] for name in blocks[0]}
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
    if normalisations:  # the logits aren't affine, even if this layer matters too little to show it
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
        backend=evaluator.backend,
        layer=evaluator.layer,
        activation=evaluator.activation,
        homogeneous=homogeneity <= rounding,
        homogeneity_error=homogeneity,
        registered=None if registered is None else registered.homogeneous,
        form=form,
        formula=formula,
        logit_error=error,
        normalisations=normalisations,
        constant_from=constant_from,
        curves=curves(scales, parts["constant_logits" if form == "normalised" else "affine"], items),
    )


def _formula(scales: Doubles, terms: Doubles, rounding: float, *, matters: bool) -> str:
    """Return the expression whose argmax is the prediction.

    Args:
        scales: the scales, ascending.
        terms: the greatest of |B| and the greatest of |A|.
        rounding: the rounding error, as a share of the greatest logit.
        matters: True if the values of the layer change the logits.

    Returns:
        A key of `AFFINE`; "" if the layer matters although B is 0: the logits then aren't s B + A.
    """
    slope, rest = terms
    if scales[-1] * slope <= rounding * rest:
        return "" if matters else "A"
    return "B" if rest <= rounding * scales[0] * slope else "B + A / s"


def _constant_from(levels: Doubles, moved: Doubles) -> float:
    """Return the least level from which upwards logits move less than the tolerance, or NaN."""
    far = np.flatnonzero(~(moved <= CONSTANT))
    first = int(far[-1]) + 1 if far.size else 0
    return float(levels[first]) if first < len(levels) else float("nan")
