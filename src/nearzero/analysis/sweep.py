"""Response curves: one layer, swept over the levels of some families, as labelled arrays.

No files and no statistics: a study keeps the arrays and `nearzero.statistics` summarises them. How scores come about is
in `nearzero.evaluators`; many layers of a model at once are probed by `nearzero.probing.probe`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
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

__all__ = ["respond", "sweep", "unit_ranges", "unperturbed_variables"]


def unit_ranges(
    model: TwoLayer | nn.Module,
    data: Any,
    *,
    threads: int | None = None,
    memory: int | str | None = None,
    **options: Unpack[ModelOptions],
) -> Ranges:
    """Return the unit ranges of a layer over some data.

    Args:
        model, data, threads, memory, options: as in `sweep`.
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
    """Perturb one layer at every level of one or more families, and see what the model predicts.

    Args:
        network: a `TwoLayer`, or any `torch.nn.Module`. Linear, activation, Linear is read as a `TwoLayer`.
        x: inputs (N, D), uint8 pixels being the fastest; or whatever `nz.probe` takes as data.
        y: the labels of inputs that come as an array, (N,); without labels there is agreement and no accuracy.
        family: one name, or several: "offset", "scale", "clip", or a control (see `nearzero.perturbations.families`).
        levels: in place of the family's own, for one family only.
        ranges: the unit ranges the levels refer to; taken over x unless given.
        conduct: which reading of the protocol; the default one of the activation unless given.
        keep_predictions: also return the predicted classes, 4 bytes for each item, family and level of the axis.
        metrics: names, or functions of (logits, target), as for `nz.probe`; accuracy, given labels, and agreement if
            None.
        threads: how many to use; all that this process may use unless given. The results don't depend on it.
        memory: what it may take besides the inputs and what it returns, "2 GB" say; `NEARZERO_MEMORY` or 3 GB
            unless given.
        options: of other models the layer, and what else is to be said, see
            `nearzero.evaluators.select.ModelOptions`.

    Returns:
        A Dataset with `accuracy` and `agreement` (the share of predictions that stay as they were), both 0 to
        1, on the dimensions (family, level), or (level,) for one name, or with the metrics asked for;
        `unperturbed_accuracy`, and of other metrics likewise; `dead_units`;
        and, if asked, `predictions` (family, level, example). Levels are the sorted union of all families';
        where a family hasn't a level stands NaN (for predictions, -1). Its attribute `backend` says what computed.

    Raises:
        InputError: shapes that don't fit, an unknown family, a conduct that the activation doesn't allow.
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
        )
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
    """Return `sweep` for an evaluator that is at hand; see there."""
    conduct, ranges = evaluator.conduct(conduct), ranges or evaluator.ranges
    evaluator.check(conduct, families)
    made = [make_family(name, conduct) for name in families]
    grids = [(levels or {}).get(each.name, each.levels) for each in made]
    swept = np.concatenate(grids)
    axis = np.unique(swept)
    perturbations = [each.at(level, ranges) for each, grid in zip(made, grids, strict=True) for level in grid]
    kept = ("prediction",) if keep_predictions else ()
    scores = evaluator.scores(perturbations, (*evaluator.metrics, *kept))
    places = np.repeat(np.arange(len(made)), [len(grid) for grid in grids]), np.searchsorted(axis, swept)

    def on_axis(values: npt.NDArray[Any], missing: float) -> npt.NDArray[Any]:
        full = np.full((len(made), len(axis), *values.shape[1:]), missing, dtype=values.dtype)
        full[places] = values
        return full

    curve = ("family", "level")
    data: dict[str, Any] = {name: (curve, on_axis(scores.means[name], np.nan)) for name in evaluator.metrics}
    data["dead_units"] = ((), ranges.dead_units)
    data |= unperturbed_variables(scores, evaluator.metrics)
    if scores.predictions is not None:
        data["predictions"] = ((*curve, "example"), on_axis(scores.predictions.astype(np.int32), -1))
    attributes = {**asdict(conduct), "backend": evaluator.backend, "layer": evaluator.layer}
    return xr.Dataset(data, coords={"family": list(families), "level": axis}, attrs=attributes)


def unperturbed_variables(scores: Scores, metrics: Iterable[str]) -> dict[str, Any]:
    """Return the unperturbed metrics as variables of a Dataset, without the agreement, which is 1."""
    names = (name for name in metrics if name != "agreement")
    return {f"unperturbed_{name}": ((), scores.unperturbed[name]) for name in names}


def _as_names(family: str | Sequence[str]) -> list[str]:
    names = [family] if isinstance(family, str) else list(family) if isinstance(family, Sequence) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"family must be a name or a sequence of names; got {family!r}")
    if len(set(names)) < len(names):
        raise InputError(f"family names one of them twice: {', '.join(names)}")
    return names


def _as_levels(levels: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.atleast_1d(as_numbers(levels, "levels")).astype(np.float64)
    if array.ndim != 1:
        raise InputError(f"levels must be a number or a flat array; got shape {array.shape}")
    return np.unique(array)
