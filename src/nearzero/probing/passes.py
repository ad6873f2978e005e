"""Forward passes with a layer's values changed, by one of two ways that give equal logits.

- *suffix*: one full pass on a batch is recorded from the layer on, and only what comes after it runs again.
- *full*: the whole model runs again, with a hook at the layer.

Before the first batch both ways are tried on a few of its examples; where they don't agree, or a value of the
layer decides in Python what the model does, the full pass is taken and the result says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from nearzero.errors import InputError
from nearzero.perturbation import Side
from nearzero.probing.batches import Batch
from nearzero.probing.layer import Layer
from nearzero.probing.model import Model
from nearzero.probing.source import is_out_of_memory
from nearzero.probing.suffix import Recorder, Suffix
from nearzero.probing.taps import Tap, tapped

__all__ = ["Change", "Changed", "Method", "Passes"]

Method = Literal["auto", "suffix", "full"]
Change = Callable[[Tensor], Tensor]
FEW = 4  # examples on which both ways are tried


@dataclass(frozen=True, eq=False)
class Changed:
    """One batch, whose logits can be had with the layer's values changed.

    Attributes:
        values: of the layer, unchanged.
        logits: of the model, unchanged.
        each: from changes, functions of the values that don't write to them, to the logits under each.
    """

    values: Tensor
    logits: Tensor
    each: Callable[[Iterable[Change]], Iterator[Tensor]]


class Passes:
    """The passes of one model with one layer changed, batch after batch.

    Args:
        model: within `nearzero.probing.model.untouched`.
        layer, side: what is changed.
        method: "suffix" and "full" as above; "auto" takes the first where both agree.

    Attributes:
        method: which way is taken, once a batch was run.
        reason: why it's the full pass although the suffix was to be tried; else "".
    """

    def __init__(self, model: Model, layer: Layer, side: Side, method: Method = "auto") -> None:
        self.method: Method = method
        self.reason = ""
        self._insists, self._tried = method == "suffix", False
        self._model, self._layer, self._side = model, layer, side

    def on(self, batch: Batch) -> Changed:
        """The passes on one batch.

        Raises:
            InputError: the layer isn't reached, or the suffix was asked for and can't be taken.
        """
        if not self._tried and self.method != "full":
            self._choose(self._try(batch))
            self._tried = True
        if self.method == "suffix":
            recorder, logits = self._record(batch)
            if not recorder.escape:
                return _by_suffix(recorder.finish(logits), logits)
            self._choose(recorder.escape)
        return self._whole(batch)

    def _choose(self, reason: str) -> None:
        """The suffix, unless there is a reason against it."""
        if reason and self._insists:
            raise InputError(f"layer {self._layer.name!r} can't be cut: {reason}; use method='auto'")
        self.method, self.reason = ("full", reason) if reason else ("suffix", "")

    def _try(self, batch: Batch) -> str:
        """Why the suffix can't be trusted, as seen on a few examples; "" if it can."""
        few = next(batch.blocks(FEW))
        try:
            return self._doubt(few)
        except Exception:  # some models take batches of one size only
            if few is batch:
                raise
            return self._doubt(batch)

    def _doubt(self, batch: Batch) -> str:
        def change(values: Tensor) -> Tensor:
            return 0.75 * values + 0.25 * values.abs().mean()

        full = self._pass(batch, change)
        try:
            recorder, logits = self._record(batch)
            if recorder.escape:
                return recorder.escape
            by_suffix = recorder.finish(logits).run(change)
        except Exception as error:  # an operation that can't be recorded or repeated
            if is_out_of_memory(error):
                raise
            return (
                f"its operations can't be repeated ({str(error).splitlines()[0] if str(error) else error!r})"
            )
        slack = 0.0
        if batch.inputs and full.device.type != "cpu":  # sums there may have no fixed order
            slack = min(2 * _distance(full, self._pass(batch, change)), 1e-3 * float(full.abs().max()))
        apart = _distance(by_suffix, full)
        if apart <= slack:
            return ""
        why = f", perhaps since {recorder.random} draws random numbers" if recorder.random else ""
        return f"its suffix gives other logits than the full pass (by {apart:.3g}{why})"

    def _record(self, batch: Batch) -> tuple[Recorder, Tensor]:
        """A full pass, recorded from the layer on, and its logits."""
        recorder = Recorder()
        in_place = self._layer.place(self._side)[0].in_place
        with recorder.running():
            logits = self._pass(batch, lambda values: recorder.cut(values, in_place=in_place))
        return recorder, logits

    def _whole(self, batch: Batch) -> Changed:
        """By full passes."""
        seen: list[Tensor] = []
        logits = self._pass(batch, lambda values: seen.append(values.clone()))
        return Changed(seen[0], logits, lambda changes: (self._pass(batch, change) for change in changes))

    def _pass(self, batch: Batch, visit: Callable[[Tensor], Any]) -> Tensor:
        """The logits of one full pass with a visitor at the layer."""
        tap = Tap(self._layer, self._side, visit)
        with tapped(self._model.module, [tap]):
            logits = self._model.logits(batch)
        if not tap.seen:
            raise InputError(
                f"layer {self._layer.name!r} isn't reached on every batch; {batch.describe()} goes another way, "
                "so leave the layer out"
            )
        return logits


def _by_suffix(suffix: Suffix, logits: Tensor) -> Changed:
    return Changed(suffix.value, logits, lambda changes: (suffix.run(change) for change in changes))


def _distance(one: Tensor, other: Tensor) -> float:
    """The greatest difference; infinite where one of two isn't a number or the shapes differ."""
    if one.shape != other.shape:
        return float("inf")
    if not one.numel():
        return 0.0
    equal = (one == other) | (one.isnan() & other.isnan())
    return float(torch.where(equal, 0, (one - other).abs().nan_to_num(nan=torch.inf)).max())
