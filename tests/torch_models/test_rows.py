"""Rows of a layer: which example each belongs to, and which of them count in the ranges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import nearzero as nz

KEPT, EXAMPLES, PARTS = 10, 20, 6
X = torch.randn(EXAMPLES, PARTS, 8, generator=torch.Generator().manual_seed(1))
X[KEPT:] *= 5
Y = torch.arange(EXAMPLES) % 3


class Parts(nn.Module):
    """The mean over the parts of an example, whose rows are those of the examples, or folded into them.

    Args:
        order: the rows (B, P), (B * P,) or (P * B,).
    """

    def __init__(self, order):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.head = nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3)
        self.order = order

    def forward(self, x):
        count = len(x)
        if self.order == "B P":
            return self.head(self.act(self.first(x))).mean(1)
        if self.order == "B*P":
            return self.head(self.act(self.first(x.flatten(0, 1)))).view(count, -1, 3).mean(1)
        return self.head(self.act(self.first(x.transpose(0, 1).flatten(0, 1)))).view(-1, count, 3).mean(0)


def forms(order):
    """Return the settings that leave out the last examples: by targets of -100, and by a mask."""
    ignored = Y.masked_fill(torch.arange(EXAMPLES) >= KEPT, -100)
    return [
        {"data": [(X, ignored)]},
        {"data": [(X[:4], Y[:4]), (X[4:], ignored[4:])]},
        {"data": [(X, ignored)], "prepare": lambda batch: (batch[0], batch[1].clamp(min=0), batch[1] >= 0)},
    ]


@pytest.mark.parametrize("order", ["B P", "B*P"])
def test_rows_of_ignored_examples_are_in_no_range(order):
    model = Parts(order)
    with torch.no_grad():
        z = model.first(X[:KEPT]).flatten(0, 1)
    for settings in forms(order):
        response = nz.probe(model, layers="act", families="shift", levels=[0.3], **settings).response
        assert response.rows.item() == KEPT * PARTS
        np.testing.assert_allclose(response.unit_minimum.values[0], z.amin(0), rtol=1e-5)
        np.testing.assert_allclose(response.unit_maximum.values[0], z.amax(0), rtol=1e-5)


def test_rows_in_another_order_than_that_of_the_examples_are_refused():
    for settings in forms("P*B"):
        with pytest.raises(
            nz.InputError, match=r"mask .*\(\d+,\) doesn't fit \(its values aren't in the order of"
        ):
            nz.probe(Parts("P*B"), layers="act", levels=1, **settings)


class Capacity(nn.Module):
    """Two experts, each with a buffer for a fixed number of examples; the rest of it is zeros."""

    def __init__(self, followed):
        super().__init__()
        torch.manual_seed(0)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3)) for _ in range(2)
        )
        self.followed = followed

    def forward(self, x):
        chosen, out = (x[:, 0] > 0).long(), x.new_zeros(len(x), 3)
        for number, expert in enumerate(self.experts):
            own = chosen == number
            if self.followed:
                out[own] = expert(x[own])
            else:
                rows = own.nonzero()[:, 0]
                buffer = x.new_zeros(EXAMPLES, 8)
                buffer[: len(rows)] = x[rows]
                out[rows] = expert(buffer)[: len(rows)]
        return out


def test_rows_that_may_be_padding_are_noted():
    for followed in (False, True):
        result = nz.probe(Capacity(followed), X[:, 0], levels=1)
        about = [row for row in result.assumptions if row.what.startswith("rows of layer")]
        notes = [note for note in result.notes if "padding" in note]
        assert len(about) == len(notes) == (0 if followed else 2)
        assert all(row.argument == "layers=" for row in about)
    result = nz.probe(Capacity(followed=False), X[:, 0], levels=1)
    assert result.response.rows.values.tolist() == [EXAMPLES, EXAMPLES]
    assert result.notes[0] == (
        "experts.0.1: all count in its ranges, those of padding too, since it isn't known which of its values belong "
        "to which example"
    )


# --- numbers of tokens in place of a mask ---


class Lengths(nn.Module):
    """Logits of texts, (B, S) or (S, B), from the mean over the tokens within their lengths, or over all.

    The second argument has the name of lengths; a subclass gives it another one.
    """

    def __init__(self, first=True, followed=True):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.first, self.act = nn.Embedding(20, 8), nn.Linear(8, 16), nn.GELU()
        self.head, self.examples_first, self.followed = nn.Linear(16, 3), first, followed
        self.embed.weight.data[0] *= 20

    def forward(self, ids, lengths):
        ids = ids if self.examples_first else ids.t()
        weights = (torch.arange(ids.shape[1]) < lengths[:, None]).float()[..., None]
        h = self.act(self.first(self.embed(ids)))
        h = h if self.examples_first else h.transpose(0, 1).contiguous().transpose(0, 1)
        total = (h * weights).sum(1) if self.followed else h.sum(1)
        return self.head(total / lengths[:, None])


class Named(Lengths):
    def forward(self, ids, src_len):
        return super().forward(ids, src_len)


class Steps(Lengths):
    def forward(self, ids, steps):
        return super().forward(ids, steps)


LENGTHS = torch.randint(2, 6, (EXAMPLES,), generator=torch.Generator().manual_seed(2))
WITHIN = torch.arange(8) < LENGTHS[:, None]
IDS = torch.randint(1, 20, (EXAMPLES, 8), generator=torch.Generator().manual_seed(3)) * WITHIN


def mask_row(result):
    (row,) = [row for row in result.assumptions if row.what == "mask"]
    assert row.argument == "prepare="
    return row


@pytest.mark.parametrize("first", [True, False], ids=["examples first", "tokens first"])
@pytest.mark.parametrize("kind", [Lengths, Named])
def test_tokens_beyond_the_length_of_their_example_are_in_no_range(kind, first):
    model = kind(first)
    inputs = (IDS if first else IDS.t(), LENGTHS)
    result = nz.probe(model, [(inputs, Y)], "act", families="shift", levels=[0.1])
    with torch.no_grad():
        z = model.first(model.embed(IDS))[WITHIN]
    assert result.response.rows.item() == int(LENGTHS.sum())
    np.testing.assert_allclose(result.response.unit_minimum.values[0], z.amin(0), rtol=1e-5)
    np.testing.assert_allclose(result.response.unit_maximum.values[0], z.amax(0), rtol=1e-5)
    assert mask_row(result).value.endswith("the number of tokens that count")
    assert mask_row(result).source == "what is beyond it moves no logits"


@pytest.mark.parametrize(
    ("model", "lengths", "settings", "source"),
    [
        (Lengths(followed=False), LENGTHS, {}, "what is beyond it moves logits"),
        (Lengths(), torch.full((EXAMPLES,), 8), {}, "no token is beyond it"),
        (Lengths(), LENGTHS + 40, {}, "it isn't a number of tokens"),
        (Lengths(), LENGTHS, {"prepare": lambda batch: (*batch, None)}, "prepare= gives none"),
        (Steps(), LENGTHS, {}, "no input has the name of one"),
    ],
    ids=["not followed", "all count", "beyond the tokens", "prepared", "another name"],
)
def test_what_isnt_read_as_lengths_is_told(model, lengths, settings, source):
    result = nz.probe(model, [((IDS, lengths), Y)], "act", levels=1, **settings)
    assert result.response.rows.item() == IDS.numel()
    assert mask_row(result).value.startswith("none")
    assert ("isn't read as a mask" in mask_row(result).value) == (not isinstance(model, Steps))
    assert mask_row(result).source.startswith(source)
