"""The choice of layers by name, among those that discovery has found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from nearzero.errors import InputError, did_you_mean
from nearzero.torch_models.discovery import Discovery
from nearzero.torch_models.layer import Layer
from nearzero.torch_models.state import Model

__all__ = ["select_layers"]


def select_layers(model: Model, discovery: Discovery, wanted: Sequence[str] | None) -> list[Layer]:
    """Return the layers that match some names or globs, in the order of the pass; all activations for None.

    The name of a module or function that is called several times matches all of its calls; name@k matches
    one. The outputs of modules that aren't layers are matched by their names, and not by globs.

    Raises:
        InputError: a name that matches no layer, with the reason.
    """
    if wanted is None:
        chosen = [layer for layer in discovery.layers if layer.kind in ("activation", "function")]
        if not chosen:
            hint = (
                "; name layers whose output is a pre-activation; the layers are "
                f"{_listed([layer.name for layer in discovery.layers])}"
                if discovery.layers
                else ", nor any linear, convolution or normalization layer, so nothing can be probed"
            )
            raise InputError(f"no activation was found in a forward pass{hint}")
        return chosen
    known = [layer.name for layer in discovery.layers]
    names: set[str] = set()
    for name in wanted:
        matched = {place.name for place in discovery.places if name in (place.name, _any_call(place.name))}
        if not matched and _is_glob(name):
            matched = {layer for layer in known if fnmatchcase(layer, name)}
        if not matched:
            raise InputError(_why_no_layer(model, discovery, name))
        names |= matched
    return [place for place in discovery.places if place.name in names]


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
    inside = [layer for layer in names if layer.startswith((f"{path}.", f"{path}:"))]
    hint = f"layers in it: {_listed(inside)}" if inside else f"layers are: {_listed(names)}"
    return f"layer {name!r} ({type(modules[path]).__name__}) can't be probed: {problem}; {hint}"


def _listed(names: Sequence[str], most: int = 8) -> str:
    """Return the first names as text, and the number of all if there are more."""
    text = ", ".join(names[:most]) or "none"
    return f"{text}, ... ({len(names)} in all)" if len(names) > most else text
