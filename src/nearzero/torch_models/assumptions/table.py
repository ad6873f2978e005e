"""Collect what was inferred about a model and its data, in a table that belongs to the result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nearzero.errors import InputError

__all__ = ["Assumption", "Assumptions"]


@dataclass(frozen=True)
class Assumption:
    """One reading of a model or its data, on which the numbers of a result depend.

    Attributes:
        what: the thing that was inferred, such as "output" or "units of layer fc1".
        value: the reading, such as "logits" or "dimension 1".
        source: how it is known: "given", or the experiment or the fact that it was inferred from.
        argument: the argument that sets it, such as "output_kind=".
    """

    what: str
    value: str
    source: str
    argument: str


class Assumptions:
    """Collect the assumptions of one analysis, each with one value.

    Example:
        >>> from nearzero.torch_models.assumptions import Assumptions
        >>> assumptions = Assumptions()
        >>> assumptions.record("output", "logits", "some values are negative", "output_kind=")
        >>> [assumption.value for assumption in assumptions]
        ['logits']
        >>> assumptions.record("output", "probabilities", "the values of a later batch add up to 1", "output_kind=")
        Traceback (most recent call last):
            ...
        nearzero.errors.InputError: output can be read in two ways: logits (some values are negative), ...
    """

    def __init__(self) -> None:
        self._rows: dict[str, Assumption] = {}

    def __iter__(self) -> Iterator[Assumption]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def record(self, what: str, value: str, source: str, argument: str) -> None:
        """Record a reading. The first source of a reading is kept.

        Raises:
            InputError: another reading of the same thing was recorded before.
        """
        kept = self._rows.setdefault(what, Assumption(what, value, source, argument))
        if kept.value != value:
            raise InputError(
                f"{what} can be read in two ways: {kept.value} ({kept.source}), and {value} ({source}); "
                f"choose with {argument.rstrip('=')}=..."
            )
