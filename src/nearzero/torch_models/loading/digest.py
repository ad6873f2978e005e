"""A digest of data, by which a result says what was measured, and other data are noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from nearzero.torch_models.batches import leaves

__all__ = ["data_digest"]

SAMPLED = 64  # examples of a data set without arrays, which tell whether it is another one


def data_digest(data: Any) -> str:
    """Return a SHA-256 of data: of all arrays in them; of a data set without arrays, of some examples."""
    digest = hashlib.sha256()
    for part in _parts(data):
        array = part.detach().cpu().contiguous() if isinstance(part, Tensor) else part
        if isinstance(array, Tensor) and array.layout == torch.strided:
            digest.update(f"{array.dtype}{tuple(array.shape)}".encode())
            digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(array, np.ndarray) and array.dtype.kind in "biufc":
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        elif isinstance(array, (str, int, float, bool, bytes)) or array is None:
            digest.update(repr(array).encode())
        else:
            digest.update(type(array).__name__.encode())
    return digest.hexdigest()


def _parts(data: Any) -> Iterator[Any]:
    if isinstance(data, TensorDataset):
        yield from data.tensors
    elif isinstance(data, DataLoader):
        yield from _parts(data.dataset)
    elif isinstance(data, Dataset):
        count = len(data) if hasattr(data, "__len__") else 0
        yield count
        for place in sorted(set(np.linspace(0, count - 1, min(count, SAMPLED)).astype(int).tolist())):
            yield from leaves(data[place])
    else:
        yield from leaves(data)
