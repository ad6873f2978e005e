"""The protocol that both backends answer: one layer of one model on a set of examples, under any perturbation.

Terms. A *unit* is a coordinate of the layer: a column of a dense layer, a feature of a token, a channel. A *row* is one
position of one example: the example itself in a dense layer, a token, a pixel. Ranges and displacement are taken over
rows. An *item* is what is predicted and scored: an example, or a token that counts. Masked positions are neither rows
nor items. The backends are `nearzero.evaluators.two_layer` and `nearzero.evaluators.model`, and
`nearzero.evaluators.select` picks one. An analysis asks an evaluator and never knows which it is.

Halves. Of the examples 2k and 2k + 1 one is the reference, which sets ranges and levels; it is drawn by (seed, k)
alone, and the other responds. So halves can be cut from a stream, they don't depend on batches, and both hold
examples of the same parts of the data, sorted or not. Where examples can't be told apart within a batch, the same
rule cuts between whole batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError
from nearzero.perturbations.families import Conduct, Family, Gains
from nearzero.perturbations.perturbation import AnyPerturbation, Side
from nearzero.perturbations.ranges import Ranges

__all__ = [
    "EARLIER_HALVES",
    "HALVES",
    "Block",
    "LayerEvaluator",
    "LevelParameters",
    "PinnedBlock",
    "ScaledBlock",
    "Scores",
    "halves",
    "homogeneity_error",
    "in_reference",
]

Backend = Literal["two-layer", "model"]
Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Classes = npt.NDArray[np.integer[Any]]
Part = TypeVar("Part")
Perturbations = Sequence[AnyPerturbation]
PinnedLogits = Callable[[Integers, Doubles], Floats]  # of some of m items, at levels of their own: (k, K)
HALVES = "of the examples 2k and 2k + 1 one is the reference, drawn by (seed, k)"
EARLIER_HALVES = "by the earlier rule: a seeded permutation of all examples, or the first half of every batch"
DRAWN = 1024  # pairs whose draws come from one generator
TESTED = (0.01, 0.1, 0.5, 2.0, 10.0)  # scales at which it is tested


@dataclass(frozen=True, eq=False)
class Scores:
    """Metrics under L perturbations.

    Attributes:
        means: by metric, the mean over items, (L,); with a logit shift also as "centred_<metric>".
        unperturbed: by metric, the same without perturbation.
        examples, items: how many examples and items were scored, N and n.
        values: by metric, item by item, (L, n), if asked for.
        places: (n, 2), the example and the token of each item, if asked for.
        predictions: (L, n), the predicted classes, if asked for.
    """

    means: dict[str, Doubles]
    unperturbed: dict[str, float]
    examples: int
    items: int
    values: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    places: Integers | None = None
    predictions: Classes | None = None


class Block(ABC):
    """Some examples of an evaluator, with activations and logits at hand.

    Attributes:
        row_examples: for each row the place of its example within the block, (r,), from 0.
        activations: a = act(z), (r, U).
        logits: of the items, (n, K).
    """

    row_examples: Integers
    activations: Floats
    logits: Floats

    @abstractmethod
    def under(self, perturbation: AnyPerturbation) -> tuple[Floats, Floats]:
        """Return activations (r, U) and logits (n, K) under a perturbation."""


class LevelParameters:
    """Scale, offset and clip of a family at any levels: affine in the level, or exponential in it for gains.

    Args:
        family: the family.
        ranges: the unit ranges that its levels refer to.

    Attributes:
        side: the side that is perturbed.
    """

    def __init__(self, family: Family, ranges: Ranges) -> None:
        self._zero, self._one = (family.at(level, ranges) for level in (0.0, 1.0))
        self._cut = np.isfinite(np.asarray(self._zero.clip))  # dead units have no threshold
        self._growth = np.log(np.asarray(self._one.scale)) if isinstance(family, Gains) else None
        self.side: Side = self._zero.side

    def at(self, levels: Doubles) -> tuple[Doubles, Doubles, Doubles]:
        """Return scale, offset and clip at levels (n,): (n, U) each, or (U,) where the level has no say."""
        zero, one, p = self._zero, self._one, levels[:, None]
        scale = _between(zero.scale, one.scale, p) if self._growth is None else np.exp(p * self._growth)
        clip = np.full(self._cut.shape, np.inf)
        if self._cut.any():
            low, high = (np.where(self._cut, each.clip, 0.0) for each in (zero, one))
            clip = np.where(self._cut, _between(low, high, p), np.inf)
        return scale, _between(zero.offset, one.offset, p), clip


def _between(zero: npt.ArrayLike, one: npt.ArrayLike, p: Doubles) -> Doubles:
    zero, one = np.asarray(zero), np.asarray(one)
    if (zero == one).all():
        return zero
    return one * p if not zero.any() else zero * (1 - p) + one * p


@dataclass(frozen=True, eq=False)
class PinnedBlock:
    """Some items whose logits can be had at levels of their own.

    Attributes:
        pin: from places of items in the block, repeated as needed, to their logits at any levels.
        most: how many may be pinned at a time.
        unperturbed: the predictions without perturbation.
        rows: which of the evaluator's items the block holds.
    """

    pin: Callable[[Integers], PinnedLogits]
    most: int
    unperturbed: Classes
    rows: slice


@dataclass(frozen=True, eq=False, kw_only=True)
class ScaledBlock:
    """Some items under S common scales of a layer's live units, and what algebra says of them.

    Algebra says that logits are s B + A, with B linear in the activations and A constant or of other paths.

    Attributes:
        expected: from the number of a scale to the logits that algebra gives, (n, K).
        slack: from the number of a scale to what two of these may differ by and nearly tie, (n,).
        measured: (S, n), the predictions of the model itself.
        unperturbed: (n,), the predictions without perturbation.
        labels: (n,), or None.
        plain: (n, K), the logits without perturbation, where the model may normalise them; else None.
        rounding: what rounding may be, as a share of the greatest logit or activation.
        homogeneity: the greatest |act(s z) - s act(z)|, as a share of the greatest s |act(z)|.
        apart, sizes: at some scales, the greatest departure of the logits from s B + A, and the greatest logit.
        terms: the greatest of B, and of A.
        constant: whether A is the same for all classes, where that is known from the weights; else None.
        moved: (S,), the sum over items and classes of the squared change of the logits from s = 1.
        worth: the same with another example's values in the layer.
    """

    expected: Callable[[int], Floats]
    slack: Callable[[int], Floats]
    measured: Classes
    unperturbed: Classes
    labels: Classes | None
    rounding: float
    homogeneity: float
    apart: Doubles
    sizes: Doubles
    terms: Doubles
    constant: bool | None = None
    plain: Floats | None = None
    moved: Doubles | None = None
    worth: float = 0.0


class LayerEvaluator(ABC):
    """One layer of one model on a set of examples, under any perturbation.

    Attributes:
        backend: which backend it is.
        layer: the name of the layer.
        activation: the name of what follows the pre-activations; None if nothing does.
        units: U.
        limit: bytes that work may take.
        threads: how many to use.
        metrics: the names of those that were asked for; accuracy, where there are labels, and agreement unless others.
        precision: of the numbers in which critical levels are searched for.
        halves: what `split` divides: "example", or "batch" where examples can't be told apart within batches.
        readout: W2 (K, U) and b2 (K,) where the logits are W2 a + b2; None where that isn't known.
        labels: (N,), of a layer with a readout; else None, since batches have them.
    """

    backend: Backend
    layer: str
    activation: str | None
    units: int
    limit: int
    threads: int
    metrics: tuple[str, ...]
    precision: str = "float64"
    halves: Literal["example", "batch"] = "example"
    readout: tuple[Floats, Floats] | None = None
    labels: Integers | None = None

    @property
    @abstractmethod
    def examples(self) -> Integers:
        """Return the numbers of the examples in the data, (N,)."""

    @property
    @abstractmethod
    def row_examples(self) -> Integers:
        """Return the number in the data of each row's example, (R,)."""

    @property
    @abstractmethod
    def ranges(self) -> Ranges:
        """Return the unit ranges over these examples."""

    @property
    def normalisations(self) -> tuple[str, ...]:
        """Return the operations after the layer that divide by what depends on it."""
        return ()

    @abstractmethod
    def conduct(self, conduct: Conduct | None) -> Conduct:
        """Return the conduct asked for, or the default one of the layer's activation."""

    @abstractmethod
    def check(self, conduct: Conduct, families: Iterable[str]) -> None:
        """Refuse families that have no meaning at this layer.

        Raises:
            InputError: an offset as run for another activation than ReLU and Abs, or a perturbation after an activation
                whose place in the model isn't known.
        """

    @abstractmethod
    def split(self, seed: int) -> tuple[LayerEvaluator, LayerEvaluator]:
        """Return the layer on the reference half and on the half that responds, see `nearzero.evaluators.base`."""

    @abstractmethod
    def preactivations(self, units: Integers | None = None) -> Floats:
        """Return z of all rows, (R, U), or of some units, (R, len(units)).

        Raises:
            InputError: they take more memory than allowed.
        """

    @abstractmethod
    def activations(self, units: Integers | None = None) -> Floats:
        """Return act(z) likewise."""

    @abstractmethod
    def changes(self, perturbations: Perturbations) -> tuple[Doubles, Doubles]:
        """Return the sums over rows of (a' - a)^2 and of a' - a, (L, U) each."""

    @abstractmethod
    def mean_logit_change(self, perturbations: Perturbations) -> Doubles:
        """Return the mean over items of l' - l, (L, K)."""

    @abstractmethod
    def scores(
        self,
        perturbations: Perturbations,
        names: Iterable[str],
        shift: Doubles | None = None,
        *,
        keep: bool = False,
    ) -> Scores:
        """Return metrics under each perturbation.

        Args:
            perturbations: L of them.
            names: of metrics: those of `nearzero.evaluators.metrics.NAMES`, or of a user's own that the evaluator was
            made with;
                "prediction" asks for the predicted classes.
            shift: (L, K), taken out of the logits for the metrics called "centred_...".
            keep: also return the values item by item.
        """

    @abstractmethod
    def gather(self, function: Callable[[Block], Part]) -> list[Part]:
        """Return what a function gives for each block of examples, in order."""

    @abstractmethod
    def gather_scaled(self, scales: Doubles, function: Callable[[ScaledBlock], Part]) -> list[Part]:
        """Return what a function gives for each block of items under common scales, in order."""

    @abstractmethod
    def gather_pinned(
        self, parameters: LevelParameters, function: Callable[[PinnedBlock], Part]
    ) -> list[Part]:
        """Return what a function gives for each block of items under perturbations at levels of their own, in order."""


def homogeneity_error(act: Callable[[Any], Any], z: Any, scales: Sequence[float] = TESTED) -> float:
    """Return the greatest |act(s z) - s act(z)|, as a share of the greatest s |act(z)|, over some scales s > 0.

    Args:
        act: the activation, on arrays or tensors of z's kind.
        z: pre-activations of any shape, at least one.
        scales: s.

    Returns:
        0 for a positively homogeneous activation, but for rounding; 0 if act is 0 for all of them.
    """
    errors = []
    for s in scales:
        scaled, taken_out = act(s * z), s * act(z)
        size = float(abs(taken_out).max())
        apart = float(abs(scaled - taken_out).max())
        errors.append(apart / size if size > 0 else float(np.inf) if apart > 0 else 0.0)
    return max(errors)


def in_reference(numbers: npt.NDArray[np.integer], seed: int) -> npt.NDArray[np.bool_]:
    """Return which of some examples, given by their numbers in the data, belong to the reference half, (n,).

    Args:
        numbers: (n,), from 0.
        seed: of the draw.
    """
    pairs = np.asarray(numbers, dtype=np.int64) // 2
    second = np.empty(len(pairs), np.int64)  # whether the second of the pair is the reference
    for block in np.unique(pairs // DRAWN).tolist():
        drawn = np.random.default_rng([seed, block, *b"halves"]).integers(2, size=DRAWN)
        here = pairs // DRAWN == block
        second[here] = drawn[pairs[here] % DRAWN]
    return np.asarray(second == np.asarray(numbers) % 2)


def halves(examples: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the numbers of the examples of the reference half and of the half that responds, each ascending.

    Raises:
        InputError: fewer than two examples.
    """
    if examples < 2:
        raise InputError(f"two halves need at least two examples; got {examples}")
    numbers = np.arange(examples)
    reference = in_reference(numbers, seed)
    return numbers[reference], numbers[~reference]
