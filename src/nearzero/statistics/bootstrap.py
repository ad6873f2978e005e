"""The crossed bootstrap: intervals for new runs and new examples.

All R runs are measured on the same N examples, so the R x N values aren't independent: a hard example is hard
for all runs. The crossed bootstrap keeps this dependence: it resamples runs and examples independently of
each other, with one resample of examples for all runs. t intervals over runs with the data fixed answer a
narrower question; they are in `summaries`. Each result here says to which population it applies.

The bootstrap variance counts the interaction of run and example three times (Owen 2007). If there is no other
variance, intervals are up to sqrt(3) times too wide. The error is on the safe side, and vanishes if R and N
are large and runs or examples have a main effect.

`benchmarks/intervals.py` simulates how often these intervals hold the truth; docs/intervals.md has the
table. In short: with five runs use the t interval, because the percentile interval is too narrow. With about
one wrong example in a run, the same one in all runs, neither interval reaches its confidence.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from nearzero.errors import InputError, did_you_mean
from nearzero.statistics.differences import rounding_tolerance
from nearzero.statistics.summaries import FEWER_THAN_TWO_RUNS, NO_VARIANCE, check_confidence
from nearzero.support.words import number_of

__all__ = [
    "CrossedBootstrap",
    "Population",
    "bootstrap_items",
    "bootstrap_means",
    "check_draws",
    "crossed_bootstrap",
]

Floats = NDArray[np.float64]
Population = Literal["new runs and new examples", "new runs, data fixed"]
BLOCK = 1 << 21  # indices drawn at once, so that memory doesn't grow with the number of resamples
MEANS = 1 << 23  # means of resamples at once, so that memory doesn't grow with the number of levels


@dataclass(frozen=True)
class CrossedBootstrap:
    """A mean over runs and examples, and two intervals of it.

    Attributes:
        population: to what the intervals generalise: "new runs and new examples" or "new runs, data fixed".
        runs, examples: R and N, the numbers that were resampled.
        left_out: number of runs without a finite value, which diverged.
        mean: over runs and examples, in the unit of the values; NaN without runs.
        confidence: of both intervals.
        resamples: number of resamples.
        standard_error: of the mean, corrected for few runs.
        df: degrees of freedom of the t interval.
        t_low, t_high: ends of the t interval, mean +- t(df) * standard_error.
        percentile_low, percentile_high: ends of the percentile interval, quantiles of the resampled means.
        reason: why there is no interval: `FEWER_THAN_TWO_RUNS`, "fewer than two examples" or `NO_VARIANCE`;
            else empty. If it isn't empty, the six attributes from `standard_error` to `percentile_high` are
            None.
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
    reason: str = ""


def crossed_bootstrap(
    first: ArrayLike,
    second: ArrayLike | None = None,
    *,
    rng: np.random.Generator,
    population: Population = "new runs and new examples",
    resamples: int = 2000,
    confidence: float = 0.95,
) -> CrossedBootstrap:
    """Estimate intervals of the mean of first - second over runs and examples, by the crossed (pigeonhole) bootstrap.

    A resample has R runs, drawn with replacement, and, independently, N examples, one draw of examples for
    all runs. With x = first - second, and w_r and v_n the numbers of times that run r and example n were
    drawn, its mean is sum over r, n of w_r v_n x_rn / (R N). With the data fixed every v_n is 1. The
    percentile interval is made of quantiles of these means; the t interval is mean +- t(df) * se, see
    `_standard_error`. The head of this module says how often these intervals hold the truth.

    Args:
        first: shape `(R, N)`, runs by examples: 1 for correct and 0 for wrong, a cost, or any other number. A
            run without any finite value diverged and is left out.
        second: the same runs and examples, shape `(R, N)`; None if `first` already holds differences.
        rng: a NumPy generator, `numpy.random.default_rng(seed)`.
        population: to what the intervals generalise: "new runs and new examples" or "new runs, data fixed".
        resamples: at least 100.
        confidence: strictly between 0 and 1.

    Raises:
        InputError: a shape, the population, `rng`, the number of resamples or the confidence is wrong, or a
            run has values for some examples only.

    Source: Owen (2007), The pigeonhole bootstrap, Annals of Applied Statistics 1; McCullagh (2000),
    Resampling and exchangeable arrays, Bernoulli 6.

    Example:
        >>> import numpy as np
        >>> from nearzero.statistics.bootstrap import crossed_bootstrap
        >>> correct = np.array([[1, 1, 0, 1], [1, 1, 0, 0], [1, 0, 0, 1]])  # 3 runs on the same 4 examples
        >>> both = crossed_bootstrap(correct, rng=np.random.default_rng(0))
        >>> round(both.mean, 4), bool(both.t_low < both.mean < both.t_high)
        (0.5833, True)
        >>> fixed = crossed_bootstrap(correct, rng=np.random.default_rng(0), population="new runs, data fixed")
        >>> bool(fixed.standard_error < both.standard_error)  # the third example is wrong in all runs
        True
    """
    check_draws(rng, confidence, resamples, "a bootstrap takes at least 100 resamples, better 2,000")
    if population not in (populations := get_args(Population)):
        choices = " or ".join(f'"{choice}"' for choice in populations)
        hint = did_you_mean(population, populations)
        raise InputError(f"the population is {choices}; {hint}it was {population!r}")
    values, left_out, tolerance = _matrix(first, second)
    runs, examples = values.shape
    centre = float(values.mean()) if values.size else float("nan")
    common = CrossedBootstrap(population, runs, examples, left_out, centre, confidence, resamples)
    if reason := _reason(values, population, tolerance):
        return replace(common, reason=reason)
    means = bootstrap_means(values, rng=rng, population=population, resamples=resamples)
    standard_error, df = _standard_error(values, float(means.var(ddof=1)), population)
    half = float(special.stdtrit(df, (1.0 + confidence) / 2.0)) * standard_error
    low, high = np.quantile(means, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return replace(
        common,
        standard_error=standard_error,
        df=df,
        t_low=centre - half,
        t_high=centre + half,
        percentile_low=float(low),
        percentile_high=float(high),
    )


def bootstrap_means(
    values: Floats, *, rng: np.random.Generator, population: Population, resamples: int
) -> Floats:
    """Return the means of resamples of values `(R, N)`, shape `(resamples,)`; see `crossed_bootstrap`."""
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
        run_counts = _draw_counts(rng, size, runs)
        example_counts = np.ones((size, 1)) if fixed else _draw_counts(rng, size, examples)
        total = np.einsum("br,br->b", run_counts, example_counts @ shifted)
        means[start : start + size] = centre + total / (runs * examples)
    return means


def bootstrap_items(
    values: NDArray[np.floating],
    owners: NDArray[np.integer],
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Floats:
    """Return percentile intervals of means over items whose examples are resampled, (2, L).

    All items of an example are resampled together; a resample's mean is over its items.

    Args:
        values: (L, n), the values of n items at L levels.
        owners: (n,), the example of each item.
        rng: draws the resamples, which all levels share.
        confidence: of the intervals.
        resamples: the number of resamples.

    Raises:
        InputError: a confidence that isn't between 0 and 1, or fewer than 100 resamples.
    """
    check_draws(rng, confidence, resamples, "resamples must be at least 100")
    examples, places = np.unique(owners, return_inverse=True)
    counts = np.bincount(places).astype(np.float64)
    block = max(1, MEANS // resamples)
    ends, state = np.empty((2, len(values))), rng.bit_generator.state
    for first in range(0, len(values), block):
        rng.bit_generator.state = state
        own = values[first : first + block].astype(np.float64)
        totals = np.empty((len(examples), len(own)))
        for column, row in enumerate(own):
            totals[:, column] = np.bincount(places, row, len(examples))
        means = _resampled_means(totals, counts, rng, resamples)
        ends[:, first : first + block] = np.quantile(
            means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0
        )
    return ends


def _resampled_means(totals: Floats, counts: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    """Return the means of resamples of examples, (resamples, L), from their totals (N, L) and numbers of items (N,)."""
    rows = max(1, BLOCK // len(counts))
    means = np.empty((resamples, totals.shape[1]))
    for start in range(0, resamples, rows):
        drawn = _draw_counts(rng, min(rows, resamples - start), len(counts))
        means[start : start + len(drawn)] = (drawn @ totals) / (drawn @ counts)[:, None]
    return means


def _draw_counts(rng: np.random.Generator, rows: int, size: int) -> Floats:
    """Draw `size` of `size` indices with replacement, `rows` times; count each index, shape `(rows, size)`."""
    drawn = rng.integers(size, size=(rows, size))
    drawn += np.arange(rows)[:, None] * size
    return np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def _reason(values: Floats, population: Population, tolerance: float) -> str:
    """Return why values `(R, N)` can't be resampled; empty if they can."""
    runs, examples = values.shape
    fixed = population == "new runs, data fixed"
    if runs < 2:
        return FEWER_THAN_TWO_RUNS
    if examples < 2 and not fixed:
        return "fewer than two examples"
    resampled = values.mean(axis=1) if fixed else values
    return NO_VARIANCE if float(np.ptp(resampled)) <= tolerance else ""


def _standard_error(values: Floats, variance: float, population: Population) -> tuple[float, float]:
    """Return the standard error of the mean and its degrees of freedom, from the variance of the resampled means.

    se^2 = variance + A / R + B / N, with A = (variance of the runs' means) / R, B = (variance of the
    examples' means) / N, ddof 1. The two terms that are added make up for the factors (R - 1) / R and (N - 1)
    / N by which resampling understates A and B. df = (A + B)^2 / (A^2 / (R - 1) + B^2 / (N - 1)), after
    Satterthwaite. With the data fixed B is 0, so that se is sd / sqrt(R) up to the randomness of resampling,
    and df = R - 1.
    """
    runs, examples = values.shape
    a, b = float(values.mean(axis=1).var(ddof=1)) / runs, 0.0
    if population == "new runs and new examples":
        b = float(values.mean(axis=0).var(ddof=1)) / examples
    standard_error = float(np.sqrt(variance + a / runs + b / examples))
    if a + b == 0.0:  # interaction only; df can't be smaller than this
        return standard_error, float(min(runs, examples) - 1)
    share = a / (a + b)
    return standard_error, 1.0 / (share**2 / (runs - 1) + (1.0 - share) ** 2 / max(examples - 1, 1))


def _matrix(first: ArrayLike, second: ArrayLike | None) -> tuple[Floats, int, float]:
    """Return first - second of the runs with values, `(n, N)`, the number of other runs, and the rounding tolerance."""
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
            f"{number_of(partly, 'run')} with a value for some examples and not for others: leave these examples out "
            "of all runs"
        )
    a, b = a[kept], b[kept]
    values = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return values, int((~kept).sum()), rounding_tolerance(a, b)


def check_draws(rng: object, confidence: float, draws: int, message: str) -> None:
    """Raise InputError if `rng` isn't a NumPy generator, the confidence is out of range, or draws < 100 (`message`)."""
    if not isinstance(rng, np.random.Generator):
        raise InputError(
            f"rng is a NumPy Generator, such as numpy.random.default_rng(0); it was {type(rng).__name__}"
        )
    check_confidence(confidence)
    if draws < 100:
        raise InputError(f"{message}; it was {draws}")
