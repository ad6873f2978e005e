"""A small Vision Transformer, trained on MNIST in about a minute on two cores, and probed at its MLPs.

    python examples/vision_transformer.py --out studies/vision_transformer

It shows how layers are named by a glob (`blocks.*.mlp.act`), that the units of a token are its features (the
last dimension), and a metric of one's own beside accuracy: the probability that the right class is given.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import nearzero as nz


class Block(nn.Module):
    """Attention and an MLP, each beside its residual path."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.up, self.mlp.act = nn.Linear(width, 4 * width), nn.GELU()
        self.mlp.down = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        seen = self.norm1(tokens)
        tokens = tokens + self.attention(seen, seen, seen, need_weights=False)[0]
        return tokens + self.mlp(self.norm2(tokens))


class VisionTransformer(nn.Module):
    """An image as tokens, one for each of 4 x 4 patches, and one for the class."""

    def __init__(self, side: int = 28, width: int = 48, depth: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, side // 4, stride=side // 4)
        self.start = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.start.expand(len(images), -1, -1), tokens], 1) + self.places
        return self.head(self.norm(self.blocks(tokens)[:, 0]))


def right_probability(logits: Tensor, target: Tensor) -> Tensor:
    """The probability given to the right class, for each image."""
    return logits.softmax(1).gather(1, target[:, None])[:, 0]


def main(argv: list[str] | None = None) -> nz.ProbeResult:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("studies/vision_transformer"), help="for the results"
    )
    parser.add_argument("--data", default="mnist", help="mnist, mnist-5k, fashion-mnist, digits, ...")
    parser.add_argument("--steps", type=int, default=600, help="of training, 128 images each")
    parser.add_argument("--examples", type=int, default=500, help="test images to probe with")
    parser.add_argument("--levels", type=int, default=32, help="how many of each family's levels")
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    data = nz.datasets.load(options.data)
    sides = (data.train, data.test)
    images, test_images = (torch.from_numpy(side.images)[:, None].float() / data.white for side in sides)
    labels, test_labels = (torch.from_numpy(side.labels) for side in sides)
    model = VisionTransformer(side=images.shape[-1])
    optimizer = torch.optim.AdamW(model.parameters(), 0.002)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.002, total_steps=options.steps)
    for step in range(options.steps):
        rows = torch.randint(len(labels), (128,))
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == options.steps - 1:
            print(f"step {step:4}  loss {loss.item():.3f}", flush=True)

    result = nz.probe(
        model,
        (test_images[: options.examples], test_labels[: options.examples]),
        layers="blocks.*.mlp.act",
        levels=options.levels,
        metrics={"accuracy": None, "right_probability": right_probability},
    )
    print(result.headline)
    for row in result.summary():
        print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
    print(f"saved in {result.save(options.out)}")
    return result


if __name__ == "__main__":
    main()
