"""The public function for critical levels: checks its arguments and picks the method."""

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
    """Return every interval of levels on which the prediction of an item stays the same.

    The prediction at level p is the argmax of the logits with the layer perturbed at p; of equal logits, the
    first wins. In a two-layer network with ReLU, Abs or leaky ReLU, and for all families but gains, the
    logits W2 a'(p) + b2 are piecewise linear in p, and the intervals are exact up to the rounding of float64.
    For scale, the prediction is argmax(W2 a + b2 / p) if no dead
    unit has a nonzero activation. In all other cases the intervals are searched for
    on a grid of levels: in float64 for a two-layer network, and in the precision of the model for any other.
    The attribute `assumption` of the result states what the search may miss.

    Args:
        network: a `TwoLayer`, or any `torch.nn.Module`.
        x: inputs (N, D), or any data that `nz.probe` takes.
        family: "offset", "scale", "clip", or a control (see `nearzero.perturbations.families`).
        ranges: the unit ranges that the levels refer to; by default those over x.
        conduct: the reading of the protocol; by default that of the activation.
        seed: the seed of families that draw random numbers.
        low, high: the least and the greatest level; by default the declared range of the family: 0.01 to 10
            for scale, -2 to 1 for offset, shift, permuted shift and distance shift, 0 to 1 for all others.
        grid: the number of levels in the search, in addition to the family's own. It isn't used if the
            intervals are exact.
        threads: the number of threads; all by default. The results don't depend on it.
        memory: the memory to use in addition to the inputs and the result, as in `nz.sweep`.
        options: the layer and other settings of models that aren't a `TwoLayer`, see
            `nearzero.evaluators.select.ModelOptions`.

    Raises:
        InputError: as `nz.sweep`; low and high that aren't finite and in order, or that aren't positive for
            scale; a grid of fewer than two levels; or batches whose examples can't be told apart.

    Example:
        >>> import nearzero as nz
        >>> network = nz.TwoLayer([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.5], "relu")
        >>> critical = nz.critical_levels(network, [[-2.0], [0.25], [1.0]], family="scale")
        >>> critical.critical("above").tolist()  # the logits of x = 0.25, s / 4 and 0.5, are equal at s = 2
        [nan, 2.0, nan]
        >>> critical.critical("below").tolist()
        [nan, nan, 0.5]
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
        ranges, levels = ranges or evaluator.ranges, np.empty(0)  # of the grid, if there is one
        if isinstance(evaluator, TwoLayerEvaluator) and is_piecewise_linear(made, evaluator.activation):
            intervals = by_pieces(evaluator, made, ranges, begin, end)
        else:
            levels = grid_of(made, begin, end, grid)
            intervals = by_search(evaluator, made, ranges, levels)
    return CriticalLevels(
        family=family,
        low=begin,
        high=end,
        identity=made.identity,
        grid=len(levels),
        conduct=conduct,
        seed=seed,
        first=np.concatenate([[0], np.cumsum(intervals.counts)]),
        starts=intervals.starts,
        classes=intervals.classes,
        unperturbed=intervals.unperturbed,
        backend=evaluator.backend,
        precision=evaluator.precision,
    )


def declared(family: Family) -> tuple[float, float]:
    """Return the default bounds of the levels: those of the family's sweep, and 0 to 1 for clip."""
    return (0.0, 1.0) if family.name == "clip" else (float(family.levels[0]), float(family.levels[-1]))


def _bounds(family: Family, low: float | None, high: float | None) -> tuple[float, float]:
    bounds = declared(family)
    begin = bounds[0] if low is None else _as_level(low, "low")
    end = bounds[1] if high is None else _as_level(high, "high")
    if not (np.isfinite([begin, end]).all() and begin < end) or (family.name == "scale" and begin <= 0):
        raise InputError(
            f"low and high must be finite, low < high, and positive for scale; got low {begin} and high {end}"
        )
    return begin, end


def _as_level(given: object, name: str) -> float:
    number = as_numbers(given, name)
    if number.ndim:
        raise InputError(f"{name} must be one level; got an array of shape {number.shape}")
    return float(number)
