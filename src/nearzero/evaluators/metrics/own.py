"""Metrics of the user's own: functions of logits and targets, called level by level."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor

from nearzero.errors import InputError
from nearzero.support.users import defined_at, running

__all__ = ["OwnMetric", "ReturnedOutputs"]

TRIES = 32  # results of a metric that are compared with those for halves

_Arguments = tuple[Tensor, Tensor | None, Tensor]  # logits, targets, unperturbed logits


class ReturnedOutputs(Protocol):
    """Describe what the model returned at L levels, (L, n, K) or (L, n): `nearzero.evaluators.scores.Outputs`."""

    @property
    def returned(self) -> Tensor:
        """Return the logits, or the probabilities, as the model returned them."""

    is_block: bool


class OwnMetric:
    """Score items by a user's function; if it returns one number for all of them, each item gets this number.

    The function gets copies, so that it may write into them. Of three arguments, the third is the unperturbed
    output. One number is compared with those for halves of the items: the mean over items doesn't depend on how
    the items are divided, as the numbers of other functions do.

    Args:
        name: the name of the metric.
        function: the user's function.

    Attributes:
        of_batches: True once the function has returned one number that isn't the mean over items.

    Raises:
        InputError: a function that can't take two arguments, nor three.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.of_batches = False
        self._function, self._tries = function, TRIES
        self._name = f"metric {name!r}"
        place = defined_at(function)
        self._place = f" ({place})" if place else ""
        self._count = _count_arguments(function, self._name, self._place)

    def __call__(
        self, outputs: ReturnedOutputs, target: Tensor | None, unperturbed: ReturnedOutputs
    ) -> Tensor:
        """Return the scores of items at L levels, (L, n).

        Raises:
            InputError: the function returns something else, or its number depends on how batches were cut or on
                earlier calls.
        """
        plain = unperturbed.returned[0]
        values = [self._value(logits, target, plain) for logits in outputs.returned]
        unknown = len(plain) == 1 and any(value.ndim == 0 for value in values)
        if (self.of_batches or unknown) and outputs.is_block:
            raise InputError(
                f"{self._name} returns one number that isn't known to be a mean over items, and memory holds "
                f"{len(plain):,} of a batch at a time; let it return one number for each item, or give smaller batches "
                f"(batch_size=) or more memory (memory=){self._place}"
            )
        return torch.stack([value.expand(len(plain)) for value in values])

    def _value(self, logits: Tensor, target: Tensor | None, unperturbed: Tensor) -> Tensor:
        """Return what the function returns for one level: a number, or one for each item."""
        arguments = (logits, target, unperturbed)
        value = self._call(arguments).clone()  # the function may write into what it returned
        if value.ndim == 0 and len(logits) > 1 and self._tries and not self.of_batches:
            self._tries -= 1
            self._compare(value, arguments)
        return value

    def _compare(self, value: Tensor, arguments: _Arguments) -> None:
        """Find out whether the function's number for all items is the mean over items.

        Raises:
            InputError: it returns another number in a second call.
        """
        logits, target, unperturbed = arguments
        count, half = len(logits), len(logits) // 2
        parts: list[_Arguments] = [
            (logits[part], None if target is None else target[part], unperturbed[part])
            for part in (slice(0, half), slice(half, count))
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a few items
            try:
                first = self._call(parts[0])
                again = self._call(arguments)
                mean = (half * first + (count - half) * self._call(parts[1])) / count
            except Exception:  # as of items of a single class, where a function needs two
                again, mean = self._call(arguments), torch.tensor(torch.nan)
        if not _is_close(again, value):
            raise InputError(
                f"{self._name} returns {float(value):.6g} and then {float(again):.6g} for the same items; it must be "
                f"a function of its arguments, without random numbers or memory of earlier calls{self._place}"
            )
        self.of_batches = mean.ndim > 0 or not _is_close(mean, value)

    def _call(self, arguments: _Arguments) -> Tensor:
        """Return what the function returns for copies of the logits, targets and unperturbed logits of a level."""
        with running(f"{self._name} fails"):
            value = _called(self._function, arguments[: self._count])
        count, value = len(arguments[0]), _as_scores(value, arguments[0])
        if not isinstance(value, Tensor) or value.shape not in ((), (count,)):
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"{self._name} must return one number, or one for each of {count} items; got {got}{self._place}"
            )
        if value.is_complex():
            raise InputError(f"{self._name} must return real numbers; got {value.dtype}{self._place}")
        return value.detach()


def _is_close(left: Tensor, right: Tensor) -> bool:
    """Return whether two numbers are equal except for the rounding of sums in float32."""
    left, right = left.cpu().double(), right.cpu().double()
    return bool(torch.isclose(left, right, rtol=1e-5, atol=1e-7, equal_nan=True).all())


def _count_arguments(function: Callable[..., Any], name: str, place: str) -> int:
    """Return how many arguments a user's metric gets by position, two or three: as many as it needs.

    Raises:
        InputError: it can't take two, nor three.
    """
    try:
        taken = signature(function)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return 2
    for count in (2, 3):
        try:
            taken.bind(*[None] * count)
        except TypeError:
            continue
        return count
    raise InputError(
        f"{name} must take (logits, target) or (logits, target, unperturbed); it takes {taken}{place}"
    )


def _called(function: Callable[..., Any], arguments: Sequence[Tensor | None]) -> Any:
    """Return what a user's metric returns for copies if gradients are enabled, as they are wherever the user tried it.

    Weights of the metric's own then need gradients, which some operations refuse; these run without.
    """

    def call() -> Any:
        return function(*(None if array is None else array.detach().clone() for array in arguments))

    try:
        with torch.enable_grad():
            return call()
    except RuntimeError as error:
        if "requires grad" not in str(error):
            raise
    return call()


def _as_scores(value: Any, like: Tensor) -> Any:
    """Return numbers as a tensor of a type that NumPy has too; anything else as it is."""
    try:
        scores = torch.as_tensor(value, device=like.device)
    except (TypeError, ValueError, RuntimeError):  # None, text, ragged lists
        return value
    return scores.float() if scores.is_floating_point() and scores.dtype.itemsize < 4 else scores
