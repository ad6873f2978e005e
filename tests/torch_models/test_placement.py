"""Models whose weights accelerate keeps elsewhere and loads for each call, all on the processor.

The right answer is that of the same model in one place, to the last bit.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from torch import nn

import nearzero as nz
from nearzero.torch_models.placement import input_device, is_offloaded

accelerate = pytest.importorskip("accelerate")

WAYS = ("cpu_offload", "disk_offload", "dispatch")
X = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 3


class Net(nn.Module):
    """Three blocks, of which one is a module with parts, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 8)
        self.middle = nn.Sequential(nn.GELU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.middle(self.first(x)))


def two_layer() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def split(model: nn.Module, way: str, folder) -> nn.Module:
    """Return the model, in evaluation mode, with its weights kept elsewhere."""
    model = model.eval()
    if way == "cpu_offload":
        return accelerate.cpu_offload(model)
    if way == "disk_offload":
        return accelerate.disk_offload(model, str(folder))
    places = {name: "disk" for name, _ in model.named_children()}
    places[next(iter(places))] = "cpu"
    return accelerate.dispatch_model(
        model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True
    )


def assert_same(one: nz.ProbeResult, other: nz.ProbeResult) -> None:
    for name in set(one.response) - {"method", "reason"}:
        np.testing.assert_array_equal(one.response[name].values, other.response[name].values, err_msg=name)


METRICS = ["accuracy", "cross_entropy", "kl_divergence"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", WAYS)
def test_a_split_model_gives_the_bits_of_the_whole_one(tmp_path, way, dtype):
    settings = {
        "layers": ["first", "middle.0", "middle.1", "last"],
        "families": ["shift", "scale", "clip", "distance_shift"],
        "levels": 3,
        "metrics": METRICS,
        "keep_items": True,
    }
    data = (X.to(dtype), Y)
    whole = nz.probe(Net().eval().to(dtype), data, **settings)
    model = split(Net().to(dtype), way, tmp_path)
    before = {name: (id(tensor), tensor.device) for name, tensor in model.state_dict(keep_vars=True).items()}
    result = nz.probe(model, data, **settings)
    assert_same(whole, result)
    assert set(result.response.method.values) == {"full"}
    assert "its weights are loaded anew in every pass" in result.notes[0]
    after = {name: (id(tensor), tensor.device) for name, tensor in model.state_dict(keep_vars=True).items()}
    assert after == before
    assumed = {row.what: row.value for row in result.assumptions}
    assert assumed["state that a pass changes"] == "none"
    assert [layer.name for layer in nz.layers(model, data)] == [
        layer.name for layer in nz.layers(Net(), data)
    ]
    assert torch.equal(model(data[0]), Net().eval().to(dtype)(data[0]))


@pytest.mark.parametrize("way", WAYS)
def test_a_two_layer_network_whose_weights_are_elsewhere(tmp_path, way):
    whole = nz.probe(two_layer(), (X, Y), levels=5, backend="model", method="full")
    assert_same(whole, nz.probe(split(two_layer(), way, tmp_path), (X, Y), levels=5))


def test_matched_responses_are_equal(tmp_path):
    design = nz.Design(families=("shift", "scale"), targets=(0.1, 0.2), draws=1)
    whole, parts = (
        nz.probe(model, (X, Y), "middle.0", levels=2, design=design).matched
        for model in (Net().eval(), split(Net(), "dispatch", tmp_path))
    )
    for name in whole.data_vars:
        if whole[name].dtype.kind == "f":
            np.testing.assert_array_equal(whole[name].values, parts[name].values, err_msg=name)


@pytest.mark.parametrize("way", WAYS)
def test_a_split_language_model(tmp_path, packages, way):
    from language_models import tiny

    ids = torch.randint(2, 97, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    data = [{"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}]
    whole = tiny("llama")
    parts = accelerate.dispatch_model if way == "dispatch" else None
    model = tiny("llama")
    if parts is None:
        model = split(model, way, tmp_path)
    else:
        places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
        places |= {"model.norm": "disk", "model.rotary_emb": "cpu", "lm_head": "disk"}
        model = parts(model, places, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    layers = ["model.layers.0.mlp.act_fn", "model.layers.1.self_attn.o_proj"]
    settings = {"families": ["shift", "clip"], "levels": 2, "metrics": ["cross_entropy", "agreement"]}
    assert_same(nz.probe(whole, data, layers, **settings), nz.probe(model, data, layers, **settings))
    generated = [
        nz.generate(each, layers[0], nz.Perturbation(offset=1.0), [5, 9, 23], max_new_tokens=3)
        for each in (whole, model)
    ]
    assert generated[0].perturbed_ids == generated[1].perturbed_ids
    assert generated[0].unperturbed_ids == generated[1].unperturbed_ids


@pytest.mark.parametrize("way", ["cpu_offload", "disk_offload"])
def test_a_head_that_shares_the_weights_of_the_embedding(tmp_path, packages, way):
    from language_models import tiny

    ids = torch.randint(2, 97, (3, 7), generator=torch.Generator().manual_seed(1))
    data = [{"input_ids": ids, "labels": ids}]
    whole, parts = tiny("gpt2"), split(tiny("gpt2"), way, tmp_path)
    assert whole.lm_head.weight is whole.transformer.wte.weight
    layers = ["transformer.h.1.mlp.act", "transformer.h.0.mlp.c_proj:input", "lm_head"]
    settings = {"families": ["scale", "clip"], "levels": 2, "metrics": ["perplexity", "agreement"]}
    assert_same(nz.probe(whole, data, layers, **settings), nz.probe(parts, data, layers, **settings))


class Stored(Mapping):
    """Weights that are made anew whenever they are asked for, which counts how many are held at a time."""

    def __init__(self, weights: dict[str, torch.Tensor], held: list) -> None:
        self.weights, self.held, self.most = weights, held, 0

    def __getitem__(self, name: str) -> torch.Tensor:
        weight = self.weights[name].clone()
        self.held.append(weakref.ref(weight.untyped_storage()))
        return weight

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def test_no_more_weights_are_held_than_the_hooks_load():
    torch.manual_seed(0)
    model = nn.Sequential(*(part for _ in range(6) for part in (nn.Linear(6, 6), nn.GELU()))).eval()
    model = accelerate.cpu_offload(model)
    held: list = []
    for part in model[::2]:
        weights = {name: part._hf_hook.weights_map[name] for name in ("weight", "bias")}
        part._hf_hook.weights_map = Stored(weights, held)
    most = 0

    def count(*_) -> None:
        nonlocal most
        most = max(most, sum(reference() is not None for reference in held))

    for part in model[1::2]:
        part.register_forward_pre_hook(count)
    nz.layers(model, [X])
    assert len(held) > 2 * 6
    assert most <= 2


def test_where_inputs_go(tmp_path):
    assert input_device(Net()) == torch.device("cpu")
    assert not is_offloaded(Net())
    model = split(Net(), "disk_offload", tmp_path)
    assert input_device(model) == torch.device("cpu")
    assert is_offloaded(model)
    assert all(tensor.device.type == "meta" for tensor in model.parameters())


def test_the_suffix_alone_is_refused(tmp_path):
    model = split(Net(), "cpu_offload", tmp_path)
    with pytest.raises(nz.InputError, match="its weights are loaded anew in every pass; use method='auto'"):
        nz.probe(model, (X, Y), "middle.0", levels=2, method="suffix")


def test_weights_on_meta_that_no_hook_loads(tmp_path):
    model = split(Net(), "cpu_offload", tmp_path)
    model.extra = nn.Linear(3, 3, device="meta")
    with pytest.raises(nz.InputError, match="weights on the meta device, without values"):
        nz.probe(model, (X, Y))
