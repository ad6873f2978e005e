"""Every row of the assumptions: it changes with the truth, and the argument that it names overrides it.

`TRUTHS` has models and data that differ in one thing, with the row that each gives. `OVERRIDES` has, for each row and
each argument that it names, a probe with that argument, and the numbers of plain forward passes with a hook. The last
test fails if a row is in neither.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nearzero as nz
from nearzero.evaluators.base import HALVES, halves
from nearzero.torch_models.assumptions import Assumption
from nearzero.torch_models.data import MemoryBudget

WORDS = 7


def same(values: Any) -> Any:
    return values


class Net(nn.Module):
    """A layer, an activation and a last layer, with functions of the activations and of the output."""

    def __init__(
        self, act: Any = None, after: Any = same, output: Any = same, *, first: Any = None, last: Any = None
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act = first or nn.Linear(6, 8), act or nn.GELU()
        self.last = last or nn.Linear(8, 3)
        torch.manual_seed(0)
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.5)
        self.after, self.output = after, output

    def forward(self, x: Tensor) -> Any:
        return self.output(self.last(self.after(self.act(self.first(x)))))


class Masked(Net):
    """Tokens, to each of which the mean of those that count is added; `name` is that of the mask."""

    def __init__(self, name: str) -> None:
        super().__init__(first=nn.Embedding(WORDS, 8), last=nn.Linear(8, WORDS))
        self.name = name

    def forward(self, ids: Tensor, **masks: Tensor) -> Tensor:
        counts = masks[self.name].bool()[..., None]
        counts = ~counts if "padding" in self.name else counts
        h = self.first(ids)
        h = h + (h * counts).sum(1, keepdim=True) / counts.sum(1, keepdim=True)
        return self.last(self.act(h))  # type: ignore[no-any-return]


class Two(nn.Module):
    """Two activations: `act`, and one that a function reaches with its output."""

    def __init__(self, second: Callable[[Two, Tensor], Tensor], *, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.more = nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 8)
        self.other, self.last = nn.GELU(), nn.Linear(8, 3)
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self, self.more(self.act(self.first(x)))))  # type: ignore[no-any-return]


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X, Y = drawn(1, 24, 6), torch.arange(24) % 3
TOKENS, TAGS = drawn(2, 10, 3, 6), torch.arange(30).view(10, 3) % 3
IDS = torch.randint(WORDS, (10, 5), generator=torch.Generator().manual_seed(3))
COUNTS = (torch.arange(5) < torch.tensor([5, 4, 3, 2, 5] * 2)[:, None]).long()
OTHER_COUNTS = torch.arange(5).expand(10, 5) > 0
LABELS = (IDS + 1) % WORDS
NEXT = "logits at a token are compared with the next token"


def counting() -> Net:
    """Return a model that sees earlier tokens alone."""
    return Net(after=lambda h: h.cumsum(1), first=nn.Embedding(WORDS, 8), last=nn.Linear(8, WORDS))


def both() -> Net:
    """Return a model that sees all tokens."""
    return Net(
        after=lambda h: h + h.mean(1, keepdim=True), first=nn.Embedding(WORDS, 8), last=nn.Linear(8, WORDS)
    )


def masked(name: str) -> tuple[Any, Any]:
    mask = COUNTS == 0 if "padding" in name else COUNTS
    return Masked(name), [{"ids": IDS, name: mask, "labels": LABELS}]


def two_layer() -> nn.Module:
    net = Net()
    return nn.Sequential(net.first, net.act, net.last)


def convolution() -> Net:
    return Net(after=lambda h: h.mean(2), first=nn.Conv1d(3, 8, 1))


def dense() -> Net:
    return Net(first=nn.Conv2d(2, 8, 1), last=nn.Conv2d(8, 3, 1))


def heads(net: Two, h: Tensor) -> Tensor:
    return net.other(h.unflatten(-1, (2, 4))).flatten(-2)  # type: ignore[no-any-return]


def gated(net: Two, h: Tensor) -> Tensor:
    return net.other(h) * torch.sigmoid(h)  # type: ignore[no-any-return]


def always(net: Two, h: Tensor) -> Tensor:
    return net.other(h)  # type: ignore[no-any-return]


def sometimes(net: Two, h: Tensor) -> Tensor:
    return net.other(h) if len(h) > 4 else h  # type: ignore[no-any-return]


class Stateful(Net):
    """A model whose pass depends on how many there were."""

    count = 0

    def forward(self, x: Tensor) -> Any:
        self.count += 1
        return self.count * super().forward(x)


def branching(h: Tensor) -> Tensor:
    return h if h.sum() > 0 else 2 * h


def unknown() -> Net:
    """Return a model whose function after the first layer is none of the known activations."""
    return Net(nn.Identity(), lambda h: h * h.exp().clamp(max=2))


BATCHES = [X[:6], X[6:9], X[9:15], X[15:]]  # of which `sometimes` leaves one out
DESIGN = nz.Design(families=("scale",), targets=(0.1,), draws=1)
SETTINGS: dict[str, Any] = {"families": "scale", "levels": [0.5]}


@dataclass(frozen=True, eq=False)
class Truth:
    """A model and data, and what a row says of them."""

    what: str
    value: str
    source: str
    argument: str
    model: Any
    data: Any = field(default=X)
    options: dict[str, Any] = field(default_factory=dict)

    def row(self) -> Assumption | None:
        result = nz.probe(self.model, self.data, **{**SETTINGS, **self.options})
        return next((row for row in result.assumptions if row.what == self.what), None)


LINEAR = {"layers": "first"}
FOLLOWED = "followed from the product or convolution that put them there"
CUT, ROWS = "as memory allows, along dimension 0 of the inputs", "rows of 4 examples alone and permuted"
AS_RUN, SHIFT = "offset as-run, clip pre, range post", "offset shift, clip pre, range pre"
TRUTHS = [
    Truth("logits", "the tensor that the model returns", "it returns nothing else", "output=", Net()),
    Truth("logits", "output['logits']", "its name", "output=", Net(output=lambda z: {"logits": z, "h": z})),
    Truth("logits", "output[1]", "no other output", "output=", Net(output=lambda z: ("text", z))),
    Truth("output", "logits", "addmm made them", "output_kind=", Net()),
    Truth("output", "probabilities", "_softmax made them", "output_kind=", Net(output=lambda z: z.softmax(1))),
    Truth(
        "output", "log-probabilities", "made them", "output_kind=", Net(output=lambda z: z.log_softmax(1))
    ),
    Truth("classes", "dimension 1 of 2", "the targets, (2,)", "class_axis=", Net(), (X, Y)),
    Truth("classes", "dimension 2 of 3", "last product", "class_axis=", Net(), (TOKENS, TAGS)),
    Truth("classes", "dimension 1 of 3", "last product", "class_axis=", Net(output=lambda z: z.mT), TOKENS),
    Truth(
        "classes",
        "none: each number is an item",
        "it has one dimension",
        "class_axis=",
        Net(output=lambda z: z[:, 0]),
        (X, (Y > 0).long()),
    ),
    Truth("items", "24 of 24 examples", "the shapes of logits", "prepare=", Net()),
    Truth("items", "30 tokens of 10 examples", "logits and targets", "prepare=", Net(), (TOKENS, TAGS)),
    Truth(
        "items",
        "20 tokens of 10 examples",
        "logits and targets",
        "prepare=",
        Net(),
        (TOKENS, TAGS.masked_fill(TAGS == 1, -100)),
    ),
    Truth("items", "38 tokens of 10 examples", "and the mask", "prepare=", *masked("attention_mask")),
    Truth("items", "60 pixels of 5 examples", "the shapes", "prepare=", dense(), drawn(4, 5, 2, 3, 4)),
    Truth("mask", "none", "no input has the name of one", "prepare=", Net()),
    Truth(
        "mask",
        "attention_mask, 1 or True where a token counts",
        "what is masked moves no other logits",
        "prepare=",
        *masked("attention_mask"),
    ),
    Truth(
        "mask",
        "padding_mask, 0 or False where a token counts",
        "what is masked moves no other logits",
        "prepare=",
        *masked("padding_mask"),
    ),
    Truth("causality", "logits are compared in place", "aren't over tokens", "causal=", Net()),
    Truth("causality", NEXT, "later tokens move no logits", "causal=", counting(), [(IDS, IDS)]),
    Truth(
        "causality",
        "logits are compared in place",
        "later tokens move the logits at earlier ones",
        "causal=",
        both(),
        [(IDS, IDS)],
    ),
    Truth("units of layer act", "dimension 1 of (2, 8)", FOLLOWED, "unit_axis=", Net()),
    Truth("units of layer act", "dimension 2 of (2, 3, 8)", FOLLOWED, "unit_axis=", Net(), (TOKENS, TAGS)),
    Truth("units of layer act", "dimension 1 of (2, 8, 6)", FOLLOWED, "unit_axis=", convolution(), TOKENS),
    Truth("activation of layer act", "gelu", "the layer is its input", "model=", Net()),
    Truth("activation of layer act", "tanh", "the layer is its input", "model=", Net(nn.Tanh())),
    Truth("activation of layer first", "gelu", "act alone", "activation=", Net(), options=LINEAR),
    Truth("activation of layer first", "relu", "act alone", "activation=", Net(nn.ReLU()), options=LINEAR),
    Truth("activation of layer first", "none", "no activation", "activation=", unknown(), options=LINEAR),
    Truth("conduct of layer act", SHIFT, "default for this activation", "conduct=", Net()),
    Truth("conduct of layer act", AS_RUN, "default for this activation", "conduct=", Net(nn.ReLU())),
    Truth("ranges", "minimum and maximum", "default", "quantiles=", Net()),
    Truth("data of the ranges", "the data that are measured", "default", "ranges_from=", Net()),
    Truth("path of layer act", "suffix", "equal logits on a few", "method=", Net(after=torch.sin)),
    Truth("path of layer act", "full", "Python", "method=", Net(after=branching)),
    Truth("path of layer 1", "two-layer", "the logits of all examples", "backend=", two_layer()),
    Truth("reach of layer other", "every example", "counted on all data", "layers=", Two(always), BATCHES),
    Truth(
        "reach of layer other",
        "12 rows, not as many on every example",
        "counted on all data",
        "layers=",
        Two(sometimes),
        BATCHES,
    ),
    Truth("halves", "none", "default", "design=", Net()),
    Truth("cuts of batches", CUT, ROWS, "batch_axis=", Net()),
    Truth("cuts of batches", "not cut", "other logits", "batch_axis=", Net(after=lambda h: h - h.mean(0))),
    Truth("random numbers", "none", "the operations of a pass", "model=", Net()),
    Truth(
        "random numbers",
        "aten::bernoulli_, the same numbers in every pass",
        "the operations of a pass",
        "model=",
        Net(after=lambda h: F.dropout(h, 0.2, training=True)),
    ),
    Truth("state that a pass changes", "none", "two passes", "model=", Net()),
    Truth(
        "state that a pass changes", "count, put back before every pass", "two passes", "model=", Stateful()
    ),
]


def ids(truth: Truth) -> str:
    return f"{truth.what}: {truth.value}"


@pytest.mark.parametrize("truth", TRUTHS, ids=ids)
def test_a_row_says_the_truth(truth: Truth) -> None:
    row = truth.row()
    assert row is not None
    assert (row.value, row.argument) == (truth.value, truth.argument)
    assert truth.source in row.source
