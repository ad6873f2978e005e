import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from nearzero.errors import InputError
from nearzero.statistics import EffectSize, effect_size


def sample(n: int, d_z: float) -> np.ndarray:
    """n numbers with the standard deviation 1 and the mean d_z."""
    values = np.random.default_rng(n).normal(size=n)
    return (values - values.mean()) / values.std(ddof=1) + d_z


def test_by_hand() -> None:
    """1, 2, 3: mean 2, sd 1; J(2) = G(1) / G(1 / 2) = 1 / sqrt(pi)."""
    found = effect_size([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (found.n, found.mean_difference, found.confidence, found.words) == (3, 2.0, 0.95, "")
    assert found.d_z == pytest.approx(2.0, rel=1e-14)
    assert found.g_z == pytest.approx(2.0 / math.sqrt(math.pi), rel=1e-13)


def test_published_values() -> None:
    """Hedges' (1981) table: J(10) = 0.9228, J(19) = 0.9599. Kelley's MBESS: t = 2.83 with 126 degrees."""
    for df, correction in ((10, 0.9228), (19, 0.9599)):
        found = effect_size(sample(df + 1, 1.0))
        assert found.g_z == pytest.approx(correction, abs=1e-4)
    found = effect_size(sample(127, 2.83 / math.sqrt(127)))
    assert found.low is not None
    assert found.high is not None
    assert found.low * math.sqrt(127) == pytest.approx(0.8337502, abs=1e-6)
    assert found.high * math.sqrt(127) == pytest.approx(4.815359, abs=1e-6)


def noncentral_t(t: float, df: int, nc: float) -> float:
    """P(T <= t), T = (Z + nc) / V, for t > 0: the integral of P(V >= (z + nc) / t) over the normal Z."""
    return float(
        integrate.quad(
            lambda z: stats.norm.pdf(z) * special.chdtrc(df, df * (max(z + nc, 0.0) / t) ** 2),
            -9.0, 9.0, points=[max(min(-nc, 8.9), -8.9)], epsabs=1e-13, epsrel=1e-11, limit=500,
        )[0]
    )  # fmt: skip


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(
    ("n", "d_z"), [(3, 0.5), (5, 3.0), (3, 21.44192580278687), (20, 0.01), (20, 1.2), (20, 40.0), (6, 500.0)]
)
def test_the_interval_is_where_the_noncentral_t_has_its_tails(n: int, d_z: float, confidence: float) -> None:
    found = effect_size(sample(n, d_z), confidence=confidence)
    assert found.low is not None
    assert found.high is not None
    t, tail = d_z * math.sqrt(n), (1 - confidence) / 2
    for end, p in ((found.low, 1 - tail), (found.high, tail)):
        assert stats.nct.cdf(t, n - 1, end * math.sqrt(n)) == pytest.approx(p, abs=1e-9)
        assert noncentral_t(t, n - 1, end * math.sqrt(n)) == pytest.approx(p, abs=1e-8)
    back = effect_size(-sample(n, d_z), confidence=confidence)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low), rel=1e-9)


def test_at_the_edge_of_significance_the_interval_touches_zero() -> None:
    t = stats.t.isf(0.025, 9)
    found = effect_size(sample(10, t / math.sqrt(10)))
    assert found.low == pytest.approx(0.0, abs=1e-9)


def test_no_effect_has_the_normal_distributions_interval() -> None:
    found = effect_size([-1.0, 0.0, 1.0])
    assert found.high == pytest.approx(special.ndtri(0.975) / math.sqrt(3), rel=1e-12)
    assert found.low == pytest.approx(-special.ndtri(0.975) / math.sqrt(3), rel=1e-12)


@pytest.mark.parametrize("n", [3, 20])
def test_an_effect_beyond_scipys_reach_has_its_limit(n: int) -> None:
    below, above = (effect_size(sample(n, t / math.sqrt(n))) for t in (99.9, 100.1))
    for attribute in ("d_z", "g_z", "low", "high"):
        ratio = getattr(above, attribute) / getattr(below, attribute)
        assert ratio == pytest.approx(100.1 / 99.9, rel=2e-5)
    huge = effect_size(sample(n, 1e7))
    assert huge.low is not None
    assert huge.high is not None
    assert huge.low / 1e7 == pytest.approx(math.sqrt(stats.chi2.ppf(0.025, n - 1) / (n - 1)), rel=1e-6)
    assert huge.high / 1e7 == pytest.approx(math.sqrt(stats.chi2.ppf(0.975, n - 1) / (n - 1)), rel=1e-6)


def test_the_interval_covers_and_the_correction_removes_the_bias() -> None:
    """Normal differences with d_z = 0.8: 95 % of 2,000 intervals, within four binomial errors, and the mean g_z."""
    random, n, studies = np.random.default_rng(8), 6, 600
    found = [effect_size(random.normal(0.8, 1.0, n)) for _ in range(studies)]
    covered = np.mean([each.low <= 0.8 <= each.high for each in found])
    assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / studies))
    g, d = (np.array([getattr(each, name) for each in found]) for name in ("g_z", "d_z"))
    error = g.std() / math.sqrt(studies)
    assert g.mean() == pytest.approx(0.8, abs=4 * error)
    assert d.mean() > 0.8 + 4 * error


def test_degenerate_cases_have_words() -> None:
    assert effect_size([0.5, 1.0]) == EffectSize(
        2, 0.75, None, None, None, None, 0.95, "fewer than three runs"
    )
    for values, words in (
        ([], "fewer than three runs"),
        ([0.0] * 4, "all pairs equal"),
        ([0.1] * 4, "all differences equal"),
    ):
        found = effect_size(values)
        assert (found.d_z, found.g_z, found.low, found.high, found.words) == (None, None, None, None, words)
    assert effect_size([1.0, math.nan, 2.0, 4.0]) == effect_size([1.0, 2.0, 4.0])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, math.nan])
def test_confidence_is_a_fraction(confidence: float) -> None:
    with pytest.raises(InputError, match=r"confidence lies strictly between 0 and 1, .* it was "):
        effect_size([1.0, 2.0, 4.0], confidence=confidence)
