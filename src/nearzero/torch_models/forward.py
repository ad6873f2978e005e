"""Forward passes with a layer's values changed, by one of two ways that give equal logits.

- *suffix*: one full pass on a batch is recorded, for all layers at once, and only what comes after a layer runs
  again.
- *full*: the whole model runs again, with a hook at the layer.

Before the first batch both ways are tried on a few of its examples; where they don't agree, or a value of the
layer decides in Python what the model does, the full pass is taken and the result says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from nearzero.errors import InputError
from nearzero.perturbations.perturbation import Side
from nearzero.torch_models.batches import Batch
from nearzero.torch_models.data import is_out_of_memory
from nearzero.torch_models.hooks import LayerHook, hooked
from nearzero.torch_models.layer import Layer
from nearzero.torch_models.replay import Recorder, Suffix
from nearzero.torch_models.state import Model

__all__ = ["Change", "Changed", "Method", "Passes", "SharedPasses", "visited"]

Method = Literal["auto", "suffix", "full"]
Change = Callable[[Tensor], Tensor]
FEW = 4  # examples on which both ways are tried


@dataclass(frozen=True, eq=False)
class Changed:
    """One batch, whose logits can be had with the layer's values changed.

    Attributes:
        values: of the layer, unchanged.
        logits: of the model, unchanged.
        run: from a change to the logits under it. A change is a function of the values that doesn't write to
            them; it gives new ones, which the suffix may write into.
    """

    values: Tensor
    logits: Tensor
    run: Callable[[Change], Tensor]


class Passes:
    """The passes of one model with one layer changed, batch after batch.

    Args:
        model: within `nearzero.torch_models.state.untouched`.
        layer, side: what is changed.
        method: "suffix" and "full" as above; "auto" takes the first where both agree.

    Attributes:
        model, layer, side: as given.
        method: which way is taken, once a batch was run.
        reason: why it's the full pass although the suffix was to be tried; else "".
        tried: whether both ways were held against each other.
    """

    def __init__(self, model: Model, layer: Layer, side: Side, method: Method = "auto") -> None:
        self.model, self.layer, self.side = model, layer, side
        self.method: Method = method
        self.reason = ""
        self.tried = method == "full"
        self._insists = method == "suffix"

    def on(self, batch: Batch) -> Changed:
        """Return the passes on one batch.

        Raises:
            InputError: the layer isn't reached, or the suffix was asked for and can't be taken.
        """
        ((_, changed),) = SharedPasses([self]).on(batch)
        return changed

    def suffix(self, batch: Batch) -> Suffix:
        """Return what comes after the layer in one pass on a batch, whether it can be trusted or not."""
        ((_, suffix, _),) = SharedPasses([self]).recorded(batch, [self])
        return suffix

    def choose(self, reason: str) -> None:
        """Take the suffix, unless there is a reason against it.

        Raises:
            InputError: the suffix was asked for.
        """
        if reason and self._insists:
            raise InputError(f"layer {self.layer.name!r} can't be cut: {reason}; use method='auto'")
        self.method, self.reason, self.tried = "full" if reason else "suffix", reason, True

    def logits(self, batch: Batch, change: Change) -> Tensor:
        """Return the logits of one full pass with the layer changed."""
        return visited(self.model, batch, [LayerHook(self.layer, self.side, change)])

    def whole(self, batch: Batch) -> Changed:
        """Return the passes on one batch, each a full one."""
        seen: list[Tensor] = []
        hook = LayerHook(self.layer, self.side, lambda values: seen.append(values.clone()))
        logits = visited(self.model, batch, [hook])
        return Changed(seen[0], logits, partial(self.logits, batch))

    def doubt(self, batch: Batch, suffix: Suffix) -> str:
        """Return why a suffix can't be trusted, by the logits of one change on its batch; "" if it can."""
        if suffix.escape:
            return suffix.escape
        full = self.logits(batch, _moved)
        try:
            by_suffix = suffix.run(_moved)
        except Exception as error:  # an operation that can't be repeated
            if is_out_of_memory(error):
                raise
            return _unrepeatable(error)
        slack = 0.0
        if batch.inputs and full.device.type != "cpu":  # sums there may have no fixed order
            again = self.logits(batch, _moved)
            slack = min(2 * _distance(full, again), 1e-3 * float(full.abs().max()))
        apart = _distance(by_suffix, full)
        if apart <= slack:
            return ""
        why = f", perhaps since {suffix.random} draws random numbers" if suffix.random else ""
        return f"its suffix gives other logits than the full pass (by {apart:.3g}{why})"


class SharedPasses:
    """The passes of one model with several layers changed, one at a time, whose suffixes share recordings.

    One recording a batch serves all layers, unless it takes more memory than it may: then fewer layers share one.

    Args:
        several: of the same model.
        limit: bytes that a recording may take which is of more than one layer.
    """

    def __init__(self, several: Sequence[Passes], limit: float = float("inf")) -> None:
        self._several, self._limit = several, limit
        self._most = len(several)  # that share a recording
        self._apart: set[Passes] = set()  # those that share none

    def on(self, batch: Batch) -> Iterator[tuple[Passes, Changed]]:
        """Yield each of them with its passes on one batch; they're to be used before the next is asked for.

        Raises:
            InputError: as `Passes.on`.
        """
        untried = [each for each in self._several if not each.tried]
        if untried:
            for passes, reason in self._try(batch, untried).items():
                passes.choose(reason)
        by_suffix = [each for each in self._several if each.method == "suffix"]
        for passes, suffix, logits in self.recorded(batch, by_suffix):
            if suffix.escape:
                passes.choose(suffix.escape)
            else:
                yield passes, Changed(suffix.value, logits, suffix.run)
            del suffix  # so that it's gone when the next is made
        for passes in self._several:
            if passes.method == "full":
                yield passes, passes.whole(batch)

    def recorded(self, batch: Batch, several: Sequence[Passes]) -> Iterator[tuple[Passes, Suffix, Tensor]]:
        """Yield each of several with its suffix and the logits of the pass, many recorded at a time."""
        rest = list(several)
        while rest:
            together = [each for each in rest if each not in self._apart][: self._most] or rest[:1]
            alone = len(together) == 1
            recorder = Recorder(float("inf") if alone else self._limit)
            with recorder.running():
                logits = visited(together[0].model, batch, [_cutting(recorder, each) for each in together])
            suffixes = recorder.suffixes(logits)
            if recorder.overflowed:
                self._most = (len(together) + 1) // 2
            elif recorder.entangled and not alone:
                self._apart |= {each for each in together if each in recorder.entangled}
            else:
                for each in together:
                    rest.remove(each)
                    yield each, suffixes.pop(each), logits

    def _try(self, batch: Batch, several: Sequence[Passes]) -> dict[Passes, str]:
        """Return why the suffix of each can't be trusted, as seen on a few examples; "" if it can."""
        few = next(batch.blocks(FEW))
        try:
            return self._doubts(few, several)
        except Exception:  # some models take batches of one size only
            if few is batch:
                raise
            return self._doubts(batch, several)

    def _doubts(self, batch: Batch, several: Sequence[Passes]) -> dict[Passes, str]:
        """Return the same for one batch; those that can be trusted only alone will share no recording."""
        try:
            doubts = {each: each.doubt(batch, suffix) for each, suffix, _ in self.recorded(batch, several)}
        except Exception as error:  # an operation that can't be recorded, or the model itself
            if is_out_of_memory(error):
                raise
            if len(several) == 1:
                several[0].logits(batch, _moved)
                return {several[0]: _unrepeatable(error)}
            doubts = dict.fromkeys(several, "unknown")
        if len(several) > 1:
            for passes in [each for each, doubt in doubts.items() if doubt]:
                doubts |= self._doubts(batch, [passes])
                if not doubts[passes]:
                    self._apart.add(passes)
        return doubts


def _moved(values: Tensor) -> Tensor:
    """Return other values, as both ways are tried on."""
    return 0.75 * values + 0.25 * values.abs().mean()


def _unrepeatable(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else repr(error)
    return f"its operations can't be repeated ({text})"


def _cutting(recorder: Recorder, passes: Passes) -> LayerHook:
    """Return a hook that cuts a recording at a layer."""
    in_place = passes.layer.place(passes.side)[0].in_place
    return LayerHook(
        passes.layer, passes.side, lambda values: recorder.cut(values, in_place=in_place, name=passes)
    )


def visited(model: Model, batch: Batch, hooks: Sequence[LayerHook]) -> Tensor:
    """Return the logits of one full pass with visitors at some layers.

    Raises:
        InputError: one of the layers isn't reached.
    """
    with hooked(model.module, hooks):
        logits = model.logits(batch)
    missed = [hook.layer.name for hook in hooks if not hook.seen]
    if missed:
        raise InputError(
            f"layer {missed[0]!r} isn't reached on every batch; {batch.describe()} goes another way, so leave the "
            "layer out"
        )
    return logits


def _distance(one: Tensor, other: Tensor) -> float:
    """The greatest difference; infinite where one of two isn't a number or the shapes differ."""
    if one.shape != other.shape:
        return float("inf")
    if not one.numel():
        return 0.0
    equal = (one == other) | (one.isnan() & other.isnan())
    return float(torch.where(equal, 0, (one - other).abs().nan_to_num(nan=torch.inf)).max())
