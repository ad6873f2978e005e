"""The task that planted networks solve: examples scattered about equally distant prototypes.

Prototypes have length 1, so the nearest one is also the one with the greatest match: distance and template intensity
are two ways to the same answers. The networks are in `nearzero.mechanisms.planted`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError

__all__ = ["Task", "prototype_task"]


@dataclass(frozen=True, eq=False)
class Task:
    """Examples of classes.

    Attributes:
        x: (N, D) float32, x = prototype of the class + noise.
        y: (N,) the classes, as many examples of each as can be.
        prototypes: (K, D), of length 1; any two have the same inner product.
        noise: standard deviation of each input about its prototype.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    prototypes: npt.NDArray[np.float64]
    noise: float

    @property
    def classes(self) -> int:
        """K, the number of classes."""
        return len(self.prototypes)

    @property
    def strength(self) -> float:
        """The distance between two prototypes in standard deviations of the noise."""
        return float(np.linalg.norm(self.prototypes[0] - self.prototypes[1]) / self.noise)


def prototype_task(
    generator: np.random.Generator,
    *,
    strength: float = 8.0,
    similarity: float = 0.6,
    classes: int = 5,
    inputs: int = 12,
    examples: int = 600,
) -> Task:
    """Prototypes in random directions, and examples about them.

    Args:
        generator: draws the directions, the classes' order and the noise.
        strength: the distance between two prototypes in standard deviations of the noise. Noise takes an example
            over to a given other class with probability Phi(-strength / 2) in the best classifier there is.
        similarity: the inner product of two prototypes, 0 to 1: the match that another class's template has, where
            one's own is 1. It makes no difference to distances but for their common size, sqrt(2 - 2 similarity).
        classes, inputs, examples: K, D and N.

    Raises:
        InputError: a strength that isn't positive, a similarity outside [0, 1), fewer than 2 classes, inputs that
            don't outnumber the classes, or fewer examples than classes.
    """
    if not 0 < strength < np.inf:
        raise InputError(f"strength must be positive and finite; got {strength}")
    if not 0 <= similarity < 1:
        raise InputError(f"similarity must be at least 0 and less than 1; got {similarity}")
    if classes < 2 or inputs <= classes or examples < classes:
        raise InputError(
            "a task needs at least 2 classes, more inputs than classes and an example of each; got "
            f"{classes} classes, {inputs} inputs and {examples} examples"
        )
    directions = np.linalg.qr(generator.standard_normal((inputs, classes + 1)))[0].T
    prototypes = np.sqrt(similarity) * directions[0] + np.sqrt(1 - similarity) * directions[1:]
    noise = float(np.sqrt(2 - 2 * similarity) / strength)
    y = generator.permutation(np.arange(examples) % classes)
    x = prototypes[y] + noise * generator.standard_normal((examples, inputs))
    return Task(x.astype(np.float32), y, prototypes, noise)
