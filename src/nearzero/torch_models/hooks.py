"""Taps: who looks at a layer's values as they come by in a forward pass, and may change them.

A module is hooked by a hook; a function by its operation, counted within one call of the module that calls it. All
hooks are set on entry and removed in `finally`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count, repeat
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from nearzero.errors import InputError
from nearzero.perturbations.perturbation import Side
from nearzero.torch_models.layer import Layer

__all__ = ["LayerHook", "hooked", "plain_name"]

NEVER = repeat(-1)  # the number of a call that no hook waits for


@dataclass(eq=False)
class LayerHook:
    """Someone who looks at a layer's values as they come by, and may change them.

    Attributes:
        layer, side: where; "pre" is z, "post" is act(z).
        visit: called with the values; returns what the model is to go on with, or None to leave them.
        seen: how often it was called.
    """

    layer: Layer
    side: Side
    visit: Callable[[Tensor], Tensor | None]
    seen: int = 0

    @property
    def place(self) -> tuple[Layer, bool]:
        """The module or function that is watched, and whether after it (else before it)."""
        return self.layer.place(self.side)

    def __call__(self, values: Any) -> Tensor | None:
        """Let the visitor see the values; what the model is to have in their place, or None.

        Where the activation writes into its argument, the change is written there too, for all who hold it.

        Raises:
            InputError: values of another kind than those that were found when the model was watched.
        """
        layer = self.layer
        if not isinstance(values, Tensor) or not values.is_floating_point():
            kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
            raise InputError(f"layer {layer.name!r} gives {kind}, not floating-point numbers")
        units = values.shape[layer.axis_of(values)] if values.ndim else 0
        if units != layer.units:
            raise InputError(
                f"layer {layer.name!r} has {layer.units} units on the first examples and {units} on others, whose "
                f"values are {tuple(values.shape)}; unit_axis=... names the dimension of its units"
            )
        self.seen += 1
        place, after = self.place
        with _disable_current_modes():  # what a visitor computes is no part of the model
            changed = self.visit(values)
        if changed is None or not place.in_place or changed is values:
            return changed
        values.copy_(changed)
        return values if after else None


def plain_name(func: Any, known: Any) -> str:
    """An operation's name as those known are called, without the underscore of those that write in place."""
    name: str = getattr(getattr(func, "_schema", None), "name", "").removeprefix("aten::")
    return name if name in known else name.removesuffix("_")


class _Functions(TorchDispatchMode):
    """Sees the calls of functions that hooks wait for."""

    def __init__(self, hooks: Sequence[LayerHook]) -> None:
        super().__init__()
        self._waiting: dict[str, list[_Count]] = {}
        self.counts = [_Count(hook) for hook in hooks]
        for each in self.counts:
            self._waiting.setdefault(each.place.operation, []).append(each)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, with its argument or result changed where a hook says so."""
        kwargs = kwargs or {}
        waiting = self._waiting.get(plain_name(func, self._waiting), ())
        # Several hooks may look at one call: before it, and after it as what follows some linear layer.
        here = [each.hook for each in waiting if each.is_due()]
        for hook in (each for each in here if not each.place[1]):
            changed = hook(args[0])
            args = args if changed is None else (changed, *args[1:])
        result = func(*args, **kwargs)
        for hook in (each for each in here if each.place[1]):
            first = result[0] if isinstance(result, tuple) else result
            changed = hook(first)
            if changed is not None:
                result = (changed, *result[1:]) if isinstance(result, tuple) else changed
        return result


class _Count:
    """Counts an operation within one call of the module that calls it, until it's a hook's."""

    def __init__(self, hook: LayerHook) -> None:
        self.hook, self.place = hook, hook.place[0]
        self._calls = count(1)
        self._numbers: Iterator[int] = NEVER

    def enter(self, *_: Any) -> None:
        """The module begins."""
        self._numbers = count() if next(self._calls) == self.place.call else NEVER

    def leave(self, *_: Any) -> None:
        """The module ends."""
        self._numbers = NEVER

    def is_due(self) -> bool:
        """Whether this call of the operation is the one; counts it."""
        return next(self._numbers) == self.place.ordinal


@contextmanager
def hooked(module: nn.Module, hooks: Sequence[LayerHook]) -> Iterator[None]:
    """Within, a forward pass goes by the hooks; one pass, since calls are counted."""
    with ExitStack() as stack:
        functions = [hook for hook in hooks if hook.place[0].kind == "function"]
        if functions:
            mode = _Functions(functions)
            for each in mode.counts:
                caller = module.get_submodule(each.place.path)
                stack.callback(caller.register_forward_pre_hook(each.enter, prepend=True).remove)
                stack.callback(caller.register_forward_hook(each.leave).remove)
            stack.enter_context(mode)
        for hook in hooks:
            if hook.place[0].kind != "function":
                stack.callback(_hook(module.get_submodule(hook.place[0].path), hook).remove)
        yield


def _hook(module: nn.Module, hook: LayerHook) -> Any:
    """A hook that lets a hook see one call of a module."""
    place, after = hook.place
    calls = count(1)

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if next(calls) != place.call:
            return None
        given = [*args, *kwargs.values()]
        first = next(index for index, value in enumerate(given) if isinstance(value, Tensor))
        changed = hook(given[first])
        if changed is None:
            return None
        given[first] = changed
        return tuple(given[: len(args)]), dict(zip(kwargs, given[len(args) :], strict=True))

    def afterwards(_: nn.Module, args: Any, output: Any) -> Any:
        return hook(output) if next(calls) == place.call else None

    if after:
        return module.register_forward_hook(afterwards)
    return module.register_forward_pre_hook(before, with_kwargs=True)
