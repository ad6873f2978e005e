"""The choice of layers by name, among those that discovery has found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from nearzero.errors import InputError, did_you_mean
from nearzero.torch_models.discovery.find import Discovery
from nearzero.torch_models.layer import Layer
from nearzero.torch_models.state import Model

__all__ = ["Selection", "are_found", "select_layers"]

# Functions that models use as parts of others: an abs in a norm or in softsign, the gate in z * sigmoid(z).
PARTS = ("abs", "sigmoid", "hardsigmoid", "log_sigmoid", "hardtanh", "tanh", "softplus")


@dataclass(frozen=True, eq=False)
class Selection:
    """The layers to probe, in the order of the pass.

    Attributes:
        layers: the layers.
        left_out: by name, why activations aren't among them, if all were asked for.
    """

    layers: list[Layer]
    left_out: dict[str, str] = field(default_factory=dict)


def select_layers(model: Model, discovery: Discovery, wanted: Sequence[str] | None) -> Selection:
    """Return the layers that match some names or globs; all activations for None.

    The name of a module or function that is called several times matches all of its calls; name@k matches
    one. The outputs of modules that aren't layers are matched by their names, and not by globs.

    Raises:
        InputError: a name that matches no layer, with the reason.
    """
    if wanted is None:
        active = [layer for layer in discovery.layers if layer.is_input_of_activation]
        parts = {layer.name for layer in active if layer.branch and layer.activation in PARTS}
        chosen = [layer for layer in active if layer.name not in parts]
        if not chosen:
            raise InputError(f"no activation was found in a forward pass{_hint(discovery, sorted(parts))}")
        reason = "its values are read elsewhere too, so it is taken for a part of another function"
        return Selection(
            chosen, dict.fromkeys((layer.name for layer in active if layer.name in parts), reason)
        )
    names: set[str] = set()
    for name in wanted:
        matched = _matched(discovery, name)
        if not matched:
            raise InputError(_why_no_layer(model, discovery, name))
        names |= matched
    return Selection([place for place in discovery.places if place.name in names])


def _hint(discovery: Discovery, parts: Sequence[str]) -> str:
    """Return the end of the error that there is no activation, given the functions that are parts of others."""
    if not discovery.layers:
        return ", nor any linear, convolution or normalization layer, so nothing can be probed"
    names = _listed([layer.name for layer in discovery.layers])
    hint = f"; name layers whose output is a pre-activation; the layers are {names}"
    if not parts:
        return hint
    return f", except parts of other functions ({_listed(parts)}){hint}; activation=... can give the whole function"


def are_found(discovery: Discovery, wanted: Sequence[str] | None) -> bool:
    """Return whether more passes can't add to the layers asked for: these are names, and all are found."""
    return wanted is not None and all(_matched(discovery, name, exactly=True) for name in wanted)


def _matched(discovery: Discovery, name: str, *, exactly: bool = False) -> set[str]:
    """Return the full names that a name or glob matches; of globs, none if names must match `exactly`."""
    matched = {place.name for place in discovery.places if name in (place.name, _any_call(place.name))}
    if not matched and _is_glob(name) and not exactly:
        return {layer.name for layer in discovery.layers if fnmatchcase(layer.name, name)}
    return matched


def _any_call(name: str) -> str:
    """Return a name without @k, the number of the call."""
    return re.sub(r"@\d+(?=$|\[)", "", name)


def _is_glob(name: str) -> bool:
    return any(mark in name for mark in "*?[")


def _why_no_layer(model: Model, discovery: Discovery, name: str) -> str:
    """Return the reason why no layer has a name, and what to do."""
    names = [layer.name for layer in discovery.layers]
    path = re.split(r"[@\[]", name)[0]
    modules = dict(model.module.named_modules(remove_duplicate=False))
    if _is_glob(name) and (path not in modules or not name.endswith("]")):
        return f"no layer matches {name!r}; the layers are {_listed(names)}"
    if path not in modules:
        return f"there is no layer {name!r}: {did_you_mean(name, names)}the layers are {_listed(names)}"
    path = next(first for first, module in model.module.named_modules() if module is modules[path])
    aliases = [place.name for place in discovery.places if place.path == path and place.kind != "function"]
    if aliases and _any_call(aliases[0]) != path and "[" in aliases[0]:
        returns = f"{path} ({type(modules[path]).__name__}) returns several tensors"
        return f"there is no layer {name!r}: {returns}; name one of them: {_listed(aliases)}"
    if aliases:
        return f"layer {name!r} is known as {_listed(aliases)}"
    if path not in discovery.called:
        return (
            f"layer {name!r} isn't called in a forward pass, so nothing can be perturbed there (its weights may be "
            f"used directly); layers that are: {_listed(names)}"
        )
    problem = discovery.problems.get(
        path, "its output is that of the model" if not path else "it computes weights"
    )
    inside = [layer for layer in names if path and layer.startswith((f"{path}.", f"{path}:"))]
    hint = f"layers in it: {_listed(inside)}" if inside else f"layers are: {_listed(names)}"
    return f"layer {name!r} ({type(modules[path]).__name__}) can't be probed: {problem}; {hint}"


def _listed(names: Sequence[str], most: int = 8) -> str:
    """Return the first names as text, and the number of all if there are more."""
    text = ", ".join(names[:most]) or "none"
    return f"{text}, ... ({len(names)} in all)" if len(names) > most else text
