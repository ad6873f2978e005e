"""What is done to a layer: which perturbations, from which families and levels, in which conduct."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nearzero.activations import ACTIVATIONS
from nearzero.arrays import as_numbers
from nearzero.errors import InputError
from nearzero.families import Conduct, make_family
from nearzero.perturbation import Perturbation, Side
from nearzero.probing.layer import Layer
from nearzero.ranges import Ranges

__all__ = ["Levels", "Plan", "make_plan"]

Levels = Mapping[str, npt.ArrayLike] | npt.ArrayLike | int | None
Grid = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Plan:
    """One layer, and what is done to it.

    Attributes:
        layer, ranges, conduct: what the perturbations were made for.
        grids: by family, its levels, ascending.
        perturbations: of all families, one after the other.
    """

    layer: Layer
    ranges: Ranges
    conduct: Conduct
    grids: Mapping[str, Grid]
    perturbations: Sequence[Perturbation]

    def by_side(self) -> Iterator[tuple[Side, list[int]]]:
        """For each side that is perturbed, the numbers of its perturbations."""
        sides: tuple[Side, Side] = ("pre", "post")
        for side in sides:
            places = [index for index, each in enumerate(self.perturbations) if each.side == side]
            if places:
                yield side, places


def make_plan(
    layer: Layer, ranges: Ranges, families: Sequence[str], levels: Levels, conduct: Conduct | None
) -> Plan:
    """The perturbations of one layer.

    Raises:
        InputError: an unknown family, levels that it hasn't, or a conduct that the activation doesn't allow.
    """
    published = layer.activation in ("relu", "abs")
    own = conduct or (Conduct() if published else Conduct(offset="shift", range="pre"))
    try:
        if "offset" in families and layer.activation in ACTIVATIONS:
            own.check([str(layer.activation)])
        made = [make_family(name, own) for name in families]
        grids = {each.name: _grid(each.name, each.levels, levels) for each in made}
        perturbations = [each.at(level, ranges) for each in made for level in grids[each.name]]
    except InputError as error:
        raise InputError(f"layer {layer.name!r}: {error}") from error
    return Plan(layer, ranges, own, grids, perturbations)


def _grid(family: str, own: Grid, levels: Levels) -> Grid:
    """The levels of a family: its own, so many of them, or those given."""
    if isinstance(levels, Mapping):
        unknown = [name for name in levels if not isinstance(name, str)]
        if unknown:
            raise InputError(f"levels are named by family; got {unknown[0]!r}")
        levels = levels.get(family)
    if levels is None:
        return own
    if isinstance(levels, int) and not isinstance(levels, bool):
        if levels < 1:
            raise InputError(f"levels must be at least 1; got {levels}")
        places = np.linspace(0, len(own) - 1, min(levels, len(own))).round().astype(int)
        return np.asarray(own[np.unique(places)])
    grid = np.unique(np.atleast_1d(as_numbers(levels, "levels")).astype(np.float64))
    if grid.ndim != 1 or not grid.size:
        raise InputError(f"levels of {family} must be a flat array of at least one; got shape {grid.shape}")
    return grid
