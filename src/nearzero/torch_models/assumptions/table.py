"""Collect what was inferred about a model and its data, in a table that belongs to the result."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace

from nearzero.errors import InputError

__all__ = ["UNREAD", "Assumption", "Assumptions", "condensed", "read_json"]

# of a mask: part of how it is known, and a note of the result
UNREAD = "the model doesn't read it, so that logits of an example depend on how far its batch fills it up"
OF_LAYER = " of layer "  # between a thing that each layer has and the name of the layer


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

    @property
    def is_of_layer(self) -> bool:
        """Return whether the row is about one layer."""
        return OF_LAYER in self.what


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

    def __getitem__(self, what: str) -> Assumption:
        """Return the row of a thing that was recorded."""
        return self._rows[what]

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

    @contextmanager
    def apart(self) -> Iterator[list[Assumption]]:
        """Yield a list that receives, at the end of the block, the rows that were new in it; they are taken out again.

        Example:
            >>> from nearzero.torch_models.assumptions import Assumptions
            >>> assumptions = Assumptions()
            >>> with assumptions.apart() as rows:
            ...     assumptions.record("output", "logits", "some values are negative", "output_kind=")
            >>> len(assumptions), [row.value for row in rows]
            (0, ['logits'])
        """
        before, rows = dict(self._rows), list[Assumption]()
        yield rows
        rows += [row for what, row in self._rows.items() if what not in before]
        self._rows = before

    def to_json(self) -> str:
        """Return the rows as text, which the attributes of a result can hold; `read_json` reads it."""
        return json.dumps([astuple(row) for row in self])


def read_json(text: str) -> tuple[Assumption, ...]:
    """Return the rows that `Assumptions.to_json` has written.

    Example:
        >>> from nearzero.torch_models.assumptions import Assumptions, read_json
        >>> assumptions = Assumptions()
        >>> assumptions.record("logits", "entry 'out'", "the only tensor", "output=")
        >>> read_json(assumptions.to_json())[0].value
        "entry 'out'"
    """
    return tuple(Assumption(*row) for row in json.loads(text))


def condensed(rows: Iterable[Assumption]) -> list[Assumption]:
    """Return the rows for a reader: layers of which the same is assumed share a row.

    Example:
        >>> from nearzero.torch_models.assumptions import Assumptions, condensed
        >>> assumptions = Assumptions()
        >>> for layer in ("0", "2", "4"):
        ...     assumptions.record(f"units of layer {layer}", "dimension 1", "followed", "unit_axis=")
        >>> [row.what for row in condensed(assumptions)]
        ['units of 3 layers']
    """
    groups: dict[tuple[str, ...], list[Assumption]] = {}
    for row in rows:
        thing, separator, _ = row.what.partition(OF_LAYER)
        groups.setdefault((thing, separator, row.value, row.source, row.argument), []).append(row)
    return [
        group[0] if len(group) == 1 else replace(group[0], what=f"{thing} of {len(group)} layers")
        for (thing, *_), group in groups.items()
    ]
