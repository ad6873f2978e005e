"""Ten trainings of each size of Pythia: the published one, and the nine of PolyPythias (van der Wal et al., 2025).

`models` is the name of a model of one size and seed, as `nz.open_model` takes it. Seed 0 is the published training,
whose name has no seed. A folder with models saved by transformers does as well: "hf:folder/pythia-{size}-seed{seed}".
"""

from __future__ import annotations

from typing import Any

from torch import nn

import nearzero as nz


def name_of(models: str, size: str, seed: int) -> str:
    """Return the name of one model."""
    return models.format(size=size, seed=seed).removesuffix("-seed0")


def build(models: str, size: str, seed: int) -> nn.Module:
    """Return a trained model."""
    return nz.open_model(name_of(models, size, seed)).module


def data(models: str, text: str, size: str, block: int, blocks: int) -> dict[str, Any]:
    """Return the first blocks of tokens of a text, by the tokenizer of the models; nothing is trained."""
    loading = nz.Loading(block=block, examples=blocks)
    batches = nz.open_data(text, nz.open_model(name_of(models, size, 0)), loading).batches
    return {"train": [], "test": batches}
