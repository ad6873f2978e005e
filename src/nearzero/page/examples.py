"""The examples that a page embeds: which they are, and which of them change at equal displacement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nearzero.analysis.displacement import Displacements, UndefinedSizeError
from nearzero.analysis.matched import Design
from nearzero.analysis.verdict import Rules
from nearzero.evaluators.hidden_layer import HiddenLayer
from nearzero.evaluators.two_layer import TwoLayerEvaluator
from nearzero.networks import TwoLayer
from nearzero.networks.pixels import Pixels
from nearzero.perturbations.families import FAMILIES, Family
from nearzero.perturbations.ranges import Ranges

__all__ = ["EXAMPLES", "SEED", "MatchedExamples", "choose_examples", "matched_examples"]

EXAMPLES = 2_000
SEED = 0  # of the choice of examples
TARGET = 0.3  # the displacement that is shown where all families reach it

Flags = npt.NDArray[np.bool_]
Predictions = npt.NDArray[np.uint16]
Place = tuple[str, str]  # a family, and a side of its identity


def choose_examples(total: int, most: int = EXAMPLES) -> npt.NDArray[np.int64]:
    """Return the places of the page's examples: all, or as many as it holds at random from a fixed seed, in order.

    Example:
        >>> from nearzero.page.examples import choose_examples
        >>> choose_examples(3).tolist(), len(choose_examples(10_000))
        ([0, 1, 2], 2000)
    """
    if total <= most:
        return np.arange(total, dtype=np.int64)
    return np.sort(np.random.default_rng(SEED).choice(total, most, replace=False)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class MatchedExamples:
    """The predictions of one network on the page's examples under families of equal displacement.

    Attributes:
        target: the displacement, on the reference half of the training set.
        levels: of each family, on one side of its identity (that above, if it has two), the level that gives it.
        predictions: at these levels, (N,) each.
        unperturbed: the predictions without a perturbation, (N,).
        labels: (N,).
    """

    target: float
    levels: Mapping[Place, float]
    predictions: Mapping[Place, Predictions]
    unperturbed: Predictions
    labels: npt.NDArray[np.int64]

    @property
    def right(self) -> Flags:
        """Return which examples are predicted right without a perturbation, (N,)."""
        return np.asarray(self.unperturbed == self.labels)

    def changed(self, family: str) -> Flags:
        """Return which of the examples that are right have another prediction under a family, (N,)."""
        (own,) = (own for (name, _), own in self.predictions.items() if name == family)
        return np.asarray(self.right & (own != self.unperturbed))

    def sets(self, distance: str, intensity: str) -> tuple[Flags, Flags, Flags]:
        """Return which examples change under a family of distance alone, one of intensity alone, and both, (N,)."""
        first, second = self.changed(distance), self.changed(intensity)
        return first & ~second, second & ~first, first & second


def matched_examples(
    network: TwoLayer,
    *,
    training: Pixels,
    examples: Pixels,
    labels: npt.NDArray[np.int64],
    design: Design,
    rules: Rules,
) -> MatchedExamples | None:
    """Return what the deciding families do to the page's examples at equal displacement.

    Ranges and levels are those of the verdict: they come from the reference half of the training set, and each family
    that draws something is the first of the run's draws. The displacement is 30 % if all families reach it, else the
    greatest one that all reach.

    Args:
        network: the network.
        training: the training set.
        examples, labels: the page's examples.
        design: that of this run's responses at matched displacement.
        rules: say which families decide.

    Returns:
        None if the displacement isn't defined, no displacement is reached by all, or a role has only noise.
    """
    distance, intensity = (
        [name for name in names if name in FAMILIES] for names in (rules.distance, rules.intensity)
    )
    if not distance or not intensity:
        return None
    reference, _ = TwoLayerEvaluator.of(network, training).split(design.seed)
    conduct, ranges = reference.conduct(design.conduct), reference.ranges
    families = {name: design.drawn(name, conduct)[0] for name in (*distance, *intensity)}
    try:
        levels = _levels(Displacements(reference, ranges), families, design.targets)
    except UndefinedSizeError:
        return None
    order = sorted(design.targets, key=lambda target: (target != TARGET, -target))
    for target in order:
        own = {place: found[target] for place, found in levels.items()}
        if np.isfinite([*own.values()]).all():
            return _responses(HiddenLayer(network, examples), labels, families, ranges, target, own)
    return None


def _levels(
    sizes: Displacements, families: Mapping[str, Family], targets: Sequence[float]
) -> dict[Place, dict[float, float]]:
    """Return by family and side the level of each displacement; NaN where it isn't reached.

    Each family has one side, so that none has more chances to change a prediction than another.
    """
    return {
        (name, side): {
            target: match.level
            for target, match in zip(targets, sizes.match(family, side, targets), strict=True)
        }
        for name, family in families.items()
        for side in (list(family.sides)[-1:] if family.identity is not None else ())
    }


def _responses(
    layer: HiddenLayer,
    labels: npt.NDArray[np.int64],
    families: Mapping[str, Family],
    ranges: Ranges,
    target: float,
    levels: Mapping[Place, float],
) -> MatchedExamples:
    perturbations = [families[name].at(level, ranges) for (name, _), level in levels.items()]
    predictions = dict(zip(levels, layer.predict(perturbations), strict=True))
    return MatchedExamples(target, levels, predictions, layer.unperturbed, labels)
