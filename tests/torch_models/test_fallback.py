"""Models whose suffix can't be used: the full pass is used instead, and the result gives the reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nearzero as nz

METRICS = {"logit": lambda logits, target: logits[:, 0], "agreement": "agreement"}


class Base(nn.Module):
    """Linear, ReLU, `between` of a subclass, Linear."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.last = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.between(self.act(self.first(x))))


class Condition(Base):
    def between(self, a):
        return -a if a.mean() > 0.35 else a


class Item(Base):
    def between(self, a):
        return a * round(a.sum().item())


class Listed(Base):
    def between(self, a):
        return a + torch.tensor(a.tolist()).roll(1, 0)


class Arrays(Base):
    def between(self, a):
        return a + torch.from_numpy(np.roll(a.numpy(), 1, 0))


class Data(Base):
    def between(self, a):
        return a - a.data.amax(1, keepdim=True)


class Selected(Base):
    def between(self, a):
        large = a[a > 0.5]
        return a if large.shape[0] % 2 else 2 * a


class Places(Base):
    def between(self, a):
        return a * len((a.sum(1) > 2).nonzero())


class Dropping(Base):
    def between(self, a):
        return F.dropout(a, 0.5)  # also in evaluation mode


class HiddenDropout(Base):
    def __init__(self):
        super().__init__()
        self.unseen = [nn.Dropout(0.5)]  # not a submodule, so it stays in training mode

    def between(self, a):
        return self.unseen[0](a)


class Experts(Base):
    """Each example goes to the expert that its values choose."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def between(self, a):
        chosen = a[:, :3].argmax(1)
        out = torch.zeros_like(a)
        for number, expert in enumerate(self.experts):
            rows = torch.where(chosen == number)[0]
            if len(rows):
                out.index_add_(0, rows, expert(a[rows]))
        return out


ESCAPES = {
    Condition: "decide in Python",
    Item: "decide in Python",
    Listed: "outside of PyTorch (tolist)",
    Arrays: "outside of PyTorch (numpy)",
    Selected: "the shape of what follows",
    Places: "the shape of what follows",
    Dropping: "random",
    HiddenDropout: "random",
    Experts: "shape",
}


@pytest.mark.parametrize("kind", ESCAPES, ids=lambda kind: kind.__name__)
def test_the_full_pass_is_taken_and_the_result_says_why(kind):
    model, x = kind(), torch.randn(30, 6)
    options = {"metrics": METRICS, "levels": 7, "batch_size": 8, "keep_items": True}
    auto, full = (nz.probe(model, x, "act", method=method, **options) for method in ("auto", "full"))
    np.testing.assert_array_equal(auto.response.logit_items, full.response.logit_items)
    assert auto.response.method.item() == "full"
    assert ESCAPES[kind] in auto.response.reason.item()
    assert any(ESCAPES[kind] in note for note in auto.notes)
    with pytest.raises(nz.InputError, match=r"layer 'act' can't be cut: .*; use method='auto'"):
        nz.probe(model, x, "act", method="suffix", **options)


@pytest.mark.parametrize("kind", ESCAPES, ids=lambda kind: kind.__name__)
def test_what_comes_before_the_layer_doesnt_matter(kind):
    model, x = kind(), torch.randn(30, 6)
    options = {"metrics": METRICS, "levels": 7, "batch_size": 8, "keep_items": True}
    suffix, full = (nz.probe(model, x, "last", method=method, **options) for method in ("suffix", "full"))
    np.testing.assert_array_equal(suffix.response.logit_items, full.response.logit_items)


def test_values_reached_by_data_are_followed():
    options = {"metrics": METRICS, "levels": 7, "batch_size": 8, "keep_items": True}
    model, x = Data(), torch.randn(30, 6)
    suffix, full = (nz.probe(model, x, "act", method=method, **options) for method in ("suffix", "full"))
    np.testing.assert_array_equal(suffix.response.logit_items, full.response.logit_items)


class Late(Base):
    """Takes another path on large batches only."""

    def between(self, a):
        return a * float(a.max()) if len(a) > 5 else a


def test_a_batch_that_goes_another_way_later():
    model, x = Late(), torch.randn(17, 6)
    batches = [x[:4], x[4:8], x[8:]]
    auto, full = (
        nz.probe(model, batches, "act", metrics=METRICS, levels=5, method=method, keep_items=True).response
        for method in ("auto", "full")
    )
    np.testing.assert_array_equal(auto.logit_items, full.logit_items)
    assert auto.method.item() == "full"
    with pytest.raises(nz.InputError, match="can't be cut: its values decide in Python"):
        nz.probe(model, batches, "act", metrics=METRICS, levels=5, method="suffix")


class Stateful(Base):
    """Remembers the last batch, and counts."""

    def __init__(self):
        super().__init__()
        self.memory = None
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8))

    def between(self, a):
        self.count += 1
        self.mean = 0.9 * self.mean + 0.1 * a.mean(0)
        out = a if self.memory is None or len(self.memory) != len(a) else a + self.memory
        self.memory = a
        return out + self.count + self.mean


def test_a_model_that_remembers_begins_every_pass_anew():
    model, x = Stateful(), torch.randn(16, 6)
    mean = model.mean
    options = {"metrics": METRICS, "levels": 5, "batch_size": 8, "keep_items": True}
    suffix, full = (nz.probe(model, x, "act", method=each, **options).response for each in ("suffix", "full"))
    np.testing.assert_array_equal(suffix.logit_items, full.logit_items)
    alone = nz.probe(model, x[8:], "act", ranges_from=x, **options).response
    np.testing.assert_array_equal(alone.logit_items, full.logit_items[..., 8:])
    assert model.memory is None
    assert model.mean is mean
    assert model.count == 0
    assert not mean.any()


class WritesInputs(Base):
    def forward(self, x):
        x -= 0.5
        F.relu_(x)
        return super().forward(x)

    def between(self, a):
        return a


def test_a_model_that_writes_into_its_inputs_gets_copies():
    model, x = WritesInputs(), torch.randn(16, 6)
    batches, before = [x[:8], x[8:]], x.clone()
    suffix, full = (
        nz.probe(model, batches, "act", metrics=METRICS, levels=5, method=each, keep_items=True).response
        for each in ("suffix", "full")
    )
    np.testing.assert_array_equal(suffix.logit_items, full.logit_items)
    assert torch.equal(x, before)


class OneSize(Base):
    """Takes only batches of eight."""

    def between(self, a):
        return a.reshape(8, 8)


def test_a_model_that_takes_one_size_of_batches():
    x = torch.randn(16, 6)
    suffix, full = (
        nz.probe(OneSize(), x, "act", metrics=METRICS, levels=5, method=each, batch_size=8, keep_items=True)
        for each in ("suffix", "full")
    )
    np.testing.assert_array_equal(suffix.response.logit_items, full.response.logit_items)


class Renormed(Base):
    """Replaces its weight's data in every pass, as some published EEG networks do."""

    def between(self, a):
        self.last.weight.data = torch.renorm(self.last.weight.data, 2, 0, 0.1)
        return a


def test_weights_that_a_pass_replaces_are_put_back():
    model, x = Renormed(), torch.randn(16, 6)
    weight, before = model.last.weight, model.last.weight.detach().clone()
    place = weight.data_ptr()
    suffix, full = (
        nz.probe(model, x, "act", metrics=METRICS, levels=5, method=each, keep_items=True).response
        for each in ("suffix", "full")
    )
    np.testing.assert_array_equal(suffix.logit_items, full.logit_items)
    assert model.last.weight is weight
    assert torch.equal(weight, before)
    assert weight.data_ptr() == place


class Training(Base):
    def between(self, a):
        self.last.weight.data.mul_(0.9)
        return a


def test_a_model_that_writes_into_its_weights_is_refused_before_it_does():
    model = Training()
    before = model.last.weight.detach().clone()
    with pytest.raises(nz.InputError, match=r"changes its parameter 'last\.weight'"):
        nz.layers(model, torch.randn(4, 6))
    assert torch.equal(model.last.weight, before)
