"""Predictions as a function of the level, exactly: the upper envelope of logits that are piecewise linear in it.

Each unit's perturbed activation is linear in the level p between a few events: a'_u(p) = slope p + intercept.
So the logits are K lines between events, and the prediction changes where another line passes the greatest. The
loop walks from event to event, keeps the lines up to date, and writes down each change. float64 throughout.

What the pieces are is decided in `nearzero.analysis.critical.intervals`.
"""

from __future__ import annotations

import numpy as np

from nearzero.kernels.compile import jit

__all__ = ["walk"]


@jit
def _greatest(slopes, intercepts, p):  # type: ignore[no-untyped-def]
    """The line that is greatest at p, the first of equals."""
    winner = 0
    for k in range(1, len(slopes)):
        if intercepts[k] + slopes[k] * p > intercepts[winner] + slopes[winner] * p:
            winner = k
    return winner


@jit
def _overtaken(slopes, intercepts, winner, p, stop):  # type: ignore[no-untyped-def]
    """The first level from p to stop at which a line passes the winner's, and which; (stop, winner) if none does.

    Whoever passes is steeper, or as steep and greater, or the same line and of a smaller class. So no two can pass
    each other in turns, whatever rounding does, and of lines that meet in one point the steepest comes last.
    """
    best, successor = stop, winner
    for k in range(len(slopes)):
        lead = (intercepts[winner] - intercepts[k]) + (slopes[winner] - slopes[k]) * p
        rise = slopes[k] - slopes[winner]
        if rise > 0.0:
            crossing = p + max(lead, 0.0) / rise  # below 0: passed already, at an event or by rounding
        elif rise == 0.0 and (lead < 0.0 or (lead == 0.0 and k < winner)):
            crossing = p
        else:
            continue
        if crossing < best:
            best, successor = crossing, k
    return best, successor


@jit
def _begin(starts, low, high, current, when, what):  # type: ignore[no-untyped-def]
    """Write down which piece each unit is on at `low`, and the events up to `high`; how many there are."""
    units, pieces = starts.shape
    events = 0
    for u in range(units):
        current[u] = 0
        for piece in range(1, pieces):
            if starts[u, piece] <= low:
                current[u] = piece
            elif starts[u, piece] < high:
                when[events], what[events] = starts[u, piece], u * pieces + piece
                events += 1
    return events


@jit
def _add_up(slopes, intercepts, current, w2, b2, line_slopes, line_intercepts):  # type: ignore[no-untyped-def]
    """Write the lines of the pieces the units are on; how many of the units move with the level."""
    line_slopes[:] = 0.0
    line_intercepts[:] = b2
    moving = 0
    for u in range(len(current)):
        slope, intercept = slopes[u, current[u]], intercepts[u, current[u]]
        moving += slope != 0.0
        for k in range(len(b2)):
            line_slopes[k] += w2[u, k] * slope
            line_intercepts[k] += w2[u, k] * intercept
    return moving


@jit
def walk(starts, slopes, intercepts, w2, b2, low, high, counts, levels, classes):  # type: ignore[no-untyped-def]
    """Intervals of levels with one prediction, for n examples.

    Args:
        starts: (n, U, P) the level at which each piece of a unit begins, ascending, the first at or below `low`;
            pieces that a unit hasn't begin at infinity. Of pieces that begin together the last one counts.
        slopes, intercepts: (n, U, P) of these pieces.
        w2, b2: (U, K), (K,), the output layer, a row for each unit.
        low, high: the levels looked at.
        counts: (n,) written: how many intervals each example has.
        levels, classes: (workspace,) written: where each interval begins, and its class; one example after the other.

    Returns:
        How many intervals there are; more than there is workspace for are counted but not written.
    """
    examples, units, pieces = starts.shape
    outputs = len(b2)
    line_slopes, line_intercepts = np.empty(outputs), np.empty(outputs)
    current = np.empty(units, np.int64)
    when, what = np.empty(units * pieces), np.empty(units * pieces, np.int64)
    total, workspace = 0, len(levels)
    for n in range(examples):
        events = _begin(starts[n], low, high, current, when, what)
        moving = _add_up(slopes[n], intercepts[n], current, w2, b2, line_slopes, line_intercepts)
        order = np.argsort(when[:events])
        winner = _greatest(line_slopes, line_intercepts, low)
        begun = total
        if total < workspace:
            levels[total], classes[total] = low, winner
        total += 1
        p = begin = low
        for event in range(events + 1):
            stop = when[order[event]] if event < events else high
            while True:
                p, successor = _overtaken(line_slopes, line_intercepts, winner, p, stop)
                if successor == winner:
                    break
                winner = successor
                if p > begin:
                    begin = p
                    total += 1
                if total <= workspace:
                    levels[total - 1], classes[total - 1] = begin, winner
            if event == events:
                break
            u, piece = what[order[event]] // pieces, what[order[event]] % pieces
            if piece <= current[u]:  # of two events at one level the later piece may come first
                continue
            old, new = slopes[n, u, current[u]], slopes[n, u, piece]
            rise, shift = new - old, intercepts[n, u, piece] - intercepts[n, u, current[u]]
            current[u] = piece
            moving += (new != 0.0) - (old != 0.0)
            if moving:
                for k in range(outputs):
                    line_slopes[k] += w2[u, k] * rise
                    line_intercepts[k] += w2[u, k] * shift
            else:  # from here on nothing changes: without the roundings so far, so that equal logits are equal
                _add_up(slopes[n], intercepts[n], current, w2, b2, line_slopes, line_intercepts)
        counts[n] = total - begun
    return total
