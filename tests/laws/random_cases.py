"""Random cases: a model, data, what decides how they are to be read, and why that may be ambiguous.

`random_case` draws the traits of a case from a seed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from random_models import (
    ACTIVATIONS,
    IGNORED,
    ITEMS,
    KEYS,
    Cache,
    Plain,
    Traits,
    WithAttentionMask,
    WithCache,
    WithLoss,
    WithMask,
    WithPaddingMask,
    Wrapper,
    held_by,
    permuted,
    taken,
)
from right_answers import KnownBatch, logits_of, passed, shifted
from torch import Tensor, nn


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
    whole = traits.statistics or traits.draws != "none" or traits.state == "cache"
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
    # the refusal that names it says that another argument is needed where the tokens come first
    unturned = whole and traits.tokens_first and traits.items == "tokens" and "prepare" not in given
    none = traits.several or traits.squeezed
    prepared = {id(batch.item): batch for batch in batches}

    def prepare(item: Any) -> tuple[Any, Any, Any]:
        batch = prepared[id(item)]
        inputs = batch.keywords if traits.named else batch.arguments
        turned = traits.tokens_first and traits.layout.find("S") < traits.layout.find("N")
        if whole and "batch_axis" in given and turned:  # in the order of the logits
            return inputs, batch.given, None if batch.mask is None else batch.mask.t()
        target = batch.target
        if target is not None and traits.several:
            target = permuted(target, ITEMS[traits.items] + "C", first)
        return inputs, target, batch.mask

    # with flattened targets, batches aren't cut, and `class_axis` is that of the output as it is
    raw = traits.flat and not layout.startswith("N")
    return {
        "output": output,
        "output_kind": held_by(traits.kind),
        "class_axis": (layout.index("C") or None) if raw else "none" if none else first.index("C"),
        "causal": None if unturned and shifted(traits) else shifted(traits),
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
    if (traits.mask == "none" and not traits.ignored) or not traits.tokens_first:
        return ""
    if traits.statistics and traits.draws != "none":
        return "with batch statistics and random numbers, no experiment tells where the examples are"
    counts = {traits.blocks, *(examples for examples, _ in traits.batches)}  # blocks are batches of their own
    if traits.experts and any(length in counts for _, length in traits.batches):
        return "with as many examples as tokens, the order in which rows reach an expert isn't known"
    return ""


# --- the data ---


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
    if traits.experts:  # the first one gets the first row
        x.flatten()[0] = 0 if traits.domain == "tokens" else 1
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
    if (inputs == "NSD") != (traits["layout"].find("N") < traits["layout"].find("S")):
        flat = False  # targets in the inputs' order don't have that of such logits
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
