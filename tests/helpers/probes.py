"""Small models to probe for a page: convolutions, a Vision Transformer, a language model; all with random weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nearzero as nz


@dataclass(frozen=True)
class Probed:
    """A result, what its page shows of the inputs, and the same number of items in words."""

    result: nz.ProbeResult
    options: dict[str, Any] = field(default_factory=dict)

    def page(self) -> str:
        """Return the page."""
        return self.result.to_html(**self.options)


def _images(count: int, side: int, seed: int) -> tuple[np.ndarray, torch.Tensor]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    return images, torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def convolutional(levels: int | None = 9, count: int = 80) -> Probed:
    """Return the probe of a small convolutional network on random pictures."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3), nn.ReLU())
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * 5 * 5, 16), nn.GELU(), nn.Linear(16, 4))
    images, x = _images(count, 16, 0)
    for part in model[::3]:  # type: ignore[index]
        if hasattr(part, "weight"):
            nn.init.normal_(part.weight, std=0.4)
    with torch.no_grad():
        y = torch.where(torch.arange(count) % 5 > 0, model(x - x.mean()).argmax(1), torch.arange(count) % 4)
    metrics = ["accuracy", "agreement", "cross_entropy"]
    result = nz.probe(model, (x - x.mean(), y), levels=levels, metrics=metrics, keep_items=True)
    return Probed(
        result, {"inputs": images, "class_names": ["zero", "one", "<two>", "three"], "title": "A small CNN"}
    )


def transformers_module() -> Any:
    """Return `transformers`; without torchvision, which it doesn't need here and which may not fit the PyTorch."""
    if "torchvision" not in sys.modules:
        sys.modules["torchvision"] = None  # type: ignore[assignment]
    return pytest.importorskip("transformers")


def vision_transformer(levels: int | None = 7, count: int = 40) -> Probed:
    """Return the probe of a tiny Vision Transformer."""
    transformers = transformers_module()
    torch.manual_seed(1)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.ViTConfig(image_size=16, patch_size=8, num_labels=5, **size)
    model = transformers.ViTForImageClassification(config).eval()
    images, x = _images(count, 16, 1)
    y = torch.randint(5, (count,))
    result = nz.probe(model, [{"pixel_values": x, "labels": y}], levels=levels, keep_items=True)
    return Probed(result, {"inputs": images, "title": "A tiny ViT"})


WORDS = ("the", " cat", " sat", "\n", " on", " a", " mat", " <b>", " dog", ".")


def language_model(levels: int | None = 7, count: int = 12) -> Probed:
    """Return the probe of a small language model, with a decoder of ten words."""
    transformers = transformers_module()
    torch.manual_seed(2)
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_positions=24, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    ids = torch.randint(len(WORDS), (count, 24))
    metrics = ["cross_entropy", "accuracy"]
    result = nz.probe(
        model, [{"input_ids": ids, "labels": ids}], levels=levels, metrics=metrics, keep_items=True
    )
    decode = lambda tokens: "".join(WORDS[token] for token in tokens)  # noqa: E731
    return Probed(result, {"inputs": ids, "decode": decode, "title": "A small GPT-2"})
