"""Several layers in one probe give the responses of each alone, to the last bit, whatever they share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nearzero as nz
from nearzero.torch_models import forward as passes
from nearzero.torch_models.replay import OpRecorder

LOGITS = {f"logit {number}": lambda logits, target, number=number: logits[:, number] for number in range(3)}


class Base(nn.Module):
    """Two linear layers, and something between."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.one, self.two = nn.ReLU(), nn.GELU()

    def forward(self, x):
        return self.last(self.between(self.first(x)))


class InPlace(Base):
    """Both activations write into what others hold."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.ReLU(inplace=True), nn.Hardswish(inplace=True)

    def between(self, x):
        a = self.one(x)
        return self.two(self.second(a) + x) + a


class Residual(Base):
    def between(self, x):
        return x + self.two(self.second(self.one(x)))


class Sides(Base):
    """Neither branch reaches the other."""

    def between(self, x):
        return self.one(x) + self.two(self.second(x))


class Functions(Base):
    def between(self, x):
        x = F.relu(x)
        return F.gelu(self.second(F.relu(x - 0.2, inplace=True))) + x


class Recurrent(Base):
    """One linear layer and one activation, three times."""

    def between(self, x):
        for _ in range(3):
            x = self.one(self.second(x))
        return self.two(x)


class Impossible(Base):
    """The first layer decides in Python what comes next, the second doesn't."""

    def between(self, x):
        a = self.one(x)
        return self.two(self.second(-a if a.mean() > 0.35 else a))


class LastImpossible(Base):
    """The second layer decides; so does the first, which it depends on. The branch beside them doesn't."""

    def between(self, x):
        a = self.two(self.second(x))
        return self.one(x.detach() + 1.0) * round(a.sum().item())


class Late(Base):
    """The first layer decides on large batches alone."""

    def between(self, x):
        a = self.one(x)
        return self.two(self.second(a * float(a.max()) if len(a) > 5 else a))


class Keeping(nn.ReLU):
    """Keeps what it gave, and so sees what is written into it later."""

    def forward(self, x):
        self.kept = super().forward(x)
        return self.kept


class Aliased(Base):
    """What is written into one activation's result shows in what its module has kept."""

    def __init__(self):
        super().__init__()
        self.one = Keeping()

    def between(self, x):
        a = self.one(x)
        a += self.two(self.second(x))
        return a + self.one.kept


class Buffered(Base):
    """Writes parts of both layers into one tensor, which others read in between."""

    def between(self, x):
        room = torch.zeros(len(x), 16)
        room[:, :8] = self.one(x)
        seen = room.sum(1, keepdim=True)
        room[:, 8:] = self.two(self.second(x))
        room += 1.0
        return room[:, :8] * room[:, 8:] + seen


MODELS = [
    InPlace, Residual, Sides, Functions, Recurrent, Impossible, LastImpossible, Late, Aliased, Buffered,
]  # fmt: skip
CONDUCTS = {"pre": None, "post": nz.Conduct(offset="shift", range="pre", clip="post")}


def responses(model, layers, **how):
    x = torch.randn(17, 6, generator=torch.Generator().manual_seed(1))
    how = {"batch_size": 6, "levels": {"offset": [0.3, 0.7], "scale": [0.5], "clip": [0.4]}, **how}
    return nz.probe(model, x, layers, metrics=LOGITS, keep_items=True, **how).response


def same_as_alone(model, layers, together, **how):
    assert list(together.layer.values) == layers
    for layer in layers:
        alone = responses(model, layer, **how)
        for name in (*(f"{metric}_items" for metric in LOGITS), *LOGITS, "method", "reason"):
            np.testing.assert_array_equal(together[name].sel(layer=[layer]).values, alone[name].values)


def placed(model):
    """The layers whose activation has a place in the model, as clip=post needs."""
    every = nz.layers(model, torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))
    return [each.name for each in every if each.act is not None]


@pytest.mark.parametrize("clip", CONDUCTS)
@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_layers_together_respond_as_each_alone(kind, clip):
    model = kind()
    layers, how = placed(model), {"conduct": CONDUCTS[clip]}
    assert len(layers) > 1
    together = responses(model, layers, **how)
    same_as_alone(model, layers, together, **how)
    full = responses(model, layers, method="full", **how)
    for name in LOGITS:
        np.testing.assert_array_equal(together[f"{name}_items"], full[f"{name}_items"])


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_every_layer_there_is_responds_as_alone(kind):
    model = kind()
    layers = [each.name for each in nz.layers(model, torch.randn(6, 6))]
    same_as_alone(model, layers, responses(model, layers))


def test_a_layer_that_cannot_be_cut_leaves_the_others_their_suffix():
    methods = responses(Impossible(), ["one", "two"]).method
    assert methods.values.tolist() == ["full", "suffix"]
    late = responses(Late(), ["one", "two"])
    assert late.method.values.tolist() == ["full", "suffix"]
    assert "decide in Python" in late.reason.values[0]
    assert late.reason.values[1] == ""


# --- how many recordings --------------------------------------------------------------------------------------------


@pytest.fixture
def recordings(monkeypatch):
    """The layers of each recording that was used, with the examples in it."""
    made = []

    class Counted(OpRecorder):
        def suffixes(self, wanted):
            found = super().suffixes(wanted)
            if not self.overflowed:
                made.append((sorted(each.layer.name for each in found), len(wanted)))
            return found

    monkeypatch.setattr(passes, "OpRecorder", Counted)
    return made


def test_a_batch_is_recorded_once(recordings):
    responses(Residual(), ["one", "second", "two"])
    every = ["one", "second", "two"]
    assert recordings == [(every, 4), (every, 6), (every, 6), (every, 5)]


def test_layers_that_cannot_be_recorded_together_are_recorded_apart(recordings):
    model = Aliased()
    together = responses(model, ["one", "two"], conduct=CONDUCTS["post"])
    assert (["one"], 6) in recordings
    assert (["one", "two"], 6) not in recordings[1:]
    same_as_alone(model, ["one", "two"], together, conduct=CONDUCTS["post"])


class Deep(nn.Module):
    """Forty activations in a row."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.Sequential(*[part for _ in range(40) for part in (nn.Linear(64, 64), nn.ELU())])
        self.last = nn.Linear(64, 3)

    def forward(self, x):
        return self.last(self.parts(x))


def test_fewer_layers_share_a_recording_where_memory_is_short(recordings):
    model, x = Deep(), torch.randn(160, 64)
    how = {"metrics": LOGITS, "levels": 2, "families": "scale", "batch_size": 160, "keep_items": True}

    def shared(memory):
        recordings.clear()
        response = nz.probe(model, x, memory=memory, **how).response
        return response, [layers for layers, examples in recordings if examples == 160]

    one, many = shared(10**9)
    assert [len(each) for each in many] == [40]
    other, groups = shared(16 * 10**6)
    assert 1 < len(groups) < 40
    assert sorted(name for group in groups for name in group) == many[0]
    assert one.equals(other)


@pytest.mark.parametrize("kind", [InPlace, Residual])
@torch.no_grad()
def test_a_suffix_can_be_run_again_and_again(kind):
    model, x, recorder = kind(), torch.randn(5, 6), OpRecorder()
    in_place = kind is InPlace
    hook = model.one.register_forward_pre_hook(lambda _, args: recorder.cut(args[0], in_place=in_place))
    with recorder.running():
        logits = model(x)
    hook.remove()
    suffix = recorder.suffixes(logits)[None]
    z = suffix.value.clone()
    changed = suffix.run(lambda values: values + 1)
    assert not torch.equal(changed, logits)
    for _ in range(2):
        assert torch.equal(suffix.run(torch.clone), logits)
        assert torch.equal(suffix.run(lambda values: values), logits)
        assert torch.equal(suffix.run(lambda values: values.view(-1).view(5, 8)), logits)
        assert torch.equal(suffix.run(lambda values: values.t().add(1).t()), changed)
        assert torch.equal(suffix.value, z)
