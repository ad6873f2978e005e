"""Random small models with data for which the right answer is known by construction.

`random_case` draws the traits of a case from a seed, and makes a model and data that have them. `right_answer`
computes the metrics in plain PyTorch: passes on copies of the model, with a hook at the layer. It uses nothing of
nearzero, and knows from the traits what the probe has to find out: where classes, examples, tokens and units are,
what the output holds, and what counts.

Layouts are written as letters, one for each dimension: N examples, S tokens, H and W pixels, C classes, U units.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, make_dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = {"offset": (-0.4, 0.3), "scale": (0.5, 2.0), "clip": (0.4, 0.7)}
IGNORED = -100
LEAST = {
    torch.float32: -103.98,
    torch.float64: -745.2,
}  # log p of a probability of 0, as the documentation has it
NEAR = 1e-5  # as a share of the greatest logit: two logits that differ by less nearly tie
ITEMS = {"examples": "N", "tokens": "NS", "pixels": "NHW"}
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], type[nn.Module] | None]] = {
    "relu": (F.relu, nn.ReLU),
    "gelu": (F.gelu, nn.GELU),
    "tanh": (torch.tanh, nn.Tanh),
    "abs": (torch.abs, None),
    "softsign": (lambda z: z / (1 + z.abs()), None),  # an abs on a branch, which isn't the activation
}


def permuted(tensor: Tensor, source: str, target: str) -> Tensor:
    """Return a tensor with its dimensions in another order, each named by a letter."""
    return tensor.permute([source.index(letter) for letter in target])


@dataclass(frozen=True)
class Traits:
    """What a case is like. The defaults are the plainest ones."""

    domain: str = "vectors"  # vectors, images, numbers or tokens; the last two are sequences
    items: str = "examples"  # examples, tokens or pixels
    inputs: str = "ND"  # the layout of the inputs; D are their features
    layout: str = "NC"  # the layout of the output
    sizes: dict[str, int] = field(default_factory=dict)  # of the first batch, by letter
    batches: tuple[tuple[int, int], ...] = ((6, 1),)  # the numbers of examples and tokens
    kind: str = "logits"  # what the output holds, see KINDS
    squeezed: bool = False  # whether a single output has no dimension of its own
    several: bool = False  # whether each number is an item of its own, with a target
    targets: str = "classes"  # classes, ids, ahead (the next ids) or none
    ignored: bool = False  # whether some targets are -100
    flat: bool = False  # whether targets are flattened
    mixing: str = "all"  # the tokens that a token sees: all, earlier or none
    loss: str = "none"  # the model's own loss: none, shifted or own
    name: str = "Net"
    wrapped: bool = False
    mask: str = "none"  # none, flags, added, keys or added keys
    mask_name: str = "attention_mask"
    mask_layout: str = "NS"
    counts: bool = True  # whether 1 or True in the mask are tokens that count
    left: bool = False  # whether padding comes first
    named: bool = False  # whether batches are mappings
    container: str = "tensor"  # what the model returns, see `contained`
    state: str = "none"  # what a pass changes
    draws: str = "none"  # what random numbers do
    statistics: bool = False  # whether examples depend on the batch
    activation: str = "relu"
    function: bool = False  # whether the activation is a function
    linear: str = "last"  # the way in which units are computed: last, conv, einsum or left
    experts: bool = False
    loops: int = 1  # how often the layer runs in a pass
    call: int = 1  # which of these calls is perturbed
    at: str = "act"  # act, or hidden for the linear layer before it
    default: bool = False  # whether layers aren't named
    double: bool = False
    blocks: int = 0  # the number of examples that fit in memory; 0 for many

    @property
    def sequence(self) -> bool:
        return self.domain in ("numbers", "tokens")

    @property
    def tokens_first(self) -> bool:
        return self.inputs.startswith("S")

    @property
    def measurable(self) -> bool:
        """Return whether a pass repeats."""
        return self.state != "outside" and self.draws != "fresh"

    @property
    def grid(self) -> str:
        """Return the dimensions of the layer's values beside the units, examples first."""
        return {"vectors": "N", "images": "NHW"}.get(self.domain, "NS")

    @property
    def units(self) -> str:
        """Return the layout of the values of the layer."""
        inner = "SN" if self.tokens_first else self.grid
        places = {"last": inner + "U", "left": "U" + inner}
        return places.get(self.linear, inner[0] + "U" + inner[1:])


# --- the models -----------------------------------------------------------------------------------------------------


class EinsumLinear(nn.Module):
    """A linear layer with its units on the second dimension, or on the first."""

    def __init__(self, units: int, left: bool):
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.randn(units, units) / 2),
            nn.Parameter(torch.randn(units) / 2),
        )
        self.left = left

    def forward(self, h: Tensor) -> Tensor:
        if self.left:
            return self.weight @ h.t() + self.bias[:, None]
        return torch.einsum("uc,n...c->nu...", self.weight, h) + self.bias.view(1, -1, *[1] * (h.ndim - 2))


class PointConvolution(nn.Module):
    """A convolution of size 1 on channels that are last."""

    def __init__(self, units: int, dimensions: int):
        super().__init__()
        self.conv = (nn.Conv1d, nn.Conv2d)[dimensions - 1](units, units, 1)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(h.movedim(-1, 1))


class Expert(nn.Module):
    """The layer and its activation, for the rows that reach it."""

    def __init__(self, traits: Traits, units: int):
        super().__init__()
        self.hidden = nn.Linear(units, units)
        self.act = activation_of(traits)

    def forward(self, h: Tensor) -> Tensor:
        return self.act(self.hidden(h))


class Function:
    """An activation that isn't a module."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, z: Tensor) -> Tensor:
        return ACTIVATIONS[self.name][0](z)


def activation_of(traits: Traits) -> Any:
    module = ACTIVATIONS[traits.activation][1]
    return Function(traits.activation) if traits.function or module is None else module()


class Cache:
    """Values of earlier tokens, which a pass adds to."""

    def __init__(self, seen: Tensor):
        self.seen = seen

    def update(self, h: Tensor) -> Tensor:
        self.seen = torch.cat([self.seen, h], 1)
        return self.seen


STATES: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "counter": lambda: 0,
    "list": lambda: [],
    "tensor": lambda: torch.zeros(2),
    "array": lambda: np.zeros(2),
    "buffer": lambda: torch.zeros(2),
    "cache": lambda: None,
    "outside": lambda: None,
}
OUTSIDE = itertools.count(1)


class Net(nn.Module):
    """A stem, a layer with its activation, mixing of tokens, and a head; the traits say the rest."""

    def __init__(self, traits: Traits):
        super().__init__()
        features, units, classes = (traits.sizes[letter] for letter in "DUC")
        self.traits = traits
        self.stem = nn.Embedding(features, units) if traits.domain == "tokens" else nn.Linear(features, units)
        if traits.experts:
            self.experts = nn.ModuleList(Expert(traits, units) for _ in range(2))
        else:
            self.hidden = {
                "last": lambda: nn.Linear(units, units),
                "conv": lambda: PointConvolution(units, len(traits.grid) - 1),
                "einsum": lambda: EinsumLinear(units, False),
                "left": lambda: EinsumLinear(units, True),
            }[traits.linear]()
            self.act = activation_of(traits)
        self.head = nn.Linear(units, classes)
        with torch.no_grad():
            self.head.weight.mul_(3)
        if traits.state == "buffer":
            self.register_buffer("memory", torch.zeros(2))
        else:
            self.memory = STATES[traits.state]()

    def run(self, x: Tensor, mask: Tensor | None = None, cache: Cache | None = None) -> tuple[Tensor, Tensor]:
        """Return the output in its layout, and the values before the head."""
        traits = self.traits
        route = self.route(x)
        if traits.domain == "images":  # features last
            x = permuted(x, traits.inputs, "NHWD")
        h = self.layer(self.stem(x), route)
        if cache is not None:
            h = h + cache.update(h if h.ndim == 3 else h[:, None]).mean(1, keepdim=h.ndim == 3)
        h = self.changed(h)
        if traits.statistics:
            h = h - 0.5 * h.mean(1 if traits.tokens_first else 0, keepdim=True)
        if traits.sequence:
            h = permuted(h, traits.inputs, "NSD")
            h = self.mixed(h, self.bias(mask, h))
        elif traits.domain == "images":
            h = h + h.mean((1, 2), keepdim=True)
        if traits.items == "examples" and traits.sequence:
            weights = self.bias(mask, h)[:, 0].softmax(-1)
            h = (weights[..., None] * h).sum(1)
        elif traits.items == "examples" and traits.domain == "images":
            h = h.mean((1, 2))
        output = self.head(h)
        own = ITEMS[traits.items] + "C"
        if traits.squeezed:
            return KINDS[traits.kind](permuted(output, own, traits.layout + "C")[..., 0], -1), h
        return KINDS[traits.kind](permuted(output, own, traits.layout), traits.layout.index("C")), h

    def layer(self, h: Tensor, route: Tensor | None) -> Tensor:
        """Return the activations, with the units last."""
        traits = self.traits
        if route is not None:
            result = torch.zeros_like(h)
            for expert, own in zip(self.experts, (route, ~route), strict=True):
                if bool(own.any()):
                    result[own] = expert(h[own])
            return result
        inner = "SN" if traits.tokens_first else traits.grid
        for _ in range(traits.loops):
            h = permuted(self.act(self.hidden(h)), traits.units, inner + "U")
        return h

    def route(self, x: Tensor) -> Tensor | None:
        """Return which rows the first expert gets."""
        if not self.traits.experts:
            return None
        return x % 2 == 0 if self.traits.domain == "tokens" else x[..., 0] > 0

    def changed(self, h: Tensor) -> Tensor:
        """Return the activations as the state and random numbers change them."""
        state, draws = self.traits.state, self.traits.draws
        count = 0.0
        if state == "counter":
            self.memory += 1
            count = self.memory
        elif state in ("tensor", "buffer", "array"):
            self.memory += 1
            count = float(self.memory[0])
        elif state == "list":
            self.memory.append(1)
            count = len(self.memory)
        elif state == "outside":
            count = next(OUTSIDE)
        h = h * (1 + 0.2 * count)
        if draws == "dropout":
            return F.dropout(h, 0.3, training=True)
        if draws == "rare":
            return F.dropout(h, 1e-3, training=True)
        if draws == "noise":
            return h + 0.3 * torch.randn_like(h)
        if draws == "python":
            return h * (1 + random.random())
        if draws == "numpy":
            return h * (1 + np.random.rand())  # noqa: NPY002
        if draws == "fresh":
            generator = torch.Generator()
            generator.seed()
            return h + torch.randn(h.shape, generator=generator, dtype=h.dtype)
        return h

    def bias(self, mask: Tensor | None, h: Tensor) -> Tensor:
        """Return what is added to attention scores of tokens (N, S, U), (N, 1, S)."""
        if mask is None:
            return h.new_zeros(len(h), 1, h.shape[1])
        traits = self.traits
        if mask.ndim == 4:
            mask = mask[:, 0, 0]
        elif traits.mask_layout == "SN":
            mask = mask.t()
        if "added" in traits.mask:
            return mask.to(h.dtype)[:, None]
        kept = mask.bool() if traits.counts else ~mask.bool()
        return h.new_zeros(kept.shape).masked_fill(~kept, -1e4)[:, None]

    def mixed(self, h: Tensor, bias: Tensor) -> Tensor:
        """Return tokens (N, S, U) to which an average of those that they see was added."""
        if self.traits.mixing == "none":
            return h
        scores = bias + 0.3 * h @ h.transpose(1, 2)
        if self.traits.mixing == "earlier":
            later = torch.ones(h.shape[1], h.shape[1]).triu(1).bool()
            scores = scores.masked_fill(later, -torch.inf)
        return h + scores.softmax(-1) @ h

    def returned(self, x: Tensor, mask: Tensor | None = None, cache: Cache | None = None) -> Any:
        return contained(self.traits, *self.run(x, mask, cache))


class Plain(Net):
    def forward(self, x):
        return self.returned(x)


class WithAttentionMask(Net):
    def forward(self, x, attention_mask=None):
        return self.returned(x, attention_mask)


class WithPaddingMask(Net):
    def forward(self, x, key_padding_mask=None):
        return self.returned(x, key_padding_mask)


class WithMask(Net):
    def forward(self, x, mask=None):
        return self.returned(x, mask)


class WithCache(Net):
    def forward(self, x, cache):
        return self.returned(x, cache=cache)


class WithLoss(Net):
    """A model of tokens that computes a loss from labels."""

    def forward(self, x, attention_mask=None, labels=None):
        output, _ = self.run(x, attention_mask)
        if labels is None:
            return {"logits": output}
        logits = permuted(output, self.traits.layout, "NSC")
        labels = permuted(labels, self.traits.inputs[:2], "NS")
        shifted = self.traits.loss == "shifted"
        pair = (logits[:, :-1], labels[:, 1:]) if shifted else (logits, labels)
        return {"loss": F.cross_entropy(pair[0].flatten(0, 1), pair[1].flatten()), "logits": output}


class Wrapper(nn.Module):
    """A wrapper that says nothing about what it takes."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)


def _softmax_by_hand(z: Tensor, axis: int) -> Tensor:
    powers = (z - z.amax(axis, keepdim=True)).exp()
    return powers / powers.sum(axis, keepdim=True)


# what is done to the logits, along the dimension of the classes
KINDS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "logits": lambda z, axis: z,
    "softmax": torch.softmax,
    "softmax by hand": _softmax_by_hand,
    "log_softmax": torch.log_softmax,
    "log_softmax by hand": lambda z, axis: z - z.logsumexp(axis, keepdim=True),
    "log of softmax": lambda z, axis: z.softmax(axis).log(),
    "sigmoid": lambda z, axis: z.sigmoid(),
    "sigmoid by hand": lambda z, axis: 1 / (1 + (-z).exp()),
    "logsigmoid": lambda z, axis: F.logsigmoid(z),
    "logsigmoid by hand": lambda z, axis: -F.softplus(-z),
}


def held_by(kind: str) -> str:
    """Return what an output holds."""
    if kind.startswith("log") and kind != "logits":
        return "log-probabilities"
    return "logits" if kind == "logits" else "probabilities"


def contained(traits: Traits, output: Tensor, h: Tensor) -> Any:
    """Return an output as the model returns it, perhaps beside other tensors."""
    loss = h.flatten(1).square().mean(1)
    match traits.container:
        case "tensor":
            return output
        case "logits first":
            return output, h
        case "hidden first":
            return h, output
        case "loss first":
            return loss.mean(), output
        case "losses first":
            return loss, output
        case "dict":
            return {"hidden": h, "logits": output}
        case "unnamed dict":
            return {"scores": output, "state": h}
        case "dataclass":
            return make_dataclass("Output", ["state", "logits"])(h, output)
        case _:
            return make_dataclass("Output", ["state", "scores"])(h, output)


KEYS = {
    "logits first": 0,
    "hidden first": 1,
    "loss first": 1,
    "losses first": 1,
    "dict": "logits",
    "unnamed dict": "scores",
    "dataclass": "logits",
    "unnamed dataclass": "scores",
}


def taken(traits: Traits, returned: Any) -> Tensor:
    """Return the output in what the model returned."""
    if traits.loss != "none":
        return returned["logits"]
    if traits.container == "tensor":
        return returned
    key = KEYS[traits.container]
    return getattr(returned, key) if "dataclass" in traits.container else returned[key]


# --- the data -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class KnownBatch:
    """A batch, and what its parts mean.

    Attributes:
        item: as nearzero gets it.
        arguments, keywords: what the model is called with.
        target: in the order of the items, examples first; None without targets.
        mask: (N, S), True where a token counts; None if all do.
        given: the targets as nearzero gets them.
        route: which rows the first expert gets, examples first.
    """

    item: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    target: Tensor | None
    mask: Tensor | None
    given: Tensor | None
    route: Tensor | None


def drawn_mask(traits: Traits, count: int, length: int, generator: np.random.Generator) -> Tensor:
    """Return a mask (N, S), True where a token counts; at least one token doesn't, and one of each example does."""
    lengths = generator.integers(1, length + 1, count)
    lengths[0], lengths[-1] = max(1, length - 1), length
    places = np.arange(length)[::-1] if traits.left else np.arange(length)
    return torch.from_numpy(places[None] < lengths[:, None])


def mask_input(traits: Traits, mask: Tensor) -> Tensor:
    """Return a mask in the form that the model takes."""
    if "added" in traits.mask:
        values = torch.zeros(mask.shape).masked_fill(~mask, -1e4)
    else:
        flags = mask if traits.counts else ~mask
        values = flags.long() if traits.mask == "flags" and traits.mask_name == "attention_mask" else flags
    values = permuted(values, "NS", traits.mask_layout)
    return values[:, None, None] if "keys" in traits.mask else values


def known_batch(
    traits: Traits, model: nn.Module, size: tuple[int, int], generator: np.random.Generator
) -> KnownBatch:
    """Return one batch, whose targets are mostly what the model predicts."""
    sizes = {**traits.sizes, "N": size[0], "S": size[1]}
    if traits.domain == "tokens":
        shape = [sizes[letter] for letter in traits.inputs[:2]]
        x = torch.from_numpy(generator.integers(0, sizes["D"], shape))
    else:
        x = torch.from_numpy(generator.normal(size=[sizes[letter] for letter in traits.inputs])).float()
        x = x.double() if traits.double else x
    keywords: dict[str, Any] = {}
    mask = None if traits.mask == "none" else drawn_mask(traits, *size, generator)
    if mask is not None:
        keywords[traits.mask_name] = mask_input(traits, mask)
    if traits.state == "cache":
        keywords["cache"] = Cache(
            torch.from_numpy(generator.normal(size=(size[0], 2, sizes["U"]))).to(x.dtype)
        )
    route = None
    if traits.experts:
        route = x % 2 == 0 if traits.domain == "tokens" else x[..., 0] > 0
        route = route.t() if traits.tokens_first else route
    arguments: tuple[Any, ...] = (x,)
    if traits.named:
        arguments, keywords = (), {"x": x, **keywords}
    else:
        arguments, keywords = (x, *keywords.values()), {}
    batch = KnownBatch(None, arguments, keywords, None, mask, None, route)
    target = drawn_target(traits, model, batch, generator)
    given = target
    if target is not None and traits.several:
        given = permuted(target, ITEMS[traits.items] + "C", traits.layout)
    elif target is not None and traits.items == "tokens" and traits.tokens_first:
        given = target.t()
    if given is not None and traits.flat:
        given = given.reshape(-1)
    inputs = keywords if traits.named else arguments[0] if len(arguments) == 1 else arguments
    if traits.named:
        item = inputs if given is None else {**inputs, "labels": given}
    else:
        item = (inputs,) if given is None else (inputs, given)
    return KnownBatch(item, arguments, keywords, target, mask, given, route)


def drawn_target(
    traits: Traits, model: nn.Module, batch: KnownBatch, generator: np.random.Generator
) -> Tensor | None:
    """Return targets in the order of the items, of which most are what the model predicts."""
    if traits.targets == "none":
        return None
    if traits.targets != "classes":
        x = batch.keywords["x"] if traits.named else batch.arguments[0]
        target = permuted(x, traits.inputs[:2], "NS").clone()
        if traits.targets == "ahead":
            target = F.pad(target[:, 1:], (0, 1), value=IGNORED)
    else:
        target = logits_of(traits, passed(traits, model, batch)).argmax(-1)
        classes = 2 if traits.several or traits.sizes["C"] == 1 else traits.sizes["C"]
        other = torch.from_numpy(generator.integers(0, classes, tuple(target.shape)))
        keep = torch.from_numpy(generator.random(tuple(target.shape)) < 0.5)
        target = torch.where(keep, target, other)
    if traits.ignored:
        left_out = torch.from_numpy(generator.random(tuple(target.shape)) < 0.2)
        left_out[-1] = False
        target = target.masked_fill(left_out, IGNORED)
    return target


# --- the right answer -----------------------------------------------------------------------------------------------


def seeded() -> None:
    """Seed all random generators, as the probe does before every pass."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


def net_of(model: nn.Module) -> Net:
    return model.model if isinstance(model, Wrapper) else model


def passed(
    traits: Traits, model: nn.Module, batch: KnownBatch, change: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Return the output of a pass on copies, with the values of the layer changed by a function of (N, ..., U)."""
    model = deepcopy(model).eval()
    net = net_of(model)
    calls = itertools.count(1)

    def hook(_: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        if change is None or (not traits.experts and next(calls) != traits.call):
            return None
        if traits.experts:
            return change(output)
        own = traits.grid + "U"
        return permuted(change(permuted(output, traits.units, own)), own, traits.units)

    (net.experts[0].hidden if traits.experts else net.hidden).register_forward_hook(hook)
    seeded()
    with torch.no_grad():
        return taken(traits, model(*deepcopy(batch.arguments), **deepcopy(batch.keywords)))


def logits_of(traits: Traits, output: Tensor) -> Tensor:
    """Return an output as logits, in float64, with the items first and the classes last; one output gets a second."""
    own = ITEMS[traits.items]
    if traits.squeezed:
        values = permuted(output, traits.layout, own)[..., None]
    else:
        values = permuted(output, traits.layout, own + "C")
        values = values[..., None] if traits.several else values
    least, single = LEAST[values.dtype], values.shape[-1] == 1
    values, kind = values.double(), held_by(traits.kind)
    if kind == "probabilities":
        rest = torch.log1p(-values).clamp(min=least)
        values = values.log().clamp(min=least)
        values = values - rest if single else values
    elif kind == "log-probabilities" and single:
        values = values - torch.log(-torch.expm1(values)).clamp(min=least)
    return F.pad(values, (1, 0)) if single else values


def counted_rows(traits: Traits, batch: KnownBatch) -> Tensor:
    """Return which rows of the layer's values count, of the layout of the grid."""
    x = batch.keywords["x"] if traits.named else batch.arguments[0]
    shape = [x.shape[traits.inputs.index(letter)] for letter in traits.grid]
    counted = torch.ones(shape, dtype=torch.bool)
    if batch.mask is not None:
        counted &= batch.mask
    if batch.target is not None and not traits.flat and not traits.several:
        kept = batch.target != IGNORED
        counted &= kept.reshape(*kept.shape, *[1] * (len(shape) - kept.ndim))
    return counted


def counted_items(traits: Traits, batch: KnownBatch, shape: tuple[int, ...]) -> Tensor:
    """Return which items count; of a model that predicts the next token, those with one."""
    counted = torch.ones(shape, dtype=torch.bool)
    if batch.mask is not None and traits.items == "tokens":
        counted &= batch.mask.reshape(*batch.mask.shape, *[1] * (len(shape) - 2))
    if shifted(traits):
        counted = counted[:, :-1] & counted[:, 1:]
    if batch.target is not None:
        counted &= (batch.target[:, 1:] if shifted(traits) else batch.target) != IGNORED
    return counted


def shifted(traits: Traits) -> bool:
    """Return whether logits are compared with the next token."""
    return traits.loss == "shifted" or (
        traits.loss == "none" and traits.targets == "ids" and traits.mixing == "earlier"
    )


@dataclass(frozen=True)
class UnitRanges:
    """The least and the greatest values of each unit, before and after the activation."""

    low: Tensor
    high: Tensor
    low_after: Tensor
    high_after: Tensor

    def change(self, traits: Traits, family: str, level: float) -> Callable[[Tensor], Tensor]:
        """Return the perturbation of a family at a level, as the protocol describes it."""
        published = acts(traits) and traits.activation in ("relu", "abs")
        low, high = (self.low_after, self.high_after) if published else (self.low, self.high)
        live = self.high_after > self.low_after
        width = high - low
        scale, offset, clip = (torch.ones_like(low), torch.zeros_like(low), torch.full_like(low, torch.inf))
        if family == "scale":
            scale = scale * level
        elif family == "clip":
            clip = torch.where(width > 0, low + level * width, torch.inf)
        elif published:
            scale, offset = (high - level * width) / high, level * width
        else:
            offset = level * width
        scale, offset = torch.where(live, scale, 1.0), torch.where(live, offset, 0.0)
        clip = torch.where(live, clip, torch.inf)
        return lambda z: torch.minimum(z * scale.to(z.dtype) + offset.to(z.dtype), clip.to(z.dtype))


def acts(traits: Traits) -> bool:
    """Return whether the layer has an activation."""
    own_module = traits.at == "hidden" and traits.linear in ("einsum", "left")
    return (
        traits.activation != "softsign"
        and not own_module
        and not (traits.at == "hidden" and traits.linear == "conv")
    )


def unit_ranges(traits: Traits, model: nn.Module, batches: list[KnownBatch]) -> UnitRanges:
    """Return the ranges over all rows that count."""
    rows: list[Tensor] = []
    for batch in batches:
        counted = counted_rows(traits, batch)
        if traits.experts:
            route = batch.route if not traits.tokens_first else batch.route.t()
            counted = (counted.t() if traits.tokens_first else counted)[route]

        def look(z: Tensor, counted: Tensor = counted) -> Tensor:
            rows.append(z[counted])
            return z

        passed(traits, model, batch, look)
    z = torch.cat(rows).double()
    after = ACTIVATIONS[traits.activation][0](torch.cat(rows)).double() if acts(traits) else z
    return UnitRanges(z.amin(0), z.amax(0), after.amin(0), after.amax(0))


@dataclass(frozen=True)
class Expected:
    """The metrics at one level, and how many items nearly tie."""

    accuracy: float | None
    agreement: float
    kl_divergence: float
    ties: int
    items: int


def right_answer(case: Case) -> dict[tuple[str, float], Expected]:
    """Return the metrics by family and level; ("", 0) is no perturbation."""
    traits, model = case.traits, case.model
    ranges = unit_ranges(traits, model, case.batches)
    before = [flat_logits(traits, batch, passed(traits, model, batch)) for batch in case.batches]
    targets = (
        None
        if traits.targets == "none"
        else torch.cat([flat_target(traits, batch) for batch in case.batches])
    )
    expected = {("", 0.0): scored(torch.cat(before), torch.cat(before), targets)}
    for family, level in ((family, level) for family, levels in LEVELS.items() for level in levels):
        change = ranges.change(traits, family, level)
        after = [flat_logits(traits, batch, passed(traits, model, batch, change)) for batch in case.batches]
        expected[family, level] = scored(torch.cat(after), torch.cat(before), targets)
    return expected


def flat_logits(traits: Traits, batch: KnownBatch, output: Tensor) -> Tensor:
    logits = logits_of(traits, output)
    counted = counted_items(traits, batch, tuple(logits.shape[:-1]))
    return (logits[:, :-1] if shifted(traits) else logits)[counted]


def flat_target(traits: Traits, batch: KnownBatch) -> Tensor:
    counted = counted_items(traits, batch, tuple(batch.target.shape))
    return (batch.target[:, 1:] if shifted(traits) else batch.target)[counted]


def scored(after: Tensor, before: Tensor, target: Tensor | None) -> Expected:
    """Return the metrics of logits (n, K)."""
    predicted = after.argmax(-1)
    divergence = (before.softmax(-1) * (before.log_softmax(-1) - after.log_softmax(-1))).sum(-1)
    ties = sum(int(_ties(logits).sum()) for logits in (after, before))
    return Expected(
        None if target is None else float((predicted == target).double().mean()),
        float((predicted == before.argmax(-1)).double().mean()),
        float(divergence.mean()),
        ties,
        len(after),
    )


def _ties(logits: Tensor) -> Tensor:
    first, second = logits.topk(2, -1).values.unbind(-1)
    return first - second <= NEAR * logits.abs().amax(-1).clamp(min=1)


# --- cases ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Case:
    """A model and data, with what decides how they are to be read.

    Attributes:
        data: what nearzero gets.
        layer: the name of the layer.
        ambiguous: why several readings fit; empty if one does.
        unresolved: why a refusal may stand whatever argument is given; "" if it mayn't.
    """

    seed: int
    traits: Traits
    model: nn.Module
    batches: list[KnownBatch]
    data: Any
    layer: str
    ambiguous: list[str]
    unresolved: str

    def arguments(self, given: Collection[str]) -> dict[str, Any]:
        """Return the values of the probe's arguments that fit, if some of these are given."""
        return arguments_of(self.traits, self.batches, given)


def random_case(seed: int) -> Case:
    """Return the case of a seed."""
    generator = np.random.default_rng([20260, seed])
    traits = random_traits(generator)
    torch.manual_seed(seed)
    model = model_of(traits)
    batches = [known_batch(traits, model, size, generator) for size in traits.batches]
    return Case(
        seed,
        traits,
        model,
        batches,
        [batch.item for batch in batches],
        layer_name(traits),
        ambiguities(traits, batches),
        unresolved(traits),
    )


def model_of(traits: Traits) -> nn.Module:
    base = Plain
    if traits.loss != "none":
        base = WithLoss
    elif traits.state == "cache":
        base = WithCache
    elif traits.mask != "none":
        base = {
            "attention_mask": WithAttentionMask,
            "key_padding_mask": WithPaddingMask,
            "mask": WithMask,
        }[traits.mask_name]
    model = type(traits.name, (base,), {})(traits)
    model = Wrapper(model) if traits.wrapped else model
    return model.double() if traits.double else model


def layer_name(traits: Traits) -> str:
    """Return what nearzero calls the layer."""
    path = "model" if traits.wrapped else ""
    calls = traits.loops
    if traits.experts:
        path = f"{path}.experts.0".removeprefix(".")
    number = f"@{traits.call}" if calls > 1 else ""
    if traits.at == "hidden":
        return f"{path}.hidden".removeprefix(".") + number
    if traits.function or ACTIVATIONS[traits.activation][1] is None:
        return f"{path}:{traits.activation}" + number
    return f"{path}.act".removeprefix(".") + number


def arguments_of(traits: Traits, batches: list[KnownBatch], given: Collection[str]) -> dict[str, Any]:
    """Return the values of the probe's arguments that fit; `class_axis` counts with the examples first."""
    layout = traits.layout
    whole = traits.statistics or traits.draws != "none" or traits.state == "cache" or "none" in given
    output: Any = (
        None
        if traits.container == "tensor" and traits.loss == "none"
        else KEYS.get(traits.container, "logits")
    )
    if not layout.startswith(
        "N" if not traits.tokens_first or traits.items == "examples" else traits.inputs[0]
    ):
        first = traits.inputs[:2] if traits.tokens_first and traits.items == "tokens" else ITEMS[traits.items]
        standard = first + ("C" if "C" in layout else "")

        def output(returned: Any) -> Tensor:
            return permuted(taken(traits, returned), traits.layout, standard)

        layout = standard if "output" in given else layout
    first = "N" + layout.replace("N", "")
    none = traits.several or traits.squeezed
    prepared = {id(batch.item): batch for batch in batches}

    def prepare(item: Any) -> tuple[Any, Any, Any]:
        batch = prepared[id(item)]
        inputs = batch.keywords if traits.named else batch.arguments
        target = batch.target
        if target is not None and traits.several:
            target = permuted(target, ITEMS[traits.items] + "C", first)
        return inputs, target, batch.mask

    return {
        "output": output,
        "output_kind": held_by(traits.kind),
        "class_axis": "none" if none else first.index("C"),
        "causal": shifted(traits),
        "batch_axis": "none" if whole else traits.inputs.index("N"),
        "unit_axis": traits.units.index("U"),
        "prepare": prepare,
    }


def ambiguities(traits: Traits, batches: list[KnownBatch]) -> list[str]:
    """Return why several readings of a case fit."""
    found = []
    classes = traits.sizes["C"]
    count = {"examples": 2, "tokens": 3, "pixels": 4}[traits.items]
    if traits.kind in ("sigmoid by hand", "logsigmoid by hand"):
        found.append("a single number that may be a logit or a probability")
    if traits.kind == "sigmoid" and classes > 1 and not traits.several:
        found.append("several probabilities that don't add up to 1")
    if traits.targets == "none" and count > 2 and not traits.squeezed:
        found.append("no targets tell the dimension of the classes")
    if traits.targets == "none" and traits.squeezed and count > 2:
        found.append("no targets tell that there are no classes")
    sizes = [{**traits.sizes, "N": examples, "S": length} for examples, length in traits.batches]
    others = [letter for letter in traits.layout if letter not in "NC"]
    if any(all(size[letter] == size["C"] for size in sizes) for letter in others):
        found.append("as many classes as tokens or pixels")
    uncut = traits.statistics or traits.draws != "none"
    if traits.sequence and any(size["N"] == size["S"] for size in sizes) and (traits.tokens_first or uncut):
        found.append("as many examples as tokens")
    if "hidden" in traits.container or traits.container in (
        "logits first",
        "unnamed dict",
        "unnamed dataclass",
    ):
        greatest = None if batches[0].target is None else int(batches[0].target.max())
        if greatest is None or greatest < traits.sizes["U"]:
            found.append("several outputs that may be the logits")
    if traits.container == "losses first" and (traits.targets == "none" or classes <= 2):
        found.append("losses that may be the logits")
    if traits.mask != "none" and traits.statistics:
        found.append("a mask that the statistics of the batch don't follow")
    if traits.targets == "ids" and traits.loss == "own":
        found.append("a causal model whose own loss compares in place")
    return found


def unresolved(traits: Traits) -> str:
    """Return why a refusal may stand whatever argument is given; "" if it mayn't.

    With the tokens first, masks (N, S) have to be turned, for which the probe must know where the examples are.
    """
    if traits.mask == "none" or not traits.tokens_first:
        return ""
    if traits.statistics and traits.draws != "none":
        return "with batch statistics and random numbers, no experiment tells where the examples are"
    if traits.experts and any(examples == length for examples, length in traits.batches):
        return "with as many examples as tokens, the order in which rows reach an expert isn't known"
    return ""


# --- drawing traits -------------------------------------------------------------------------------------------------


class Draw:
    """Draws of traits."""

    def __init__(self, generator: np.random.Generator):
        self.generator = generator

    def chance(self, share: float) -> bool:
        return bool(self.generator.random() < share)

    def among(self, **weights: float) -> str:
        """Return a name, which has underscores for spaces, by its weight."""
        names = list(weights)
        shares = np.array(list(weights.values()), dtype=float)
        return str(self.generator.choice(names, p=shares / shares.sum())).replace("__", " ")

    def between(self, low: int, high: int) -> int:
        return int(self.generator.integers(low, high + 1))


def random_traits(generator: np.random.Generator) -> Traits:
    """Return traits, each of which may be combined with most others."""
    draw = Draw(generator)
    domain = draw.among(vectors=2, images=2, numbers=3, tokens=4)
    sequence = domain in ("numbers", "tokens")
    items = "examples"
    if sequence:
        items = draw.among(examples=1, tokens=2)
    elif domain == "images":
        items = draw.among(examples=1, pixels=2)
    traits: dict[str, Any] = {"domain": domain, "items": items}
    traits |= _places(draw, domain, items)
    traits |= _language(draw, domain, items)
    traits |= _output(draw, traits)
    traits |= _sizes(draw, traits)
    traits |= _layer(draw, traits)
    traits |= _passes(draw, traits)
    traits |= _inputs(draw, traits)
    traits |= _containers(draw, traits)
    return Traits(**traits)


def _places(draw: Draw, domain: str, items: str) -> dict[str, Any]:
    """Return layouts of inputs and outputs."""
    if domain == "vectors":
        return {"inputs": "ND", "layout": draw.among(NC=9, CN=1)}
    if domain == "images":
        inputs = draw.among(NDHW=2, NHWD=1)
        layout = draw.among(NC=9, CN=1) if items == "examples" else draw.among(NCHW=4, NHWC=2, CNHW=0.3)
        return {"inputs": inputs, "layout": layout}
    inputs = draw.among(NSD=2, SND=1)
    if items == "examples":
        return {"inputs": inputs, "layout": draw.among(NC=9, CN=1)}
    if inputs == "NSD":
        return {"inputs": inputs, "layout": draw.among(NSC=5, NCS=3, CNS=0.4, SNC=0.4)}
    return {"inputs": inputs, "layout": draw.among(SNC=5, NSC=0.5, NCS=0.5, CNS=0.4, SCN=0.4)}


def _language(draw: Draw, domain: str, items: str) -> dict[str, Any]:
    """Return what the targets are and what tokens see."""
    mixing = draw.among(all=3, earlier=3, none=1)
    if domain != "tokens" or items != "tokens" or draw.chance(0.4):
        return {"mixing": mixing, "targets": draw.among(classes=4, none=1)}
    mixing = draw.among(all=1, earlier=2)
    loss = draw.among(none=3, shifted=1, own=0.5)
    targets = draw.among(ids=4, ahead=1, classes=1, none=1)
    if loss == "shifted" and targets == "ahead":
        targets = "ids"
    return {"mixing": mixing, "targets": targets, "loss": loss}


def _output(draw: Draw, traits: dict[str, Any]) -> dict[str, Any]:
    """Return what the output holds."""
    if traits["targets"] in ("ids", "ahead") or traits.get("loss", "none") != "none":
        own = traits.get("loss", "none") != "none"
        return {"kind": "logits" if own else draw.among(logits=4, softmax=1, log_softmax=1)}
    if draw.chance(0.25):  # a single number
        kind = draw.among(logits=4, sigmoid=4, sigmoid__by__hand=0.5, logsigmoid=1, logsigmoid__by__hand=0.3)
        return {"kind": kind, "squeezed": draw.chance(0.5), "single": True}
    if traits["targets"] == "classes" and draw.chance(0.05):
        return {"kind": draw.among(logits=1, sigmoid=1), "several": True}
    names = {"softmax": 2, "softmax__by__hand": 1, "log_softmax": 1, "log_softmax__by__hand": 0.5}
    return {"kind": draw.among(logits=6, **names, log__of__softmax=0.5, sigmoid=0.4)}


def _sizes(draw: Draw, traits: dict[str, Any]) -> dict[str, Any]:
    """Return sizes, some of which coincide."""
    own = {
        "N": draw.between(4, 7),
        "S": draw.between(3, 7),
        "D": draw.between(3, 6),
        "U": draw.between(4, 8),
        "C": draw.between(2, 6),
        "H": draw.between(2, 5),
        "W": draw.between(2, 5),
    }
    if traits["domain"] == "tokens":
        own["D"] = draw.between(6, 9)
    if traits["targets"] in ("ids", "ahead") or traits.get("loss", "none") != "none":
        own["C"] = own["D"]
    for pair in ("SC", "HW", "NS", "HC", "NC", "UC", "NU", "SU"):
        if draw.chance(0.08):
            own[pair[0]] = own[pair[1]]
    own["N"], own["S"] = max(own["N"], 3), max(own["S"], 2)
    if traits.pop("single", False):
        own["C"] = 1
    first = own["N"], own["S"]
    second = (draw.between(3, 6), draw.between(2, 7) if draw.chance(0.3) else own["S"])
    layout = traits["layout"]
    if traits.get("squeezed"):
        layout = layout.replace("C", "")
    return {"sizes": own, "batches": (first, second), "layout": layout}


def _layer(draw: Draw, traits: dict[str, Any]) -> dict[str, Any]:
    """Return what the layer is."""
    activation = draw.among(relu=3, gelu=2, tanh=1, abs=1, softsign=0.7)
    linear = draw.among(last=4, einsum=1, conv=1)
    if traits["domain"] == "vectors":
        linear = draw.among(last=4, einsum=1, left=0.5)
    experts = traits["domain"] != "images" and draw.chance(0.1)
    loops = 2 if not experts and draw.chance(0.15) else 1
    function = draw.chance(0.4)
    own = {
        "activation": activation,
        "linear": "last" if experts else linear,
        "experts": experts,
        "loops": loops,
    }
    own |= {"function": function, "call": draw.between(1, loops)}
    at = "hidden" if activation == "softsign" or draw.chance(0.3) else "act"
    return own | {"at": at, "default": at == "act" and draw.chance(0.2)}


def _passes(draw: Draw, traits: dict[str, Any]) -> dict[str, Any]:
    """Return what a pass changes and draws, and how much fits in memory."""
    state = draw.among(none=14, counter=1, list=1, tensor=1, array=1, buffer=1, outside=0.4)
    draws = draw.among(none=14, dropout=1, rare=1, noise=1, python=0.5, numpy=0.5, fresh=0.3)
    if traits["inputs"] in ("ND", "NSD") and traits.get("loss", "none") == "none" and draw.chance(0.05):
        state = "cache"
    statistics = draw.chance(0.1)
    blocks = draw.between(1, 3) if draw.chance(0.5) else 0
    return {"state": state, "draws": draws, "statistics": statistics, "blocks": blocks}


def _inputs(draw: Draw, traits: dict[str, Any]) -> dict[str, Any]:
    """Return the form of batches and masks."""
    sequence, inputs = traits["domain"] in ("numbers", "tokens"), traits["inputs"]
    ignored = traits["targets"] != "none" and not traits.get("several") and draw.chance(0.3)
    flat = (
        traits["targets"] == "classes" and traits["items"] == "tokens" and not ignored and draw.chance(0.05)
    )
    own: dict[str, Any] = {"ignored": ignored, "flat": flat and not traits.get("several")}
    own["double"] = traits["domain"] != "tokens" and draw.chance(0.1)
    if traits["state"] == "cache":
        return own | {"named": True}
    if not sequence or traits["mixing"] == "none" or draw.chance(0.5):
        return own | {"named": draw.chance(0.3)}
    mask = draw.among(flags=3, added=1, keys=1, added__keys=1)
    name = draw.among(attention_mask=3, key_padding_mask=1, mask=1)
    if traits.get("loss", "none") != "none":
        name = "attention_mask"
    if inputs == "SND":
        mask = "flags"
        own["mask_layout"] = draw.among(NS=1, SN=1)
    counts = name == "attention_mask" or (name == "mask" and draw.chance(0.5))
    named = draw.chance(0.75)
    return own | {"mask": mask, "mask_name": name, "counts": counts, "left": draw.chance(0.4), "named": named}


def _containers(draw: Draw, traits: dict[str, Any]) -> dict[str, Any]:
    """Return the name of the model and what it returns."""
    name = draw.among(Net=3, TinyForCausalLM=1, XLNetLMHeadModel=1, GPT2LMHeadModel=0.5)
    own = {"name": name, "wrapped": draw.chance(0.2)}
    if traits.get("loss", "none") != "none" or draw.chance(0.6):
        return own
    return own | {
        "container": draw.among(
            logits__first=1,
            hidden__first=1,
            loss__first=1,
            losses__first=1,
            dict=2,
            unnamed__dict=1,
            dataclass=1,
            unnamed__dataclass=0.5,
        )
    }


def cases(seeds: range) -> Iterator[Case]:
    """Yield the cases of some seeds."""
    return map(random_case, seeds)
