"""Responses at matched displacement, against plain computations with the definition."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import nearzero as nz
from nearzero.analysis.matched import MEASURES
from nearzero.evaluators.base import halves

DESIGN = nz.Design(targets=(0.1, 0.3), draws=3)


@pytest.fixture(scope="module")
def found(trained: dict[str, nz.TwoLayer], mnist_5k: nz.datasets.Dataset) -> dict[str, xr.Dataset]:
    data = mnist_5k.train
    return {
        name: nz.matched(trained[name], data.pixels, data.labels, design=DESIGN) for name in ("abs", "relu")
    }


@pytest.mark.parametrize("name", ["abs", "relu"])
def test_accuracies_are_those_at_the_levels_on_the_other_half(
    name: str, found: dict[str, xr.Dataset], trained: dict[str, nz.TwoLayer], mnist_5k: nz.datasets.Dataset
) -> None:
    """In float64, by plain NumPy, with ranges, levels and the mean logit shift of the reference half."""
    network, data = trained[name], mnist_5k.train
    reference, responding = halves(len(data.labels), DESIGN.seed)
    assert not set(reference) & set(responding)
    assert len(reference) + len(responding) == len(data.labels)
    ranges = nz.unit_ranges(network, data.pixels[reference])
    w1, b1, w2, b2 = (getattr(network, each).astype(np.float64) for each in ("w1", "b1", "w2", "b2"))
    z, z_reference = (data.pixels[rows] @ w1.T + b1 for rows in (responding, reference))
    labels, act = data.labels[responding], network.act

    def perturbed(values: np.ndarray, perturbation: nz.Perturbation) -> np.ndarray:
        return act(perturbation(values)) if perturbation.side == "pre" else perturbation(act(values))

    unperturbed = (act(z) @ w2.T + b2).argmax(axis=1)
    assert found[name].unperturbed_accuracy == np.mean(unperturbed == labels)
    for family in ("shift", "offset", "scale", "clip", "cap"):
        made = nz.make_family(family, nz.Conduct())
        for side in made.sides:
            for target in DESIGN.targets:
                row = found[name].sel(family=family, side=side, target=target)
                perturbation = made.at(float(row.level), ranges)
                a, a_reference = perturbed(z, perturbation), perturbed(z_reference, perturbation)
                predictions = (a @ w2.T + b2).argmax(axis=1)
                shift = (a_reference - act(z_reference)).mean(axis=0) @ w2.T
                centred = (a @ w2.T + b2 - shift).argmax(axis=1)
                measured = {
                    "accuracy": predictions == labels,
                    "agreement": predictions == unperturbed,
                    "centred_accuracy": centred == labels,
                    "centred_agreement": centred == unperturbed,
                }
                for measure, right in measured.items():
                    assert float(row[measure]) == pytest.approx(np.mean(right), abs=1.1 / len(labels))
                change = a - act(z)
                d = np.sqrt((change**2).sum() / (act(z) ** 2).sum())
                assert float(row.displacement) == pytest.approx(target, rel=1e-3)
                assert float(row.displacement_here) == pytest.approx(d, rel=1e-4)
                each = np.sqrt((change**2).sum(axis=1) / (act(z) ** 2).sum(axis=1))
                assert float(row.median_displacement) == pytest.approx(np.median(each), rel=1e-3)
                logits = act(z) @ w2.T
                ratio = ((change @ w2.T) ** 2).sum() / ((logits - logits.mean(axis=0)) ** 2).sum()
                assert float(row.logit_displacement) == pytest.approx(np.sqrt(ratio), rel=1e-3)


def test_random_families_are_averaged_over_their_draws(
    found: dict[str, xr.Dataset], trained: dict[str, nz.TwoLayer], mnist_5k: nz.datasets.Dataset
) -> None:
    data = mnist_5k.train
    single = [
        nz.matched(
            trained["relu"],
            data.pixels,
            data.labels,
            design=nz.Design(families=("gains",), targets=(0.3,), draws=1, first_draw=draw),
        )
        for draw in range(3)
    ]
    reference, responding = halves(len(data.labels), 0)
    hidden = nz.HiddenLayer(trained["relu"], data.pixels[reference])
    here = nz.HiddenLayer(trained["relu"], data.pixels[responding])
    from nearzero.analysis.displacement import Displacements

    shares = []
    for seed in range(3):
        family = nz.Gains(seed)
        (match,) = Displacements(hidden, hidden.ranges).match(family, "above", (0.3,))
        predictions = here.predict([family.at(match.level, hidden.ranges)])[0]
        shares.append(np.mean(predictions == data.labels[responding]))
    assert len(set(shares)) > 1
    row = found["relu"].sel(family="gains", side="above", target=0.3)
    assert float(row.accuracy) == pytest.approx(np.mean(shares), rel=1e-12)
    assert [float(each.accuracy.sel(side="above").squeeze()) for each in single] == shares


def test_noise_displaces_as_far_and_scale_of_relu_changes_nothing(found: dict[str, xr.Dataset]) -> None:
    for each in found.values():
        noise = each.sel(family=["noise", "covariance_noise"], side="above")
        np.testing.assert_allclose(noise.displacement, np.broadcast_to(DESIGN.targets, (2, 2)), rtol=1e-3)
        np.testing.assert_allclose(
            noise.displacement_here, np.broadcast_to(DESIGN.targets, (2, 2)), rtol=0.03
        )
        assert (noise.accuracy < each.unperturbed_accuracy).all()
        assert (each.agreement.sel(family="scale") > 0.99).all()


def test_what_a_family_hasnt_or_doesnt_reach_is_nan(
    trained: dict[str, nz.TwoLayer], mnist_5k: nz.datasets.Dataset
) -> None:
    design = nz.Design(families=("cap", "scale"), targets=(0.5, 0.999, 3.0), checks=())
    data = mnist_5k.test
    out = nz.matched(trained["relu"], data.pixels, design=design)
    assert "accuracy" not in out
    assert out.agreement.sel(family="cap", side="above").isnull().all()
    below = out.sel(family="scale", side="below")
    np.testing.assert_allclose(below.level, [0.5, np.nan, np.nan], rtol=1e-3)
    assert bool(below.agreement.isnull()[2])
    assert set(out.data_vars) <= {*MEASURES, "dead_units", "undefined_examples", "reason"}


def test_examples_without_activation_are_counted() -> None:
    """Two units, of which the second example sets neither."""
    network = nz.TwoLayer(np.eye(2), np.zeros(2), np.eye(2), np.zeros(2), "relu")
    x = np.array([[3.0, 0.5], [-1.0, -2.0], [0.5, 2.0], [-3.0, -1.0], [1.5, 0.5], [-0.5, -0.5]])
    design = nz.Design(families=("shift",), targets=(0.1,))
    _, responding = halves(len(x), design.seed)
    out = nz.matched(network, x, design=design)
    assert int(out.undefined_examples) == int((x[responding] < 0).all(axis=1).sum())


HERE = ["displacement_here", "median_displacement", "logit_displacement", "centred_logit_displacement"]
SHIFT = nz.Design(families=("shift", "noise"), targets=(0.1,))


def measured(network: nz.TwoLayer, x: np.ndarray, backend: str) -> xr.Dataset:
    """The responses by either backend; warnings are errors in tests."""
    y = np.arange(len(x)) % len(network.b2)
    if backend == "two-layer":
        return nz.matched(network, x, y, design=SHIFT)
    data = (x.astype(np.float32), y)
    return nz.matched(network.to_module(), data, backend="model", layer="1", design=SHIFT)


@pytest.mark.parametrize("backend", ["two-layer", "model"])
def test_a_network_without_live_units_is_nan_with_a_reason(backend: str) -> None:
    network = nz.TwoLayer(np.eye(2), -np.ones(2), np.eye(2), np.array([0.0, 1.0]), "relu")
    out = measured(network, -np.arange(16.0).reshape(8, 2), backend)
    assert out[list(MEASURES)].isnull().all().to_array().all()
    assert out.reason == "no unit is live"
    assert (int(out.dead_units), int(out.undefined_examples)) == (2, 4)
    assert out.unperturbed_accuracy.notnull()


@pytest.mark.parametrize("backend", ["two-layer", "model"])
@pytest.mark.parametrize(("silent", "words"), [(0, "reference"), (1, "responding")])
def test_a_half_without_activations(backend: str, silent: int, words: str) -> None:
    """A silent reference half has no live unit; a silent responding half has no sizes of its own."""
    network = nz.TwoLayer(np.eye(2), np.zeros(2), np.eye(2), np.array([0.0, 0.5]), "relu")
    x = np.random.default_rng(0).uniform(1.0, 4.0, (20, 2))
    x[halves(len(x), SHIFT.seed)[silent]] *= -9.0
    out = measured(network, x, backend)
    reason = "no unit is live" if words == "reference" else "the activations are 0 in the responding half"
    assert out.reason == reason
    assert out[HERE].isnull().all().to_array().all()
    shift = out.sel(family="shift")
    assert bool(shift.accuracy.notnull().all()) == (words == "responding")


@pytest.mark.parametrize("backend", ["two-layer", "model"])
def test_a_covariance_that_cant_be_inverted_costs_the_whitened_displacement_alone(backend: str) -> None:
    """Two units that are always equal, on two reference rows."""
    network = nz.TwoLayer(np.ones((2, 1)), np.zeros(2), [[1.0, 0.0], [0.0, 3.0]], [4.0, 0.0], "relu")
    out = measured(network, np.array([[1.0], [1.0], [4.0], [3.0]]), backend)
    assert out.reason == "the covariance can't be inverted"
    assert out.whitened_displacement.isnull().all()
    assert out.displacement_here.sel(family="shift").notnull().all()


def test_a_single_class_and_few_live_units_are_said(rng: np.random.Generator) -> None:
    """The logits don't vary either, so there are no displacements of them."""
    bias = np.array([0.0, *[-99.0] * 9])
    network = nz.TwoLayer(np.ones((10, 3)), bias, np.zeros((2, 10)), [0.0, 1.0], "relu")
    out = measured(network, rng.uniform(0.0, 9.0, (40, 3)), "two-layer")
    assert out.reason == "9 of 10 units are dead; one class is predicted"
    assert out.logit_displacement.isnull().all()
    assert (out.accuracy.sel(family="shift") == out.unperturbed_accuracy).all()


def test_a_network_that_isnt_degenerate_has_no_reason(found: dict[str, xr.Dataset]) -> None:
    assert all(each.reason == "" for each in found.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"families": ()}, "families must be names, each once"),
        ({"families": ("shift", "shift")}, "families must be names, each once"),
        ({"families": "shift"}, "families must be names, each once; got 'shift'"),
        ({"families": ("shfit",)}, "unknown family 'shfit': did you mean 'shift'"),
        ({"families": ("nosie",)}, "unknown family 'nosie': did you mean 'noise'"),
        ({"conduct": "as-run"}, "conduct must be an nz.Conduct; got str"),
        ({"targets": (0.1, -1.0)}, "targets must be positive displacements"),
        (
            {"targets": (0.1,) * 101},
            "this would give 101 labels on the dimension target; a result has at most",
        ),
        ({"draws": 0}, "draws must be a whole number, at least 1; got 0"),
        ({"first_draw": -1}, "first_draw must be a whole number, at least 0; got -1"),
        ({"seed": 0.5}, "seed must be a whole number, at least 0; got 0.5"),
    ],
)
def test_refusals(change: dict[str, object], message: str) -> None:
    with pytest.raises(nz.InputError, match=message):
        nz.Design(**change)  # type: ignore[arg-type]
    with pytest.raises(nz.InputError, match="two halves need at least two examples; got 1"):
        halves(1, 0)


def test_examples_that_a_mask_leaves_out_count_in_nothing_whatever_the_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 4, 6, generator=generator), torch.randint(3, (12, 4), generator=generator)
    y[[2, 3, 10, 11]] = -100  # both of a pair, so that either half has some
    model = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3))
    design = nz.Design(families=("shift", "noise"), targets=(0.2,), draws=1)
    left = [row for row in range(12) if row not in (2, 3, 10, 11)]
    whole = nz.matched(model, [(x, y)], design=design)
    monkeypatch.setattr("nearzero.torch_models.data.MemoryBudget.rows", lambda *_: 1)
    by_one = nz.matched(model, [(x, y)], design=design)
    assert whole.undefined_examples == by_one.undefined_examples == 0
    assert whole.attrs["items"] == by_one.attrs["items"] == len(left) // 2 * 4
    for name in MEASURES:
        np.testing.assert_allclose(whole[name], by_one[name], rtol=1e-4)
