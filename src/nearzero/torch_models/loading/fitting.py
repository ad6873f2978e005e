"""Weights put into a model: prefixes taken off, tied weights filled in, and every other name told or refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nearzero.errors import InputError
from nearzero.support.display import Displayed
from nearzero.torch_models.batches import type_name, type_of
from nearzero.torch_models.loading.weights import read_weights
from nearzero.torch_models.state import as_module

__all__ = ["LoadedWeights", "load_weights"]

NEARLY_ALL = 0.75  # the share of a file's names that must have or lack a prefix
CONSTANT = (torch.int64, torch.bool)  # buffers of these types hold positions, counts and masks


@dataclass(frozen=True)
class LoadedWeights(Displayed):
    """The names of what was loaded into a model, and of everything that wasn't.

    Attributes:
        path: the file or folder.
        inside: the keys of a checkpoint under which the weights were, joined by dots; "" if there are none.
        prefix: the prefix that was taken off the names of the file; "" if there is none.
        added: the prefix that the names of the file lacked; "" if there is none.
        loaded: the model's names that were found.
        tied: the model's names that share the memory of others that were found.
        unused: names of the file that the model doesn't have, and the other keys of a checkpoint.
        kept: buffers of the model that the file lacks; they are as the model was built.

    Example:
        >>> import nearzero as nz
        >>> print(nz.LoadedWeights("net.pt", "state_dict", "", ("w", "b"), unused=("epoch",)))
        weights: 2 tensors from net.pt, in state_dict
        in the file and not used: epoch
    """

    path: Path
    inside: str
    prefix: str
    loaded: tuple[str, ...]
    tied: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    added: str = ""

    def __str__(self) -> str:
        inside = f", in {self.inside}" if self.inside else ""
        prefix = f", without the prefix {self.prefix}" if self.prefix else ""
        prefix += f", with the prefix {self.added}" if self.added else ""
        lines = [f"weights: {len(self.loaded)} tensors from {self.path}{inside}{prefix}"]
        for problem, names in (
            ("share the memory of others", self.tied),
            ("in the file and not used", self.unused),
            ("not in the file and left as built", self.kept),
        ):
            if names:
                lines.append(f"{problem}: {', '.join(names)}")
        return "\n".join(lines)


def load_weights(model: nn.Module, path: str | Path) -> LoadedWeights:
    """Load weights from a file into a model, and return the names of what was and wasn't used.

    A weight that two names share may be saved once. A prefix that the names have or lack, such as "module.", is
    taken off or added. Names that the model doesn't have are not used. If anything is refused, the model is as it was.

    Args:
        model: the model, which is changed.
        path: safetensors, or a state dict or checkpoint that PyTorch saved (.pt, .pth, .pth.tar, .th, .bin,
            .ckpt, .pkl); the index of several such files; or a folder with one of these. Nothing is unpickled.

    Raises:
        InputError: the weights can't be read, parameters are missing, or shapes differ.

    Example:
        >>> import tempfile, nearzero as nz
        >>> from torch import nn, save
        >>> saved, model = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save({"epoch": 5, "model_state_dict": saved.state_dict()}, f"{folder}/net.pt")
        ...     loaded = nz.load_weights(model, f"{folder}/net.pt")
        >>> loaded.loaded, loaded.unused
        (('weight', 'bias'), ('epoch',))
        >>> bool((model.weight == saved.weight).all())
        True
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module; got {type_name(model)}")
    module, path = as_module(model), Path(path)
    saved = read_weights(path)
    own = dict(module.state_dict(keep_vars=True))
    try:
        state, prefix, added = _renamed(saved.state, own)
        missing, unexpected = _load(module, state, own)
    except InputError as error:
        raise InputError(f"the weights in {path} don't fit the model: {error}") from error
    tied = _tied(missing, state, own)
    full_names = dict(zip(state, saved.state, strict=True))
    return LoadedWeights(
        path,
        saved.inside,
        prefix,
        loaded=tuple(name for name in own if name not in missing),
        tied=tuple(tied),
        unused=(*(full_names.get(name, name) for name in unexpected), *saved.beside),
        kept=tuple(name for name in missing if name not in tied),
        added=added,
    )


_Renamed = tuple[dict[str, Any], str, str]  # a state dict, and the prefixes taken off and added


def _renamed(state: dict[str, Any], own: Mapping[str, Any]) -> _Renamed:
    """Return a state dict whose names fit the model, with a prefix taken off or added if they don't as they are.

    If none fits, it is that of which most names are the model's, since the module's hooks may rename others.

    Raises:
        InputError: several prefixes fit.
    """
    plain = (state, "", "")
    candidates: list[_Renamed] = [plain]
    for prefix in _prefixes(state, own):
        carried = sum(name.startswith(prefix) for name in state)
        rest = {name.removeprefix(prefix): value for name, value in state.items()}
        if carried >= NEARLY_ALL * len(state) and len(rest) == len(state):
            candidates.append((rest, prefix, ""))
    candidates += [
        ({prefix + name: value for name, value in state.items()}, "", prefix)
        for prefix in _prefixes(own, state)
        if sum(prefix + name in own for name in state) >= NEARLY_ALL * len(state)
    ]
    fitting = [candidate for candidate in candidates if _fits(candidate[0], own)]
    if len(fitting) > 1 and fitting[0] is not plain:
        ways = " or ".join(f"without {off}" if off else f"with {on}" for _, off, on in fitting)
        raise InputError(f"their names fit in several ways, {ways}; save them under the model's own names")
    return fitting[0] if fitting else max(candidates, key=lambda each: len(own.keys() & each[0].keys()))


def _prefixes(names: Iterable[str], others: Mapping[str, Any]) -> list[str]:
    """Return the prefixes, up to a dot, without which some names are among others."""
    dots = ((name, place) for name in names for place, letter in enumerate(name, 1) if letter == ".")
    return list(dict.fromkeys(name[:place] for name, place in dots if name[place:] in others))


def _fits(state: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Return whether a state dict has all that the model needs, in the model's shapes."""
    lacking = (name for name in own if name not in state)
    return not _needed(lacking, state, own) and not _differences(state, own)


def _load(module: nn.Module, state: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Load a state dict, and return the names that it lacks and those that the module lacks.

    The module's own hooks may rename what it loads, so it's the module that says what is missing. If names or
    shapes don't fit, it is tried on a copy of the values.

    Raises:
        InputError: parameters are missing, or something doesn't fit; the module is as it was.
    """
    lacking = [name for name in own if name not in state]
    unfit = _differences(state, own)
    in_doubt = bool(unfit or _needed(lacking, state, own))
    before = {name: value.detach().clone() for name, value in _tensors_of(own)} if in_doubt else {}
    try:
        _check_values(state, own)
        result = module.load_state_dict(state, strict=False)
        missing, unexpected = list(result.missing_keys), list(result.unexpected_keys)
        _check_complete(_needed(missing, state, own), unexpected)
    except Exception as error:  # a module's hooks may raise anything
        with torch.no_grad():
            for name, value in before.items():
                own[name].copy_(value)
        if isinstance(error, InputError):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise InputError(_several(unfit) if unfit else lines[min(1, len(lines) - 1)]) from error
    return missing, unexpected


def _check_complete(needed: list[str], unexpected: list[str]) -> None:
    """Refuse weights that lack parameters."""
    if needed:
        reasons = [f"the file lacks {_listed(needed)}"]
        if unexpected:
            reasons.append(f"the model has no {_listed(unexpected)}")
        raise InputError("; ".join(reasons))


def _differences(state: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Return what differs in shape between the file and the model, a phrase for each name."""
    found = []
    for name, value in _tensors_of(own):
        given = state.get(name, value)
        if not isinstance(given, Tensor):
            found.append(f"{name} is {type_name(given)} in the file, not a tensor")
        elif given.shape != value.shape and not (given.shape == (1,) and value.ndim == 0):
            found.append(
                f"size mismatch for {name}: {tuple(given.shape)} in the file, {tuple(value.shape)} in the model"
            )
    return found


def _check_values(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse what PyTorch would take without a word: whole numbers for weights, two values for one tensor."""
    for name, value in _tensors_of(own):
        given = state.get(name)
        if isinstance(given, Tensor) and value.is_floating_point() and not given.is_floating_point():
            raise InputError(f"{name} holds {type_of(given)} in the file, {type_of(value)} in the model")
    for names in _shared(own).values():
        first, *others = [name for name in names if name in state] or [""]
        for other in others:
            alike = own[first].shape == own[other].shape
            if alike and not _equal(state[first], state[other]):
                raise InputError(f"{first} and {other} are one tensor in the model and differ in the file")


def _needed(missing: Iterable[str], state: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Return the missing names without which the model isn't the saved one: all but tied ones and constants."""
    missing = list(missing)
    tied = _tied(missing, state, own)
    return [name for name in missing if name not in tied and not _is_constant(own.get(name))]


def _is_constant(value: Any) -> bool:
    """Return whether a value is a buffer that the model's code sets: positions, a count, a mask."""
    if not isinstance(value, Tensor):
        return value is not None  # extra state of a module
    return not isinstance(value, nn.Parameter) and value.dtype in CONSTANT


def _tied(missing: Iterable[str], state: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Return the missing names whose memory is that of a name that is found, and that is all of this memory."""
    whole = {
        key
        for key, names in _shared(own).items()
        if any(name in state and own[name].nbytes == key[1] for name in names)
    }
    return [name for name in missing if name in own and _memory(own[name]) in whole]


def _shared(own: Mapping[str, Any]) -> dict[tuple[int, int], list[str]]:
    """Return the names of the tensors in each piece of memory."""
    shared = defaultdict(list)
    for name, value in _tensors_of(own):
        memory = _memory(value)
        if memory is not None:
            shared[memory].append(name)
    return shared


def _memory(value: Any) -> tuple[int, int] | None:
    """Return the address and the bytes of a tensor's storage; None if it has none."""
    try:
        storage = value.untyped_storage()
        return (storage.data_ptr(), storage.nbytes()) if storage.nbytes() else None
    except (AttributeError, NotImplementedError, RuntimeError):  # not a tensor; sparse, nested
        return None


def _tensors_of(own: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in own.items() if isinstance(value, Tensor)]


def _equal(left: Any, right: Any) -> bool:
    """Return whether two tensors are the same values, NaN included."""
    return left is right or (
        left.shape == right.shape and bool(((left == right) | ((left != left) & (right != right))).all())
    )


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"


def _several(phrases: list[str]) -> str:
    return phrases[0] + (f"; and {len(phrases) - 1} more" if len(phrases) > 1 else "")
