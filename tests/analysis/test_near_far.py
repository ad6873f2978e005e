"""Near against far: a network by hand, and a brute force without closed forms or a particular order of sums."""

from itertools import product

import numpy as np
import pytest

import nearzero as nz
from nearzero.analysis.displacement import displacement
from nearzero.analysis.near_far import _Case, _NearFarPlan, _replaced, near_and_far
from nearzero.networks import initial_stack

FRACTIONS = (0.1, 0.35, 0.5)
TARGETS = (0.02, 0.1, 0.4, 3.0)


def network_of(activation, *, units=9):
    net = initial_stack([3], activation, inputs=10, units=units, classes=4)[0]
    return nz.TwoLayer(3 * net.w1, net.b1, 4 * net.w2, net.b2, activation)


def labelled(examples, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(examples, 10)).astype(np.float32), rng.integers(0, 4, examples)


# --- by hand -------------------------------------------------------------------------------------------------

TWO = nz.TwoLayer(np.eye(2), np.zeros(2), np.eye(2), [0.0, 2.2])
FOUR = np.array([[1.0, 4.0], [-2.0, 3.0], [3.0, -1.0], [4.0, 2.0]])


def test_two_units_by_hand():
    """Of unit 0 examples 0, 1 are near (a = 1, 0), of unit 1 examples 2, 3 (a = 0, 2); sum a^2 = 55."""
    found = near_and_far(
        TWO, FOUR, [1, 1, 0, 1], fractions=[0.5], targets=[0.1, 0.2], replacements=["mean"]
    ).squeeze()
    near, far = found.sel(part="near"), found.sel(part="far")
    # near: 1, 0 become 0.5 and 0, 2 become 1; far: 3, 4 become 3.5 in both units
    assert float(near.displacement) == pytest.approx(np.sqrt(2.5 / 55))
    assert float(far.displacement) == pytest.approx(np.sqrt(1 / 55))
    # near at t = 1: logits of example 2 from (3, 2.2) to (3, 3.2), of 3 from (4, 4.2) to (4, 3.2)
    assert (float(near.accuracy), float(near.agreement)) == (0.5, 0.5)
    assert (float(far.accuracy), float(far.agreement)) == (1.0, 1.0)
    # at the reach of the far part, t = sqrt(1 / 2.5): example 2 stays, (3, 2.83)
    assert float(found.reach) == pytest.approx(np.sqrt(1 / 55))
    np.testing.assert_allclose([near.reach_t, far.reach_t], [np.sqrt(1 / 2.5), 1])
    assert (float(near.reach_agreement), float(far.reach_agreement)) == (0.75, 1.0)
    np.testing.assert_array_equal(found.reached, [[True, True], [True, False]])
    np.testing.assert_allclose(near.t, [0.1 * np.sqrt(55 / 2.5), 0.2 * np.sqrt(55 / 2.5)])
    np.testing.assert_array_equal(np.isnan(found.matched_accuracy), ~found.reached)
    # t = 0.47 and 0.94: example 3 changes where 4.2 - t < 4, example 2 where 2.2 + t > 3
    np.testing.assert_array_equal(near.matched_agreement, [0.75, 0.5])
    assert (float(near.zeros), float(far.zeros)) == (0.5, 0.0)
    assert float(found.unperturbed_accuracy) == 1.0


def test_of_equal_logits_the_first_wins():
    """The far part at t = 1 has a' = (3.5, 2) for example 3: with a bias of 1.5 a tie."""
    net = nz.TwoLayer(np.eye(2), np.zeros(2), np.eye(2), [0.0, 1.5])
    found = near_and_far(net, FOUR, [1, 1, 0, 0], fractions=0.5, replacements="mean")
    assert float(found.accuracy.sel(part="far").squeeze()) == 1.0
    swapped = nz.TwoLayer(np.eye(2), np.zeros(2), np.eye(2)[::-1], [1.5, 0.0])
    found = near_and_far(swapped, FOUR, [0, 0, 1, 0], fractions=0.5, replacements="mean")
    assert float(found.accuracy.sel(part="far").squeeze()) == 1.0


def test_of_equal_distances_the_first_is_nearer():
    """z = -1, 1, 2, -1, 2: the two nearest are examples 0 and 1; of the two farthest, 2 and 4, both are taken."""
    net = nz.TwoLayer([[1.0]], [0.0], [[1.0], [0.0]], [0.0, 0.4], "relu")
    x = np.array([[-1.0], [1.0], [2.0], [-1.0], [2.0]])
    found = near_and_far(net, x, fractions=0.4, replacements="mean")
    # of examples 0 and 1, a = 0, 1 become 0.5: the first is predicted otherwise; of 0 and 3 neither would be
    np.testing.assert_array_equal(found.agreement.squeeze(), [0.8, 1.0])
    assert found.displacement.sel(part="far").item() == 0
    np.testing.assert_array_equal(found.reach_t.squeeze(), [0.0, 1.0])
    assert not found.reached.sel(part="far").any()


# --- by brute force ------------------------------------------------------------------------------------------


def changed(network, z, live, plan, case, part, t):
    """a', (N, U), unit by unit in float64; what is drawn is drawn as in the module."""
    a = network.act(z)
    out = a.astype(float)
    size = round(case.fraction * len(z))
    for u in np.flatnonzero(live):
        order = np.lexsort((np.arange(len(z)), np.abs(z[:, u])))
        places = order[:size] if part == "near" else order[-size:]
        drawn = _replaced(case.replacement, a[places, u], plan.generator(case, part, size, int(u)))
        out[places, u] = (1 - t) * out[places, u] + t * drawn
    return out


def brute_force(network, z, live, plan, case, part, t, y):
    """Displacement, accuracy and agreement."""
    a = network.act(z).astype(float)
    moved = changed(network, z, live, plan, case, part, t)
    before, after = ((each @ network.w2.T.astype(float) + network.b2).argmax(axis=1) for each in (a, moved))
    return displacement(a, moved, live), np.mean(after == y), np.mean(after == before)


@pytest.mark.parametrize("activation", ["relu", "abs", "gelu"])
def test_against_brute_force(activation):
    network = network_of(activation)
    w1, b1 = np.vstack([network.w1, 0 * network.w1[:1]]), np.append(network.b1, 2.0)
    dead = nz.TwoLayer(w1, b1, np.hstack([network.w2, network.w2[:, :1]]), network.b2, activation)
    x, y = labelled(120)
    z, live = nz.HiddenLayer(dead, x).z, np.arange(10) < 9
    found = near_and_far(dead, x, y, fractions=FRACTIONS, targets=TARGETS, draws=2, seed=7)
    assert int(found.dead_units) == 1
    plan = _NearFarPlan(FRACTIONS, TARGETS, ("resample", "mean", "noise"), 2, 7)
    changes = 0
    for replacement in plan.replacements:
        for fraction in FRACTIONS:
            draws = range(1 if replacement == "mean" else 2)
            cases = [_Case(replacement, fraction, draw) for draw in draws]
            sizes = {
                part: [brute_force(dead, z, live, plan, case, part, 1.0, y)[0] for case in cases]
                for part in ("near", "far")
            }
            for part, whole in sizes.items():
                here = found.sel(part=part, replacement=replacement, fraction=fraction)
                full = [brute_force(dead, z, live, plan, case, part, 1.0, y) for case in cases]
                expected = np.mean(full, axis=0)
                np.testing.assert_allclose(
                    [here.displacement, here.accuracy, here.agreement], expected, rtol=1e-6
                )
                changes += expected[2] < 1
                levels = [
                    ("reach_", np.minimum(*sizes.values()), here),
                    *(("matched_", np.full(len(cases), d), here.sel(target=d)) for d in TARGETS),
                ]
                for prefix, wanted, values in levels:
                    t = wanted / whole
                    if (t > 1).any():
                        assert prefix == "matched_"
                        assert not values.reached
                        assert np.isnan(values.t)
                        assert np.isnan(values.matched_accuracy)
                        continue
                    each = [
                        brute_force(dead, z, live, plan, case, part, own, y)
                        for case, own in zip(cases, t, strict=True)
                    ]
                    np.testing.assert_allclose([d for d, *_ in each], wanted, rtol=1e-6)
                    _, accuracy, agreement = np.mean(each, axis=0)
                    np.testing.assert_allclose(values[f"{prefix}accuracy"], accuracy, rtol=1e-12)
                    np.testing.assert_allclose(values[f"{prefix}agreement"], agreement, rtol=1e-12)
                    mine = values.t if prefix == "matched_" else values.reach_t
                    np.testing.assert_allclose(mine, t.mean(), rtol=1e-6)
    assert changes > 10, "the replacements are felt"
    assert found.reached.any()
    assert not found.reached.all()


def test_shares_of_zeros_and_of_places_left_alone():
    network, (x, _) = network_of("relu"), labelled(400)
    z = nz.HiddenLayer(network, x).z
    found = near_and_far(network, x, fractions=[0.5], draws=2)
    plan = _NearFarPlan((0.5,), (0.1,), ("resample", "mean", "noise"), 2, 0)
    for part in ("near", "far"):
        order = np.argsort(np.abs(z), axis=0)
        places = order[:200] if part == "near" else order[200:]
        a = np.maximum(np.take_along_axis(z, places, axis=0), 0)
        assert 0.2 < np.mean(a == 0) < 0.8
        assert found.zeros.sel(part=part).item() == pytest.approx(np.mean(a == 0))
        for replacement in ("resample", "mean", "noise"):
            draws = range(1 if replacement == "mean" else 2)
            live = np.ones(network.units, bool)
            same = [
                changed(network, z, live, plan, _Case(replacement, 0.5, draw), part, 1.0) == np.maximum(z, 0)
                for draw in draws
            ]
            inside = np.mean([np.take_along_axis(each, places, axis=0).mean() for each in same])
            assert found.unchanged.sel(part=part, replacement=replacement).item() == pytest.approx(inside)
    words = found.attrs["notes"]
    assert "ReLU gives a = 0 wherever z <= 0" in words[0]
    zeros = 100 * found.zeros.sel(part="near").item()
    same = 100 * found.unchanged.sel(part="near", replacement="resample").item()
    assert words[1].startswith(f"near part at 50 % of the examples: a = 0 at {zeros:.1f} % of its places")
    assert f"a' = a after: resample {same:.1f} %, mean 0.0 %, noise 0.0 %" in words[1]
    assert near_and_far(network_of("gelu"), x).attrs["notes"] == ["a = 0 nowhere in the parts"]


# --- what is drawn -------------------------------------------------------------------------------------------


def test_replacements_keep_what_they_should(rng):
    values = rng.gamma(2.0, size=5000).astype(np.float32)
    resampled = _replaced("resample", values, np.random.default_rng(1))
    np.testing.assert_array_equal(np.sort(resampled), np.sort(values))
    assert np.mean(resampled == values) < 0.01
    np.testing.assert_allclose(_replaced("mean", values, np.random.default_rng(1)), values.mean(), rtol=1e-6)
    noise = _replaced("noise", values, np.random.default_rng(1))
    assert noise.mean() == pytest.approx(values.mean(), abs=5 * values.std() / np.sqrt(5000))
    assert noise.std() == pytest.approx(values.std(), rel=0.05)
    assert abs(np.corrcoef(noise, values)[0, 1]) < 0.07


def test_seeds_and_draws_matter():
    network, (x, y) = network_of("abs"), labelled(300)
    one, again, other = (near_and_far(network, x, y, draws=1, seed=seed) for seed in (0, 0, 1))
    assert one.identical(again)
    drawn = {"resample", "noise"}
    for name in one.replacement.values:
        differ = not np.array_equal(
            one.displacement.sel(replacement=name), other.displacement.sel(replacement=name)
        )
        assert differ == (name in drawn)
    plan = _NearFarPlan((0.5,), (0.1,), ("noise",), 2, 0)
    cases = [_Case(replacement, 0.5, draw) for replacement in drawn for draw in (0, 1)]
    streams = [
        plan.generator(*arguments).random() for arguments in product(cases, ("near", "far"), (5, 6), (0, 1))
    ]
    assert len(set(streams)) == 32


def test_memory_and_threads_change_nothing(monkeypatch):
    network, (x, y) = network_of("relu", units=40), labelled(500)
    whole = near_and_far(network, x, y, threads=1)
    monkeypatch.setattr("nearzero.support.memory.LEAST", 0)
    blocks = near_and_far(
        network, x, y, threads=2, memory=100_000
    )  # 2 units, 3 cases, 288 examples at a time
    for name in whole.data_vars:
        np.testing.assert_allclose(blocks[name], whole[name], rtol=1e-6)


def test_without_labels_there_is_agreement():
    network, (x, y) = network_of("abs"), labelled(100)
    found, known = near_and_far(network, x, draws=1), near_and_far(network, x, y, draws=1)
    assert "accuracy" not in found
    assert "unperturbed_accuracy" not in found
    np.testing.assert_array_equal(found.agreement, known.agreement)


def test_on_real_digits(trained, mnist_5k):
    """The unperturbed accuracy is the sweep's, and what is near moves less than what is far."""
    x, y = mnist_5k.test.pixels[:500], mnist_5k.test.labels[:500]
    for name in ("relu", "abs"):
        found = near_and_far(trained[name], x, y, draws=1)
        assert (
            found.unperturbed_accuracy == nz.sweep(trained[name], x, y, family="scale").unperturbed_accuracy
        )
        assert (found.displacement.sel(part="near") < found.displacement.sel(part="far")).all()
        np.testing.assert_array_equal(found.reach, found.displacement.sel(part="near"))


# --- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"fractions": [0.0, 0.5]},
            r"fractions must be numbers above 0 and at most 1, at least one; got \[0.0",
        ),
        ({"fractions": [1.5]}, "fractions must be numbers above 0 and at most 1"),
        ({"fractions": []}, "at least one; got \\[\\]"),
        ({"targets": [-0.1]}, "targets must be numbers above 0 and finite"),
        ({"targets": [0.1, 0.1]}, "targets must differ from each other"),
        ({"replacements": ["swap"]}, "unknown replacement 'swap': known are resample, mean, noise"),
        ({"replacements": "meen"}, "unknown replacement 'meen': did you mean 'mean'"),
        ({"replacements": ["mean", "mean"]}, "replacements must be names, each once"),
        ({"draws": 0}, "draws must be a whole number, at least 1; got 0"),
        ({"seed": 0.5}, "seed must be a whole number, at least 0; got 0.5"),
        ({"y": [0, 1]}, "y must have one label per example"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(nz.InputError, match=message):
        near_and_far(network_of("relu"), labelled(20)[0], **arguments)


@pytest.mark.parametrize("backend", ["two-layer", "model"])
def test_without_a_live_unit_there_are_no_parts(backend):
    """The effects are NaN, without warnings, and the notes say why."""
    x = np.array([[-1.0, -1.0], [-2.0, -1.0]], dtype=np.float32)
    model = TWO if backend == "two-layer" else TWO.to_module()
    options = {} if backend == "two-layer" else {"backend": "model", "layer": "1"}
    scores = near_and_far(model, x, [0, 1], **options)
    measured = [name for name in scores.data_vars if "fraction" in scores[name].dims and name != "reached"]
    assert len(measured) == 12
    assert scores[measured].isnull().all().to_array().all()
    assert not scores.reached.any()
    assert (int(scores.dead_units), float(scores.unperturbed_accuracy)) == (2, 0.5)
    assert scores.attrs["notes"] == [
        "no unit is live, or a = 0 everywhere: nothing has a near and a far part"
    ]
