"""The perplexity of language models, against a loop over tokens and the model's own loss."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from language_models import tiny

import nearzero as nz

LENGTHS = (9, 4, 7, 2, 9)


def batches(side: str = "right", copied: bool = True) -> list[dict[str, torch.Tensor]]:
    """Return batches of texts of several lengths, of which the batches have unequal numbers of tokens."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for lengths in (LENGTHS[:2], LENGTHS[2:]):
        ids = torch.zeros(len(lengths), 9, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, length in enumerate(lengths):
            part = slice(0, length) if side == "right" else slice(9 - length, 9)
            ids[row, part] = torch.randint(2, 97, (length,), generator=generator)
            mask[row, part] = 1
        labels = ids.masked_fill(mask == 0, -100)
        made.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return made


def losses_by_hand(model, data, layer=None, change=None) -> list[list[float]]:
    """Return the loss of each token of each text, in float64, with a plain hook."""
    handle = None
    if layer is not None:
        handle = model.get_submodule(layer).register_forward_pre_hook(lambda _, args: (change(args[0]),))
    texts = []
    for batch in data:
        with torch.no_grad():
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            logits = model(**inputs).logits.double()
        for row, labels, mask in zip(logits, batch["labels"], batch["attention_mask"], strict=True):
            known = [place for place in range(1, len(labels)) if mask[place] and mask[place - 1]]
            texts.append([-float(row[place - 1].log_softmax(-1)[labels[place]]) for place in known])
    if handle is not None:
        handle.remove()
    return texts


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_it_is_exp_of_the_mean_loss_over_all_tokens(packages, kind, side):
    model, data = tiny(kind), batches(side)
    if side == "left" and kind == "gpt2":  # else it counts the padding among the positions
        for batch in data:
            batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    layer = "transformer.h.0.mlp.act" if kind == "gpt2" else "model.layers.0.mlp.act_fn"
    result = nz.probe(
        model, data, layer, families=nz.Perturbation(scale=30.0), metrics=["perplexity", "cross_entropy"]
    ).response
    plain = [loss for text in losses_by_hand(model, data) for loss in text]
    changed = [loss for text in losses_by_hand(model, data, layer, lambda z: 30 * z) for loss in text]
    assert result.attrs["items"] == len(plain) == sum(length - 1 for length in LENGTHS)
    assert result.unperturbed_perplexity.item() == pytest.approx(math.exp(np.mean(plain)), rel=1e-5)
    assert result.perplexity.item() == pytest.approx(math.exp(np.mean(changed)), rel=1e-5)
    assert result.cross_entropy.item() == pytest.approx(np.mean(changed), rel=1e-5)
    assert result.attrs["metrics"] == ["perplexity", "cross_entropy"]


def test_padding_on_the_left_without_positions(packages):
    """Each text alone, without padding, has other positions in GPT-2; and the same in a model of relative ones."""
    with pytest.raises(nz.InputError, match="texts are padded on the left, and the model counts the padding"):
        nz.probe(tiny("gpt2"), batches("left"), "lm_head", families="scale", levels=[1.0])
    for kind in ("gpt2", "llama"):
        model, data = tiny(kind), batches("left")
        for batch in data:
            if kind == "gpt2":
                batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        alone = []
        for batch in data:
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
                text = ids[mask == 1][None]
                with torch.no_grad():
                    logits = model(text).logits[0, :-1]
                alone += F.cross_entropy(logits, text[0, 1:], reduction="none").tolist()
        result = nz.probe(model, data, "lm_head", families="scale", levels=[1.0], metrics="cross_entropy")
        assert result.response.cross_entropy.item() == pytest.approx(np.mean(alone), rel=1e-5)


def test_it_is_exp_of_the_model_s_own_loss(packages):
    model, data = tiny("llama"), batches()
    with torch.no_grad():
        sums = [(float(model(**batch).loss), int((batch["labels"][:, 1:] != -100).sum())) for batch in data]
    mean = sum(loss * count for loss, count in sums) / sum(count for _, count in sums)
    result = nz.probe(model, data, "lm_head", families="scale", levels=[1.0], metrics="perplexity")
    assert result.response.perplexity.item() == pytest.approx(math.exp(mean), rel=1e-5)
    unweighted = math.exp(np.mean([loss for loss, _ in sums]))
    assert (
        abs(result.response.perplexity.item() - unweighted) > 1e-4
    )  # the two batches have unequal numbers of tokens


def test_intervals_are_those_of_the_loss(packages):
    model, data = tiny("gpt2"), batches()
    result = nz.probe(
        model, data, "lm_head", families="scale", levels=[0.5, 1.0], metrics="perplexity", keep_items=True
    )
    assert result.response.attrs["metrics"] == ["perplexity", "cross_entropy"]
    assert "perplexity_items" not in result.response
    own, loss = result.intervals("perplexity"), result.intervals("cross_entropy")
    np.testing.assert_allclose(own.low.values, np.exp(loss.low.values))
    np.testing.assert_allclose(own.high.values, np.exp(loss.high.values))
    assert (own.low.values <= result.response.perplexity.values).all()
    np.testing.assert_allclose(
        result.by_class("perplexity").values, np.exp(result.by_class("cross_entropy").values)
    )
    assert re.search(r"unperturbed: perplexity \d+\.\d+, cross entropy", result.headline)
    assert "perplexity" in result._repr_html_()
    assert "cross entropy" in result.to_html()


def test_a_name_of_its_own_and_a_file(packages, tmp_path):
    model, data = tiny("gpt2"), batches()
    names = {"ppl": "perplexity", "loss": "cross_entropy"}
    result = nz.probe(model, data, "lm_head", families="scale", levels=[0.5], metrics=names, keep_items=True)
    again = nz.ProbeResult.open(result.save(tmp_path / "saved"))
    assert again.response.attrs["metrics"] == ["ppl", "loss"]
    assert again.response.ppl.item() == pytest.approx(math.exp(again.response.loss.item()))
    np.testing.assert_array_equal(again.intervals("ppl").low.values, result.intervals("ppl").low.values)


def test_what_is_refused(packages):
    model, data = tiny("gpt2"), batches()
    with pytest.raises(nz.InputError, match="is the name of another metric here"):
        nz.probe(
            model, data, metrics={"perplexity": "perplexity", "cross_entropy": lambda logits, y: logits.sum()}
        )
    with pytest.raises(nz.InputError, match="did you mean 'perplexity'"):
        nz.probe(model, data, metrics="perplexty")
    unlabelled = [{name: batch[name] for name in ("input_ids", "attention_mask")} for batch in data]
    with pytest.raises(nz.InputError, match="needs targets"):
        nz.probe(model, unlabelled, metrics="perplexity")


def test_a_network_of_the_two_layer_backend():
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape).astype(np.float32) for shape in ((4, 3), (4,), (3, 4), (3,))]
    model = nz.TwoLayer(*weights, "relu").to_module()
    x, y = rng.normal(size=(20, 3)).astype(np.float32), rng.integers(0, 3, 20)
    result = nz.probe(
        model, (x, y), families="clip", levels=[0.5], metrics=["accuracy", "perplexity"]
    ).response
    with torch.no_grad():
        loss = F.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y))
    assert result.unperturbed_perplexity.item() == pytest.approx(math.exp(loss), rel=1e-5)
    assert result.attrs["metrics"] == ["accuracy", "perplexity", "cross_entropy"]
    assert json.loads(result.attrs["assumptions"])
