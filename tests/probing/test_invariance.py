"""The scale audit of layers of PyTorch models, compared with formulas and `nz.probe`."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nearzero as nz

LEVELS = np.logspace(-2, 1, 16)
scale_audit = partial(nz.scale_audit, backend="model")  # without the formula of the two-layer backend
FLAT = "flat by construction: the prediction is argmax"


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(11)
        yield


def data(count=240, inputs=12, classes=4):
    return torch.randn(count, inputs), torch.randint(0, classes, (count,))


class Attention(nn.Module):
    """Four tokens of three numbers; a ReLU, then attention over them."""

    def __init__(self):
        super().__init__()
        self.into, self.act = nn.Linear(3, 8), nn.ReLU()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        tokens = self.act(self.into(x.view(-1, 4, 3)))
        weights = torch.softmax(3 * self.query(tokens) @ self.key(tokens).transpose(1, 2), -1)
        return self.out((weights @ self.value(tokens)).mean(1))


class Branch(nn.Module):
    """x plus a share of a ReLU layer, normalised: this doesn't remove the scale of one of two summands."""

    def __init__(self, share):
        super().__init__()
        self.into, self.act, self.back = nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 12)
        self.norm, self.out, self.share = nn.LayerNorm(12), nn.Linear(12, 4), share

    def forward(self, x):
        return self.out(self.norm(x + self.share * self.back(self.act(self.into(x)))))


class Function(nn.Module):
    """A ReLU layer, a function of it, and a linear readout."""

    def __init__(self, function):
        super().__init__()
        self.into, self.act, self.out, self.function = (
            nn.Linear(12, 20),
            nn.ReLU(),
            nn.Linear(20, 4),
            function,
        )

    def forward(self, x):
        return self.out(self.function(self.act(self.into(x))))


class LogProbabilities(nn.Sequential):
    """Logits minus one number per example."""

    def forward(self, x):
        return super().forward(x).log_softmax(1)


def hidden(*after, act=nn.ReLU):
    return nn.Sequential(nn.Linear(12, 20), act(), *after)


def batch_norm():
    norm = nn.BatchNorm1d(20)
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return norm


def two(first, last):
    return hidden(nn.Linear(20, 10, bias=first), nn.ReLU(), nn.Linear(10, 4, bias=last))


CASES = {
    "readout": (lambda: hidden(nn.Linear(20, 4)), "1", "affine", "B + A / s"),
    "leaky": (lambda: hidden(nn.Linear(20, 4), act=lambda: nn.LeakyReLU(0.2)), "1", "affine", "B + A / s"),
    "no bias": (lambda: hidden(nn.Linear(20, 4, bias=False)), "1", "affine", "B"),
    "batch norm": (lambda: hidden(batch_norm(), nn.Linear(20, 4)), "1", "affine", "B + A / s"),
    "two without biases": (lambda: two(False, False), "1", "affine", "B"),
    "two, the last with": (lambda: two(False, True), "1", "affine", "B + A / s"),
    "log probabilities": (
        lambda: LogProbabilities(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 4)),
        "1",
        "affine",
        "B + A / s",
    ),
    "values of attention": (Attention, "value", "affine", "B + A / s"),
    "layer norm": (lambda: hidden(nn.LayerNorm(20), nn.Linear(20, 4)), "1", "normalised", ""),
    "group norm": (lambda: hidden(nn.GroupNorm(2, 20), nn.Linear(20, 4)), "1", "normalised", ""),
    "RMS norm": (lambda: hidden(nn.RMSNorm(20), nn.Linear(20, 4)), "1", "normalised", ""),
    "unit length": (lambda: Function(F.normalize), "act", "normalised", ""),
    "unit sum": (lambda: Function(lambda a: a / a.sum(1, keepdim=True)), "act", "normalised", ""),
    "smooth": (lambda: hidden(nn.Linear(20, 4), act=nn.GELU), "1", "free", ""),
    "two with biases": (lambda: two(True, True), "1", "free", ""),
    "attention": (Attention, "act", "free", ""),
    "a branch": (lambda: Branch(1.0), "act", "free", ""),
    "a branch that hardly matters": (lambda: Branch(1e-5), "act", "free", ""),
    "saturated": (
        lambda: Function(lambda a: torch.tanh(1e7 * (a - a.mean(1, keepdim=True)))),
        "act",
        "free",
        "",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_form(name):
    make, layer, form, formula = CASES[name]
    model, (x, y) = make(), data()
    result = scale_audit(model, (x, y), layer=layer, levels=LEVELS)
    assert (result.form, result.formula, result.items) == (form, formula, 240)
    assert result.homogeneous == (name != "smooth")
    if form == "affine":
        assert result.words == f"{FLAT}({formula})"
        assert result.unexplained == 0
        assert result.logit_error < 2e-6
        changes = formula != "B"
        assert (result.curves.measured_agreement.min() < 1).item() == changes
    elif form == "normalised":
        assert result.words == "flat by construction: a normalisation follows"
        assert result.normalisations
        assert result.logit_error > 1e-3 or name in ("unit length", "unit sum")
        above = result.curves.sel(level=slice(result.constant_from, None))
        assert above.unexplained.max() <= 3
    else:
        assert result.words == "not flat by construction"


def test_the_measured_curve_is_the_probes():
    for name in ("readout", "layer norm", "two with biases"):
        make, layer, *_ = CASES[name]
        model, (x, y) = make(), data()
        result = scale_audit(model, (x, y), layer=layer, levels=LEVELS, batch_size=100)
        probed = nz.probe(model, (x, y), layer, families="scale", levels=LEVELS, method="suffix").response
        for measure in ("accuracy", "agreement"):
            curve = probed[measure].squeeze()
            np.testing.assert_allclose(result.curves[f"measured_{measure}"], curve, atol=1.01 / 240, rtol=0)


def test_predictions_follow_the_formula():
    """argmax(s W2 a + b2), from the weights, in float64."""
    model, (x, y) = hidden(nn.Linear(20, 4)), data()
    result = scale_audit(model, (x, y), layer="1", levels=LEVELS)
    with torch.no_grad():
        double = hidden(nn.Linear(20, 4)).double()
        double.load_state_dict(model.state_dict())
        products = F.linear(double[:2](x.double()), double[2].weight)
    logits = [float(s) * products + double[2].bias for s in LEVELS]
    accuracy = [(each.argmax(1) == y).double().mean().item() for each in logits]
    np.testing.assert_allclose(result.curves.predicted_accuracy, accuracy)


def test_a_two_layer_network_has_one_audit():
    network = nz.TwoLayer(*(each.detach().numpy() for each in hidden(nn.Linear(20, 4)).parameters()))
    x, y = data()
    one = nz.scale_audit(network, x.numpy(), y.numpy())
    other = scale_audit(network, (x, y), layer="1")
    assert (one.form, other.form) == ("affine", "affine")
    for name in ("measured_accuracy", "predicted_accuracy", "predicted_agreement"):
        np.testing.assert_allclose(one.curves[name], other.curves[name])


def test_eps_of_a_normalisation():
    """Logits change at small scales, where the variance is comparable to eps: later for a smaller eps, never for 0."""
    model, (x, _) = hidden(nn.LayerNorm(20, eps=1e-5), nn.Linear(20, 4)), data()
    tight = scale_audit(model, x, layer="1")
    assert 0.02 < tight.constant_from < 0.2
    assert f"below a scale of {tight.constant_from:.2g} its eps shows" in tight.meaning
    assert f"from a scale of {tight.constant_from:.2g} on, up to" in tight.comparison
    assert tight.normalisations == ("native_layer_norm",)
    exact = scale_audit(hidden(nn.LayerNorm(20, eps=0.0), nn.Linear(20, 4)), x, layer="1")
    assert exact.constant_from == pytest.approx(0.01)
    assert "eps" not in exact.meaning
    assert exact.greatest_difference == 0
    loose = scale_audit(hidden(nn.LayerNorm(20, eps=0.1), nn.Linear(20, 4)), x, layer="1")
    assert loose.form == "free"


def test_a_saturated_function_is_no_normalisation():
    result = scale_audit(CASES["saturated"][0](), data()[0], layer="act", levels=LEVELS)
    assert result.normalisations == ()
    assert result.meaning.endswith("On these data the logits stay the same from a scale of 0.01 on.")


def test_a_layer_without_influence_on_the_logits():
    model, (x, _) = Branch(0.0), data()
    model.norm = nn.Identity()
    result = scale_audit(model, x, layer="act", levels=LEVELS)
    assert result.words == f"{FLAT}(A)"
    assert result.meaning.startswith("Nothing of this layer comes through to the logits")


def test_half_precision_may_round_more():
    x, y = data()
    model = CASES["readout"][0]().bfloat16()
    result = scale_audit(model, (x.bfloat16(), y), layer="1", levels=LEVELS)
    assert (result.form, result.unexplained) == ("affine", 0)
    assert result.logit_error > 1e-3
    assert scale_audit(two(True, True).bfloat16(), x.bfloat16(), layer="1", levels=LEVELS).form == "free"


def test_tokens_that_count():
    """Each token is an item; tokens with a target of -100 don't count."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.act, self.out = nn.Linear(3, 20), nn.ReLU(), nn.Linear(20, 4)

        def forward(self, x):
            return self.out(self.act(self.into(x)))

    x, y = torch.randn(30, 5, 3), torch.randint(0, 4, (30, 5))
    y[:, 3:] = -100
    result = scale_audit(Tokens(), (x, y), layer="act", levels=LEVELS)
    assert (result.items, result.form, result.unexplained) == (90, "affine", 0)
    assert "measured_accuracy" in result.curves
    assert "measured_accuracy" not in scale_audit(Tokens(), x, layer="act", levels=LEVELS).curves


def test_the_model_is_left_as_it_was():
    model, (x, y) = hidden(batch_norm(), nn.Dropout(0.5), nn.Linear(20, 4)), data()
    model.train()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    scale_audit(model, (x, y), layer="1", levels=LEVELS)
    assert model.training
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


def test_refusals():
    model, (x, _) = two(True, True), data()
    with pytest.raises(
        nz.InputError, match=r"this analysis takes one layer, but '\*' matches 5: 0, 1, 2, 3, 4"
    ):
        scale_audit(model, x, layer="*")
    with pytest.raises(nz.InputError, match="there is no layer 'act'"):
        scale_audit(model, x, layer="act")
    with pytest.raises(nz.InputError, match="an audit needs three levels at least"):
        scale_audit(model, x, layer="1", levels=[1.0])
    masked = Function(lambda a: a)
    with pytest.raises(nz.InputError, match="an audit needs finite logits"):
        scale_audit(
            masked, x, layer="act", output=lambda logits: logits.index_fill(1, torch.tensor(0), -torch.inf)
        )
