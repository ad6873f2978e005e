"""Places in language models by name: a gate's pre-activation, its product, and attention; against plain hooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from language_models import tiny
from torch import nn

import nearzero as nz

IDS = torch.randint(2, 97, (3, 7), generator=torch.Generator().manual_seed(1))
GATED = (
    "model.layers.0.mlp.act_fn",
    "model.layers.1.mlp.gate_proj",
    "model.layers.0.mlp.down_proj:input",
    "model.layers.0.self_attn.o_proj:input",
    "model.layers.1.self_attn[0]",
)
PLACES = {
    "llama": GATED,
    "mistral": GATED,
    "qwen2": GATED,
    "gemma": GATED,
    "phi3": (
        "model.layers.0.mlp.activation_fn",
        "model.layers.0.mlp.gate_up_proj",
        "model.layers.1.mlp.down_proj:input",
    ),
    "gpt2": (
        "transformer.h.0.mlp.act",
        "transformer.h.0.mlp.c_proj:input",
        "transformer.h.1.attn.c_proj:input",
    ),
    "gpt_neox": ("gpt_neox.layers.0.mlp.act", "gpt_neox.layers.0.attention.dense:input"),
    "bert": (
        "bert.encoder.layer.0.intermediate.intermediate_act_fn",
        "bert.encoder.layer.0.output.dense:input",
        "bert.encoder.layer.1.attention.output.dense:input",
    ),
}
CHANGE = nz.Perturbation(scale=1.7, offset=0.3, clip=2.0)


def changed(x: torch.Tensor) -> torch.Tensor:
    """Return the perturbed values, computed in float32 and rounded once."""
    y = x.float() * np.float32(1.7) + np.float32(0.3)
    return y.clamp(max=2.0).to(x.dtype)


def by_hook(model: nn.Module, name: str) -> torch.Tensor:
    """Return the logits of one pass with a plain hook."""
    path = name.split(":")[0].split("[")[0]
    module = model.get_submodule(path)
    if name.endswith("[0]"):
        handle = module.register_forward_hook(lambda _, args, output: (changed(output[0]), *output[1:]))
    elif ":" in name or "act" in path.split(".")[-1]:
        handle = module.register_forward_pre_hook(lambda _, args: (changed(args[0]), *args[1:]))
    else:
        handle = module.register_forward_hook(lambda _, args, output: changed(output))
    with torch.no_grad():
        output = model(IDS)
    handle.remove()
    return getattr(output, "logits", output)


def total(logits: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
    return logits.float().abs().sum(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", PLACES)
def test_each_place_is_that_of_a_hook(packages, kind, dtype):
    model = tiny(kind).to(dtype)
    listed = {layer.name: layer for layer in nz.layers(model, [IDS], outputs=True)}
    assert set(PLACES[kind]) <= set(listed)
    result = nz.probe(
        model, [IDS], PLACES[kind], families=CHANGE, metrics=total, keep_items=True, causal=False
    ).response
    for name in PLACES[kind]:
        expected = total(by_hook(model, name), None).flatten().numpy()
        np.testing.assert_array_equal(
            result.total_items.sel(layer=name).values.ravel(), expected, err_msg=name
        )
    assert all(layer.kind != "input" for layer in nz.layers(model, [IDS]))


def test_what_the_places_are(packages):
    listed = {layer.name: layer for layer in nz.layers(tiny("llama"), [IDS], outputs=True)}
    gate, product, heads, attention = (listed[name] for name in (*GATED[:1], *GATED[2:]))
    assert (gate.kind, gate.activation, gate.units) == ("activation", "silu", 48)
    assert (product.kind, product.activation, product.units) == ("input", None, 48)
    assert (heads.kind, heads.units) == ("input", 32)
    assert (attention.kind, attention.units) == ("output", 32)


def test_ranges_of_an_input_are_those_of_its_values(packages):
    model, name = tiny("llama"), "model.layers.0.mlp.down_proj:input"
    seen = []
    module = model.get_submodule(name.split(":")[0])
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(IDS)
    handle.remove()
    result = nz.probe(model, [IDS], name, families="clip", levels=[0.5], causal=False).response
    low, high = seen[0].flatten(0, 1).aminmax(dim=0)
    np.testing.assert_array_equal(result.unit_minimum.values[0], low.double().numpy())
    np.testing.assert_array_equal(result.unit_maximum.values[0], high.double().numpy())


class Functional(nn.Module):
    """A gated block that calls its activation as a function, on half of one projection."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fused, self.embed = fused, nn.Embedding(97, 8)
        self.gate_up, self.down = nn.Linear(8, 24), nn.Linear(12, 97)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(self.embed(ids)).chunk(2, -1)
        return self.down(F.glu(torch.cat([up, gate], -1)) if self.fused else F.silu(gate) * up)


def test_a_functional_gate_is_a_layer_of_its_own():
    model = Functional(fused=False)
    listed = {layer.name: layer for layer in nz.layers(model, [IDS], outputs=True)}
    assert (listed[":silu"].kind, listed[":silu"].units) == ("function", 12)
    result = nz.probe(model, [IDS], [":silu", "down:input"], families=CHANGE, metrics=total, keep_items=True)
    with torch.no_grad():
        gate, up = model.gate_up(model.embed(IDS)).chunk(2, -1)
        expected = [model.down(F.silu(changed(gate)) * up), model.down(changed(F.silu(gate) * up))]
    for values, logits in zip(result.response.total_items.values, expected, strict=True):
        np.testing.assert_array_equal(values.ravel(), total(logits, None).flatten().numpy())


def test_glu_in_one_function_is_probed_by_its_units():
    model = Functional(fused=True)
    assert [layer.name for layer in nz.layers(model, [IDS])] == ["gate_up", "down"]
    result = nz.probe(
        model, [IDS], "gate_up", families=CHANGE, metrics=total, keep_items=True, units=range(12)
    ).response
    with torch.no_grad():
        gate, up = model.gate_up(model.embed(IDS)).chunk(2, -1)
        expected = model.down(F.glu(torch.cat([up, changed(gate)], -1)))
    np.testing.assert_array_equal(result.total_items.values.ravel(), total(expected, None).flatten().numpy())
