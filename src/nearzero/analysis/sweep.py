"""Response curves: one layer, swept over the levels of one or more families, as labelled arrays.

This module reads and writes no files and computes no statistics: a study saves the arrays and
`nearzero.statistics` summarises them. The scores come from `nearzero.evaluators`. To sweep many layers of a
model at once, use `nearzero.probing.probe`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.errors import InputError
from nearzero.evaluators.base import LayerEvaluator, Scores
from nearzero.evaluators.select import ModelOptions, open_evaluator
from nearzero.networks import TwoLayer
from nearzero.perturbations.families import PAPER_FAMILIES, Conduct, make_family
from nearzero.perturbations.ranges import Ranges
from nearzero.support.arrays import as_numbers

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NOT_FINITE", "respond", "sweep", "unit_ranges", "unperturbed_variables"]

UNIT_BYTES = 256  # that a level takes for each unit: parameters in float64 and float32, and work on them
NOT_FINITE = {"long_name": "items whose logits are NaN or infinite, which count as wrong"}


def unit_ranges(
    model: TwoLayer | nn.Module,
    data: Any,
    *,
    threads: int | None = None,
    memory: int | str | None = None,
    **options: Unpack[ModelOptions],
) -> Ranges:
    """Return the minimum and maximum of each unit of a layer over a data set.

    Args:
        model: a `TwoLayer`, or any `torch.nn.Module`.
        data: inputs (N, D), or any data that `nz.probe` takes.
        threads, memory, options: as in `sweep`.

    Raises:
        InputError: as `sweep`.

    Example:
        >>> import nearzero as nz
        >>> network = nz.TwoLayer([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.5], "relu")
        >>> ranges = nz.unit_ranges(network, [[-2.0], [0.25], [1.0]])  # z = (x, -x)
        >>> ranges.pre.minimum.tolist(), ranges.pre.maximum.tolist()
        ([-2.0, -1.0], [1.0, 2.0])
        >>> ranges.post.width.tolist()  # of relu(z)
        [1.0, 2.0]
    """
    with open_evaluator(
        model, data, None, options, metrics="agreement", threads=threads, memory=memory
    ) as evaluator:
        return evaluator.ranges


def sweep(
    network: TwoLayer | nn.Module,
    x: Any,
    y: npt.ArrayLike | None = None,
    *,
    family: str | Sequence[str] = PAPER_FAMILIES,
    levels: npt.ArrayLike | None = None,
    ranges: Ranges | None = None,
    conduct: Conduct | None = None,
    keep_predictions: bool = False,
    metrics: Any = None,
    threads: int | None = None,
    memory: int | str | None = None,
    **options: Unpack[ModelOptions],
) -> xr.Dataset:
    """Perturb one layer at every level of one or more families and return the scores of the predictions.

    Args:
        network: a `TwoLayer`, or any `torch.nn.Module`. A module of the form Linear, activation, Linear is
            treated as a `TwoLayer`.
        x: inputs (N, D), fastest as uint8 pixels; or any data that `nz.probe` takes.
        y: the labels, (N,), if the inputs are an array. Without labels the result has the agreement but no
            accuracy.
        family: one name or a sequence of names: "offset", "scale", "clip", or a control (see
            `nearzero.perturbations.families`).
        levels: levels to use instead of the family's own. They can be given for a single family only.
        ranges: the unit ranges that the levels refer to; by default those over x.
        conduct: the reading of the protocol; by default that of the activation.
        keep_predictions: also return the predicted classes. They take 4 bytes per item, family and level.
        metrics: names, or functions of (logits, target), as for `nz.probe`; by default the agreement and,
            with labels, the accuracy.
        threads: the number of threads; by default all that this process may use. The results don't depend on
            it.
        memory: the memory to use in addition to the inputs and the result, for example "2 GB"; by default the
            value of `NEARZERO_MEMORY`, or 3 GB.
        options: the layer and other settings of models that aren't a `TwoLayer`, see
            `nearzero.evaluators.select.ModelOptions`.

    Returns:
        A Dataset on the dimensions (family, level), or (level,) if `family` is a single name. It holds
        `accuracy` and `agreement` (the share of predictions that are those of the unperturbed network), both
        from 0 to 1, or the metrics asked for; `unperturbed_accuracy`, and the same for other metrics except
        the agreement, which is 1; `dead_units`; and, if asked for, `predictions` (family, level, example).
        The levels are the sorted union of the levels of all families. Where a family doesn't have a level,
        metrics are NaN and predictions are -1. If logits are NaN or infinite anywhere, `not_finite` counts
        the items that have such logits; these count as wrong, and their predictions are -1.
        The attribute `backend` names the backend that computed the scores; `assumptions` holds what was
        inferred about a user's model, as JSON.

    Raises:
        InputError: shapes that don't fit, an unknown family, or a conduct that isn't defined for the
            activation.

    Example:
        >>> import nearzero as nz
        >>> network = nz.TwoLayer([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.5], "relu")
        >>> x, y = [[-2.0], [-1.0], [0.25], [1.0]], [1, 1, 1, 0]
        >>> curve = nz.sweep(network, x, y, family="scale", levels=[0.25, 1.0, 4.0])
        >>> curve.accuracy.values.tolist()  # logits are s relu(x) and s relu(-x) + 0.5
        [0.75, 1.0, 0.75]
        >>> nz.sweep(network, x, y).accuracy.sel(family="offset", level=0.0).item()  # of three families
        1.0
    """
    names = _as_names(family)
    if conduct is not None and not isinstance(conduct, Conduct):
        raise InputError(f"conduct must be an nz.Conduct; got {type(conduct).__name__}")
    if levels is not None and len(names) != 1:
        raise InputError(f"levels can be given for one family only; got {len(names)} families")
    given = None if levels is None else {names[0]: _as_levels(levels)}
    with open_evaluator(network, x, y, options, metrics=metrics, threads=threads, memory=memory) as evaluator:
        result = respond(
            evaluator,
            families=names,
            levels=given,
            ranges=ranges,
            conduct=conduct,
            keep_predictions=keep_predictions,
        ).assign_attrs(evaluator.assumed())
    return result.isel(family=0) if isinstance(family, str) else result


def respond(
    evaluator: LayerEvaluator,
    *,
    families: Sequence[str],
    ranges: Ranges | None = None,
    conduct: Conduct | None = None,
    levels: Mapping[str, npt.NDArray[np.float64]] | None = None,
    keep_predictions: bool = False,
) -> xr.Dataset:
    """Return the result of `sweep` for an evaluator that is already open.

    Args:
        evaluator: the layer on the examples.
        families: names, each once.
        ranges, conduct, keep_predictions: as in `sweep`.
        levels: by family, levels to use instead of its own.
    """
    conduct, ranges = evaluator.conduct(conduct), ranges or evaluator.ranges
    evaluator.check(conduct, families)
    made = [make_family(name, conduct) for name in families]
    grids = [(levels or {}).get(family.name, family.levels) for family in made]
    swept = np.concatenate(grids)
    axis = np.unique(swept)
    if keep_predictions and "prediction" in evaluator.metrics:
        raise InputError("a metric can't be called 'prediction' if predictions are kept; rename the metric")
    kept = ("prediction",) if keep_predictions else ()
    levelled = [(family, level) for family, grid in zip(made, grids, strict=True) for level in grid]
    # the perturbations of all levels take levels times units numbers, which may be more than is allowed
    count = max(1, evaluator.limit // (UNIT_BYTES * evaluator.units))
    scores = _joined(
        [
            evaluator.scores(
                [family.at(level, ranges) for family, level in levelled[first : first + count]],
                (*evaluator.metrics, *kept),
            )
            for first in range(0, len(levelled), count)
        ]
    )
    places = np.repeat(np.arange(len(made)), [len(grid) for grid in grids]), np.searchsorted(axis, swept)

    def on_axis(values: npt.NDArray[Any], missing: float) -> npt.NDArray[Any]:
        full = np.full((len(made), len(axis), *values.shape[1:]), missing, dtype=values.dtype)
        full[places] = values
        return full

    curve = ("family", "level")
    data: dict[str, Any] = {name: (curve, on_axis(scores.means[name], np.nan)) for name in evaluator.metrics}
    if scores.not_finite.any():
        data["not_finite"] = (curve, on_axis(scores.not_finite.astype(np.float64), np.nan), NOT_FINITE)
    data["dead_units"] = ((), ranges.dead_units)
    data |= unperturbed_variables(scores, evaluator.metrics)
    if scores.predictions is not None:
        data["predictions"] = ((*curve, "example"), on_axis(scores.predictions.astype(np.int32), -1))
    attributes = {**asdict(conduct), "backend": evaluator.backend, "layer": evaluator.layer}
    return xr.Dataset(data, coords={"family": list(families), "level": axis}, attrs=attributes)


def _joined(parts: Sequence[Scores]) -> Scores:
    """Return the scores of several groups of levels as one."""
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],
        means={name: np.concatenate([part.means[name] for part in parts]) for name in parts[0].means},
        not_finite=np.concatenate([part.not_finite for part in parts]),
        predictions=None
        if parts[0].predictions is None
        else np.concatenate([part.predictions for part in parts if part.predictions is not None]),
    )


def unperturbed_variables(scores: Scores, metrics: Iterable[str]) -> dict[str, Any]:
    """Return the unperturbed metrics as variables of a Dataset, without the agreement, which is always 1."""
    names = (name for name in metrics if name != "agreement")
    return {f"unperturbed_{name}": ((), scores.unperturbed[name]) for name in names}


def _as_names(family: str | Sequence[str]) -> list[str]:
    names = [family] if isinstance(family, str) else list(family) if isinstance(family, Sequence) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"family must be a name or a sequence of names; got {family!r}")
    if len(set(names)) < len(names):
        raise InputError(f"family must contain each name once; got {', '.join(names)}")
    return names


def _as_levels(levels: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.atleast_1d(as_numbers(levels, "levels")).astype(np.float64)
    if array.ndim != 1:
        raise InputError(f"levels must be a number or a one-dimensional array; got shape {array.shape}")
    return np.unique(array)
