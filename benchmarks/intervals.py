"""The coverage of intervals in simulated studies of 5 and of 20 runs, also near 100 % accuracy.

    python benchmarks/intervals.py [--studies 1000]

Prints the table of docs/intervals.md: for each interval and each simulation, the share of studies whose
interval contains the truth, and in brackets the exact binomial (Clopper-Pearson) 95 % interval of that share.
If there is a reason instead of an interval, the truth counts as missed. This takes some minutes on two cores.
--studies is the number of studies for bands and bootstraps; for t intervals there are twenty times as many.
Seeds are fixed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from nearzero.statistics.bands import simultaneous_band
from nearzero.statistics.bootstrap import Population, crossed_bootstrap
from nearzero.statistics.summaries import t_interval

RUNS = (5, 20)
CHEAP = 20  # factor of the number of studies for intervals that are fast to compute
LEVELS, REACH = 40, 5.0  # of simulated curves: the number of levels, and the length of correlation in levels
EXAMPLES = 500
CROSSED = ("crossed, t", "crossed, percentile")

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]
Rows = Callable[[np.random.Generator, int], Floats]
Covered = Callable[[np.random.Generator, int, int], tuple[int, ...]]


@dataclass(frozen=True)
class Case:
    """A simulation of studies, and a function that counts those in which each interval covers the truth."""

    intervals: tuple[str, ...]
    simulated: str
    nominal: float
    covered: Covered
    cheap: bool = False

    def measure(self, runs: int, studies: int, seed: int = 0) -> tuple[tuple[int, ...], int]:
        """Return the number of studies in which each interval covers the truth, and the number of studies."""
        studies *= CHEAP if self.cheap else 1
        return self.covered(np.random.default_rng([seed, runs]), runs, studies), studies


def clopper_pearson(hits: int, studies: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact binomial interval of a share."""
    interval = stats.binomtest(hits, studies).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return rng.standard_normal(shape)


def wrong(mean: float) -> Draw:
    """Return a draw of the wrong examples of runs, minus their mean: binomial."""
    return lambda rng, shape: rng.binomial(EXAMPLES, mean / EXAMPLES, shape) - mean


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Draw error rates minus their mean: lognormal; one run in forty has over seven times the median."""
    return rng.lognormal(0.0, 1.0, shape) - np.exp(0.5)


def by_t(draw: Draw, confidence: float) -> Covered:
    """Return the coverage of t intervals of the mean over runs, data fixed; the truth is 0."""

    def covered(rng: np.random.Generator, runs: int, studies: int) -> tuple[int, ...]:
        low, high = t_interval(draw(rng, (studies, runs)), confidence)
        return (int(((low <= 0) & (high >= 0)).sum()),)

    return covered


def curves(rng: np.random.Generator, runs: int) -> Floats:
    """Draw smooth normal curves with mean 0, (R, L)."""
    distance = np.subtract.outer(np.arange(LEVELS), np.arange(LEVELS))
    root = np.linalg.cholesky(np.exp(-0.5 * (distance / REACH) ** 2) + 1e-6 * np.eye(LEVELS))
    return rng.standard_normal((runs, LEVELS)) @ root.T


def accuracies(rng: np.random.Generator, runs: int) -> Floats:
    """Draw accuracy curves minus their mean, (R, L).

    Two examples of 500 are wrong at the first level, half of all at the last. Each example of a run is wrong
    from a random level on, like a critical level.
    """
    share = np.geomspace(2 / EXAMPLES, 0.5, LEVELS)
    first = np.searchsorted(share, rng.random((runs, EXAMPLES)))
    counts = np.stack([np.bincount(levels, minlength=LEVELS + 1)[:LEVELS] for levels in first])
    return share - np.cumsum(counts, axis=1) / EXAMPLES


def by_band(draw: Rows, draws: int = 1000) -> Covered:
    """Return the coverage of simultaneous bands of the whole mean curve."""

    def covered(rng: np.random.Generator, runs: int, studies: int) -> tuple[int, ...]:
        hits = 0
        for _ in range(studies):
            band = simultaneous_band(draw(rng, runs), rng=rng, draws=draws)
            hits += bool(((band.low <= 1e-12) & (band.high >= -1e-12)).all())
        return (hits,)

    return covered


def crossed(of_runs: float, of_examples: float, noise: float) -> Rows:
    """Return a draw, (R, 100), of normal effects of runs, examples and both, by standard deviations."""
    return lambda rng, runs: (
        of_runs * rng.standard_normal((runs, 1))
        + of_examples * rng.standard_normal(100)
        + noise * rng.standard_normal((runs, 100))
    )


def marks(mean: float, correlation: float = 0.0) -> Rows:
    """Return a draw of wrong (1) or right (0), minus the mean, (R, 500); any two runs are correlated.

    An example's chance of being wrong has a beta distribution a, b, for which the correlation is 1 / (a + b +
    1).
    """
    share = mean / EXAMPLES

    def draw(rng: np.random.Generator, runs: int) -> Floats:
        total = 1 / correlation - 1 if correlation else 0.0
        chance = rng.beta(total * share, total * (1 - share), EXAMPLES) if correlation else share
        return (rng.random((runs, EXAMPLES)) < chance) - share

    return draw


def by_bootstrap(
    draw: Rows, population: Population = "new runs and new examples", resamples: int = 500
) -> Covered:
    """Return the coverage of the crossed bootstrap's t and percentile intervals of the mean."""

    def covered(rng: np.random.Generator, runs: int, studies: int) -> tuple[int, ...]:
        hits = np.zeros(2, int)
        for _ in range(studies):
            found = crossed_bootstrap(draw(rng, runs), rng=rng, population=population, resamples=resamples)
            if not found.reason:
                hits += found.t_low <= 0 <= found.t_high, found.percentile_low <= 0 <= found.percentile_high
        return tuple(hits.tolist())

    return covered


def all_cases() -> list[Case]:
    over_runs = {
        "normal": normal,
        "10 of 500 wrong in a run": wrong(10),
        "1 of 500 wrong in a run": wrong(1),
        "1 of 500 wrong in ten runs": wrong(0.1),
        "skewed: lognormal error rates": skewed,
    }
    over_both = {
        "runs and examples matter alike": crossed(1.0, 1.0, 3.0),
        "runs matter most": crossed(1.0, 0.1, 1.0),
        "examples matter most": crossed(0.1, 1.0, 1.0),
        "nothing but their interaction": crossed(0.0, 0.0, 1.0),
        "10 of 500 wrong in a run": marks(10),
        "1 of 500 wrong in a run": marks(1),
        "10 of 500 wrong, mostly the same in all runs": marks(10, 0.9),
        "1 of 500 wrong, mostly the same in all runs": marks(1, 0.9),
    }
    fixed = by_bootstrap(crossed(1.0, 0.0, 0.0), "new runs, data fixed")
    return [
        *(Case(("t",), name, 0.95, by_t(draw, 0.95), cheap=True) for name, draw in over_runs.items()),
        *(Case(("TOST's",), name, 0.90, by_t(draw, 0.90), cheap=True) for name, draw in over_runs.items()),
        Case(("band",), "smooth normal curves", 0.95, by_band(curves)),
        Case(("band",), "accuracies, 99.6 to 50 %", 0.95, by_band(accuracies)),
        *(Case(CROSSED, name, 0.95, by_bootstrap(draw)) for name, draw in over_both.items()),
        Case(("data fixed, t", "data fixed, percentile"), "normal", 0.95, fixed),
    ]


def cell(hits: int, studies: int) -> str:
    low, high = clopper_pearson(hits, studies)
    return f"{100 * hits / studies:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies (1000)")
    studies = parser.parse_args().studies
    print("| interval | simulated | nominal % |", *(f"{runs} runs, % |" for runs in RUNS))
    print("| --- | --- | --- | --- | --- |")
    for case in all_cases():
        measured = [case.measure(runs, studies) for runs in RUNS]
        for place, interval in enumerate(case.intervals):
            cells = " | ".join(cell(hits[place], of) for hits, of in measured)
            print(f"| {interval} | {case.simulated} | {100 * case.nominal:.0f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
