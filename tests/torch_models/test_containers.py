"""Containers that data come in: read with the examples first, or refused with one line."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import nearzero as nz

IDS = torch.randint(20, (24, 8), generator=torch.Generator().manual_seed(1))
Y = torch.arange(24) % 3
X = torch.randn(24, 6, generator=torch.Generator().manual_seed(2))


class Tokens(nn.Module):
    """Logits (B, 3) of token ids (B, 8), each token with a weight of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.act, self.head = nn.Embedding(20, 5), nn.GELU(), nn.Linear(5, 3)

    def forward(self, ids):
        weights = torch.arange(1.0, 1 + ids.shape[1])[:, None]
        return self.head((self.act(self.embed(ids)) * weights).mean(1))


class Examples(Dataset):
    """Token ids as lists, from which `default_collate` makes a list of columns."""

    def __len__(self):
        return len(IDS)

    def __getitem__(self, index):
        return {"ids": IDS[index].tolist(), "label": int(Y[index])}


def loss(model, data) -> tuple[float, int]:
    response = nz.probe(model, data, levels=1, metrics="cross_entropy").response
    return float(response.unperturbed_cross_entropy), response.attrs["examples"]


def test_lists_of_rows_and_of_columns():
    with torch.no_grad():
        right = float(nn.functional.cross_entropy(Tokens()(IDS), Y))
    forms = {
        "data set": Examples(),
        "loader, of as many examples as tokens": DataLoader(Examples(), 8),
        "batches of another size": list(DataLoader(Examples(), 5)),
        "rows": [{"ids": list(IDS), "label": Y}],
        "lists": [{"ids": IDS.tolist(), "label": Y.tolist()}],
    }
    for name, data in forms.items():
        assert loss(Tokens(), data) == (pytest.approx(right, rel=1e-5), 24), name


@pytest.mark.parametrize(
    "data", [list(DataLoader(Examples(), 8)), [{"ids": list(IDS)}]], ids=["as many", "no targets"]
)
def test_lists_that_may_be_rows_or_columns_are_refused(data):
    with pytest.raises(
        nz.InputError, match=r"ids is a list of \d+ tensors \(8,\), each of which may be .* prepare="
    ):
        nz.probe(Tokens(), data, levels=1)


def dense() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))


def test_arrays_of_other_byte_orders_and_sizes():
    right = loss(dense(), (X, Y))
    x, y = X.numpy(), Y.numpy()
    for inputs, targets in (
        (x.astype(">f4"), y),
        (x, y.astype(">i4")),
        (x.astype(np.longdouble), y),
        ([*x], y),
    ):
        data = [(inputs, targets)] if isinstance(inputs, list) else (inputs, targets)
        assert loss(dense(), data) == right


def test_sparse_batches():
    right = pytest.approx(loss(dense(), (X, Y))[0], rel=1e-5)
    assert loss(dense(), [(X.to_sparse(), Y)]) == (right, 24)
    assert loss(dense(), iter([(X.to_sparse(), Y)])) == (right, 24)


class Pictures(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return Image.new("L", (8, 8)), index % 3


def nested() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([X[:3], X[3:8]])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: (X.to_sparse(), Y), "arrays of data must be dense"),
        (lambda: [(nested(), Y[:2])], r"a batch holds a nested tensor; make it dense by prepare="),
        (Pictures, "can't be put into one batch: .*PIL"),
        (lambda: [([Pictures()[0][0]] * 3, Y[:3])], "got tuple of list, Tensor; convert it with prepare="),
        (lambda: TensorDataset(X[:0]), "no batches"),
    ],
)
def test_containers_that_cant_be_read(data, message):
    with pytest.raises(nz.InputError, match=message) as caught:
        nz.probe(dense(), data(), levels=1)
    assert "\n" not in str(caught.value)


# --- items that are single examples ---


class Pooled(nn.Sequential):
    """Logits (B,) of inputs (B, 6)."""

    def forward(self, x):
        return super().forward(x)[..., 0]


SINGLE = {
    "pairs": lambda: list(zip(X, Y, strict=True)),
    "numbers": lambda: [(x, int(y)) for x, y in zip(X, Y, strict=True)],
    "arrays": lambda: [(x.double().numpy(), int(y)) for x, y in zip(X, Y, strict=True)],
    "mappings": lambda: [{"input": x, "label": int(y)} for x, y in zip(X, Y, strict=True)],
    "inputs": lambda: list(X),
    "several targets": lambda: [(x, x) for x in X],
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=None),
}


@pytest.mark.parametrize(
    "use", [nz.layers, lambda *given: nz.probe(*given, "1", levels=1)], ids=["layers", "probe"]
)
@pytest.mark.parametrize("form", SINGLE)
def test_items_that_are_single_examples_are_refused(form, use):
    with pytest.raises(
        nz.InputError, match=r"item of your data is one example.* DataLoader\(data, batch_size="
    ):
        use(dense(), SINGLE[form]())


@pytest.mark.parametrize(
    ("model", "item"),
    [
        (Tokens, {"ids": IDS[0].tolist(), "label": 1}),
        (lambda: Pooled(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 1)), (X[0], 1)),
    ],
    ids=["tokens", "one logit"],
)
def test_a_model_that_fails_on_a_single_example_alone(model, item):
    with pytest.raises(
        nz.InputError, match=r"one example, .*: the model fails on it, and not on a batch of one"
    ):
        nz.layers(model(), [item])


class Graph(nn.Module):
    """Logits (1, 3) of one graph, given as the features of its nodes and its edges."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.head = nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)

    def forward(self, nodes, edges):
        h = self.act(self.first(nodes))
        return self.head(h.index_add(0, edges[0], h[edges[1]]).mean(0, keepdim=True))


def test_a_graph_with_one_target_is_a_batch_of_one():
    edges = torch.randint(6, (2, 9), generator=torch.Generator().manual_seed(3))
    data = [((X[first : first + 6], edges), first % 3) for first in (0, 6, 12)]
    with torch.no_grad():
        logits = torch.cat([Graph()(*inputs) for inputs, _ in data])
    right = float(nn.functional.cross_entropy(logits, torch.tensor([target for _, target in data])))
    assert loss(Graph(), data) == (pytest.approx(right, rel=1e-5), 3)


# --- data that differ between passes ---


class Noisy(Dataset):
    """Examples with noise, from a generator of the data set's own or from PyTorch's."""

    def __init__(self, own):
        self.random = np.random.default_rng(0) if own else None

    def __len__(self):
        return 16

    def __getitem__(self, index):
        noise = torch.randn(()) if self.random is None else float(self.random.normal())
        return X[index] + noise, int(Y[index])


class Shuffled:
    def __iter__(self):
        for part in np.random.default_rng().permutation(12):
            yield X[2 * part : 2 * part + 2], Y[2 * part : 2 * part + 2]


@pytest.mark.parametrize(
    "data",
    [
        lambda: DataLoader(Noisy(own=True), 8),
        lambda: DataLoader(Noisy(own=False), 8, num_workers=1, persistent_workers=True),
        Shuffled,
    ],
    ids=["own generator", "persistent workers", "shuffled"],
)
def test_data_that_differ_between_passes_are_refused(data):
    with pytest.raises(nz.InputError, match=r"another one when read again; .* \(list\(loader\)\)"):
        nz.probe(dense(), data(), levels=1)


def test_data_that_a_loader_draws_in_the_same_way_are_taken():
    for data in (DataLoader(Noisy(own=False), 8), DataLoader(TensorDataset(X, Y), 8, shuffle=True)):
        assert nz.probe(dense(), data, levels=1).response.attrs["items"] == len(data.dataset)
