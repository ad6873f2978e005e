"""The invariance audit for a layer of any PyTorch model; what it is, and what comes out, is in `nearzero.invariance`.

What follows the layer isn't known as a formula, so it's found by measurement. All logits of an item are centred, as
a constant for all classes changes no prediction (a model may give log-probabilities). From those at the least and
the greatest level B and A are had, and with them logits s B + A for all levels between. For a normalisation, the
logits at each level are held against those at s = 1. How far they may be apart is counted in what the layer is worth:
how much logits change if each example gets another's values there. Otherwise a layer that hardly matters would seem
to be normalised. And an operation that divides by what depends on the layer must follow, since a later function may
as well be saturated on these data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nearzero.activations import ACTIVATIONS
from nearzero.errors import InputError
from nearzero.invariance import HALF, Form, ScaleAudit, Tally, as_scales, homogeneity_error
from nearzero.probing.batches import Batch, Prepare
from nearzero.probing.items import Items
from nearzero.probing.layer import Layer
from nearzero.probing.layers import select_layers
from nearzero.probing.model import Model, Output, as_module, untouched
from nearzero.probing.passes import Change, Method, Passes
from nearzero.probing.probe import _look, _room, _source
from nearzero.probing.ranges import layer_ranges
from nearzero.probing.request import Request
from nearzero.probing.suffix import Recorder, Suffix
from nearzero.probing.taps import Tap, tapped

__all__ = ["scale_audit"]

Doubles = npt.NDArray[np.float64]

# As a share of the greatest logit, or activation: what rounding may be, by bytes a number; fewer bytes, more rounding.
ROUNDING = {8: 1e-5, 4: 1e-5, 2: 5e-2}
CONSTANT = 0.01  # of what another example's values would change
FEW = 4  # examples on which what follows the layer is looked at
NORMALISING = ("native_layer_norm", "native_group_norm", "rms_norm", "_fused_rms_norm", "rsqrt")


def scale_audit(
    model: object,
    data: Any,
    layer: str | Layer,
    *,
    levels: npt.ArrayLike | None = None,
    activation: str | Callable[[Tensor], Tensor] | None = None,
    unit_axis: int | None = None,
    prepare: Prepare | None = None,
    output: Output | None = None,
    causal: bool | None = None,
    batch_size: int | None = None,
    memory: int | str | None = None,
    method: Method = "auto",
) -> ScaleAudit:
    """Find what algebra says of a layer's scale sweep, and hold the sweep against it, item by item.

    Args:
        model: a `torch.nn.Module`. It's run in evaluation mode, and afterwards is bitwise as it was.
        data: as in `nz.probe`; targets are optional.
        layer: its name, as `nz.layers` lists it.
        levels: the scales; the family's 100 unless given.
        activation, unit_axis, prepare, output, causal, batch_size, memory, method: as in `nz.probe`.

    Raises:
        InputError: as `nz.probe`; a name that stands for several layers; levels that aren't scales.
    """
    scales = as_scales(levels)
    request = Request(
        layers=layer, families="scale", activation=activation, unit_axis=unit_axis, prepare=prepare,
        output=output, causal=causal, batch_size=batch_size, memory=memory, method=method,
    )  # fmt: skip
    module = as_module(model)
    with untouched(module) as before:
        known = Model(module, before, output)
        source = _source(known, data, request)
        found = _look(known, [source])
        chosen = select_layers(known, found, request.wanted)
        if len(chosen) > 1:
            names = ", ".join(each.name for each in chosen)
            raise InputError(f"an audit is of one layer; {layer!r} stands for {len(chosen)}: {names}")
        place, room = request.told(chosen[0]), _room(found, request.limit)
        (ranges,) = layer_ranges(known, [place], source, room)
        audit = _Audit(
            known, place, scales, ranges.live, known.is_causal if causal is None else causal, method
        )
        for batch in source:
            room.each(batch, audit.take)
    return audit.result()


@dataclass(eq=False)
class _Part:
    """What some items came to.

    Attributes:
        affine, constant: what two predictions of the curve are worth: argmax(s B + A), and that at s = 1.
        apart, sizes: (L,), the greatest departure of logits from s B + A, and the greatest logit.
        squares: (L,), the sum over items and classes of the squared departure from the logits at s = 1.
        worth: the same for the logits with another example's values in the layer.
        terms: the greatest of B, and of A.
        homogeneity: as `homogeneity_error`.
        rounding: as a share of the greatest logit.
    """

    affine: Tally
    constant: Tally
    apart: Doubles
    sizes: Doubles
    squares: Doubles
    worth: float = 0.0
    terms: Doubles = field(default_factory=lambda: np.zeros(2))
    homogeneity: float = 0.0
    rounding: float = 0.0

    @classmethod
    def empty(cls, levels: Doubles) -> _Part:
        """Of no items."""
        apart, sizes, squares = np.zeros((3, len(levels)))
        return cls(Tally(levels), Tally(levels), apart, sizes, squares)

    def add(self, other: _Part) -> None:
        """Add what others came to."""
        self.affine.add(other.affine)
        self.constant.add(other.constant)
        for name in ("apart", "sizes", "terms"):
            np.maximum(getattr(self, name), getattr(other, name), out=getattr(self, name))
        self.squares += other.squares
        self.worth += other.worth
        self.homogeneity = max(self.homogeneity, other.homogeneity)
        self.rounding = max(self.rounding, other.rounding)


class _Audit:
    """The audit of one layer, gathered block by block."""

    def __init__(
        self,
        model: Model,
        layer: Layer,
        levels: Doubles,
        live: npt.NDArray[np.bool_],
        causal: bool,
        method: Method,
    ) -> None:
        self._model, self._layer, self._levels, self._live, self._causal = model, layer, levels, live, causal
        self._passes = Passes(model, layer, "pre", method)
        self._total = _Part.empty(levels)
        self._normalising: tuple[str, ...] | None = None

    def take(self, batch: Batch) -> None:
        """Look at one more block of examples."""
        if self._normalising is None:
            self._normalising = _normalising(self._model, self._layer, next(batch.blocks(FEW)))
        self._total.add(self._part(batch))

    def _part(self, batch: Batch) -> _Part:
        levels, part = self._levels, _Part.empty(self._levels)
        changed = self._passes.on(batch)
        items = Items.of(batch, changed.logits, self._causal)
        part.rounding = ROUNDING[min(changed.logits.dtype.itemsize, changed.values.dtype.itemsize)]
        if self._layer.act is not None:
            part.homogeneity = homogeneity_error(self._layer.act, changed.values)
        # the two ends first: what comes between is held against them
        order = [0, len(levels) - 1, *range(1, len(levels) - 1)]
        logits = changed.each([_of_another, *(self._scaled(levels[place]) for place in order)])
        plain, other, first, last = (
            _centred(items, each) for each in (changed.logits, *(next(logits) for _ in range(3)))
        )
        slope = (last - first) / (levels[-1] - levels[0])
        rest = first - levels[0] * slope
        part.terms = np.array([np.abs(each).max(initial=0.0) for each in (slope, rest)])
        part.worth = float(np.square(other - plain).sum())
        between = (_centred(items, each) for each in logits)
        for place, each in zip(order, (first, last, *between), strict=True):
            self._compare(part, place, each, plain, slope, rest, _labels(items, plain.shape[1]))
        part.affine.items = part.constant.items = len(items)
        return part

    def _compare(
        self,
        part: _Part,
        place: int,
        logits: Doubles,
        plain: Doubles,
        slope: Doubles,
        rest: Doubles,
        labels: npt.NDArray[np.int64] | None,
    ) -> None:
        """Hold the logits at one level against both predictions of them."""
        s, measured, unperturbed = self._levels[place], logits.argmax(axis=1), plain.argmax(axis=1)
        expected = s * slope + rest
        part.apart[place] = np.abs(logits - expected).max(initial=0.0)
        part.sizes[place] = np.abs(logits).max(initial=0.0)
        part.squares[place] = np.square(logits - plain).sum()
        terms = s * np.abs(slope).max(axis=1) + np.abs(rest).max(axis=1)
        part.affine.compare(place, expected, measured, part.rounding * terms, unperturbed, labels)
        part.constant.compare(
            place, plain, measured, part.rounding * np.abs(plain).max(axis=1), unperturbed, labels
        )

    def _scaled(self, level: float) -> Change:
        """The live units' values times a level, computed in float32 at least."""
        factors = np.where(self._live, level, 1.0)

        def change(values: Tensor) -> Tensor:
            exact = torch.float64 if values.dtype == torch.float64 else torch.float32
            shape = [1] * values.ndim
            shape[self._layer.axis_of(values)] = len(factors)
            factor = torch.from_numpy(factors).to(exact).to(values.device).view(shape)
            return (values * factor).to(values.dtype)

        return change

    def result(self) -> ScaleAudit:
        """What all items came to."""
        total, layer = self._total, self._layer
        with np.errstate(divide="ignore", invalid="ignore"):
            error = float(np.nanmax(np.where(total.sizes > 0, total.apart / total.sizes, 0.0)))
            moved = np.sqrt(total.squares / total.worth)
        constant_from = _constant_from(self._levels, moved)
        form, formula = self._form(error, constant_from)
        registered = ACTIVATIONS.get(layer.activation or "")
        return ScaleAudit(
            layer=layer.name, activation=layer.activation, homogeneous=total.homogeneity <= total.rounding,
            homogeneity_error=total.homogeneity,
            registered=None if registered is None else registered.homogeneous, form=form,
            formula=formula, logit_error=error, normalisations=self._normalising or (),
            constant_from=constant_from,
            curves=(total.constant if form == "normalised" else total.affine).curves(),
        )  # fmt: skip

    def _form(self, error: float, constant_from: float) -> tuple[Form, str]:
        """What the logits are as functions of the scale, and the formula of the prediction if they're affine."""
        total = self._total
        if (
            self._normalising
        ):  # so they aren't affine, even where this layer hardly matters and it can't be seen
            return ("normalised" if constant_from <= HALF else "free"), ""
        if max(total.homogeneity, error) > total.rounding:
            return "free", ""
        slope, rest = total.terms
        if self._levels[-1] * slope <= total.rounding * rest:
            matters = np.sqrt(total.worth / max(total.affine.items, 1)) > total.rounding * total.sizes.max()
            return ("free", "") if matters else ("affine", "A")
        return "affine", "B" if rest <= total.rounding * self._levels[0] * slope else "B + A / s"


def _of_another(values: Tensor) -> Tensor:
    """Each example's values in the place of the next one's; of a single example, those of another place in it."""
    return values.roll(1, 0) if values.shape[0] > 1 else values.flip(tuple(range(1, values.ndim)))


def _centred(items: Items, logits: Tensor) -> Doubles:
    """(n, K): the logits of the items in float64, less their mean over classes.

    Raises:
        InputError: logits that aren't finite.
    """
    rows = items.logits(logits).cpu().double().numpy()
    if not np.isfinite(rows).all():
        raise InputError(
            "an audit needs finite logits, and some are infinite or NaN; output=... can leave these classes out"
        )
    return np.asarray(rows - rows.mean(axis=1, keepdims=True))


def _labels(items: Items, classes: int) -> npt.NDArray[np.int64] | None:
    """(n,): the targets, if they're classes."""
    if items.target is None or items.target.is_floating_point() or items.target.ndim > 1:
        return None
    items.check_classes(classes)
    return np.asarray(items.target.cpu().numpy(), dtype=np.int64)


def _constant_from(levels: Doubles, moved: Doubles) -> float:
    """The least level from which on logits have moved no further than they may; NaN if there is none."""
    far = np.flatnonzero(~(moved <= CONSTANT))
    first = int(far[-1]) + 1 if far.size else 0
    return float(levels[first]) if first < len(levels) else float("nan")


def _normalising(model: Model, layer: Layer, batch: Batch) -> tuple[str, ...]:
    """The operations after a layer that divide by what depends on it; none if its suffix can't be recorded."""
    recorder = Recorder()
    in_place = layer.place("pre")[0].in_place
    tap = Tap(layer, "pre", lambda values: recorder.cut(values, in_place=in_place))
    try:
        with recorder.running(), tapped(model.module, [tap]):
            logits = model.logits(batch)
        return tuple(dict.fromkeys(_normalisers(recorder.finish(logits))))
    except Exception:  # an operation that can't be recorded
        return ()


def _normalisers(suffix: Suffix) -> list[str]:
    names = []
    for step in suffix.steps:
        operation: Any = step.function
        name = operation._schema.name.removeprefix("aten::")
        by_dependent = name in ("div", "div_") and any(place == 1 for place, _ in step.places)
        # of a batch or instance, not those that were kept: then it's affine
        own_statistics = "batch_norm" in name and len(step.arguments) > 5 and step.arguments[5] is True
        if name in NORMALISING or by_dependent or own_statistics:
            names.append(name)
    return names
