"""A small Vision Transformer, trained on MNIST and probed at the GELU of every block.

    python examples/vision_transformer.py           # the figure: studies/vision_transformer/layers.png
    python examples/vision_transformer.py --quick   # the same on little data, in seconds

This example shows three things: a glob that names several layers, units that are the features of a token (the last
dimension), and a metric of your own beside accuracy, the probability of the right class.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import nearzero as nz


class Block(nn.Module):
    """Attention and an MLP, each with a residual path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.up, self.mlp.act = nn.Linear(width, 4 * width), nn.GELU()
        self.mlp.down = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens of the same shape (N, T, width)."""
        normalized = self.norm1(tokens)
        tokens = tokens + self.attention(normalized, normalized, normalized, need_weights=False)[0]
        return tokens + self.mlp(self.norm2(tokens))


class VisionTransformer(nn.Module):
    """A transformer on 16 tokens, one for each patch of 7 x 7 pixels, and one more token for the class."""

    def __init__(self, width: int = 48, depth: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, stride=7)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, 10) of images (N, 1, 28, 28)."""
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), tokens], 1) + self.positions
        return self.head(self.norm(self.blocks(tokens)[:, 0]))


def as_tensors(split: nz.datasets.Split) -> tuple[Tensor, Tensor]:
    """Return images (N, 1, 28, 28), from 0 to 1, and their labels (N,)."""
    return torch.from_numpy(split.images)[:, None] / 255, torch.from_numpy(split.labels)


def train(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> None:
    """Train a model on random batches of 64 images."""
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.003, total_steps=steps)
    for step in range(1, steps + 1):
        rows = torch.randint(len(labels), (64,))
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)


def right_probability(logits: Tensor, target: Tensor) -> Tensor:
    """Return the probability of the right class for each image, (N,)."""
    return logits.softmax(1).gather(1, target[:, None])[:, 0]


def main(argv: list[str] | None = None) -> nz.ProbeResult:
    """Train the transformer, probe it, print a summary and save the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("studies/vision_transformer"), help="a folder for the result"
    )
    parser.add_argument("--quick", action="store_true", help="fewer images, steps and levels")
    options = parser.parse_args(argv)
    steps, examples, levels = (80, 100, 8) if options.quick else (600, 400, 32)

    torch.manual_seed(0)
    data = nz.datasets.load("mnist-5k" if options.quick else "mnist")
    images, labels = as_tensors(data.train)
    test_images, test_labels = as_tensors(data.test)
    model = VisionTransformer()
    train(model, images, labels, steps)

    result = nz.probe(
        model,
        (test_images[:examples], test_labels[:examples]),
        layers="blocks.*.mlp.act",
        levels=levels,
        metrics=["accuracy", right_probability],
        ranges_from=images[:examples],
    )
    print(result.headline)
    print(pd.DataFrame(result.summary()).to_string(index=False))
    result.save(options.out)
    result.plot("right_probability").savefig(options.out / "right_probability.png", dpi=300)
    print(f"saved in {options.out}")
    return result


if __name__ == "__main__":
    main()
