"""Families as a user gives them: by name, as families with options of their own, or as single perturbations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from nearzero.errors import InputError
from nearzero.perturbations.families import FAMILIES, Conduct, Family, Levels, make_family
from nearzero.perturbations.perturbation import Perturbation, Side
from nearzero.perturbations.ranges import Ranges
from nearzero.support.names import check_label, check_number_of_labels

__all__ = ["Families", "Fixed", "read_families"]

Choice = str | Family | Perturbation
Families = Choice | Iterable[Choice] | Mapping[str, Choice]


@final
@dataclass(frozen=True, eq=False)
class Fixed(Family):
    """A perturbation of the user's own, as a family with one level, 1. Dead units are perturbed too.

    Attributes:
        perturbation: the perturbation.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> from nearzero.perturbations.given import Fixed
        >>> z = np.array([[-2.0], [4.0]])
        >>> family = Fixed(nz.Perturbation(offset=1.0))
        >>> family.at(1.0, nz.Ranges.of(z, nz.activation("relu")))(z).tolist()
        [[-1.0], [5.0]]
    """

    perturbation: Perturbation

    name: ClassVar[str] = "perturbation"
    identity: ClassVar[float | None] = None
    sides: ClassVar[Mapping[str, tuple[float, float]]] = {}
    swept: ClassVar[Levels] = np.array([1.0])

    @property
    def acts_on(self) -> Side:  # type: ignore[override]
        """Return the side of the perturbation."""
        return self.perturbation.side

    def at(self, level: float, ranges: Ranges) -> Perturbation:
        """Return the perturbation.

        Raises:
            InputError: it has parameters for another number of units.
        """
        self.perturbation.per_unit(len(ranges.live))
        return self.for_all_units(level, ranges)

    def for_all_units(self, level: float, ranges: Ranges) -> Perturbation:  # noqa: D102 (as in Family)
        return self.perturbation


def read_families(families: Any) -> dict[str, str | Family]:
    """Return the families that a user asked for, by the name that they have in the result.

    Raises:
        InputError: none, very many, two of one name, an unknown one, or something else than a name, a family or a
            perturbation.
    """
    if isinstance(families, Mapping):
        named = list(families.items())
    else:
        several = isinstance(families, Iterable) and not isinstance(families, str | bytes)
        given = list(families) if several else [families]
        named = [(_name_of(each), each) for each in given]
    names = [name for name, _ in named]
    check_number_of_labels(family=len(names))
    for name, each in named:
        check_label(name, "the name of a family")
        if not isinstance(each, (str, Family, Perturbation)):
            raise InputError(
                f"families must be names, of {', '.join(FAMILIES)}, families such as nz.Shift(), or perturbations; got "
                f"{each!r}"
            )
        if isinstance(each, str):
            make_family(each, Conduct())  # raises for an unknown name
    if not names:
        raise InputError(f"families must name at least one, of {', '.join(FAMILIES)}")
    if len(set(names)) < len(names):
        raise InputError(
            f"families name one of them twice: {', '.join(names)}; a mapping gives each a name of its own"
        )
    return {name: Fixed(each) if isinstance(each, Perturbation) else each for name, each in named}


def _name_of(family: object) -> str:
    """Return the name in the result of a family that was given without one."""
    if isinstance(family, Perturbation):
        return Fixed.name
    return family.name if isinstance(family, Family) else str(family)
