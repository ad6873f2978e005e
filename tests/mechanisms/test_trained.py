"""The networks of the trained controls: distances, fixed readouts, and their training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import nearzero as nz
from nearzero.evaluators.select import open_evaluator
from nearzero.mechanisms.trained import (
    OffsetL2,
    fixed_readout_network,
    offset_l2_network,
    train_by_adam,
)
from nearzero.training.engine import Examples
from nearzero.training.train import Recipe


@pytest.fixture(scope="module")
def examples() -> Examples:
    rng = np.random.default_rng(0)
    return Examples(nz.Pixels(rng.integers(0, 256, (60, 12), np.uint8), 1 / 80, -1.5), rng.integers(0, 3, 60))


def test_distances_are_those_of_numpy(examples: Examples) -> None:
    rng = np.random.default_rng(1)
    mu, alpha = rng.standard_normal((5, 12)), rng.uniform(0.1, 3.0, (5, 12))
    layer = OffsetL2(torch.tensor(mu, dtype=torch.float32), torch.tensor(alpha, dtype=torch.float32))
    x = examples.pixels.dense()
    expected = np.sqrt((alpha * (x[:, None].astype(np.float64) - mu) ** 2).sum(axis=-1))
    distances = layer(torch.from_numpy(x))
    np.testing.assert_allclose(distances.detach().numpy(), expected, rtol=1e-5)


def test_a_distance_of_zero_has_finite_gradients() -> None:
    layer = OffsetL2(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]]))
    distance = layer(torch.tensor([[1.0, 2.0]]))
    distance.sum().backward()
    assert distance.item() == pytest.approx(1e-6)
    assert all(bool(torch.isfinite(weight.grad).all()) for weight in layer.parameters())


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        ([[1.0, 0.0]], "alpha must be positive; the least is 0"),
        ([[1.0]], r"one shape .* \(1, 2\) and \(1, 1\)"),
    ],
)
def test_weights_that_give_no_distance_are_refused(alpha: list[list[float]], message: str) -> None:
    with pytest.raises(nz.InputError, match=message):
        OffsetL2(torch.tensor([[1.0, 2.0]]), torch.tensor(alpha))


def test_distances_are_perturbed_at_their_output(examples: Examples) -> None:
    """The evaluator gives the accuracy of a plain forward pass with a hook."""
    network = offset_l2_network(inputs=12, units=8, classes=3)
    x, rng = torch.from_numpy(examples.pixels.dense()), np.random.default_rng(2)
    with torch.no_grad():
        typical = network[0](x).mean(dim=0).numpy()
        network[1].bias.copy_(
            -network[1].weight @ torch.from_numpy(typical)
        )  # so that all classes are predicted
        labels = network(x).argmax(dim=1).numpy()
    perturbations = [
        nz.Perturbation(offset=0.02 * typical * rng.choice([-1.0, 1.0], 8)),
        nz.Perturbation(scale=np.exp(0.1 * rng.standard_normal(8))),
        nz.Perturbation(clip=typical),
    ]
    expected = []
    for perturbation in perturbations:
        scale, offset, clip, _ = (torch.from_numpy(each) for each in perturbation.per_unit(8))
        hook = network[0].register_forward_hook(
            lambda *call, s=scale, o=offset, c=clip: (s * call[2] + o).minimum(c)
        )
        with torch.no_grad():
            expected.append(float((network(x).argmax(dim=1).numpy() == labels).mean()))
        hook.remove()
    with open_evaluator(network, examples.pixels, labels, {"layer": "0"}) as evaluator:
        accuracies = evaluator.scores(perturbations, ["accuracy"]).means["accuracy"].tolist()
    assert accuracies == pytest.approx(expected)
    assert len(set(expected)) == 3


@pytest.mark.parametrize(("winner", "sign"), [("smallest", -1.0), ("largest", 1.0)])
@pytest.mark.parametrize("activation", ["abs", "relu"])
def test_the_readout_is_a_sum_over_the_units_of_a_class(
    activation: str, winner: str, sign: float, examples: Examples
) -> None:
    network = fixed_readout_network(activation, winner, inputs=12, units_per_class=2, classes=3, seed=4)
    before = network[0].weight.clone()
    train_by_adam(network, examples, Recipe(learning_rate=0.01, steps=3, batch_size=20), seed=0)
    assert not torch.equal(network[0].weight, before)
    x = examples.pixels.dense()
    z = x @ network[0].weight.detach().numpy().T + network[0].bias.detach().numpy()
    activations = np.abs(z) if activation == "abs" else np.maximum(z, 0)
    sums = activations.reshape(-1, 3, 2).sum(axis=2)
    logits = network(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(logits, sign * sums, rtol=1e-5, atol=1e-5)


def test_an_unknown_winner_is_refused() -> None:
    with pytest.raises(nz.InputError, match="winner must be one of smallest, largest; got 'smalest'"):
        fixed_readout_network("abs", "smalest", inputs=4, units_per_class=1, classes=2)  # type: ignore[arg-type]


def test_training_is_adam_with_a_falling_rate(examples: Examples) -> None:
    """Two steps on the whole set, from Adam's equations in NumPy; the rate of the second step is half."""
    rng = np.random.default_rng(3)
    w, b = 0.1 * rng.standard_normal((3, 12)), rng.standard_normal(3)
    network = nn.Sequential(nn.Linear(12, 3))
    network.load_state_dict({"0.weight": torch.from_numpy(w), "0.bias": torch.from_numpy(b)})
    train_by_adam(network, examples, Recipe(learning_rate=0.1, steps=2), seed=0)
    x = examples.pixels.dense().astype(np.float64)
    first, second, first_b, second_b = (np.zeros_like(value) for value in (w, w, b, b))
    for step, rate in enumerate((0.1, 0.05), 1):
        logits = x @ w.T + b
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        error = (p - np.eye(3)[examples.labels]) / len(x)
        for value, gradient, m, v in (
            (w, error.T @ x, first, second),
            (b, error.sum(axis=0), first_b, second_b),
        ):
            m += 0.1 * (gradient - m)
            v += 0.001 * (gradient**2 - v)
            value -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(network[0].weight.detach().numpy(), w, atol=1e-5)
    np.testing.assert_allclose(network[0].bias.detach().numpy(), b, atol=1e-5)


def test_training_that_diverges_is_an_error(examples: Examples) -> None:
    network = offset_l2_network(inputs=12, units=4, classes=3)
    with pytest.raises(nz.InputError, match=r"training diverged: .* a learning rate below 1e"):
        train_by_adam(network, examples, Recipe(learning_rate=1e30, steps=4, batch_size=20), seed=0)
