"""The dimension of units: followed from the operation that put them there, whatever the sizes are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nearzero as nz

B, S, U = 3, 4, 4  # as many tokens as units


class Through(nn.Module):
    """A product with weights, a function of its result, an activation, and a sum of each example."""

    def __init__(self, function, inputs=5, units=U):
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.act = nn.Parameter(torch.randn(units, inputs)), nn.ReLU()
        self.norm = nn.InstanceNorm1d(units)
        self.function = function

    def forward(self, x):
        z = self.function(self, x)
        return self.act(z).flatten(1).cumsum(1)[:, :2]


FORMS = {
    "einsum, units second": (lambda net, x: torch.einsum("oi,bil->bol", net.weight, x.mT), 1),
    "einsum, units last": (lambda net, x: torch.einsum("bil,oi->blo", x.mT, net.weight), 2),
    "weights on the left": (lambda net, x: net.weight @ x.mT, 1),
    "turned": (lambda net, x: (x @ net.weight.T).transpose(1, 2), 1),
    "turned by permute": (lambda net, x: (x @ net.weight.T).permute(0, 2, 1), 1),
    "tokens first": (lambda net, x: (x @ net.weight.T).unsqueeze(1).permute(0, 3, 2, 1), 1),
    "flattened and back": (lambda net, x: (x.reshape(B * S, 5) @ net.weight.T).view(B, S, U), 2),
    "flattened, back and turned": (lambda net, x: (x.reshape(B * S, 5) @ net.weight.T).view(B, S, U).mT, 1),
    "heads put together": (
        lambda net, x: (x @ net.weight.T).view(B, S, 2, 2).transpose(1, 2).transpose(1, 2).reshape(B, S, U),
        2,
    ),
    "instance norm": (lambda net, x: net.norm(net.weight @ x.mT), 1),
    "a residual path": (lambda net, x: net.weight @ x.mT + (x @ net.weight.T).mT, 1),
    "a selected token": (lambda net, x: (x @ net.weight.T)[:, 0], 1),
    "the sum over tokens": (lambda net, x: (net.weight @ x.mT).sum(2), 1),
    "attention": (lambda net, x: torch.eye(S).expand(B, S, S).matmul(x.softmax(-1) @ net.weight.T), 2),
}


@pytest.mark.parametrize("form", FORMS)
def test_units_are_where_the_weights_put_them(form):
    function, axis = FORMS[form]
    net, x = Through(function), torch.randn(B, S, 5)
    # by hand: a row of weights, and with it one unit, is all NaN; the units are on the dimension of its values
    (layer,) = [layer for layer in nz.layers(net, [x]) if layer.name == "act"]
    seen = []
    handle = net.act.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        net.weight[1] = torch.nan
        net.eval()(x)
    handle.remove()
    (lost,) = [
        place
        for place in range(1, seen[0].ndim)
        if seen[0].shape[place] > 1
        and bool((seen[0].isnan().any(0, keepdim=True) == seen[0].isnan()).all())
        and bool(seen[0].isnan().select(place, 1).all())
        and not bool(seen[0].isnan().select(place, 0).any())
    ]
    assert layer.unit_axis == lost == axis
    assert layer.unit_axes == (axis,)


LOST = {
    "heads": (lambda net, x: (x @ net.weight.T).view(B, S, 2, 2), "dimensions 2 and 3 of its values"),
    "heads first": (lambda net, x: (x @ net.weight.T).view(B, S, 2, 2).transpose(1, 2), "dimensions 1 and 3"),
    "heads with examples": (
        lambda net, x: (x @ net.weight.T).view(B, S, 2, 2).transpose(1, 2).reshape(B * 2, S, 2),
        "dimensions 0 and 2",
    ),
    "scores": (lambda net, x: (x @ net.weight.T) @ (x @ net.weight.T).mT, "hold no units"),
    "one unit of each token": (lambda net, x: (x @ net.weight.T)[..., 0], "hold no units"),
}


@pytest.mark.parametrize("form", LOST)
def test_units_on_several_dimensions_or_none(form):
    function, why = LOST[form]
    net, x = Through(function), torch.randn(B, S, 5)
    if form == "heads with examples":
        net.forward = lambda x: net.act(function(net, x)).reshape(B, 2, S, 2).sum((1, 2))
    data, settings = [(x, torch.tensor([0, 1, 0]))], {"levels": [0.5], "families": "scale"}
    with pytest.raises(nz.InputError, match=f"layer 'act': its .*{why}.*unit_axis=... chooses"):
        nz.probe(net, data, "act", **settings)
    axis = nz.layers(net, data)[0].unit_axis if form != "heads with examples" else 2
    given = nz.probe(net, data, "act", unit_axis=axis, **settings)
    assert next(row.source for row in given.assumptions if row.what == "units of layer act") == "given"
    with_another = nn.Sequential(net, nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    default = nz.probe(with_another, data, **settings)
    assert default.layers == ["2"]
    (note,) = [note for note in default.notes if "left out" in note]
    assert note.startswith("0.act: left out, since its")
