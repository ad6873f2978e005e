"""Fully connected networks of any depth, trained one at a time in plain PyTorch.

The engines train stacks of networks of the paper's shape, and are fast. These networks show how a verdict
depends on depth, for which plain PyTorch is fast enough. Recipe, initialisation and batch order are the same:
with one hidden layer this is the network that the engines train from the same seed, up to the order of
float32 sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nearzero.networks import generator, initial_linear
from nearzero.networks.modules import activation_module
from nearzero.training.engine import Examples, epoch_order, steps_per_epoch
from nearzero.training.train import Recipe

__all__ = ["batches", "deep_network", "linear_module", "train_deep"]

CHECK_EVERY = 100  # steps between checks that the loss is finite; each check synchronises with the device


def deep_network(
    activation: str, layers: int, *, inputs: int, units: int, classes: int, seed: int = 0
) -> nn.Sequential:
    """Return an untrained network: `layers` times Linear and activation, then Linear.

    Args:
        activation: a name in `nearzero.ACTIVATIONS`.
        layers: the number of hidden layers.
        inputs, units, classes: D, U of each hidden layer, and K.
        seed: the initial weights are those that PyTorch draws after ``torch.manual_seed(seed)``; the global
            generator isn't used.
    """
    draws = generator(seed)
    modules: list[nn.Module] = []
    for fan_in, fan_out in pairwise([inputs, *[units] * layers]):
        modules += [linear_module(draws, fan_in, fan_out), activation_module(activation)]
    return nn.Sequential(*modules, linear_module(draws, units, classes))


def linear_module(draws: np.random.RandomState, fan_in: int, fan_out: int) -> nn.Linear:
    """Return a linear module with the initial weights that PyTorch draws, see `nearzero.networks.initial`."""
    linear = nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")  # uses no random numbers
    weight, bias = map(torch.from_numpy, initial_linear(draws, fan_in, fan_out))
    linear.load_state_dict({"weight": weight, "bias": bias})
    return linear


def train_deep(
    network: nn.Sequential, examples: Examples, recipe: Recipe, *, seed: int, device: str = "cpu"
) -> bool:
    """Train a network in place, by plain SGD on the mean cross-entropy of each batch.

    Args:
        network: a network of `deep_network`; on the processor afterwards.
        examples: the training set.
        recipe: the learning rate, steps and batch size; nothing is measured during training.
        seed: the seed of the batch order.
        device: the device on which to train.

    Returns:
        Whether all weights are finite. Training stops early if the loss isn't.
    """
    network.to(device)
    weights = list(network.parameters())
    for step, (x, y) in enumerate(batches(examples, recipe, seed)):
        loss = functional.cross_entropy(network(x.to(device)), y.to(device))
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(gradient, alpha=recipe.learning_rate)
        if step % CHECK_EVERY == 0 and not torch.isfinite(loss):
            break
    network.cpu()
    return all(bool(torch.isfinite(weight).all()) for weight in weights)


def batches(examples: Examples, recipe: Recipe, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batch of every step: inputs (B, D) float32, labels (B,)."""
    count, size = len(examples), recipe.batch_size or len(examples)
    epoch = steps_per_epoch(count, size)
    order = np.arange(count)
    for step in range(recipe.steps):
        place = step % epoch
        if place == 0 and recipe.batch_size is not None:
            order = epoch_order(seed, step // epoch, count)
        rows = order[place * size : (place + 1) * size]
        yield torch.from_numpy(examples.pixels.dense(rows)), torch.from_numpy(examples.labels[rows])
