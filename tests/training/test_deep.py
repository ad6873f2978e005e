"""Deep networks: with one hidden layer they are the engines' networks; a run depends on its seed alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import nearzero as nz
from nearzero.networks import initial_stack
from nearzero.support.threads import parallel
from nearzero.training.deep import deep_network, train_deep
from nearzero.training.engine import Examples
from nearzero.training.stacked import StackedEngine
from nearzero.training.train import Recipe


@pytest.fixture(scope="module")
def examples(digits: nz.datasets.Dataset) -> Examples:
    return Examples(nz.Pixels(digits.train.pixels[:500]), digits.train.labels[:500])


def small(activation: str, layers: int, seed: int) -> nn.Sequential:
    return deep_network(activation, layers, inputs=64, units=12, classes=10, seed=seed)


@pytest.mark.parametrize("batch_size", [64, None])
@pytest.mark.parametrize("activation", ["relu", "abs", "gelu"])
def test_one_hidden_layer_is_what_the_engine_trains(
    activation: str, batch_size: int | None, examples: Examples
) -> None:
    recipe = Recipe(learning_rate=0.01, steps=40, batch_size=batch_size)
    stack = initial_stack([3, 4], activation, inputs=64, units=12, classes=10)
    engine = StackedEngine(
        stack, examples, examples, seeds=(3, 4), learning_rate=0.01, batch_size=batch_size, device="cpu"
    )
    engine.advance(0, recipe.steps)
    for run, seed in enumerate((3, 4)):
        network = small(activation, 1, seed)
        np.testing.assert_array_equal(network[0].weight.detach().numpy(), stack[run].w1)
        assert train_deep(network, examples, recipe, seed=seed)
        trained = engine.stack()[run]
        arrays = trained.w1, trained.b1, trained.w2, trained.b2
        for parameter, array in zip(network.parameters(), arrays, strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), array, atol=2e-5)
        assert np.abs(trained.w1 - stack[run].w1).max() > 0.01


def test_networks_have_the_layers_and_learn(examples: Examples) -> None:
    network = small("relu", 3, 0)
    assert [type(module) for module in network] == [nn.Linear, nn.ReLU] * 3 + [nn.Linear]
    random_state = torch.get_rng_state()
    same = small("relu", 3, 0)
    assert torch.equal(random_state, torch.get_rng_state())
    recipe = Recipe(learning_rate=0.02, steps=300, batch_size=50)
    assert train_deep(network, examples, recipe, seed=0)
    x = torch.from_numpy(examples.pixels.dense())
    assert (network(x).argmax(1).numpy() == examples.labels).mean() > 0.8
    assert train_deep(same, examples, recipe, seed=0)
    assert all(torch.equal(*pair) for pair in zip(network.parameters(), same.parameters(), strict=True))
    other = small("relu", 3, 0)
    train_deep(other, examples, recipe, seed=1)  # another order of the batches
    assert not torch.equal(other[0].weight, network[0].weight)


def test_initial_weights_are_pytorchs_also_on_several_threads() -> None:
    made: dict[int, nn.Sequential] = {}
    parallel(lambda seed: made.update({seed: small("relu", 6, seed)}), range(40), 4)
    for seed, network in made.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            widths = [64, *[12] * 6, 10]
            expected = [nn.Linear(*pair) for pair in pairwise(widths)]
        for layer, linear in zip(network[::2], expected, strict=True):
            assert torch.equal(layer.weight, linear.weight)
            assert torch.equal(layer.bias, linear.bias)


def test_divergence_is_returned(examples: Examples) -> None:
    assert not train_deep(
        small("relu", 2, 0), examples, Recipe(learning_rate=1e6, steps=300, batch_size=50), seed=0
    )
