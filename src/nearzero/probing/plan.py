"""What is done to a layer: which perturbations, from which families and levels, in which conduct."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nearzero.activations import ACTIVATIONS
from nearzero.arrays import as_numbers
from nearzero.errors import InputError
from nearzero.families import BY_FORMULA, FAMILIES, Conduct, make_family
from nearzero.perturbation import AnyPerturbation, Side
from nearzero.probing.layer import Layer
from nearzero.ranges import Ranges

__all__ = ["Levels", "Plan", "check_families", "check_levels", "conduct_of", "make_plan"]

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
    perturbations: Sequence[AnyPerturbation]

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
        InputError: an unknown family, levels that it hasn't, or a conduct that the layer doesn't allow.
    """
    own = conduct_of(layer, conduct)
    check_families(layer, own, families)
    try:
        made = [make_family(name, own) for name in families]
        grids = {each.name: _grid(each.name, each.levels, levels) for each in made}
        perturbations = [each.at(level, ranges) for each in made for level in grids[each.name]]
    except InputError as error:
        raise InputError(f"layer {layer.name!r}: {error}") from error
    return Plan(layer, ranges, own, grids, perturbations)


def conduct_of(layer: Layer, conduct: Conduct | None) -> Conduct:
    """The conduct asked for; else the published one for ReLU and Abs, and a shift by the pre-activation range."""
    published = layer.activation in ("relu", "abs")
    return conduct or (Conduct() if published else Conduct(offset="shift", range="pre"))


def check_families(layer: Layer, conduct: Conduct, families: Iterable[str]) -> None:
    """Refuse families that have no meaning at a layer.

    Raises:
        InputError: an offset as run where the activation isn't ReLU or Abs, or a perturbation after an activation of
            which it isn't known where in the model it is; and what to do.
    """
    made = [make_family(name, conduct) for name in families if name in FAMILIES]
    if any(each.name in BY_FORMULA for each in made):
        try:
            _check_offset(conduct, layer)
        except InputError as error:
            raise InputError(f"layer {layer.name!r}: {error}") from error
    placed = layer.kind in ("activation", "function") or layer.follows is not None
    if any(each.acts_on == "post" for each in made) and layer.act is not None and not placed:
        raise InputError(
            f"layer {layer.name!r}: clip=post and cap act after the activation, and where in the model that is isn't "
            "known; name the activation's own layer, or use clip=pre"
        )


def _check_offset(conduct: Conduct, layer: Layer) -> None:
    """Refuse "as-run" where the activation isn't ReLU or Abs, known by name or not."""
    if layer.activation in ACTIVATIONS:
        conduct.check([str(layer.activation)])
    elif conduct.offset == "as-run" and layer.activation is not None:
        raise InputError(
            f"offset=as-run isn't defined for {layer.activation}, but for relu and abs alone; use offset=shift"
        )


def check_levels(families: Sequence[str], levels: Levels) -> None:
    """Refuse levels that no family of those named can have."""
    unknown = [name for name in levels if name not in families] if isinstance(levels, Mapping) else []
    if unknown:
        raise InputError(
            f"levels are given for {unknown[0]!r}, which isn't among the families {', '.join(families)}"
        )


def _grid(family: str, own: Grid, levels: Levels) -> Grid:
    """The levels of a family: its own, so many of them, or those given."""
    if isinstance(levels, Mapping):
        levels = levels.get(family)
    if levels is None:
        return own
    if isinstance(levels, (int, np.integer)) and not isinstance(levels, bool):
        if levels < 1:
            raise InputError(f"levels must be at least 1; got {levels}")
        places = np.linspace(0, len(own) - 1, min(int(levels), len(own))).round().astype(int)
        return np.asarray(own[np.unique(places)])
    given = np.atleast_1d(as_numbers(levels, "levels")).astype(np.float64)
    if given.ndim != 1 or not given.size:
        raise InputError(f"levels of {family} must be a flat array of at least one; got shape {given.shape}")
    return np.unique(given)
