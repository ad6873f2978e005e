"""Two-layer networks as arrays and as modules."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

import nearzero as nz
from nearzero.networks import initial_stack
from nearzero.networks.modules import Abs, PerturbationLayer, activation_module, from_module

SHAPES = ((5, 3), (5,), (4, 5), (4,))


def arrays(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]


def test_initial_weights_are_pytorchs() -> None:
    stack = initial_stack([3, 11], "relu", inputs=7, units=6, classes=4)
    for run, seed in enumerate((3, 11)):
        torch.manual_seed(seed)
        hidden, output = nn.Linear(7, 6), nn.Linear(6, 4)
        expected = (hidden.weight, hidden.bias, output.weight, output.bias)
        for name, tensor in zip(("w1", "b1", "w2", "b2"), expected, strict=True):
            assert np.array_equal(getattr(stack[run], name), tensor.detach().numpy())


def test_making_initial_weights_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    initial_stack([5], "abs")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", nz.ACTIVATIONS)
def test_to_a_module_and_back(name: str, rng: np.random.Generator) -> None:
    network = nz.TwoLayer(*arrays(rng), name)
    back = from_module(network.to_module())
    assert back.activation == name
    for each in ("w1", "b1", "w2", "b2"):
        assert np.array_equal(getattr(back, each), getattr(network, each))


@pytest.mark.parametrize("name", nz.ACTIVATIONS)
def test_the_three_versions_of_an_activation_agree(name: str) -> None:
    z = np.concatenate([np.linspace(-30, 30, 2001), np.linspace(-1e-3, 1e-3, 11)])
    plain = nz.activation(name)(z)
    module = activation_module(name)(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(plain, module, rtol=1e-9, atol=1e-12)
    act = nz.activation(name)
    assert act.homogeneous == bool(np.allclose(act(2.5 * z), 2.5 * act(z), atol=1e-9))
    assert act(z.astype(np.float32)).dtype == np.float32


def test_unknown_activation() -> None:
    with pytest.raises(nz.InputError, match="unknown activation 'rellu': did you mean 'relu'"):
        nz.activation("rellu")


def test_stacks_and_networks_are_copies(rng: np.random.Generator) -> None:
    one, two = (nz.TwoLayer(*arrays(rng), "abs") for _ in range(2))
    stack = nz.Stack.of([one, two])
    assert len(stack) == 2
    stack[1].w1[:] = 0
    assert np.array_equal(stack.w1[1], two.w1)
    assert [network.activation for network in stack] == ["abs", "abs"]
    assert (one.inputs, one.units, one.classes, one.finite) == (3, 5, 4, True)


def test_shapes_that_do_not_fit(rng: np.random.Generator) -> None:
    w1, b1, w2, b2 = arrays(rng)
    with pytest.raises(
        nz.InputError, match=re.escape("shapes don't fit: w1 (5, 3), b1 (4,), w2 (4, 5), b2 (4,)")
    ):
        nz.TwoLayer(w1, b2, w2, b2)
    with pytest.raises(nz.InputError, match=re.escape("w1 must have 2 dimensions; got shape (5,)")):
        nz.TwoLayer(b1, b1, w2, b2)


class Mine(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3, 5), nn.Dropout(0.5), act)
        self.head = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def test_a_module_of_ones_own() -> None:
    model = Mine(Abs())
    network = from_module(model)
    assert network.activation == "abs"
    x = torch.randn(20, 3)
    model.eval()
    assert np.array_equal(nz.HiddenLayer(network, x).unperturbed, model(x).argmax(1).numpy())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_are_read_as_float32(dtype: torch.dtype) -> None:
    model = Mine(nn.ReLU()).to(dtype)
    assert np.array_equal(from_module(model).w2, model.head.weight.detach().float().numpy())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Mine(nn.LeakyReLU(0.3)), "negative_slope other than 0.01"),
        (Mine(nn.GELU(approximate="tanh")), "approximate other than none"),
        (Mine(nn.ELU(2.0)), "alpha other than 1.0"),
        (Mine(nn.Softplus(beta=2)), "isn't the default softplus"),
        (Mine(nn.PReLU()), "isn't among the nine; known are relu, abs"),
        (
            nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 4)),
            "both Linear layers need a bias",
        ),
        (nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4)), "this module has Linear, Linear"),
        (nn.Sequential(), "this module has no layers|has Sequential"),
    ],
)
def test_modules_of_another_shape(module: nn.Module, message: str) -> None:
    with pytest.raises(nz.InputError, match=message):
        from_module(module)


def test_a_perturbation_as_a_layer(rng: np.random.Generator) -> None:
    perturbation = nz.Perturbation(
        scale=rng.normal(size=5), offset=rng.normal(size=5), clip=rng.normal(size=5)
    )
    layer = PerturbationLayer(perturbation, 5)
    x = rng.normal(size=(4, 7, 5)).astype(np.float32)
    np.testing.assert_allclose(layer(torch.from_numpy(x)).numpy(), perturbation(x), rtol=1e-6)
    assert set(layer.state_dict()) == {"scale", "offset", "clip"}


def test_pixels() -> None:
    values = np.array([[0, 255], [51, 0]], np.uint8)
    np.testing.assert_allclose(
        nz.Pixels(values, 1 / 255, -0.5).dense(), [[-0.5, 0.5], [-0.3, -0.5]], atol=1e-7
    )
    assert nz.Pixels(values).dense(slice(1)).tolist() == [[0.0, 255.0]]
    assert len(nz.Pixels(values)) == 2
    with pytest.raises(
        nz.InputError,
        match=r"pixels must be a uint8 array \(examples, pixels\); got float64 of shape \(2, 2\)",
    ):
        nz.Pixels(values / 2)
