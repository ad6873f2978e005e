"""Several layers in one probe give the same responses as each layer alone, to the last bit."""

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
    """Two linear layers, and `between` of a subclass."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.one, self.two = nn.ReLU(), nn.GELU()

    def forward(self, x):
        return self.last(self.between(self.first(x)))


class InPlace(Base):
    """Both activations write into tensors that are used elsewhere."""

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
    """Two branches, neither of which depends on the other."""

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
    """The first layer decides in Python, on large batches only."""

    def between(self, x):
        a = self.one(x)
        return self.two(self.second(a * float(a.max()) if len(a) > 5 else a))


class Keeping(nn.ReLU):
    """Keeps its result, and so sees later writes to it."""

    def forward(self, x):
        self.kept = super().forward(x)
        return self.kept


class Aliased(Base):
    """Writes into the result of an activation whose module has kept it."""

    def __init__(self):
        super().__init__()
        self.one = Keeping()

    def between(self, x):
        a = self.one(x)
        a += self.two(self.second(x))
        return a + self.one.kept


class Buffered(Base):
    """Writes the values of both layers into one tensor, which is read in between."""

    def between(self, x):
        buffer = torch.zeros(len(x), 16)
        buffer[:, :8] = self.one(x)
        seen = buffer.sum(1, keepdim=True)
        buffer[:, 8:] = self.two(self.second(x))
        buffer += 1.0
        return buffer[:, :8] * buffer[:, 8:] + seen


MODELS = [
    InPlace,
    Residual,
    Sides,
    Functions,
    Recurrent,
    Impossible,
    LastImpossible,
    Late,
    Aliased,
    Buffered,
]
CONDUCTS = {"pre": None, "post": nz.Conduct(offset="shift", range="pre", clip="post")}


def responses(model, layers, **options):
    x = torch.randn(17, 6, generator=torch.Generator().manual_seed(1))
    options = {"batch_size": 6, "levels": {"offset": [0.3, 0.7], "scale": [0.5], "clip": [0.4]}, **options}
    return nz.probe(model, x, layers, metrics=LOGITS, keep_items=True, **options).response


def same_as_alone(model, layers, together, **options):
    assert list(together.layer.values) == layers
    for layer in layers:
        alone = responses(model, layer, **options)
        for name in (*(f"{metric}_items" for metric in LOGITS), *LOGITS, "method", "reason"):
            np.testing.assert_array_equal(together[name].sel(layer=[layer]).values, alone[name].values)


def placed(model):
    """Return the layers followed by an activation in the model, as clip=post needs."""
    every = nz.layers(model, torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))
    return [each.name for each in every if each.act is not None]


@pytest.mark.parametrize("clip", CONDUCTS)
@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_layers_together_respond_as_each_alone(kind, clip):
    model = kind()
    layers, options = placed(model), {"conduct": CONDUCTS[clip]}
    assert len(layers) > 1
    together = responses(model, layers, **options)
    same_as_alone(model, layers, together, **options)
    full = responses(model, layers, method="full", **options)
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
    """Return a list that gets the layers and the number of examples of each recording used."""
    made = []

    class Counted(OpRecorder):
        def suffixes(self, wanted):
            suffixes = super().suffixes(wanted)
            if not self.overflowed:
                made.append((sorted(each.layer.name for each in suffixes), len(wanted)))
            return suffixes

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
    options = {"metrics": LOGITS, "levels": 2, "families": "scale", "batch_size": 160, "keep_items": True}

    def shared(memory):
        recordings.clear()
        response = nz.probe(model, x, memory=memory, **options).response
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
