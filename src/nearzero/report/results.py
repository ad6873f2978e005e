"""Access to the results of a study.

`StudyResults` lists everything that tables and figures may read of a study, and only the functions of this
module read its labelled arrays. They select values and compute nothing; statistics are in
`nearzero.statistics`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from nearzero.errors import InputError, did_you_mean
from nearzero.perturbations.activations import ACTIVATIONS

__all__ = [
    "Curve",
    "StudyResults",
    "curve",
    "display_name",
    "families",
    "final_values",
    "networks",
    "splits",
    "unperturbed",
]

Floats = NDArray[np.float64]


class StudyResults(Protocol):
    """The results of a study that a report reads.

    Attributes:
        title: one line that names the study.
        notices: warnings for a reader, for example that another data set was used than the one asked for.
        conduct: the switches between the published and the corrected conduct, for captions.
        departures: in what the study departs from the published one; if in anything, its numbers aren't set beside
            the published ones.
        response: `accuracy` on (network, run, family, level, split) and `unperturbed_accuracy` on (network,
            run, split), as fractions; NaN if a run diverged, and at levels that a family doesn't have.
        history: `loss`, `train_accuracy` and `test_accuracy` on (network, run, step).
    """

    @property
    def title(self) -> str: ...  # noqa: D102 (documented above)
    @property
    def notices(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def conduct(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def departures(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def response(self) -> xr.Dataset: ...  # noqa: D102
    @property
    def history(self) -> xr.Dataset: ...  # noqa: D102


@dataclass(frozen=True)
class Curve:
    """Accuracy of one network under one family: levels `(L,)`, ascending, and accuracy `(L, R)` in percent."""

    levels: Floats
    accuracy: Floats

    def nearest(self, level: float) -> int | None:
        """Return the index of the grid level nearest to a published level; None if none is close.

        Close means within 5 % of the level or within 0.005. (The paper's own grids have a level within 3.6 %
        of every level in its tables.) A study with a coarser grid has no number to set beside such a row.
        """
        if not self.levels.size:
            return None
        index = int(np.abs(self.levels - level).argmin())
        return index if abs(self.levels[index] - level) <= max(0.05 * abs(level), 0.005) else None

    def entry(self, index: int) -> Floats | None:
        """Return the accuracy of each run, shape `(R,)`, at an entry of the grid; None if the grid is shorter."""
        return self.accuracy[index] if index < len(self.levels) else None


def networks(study: StudyResults) -> tuple[str, ...]:
    """Return the names of the networks, in the order of the study."""
    return tuple(str(name) for name in study.response["network"].values)


def families(study: StudyResults) -> tuple[str, ...]:
    """Return the names of the families that were swept."""
    return tuple(str(name) for name in study.response["family"].values)


def splits(study: StudyResults) -> tuple[str, ...]:
    """Return the names of the splits on which accuracy was measured: "train", and "test" if it was asked for."""
    return tuple(str(name) for name in study.response["split"].values)


def display_name(network: str) -> str:
    """Return a network's name in its usual spelling: "ReLU" for "relu"."""
    return ACTIVATIONS[network].label if network in ACTIVATIONS else network


def curve(study: StudyResults, network: str, family: str, split: str = "train") -> Curve:
    """Return the accuracy of every run of one network at every level of a family.

    A level belongs to the family if any run of any network has an accuracy at it.

    Raises:
        InputError: the study has no such network, family or split.
    """
    accuracy = _choose(study, family=family, split=split)["accuracy"].dropna("level", how="all")
    own = accuracy.sel(network=network).transpose("level", "run").sortby("level")
    return Curve(own["level"].values.astype(np.float64), 100.0 * own.values.astype(np.float64))


def unperturbed(study: StudyResults, network: str, split: str = "train") -> Floats:
    """Return the unperturbed accuracy of each run in percent, shape `(R,)`."""
    values = _choose(study, network=network, split=split)["unperturbed_accuracy"].values
    return 100.0 * values.astype(np.float64)


def final_values(study: StudyResults, network: str, quantity: str) -> Floats:
    """Return a quantity of each run at the last step of training, shape `(R,)`; accuracies in percent."""
    values = study.history[quantity].sel(network=network).isel(step=-1).values.astype(np.float64)
    return 100.0 * values if quantity.endswith("accuracy") else values


def _choose(study: StudyResults, **labels: str) -> xr.Dataset:
    for dimension, label in labels.items():
        names = [str(name) for name in study.response[dimension].values]
        if label not in names:
            hint = did_you_mean(label, names)
            raise InputError(f"this study has no {dimension} {label!r}; {hint}it has {', '.join(names)}")
    return study.response.sel(labels)
