"""Metrics of PyTorch logits, item by item; an item is an example, or a token that counts.

A metric is a function from the logits of L levels (L, n, K), targets (n,) and unperturbed logits (1, n, K) to
scores (L, n). A user's own metric is called level by level. Large logits are scored in pieces of some items
at a time: all metrics of a piece are computed while it is in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nearzero.errors import InputError, did_you_mean
from nearzero.evaluators.metrics import PERPLEXITY, by_name, check_names
from nearzero.evaluators.metrics.own import OwnMetric
from nearzero.torch_models.assumptions.outputs import OutputReading, are_labels, are_one_hot
from nearzero.torch_models.batches import IGNORED, Batch, type_of

__all__ = [
    "KEPT",
    "METRICS",
    "NOT_FINITE",
    "Items",
    "Metric",
    "Metrics",
    "Outputs",
    "Scorer",
    "choose_metrics",
    "find_not_finite",
    "name_metrics",
]

# --- items ---

CLASSES_LAST = OutputReading()


@dataclass(frozen=True, eq=False)
class Items:
    """Hold the items of one batch that count.

    Attributes:
        batch: the batch.
        target: (n,), or (n, ...) if an item has several targets; None if there are no targets.
        given: the targets for metrics of the user's own: (n, 1) where they have the output's own shape and it is one
            number for each item.
        position: (n, 2) int64, the index of the example in the batch and of the token in the example (0
            without tokens) whose logits belong to the item.
        number: (n,) int64, the index of the item's row if all logits of the batch are laid out in rows.
        reading: turns what the model returned into logits.
    """

    batch: Batch
    target: Tensor | None
    given: Tensor | None
    position: Tensor
    number: Tensor
    reading: OutputReading

    @classmethod
    def of(cls, batch: Batch, logits: Tensor, causal: bool, reading: OutputReading = CLASSES_LAST) -> Items:
        """Return the items of a batch that count, as the shape of its logits, its targets and its mask say.

        Args:
            batch: the batch.
            logits: the logits of the model.
            causal: True if the logits at a token predict the next token.
            reading: turns the model's output into logits.

        Raises:
            InputError: targets or a mask that don't fit the logits, or logits that contradict the reading.
        """
        reading.check(logits)
        shape = tuple(reading.classes_last(logits).shape[:-1])
        if causal:
            if len(shape) != 2:
                raise InputError(
                    f"causal=True needs logits (batch, tokens, classes); got {tuple(logits.shape)}; give causal=False"
                )
            shape = (shape[0], shape[1] - 1)
        target = _fitted(batch.target, shape, logits, causal)
        counts = torch.ones(shape, dtype=torch.bool, device=logits.device)
        mask = batch.decoder_mask if batch.two_sided else batch.mask
        if mask is not None:
            labels = reading.label_axis
            places = shape if labels is None else (*shape[:labels], *shape[labels + 1 :])
            on_places = _on_items(mask, places, causal)
            counts &= on_places if labels is None else on_places.unsqueeze(labels)
        if target is not None and not target.is_floating_point() and target.shape == shape:
            counts &= target != IGNORED
        position = counts.reshape(shape[0], -1).nonzero()  # pixels count as tokens in one row
        if target is not None:
            target = target.flatten(0, len(shape) - 1) if bool(counts.all()) else target[counts]
        given = target
        own_shape = None if batch.target is None else batch.target.shape
        if target is not None and target.ndim == 1 and own_shape == logits.shape != shape:
            given = target[:, None]
        rows = prod(shape[1:]) + causal  # per example; the last token's logits are of no item
        return cls(batch, target, given, position, position[:, 0] * rows + position[:, 1], reading)

    def __len__(self) -> int:
        return len(self.position)

    def logits(self, logits: Tensor) -> Tensor:
        """Return the rows of the logits that belong to the items, (n, K)."""
        return self.rows(self.flat(logits), slice(0, len(self)))

    def flat(self, logits: Tensor) -> Tensor:
        """Return all logits of the batch in rows, as a view where possible; a single logit becomes (0, logit)."""
        return self.reading.logits(self.returned(logits))

    def returned(self, logits: Tensor) -> Tensor:
        """Return what the model returned in rows, as a view where possible."""
        last = self.reading.classes_last(logits)
        return last.reshape(-1, last.shape[-1])

    def columns(self, logits: Tensor) -> slice | int:
        """Return which columns of `flat` the model returned, see `Outputs`."""
        if self.reading.class_axis is None or logits.ndim < 2:
            return 1
        return slice(1 if self.reading.classes_last(logits).shape[-1] == 1 else 0, None)

    def at(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits (B, K) of one token of each example; tokens (B,) are counted as in `position`."""
        flat = self.flat(logits)
        return flat.view(len(tokens), -1, flat.shape[-1])[torch.arange(len(tokens)), tokens]

    def pieces(self, classes: int) -> list[slice]:
        """Return slices of the items, each of which has few enough logits for the processor's cache."""
        count, size = len(self), max(1, PIECE // classes)
        return [slice(first, min(first + size, count)) for first in range(0, max(1, count), size)]

    def rows(self, flat: Tensor, part: slice) -> Tensor:
        """Return the rows of a slice of the items, as a view where these rows are consecutive."""
        numbers = self._numbers[part]
        if not len(numbers) or int(numbers[-1] - numbers[0]) >= len(numbers):
            return flat.index_select(0, self.number[part])
        return flat[int(numbers[0]) : int(numbers[-1]) + 1]

    @cached_property
    def _numbers(self) -> npt.NDArray[np.int64]:
        """Return `number` as an array in main memory."""
        return np.asarray(self.number.cpu().numpy())

    def check_finite(self, logits: Tensor) -> None:
        """Raise an error unless the unperturbed logits of each item can be ranked.

        A logit of -inf leaves a class out, as models do with classes that can't be.

        Raises:
            InputError: a logit that is NaN or +inf, or no finite one.
        """
        flat = self.flat(logits)
        if _sum_is_finite(flat):
            return
        pieces = self.pieces(flat.shape[1])
        wrong = sum(int((~self.rows(flat, part).amax(-1).isfinite()).sum()) for part in pieces)
        if wrong:
            raise InputError(
                f"without a perturbation, {wrong} of {len(self)} items in a batch with inputs {self.batch.describe()} "
                "have logits that are NaN or infinite; look for divergence, or overflow in half precision, or leave "
                "these items out by a mask"
            )

    def with_classes(self, classes: int) -> Items:
        """Return the items with targets that are classes; of two classes, they may be floating-point numbers 0 and 1.

        Raises:
            InputError: several targets for an item, a target that is no whole number, or one that is no class.
        """
        target = self.target
        if target is None or not len(target):
            return self
        if target.ndim > 1:
            one_hot = target.shape[1:] == (classes,) and are_one_hot(target, 1)
            alone = (
                "they are 1 for one class each: give the classes, y.argmax(1)"
                if one_hot
                else "for other targets give metrics={'name': function of (logits, target)}"
            )
            raise InputError(
                f"there must be one target for each item, its class; got {tuple(target.shape)}; {alone}, or "
                "class_axis='none' if each number is a logit of its own"
            )
        if target.is_floating_point():
            if classes != 2 or not are_labels(target):
                raise InputError(
                    f"targets must be classes, whole numbers from 0 to {classes - 1}; got {type_of(target)}, as only "
                    "labels of two classes may be, if each is 0 or 1; convert classes (y.long()), or give "
                    "metrics={'name': function of (logits, target)}"
                )
            return replace(self, target=target.long())
        low, high = int(target.min()), int(target.max())
        if low < 0 or high >= classes:
            raise InputError(
                f"targets must be classes from 0 to {classes - 1}, as the logits have them (or {IGNORED}, which is "
                f"ignored); got values from {low} to {high}"
            )
        return self


def _fitted(target: Tensor | None, shape: tuple[int, ...], logits: Tensor, causal: bool) -> Tensor | None:
    """Return targets with the items as leading dimensions.

    Targets may come in this form, flattened, or with additional dimensions of size 1. Causal ones may have
    one token more than the items: the first, which isn't predicted.

    Raises:
        InputError: the targets don't fit the logits.
    """
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
        + (", which predict the next token each" if causal else "")
        + "; prepare=... and output=... can change either"
    )


def _on_items(mask: Tensor, shape: tuple[int, ...], causal: bool) -> Tensor:
    """Return a mask of examples or tokens as a mask of the items.

    Raises:
        InputError: the mask has other tokens than the logits.
    """
    if causal and mask.ndim == 2:
        mask = mask[:, :-1] & mask[:, 1:]  # the token that is read and the token that is predicted
    if mask.shape == shape[: mask.ndim]:
        return mask.reshape(*mask.shape, *[1] * (len(shape) - mask.ndim)).expand(shape)
    if len(shape) == 1 and mask.shape[0] == shape[0]:
        return mask.flatten(1).any(1)
    raise InputError(
        f"the mask {tuple(mask.shape)} doesn't fit logits over {shape}; prepare=... can give another mask, or none"
    )


# --- metrics ---


PIECE = 2**19  # logits in a piece; a single item may have more
KEPT = 2**25  # unperturbed logits of which the probabilities are kept from level to level
BLOCK = 256  # classes whose greatest logit is computed first, since PyTorch's argmax is slow on the CPU


@dataclass(eq=False)
class Outputs:
    """Hold the logits (L, n, K) of L levels, and cache the quantities that several metrics need.

    Attributes:
        logits: the logits; a single logit is the second of two classes, and that of the first is 0.
        columns: those that the model returned; a number if it returned one number per item.
        own: (L, n, K), what the model returned, if that isn't the logits.
        is_block: whether the items are a part of a batch, which memory doesn't hold.
        not_finite: (L, n), True for items whose logits can't be ranked, see `find_not_finite`; None if there
            are none.
    """

    logits: Tensor
    columns: slice | int = field(default_factory=lambda: slice(None))
    not_finite: Tensor | None = None
    own: Tensor | None = None
    is_block: bool = False

    @property
    def returned(self) -> Tensor:
        """Return the logits as the model returned them, (L, n, K), or (L, n) for one number per item."""
        if self.own is not None:
            return self.own[..., 0] if self.columns == 1 else self.own
        return self.logits[..., self.columns]

    @cached_property
    def predictions(self) -> Tensor:
        """Return the class with the greatest logit, the first one in a tie, (L, n); -1 where logits aren't finite."""
        greatest = self._greatest()
        return greatest if self.not_finite is None else greatest.masked_fill(self.not_finite, -1)

    def _greatest(self) -> Tensor:
        logits = self.logits
        if logits.device.type != "cpu" or logits.shape[-1] < 2 * BLOCK:
            return logits.argmax(-1)
        whole = logits.shape[-1] // BLOCK * BLOCK
        greatest = logits[..., :whole].unflatten(-1, (-1, BLOCK)).amax(-1)
        if whole < logits.shape[-1]:
            greatest = torch.cat([greatest, logits[..., whole:].amax(-1, keepdim=True)], -1)
        first = BLOCK * greatest.argmax(-1, keepdim=True)  # of the block with the greatest logit
        classes = (first + torch.arange(BLOCK)).clamp_(max=logits.shape[-1] - 1)
        predictions: Tensor = first[..., 0] + logits.gather(-1, classes).argmax(-1)
        return predictions

    @cached_property
    def log_probabilities(self) -> Tensor:
        """Return log softmax(logits), (L, n, K), in float32 or float64."""
        logits = self.logits
        return (logits.float() if logits.dtype.itemsize < 4 else logits).log_softmax(-1)

    @cached_property
    def probabilities(self) -> Tensor:
        """Return softmax(logits), (L, n, K), in float32 or float64."""
        return self.log_probabilities.exp()

    @cached_property
    def impossible(self) -> Tensor | None:
        """Return a mask of the classes with probability 0, (L, n, K); None if there are none."""
        mask = self.log_probabilities == -torch.inf
        return mask if bool(mask.any()) else None


def find_not_finite(logits: Tensor, unperturbed: Tensor) -> Tensor | None:
    """Return True for each item that has a logit that is NaN or infinite, (L, n); None if it is known that none has.

    A class whose unperturbed logit is -inf is left out, and may stay so. On the processor a sum tells in a
    hundredth of the time of the metrics that there are none. Other devices would have to wait for it.

    Args:
        logits: (L, n, K).
        unperturbed: (1, n, K), which can be ranked.
    """
    if logits.device.type == "cpu" and _sum_is_finite(logits):
        return None
    return ~(logits.isfinite() | (logits == unperturbed)).all(-1)


def _sum_is_finite(logits: Tensor) -> bool:
    """Return True if the sum of all logits is finite, as it can't be if one of them is NaN or infinite."""
    return bool(logits.sum(dtype=torch.promote_types(logits.dtype, torch.float32)).isfinite())


Score = Callable[[Outputs, Tensor | None, Outputs], Tensor]
Metrics = str | Callable[..., Any] | Iterable[str | Callable[..., Any]] | Mapping[str, Any] | None


def _accuracy(outputs: Outputs, target: Tensor, _: Outputs) -> Tensor:
    return outputs.predictions == target


def _agreement(outputs: Outputs, _: Tensor | None, unperturbed: Outputs) -> Tensor:
    return outputs.predictions == unperturbed.predictions


def _cross_entropy(outputs: Outputs, target: Tensor, _: Outputs) -> Tensor:
    return -_at(outputs.log_probabilities, target)


def _kl_divergence(outputs: Outputs, _: Tensor | None, unperturbed: Outputs) -> Tensor:
    terms = unperturbed.log_probabilities - outputs.log_probabilities
    terms.mul_(unperturbed.probabilities)
    if unperturbed.impossible is not None:
        terms.masked_fill_(unperturbed.impossible, 0.0)  # 0 log 0 = 0
    return terms.sum(-1)


def _margin(outputs: Outputs, target: Tensor | None, unperturbed: Outputs) -> Tensor:
    logits, own = outputs.logits, unperturbed.predictions[0] if target is None else target
    others = logits.scatter(-1, own.expand(logits.shape[:-1])[..., None], -torch.inf)
    return _at(logits, own) - others.amax(-1)


def _at(values: Tensor, classes: Tensor) -> Tensor:
    """Return the values (L, n) of one class per item, from values (L, n, K) and classes (n,)."""
    return values.gather(-1, classes.expand(values.shape[:-1])[..., None])[..., 0]


@dataclass(frozen=True)
class Metric:
    """Hold a metric and its requirements.

    Attributes:
        score: the function.
        of_classes: True if it reads targets as classes.
        needs_target: True if it can't be computed without targets.
        by_item: True if the score of an item depends on this item only.
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


def name_metrics(wanted: Metrics) -> dict[str, Metric] | None:
    """Return the metrics that were asked for by name; None if none were.

    Args:
        wanted: names, functions, or a mapping from names to either, as in `nearzero.probing.probe`.

    Raises:
        InputError: an unknown name, a value that isn't callable, two metrics of one name, or a name that the
            result uses or that a file can't hold.
    """
    if wanted is None:
        return None
    chosen = {name: _metric(name, value) for name, value in by_name(wanted).items()}
    if not chosen:
        raise InputError(f"metrics must name at least one of {', '.join(METRICS)}; got none")
    check_names(chosen)
    return chosen


def choose_metrics(named: dict[str, Metric] | None, target: Tensor | None) -> dict[str, Metric]:
    """Return the metrics by name: those asked for; by default accuracy and agreement.

    Without targets, the default is agreement and KL divergence.

    Args:
        named: the metrics that were asked for, as `name_metrics` returns them.
        target: the targets of a batch; None if there are none.

    Raises:
        InputError: targets that a metric needs and that are missing or aren't whole numbers.
    """
    if named is None:
        default = ("accuracy", "agreement") if target is not None else ("agreement", "kl_divergence")
        named = {name: METRICS[name] for name in default}
    for name, metric in named.items():
        _check_targets(name, metric, target)
    return named


def _metric(name: Any, value: Any) -> Metric:
    if not isinstance(name, str):
        raise InputError(f"the name of a metric must be text; got {name!r}")
    if callable(value):
        return Metric(OwnMetric(name, value))
    if isinstance(value, str) and value in METRICS:
        return METRICS[value]
    known = (*METRICS, PERPLEXITY)
    raise InputError(
        f"unknown metric {value!r}: {did_you_mean(value, known)}known are {', '.join(known)}; a mapping of names to "
        "functions of (logits, target) adds others"
    )


def _check_targets(name: str, metric: Metric, target: Tensor | None) -> None:
    if metric.needs_target and target is None:
        raise InputError(
            f"metric {name!r} needs targets, and the batches have none; give (inputs, targets), or for a language "
            'model "labels" in addition to its inputs, -100 at tokens that aren\'t predicted. agreement and '
            "kl_divergence need no targets"
        )
    if metric.of_classes and target is not None and target.is_floating_point() and not are_labels(target):
        raise InputError(
            f"metric {name!r} needs whole numbers as targets, the classes; got {type_of(target)}; convert classes "
            "(y.long()), or give metrics={'name': function of (logits, target)}"
        )


NOT_FINITE = "not_finite"  # among scores, True for items whose logits can't be ranked


class Scorer:
    """Score the perturbed logits of one batch, item by item.

    Args:
        items: the items of the batch.
        logits: the unperturbed logits of the model, which agreement and other metrics refer to.

    Attributes:
        items, logits: as given.
        own: by metric, the scores (1, n) of the unperturbed logits, as far as they have been computed.
    """

    def __init__(self, items: Items, logits: Tensor) -> None:
        self.items, self.logits = items, logits
        self.own: dict[str, Tensor] = {}
        self._flat = items.flat(logits)
        self._columns = items.columns(logits)
        self._parts = items.pieces(self._flat.shape[1])
        self._unperturbed: dict[tuple[int, int], Outputs] = {}
        self._predictions: dict[tuple[int, int], Tensor] = {}

    def score(
        self, metrics: Mapping[str, Metric], logits: Sequence[Tensor], shifts: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return by metric the score of each item at each of L levels, (L, n).

        If logits of an item can't be ranked, `NOT_FINITE` is among the metrics, and True for this item.

        Args:
            metrics: the metrics.
            logits: the logits of each level, as the model returned them.
            shifts: (L, K), subtracted from the logits first.
        """
        flats = list(map(self.items.flat, logits))
        scores: dict[str, list[Tensor]] = {name: [] for name in metrics}
        not_finite: list[Tensor | None] = []
        for parts, by_item in ((self._parts, True), ([slice(0, len(self.items))], False)):
            chosen = {name: metric for name, metric in metrics.items() if metric.by_item is by_item}
            for part in parts if chosen or by_item else ():
                target, unperturbed = self._piece(part)
                target = target if by_item else self.items.given  # of metrics of the user's own
                rows = [self.items.rows(flat, part) for flat in flats]
                stacked = torch.stack(rows) if len(rows) > 1 else rows[0][None]
                stacked = stacked if shifts is None else stacked - shifts[:, None]
                found = find_not_finite(stacked, unperturbed.logits) if by_item else None
                own = None if by_item else self._own(logits, stacked, shifts)
                outputs = Outputs(stacked, self._columns, found, own, self.items.batch.is_block)
                if by_item:
                    not_finite.append(found)
                for name, metric in chosen.items():
                    scores[name].append(metric.score(outputs, target, unperturbed).detach())
                self._keep(part, unperturbed)
        if any(found is not None for found in not_finite):
            shapes = [(len(flats), len(self.items.number[part])) for part in self._parts]
            scores[NOT_FINITE] = [
                torch.zeros(shape, dtype=torch.bool, device=flats[0].device) if found is None else found
                for shape, found in zip(shapes, not_finite, strict=True)
            ]
        return {name: torch.cat(parts, 1) if len(parts) > 1 else parts[0] for name, parts in scores.items()}

    def _own(self, returned: Sequence[Tensor], logits: Tensor | None, shifts: Tensor | None) -> Tensor | None:
        """Return what the model returned for all items, (L, n, K), if that isn't the logits; shifted, if they are."""
        items = self.items
        if items.reading.kind == "logits":
            return None
        if logits is not None and shifts is not None:
            last = items.reading.returned(logits)
            return last[..., 1:] if self._columns != slice(0, None) else last
        return torch.stack([items.rows(items.returned(each), slice(0, len(items))) for each in returned])

    def _piece(self, part: slice) -> tuple[Tensor | None, Outputs]:
        """Return the targets and the unperturbed logits of some items."""
        target, key = self.items.target, (part.start, part.stop)
        outputs = self._unperturbed.get(key)
        if outputs is None:
            outputs = Outputs(self.items.rows(self._flat, part)[None], self._columns)
            if part == slice(0, len(self.items)):  # for metrics of the user's own
                outputs.own = self._own([self.logits], None, None)
            if key in self._predictions:
                outputs.predictions = self._predictions[key]
        return None if target is None else target[part], outputs

    def _keep(self, part: slice, outputs: Outputs) -> None:
        """Keep what was computed of unperturbed logits for the next level: of large ones, the predictions alone."""
        key = (part.start, part.stop)
        if self._flat.numel() <= KEPT:
            self._unperturbed[key] = outputs
        elif "predictions" in vars(outputs):
            self._predictions[key] = outputs.predictions
