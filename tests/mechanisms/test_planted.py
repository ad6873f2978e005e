"""Planted networks do what they say: the task, who wins, what share each mechanism has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

import nearzero as nz
from nearzero.mechanisms.planted import (
    Task,
    distance_network,
    mixed_network,
    prototype_task,
    template_network,
)
from nearzero.mechanisms.studies import measure_study


def task_of(seed: int = 0, **settings: float) -> Task:
    return prototype_task(np.random.default_rng(seed), **settings)  # type: ignore[arg-type]


def activations(network: nz.TwoLayer, x: np.ndarray) -> np.ndarray:
    """act(z) in float64, (N, U)."""
    z = x.astype(np.float64) @ network.w1.T.astype(np.float64) + network.b1
    return np.abs(z) if network.activation == "abs" else np.maximum(z, 0.0)


def sums_by_class(network: nz.TwoLayer, x: np.ndarray) -> np.ndarray:
    """The activations of each class's own units added up, (N, K)."""
    return activations(network, x) @ (network.w2 != 0).T


def predictions(network: nz.TwoLayer, x: np.ndarray) -> np.ndarray:
    return (activations(network, x) @ network.w2.T + network.b2).argmax(axis=1)


# --- the task -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strength", "similarity"), [(8.0, 0.6), (3.0, 0.0), (1.0, 0.9)])
def test_prototypes_are_equally_long_and_far_apart(strength: float, similarity: float) -> None:
    task = task_of(strength=strength, similarity=similarity)
    products = task.prototypes @ task.prototypes.T
    np.testing.assert_allclose(products, similarity + (1 - similarity) * np.eye(task.classes), atol=1e-12)
    distance = np.linalg.norm(task.prototypes[0] - task.prototypes[1])
    assert distance / task.noise == pytest.approx(strength)
    assert set(np.bincount(task.y)) == {120}
    scatter = (task.x - task.prototypes[task.y]).std()
    assert scatter == pytest.approx(task.noise, rel=0.03)


def test_the_nearest_prototype_is_the_greatest_match_and_as_good_as_strength_says() -> None:
    task = task_of(strength=2.0, classes=2, examples=20_000)
    nearest = np.linalg.norm(task.x[:, None] - task.prototypes, axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, (task.x @ task.prototypes.T).argmax(axis=1))
    errors = int((nearest != task.y).sum())
    assert stats.binomtest(errors, 20_000, float(stats.norm.cdf(-1.0))).pvalue > 0.001


def test_another_sample_has_the_same_prototypes_and_other_examples() -> None:
    task = task_of()
    other = task.sample(np.random.default_rng(9), 400)
    assert other.x.shape == (400, 12)
    np.testing.assert_array_equal(other.prototypes, task.prototypes)
    assert set(np.bincount(other.y)) == {80}
    own = {row.tobytes() for row in task.x}
    assert not any(row.tobytes() in own for row in other.x)
    assert (other.x - task.prototypes[other.y]).std() == pytest.approx(task.noise, rel=0.03)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": 0.0}, "strength must be positive"),
        ({"similarity": 1.0}, "similarity must be at least 0"),
        ({"classes": 12}, "more inputs than classes"),
        ({"examples": 4}, "an example of each"),
    ],
)
def test_tasks_that_cant_be(settings: dict[str, float], message: str) -> None:
    with pytest.raises(nz.InputError, match=message):
        task_of(**settings)


# --- distance -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["abs", "relu"])
def test_the_smallest_activation_wins(activation: str) -> None:
    task = task_of(strength=16.0)
    network = distance_network(task, np.random.default_rng(1), activation=activation)
    assert network.units == (20 if activation == "abs" else 40)
    own = sums_by_class(network, task.x)
    np.testing.assert_array_equal(predictions(network, task.x), own.argmin(axis=1))
    assert (own.argmin(axis=1) == task.y).mean() > 0.98
    at_prototypes = sums_by_class(network, task.prototypes)
    np.testing.assert_allclose(np.diag(at_prototypes), 0.0, atol=1e-6)  # no distance to one's own
    assert at_prototypes[~np.eye(task.classes, dtype=bool)].min() > 0.1


def test_pairs_of_relu_make_the_same_network_as_abs() -> None:
    task = task_of()
    one, other = (
        distance_network(task, np.random.default_rng(3), activation=name) for name in ("abs", "relu")
    )
    logits = [activations(each, task.x) @ each.w2.T for each in (one, other)]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-5)


def test_directions_have_length_one_and_lie_where_prototypes_differ() -> None:
    task = task_of()
    network = distance_network(task, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(network.w1, axis=1), 1.0, rtol=1e-6)
    common = task.prototypes.mean(axis=0)  # orthogonal to all differences
    np.testing.assert_allclose(network.w1 @ common, 0.0, atol=1e-6)


# --- templates ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["abs", "relu"])
def test_the_largest_activation_wins(activation: str) -> None:
    task = task_of(strength=16.0)
    network = template_network(task, np.random.default_rng(1), activation=activation)
    own = sums_by_class(network, task.x)
    np.testing.assert_array_equal(predictions(network, task.x), own.argmax(axis=1))
    assert (own.argmax(axis=1) == task.y).mean() == 1.0
    np.testing.assert_allclose(np.linalg.norm(network.w1, axis=1), 1.0, rtol=1e-6)


def test_without_jitter_a_template_is_the_prototype() -> None:
    task = task_of(similarity=0.3)
    network = template_network(task, np.random.default_rng(1), units_per_class=2, jitter=0.0)
    expected = 2 * (0.3 + 0.7 * np.eye(task.classes))
    np.testing.assert_allclose(sums_by_class(network, task.prototypes), expected, atol=1e-6)


def test_signs_of_abs_templates_are_drawn_and_make_no_difference_to_activations() -> None:
    task = task_of()
    network = template_network(task, np.random.default_rng(1), activation="abs")
    z = task.prototypes.mean(axis=0) @ network.w1.T
    assert 4 <= int((z < 0).sum()) <= 16
    positive = nz.TwoLayer(network.w1 * np.sign(z)[:, None], network.b1, network.w2, network.b2, "abs")
    np.testing.assert_allclose(activations(network, task.x), activations(positive, task.x), atol=1e-6)


# --- mixtures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["abs", "relu"])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_each_kind_has_its_share_of_the_margin(share: float, activation: str) -> None:
    task = task_of()
    network = mixed_network(task, np.random.default_rng(2), share=share, activation=activation)
    a = activations(network, task.x)
    rows = np.arange(len(task.y))
    for w2, expected in ((np.minimum(network.w2, 0), share), (np.maximum(network.w2, 0), 1 - share)):
        logits = a @ w2.T.astype(np.float64)
        own = logits[rows, task.y].copy()
        logits[rows, task.y] = -np.inf
        assert np.mean(own - logits.max(axis=1)) == pytest.approx(expected, abs=1e-5)


def test_a_share_needs_a_task_that_each_kind_solves() -> None:
    with pytest.raises(nz.InputError, match="too hard for a mixed network"):
        mixed_network(task_of(strength=1.0), np.random.default_rng(0), share=0.5)
    with pytest.raises(nz.InputError, match="share must lie between 0 and 1"):
        mixed_network(task_of(), np.random.default_rng(0), share=1.5)


# --- all of them --------------------------------------------------------------------------------------------

MAKERS: list[Callable[..., nz.TwoLayer]] = [distance_network, template_network]


@pytest.mark.parametrize("make", MAKERS)
def test_strength_is_what_makes_it_easy(make: Callable[..., nz.TwoLayer]) -> None:
    accuracies = []
    for strength in (1.0, 3.0, 8.0, 30.0):
        task = task_of(strength=strength)
        network = make(task, np.random.default_rng(5))
        accuracies.append((predictions(network, task.x) == task.y).mean())
    assert accuracies == sorted(accuracies)
    assert accuracies[0] < 0.5
    assert accuracies[-1] > 0.99


@pytest.mark.parametrize("make", MAKERS)
def test_units_come_in_random_order_and_a_seed_gives_one_network(make: Callable[..., nz.TwoLayer]) -> None:
    task = task_of()
    first, again, other = (make(task, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.w1, again.w1)
    owners = [np.abs(each.w2).argmax(axis=0) for each in (first, other)]
    assert (np.diff(owners[0]) < 0).sum() > 3  # not sorted by class
    assert (owners[0] != owners[1]).any()


@pytest.mark.parametrize("make", MAKERS)
def test_networks_that_cant_be(make: Callable[..., nz.TwoLayer]) -> None:
    with pytest.raises(nz.InputError, match="planted with abs or relu; got 'tanh'"):
        make(task_of(), np.random.default_rng(0), activation="tanh")
    with pytest.raises(nz.InputError, match="units_per_class must be at least 1"):
        make(task_of(), np.random.default_rng(0), units_per_class=0)


def test_jitter_is_no_negative_number() -> None:
    with pytest.raises(nz.InputError, match="jitter must be a number from 0"):
        template_network(task_of(), np.random.default_rng(0), jitter=-0.1)


def test_a_study_has_runs_of_one_activation() -> None:
    task = task_of()
    networks = [distance_network(task, np.random.default_rng(0), activation=name) for name in ("abs", "relu")]
    for each in (networks, []):
        with pytest.raises(nz.InputError, match=r"runs of one activation; got (abs, relu|no runs)"):
            measure_study(task, each)
