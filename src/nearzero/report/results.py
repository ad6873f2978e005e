"""What a report reads of a study, and how it reads it.

`StudyResults` is the whole of what tables and figures may know of a study; the functions here are the only
places in which they touch its labelled arrays. Nothing is computed here but selection; statistics live in
`nearzero.statistics`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from nearzero.errors import InputError
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
    """A study as a report sees it.

    Attributes:
        title: one line that names the study.
        notices: what a reader must not miss, such as a data set that took another's place.
        conduct: the switches between the published and the corrected conduct, as words for captions.
        response: dims (network, run, family, level, split); `accuracy` over all of them and
            `unperturbed_accuracy` over (network, run, split), as fractions, NaN where a run diverged and
            where a family has not that level.
        history: dims (network, run, step); `loss`, `train_accuracy` and `test_accuracy`.
    """

    @property
    def title(self) -> str: ...  # noqa: D102 (documented above)
    @property
    def notices(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def conduct(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def response(self) -> xr.Dataset: ...  # noqa: D102
    @property
    def history(self) -> xr.Dataset: ...  # noqa: D102


@dataclass(frozen=True)
class Curve:
    """The accuracy of one network under one family: levels `(L,)` ascending, accuracy `(L, R)` in percent."""

    levels: Floats
    accuracy: Floats

    def nearest(self, level: float) -> int | None:
        """Index of the grid level nearest the named one, as published; None where there is none close by.

        Close by is within 5 % of the level or 0.005. (The paper's own grids are within 3.6 % of every level
        that its tables name.) A study with a coarser grid has nothing to set beside such a row.
        """
        if not self.levels.size:
            return None
        index = int(np.abs(self.levels - level).argmin())
        return index if abs(self.levels[index] - level) <= max(0.05 * abs(level), 0.005) else None

    def entry(self, index: int) -> Floats | None:
        """Accuracy of each run, shape `(R,)`, at one entry of the grid; None where the grid is shorter."""
        return self.accuracy[index] if index < len(self.levels) else None


def networks(study: StudyResults) -> tuple[str, ...]:
    """Names of the networks, in the order of the study."""
    return tuple(str(name) for name in study.response["network"].values)


def families(study: StudyResults) -> tuple[str, ...]:
    """Names of the families that were swept."""
    return tuple(str(name) for name in study.response["family"].values)


def splits(study: StudyResults) -> tuple[str, ...]:
    """Names of the splits that accuracies were taken on: "train", and "test" where it was asked for."""
    return tuple(str(name) for name in study.response["split"].values)


def display_name(network: str) -> str:
    """The way a network's activation is usually written: "relu" as "ReLU"."""
    return ACTIVATIONS[network].label if network in ACTIVATIONS else network


def curve(study: StudyResults, network: str, family: str, split: str = "train") -> Curve:
    """Accuracy of every run of one network at every level that this family has.

    A level belongs to the family where any run of any network has an accuracy at it.
    """
    accuracy = _choose(study, family=family, split=split)["accuracy"].dropna("level", how="all")
    own = accuracy.sel(network=network).transpose("level", "run").sortby("level")
    return Curve(own["level"].values.astype(np.float64), 100.0 * own.values.astype(np.float64))


def unperturbed(study: StudyResults, network: str, split: str = "train") -> Floats:
    """Accuracy in percent of each run at the identity, shape `(R,)`."""
    values = _choose(study, network=network, split=split)["unperturbed_accuracy"].values
    return 100.0 * values.astype(np.float64)


def final_values(study: StudyResults, network: str, quantity: str) -> Floats:
    """`quantity` of each run at the last step of training, shape `(R,)`; accuracies in percent."""
    values = study.history[quantity].sel(network=network).isel(step=-1).values.astype(np.float64)
    return 100.0 * values if quantity.endswith("accuracy") else values


def _choose(study: StudyResults, **labels: str) -> xr.Dataset:
    for dimension, label in labels.items():
        known = [str(name) for name in study.response[dimension].values]
        if label not in known:
            raise InputError(f"this study has no {dimension} {label!r}; it has {', '.join(known)}")
    return study.response.sel(labels)
