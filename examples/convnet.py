"""A small convolutional network, trained on MNIST and probed at every ReLU.

    python examples/convnet.py           # the figure: studies/convnet/layers.png
    python examples/convnet.py --quick   # the same on little data, in seconds

This is the shortest way from a model of your own to the figure. Unit ranges come from training images. Responses
come from test images, which are used neither for training nor for ranges.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import nearzero as nz


class ConvNet(nn.Module):
    """Four convolutions and a hidden layer, each with a ReLU, and a linear readout."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
        )
        self.hidden = nn.Linear(16 * 7 * 7, 64)
        self.act = nn.ReLU()
        self.readout = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, 10) of images (N, 1, 28, 28)."""
        return self.readout(self.act(self.hidden(self.features(images).flatten(1))))


def as_tensors(split: nz.datasets.Split) -> tuple[Tensor, Tensor]:
    """Return images (N, 1, 28, 28), from 0 to 1, and their labels (N,)."""
    return torch.from_numpy(split.images)[:, None] / 255, torch.from_numpy(split.labels)


def train(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> None:
    """Train a model on random batches of 64 images."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    for step in range(1, steps + 1):
        rows = torch.randint(len(labels), (64,))
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)


def main(argv: list[str] | None = None) -> nz.ProbeResult:
    """Train the network, probe it, print a summary and save the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("studies/convnet"), help="a folder for the result")
    parser.add_argument("--quick", action="store_true", help="fewer images, steps and levels")
    options = parser.parse_args(argv)
    steps, examples, levels = (60, 200, 8) if options.quick else (600, 1000, 32)

    torch.manual_seed(0)
    data = nz.datasets.load("mnist-5k" if options.quick else "mnist")
    images, labels = as_tensors(data.train)
    test_images, test_labels = as_tensors(data.test)
    model = ConvNet()
    train(model, images, labels, steps)

    result = nz.probe(
        model, (test_images[:examples], test_labels[:examples]), levels=levels, ranges_from=images[:2000]
    )
    print(result.headline)
    print(pd.DataFrame(result.summary()).to_string(index=False))
    print(f"saved in {result.save(options.out)}")
    return result


if __name__ == "__main__":
    main()
