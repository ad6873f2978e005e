"""Layers that some examples don't reach: found, probed where they are reached, and counted; others are left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nearzero as nz
from nearzero.evaluators.select import open_evaluator

LEVELS = {"offset": [-0.5, 0.4], "scale": [0.0, 2.0]}
CLASSES = 4


class Experts(nn.Module):
    """Sends each example to one expert; of 24 examples, the last two alone reach expert 3."""

    def __init__(self, count=4):
        super().__init__()
        torch.manual_seed(0)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES)) for _ in range(count)
        )

    def forward(self, x):
        out = torch.zeros(len(x), CLASSES)
        for number, expert in enumerate(self.experts):
            rows = (x[:, 0] == number).nonzero()[:, 0]
            if len(rows):
                out[rows] = expert(x[rows])
        return out


def inputs():
    x = torch.randn(24, 6, generator=torch.Generator().manual_seed(1))
    x[:, 0] = torch.tensor([0, 0] + [1, 0, 2, 1] * 5 + [3, 3])
    return x


def logits_of(response, layer):
    """Return all logits of a layer, (family, level, item, class)."""
    at = response.sel(layer=layer)
    return np.stack([at[f"logit {place}_items"].values for place in range(CLASSES)], axis=-1)


METRICS = {f"logit {place}": lambda logits, target, place=place: logits[:, place] for place in range(CLASSES)}
SETTINGS = {"levels": LEVELS, "families": list(LEVELS), "metrics": METRICS, "keep_items": True}


def by_hand(model, x, hooked, size):
    """Return logits with a function applied to the argument of a module; other examples are as without it."""
    with torch.no_grad():
        expected = []
        for change in hooked[1]:
            handle = hooked[0].register_forward_pre_hook(
                lambda module, args, change=change: (change(args[0]),)
            )
            expected.append(torch.cat([model(batch) for batch in x.split(size)]).numpy())
            handle.remove()
    return np.stack(expected)


@pytest.mark.parametrize("size", [24, 3])
@pytest.mark.parametrize("method", ["auto", "full"])
def test_experts_are_probed_where_they_are_reached(size, method):
    model, x = Experts(), inputs()
    result = nz.probe(model, x, batch_size=size, method=method, **SETTINGS)
    assert result.layers == [f"experts.{number}.1" for number in range(4)]
    counts = torch.bincount(x[:, 0].long()).tolist()
    assert result.response.rows.values.tolist() == counts
    assert result.response.partial.all()
    for number, expert in enumerate(model.experts):
        rows = x[x[:, 0] == number]
        with torch.no_grad():
            act = expert[0](rows).relu()
            top = act.amax(0).double()
        width = top - act.amin(0)
        live = width > 0
        slope = torch.where(live, top, 1.0)
        changes = [
            lambda z, p=p, top=slope, r=width: z * ((top - p * r) / top).float() + (p * r).float()
            for p in LEVELS["offset"]
        ]
        changes += [lambda z, p=p, live=live: torch.where(live, z * p, z) for p in LEVELS["scale"]]
        expected = by_hand(model, x, (expert[1], changes), size)
        found = logits_of(result.response, f"experts.{number}.1")
        levels = result.response.level.values.tolist()
        for place, level in enumerate(LEVELS["offset"]):
            np.testing.assert_allclose(found[0, levels.index(level)], expected[place], rtol=0, atol=1e-6)
        for place, level in enumerate(LEVELS["scale"]):
            np.testing.assert_array_equal(found[1, levels.index(level)], expected[2 + place])
        assert not np.array_equal(expected[3], model(x).detach().numpy())


def test_what_the_result_says_of_them():
    model, x = Experts(), inputs()
    result = nz.probe(model, x, ["experts.3.1", "experts.0.1"], levels=2)
    assert "experts.3.1: 2 rows on 24 items, not as many on every example" in result.notes
    reach = {row.what: row for row in result.assumptions if row.what.startswith("reach")}
    assert reach["reach of layer experts.3.1"].value == "2 rows, not as many on every example"
    assert reach["reach of layer experts.3.1"].argument == "layers="
    plain = nz.probe(Experts(1), x * 0, levels=2)
    assert [row.value for row in plain.assumptions if row.what.startswith("reach")] == ["every example"]
    assert (plain.response.partial.item(), plain.response.rows.item()) == (False, 24)


def test_an_expert_beyond_the_first_batches_is_found():
    model, x = Experts(), inputs()
    batches = list(x.split(2))  # expert 3 is reached by the twelfth
    assert "experts.3.1" not in [layer.name for layer in nz.layers(model, batches)]
    assert "experts.3.1" in nz.probe(model, batches, levels=2).layers
    assert nz.probe(model, batches, "experts.3.1", levels=2).layers == ["experts.3.1"]
    assert "experts.3.1" in nz.probe(model, batches, "experts.*.1", levels=2).layers
    with pytest.raises(nz.InputError, match=r"layer 'experts\.3\.1' isn't reached by any example"):
        nz.probe(model, batches, "experts.3.1", levels=2, ranges_from=batches[:2])
    with pytest.raises(nz.InputError, match=r"layer 'experts\.0\.1' isn't reached on every batch"):
        nz.matched(model, batches, layer="experts.0.1")


class Tree(nn.Module):
    """A module that calls itself before and after its own functions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.head = nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x, depth=0):
        if depth == 2:
            return x
        x = torch.tanh(self.linear(torch.relu(x) + self.forward_again(x, depth)))
        return x if depth else self.head(x)

    def forward_again(self, x, depth):
        return self(x, depth + 1)


def test_a_module_that_calls_itself():
    model, x = Tree(), inputs()
    with torch.no_grad():
        inner = torch.tanh(model.linear(torch.relu(x) + x))
        outer = model.linear(torch.relu(x) + inner)
        expected = {
            ":tanh@1": lambda p: model.head(
                torch.tanh(model.linear(torch.relu(x) + torch.tanh(p * model.linear(torch.relu(x) + x))))
            ),
            ":tanh@2": lambda p: model.head(torch.tanh(p * outer)),
        }
        result = nz.probe(model, x, **SETTINGS)
        assert result.layers == [":relu@1", ":relu@2", ":tanh@1", ":tanh@2"]
        for layer, values in expected.items():
            found = result.response.sel(family="scale", level=2.0)
            np.testing.assert_array_equal(logits_of(found, layer), values(2.0).numpy())


class Turned(nn.Module):
    """Tokens, of which one activation has all in a row and in another order; so a mask doesn't fit it."""

    def __init__(self, only=False):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.turned, self.head = nn.Linear(6, 6), nn.GELU(), nn.Linear(6, CLASSES)
        self.only = only

    def forward(self, x):
        x = self.first(x) if self.only else torch.relu(self.first(x))
        turned = self.turned(x.flatten(0, 1).flip(0))
        return self.head(turned.flip(0).unflatten(0, x.shape[:2])).mean(1)


def masked(batch):
    return batch, None, torch.arange(5).expand(3, 5) < torch.tensor([[5], [3], [2]])


def test_a_default_layer_that_cant_be_probed_is_left_out():
    batches = [torch.randn(3, 5, 6)]
    result = nz.probe(Turned(), batches, levels=2, prepare=masked)
    assert result.layers == [":relu"]
    assert result.notes[0].startswith("turned: left out, since it has values (15, 6), which the mask (3, 5)")
    assert ("use of layer turned", "left out") in [(row.what, row.value) for row in result.assumptions]
    for model, layers in ((Turned(), "turned"), (Turned(), "*"), (Turned(only=True), None)):
        with pytest.raises(
            nz.InputError, match=r"layer 'turned' has values .* which the mask .* doesn't fit"
        ):
            nz.probe(model, batches, layers, levels=2, prepare=masked)
    assert nz.probe(Turned(), batches, levels=2).layers == [":relu", "turned"]


class TopTwo(nn.Module):
    """Sends each token to two experts; the rows of all are in one tensor, sorted by expert."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.first = nn.Linear(6, 3), nn.Parameter(torch.randn(3, 6, 8))
        self.act, self.head = nn.GELU(), nn.Linear(8, CLASSES)

    def routes(self, tokens):
        chosen = self.gate(tokens).topk(2, dim=-1).indices.reshape(-1)
        order = chosen.argsort(stable=True)
        return chosen[order], order

    def inner(self, tokens):
        expert, order = self.routes(tokens)
        selected = tokens[order // 2]
        parts = [selected[expert == number] @ self.first[number] for number in range(3)]
        return torch.cat(parts), order

    def forward(self, x):
        tokens = x.reshape(-1, 6)
        expert, order = self.routes(tokens)
        selected = tokens[order // 2]
        z = torch.einsum("ri,rio->ro", selected, self.first[expert])
        out = torch.zeros(2 * len(tokens), 8).index_put((order,), self.act(z))
        return self.head(out.reshape(len(tokens), 2, 8).sum(1)).reshape(*x.shape[:2], CLASSES).mean(1)


def test_masks_apply_to_the_rows_of_experts():
    model, x = TopTwo(), torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(2))
    counts = masked(x)[2].reshape(-1)
    with torch.no_grad():
        z, order = model.inner(x.reshape(-1, 6))
        rows = z[counts[order // 2]].double()
        width = (rows.amax(0) - rows.amin(0)).float()
        expected = by_hand(model, x, (model.act, [lambda values: values + 0.4 * width]), 3)
    result = nz.probe(model, [x], "act", prepare=masked, **SETTINGS)
    assert result.response.rows.item() == 2 * counts.sum()
    found = logits_of(result.response.sel(family="offset", level=0.4), "act")
    np.testing.assert_allclose(found, expected[0], rtol=0, atol=1e-5)
    with open_evaluator(model, [x], options={"layer": "act"}) as evaluator:
        assert evaluator.row_examples.tolist() == (order // 2 // 5).tolist()


# --- the activation that follows a layer -----------------------------------------------------------------------------


class Uses(nn.Module):
    """A linear layer whose output is used in some way."""

    def __init__(self, use):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head, self.use = nn.Linear(6, 8), nn.Linear(8, CLASSES), use
        self.gate, self.act, self.skip = nn.Parameter(torch.randn(1, 8)), nn.ReLU(), nn.Linear(6, 8)

    def forward(self, x):
        return self.head(self.use(self, self.first(x), x))


@pytest.mark.parametrize(
    ("use", "follows", "default"),
    [
        (lambda net, h, x: F.relu(h), "relu", [":relu"]),
        (lambda net, h, x: net.act(h.view(len(h), 1, 8)).flatten(1), "relu", ["act"]),
        (lambda net, h, x: F.relu_(h), "relu", [":relu"]),
        (lambda net, h, x: nn.Softsign()(h) * 0 + F.relu(h), None, [":relu"]),
        (lambda net, h, x: F.relu(F.softsign(h)), None, [":relu"]),
        (lambda net, h, x: F.relu(h / (1 + h.abs().mean(1, keepdim=True))), None, [":relu"]),
        (lambda net, h, x: F.relu(h * torch.sigmoid(h)), None, [":relu"]),
        (lambda net, h, x: h + F.relu(h), None, [":relu"]),
        (lambda net, h, x: F.relu(h) * torch.sigmoid(net.gate), "relu", [":relu"]),
        (lambda net, h, x: F.relu(h.add_(net.skip(x))), None, [":relu"]),
        (lambda net, h, x: F.relu(h).add(torch.zeros_like(h)), "relu", [":relu"]),
        (lambda net, h, x: torch.sigmoid(h), "sigmoid", [":sigmoid"]),
        (lambda net, h, x: h.abs(), "abs", [":abs"]),
    ],
)
def test_an_activation_follows_if_nothing_else_reads_the_layer(use, follows, default):
    model, x = Uses(use), inputs()
    first = next(layer for layer in nz.layers(model, x) if layer.name == "first")
    assert (first.activation, first.follows is None) == (follows, follows is None)
    result = nz.probe(model, x, levels=2)
    assert result.layers == default
    response = nz.probe(model, x, "first", levels=2).response
    assert response.offset.item() == ("as-run" if follows in ("relu", "abs") else "shift")


@pytest.mark.parametrize(
    "function",
    [
        lambda h: h * torch.sigmoid(1.702 * h),
        lambda h: 0.5 * h * (1 + torch.tanh(0.798 * (h + 0.0447 * h**3))),
        lambda h: h * torch.tanh(F.softplus(h)),
        lambda h: h * F.relu6(h + 3) / 6,
        lambda h: (h.clone().mul_(1.702).sigmoid_()) * h,
    ],
)
def test_parts_of_functions_whose_argument_is_made_of_other_values(function):
    result = nz.probe(Uses(lambda net, h, x: F.relu(function(h))), inputs(), levels=2)
    assert result.layers == [":relu"]
    with pytest.raises(
        nz.InputError, match=r"except parts of other functions \(:.*activation=\.\.\. can give"
    ):
        nz.probe(Uses(lambda net, h, x: function(h)), inputs(), levels=2)
    whole = nz.probe(Uses(lambda net, h, x: function(h)), inputs(), "first", activation=function, levels=2)
    assert whole.response.activation.item() != "none"


@pytest.mark.parametrize(
    "function",
    [lambda h: 1.7159 * torch.tanh(2 / 3 * h), lambda h: F.relu6(h + 3) / 6, lambda h: F.softplus(2 * h) - 1],
)
def test_an_activation_of_scaled_values_is_a_layer(function):
    assert len(nz.probe(Uses(lambda net, h, x: function(h)), inputs(), levels=2).layers) == 1


def test_a_part_of_a_function_is_named_in_a_note():
    model = Uses(lambda net, h, x: F.relu(h * torch.sigmoid(h)))
    notes = nz.probe(model, inputs(), levels=2).notes
    assert ":sigmoid: left out, since its values are read elsewhere too" in notes[0]
    assert nz.probe(model, inputs(), ":sigmoid", levels=2).layers == [":sigmoid"]


def test_the_output_of_the_model_reads_a_layer_too():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, CLASSES)

        def forward(self, x):
            z = self.first(x)
            return z, F.relu(z)

    (first, _) = nz.layers(Both(), inputs(), output=lambda output: output[0])
    assert first.activation is None


def test_functions_of_weights_are_no_layers():
    class Bayes(nn.Module):
        def __init__(self, through):
            super().__init__()
            torch.manual_seed(0)
            self.mean, self.spread = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(8, 6))
            self.table, self.tables = nn.Linear(2, 8), nn.Parameter(torch.randn(3, 2))
            self.head, self.through = nn.Linear(8, CLASSES), through

        def forward(self, x):
            weight = self.mean + F.softplus(self.spread) * torch.randn(8, 6)
            shift = torch.tanh(self.table(self.tables)).mean(0)
            return self.head(F.relu(F.linear(self.through(x), weight) + shift))

    def in_numpy(x):
        return torch.from_numpy(x.numpy() + 0.0)

    for through in (lambda x: x, in_numpy):  # NumPy hides where numbers come from
        model = Bayes(through)
        assert [layer.name for layer in nz.layers(model, inputs())] == [":relu", "head"]
        assert nz.probe(model, inputs(), "table", levels=2).response.activation.item() == "none"


@pytest.mark.parametrize(
    ("model", "what", "value", "source"),
    [
        (Uses(lambda net, h, x: net.act(h)), "activation", "relu", "act alone reads the layer's output"),
        (
            Uses(lambda net, h, x: net.act(h) + h),
            "activation",
            "none",
            "no activation alone reads the layer's output",
        ),
        (
            Uses(lambda net, h, x: h),
            "units",
            "dimension 1 of (2, 8)",
            "followed from the product or convolution that put them there",
        ),
    ],
)
def test_rows_of_the_assumptions(model, what, value, source):
    result = nz.probe(model, inputs(), "first", levels=2)
    (row,) = [row for row in result.assumptions if row.what == f"{what} of layer first"]
    assert (row.value, row.source) == (value, source)
    assert row.argument == {"activation": "activation=", "units": "unit_axis="}[what]


class Kinds(nn.Module):
    """A network for each kind of atom; examples have other numbers of these."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.kinds = nn.ModuleList(
            nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 1)) for _ in range(3)
        )

    def forward(self, kinds, x):
        flat, x = kinds.flatten(), x.flatten(0, 1)
        out = x.new_zeros(flat.shape)
        for number, network in enumerate(self.kinds):
            here = flat == number
            if bool(here.any()):
                out.masked_scatter_(here, network(x.index_select(0, here.nonzero().flatten())).flatten())
        return out.view_as(kinds).sum(1)


@pytest.mark.parametrize("size", [4, 8])
def test_layers_that_get_other_numbers_of_rows_from_each_example(size):
    kinds = torch.tensor([[0, 1, 2, 2]] * 4 + [[0, 2, 2, 2]] * 3 + [[0, 2, 1, 2]])
    x = torch.randn(8, 4, 3, generator=torch.Generator().manual_seed(1))
    data = [{"kinds": kinds[part], "x": x[part]} for part in torch.arange(8).split(size)]
    result = nz.probe(
        Kinds(),
        data,
        families="scale",
        levels=[0.5],
        metrics={"sum": lambda out, target: out},
        output_kind="logits",
    )
    assert result.response.rows.values.tolist() == [8, 5, 19]
    assert result.response.partial.values.tolist() == [
        True,
        True,
        True,
    ]  # each was found on some examples only
    reach = [row.value for row in result.assumptions if row.what.startswith("reach")]
    assert reach[1:] == [f"{rows} rows, not as many on every example" for rows in (5, 19)]
    assert "kinds.1.1: 5 rows on 8 items, not as many on every example" in result.notes


def test_items_of_a_graph_arent_said_to_be_of_its_atoms():
    class Points(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.last = nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 1)

        def forward(self, atoms, points, nearest):
            return (self.last(self.act(self.first(atoms)))[nearest] + points.sum(1, keepdim=True))[:, 0]

    data = [
        ((torch.randn(atoms, 3), torch.randn(points, 3), torch.randint(atoms, (points,))), None)
        for atoms, points in ((37, 31), (52, 44))
    ]
    result = nz.probe(Points(), data, families="scale", levels=[0.5])
    assert [row.value for row in result.assumptions if row.what == "items"] == [
        "75 items of batches that aren't cut"
    ]
