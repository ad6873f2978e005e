"""Models of `torchvision` by name, with the preprocessing that belongs to their weights."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from nearzero.errors import InputError, did_you_mean
from nearzero.torch_models.assumptions import Assumption
from nearzero.torch_models.named.hub import is_local
from nearzero.torch_models.named.options import NEW_WEIGHTS, Loading
from nearzero.torch_models.named.packages import first_line, imported, only_tensors
from nearzero.torch_models.named.sources import NamedModel, Origin, Preparation, file_hashes

__all__ = ["open_model"]

HASH = 8  # hexadecimal digits of the SHA-256 in the name of a published file


def open_model(name: str, loading: Loading) -> NamedModel:
    """Return a model of `torchvision`.

    Args:
        name: `resnet18:IMAGENET1K_V1`; `resnet18` for its default weights; or `resnet18:./weights.pth`, for weights in
            a file or folder of one's own.
        loading: the user's settings.

    Raises:
        InputError: there is no such model, or no such weights, or they can't be loaded.
    """
    models = imported("torchvision.models")
    architecture, _, asked = name.partition(":")
    if architecture not in models.list_models():
        hint = did_you_mean(architecture, models.list_models())
        raise InputError(
            f"torchvision has no model {architecture!r}: {hint}torchvision.models.list_models() lists them all"
        )
    table = models.get_model_weights(architecture)
    own = Path(asked).expanduser() if asked and is_local(asked) else None
    if own is not None:
        loading.refuse(("untrained",), f"{asked} holds weights")
    weights = table.DEFAULT if own is not None or not asked else _weights(table, architecture, asked)
    none = own is not None or loading.untrained
    with only_tensors() as files, redirect_stdout(sys.stderr):  # PyTorch prints where it downloads to
        try:
            module = models.get_model(architecture, weights=None if none else weights).eval()
        except OSError as error:  # urllib's errors are among them
            raise InputError(
                f"the weights {weights} can't be fetched, and aren't in the cache ({weights.url}): {first_line(error)}"
            ) from error
        except Exception as error:  # of a damaged file, any
            raise InputError(f"the weights {weights} can't be loaded: {first_line(error)}") from error
    hashes = file_hashes(files)
    source = "the name" if asked else "the default of torchvision"
    rows = [
        NEW_WEIGHTS if loading.untrained else Assumption("weights", str(weights), source, "model="),
        *(
            Assumption(
                "weights of the cache",
                f"{file} isn't the published file",
                f"its SHA-256 is {digest}",
                "model=",
            )
            for file, digest in hashes.items()
            if not digest.startswith(file.rpartition("-")[2][:HASH])
        ),
    ]
    classes = tuple((str(each),) for each in weights.meta.get("categories", ()))
    preparation = None if loading.preprocess is not None else _preparation(weights, own is not None)
    if own is None:
        origin = Origin(f"torchvision:{name}", "" if loading.untrained else weights.name, hashes)
        return NamedModel(module, origin, preparation, classes, len(classes) or None, rows)
    model = NamedModel(module, Origin(f"torchvision:{architecture}"), preparation)
    return model.with_weights(own)[0]


def _weights(table: Any, architecture: str, name: str) -> Any:
    """Return the weights of a model by their name.

    Raises:
        InputError: there are no such weights.
    """
    short = name.removeprefix(f"{table.__name__}.")
    if short not in table.__members__:
        hint = did_you_mean(short, table.__members__)
        raise InputError(
            f"{architecture} has no weights {name!r}: {hint}there are {', '.join(table.__members__)}"
        )
    return table[short]


def _preparation(weights: Any, are_own: bool) -> Preparation:
    """Return the preprocessing that belongs to weights."""
    transforms = weights.transforms()
    source = f"those of {weights}, since the file says nothing" if are_own else f"the transforms of {weights}"
    return Preparation("image", " ".join(str(transforms).split()), source, transforms)
