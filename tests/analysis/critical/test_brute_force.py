"""Real networks on real digits: intervals against a search at 1e-4, and the curve rebuilt from them against the sweep.

What is searched is written out here in plain NumPy and float64: the forward pass with its perturbation, and nothing
of the library but the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import nearzero as nz

KEPT = Path(__file__).parents[3] / "results" / "paper"
RESOLUTION = 1e-4
BOUNDS = {"scale": (0.01, 10.0), "clip": (0.0, 1.0), "offset": (-2.0, 1.0), "shift": (-2.0, 1.0)}
EXAMPLES = {"scale": 4, "clip": 30, "offset": 12, "shift": 8}  # of each kind, see `chosen`
BLOCK = 2**15  # activations at a time: few enough to stay in the cache
NARROWEST = 1e-11  # of a window whose middle can be looked at in float64

Doubles = npt.NDArray[np.float64]

ACT: dict[str, Callable[[Doubles], Doubles]] = {
    "relu": lambda y: np.maximum(y, 0.0),
    "abs": np.abs,
    "leaky_relu": lambda y: np.where(y > 0, y, 0.01 * y),
}
# y, from z, a level p, and the minimum and the maximum of each unit; and the offset that isn't defined for leaky ReLU
MOVE: dict[str, Callable[[Doubles, Doubles, Doubles, Doubles], Doubles]] = {
    "scale": lambda z, p, least, most: p * z,
    "clip": lambda z, p, least, most: np.minimum(z, least + p * (most - least)),
    "offset": lambda z, p, least, most: z * (most - p * (most - least)) / most + p * (most - least),
    "shift": lambda z, p, least, most: z + p * (most - least),
}
# the sum of the sizes of what is added up in y: s is that of the terms of z
TERMS: dict[str, Callable[[Doubles, Doubles, Doubles, Doubles], Doubles]] = {
    "scale": lambda s, p, least, most: p * s,
    "clip": lambda s, p, least, most: np.maximum(s, least + p * (most - least)),
    "offset": lambda s, p, least, most: (
        s * np.abs(1 - p * (most - least) / most) + np.abs(p * (most - least))
    ),
    "shift": lambda s, p, least, most: s + np.abs(p * (most - least)),
}


class Plain:
    """A network on some images: ReLU and Abs perturbed as published, leaky ReLU by its pre-activation range."""

    def __init__(self, network: nz.TwoLayer, pixels: npt.NDArray[np.uint8]) -> None:
        self.name, self.pixels = network.activation, pixels
        self.w1, self.b1, self.w2, self.b2 = (
            each.astype(np.float64) for each in (network.w1, network.b1, network.w2, network.b2)
        )
        after, before = ACT[self.name](self.z), self.z
        own = before if self.name == "leaky_relu" else after
        self.least, self.most, self.live = own.min(axis=0), own.max(axis=0), np.ptp(after, axis=0) > 0
        self.ranges = nz.Ranges(
            nz.UnitRange(before.min(axis=0), before.max(axis=0), "pre"),
            nz.UnitRange(after.min(axis=0), after.max(axis=0), "post"),
        )

    @cached_property
    def z(self) -> Doubles:
        return self.pixels.astype(np.float64) @ self.w1.T + self.b1

    def logits(self, family: str, p: Doubles, rows: npt.NDArray[np.integer] | slice) -> Doubles:
        """(..., n, K): the logits of some images at levels p, shaped (..., n or 1, 1)."""
        name = "shift" if family == "offset" and self.name == "leaky_relu" else family
        z = self.z[rows]
        with np.errstate(divide="ignore", invalid="ignore"):
            y = np.where(self.live, MOVE[name](z, p, self.least, self.most), z)
        return ACT[self.name](y) @ self.w2.T + self.b2

    def predictions(
        self, family: str, levels: Doubles, rows: npt.NDArray[np.integer] | slice
    ) -> npt.NDArray[np.intp]:
        """(L, n): the predictions of some images at every level."""
        size = max(1, BLOCK // self.z[rows].size)
        parts = np.split(levels, range(size, len(levels), size))
        return np.concatenate([self.logits(family, p[:, None, None], rows).argmax(axis=2) for p in parts])

    def rounding(self, family: str, p: Doubles, rows: npt.NDArray[np.integer]) -> Doubles:
        """(n,): one rounding, in float32, of all that is added up in a logit, sizes summed, at levels p (n, 1)."""
        name = "shift" if family == "offset" and self.name == "leaky_relu" else family
        sizes = self.pixels[rows].astype(np.float64) @ np.abs(self.w1).T + np.abs(self.b1)
        with np.errstate(divide="ignore", invalid="ignore"):
            y = np.where(self.live, TERMS[name](sizes, p, self.least, self.most), sizes)
        return 2.0**-24 * (y @ np.abs(self.w2).T + np.abs(self.b2)).max(axis=1)


@pytest.fixture(scope="module")
def networks(trained: dict[str, nz.TwoLayer]) -> dict[str, nz.TwoLayer]:
    """ReLU and Abs of the paper's study as it was run again, leaky ReLU trained here."""
    kept = nz.Study.open(KEPT)
    return {"relu": kept.network("relu"), "abs": kept.network("abs"), "leaky_relu": trained["leaky_relu"]}


@pytest.fixture(scope="module")
def plain(networks: dict[str, nz.TwoLayer], mnist_5k: nz.datasets.Dataset) -> dict[str, Plain]:
    return {name: Plain(network, mnist_5k.train.pixels) for name, network in networks.items()}


@pytest.mark.parametrize("family", BOUNDS)
@pytest.mark.parametrize("activation", ACT)
def test_intervals_are_what_a_search_at_1e_4_finds(activation, family, networks, plain):
    search = plain[activation]
    found = nz.critical_levels(networks[activation], search.pixels, family=family, ranges=search.ranges)
    assert (found.low, found.high) == BOUNDS[family]
    assert found.exact
    rows = chosen(found, EXAMPLES[family])
    count = round((found.high - found.low) / RESOLUTION)
    levels = found.low + np.arange(count + 1) / round(1 / RESOLUTION)
    searched = search.predictions(family, levels, rows)
    kept = [slice(*found.first[[n, n + 1]]) for n in rows]
    places = np.stack(
        [np.searchsorted(found.starts[part], levels, side="right") - 1 for part in kept], axis=1
    )
    rebuilt = found.classes[found.first[rows] + places]
    np.testing.assert_array_equal(rebuilt, searched, "at every level of the search")

    # What lies between two levels of the search is looked at in its middle: no interval is taken on trust.
    owner = np.concatenate([np.full(part.stop - part.start, n) for n, part in zip(rows, kept, strict=True)])
    every = np.concatenate([np.arange(part.start, part.stop) for part in kept])
    middle = (found.starts[every] + found.ends[every]) / 2
    seen = search.logits(family, middle[:, None], owner).argmax(axis=1)
    wide = found.ends[every] - found.starts[every] > NARROWEST
    np.testing.assert_array_equal(seen[wide], found.classes[every][wide])
    assert wide.all()

    # And these are the windows that the search can't see, listed.
    missed = np.ceil((found.starts[every] - found.low) / RESOLUTION - 1e-6) > np.floor(
        (found.ends[every] - found.low) / RESOLUTION + 1e-6
    )
    windows = [
        f"example {n}: {found.classes[place]} from {found.starts[place]:.9f} to {found.ends[place]:.9f}"
        for n, place in zip(owner[missed], every[missed], strict=True)
    ]
    print(f"{len(windows)} windows narrower than the resolution", *windows, sep="\n")
    assert (found.ends[every][missed] - found.starts[every][missed] < RESOLUTION).all()
    assert_first_changes_agree(found, rows, levels, searched, set(owner[missed]))


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="no more than float64 here")
@pytest.mark.parametrize("family", BOUNDS)
@pytest.mark.parametrize("activation", ["relu", "abs"])
def test_changes_are_placed_to_1e_12(activation, family, networks, plain):
    """In extended precision the two logits that meet there do so within 1e-12 of a level."""
    network, search = networks[activation], plain[activation]
    found = nz.critical_levels(network, search.pixels, family=family, ranges=search.ranges)
    inner = np.setdiff1d(np.arange(len(found.starts)), found.first)
    place = inner[:: max(1, len(inner) // 100)]
    rows = np.searchsorted(found.first, place, side="right") - 1
    w1, b1, w2, b2 = (each.astype(np.longdouble) for each in (search.w1, search.b1, search.w2, search.b2))
    z = search.pixels[rows].astype(np.longdouble) @ w1.T + b1
    least, most = search.least.astype(np.longdouble), search.most.astype(np.longdouble)

    def lead(p):
        """Of the class that follows over the class before."""
        logits = ACT[activation](MOVE[family](z, p[:, None], least, most)) @ w2.T + b2
        n = np.arange(len(rows))
        return logits[n, found.classes[place]] - logits[n, found.classes[place - 1]]

    at, step = found.starts[place].astype(np.longdouble), np.longdouble(1e-9)
    slope = (lead(at + step) - lead(at)) / step
    assert (slope > 0).all()
    assert (np.abs(lead(at)) / slope).max() < 1e-12


def chosen(found: nz.CriticalLevels, count: int) -> npt.NDArray[np.integer]:
    """The hard ones: so many that change most often, that have the narrowest intervals; and as many, evenly spaced."""
    often = np.argsort(found.counts, kind="stable")[-count:]
    width = np.minimum.reduceat(found.ends - found.starts, found.first[:-1])
    narrow = np.argsort(width, kind="stable")[:count]
    return np.unique(np.concatenate([often, narrow, np.linspace(0, len(found) - 1, count).astype(int)]))


def assert_first_changes_agree(found, rows, levels, searched, with_windows) -> None:
    """On each side the first change of the search is within a step of the critical level, or a window comes first."""
    at = int(np.abs(levels - min(found.identity, found.high)).argmin())
    for side in found.sides:
        outwards = searched[at:] if side == "above" else searched[at::-1]
        steps = np.abs(levels[at:] - levels[at]) if side == "above" else np.abs(levels[at::-1] - levels[at])
        other = outwards != found.unperturbed[rows]
        first = np.where(other.any(axis=0), steps[other.argmax(axis=0)], np.nan)
        critical = np.abs(found.critical(side)[rows] - levels[at])
        for n, mine, searcheds in zip(rows, critical, first, strict=True):
            agree = (np.isnan(mine) and np.isnan(searcheds)) or abs(mine - searcheds) <= RESOLUTION + 1e-9
            assert agree or n in with_windows, (side, n, mine, searcheds)


@pytest.mark.parametrize("family", ["scale", "clip", "offset", "shift"])
@pytest.mark.parametrize("activation", ACT)
def test_the_curve_is_the_sweeps_to_the_last_example(activation, family, networks, plain, mnist_5k):
    """At all 325 levels, and those of shift. In float64 nothing may differ; in float32 what is below its rounding."""
    network, search, labels = networks[activation], plain[activation], mnist_5k.train.labels
    levels = nz.make_family(family, nz.Conduct()).levels
    found = nz.critical_levels(
        network, search.pixels, family=family, ranges=search.ranges, low=levels[0], high=levels[-1]
    )
    sweep = nz.sweep(
        network, search.pixels, labels, family=family, ranges=search.ranges, keep_predictions=True
    )
    np.testing.assert_array_equal(sweep.level, levels)
    rebuilt = np.stack([found.predict(level) for level in levels])
    np.testing.assert_array_equal(found.accuracy(levels, labels), (rebuilt == labels).mean(axis=1))

    place, rows = np.nonzero(rebuilt != sweep.predictions.values)
    p = levels[place][:, None]
    logits = search.logits(family, p, rows)
    np.testing.assert_array_equal(rebuilt[place, rows], logits.argmax(axis=1), "float64 has the last word")
    gap = (
        logits.max(axis=1)
        - np.take_along_axis(logits, sweep.predictions.values[place, rows][:, None], 1)[:, 0]
    )
    assert (gap < search.rounding(family, p, rows)).all()
    print(len(rows), "near ties among", rebuilt.size)
    assert len(rows) <= 3, f"near ties among {rebuilt.size:,} predictions"
    differing = np.abs(found.accuracy(levels, labels) - sweep.accuracy.values) * len(labels)
    assert differing.sum() <= len(rows) + 1e-6


OFFSET = pytest.mark.long("the paper's curves rebuilt from critical levels of all 60,000 images, for offset")


@pytest.mark.parametrize(
    ("activation", "family"), [pytest.param("relu", "offset", marks=OFFSET), ("abs", "clip")]
)
def test_the_curves_of_the_papers_study_are_rebuilt(activation, family, networks):
    """All 60,000 images, against what `results/paper` holds; `benchmarks/critical.py --check` has all families."""
    try:
        train = nz.datasets.load("mnist").train
    except nz.InputError as error:
        pytest.skip(f"MNIST can't be had here: {error}")
    kept = nz.Study.open(KEPT).curve(activation, family).isel(run=0)
    levels = nz.make_family(family, nz.Conduct()).levels
    np.testing.assert_allclose(kept.level, levels, rtol=1e-12)
    found = nz.critical_levels(
        networks[activation], train.pixels, family=family, low=levels[0], high=levels[-1]
    )
    difference = np.abs(found.accuracy(levels, train.labels) - kept.values) * len(train)
    assert difference.sum() < 3.5, "examples, decided by the rounding of float32"
