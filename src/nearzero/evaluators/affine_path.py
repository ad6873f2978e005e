"""Perturbations that lie on a line, whose predictions are found by following each unit along it.

Perturbations lie on a line if their parameters are, but for rounding, theta_0 + t delta with one number t each, as
most families' are at their levels. Two kinds are known: *bends*, whose scale and offset move and that clip nothing;
and *cuts*, whose clip moves and that do nothing else. For an activation that is linear on either side of zero both
make the logits piecewise linear in t, with one event for each unit, which `nearzero.kernels.affine_path` makes use of.

Its predictions are those of `nearzero.kernels.respond` to the last bit, by this bound. Let u = 2^-24 be the roundoff
of float32, U the number of units, and M(t) = sum max_k |W2_ku| (|i| + |t| |d|) + max_k |b2_k| over all pieces i + t d
that were added up to t. A float32 sum errs by at most n u times the sum of its terms' sizes, if none goes through more
than n additions (N. J. Higham, Accuracy and Stability of Numerical Algorithms, section 4.2). In `respond` that's
U + 1; here at most 3 U / 2 + 5: half of the first pieces, the events of one level, and the levels that have events. So
the difference of two logits differs by at most 2 (5 U / 2 + 6) u M; 2 (3 U + 16) u leaves room for the rounding of M
itself. To that comes `INPUTS` of sum max_k |W2_ku| (|s z| + |o|), for the rounding of perturbed z and of parameters;
it's taken of |i| + |t| |d|, and of what cancels in these. Where the greatest logit doesn't lead by more, the
prediction is formed in the other way; likewise where the terms could sum up to more than float32
holds (|t| <= 1, so that the bound at |t| = 1 holds for I and S too). Underflow is allowed for as well, by what comes
to nothing elsewhere.
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

LEAST = 32  # levels, from which on following pays
MOST = 32_000  # levels, whose numbers fit in two bytes
CELLS = 4096  # at most, of the table in which an event's level is looked up
SLACK = 4  # roundoffs by which parameters may lie beside the line
ROUNDOFF = 2.0**-24
LATE = 12 * ROUNDOFF  # of a perturbed z: more than it may differ by in the two ways, parameters included
# of two logits, for the rounding of what is summed: 7 for z and its parameters; and where a unit has bent in one way
# only, which lies within LATE and these 7 of zero, twice that, as the slope changes by 2 at most
INPUTS = 2 * (7 + 2 * (12 + 7)) * ROUNDOFF * 1.25

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def find_affine_paths(
    network: TwoLayer, scale: Floats, offset: Floats, clip: Floats, post: Flags, among: Flags
) -> Iterator[tuple[npt.NDArray[np.intp], AffinePath]]:
    """Lines among some of L perturbations: the places of each line's perturbations, in its order, and the line.

    Args:
        network: the network that is perturbed.
        scale, offset, clip: (L, U).
        post: (L,), whether a perturbation is of activations.
        among: (L,), which to look at.
    """
    if not network.act.piecewise_linear or network.classes > FOLLOWED_CLASSES:
        return
    bends = among & ~post & (clip == np.inf).all(axis=1)
    cuts = among & ~bends & (scale == 1).all(axis=1) & (offset == 0).all(axis=1)
    # a negative threshold's activation bends as well, at a level of its own
    cuts &= post | (clip >= 0).all(axis=1)
    for chosen, cut in ((bends, False), (cuts & ~post, True), (cuts & post, True)):
        places = np.flatnonzero(chosen)
        parameters = (scale[places], offset[places], clip[places])
        if not LEAST <= len(places) <= MOST:
            continue
        path = _cut(clip[places]) if cut else _bend(scale[places], offset[places])
        if path is not None:
            order = np.argsort(path.t, kind="stable")
            with np.errstate(over="ignore"):  # what is infinite in float32 decides nothing
                line = _line(network, path, order, parameters, bool(post[places[0]]))
            yield places[order], line


class _Path(NamedTuple):
    """y = (gain + t growth) z + at + t step, or min(x, at + t step) where it's a cut, at each level's t."""

    t: Doubles
    at: Doubles
    step: Doubles
    gain: Doubles
    growth: Doubles
    cut: bool


def _bend(scale: Floats, offset: Floats) -> _Path | None:
    """The path of scales and offsets, (L, U) each, from the one nearest to the identity; None if it isn't straight."""
    points = np.concatenate([scale, offset], axis=1).astype(np.float64)
    units = scale.shape[1]
    identity = np.repeat([1.0, 0.0], units)
    found = _straight(points, int(np.square(points - identity).sum(axis=1).argmin()))
    if found is None:
        return None
    t, begin, step = found
    return _Path(t, begin[units:], step[units:], begin[:units], step[:units], cut=False)


def _cut(clip: Floats) -> _Path | None:
    """The path of thresholds (L, U), from the lowest; None if it isn't straight, or some don't rise."""
    clipped = clip[0] != np.inf
    if not ((clip != np.inf) == clipped).all():
        return None
    points = clip[:, clipped].astype(np.float64)
    found = _straight(points, int(points.sum(axis=1).argmin()))
    if found is None or not (found[2] > 0).all():
        return None
    begin, step = np.zeros((2, len(clipped)))
    begin[clipped], step[clipped] = found[1:]
    return _Path(found[0], begin, step, np.zeros_like(begin), np.zeros_like(begin), cut=True)


def _straight(points: Doubles, origin: int) -> tuple[Doubles, Doubles, Doubles] | None:
    """t (L,), theta_0 and delta of points on a line, t = 0 at the given one and 1 from end to end; else None.

    delta is float32 in float64, as the loops will have it, and so is t.
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
    """A path and the network's output layer as the loops take them."""
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
    """For equal cells from the first level to the last: the first level that is there or behind; how many are there."""
    cells = int(np.clip(1.1 / max(np.diff(levels).min(), 1 / CELLS), 1, CELLS))
    # a hundredth of a cell early and late, for the rounding of the cell that an event is in
    edges = levels[0] + np.arange(cells + 1) / cells
    before = np.searchsorted(levels, edges - 0.01 / cells)
    behind = np.searchsorted(levels, edges + 1.01 / cells, "right")
    return np.minimum(before, len(levels) - 1).astype(np.int16), int((behind - before).max())


def _filled(values: npt.ArrayLike) -> Floats:
    """Float32, rows filled up with zeros to a multiple of sixteen, flat."""
    given = np.atleast_2d(values)
    flat: Floats = aligned(len(given) * padded(given.shape[1]))
    flat.reshape(len(given), -1)[:, : given.shape[1]] = given
    return flat
