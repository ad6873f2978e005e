"""The task that planted networks solve, and networks that solve it by a mechanism that was put there.

Examples are scattered about equally distant prototypes of length 1, so the nearest prototype is also the one with the
greatest match: distance and template intensity are two ways to the same answers. A network has one of them, or a
share of each.

Nothing is trained. What is drawn at random, and so differs between runs, are the directions that units look in and the
order of units; the latter so that nothing that is drawn for each unit can favour a class in all runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError
from nearzero.networks import TwoLayer

__all__ = ["Task", "distance_network", "mixed_network", "prototype_task", "template_network"]

Doubles = npt.NDArray[np.float64]


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


@dataclass(frozen=True, eq=False)
class _PlantedUnits:
    """Hidden units and what they say: w1 (U, D), b1 (U,), w2 (K, U)."""

    w1: Doubles
    b1: Doubles
    w2: Doubles

    def network(self, activation: str, generator: np.random.Generator) -> TwoLayer:
        """The network, its units in random order."""
        order = generator.permutation(len(self.w1))
        return TwoLayer(self.w1[order], self.b1[order], self.w2[:, order], np.zeros(len(self.w2)), activation)

    def margin(self, task: Task, activation: str) -> float:
        """The logit of the class less the greatest of the others, mean over the examples of the task."""
        z = task.x @ self.w1.T + self.b1
        logits = (np.abs(z) if activation == "abs" else np.maximum(z, 0.0)) @ self.w2.T
        rows = np.arange(len(logits))
        own = logits[rows, task.y].copy()
        logits[rows, task.y] = -np.inf
        return float(np.mean(own - logits.max(axis=1)))


def distance_network(
    task: Task, generator: np.random.Generator, *, activation: str = "abs", units_per_class: int = 4
) -> TwoLayer:
    """The smallest activation wins: units measure the distance to the prototype of their class.

    z = v (x - m_k) for class k, v a unit vector drawn at random from the directions in which prototypes differ;
    logit_k = - sum |z| over the units of the class. With ReLU two units, relu(z) + relu(-z), make each |z|.

    Args:
        task: whose prototypes they are.
        generator: draws directions and the order of units.
        activation: "abs" or "relu".
        units_per_class: directions of a class; with ReLU there are twice as many units.

    Raises:
        InputError: another activation, or no units.
    """
    return _distance(task, generator, _known(activation), units_per_class).network(activation, generator)


def template_network(
    task: Task,
    generator: np.random.Generator,
    *,
    activation: str = "relu",
    units_per_class: int = 4,
    jitter: float = 0.3,
) -> TwoLayer:
    """The largest activation wins: units match the input with a template of their class.

    z = w x with w the prototype of the class, moved in a random direction and brought back to length 1;
    logit_k = sum of act(z) over the units of the class. With Abs, the sign of each w is drawn: |z| is the same for
    both, and a network that was trained would have no reason to prefer one.

    Args:
        task: whose prototypes they are.
        generator: draws what templates are moved by, signs, and the order of units.
        activation: "relu" or "abs".
        units_per_class: templates of a class.
        jitter: how far templates are moved, root mean square length.

    Raises:
        InputError: another activation, no units, or a negative jitter.
    """
    units = _template(task, generator, _known(activation), units_per_class, jitter)
    return units.network(activation, generator)


def mixed_network(
    task: Task,
    generator: np.random.Generator,
    *,
    share: float,
    activation: str = "abs",
    units_per_class: int = 4,
    jitter: float = 0.3,
) -> TwoLayer:
    """Both mechanisms at once: the units of a distance network beside those of a template network, logits added up.

    Args:
        task, generator, activation, jitter: as for the two.
        share: of the distance units in the margin, 0 to 1. Each kind's output weights are set so that its own
            margin (the logit of the class less the greatest other, mean over the task) is `share` for distance and 1 -
            `share` for templates.
        units_per_class: of each kind.

    Raises:
        InputError: as for the two, a share outside [0, 1], or a task on which one kind alone has no margin.
    """
    if not 0 <= share <= 1:
        raise InputError(f"share must lie between 0 and 1; got {share}")
    distance = _distance(task, generator, _known(activation), units_per_class)
    template = _template(task, generator, activation, units_per_class, jitter)
    outputs = []
    for units, own in ((distance, share), (template, 1 - share)):
        margin = units.margin(task, activation)
        if not margin > 0:
            raise InputError(
                f"the task is too hard to plant a share in it: a margin of {margin:.3g}; raise strength or "
                "units_per_class"
            )
        outputs.append(own / margin * units.w2)
    w1, b1 = (np.concatenate([getattr(distance, name), getattr(template, name)]) for name in ("w1", "b1"))
    return _PlantedUnits(w1, b1, np.concatenate(outputs, axis=1)).network(activation, generator)


def _distance(
    task: Task, generator: np.random.Generator, activation: str, units_per_class: int
) -> _PlantedUnits:
    owner = _owners(task, units_per_class)
    differences = task.prototypes - task.prototypes.mean(axis=0)
    w1 = generator.standard_normal((len(owner), task.classes)) @ differences
    w1 /= np.linalg.norm(w1, axis=1, keepdims=True)
    if activation == "relu":
        w1, owner = np.concatenate([w1, -w1]), np.concatenate([owner, owner])
    return _PlantedUnits(w1, -(w1 * task.prototypes[owner]).sum(axis=1), -np.eye(task.classes)[:, owner])


def _template(
    task: Task, generator: np.random.Generator, activation: str, units_per_class: int, jitter: float
) -> _PlantedUnits:
    if not 0 <= jitter < np.inf:
        raise InputError(f"jitter must be a number from 0; got {jitter}")
    owner = _owners(task, units_per_class)
    shape = len(owner), task.prototypes.shape[1]
    w1 = task.prototypes[owner] + jitter / np.sqrt(shape[1]) * generator.standard_normal(shape)
    w1 /= np.linalg.norm(w1, axis=1, keepdims=True)
    if activation == "abs":
        w1 *= generator.choice([-1.0, 1.0], (len(owner), 1))
    return _PlantedUnits(w1, np.zeros(len(owner)), np.eye(task.classes)[:, owner])


def _owners(task: Task, units_per_class: int) -> npt.NDArray[np.int64]:
    if units_per_class < 1:
        raise InputError(f"units_per_class must be at least 1; got {units_per_class}")
    return np.repeat(np.arange(task.classes), units_per_class)


def _known(activation: str) -> str:
    if activation not in ("abs", "relu"):
        raise InputError(f"mechanisms are planted with abs or relu; got {activation!r}")
    return activation
