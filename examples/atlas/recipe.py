"""What the image classifiers and the language models of the atlas share: images, activations, and the training.

A case such as "ReLU on MNIST" names an activation and a data set. The specs beside this file list the cases, and
`nearzero grid` calls the functions that a spec names for each case and each seed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import nearzero as nz

Examples = tuple[Tensor, Tensor]
TRAINED, MEASURED = 10_000, 1_000  # images; one half of the measured ones gives levels, the other responses


class Abs(nn.Module):
    """The absolute value."""

    def forward(self, values: Tensor) -> Tensor:
        """Return |x|, element by element."""
        return values.abs()


ACTIVATIONS = {"ReLU": nn.ReLU, "Abs": Abs, "GELU": nn.GELU}
DATA = {"MNIST": "mnist", "Fashion-MNIST": "fashion-mnist"}


def activation(case: str) -> nn.Module:
    """Return the activation of a case."""
    return ACTIVATIONS[case.partition(" on ")[0]]()


def images(case: str) -> dict[str, Examples]:
    """Return normalised images (N, 1, 28, 28) of a case, and their labels (N,), for training and for measuring."""
    loaded = nz.datasets.load(DATA[case.partition(" on ")[2]])
    parts = {"train": (loaded.train, TRAINED), "test": (loaded.test, MEASURED)}
    return {
        name: (
            torch.from_numpy((split.images[:count] / loaded.white - loaded.mean) / loaded.std).float()[
                :, None
            ],
            torch.from_numpy(split.labels[:count]).long(),
        )
        for name, (split, count) in parts.items()
    }


def train(model: nn.Module, data: Examples, steps: int, batch: int, learning_rate: float) -> None:
    """Train a model in place by AdamW on the mean cross-entropy of random batches, epoch after epoch.

    The rate rises to `learning_rate` in the first tenth of the steps, and falls to 0.
    """
    inputs, targets = data
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    batches: list[Tensor] = []
    model.train()
    for _ in range(steps):
        if not batches:
            batches = [rows for rows in torch.randperm(len(inputs)).split(batch) if len(rows) == batch]
        rows = batches.pop()
        logits = model(inputs[rows])  # (B, K), or (B, T, K) of sequences
        loss = nn.functional.cross_entropy(logits.flatten(0, -2), targets[rows].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
