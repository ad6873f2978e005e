"""The metrics of a random model under perturbations, in plain PyTorch.

Passes run on copies of the model, with a hook at the layer. Nothing of nearzero is used. The traits say what the
probe has to find out: where classes, examples, tokens and units are, what the output holds, and what counts.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from random_models import ACTIVATIONS, IGNORED, ITEMS, Net, Traits, Wrapper, held_by, permuted, taken
from torch import Tensor, nn

LEVELS = {"offset": (-0.4, 0.3), "scale": (0.5, 2.0), "clip": (0.4, 0.7)}
LEAST = {
    torch.float32: -103.98,
    torch.float64: -745.2,
}  # log p of a probability of 0, as the documentation has it
NEAR = 1e-5  # as a share of the greatest logit: two logits that differ by less nearly tie


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
    """Return which rows of the layer's values count, of the layout of the grid; of next tokens, those with one."""
    x = batch.keywords["x"] if traits.named else batch.arguments[0]
    shape = [x.shape[traits.inputs.index(letter)] for letter in traits.grid]
    counted, kept = torch.ones(shape, dtype=torch.bool), torch.ones(shape, dtype=torch.bool)
    if batch.mask is not None:
        counted &= batch.mask
    if batch.target is not None and not traits.flat and not traits.several:
        of_target = batch.target != IGNORED
        kept &= of_target.reshape(*of_target.shape, *[1] * (len(shape) - of_target.ndim))
    if not shifted(traits):
        return counted & kept
    following = torch.zeros(shape, dtype=torch.bool)
    following[:, :-1] = counted[:, :-1] & counted[:, 1:] & kept[:, 1:]
    return following


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
    """Return whether logits are compared with the next token; a cache adds the mean of all tokens to each."""
    ahead_unseen = traits.mixing == "earlier" and traits.state != "cache"
    return traits.loss == "shifted" or (traits.loss == "none" and traits.targets == "ids" and ahead_unseen)


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


def right_answer(
    traits: Traits, model: nn.Module, batches: list[KnownBatch]
) -> dict[tuple[str, float], Expected]:
    """Return the metrics by family and level; ("", 0) is no perturbation."""
    ranges = unit_ranges(traits, model, batches)
    before = [flat_logits(traits, batch, passed(traits, model, batch)) for batch in batches]
    targets = (
        None if traits.targets == "none" else torch.cat([flat_target(traits, batch) for batch in batches])
    )
    expected = {("", 0.0): scored(torch.cat(before), torch.cat(before), targets)}
    for family, level in ((family, level) for family, levels in LEVELS.items() for level in levels):
        change = ranges.change(traits, family, level)
        after = [flat_logits(traits, batch, passed(traits, model, batch, change)) for batch in batches]
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
