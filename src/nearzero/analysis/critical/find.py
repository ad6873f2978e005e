"""The way to critical levels: what is looked at, which method is fit for it, and the blocks of examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from nearzero.analysis.critical.intervals import by_pieces, by_search, grid_of, is_piecewise_linear
from nearzero.analysis.critical.levels import CriticalLevels
from nearzero.errors import InputError
from nearzero.evaluators.select import ModelOptions, open_evaluator
from nearzero.evaluators.two_layer import TwoLayerEvaluator
from nearzero.networks import TwoLayer
from nearzero.perturbations.families import Conduct, Family, make_family
from nearzero.perturbations.ranges import Ranges
from nearzero.support.arrays import as_numbers

if TYPE_CHECKING:
    from torch import nn

__all__ = ["critical_levels", "declared"]


def critical_levels(
    network: TwoLayer | nn.Module,
    x: Any,
    *,
    family: str = "offset",
    ranges: Ranges | None = None,
    conduct: Conduct | None = None,
    seed: int = 0,
    low: float | None = None,
    high: float | None = None,
    grid: int = 501,
    threads: int | None = None,
    memory: int | str | None = None,
    **options: Unpack[ModelOptions],
) -> CriticalLevels:
    """Find every interval of levels on which an item's prediction stays the same.

    The prediction at level p is the argmax of the logits with the layer perturbed at p, the first of equals. In a
    two-layer network with ReLU, Abs or leaky ReLU and for all families but gains the logits W2 a'(p) + b2 are piecewise
    linear in p, and the intervals are exact up to the rounding of float64. For scale this is the closed form
    argmax(W2 a + b2 / p). Elsewhere they're searched for on a grid, in float64 for a two-layer network and in its own
    precision for any other model; the result's `assumption` says what that may miss.

    Args:
        network: a `TwoLayer`, or any `torch.nn.Module`.
        x: inputs (N, D), or whatever `nz.probe` takes as data.
        family: "offset", "scale", "clip", or a control (see `nearzero.perturbations.families`).
        ranges: the unit ranges the levels refer to; taken over x unless given.
        conduct: which reading of the protocol; the default one of the activation unless given.
        seed: of what is drawn, for families that draw.
        low, high: the levels looked at; the family's declared range unless given: scale 0.01 to 10, clip and cap 0
            to 1, offset, shift and permuted shift -2 to 1, other controls 0 to 1.
        grid: how many levels are searched where the intervals aren't exact, besides the family's own.
        threads: how many to use; all unless given. The results don't depend on it.
        memory: what it may take besides the inputs and what it returns, as `nz.sweep`.
        options: of other models the layer, and what else is to be said, see
            `nearzero.evaluators.select.ModelOptions`.

    Raises:
        InputError: as `nz.sweep`; low and high that aren't finite and in order, or for scale not positive; a grid of
            fewer than two levels; or examples that can't be told apart.
    """
    if conduct is not None and not isinstance(conduct, Conduct):
        raise InputError(f"conduct must be an nz.Conduct; got {type(conduct).__name__}")
    begin, end = _bounds(make_family(family, Conduct()), low, high)
    if not isinstance(grid, int) or grid < 2:
        raise InputError(f"grid must be a whole number, at least 2; got {grid!r}")
    with open_evaluator(
        network, x, None, options, metrics="agreement", threads=threads, memory=memory
    ) as evaluator:
        conduct = evaluator.conduct(conduct)
        evaluator.check(conduct, [family])
        made = make_family(family, conduct, seed)
        ranges, levels = ranges or evaluator.ranges, np.empty(0)  # none are searched
        if isinstance(evaluator, TwoLayerEvaluator) and is_piecewise_linear(made, evaluator.activation):
            found = by_pieces(evaluator, made, ranges, begin, end)
        else:
            levels = grid_of(made, begin, end, grid)
            found = by_search(evaluator, made, ranges, levels)
    return CriticalLevels(
        family=family, low=begin, high=end, identity=made.identity, grid=len(levels), conduct=conduct, seed=seed,
        first=np.concatenate([[0], np.cumsum(found.counts)]), starts=found.starts, classes=found.classes,
        unperturbed=found.unperturbed, backend=evaluator.backend, precision=evaluator.precision,
    )  # fmt: skip


def declared(family: Family) -> tuple[float, float]:
    """Return the levels looked at unless others are asked for: those it is swept over, for clip from 0 to 1."""
    return (0.0, 1.0) if family.name == "clip" else (float(family.levels[0]), float(family.levels[-1]))


def _bounds(family: Family, low: float | None, high: float | None) -> tuple[float, float]:
    usual = declared(family)
    begin = usual[0] if low is None else _as_level(low, "low")
    end = usual[1] if high is None else _as_level(high, "high")
    if not (np.isfinite([begin, end]).all() and begin < end) or (family.name == "scale" and begin <= 0):
        raise InputError(
            f"levels must be finite and ascending, for scale positive; got low {begin} and high {end}"
        )
    return begin, end


def _as_level(given: object, name: str) -> float:
    number = as_numbers(given, name)
    if number.ndim:
        raise InputError(f"{name} must be one level; got an array of shape {number.shape}")
    return float(number)
