"""Exact predictions as a function of the level: the upper envelope of piecewise linear logits.

Each unit's perturbed activation is linear in the level p between a few events: a'_u(p) = slope p + intercept.
So the logits are K lines between events, and the prediction changes where another line crosses the greatest.
The loop goes from event to event, updates the lines, and records each change. All numbers are float64.

`nearzero.analysis.critical.intervals` computes the pieces.
"""

from __future__ import annotations

import numpy as np

from nearzero.kernels.compile import jit

__all__ = ["walk"]


@jit
def _greatest(slopes, intercepts, p):  # type: ignore[no-untyped-def]
    """Return the line that is greatest at p, the first of equals."""
    winner = 0
    for k in range(1, len(slopes)):
        if intercepts[k] + slopes[k] * p > intercepts[winner] + slopes[winner] * p:
            winner = k
    return winner


@jit
def _overtaken(slopes, intercepts, winner, p, stop):  # type: ignore[no-untyped-def]
    """Return the first level from p to stop at which a line overtakes the winner, and that line.

    If no line does, return (stop, winner). A line that overtakes is steeper, or equally steep and greater, or
    the same line with a smaller class. So two lines can't overtake each other repeatedly, whatever their
    rounding, and of lines that meet in one point the steepest comes last.
    """
    best, successor = stop, winner
    for k in range(len(slopes)):
        lead = (intercepts[winner] - intercepts[k]) + (slopes[winner] - slopes[k]) * p
        rise = slopes[k] - slopes[winner]
        if rise > 0.0:
            crossing = p + max(lead, 0.0) / rise  # lead < 0: overtaken before, at an event or by rounding
        elif rise == 0.0 and (lead < 0.0 or (lead == 0.0 and k < winner)):
            crossing = p
        else:
            continue
        if crossing < best:
            best, successor = crossing, k
    return best, successor


@jit
def _find_events(starts, low, high, current, event_levels, event_pieces):  # type: ignore[no-untyped-def]
    """Write the piece of each unit at `low`, and the events up to `high`; return the number of events.

    An event is the begin of a piece, whose number is that of its unit times P plus that of the piece.
    """
    units, pieces = starts.shape
    events = 0
    for u in range(units):
        current[u] = 0
        for piece in range(1, pieces):
            if starts[u, piece] <= low:
                current[u] = piece
            elif starts[u, piece] < high:
                event_levels[events], event_pieces[events] = starts[u, piece], u * pieces + piece
                events += 1
    return events


@jit
def _add_up(slopes, intercepts, current, w2, b2, line_slopes, line_intercepts):  # type: ignore[no-untyped-def]
    """Compute the lines from the current pieces; return the number of units whose slope isn't 0."""
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
    """Write the intervals of levels with one prediction, for n examples.

    Args:
        starts: (n, U, P) the level at which each piece of a unit begins, ascending, the first at or below
            `low`; if a unit has fewer pieces, the others begin at infinity. Of pieces that begin together the
            last one counts.
        slopes, intercepts: (n, U, P) of these pieces.
        w2, b2: (U, K), (K,), the output layer, a row for each unit.
        low, high: the range of levels.
        counts: (n,) written: the number of intervals of each example.
        levels, classes: (capacity,) written: the level at which each interval begins, and its class; one
            example after the other.

    Returns:
        The number of intervals, including those that aren't written because they exceed the capacity.
    """
    examples, units, pieces = starts.shape
    outputs = len(b2)
    line_slopes, line_intercepts = np.empty(outputs), np.empty(outputs)
    current = np.empty(units, np.int64)
    event_levels, event_pieces = np.empty(units * pieces), np.empty(units * pieces, np.int64)
    total, capacity = 0, len(levels)
    for n in range(examples):
        events = _find_events(starts[n], low, high, current, event_levels, event_pieces)
        moving = _add_up(slopes[n], intercepts[n], current, w2, b2, line_slopes, line_intercepts)
        order = np.argsort(event_levels[:events])
        winner = _greatest(line_slopes, line_intercepts, low)
        total_before = total
        if total < capacity:
            levels[total], classes[total] = low, winner
        total += 1
        p = begin = low
        for event in range(events + 1):
            stop = event_levels[order[event]] if event < events else high
            while True:
                p, successor = _overtaken(line_slopes, line_intercepts, winner, p, stop)
                if successor == winner:
                    break
                winner = successor
                if p > begin:
                    begin = p
                    total += 1
                if total <= capacity:
                    levels[total - 1], classes[total - 1] = begin, winner
            if event == events:
                break
            u, piece = event_pieces[order[event]] // pieces, event_pieces[order[event]] % pieces
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
            else:  # no unit moves: computed anew without accumulated rounding, so that equal logits are equal
                _add_up(slopes[n], intercepts[n], current, w2, b2, line_slopes, line_intercepts)
        counts[n] = total - total_before
    return total
