"""The crossed bootstrap: what would be found with new runs, and with new examples.

Every run is measured on the same examples, so neither the R x N numbers nor the N differences of an example
are independent: an example that is hard is hard for all runs. Resampling runs and examples each on its own,
and one resample of examples for all runs, keeps that. t intervals over runs with the data fixed answer a
narrower question and live in `summaries`; each result here says which population it is about.

The bootstrap's variance counts the interaction of run and example three times (Owen 2007): where that is all
the variance there is, intervals are up to sqrt(3) too wide. That errs to the safe side, and is nothing where R
and N are large and either main effect exists.

How often these intervals cover the truth is simulated by `benchmarks/intervals.py`; docs/instrument.md has its table.
In short: with five runs take the t interval, as the percentile interval is too narrow; with about one wrong example in
a run, the same in all runs, neither has what it claims.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from nearzero.errors import InputError
from nearzero.statistics.differences import rounding_tolerance
from nearzero.statistics.summaries import FEWER_THAN_TWO_RUNS, NO_VARIANCE, check_confidence

__all__ = ["CrossedBootstrap", "Population", "bootstrap_means", "check_draws", "crossed_bootstrap"]

Floats = NDArray[np.float64]
Population = Literal["new runs and new examples", "new runs, data fixed"]
BLOCK = 1 << 21  # draws at a time, so that memory doesn't grow with the number of resamples


@dataclass(frozen=True)
class CrossedBootstrap:
    """A mean over runs and examples, and two intervals of it.

    Attributes:
        population: what the intervals are about: "new runs and new examples" or "new runs, data fixed".
        runs, examples: R and N that were resampled.
        left_out: runs without a finite value, which diverged.
        mean: over runs and examples, in the unit of the values; NaN where there is no run.
        standard_error: of the mean, corrected for few runs; None where `words` say why there is none.
        df: degrees of freedom of the t interval; None where `words` say why.
        t_low, t_high: ends of mean +- t(df) * standard_error; None where `words` say why.
        percentile_low, percentile_high: quantiles of the resampled means; None where `words` say why.
        confidence: of both intervals.
        resamples: how many there were.
        words: empty, or `FEWER_THAN_TWO_RUNS`, "fewer than two examples" or `NO_VARIANCE`.
    """

    population: Population
    runs: int
    examples: int
    left_out: int
    mean: float
    confidence: float
    resamples: int
    standard_error: float | None = None
    df: float | None = None
    t_low: float | None = None
    t_high: float | None = None
    percentile_low: float | None = None
    percentile_high: float | None = None
    words: str = ""


def crossed_bootstrap(
    first: ArrayLike,
    second: ArrayLike | None = None,
    *,
    rng: np.random.Generator,
    population: Population = "new runs and new examples",
    resamples: int = 2000,
    confidence: float = 0.95,
) -> CrossedBootstrap:
    """Intervals of the mean of first - second over runs and examples, by the crossed (pigeonhole) bootstrap.

    A resample has R runs drawn with replacement and, independently, N examples, one draw of examples for all
    runs. With w_r and v_n the times that each was drawn, its mean is sum over r, n of w_r v_n x_rn / (R N).
    With the data fixed every v_n is 1. Percentile interval: quantiles of these means. t interval:
    mean +- t(df) * se; see `_error`. How well they cover is said at the head of this module.

    Args:
        first: shape `(R, N)`, runs by examples: correct or not, a cost, any number. A run without a finite
            value diverged and is left out.
        second: the same runs and examples, shape `(R, N)`; None where `first` holds differences already.
        rng: `numpy.random.default_rng(seed)`.
        population: see above.
        resamples: at least 100.
        confidence: strictly between 0 and 1.

    Raises:
        InputError: where a shape, the population, `rng`, the resamples or the confidence is wrong, or a run
            has a value for some examples only.

    Source: Owen (2007), The pigeonhole bootstrap, Annals of Applied Statistics 1; McCullagh (2000).
    """
    check_draws(rng, confidence, resamples, "a bootstrap takes at least 100 resamples, better 2,000")
    if population not in (kinds := get_args(Population)):
        words = " or ".join(f'"{kind}"' for kind in kinds)
        raise InputError(f"the population is {words}; it was {population!r}")
    values, left_out, tolerance = _matrix(first, second)
    runs, examples = values.shape
    centre = float(values.mean()) if values.size else float("nan")
    common = CrossedBootstrap(population, runs, examples, left_out, centre, confidence, resamples)
    if words := _words(values, population, tolerance):
        return replace(common, words=words)
    means = bootstrap_means(values, rng=rng, population=population, resamples=resamples)
    error, df = _error(values, float(means.var(ddof=1)), population)
    half = float(special.stdtrit(df, (1.0 + confidence) / 2.0)) * error
    low, high = np.quantile(means, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return replace(
        common,
        standard_error=error,
        df=df,
        t_low=centre - half,
        t_high=centre + half,
        percentile_low=float(low),
        percentile_high=float(high),
    )


def bootstrap_means(
    values: Floats, *, rng: np.random.Generator, population: Population, resamples: int
) -> Floats:
    """Means of `resamples` resamples of values `(R, N)`, shape `(resamples,)`; see `crossed_bootstrap`."""
    runs, examples = values.shape
    centre = values.mean()
    shifted = np.ascontiguousarray((values - centre).T)
    fixed = population == "new runs, data fixed"
    if fixed:
        shifted, examples = shifted.mean(axis=0, keepdims=True), 1
    rows = max(1, BLOCK // max(runs, examples))
    means = np.empty(resamples)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        by_run = _times_drawn(rng, size, runs)
        by_example = np.ones((size, 1)) if fixed else _times_drawn(rng, size, examples)
        total = np.einsum("br,br->b", by_run, by_example @ shifted)
        means[start : start + size] = centre + total / (runs * examples)
    return means


def _times_drawn(rng: np.random.Generator, rows: int, of: int) -> Floats:
    """How often each of `of` things was drawn in `of` draws with replacement, shape `(rows, of)`."""
    drawn = rng.integers(of, size=(rows, of))
    drawn += np.arange(rows)[:, None] * of
    return np.bincount(drawn.ravel(), minlength=rows * of).reshape(rows, of).astype(np.float64)


def _words(values: Floats, population: Population, tolerance: float) -> str:
    """Why there is nothing to resample; empty where there is."""
    runs, examples = values.shape
    fixed = population == "new runs, data fixed"
    if runs < 2:
        return FEWER_THAN_TWO_RUNS
    if examples < 2 and not fixed:
        return "fewer than two examples"
    spread = values.mean(axis=1) if fixed else values
    return NO_VARIANCE if float(np.ptp(spread)) <= tolerance else ""


def _error(values: Floats, variance: float, population: Population) -> tuple[float, float]:
    """Standard error of the mean and its degrees of freedom, from the variance of the resampled means.

    se^2 = variance + A / R + B / N, with A = (variance of the runs' means) / R, B = (variance of the examples'
    means) / N, ddof 1: what is added makes up for the factors (R - 1) / R and (N - 1) / N by which resampling
    understates A and B. df = (A + B)^2 / (A^2 / (R - 1) + B^2 / (N - 1)), after Satterthwaite. With the data
    fixed B is 0, so that se is sd / sqrt(R) up to the randomness of resampling, and df = R - 1.
    """
    runs, examples = values.shape
    a, b = float(values.mean(axis=1).var(ddof=1)) / runs, 0.0
    if population == "new runs and new examples":
        b = float(values.mean(axis=0).var(ddof=1)) / examples
    error = float(np.sqrt(variance + a / runs + b / examples))
    if a + b == 0.0:  # nothing but interaction: the least there could be
        return error, float(min(runs, examples) - 1)
    share = a / (a + b)
    return error, 1.0 / (share**2 / (runs - 1) + (1.0 - share) ** 2 / max(examples - 1, 1))


def _matrix(first: ArrayLike, second: ArrayLike | None) -> tuple[Floats, int, float]:
    """Differences of the runs that have a value, `(n, N)`, how many have none, and what is but rounding."""
    a = np.asarray(first)
    b = np.zeros_like(a) if second is None else np.asarray(second)
    if a.ndim != 2 or a.shape != b.shape:
        raise InputError(
            f"the crossed bootstrap takes runs by examples, shape (R, N); it saw {a.shape} and {b.shape}: "
            "give one value per run and example, all runs on the same examples"
        )
    present = np.isfinite(a) & np.isfinite(b)
    kept = present.any(axis=1)
    if not present[kept].all():
        partly = int((kept & ~present.all(axis=1)).sum())
        raise InputError(
            f"{partly} runs have a value for some examples and not for others: leave these examples out of all runs"
        )
    a, b = a[kept], b[kept]
    values = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return values, int((~kept).sum()), rounding_tolerance(a, b)


def check_draws(rng: object, confidence: float, draws: int, words: str) -> None:
    """Refuse what isn't a generator, a confidence that can't be, and fewer than 100 draws, with these words."""
    if not isinstance(rng, np.random.Generator):
        raise InputError(
            f"rng is a NumPy Generator, such as numpy.random.default_rng(0); it was {type(rng).__name__}"
        )
    check_confidence(confidence)
    if draws < 100:
        raise InputError(f"{words}; it was {draws}")
