"""A made-up study of the shape that a report reads: the published curves with noise over runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from nearzero.paper.published import published

LOG_LEVELS = np.logspace(-2, 1, 100)
LEVELS = {
    "scale": LOG_LEVELS,
    "clip": LOG_LEVELS,
    "offset": np.concatenate(
        [
            np.linspace(-2.0, -0.4, 32, endpoint=False),
            np.linspace(-0.4, 0.4, 80, endpoint=False),
            np.linspace(0.4, 1.0, 13),
        ]
    ),
}
CONDUCT = {
    "pixels": "raw",
    "offset": "as-run",
    "clip": "pre",
    "clip_threshold": "min+pr",
    "range": "post",
    "ttest_baseline": "identity",
}
EXAMPLES = 60_000


@dataclass(frozen=True)
class MadeUpStudy:
    """Satisfies `StudyResults`."""

    response: xr.Dataset
    history: xr.Dataset
    title: str = "20 runs of made-up numbers"
    notices: tuple[str, ...] = ()
    departures: tuple[str, ...] = ()
    conduct: Mapping[str, str] = field(default_factory=lambda: dict(CONDUCT))


def published_curve(network: str, family: str, levels: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = published().families[family]
    like = "abs" if network == "abs" else "relu"
    known = np.array([row.level for row in rows])
    values = np.array([row.networks[like].accuracy for row in rows])
    if family == "offset":
        return np.interp(levels, known, values)
    return np.interp(np.log(levels), np.log(known), values)


def counts(fraction: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.round(np.clip(fraction, 0.0, 1.0) * EXAMPLES) / EXAMPLES


def make_study(
    runs: int = 20,
    networks: tuple[str, ...] = ("abs", "relu"),
    families: tuple[str, ...] = ("offset", "scale", "clip"),
    splits: tuple[str, ...] = ("train",),
    diverged: Mapping[str, tuple[int, ...]] | None = None,
    levels: Mapping[str, NDArray[np.float64]] | None = None,
    shift: float = 0.0,
    **words: object,
) -> MadeUpStudy:
    """`shift` is added to every accuracy, in points; `diverged` names the runs without a result."""
    grids = {family: (levels or LEVELS)[family] for family in families}
    union = np.unique(np.concatenate(list(grids.values())))
    shape = (len(networks), runs, len(families), union.size, len(splits))
    accuracy = np.full(shape, np.nan)
    unperturbed = np.empty((len(networks), runs, len(splits)))
    history = {
        name: np.full((len(networks), runs, 3), np.nan)
        for name in ("loss", "train_accuracy", "test_accuracy")
    }
    for i, network in enumerate(networks):
        random = np.random.default_rng([7, i])
        quality = random.normal(0.0, 0.12, runs) if network != "abs" else random.normal(0.0, 0.004, runs)
        facts = published().baseline["abs" if network == "abs" else "relu"]
        for s, split in enumerate(splits):
            top = facts.train.mean if split == "train" else facts.test.mean
            unperturbed[i, :, s] = counts((top + quality + shift) / 100)
            for f, (family, grid) in enumerate(grids.items()):
                centre = published_curve(network, family, grid) - (facts.train.mean - top)
                spread = 0.12 * (facts.train.mean - published_curve(network, family, grid))
                noise = quality[:, None] + spread * random.normal(size=(runs, 1)) * np.minimum(
                    1, 5 / (spread + 1e-9)
                )
                noise = noise + 0.1 * np.minimum(spread, 5.0) * random.normal(size=(runs, grid.size))
                at = np.searchsorted(union, grid)
                accuracy[i, :, f, at, s] = counts((centre + noise + shift) / 100).T
        history["loss"][i, :, -1] = facts.loss.mean + facts.loss.sd * random.normal(size=runs)
        history["train_accuracy"][i, :, -1] = unperturbed[i, :, 0]
        history["test_accuracy"][i, :, -1] = counts(
            (facts.test.mean + facts.test.sd * random.normal(size=runs)) / 100
        )
        for run in (diverged or {}).get(network, ()):
            accuracy[i, run] = np.nan
            unperturbed[i, run] = np.nan
            for values in history.values():
                values[i, run] = np.nan
    dims = ("network", "run", "family", "level", "split")
    response = xr.Dataset(
        {
            "accuracy": (dims, accuracy),
            "agreement": (dims, accuracy),
            "unperturbed_accuracy": (("network", "run", "split"), unperturbed),
            "dead_units": (("network", "run"), np.zeros((len(networks), runs), dtype=np.int64)),
        },
        coords={
            "network": list(networks),
            "run": np.arange(runs),
            "family": list(families),
            "level": union,
            "split": list(splits),
        },
    )
    trained = xr.Dataset(
        {name: (("network", "run", "step"), values) for name, values in history.items()},
        coords={"network": list(networks), "run": np.arange(runs), "step": [0, 2500, 5000]},
    )
    return MadeUpStudy(response, trained, **words)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def study_of() -> Callable[..., MadeUpStudy]:
    return make_study


@pytest.fixture(scope="session")
def study() -> MadeUpStudy:
    return make_study()
