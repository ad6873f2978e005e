"""What is measured on logits, item by item: an item is an example, or a token that counts.

Metrics are functions of the logits of several levels at once (L, n, K), of targets (n,), and of the unperturbed
logits (1, n, K), to (L, n). Users' own are called level by level. Sums are float64. Large logits are scored in
pieces, some items at a time: all that is read off a piece is had while the processor's cache holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from nearzero.errors import InputError
from nearzero.torch_models.batches import IGNORED, Batch

__all__ = ["METRICS", "Items", "Metric", "Metrics", "Outputs", "Scorer", "choose_metrics"]

# --- items ---


@dataclass(frozen=True, eq=False)
class Items:
    """The items of one batch that count.

    Attributes:
        batch: where they are from.
        target: (n,), or (n, ...) if each has several; None if there are none.
        place: (n, 2) int64, the example in the batch, and the token in it whose logits they are (0 where there
            are none).
        number: (n,) int64, the same as the number of a row, where all logits of the batch are in rows.
    """

    batch: Batch
    target: Tensor | None
    place: Tensor
    number: Tensor

    @classmethod
    def of(cls, batch: Batch, logits: Tensor, causal: bool) -> Items:
        """Which items of a batch count, by the shape of its logits.

        Args:
            batch: the batch.
            logits: of the model.
            causal: whether the logits at a token are of the next token.

        Raises:
            InputError: targets or a mask that don't fit the logits.
        """
        shape = tuple(_classes_last(logits, batch.target).shape[:-1])
        if causal:
            if len(shape) != 2:
                raise InputError(
                    f"causal=True needs logits (batch, tokens, classes); got {tuple(logits.shape)}; give causal=False"
                )
            shape = (shape[0], shape[1] - 1)
        target = _fitted(batch.target, shape, logits, causal)
        chosen = torch.ones(shape, dtype=torch.bool, device=logits.device)
        mask = batch.decoder_mask if batch.two_sided else batch.mask
        if mask is not None:
            chosen &= _on_items(mask, shape, causal)
        if target is not None and not target.is_floating_point() and target.shape == shape:
            chosen &= target != IGNORED
        place = chosen.reshape(shape[0], -1).nonzero()  # tokens of images in one row
        whole = bool(chosen.all())
        if target is not None:
            target = target.flatten(0, len(shape) - 1) if whole else target[chosen]
        rows = prod(shape[1:]) + causal  # of an example; the last token's logits are of none that is there
        return cls(batch, target, place, place[:, 0] * rows + place[:, 1])

    def __len__(self) -> int:
        return len(self.place)

    def logits(self, logits: Tensor) -> Tensor:
        """Return those of the items, (n, K)."""
        return self.rows(self.flat(logits), slice(0, len(self)))

    def flat(self, logits: Tensor) -> Tensor:
        """Return all logits of the batch in rows, as a view where they lie so; one alone is the second of two."""
        last = _classes_last(logits, self.batch.target)
        rows = last.reshape(-1, last.shape[-1])
        return F.pad(rows, (1, 0)) if rows.shape[1] == 1 else rows

    def at(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits (B, K) of one token of each example of a batch; tokens (B,) as `place` numbers them."""
        flat = self.flat(logits)
        return flat.view(len(tokens), -1, flat.shape[-1])[torch.arange(len(tokens)), tokens]

    def rows(self, flat: Tensor, part: slice) -> Tensor:
        """Return the rows of some items, as a view where these follow each other."""
        numbers = self._numbers[part]
        if not len(numbers) or int(numbers[-1] - numbers[0]) >= len(numbers):
            return flat.index_select(0, self.number[part])
        return flat[int(numbers[0]) : int(numbers[-1]) + 1]

    @cached_property
    def _numbers(self) -> npt.NDArray[np.int64]:
        """Their numbers in the processor's memory."""
        return np.asarray(self.number.cpu().numpy())

    def check_classes(self, classes: int) -> None:
        """Refuse targets that are no classes.

        Raises:
            InputError: several targets for an item, a target below 0, or one beyond the last class.
        """
        target = self.target
        if target is None or not len(target):
            return
        if target.ndim > 1:
            raise InputError(
                f"there must be one target for each item, its class; got {tuple(target.shape)}; for other targets give "
                "metrics={'name': function of (logits, target)}"
            )
        low, high = int(target.min()), int(target.max())
        if low < 0 or high >= classes:
            raise InputError(
                f"targets must be classes from 0 to {classes - 1}, as the logits have them (or {IGNORED}, which is "
                f"ignored); got values from {low} to {high}"
            )


def _classes_last(logits: Tensor, target: Tensor | None) -> Tensor:
    """Logits with their classes on the last dimension: on the second where targets or images say so."""
    if logits.ndim < 2:
        return logits[..., None]
    last, second = logits.shape[:-1], (logits.shape[0], *logits.shape[2:])
    on_second = logits.ndim > 3 if target is None else target.shape == second != last
    return logits.movedim(1, -1) if on_second else logits


def _fitted(target: Tensor | None, shape: tuple[int, ...], logits: Tensor, causal: bool) -> Tensor | None:
    """Targets with the items as leading dimensions: as they are, flattened, or with dimensions of one."""
    if target is None:
        return None
    shifted = target[:, 1:] if causal and target.ndim >= 2 and target.shape[1] == shape[1] + 1 else target
    leading = shifted.shape[: len(shape)] == shape
    ones = [size for size in shifted.shape if size > 1] == [size for size in shape if size > 1]
    if shifted.numel() == prod(shape) and (leading or shifted.ndim == 1 or ones):
        return shifted.reshape(shape)
    if leading:
        return shifted
    raise InputError(
        f"targets {tuple(target.shape)} don't fit logits {tuple(logits.shape)}"
        + (", which are of the next token each" if causal else "")
        + "; prepare=... and output=... can bring them together"
    )


def _on_items(mask: Tensor, shape: tuple[int, ...], causal: bool) -> Tensor:
    """A mask of examples or tokens on the items.

    Raises:
        InputError: it has other tokens than the logits.
    """
    if causal and mask.ndim == 2:
        mask = mask[:, :-1] & mask[:, 1:]  # the token that is read, and the one that is told
    if mask.shape == shape[: mask.ndim]:
        return mask.reshape(*mask.shape, *[1] * (len(shape) - mask.ndim)).expand(shape)
    if len(shape) == 1 and mask.shape[0] == shape[0]:
        return mask.flatten(1).any(1)
    raise InputError(
        f"the mask {tuple(mask.shape)} doesn't fit logits over {shape}; prepare=... gives another, or none"
    )


# --- metrics ---


PIECE = 2**19  # logits in a piece; those of one item may be more
BLOCK = 256  # classes whose greatest logit is found first, since PyTorch's argmax is slow on processors


@dataclass(eq=False)
class Outputs:
    """Logits (L, n, K) of L levels, with what more than one metric reads off them.

    Attributes:
        logits: as the model gave them.
    """

    logits: Tensor

    @cached_property
    def predictions(self) -> Tensor:
        """(L, n): the class with the greatest logit, the first of several."""
        logits = self.logits
        if logits.device.type != "cpu" or logits.shape[-1] < 2 * BLOCK:
            return logits.argmax(-1)
        whole = logits.shape[-1] // BLOCK * BLOCK
        most = logits[..., :whole].unflatten(-1, (-1, BLOCK)).amax(-1)
        if whole < logits.shape[-1]:
            most = torch.cat([most, logits[..., whole:].amax(-1, keepdim=True)], -1)
        first = BLOCK * most.argmax(-1, keepdim=True)
        places = (first + torch.arange(BLOCK)).clamp_(max=logits.shape[-1] - 1)
        found: Tensor = first[..., 0] + logits.gather(-1, places).argmax(-1)
        return found

    @cached_property
    def log_probabilities(self) -> Tensor:
        """(L, n, K), in float32 at least."""
        logits = self.logits
        return (logits.float() if logits.dtype.itemsize < 4 else logits).log_softmax(-1)

    @cached_property
    def probabilities(self) -> Tensor:
        """(L, n, K), in float32 at least."""
        return self.log_probabilities.exp()

    @cached_property
    def impossible(self) -> Tensor | None:
        """(L, n, K): which classes have no probability at all; None if there are none."""
        found = self.log_probabilities == -torch.inf
        return found if bool(found.any()) else None


Score = Callable[[Outputs, Tensor | None, Outputs], Tensor]
Metrics = str | Callable[..., Any] | Iterable[str | Callable[..., Any]] | Mapping[str, Any] | None


def _accuracy(outputs: Outputs, target: Tensor, _: Outputs) -> Tensor:
    return outputs.predictions == target


def _agreement(outputs: Outputs, _: Tensor | None, unperturbed: Outputs) -> Tensor:
    return outputs.predictions == unperturbed.predictions


def _cross_entropy(outputs: Outputs, target: Tensor, _: Outputs) -> Tensor:
    return -_at(outputs.log_probabilities, target)


def _kl_divergence(outputs: Outputs, _: Tensor | None, unperturbed: Outputs) -> Tensor:
    each = unperturbed.log_probabilities - outputs.log_probabilities
    each.mul_(unperturbed.probabilities)
    if unperturbed.impossible is not None:
        each.masked_fill_(unperturbed.impossible, 0.0)  # 0 log 0
    return each.sum(-1)


def _margin(outputs: Outputs, target: Tensor | None, unperturbed: Outputs) -> Tensor:
    logits, place = outputs.logits, unperturbed.predictions[0] if target is None else target
    others = logits.scatter(-1, place.expand(logits.shape[:-1])[..., None], -torch.inf)
    return _at(logits, place) - others.amax(-1)


def _at(values: Tensor, place: Tensor) -> Tensor:
    """(L, n): of values (L, n, K), those at places (n,) of the last dimension."""
    return values.gather(-1, place.expand(values.shape[:-1])[..., None])[..., 0]


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        score: the function.
        of_classes: whether it reads targets as classes.
        needs_target: whether it can't do without them.
        by_item: whether the score of an item depends on that item alone.
    """

    score: Score
    of_classes: bool = False
    needs_target: bool = False
    by_item: bool = False


METRICS: dict[str, Metric] = {
    "accuracy": Metric(_accuracy, True, True, True),  # type: ignore[arg-type]
    "agreement": Metric(_agreement, by_item=True),
    "cross_entropy": Metric(_cross_entropy, True, True, True),  # type: ignore[arg-type]
    "margin": Metric(_margin, True, by_item=True),
    "kl_divergence": Metric(_kl_divergence, by_item=True),
}
# What a result calls other things.
TAKEN = {
    "layer", "family", "level", "item", "sequence", "token", "kind", "type", "activation", "units", "unit_axis",
    "dead_units", "offset", "range", "method", "reason",
}  # fmt: skip


def choose_metrics(wanted: Metrics, target: Tensor | None) -> dict[str, Metric]:
    """The metrics by name: those asked for; else accuracy and agreement, or agreement and KL divergence.

    Raises:
        InputError: an unknown name, something that can't be called, or targets that a metric needs and that
            aren't there or aren't whole numbers.
    """
    if wanted is None:
        wanted = ("accuracy", "agreement") if target is not None else ("agreement", "kl_divergence")
    chosen = {name: _metric(name, each) for name, each in _named(wanted).items()}
    if not chosen:
        raise InputError(f"metrics must name at least one of {', '.join(METRICS)}; got none")
    for name, metric in chosen.items():
        if name in TAKEN:
            raise InputError(
                f"a metric can't be called {name!r}, as something else in the result is; rename it"
            )
        _check_targets(name, metric, target)
    return chosen


def _named(wanted: Any) -> dict[str, Any]:
    """Metrics by name: names and functions, which go by their own."""
    if isinstance(wanted, Mapping):
        return dict(wanted)
    if isinstance(wanted, str) or callable(wanted):
        wanted = (wanted,)
    if not isinstance(wanted, Iterable):
        raise InputError(
            f"metrics must be names, functions of (logits, target), or a mapping; got {wanted!r}"
        )
    return {
        getattr(each, "__name__", type(each).__name__) if callable(each) else each: each for each in wanted
    }


def _metric(name: Any, value: Any) -> Metric:
    if not isinstance(name, str):
        raise InputError(f"metrics are called by texts; got {name!r}")
    if callable(value):
        return Metric(_users(name, value))
    if isinstance(value, str) and value in METRICS:
        return METRICS[value]
    raise InputError(
        f"unknown metric {value!r}: known are {', '.join(METRICS)}; a mapping of names to functions of "
        "(logits, target) adds others"
    )


def _check_targets(name: str, metric: Metric, target: Tensor | None) -> None:
    if metric.needs_target and target is None:
        raise InputError(
            f"metric {name!r} needs targets, and the batches have none; give (inputs, targets), or for a language "
            'model "labels" beside its inputs. agreement and kl_divergence need none'
        )
    if metric.of_classes and target is not None and target.is_floating_point():
        kind = str(target.dtype).removeprefix("torch.")
        raise InputError(
            f"metric {name!r} needs whole numbers as targets, the classes; got {kind}; convert them (y.long()), or "
            "give metrics={'name': function of (logits, target)}"
        )


def _users(name: str, function: Callable[..., Any]) -> Score:
    """A user's metric: (n,), or one number for all items, which then stands for each of them."""

    def score_level(logits: Tensor, target: Tensor | None) -> Tensor:
        before = logits._version
        value = _as_scores(function(logits, target), logits)
        if logits._version != before:
            raise InputError(f"metric {name!r} writes into the logits that it's given; let it work on a copy")
        if not isinstance(value, Tensor) or value.shape not in ((), (len(logits),)):
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"metric {name!r} must return one number, or one for each of {len(logits)} items; got {got}"
            )
        return value.expand(len(logits))

    return lambda outputs, target, _: torch.stack([score_level(each, target) for each in outputs.logits])


def _as_scores(value: Any, like: Tensor) -> Any:
    """Numbers as a tensor that NumPy knows the type of; anything else as it is."""
    try:
        scores = torch.as_tensor(value, device=like.device)
    except (TypeError, ValueError, RuntimeError):  # None, texts, lists that are ragged
        return value
    return scores.float() if scores.is_floating_point() and scores.dtype.itemsize < 4 else scores


# Some items of a batch, by number, with their targets and unperturbed logits (1, r, K).
_Piece = tuple[slice, Tensor | None, Outputs]


class Scorer:
    """Scores logits under perturbations, item by item, against the unperturbed ones of the same batch.

    Args:
        items: of the batch.
        logits: of the model, unperturbed.

    Attributes:
        items, logits: as given.
        own: scores (1, n) of the unperturbed logits themselves, by metric, once they're known.
    """

    def __init__(self, items: Items, logits: Tensor) -> None:
        self.items, self.logits = items, logits
        self.own: dict[str, Tensor] = {}
        flat = items.flat(logits)
        count, size = len(items), max(1, PIECE // flat.shape[1])
        self._pieces = [
            self._piece(flat, slice(first, min(first + size, count)))
            for first in range(0, max(1, count), size)
        ]
        self._whole = self._pieces if len(self._pieces) == 1 else [self._piece(flat, slice(0, count))]

    def score(
        self, metrics: Mapping[str, Metric], logits: Sequence[Tensor], shifts: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the score of each item at each of L levels, (L, n), by metric.

        Args:
            metrics: what is measured.
            logits: of each level, as the model gave them.
            shifts: (L, K), taken out of them first.
        """
        flats = list(map(self.items.flat, logits))
        scores: dict[str, list[Tensor]] = {name: [] for name in metrics}
        for pieces, by_item in ((self._pieces, True), (self._whole, False)):
            some = {name: each for name, each in metrics.items() if each.by_item is by_item}
            for part, target, unperturbed in pieces if some else ():
                rows = [self.items.rows(each, part) for each in flats]
                outputs = Outputs(torch.stack(rows) if len(rows) > 1 else rows[0][None])
                if shifts is not None:
                    outputs = Outputs(outputs.logits - shifts[:, None])
                for name, metric in some.items():
                    scores[name].append(metric.score(outputs, target, unperturbed).detach())
        return {name: torch.cat(each, 1) if len(each) > 1 else each[0] for name, each in scores.items()}

    def _piece(self, flat: Tensor, part: slice) -> _Piece:
        target = self.items.target
        rows = self.items.rows(flat, part)[None]
        return part, None if target is None else target[part], Outputs(rows)
