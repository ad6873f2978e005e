"""Small networks with data, and settings of their probes, for worker processes too, which import them by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import nearzero as nz

Probed = tuple[nn.Module, Any, dict[str, Any]]  # the model, its data, and settings


class Language(nn.Module):
    """A causal transformer: one block of attention and a perceptron."""

    def __init__(self, words: int = 11, width: int = 8) -> None:
        super().__init__()
        self.words, self.queries = nn.Embedding(words, width), nn.Linear(width, 3 * width)
        self.wide, self.act, self.narrow = nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width)
        self.head = nn.Linear(width, words)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        queries, keys, values = self.queries(x).chunk(3, -1)
        x = x + nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self.head(x + self.narrow(self.act(self.wide(x))))


class OwnMetric:
    """A metric that is one number for a batch, so that the assumptions say so."""

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        return logits.std()


class Rare(nn.Module):
    """A layer and its activation, whose first units are dead and which only rows with a large first value reach."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(4, 4), nn.ReLU()
        nn.init.constant_(self.linear.bias[:2], -100.0)

    def forward(self, x: Tensor) -> Tensor:
        rows = (x[:, 0] > 50).nonzero()[:, 0]
        if not len(rows):
            return x
        out = x.clone()
        out[rows] = self.act(self.linear(x[rows]))
        return out


def perceptron() -> Probed:
    """Return three layers, of which one has no response at matched displacement, and kept items."""
    x, y = torch.randn(120, 4), torch.randint(0, 3, (120,))
    x[:4, 0] = 100.0
    model = nn.Sequential(Rare(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    design = nz.Design(families=("gains", "cap", "signed_shift"), targets=(0.2,), draws=2)
    batches = list(zip(x.split(30), y.split(30), strict=True))
    return model, batches, {"design": design, "keep_items": True}


def convolutional() -> Probed:
    """Return a network in training mode, with data whose order is drawn."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.GELU())
    model.extend([nn.Dropout(0.5), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)])
    images = TensorDataset(torch.randn(40, 3, 8, 8), torch.randint(0, 3, (40,)))
    metrics = {"accuracy": "accuracy", "spread": OwnMetric()}
    return model, DataLoader(images, batch_size=16, shuffle=True), {"metrics": metrics}


def language() -> Probed:
    """Return a language model with tokens, and the layers that are named."""
    settings = {"layers": ["wide", "queries", "act"], "metrics": "perplexity", "quantiles": (0.01, 0.99)}
    texts = [torch.randint(0, 11, (5, 7)) for _ in range(3)]
    return Language(), [(ids, ids) for ids in texts], settings


NETWORKS: dict[str, Callable[[], Probed]] = {
    "perceptron": perceptron,
    "convolutional": convolutional,
    "language": language,
}
