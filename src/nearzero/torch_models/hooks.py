"""Hooks that read or replace a layer's values in a forward pass.

PyTorch hooks a module. A function has no hook, so its operation is intercepted as PyTorch dispatches it, and
counted within one call of the module that calls it. All hooks are set on entry and removed on exit, also
after an exception.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count, repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from nearzero.perturbations.perturbation import Side
from nearzero.support.words import number_of
from nearzero.torch_models.layer import Layer, LayerError

__all__ = ["LayerHook", "PassCounter", "elements_of", "hooked", "hooked_in_all", "plain_name"]

NEVER = repeat(-1)  # the number of a call that no hook waits for


@dataclass(eq=False)
class LayerHook:
    """A function that is called with a layer's values in a forward pass and may replace them.

    Attributes:
        layer, side: the values to read: z if the side is "pre", act(z) if it is "post".
        visit: called with the values; returns the values to continue with, or None to keep them.
    """

    layer: Layer
    side: Side
    visit: Callable[[Tensor], Tensor | None]

    @property
    def place(self) -> tuple[Layer, bool]:
        """Return the layer to hook, and whether to hook it after its call (else before)."""
        return self.layer.place(self.side)

    def __call__(self, values: Any) -> Tensor | None:
        """Call `visit` and return the values that the model continues with, or None to keep them.

        If the activation writes into its argument, changed values are written there too: other parts of the
        model may hold the same tensor.

        Raises:
            LayerError: values of another type or with another number of units than when the layer was found.
        """
        layer = self.layer
        if not isinstance(values, Tensor) or not values.is_floating_point():
            kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
            raise LayerError(layer, f"gives {kind}, not floating-point numbers")
        units = values.shape[layer.axis_of(values)] if values.ndim else 0
        if units != layer.width:
            raise LayerError(
                layer,
                f"has {number_of(layer.width, 'unit')} on the first examples and {units} on others, whose values are "
                f"{tuple(values.shape)}; unit_axis=... names the dimension of its units",
            )
        place, after = self.place
        with _disable_current_modes():  # the computations of `visit` are not part of the model
            changed = self.visit(values)
        if changed is None or not place.in_place or changed is values:
            return changed
        values.copy_(changed)
        return values if after else None


def plain_name(func: Any, known: Container[str]) -> str:
    """Return an operation's name, without the trailing underscore of an in-place one unless that is known."""
    name: str = getattr(getattr(func, "_schema", None), "name", "").removeprefix("aten::")
    return name if name in known else name.removesuffix("_")


class _FunctionHooks(TorchDispatchMode):
    """Intercepts the calls of functions that hooks wait for."""

    def __init__(self, hooks: Sequence[LayerHook]) -> None:
        super().__init__()
        self._waiting: dict[str, list[_CallCounter]] = {}
        self.counters = [_CallCounter(hook) for hook in hooks]
        for counter in self.counters:
            self._waiting.setdefault(counter.place.operation, []).append(counter)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and replace its first argument or its result where a hook says so."""
        kwargs = kwargs or {}
        waiting = self._waiting.get(plain_name(func, self._waiting), ())
        # One call may have several hooks: before it, and after it for the post side of a linear layer.
        due = [counter.hook for counter in waiting if counter.is_due()]
        for hook in (hook for hook in due if not hook.place[1]):
            changed = hook(args[0])
            args = args if changed is None else (changed, *args[1:])
        result = func(*args, **kwargs)
        for hook in (hook for hook in due if hook.place[1]):
            first = result[0] if isinstance(result, tuple) else result
            changed = hook(first)
            if changed is not None:
                result = (changed, *result[1:]) if isinstance(result, tuple) else changed
        return result


class _Calls:
    """Numbers the calls of a module by their beginnings, also where the module calls itself.

    Attributes:
        total: how many calls have begun.
    """

    def __init__(self) -> None:
        self.total, self._under_way = 0, list[int]()

    @property
    def now(self) -> int:
        """Return the number of the innermost call under way."""
        return self._under_way[-1]

    def enter(self, *_: Any) -> None:
        """Note that a call begins."""
        self.total += 1
        self._under_way.append(self.total)

    def restart(self) -> None:
        """Count from 1 again, between two forward passes."""
        self.total = 0

    def leave(self, *_: Any) -> None:
        """Note that a call ends, by an exception too."""
        self._under_way.pop()

    def watch(self, module: nn.Module, stack: ExitStack) -> None:
        """Follow the calls of a module until a stack is closed."""
        stack.callback(module.register_forward_pre_hook(self.enter, prepend=True).remove)
        stack.callback(module.register_forward_hook(self.leave, always_call=True).remove)


class _CallCounter(_Calls):
    """Counts an operation within one call of a module, to find the call that a hook waits for."""

    def __init__(self, hook: LayerHook) -> None:
        super().__init__()
        self.hook, self.place = hook, hook.place[0]
        self._operations: Iterator[int] = NEVER

    def enter(self, *_: Any) -> None:
        """Start to count if this is the call of the module that the hook waits for."""
        super().enter()
        if self.now == self.place.call:
            self._operations = count()

    def leave(self, *_: Any) -> None:
        """Stop counting at the end of this call."""
        if self.now == self.place.call:
            self._operations = NEVER
        super().leave()

    def is_due(self) -> bool:
        """Count a call of the operation, and return whether the hook waits for it."""
        return next(self._operations) == self.place.ordinal


@contextmanager
def hooked(module: nn.Module, hooks: Sequence[LayerHook]) -> Iterator[None]:
    """Hook a module within the block, for one forward pass: calls are counted from the start of the block."""
    with ExitStack() as stack:
        _set(module, hooks, stack)
        yield


def _set(module: nn.Module, hooks: Sequence[LayerHook], stack: ExitStack) -> list[_Calls]:
    """Hook a module until a stack is closed, and return the calls of the hooked modules, one for each hook."""
    functions = [hook for hook in hooks if hook.place[0].kind == "function"]
    calls: list[_Calls] = []
    if functions:
        mode = _FunctionHooks(functions)
        for counter in mode.counters:
            counter.watch(module.get_submodule(counter.place.path), stack)
        stack.enter_context(mode)
        calls += mode.counters
    for hook in hooks:
        if hook.place[0].kind != "function":
            calls.append(_register(module.get_submodule(hook.place[0].path), hook, stack))
    return calls


class PassCounter:
    """Count the forward passes within a block in which a hook is set, and those that reach its layer.

    Attributes:
        passes: how many passes have ended.
        reached: how many of them have called the hook.
    """

    def __init__(self) -> None:
        self.passes = self.reached = 0


@contextmanager
def hooked_in_all(module: nn.Module, hook: LayerHook, calls: int) -> Iterator[PassCounter]:
    """Set a hook within the block, for any number of forward passes, as those of a generation.

    A pass is an outermost call of the module or of one of its parts, such as that of an encoder alone.

    Args:
        module: the model.
        hook: the hook, which is called once in each pass that reaches its layer.
        calls: how many calls of the layer's module a pass has.

    Raises:
        LayerError: a pass calls the module another number of times, or the function in it another time, so that it
            isn't known where the layer is.
    """
    counter, visits, depth = PassCounter(), 0, 0

    def visit(values: Tensor) -> Tensor | None:
        nonlocal visits
        visits += 1
        return hook.visit(values)

    def enter(*_: Any) -> None:
        nonlocal depth, visits
        if not depth:
            visits = 0
            hooked_calls.restart()
        depth += 1

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1
        if not depth:
            end()

    def end() -> None:
        counter.passes += 1
        counter.reached += visits
        if hooked_calls.total not in (0, calls) or visits != bool(hooked_calls.total):
            raise LayerError(
                hook.layer,
                f"is called {hooked_calls.total} times in a pass of the generation and {calls} in the pass on which it "
                f"was found, and reached {visits} times, so it isn't known where it is; leave it out",
            )

    with ExitStack() as stack:
        (hooked_calls,) = _set(module, [replace(hook, visit=visit)], stack)
        for part in module.modules():
            if not isinstance(part, torch.jit.ScriptModule):  # these take no hooks
                stack.callback(part.register_forward_pre_hook(enter, prepend=True).remove)
                stack.callback(part.register_forward_hook(leave, always_call=True).remove)
        yield counter


def _register(module: nn.Module, hook: LayerHook, stack: ExitStack) -> _Calls:
    """Register a hook on one call of a module, until a stack is closed, and return the module's calls."""
    place, after = hook.place
    calls = _Calls()

    def before_call(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if calls.now != place.call:
            return None
        given = [*args, *kwargs.values()]
        first = next(index for index, value in enumerate(given) if isinstance(value, Tensor))
        changed = hook(given[first])
        if changed is None:
            return None
        given[first] = changed
        return tuple(given[: len(args)]), dict(zip(kwargs, given[len(args) :], strict=True))

    def after_call(_: nn.Module, args: Any, output: Any) -> Any:
        if calls.now != place.call:
            return None
        changed = hook(_element(output, place))
        return None if changed is None else _with_element(output, place.element, changed)

    if after:
        stack.callback(module.register_forward_hook(after_call).remove)
    calls.watch(module, stack)
    if not after:
        stack.callback(module.register_forward_pre_hook(before_call, with_kwargs=True).remove)
    return calls


# --- the tensors in what a module returns ---


def elements_of(
    output: Any, place: tuple[int | str, ...] = ()
) -> Iterator[tuple[tuple[int | str, ...], Tensor]]:
    """Yield the tensors in what a module returns, each with its place in nested tuples, lists and mappings."""
    if isinstance(output, Tensor):
        yield place, output
    elif isinstance(output, Mapping):
        for name, value in output.items():
            if isinstance(name, str):
                yield from elements_of(value, (*place, name))
    elif isinstance(output, (tuple, list)):
        for number, value in enumerate(output):
            yield from elements_of(value, (*place, number))


def _element(output: Any, layer: Layer) -> Any:
    """Return the element of a module's output that a layer is.

    Raises:
        LayerError: the output has no such element, as it had on the first examples.
    """
    value = output
    for key in layer.element:
        try:
            value = value[key]
        except (LookupError, TypeError):
            raise LayerError(
                layer,
                f"isn't in what its module returns on some examples ({type(output).__name__}); leave the layer out",
            ) from None
    return value


def _with_element(output: Any, place: tuple[int | str, ...], values: Tensor) -> Any:
    """Return a copy of a module's output with other values at one place."""
    if not place:
        return values
    changed = _with_element(output[place[0]], place[1:], values)
    if isinstance(output, Mapping):
        mapping: Any = copy.copy(output)
        mapping[place[0]] = changed
        return mapping
    items = list(output)
    items[int(place[0])] = changed
    return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
