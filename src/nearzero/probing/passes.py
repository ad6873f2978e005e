"""Forward passes with a layer's values changed, by one of two ways that give equal logits.

- *suffix*: one full pass on a batch is recorded from the layer on, and only what comes after it runs again.
- *full*: the whole model runs again, with a hook at the layer.

The first batch is run both ways; where they don't agree, or a value of the layer decides in Python what the
model does, the full pass is taken and the result says why. Hooks are set on entry and removed in `finally`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nearzero.errors import InputError
from nearzero.perturbation import Side
from nearzero.probing.batches import Batch
from nearzero.probing.layer import Layer
from nearzero.probing.model import Model
from nearzero.probing.suffix import Recorder, Suffix

__all__ = ["Changed", "Method", "Passes", "Tap", "tapped"]

Method = Literal["auto", "suffix", "full"]
Change = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Tap:
    """Someone who looks at a layer's values as they come by, and may change them.

    Attributes:
        layer, side: where; "pre" is z, "post" is act(z).
        visit: called with the values and whether they are about to be written to; returns what the model is to
            go on with (written into the values, in the second case), or None to leave them.
        seen: how often it was called.
    """

    layer: Layer
    side: Side
    visit: Callable[[Tensor, bool], Tensor | None]
    seen: int = 0

    @property
    def place(self) -> tuple[Layer, bool]:
        """The module or function that is watched, and whether after it (else before it)."""
        layer, post = self.layer, self.side == "post"
        if layer.kind in ("activation", "function"):
            return layer, post
        return (layer.follows, True) if post and layer.follows is not None else (layer, True)

    def __call__(self, values: Any) -> Tensor | None:
        """Let the visitor see the values; what the model is to have in their place, or None."""
        if not isinstance(values, Tensor) or not values.is_floating_point():
            kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
            raise InputError(f"layer {self.layer.name!r} gives {kind}, not floating-point numbers")
        self.seen += 1
        place, after = self.place
        in_place = place.in_place
        changed = self.visit(values, in_place)
        if changed is None or not in_place or changed is values:
            return changed
        values.copy_(changed)
        return values if after else None


class _Functions(TorchDispatchMode):
    """Sees the calls of functions that taps wait for."""

    def __init__(self, taps: Sequence[Tap]) -> None:
        super().__init__()
        self._taps = {(tap.place[0].operation, tap.place[0].ordinal): tap for tap in taps}
        self._wanted = {operation for operation, _ in self._taps}
        self._calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, with its argument or result changed where a tap says so."""
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        plain = name if name in self._wanted else name.removesuffix("_")
        if plain not in self._wanted:
            return func(*args, **kwargs)
        tap = self._taps.get((plain, self._calls[plain]))
        self._calls[plain] += 1
        if tap is None:
            return func(*args, **kwargs)
        if not tap.place[1]:
            changed = tap(args[0])
            return func(args[0] if changed is None else changed, *args[1:], **kwargs)
        result = func(*args, **kwargs)
        if isinstance(result, tuple):
            changed = tap(result[0])
            return result if changed is None else (changed, *result[1:])
        changed = tap(result)
        return result if changed is None else changed


@contextmanager
def tapped(module: nn.Module, taps: Sequence[Tap]) -> Iterator[None]:
    """Within, every forward pass goes by the taps; a pass each, since calls are counted."""
    with ExitStack() as stack:
        functions = [tap for tap in taps if tap.place[0].kind == "function"]
        if functions:
            stack.enter_context(_Functions(functions))
        for tap in taps:
            if tap.place[0].kind != "function":
                stack.callback(_hook(module.get_submodule(tap.place[0].path), tap).remove)
        yield


def _hook(module: nn.Module, tap: Tap) -> Any:
    """A hook that lets a tap see one call of a module."""
    place, after = tap.place
    calls = 0

    def counted() -> bool:
        nonlocal calls
        calls += 1
        return calls == place.call

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not counted():
            return None
        if args:
            changed = tap(args[0])
            return None if changed is None else ((changed, *args[1:]), kwargs)
        name = next(iter(kwargs))
        changed = tap(kwargs[name])
        return None if changed is None else (args, {**kwargs, name: changed})

    def afterwards(_: nn.Module, args: Any, output: Any) -> Any:
        return tap(output) if counted() else None

    if after:
        return module.register_forward_hook(afterwards)
    return module.register_forward_pre_hook(before, with_kwargs=True)


@dataclass(frozen=True, eq=False)
class Changed:
    """One batch, whose logits can be had with the layer's values changed.

    Attributes:
        values: of the layer, unchanged.
        logits: of the model, unchanged.
        run: from a change, a function of the values that doesn't write to them, to logits.
    """

    values: Tensor
    logits: Tensor
    run: Callable[[Change], Tensor]


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
        self._model, self._layer, self._side = model, layer, side

    def on(self, batch: Batch) -> Changed:
        """The passes on one batch.

        Raises:
            InputError: the layer isn't reached, or the suffix was asked for and can't be taken.
        """
        if self.method == "full":
            return self._whole(batch)
        recorder = Recorder()
        logits = self._pass(batch, lambda values, in_place: recorder.cut(values, in_place=in_place), recorder)
        suffix = recorder.finish(logits)
        if self.method == "suffix" and not recorder.escape:
            return _of_suffix(suffix, logits)
        reason = self._doubt(batch, suffix, logits, recorder.escape)
        if not reason:
            self.method = "suffix"
            return _of_suffix(suffix, logits)
        if self.method == "suffix":
            raise InputError(f"layer {self._layer.name!r} can't be cut: {reason}; use method='auto'")
        self.method, self.reason = "full", reason
        return self._whole(batch)

    def _whole(self, batch: Batch) -> Changed:
        """By full passes."""
        seen: list[Tensor] = []

        def look(values: Tensor, in_place: bool) -> None:
            seen.append(values.clone())

        logits = self._pass(batch, look)
        return Changed(
            seen[0], logits, lambda change: self._pass(batch, lambda values, in_place: change(values))
        )

    def _pass(
        self,
        batch: Batch,
        visit: Callable[[Tensor, bool], Tensor | None],
        recorder: Recorder | None = None,
    ) -> Tensor:
        """The logits of one full pass with a visitor at the layer."""
        tap = Tap(self._layer, self._side, visit)
        with ExitStack() as stack:
            if recorder is not None:
                stack.enter_context(recorder)
            stack.enter_context(tapped(self._model.module, [tap]))
            logits = self._model.logits(batch)
        if not tap.seen:
            raise InputError(
                f"layer {self._layer.name!r} isn't reached on every batch; {batch.describe()} goes another way"
            )
        return logits

    def _doubt(self, batch: Batch, suffix: Suffix, logits: Tensor, escape: str | None) -> str:
        """Why the suffix can't be trusted; "" if it can."""
        if escape:
            return f"its values decide in Python what the model does (aten::{escape})"

        def change(values: Tensor) -> Tensor:
            return 0.75 * values + 0.25 * values.abs().mean()

        try:
            (same,), (by_suffix,) = suffix.run(suffix.value.clone()), suffix.run(change(suffix.value))
        except Exception as error:  # an operation that can't be repeated
            return f"an operation after it can't be repeated ({str(error).splitlines()[0] if str(error) else error!r})"
        full, again = (self._pass(batch, lambda values, in_place: change(values)) for _ in range(2))
        # zero on processors; on devices whose sums have no fixed order, what two full passes differ by
        slack = 2 * _distance(full, again)
        if not _distance(by_suffix, full) <= slack or not _distance(same, logits) <= slack:
            return f"its suffix gives other logits than the full pass (by {_distance(by_suffix, full):.3g})"
        return ""


def _of_suffix(suffix: Suffix, logits: Tensor) -> Changed:
    return Changed(suffix.value, logits, lambda change: suffix.run(change(suffix.value))[0])


def _distance(one: Tensor, other: Tensor) -> float:
    """The greatest difference; infinite where one of two isn't a number or the shapes differ."""
    if one.shape != other.shape:
        return float("inf")
    equal = (one == other) | (one.isnan() & other.isnan())
    return (
        float(torch.where(equal, 0, (one - other).abs().nan_to_num(nan=torch.inf)).max())
        if one.numel()
        else 0.0
    )
