"""The data of a user's own networks: a data set by name, texts or images by name, or what a function returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from nearzero.datasets import Dataset as KnownData
from nearzero.datasets import load
from nearzero.errors import InputError
from nearzero.grid.own.names import is_data_name, loading_of
from nearzero.grid.own.spec import SEED
from nearzero.torch_models.batches import type_name
from nearzero.torch_models.loading import data_digest
from nearzero.torch_models.loading.functions import call, function_of, seed_generators
from nearzero.torch_models.named import NamedData, open_data, open_model

__all__ = ["OwnData", "as_tensors", "first_examples"]

SPLITS = ("train", "test")


@dataclass(frozen=True)
class OwnData:
    """The data of a run, as plain values from which any process gets the same data.

    Attributes:
        name: of a data set, or of the user's function.
        pixels: of a data set, see `OwnNetwork`.
        data_dir: a folder with the files of a data set; None for the usual places.
        arguments: of the function.
        hashes: the SHA-256 of each split, or of each file of a data set; empty as long as it isn't known.
        model: of texts or images by name, the name of the model whose preprocessing they get; "" if `loading` says it.
        loading: of texts or images by name, the settings of `nz.Loading`.
        notice: what a reader must know about the data; None if there is nothing.
    """

    name: str
    pixels: str
    data_dir: str | None
    arguments: Mapping[str, Any]
    hashes: Mapping[str, str]
    model: str = ""
    loading: Mapping[str, Any] | None = None
    notice: str | None = None

    def load(self) -> dict[str, Any]:
        """Return the training and the test split, as "train" and "test"; to be called within `users_code`.

        Raises:
            InputError: there are no such data, or they aren't those of the hashes.
        """
        if is_data_name(self.name):
            named = self._named()
            splits: dict[str, Any] = {"test": named.batches}
            found = dict(named.origin.files)
        elif ":" not in self.name:
            data = _known(self.name, self.data_dir)
            splits = as_tensors(data, self.pixels)
            found = dict(data.hashes)
        else:
            seed_generators(self.arguments.get(SEED, 0))
            result = call(self.name, function_of(self.name, "data"), **self.arguments)
            splits = self._checked(result)
            found = {name: data_digest(split) for name, split in splits.items()}
        if self.hashes and found != dict(self.hashes):
            raise InputError(
                f"{self.name} gives other data than when this work began; give data that are the same in every call: "
                "draw from PyTorch's, NumPy's or Python's global generators, which are seeded, or from seed"
            )
        return splits

    def _named(self) -> NamedData:
        loading = loading_of(self.loading)
        return open_data(self.name, open_model(self.model, loading) if self.model else None, loading)

    def known(self) -> OwnData:
        """Return these data with their hashes and notice; to be called within `users_code`."""
        if is_data_name(self.name):
            return replace(self, hashes=dict(self._named().origin.files))
        if ":" not in self.name:
            data = _known(self.name, self.data_dir)
            return replace(self, hashes=dict(data.hashes), notice=data.notice)
        return replace(self, hashes={name: data_digest(split) for name, split in self.load().items()})

    def _checked(self, result: Any) -> dict[str, Any]:
        form = 'must return {"train": ..., "test": ...}, each in a form that nz.probe takes'
        if not isinstance(result, Mapping):
            raise InputError(f"{self.name} {form}; got {type_name(result)}")
        if missing := [name for name in SPLITS if name not in result]:
            raise InputError(
                f"{self.name} {form}; {missing[0]!r} is missing from {', '.join(map(str, result))}"
            )
        return {name: result[name] for name in SPLITS}


@lru_cache(maxsize=2)
def _known(name: str, data_dir: str | None) -> KnownData:
    return load(name, data_dir=data_dir, report=lambda line: None)


def as_tensors(data: KnownData, pixels: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the splits of a data set as images (N, 1, H, W) float32 and labels (N,) int64, new at every call."""
    splits = {}
    for name in SPLITS:
        split = getattr(data, name)
        images = torch.from_numpy(split.images)[:, None].float()
        if pixels != "raw":
            images /= data.white
        if pixels == "normalized":
            images = (images - data.mean) / data.std
        splits[name] = images, torch.tensor(split.labels, dtype=torch.int64)
    return splits


def number_of_examples(data: Any, setting: str = "a number of examples") -> int:
    """Return the number of examples of a split that can be cut; `setting` says what needs it, for a message.

    Raises:
        InputError: data of another form.
    """
    arrays = data if isinstance(data, tuple) else (data,)
    if all(isinstance(array, (Tensor, np.ndarray)) and array.ndim for array in arrays):
        return len(arrays[0])
    if isinstance(data, Dataset) and hasattr(data, "__len__"):
        return len(data)
    raise InputError(
        f"{setting} needs arrays or a data set of examples; got {type_name(data)}; give as many examples as you want "
        "to measure, and leave examples out"
    )


def first_examples(data: Any, count: int | None) -> Any:
    """Return the first examples of a split; all of them if `count` is None.

    Raises:
        InputError: data of a form that can't be cut, or with fewer examples.
    """
    if count is None:
        return data
    there = number_of_examples(data, f"examples = {count}")
    if isinstance(data, Dataset):
        cut: Any = Subset(data, range(min(count, there)))
    else:
        cut = tuple(array[:count] for array in data) if isinstance(data, tuple) else data[:count]
    if there < count:
        raise InputError(
            f"examples = {count}, but the split has {there}; give at most as many, or leave it out"
        )
    return cut
