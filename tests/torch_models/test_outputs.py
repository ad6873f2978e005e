"""The output of any module, perturbed by name: logits equal to those of a hand-made hook, to the last bit."""

from __future__ import annotations

from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from torch import nn

import nearzero as nz

LEVELS = {"offset": [-0.4, 0.3], "scale": [0.5, 3.0]}
Pair = namedtuple("Pair", ["states", "gate"])


class Distances(nn.Module):
    """Minus the squared distances to prototypes: neither a linear layer nor an activation."""

    def __init__(self, width, prototypes):
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(prototypes, width))

    def forward(self, x):
        return -(x[..., None, :] - self.prototypes).square().sum(-1)


class LowRank(nn.Module):
    """A linear layer with an adapter, as LoRA makes it: not an `nn.Linear`."""

    def __init__(self, base):
        super().__init__()
        self.base_layer, self.down = base, nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


class Quantized(nn.Module):
    """A linear layer with weights of eight bits."""

    def __init__(self, width, units):
        super().__init__()
        self.register_buffer("weight", torch.randint(-127, 128, (units, width), dtype=torch.int8))

    def forward(self, x):
        return x @ (self.weight.to(x.dtype) * 0.01).T


class Gives(nn.Module):
    """Two tensors in a container."""

    def __init__(self, container):
        super().__init__()
        self.container, self.linear = container, nn.Linear(8, 8)

    def forward(self, x):
        return self.container(self.linear(x), x.sigmoid())


CONTAINERS = {
    "list": lambda *pair: list(pair),
    "named": lambda *pair: Pair(*pair),
    "mapping": lambda *pair: OrderedDict(states=pair[0], more=(pair[1],)),
}


class Net(nn.Module):
    """Embeddings, an LSTM, attention, a residual block called twice, and modules of other kinds."""

    def __init__(self):
        super().__init__()
        self.emb, self.lstm = nn.Embedding(20, 8), nn.LSTM(8, 8, 2, batch_first=True)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.block, self.stream = nn.Sequential(nn.Linear(8, 8), nn.GELU()), nn.Identity()
        self.gives = nn.ModuleDict({name: Gives(container) for name, container in CONTAINERS.items()})
        self.low, self.quantized, self.distances = LowRank(nn.Linear(8, 8)), Quantized(8, 8), Distances(8, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, tokens):
        x, (last, _) = self.lstm(self.emb(tokens))
        x = x + self.attn(x, x, x)[0]
        for _ in range(2):
            x = self.stream(x + self.block(x))
        for name, module in self.gives.items():
            given = module(x)
            states, gate = (given["states"], given["more"][0]) if name == "mapping" else given
            x = states * gate + x
        x = self.quantized(self.low(x)).mean(1) + last[-1]
        return self.head(self.distances(x).exp())


def made():
    torch.manual_seed(0)
    return Net().eval(), torch.randint(20, (6, 5))


def by_hand(model, tokens, path, call, element, change):
    """Return logits under a change of one tensor of a module's output, and that tensor without it."""
    calls, seen = [], []

    def replaced(value, place):
        if not place:
            seen.append(value.clone())
            return change(value)
        value = OrderedDict(value) if isinstance(value, dict) else value
        if isinstance(value, dict):
            return value | {place[0]: replaced(value[place[0]], place[1:])}
        items = list(value)
        items[place[0]] = replaced(items[place[0]], place[1:])
        return Pair(*items) if isinstance(value, Pair) else type(value)(items)

    def hook(module, args, output):
        calls.append(module)
        return replaced(output, element) if len(calls) == call else None

    handle = model.get_submodule(path).register_forward_hook(hook)
    with torch.no_grad():
        logits = model(tokens)
    handle.remove()
    return logits.numpy(), seen[0]


@pytest.mark.parametrize(
    ("name", "path", "call", "element"),
    [
        ("emb", "emb", 1, ()),
        ("lstm[0]", "lstm", 1, (0,)),
        ("lstm[1][0]", "lstm", 1, (1, 0)),
        ("attn[0]", "attn", 1, (0,)),
        ("stream@1", "stream", 1, ()),
        ("block@2", "block", 2, ()),
        ("gives.list[1]", "gives.list", 1, (1,)),
        ("gives.named[0]", "gives.named", 1, (0,)),
        ("gives.mapping[more][0]", "gives.mapping", 1, ("more", 0)),
        ("low", "low", 1, ()),
        ("quantized", "quantized", 1, ()),
        ("distances", "distances", 1, ()),
    ],
)
@pytest.mark.parametrize("method", ["suffix", "full"])
def test_an_output_is_perturbed_as_by_hand(name, path, call, element, method):
    model, tokens = made()
    metrics = {f"logit {place}": lambda logits, target, place=place: logits[:, place] for place in range(3)}
    options = {"levels": LEVELS, "families": list(LEVELS), "metrics": metrics, "keep_items": True}
    if name == "distances":  # the units before it were summed
        with pytest.raises(nz.InputError, match=r"'distances': its values .* hold no units.*unit_axis="):
            nz.probe(model, tokens, name, method=method, **options)
        options["unit_axis"] = 1
    response = nz.probe(model, tokens, name, method=method, **options).response
    _, values = by_hand(model, tokens, path, call, element, lambda value: value)
    flat = values.flatten(0, -2).double()
    width = flat.amax(0) - flat.amin(0)  # these modules put the units last
    changes = {
        "offset": lambda level: lambda value: value + (level * width).float(),
        "scale": lambda level: lambda value: value * level,
    }
    assert (response.activation.item(), response.offset.item()) == ("none", "shift")
    for family, levels in LEVELS.items():
        for level in levels:
            expected, _ = by_hand(model, tokens, path, call, element, changes[family](level))
            at = response.sel(family=family, level=level)
            found = np.stack([at[f"{metric}_items"].values[0] for metric in metrics], axis=1)
            np.testing.assert_array_equal(found, expected)
            assert not np.array_equal(expected, model(tokens).detach().numpy())


def test_outputs_are_listed_on_request_only():
    model, tokens = made()
    listed, every = (
        [layer.name for layer in nz.layers(model, tokens, outputs=outputs)] for outputs in (False, True)
    )
    assert listed == [
        layer.name
        for layer in nz.layers(model, tokens, outputs=True)
        if layer.kind not in ("output", "input")
    ]
    assert {"emb", "lstm[0]", "stream@2", "gives.mapping[states]", "distances"} <= set(every) - set(listed)
    assert "block@1" not in nz.probe(model, tokens, "block*", levels=2).layers  # globs match layers alone
    assert nz.probe(model, tokens, ["stream", "head"], levels=2).layers == ["stream@1", "stream@2", "head"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "lstm",
            r"no layer 'lstm': lstm \(LSTM\) returns several tensors; name one of them: lstm\[0\], lstm\[1\]",
        ),
        (
            "lstm[2]",
            r"no layer 'lstm\[2\]': lstm \(LSTM\) returns several tensors; name one of them: lstm\[0\]",
        ),
        ("emb[0]", r"layer 'emb\[0\]' is known as emb"),
        ("", r"layer '' \(Net\) can't be probed: its output is that of the model"),
    ],
)
def test_a_name_that_stands_for_no_output(name, message):
    model, tokens = made()
    with pytest.raises(nz.InputError, match=message):
        nz.probe(model, tokens, name, levels=2)


class Shy(nn.Module):
    """Returns one tensor for large inputs, and two for small ones."""

    def __init__(self):
        super().__init__()
        self.pair = Gives(lambda *pair: pair if pair[0].shape[0] < 4 else pair[:1])

    def forward(self, x):
        return self.pair(x)[0] * 1.0


def test_an_element_that_isnt_there_on_other_batches():
    torch.manual_seed(0)
    with pytest.raises(
        nz.InputError, match=r"layer 'pair\[1\]' isn't in what its module returns .* \(tuple\)"
    ):
        nz.probe(Shy(), [torch.randn(2, 8), torch.randn(6, 8)], "pair[1]", levels=2)
