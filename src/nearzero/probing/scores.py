"""What is measured on logits, item by item: an item is an example, or a token that counts.

Metrics are functions of the logits of several levels at once (L, n, K), of targets (n,), and of the unperturbed
logits (1, n, K), to (L, n). Users' own are called level by level. Sums are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nearzero.errors import InputError

__all__ = ["METRICS", "Metric", "Metrics", "Outputs", "choose_metrics"]


@dataclass(eq=False)
class Outputs:
    """Logits (L, n, K) of L levels, with what more than one metric reads off them.

    Attributes:
        logits: as the model gave them.
    """

    logits: Tensor

    @cached_property
    def predictions(self) -> Tensor:
        """(L, n): the class with the greatest logit."""
        return self.logits.argmax(-1)

    @cached_property
    def log_probabilities(self) -> Tensor:
        """(L, n, K), in float32 at least."""
        logits = self.logits
        return (logits.float() if logits.dtype.itemsize < 4 else logits).log_softmax(-1)


Score = Callable[[Outputs, Tensor | None, Outputs], Tensor]
Metrics = str | Callable[..., Any] | Iterable[str | Callable[..., Any]] | Mapping[str, Any] | None


def _accuracy(outputs: Outputs, target: Tensor, _: Outputs) -> Tensor:
    return outputs.predictions == target


def _agreement(outputs: Outputs, _: Tensor | None, unperturbed: Outputs) -> Tensor:
    return outputs.predictions == unperturbed.predictions


def _cross_entropy(outputs: Outputs, target: Tensor, _: Outputs) -> Tensor:
    return -_at(outputs.log_probabilities, target)


def _kl_divergence(outputs: Outputs, _: Tensor | None, unperturbed: Outputs) -> Tensor:
    before, after = unperturbed.log_probabilities, outputs.log_probabilities
    each = F.kl_div(after, before.expand_as(after), reduction="none", log_target=True)
    return each.masked_fill_(before == -torch.inf, 0.0).sum(-1)  # 0 log 0


def _margin(outputs: Outputs, target: Tensor | None, unperturbed: Outputs) -> Tensor:
    logits, place = outputs.logits, unperturbed.predictions[0] if target is None else target
    others = logits.scatter(-1, place.expand(logits.shape[:-1])[..., None], -torch.inf)
    return _at(logits, place) - others.amax(-1)


def _at(values: Tensor, place: Tensor) -> Tensor:
    """(L, n): of values (L, n, K), those at places (n,) of the last dimension."""
    return values.gather(-1, place.expand(values.shape[:-1])[..., None])[..., 0]


@dataclass(frozen=True)
class Metric:
    """A metric: what it is, whether it reads targets as classes, whether it can do without, and the function."""

    label: str
    score: Score
    of_classes: bool = False
    needs_target: bool = False


METRICS: dict[str, Metric] = {
    "accuracy": Metric("share predicted right", _accuracy, True, True),  # type: ignore[arg-type]
    "agreement": Metric("share predicted as without perturbation", _agreement),
    "cross_entropy": Metric("mean cross-entropy, nats", _cross_entropy, True, True),  # type: ignore[arg-type]
    "margin": Metric("mean logit of the target minus the greatest other", _margin, True),
    "kl_divergence": Metric(
        "mean KL divergence of the unperturbed from the perturbed output, nats", _kl_divergence
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
