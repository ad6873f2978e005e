"""Define the evaluator, which both backends implement: one layer of one model on a set of examples.

Terms. A *unit* is a coordinate of the layer: a column of a dense layer, a feature of a token, a channel. A
*row* is one position of one example: the example itself in a dense layer, a token, a pixel. Ranges and
displacement are taken over rows. An *item* is one prediction that is scored: that of an example, or of a
token that counts. Masked positions are neither rows nor items. The backends are
`nearzero.evaluators.two_layer` and `nearzero.evaluators.model`; `nearzero.evaluators.select` chooses one.
Analyses use this interface, so each is written once; critical levels alone use more of the two-layer backend.

Halves. Of the examples 2k and 2k + 1 one is in the reference half, which sets ranges and levels. It is drawn
by (seed, k) alone. The other one is in the responding half. So halves can be cut from a stream, they don't
depend on batches, and both contain examples from all parts of the data, sorted or not. Where examples can't
be told apart within a batch, the same rule assigns whole batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError
from nearzero.perturbations.families import Conduct, Family, Gains
from nearzero.perturbations.perturbation import AnyPerturbation, Side
from nearzero.perturbations.ranges import Ranges

if TYPE_CHECKING:
    from nearzero.torch_models.assumptions import Assumptions

__all__ = [
    "EARLIER_HALVES",
    "HALVES",
    "NO_CLASS",
    "SAFE",
    "Block",
    "LayerEvaluator",
    "LevelParameters",
    "PinnedBlock",
    "ScaledBlock",
    "Scores",
    "halves",
    "homogeneity_error",
    "in_reference",
    "not_finite_at",
]

Backend = Literal["two-layer", "model"]
Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Classes = npt.NDArray[np.integer[Any]]
Part = TypeVar("Part")
Perturbations = Sequence[AnyPerturbation]
PinnedLogits = Callable[[Integers, Doubles], Floats]  # from k of m items and their levels to logits (k, K)
HALVES = "of the examples 2k and 2k + 1 one is the reference, drawn by (seed, k)"
EARLIER_HALVES = "by the earlier rule: a seeded permutation of all examples, or the first half of every batch"
DRAWN = 1024  # pairs that share a random generator
SAFE = 2.0**124  # up to this bound on a logit, nothing can overflow float32
NO_CLASS = 65_535  # the prediction where logits can't be ranked; two-layer networks have fewer classes
TESTED = (0.01, 0.1, 0.5, 2.0, 10.0)  # scales at which homogeneity is tested


@dataclass(frozen=True, eq=False)
class Scores:
    """Hold metrics under L perturbations.

    Attributes:
        means: by metric, the mean over items, (L,); with a logit shift also as "centred_<metric>".
        unperturbed: by metric, the same mean without a perturbation.
        examples, items: N and n, the numbers of examples and items that were scored.
        not_finite: (L,), the number of items with a logit that is NaN or infinite. They can't be ranked, and
            count as wrong and as not in agreement.
        values: by metric, the values item by item, (L, n), if they were asked for.
        unperturbed_values: the same without a perturbation, (n,).
        positions: (n, 2), the example and the token of each item, if they were asked for.
        targets: (n,), the class that is each item's target, if values were asked for and there are such targets.
        predictions: (L, n), the predicted classes, if they were asked for; -1 where logits can't be ranked.
    """

    means: dict[str, Doubles]
    unperturbed: dict[str, float]
    examples: int
    items: int
    not_finite: Integers
    values: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    unperturbed_values: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    positions: Integers | None = None
    targets: Integers | None = None
    predictions: Classes | None = None


class Block(ABC):
    """Hold the activations and logits of some examples of an evaluator.

    Attributes:
        row_examples: for each row, the index of its example within the block, (r,), from 0.
        activations: a = act(z), (r, U).
        logits: the logits of the items, (n, K).
    """

    row_examples: Integers
    activations: Floats
    logits: Floats

    @abstractmethod
    def under(self, perturbation: AnyPerturbation) -> tuple[Floats, Floats]:
        """Return activations (r, U) and logits (n, K) under a perturbation."""


class LevelParameters:
    """Compute scale, offset, clip and low of a family at any levels.

    They are affine in the level p: (1 - p) times the value at 0 plus p times the value at 1. The scale of
    gains is the exception, exp(p g).

    Args:
        family: the family.
        ranges: the unit ranges that its levels refer to.

    Attributes:
        side: the side that is perturbed.
    """

    def __init__(self, family: Family, ranges: Ranges) -> None:
        self._zero, self._one = (family.at(level, ranges) for level in (0.0, 1.0))
        self._growth = np.log(np.asarray(self._one.scale)) if isinstance(family, Gains) else None
        self.side: Side = self._zero.side

    def at(self, levels: Doubles) -> tuple[Doubles, Doubles, Doubles, Doubles]:
        """Return scale, offset, clip and low at levels (n,): (n, U) each, or (U,) where the level has no influence."""
        zero, one, p = self._zero, self._one, levels[:, None]
        scale = _between(zero.scale, one.scale, p) if self._growth is None else np.exp(p * self._growth)
        clip, low = _bound_between(zero.clip, one.clip, p), _bound_between(zero.low, one.low, p)
        return scale, _between(zero.offset, one.offset, p), clip, low


def _between(zero: npt.ArrayLike, one: npt.ArrayLike, p: Doubles) -> Doubles:
    """Return (1 - p) zero + p one; without the terms that are exactly 0."""
    zero, one = np.asarray(zero), np.asarray(one)
    if (zero == one).all():
        return zero
    return one * p if not zero.any() else zero * (1 - p) + one * p


def _bound_between(zero: npt.ArrayLike, one: npt.ArrayLike, p: Doubles) -> Doubles:
    """Return `_between` of bounds, of which those that are infinite, as of dead units, stay so."""
    bounded = np.isfinite(zero)
    if not bounded.any():
        return np.asarray(zero)
    least, greatest = (np.where(bounded, bound, 0.0) for bound in (zero, one))
    return np.where(bounded, _between(least, greatest, p), zero)


@dataclass(frozen=True, eq=False)
class PinnedBlock:
    """Hold some items whose logits can be computed with a separate level for each item.

    Attributes:
        pin: a function from the indices (m,) of items in the block, which may repeat, to a `PinnedLogits`
            function.
        most: the greatest m.
        unperturbed: the predictions without a perturbation.
        rows: the slice of the evaluator's items that the block holds.
    """

    pin: Callable[[Integers], PinnedLogits]
    most: int
    unperturbed: Classes
    rows: slice


@dataclass(frozen=True, eq=False, kw_only=True)
class ScaledBlock:
    """Hold some items under S common scales of a layer's live units, with the logits that algebra predicts.

    By algebra the logits are s B + A, where B is linear in the activations and A is constant or comes through
    paths that bypass the layer.

    Attributes:
        expected: a function from the index of a scale to the logits by algebra, (n, K).
        slack: a function from the index of a scale to the difference of two logits that counts as a near tie,
            (n,).
        measured: (S, n), the predictions of the model itself.
        unperturbed: (n,), the predictions without a perturbation.
        labels: (n,), or None.
        plain: (n, K), the logits without a perturbation, where the model may normalise them; else None.
        rounding: the largest effect of rounding, as a share of the greatest logit or activation.
        homogeneity: the greatest |act(s z) - s act(z)|, as a share of the greatest s |act(z)|.
        apart, sizes: at some scales, the greatest departure of the logits from s B + A, and the greatest
            logit.
        terms: the greatest |B| and the greatest |A|.
        constant: True if A is the same for all classes, where the weights tell this; else None.
        moved: (S,), the sum over items and classes of the squared change of the logits from s = 1.
        worth: the same sum if the layer has the values of another example.
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
    """Evaluate one layer of one model on a set of examples, under any perturbation.

    Attributes:
        backend: the name of the backend.
        layer: the name of the layer.
        activation: the name of the activation that follows; None if none does.
        units: U.
        limit: the bytes that the computation may take.
        threads: the number of threads to use.
        metrics: the names of the metrics that were asked for. The default: agreement, and accuracy if there
            are labels.
        precision: the floating-point type in which critical levels are searched for.
        halves: what `split` divides: "example", or "batch" where batches can't be cut into examples.
        readout: W2 (K, U) and b2 (K,) where the logits are W2 a + b2; None where that isn't known.
        labels: (N,), of a layer with a readout; else None, since labels then come with the batches.
        assumptions: what was inferred about the user's model and data; None for a `TwoLayer`.

    Example:
        >>> from nearzero.evaluators.base import LayerEvaluator
        >>> import nearzero as nz
        >>> import numpy as np
        >>> from nearzero.evaluators.two_layer import TwoLayerEvaluator
        >>> network = nz.TwoLayer(np.eye(2), np.zeros(2), np.eye(2), np.zeros(2), "relu")
        >>> evaluator = TwoLayerEvaluator.of(network, [[2, 1], [1, 2], [5, 4], [4, 5]], [0, 1, 0, 1])
        >>> isinstance(evaluator, LayerEvaluator)
        True
        >>> squares, sums = evaluator.changes([nz.Perturbation(clip=4.0)])  # 5 becomes 4, once in each unit
        >>> squares.tolist(), sums.tolist()
        ([[1.0, 1.0]], [[-1.0, -1.0]])
        >>> evaluator.mean_logit_change([nz.Perturbation(clip=4.0)]).tolist()
        [[-0.25, -0.25]]
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
    assumptions: Assumptions | None = None

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
        """Return the names of operations after the layer that divide by values which depend on it."""
        return ()

    @property
    def undefined(self) -> frozenset[str]:
        """Return the names of the families that aren't defined here since the units' weights aren't known."""
        return frozenset()

    @abstractmethod
    def conduct(self, conduct: Conduct | None) -> Conduct:
        """Return the conduct asked for, or the default one of the layer's activation."""

    @abstractmethod
    def check(self, conduct: Conduct, families: Iterable[str]) -> None:
        """Raise an error for families that aren't defined at this layer.

        Raises:
            InputError: an offset as run for another activation than ReLU and Abs, a perturbation after an
                activation whose place in the model isn't known, or a family in `undefined`.
        """

    @abstractmethod
    def split(self, seed: int) -> tuple[LayerEvaluator, LayerEvaluator]:
        """Return the layer on the reference half and on the responding half, see `nearzero.evaluators.base`."""

    def assumed(self) -> dict[str, str]:
        """Return the attribute of a result that holds what was inferred about a user's model; {} for a `TwoLayer`."""
        return {} if self.assumptions is None else {"assumptions": self.assumptions.to_json()}

    @abstractmethod
    def first(self, examples: int) -> LayerEvaluator:
        """Return the layer on the first examples; on more of them if a batch that can't be cut has more."""

    @abstractmethod
    def preactivations(self, units: Integers | None = None) -> Floats:
        """Return z of all rows, (R, U), or of some units, (R, len(units)).

        Raises:
            InputError: the values take more memory than allowed.
        """

    @abstractmethod
    def activations(self, units: Integers | None = None) -> Floats:
        """Return act(z) of all rows, (R, U), or of some units, (R, len(units))."""

    @abstractmethod
    def changes(self, perturbations: Perturbations) -> tuple[Doubles, Doubles]:
        """Return the sums over rows of (a' - a)^2 and of a' - a, (L, U) each."""

    @abstractmethod
    def projected_changes(self, perturbations: Perturbations, root: Floats) -> Doubles:
        """Return the sums over rows of ||(a' - a) root||^2, (L,), for a matrix root, (U, V)."""

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
            names: names of metrics: those of `nearzero.evaluators.metrics.NAMES`, or a user's own that the
                evaluator was made with; "prediction" asks for the predicted classes.
            shift: (L, K), subtracted from the logits for the metrics called "centred_...".
            keep: True to also return the values item by item.
        """

    @abstractmethod
    def gather(self, function: Callable[[Block], Part]) -> list[Part]:
        """Return the results of a function for each block of examples, in order."""

    @abstractmethod
    def gather_scaled(self, scales: Doubles, function: Callable[[ScaledBlock], Part]) -> list[Part]:
        """Return the results of a function for each block of items under common scales, in order."""

    @abstractmethod
    def gather_pinned(
        self, parameters: LevelParameters, function: Callable[[PinnedBlock], Part]
    ) -> list[Part]:
        """Return the results of a function for each block of items with a separate level for each item, in order."""


def not_finite_at(levels: Doubles) -> InputError:
    """Return the error that critical levels can't be found, since some logits aren't finite at these levels."""
    return InputError(
        f"critical levels need logits that can be ranked, and some are NaN or infinite at levels from {levels.min():g} "
        f"to {levels.max():g}; give low=... and high=... between which they are finite"
    )


def homogeneity_error(act: Callable[[Any], Any], z: Any, scales: Sequence[float] = TESTED) -> float:
    """Return the greatest |act(s z) - s act(z)|, as a share of the greatest s |act(z)|, over some scales s > 0.

    Args:
        act: the activation, a function of arrays or tensors like z.
        z: pre-activations of any shape, at least one.
        scales: the values of s.

    Returns:
        0 for a positively homogeneous activation, except for rounding; 0 if act is 0 for all z and s z.
    """
    errors = []
    for s in scales:
        before, after = act(s * z), s * act(z)  # scaled before and after the activation
        size = float(abs(after).max())
        error = float(abs(before - after).max())
        errors.append(error / size if size > 0 else float(np.inf) if error > 0 else 0.0)
    return max(errors)


def in_reference(numbers: npt.NDArray[np.integer], seed: int) -> npt.NDArray[np.bool_]:
    """Return for each example, given by its number in the data, True if it is in the reference half, (n,).

    Args:
        numbers: (n,), from 0.
        seed: the seed of the draw.
    """
    pairs = np.asarray(numbers, dtype=np.int64) // 2
    second = np.empty(len(pairs), np.int64)  # 1 if the second of the pair is the reference, else 0
    for block in np.unique(pairs // DRAWN).tolist():
        drawn = np.random.default_rng([seed, block, *b"halves"]).integers(2, size=DRAWN)
        in_block = pairs // DRAWN == block
        second[in_block] = drawn[pairs[in_block] % DRAWN]
    return np.asarray(second == np.asarray(numbers) % 2)


def halves(examples: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the numbers of the examples of the reference half and of the responding half, each ascending.

    Raises:
        InputError: fewer than two examples.
    """
    if examples < 2:
        raise InputError(f"two halves need at least two examples; got {examples}")
    numbers = np.arange(examples)
    reference = in_reference(numbers, seed)
    return numbers[reference], numbers[~reference]
