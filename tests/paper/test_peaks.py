import numpy as np
import pytest
from scipy import integrate
from scipy.stats import norm

from nearzero.errors import InputError
from nearzero.paper.peaks import FIGURE_2, FIGURE_3, FivePeaks, PeakUnit

UNITS = (*FIGURE_2, *FIGURE_3, PeakUnit("relu", home=0.1, offset=0.13), PeakUnit("abs", home=0.37))
MEANS = np.array([-3.0, -1.0, 0.0, 2.0, 4.0])


def names(unit: PeakUnit) -> str:
    return f"{unit.activation}, boundary {unit.boundary:g}"


def test_the_mixture_is_scipys() -> None:
    z = np.linspace(-5, 6, 50)
    peaks = FivePeaks()
    expected = 0.2 * norm.pdf(z[None], MEANS[:, None], 0.2)
    np.testing.assert_allclose(peaks.densities(z), expected, rtol=1e-10)
    np.testing.assert_allclose(peaks.masses_below(0.5), 0.2 * norm.cdf(0.5, MEANS, 0.2), rtol=1e-10)


@pytest.mark.parametrize("unit", UNITS, ids=names)
def test_every_peak_keeps_its_mass(unit: PeakUnit) -> None:
    a = np.linspace(0.0, 8.0, 16_001)
    mass = integrate.simpson(unit.densities(a), x=a, axis=-1) + unit.masses_at_zero()
    np.testing.assert_allclose(mass, 0.2, atol=1e-9)


@pytest.mark.parametrize("unit", UNITS, ids=names)
def test_it_is_what_sampling_finds(unit: PeakUnit) -> None:
    """Shares of samples in bins against the integral over the bins, within 5 standard errors."""
    random, size = np.random.default_rng(1), 400_000
    y = random.choice(MEANS, size) + 0.2 * random.normal(size=size) - unit.boundary
    a = np.maximum(y, 0.0) if unit.activation == "relu" else np.abs(y)
    assert np.mean(a == 0.0) == pytest.approx(unit.masses_at_zero().sum(), abs=5 * 0.5 / np.sqrt(size))
    edges = np.linspace(0.0, 6.0, 25)
    shares = np.histogram(a[a > 0], edges)[0] / size
    for low, high, share in zip(edges, edges[1:], shares, strict=False):
        mass = integrate.quad(lambda x: float(unit.densities([x]).sum()), low, high)[0]
        assert share == pytest.approx(mass, abs=5 * np.sqrt(max(mass, 1e-5) / size))


def test_the_story_of_figure_2() -> None:
    relu, absolute = FIGURE_2
    np.testing.assert_allclose(relu.masses_at_zero(), [0.2, 0.2, 0.2 * norm.cdf(2.5), 0, 0], atol=1e-9)
    assert not absolute.masses_at_zero().any()
    at_zero = absolute.densities([0.0])[:, 0]
    assert at_zero.argmax() == 2
    assert at_zero[2] == pytest.approx(2 * 0.2 * norm.pdf(0) / 0.2, rel=1e-12)


def test_the_story_of_figure_3() -> None:
    left_relu, right_relu, left_abs, right_abs = FIGURE_3
    assert [unit.boundary for unit in FIGURE_3] == [-0.5, 1.5, -1.0, 1.0]
    assert (left_relu.masses_at_zero() > 0.19).tolist() == [True, True, False, False, False]
    assert (right_relu.masses_at_zero() > 0.19).tolist() == [True, True, True, False, False]
    assert left_abs.densities([0.0])[:, 0].argmax() == 1
    tie = right_abs.densities([1.0])[:, 0]
    assert tie[2] == pytest.approx(tie[3], rel=1e-12)
    assert right_abs.densities([0.0]).sum() < 1e-3


def test_a_positive_offset_and_level_move_the_boundary_to_the_left() -> None:
    unit = PeakUnit("relu", home=0.5, offset=1.0)
    assert (unit.boundary, unit.range, unit.level) == (-0.5, 3.5, 1 / 3.5)
    z = np.array([-1.0, 0.0, 1.0])
    np.testing.assert_allclose(z - unit.home + unit.level * unit.range, z - unit.boundary)
    assert PeakUnit("abs", home=0.0, offset=-1.0).level == -0.25


def test_nothing_lies_below_zero() -> None:
    for unit in UNITS:
        assert not unit.densities([-1e-9, -1.0]).any()


def test_other_activations_are_refused() -> None:
    with pytest.raises(InputError, match=r"has 'relu' and 'abs' units; did you mean 'relu'\? got 'gelu'"):
        PeakUnit("gelu", home=0.0)  # type: ignore[arg-type]
