"""What is measured on logits, item by item: an item is an example, or a token that counts.

Metrics are functions of (logits (n, K), target (n,), unperturbed logits (n, K)) to (n,). Sums are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nearzero.errors import InputError
from nearzero.probing.batches import IGNORED, Batch

__all__ = ["METRICS", "Items", "choose_metrics"]

Score = Callable[[Tensor, Tensor | None, Tensor], Tensor]


def _accuracy(logits: Tensor, target: Tensor, _: Tensor) -> Tensor:
    return logits.argmax(1) == target


def _agreement(logits: Tensor, _: Tensor | None, unperturbed: Tensor) -> Tensor:
    return logits.argmax(1) == unperturbed.argmax(1)


def _cross_entropy(logits: Tensor, target: Tensor, _: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), target, reduction="none")


def _kl_divergence(logits: Tensor, _: Tensor | None, unperturbed: Tensor) -> Tensor:
    before, after = unperturbed.float().log_softmax(1), logits.float().log_softmax(1)
    return F.kl_div(after, before, reduction="none", log_target=True).sum(1)


def _margin(logits: Tensor, target: Tensor | None, unperturbed: Tensor) -> Tensor:
    place = (unperturbed.argmax(1) if target is None else target)[:, None]
    others = logits.scatter(1, place, -torch.inf)
    return logits.gather(1, place)[:, 0] - others.amax(1)


@dataclass(frozen=True)
class Metric:
    """A metric by name: what it is, whether it needs targets, and the function."""

    label: str
    needs_target: bool
    score: Score


METRICS: dict[str, Metric] = {
    "accuracy": Metric("share predicted right", True, _accuracy),  # type: ignore[arg-type]
    "agreement": Metric("share predicted as without perturbation", False, _agreement),
    "cross_entropy": Metric("mean cross-entropy, nats", True, _cross_entropy),  # type: ignore[arg-type]
    "margin": Metric("mean logit of the target minus the greatest other", False, _margin),
    "kl_divergence": Metric(
        "mean KL divergence of the unperturbed from the perturbed output, nats", False, _kl_divergence
    ),
}


@dataclass(frozen=True, eq=False)
class Items:
    """The items of one batch that count.

    Attributes:
        batch: where they are from.
        causal: whether the logits at a token are of the next token.
        target: (n,), or None.
        place: (n, 2) int64, the example in the batch, and the token in it (0 where there are none).
    """

    batch: Batch
    causal: bool
    target: Tensor | None
    place: Tensor
    _chosen: Tensor

    @classmethod
    def of(cls, batch: Batch, logits: Tensor, causal: bool) -> Items:
        """Which items of a batch count, by the shape of its logits.

        Raises:
            InputError: targets or mask that don't fit the logits.
        """
        shape = tuple(_classes_last(logits, batch.target).shape[:-1])
        target = batch.target
        if causal:
            if len(shape) != 2:
                raise InputError(
                    f"causal=True needs logits (batch, tokens, classes); got {tuple(logits.shape)}"
                )
            shape = (shape[0], shape[1] - 1)
            target = None if target is None else target[:, 1:]
        if target is not None and target.shape != shape:
            target = target.reshape(shape) if target.numel() == torch.Size(shape).numel() else target
            if target.shape != shape:
                raise InputError(
                    f"targets {tuple(target.shape)} don't fit logits {tuple(logits.shape)}"
                    + (" shifted by one token" if causal else "")
                )
        chosen = torch.ones(shape, dtype=torch.bool, device=logits.device)
        if batch.mask is not None:
            mask = batch.mask[:, 1:] if causal and batch.mask.ndim == 2 else batch.mask
            if mask.shape == shape:
                chosen &= mask
        if target is not None and not target.is_floating_point():
            chosen &= target != IGNORED
        place = chosen.nonzero()
        place = F.pad(place, (0, 1)) if place.shape[1] == 1 else place[:, :2]
        return cls(batch, causal, None if target is None else target[chosen], place, chosen)

    def __len__(self) -> int:
        return len(self.place)

    def logits(self, logits: Tensor) -> Tensor:
        """(n, K): those of the items; one logit alone is read as that of the second of two classes."""
        last = _classes_last(logits, self.batch.target)
        rows = (last[:, :-1] if self.causal else last)[self._chosen]
        return F.pad(rows, (1, 0)) if rows.shape[1] == 1 else rows


def _classes_last(logits: Tensor, target: Tensor | None) -> Tensor:
    """Logits with their classes on the last dimension: on the second where targets or images say so."""
    if logits.ndim < 2:
        return logits[..., None]
    if logits.ndim == 2:
        return logits
    second = (logits.shape[0], *logits.shape[2:])
    if target is not None and target.shape == second and target.shape != logits.shape[:-1]:
        return logits.movedim(1, -1)
    return logits.movedim(1, -1) if target is None and logits.ndim > 3 else logits


def choose_metrics(
    wanted: Sequence[str] | Mapping[str, Callable[..., Any]] | str | None, target: Tensor | None
) -> dict[str, Score]:
    """The metrics by name: those asked for; else accuracy and agreement, or agreement and KL divergence.

    Raises:
        InputError: an unknown name, something that can't be called, or targets that a metric needs and that
            aren't there or aren't whole numbers.
    """
    if wanted is None:
        wanted = ("accuracy", "agreement") if target is not None else ("agreement", "kl_divergence")
    if isinstance(wanted, str):
        wanted = (wanted,)
    own = dict(wanted) if isinstance(wanted, Mapping) else dict.fromkeys(wanted)
    if not own:
        raise InputError(f"metrics must name at least one of {', '.join(METRICS)}; got none")
    scores: dict[str, Score] = {}
    for name, function in own.items():
        if callable(function):
            scores[name] = _users(function)
        elif name in METRICS:
            _check_targets(name, target)
            scores[name] = METRICS[name].score
        else:
            raise InputError(
                f"unknown metric {name!r}: known are {', '.join(METRICS)}; a mapping of names to functions of "
                "(logits, target) adds others"
            )
    return scores


def _check_targets(name: str, target: Tensor | None) -> None:
    if METRICS[name].needs_target and target is None:
        raise InputError(
            f"metric {name!r} needs targets, and the batches have none; agreement and kl_divergence don't"
        )
    if METRICS[name].needs_target and target is not None and target.is_floating_point():
        raise InputError(
            f"metric {name!r} needs whole numbers as targets, the classes; got {target.dtype}; "
            "give metrics={'name': function of (logits, target)}"
        )


def _users(function: Callable[..., Any]) -> Score:
    """A user's metric: (n,), or one number for all items, which then stands for each of them."""

    def score(logits: Tensor, target: Tensor | None, unperturbed: Tensor) -> Tensor:
        value = torch.as_tensor(function(logits, target), device=logits.device)
        if value.ndim == 0:
            return value.expand(len(logits))
        if value.shape != (len(logits),):
            name = getattr(function, "__name__", "the metric")
            raise InputError(
                f"{name} must return one number, or one for each of {len(logits)} items; got shape {tuple(value.shape)}"
            )
        return value

    return score
