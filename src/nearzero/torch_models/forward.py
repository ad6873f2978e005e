"""Forward passes with a layer's values changed, in one of two ways that give equal logits.

- *suffix*: one full pass on a batch is recorded, for all layers at once, and only the operations after a
  layer run again.
- *full*: the whole model runs again, with a hook at the layer.

Before the first batch, both ways run on a few of its examples. If their logits differ, or a value of the
layer decides in Python what the model does, the full pass is used and the result gives the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import Tensor

from nearzero.errors import InputError
from nearzero.perturbations.perturbation import Side
from nearzero.support.memory import is_out_of_memory
from nearzero.torch_models.assumptions.routing import RoutedRows
from nearzero.torch_models.batches import Batch
from nearzero.torch_models.hooks import LayerHook, hooked
from nearzero.torch_models.layer import Layer, LayerError
from nearzero.torch_models.replay import OpRecorder, Suffix
from nearzero.torch_models.state import Model

__all__ = [
    "Change",
    "Changed",
    "Method",
    "Passes",
    "SharedPasses",
    "Unreached",
    "check_repeats",
    "distance",
    "logits_with_hooks",
    "not_reached",
]

Method = Literal["auto", "suffix", "full"]
Change = Callable[[Tensor], Tensor]
_Found = TypeVar("_Found")
FEW = 4  # the examples on which both ways are compared
PIECE = 2**20  # logits that are compared at a time


@dataclass(frozen=True, eq=False)
class Changed:
    """The passes on one batch, unchanged and with the layer's values changed.

    Attributes:
        values: the layer's values, unchanged.
        logits: the model's logits, unchanged.
        run: takes a change and returns the logits under it. A change is a function of the values that doesn't
            write into them and returns new ones, which the suffix may write into.
    """

    values: Tensor
    logits: Tensor
    run: Callable[[Change], Tensor]


@dataclass(frozen=True, eq=False)
class Unreached:
    """The pass on a batch that doesn't reach the layer: nothing changes.

    Attributes:
        logits: the model's logits.
    """

    logits: Tensor


class Passes:
    """Forward passes of one model with one layer's values changed, batch after batch.

    Args:
        model: within `nearzero.torch_models.state.untouched`.
        layer, side: the values that are changed.
        method: "suffix" or "full", as described above; "auto" is the suffix if both ways agree, else the full
            pass.

    Attributes:
        model, layer, side: as given.
        method: the way that is used, once a batch was run.
        reason: the reason why "auto" came to the full pass; else "".
        tried: whether the way is settled: both were compared, or the full pass was asked for.
    """

    def __init__(self, model: Model, layer: Layer, side: Side, method: Method = "auto") -> None:
        self.model, self.layer, self.side = model, layer, side
        self.method: Method = method
        self.reason = ""
        self.tried = method == "full"
        self._suffix_required = method == "suffix"

    def on(self, batch: Batch) -> Changed:
        """Return the passes on one batch.

        Raises:
            InputError: the layer isn't reached, or the suffix was asked for and can't be used.
        """
        ((_, changed),) = SharedPasses([self]).on(batch)
        return self._reached(changed, batch)

    def suffix(self, batch: Batch) -> Suffix:
        """Return the suffix of the layer in one pass on a batch, without comparing it with the full pass."""
        ((_, suffix, logits),) = SharedPasses([self]).recorded(batch, [self])
        return self._reached(Unreached(logits) if suffix is None else suffix, batch)

    def _reached(self, found: _Found | Unreached, batch: Batch) -> _Found:
        if isinstance(found, Unreached):
            raise not_reached(self.layer, batch)
        return found

    def choose(self, reason: str) -> None:
        """Use the suffix if the reason against it is "", else the full pass.

        Raises:
            InputError: the suffix was asked for, and there is a reason against it.
        """
        if reason and self._suffix_required:
            raise InputError(f"layer {self.layer.name!r} can't be cut: {reason}; use method='auto'")
        self.method, self.reason, self.tried = "full" if reason else "suffix", reason, True

    def logits(self, batch: Batch, change: Change) -> Tensor:
        """Return the logits of one full pass with the layer's values changed."""
        hooks = [LayerHook(self.layer, self.side, change)]
        with hooked(self.model.module, hooks):
            return self.model.logits(batch)

    def full(self, batch: Batch) -> Changed | Unreached:
        """Return the passes on one batch, each of them a full pass; one pass if it doesn't reach the layer."""
        seen: list[Tensor] = []
        hook = LayerHook(self.layer, self.side, lambda values: seen.append(values.detach().clone()))
        logits = logits_with_hooks(self.model, batch, [hook])
        return Changed(seen[0], logits, partial(self.logits, batch)) if seen else Unreached(logits)

    def reason_against(self, batch: Batch, suffix: Suffix) -> str:
        """Return the reason against a suffix, by comparing one changed pass on its batch; "" if there is none."""
        if suffix.unsafe:
            return suffix.unsafe
        full = self.logits(batch, _trial_change)
        try:
            by_suffix = suffix.run(_trial_change)
        except Exception as error:  # an operation that can't be repeated
            if is_out_of_memory(error):
                raise
            return _unrepeatable(error)
        tolerance = 0.0
        if batch.inputs and full.device.type != "cpu":  # sums on a GPU may have no fixed order
            again = self.logits(batch, _trial_change)
            tolerance = min(2 * distance(full, again), 1e-3 * float(full.abs().max()))
        apart = distance(by_suffix, full)
        if apart <= tolerance:
            return ""
        return f"its suffix gives other logits than the full pass (by {apart:.3g})"


class SharedPasses:
    """Forward passes of one model with one of several layers changed; their suffixes share recordings.

    One recording of a batch serves all layers. If it takes more memory than it may, fewer layers share one.

    Args:
        layer_passes: the passes of each layer, all of the same model.
        limit: the bytes that a recording of more than one layer may take.
    """

    def __init__(self, layer_passes: Sequence[Passes], limit: float = float("inf")) -> None:
        self._all, self._limit = layer_passes, limit
        self._most = len(layer_passes)  # the number of layers that share a recording
        self._apart: set[Passes] = set()  # passes that share no recording

    def on(self, batch: Batch) -> Iterator[tuple[Passes, Changed | Unreached]]:
        """Yield the passes of each layer with those on one batch; use them before taking the next.

        Raises:
            InputError: the suffix was asked for and can't be used.
        """
        untried = [passes for passes in self._all if not passes.tried]
        if untried:
            for passes, reason in self._compare(batch, untried).items():
                passes.choose(reason)
        by_suffix = [passes for passes in self._all if passes.method == "suffix"]
        for passes, suffix, logits in self.recorded(batch, by_suffix):
            if suffix is None:
                yield passes, Unreached(logits)
            elif suffix.unsafe:
                passes.choose(suffix.unsafe)
            else:
                yield passes, Changed(suffix.value, logits, suffix.run)
            del suffix  # frees it before the next is made
        for passes in self._all:
            if passes.method == "full" or not passes.tried:
                found = passes.full(batch)
                yield passes, found
                # the few examples of the experiments may not show what is drawn rarely
                check_repeats(passes.model.logits(batch), found.logits)

    def recorded(
        self, batch: Batch, wanted: Sequence[Passes]
    ) -> Iterator[tuple[Passes, Suffix | None, Tensor]]:
        """Yield the wanted passes with suffix and logits, from as few recordings as memory allows.

        The suffix is None where the batch doesn't reach the layer.
        """
        rest = list(wanted)
        while rest:
            group = [passes for passes in rest if passes not in self._apart][: self._most] or rest[:1]
            alone = len(group) == 1
            recorder = OpRecorder(float("inf") if alone else self._limit)
            with recorder.running():
                hooks = [_cutting_hook(recorder, passes) for passes in group]
                logits = logits_with_hooks(group[0].model, batch, hooks)
            suffixes = recorder.suffixes(logits)
            if recorder.overflowed:
                self._most = (len(group) + 1) // 2
            elif recorder.entangled and not alone:
                self._apart |= {passes for passes in group if passes in recorder.entangled}
            else:
                for passes in group:
                    rest.remove(passes)
                    yield passes, suffixes.pop(passes, None), logits

    def _compare(self, batch: Batch, untried: Sequence[Passes]) -> dict[Passes, str]:
        """Return the reason against each layer's suffix, found on a few examples; "" if there is none.

        A layer that these examples don't reach is tried on the whole batch, and left out if that doesn't either.
        """
        if outside := untried[0].model.outside:
            return dict.fromkeys(untried, outside)
        few = next(batch.blocks(FEW))
        try:
            reasons = self._reasons_against(few, untried)
        except Exception:  # some models take batches of one size only
            if few is batch:
                raise
            return self._reasons_against(batch, untried)
        missed = [passes for passes in untried if passes not in reasons]
        return reasons if few is batch or not missed else reasons | self._reasons_against(batch, missed)

    def _reasons_against(self, batch: Batch, untried: Sequence[Passes]) -> dict[Passes, str]:
        """Return the reasons found on one batch, and set those layers apart whose suffix is right only alone."""
        try:
            reasons = {
                passes: passes.reason_against(batch, suffix)
                for passes, suffix, _ in self.recorded(batch, untried)
                if suffix is not None
            }
        except Exception as error:  # an operation that can't be recorded, or the model itself fails
            if is_out_of_memory(error):
                raise
            if len(untried) == 1:
                untried[0].logits(batch, _trial_change)
                return {untried[0]: _unrepeatable(error)}
            reasons = dict.fromkeys(untried, "unknown")
        if len(untried) > 1:
            for passes in [passes for passes, reason in reasons.items() if reason]:
                alone = self._reasons_against(batch, [passes])
                if alone.get(passes) == "":
                    self._apart.add(passes)
                reasons = {known: reason for known, reason in reasons.items() if known is not passes} | alone
        return reasons


def _trial_change(values: Tensor) -> Tensor:
    """Return the changed values on which both ways are compared."""
    return 0.75 * values + 0.25 * values.abs().mean()


def _unrepeatable(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else repr(error)
    return f"its operations can't be repeated ({text})"


def _cutting_hook(recorder: OpRecorder, passes: Passes) -> LayerHook:
    """Return a hook that cuts a recording at a layer."""
    in_place = passes.layer.place(passes.side)[0].in_place
    return LayerHook(
        passes.layer, passes.side, lambda values: recorder.cut(values, in_place=in_place, name=passes)
    )


def not_reached(layer: Layer, batch: Batch) -> LayerError:
    """Return the error of an analysis that needs a layer on every batch."""
    return LayerError(layer, f"isn't reached on every batch, such as {batch.describe()}; leave the layer out")


def logits_with_hooks(model: Model, batch: Batch, hooks: Sequence[LayerHook]) -> Tensor:
    """Return the logits of one full pass with hooks on some layers; a hook may not be reached.

    Where rows of a layer are selected from others, as those of an expert are, `batch.routed` says from which.
    """
    rows = RoutedRows(batch.row_counts)

    def noting(hook: LayerHook) -> LayerHook:
        def visit(values: Tensor) -> Tensor | None:
            source = rows.of(values)
            if source is None:
                return hook.visit(values)
            batch.routed[hook.layer.key] = source
            changed = hook.visit(values)
            if changed is not None:
                rows.note(changed, source)
            return changed

        return replace(hook, visit=visit)

    with rows, hooked(model.module, [noting(hook) for hook in hooks]):
        return model.logits(batch)


def check_repeats(first: Tensor, second: Tensor) -> None:
    """Raise an error unless two passes on one batch gave the same logits.

    Raises:
        InputError: they differ.
    """
    apart = distance(first, second)
    # on a GPU, sums may have no fixed order
    if apart > (0.0 if first.device.type == "cpu" else 1e-3 * float(first.abs().max())):
        raise InputError(
            f"a second pass of the model on the same batch gives other logits (by {apart:.3g}), so it depends on "
            "something that a pass changes and that can't be put back, such as the time, a counter outside of the "
            "model, or a generator made in forward; make it a function of its inputs"
        )


def distance(left: Tensor, right: Tensor) -> float:
    """Return max |left - right|; infinite if the shapes differ or only one of two values is NaN."""
    if left.shape != right.shape:
        return float("inf")
    if left.numel() > PIECE and left.ndim > 1 and not (left.is_contiguous() and right.is_contiguous()):
        return max(
            distance(*pair) for pair in zip(left, right, strict=True)
        )  # to flatten them is to copy them
    most = 0.0
    for one, other in zip(left.flatten().split(PIECE), right.flatten().split(PIECE), strict=True):
        equal = (one == other) | (one.isnan() & other.isnan())
        distances = torch.where(equal, 0, (one - other).abs().nan_to_num(nan=torch.inf))
        most = max(most, float(distances.max())) if len(distances) else most
    return most


def greatest(values: Tensor) -> float:
    """Return the greatest absolute value of those that are finite; 0 if there are none."""
    if not values.numel():
        return 0.0
    low, high = values.aminmax()
    if not bool(high.isfinite() & low.isfinite()):
        finite = values[values.isfinite()]
        return greatest(finite)
    return max(-float(low), float(high), 0.0)
