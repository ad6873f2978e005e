"""Whether logits are compared with the next token is found by experiment, whatever the model's class is called."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

import nearzero as nz

WORDS, WIDTH = 12, 8


class Language(nn.Module):
    """A model of tokens that attends to the tokens before, or to all, with a loss of its own if that is given."""

    def __init__(self, causal, loss="none"):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.hidden = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, 16)
        self.act, self.head = nn.GELU(), nn.Linear(16, WORDS)
        self.causal, self.loss = causal, loss

    def logits(self, ids):
        x = self.embed(ids)
        scores = x @ x.transpose(1, 2)
        if self.causal:
            scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), -torch.inf)
        return self.head(self.act(self.hidden(x + scores.softmax(-1) @ x)))

    def forward(self, ids):
        return self.logits(ids)


class WithLoss(Language):
    """The same, which computes a loss from labels."""

    def forward(self, ids, labels=None):
        logits = self.logits(ids)
        if labels is None:
            return {"logits": logits}
        pair = (logits[:, :-1], labels[:, 1:]) if self.loss == "shifted" else (logits, labels)
        return {"loss": F.cross_entropy(pair[0].flatten(0, 1), pair[1].flatten()), "logits": logits}


class XLNetLMHeadModel(WithLoss):
    """A model with the name of a causal one, which isn't."""


class Wrapper(nn.Module):
    """A wrapper that takes no labels."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(ids)


IDS = torch.randint(WORDS, (6, 7), generator=torch.Generator().manual_seed(1))
TAGS = torch.randint(WORDS, (6, 7), generator=torch.Generator().manual_seed(2))
AHEAD = F.pad(IDS[:, 1:], (0, 1), value=-100)
LOSS, COPIES = "the model's own loss compares them so", "the targets are the tokens that the model reads"


def probed(model, labels, **settings):
    batch = {"ids": IDS} if labels is None else {"ids": IDS, "labels": labels}
    return nz.probe(model, [batch], "*act", families="scale", levels=[0.5], **settings)


@pytest.mark.parametrize(
    ("model", "labels", "causal", "source"),
    [
        (Language(True), IDS, True, COPIES),
        (Language(True), IDS.masked_fill(IDS < 3, -100), True, COPIES),
        (AveragedModel(Language(True)), IDS, True, COPIES),
        (Language(False), IDS, False, "later tokens move"),
        (Language(True), TAGS, False, "the targets aren't the tokens themselves"),
        (Language(True), AHEAD, False, "the targets are the next tokens already"),
        (WithLoss(True, "shifted"), IDS, True, LOSS),
        (WithLoss(True, "shifted"), TAGS, True, LOSS),
        (AveragedModel(WithLoss(True, "shifted")), TAGS, True, LOSS),
        (Wrapper(WithLoss(True, "shifted")), TAGS, True, LOSS),
        (WithLoss(True, "shifted").bfloat16(), TAGS, True, LOSS),
        (WithLoss(True, "own"), TAGS, False, LOSS),
        (XLNetLMHeadModel(False, "own"), IDS, False, "later tokens move"),
    ],
)
def test_accuracy_is_that_of_the_right_tokens(model, labels, causal, source):
    result = probed(model, labels)
    with torch.no_grad():
        logits = model(IDS)
    logits = logits["logits"] if isinstance(logits, dict) else logits
    pair = (logits[:, :-1], labels[:, 1:]) if causal else (logits, labels)
    counted = pair[1] != -100
    right = (pair[0].argmax(-1) == pair[1])[counted]
    assert result.response.attrs["items"] == int(counted.sum())
    assert result.response.unperturbed_accuracy.item() == pytest.approx(
        right.double().mean().item(), abs=1e-12
    )
    (row,) = [row for row in result.assumptions if row.what == "causality"]
    assert ("next" in row.value) == causal
    assert source in row.source
    assert row.argument == "causal="


KEPT = torch.arange(7) < torch.tensor([[7], [5], [3], [7], [6], [2]])


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize(
    "labels", [None, IDS, IDS.masked_fill(torch.arange(7) < 3, -100)], ids=["no labels", "labels", "prompts"]
)
def test_ranges_are_those_of_the_tokens_whose_logits_are_measured(labels, masked):
    """The logits at a token count if the next token does, and so do its values in the ranges."""
    model, target = Language(True), torch.zeros_like(IDS) if labels is None else labels
    seen = []
    with torch.no_grad(), model.act.register_forward_pre_hook(lambda _, args: seen.append(args[0])):
        model(IDS)
    kept = KEPT if masked else torch.ones_like(KEPT)
    counted = kept[:, :-1] & kept[:, 1:] & (target[:, 1:] != -100)
    rows = seen[0][:, :-1][counted]
    result = nz.probe(
        model,
        [(IDS, labels)],
        "act",
        families="shift",
        levels=[0.1],
        metrics="agreement",
        quantiles=(0.25, 0.75),
        causal=True,
        prepare=lambda batch: (batch[0], batch[1], kept),
    )
    assert result.response.attrs["items"] == int(counted.sum()) == result.response.rows.item()
    low, high = np.quantile(rows.double().numpy(), [0.25, 0.75], axis=0, method="inverted_cdf")
    np.testing.assert_allclose(result.response.unit_minimum.values[0], low, atol=1e-6)
    np.testing.assert_allclose(result.response.unit_maximum.values[0], high, atol=1e-6)


class Copy(nn.Module):
    """A model whose logits at a token are high for this token, as an autoencoder's are."""

    def __init__(self):
        super().__init__()
        self.embed, self.act, self.head = nn.Embedding(WORDS, WORDS), nn.ReLU(), nn.Linear(WORDS, WORDS)
        for module in (self.embed, self.head):
            module.weight.data = 5 * torch.eye(WORDS)

    def forward(self, ids):
        return self.head(self.act(self.embed(ids)))


@pytest.mark.parametrize(
    ("model", "labels", "message"),
    [
        (Copy(), IDS, r"it predicts these \(cross-entropy 0\) rather than the next ones"),
        (WithLoss(True, "own"), IDS, "its own loss compares the logits at a token with that token"),
        (
            WithLoss(True, "shifted"),
            AHEAD,
            "the targets are the next tokens already, and the model's own loss",
        ),
    ],
)
def test_two_readings_are_refused(model, labels, message):
    with pytest.raises(nz.InputError, match=f"{message}.*causal=True.*causal=False.*choose one"):
        probed(model, labels)
    found = [probed(model, labels, causal=causal).response.attrs["items"] for causal in (True, False)]
    assert found == [int((labels[:, 1:] != -100).sum()), int((labels != -100).sum())]


def test_without_targets_the_models_own_loss_tells():
    assert probed(WithLoss(True, "shifted"), None).response.attrs["items"] == 36
    assert probed(Language(True), None).response.attrs["items"] == 42


class ClassesSecond(Language):
    def forward(self, ids):
        return super().forward(ids).transpose(1, 2)


class Certain(WithLoss):
    """Predicts the same class everywhere, so that a loss of the greatest logits doesn't tell."""

    def logits(self, ids):
        return super().logits(ids) * 0 + torch.arange(WORDS)


@pytest.mark.parametrize(
    ("model", "labels", "causal", "source"),
    [
        (ClassesSecond(True), IDS, True, COPIES),
        (ClassesSecond(False), IDS, False, "later tokens move"),
        (Certain(True, "shifted"), TAGS, True, LOSS),
        (Certain(True, "own"), TAGS, False, LOSS),
    ],
)
def test_classes_on_the_second_dimension_and_equal_predictions(model, labels, causal, source):
    result = probed(model, labels)
    assert result.response.attrs["items"] == (36 if causal else 42)
    (row,) = [row for row in result.assumptions if row.what == "causality"]
    assert ("next" in row.value) == causal
    assert source in row.source


class Bigram(nn.Module):
    """Predicts from one token alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.act, self.head = nn.Embedding(WORDS, WIDTH), nn.GELU(), nn.Linear(WIDTH, WORDS)

    def forward(self, ids):
        return self.head(self.act(self.embed(ids)))


def test_where_tokens_are_independent_the_assumptions_say_so():
    sources = []
    for model, settings in ((Bigram(), {}), (Language(True), {}), (Bigram(), {"batch_axis": 0})):
        result = probed(model, IDS, **settings)
        assert result.response.attrs["items"] == 36
        sources += [row.source for row in result.assumptions if row.what == "cuts of batches"]
    assert ["along dimension 1" in source for source in sources] == [True, False, False]
    assert probed(Bigram(), IDS, batch_axis=1).response.attrs["items"] == 35


class TokensFirst(Language):
    """Reads ids (S, B) and returns logits (S, B, K); the mean of the batch is subtracted if that is asked for."""

    def __init__(self, statistics):
        super().__init__(causal=True)
        self.statistics = statistics

    def forward(self, ids):
        logits = super().forward(ids.t()).transpose(0, 1)
        return logits - 0.5 * logits.mean(1, keepdim=True) if self.statistics else logits


@pytest.mark.parametrize("statistics", [False, True])
def test_causal_is_refused_where_the_tokens_come_first_and_batches_arent_cut(statistics):
    model, ids = TokensFirst(statistics), IDS.t().contiguous()
    with pytest.raises(nz.InputError, match=r"since batches can't be cut; causal=True .* output="):
        nz.probe(model, [{"ids": ids, "labels": ids}], "act", levels=1, batch_axis="none")
    turned = {
        "output": lambda logits: logits.transpose(0, 1),
        "prepare": lambda batch: ({"ids": batch["ids"]}, batch["labels"].t(), None),
    }
    settings = {"levels": 1, "batch_axis": "none", "causal": True, "metrics": ["accuracy"]}
    with pytest.raises(
        nz.InputError, match=r"causal=True needs the examples first.*output=\.\.\. and prepare=\.\.\."
    ):
        nz.probe(model, [{"ids": ids, "labels": ids}], "act", **settings)
    result = nz.probe(model, [{"ids": ids, "labels": ids}], "act", **settings, **turned)
    predicted = model(ids).argmax(-1)
    right = (predicted[:-1] == ids[1:]).double().mean().item()
    assert result.response.unperturbed_accuracy.item() == pytest.approx(right, abs=1e-12)


class Statistics(Language):
    """A model of tokens whose examples depend on the batch."""

    def forward(self, ids):
        logits = super().forward(ids)
        return logits - 0.5 * logits.mean(0)


def test_causal_is_believed_where_the_examples_come_first_and_batches_arent_cut():
    model = Statistics(causal=True)
    result = probed(model, IDS, causal=True, metrics=["accuracy"])
    right = (model(IDS).argmax(-1)[:, :-1] == IDS[:, 1:]).double().mean().item()
    assert result.response.unperturbed_accuracy.item() == pytest.approx(right, abs=1e-12)
