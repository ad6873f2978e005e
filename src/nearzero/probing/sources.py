"""Models and data as jobs are given them: named where they have a name, else pickled, and opened in any process."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nearzero.support.workers import Packed, Workers
from nearzero.torch_models.loading import load_weights
from nearzero.torch_models.named import Loading, NamedModel, is_named, open_model
from nearzero.torch_models.state import Surroundings, as_module

__all__ = [
    "ONE_AT_A_TIME",
    "JobInputs",
    "ModelSource",
    "anywhere",
    "is_on_processor",
    "module_digest",
    "weights_digest",
]

ONE_AT_A_TIME = threading.RLock()  # a user's code draws from the generators of the process


@dataclass(frozen=True)
class JobInputs:
    """Hold what all jobs of one call need, with the random states and PyTorch's switches of the calling process.

    Attributes:
        packed: the objects.
        surroundings: the states and switches, from which the order of shuffled data follows.
    """

    packed: Packed
    surroundings: Surroundings

    @classmethod
    def of(cls, value: Any, what: str, workers: Workers) -> JobInputs:
        """Return objects as the workers need them; `what` names them in messages.

        Raises:
            InputError: they can't be sent to another process.
        """
        return cls(Packed.of(value, what, workers), Surroundings())


@dataclass(frozen=True)
class ModelSource:
    """A model, and how any process makes it.

    Attributes:
        name: of the model or its weights, in messages.
        model: a module, one that was opened by name, a function that builds it, or a name; and settings for a name.
        weights: the file with its weights; None if the model has them.
        origin: the model's name as it was given, if it is given by name.
    """

    name: str
    model: Packed
    weights: Path | None
    origin: str

    @classmethod
    def of(cls, model: Any, loading: Loading | None, name: str, workers: Workers) -> ModelSource:
        """Return a model as the workers need it: by the name by which it was opened, if they are other processes.

        Raises:
            InputError: it can't be sent to another process.
        """
        recipe = model.recipe if isinstance(model, NamedModel) and not workers.are_here else None
        if recipe is None:
            return cls(name, Packed.of((anywhere(model), loading), name, workers), None, "")
        packed = Packed.of((anywhere(recipe.name), recipe.loading), name, workers)
        return cls(name, packed, recipe.weights, recipe.name)

    @property
    def is_opened_again(self) -> bool:
        """Return whether a worker makes the model anew from its name, and not from its pickle."""
        return bool(self.origin)

    def open(self) -> nn.Module | NamedModel:
        """Return the model with its weights.

        Raises:
            InputError: the model or its weights can't be loaded.
        """
        model, loading = self.model.open()
        if isinstance(model, str):
            opened = open_model(model, loading)
            model = opened.called(replace(opened.origin, name=self.origin))
        if self.weights is None:
            return model if isinstance(model, NamedModel) else as_module(model)
        if isinstance(model, NamedModel):
            named, _ = replace(model, module=copy.deepcopy(model.module)).with_weights(self.weights)
            return named.called(replace(named.origin, name=f"{model.origin.name} with {self.name}"))
        module = copy.deepcopy(model) if isinstance(model, nn.Module) else as_module(model())
        load_weights(module, self.weights)
        return module


def anywhere(given: Any) -> Any:
    """Return a name of a file, or of a function in one, that holds in any working folder; anything else as it is."""
    if not isinstance(given, str) or is_named(given):
        return given
    path, colon, function = given.rpartition(":")
    if colon and path.endswith(".py"):
        return f"{Path(path).absolute()}:{function}"
    return str(Path(given).expanduser().absolute()) if Path(given).expanduser().exists() else given


def is_on_processor(module: nn.Module) -> bool:
    """Return whether all weights and buffers of a module are in the memory of the processor."""
    return all(tensor.device.type == "cpu" for tensor in (*module.parameters(), *module.buffers()))


def weights_digest(module: nn.Module) -> str | None:
    """Return the SHA-256 of a module's parameters, in their order; None if it has none that are dense."""
    values = [value.detach() for value in module.parameters() if value.layout == torch.strided]
    return _digest(values) if values else None


def module_digest(module: nn.Module) -> str:
    """Return the SHA-256 of the classes of a module's parts, and of its parameters and buffers that are dense."""
    parts = [(name, type(part).__qualname__) for name, part in module.named_modules()]
    tensors = (*module.parameters(), *module.buffers())
    values = [value.detach() for value in tensors if value.layout == torch.strided]
    return hashlib.sha256(f"{parts} {_digest(values)}".encode()).hexdigest()


def _digest(values: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
