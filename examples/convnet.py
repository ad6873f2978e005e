"""A convolutional network, trained on MNIST in about a minute on two cores, and probed at all its activations.

    python examples/convnet.py --out studies/convnet

It shows the shortest way from a model and its data to the figure, and what the choice of unit ranges does:
a unit's range is its minimum and maximum over the data, which a single image can stretch; the second probe takes
the 0.1 % and 99.9 % quantiles in its place, from training images. `studies/convnet/extremes` and
`studies/convnet/quantiles` then hold the responses, a table and the figure each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import nearzero as nz


class ConvNet(nn.Module):
    """Four convolutions and a hidden layer, each with a ReLU, and a linear readout."""

    def __init__(self, side: int = 28, width: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.hidden = nn.Linear(2 * width * (side // 4) ** 2, 64)
        self.act = nn.ReLU()
        self.readout = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.readout(self.act(self.hidden(self.features(images).flatten(1))))


def as_tensors(split: nz.datasets.Split, white: int) -> tuple[Tensor, Tensor]:
    """Images (N, 1, H, W) with pixels from 0 to 1, and labels."""
    return torch.from_numpy(split.images)[:, None].float() / white, torch.from_numpy(split.labels)


def train(model: nn.Module, images: Tensor, labels: Tensor, steps: int, batch: int = 128) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 0.002)
    for step in range(steps):
        rows = torch.randint(len(labels), (batch,))
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:4}  loss {loss.item():.3f}", flush=True)


def main(argv: list[str] | None = None) -> dict[str, nz.ProbeResult]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("studies/convnet"), help="a folder for the results")
    parser.add_argument("--data", default="mnist", help="mnist, mnist-5k, fashion-mnist, digits, ...")
    parser.add_argument("--steps", type=int, default=600, help="of training, 128 images each")
    parser.add_argument("--examples", type=int, default=1000, help="test images to probe with")
    parser.add_argument("--levels", type=int, default=32, help="how many of each family's levels")
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    data = nz.datasets.load(options.data)
    images, labels = as_tensors(data.train, data.white)
    test = tuple(each[: options.examples] for each in as_tensors(data.test, data.white))
    model = ConvNet(side=images.shape[-1])
    train(model, images, labels, options.steps)

    others = images[: 2 * options.examples]
    results = {
        "extremes": nz.probe(model, test, levels=options.levels),
        "quantiles": nz.probe(
            model, test, levels=options.levels, ranges_from=others, quantiles=(0.001, 0.999)
        ),
    }
    for name, result in results.items():
        print(f"{name}: {result.headline}")
        for row in result.summary():
            print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
        print(f"  saved in {result.save(options.out / name)}")
    return results


if __name__ == "__main__":
    main()
