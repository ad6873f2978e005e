"""The rules of a verdict: what counts as distance and as intensity, what is tested, and what is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from nearzero.analysis.displacement import LARGEST_TARGET, TARGETS
from nearzero.errors import InputError, check_choice, did_you_mean
from nearzero.perturbations.families import FAMILIES
from nearzero.perturbations.noise import NOISES
from nearzero.statistics.paired import MINIMUM_RUNS
from nearzero.support.names import check_number_of_labels

__all__ = [
    "CHECKS",
    "DIRECTIONS",
    "LOSS",
    "Finding",
    "Measure",
    "Rules",
    "Test",
    "check_measure",
    "measure_words",
]

# Findings of one comparison. The finding on a network is the first of these that any of its comparisons has.
Finding = Literal[
    "distance costs more",
    "intensity costs more",
    "inconclusive",
    "equivalent",
    "no effect",
    "description only",
    "degenerate",
    "not reached",
]
DIRECTIONS: tuple[Finding, Finding] = ("distance costs more", "intensity costs more")
Measure = Literal[
    "accuracy",
    "centred_accuracy",
    "agreement",
    "centred_agreement",
    "cross_entropy",
    "centred_cross_entropy",
]
LOSS = "cross_entropy"
Test = Literal["minimum-effect", "difference"]
# The checks, with their names for readers.
CHECKS = {
    "whitened": "whitened size",
    "centred_logits": "centred logit change",
    "centred_accuracy": "centred accuracy",
    "held_out": "held-out data",
}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules of a verdict.

    D is the mean over runs of the cost of distance minus that of intensity. A comparison is the first of these:
    *not reached*; *degenerate*, if D is the same in all runs; *description only*, with fewer than `minimum_runs`
    runs; *no effect*, if the upper 95 % bounds of both costs' absolute values are below the margin; *equivalent*,
    by two one-sided tests (TOST); *distance costs more* or *intensity costs more*, by the minimum-effect test at
    the margin, with a standard deviation over runs of at least a quarter of the margin, adjusted by Holm over the
    comparisons of a model; else *inconclusive*.

    Attributes:
        distance: names of families. The cost of distance is the mean over these families and their sides.
        intensity: names of families. Each of them, averaged over its sides, is compared with distance
            separately.
        targets: the displacements at which they are compared.
        measure: the variable whose change is the cost. For "accuracy", "centred_accuracy", "agreement" and
            "centred_agreement" the cost is what is lost, in percentage points. For "cross_entropy" and
            "centred_cross_entropy" it is the rise of the mean loss, in nats per item (per token of a language
            model). Without labels, use "agreement".
        margin: the smallest difference that matters, in percentage points; in nats if the measure is a
            cross-entropy, for which the default of 1 is large.
        alpha: the family-wise error rate over all comparisons of a model (Holm), and the level of each
            one-sided test.
        minimum_runs: the number of runs below which a comparison is described but not judged; at least six.
        test: "minimum-effect"; or "difference" for the earlier rules, which test whether D is 0 and ask
            for a mean beyond the margin. These find differences that don't exceed the margin too often.
        checks: the checks that a direction must pass to be robust, keys of `CHECKS`: levels matched by whitened
            size, or by centred logit change; the mean logit change taken out of the logits; data that
            neither the training nor the levels used.

    Raises:
        InputError: an unknown family, measure, test or check, a family that is both distance and intensity, or
            a number out of range.

    Example:
        >>> import nearzero as nz
        >>> rules = nz.Rules(intensity=("gains",), margin=2.0)
        >>> rules.distance, rules.intensity, rules.margin
        (('signed_shift',), ('gains',), 2.0)
        >>> rules.changed  # compared with the default rules
        {'intensity': ('gains',), 'margin': 2.0}
        >>> nz.Rules(measure="acuracy")
        Traceback (most recent call last):
        nearzero.errors.InputError: unknown measure 'acuracy': did you mean 'accuracy'? ...
    """

    distance: tuple[str, ...] = ("signed_shift",)
    intensity: tuple[str, ...] = ("gains", "cap")
    targets: tuple[float, ...] = TARGETS
    measure: Measure = "accuracy"
    margin: float = 1.0
    alpha: float = 0.05
    minimum_runs: int = MINIMUM_RUNS
    test: Test = "minimum-effect"
    checks: tuple[str, ...] = tuple(CHECKS)

    def __post_init__(self) -> None:
        self._check_names()
        check_measure(self.measure)
        check_choice("test", self.test, get_args(Test))
        check_number_of_labels(target=len(self.targets))
        requirements = {
            "targets": (
                bool(self.targets) and all(0 < target <= LARGEST_TARGET for target in self.targets),
                f"be positive displacements of at most {LARGEST_TARGET:g}, 0.1 for 10 %",
            ),
            "margin": (0 < self.margin < 100, f"be a positive number of {self._unit_in_full}"),
            "alpha": (0 < self.alpha < 0.5, "lie between 0 and 0.5"),
            "minimum_runs": (
                self.minimum_runs >= MINIMUM_RUNS,
                f"be at least {MINIMUM_RUNS}, since with fewer no sign-flip test can reach 0.05",
            ),
        }
        for name, (holds, requirement) in requirements.items():
            if not holds:
                value = getattr(self, name)
                raise InputError(
                    f"{name} must {requirement}; got {list(value) if np.iterable(value) else value}"
                )

    def _check_names(self) -> None:
        families = (*FAMILIES, *NOISES)
        for role, known, what in (
            ("distance", families, "families"),
            ("intensity", families, "families"),
            ("checks", tuple(CHECKS), "checks"),
        ):
            names = getattr(self, role)
            if isinstance(names, str) or (not names and role != "checks"):
                raise InputError(f"{role} must name {what}, as a tuple, at least one; got {names!r}")
            for name in names:
                if name not in known:
                    hint = did_you_mean(name, known)
                    raise InputError(
                        f"{role} must name {what}; {name!r} isn't one: {hint}known are {', '.join(known)}"
                    )
        if set(self.distance) & set(self.intensity):
            raise InputError(
                "a family is either distance or intensity; got the same one in "
                f"{list(self.distance)} and {list(self.intensity)}"
            )

    @property
    def of_loss(self) -> bool:
        """Return whether the cost is the rise of a loss, in nats; else it is what a share loses, in points."""
        return self.measure.endswith(LOSS)

    @property
    def unit(self) -> str:
        """Return the unit of costs, of D and of the margin: "points" or "nats"."""
        return "nats" if self.of_loss else "points"

    @property
    def _unit_in_full(self) -> str:
        return self.unit if self.of_loss else "percentage points"

    @property
    def measured_in(self) -> str:
        """Return the unit and what is measured, in words: "points of accuracy", "nats of cross-entropy"."""
        return f"{self.unit} of {measure_words(self.measure)}"

    @property
    def margin_in_words(self) -> str:
        """Return the margin with its unit and what is measured: "1 point of accuracy"."""
        unit = self.unit.removesuffix("s") if self.margin == 1 else self.unit
        return f"{self.margin:g} {unit} of {measure_words(self.measure)}"

    @property
    def check_names(self) -> dict[str, str]:
        """Return the names of the checks for readers, by key: those of `CHECKS`, of the measure of these rules."""
        centred = f"centred {measure_words(self.measure.removeprefix('centred_'))}"
        return CHECKS | {"centred_accuracy": centred}

    @property
    def changed(self) -> dict[str, Any]:
        """Return the rules that differ from the default ones, by name."""
        default = Rules()
        return {name: value for name, value in vars(self).items() if value != getattr(default, name)}

    @property
    def notices(self) -> tuple[str, ...]:
        """Return the notices that a reader of the verdict needs; none for the default rules."""
        changed = ", ".join(self.changed)
        return (f"these rules aren't the default ones: {changed} changed",) if changed else ()


def measure_words(measure: str) -> str:
    """Return the name of a measure for readers: "centred accuracy", "cross-entropy"."""
    return measure.replace(LOSS, "cross-entropy").replace("_", " ")


def check_measure(measure: str) -> None:
    """Raise an error for an unknown measure.

    Raises:
        InputError: the measure isn't one of `Measure`.
    """
    known = get_args(Measure)
    if measure not in known:
        hint = did_you_mean(measure, known)
        raise InputError(f"unknown measure {measure!r}: {hint}known are {', '.join(known)}")
