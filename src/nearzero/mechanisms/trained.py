"""Networks to train whose architecture fixes what small and large activations mean: the trained controls.

Unlike planted networks these solve a task by whatever training finds. In a network with a fixed readout either
the smallest or the largest activation wins, whatever the hidden layer learns. In an OffsetL2 network (arXiv
2502.02103) each unit is a distance to a trained point. `benchmarks/controls.py` trains them on digits and
measures them; `docs/controls.md` says what was expected, and what was found.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nearzero.errors import InputError, check_choice
from nearzero.networks.initial import generator
from nearzero.training.deep import batches, deep_network, linear_module
from nearzero.training.engine import Examples
from nearzero.training.train import Recipe

__all__ = ["OffsetL2", "Winner", "fixed_readout_network", "offset_l2_network", "train_by_adam"]

Winner = Literal["smallest", "largest"]
LEAST_SQUARE = 1e-12  # keeps the gradient of the root finite


class OffsetL2(nn.Module):
    """A layer of distances d_u = sqrt(sum_i alpha_ui (x_i - mu_ui)^2), for x of shape (..., D); alpha > 0.

    The sum is computed as sum alpha x^2 - 2 sum alpha mu x + sum alpha mu^2, which takes two matrix products.
    So d^2 has the rounding error of these three terms, and a d below 1e-6 becomes 1e-6.

    Args:
        mu: (U, D), the points from which distances are taken.
        alpha: (U, D), the weights of the squares. What is trained is their logarithm.

    Raises:
        InputError: mu and alpha of different shapes, or an alpha that isn't positive.

    Example:
        >>> import torch
        >>> from nearzero.mechanisms.trained import OffsetL2
        >>> layer = OffsetL2(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 4.0]]))
        >>> layer(torch.tensor([[4.0, 2.0]])).tolist()  # sqrt(1 * 3^2 + 4 * 2^2)
        [[5.0]]
    """

    def __init__(self, mu: Tensor, alpha: Tensor) -> None:
        super().__init__()
        if mu.ndim != 2 or mu.shape != alpha.shape:
            raise InputError(
                f"mu and alpha must have one shape (units, inputs); got {tuple(mu.shape)} and {tuple(alpha.shape)}"
            )
        if not bool((alpha > 0).all()):
            raise InputError(f"alpha must be positive; the least is {float(alpha.min())}")
        self.mu = nn.Parameter(mu.clone())
        self.log_alpha = nn.Parameter(alpha.log())

    def forward(self, x: Tensor) -> Tensor:
        """Return the distances, (..., U), of x, (..., D)."""
        alpha = self.log_alpha.exp()
        weighted = alpha * self.mu
        squares = x.square() @ alpha.T - 2 * (x @ weighted.T) + (weighted * self.mu).sum(dim=1)
        return squares.clamp_min(LEAST_SQUARE).sqrt()


def offset_l2_network(*, inputs: int, units: int, classes: int, seed: int = 0) -> nn.Sequential:
    """Return an untrained network: OffsetL2, then Linear.

    mu is standard normal, as normalised inputs are on average; alpha is 1 / inputs, so that distances are of
    the order of 1.

    Args:
        inputs, units, classes: D, U and K.
        seed: the seed of the initial weights.

    Example:
        >>> from nearzero.mechanisms.trained import offset_l2_network
        >>> network = offset_l2_network(inputs=64, units=16, classes=10)
        >>> [tuple(weights.shape) for weights in network.parameters()]
        [(16, 64), (16, 64), (10, 16), (10,)]
    """
    draws = generator(seed)
    mu = torch.from_numpy(draws.standard_normal((units, inputs)).astype(np.float32))
    distances = OffsetL2(mu, torch.full_like(mu, 1 / inputs))
    return nn.Sequential(distances, linear_module(draws, units, classes))


def fixed_readout_network(
    activation: str, winner: Winner, *, inputs: int, units_per_class: int, classes: int, seed: int = 0
) -> nn.Sequential:
    """Return an untrained network with a readout that training leaves as it is.

    The logit of a class is the sum of the activations of its units, or minus that sum: the class with the
    largest, or the smallest, activations wins. Units of a class lie side by side, and there is no output
    bias. Only the first layer is trained; its initial weights are those of `deep_network`.

    Args:
        activation: a name in `nearzero.ACTIVATIONS`.
        winner: "smallest" or "largest".
        inputs, units_per_class, classes: the sizes of the network.
        seed: the seed of the initial weights.

    Raises:
        InputError: an unknown activation or winner.

    Example:
        >>> from nearzero.mechanisms.trained import fixed_readout_network
        >>> network = fixed_readout_network("abs", "smallest", inputs=64, units_per_class=2, classes=3)
        >>> network[2].weight.int().tolist()
        [[-1, -1, 0, 0, 0, 0], [0, 0, -1, -1, 0, 0], [0, 0, 0, 0, -1, -1]]
    """
    check_choice("winner", winner, get_args(Winner))
    units = classes * units_per_class
    network = deep_network(activation, 1, inputs=inputs, units=units, classes=classes, seed=seed)
    owners = torch.eye(classes).repeat_interleave(units_per_class, dim=1)
    readout = network[2].requires_grad_(False)
    readout.load_state_dict(
        {"weight": owners if winner == "largest" else -owners, "bias": torch.zeros(classes)}
    )
    return network


def train_by_adam(network: nn.Module, examples: Examples, recipe: Recipe, *, seed: int) -> None:
    """Train a network in place, by Adam on the mean cross-entropy of each batch.

    The learning rate falls linearly, from the recipe's at the first step towards 0 after the last. Parameters that
    don't require a gradient stay as they are.

    Args:
        network: the network, which takes inputs (B, D).
        examples: the training set.
        recipe: the learning rate, steps and batch size; nothing is measured during training.
        seed: the seed of the batch order.

    Raises:
        InputError: the network diverged.
    """
    optimiser = torch.optim.Adam(weight for weight in network.parameters() if weight.requires_grad)
    for step, (x, y) in enumerate(batches(examples, recipe, seed)):
        optimiser.param_groups[0]["lr"] = recipe.learning_rate * (1 - step / recipe.steps)
        optimiser.zero_grad()
        torch.autograd.backward(functional.cross_entropy(network(x), y))
        optimiser.step()
    if not all(bool(torch.isfinite(weight).all()) for weight in network.parameters()):
        raise InputError(
            f"training diverged: some weights aren't finite; use a learning rate below {recipe.learning_rate:g}"
        )
