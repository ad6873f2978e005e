"""Random small models: what they can be like, and a module that has such traits.

Layouts are written as letters, one for each dimension: N examples, S tokens, H and W pixels, C classes, U units.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORED = -100
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
            count = next(OUTSIDE) % 7  # far from numbers at which sigmoids are 1
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
