"""Masks and targets: masked tokens are in no range and no metric, and each token keeps its position."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nearzero as nz

VOCABULARY, WIDTH, TOKENS, CLASSES = 11, 8, 6, 4
LEVELS = {"offset": [-0.4, 0.3], "scale": [0.5, 2.0], "clip": [0.4]}


class Attention(nn.Module):
    """One block that attends to unmasked tokens, with logits for each token, or for each text."""

    def __init__(self, pooled=False, outputs=CLASSES):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.first, self.act = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, 12), nn.GELU()
        self.second, self.pooler, self.last = (
            nn.Linear(12, WIDTH),
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, outputs),
        )
        self.pooled = pooled

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        known = torch.ones(input_ids.shape) if attention_mask is None else attention_mask
        weights = (x @ x.transpose(1, 2)).masked_fill(known[:, None] == 0, -torch.inf).softmax(-1)
        x = x + weights @ x
        x = x + self.second(self.act(self.first(x)))
        if self.pooled:
            x = torch.tanh(self.pooler((x * known[..., None]).sum(1) / known.sum(1, keepdim=True)))
        return {"logits": self.last(x)}


def tokens(seed=1, count=9):
    """Return texts, and a mask of their tokens that aren't padding."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, TOKENS + 1, (count,), generator=random)
    mask = torch.arange(TOKENS)[None] < lengths[:, None]
    return torch.randint(VOCABULARY, (count, TOKENS), generator=random), mask


def batches(ids, mask, labels=None, size=4):
    """Return batches as a tokenizer gives them."""
    named = {"input_ids": ids, "attention_mask": mask.long()} | ({} if labels is None else {"labels": labels})
    return [
        {name: each[first : first + size] for name, each in named.items()}
        for first in range(0, len(ids), size)
    ]


def assert_equal(one: nz.ProbeResult, other: nz.ProbeResult) -> None:
    for name in one.response.data_vars:
        np.testing.assert_array_equal(one.response[name], other.response[name], err_msg=str(name))


@pytest.mark.parametrize("pooled", [False, True], ids=["tokens", "texts"])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("quantiles", [None, (0.05, 0.9)])
def test_padding_changes_no_number(pooled, labelled, quantiles):
    model, (ids, mask) = Attention(pooled), tokens()
    labels = None
    if labelled:
        labels = torch.arange(len(ids)) % CLASSES if pooled else ids % CLASSES
    options = {
        "levels": LEVELS,
        "keep_items": True,
        "quantiles": quantiles,
        "metrics": [
            "agreement",
            "kl_divergence",
            "margin",
            *(["accuracy", "cross_entropy"] if labelled else []),
        ],
    }
    other = torch.where(mask, ids, (ids + 5) % VOCABULARY)
    assert not torch.equal(other, ids)
    found = [
        nz.probe(model, batches(each, mask, labels), ["first", "act", "second"], **options)
        for each in (ids, other)
    ]
    assert_equal(*found)
    items = len(ids) if pooled else int(mask.sum())
    assert found[0].response.attrs["items"] == items
    assert found[0].response.attrs["examples"] == len(ids)
    if not labelled:
        # without a mask the padding does change numbers
        loose = [
            nz.probe(
                model, batches(each, torch.ones_like(mask)), "act", **options
            ).response.kl_divergence.values
            for each in (ids, other)
        ]
        assert not np.array_equal(*loose, equal_nan=True)


def test_padded_texts_give_the_same_as_texts_without_padding():
    model, (ids, mask) = Attention(), tokens()
    labels = ids % CLASSES
    short = [
        {"input_ids": ids[row : row + 1, :length], "labels": labels[row : row + 1, :length]}
        for row, length in enumerate(mask.sum(1).tolist())
    ]
    options = {"levels": LEVELS, "keep_items": True, "metrics": ["accuracy", "cross_entropy", "agreement"]}
    padded = nz.probe(model, batches(ids, mask, labels), "act", **options).response
    alone = nz.probe(model, short, "act", **options).response
    for name in ("accuracy_items", "agreement_items", "cross_entropy_items"):
        np.testing.assert_allclose(padded[name], alone[name], atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(padded.sequence, alone.sequence)
    np.testing.assert_array_equal(padded.token, alone.token)


def test_ranges_by_hand():
    """The ranges that levels refer to are those of the tokens that count."""
    model, (ids, mask) = Attention(), tokens()
    seen = []
    handle = model.act.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(ids, mask.long())
    handle.remove()
    z = seen[0][mask].double()
    low, high = z.amin(0), z.amax(0)
    found = nz.probe(
        model,
        batches(ids, mask, size=9),
        "act",
        families="offset",
        levels=[0.3],
        keep_items=True,
        metrics={"first": lambda logits, target: logits[:, 0]},
    ).response
    handle = model.act.register_forward_pre_hook(lambda _, args: args[0] + (0.3 * (high - low)).float())
    with torch.no_grad():
        logits = model(ids, mask.long())["logits"]
    handle.remove()
    np.testing.assert_allclose(found.first_items[0, 0, 0], logits[mask][:, 0], atol=1e-6)


def test_each_token_keeps_its_sequence_and_position():
    model, (ids, mask) = Attention(), tokens()
    labels = torch.where(
        torch.rand(ids.shape, generator=torch.Generator().manual_seed(3)) < 0.3, -100, ids % CLASSES
    )
    found = nz.probe(
        model,
        batches(ids, mask, labels),
        "act",
        levels=1,
        keep_items=True,
        metrics={"label": lambda logits, target: target, "accuracy": "accuracy"},
    )
    counted = mask & (labels != -100)
    position = counted.nonzero().numpy()
    response = found.response
    np.testing.assert_array_equal(response.sequence, position[:, 0])
    np.testing.assert_array_equal(response.token, position[:, 1])
    kept = response.label_items.values
    np.testing.assert_array_equal(kept[np.isfinite(kept).all(-1)][0], labels[counted])
    logits = model(ids, mask.long())["logits"][counted]
    expected = (logits.argmax(-1) == labels[counted]).double().mean()
    assert float(response.unperturbed_accuracy) == pytest.approx(float(expected), abs=0)


def test_a_causal_model_is_scored_on_the_next_token():
    model, (ids, mask) = Attention(outputs=VOCABULARY), tokens()
    labels = ids.masked_fill(~mask, -100)
    response = nz.probe(
        model, batches(ids, mask, labels), "act", levels=1, causal=True, metrics=["accuracy", "cross_entropy"]
    ).response
    with torch.no_grad():
        logits = model(ids, mask.long())["logits"]
    counted = mask[:, :-1] & mask[:, 1:]
    predicting, target = logits[:, :-1][counted], ids[:, 1:][counted]
    assert response.attrs["items"] == int(counted.sum())
    assert float(response.unperturbed_accuracy) == float((predicting.argmax(-1) == target).double().mean())
    loss = F.cross_entropy(predicting.double(), target)
    np.testing.assert_allclose(response.unperturbed_cross_entropy, loss, rtol=1e-6)


def test_without_labels_agreement_and_divergence_by_hand():
    model, (ids, mask) = Attention(pooled=True), tokens()
    response = nz.probe(model, batches(ids, mask, size=9), "act", families="scale", levels=[0.2]).response
    assert response.attrs["metrics"] == ["agreement", "kl_divergence"]
    with torch.no_grad():
        before = model(ids, mask.long())["logits"].double()
        handle = model.act.register_forward_pre_hook(lambda _, args: 0.2 * args[0])
        after = model(ids, mask.long())["logits"].double()
        handle.remove()
    assert response.agreement.item() == float((before.argmax(1) == after.argmax(1)).double().mean())
    divergence = (before.softmax(1) * (before.log_softmax(1) - after.log_softmax(1))).sum(1).mean()
    np.testing.assert_allclose(response.kl_divergence.item(), divergence, rtol=1e-4)
    assert response.unperturbed_agreement == 1
    np.testing.assert_allclose(response.unperturbed_kl_divergence, 0, atol=1e-9)


class TextAndImage(nn.Module):
    """A mask over tokens, and a layer of pixels that it doesn't apply to."""

    def __init__(self):
        super().__init__()
        self.text = Attention(pooled=True)
        self.vision, self.act, self.last = nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, CLASSES)

    def forward(self, input_ids, attention_mask, pixels):
        return self.text(input_ids, attention_mask)["logits"] + self.last(self.act(self.vision(pixels))).mean(
            1
        )


def test_a_mask_of_tokens_doesnt_apply_to_layers_of_other_inputs():
    torch.manual_seed(0)
    (ids, mask), pixels = tokens(), torch.randn(9, TOKENS - 1, 4)
    model = TextAndImage()
    batch = {"input_ids": ids, "attention_mask": mask.long(), "pixels": pixels}
    found = nz.probe(model, [batch], ["vision", "act", "text.act"], levels=LEVELS, keep_items=True).response
    with torch.no_grad():
        z = model.vision(pixels)
    # all pixels count, although some tokens don't: the threshold of clip 1.0 is the maximum over all pixels
    response = nz.probe(model, [batch], "act", families="clip", levels=[1.0]).response
    assert response.kl_divergence.item() == 0
    assert response.dead_units.item() == int((z.amax((0, 1)) <= 0).sum())
    assert np.isfinite(found.kl_divergence_items.sel(layer="text.act", family="clip", level=0.4)).all()


class TwoSided(nn.Module):
    """An encoder and a decoder with different tokens; the decoder's keys are made from the encoder's tokens."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.read, self.act = nn.Linear(WIDTH, WIDTH), nn.ReLU()
        self.decoder = nn.ModuleDict({"key": nn.Linear(WIDTH, WIDTH), "hidden": nn.Linear(WIDTH, WIDTH)})
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids, attention_mask, decoder_input_ids, decoder_attention_mask=None):
        x = self.act(self.read(self.embed(input_ids)))
        y = self.embed(decoder_input_ids)
        keys = self.decoder.key(x)
        weights = (y @ keys.transpose(1, 2)).masked_fill(attention_mask[:, None] == 0, -torch.inf).softmax(-1)
        return {"logits": self.last(F.gelu(self.decoder.hidden(y + weights @ keys)))}


@pytest.mark.parametrize("decoded", [4, TOKENS], ids=["other length", "same length"])
def test_an_encoder_and_a_decoder_have_separate_masks(decoded):
    model, (ids, mask), (target, known) = TwoSided(), tokens(), tokens(seed=2)
    target, known = target[:, :decoded], known[:, :decoded]
    labels = (target % CLASSES).masked_fill(~known, -100)

    def probed(source, decoder):
        batch = {
            "input_ids": source,
            "attention_mask": mask.long(),
            "decoder_input_ids": decoder,
            "decoder_attention_mask": known.long(),
            "labels": labels,
        }
        return nz.probe(
            model,
            [batch],
            ["read", "act", "decoder.*", ":gelu", "last"],
            levels=LEVELS,
            keep_items=True,
            metrics=["accuracy", "cross_entropy"],
        )

    found = probed(ids, target)
    assert found.response.attrs["items"] == int(known.sum())
    assert_equal(found, probed(torch.where(mask, ids, 7 - ids % 7), target))
    assert_equal(found, probed(ids, torch.where(known, target, 7 - target % 7)))


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (
            lambda ids: ids[:, :3],
            {},
            r"targets \(2, 3\) don't fit logits \(2, 6, 4\); prepare=... and output=... can",
        ),
        (lambda ids: ids, {}, r"targets must be classes from 0 to 3, as the logits have them \(or -100,"),
        (lambda ids: ids * 0 - 1, {}, "got values from -1 to -1"),
        (
            lambda ids: ids * 1.0,
            {},
            r"metric 'accuracy' needs whole numbers as targets, the classes; got float32",
        ),
        (
            lambda ids: None,
            {"metrics": "accuracy"},
            "metric 'accuracy' needs targets, and the batches have none; give",
        ),
        (
            lambda ids: ids * 0 - 100,
            {},
            "layer .* needs at least one example or token that counts, for its ranges; the mask leaves none",
        ),
    ],
)
def test_impossible_targets(labels, options, message):
    ids, mask = tokens()
    with pytest.raises(nz.InputError, match=message):
        nz.probe(Attention(), batches(ids, mask, labels(ids), size=2), "act", levels=2, **options)


def test_masks_that_dont_fit():
    model, (ids, mask) = Attention(), tokens()
    with pytest.raises(nz.InputError, match="the mask leaves none"):
        nz.probe(
            Attention(pooled=True), [(ids, None)], "first", prepare=lambda item: (item[0], None, mask & False)
        )
    with pytest.raises(
        nz.InputError, match=r"layer 'act' has values \(9, 6, 12\), which the mask \(9, 5\) doesn't fit"
    ):
        nz.probe(model, [ids], "act", prepare=lambda item: (item, None, mask[:, :5]))
    with pytest.raises(
        nz.InputError, match=r"causal=True needs logits \(batch, tokens, classes\); got \(9, 4\)"
    ):
        nz.probe(Attention(pooled=True), [ids], "act", causal=True)
    pooled = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(nz.InputError, match=r"layer '2' has values .* doesn't fit"):
        nz.probe(pooled, [torch.randn(9, 4)], "2", prepare=lambda item: (item, None, torch.eye(8, 3).bool()))
