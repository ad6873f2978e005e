"""Nulls are nulls: what the proofs of docs/validation.md rest on."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

import nearzero as nz
from nearzero.analysis.verdict import costs, judge
from nearzero.mechanisms.planted import Task, distance_network, prototype_task, template_network
from nearzero.mechanisms.studies import (
    as_responses,
    chance_labels,
    dealt,
    measure_study,
    one_family,
    resampled,
    shifted,
)

FAMILIES = ("signed_shift", "gains", "cap")
DESIGN = nz.Design(families=FAMILIES, draws=1, checks=())
SMALL = nz.Design(draws=1, targets=(0.3, 0.5))


@pytest.fixture(scope="module")
def task() -> Task:
    return prototype_task(np.random.default_rng(0), strength=6.0, examples=300)


@pytest.fixture(scope="module")
def networks(task: Task) -> list[nz.TwoLayer]:
    return [template_network(task, np.random.default_rng([1, run])) for run in range(6)]


@pytest.fixture(scope="module")
def measured(task: Task, networks: list[nz.TwoLayer]) -> xr.Dataset:
    return measure_study(task, networks, DESIGN)


def test_costs_and_back(measured: xr.Dataset) -> None:
    found = costs(measured)
    again = as_responses(found, measured.unperturbed_accuracy)
    xr.testing.assert_allclose(costs(again), found, rtol=0, atol=1e-10)
    first, second = judge(measured), judge(again)
    assert {each.n for each in first.comparisons} == {6}
    assert [each.finding for each in first.comparisons] == [each.finding for each in second.comparisons]
    for one, other in zip(first.comparisons, second.comparisons, strict=True):
        assert one.difference == pytest.approx(other.difference, abs=1e-10, nan_ok=True)


# --- dealt --------------------------------------------------------------------------------------------------


def made_up(runs: int, seed: int = 0) -> xr.DataArray:
    values = np.random.default_rng(seed).gamma(1.0, 5.0, (1, runs, 3, 4))
    coordinates = {"network": ["abs"], "family": list(FAMILIES)}
    return xr.DataArray(values, coordinates, ("network", "run", "family", "target"))


def test_dealing_swaps_whole_families_within_a_run() -> None:
    before = made_up(40)
    after = dealt(before, np.random.default_rng(1))
    seen = set()
    for run in range(40):
        old, new = before.values[0, run], after.values[0, run]
        order = next(each for each in permutations(range(3)) if (old[list(each)] == new).all())
        seen.add(order)
    assert len(seen) == 6
    assert after.dims == before.dims
    assert list(after.family.values) == list(FAMILIES)


def test_dealt_differences_are_as_often_positive_as_negative() -> None:
    """Though distance costs more in every run before."""
    before = made_up(4000)
    before.loc[{"family": "signed_shift"}] += 100.0
    after = dealt(before, np.random.default_rng(2))
    for name in ("gains", "cap"):
        difference = (after.sel(family="signed_shift") - after.sel(family=name)).values[0]
        positive = (difference > 0).mean(axis=0)
        np.testing.assert_allclose(positive, 0.5, atol=4 * 0.5 / np.sqrt(4000))
        quantiles = np.quantile(difference[:, 0], [0.1, 0.3, 0.5, 0.7, 0.9])
        np.testing.assert_allclose(
            quantiles, -quantiles[::-1], atol=4.0
        )  # of differences around -100, 0, 100


def test_dealing_takes_along_what_isnt_reached() -> None:
    before = made_up(50)
    before.values[:, :, 2, 3] = np.nan
    after = dealt(before, np.random.default_rng(3))
    missing = np.isnan(after.values[0, :, :, 3])
    assert (missing.sum(axis=1) == 1).all()
    assert missing.any(axis=0).all()
    assert not np.isnan(after.values[0, :, :, :3]).any()


# --- one family ---------------------------------------------------------------------------------------------


def test_one_family_is_measured_three_times(task: Task, networks: list[nz.TwoLayer]) -> None:
    found = costs(one_family(task, networks[:2], np.random.default_rng(4), design=SMALL))
    seeds = np.random.default_rng(4).integers(2**31, size=(2, 3))
    for run in range(2):
        for role, seed in zip(FAMILIES, seeds[run], strict=True):
            design = nz.Design(families=("gains",), draws=1, targets=SMALL.targets, seed=int(seed), checks=())
            alone = costs(measure_study(task, [networks[run]], design)).sel(family="gains")
            np.testing.assert_allclose(found.sel(family=role)[0, run], alone[0, 0], atol=1e-10)


def test_one_family_favours_no_role(task: Task) -> None:
    differences = []
    for study in range(3):
        generator = np.random.default_rng([5, study])
        own = [template_network(task, generator) for _ in range(6)]
        found = costs(one_family(task, own, generator, design=SMALL)).sel(target=0.5)
        differences.append((found.sel(family="signed_shift") - found.sel(family="gains")).values.ravel())
    values = np.concatenate(differences)
    assert np.abs(values).max() > 1.0  # there's something to find, were it not a null
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    assert 0.2 < (values > 0).mean() < 0.8


def test_common_draws_are_common(task: Task, networks: list[nz.TwoLayer]) -> None:
    twice = [networks[0]] * 2
    own, common = (
        costs(one_family(task, twice, np.random.default_rng(6), design=SMALL, common=common)).values[0]
        for common in (False, True)
    )
    np.testing.assert_array_equal(common[0], common[1])
    assert (own[0] != own[1]).any()


# --- a mean difference of an exact size ---------------------------------------------------------------------


def by_hand(pool: xr.DataArray) -> np.ndarray:
    """The mean differences of the comparisons, (target, intensity)."""
    values = pool.transpose("run", "target", "family").values
    return np.nanmean(values[..., :1] - values[..., 1:], axis=0)


@pytest.mark.parametrize("difference", [0.0, 1.0, -1.0])
def test_a_pool_is_shifted_to_the_difference_and_keeps_its_shape(difference: float) -> None:
    before = made_up(40).isel(network=0)
    before.values[3, 2, 1] = np.nan  # the cap of one run doesn't reach a displacement
    after = shifted(before, difference)
    np.testing.assert_allclose(by_hand(after), difference, atol=1e-12)
    assert list(after.family.values) == list(FAMILIES)
    np.testing.assert_array_equal(after.sel(family="signed_shift"), before.sel(family="signed_shift"))
    moved = (after - before).values
    np.testing.assert_allclose(np.nanstd(moved, axis=0), 0.0, atol=1e-12)  # by one constant in all runs
    assert np.isnan(moved).sum() == 1


def test_the_families_that_are_shifted_are_those_of_the_rules() -> None:
    before = made_up(30).isel(network=0)
    rules = nz.Rules(distance=("cap",), intensity=("gains",))
    after = shifted(before, 2.0, rules)
    difference = after.sel(family="cap") - after.sel(family="gains")
    np.testing.assert_allclose(difference.mean("run"), 2.0, atol=1e-12)
    np.testing.assert_array_equal(after.sel(family="signed_shift"), before.sel(family="signed_shift"))


def test_runs_are_drawn_whole_with_replacement_and_equally_often() -> None:
    pool = made_up(5).isel(network=0)
    drawn = resampled(pool, np.random.default_rng(9), 5000).transpose("run", "family", "target").values
    same = (drawn[:, None] == pool.values[None]).all(axis=(2, 3))
    assert (same.sum(axis=1) == 1).all()
    assert stats.chisquare(same.sum(axis=0)).pvalue > 0.001


# --- labels by chance ---------------------------------------------------------------------------------------


def test_labels_by_chance_leave_nothing_to_lose(task: Task) -> None:
    networks = [distance_network(task, np.random.default_rng([7, run])) for run in range(12)]
    labels = chance_labels(task, 12, np.random.default_rng(8))
    assert len({each.tobytes() for each in labels}) == 12
    found = measure_study(task, networks, DESIGN, labels=labels)
    sampling = np.sqrt(0.2 * 0.8 / (150 * 12))
    assert abs(float(found.unperturbed_accuracy.mean()) - 0.2) < 4 * sampling
    assert float(np.abs(costs(found).mean("run")).max()) < 100 * 4 * np.sqrt(2) * sampling
