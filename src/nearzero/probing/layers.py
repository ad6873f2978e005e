"""What can be probed in a model: its layers, found by watching one forward pass, and chosen by name.

A layer is a place where a pre-activation comes by: the input of an activation (a module, or a function like
`F.relu` called in some module's forward), or the output of a linear, convolution or normalisation module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from nearzero.errors import InputError, did_you_mean
from nearzero.probing.batches import Batch
from nearzero.probing.layer import Layer
from nearzero.probing.model import Model
from nearzero.probing.watch import Watch

__all__ = ["CannotRunError", "Found", "find_layers", "select_layers"]


@dataclass(frozen=True, eq=False)
class Found:
    """What one forward pass showed.

    Attributes:
        layers: in the order in which the forward pass comes by them.
        batch: what was watched.
        bytes: what the operations of the pass gave in new memory, for all of its examples.
        logits: bytes of the logits as float32.
        called: the paths of modules that were called.
        problems: by path, why a module that was called can't be probed.
    """

    layers: tuple[Layer, ...]
    batch: Batch
    bytes: int
    logits: int
    called: frozenset[str]
    problems: dict[str, str]


class CannotRunError(InputError):
    """The model can't be run on a batch."""


def find_layers(model: Model, batch: Batch) -> Found:
    """Watch one forward pass on a batch; also finds whether the model writes into its inputs.

    Raises:
        CannotRunError: the model can't be run on the batch.
        InputError: what it returns holds no logits, or it changes its weights.
    """
    copy = batch.copy()
    versions = [each._version for each in copy.inputs]
    for follow in (True, False):  # some operations can't be followed; modules can nevertheless
        watch = Watch(model.module, copy.named)
        try:
            logits = _watched(model, copy, watch, follow=follow)
            break
        except InputError:
            raise
        except Exception as error:  # whatever a stranger's forward may raise
            if not follow:
                raise CannotRunError(
                    f"the model can't be run on a batch of {batch.describe()}: {_reason(error)}; prepare=... makes "
                    "what it takes"
                ) from error
    model.writes_inputs = versions != [each._version for each in copy.inputs]
    return Found(
        tuple(_numbered(watch.layers)), batch, watch.bytes, 4 * logits.numel(), frozenset(watch.calls),
        watch.problems,
    )  # fmt: skip


def _reason(error: Exception, most: int = 200) -> str:
    """The first line of what a stranger's code raises, or as much of it as a sentence can bear."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return line if len(line) <= most else f"{line[:most].rsplit(' ', 1)[0]} ..."


def _watched(model: Model, batch: Batch, watch: Watch, *, follow: bool) -> Tensor:
    """The logits of a pass in which a watch sees modules, and operations too if it's to follow them."""
    with ExitStack() as stack:
        for each in model.module.modules():
            if not isinstance(each, torch.jit.ScriptModule):  # these take no hooks
                handle = each.register_forward_pre_hook(watch.enter, with_kwargs=True, prepend=True)
                stack.callback(handle.remove)
                stack.callback(each.register_forward_hook(watch.leave, with_kwargs=True).remove)
        if follow:
            stack.enter_context(watch)
        return model.logits(batch)


def _numbered(layers: Sequence[Layer]) -> list[Layer]:
    """Names that are used more than once get @1, @2, ... in the order of the pass."""
    total, seen = Counter(each.name for each in layers), Counter[str]()
    named = {}
    for each in layers:
        seen[each.name] += 1
        name = f"{each.name}@{seen[each.name]}" if total[each.name] > 1 else each.name
        named[id(each)] = replace(each, name=name)
    return [replace(each, follows=named.get(id(each.follows))) for each in named.values()]


def select_layers(model: Model, found: Found, wanted: Sequence[str] | None) -> list[Layer]:
    """The layers that names or globs stand for, in the order of the pass; all activations if None.

    A module or function that is called several times stands for all of its calls; name@k is one of them.

    Raises:
        InputError: a name that stands for none, and why.
    """
    if wanted is None:
        chosen = [each for each in found.layers if each.kind in ("activation", "function")]
        if not chosen:
            instead = (
                f"name layers whose output is a pre-activation, of {_some([each.name for each in found.layers])}"
                if found.layers
                else "nor any linear, convolution or normalization layer, so nothing can be probed"
            )
            raise InputError(f"no activation was found in a forward pass; {instead}")
        return chosen
    names: set[str] = set()
    for name in wanted:
        known = [each.name for each in found.layers]
        matched = {each for each in known if name in (each, each.split("@")[0])}
        if not matched and _is_glob(name):
            matched = {each for each in known if fnmatchcase(each, name)}
        if not matched:
            raise InputError(_why_not(model, found, name))
        names |= matched
    return [each for each in found.layers if each.name in names]


def _is_glob(name: str) -> bool:
    return any(mark in name for mark in "*?[")


def _why_not(model: Model, found: Found, name: str) -> str:
    """Why there is no layer of a name, and what to do."""
    names = [each.name for each in found.layers]
    if _is_glob(name):
        return f"no layer matches {name!r}; the layers are {_some(names)}"
    path = name.split("@")[0]
    modules = dict(model.module.named_modules(remove_duplicate=False))
    if path in modules:
        path = next(known for known, each in model.module.named_modules() if each is modules[path])
        alias = [each for each in names if each.split("@")[0] == path]
        if alias:
            return f"layer {name!r} is known as {_some(alias)}"
        if path not in found.called:
            return (
                f"layer {name!r} isn't called in a forward pass, so nothing can be perturbed there (its weights may be "
                f"used directly); layers that are: {_some(names)}"
            )
        kind = type(modules[path]).__name__
        why = found.problems.get(
            path, "it is neither an activation nor a linear, convolution or normalization layer"
        )
        inside = [each for each in names if each.startswith((f"{path}.", f"{path}:"))]
        instead = f"; layers in it: {_some(inside)}" if inside else f"; layers are: {_some(names)}"
        return f"layer {name!r} ({kind}) can't be probed: {why}{instead}"
    return f"there is no layer {name!r}: {did_you_mean(name, names)}the layers are {_some(names)}"


def _some(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most]) or "none"
    return f"{shown}, ... ({len(names)} in all)" if len(names) > most else shown
