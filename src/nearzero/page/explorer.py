"""The contents of the unit explorer for one two-layer network: arrays, critical levels and units.

The page's script computes y = min(max(scale * z + offset, low), clip), act(y) and the logits of the page's examples
itself, in float32. Everything else comes from here, and from nearzero's own evaluators: pre-activations, unit ranges,
and critical levels, from which families are played.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nearzero.analysis.critical import CriticalLevels, critical_levels
from nearzero.evaluators.hidden_layer import HiddenLayer
from nearzero.networks import TwoLayer
from nearzero.networks.pixels import Pixels
from nearzero.page.terms import description, unit_range
from nearzero.perturbations.families import Conduct, Shift, make_family
from nearzero.perturbations.perturbation import Perturbation
from nearzero.perturbations.ranges import Ranges

__all__ = ["LIVE", "Explorer", "UnitRow", "explore", "unit_rows"]

OFFSET = "offset"  # the paper's family, which also scales unless the conduct says that it is a shift
# The activations that `assets/network.js` computes.
LIVE = ("relu", "abs", "leaky_relu", "gelu", "silu", "tanh", "sigmoid", "softplus", "elu")
ALONE = (
    0.02,
    0.05,
    0.1,
    0.2,
    0.3,
    0.5,
    0.75,
    1.0,
)  # shifts of one unit alone, in unit ranges, on either side
CHANGED = 0.01  # the share of predictions that a unit alone must change
EXTREME = 0.05  # the share of examples that count as near zero, and as far from it

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class UnitRow:
    """A unit in the table of units.

    Attributes:
        unit: its number.
        dead: whether its activation has the same value on all training examples.
        silent: the share of the page's examples with an activation of 0.
        near, far: entropy in bits of the classes of the examples nearest to z = 0, and farthest from it.
        removed: the share of the page's predictions that change if the unit's activation is set to 0.
        below, above: the least shift of this unit alone, in unit ranges, that changes 1 % of the predictions; None if
            none up to a whole range does.
    """

    unit: int
    dead: bool
    silent: float
    near: float
    far: float
    removed: float
    below: float | None
    above: float | None


@dataclass(frozen=True)
class Explorer:
    """One network in the explorer.

    Attributes:
        key: unique in the page: name and run.
        values: for JSON.
        arrays: for `nearzero.page.arrays`, by names that begin with the key.
        accuracy: on the page's examples, unperturbed, from 0 to 1.
        units: the table of its units.
    """

    key: str
    values: dict[str, Any]
    arrays: Arrays
    accuracy: float
    units: tuple[UnitRow, ...]


def explore(
    label: str,
    run: int,
    network: TwoLayer,
    *,
    training: Pixels,
    examples: Pixels,
    labels: npt.NDArray[np.integer],
    families: Sequence[str],
    conduct: Conduct,
) -> Explorer:
    """Return what the page holds for one network.

    Args:
        label: the network's name for readers.
        run: the number of its run.
        network: the network.
        training: the examples over which unit ranges are taken.
        examples, labels: the page's examples.
        families: those that can be played.
        conduct: the study's reading of the protocol.

    Raises:
        InputError: weights that aren't finite.
    """
    key = f"{network.activation}-{run:02d}"
    ranges = HiddenLayer(network, training).ranges
    layer = HiddenLayer(network, examples)
    arrays: Arrays = {
        f"{key}/z": layer.z,
        f"{key}/w2": network.w2,
        f"{key}/b2": network.b2,
        f"{key}/weights": _grey(network.w1),
        f"{key}/unperturbed": layer.unperturbed,
        **{f"{key}/unit/{name}": values for name, values in _unit_ranges(ranges, conduct).items()},
    }
    if OFFSET in _offsets(families, conduct):
        slopes = _slopes(ranges, conduct)
        arrays |= {f"{key}/unit/{name}": values for name, values in slopes.items()}
    critical = {}
    for name in families:
        found = critical_levels(network, examples, family=name, ranges=ranges, conduct=conduct)
        critical[name], own = _critical(found)
        drawn = (
            " One draw, by seed 0; the verdict averages over other draws."
            if make_family(name, conduct).random
            else ""
        )
        critical[name]["does"] = description(name, conduct) + drawn
        arrays |= {f"{key}/critical/{name}/{part}": values for part, values in own.items()}
    values = {
        "key": key,
        "label": label,
        "run": run,
        "activation": network.activation,
        "live": network.activation in LIVE,
        "units": network.units,
        "classes": network.classes,
        "clipSide": conduct.clip,
        "offsets": _offsets(families, conduct),
        "range": conduct.range,
        "critical": critical,
    }
    accuracy = float((layer.unperturbed == labels).mean())
    units = unit_rows(layer, labels, ranges, conduct)
    first = max(units, key=lambda row: row.removed)
    values |= {"first": first.unit, "removed": first.removed}
    return Explorer(key, values, arrays, accuracy, units)


def _offsets(families: Sequence[str], conduct: Conduct) -> dict[str, str]:
    """Return what the offset slider can do, and the words for it: a shift, and the study's offset if it differs."""
    differs = OFFSET in families and conduct.offset != "shift"
    bound = "min + clip r" if conduct.clip_threshold == "min+pr" else "clip r"
    line = f"y = min(scale z + offset r, {bound})"
    if conduct.clip == "post":
        line = f"y = scale z + offset r, then a = min(act(y), {bound})"
    shift = (
        f"{line}; {unit_range(conduct)}. At scale 1 and without a clip this is the family shift, which moves the "
        f"boundary and nothing else.{f' The family {OFFSET} of Examples is another one: choose it above.' * differs}"
    )
    own = f"The study's {OFFSET}, as in Examples; scale multiplies its slope. {description(OFFSET, conduct)}"
    return {"shift": shift, OFFSET: own} if differs else {"shift": shift}


def _slopes(ranges: Ranges, conduct: Conduct) -> Arrays:
    """Return the factor of z in the study's offset, (U,) float64: slope + p * steepening; it adds what a shift adds."""
    first, last = (np.asarray(make_family(OFFSET, conduct).at(level, ranges).scale) for level in (0.0, 1.0))
    return {"slope": first, "steepening": last - first}


def _grey(w1: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return the weights of each unit as grey values: 128 is 0, and 1 and 255 are the unit's greatest |weight|."""
    greatest = np.abs(w1).max(axis=1, keepdims=True)
    scaled = np.divide(w1, greatest, out=np.zeros_like(w1), where=greatest > 0)
    return np.asarray(np.rint(128 + 127 * scaled), np.uint8)


def _unit_ranges(ranges: Ranges, conduct: Conduct) -> Arrays:
    """Return what the sliders multiply by a level, (U,) float64: offset = p * step; clip = base + p * reach.

    These are the parameters of `Shift` and of the study's clip, in their own precision. A dead unit has a step of 0
    and a clip of infinity.
    """
    unit = ranges.on(conduct.range)
    shift = Shift(range=conduct.range).at(1.0, ranges)
    floor = make_family("clip", conduct).at(0.0, ranges)
    return {
        "offset": np.asarray(shift.offset),
        "clip": np.asarray(floor.clip),
        "reach": np.where(ranges.live, unit.width, 0.0),
        "live": ranges.live.astype(np.uint8),
        "minimum": ranges.pre.minimum.astype(np.float64),
        "maximum": ranges.pre.maximum.astype(np.float64),
    }


def _critical(found: CriticalLevels) -> tuple[dict[str, Any], Arrays]:
    """Return critical levels: by side for each example (NaN: never), and all intervals with one prediction."""
    smallest = np.min_scalar_type(int(found.classes.max(initial=0)))
    arrays: Arrays = {
        "first": found.first.astype(np.uint32),
        "starts": found.starts.astype(np.float32),
        "classes": found.classes.astype(np.uint8 if smallest == np.uint8 else np.uint16),
        **{side: found.critical(side).astype(np.float32) for side in found.sides},
    }
    values = {
        "low": found.low,
        "high": found.high,
        "identity": found.identity if found.identity is not None and np.isfinite(found.identity) else None,
        "sides": list(found.sides),
        "note": found.assumption.replace("None: the", "Exact: the"),
        "never": {side: found.censored(side) for side in found.sides},
    }
    return values, arrays


def unit_rows(
    layer: HiddenLayer, labels: npt.NDArray[np.integer], ranges: Ranges, conduct: Conduct
) -> tuple[UnitRow, ...]:
    """Return the table of units.

    Args:
        layer: the layer on the page's examples.
        labels: their labels.
        ranges: the unit ranges.
        conduct: says on which side ranges are taken.
    """
    z, live = layer.z, ranges.live
    count = max(1, round(EXTREME * len(z)))
    order = np.argsort(np.abs(z), axis=0, kind="stable")
    near, far = (_entropies(labels[order[rows]]) for rows in (slice(count), slice(-count, None)))
    silent = (layer.network.act(z) == 0).mean(axis=0)
    removed = _removed(layer)
    alone = {sign: _alone(layer, ranges, conduct, sign) for sign in (-1, 1)}
    return tuple(
        UnitRow(
            unit=unit,
            dead=not live[unit],
            silent=float(silent[unit]),
            near=float(near[unit]),
            far=float(far[unit]),
            removed=removed[unit],
            below=alone[-1][unit],
            above=alone[1][unit],
        )
        for unit in range(z.shape[1])
    )


def _entropies(classes: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Return the entropy in bits of the classes in each column, (U,)."""
    shares = np.stack([(classes == label).mean(axis=0) for label in np.unique(classes)])
    logarithms = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(-(shares * logarithms).sum(axis=0) + 0.0)


def _removed(layer: HiddenLayer) -> list[float]:
    """Return for each unit the share of predictions that change if its activation is set to 0."""
    units = np.arange(layer.network.units)
    without = [Perturbation(scale=np.where(units == unit, 0.0, 1.0), side="post") for unit in units]
    return [float((predicted != layer.unperturbed).mean()) for predicted in layer.predict(without)]


def _alone(layer: HiddenLayer, ranges: Ranges, conduct: Conduct, sign: int) -> list[float | None]:
    """Return for each unit the least level of `ALONE`, with this sign, at which it alone changes enough predictions."""
    found: list[float | None] = []
    family = Shift(range=conduct.range)
    offsets = [np.asarray(family.at(sign * level, ranges).offset) for level in ALONE]
    for unit, live in enumerate(ranges.live):
        if not live:
            found.append(None)
            continue
        only = np.arange(len(ranges.live)) == unit
        predicted = layer.predict([Perturbation(offset=np.where(only, offset, 0.0)) for offset in offsets])
        changed = (predicted != layer.unperturbed).mean(axis=1) >= CHANGED
        found.append(float(sign * ALONE[int(changed.argmax())]) if changed.any() else None)
    return found
