"""A small Vision Transformer, trained on MNIST and probed at the GELU of every block.

    python examples/vision_transformer.py           # the figure: studies/vision_transformer/layers.png
    python examples/vision_transformer.py --quick   # the same on little data, in seconds

It shows a glob as the name of several layers, units that are the features of a token (the last dimension), and a
metric of one's own beside accuracy: the probability that the right class is given.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import nearzero as nz


class Block(nn.Module):
    """Attention and an MLP, each beside its residual path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.up, self.mlp.act = nn.Linear(width, 4 * width), nn.GELU()
        self.mlp.down = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        seen = self.norm1(tokens)
        tokens = tokens + self.attention(seen, seen, seen, need_weights=False)[0]
        return tokens + self.mlp(self.norm2(tokens))


class VisionTransformer(nn.Module):
    """An image as 16 tokens, one for each patch of 7 x 7 pixels, and one more for the class."""

    def __init__(self, width: int = 48, depth: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, stride=7)
        self.start = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.start.expand(len(images), -1, -1), tokens], 1) + self.places
        return self.head(self.norm(self.blocks(tokens)[:, 0]))


def train(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> None:
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
    """The probability given to the right class, for each image."""
    return logits.softmax(1).gather(1, target[:, None])[:, 0]


def main(argv: list[str] | None = None) -> nz.ProbeResult:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("studies/vision_transformer"), help="a folder for the result"
    )
    parser.add_argument("--quick", action="store_true", help="fewer images, steps and levels")
    options = parser.parse_args(argv)
    steps, examples, levels = (80, 100, 8) if options.quick else (600, 400, 32)

    torch.manual_seed(0)
    data = nz.datasets.load("mnist-5k" if options.quick else "mnist")
    images, test_images = (torch.from_numpy(each.images)[:, None] / 255 for each in (data.train, data.test))
    labels, test_labels = (torch.from_numpy(each.labels) for each in (data.train, data.test))
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
