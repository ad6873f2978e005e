"""Displacements by hand and by direct computation; levels that give them; noise; the whitened measure."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

import nearzero as nz
from nearzero.analysis.displacement import (
    TARGETS,
    Displacements,
    UndefinedSizeError,
    Whitening,
    displacement,
    match,
)
from nearzero.evaluators.two_layer import TwoLayerEvaluator
from nearzero.perturbations.noise import Noise


def test_by_hand() -> None:
    """||a|| = 5 and 0 and 0; changes of length 5, 0 and 3: d = sqrt(34 / 25)."""
    a = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    b = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 3.0]])
    assert displacement(a, b) == pytest.approx(np.sqrt(34 / 25), rel=1e-15)
    live = np.array([True, False])
    assert displacement(a, b, live) == 1.0
    assert np.isnan(displacement(np.zeros((2, 2)), np.ones((2, 2))))
    with pytest.raises(nz.InputError, match=r"two arrays \(examples, units\) of one shape; got \(3, 2\)"):
        displacement(a, b[:2])


def directly(hidden: nz.HiddenLayer, perturbation: nz.Perturbation, live: np.ndarray) -> float:
    """d by its definition, in float64."""
    act, z = hidden.network.act, hidden.z.astype(np.float64)
    a = np.asarray(act(z))
    changed = act(perturbation(z)) if perturbation.side == "pre" else perturbation(a)
    return float(np.sqrt(((changed - a)[:, live] ** 2).sum() / (a[:, live] ** 2).sum()))


@pytest.mark.parametrize("name", ["abs", "relu", "leaky_relu", "gelu"])
def test_matched_levels_give_the_displacement(
    name: str, trained: dict[str, nz.TwoLayer], mnist_5k: nz.datasets.Dataset
) -> None:
    """To 1e-3 relative, for every family and side, and no level nearer to the identity gives it."""
    evaluator = TwoLayerEvaluator.of(trained[name], mnist_5k.train.pixels)
    hidden, ranges = evaluator.hidden, evaluator.ranges
    sizes = Displacements(evaluator, ranges)
    conduct = nz.Conduct.default([name])
    reached = 0
    for family in (nz.make_family(each, conduct) for each in nz.FAMILIES):
        for side, (begin, _) in family.sides.items():
            for target, found in zip(TARGETS, sizes.match(family, side), strict=True):
                if not found.reached:
                    continue
                reached += 1
                d = directly(hidden, family.at(found.level, ranges), ranges.live)
                assert d == pytest.approx(target, rel=1e-3)
                assert found.displacement == pytest.approx(d, rel=1e-4)
                between = begin + (found.level - begin) * np.array([0.25, 0.5, 0.75, 0.98])
                nearer = sizes.of([family.at(level, ranges) for level in between])
                assert (nearer < target).all()
    assert reached >= 60


def test_changes_are_those_of_the_definition_and_not_of_the_threads(
    trained: dict[str, nz.TwoLayer], mnist_5k: nz.datasets.Dataset
) -> None:
    """An odd number of examples, so that the last block is filled up with others that mustn't count."""
    pixels = mnist_5k.train.pixels[:1003]
    one, many, little = (
        nz.HiddenLayer(trained["abs"], pixels, threads=threads, memory=memory)
        for threads, memory in ((1, None), (3, None), (2, "16 MB"))
    )
    some = [
        nz.make_family(name, nz.Conduct()).at(0.3, one.ranges) for name in ("shift", "gains", "cap", "scale")
    ]
    squares, sums = one.changes(some)
    for other in (many, little):
        np.testing.assert_array_equal(other.changes(some), (squares, sums))
    z = one.z.astype(np.float64)
    for each, square, total in zip(some, squares, sums, strict=True):
        change = (np.abs(each(z)) if each.side == "pre" else each(np.abs(z))) - np.abs(z)
        np.testing.assert_allclose(square, (change**2).sum(axis=0), rtol=1e-4)
        np.testing.assert_allclose(total, change.sum(axis=0), rtol=1e-3, atol=1e-3 * np.abs(change).sum())


def test_the_first_level_that_gives_a_size_is_found() -> None:
    """A size that rises to 1 and falls again: the level on the rising side; beyond 1 none."""
    found = match(lambda p: np.sin(np.asarray(p)), 0.0, 3.0, [0.5, 0.9, 1.5])
    assert found[0].level == pytest.approx(np.pi / 6, rel=2e-4)
    assert found[1].level == pytest.approx(np.arcsin(0.9), rel=2e-4)
    assert not found[2].reached
    with pytest.raises(nz.InputError, match=r"positive numbers, 0\.1 for 10 %; got"):
        match(np.sin, 0.0, 1.0, [0.0])


def test_a_side_that_begins_with_a_leap_reaches_nothing_below_it() -> None:
    found = match(lambda p: 0.2 + np.asarray(p), 0.0, 1.0, [0.1, 0.2, 0.5])
    assert [each.reached for each in found] == [False, False, True]


def test_refusals(trained: dict[str, nz.TwoLayer], mnist_5k: nz.datasets.Dataset) -> None:
    evaluator = TwoLayerEvaluator.of(trained["relu"], mnist_5k.test.pixels)
    sizes = Displacements(evaluator, evaluator.ranges)
    with pytest.raises(nz.InputError, match="cap has no side 'above': it has below"):
        sizes.match(nz.Cap(), "above")
    with pytest.raises(nz.InputError, match="offset has no identity level"):
        sizes.match(nz.Offset("as-written"), "below")
    silent = nz.TwoLayer(np.zeros((3, 784)), -np.ones(3), np.ones((2, 3)), np.zeros(2), "relu")
    nothing = TwoLayerEvaluator.of(silent, mnist_5k.test.pixels)
    with pytest.raises(nz.InputError, match="activations of all live units are 0"):
        Displacements(nothing, nothing.ranges)


def test_whitening_is_the_metric_of_the_ledoit_wolf_covariance(rng: np.random.Generator) -> None:
    a = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) + 3.0
    changed = a + 0.1 * rng.normal(size=a.shape)
    live = np.array([True, True, False, True, True, True])
    changed[:, 2] = a[:, 2]
    inverse = np.linalg.inv(LedoitWolf().fit(a[:, live]).covariance_)
    energies = [
        np.einsum("nu,uv,nv->", x, inverse, x) for x in ((changed - a)[:, live], (a - a.mean(0))[:, live])
    ]
    measure = Whitening.of(a, live)
    found = np.sqrt(np.square((changed - a) @ measure.root_of_all).sum() / len(a) / measure.energy)
    assert found == pytest.approx(np.sqrt(energies[0] / energies[1]), rel=1e-6)


@pytest.mark.parametrize(
    ("a", "live"),
    [
        (np.array([[1.0, 1.0], [2.0, 2.0]]), [True, True]),  # two rows: the estimate doesn't shrink
        (np.full((4, 2), 3.0), [True, True]),
        (np.array([[1e-42, 0.0], [0.0, 1e-43], [0.0, 0.0]]), [True, True]),  # float32 can't hold the inverse
        (np.arange(6.0).reshape(3, 2), [False, False]),
    ],
)
def test_a_covariance_that_cant_be_inverted_is_refused(a: np.ndarray, live: list[bool]) -> None:
    with pytest.raises(UndefinedSizeError, match=r"can't be inverted|needs a live unit"):
        Whitening.of(a, np.array(live))


def test_noise_has_its_covariance_and_leaves_dead_units_alone(rng: np.random.Generator) -> None:
    z = rng.normal(size=(4000, 5)) @ rng.normal(size=(5, 5))
    live = np.array([True, True, False, True, True])
    variances = z[:, live].var(axis=0)
    isotropic, shaped = (
        Noise.of(shape, z, live, seed=3).draw(np.arange(200_000)) for shape in ("noise", "covariance_noise")
    )
    for drawn in (isotropic, shaped):
        assert not drawn[:, 2].any()
    np.testing.assert_allclose(
        np.cov(isotropic[:, live].T), variances.mean() * np.eye(4), atol=0.05 * variances.mean()
    )
    expected = np.cov(z[:, live].T, ddof=0)
    np.testing.assert_allclose(np.cov(shaped[:, live].T), expected, atol=0.03 * np.abs(expected).max())
    noise = Noise.of("noise", z, live, 1)
    drawn = noise.draw(np.arange(10))
    np.testing.assert_array_equal(noise.draw(np.array([7, 2])), drawn[[7, 2]])  # an example has its own
    two_rows_each = noise.draw(np.repeat([3, 5], 2))
    np.testing.assert_array_equal(two_rows_each[::2], drawn[[3, 5]])
    assert len(np.unique(np.concatenate([drawn, two_rows_each[1::2]])[:, 0])) == 12
    assert not np.array_equal(drawn, Noise.of("noise", z, live, 2).draw(np.arange(10)))
    with pytest.raises(nz.InputError, match="noise is one of noise, covariance_noise; got 'pink'"):
        Noise.of("pink", z, live)  # type: ignore[arg-type]
