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
        return self.last(self.act(h))


class Two(nn.Module):
    """Two activations: `act`, and one that a function reaches with its output."""

    def __init__(self, second: Callable[[Two, Tensor], Tensor], *, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.more = nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 8)
        self.other, self.last = nn.GELU(), nn.Linear(8, 3)
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self, self.more(self.act(self.first(x)))))


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


def all_count(batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return a batch whose tokens all count, whatever the model's own mask says."""
    rest = dict(batch)
    return rest, rest.pop("labels"), torch.ones(IDS.shape)


def two_layer() -> nn.Module:
    net = Net()
    return nn.Sequential(net.first, net.act, net.last)


def convolution() -> Net:
    return Net(after=lambda h: h.mean(2), first=nn.Conv1d(3, 8, 1))


def dense() -> Net:
    return Net(first=nn.Conv2d(2, 8, 1), last=nn.Conv2d(8, 3, 1))


def heads(net: Two, h: Tensor) -> Tensor:
    return net.other(h.unflatten(-1, (2, 4))).flatten(-2)


def gated(net: Two, h: Tensor) -> Tensor:
    return net.other(h) * torch.sigmoid(h)


def always(net: Two, h: Tensor) -> Tensor:
    return net.other(h)


def sometimes(net: Two, h: Tensor) -> Tensor:
    """Let the second activation have the examples that X says, as an expert has."""
    chosen = h[:, 0] > REACHED_ABOVE
    if not chosen.any():
        return h
    h = h.clone()
    h[chosen] = net.other(h[chosen])
    return h


def buffered(net: Two, h: Tensor) -> Tensor:
    """Let the second activation have the examples in another order, in a buffer with rows of zeros."""
    order = h[:, 0].argsort()
    buffer = h.new_zeros(32, 8)
    buffer[: len(h)] = h[order]
    return net.other(buffer)[order.argsort()]


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


with torch.no_grad():
    _plain = Two(always)
    _first, ORDER = _plain.more(_plain.act(_plain.first(X)))[:, 0].sort()
REACHED_ABOVE = float(_first[17:19].mean())  # six of the examples, the last in this order
ORDERED = X[ORDER]
BATCHES = [ORDERED[[0, 23, 1, 22]], ORDERED[[2, 21, 3, 20]], ORDERED[[*range(4, 16), 18, 19]], ORDERED[16:18]]
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
    Truth("output", "probabilities", "softmax made them", "output_kind=", Net(output=lambda z: z.softmax(1))),
    Truth("output", "log-probabilities", "made them", "output_kind=", Net(output=lambda z: z.log_softmax(1))),
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
    Truth(
        "mask",
        "1 or True where it counts",
        "given",
        "prepare=",
        *masked("attention_mask"),
        {"prepare": all_count},
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
    Truth("path of layer act", "full", "its values decide in Python", "method=", Net(after=branching)),
    Truth("path of layer 1", "two-layer", "equal logits on all examples", "backend=", two_layer()),
    Truth("reach of layer other", "every example", "counted on all data", "layers=", Two(always), BATCHES),
    Truth(
        "reach of layer other",
        "6 rows, not as many on every example",
        "counted on all data",
        "layers=",
        Two(sometimes),
        BATCHES,
    ),
    Truth(
        "matched response of layer other",
        "left out",
        "it isn't known which rows belong to which example",
        "layers=",
        Two(sometimes),
        BATCHES,
        {"design": DESIGN},
    ),
    Truth(
        "rows of layer other",
        "all count in its ranges, those of padding too",
        "it isn't known which of its values belong to which example",
        "layers=",
        Two(buffered),
    ),
    Truth(
        "targets",
        "classes 0 and 1",
        "floating-point numbers that are 0 or 1",
        "prepare=",
        Net(output=lambda z: z[:, 0]),
        (X, (Y > 0).float()),
        {"metrics": "accuracy"},
    ),
    Truth(
        "metric spread",
        "one number for each batch, averaged over batches by their items",
        "numbers for halves of a batch have another mean",
        "metrics=",
        Net(),
        [X[:16], X[16:]],
        {"metrics": {"spread": lambda logits, target: logits[:, 1].std()}},
    ),
    Truth("use of layer :sigmoid", "left out", "a part of another function", "layers=", Two(gated), X),
    Truth(
        "use of layer other", "left out", "its units lie on dimensions 1 and 2", "unit_axis=", Two(heads), X
    ),
    Truth("use of layer act", "left out", "4 units", "units=", Two(always, width=4), X, {"units": [6]}),
    Truth(
        "use of layer act", "left out", "4", "basis=", Two(always, width=4), X, {"basis": torch.eye(8)[:, :2]}
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


# --- the arguments ---


def hooked(
    model: nn.Module, change: Callable[[Tensor], Tensor], *inputs: Any, place: str = "act", **named: Any
) -> Any:
    """Return the output of a plain pass with a change of the input of an activation, or of the output of `first`."""
    part = model.get_submodule(place)
    if place == "first":
        handle = part.register_forward_hook(lambda _, args, values: change(values))
    else:
        handle = part.register_forward_pre_hook(lambda _, args: (change(args[0]),))
    with torch.no_grad(), handle:
        return model(*inputs, **named)


def half(z: Tensor) -> Tensor:
    return 0.5 * z


def clipped(low: Tensor, high: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the clip at level 0.25 of units with these minima and maxima."""
    return lambda z: z.minimum(low + 0.25 * (high - low))


def over(z: Tensor, *axes: int) -> tuple[Tensor, Tensor]:
    return z.detach().amin(axes, keepdim=True), z.detach().amax(axes, keepdim=True)


def logit(logits: Tensor, target: Tensor) -> Tensor:
    return logits[:, 1]


@dataclass(frozen=True, eq=False)
class Override:
    """A probe with an argument that overrides a row.

    Attributes:
        what, argument: the row, and the argument.
        model, data, options: of the probe with the argument.
        value, source: of the row then; None if there is no such row any more.
        expected: returns the values of the metric for each item, from plain passes.
        before: options in the place of the argument, without which the row is another.
        metric, layer: of which the values are compared.
        rows: the examples in a block, if not all.
    """

    what: str
    argument: str
    model: Any
    data: Any
    options: dict[str, Any]
    value: str | None
    expected: Callable[[], Tensor]
    source: str = "given"
    before: dict[str, Any] = field(default_factory=dict)
    metric: str = "logit"
    layer: str = "act"
    rows: int | None = None

    def probed(self, options: dict[str, Any]) -> nz.ProbeResult:
        metrics: Any = {"logit": logit} if self.metric == "logit" else self.metric
        settings = {**SETTINGS, "metrics": metrics, "keep_items": True, **options}
        return nz.probe(self.model, self.data, **settings)


CLIP: dict[str, Any] = {"families": "clip", "levels": [0.25]}


def overrides() -> list[Override]:
    return [*of_outputs(), *of_data(), *of_layers(), *of_choices()]


def of_outputs() -> list[Override]:
    named = Net(output=lambda z: {"logits": z, "h": 2 * z[:, :2]})
    soft, plain = Net(output=lambda z: z.softmax(1)), Net()
    causal = counting()
    return [
        Override(
            "logits",
            "output=",
            named,
            X,
            {"output": "h"},
            "output['h']",
            lambda: hooked(named, half, X)["h"][:, 1],
        ),
        Override(
            "output",
            "output_kind=",
            soft,
            (X, Y),
            {"output_kind": "logits"},
            "logits",
            lambda: F.cross_entropy(hooked(soft, half, X), Y, reduction="none"),
            metric="cross_entropy",
        ),
        Override(
            "classes",
            "class_axis=",
            plain,
            TOKENS,
            {"class_axis": 1},
            "dimension 1 of 3",
            lambda: hooked(plain, half, TOKENS)[:, 1].flatten(),
        ),
        Override(
            "causality",
            "causal=",
            causal,
            [(IDS, IDS)],
            {"causal": False},
            "logits are compared in place",
            lambda: hooked(causal, half, IDS)[..., 1].flatten(),
        ),
    ]


def of_data() -> list[Override]:
    model, data = masked("attention_mask")
    centred, plain, single = Net(after=lambda h: h - h.mean(0)), Net(), Net(output=lambda z: z[:, 0])

    def prepare(batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        rest = dict(batch)
        return rest, rest.pop("labels"), OTHER_COUNTS

    def counted() -> Tensor:
        return hooked(model, half, IDS, attention_mask=COUNTS)[OTHER_COUNTS][:, 1]

    def in_blocks() -> Tensor:
        return torch.cat([hooked(centred, half, x)[:, 1] for x in X.split(2)])

    given = {"prepare": prepare}
    by_mask = "the shapes of logits and targets, and the mask that prepare= gives"
    return [
        Override("mask", "prepare=", model, data, given, "1 or True where it counts", counted),
        Override(
            "targets",
            "prepare=",
            single,
            (X, (Y > 0).float()),
            {"prepare": lambda batch: (batch[0], 1 - batch[1].long(), None)},
            None,
            lambda: ((hooked(single, half, X) > 0) == (Y == 0)).float(),
            metric="accuracy",
        ),
        Override(
            "metric spread",
            "metrics=",
            plain,
            [X[:16], X[16:]],
            {"metrics": {"spread": logit}},
            None,
            lambda: hooked(plain, half, X)[:, 1],
            before={"metrics": {"spread": lambda logits, target: logits[:, 1].std()}, "keep_items": False},
            metric="spread",
        ),
        Override("items", "prepare=", model, data, given, "40 tokens of 10 examples", counted, by_mask),
        Override("cuts of batches", "batch_axis=", centred, X, {"batch_axis": 0}, CUT, in_blocks, rows=2),
        Override(
            "cuts of batches",
            "batch_axis=",
            plain,
            X,
            {"batch_axis": "none"},
            "not cut",
            lambda: hooked(plain, half, X)[:, 1],
        ),
        Override(
            "data of the ranges",
            "ranges_from=",
            plain,
            X,
            {**CLIP, "ranges_from": 2 * X},
            "data of their own",
            lambda: hooked(plain, clipped(*over(plain.first(2 * X), 0)), X)[:, 1],
            before=CLIP,
        ),
        Override(
            "ranges",
            "quantiles=",
            plain,
            X,
            {**CLIP, "quantiles": (0.1, 0.9)},
            "quantiles 0.1 and 0.9",
            lambda: hooked(plain, clipped(*_quantiles(plain.first(X))), X)[:, 1],
            before=CLIP,
        ),
    ]


def _quantiles(z: Tensor) -> Tensor:
    return torch.from_numpy(np.quantile(z.detach().numpy(), [0.1, 0.9], axis=0, method="inverted_cdf"))


def of_layers() -> list[Override]:
    plain, gate, many = Net(), Two(gated), Two(heads)
    some, narrow, other, padded = Two(sometimes), Two(always, width=4), unknown(), Two(buffered)
    basis = torch.linalg.qr(drawn(5, 8, 2))[0]
    one, two = torch.eye(4)[:, :1], torch.eye(8)[:, :2]
    scale = torch.ones(8).index_fill(0, torch.tensor([0, 3]), 0.5)
    scale_one = torch.tensor([1, 0.5, 1, 1])
    inner = lambda net: net.more(net.act(net.first(X)))  # noqa: E731

    def gate_by_hand() -> Tensor:
        h = inner(gate)
        return gate.last(gate.other(h) * torch.sigmoid(0.5 * h))[:, 1].detach()

    def of_reached() -> Tensor:
        return torch.cat([hooked(some, half, x)[:, 1] for x in BATCHES])

    def heads_by_hand() -> Tensor:
        return hooked(many, clipped(*over(inner(many).unflatten(-1, (2, 4)), 0, 1)), X, place="other")[:, 1]

    def narrow_by_hand() -> Tensor:
        return hooked(narrow, lambda z: z * scale_one, X)[:, 1]

    def tokens() -> Tensor:
        change = clipped(*over(plain.first(TOKENS), 0, 2))
        return hooked(plain, change, TOKENS)[..., 1].flatten()

    def relu_range() -> Tensor:
        change = clipped(*over(torch.relu(other.first(X)), 0))
        return hooked(other, change, X, place="first")[:, 1]

    left_out = "use of layer"
    return [
        Override(
            "units of layer act",
            "unit_axis=",
            plain,
            TOKENS,
            {**CLIP, "unit_axis": 1},
            "dimension 1 of (2, 3, 8)",
            tokens,
        ),
        Override(
            "perturbed part of layer act",
            "units=",
            plain,
            X,
            {"units": [0, 3]},
            "2 units, of 8 units",
            lambda: hooked(plain, lambda z: z * scale, X)[:, 1],
        ),
        Override(
            "perturbed part of layer act",
            "basis=",
            plain,
            X,
            {"basis": basis},
            "2 directions, of 8 units",
            lambda: hooked(plain, lambda z: z - 0.5 * z @ basis @ basis.T, X)[:, 1],
        ),
        Override(
            "activation of layer first",
            "activation=",
            other,
            X,
            {**CLIP, **LINEAR, "activation": "relu"},
            "relu",
            relu_range,
            before=LINEAR,
            layer="first",
        ),
        Override(
            "rows of layer other",
            "layers=",
            padded,
            X,
            {"layers": "act"},
            None,
            lambda: hooked(padded, half, X)[:, 1],
        ),
        Override("reach of layer other", "layers=", some, BATCHES, {"layers": "act"}, None, of_reached),
        Override(
            "matched response of layer other",
            "layers=",
            some,
            BATCHES,
            {"layers": "act", "design": DESIGN},
            None,
            of_reached,
            before={"design": DESIGN},
        ),
        Override(
            f"{left_out} :sigmoid",
            "layers=",
            gate,
            X,
            {"layers": ":sigmoid"},
            None,
            gate_by_hand,
            layer=":sigmoid",
        ),
        Override(
            f"{left_out} other",
            "unit_axis=",
            many,
            X,
            {**CLIP, "unit_axis": -1},
            None,
            heads_by_hand,
            layer="other",
        ),
        Override(
            f"{left_out} act",
            "units=",
            narrow,
            X,
            {"units": [1]},
            None,
            narrow_by_hand,
            before={"units": [6]},
        ),
        Override(
            f"{left_out} act",
            "basis=",
            narrow,
            X,
            {"basis": one},
            None,
            lambda: hooked(narrow, lambda z: z * torch.tensor([0.5, 1, 1, 1]), X)[:, 1],
            before={"basis": two},
        ),
    ]


def of_choices() -> list[Override]:
    plain, sine, fast = Net(), Net(after=torch.sin), two_layer()
    post = nz.Conduct("shift", range="post")
    return [
        Override(
            "conduct of layer act",
            "conduct=",
            plain,
            X,
            {**CLIP, "conduct": post},
            "offset shift, clip pre, range post",
            lambda: hooked(plain, clipped(*over(plain.act(plain.first(X)), 0)), X)[:, 1],
            before=CLIP,
        ),
        Override(
            "path of layer act",
            "method=",
            sine,
            X,
            {"method": "full"},
            "full",
            lambda: hooked(sine, half, X)[:, 1],
        ),
        Override(
            "path of layer 1",
            "backend=",
            fast,
            (X, Y),
            {"backend": "model"},
            "suffix",
            lambda: (hooked(fast, half, X, place="1").argmax(1) == Y).double(),
            source="equal logits on a few examples",
            metric="accuracy",
            layer="1",
        ),
        Override(
            "halves",
            "design=",
            plain,
            (X, Y),
            {"design": DESIGN},
            HALVES,
            lambda: hooked(plain, half, X)[:, 1],
            source="seed 0",
        ),
    ]


OVERRIDES = overrides()


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda case: f"{case.what}, {case.argument}")
def test_an_argument_overrides_its_row(override: Override, monkeypatch: pytest.MonkeyPatch) -> None:
    if override.rows:
        monkeypatch.setattr(MemoryBudget, "rows", lambda *_: override.rows)
    results = [override.probed(options) for options in (override.before, override.options)]
    before, after = (
        next((row for row in result.assumptions if row.what == override.what), None) for result in results
    )
    if before is not None:  # there is no row of a part if all is perturbed
        assert before.argument == override.argument
    if override.value is None:
        assert before is not None
        assert after is None
    else:
        assert after is not None
        assert (after.value, after.source) == (override.value, override.source)
        assert before is None or (before.value, before.source) != (after.value, after.source)
    found = results[1].response[f"{override.metric}_items"].sel(layer=override.layer).values.ravel()
    expected = override.expected().numpy()
    np.testing.assert_allclose(found[~np.isnan(found)], expected, rtol=1e-5, atol=1e-6)


def test_halves_are_those_of_the_design() -> None:
    """The design's halves are those that its row names: ranges and levels are those of the reference half."""
    model = Net()
    result = nz.probe(model, (X, Y), design=DESIGN, **SETTINGS)
    reference, responding = halves(len(X), DESIGN.seed)
    row = result.matched.sel(layer="act", family="scale", side="below", target=0.1)
    found = (hooked(model, lambda z: float(row.level) * z, X[responding]).argmax(1) == Y[responding]).double()
    assert float(row.accuracy) == pytest.approx(float(found.mean()))
    assert len(reference) == len(responding) == 12


# --- completeness ---


def kind(what: str) -> str:
    return "metric" if what.startswith("metric ") else what.partition(" of layer ")[0]


def test_every_row_is_in_these_tests() -> None:
    readings: dict[str, set[str]] = {}
    for truth in TRUTHS:
        readings.setdefault(kind(truth.what), set()).add(truth.value)
    named = {(kind(truth.what), truth.argument) for truth in TRUTHS if truth.argument != "model="}
    overridden = {(kind(case.what), case.argument) for case in OVERRIDES}
    assert named <= overridden
    for case in OVERRIDES:
        readings.setdefault(kind(case.what), set()).add(str(case.value))
    assert not [what for what, values in readings.items() if len(values) < 2 and what != "perturbed part"]
    arguments = inspect.signature(nz.probe).parameters
    recorded = set()
    for file in Path(inspect.getfile(nz.probe)).parents[1].rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        text = re.sub(r">>> .*", "", text)
        recorded |= set(re.findall(r'record\(\s*f?"([a-z ]+?)(?: of layer \{| \{|")', text))
        for argument in re.findall(r'"([a-z_]+)="', text):
            assert argument in arguments, f"{file}: {argument}="
    assert recorded == set(readings)
