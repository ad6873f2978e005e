"""The findings of forward passes: layers from one pass, and from several brought together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nearzero.errors import InputError
from nearzero.support.memory import is_out_of_memory
from nearzero.support.users import place
from nearzero.torch_models.assumptions.origins import TracedOutput
from nearzero.torch_models.batches import Batch
from nearzero.torch_models.data import bytes_of
from nearzero.torch_models.discovery.watch import Watch
from nearzero.torch_models.layer import Layer
from nearzero.torch_models.placement import is_offloaded, loaders
from nearzero.torch_models.snapshot import Snapshot
from nearzero.torch_models.state import Model, RandomStates, positional_names, seed_all

__all__ = ["CannotRunError", "Discovery", "calls_any", "find_layers", "names_passed_on"]

REPEATS = 4  # passes that draw random numbers, until it is taken that the model draws them


@dataclass(frozen=True, eq=False)
class Discovery:
    """The findings of one forward pass, or of several.

    Attributes:
        found: the layers, the inputs of linear layers and the outputs of all other modules, in the order of the
            forward pass; their names don't have the number of the call.
        batch: the batch of the first pass.
        bytes: the new memory that this pass took for copies of the inputs and the results of operations, for all
            examples of the batch.
        called: the paths of the modules that were called.
        idle: the paths of the modules with weights that were neither called nor read.
        problems: by path, why a module that was called can't be probed.
        output: what the operations of the first pass say about the logits.
        random: what draws random numbers on which the logits depend; "" if nothing does.
    """

    found: tuple[Layer, ...]
    batch: Batch
    bytes: int
    called: frozenset[str]
    idle: frozenset[str]
    problems: dict[str, str]
    output: TracedOutput
    random: str

    @cached_property
    def places(self) -> tuple[Layer, ...]:
        """Return all that is found, by full names."""
        return tuple(_numbered(self.found))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Return the layers, without the inputs of linear layers and the outputs of other modules."""
        return tuple(place for place in self.places if place.kind not in ("input", "output"))

    def including(self, other: Discovery) -> Discovery:
        """Return these findings with those of another pass.

        A layer that isn't in both, or that has another number of rows per example, is conditional. What a layer
        is followed by in one pass and not in the other doesn't follow it.
        """
        alike = [each.shape[1:] for each in self.batch.inputs] == [
            each.shape[1:] for each in other.batch.inputs
        ]
        examples = (len(self.batch), len(other.batch)) if alike else None
        return replace(
            self,
            found=tuple(_joined(self.found, other.found, examples)),
            called=self.called | other.called,
            idle=self.idle & other.idle,
            problems=other.problems | self.problems,
            random=self.random or other.random,
        )


def _joined(first: Sequence[Layer], second: Sequence[Layer], examples: tuple[int, int] | None) -> list[Layer]:
    """Return the layers of two passes in an order that fits both; `examples` are their numbers if inputs are alike."""
    theirs = {layer.key: layer for layer in second}
    joined = [
        _joined_layer(layer, theirs[layer.key], examples)
        if layer.key in theirs
        else replace(layer, conditional=True)
        for layer in first
    ]
    known = {layer.key for layer in first}
    after = 0  # the place after the last layer of the second pass
    for number, layer in enumerate(second):
        if layer.key in known:
            places = (place for place in range(after, len(joined)) if joined[place].key == layer.key)
            after = 1 + next(places, after - 1)  # stays where the second pass has another order
            continue
        following = next((later.key for later in second[number:] if later.key in known), None)
        while (  # layers of the first pass alone may come before or after; modules are numbered in their order
            after < len(joined)
            and joined[after].key != following
            and _numbers(joined[after].path) < _numbers(layer.path)
        ):
            after += 1
        joined.insert(after, replace(layer, conditional=True))
        after += 1
    return joined


def _numbers(path: str) -> list[tuple[int, str]]:
    """Return a key that sorts paths by the numbers in them."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in path.split(".")]


def _joined_layer(first: Layer, second: Layer, examples: tuple[int, int] | None) -> Layer:
    """Return a layer as two passes show it."""
    rows = [_rows(layer) for layer in (first, second)]
    other_rows = examples is not None and rows[0] * examples[1] != rows[1] * examples[0]
    joined = replace(
        first,
        in_place=first.in_place or second.in_place,
        branch=first.branch or second.branch,
        conditional=first.conditional or (other_rows and rows[0] != rows[1]),
    )
    follows = [None if layer.follows is None else layer.follows.key for layer in (first, second)]
    if follows[0] != follows[1]:
        joined = replace(joined, follows=None, act=None, activation=None)
    return joined


def _rows(layer: Layer) -> int:
    count = 1
    for axis, size in enumerate(layer.shape):
        count *= 1 if axis == layer.unit_axis else size
    return count


class CannotRunError(InputError):
    """The model can't be run on a batch."""


def find_layers(model: Model, batch: Batch) -> Discovery:
    """Return the layers of a model, found in one forward pass on a batch.

    Sets `model.outside` too, which stays set once a pass has found it.

    Raises:
        CannotRunError: the model can't be run on the batch.
        InputError: the model returns no logits, or changes its weights.
    """
    model.before.restore_all()
    for follow in (True, False):  # if some operation can't be followed, the modules still can
        copy = batch.copy()
        known = batch.objects
        shared = Snapshot({name: value for name, value in copy.objects.items() if value is known[name]})
        watch = Watch(model.module, copy.named)
        seed_all()
        states = RandomStates()
        try:
            logits = _watched(model, copy, watch, follow=follow)
            break
        except InputError:
            raise
        except Exception as error:  # a user's forward may raise anything
            if not follow and is_out_of_memory(error):
                raise CannotRunError(
                    f"the device's memory doesn't hold a batch of {batch.describe()}; use smaller batches"
                ) from error
            if not follow:
                where = f" ({found})" if (found := place(error)) else ""
                raise CannotRunError(
                    f"the model can't be run on a batch of {batch.describe()}: {_reason(error)}{where}; prepare=... "
                    "makes what it takes"
                ) from error
    if changed := shared.changed():
        shared.restore_all()
        raise InputError(
            f"the model changes its input {changed[0]!r}, which can't be copied; give a new one in each batch by "
            "prepare=..."
        )
    model.before.changed()  # notes tensors that a pass writes to without a new version
    drawing = states.moved(torch_too=not follow)
    if drawing and not _draws_always(model, batch, torch_too=not follow):
        drawing = ""
    model.outside = (
        model.outside
        or is_offloaded(model.module)
        or ("it runs in several threads" if watch.threaded else drawing and f"{drawing} draws random numbers")
    )
    discovery = Discovery(
        found=tuple(watch.found(logits)),
        batch=batch,
        bytes=watch.bytes + sum(map(bytes_of, copy.inputs)),
        called=frozenset(watch.calls),
        idle=watch.idle,
        problems=watch.problems,
        output=TracedOutput(logits, *watch.origins.of(logits), watch.unit_axes.of(logits)),
        random=drawing or watch.random_in(logits),
    )
    vars(watch).clear()  # frees the tensors of the pass, which a cycle of references would keep
    return discovery


def _draws_always(model: Model, batch: Batch, *, torch_too: bool) -> bool:
    """Return whether every pass draws random numbers, as those of a model that draws do: they begin alike.

    Other threads of the process, such as those of a Dask worker, draw from the same generators now and then.
    """
    for _ in range(REPEATS):
        seed_all()
        states = RandomStates()
        model.logits(batch)
        if not states.moved(torch_too=torch_too):
            return False
    return True


def _reason(error: Exception, most: int = 200) -> str:
    """Return the first line of an error's message, cut after a word to at most some characters."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return line if len(line) <= most else f"{line[:most].rsplit(' ', 1)[0]} ..."


def _watched(model: Model, batch: Batch, watch: Watch, *, follow: bool) -> Tensor:
    """Return the logits of a pass in which a watch sees the modules, and with `follow` the operations."""
    with ExitStack() as stack:
        for module in model.module.modules():
            if not isinstance(module, torch.jit.ScriptModule):  # these take no hooks
                handle = module.register_forward_pre_hook(watch.enter, with_kwargs=True, prepend=True)
                stack.callback(handle.remove)
                stack.callback(module.register_forward_hook(watch.leave, with_kwargs=True).remove)
        for module, hook in loaders(model.module):
            stack.enter_context(watch.of_loader(module, hook))
        if follow:
            stack.enter_context(watch)
        return model.logits_of_copy(batch)


def names_passed_on(model: Model, batch: Batch) -> tuple[str, ...]:
    """Return the names that a part of the model gives to its arguments, if the model's own forward has none.

    A wrapper may take any arguments and pass them on; the part is the first that is called with the same tensors.
    """
    count = len(batch.arguments)
    if count <= len(positional_names(model.module)):
        return ()
    found: list[tuple[str, ...]] = []
    copy = batch.copy()

    def look(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        same = len(args) >= count and all(
            given is own for given, own in zip(args, copy.arguments, strict=False)
        )
        if same and len(names := positional_names(module)) >= count:
            found.append(names[:count])

    with ExitStack() as stack:
        for module in model.module.modules():
            if not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_pre_hook(look).remove)
        model.logits_of_copy(copy)
    return found[0] if found else ()


def calls_any(model: Model, batch: Batch, paths: Collection[str]) -> bool:
    """Return whether a forward pass on a batch calls one of some modules."""
    called: list[torch.nn.Module] = []
    with ExitStack() as stack:
        for path in paths:
            module = model.module.get_submodule(path)
            if not isinstance(module, torch.jit.ScriptModule):
                handle = module.register_forward_pre_hook(lambda module, _: called.append(module))
                stack.callback(handle.remove)
        model.logits(batch)
    return bool(called)


def _numbered(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers with @1, @2, ... added to names that occur more than once, in order, and their elements."""
    total, seen = Counter((layer.name, layer.element) for layer in layers), Counter[Any]()
    numbered = {}
    for layer in layers:
        key = layer.name, layer.element
        seen[key] += 1
        name = f"{layer.name}@{seen[key]}" if total[key] > 1 else layer.name
        element = "".join(f"[{part}]" for part in layer.element)
        numbered[layer.key] = replace(layer, name=name + element)
    return [
        layer if layer.follows is None else replace(layer, follows=numbered[layer.follows.key])
        for layer in numbered.values()
    ]
