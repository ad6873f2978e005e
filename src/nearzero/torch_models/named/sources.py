"""A model and data by name, as they were loaded: the module, the batches, and where each comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torch.utils.data import DataLoader

from nearzero.errors import InputError
from nearzero.torch_models.assumptions import Assumption, Assumptions
from nearzero.torch_models.loading import LoadedWeights, load_weights
from nearzero.torch_models.named.options import Loading

__all__ = [
    "ModelRecipe",
    "NamedData",
    "NamedModel",
    "Origin",
    "Preparation",
    "RawData",
    "Rows",
    "contents_digest",
    "file_hashes",
    "record",
]

Rows = list[Assumption]
Kind = Literal["text", "image"]
SHOWN = 12  # hexadecimal digits of a hash


@dataclass(frozen=True)
class Origin:
    """Say where a model or data come from.

    Attributes:
        name: the name as it was given.
        revision: the commit of the repository, or the name of the weights; "" if it isn't known.
        files: the SHA-256 of the files of weights by their names, or of the data that were read by what they are, such
            as "6 images".

    Example:
        >>> from nearzero.torch_models.named import Origin
        >>> print(Origin("hf:org/name", "607a30d783dfa663caf39e06633721c8d4cfcd7e", {"model.safetensors": "248df"}))
        hf:org/name, revision 607a30d783dfa663caf39e06633721c8d4cfcd7e, model.safetensors (SHA-256 248df)
    """

    name: str
    revision: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        revision = f", revision {self.revision}" if self.revision else ""
        files = "".join(f", {name} (SHA-256 {digest[:SHOWN]})" for name, digest in self.files.items())
        return f"{self.name}{revision}{files}"

    def to_json(self) -> str:
        """Return the attributes as text, which the attributes of a result can hold; `from_json` reads it."""
        return json.dumps({"name": self.name, "revision": self.revision, "files": dict(self.files)})

    @classmethod
    def from_json(cls, text: str) -> Origin:
        """Return the origin that `to_json` has written."""
        return cls(**json.loads(text))


@dataclass(frozen=True, eq=False)
class Preparation:
    """Turn the texts or images of data into the inputs of a model.

    Attributes:
        kind: "text" or "image".
        text: how the value is shown in the assumptions.
        source: how it is known.
        function: from one image to a tensor, or the tokenizer of texts.
        channels: of an image, 1 or 3.
        keyword: the keyword of the model's argument; "" for a model that takes it by position.
        longest: the greatest number of tokens; None if there is no limit.
        pad: the token that fills up a row; None for that of the tokenizer.
        known: the number of tokens that the model knows; None if it isn't known.
        rows: whether a text is a row of its own by default, and has a label; else texts are joined.
        predicts: whether the model predicts the tokens themselves, as a causal language model does.
        fills: whether it predicts the tokens that are masked out.
    """

    kind: Kind
    text: str
    source: str
    function: Callable[..., Any]
    channels: int = 3
    keyword: str = ""
    longest: int | None = None
    pad: int | None = None
    known: int | None = None
    rows: bool = False
    predicts: bool = False
    fills: bool = False


@dataclass(frozen=True, eq=False)
class ModelRecipe:
    """Say how a model was opened.

    Attributes:
        name: the name, as it was given.
        loading: the user's settings.
        weights: other weights that were loaded into it last; None if it has those of its name.
    """

    name: str
    loading: Loading | None
    weights: Path | None = None


@dataclass(frozen=True, eq=False)
class NamedModel:
    """Hold a model that was loaded by its name.

    Attributes:
        module: the model.
        origin: where it comes from.
        preparation: how its inputs are made; None if that isn't known.
        classes: names of each class, the first of which is shown; () if the model has no classes, or no names for them.
        count: the number of classes; None if it has none.
        rows: what was inferred.
        recipe: how another process opens the same model; None if that isn't known.

    Example:
        >>> import nearzero as nz
        >>> model = nz.open_model("torch.nn:Identity")
        >>> model.origin.name, model.class_names
        ('torch.nn:Identity', ())
    """

    module: nn.Module
    origin: Origin
    preparation: Preparation | None = None
    classes: Sequence[Sequence[str]] = ()
    count: int | None = None
    rows: Rows = field(default_factory=list)
    recipe: ModelRecipe | None = None

    def called(self, origin: Origin) -> NamedModel:
        """Return the model with its origin, which the first row of the assumptions says."""
        rows = [row for row in self.rows if row.what != "model"]
        return replace(
            self, origin=origin, rows=[Assumption("model", str(origin), "its name", "model="), *rows]
        )

    def with_weights(self, path: Path) -> tuple[NamedModel, LoadedWeights]:
        """Load other weights into the model; return the model with their origin, and what was and wasn't used.

        Raises:
            InputError: the weights can't be read, or don't fit.
        """
        loaded = load_weights(self.module, path)
        files = [path] if path.is_file() else sorted(each for each in path.iterdir() if each.is_file())
        recipe = None if self.recipe is None else replace(self.recipe, weights=path.absolute())
        origin = Origin(f"{self.origin.name} with {path}", "", file_hashes(files))
        return replace(self, recipe=recipe).called(origin), loaded

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the name of each class; () if they aren't known."""
        return tuple(names[0] for names in self.classes)


@dataclass(frozen=True, eq=False)
class RawData:
    """Hold texts or images as their library gives them, before a model's preprocessing.

    Attributes:
        kind: "text" or "image".
        items: the texts, or images of PIL. A sequence with a method `contents`, which yields the bytes of each image as
            it is kept, needn't decode them for the digest of the data.
        origin: where they come from.
        labels: the label of each, a number or a name; None if there are none.
        names: the names of the classes by number; () if labels are names themselves or have none.
        rows: what was inferred.
    """

    kind: Kind
    items: Sequence[Any]
    origin: Origin
    labels: Sequence[Any] | None = None
    names: tuple[str, ...] = ()
    rows: Rows = field(default_factory=list)

    def first(self, count: int | None) -> RawData:
        """Return the first of the data; all of them if None."""
        if count is None or count >= len(self.items):
            return self
        row = Assumption(
            "examples", f"the first {count:,} of {len(self.items):,}", "given", "Loading(examples=)"
        )
        labels = None if self.labels is None else self.labels[:count]
        return replace(self, items=self.items[:count], labels=labels, rows=[*self.rows, row])


@dataclass(frozen=True, eq=False)
class NamedData:
    """Hold data that were loaded by their name, as a model takes them.

    Attributes:
        batches: what `nearzero.probe` takes as data: a loader of batches, or arrays.
        origin: where they come from.
        class_names: the name of each class; () if they aren't known.
        rows: what was inferred.

    Example:
        >>> import nearzero as nz
        >>> data = nz.open_data("digits")
        >>> data.origin.name, list(data.origin.files)  # whose values are SHA-256
        ('digits', ['inputs', 'targets'])
    """

    batches: DataLoader[Any] | Any
    origin: Origin
    class_names: Sequence[str] = ()
    rows: Rows = field(default_factory=list)


def contents_digest(contents: Iterable[bytes]) -> str:
    """Return the SHA-256 of some contents, each with its length, so that other cuts of the same bytes differ."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def record(assumptions: Assumptions, rows: Iterable[Assumption]) -> None:
    """Record rows in a table of assumptions."""
    for row in rows:
        assumptions.record(row.what, row.value, row.source, row.argument)


def file_hashes(paths: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of files, by their names.

    Raises:
        InputError: a file can't be read.
    """
    hashes = {}
    for path in paths:
        try:
            with path.open("rb") as file:
                hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    return hashes
