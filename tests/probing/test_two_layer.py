"""Probes of the paper's networks give exactly the numbers of the sweep.

`nz.probe` evaluates a network Linear, activation, Linear by the kernels that sweep studies, for data of every form. The
general way, by suffix or full pass, is compared with the sweep too. There the order of float32 sums differs, so an
example whose two greatest logits differ by less than 1e-5 of the greatest (`NEAR`) may get another prediction. These
are counted; no other difference is allowed.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import nearzero as nz
from nearzero.networks import initial_stack

PAPER = Path(__file__).parents[2] / "results" / "paper"
FAMILIES = ("offset", "scale", "clip")
NEAR = 1e-5


def module_of(network: nz.TwoLayer, *before: nn.Module, after: tuple[nn.Module, ...] = ()) -> nn.Sequential:
    """Return a network as a module with named layers."""
    hidden, act, output = network.to_module()
    parts = {"hidden": hidden, "act": act, "output": output}
    first = {f"before{place}": each for place, each in enumerate(before)}
    last = {f"after{place}": each for place, each in enumerate(after)}
    return nn.Sequential(OrderedDict(first | parts | last))


def as_torch(data: nz.datasets.Dataset, count: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (N, 1, H, W), float32 pixels from 0 to 255, and labels."""
    images = torch.from_numpy(data.test.images[:count].astype(np.float32))[:, None]
    return images, torch.from_numpy(data.test.labels[:count].astype(np.int64))


def assert_same(result: nz.ProbeResult, swept, metrics=("accuracy", "agreement")) -> None:
    """Compare every number at every level of every layer, and check that the method was "two-layer"."""
    response = result.response
    assert set(response.method.values) == {"two-layer"}
    for name in result.layers:
        for metric in metrics:
            for family in swept.family.values:
                found = response[metric].sel(layer=name, family=family).dropna("level")
                expected = swept[metric].sel(family=family).dropna("level")
                np.testing.assert_array_equal(found.level, expected.level)
                np.testing.assert_array_equal(found, expected)
    assert set(response.dead_units.values) == {int(swept.dead_units)}


class Branching(nn.Module):
    """Linear, GELU, Linear, and a branch that is taken under a perturbation alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.act, self.output = nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.act(self.hidden(x))
        return self.output(h if h.sum() > 0 else 5 - h)


def test_a_forward_with_a_branch_is_run() -> None:
    model, x = Branching(), torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    y = torch.arange(20) % 3
    result = nz.probe(model, (x, y), "act", families=nz.Perturbation(offset=-3.0))
    with torch.no_grad(), model.act.register_forward_pre_hook(lambda _, args: (args[0] - 3.0,)):
        expected = (model(x).argmax(1) == y).double().mean().item()
    assert result.response.accuracy.item() == pytest.approx(expected)
    assert result.response.method.item() == "full"


def drawn(name: str, inputs: int = 64, units: int = 48, classes: int = 10) -> nz.TwoLayer:
    return initial_stack([3], name, inputs=inputs, units=units, classes=classes)[0]


@pytest.mark.parametrize("name", nz.ACTIVATIONS)
@pytest.mark.parametrize("layer", ["act", "hidden"])
def test_every_activation_by_either_layer_with_and_without_labels(name, layer, digits):
    network, (x, y) = drawn(name), as_torch(digits)
    model = module_of(network, nn.Flatten())
    swept = nz.sweep(network, digits.test.pixels, digits.test.labels, family=FAMILIES)
    labelled = nz.probe(model, (x, y), layer)
    assert_same(labelled, swept)
    assert labelled.response.unperturbed_accuracy == swept.unperturbed_accuracy
    assert labelled.response.unperturbed_agreement == 1
    assert_same(nz.probe(model, x, layer, metrics="agreement"), swept, ["agreement"])


class Images(Dataset):
    """A data set of examples, as torchvision's are."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, place):
        return self.x[place], int(self.y[place])


def thirds(x, y):
    rows = np.arange(len(x))
    return [(x[rows % 3 == part], y[rows % 3 == part]) for part in range(3)]


def shuffled(x, y):
    return DataLoader(TensorDataset(x, y), 64, shuffle=True, generator=torch.Generator().manual_seed(5))


FORMS = {
    "arrays": lambda x, y: (x.numpy(), y.numpy()),
    "tensors": lambda x, y: (x, y),
    "small batches": lambda x, y: DataLoader(TensorDataset(x, y), 7),
    "one batch": lambda x, y: [(x, y)],
    "batches that differ": thirds,
    "examples": Images,
    "mappings": lambda x, y: [{"input": part, "labels": known} for part, known in thirds(x, y)],
    "read once": lambda x, y: iter(thirds(x, y)),
    "bytes": lambda x, y: (x.to(torch.uint8), y),
    "shuffled": shuffled,
}


@pytest.mark.parametrize("form", FORMS)
def test_data_in_every_form(form, digits):
    network = drawn("relu")
    x, y = as_torch(digits, 300)
    swept = nz.sweep(network, digits.test.pixels[:300], digits.test.labels[:300])
    result = nz.probe(module_of(network, nn.Flatten()), FORMS[form](x, y), "act")
    assert result.response.attrs["items"] == result.response.attrs["examples"] == 300
    assert_same(result, swept)


@pytest.mark.parametrize("batch_size", [1, 32, 299, 5000])
def test_the_size_of_batches_changes_nothing(batch_size, digits):
    network, (x, y) = drawn("abs"), as_torch(digits, 300)
    swept = nz.sweep(network, digits.test.pixels[:300], digits.test.labels[:300])
    assert_same(nz.probe(module_of(network, nn.Flatten()), (x, y), batch_size=batch_size), swept)


@pytest.mark.parametrize(
    "conduct",
    [
        nz.Conduct(),
        nz.Conduct(offset="shift", clip="post", clip_threshold="pr", range="pre"),
        nz.Conduct(offset="as-written", clip="post"),
        nz.Conduct(offset="shift", range="post"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["abs", "relu"])
def test_conducts_and_ranges_from_other_data(name, conduct, digits):
    network, (x, y) = drawn(name), as_torch(digits)
    other = torch.from_numpy(digits.train.images[:200].astype(np.float32))[:, None]
    model = module_of(network, nn.Flatten())
    pixels, labels = digits.test.pixels, digits.test.labels
    assert_same(
        nz.probe(model, (x, y), ["act", "hidden"], conduct=conduct),
        nz.sweep(network, pixels, labels, conduct=conduct),
    )
    # Ranges of other data are found by passes in PyTorch, whose sums have another order: so are the sweep's here.
    with torch.no_grad():
        z = model.hidden(other.flatten(1)).double().numpy()
    ranges = nz.Ranges.of([z], network.act)
    swept = nz.sweep(network, pixels, labels, conduct=conduct, ranges=ranges)
    found = nz.probe(model, (x, y), "act", conduct=conduct, ranges_from=other).response
    assert set(found.method.values) == {"two-layer"}
    differing = sum(
        int(
            (
                found.accuracy.sel(layer="act", family=family).dropna("level").values
                != swept.accuracy.sel(family=family).dropna("level").values
            ).sum()
        )
        for family in FAMILIES
    )
    assert differing == 0


def test_levels_of_the_users_own_and_one_family(digits):
    network, (x, y) = drawn("gelu"), as_torch(digits)
    levels = [-0.5, 0.0, 0.25, 1.0]
    found = nz.probe(module_of(network, nn.Flatten()), (x, y), "act", families="offset", levels=levels)
    swept = nz.sweep(network, digits.test.pixels, digits.test.labels, family=["offset"], levels=levels)
    assert_same(found, swept)


def test_a_model_that_ends_in_log_softmax(digits):
    network, (x, y) = drawn("relu"), as_torch(digits)
    model = module_of(network, nn.Flatten(), after=(nn.LogSoftmax(dim=1),))
    found = nz.probe(model, (x, y), ["act", "hidden"]).response
    swept = nz.sweep(network, digits.test.pixels, digits.test.labels)
    # It isn't of the shape Linear, activation, Linear alone, so it may be taken the general way.
    for family in FAMILIES:
        mine = found.accuracy.sel(layer="act", family=family).dropna("level")
        theirs = swept.accuracy.sel(family=family).dropna("level")
        assert float(abs(mine.values - theirs.values).max()) <= 1 / len(y)


class LogProbabilities(nn.Module):
    """The paper's shape, and log-probabilities as a function in its forward."""

    def __init__(self, network):
        super().__init__()
        self.hidden, self.act, self.output = network.to_module()

    def forward(self, x):
        return self.output(self.act(self.hidden(x.flatten(1)))).log_softmax(1)


def test_a_module_of_the_users_own_that_gives_log_probabilities(digits):
    network, (x, y) = drawn("abs"), as_torch(digits)
    swept = nz.sweep(network, digits.test.pixels, digits.test.labels)
    assert_same(nz.probe(LogProbabilities(network), (x, y), ["act", "hidden"]), swept)


def test_a_two_layer_value_and_items(digits):
    network, (x, y) = drawn("relu"), as_torch(digits)
    result = nz.probe(network, (x.flatten(1), y), keep_items=True)
    swept = nz.sweep(network, digits.test.pixels, digits.test.labels, keep_predictions=True)
    assert_same(result, swept)
    right = (swept.predictions.values == digits.test.labels)[None]
    known = swept.predictions.values[None] >= 0
    np.testing.assert_array_equal(result.response.accuracy_items.values[known], right[known])
    np.testing.assert_array_equal(result.response.sequence, np.arange(len(y)))


# --- the general way ------------------------------------------------------------------------------------------------


def far_and_near(network, x, family, level, conduct, predictions, given):
    """Return how many predictions differ without a near tie in float64, and how many at a near tie."""
    made = nz.make_family(family, conduct).at(level, nz.unit_ranges(network, x))
    different = np.flatnonzero(predictions != given)
    z = x[different].astype(np.float64) @ network.w1.T.astype(np.float64) + network.b1
    values = network.act(made(z)) if made.side == "pre" else made(np.asarray(network.act(z)))
    logits = np.asarray(values, np.float64) @ network.w2.T.astype(np.float64) + network.b2
    top = np.sort(logits, axis=1)
    near = top[:, -1] - top[:, -2] < NEAR * np.abs(logits).max(axis=1)
    return int((~near).sum()), int(near.sum())


@pytest.mark.parametrize("method", ["suffix", "full"])
@pytest.mark.parametrize("name", nz.ACTIVATIONS)
def test_the_general_way_differs_at_near_ties_only(name, method, digits):
    network, (x, y) = drawn(name), as_torch(digits)
    conduct = nz.Conduct.default([name])
    model = module_of(network, nn.Flatten())

    def prediction(logits, target):
        return logits.argmax(1)

    found = nz.probe(
        model, (x, y), "act", metrics=[prediction, "accuracy"], method=method, keep_items=True, levels=25
    ).response
    assert set(found.method.values) == {method}
    far = near = 0
    for family in FAMILIES:
        levels = found.accuracy.sel(layer="act", family=family).dropna("level").level.values
        swept = nz.sweep(
            network,
            digits.test.pixels,
            digits.test.labels,
            family=family,
            levels=levels,
            keep_predictions=True,
        )
        for level in levels:
            mine = found.prediction_items.sel(layer="act", family=family, level=level).values.astype(int)
            theirs = swept.predictions.sel(level=level).values
            more = far_and_near(network, digits.test.pixels, family, level, conduct, mine, theirs)
            far, near = far + more[0], near + more[1]
    assert far == 0
    assert near <= 2


# --- the kept networks of the paper, on MNIST -----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "run"), [("abs", 0), ("relu", 19)])
def test_the_papers_networks_on_their_test_images(name, run):
    data = nz.datasets.load("mnist")
    network = nz.Study.open(PAPER).network(name, run)
    model = nn.Sequential(nn.Flatten(), *network.to_module())
    swept = nz.sweep(network, data.test.pixels, data.test.labels)
    result = nz.probe(model, DataLoader(TensorDataset(*as_torch(data)), 1000), ["1", "2"])
    assert result.response.attrs["items"] == 10_000
    assert_same(result, swept)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "run"), [("abs", 11), ("relu", 0)])
def test_the_papers_networks_give_the_numbers_of_the_study(name, run):
    data, study = nz.datasets.load("mnist"), nz.Study.open(PAPER)
    x = torch.from_numpy(data.train.images.astype(np.float32))[:, None]
    model = nn.Sequential(nn.Flatten(), *study.network(name, run).to_module())
    found = nz.probe(model, (x, torch.from_numpy(data.train.labels)), "2", batch_size=5000).response
    kept = study.response.sel(network=name, run=run, split="train")
    for family in FAMILIES:
        mine = found.accuracy.sel(layer="2", family=family).dropna("level")
        theirs = kept.accuracy.sel(family=family).dropna("level")
        np.testing.assert_array_equal(mine, theirs)
