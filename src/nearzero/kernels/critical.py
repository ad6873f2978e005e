"""Predictions as a function of the level, exactly: the upper envelope of logits that are piecewise linear in it.

Each unit's perturbed activation is linear in the level p between a few events: a'_u(p) = slope p + intercept.
So the logits are K lines between events, and the prediction changes where another line passes the greatest. The
loop walks from event to event, keeps the lines up to date, and writes down each change. float64 throughout.

What the pieces are is decided in `nearzero.critical`.
"""

from __future__ import annotations

import numpy as np

from nearzero.kernels.compile import jit

__all__ = ["walk"]


@jit
def _overtaken(slopes, intercepts, winner, p, stop):  # type: ignore[no-untyped-def]
    """The first level from p to stop at which a line passes the winner's, and which; (stop, winner) if none does."""
    best, successor = stop, winner
    for k in range(len(slopes)):
        if k == winner:
            continue
        lead = (intercepts[winner] - intercepts[k]) + (slopes[winner] - slopes[k]) * p
        rise = slopes[k] - slopes[winner]
        if lead < 0.0:  # passed already, at an event or by rounding
            crossing = p
        elif rise > 0.0:
            crossing = p + lead / rise
        else:
            continue
        steeper = successor == winner or rise > slopes[successor] - slopes[winner]
        if crossing < best or (crossing == best and best < stop and steeper):
            best, successor = crossing, k
    return best, successor


@jit
def _greatest(slopes, intercepts, p):  # type: ignore[no-untyped-def]
    """The line that is greatest just after p: of equals the steepest, of these the first."""
    winner = 0
    for k in range(1, len(slopes)):
        mine, other = intercepts[k] + slopes[k] * p, intercepts[winner] + slopes[winner] * p
        if mine > other or (mine == other and slopes[k] > slopes[winner]):
            winner = k
    return winner


@jit
def walk(starts, slopes, intercepts, w2, b2, low, high, counts, levels, classes):  # type: ignore[no-untyped-def]
    """Intervals of levels with one prediction, for n examples.

    Args:
        starts: (n, U, P) the level at which each piece of a unit begins, ascending, the first at or below `low`;
            pieces that a unit hasn't begin at infinity.
        slopes, intercepts: (n, U, P) of these pieces.
        w2, b2: (K, U), (K,), the output layer.
        low, high: the levels looked at.
        counts: (n,) written: how many intervals each example has.
        levels, classes: (room,) written: where each interval begins, and its class; one example after the other.

    Returns:
        How many intervals there are; more than there is room for are counted but not written.
    """
    examples, units, pieces = starts.shape
    outputs = len(b2)
    line_slopes, line_intercepts = np.empty(outputs), np.empty(outputs)
    when, what = np.empty(units * pieces), np.empty(units * pieces, np.int64)
    total, room = 0, len(levels)
    for n in range(examples):
        line_slopes[:] = 0.0
        line_intercepts[:] = b2
        events = 0
        for u in range(units):
            first = 0
            for piece in range(1, pieces):
                if starts[n, u, piece] <= low:
                    first = piece
                elif starts[n, u, piece] < high:
                    when[events], what[events] = starts[n, u, piece], u * pieces + piece
                    events += 1
            for k in range(outputs):
                line_slopes[k] += w2[k, u] * slopes[n, u, first]
                line_intercepts[k] += w2[k, u] * intercepts[n, u, first]
        order = np.argsort(when[:events])
        winner = _greatest(line_slopes, line_intercepts, low)
        begun = total
        if total < room:
            levels[total], classes[total] = low, winner
        total += 1
        p = begin = low
        for event in range(events + 1):
            stop = when[order[event]] if event < events else high
            hops = 0  # at one level: more than there are lines can only be rounding
            while hops < outputs:
                crossing, successor = _overtaken(line_slopes, line_intercepts, winner, p, stop)
                if successor == winner or crossing >= stop:
                    break
                hops = hops + 1 if crossing == p else 0
                winner, p = successor, crossing
                if p > begin:
                    begin = p
                    total += 1
                if total <= room:
                    levels[total - 1], classes[total - 1] = begin, winner
            p = stop
            if event < events:
                u, piece = what[order[event]] // pieces, what[order[event]] % pieces
                rise = slopes[n, u, piece] - slopes[n, u, piece - 1]
                shift = intercepts[n, u, piece] - intercepts[n, u, piece - 1]
                for k in range(outputs):
                    line_slopes[k] += w2[k, u] * rise
                    line_intercepts[k] += w2[k, u] * shift
        counts[n] = total - begun
    return total
