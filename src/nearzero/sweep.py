"""Response curves: a network, swept over the levels of some families, as labelled arrays.

No files and no statistics: a study keeps the arrays and `nearzero.statistics` summarises them. How
predictions are made is in `nearzero.hidden`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero import metrics
from nearzero.arrays import as_array, as_numbers
from nearzero.errors import InputError
from nearzero.families import BY_FORMULA, PAPER_FAMILIES, Conduct, make_family
from nearzero.hidden import HiddenLayer
from nearzero.networks import TwoLayer, as_network
from nearzero.perturbation import Perturbation
from nearzero.pixels import Pixels
from nearzero.ranges import Ranges

if TYPE_CHECKING:
    from torch import nn

__all__ = ["as_labels", "respond", "sweep", "unit_ranges"]


def unit_ranges(network: TwoLayer | nn.Module, x: Pixels | npt.ArrayLike) -> Ranges:
    """The unit ranges of a network's hidden layer over the examples x, (N, D)."""
    return HiddenLayer(as_network(network), x).ranges


def sweep(
    network: TwoLayer | nn.Module,
    x: Pixels | npt.ArrayLike,
    y: npt.ArrayLike | None = None,
    *,
    family: str | Sequence[str] = PAPER_FAMILIES,
    levels: npt.ArrayLike | None = None,
    ranges: Ranges | None = None,
    conduct: Conduct | None = None,
    keep_predictions: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> xr.Dataset:
    """Perturb the hidden layer of one network at every level of one or more families, and see what it
    predicts.

    Args:
        network: a `TwoLayer`, or a PyTorch module Linear, activation, Linear.
        x: the examples, (N, D); uint8 pixels are the fastest.
        y: the labels, (N,); without them there is agreement and no accuracy.
        family: one name, or several: "offset", "scale", "clip", or a control (see `nearzero.families`).
        levels: in place of the family's own, for one family only.
        ranges: the unit ranges the levels refer to; taken over x unless given.
        conduct: which reading of the protocol; `Conduct.default` of the activation unless given.
        keep_predictions: also return the predicted classes, 4 bytes for each example, family and level of the axis.
        threads: how many to use; all that this process may use unless given. The results don't depend on it.
        memory: what it may take besides the inputs and what it returns, "2 GB" say; `NEARZERO_MEMORY` or 3 GB
            unless given.

    Returns:
        A Dataset with `accuracy` and `agreement` (the share of predictions that stay as they were), both 0 to
        1, on the dimensions (family, level), or (level,) for one name; `unperturbed_accuracy`; `dead_units`;
        and, if asked, `predictions` (family, level, example). Levels are the sorted union of all families';
        where a family hasn't a level stands NaN (for predictions, -1).

    Raises:
        InputError: shapes that don't fit, an unknown family, a conduct that the activation doesn't allow.
    """
    network = as_network(network)
    names = _as_names(family)
    if conduct is not None and not isinstance(conduct, Conduct):
        raise InputError(f"conduct must be an nz.Conduct; got {type(conduct).__name__}")
    if levels is not None and len(names) != 1:
        raise InputError(f"levels can be given for one family only; got {len(names)} families")
    hidden = HiddenLayer(network, x, threads=threads, memory=memory)
    given = None if levels is None else {names[0]: _as_levels(levels)}
    result = respond(
        hidden,
        None if y is None else as_labels(y, len(hidden), network.classes),
        families=names,
        levels=given,
        ranges=ranges or hidden.ranges,
        conduct=conduct or Conduct.default([network.activation]),
        keep_predictions=keep_predictions,
    )
    return result.isel(family=0) if isinstance(family, str) else result


def respond(
    hidden: HiddenLayer,
    labels: npt.NDArray[np.int64] | None,
    *,
    families: Sequence[str],
    ranges: Ranges,
    conduct: Conduct,
    levels: Mapping[str, npt.NDArray[np.float64]] | None = None,
    keep_predictions: bool = False,
) -> xr.Dataset:
    """`sweep` for a hidden layer that is at hand; see there."""
    conduct.check([] if BY_FORMULA.isdisjoint(families) else [hidden.network.activation])
    made = [make_family(name, conduct) for name in families]
    grids = [(levels or {}).get(each.name, each.levels) for each in made]
    axis = np.unique(np.concatenate(grids)) if grids else np.empty(0)
    perturbations = [each.at(level, ranges) for each, grid in zip(made, grids, strict=True) for level in grid]
    shares, unperturbed, predictions = _compare(hidden, perturbations, labels, keep_predictions)
    places = (
        np.repeat(np.arange(len(made)), [len(grid) for grid in grids]),
        np.searchsorted(axis, np.concatenate(grids)),
    )

    def on_axis(values: npt.NDArray[Any], missing: float) -> npt.NDArray[Any]:
        full = np.full((len(made), len(axis), *values.shape[1:]), missing, dtype=values.dtype)
        full[places] = values
        return full

    curve = ("family", "level")
    data: dict[str, Any] = {name: (curve, on_axis(share, np.nan)) for name, share in shares.items()}
    data["dead_units"] = ((), ranges.dead_units)
    if labels is not None:
        data["unperturbed_accuracy"] = ((), unperturbed)
    if predictions is not None:
        data["predictions"] = ((*curve, "example"), on_axis(predictions, -1))
    return xr.Dataset(data, coords={"family": list(families), "level": axis}, attrs=asdict(conduct))


def _compare(
    hidden: HiddenLayer,
    perturbations: Sequence[Perturbation],
    labels: npt.NDArray[np.int64] | None,
    keep: bool,
) -> tuple[dict[str, npt.NDArray[np.float64]], float, npt.NDArray[np.int32] | None]:
    """Agreement and, given labels (N,), accuracy, (L,) each; without perturbation; the predictions (L, N) if asked."""
    count = len(perturbations)
    swept = [*perturbations, Perturbation()]  # the identity among them: a family's sums may serve it too
    agreeing, right = np.zeros((2, count + 1))
    kept = np.empty((count, len(hidden)), np.int32) if keep else None
    for rows in hidden.blocks(len(swept)):
        predictions = hidden.predict(swept, rows)
        agreeing += metrics.matches(predictions, predictions[-1])
        if labels is not None:
            # of the same type, or each row would be converted before it's compared
            right += metrics.matches(predictions, labels[rows].astype(predictions.dtype))
        if kept is not None:
            kept[:, rows] = predictions[:-1]
    shares = {"agreement": agreeing[:count] / len(hidden)}
    if labels is not None:
        shares["accuracy"] = right[:count] / len(hidden)
    return shares, float(right[-1] / len(hidden)), kept


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


def as_labels(y: npt.ArrayLike, examples: int, classes: int) -> npt.NDArray[np.int64]:
    """Labels (N,), checked: one for each example, each a class.

    Raises:
        InputError: labels that aren't that.
    """
    labels = as_array(y, "y")
    if labels.shape != (examples,):
        raise InputError(f"y must have one label per example, shape ({examples},); got {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels must be whole numbers, the classes; got {labels.dtype}")
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise InputError(
            f"labels must be classes from 0 to {classes - 1}; got values from {labels.min()} to {labels.max()}"
        )
    return labels.astype(np.int64)
