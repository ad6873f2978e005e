"""What is measured on logits, item by item: an item is an example, or a token that counts.

Metrics are functions of the logits of several levels at once (L, n, K), of targets (n,), and of the unperturbed
logits (1, n, K), to (L, n). Users' own are called level by level. Sums are float64. Large logits are scored in
pieces, some items at a time: all that is read off a piece is had while the processor's cache holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nearzero.errors import InputError
from nearzero.probing.items import Items

__all__ = ["METRICS", "Metric", "Metrics", "Outputs", "Scorer", "choose_metrics"]

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
        label: what it is.
        score: the function.
        of_classes: whether it reads targets as classes.
        needs_target: whether it can't do without them.
        by_item: whether the score of an item depends on that item alone.
    """

    label: str
    score: Score
    of_classes: bool = False
    needs_target: bool = False
    by_item: bool = False


METRICS: dict[str, Metric] = {
    "accuracy": Metric("share predicted right", _accuracy, True, True, True),  # type: ignore[arg-type]
    "agreement": Metric("share predicted as without perturbation", _agreement, by_item=True),
    "cross_entropy": Metric("mean cross-entropy, nats", _cross_entropy, True, True, True),  # type: ignore[arg-type]
    "margin": Metric("mean logit of the target minus the greatest other", _margin, True, by_item=True),
    "kl_divergence": Metric(
        "mean KL divergence of the unperturbed from the perturbed output, nats",
        _kl_divergence,
        by_item=True,
    ),
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
        return Metric(name, _users(name, value))
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
