"""Images: read from folders, turned into a model's inputs, and their classes into the model's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nearzero.errors import InputError, did_you_mean
from nearzero.support.files import read_bytes
from nearzero.torch_models.assumptions import Assumption
from nearzero.torch_models.named.options import NONE, ORDER, Loading
from nearzero.torch_models.named.sources import (
    NamedData,
    NamedModel,
    Origin,
    Preparation,
    RawData,
    Rows,
    contents_digest,
)

__all__ = ["image_batches", "image_folder", "is_image_folder", "labels_of"]

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of PIL, by the number of channels
DEEP = ("I", "F")  # the beginnings of modes with more than 8 bits, whose values PIL would cut off at 255
SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"}
MOST_SHOWN = 5  # classes in a message


def is_image_folder(folder: Path) -> bool:
    """Return whether a folder holds images, or subfolders that do."""
    return folder.is_dir() and any(
        path.suffix.lower() in SUFFIXES
        for place in (folder, *_subfolders(folder))
        for path in place.iterdir()
    )


def image_folder(folder: Path) -> RawData:
    """Return the images of a folder, with a class for each subfolder if there are any, in the order of their names.

    Raises:
        InputError: images lie both beside subfolders with images and in them.
    """
    subfolders = [each for each in _subfolders(folder) if _images_in(each)]
    beside = _images_in(folder)
    if subfolders and beside:
        raise InputError(
            f"{folder} holds images ({beside[0].name}) beside the folders of classes ({subfolders[0].name}); move them"
        )
    paths = beside or [path for each in subfolders for path in _images_in(each)]
    labels = None if beside else [number for number, each in enumerate(subfolders) for _ in _images_in(each)]
    names = tuple(each.name for each in subfolders)
    where = f"{len(names)} subfolders, a class each" if names else "the folder, which has no classes"
    rows = [Assumption("images", f"{len(paths):,} of {folder}", where, "data=")]
    return RawData("image", _Files(paths), Origin(str(folder)), labels, names, rows)


class _Files(Sequence[Any]):
    """Images in files, which are read when they are needed."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def contents(self) -> Iterator[bytes]:
        """Yield the name of each file with that of its folder, and its bytes."""
        for path in self.paths:
            yield f"{path.parent.name}/{path.name}".encode()
            yield read_bytes(path)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return _Files(self.paths[number])
        path = self.paths[number]
        try:
            with Image.open(path) as image:
                image.load()
                return image
        except (OSError, ValueError, SyntaxError) as error:  # PIL raises them for damaged files
            raise InputError(f"{path} can't be read as an image: {error}") from error


def image_batches(
    raw: RawData, preparation: Preparation, model: NamedModel | None, loading: Loading, batch_size: int
) -> NamedData:
    """Return images as batches of a model's inputs, with labels if there are any.

    Raises:
        InputError: the model takes images of other channels, or as for `labels_of`.
    """
    if preparation.channels not in MODES:
        raise InputError(
            f"the model takes images of {preparation.channels} channels; images by name have 1 (grey), 3 (RGB) or 4 "
            "(RGBA), so give batches of your own"
        )
    raw = raw.first(loading.examples)
    rows = [
        *raw.rows,
        Assumption("preprocessing", preparation.text, preparation.source, "Loading(preprocess=)"),
        Assumption(
            "colours", MODES[preparation.channels], "the channels of the model", "Loading(preprocess=)"
        ),
    ]
    labels, names = labels_of(raw, model, loading, rows)
    examples = _Images(raw.items, labels, preparation)
    collate = partial(_collated, keyword=preparation.keyword)
    batches = DataLoader(examples, batch_size, collate_fn=collate)
    return NamedData(batches, _with_digests(raw.origin, raw.items, labels), names, rows)


def _with_digests(origin: Origin, items: Sequence[Any], labels: list[int] | None) -> Origin:
    """Return an origin with the SHA-256 of the images as they are kept, and of their labels as the model's classes."""
    count = f"{len(items):,}"
    digests = {f"{count} images": contents_digest(getattr(items, "contents", partial(_pixels, items))())}
    if labels is not None:
        digests[f"{count} labels"] = contents_digest(str(label).encode() for label in labels)
    return replace(origin, files={**origin.files, **digests})


def _pixels(items: Sequence[Any]) -> Iterator[bytes]:
    for image in items:
        yield f"{image.mode} {image.size}".encode()
        yield image.tobytes()


class _Images(Dataset[tuple[Tensor, Any]]):
    """Prepared images with their labels."""

    def __init__(self, items: Sequence[Any], labels: list[int] | None, preparation: Preparation) -> None:
        self.items, self.labels, self.preparation = items, labels, preparation

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> tuple[Tensor, Any]:
        image = self.items[number]
        mode = MODES[self.preparation.channels]
        if image.mode.startswith(DEEP):
            shown = getattr(self.items, "paths", {number: f"image {number}"})[number]
            raise InputError(
                f"{shown} has more than 8 bits for a colour (mode {image.mode}), which would be cut off at 255; save "
                "it with 8 bits, scaled as the model was trained"
            )
        image = image if image.mode == mode else image.convert(mode)
        return self.preparation.function(image), None if self.labels is None else self.labels[number]


def _collated(examples: list[tuple[Tensor, Any]], keyword: str) -> Any:
    sizes = sorted({tuple(value.shape) for value, _ in examples})
    if len(sizes) > 1:
        raise InputError(
            f"the preprocessing leaves images of several sizes, {sizes[0]} and {sizes[1]}, which make no batch; give a "
            "function to one size by preprocess"
        )
    values = torch.stack([value for value, _ in examples])
    labels = None if examples[0][1] is None else torch.tensor([label for _, label in examples])
    if keyword:
        return {keyword: values} if labels is None else {keyword: values, "labels": labels}
    return values if labels is None else (values, labels)


def labels_of(
    raw: RawData, model: NamedModel | None, loading: Loading, rows: Rows
) -> tuple[list[int] | None, tuple[str, ...]]:
    """Return the labels of data as the model's classes, and the names of the classes.

    What is inferred is added to `rows`.

    Raises:
        InputError: it isn't known which class of the model a class of the data is, or a label is no class.
    """
    known = () if model is None else model.class_names
    if raw.labels is None or loading.labels == NONE:
        loading.refuse(("classes",), f"{raw.origin.name} is taken without labels")
        return None, known
    values = list(raw.labels)
    ordered = bool(raw.names)
    names = raw.names or tuple(sorted({value for value in values if isinstance(value, str)}))
    if not names and isinstance(loading.classes, Mapping):
        names = tuple(str(value) for value in sorted({_number(value) for value in values}))
        values = [str(value) for value in values]
    if not names:
        labels = [_number(value) for value in values]
        source = "the labels are numbers"
        value = "as the data number them"
    else:
        ordered = ordered and not any(isinstance(value, str) for value in values)
        table, value, source = _matched(names, ordered, model, loading)
        labels = [
            table[names.index(each) if isinstance(each, str) else _number(each)] if _fits(each, names) else -1
            for each in values
        ]
    if loading.classes is None or names:
        rows.append(Assumption("classes of the data", value, source, "Loading(classes=)"))
    count = None if model is None else model.count
    if wrong := [label for label in labels if label < 0 or (count is not None and label >= count)]:
        problem = (
            "some labels are -1, which is no class; choose a split with labels"
            if min(wrong) < 0
            else f"the labels go up to {max(wrong)}, and the model has {count} classes"
        )
        raise InputError(f"{raw.origin.name}: {problem}, or leave them out by labels 'none'")
    return labels, known or tuple(names)


def _fits(value: Any, names: Sequence[str]) -> bool:
    return isinstance(value, str) or 0 <= _number(value) < len(names)


def _number(value: Any) -> int:
    if not isinstance(value, int):
        raise InputError(f"labels must be whole numbers or names; got {value!r}")
    return int(value)


def _matched(
    names: Sequence[str], ordered: bool, model: NamedModel | None, loading: Loading
) -> tuple[list[int], str, str]:
    """Return the model's class for each class of the data, how it is shown, and how it is known.

    Args:
        names: of the classes of the data.
        ordered: whether the data number their classes; else the names were sorted.
        model: the model; None if it isn't known.
        loading: the user's settings.

    Raises:
        InputError: it isn't known.
    """
    by_order = list(range(len(names)))
    if loading.classes == ORDER or model is None:
        return (
            by_order,
            "class k of the data is class k of the model",
            "given" if loading.classes else "the order of the names",
        )
    known = _classes_by_name(model)
    if isinstance(loading.classes, Mapping):
        given = {str(name): value for name, value in loading.classes.items()}
        return [_given(name, given, known, model) for name in names], "by name", "given"
    lacking = [name for name in names if _plain(name) not in known]
    if not lacking:
        numbers = [_only(name, known[_plain(name)]) for name in names]
        return numbers, "by name", "all are names of the model's classes"
    others = len(lacking) == len(names) and len(names) == model.count
    if others and ordered and not _are_other_numbers(names):
        return (
            by_order,
            "class k of the data is class k of the model",
            "as many classes as the model has, with other names",
        )
    hint = did_you_mean(lacking[0], [alias for aliases in model.classes for alias in aliases])
    shown = ", ".join(lacking[:MOST_SHOWN]) + (
        f" and {len(lacking) - MOST_SHOWN} more" if len(lacking) > MOST_SHOWN else ""
    )
    raise InputError(
        f"the data have {len(names)} classes and the model has {model.count}, and it isn't known which of the model's "
        f"{shown} {'is' if len(lacking) == 1 else 'are'}: {hint}say it by classes, or leave labels out by labels 'none'"
    )


def _are_other_numbers(names: Sequence[str]) -> bool:
    """Return whether the names of classes are numbers, but not those of their places, as in 0, 1, 10, 2."""
    return all(name.isdecimal() for name in names) and [int(name) for name in names] != list(
        range(len(names))
    )


def _classes_by_name(model: NamedModel) -> dict[str, list[int]]:
    """Return the model's classes of each name, as `_plain` writes it."""
    known: dict[str, list[int]] = {}
    for number, aliases in enumerate(model.classes):
        for name in dict.fromkeys(map(_plain, aliases)):
            known.setdefault(name, []).append(number)
    return known


def _only(name: str, classes: Sequence[int]) -> int:
    """Return the class of a name.

    Raises:
        InputError: several classes have it.
    """
    if len(classes) > 1:
        raise InputError(
            f"several classes of the model are called {name!r}: {', '.join(map(str, classes))}; say which by classes, "
            f"for example classes={name}={classes[0]}"
        )
    return classes[0]


def _given(
    name: str, classes: Mapping[str, str | int], known: Mapping[str, list[int]], model: NamedModel
) -> int:
    """Return the model's class for a class of the data, as the user says."""
    if name not in classes:
        raise InputError(
            f"classes says nothing of {name!r}: {did_you_mean(name, classes)}it is a class of the data"
        )
    value = classes[name]
    found = known.get(_plain(value), []) if isinstance(value, str) else [value]
    if not found or found[0] < 0 or (model.count is not None and found[0] >= model.count):
        hint = did_you_mean(value, [alias for aliases in model.classes for alias in aliases])
        raise InputError(f"the model has no class {value!r}: {hint}it has {model.count}")
    return _only(str(value), found)


def _plain(name: str) -> str:
    """Return a name without what folders and tables write differently."""
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
