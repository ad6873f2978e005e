"""Laws that both backends obey, and comparisons of the two on one network.

A two-layer network is given as a `TwoLayer`, which uses compiled kernels, and as a module with an identity in it,
which uses hooks and recorded suffixes. The order of sums differs between the two, so an item whose two greatest
logits nearly tie may get another prediction. These items are counted; no other difference is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nearzero as nz
from nearzero.analysis.displacement import Displacements
from nearzero.evaluators.base import LayerEvaluator, halves, in_reference
from nearzero.evaluators.metrics import NAMES
from nearzero.evaluators.select import open_evaluator
from nearzero.networks import initial_stack
from nearzero.paper.audit.measure import measure, published_rows
from nearzero.perturbations.noise import NOISES, Noise
from nearzero.perturbations.perturbation import Addition, AnyPerturbation

ACTIVATIONS = tuple(nz.ACTIVATIONS)
BACKENDS = ("two-layer", "model")
LEVELS = (-0.7, -0.1, 0.15, 0.6, 1.3)
NEAR = 1e-5  # as a share of the greatest logit: two logits that differ by less nearly tie
MOST_NEAR = 3  # near ties that may differ in a test


def network_of(activation: str, *, units: int = 24) -> nz.TwoLayer:
    """Return an untrained network, with an output bias that makes the mean logits of all classes equal."""
    net = initial_stack([7], activation, inputs=64, units=units, classes=10)[0]
    x = nz.datasets.load("digits").train.pixels[:301] / np.float32(16)
    mean = net.act(x @ net.w1.T + net.b1).mean(axis=0)
    return nz.TwoLayer(net.w1, net.b1, 4 * net.w2, -4 * net.w2 @ mean, activation)


def unrecognised(network: nz.TwoLayer, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    hidden, act, output = network.to_module()
    return nn.Sequential(hidden, act, nn.Identity(), output).to(dtype)


@pytest.fixture(scope="module")
def data(digits: nz.datasets.Dataset) -> tuple[np.ndarray, np.ndarray]:
    return digits.train.pixels[:301].astype(np.float32) / 16, digits.train.labels[:301].astype(np.int64)


@contextmanager
def opened(
    backend: str, network: nz.TwoLayer, data: tuple[np.ndarray, np.ndarray], **options: Any
) -> Iterator[LayerEvaluator]:
    model = network if backend == "two-layer" else unrecognised(network)
    with open_evaluator(model, *data, options) as evaluator:
        assert evaluator.backend == backend
        yield evaluator


def families(evaluator: LayerEvaluator, *, seed: int = 3) -> dict[str, nz.Family]:
    conduct = evaluator.conduct(None)
    return {name: nz.make_family(name, conduct, seed) for name in nz.FAMILIES}


def all_perturbations(evaluator: LayerEvaluator, ranges: nz.Ranges) -> list[AnyPerturbation]:
    """Return all families and both kinds of noise, each at some levels with the given ranges."""
    perturbations: list[AnyPerturbation] = []
    for family in families(evaluator).values():
        perturbations += [family.at(level, ranges) for level in LEVELS]
    z = network_z(evaluator)
    for shape in NOISES:
        drawn = Noise.of(shape, z, ranges.live, seed=5).draw(evaluator.row_examples)
        perturbations += [Addition(drawn, level) for level in (0.2, 1.0)]
    return perturbations


def network_z(evaluator: LayerEvaluator) -> np.ndarray:
    return np.asarray(evaluator.preactivations(), dtype=np.float32)


def differences(
    network: nz.TwoLayer,
    x: np.ndarray,
    perturbations: list[AnyPerturbation],
    fast: np.ndarray,
    general: np.ndarray,
) -> tuple[int, int]:
    """Return how many of two sets of predictions (L, N) differ at near ties (in float64), and how many elsewhere."""
    z = x.astype(np.float64) @ network.w1.T.astype(np.float64) + network.b1
    near = far = 0
    for perturbation, *predictions in zip(perturbations, fast, general, strict=True):
        changed = np.flatnonzero(np.not_equal(*predictions))
        if not len(changed):
            continue
        rows = slice(0, len(z))
        pre = perturbation.side == "pre"
        a = network.act(perturbation.apply(z, rows)) if pre else perturbation.apply(network.act(z), rows)
        logits = (a @ network.w2.T.astype(np.float64) + network.b2)[changed]
        top = np.sort(logits, axis=1)
        tied = top[:, -1] - top[:, -2] < NEAR * np.abs(logits).max(axis=1)
        near, far = near + int(tied.sum()), far + int((~tied).sum())
    return near, far


# --- one network in both backends ------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_predictions_agree_at_the_same_levels(activation: str, data: tuple[np.ndarray, np.ndarray]) -> None:
    network = network_of(activation)
    with opened("two-layer", network, data) as fast, opened("model", network, data, batch_size=64) as general:
        for one, other in zip((fast, *fast.split(1)), (general, *general.split(1)), strict=True):
            np.testing.assert_array_equal(one.examples, other.examples)
            perturbations = all_perturbations(one, one.ranges)
            same = all_perturbations(other, one.ranges)
            drawn = [each.values for each in perturbations if isinstance(each, Addition)]
            again = [each.values for each in same if isinstance(each, Addition)]
            np.testing.assert_allclose(drawn, again, rtol=1e-3, atol=1e-5)
            perturbations = [*perturbations[: -len(drawn)], *same[-len(drawn) :]]
            predicted = [each.scores(perturbations, ["prediction"]).predictions for each in (one, other)]
            near, far = differences(network, data[0][one.examples], perturbations, *predicted)
            assert far == 0
            assert near <= MOST_NEAR
            assert len(np.unique(predicted[0])) > 2


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_numbers_agree_at_the_same_levels(activation: str, data: tuple[np.ndarray, np.ndarray]) -> None:
    network = network_of(activation)
    with opened("two-layer", network, data) as fast, opened("model", network, data, batch_size=50) as general:
        for side in ("pre", "post"):
            for bound in ("minimum", "maximum"):
                one, other = (getattr(each.ranges.on(side), bound) for each in (fast, general))
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
            norms = np.linalg.norm(network.w1.astype(float), axis=1)
            np.testing.assert_allclose([fast.ranges.norms, general.ranges.norms], [norms, norms], rtol=1e-12)
        perturbations = all_perturbations(fast, fast.ranges)
        for one, other in zip(fast.changes(perturbations), general.changes(perturbations), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(one).max())
        shifts = [each.mean_logit_change(perturbations) for each in (fast, general)]
        np.testing.assert_allclose(*shifts, rtol=1e-3, atol=1e-4 * np.abs(shifts[0]).max())
        one, other = (each.scores(perturbations, NAMES, shift=shifts[0]) for each in (fast, general))
        assert one.means.keys() == other.means.keys()
        assert one.items == other.items == len(data[0])
        for name in one.means:
            share = name in ("accuracy", "agreement")
            if name.startswith("centred_") and name.endswith(("accuracy", "agreement")):
                continue  # a cap can make all examples equal, and their centred logits are then rounding errors
            slack = MOST_NEAR / len(data[0]) if share else 2e-3 * max(1.0, np.abs(one.means[name]).max())
            np.testing.assert_allclose(one.means[name], other.means[name], atol=slack, err_msg=name)
        one, other = (np.concatenate(each.gather(lambda block: block.logits)) for each in (fast, general))
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(one).max())


DESIGN = nz.Design(targets=(0.1, 0.3), draws=2, seed=4)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_backend_reaches_the_displacement(activation: str, data: tuple[np.ndarray, np.ndarray]) -> None:
    """Each backend finds its own levels, within 1e-4 of the displacement, so responses may differ a little."""
    network = network_of(activation)
    fast, general = (nz.matched(model, *data, design=DESIGN) for model in (network, unrecognised(network)))
    assert (fast.attrs["backend"], general.attrs["backend"]) == BACKENDS
    assert fast.attrs["halves"] == general.attrs["halves"]
    assert set(fast.data_vars) == set(general.data_vars)
    np.testing.assert_array_equal(np.isnan(fast.level), np.isnan(general.level))
    for result in (fast, general):
        reached = ~np.isnan(result.level.values)
        assert reached.sum() >= 25
        targets = np.broadcast_to(DESIGN.targets, reached.shape)
        np.testing.assert_allclose(result.displacement.values[reached], targets[reached], rtol=1e-4)
    for name in (
        "level",
        "displacement_here",
        "whitened_displacement",
        "median_displacement",
        "logit_displacement",
        "centred_logit_displacement",
    ):
        np.testing.assert_allclose(fast[name], general[name], rtol=5e-3, atol=1e-4, err_msg=name)
    for name in ("accuracy", "agreement", "centred_accuracy", "centred_agreement"):
        np.testing.assert_allclose(fast[name], general[name], atol=2.01 / fast.attrs["items"], err_msg=name)


@pytest.mark.parametrize("activation", ["relu", "abs", "gelu"])
def test_near_and_far_agree(activation: str, data: tuple[np.ndarray, np.ndarray]) -> None:
    network, options = network_of(activation), {"fractions": (0.1, 0.4), "targets": (0.05, 0.2), "draws": 2}
    fast, general = (nz.near_and_far(model, *data, **options) for model in (network, unrecognised(network)))
    assert (fast.attrs["backend"], general.attrs["backend"]) == BACKENDS
    for name in fast.data_vars:
        slack = MOST_NEAR / len(data[0]) if "agreement" in name or "accuracy" in name else 1e-3
        np.testing.assert_allclose(fast[name], general[name], rtol=1e-3, atol=slack, err_msg=name)
    assert fast.reached.any()


@pytest.mark.parametrize("family", ["shift", "clip", "cap", "floor", "gains", "scale"])
@pytest.mark.parametrize("activation", ["relu", "abs", "tanh"])
def test_critical_levels_agree(activation: str, family: str, data: tuple[np.ndarray, np.ndarray]) -> None:
    """In float64 both find the same changes, but a search can miss changes between its levels."""
    network, x = network_of(activation), data[0][:60]
    fast = nz.critical_levels(network, x, family=family, grid=201)
    general = nz.critical_levels(
        unrecognised(network, torch.float64),
        x.astype(np.float64),
        family=family,
        grid=201,
        ranges=nz.unit_ranges(network, x),
    )
    assert not general.exact
    np.testing.assert_array_equal(fast.unperturbed, general.unperturbed)
    same = missed = 0
    for n in range(len(x)):
        mine, theirs = (each.starts[each.first[n] : each.first[n + 1]] for each in (fast, general))
        if len(mine) == len(theirs):
            np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-7)
            same += 1
        else:
            assert len(mine) > len(theirs)
            missed += 1
    assert same >= 0.95 * len(x)
    assert missed == 0 or fast.exact


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "silu"])
def test_the_scale_audits_agree(activation: str, data: tuple[np.ndarray, np.ndarray]) -> None:
    network, levels = network_of(activation), np.logspace(-2, 1, 12)
    fast, general = (
        nz.scale_audit(model, *data, levels=levels) for model in (network, unrecognised(network))
    )
    assert (fast.form, fast.homogeneous, fast.registered) == (
        general.form,
        general.homogeneous,
        general.registered,
    )
    assert fast.form == ("free" if activation == "silu" else "affine")
    np.testing.assert_allclose(
        fast.curves.measured_accuracy, general.curves.measured_accuracy, atol=MOST_NEAR / len(data[0])
    )
    if fast.flat:
        assert fast.unexplained == general.unexplained == 0


@pytest.mark.parametrize("activation", ["abs", "elu"])
def test_sweeps_and_verdicts_agree(activation: str, data: tuple[np.ndarray, np.ndarray]) -> None:
    network = network_of(activation)
    fast, general = (nz.sweep(model, *data) for model in (network, unrecognised(network)))
    assert (fast.attrs["backend"], general.attrs["backend"]) == BACKENDS
    for name in ("accuracy", "agreement"):
        apart = np.abs(fast[name] - general[name])
        assert float(apart.max()) <= 2 / len(data[0])
        assert float((apart > 0).mean()) < 0.02
    verdicts = []
    for make in (lambda net: net, unrecognised):
        runs = []
        for seed in range(6):
            net = initial_stack([seed], activation, inputs=64, units=12, classes=10)[0]
            design = nz.Design(
                families=("signed_shift", "gains", "cap"), targets=(0.3,), draws=1, first_draw=seed
            )
            runs.append(nz.matched(make(net), *data, design=design))
        verdicts.append(nz.verdict(runs, nz.Rules(targets=(0.3,))))
    for mine, theirs in zip(*(each.comparisons for each in verdicts), strict=True):
        assert mine.difference == pytest.approx(theirs.difference, abs=1.0)
        assert mine.n == theirs.n == 6


def test_the_measurements_of_the_audit_agree(data: tuple[np.ndarray, np.ndarray]) -> None:
    network = network_of("relu")
    options: dict[str, Any] = {
        "rows": published_rows(nz.PAPER_FAMILIES, nz.Conduct()),
        "conduct": nz.Conduct(),
    }
    fast, general = (measure(model, data, data, **options) for model in (network, unrecognised(network)))
    for name in ("accuracy", "other_half_accuracy", "centred_accuracy", "quantile_accuracy", "displacement"):
        np.testing.assert_allclose(fast[name], general[name], atol=MOST_NEAR / len(data[0]), err_msg=name)


def test_sweeps_of_other_metrics_agree(data: tuple[np.ndarray, np.ndarray]) -> None:
    """At the identity a metric is the unperturbed one. A user's own function is measured by the model backend."""
    network = network_of("gelu")
    options: dict[str, Any] = {
        "family": "scale",
        "levels": [0.5, 1.0, 2.0],
        "metrics": ["cross_entropy", "margin"],
    }
    fast, general = (nz.sweep(model, *data, **options) for model in (network, unrecognised(network)))
    assert (fast.attrs["backend"], general.attrs["backend"]) == BACKENDS
    for name in options["metrics"]:
        np.testing.assert_allclose(fast[name], general[name], rtol=1e-4)
        assert float(fast[name].sel(level=1.0)) == float(fast[f"unperturbed_{name}"])
    own = nz.sweep(
        network, *data, **options | {"metrics": {"greatest": lambda logits, target: logits.amax(1)}}
    )
    assert own.attrs["backend"] == "model"
    assert float(own.greatest[0]) < float(own.greatest[2])


# --- laws for each backend -------------------------------------------------------------------------------------------


@pytest.fixture(params=BACKENDS)
def evaluator(
    request: pytest.FixtureRequest, data: tuple[np.ndarray, np.ndarray]
) -> Iterator[LayerEvaluator]:
    with opened(request.param, network_of("relu"), data, batch_size=40) as result:
        yield result


def test_the_identity_changes_nothing(evaluator: LayerEvaluator) -> None:
    nothing = [nz.Perturbation(), Addition(np.ones((301, 24), np.float32), 0.0)]
    nothing += [each.at(each.identity, evaluator.ranges) for each in families(evaluator).values()]  # type: ignore[arg-type]
    scores = evaluator.scores(nothing, NAMES)
    for name, values in scores.means.items():
        np.testing.assert_array_equal(values, np.full(len(nothing), scores.unperturbed[name]), err_msg=name)
    for sums in evaluator.changes(nothing):
        np.testing.assert_array_equal(sums, 0)
    np.testing.assert_array_equal(evaluator.mean_logit_change(nothing), 0)


def test_dead_units_are_left_alone(evaluator: LayerEvaluator) -> None:
    live = evaluator.ranges.live.copy()
    live[::3] = False
    post = evaluator.ranges.post
    width = np.where(live, post.maximum, post.minimum)
    ranges = replace(evaluator.ranges, post=nz.UnitRange(post.minimum, width, "post"))
    squares, _ = evaluator.changes([each.at(0.4, ranges) for each in families(evaluator).values()])
    assert not squares[:, ~live].any()
    assert (squares[:, live & (post.width > 0)].sum(axis=1) > 0).all()


def test_a_logit_shift_of_nothing_is_none(evaluator: LayerEvaluator) -> None:
    perturbations = [nz.Shift().at(0.2, evaluator.ranges), nz.Cap().at(0.5, evaluator.ranges)]
    scores = evaluator.scores(perturbations, NAMES, shift=np.zeros((2, 10)))
    for name in NAMES:
        np.testing.assert_array_equal(scores.means[name], scores.means[f"centred_{name}"], err_msg=name)


def test_items_add_up(evaluator: LayerEvaluator) -> None:
    perturbations = [nz.Shift().at(0.2, evaluator.ranges), nz.Cap().at(0.5, evaluator.ranges)]
    scores = evaluator.scores(perturbations, NAMES, keep=True)
    assert scores.positions is not None
    np.testing.assert_array_equal(scores.positions[:, 0], evaluator.examples)
    for name in NAMES:
        assert scores.values[name].shape == (2, 301)
        np.testing.assert_allclose(scores.values[name].mean(axis=1), scores.means[name], rtol=1e-5)


def test_halves_divide_the_examples_independently_of_batches(
    evaluator: LayerEvaluator, data: tuple[np.ndarray, np.ndarray]
) -> None:
    reference, responding = evaluator.split(9)
    assert [each.tolist() for each in halves(301, 9)] == [
        each.examples.tolist() for each in (reference, responding)
    ]
    pairs = np.sort(np.concatenate([reference.examples, responding.examples]))
    np.testing.assert_array_equal(pairs, np.arange(301))
    assert len(set(reference.examples // 2)) == len(reference.examples)
    np.testing.assert_array_equal(reference.row_examples, reference.examples)
    whole = evaluator.preactivations()
    np.testing.assert_allclose(reference.preactivations(), whole[reference.examples], rtol=1e-4, atol=1e-5)


def test_halves_have_ranges_of_their_own(evaluator: LayerEvaluator) -> None:
    # computed before the split, to test that the halves don't take it over
    assert evaluator.ranges.live.any()
    for half in evaluator.split(9):
        np.testing.assert_allclose(half.ranges.pre.maximum, half.preactivations().max(axis=0), rtol=1e-6)
        assert (half.ranges.pre.maximum <= evaluator.ranges.pre.maximum + 1e-4).all()
        assert not np.array_equal(half.ranges.pre.width, evaluator.ranges.pre.width)


def test_matched_levels_reach_the_displacement_by_the_definition(evaluator: LayerEvaluator) -> None:
    ranges = evaluator.ranges
    sizes, z = Displacements(evaluator, ranges), evaluator.preactivations().astype(np.float64)
    for name, family in families(evaluator).items():
        for side in family.sides:
            (result,) = sizes.match(family, side, (0.15,))
            if not result.reached:
                continue
            each = family.at(result.level, ranges)
            a = np.maximum(z, 0)
            changed = np.maximum(each(z), 0) if each.side == "pre" else each(a)
            d = np.sqrt(np.square(changed - a)[:, ranges.live].sum() / np.square(a)[:, ranges.live].sum())
            assert d == pytest.approx(0.15, rel=1e-3), name


# --- halves ---------------------------------------------------------------------------------------------------------


def test_one_of_each_pair_is_the_reference() -> None:
    numbers = np.arange(5001)
    first = in_reference(numbers, 3)
    assert (first[:5000:2] ^ first[1:5000:2]).all()
    assert 0.45 < first[:5000:2].mean() < 0.55  # drawn at random
    # depends on an example's own number only
    np.testing.assert_array_equal(in_reference(numbers[::-7], 3), first[::-7])
    assert np.mean(in_reference(numbers, 4) == first) < 0.6


# --- the choice of a backend -----------------------------------------------------------------------------------------


def test_the_backend_is_chosen_by_model_and_options(data: tuple[np.ndarray, np.ndarray]) -> None:
    """The attribute `backend` of the result says which one it was."""
    network, (x, y) = network_of("relu"), data
    module = nn.Sequential(nn.Flatten(), *network.to_module())

    def picked(model: Any, given: Any, *labels: Any, **options: Any) -> str:
        return str(nz.sweep(model, given, *labels, family="scale", levels=[0.5], **options).attrs["backend"])

    loader = [(torch.from_numpy(x[:100]), torch.from_numpy(y[:100]))]
    assert picked(network, x, y) == picked(module, x, y) == picked(module, loader) == "two-layer"
    assert picked(network, loader) == picked(network, x.tolist()) == "two-layer"
    assert picked(network, x, layer="hidden") == picked(module, loader, layer="1") == "two-layer"
    assert picked(module, x, layer="3") == "model"  # its readout
    doubles = nn.Sequential(nn.Flatten(), *network.to_module()).double()
    assert picked(doubles, x.astype(np.float64), y) == "model"  # in its own precision
    assert picked(module, x, y, backend="model") == picked(module, x, method="full") == "model"
    assert (
        picked(unrecognised(network), x, y)
        == picked(module, loader, output=lambda logits: 2 * logits)
        == "model"
    )
    with pytest.raises(nz.InputError, match="backend must be one of two-layer, model; got 'fast'"):
        picked(network, x, backend="fast")
    with pytest.raises(nz.InputError, match="can't be evaluated by backend='two-layer'"):
        picked(module, loader, layer="3", backend="two-layer")
    deep = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10))
    with pytest.raises(
        nz.InputError, match=r"the model has 2 activations; choose one by layer=\.\.\.: one of 1, 3"
    ):
        picked(deep, x)
