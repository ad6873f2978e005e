"""The task of the planted networks, and networks that solve it by a known mechanism.

Examples are scattered around equally distant prototypes of length 1. So the nearest prototype is also the one
with the greatest match: distance and template intensity are two ways to the same answers. A network has one
of them, or a share of each.

No network is trained. The directions of the units and the order of the units are random, and so differ
between runs. The order is random so that no draw for each unit can favour the same class in all runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError
from nearzero.networks import TwoLayer

__all__ = ["Task", "distance_network", "mixed_network", "prototype_task", "template_network"]

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Task:
    """The examples of a task, their classes and their prototypes.

    Attributes:
        x: (N, D) float32, x = prototype of the class + noise.
        y: (N,), the classes; their numbers of examples differ by at most one.
        prototypes: (K, D), of length 1; any two have the same inner product.
        noise: the standard deviation of each input about its prototype.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    prototypes: npt.NDArray[np.float64]
    noise: float

    @property
    def classes(self) -> int:
        """Return K, the number of classes."""
        return len(self.prototypes)

    def sample(self, generator: np.random.Generator, examples: int) -> Task:
        """Return the same task with other examples, drawn from the same distribution."""
        y = generator.permutation(np.arange(examples) % self.classes)
        x = self.prototypes[y] + self.noise * generator.standard_normal((examples, self.prototypes.shape[1]))
        return replace(self, x=x.astype(np.float32), y=y)


def prototype_task(
    generator: np.random.Generator,
    *,
    strength: float = 8.0,
    similarity: float = 0.6,
    classes: int = 5,
    inputs: int = 12,
    examples: int = 600,
) -> Task:
    """Return a task with prototypes in random directions and examples around them.

    Args:
        generator: draws the directions, the order of the classes and the noise.
        strength: the distance between two prototypes, in standard deviations of the noise. With the best
            possible classifier, noise moves an example to a given other class with probability
            Phi(-strength / 2).
        similarity: the inner product of two prototypes, 0 to 1: the match of an example at its prototype with
            the template of another class, if the match with its own is 1. Its only effect on distances is
            their common size, sqrt(2 - 2 similarity).
        classes, inputs, examples: K, D and N.

    Raises:
        InputError: a strength that isn't positive, a similarity outside [0, 1), fewer than 2 classes, no more
            inputs than classes, or fewer examples than classes.
    """
    if not 0 < strength < np.inf:
        raise InputError(f"strength must be positive and finite; got {strength}")
    if not 0 <= similarity < 1:
        raise InputError(f"similarity must be at least 0 and less than 1; got {similarity}")
    if classes < 2 or inputs <= classes or examples < classes:
        raise InputError(
            "a task needs at least 2 classes, more inputs than classes and an example of each class; got "
            f"{classes} classes, {inputs} inputs and {examples} examples"
        )
    directions = np.linalg.qr(generator.standard_normal((inputs, classes + 1)))[0].T
    prototypes = np.sqrt(similarity) * directions[0] + np.sqrt(1 - similarity) * directions[1:]
    noise = float(np.sqrt(2 - 2 * similarity) / strength)
    empty = Task(np.empty((0, inputs), np.float32), np.empty(0, np.int64), prototypes, noise)
    return empty.sample(generator, examples)


@dataclass(frozen=True, eq=False)
class _PlantedUnits:
    """The weights of hidden units: w1 (U, D), b1 (U,) and w2 (K, U)."""

    w1: Doubles
    b1: Doubles
    w2: Doubles

    def network(self, activation: str, generator: np.random.Generator) -> TwoLayer:
        """Return the network, with its units in random order."""
        order = generator.permutation(len(self.w1))
        return TwoLayer(self.w1[order], self.b1[order], self.w2[:, order], np.zeros(len(self.w2)), activation)

    def margin(self, task: Task, activation: str) -> float:
        """Return the logit of the right class minus the greatest other logit, mean over the examples."""
        z = task.x @ self.w1.T + self.b1
        logits = (np.abs(z) if activation == "abs" else np.maximum(z, 0.0)) @ self.w2.T
        rows = np.arange(len(logits))
        own = logits[rows, task.y].copy()
        logits[rows, task.y] = -np.inf
        return float(np.mean(own - logits.max(axis=1)))


def distance_network(
    task: Task, generator: np.random.Generator, *, activation: str = "abs", units_per_class: int = 4
) -> TwoLayer:
    """Return a network whose units measure the distance to a prototype: the smallest activation wins.

    z = v (x - m_k) for class k, v a unit vector drawn at random from the directions in which prototypes
    differ; logit_k = - sum |z| over the units of the class. With ReLU, two units give each |z|, as
    relu(z) + relu(-z).

    Args:
        task: the task with the prototypes.
        generator: draws the directions and the order of the units.
        activation: "abs" or "relu".
        units_per_class: the number of directions of each class; with ReLU there are twice as many units.

    Raises:
        InputError: another activation, or no units.
    """
    units = _distance(task, generator, _checked(activation), units_per_class)
    return units.network(activation, generator)


def template_network(
    task: Task,
    generator: np.random.Generator,
    *,
    activation: str = "relu",
    units_per_class: int = 4,
    jitter: float = 0.3,
) -> TwoLayer:
    """Return a network whose units match the input with a template: the largest activation wins.

    z = w x with w the prototype of the class, moved in a random direction and scaled back to length 1;
    logit_k = sum of act(z) over the units of the class. With Abs, the sign of each w is random: |z| is the
    same for both signs, and a trained network would have no reason to prefer one.

    Args:
        task: the task with the prototypes.
        generator: draws the moves of the templates, the signs and the order of the units.
        activation: "relu" or "abs".
        units_per_class: the number of templates of each class.
        jitter: the root mean square length by which templates are moved.

    Raises:
        InputError: another activation, no units, or a negative jitter.
    """
    units = _template(task, generator, _checked(activation), units_per_class, jitter)
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
    """Return a network with the units of a distance network and of a template network, logits added.

    Args:
        task, generator, activation, jitter: as for `distance_network` and `template_network`.
        share: the share of the distance units in the margin, 0 to 1. The margin is the logit of the right
            class minus the greatest other logit, mean over the task. The output weights are set so that the
            margin of the distance units alone is `share`, and that of the template units alone is
            1 - `share`.
        units_per_class: the number of directions, and of templates, of each class.

    Raises:
        InputError: as for these two, a share outside [0, 1], or a task on which one mechanism alone has no
            margin.
    """
    if not 0 <= share <= 1:
        raise InputError(f"share must lie between 0 and 1; got {share}")
    distance = _distance(task, generator, _checked(activation), units_per_class)
    template = _template(task, generator, activation, units_per_class, jitter)
    outputs = []
    for units, own in ((distance, share), (template, 1 - share)):
        margin = units.margin(task, activation)
        if not margin > 0:
            raise InputError(
                f"the task is too hard for a mixed network: one mechanism alone has the margin {margin:.3g}; "
                "raise strength or units_per_class"
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


def _checked(activation: str) -> str:
    if activation not in ("abs", "relu"):
        raise InputError(f"mechanisms are planted with abs or relu; got {activation!r}")
    return activation
