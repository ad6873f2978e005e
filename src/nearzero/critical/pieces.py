"""Exact intervals: each unit's perturbed activation as a few linear pieces of the level.

For ReLU, Abs and leaky ReLU, act(z) = below z for z < 0 and above z for z > 0. Families that move z along a line,
y = begin + step p, bend once, where y passes zero. Families that cut at a threshold, base + rise p, bend where
the threshold passes zero and where it passes z. The walk over the pieces is in `nearzero.kernels.critical`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nearzero.activations import Activation
from nearzero.critical.blocks import Doubles, Found, joined, merged
from nearzero.evaluators.two_layer import TwoLayerEvaluator
from nearzero.families import Cap, Clip, Family, Gains
from nearzero.kernels.critical import walk
from nearzero.ranges import Ranges

__all__ = ["SLOPES", "by_pieces", "is_piecewise_linear"]

Pieces = tuple[Doubles, Doubles, Doubles]

SLOPES = {"relu": (0.0, 1.0), "abs": (-1.0, 1.0), "leaky_relu": (0.01, 1.0)}  # of act below and above zero
ROOM = 16  # intervals an example, to begin with


def is_piecewise_linear(family: Family, act: Activation) -> bool:
    """Whether the logits are piecewise linear in the level; gains aren't, being exponentials of it."""
    return act.name in SLOPES and not isinstance(family, Gains)


def by_pieces(evaluator: TwoLayerEvaluator, family: Family, ranges: Ranges, low: float, high: float) -> Found:
    """Return the intervals of all examples from `low` to `high`."""
    network = evaluator.hidden.network
    w2 = np.ascontiguousarray(network.w2.T.astype(np.float64))
    b2 = network.b2.astype(np.float64)

    def find(z: Doubles, _: slice) -> Found:
        pieces = _pieces(z, network.act, family, ranges)
        unperturbed = evaluator.exact_logits(network.act(z)).argmax(axis=1).astype(np.uint16)
        counts = np.empty(len(z), np.int64)
        room = ROOM * len(z)
        while True:
            levels, classes = np.empty(room), np.empty(room, np.uint16)
            total = walk(*pieces, w2, b2, low, high, counts, levels, classes)
            if total <= room:
                return Found(*merged(counts, levels[:total], classes[:total]), unperturbed)
            room = total

    return joined(evaluator.gather_exact(find))


def _pieces(z: Doubles, act: Activation, family: Family, ranges: Ranges) -> Pieces:
    """Where the pieces of each unit begin, and their slopes and intercepts, (n, U, P) each."""
    zero, one = (family.at(level, ranges) for level in (0.0, 1.0))
    slopes = SLOPES[act.name]
    if not isinstance(family, Clip | Cap):
        begin = z * zero.scale + zero.offset
        step = z * (np.asarray(one.scale) - zero.scale) + (np.asarray(one.offset) - zero.offset)
        return _bent(begin, step, slopes)
    cut = np.isfinite(zero.clip)  # dead units have no threshold
    base = np.where(cut, zero.clip, 0.0)
    rise = np.where(cut, one.clip - base, 1.0)
    if zero.side == "post":
        a = act(z)
        return _stacked(
            [np.full_like(z, -np.inf), np.where(cut, (a - base) / rise, -np.inf)], [rise, 0.0], [base, a]
        )
    free = np.where(cut, (z - base) / rise, -np.inf)
    # where the threshold passes z while it's still negative, its second piece has no length
    above_zero = np.minimum(np.where(cut, -base / rise, -np.inf), free)
    below, above = slopes
    return _stacked(
        [np.full_like(z, -np.inf), above_zero, free],
        [below * rise, above * rise, 0.0],
        [below * base, above * base, act(z)],
    )


def _bent(begin: Doubles, step: Doubles, slopes: tuple[float, float]) -> Pieces:
    """act(begin + step p) in two pieces, bent where it passes zero."""
    below, above = slopes
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = np.where(step != 0, -begin / step, np.inf)
    first = np.where(step != 0, np.where(step > 0, below, above), np.where(begin > 0, above, below))
    second = np.where(step > 0, above, below)
    return _stacked(
        [np.full_like(zero, -np.inf), zero], [first * step, second * step], [first * begin, second * begin]
    )


def _stacked(*columns: Sequence[npt.ArrayLike]) -> Pieces:
    """Pieces side by side, (n, U, P): starts, slopes and intercepts, each given piece by piece."""
    shape = np.shape(columns[0][0])
    starts, slopes, intercepts = (
        np.stack([np.broadcast_to(piece, shape) for piece in column], axis=-1) for column in columns
    )
    return starts, slopes, intercepts
