"""Find perturbations that lie on a straight line, so that their predictions can be computed along it.

Perturbations lie on a line if their parameters are theta_0 + t delta, except for rounding, with one number t
each. The levels of most families do. Two kinds of lines are supported: *bends*, whose scale and offset change
and which clip nothing; and *cuts*, whose clip changes and which do nothing else. If the activation is linear
on either side of zero, the logits of both kinds are piecewise linear in t. Each unit changes their slope at one t at
most, its *event*.
`nearzero.kernels.affine_path` adds up the pieces.

Its predictions are those of `nearzero.kernels.respond` to the last bit, by the following bound. A piece of
a unit is its activation i + t d. Let eps = 2^-24 be the roundoff of float32, U the number of units, and

    M(t) = sum max_k |W2_ku| (|i| + |t| |d|) + max_k |b2_k|,

where the sum is over all pieces that were added up to t. The error of a float32 sum is at most n eps times
the sum of the sizes of its terms, if no term goes through more than n additions (N. J. Higham, Accuracy and
Stability of Numerical Algorithms, section 4.2). In `respond` n is U + 1. Here n is at most 3 U / 2 + 5: U / 2
for half of the first pieces (they are added in two chains), and U for the events of one level together with the
levels that have events, with 5 for what else is added. So the difference of two logits
differs between the two ways by at most 2 (5 U / 2 + 6) eps M. The limit 2 (3 U + 16) eps M also covers the rounding
of M itself. The limit also includes `INPUTS` times sum max_k |W2_ku| (|s z| + |o|), with the scale s and the
offset o, for the rounding of perturbed z and of parameters. That sum is computed from |i| + |t| |d| and from the
terms that cancel in these. If the greatest logit leads by no more than the limit, the prediction is computed by
`respond`. This also happens where the terms could sum up to more than float32 holds; since |t| <= 1, the bound at |t|
= 1 holds for the sums of i and of d too. A constant in the limit, negligible otherwise, covers underflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nearzero.kernels.affine_path import FOLLOWED_CLASSES, AffinePath
from nearzero.kernels.layout import aligned, padded
from nearzero.networks import TwoLayer
from nearzero.perturbations.perturbation import FLOAT32_MAX

__all__ = ["find_affine_paths"]

LEAST = 32  # levels; for fewer, following a line doesn't pay
MOST = 32_000  # levels; their indices fit in two bytes
CELLS = 4096  # at most, of the table in which the level of an event is looked up
SLACK = 4  # roundoffs by which parameters may differ from the line
ROUNDOFF = 2.0**-24
LATE = 12 * ROUNDOFF  # bound on the relative difference of a perturbed z in the two ways, parameters included
# Bound for the rounding of the terms of two logits: 7 roundoffs for z and its parameters. If a unit has bent
# in only one of the two ways, its z lies within LATE and these 7 of zero; this counts twice, as the slope
# changes by at most 2.
INPUTS = 2 * (7 + 2 * (12 + 7)) * ROUNDOFF * 1.25

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def find_affine_paths(
    network: TwoLayer,
    scale: Floats,
    offset: Floats,
    clip: Floats,
    low: Floats,
    post: Flags,
    among: Flags,
) -> Iterator[tuple[npt.NDArray[np.intp], AffinePath]]:
    """Yield the lines among L perturbations: the indices of the perturbations along each line, and the line.

    Args:
        network: the network that is perturbed.
        scale, offset, clip, low: (L, U); perturbations with a lower bound aren't followed.
        post: (L,), True for a perturbation of activations.
        among: (L,), True for the perturbations to consider.
    """
    if not network.act.piecewise_linear or network.classes > FOLLOWED_CLASSES:
        return
    among = among & (low == -np.inf).all(axis=1)
    bends = among & ~post & (clip == np.inf).all(axis=1)
    cuts = among & ~bends & (scale == 1).all(axis=1) & (offset == 0).all(axis=1)
    # not for negative thresholds, since their activation has another bend at another level
    cuts &= post | (clip >= 0).all(axis=1)
    for chosen, cut in ((bends, False), (cuts & ~post, True), (cuts & post, True)):
        indices = np.flatnonzero(chosen)
        parameters = (scale[indices], offset[indices], clip[indices])
        if not LEAST <= len(indices) <= MOST:
            continue
        path = _cut(clip[indices]) if cut else _bend(scale[indices], offset[indices])
        if path is not None:
            order = np.argsort(path.t, kind="stable")
            with np.errstate(over="ignore"):  # values that are infinite in float32 decide no prediction
                line = _line(network, path, order, parameters, bool(post[indices[0]]))
            yield indices[order], line


class _Path(NamedTuple):
    """Hold y = (gain + t growth) z + at + t step, or for a cut y = min(x, at + t step), and each level's t."""

    t: Doubles
    at: Doubles
    step: Doubles
    gain: Doubles
    growth: Doubles
    cut: bool


def _bend(scale: Floats, offset: Floats) -> _Path | None:
    """Return the path of scales and offsets, (L, U) each, with t = 0 nearest to the identity; None if not straight."""
    points = np.concatenate([scale, offset], axis=1).astype(np.float64)
    units = scale.shape[1]
    identity = np.repeat([1.0, 0.0], units)
    line = _straight(points, int(np.square(points - identity).sum(axis=1).argmin()))
    if line is None:
        return None
    t, begin, step = line
    return _Path(t, begin[units:], step[units:], begin[:units], step[:units], cut=False)


def _cut(clip: Floats) -> _Path | None:
    """Return the path of thresholds (L, U), with t = 0 at the lowest; None if not straight, or if some don't rise."""
    clipped = clip[0] != np.inf
    if not ((clip != np.inf) == clipped).all():
        return None
    points = clip[:, clipped].astype(np.float64)
    line = _straight(points, int(points.sum(axis=1).argmin()))
    if line is None or not (line[2] > 0).all():
        return None
    begin, step = np.zeros((2, len(clipped)))
    begin[clipped], step[clipped] = line[1:]
    return _Path(line[0], begin, step, np.zeros_like(begin), np.zeros_like(begin), cut=True)


def _straight(points: Doubles, origin: int) -> tuple[Doubles, Doubles, Doubles] | None:
    """Return t (L,), theta_0 and delta of points on a line; None if they don't lie on one.

    t is 0 at the point of index `origin`, and differs by 1 between the two ends. The values of delta and t
    are rounded to float32, in which the compiled loops take them, and returned as float64.
    """
    far = int(np.square(points - points[0]).sum(axis=1).argmax())
    end = int(np.square(points - points[far]).sum(axis=1).argmax())
    step = points[end] - points[far]
    if step.sum() < 0:
        step = -step
    length = step @ step
    if not 0 < length < FLOAT32_MAX:
        return None
    step = step.astype(np.float32).astype(np.float64)
    t = ((points - points[origin]) @ step / length).astype(np.float32).astype(np.float64)
    beside = np.abs(points - (points[origin] + t[:, None] * step))
    allowed = SLACK * ROUNDOFF * (np.abs(points[origin]) + np.abs(t)[:, None] * np.abs(step))
    return (t, points[origin], step) if (beside <= allowed).all() else None


def _line(
    network: TwoLayer,
    path: _Path,
    order: npt.NDArray[np.intp],
    parameters: tuple[Floats, Floats, Floats],
    post: bool,
) -> AffinePath:
    """Return a path and the network's output layer in the form that the compiled loops take."""
    classes, units = network.w2.shape
    levels = path.t[order]
    terms = 2 * (3 * units + 16) * ROUNDOFF + INPUTS
    weights = np.abs(network.w2).max(axis=0)
    rows = np.zeros((padded(units), 16))
    rows[:units, :classes] = network.w2.T
    rows[:units, -1] = 0 if path.cut else terms * weights
    start, b2, closed = np.zeros((2, 16)), np.full(16, -np.inf), np.full(16, -np.inf)
    start[0, :classes], b2[:classes], closed[:classes] = network.b2, network.b2, 0
    if path.cut:
        start[:, :classes] += np.stack([path.at, path.step]) @ network.w2.T.astype(np.float64)
    table, crowd = _table(levels)
    return AffinePath(
        cut=path.cut,
        at=_filled(path.at),
        step=_filled(path.step),
        gain=_filled(path.gain),
        growth=_filled(path.growth),
        levels=np.append(levels, np.inf).astype(np.float32),
        origin=int(np.searchsorted(levels, 0.0, side="right")) - 1,
        table=table,
        crowd=crowd,
        start=_filled(start),
        closed=_filled(closed),
        w2=_filled(rows),
        b2=_filled(b2),
        weights=_filled(weights),
        base=np.float32(terms * np.abs(network.b2).max() + 2.0**-126 + 2.0**-140 * weights.sum(dtype=float)),
        terms=np.float32(terms),
        inputs=np.float32(INPUTS),
        limit=np.float32(terms * 2.0**126),
        late=np.float32(LATE),
        farthest=np.float32(np.abs(levels).max()),
        scale=_filled(parameters[0][order]),
        offset=_filled(parameters[1][order]),
        clip=_filled(parameters[2][order]),
        post=post,
    )


def _table(levels: Doubles) -> tuple[npt.NDArray[np.int16], int]:
    """Divide t from the first to the last level into equal cells, to look up the levels near an event.

    Returns:
        For each cell the index of the first level in it or after it, and the greatest number of levels in a
        cell.
    """
    cells = int(np.clip(1.1 / max(np.diff(levels).min(), 1 / CELLS), 1, CELLS))
    # each cell is widened by a hundredth on both sides, since the cell of an event is computed with rounding
    edges = levels[0] + np.arange(cells + 1) / cells
    first = np.searchsorted(levels, edges - 0.01 / cells)
    end = np.searchsorted(levels, edges + 1.01 / cells, "right")
    return np.minimum(first, len(levels) - 1).astype(np.int16), int((end - first).max())


def _filled(values: npt.ArrayLike) -> Floats:
    """Return values as flat float32, with each row padded with zeros to a multiple of sixteen."""
    rows = np.atleast_2d(values)
    flat: Floats = aligned(len(rows) * padded(rows.shape[1]))
    flat.reshape(len(rows), -1)[:, : rows.shape[1]] = rows
    return flat
