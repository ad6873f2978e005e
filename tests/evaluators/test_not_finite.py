"""Logits that are NaN or infinite are never ranked: refused without a perturbation, counted under one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import nearzero as nz
from nearzero.evaluators.base import SAFE
from nearzero.evaluators.scores import METRICS
from nearzero.evaluators.two_layer import TwoLayerEvaluator
from nearzero.perturbations.perturbation import Addition

SCALES = [0.5, 1.0, 30.0, 300.0, 3000.0]
X = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 3, (60,), generator=torch.Generator().manual_seed(2))


class Net(nn.Module):
    """Linear, ReLU, Linear, in any precision; not recognised as a two-layer network."""

    def __init__(self, dtype=torch.float16, greatest=500.0):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.last = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3, bias=False)
        with torch.no_grad():
            self.last.weight *= greatest / float(self.last(self.act(self.first(X))).abs().max())
        self.to(dtype)

    def forward(self, x):
        return self.out(self.last(self.act(self.first(x)) * 1.0))

    def out(self, logits):
        return logits


class Wrong(Net):
    """A network that gives some examples a logit that isn't finite."""

    def __init__(self, value, count=1):
        super().__init__(torch.float32)
        self.value, self.count = value, count

    def forward(self, x):
        logits = super().forward(x).clone()
        logits[(x[:, 0] > X[:, 0].sort().values[-self.count - 1]), 1] = self.value
        return logits


def expected(model, level) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the perturbed logits, and which items have one that isn't finite."""
    with torch.no_grad():
        z = model.first(X.to(model.first.weight.dtype))
        logits = model.out(model.last(model.act((level * z.float()).to(z.dtype)) * 1.0))
    return logits, ~logits.isfinite().all(1)


@pytest.mark.parametrize("method", ["suffix", "full"])
@pytest.mark.parametrize("keep_items", [False, True])
def test_overflow_under_a_scale_is_wrong_and_counted(method, keep_items, tmp_path):
    model = Net()
    options = {"families": "scale", "levels": SCALES, "method": method, "keep_items": keep_items}
    result = nz.probe(model, (X, Y), "act", **options)
    response, counts = result.response, []
    unperturbed = expected(model, 1.0)[0].argmax(1)
    for level in SCALES:
        logits, lost = expected(model, level)
        counts.append(int(lost.sum()))
        at = response.sel(level=level).isel(layer=0, family=0)
        assert at.accuracy.item() == float(((logits.argmax(1) == Y) & ~lost).double().mean())
        assert at.agreement.item() == float(((logits.argmax(1) == unperturbed) & ~lost).double().mean())
        if keep_items:
            assert not at.accuracy_items.values[lost].any()
    assert response.not_finite.values.ravel().tolist() == counts
    assert 0 == counts[1] < counts[3] < counts[4]
    several = sum(count > 0 for count in counts)
    words = f"at {several} levels, for up to {max(counts)} items"
    assert result.notes[0] == f"act: logits are NaN or infinite {words}, which count as wrong"
    assert result.summary()[0]["not finite"] == words
    again = nz.ProbeResult.open(result.save(tmp_path / "result"))
    assert again.notes == result.notes
    assert again.summary() == result.summary()


def test_nothing_is_said_where_all_logits_are_finite():
    result = nz.probe(Net(), (X, Y), "act", families="scale", levels=[0.5, 1.0])
    assert "not_finite" not in result.response
    assert "not finite" not in result.summary()[0]
    assert result.notes == []
    assert "not_finite" not in nz.sweep(Net(), [(X, Y)], family="scale", levels=[0.5, 1.0])


def test_only_the_layers_that_overflow_are_named():
    class Branched(Net):
        def __init__(self):
            super().__init__()
            self.side = nn.Linear(6, 3).half()

        def out(self, logits):
            return logits + torch.tanh(self.side(X.half()[: len(logits)]))

    options = {"families": ["scale", "clip"], "levels": {"scale": [300.0], "clip": [0.5]}}
    result = nz.probe(Branched(), [(X, Y)], ["act", "side"], **options)
    assert [note.split(":")[0] for note in result.notes if "NaN" in note] == ["act"]
    assert result.response.not_finite.sel(layer="side", family="scale", level=300.0).item() == 0
    assert [row["not finite"] == "" for row in result.summary()] == [False, True]
    assert np.isnan(result.response.not_finite.sel(family="clip", level=300.0)).all()


@pytest.mark.parametrize("name", ["sweep", "matched", "near_and_far"])
def test_other_analyses_count_them_too(name):
    model, data = Net(), [(X[:25], Y[:25]), (X[25:], Y[25:])]
    if name == "sweep":
        found = nz.sweep(model, data, layer="act", family="scale", levels=SCALES, keep_predictions=True)
        for level in SCALES:
            logits, lost = expected(model, level)
            predicted = logits.argmax(1).masked_fill(lost, -1)
            assert found.predictions.sel(level=level).values.tolist() == predicted.tolist()
            assert found.not_finite.sel(level=level).item() == int(lost.sum())
            assert found.accuracy.sel(level=level).item() == float((predicted == Y).double().mean())
    elif name == "matched":
        design = nz.Design(families=("scale", "noise"), targets=(0.1, 8.0))
        found = nz.matched(Net(greatest=2e4), data, layer="act", design=design)
        assert found.not_finite.sel(family="scale", side="above", target=0.1).item() == 0
        far = found.sel(family="scale", side="above", target=8.0)
        assert far.not_finite.item() > 0
        assert (
            far.agreement.item() == 1 - far.not_finite.item() / found.attrs["items"]
        )  # a scale changes nothing else
        assert far.centred_agreement.item() <= far.agreement.item()
        assert found.not_finite.attrs["long_name"].startswith("items whose logits are NaN")
    else:
        found = nz.near_and_far(Net(greatest=6.5e4), data, layer="act", replacements="noise", draws=1)
        assert found.not_finite.max() > 0
        assert (found.agreement <= 1 - found.not_finite / 60).all()
        assert found.notes[0].startswith("logits are NaN or infinite for up to")


def test_critical_levels_need_logits_that_can_be_ranked():
    message = r"some are NaN or infinite at levels from [\d.]+ to 3000; give low=\.\.\. and high=\.\.\. between which"
    with pytest.raises(nz.InputError, match=message):
        nz.critical_levels(Net(), X, layer="act", family="scale", low=0.5, high=3000.0, grid=20)
    assert len(nz.critical_levels(Net(), X, layer="act", family="scale", low=0.5, high=2.0, grid=20)) == 60


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("count", [1, 3])
def test_unperturbed_logits_that_cant_be_ranked_are_refused(value, count):
    message = (
        rf"^without a perturbation, {count} of 60 items in a batch with inputs float32 \(60, 6\) have logits that are "
        r"NaN or infinite; look for divergence, or overflow in half precision, or leave these items out by a mask$"
    )
    model, data = Wrong(value, count), [(X, Y)]
    for analyse in (
        lambda: nz.probe(model, data, "act"),
        lambda: nz.probe(model, data, "act", metrics={"own": lambda logits, target: logits[:, 0]}),
        lambda: nz.sweep(model, data, layer="act"),
        lambda: nz.near_and_far(model, data, layer="act"),
        lambda: nz.critical_levels(model, data, layer="act"),
    ):
        with pytest.raises(nz.InputError, match=message):
            analyse()
    with pytest.raises(nz.InputError, match=r"^without a perturbation"):
        nz.matched(model, data, layer="act")


def test_masked_items_may_have_any_logits():
    model, counts = Wrong(torch.nan, 2), X[:, 0] <= X[:, 0].sort().values[-3]
    response = nz.probe(model, [(X, Y)], "act", prepare=lambda batch: (*batch, counts), levels=2).response
    assert response.attrs["items"] == 58
    assert "not_finite" not in response


@pytest.mark.parametrize("classes", [3, 700])
def test_a_class_of_minus_infinity_is_left_out(classes):
    """As language models leave words out."""

    class Without(nn.Module):
        def __init__(self, value):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.act, self.last = nn.Linear(6, 8), nn.GELU(), nn.Linear(8, classes)
            self.value = value

        def forward(self, x):
            return self.last(self.act(self.first(x))).index_fill(1, torch.tensor([1]), self.value)

    left_out, low = (
        nz.matched(Without(value), [(X, Y)], layer="act", metrics=["accuracy", "agreement"])
        for value in (-torch.inf, -1e6)
    )
    assert "not_finite" not in left_out
    for name in ("accuracy", "agreement", "centred_accuracy", "centred_agreement"):
        np.testing.assert_array_equal(left_out[name], low[name])


def test_a_logit_that_falls_to_minus_infinity_counts():
    model = Net()
    model.last.weight.data[2] = -2000.0
    response = nz.probe(model, (X, Y), "act", families="scale", levels=[1.0, 30.0]).response
    _, lost = expected(model, 30.0)
    assert response.not_finite.values.ravel().tolist() == [0, int(lost.sum())]
    assert lost.any()


# --- two-layer networks ---


def network(size: float) -> nz.TwoLayer:
    generator = np.random.default_rng(0)
    w1, w2 = generator.normal(size=(8, 6)), size * generator.normal(size=(3, 8))
    return nz.TwoLayer(w1, np.zeros(8), w2, np.zeros(3), "relu")


HUGE = 3e36  # float32 ends at 3.4e38
LEVELS = [0.5, 1.0, 20.0, 100.0]


@pytest.mark.parametrize("many", [False, True])
def test_a_two_layer_network_that_overflows(many):
    """Also along a line of levels, which another kernel follows."""
    net, x, y = network(HUGE), X.numpy(), Y.numpy()
    levels = np.linspace(1.0, 100.0, 60) if many else np.array(LEVELS)
    conduct = nz.Conduct(offset="shift")
    for family in ("scale", "offset"):
        found = nz.sweep(net, x, y, family=family, levels=levels, keep_predictions=True, conduct=conduct)
        ranges, made = nz.unit_ranges(net, x), nz.make_family(family, conduct)
        some = False
        for place, level in enumerate(levels):
            z = x @ net.w1.T
            with np.errstate(over="ignore", invalid="ignore"):
                logits = net.act(made.at(float(level), ranges)(z)) @ net.w2.T
            lost = ~np.isfinite(logits).all(axis=1)
            some |= bool(lost.any())
            predicted = np.where(lost, -1, logits.argmax(axis=1))
            assert (
                np.count_nonzero(found.predictions.values[place] != predicted) <= 1
            )  # at the very end of float32
            assert abs(found.accuracy.values[place] - np.mean(predicted == y)) < 0.02
            if some:
                assert abs(found.not_finite.values[place] - lost.sum()) <= 1
        assert some


def test_a_two_layer_network_that_overflows_in_other_analyses():
    net, x, y = network(HUGE), X.numpy(), Y.numpy()
    design = nz.Design(families=("scale", "noise"), targets=(0.1, 4.0), draws=1)
    found = nz.matched(network(4 * HUGE), x, y, design=design).sel(side="above")
    assert found.not_finite.sel(target=0.1).values.tolist() == [0.0, 0.0]
    far = found.sel(target=4.0)
    assert (far.not_finite > 0).all()
    assert (far.agreement <= 1 - far.not_finite / found.attrs["items"]).all()
    scale = far.sel(family="scale")  # which changes no prediction
    np.testing.assert_allclose(scale.agreement, 1 - scale.not_finite / found.attrs["items"])
    result = nz.probe(net.to_module(), (X, Y), families="scale", levels=LEVELS)
    assert result.response.method.item() == "two-layer"
    assert result.response.not_finite.values[0, 0, -1] > 0
    assert "logits are NaN or infinite" in result.notes[0]


def test_near_and_far_of_a_network_at_the_end_of_float32():
    x = np.linspace(0.5, 3.3, 200, dtype=np.float32)[:, None]
    net = nz.TwoLayer([[1.0]], [0.0], [[1e38], [0.0]], [0.0, 1e37], "relu")
    options = {"replacements": "noise", "fractions": 1.0, "draws": 1, "seed": 3}
    whole = nz.near_and_far(net, x, **options)
    found = whole.sel(part="far")
    drawn = np.random.default_rng([3, 0, 200, 0, *b"far noise"]).standard_normal(200, dtype=np.float32)
    a = x.mean(dtype=np.float64) + x.std(dtype=np.float64) * drawn
    beyond = int((a * 1e38 > np.finfo(np.float32).max).sum())
    assert beyond > 0
    assert found.not_finite.item() == beyond
    # class 0 is predicted without a perturbation, since 1e38 a > 1e37
    np.testing.assert_allclose(
        found.agreement.item(), ((a > 0.1) & (a * 1e38 <= np.finfo(np.float32).max)).mean()
    )
    assert whole.notes[0] == (
        f"logits are NaN or infinite for up to {int(whole.not_finite.max())} items, counted as wrong"
    )
    small = nz.TwoLayer([[1.0]], [0.0], [[1.0], [0.0]], [0.0, 0.1], "relu")
    assert "not_finite" not in nz.near_and_far(small, x, **options)


def test_an_unperturbed_two_layer_network_that_overflows_is_refused():
    net, x, y = network(30 * HUGE), X.numpy(), Y.numpy()
    for analyse in (
        lambda: nz.sweep(net, x, y),
        lambda: nz.matched(net, x, y),
        lambda: nz.near_and_far(net, x, y),
        lambda: nz.probe(net, (x, y)),
    ):
        with pytest.raises(nz.InputError, match=r"^without a perturbation, \d+ of \d+ (examples|items)"):
            analyse()


def test_logits_are_searched_only_where_they_may_overflow(monkeypatch):
    """For weights of ordinary size the bound alone decides, at any level."""
    searched = []
    gather = TwoLayerEvaluator.gather
    monkeypatch.setattr(
        TwoLayerEvaluator, "gather", lambda self, work: searched.append(1) or gather(self, work)
    )
    nz.sweep(network(1e6), X.numpy(), Y.numpy())
    assert not searched
    nz.sweep(network(HUGE), X.numpy(), Y.numpy(), family="scale", levels=[1.0, 100.0])
    assert searched


@pytest.mark.parametrize("activation", nz.ACTIVATIONS)
def test_the_bound_on_logits_holds(activation):
    net = network(1.0)
    net = nz.TwoLayer(net.w1, net.b1, net.w2, net.b2 + 0.5, activation)
    evaluator = TwoLayerEvaluator.of(net, X.numpy())
    conduct = nz.Conduct(offset="shift")
    perturbations = [
        nz.make_family(name, conduct, 1).at(level, evaluator.ranges)
        for name in nz.FAMILIES
        for level in (-2.0, -0.5, 0.3, 1.0, 10.0)
        if name != "scale" or level > 0
    ]
    perturbations += [nz.Perturbation(low=1e4, side="post"), nz.Perturbation(clip=-1e4, side="post")]
    noise = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    perturbations += [Addition(noise, factor, side) for factor in (0.5, 40.0) for side in ("pre", "post")]
    bounds = evaluator._logit_bounds(perturbations, None)
    blocks = evaluator.gather(
        lambda block: (
            [np.abs(block.under(each)[1]).max() for each in perturbations] + [np.abs(block.logits).max()]
        )
    )
    assert (bounds >= np.max(blocks, axis=0)).all()
    assert (bounds < SAFE).all()


def test_known_metrics_of_logits_that_arent_finite_are_not_numbers_of_a_rank():
    result = nz.probe(Net(), (X, Y), "act", families="scale", levels=SCALES, metrics=list(METRICS)).response
    lost = result.not_finite.values > 0
    for name in ("accuracy", "agreement"):
        assert (result[name].values[lost] < 1).all()
        assert np.isfinite(result[name]).all()
