"""Masks in the forms that models take, read the right way round, along the right dimensions, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import nearzero as nz
from nearzero.torch_models.masks import MaskReader

WORDS, WIDTH = 15, 6


def tokens(examples=6, count=8, seed=0):
    """Return tokens and which of them count: those up to a random place."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, count, (examples, 1), generator=generator)
    ids = torch.randint(1, WORDS, (examples, count), generator=generator)
    return ids, torch.arange(count) < lengths


IDS, KEEP = tokens()
ADDED = torch.zeros(6, 8).masked_fill(~KEEP, -torch.inf)
CAUSAL = torch.ones(8, 8).tril().bool()
LEFT = KEEP.flip(1)


class Attention(nn.Module):
    """Attends to the keys that a mask lets through; the mask comes in a form that is turned into what is added."""

    def __init__(self, added, first=False):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.hidden, self.act = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, 9), nn.GELU()
        self.head, self.added, self.first = nn.Linear(9, 4), added, first

    def forward(self, ids, **masks):
        (mask,) = masks.values()
        x = self.embed(ids)
        scores = x @ x.transpose(1, 2) + self.added(mask)
        x = x + scores.softmax(-1).nan_to_num(0.0) @ x
        z = self.hidden(x.transpose(0, 1) if self.first else x)  # with the tokens first, or the examples
        logits = self.head(self.act(z))
        return logits.transpose(0, 1) if self.first else logits


def by_hand(model, ids, mask, keep, level=0.1):
    """Return the divergence under a shift of all units by a share of the ranges over tokens that count."""
    with torch.no_grad():
        seen = []
        handle = model.hidden.register_forward_hook(lambda *args: seen.append(args[2]))
        model(ids, mask=mask)
        handle.remove()
        z = seen[0].transpose(0, 1) if model.first else seen[0]
        width = z[keep].amax(0) - z[keep].amin(0)
        one, two = (model.head(model.act(each))[keep].log_softmax(-1) for each in (z, z + level * width))
        return (one.exp() * (one - two)).sum(-1).mean().item()


def left_out(mask):
    """Return what is added to scores for a mask that is True or 1 where a token counts."""
    return torch.zeros(mask.shape).masked_fill(mask == 0, -torch.inf)[:, None]


def ignored(mask):
    return left_out(~mask.bool())


def by_query(mask):
    return mask[:, None] & CAUSAL


FORMS = {
    "1 and 0": ("attention_mask", KEEP.long(), left_out, KEEP),
    "True and False": ("attention_mask", KEEP, left_out, KEEP),
    "1.0 and 0.0": ("attention_mask", KEEP.float(), left_out, KEEP),
    "on the left": ("attention_mask", LEFT.long(), left_out, LEFT),
    "added": ("attention_mask", ADDED, lambda mask: mask[:, None], KEEP),
    "added, finite": ("attention_mask", (~KEEP).float() * -1e4, lambda mask: mask[:, None], KEEP),
    "by key, added": ("attention_mask", ADDED[:, None, None], lambda mask: mask[:, 0], KEEP),
    "by key": ("attention_mask", KEEP[:, None, None].long(), lambda mask: left_out(mask[:, 0, 0]), KEEP),
    "by query and key": (
        "attention_mask",
        by_query(KEEP)[:, None],
        lambda mask: left_out(mask[:, 0])[:, 0],
        KEEP,
    ),
    "one of three dimensions": ("attention_mask", by_query(LEFT), lambda mask: left_out(mask)[:, 0], LEFT),
    "True where ignored": ("key_padding_mask", ~KEEP, ignored, KEEP),
    "open, 1 where it counts": ("mask", KEEP.long(), left_out, KEEP),
    "open, 1 where ignored": ("mask", (~KEEP).long(), ignored, KEEP),
}


@pytest.mark.parametrize("first", [False, True], ids=["examples first", "tokens first"])
@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read(form, first):
    name, mask, added, keep = FORMS[form]
    model = Attention(added, first)
    data = [{"ids": IDS, name: mask}]
    result = nz.probe(model, data, "act", families="shift", levels=[0.1], class_axis=2)
    assert result.response.attrs["items"] == int(keep.sum())
    assert result.response.kl_divergence.item() == pytest.approx(by_hand(model, IDS, mask, keep), rel=1e-4)
    (row,) = [row for row in result.assumptions if row.what == "mask"]
    assert row.value.startswith(name)
    assert ("0" in row.value) == ("added" in form or "ignored" in form)
    # with causal attention, what counts moves nothing of the padding before it either
    assert row.source == ("its name" if "three" in form else "what is masked moves no other logits")
    assert row.argument == "prepare="


@pytest.mark.parametrize("examples", [3, 8], ids=["B != S", "B = S"])
def test_a_layer_with_the_tokens_first_isnt_read_by_coincidence(examples):
    ids, keep = tokens(examples, 8, seed=examples)
    model = Attention(left_out, first=True)
    model.embed.weight.data[0] = 30.0  # only where nothing counts
    ids = torch.where(keep, ids, 0)
    data = [{"ids": ids, "attention_mask": keep.long()}]
    result = nz.probe(model, data, "act", families="shift", levels=[0.1], class_axis=2)
    assert result.response.kl_divergence.item() == pytest.approx(
        by_hand(model, ids, keep.long(), keep), rel=1e-4
    )


@pytest.mark.parametrize(
    ("name", "mask", "added", "message"),
    [
        (
            "attention_mask",
            (~KEEP).long(),
            ignored,
            "what the attention_mask masks changes the logits of what it",
        ),
        (
            "attention_mask",
            KEEP * 0.3,
            left_out,
            "has values from 0 to 0.3, but is to have 1 and 0, or 0 and",
        ),
        (
            "attention_mask",
            CAUSAL.triu(-1).expand(6, 8, 8),
            lambda mask: left_out(mask)[:, 0],
            "the last query",
        ),
        (
            "mask",
            KEEP.long(),
            lambda mask: 0.0 * mask[:, None],
            "may be 1 where a token counts or where it is",
        ),
    ],
)
def test_a_mask_is_refused_unless_it_is_given(name, mask, added, message):
    model, data = Attention(added), [{"ids": IDS, name: mask}]
    with pytest.raises(nz.InputError, match=rf"{message}.*prepare=\.\.\. can give the mask itself"):
        nz.probe(model, data, "act", levels=2, class_axis=2)
    given = nz.probe(model, data, "act", levels=2, class_axis=2, prepare=lambda batch: (batch, None, KEEP))
    assert given.response.attrs["items"] == int(KEEP.sum())


def test_one_reading_for_all_batches():
    masks = MaskReader()
    assert masks.read("attention_mask", torch.zeros(1, 3)).all()  # added, and all count
    masks.read("attention_mask", ADDED)
    with pytest.raises(nz.InputError, match="1 and 0 in some batches, and numbers that are added in others"):
        masks.read("attention_mask", KEEP.float())


def test_layers_without_rows_for_tokens_are_left_out_of_a_default_probe():
    class Mixed(Attention):
        """Has an activation over sorted numbers, whose rows belong to no example."""

        def forward(self, ids, attention_mask):
            values = self.embed(ids).flatten(0, 1)
            mixed = torch.tanh(values.sort(0).values).mean()
            return super().forward(ids, attention_mask=attention_mask) + mixed * 0

    data = [{"ids": IDS, "attention_mask": KEEP.long()}]
    result = nz.probe(Mixed(left_out), data, levels=2, class_axis=2)
    assert list(result.layers) == ["act"]
    (row,) = [row for row in result.assumptions if row.what == "use of layer :tanh"]
    assert (row.value, row.argument) == ("left out", "layers=")
    with pytest.raises(
        nz.InputError,
        match=r"layer ':tanh' has values .*, which the mask .* doesn't fit.* leave the layer out",
    ):
        nz.probe(Mixed(left_out), data, ":tanh", levels=2, class_axis=2)


# --- where the mask is, and which of its dimensions holds the examples ---


class ByPosition(Attention):
    """Takes a mask of which the name is known, or not."""

    def forward(self, ids, attention_mask):
        return super().forward(ids, mask=attention_mask)


class WithoutName(Attention):
    def forward(self, ids, kept):
        return super().forward(ids, mask=kept)


class PassesOn(nn.Module):
    """A wrapper that takes any arguments."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *args):
        return self.model(*args)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_mask_by_position_is_found_by_its_name(wrapped):
    model, layer = ByPosition(left_out), "act"
    expected = by_hand(Attention(left_out), IDS, KEEP, KEEP)
    model, layer = (PassesOn(model), "model.act") if wrapped else (model, layer)
    result = nz.probe(model, [((IDS, KEEP),)], layer, families="shift", levels=[0.1], class_axis=2)
    assert result.response.attrs["items"] == int(KEEP.sum())
    assert result.response.kl_divergence.item() == pytest.approx(expected, rel=1e-4)


def test_a_mask_without_the_name_of_one_is_refused():
    model, data = WithoutName(left_out), [((IDS, KEEP),)]
    with pytest.raises(nz.InputError, match=r"input 'kept' acts as a mask, .* prepare=\.\.\. can give"):
        nz.probe(model, data, "act", levels=2, class_axis=2)
    given = nz.probe(
        model, data, "act", levels=2, class_axis=2, prepare=lambda item: (item[0], None, item[0][1])
    )
    assert given.response.attrs["items"] == int(KEEP.sum())
    unread = WithoutName(lambda mask: 0.0 * mask[:, None])
    assert nz.probe(unread, data, "act", levels=2, class_axis=2).response.attrs["items"] == IDS.numel()


class TokensFirst(Attention):
    """Takes tokens (S, B), and a mask (B, S) as PyTorch's modules do, or (S, B)."""

    def __init__(self, turned, dropped=False):
        super().__init__(left_out)
        self.turned, self.dropped = turned, dropped

    def forward(self, ids, attention_mask):
        mask = attention_mask.t() if self.turned else attention_mask
        x = self.embed(ids).transpose(0, 1)
        x = x + (x @ x.transpose(1, 2) + self.added(mask)).softmax(-1) @ x
        a = self.act(self.hidden(x.transpose(0, 1)))
        a = torch.nn.functional.dropout(a, 1e-9, training=True) if self.dropped else a
        return self.head(a)


@pytest.mark.parametrize("examples", [6, 8], ids=["B != S", "B = S"])
@pytest.mark.parametrize("turned", [False, True], ids=["(B, S)", "(S, B)"])
@pytest.mark.parametrize("dropped", [False, True], ids=["cut", "whole"])
def test_a_mask_beside_tokens_that_come_first(examples, turned, dropped):
    ids, keep = tokens(examples, 8, seed=3)
    model = TokensFirst(turned, dropped)
    data = [{"ids": ids.t(), "attention_mask": (keep.t() if turned else keep).long()}]
    result = nz.probe(model, data, "act", families="shift", levels=[0.1], class_axis=2)
    assert result.response.attrs["items"] == int(keep.sum())
    expected = by_hand(Attention(left_out), ids, keep, keep)
    assert result.response.kl_divergence.item() == pytest.approx(expected, rel=1e-4)


class Causal(Attention):
    def forward(self, ids, mask):
        x = self.embed(ids)
        x = (
            x
            + (x @ x.transpose(1, 2) + self.added(mask) + left_out(CAUSAL)[:, 0]).softmax(-1).nan_to_num() @ x
        )
        return self.head(self.act(self.hidden(x)))


@pytest.mark.parametrize("keep", [KEEP, LEFT], ids=["padding last", "padding first"])
@pytest.mark.parametrize("counts", [True, False])
def test_a_causal_model_tells_the_meaning_of_a_mask_by_its_exchange(keep, counts):
    model = Causal(left_out if counts else ignored)
    result = nz.probe(model, [{"ids": IDS, "mask": keep if counts else ~keep}], "act", levels=2, class_axis=2)
    assert result.response.attrs["items"] == int(keep.sum())


class Labels(Attention):
    """Has several labels for each text, or for each token with the labels second."""

    def __init__(self, whole, labels):
        super().__init__(left_out)
        self.head, self.whole = nn.Linear(9, labels), whole

    def forward(self, ids, attention_mask):
        a = self.act(self.hidden(self.embed(ids)))
        weights = attention_mask / attention_mask.sum(1, keepdim=True)
        a = (weights[..., None] * a).sum(1) if self.whole else a
        return self.head(a) if self.whole else self.head(a).transpose(1, 2)


@pytest.mark.parametrize("labels", [4, 8], ids=["labels != S", "labels = S"])
@pytest.mark.parametrize("whole", [True, False], ids=["texts", "tokens"])
def test_labels_beside_a_mask_of_tokens(whole, labels):
    model = Labels(whole, labels)
    shape = (6, labels) if whole else (6, labels, 8)
    data = [{"ids": IDS, "attention_mask": KEEP.float(), "labels": torch.randint(2, shape)}]
    result = nz.probe(model, data, "act", levels=2, class_axis="none")
    items = 6 * labels if whole else int(KEEP.sum()) * labels
    assert result.response.attrs["items"] == items
    right = ((model(IDS, KEEP.float()) > 0) == data[0]["labels"]).double()
    counted = torch.ones(shape).bool() if whole else KEEP[:, None].expand(shape)
    assert result.response.unperturbed_accuracy.item() == pytest.approx(right[counted].mean().item())


def test_rows_of_an_expert_with_the_tokens_first_and_a_mask():
    class Routed(TokensFirst):
        def forward(self, ids, attention_mask):
            x = self.embed(ids)
            own, out = ids % 2 == 0, torch.zeros(*ids.shape, 9)
            out[own] = self.act(self.hidden(x[own]))
            mixed = out.transpose(0, 1)
            weights = (mixed @ mixed.transpose(1, 2) + self.added(attention_mask)).softmax(-1)
            return self.head((mixed + weights @ mixed).transpose(0, 1))

    model, data = Routed(False), [{"ids": IDS.t(), "attention_mask": KEEP.long()}]
    result = nz.probe(model, data, "act", families="shift", levels=[0.1], class_axis=2)
    assert result.response.rows.item() == int((KEEP & (IDS % 2 == 0)).sum())
    with torch.no_grad():
        z = model.hidden(model.embed(IDS))[KEEP & (IDS % 2 == 0)]
        width = z.amax(0) - z.amin(0)
        one = model(*data[0].values()).transpose(0, 1)[KEEP].log_softmax(-1)
        with model.act.register_forward_pre_hook(lambda _, args: args[0] + 0.1 * width):
            two = model(*data[0].values()).transpose(0, 1)[KEEP].log_softmax(-1)
    expected = (one.exp() * (one - two)).sum(-1).mean().item()
    assert result.response.kl_divergence.item() == pytest.approx(expected, rel=1e-4)


class Choices(nn.Module):
    """Logits (B, C) of texts (B, C, S), each of which is pooled over its tokens that count."""

    def __init__(self, folded):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.first, self.act = nn.Embedding(WORDS, 6), nn.Linear(6, 8), nn.GELU()
        self.pooler, self.tanh, self.head = nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)
        self.folded = folded

    def forward(self, input_ids, attention_mask):
        shape, weights = input_ids.shape, attention_mask.float()[..., None]
        if self.folded:
            input_ids, weights = input_ids.flatten(0, 1), weights.flatten(0, 1)
        h = self.act(self.first(self.embed(input_ids)))
        pooled = (h * weights).sum(-2) / weights.sum(-2)
        return self.head(self.tanh(self.pooler(pooled))).view(shape[:2])


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("shape", [(6, 2, 5), (4, 4, 4), (3, 5, 5), (5, 5, 3)], ids=str)
def test_a_mask_over_choices_and_tokens(shape, folded):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(WORDS, shape, generator=generator)
    keep = torch.arange(shape[2]) < torch.randint(1, shape[2], (*shape[:2], 1), generator=generator)
    model, target = Choices(folded), torch.arange(shape[0]) % shape[1]
    data = [{"input_ids": ids, "attention_mask": keep.long(), "labels": target}]
    result = nz.probe(model, data, families="shift", levels=[0.1], class_axis=1)
    assert list(result.layers) == ["act", "tanh"]
    assert result.response.rows.values.tolist() == [int(keep.sum()), shape[0] * shape[1]]
    with torch.no_grad():
        z = model.first(model.embed(ids))[keep]
    np.testing.assert_array_equal(result.response.unit_minimum.sel(layer="act"), z.amin(0))
    np.testing.assert_array_equal(result.response.unit_maximum.sel(layer="act"), z.amax(0))
    assert result.response.attrs["items"] == shape[0]
    (row,) = [row for row in result.assumptions if row.what == "mask"]
    assert row.source == "what is masked moves no other logits"


class Pixels(nn.Module):
    """Linear layers over the channels of each pixel; the context of a pixel is the mean over all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden, self.act, self.head = nn.Linear(channels, 6), nn.GELU(), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.act(self.hidden(x.movedim(1, -1)))
        return self.head(a + a.mean((1, 2), keepdim=True)).movedim(-1, 1)


@pytest.mark.parametrize("side", [3, 5])
def test_ignored_pixels_dont_count_in_ranges_whatever_the_sizes(side: int) -> None:
    """With as many channels as rows and columns, too: the ranges are those of the pixels that count."""
    torch.manual_seed(0)
    model = Pixels(3)
    x, y = torch.randn(7, 3, side, side), torch.randint(3, (7, side, side))
    y[:, :, 0] = -100
    x[:, :, :, 0] *= 50.0  # of no pixel that counts
    found = nz.probe(model, [(x, y)], "act", families="scale", levels=[0.5]).response
    with torch.no_grad():
        z = model.hidden(x.movedim(1, -1))[y != -100]
    assert found.unit_minimum.values[0].tolist() == pytest.approx(z.amin(0).tolist())
    assert found.unit_maximum.values[0].tolist() == pytest.approx(z.amax(0).tolist())
