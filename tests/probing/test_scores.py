"""Metrics of large logits: computed in pieces, on views where possible, with the same result as on all at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import nearzero as nz
from nearzero.evaluators import scores, session
from nearzero.evaluators.scores import METRICS, Items, Outputs
from nearzero.torch_models.batches import Batch


@pytest.mark.parametrize("classes", [3, 511, 512, 513, 767, 1000, 1024, 2049])
def test_predictions_are_the_first_greatest(classes):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(2, 9, classes, generator=generator)
    logits[1] = logits[1].round()  # many are equal
    logits[0, 0, classes // 2] = logits[0, 1, -1] = logits[0, 2, 0] = torch.nan
    logits[0, 3] = -torch.inf
    logits[0, 4] = 0.0
    logits[0, 5, -1] = logits[0, 5, 1] = 99.0
    logits[0, 6, -1] = 99.0
    expected = [[row.numpy().argmax() for row in level] for level in logits]
    assert Outputs(logits).predictions.tolist() == np.array(expected).tolist()


@pytest.mark.parametrize("masked", [False, True])
def test_rows_of_consecutive_items_are_views(masked):
    logits = torch.randn(4, 6, 5)
    mask = torch.ones(4, 6, dtype=torch.bool)
    if masked:
        mask[1, 4:] = mask[2, :2] = False
    tokens = torch.randint(0, 5, (4, 6))
    items = Items.of(Batch((tokens,), {}, tokens, mask), logits, True)
    counted = mask[:, :-1] & mask[:, 1:]
    expected = logits[:, :-1][counted]
    assert torch.equal(items.logits(logits), expected)
    flat = items.flat(logits)
    assert flat.data_ptr() == logits.data_ptr()
    first = items.rows(flat, slice(0, 5))
    assert first.data_ptr() == logits.data_ptr()
    across = items.rows(flat, slice(3, 8))
    assert torch.equal(first, expected[:5])
    assert torch.equal(across, expected[3:8])
    assert items.rows(flat, slice(2, 2)).shape == (0, 5)


class Tokens(nn.Module):
    """A language model with a context of two words."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.hidden, self.act = nn.Embedding(40, 8), nn.Linear(8, 16), nn.GELU()
        self.head = nn.Linear(16, 40)

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        return self.head(self.act(self.hidden(x + x.roll(1, 1))))


@pytest.mark.parametrize("keep_items", [False, True])
def test_pieces_of_any_size_give_one_result(monkeypatch, keep_items):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 40, (6, 7), generator=generator)
    mask = torch.ones_like(tokens)
    mask[2, 5:] = mask[4, 3:] = 0
    data = [{"input_ids": tokens, "attention_mask": mask, "labels": tokens.masked_fill(tokens < 4, -100)}]
    metrics = {**{name: name for name in METRICS}, "own": lambda logits, target: logits[:, 0] - target}

    def response(piece, kept=2**25):
        monkeypatch.setattr(scores, "PIECE", piece)
        monkeypatch.setattr(scores, "KEPT", kept)
        return nz.probe(
            Tokens(), data, metrics=metrics, levels=5, causal=True, keep_items=keep_items
        ).response

    whole = response(2**19)
    for piece, kept in ((1, 2**25), (5 * 40, 0), (13 * 40, 2**25)):
        pieces = response(piece, kept)
        for name in whole.data_vars:
            if whole[name].dtype.kind == "f":  # a single row may be summed in another order
                np.testing.assert_allclose(pieces[name], whole[name], rtol=1e-5, atol=1e-6)
        for name in ("accuracy", "agreement", "margin", "own"):
            assert pieces[name].equals(whole[name])


def test_no_change_is_no_divergence():
    logits = torch.randn(1, 4, 600)
    logits[0, 0, 5] = logits[0, 1, :] = -torch.inf
    logits[0, 1, 7] = 0.0
    divergence = METRICS["kl_divergence"].score(Outputs(logits.clone()), None, Outputs(logits))
    assert divergence.tolist() == [[0.0] * 4]


def test_a_large_vocabulary_takes_six_times_its_logits(monkeypatch):
    words = 2**14
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(words, 4), nn.GELU(), nn.Linear(4, words))
    ids = torch.randint(words, (2, 64))
    settings = {"levels": 1, "families": "scale", "memory": 6 * 4 * words * 64, "class_axis": 2}
    with pytest.raises(nz.InputError, match="one example takes about"):
        nz.probe(model, [(ids, ids)], **settings)
    for module in (scores, session):
        monkeypatch.setattr(module, "KEPT", 0)
    nz.probe(model, [(ids, ids)], **settings)
    with pytest.raises(
        nz.InputError, match="one example takes about"
    ):  # a user's metric gets all logits at once
        nz.probe(model, [(ids, ids)], metrics=lambda logits, target: logits[:, 0], **settings)
