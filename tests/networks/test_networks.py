"""Two-layer networks as arrays and as modules."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

import nearzero as nz
from nearzero.kernels.compile import has_feature
from nearzero.networks import initial_stack
from nearzero.networks.modules import Abs, PerturbationLayer, activation_module
from nearzero.networks.two_layer import from_module

SHAPES = ((5, 3), (5,), (4, 5), (4,))


def arrays(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]


@pytest.mark.parametrize("shape", [(7, 6, 4), (784, 128, 10), (1, 1, 1), (64, 300, 3)])
def test_initial_weights_equal_those_of_pytorch(shape: tuple[int, int, int]) -> None:
    inputs, units, classes = shape
    seeds = (0, 3, 11, 2**32 + 3, 2**62)
    stack = initial_stack(seeds, "relu", inputs=inputs, units=units, classes=classes)
    for run, seed in enumerate(seeds):
        torch.manual_seed(seed)
        hidden, output = nn.Linear(inputs, units), nn.Linear(units, classes)
        expected = (hidden.weight, hidden.bias, output.weight, output.bias)
        for name, tensor in zip(("w1", "b1", "w2", "b2"), expected, strict=True):
            ours, drawn = getattr(stack[run], name), tensor.detach().numpy()
            # without fused multiply-adds PyTorch rounds twice
            np.testing.assert_allclose(ours, drawn, rtol=0, atol=np.spacing(np.abs(drawn).max()))
            assert not has_feature("fma") or np.array_equal(ours, drawn)


def test_making_initial_weights_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    initial_stack([5], "abs")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", nz.ACTIVATIONS)
def test_to_a_module_and_back(name: str, rng: np.random.Generator) -> None:
    network = nz.TwoLayer(*arrays(rng), name)
    read = from_module(network.to_module())
    assert read.activation == name
    for array in ("w1", "b1", "w2", "b2"):
        assert np.array_equal(getattr(read, array), getattr(network, array))


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
    with pytest.raises(nz.InputError, match="unknown activation 'LeakyReLU': did you mean 'leaky_relu'"):
        nz.TwoLayer([[1]], [0], [[1]], [0], activation="LeakyReLU")


def test_stacks_and_networks_are_copies(rng: np.random.Generator) -> None:
    first, second = (nz.TwoLayer(*arrays(rng), "abs") for _ in range(2))
    stack = nz.Stack.of([first, second])
    assert len(stack) == 2
    stack.w1[1] = 0
    assert second.w1.any()
    with pytest.raises(ValueError, match="read-only"):
        second.w1[:] = 0
    assert [network.activation for network in stack] == ["abs", "abs"]
    assert (first.inputs, first.units, first.classes, first.finite) == (3, 5, 4, True)


def test_shapes_that_do_not_fit(rng: np.random.Generator) -> None:
    w1, b1, w2, b2 = arrays(rng)
    with pytest.raises(
        nz.InputError, match=re.escape("shapes don't fit: w1 (5, 3), b1 (4,), w2 (4, 5), b2 (4,)")
    ):
        nz.TwoLayer(w1, b2, w2, b2)
    with pytest.raises(
        nz.InputError, match=re.escape("w1 must have 2 dimensions, none of them 0; got shape (5,)")
    ):
        nz.TwoLayer(b1, b1, w2, b2)


@pytest.mark.parametrize(
    ("w1", "message"),
    [
        (np.ones((5, 3), complex), "w1 must be real numbers; got complex128"),
        ([["a"] * 3] * 5, "w1 must be real numbers; got <U1"),
        ([[1.0], [1.0, 2.0]], "w1 can't be read as an array"),
        (torch.empty(5, 3, device="meta"), "w1 can't be read as an array"),
        (np.ones((5, 0)), r"w1 must have 2 dimensions, none of them 0; got shape \(5, 0\)"),
    ],
)
def test_values_that_are_no_matrix_are_refused(w1: object, message: str, rng: np.random.Generator) -> None:
    with pytest.raises(nz.InputError, match=message):
        nz.TwoLayer(w1, *arrays(rng)[1:])


def test_more_classes_than_two_bytes_can_count() -> None:
    with pytest.raises(nz.InputError, match="up to 65,535 classes; got 65,536"):
        nz.TwoLayer(np.ones((1, 1)), np.ones(1), np.ones((65536, 1)), np.ones(65536))


def test_a_network_keeps_its_weights_when_the_module_is_trained_on() -> None:
    model = UserModule(nn.ReLU())
    network = from_module(model)
    before = network.w1.copy()
    with torch.no_grad():
        model.body[1].weight.zero_()
    assert np.array_equal(network.w1, before)


class UserModule(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3, 5), nn.Dropout(0.5), act)
        self.head = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def test_a_module_of_a_users_own_class() -> None:
    model = UserModule(Abs())
    network = from_module(model)
    assert network.activation == "abs"
    x = torch.randn(20, 3)
    model.eval()
    assert np.array_equal(nz.HiddenLayer(network, x).unperturbed, model(x).argmax(1).numpy())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_are_read_as_float32(dtype: torch.dtype) -> None:
    model = UserModule(nn.ReLU()).to(dtype)
    assert np.array_equal(from_module(model).w2, model.head.weight.detach().float().numpy())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (UserModule(nn.LeakyReLU(0.3)), "negative_slope other than 0.01"),
        (UserModule(nn.GELU(approximate="tanh")), "approximate other than none"),
        (UserModule(nn.ELU(2.0)), "alpha other than 1.0"),
        (UserModule(nn.Softplus(beta=2)), "isn't the default softplus"),
        (UserModule(nn.PReLU()), "isn't among the nine; known are relu, abs"),
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


class Scaled(UserModule):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x / 255))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.act, self.output = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.act(self.hidden(self.act(self.hidden(x)))))


class Failing(UserModule):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError("pixel_values")


class LogProbabilities(UserModule):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(super().forward(x), dim=1)


class Limited(UserModule):
    """A module with a limit that no activation reaches, unless it is perturbed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).clamp(max=1e9))


class Branching(UserModule):
    """A module whose forward would do something else after a perturbation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(x)
        return self.head(h if h.sum() > -1 else -h)


def namesake() -> nn.Module:
    """Return a module with a class called Abs that computes something else."""

    class Abs(nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return z.abs() + 1

    return UserModule(Abs())


FORWARDS = [Scaled(nn.ReLU()), Twice(), namesake(), Limited(nn.ReLU()), Branching(nn.GELU())]


@pytest.mark.parametrize("module", FORWARDS, ids=lambda module: type(module).__name__)
def test_a_forward_that_does_something_else_is_refused(module: nn.Module) -> None:
    with pytest.raises(
        nz.InputError, match=r"forward computes something else .*; make a TwoLayer from its arrays"
    ):
        from_module(module)


def test_a_forward_that_fails_is_refused_with_its_message() -> None:
    with pytest.raises(nz.InputError, match=r"can't be run on inputs \(examples, 3\): 'pixel_values'"):
        from_module(Failing(nn.ReLU()))


def test_reading_a_module_leaves_it_as_it_was() -> None:
    module = LogProbabilities(nn.Tanh())
    module.head.eval()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert from_module(module).activation == "tanh"
    assert torch.equal(torch.rand(1), expected)
    assert [child.training for child in (module, module.body, module.head)] == [True, True, False]


def test_a_perturbation_as_a_layer(rng: np.random.Generator) -> None:
    low, clip = np.sort(rng.normal(size=(2, 5)), axis=0)
    perturbation = nz.Perturbation(scale=rng.normal(size=5), offset=rng.normal(size=5), clip=clip, low=low)
    layer = PerturbationLayer(perturbation, 5)
    x = rng.normal(size=(4, 7, 5)).astype(np.float32)
    np.testing.assert_allclose(layer(torch.from_numpy(x)).numpy(), perturbation(x), rtol=1e-6)
    assert set(layer.state_dict()) == {"scale", "offset", "clip", "low"}


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
