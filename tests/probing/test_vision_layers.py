"""Places in Vision Transformers by name: the product of a SwiGLU's gate, and attention; against plain hooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nearzero as nz
from nearzero.torch_models.named.packages import imported

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
CHANGE = nz.Perturbation(scale=1.7, offset=0.3, clip=2.0)
PRODUCTS = {"timm": "blocks.0.mlp.fc2", "transformers": "dinov2.encoder.layer.0.mlp.down_proj"}
HEADS = {"timm": "blocks.1.attn.proj", "transformers": "dinov2.encoder.layer.1.attention.o_proj"}


def changed(values: Tensor) -> Tensor:
    return (values * np.float32(1.7) + np.float32(0.3)).clamp(max=2.0)


def total(logits: Tensor, target: Tensor | None) -> Tensor:
    return logits.abs().sum(-1)


def model_of(library: str) -> nn.Module:
    """Return a Vision Transformer of two blocks, whose MLPs are SwiGLUs."""
    torch.manual_seed(0)
    sizes = {"patch_size": 8, "num_heads": 2}
    if library == "timm":
        transformers, swiglu = imported("timm.models.vision_transformer"), imported("timm.layers").SwiGLU
        settings = {"img_size": 16, "embed_dim": 16, "depth": 2, "num_classes": 3, "act_layer": nn.SiLU}
        return transformers.VisionTransformer(**sizes, **settings, mlp_layer=swiglu).eval()
    transformers = imported("transformers")
    settings = {"image_size": 16, "hidden_size": 16, "num_hidden_layers": 2, "num_labels": 3}
    config = transformers.Dinov2Config(
        **settings, patch_size=8, num_attention_heads=2, use_swiglu_ffn=True, layerscale_value=1.0
    )
    return transformers.Dinov2ForImageClassification(config).eval()


def logits_of(model: nn.Module) -> Tensor:
    with torch.no_grad():
        output = model(IMAGES)
    return getattr(output, "logits", output)


def by_hand(model: nn.Module, name: str) -> Tensor:
    """Return the logits if what a module is given is changed: its own forward is replaced, for this pass."""
    module = model.get_submodule(name)
    module.forward = lambda values: nn.functional.linear(changed(values), module.weight, module.bias)
    try:
        return logits_of(model)
    finally:
        del module.forward


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("library", PRODUCTS)
def test_the_product_of_a_gate_and_attention_are_those_of_a_hook(library: str) -> None:
    model = model_of(library)
    names = [f"{places[library]}:input" for places in (PRODUCTS, HEADS)]
    result = nz.probe(model, IMAGES, names, families=CHANGE, metrics=total, keep_items=True).response
    plain = total(logits_of(model), None)
    for name in names:
        expected = total(by_hand(model, name.removesuffix(":input")), None)
        np.testing.assert_array_equal(result.total_items.sel(layer=name).values.ravel(), expected.numpy())
        assert not torch.equal(expected, plain)
    assert result.units.values.tolist() == [model.get_submodule(name[:-6]).in_features for name in names]
    assert result.unit_axis.values.tolist() == [2, 2]  # (images, tokens, features)


@pytest.mark.usefixtures("packages")
def test_the_product_is_that_of_gate_and_value() -> None:
    """The ranges of the product's units are those of silu(g) v, by the two projections of the block."""
    model, seen = model_of("timm"), []
    mlp = model.get_submodule("blocks.0.mlp")
    handle = mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    logits_of(model)
    handle.remove()
    with torch.no_grad():
        product = nn.functional.silu(mlp.fc1_g(seen[0])) * mlp.fc1_x(seen[0])
    result = nz.probe(model, IMAGES, "blocks.0.mlp.fc2:input", levels=2).response
    low, high = product.flatten(0, 1).aminmax(dim=0)
    np.testing.assert_array_equal(result.unit_minimum.values[0], low.double().numpy())
    np.testing.assert_array_equal(result.unit_maximum.values[0], high.double().numpy())
