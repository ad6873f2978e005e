"""The libraries that a name's prefix chooses, and how a name becomes a model or data.

Another library is one more entry: a function from the rest of the name to a `NamedModel`, and perhaps one to data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from nearzero.errors import InputError, did_you_mean
from nearzero.torch_models.assumptions import Assumption
from nearzero.torch_models.loading import build_model, data_digest, load_data
from nearzero.torch_models.named import hf_data, hf_models, timm_models, torchvision_models
from nearzero.torch_models.named.images import image_batches, image_folder, is_image_folder
from nearzero.torch_models.named.options import NONE, Loading
from nearzero.torch_models.named.sources import (
    Kind,
    ModelRecipe,
    NamedData,
    NamedModel,
    Origin,
    Preparation,
    RawData,
    Rows,
    file_hashes,
)
from nearzero.torch_models.named.texts import text_batches

__all__ = ["LIBRARIES", "Library", "Named", "is_named", "is_raw", "open_data", "open_model", "resolve"]

BATCH = 256  # examples, as for all other data
TEXT_FILES = {".txt", ".text", ".md"}


@dataclass(frozen=True)
class Library:
    """A library of models or data, which a prefix of names chooses.

    Attributes:
        packages: whose versions a result keeps.
        model: from the rest of a name, and the user's settings, to the model; None if it has no models.
        data: from the rest of a name, "text" or "image", the user's settings, and whether labels are looked for, to
            texts or images; None if it has no data.
    """

    packages: tuple[str, ...]
    model: Callable[[str, Loading], NamedModel] | None = None
    data: Callable[[str, Kind, Loading, bool], RawData] | None = None


LIBRARIES: dict[str, Library] = {
    "hf": Library(("transformers", "tokenizers", "datasets"), hf_models.open_model, hf_data.open_data),
    "timm": Library(("timm", "torchvision"), timm_models.open_model),
    "torchvision": Library(("torchvision",), torchvision_models.open_model),
}


def is_named(name: object) -> bool:
    """Return whether a name begins with the prefix of a library."""
    return isinstance(name, str) and name.partition(":")[0] in LIBRARIES and ":" in name


def is_raw(name: str) -> bool:
    """Return whether a name leads to texts or images, which a model's preprocessing turns into inputs."""
    path = Path(name).expanduser()
    return is_named(name) or is_image_folder(path) or _is_text(path)


def _is_text(path: Path) -> bool:
    return path.suffix in TEXT_FILES and path.is_file()


def open_model(name: str, loading: Loading | None = None) -> NamedModel:
    """Return a model by its name.

    Args:
        name: the prefix of a library and a name in it, such as "hf:openai-community/gpt2",
            "timm:resnet18.a1_in1k" or "torchvision:resnet18:IMAGENET1K_V1"; or `package.module:function` or
            `file.py:function`.
        loading: settings that overrule what is inferred.

    Raises:
        InputError: there is no such model, or it can't be loaded; the message says what is nearest.

    Example:
        >>> import nearzero as nz
        >>> nz.open_model("torch.nn:Identity").module
        Identity()
        >>> nz.open_model("torchvison:resnet18")
        Traceback (most recent call last):
        nearzero.errors.InputError: torchvison can't be imported: ...; did you mean the prefix 'torchvision'?
    """
    loading = loading or Loading()
    if not name.startswith("hf:"):
        loading.refuse(("auto_class", "dtype"), f"{name} isn't a model of transformers (hf:)")
    if not is_named(name):
        loading.refuse(("untrained",), f"{name} is built by a function of your own")
        return NamedModel(_built(name), Origin(name), recipe=ModelRecipe(name, loading))
    prefix, _, rest = name.partition(":")
    opened = LIBRARIES[prefix].model
    if opened is None or not rest:
        raise InputError(
            f"{prefix}: names {'no models' if opened is None else 'a model after the colon'}; got {name!r}"
        )
    model = opened(rest, loading)
    return replace(model, recipe=ModelRecipe(name, loading)).called(replace(model.origin, name=name))


def _built(name: str) -> nn.Module:
    """Return the model that a function builds, by its name.

    Raises:
        InputError: as for `build_model`; a prefix that is misspelt gets the nearest one.
    """
    try:
        return build_model(name)
    except InputError as error:
        hint = _hint_of_prefix(name)
        raise InputError(f"{error}; {hint}" if hint else str(error)) from error


def _hint_of_prefix(name: str) -> str:
    """Return which prefix of a library may have been meant; "" if none."""
    prefix, colon, rest = name.partition(":")
    if prefix.isidentifier() and (near := did_you_mean(prefix, LIBRARIES)):
        return near.replace("mean", "mean the prefix").rstrip()
    if not colon and "/" in name and not name.endswith(".py"):
        return f"did you mean hf:{name}?"
    if rest and "/" in rest:
        return f"the prefixes of libraries are {', '.join(f'{each}:' for each in LIBRARIES)}"
    return ""


def open_data(
    name: str,
    model: NamedModel | nn.Module | None = None,
    loading: Loading | None = None,
    *,
    batch_size: int | None = None,
) -> NamedData:
    """Return data by their name, as a model takes them.

    Args:
        name: "hf:name:configuration:split"; a folder of images, with a subfolder for each class or without; a text
            file; or what `nearzero probe --data` takes beside these.
        model: the model, whose preprocessing is applied.
        loading: settings that overrule what is inferred.
        batch_size: the number of examples in a batch; 256 if None.

    Raises:
        InputError: there are no such data, or it isn't known how they become the model's inputs.

    Example:
        >>> import nearzero as nz
        >>> images, labels = nz.open_data("digits").batches
        >>> tuple(images.shape)
        (355, 1, 8, 8)
    """
    loading = loading or Loading()
    path = Path(name).expanduser()
    if not is_raw(name):
        loading.refuse(
            ("column", "labels", "classes", "block", "examples", "preprocess"),
            f"{name} is neither a data set by name nor a folder of images nor a text file",
        )
        of_images = {"pixels": loading.pixels, "split": loading.split, "data_dir": loading.data_dir}
        try:
            batches = load_data(name, **of_images)  # type: ignore[arg-type]
        except InputError as error:
            near = "" if ":" in name or path.exists() else did_you_mean(name, _beside(path))
            raise InputError(f"{error}; {near.rstrip()}" if near else str(error)) from error
        return NamedData(batches, Origin(name, files=_array_digests(batches)))
    named = model if isinstance(model, NamedModel) else None
    preparation = _preparation(name, named, loading)
    if is_named(name):
        prefix, _, rest = name.partition(":")
        opened = LIBRARIES[prefix].data
        if opened is None:
            raise InputError(f"{prefix}: names models and no data; got {name!r}")
        needs_labels = preparation.kind == "image" or (preparation.rows and not preparation.fills)
        raw = opened(rest, preparation.kind, loading, needs_labels)
    else:
        loading.refuse(("column",), f"{name} has no columns")
        if loading.labels != NONE:
            loading.refuse(("labels",), f"{name} has no columns")
        raw = _text_file(path, preparation) if _is_text(path) else image_folder(path)
    if raw.kind == "image":
        loading.refuse(("block",), f"{name} holds images")
    if raw.kind != preparation.kind:
        raise InputError(f"{name} holds {raw.kind}s, and the model takes {preparation.kind}s")
    batches_of = image_batches if raw.kind == "image" else text_batches
    data = batches_of(raw, preparation, named, loading, BATCH if batch_size is None else batch_size)
    origin = replace(data.origin, name=name)
    return replace(
        data, origin=origin, rows=[Assumption("data", str(origin), "their name", "data="), *data.rows]
    )


def _beside(path: Path) -> list[str]:
    """Return the names of the files and folders that lie where a path leads, as the path would name them."""
    parent = path.parent
    names = [each.name for each in parent.iterdir()] if parent.is_dir() else []
    return [str(parent / each) for each in names if not each.startswith(".")]


def _array_digests(data: Any) -> dict[str, str]:
    """Return the SHA-256 of arrays; nothing for data that come batch by batch, which are read once."""
    parts = data if isinstance(data, tuple) else (data,)
    if not all(isinstance(part, (Tensor, np.ndarray)) for part in parts):
        return {}
    return {name: data_digest(part) for name, part in zip(("inputs", "targets"), parts, strict=False)}


def _preparation(name: str, model: NamedModel | None, loading: Loading) -> Preparation:
    """Return how texts or images become a model's inputs: as the user says, or as the model's library does.

    Raises:
        InputError: neither is known.
    """
    own = loading.preprocess
    known = model.preparation if model is not None else None
    if isinstance(own, str):
        known = open_model(own).preparation
    elif own is not None:
        shown = getattr(own, "__name__", type(own).__name__)
        return Preparation("image", shown, "given", own)
    if known is None:
        raise InputError(
            f"it isn't known how {name} becomes the input of this model; name a model whose preprocessing it needs by "
            "preprocess, or give a function from an image to a tensor"
        )
    return known if own is None else replace(known, source=f"that of {own}, given")


def _text_file(path: Path, preparation: Preparation) -> RawData:
    """Return the text of a file; its lines that aren't empty, if each text is a row."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read as text: {error}") from error
    lines = [line for line in text.splitlines() if line.strip()]
    texts, value = (lines, "each line that isn't empty") if preparation.rows else ([text], "the whole file")
    row = Assumption("texts of the file", value, "the class of the model", "Loading(auto_class=)")
    return RawData("text", texts, Origin(str(path), files=file_hashes([path])), rows=[row])


@dataclass(frozen=True, eq=False)
class Named:
    """Hold a model and data of which some may have been given by name.

    Attributes:
        model: the model.
        data: the data, as `nearzero.probe` takes them.
        ranges_from: other data for the unit ranges, or None.
        origins: of the model and the data that were given by name.
        class_names: the name of each class; () if they aren't known.
        packages: the libraries that loaded them.
        rows: what was inferred.
    """

    model: Any
    data: Any
    ranges_from: Any = None
    origins: Mapping[str, Origin] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    rows: Rows = field(default_factory=list)


def resolve(
    model: Any,
    data: Any,
    loading: Loading | None = None,
    batch_size: int | None = None,
    ranges_from: Any = None,
) -> Named:
    """Return a model and data, of which those that are given by name are loaded.

    Raises:
        InputError: as for `open_model` and `open_data`.
    """
    if isinstance(model, str):
        model = open_model(model, loading)

    def opened(given: Any) -> Any:
        return open_data(given, model, loading, batch_size=batch_size) if isinstance(given, str) else given

    data, ranges_from = opened(data), opened(ranges_from)
    named = {"model": model, "data": data}
    found = {what: each for what, each in named.items() if isinstance(each, (NamedModel, NamedData))}
    return Named(
        model.module if isinstance(model, NamedModel) else model,
        data.batches if isinstance(data, NamedData) else data,
        ranges_from.batches if isinstance(ranges_from, NamedData) else ranges_from,
        {what: each.origin for what, each in found.items()},
        next((tuple(each.class_names) for each in found.values() if each.class_names), ()),
        tuple(dict.fromkeys(package for each in found.values() for package in _packages(each.origin.name))),
        [row for each in found.values() for row in each.rows],
    )


def _packages(name: str) -> tuple[str, ...]:
    return LIBRARIES[name.partition(":")[0]].packages if is_named(name) else ()
