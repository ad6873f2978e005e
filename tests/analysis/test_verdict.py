"""The rules of the verdict, on costs made by hand, and what it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

import nearzero as nz
from nearzero.analysis.verdict import costs, gathered, judge
from nearzero.analysis.verdict.sources import BLOCK
from nearzero.evaluators.base import EARLIER_HALVES, HALVES
from nearzero.networks import initial_stack
from nearzero.statistics.ratios import ratio_of_means

TARGETS = (0.1, 0.3)
RULES = nz.Rules(targets=TARGETS)


def responses(
    distance: np.ndarray, gains: np.ndarray, cap: np.ndarray, *, networks: tuple[str, ...] = ("relu",)
) -> xr.Dataset:
    """Costs in points, (R, T) each, as the accuracies of one network or several alike."""
    runs = len(distance)
    accuracy = np.full((len(networks), runs, 4, 2, len(TARGETS)), np.nan)
    accuracy[:, :, 0, 1] = 0.99 - distance / 100
    accuracy[:, :, 3, 0] = 0.99 - (distance - 0.5) / 100  # the two sides differ, their mean is the cost
    accuracy[:, :, 3, 1] = 0.99 - (distance + 0.5) / 100
    accuracy[:, :, 1, 1] = 0.99 - gains / 100
    accuracy[:, :, 2, 0] = 0.99 - cap / 100
    return xr.Dataset(
        {
            "accuracy": (("network", "run", "family", "side", "target"), accuracy),
            "unperturbed_accuracy": (("network", "run"), np.full((len(networks), runs), 0.99)),
        },
        {
            "network": list(networks),
            "family": ["signed_shift", "gains", "cap", "shift"],
            "side": ["below", "above"],
            "target": list(TARGETS),
        },
    )


def around(mean: float, spread: float, runs: int, seed: int) -> np.ndarray:
    """(R, T) with exactly that mean and standard deviation."""
    x = np.random.default_rng(seed).normal(size=(runs, len(TARGETS)))
    return mean + spread * (x - x.mean(axis=0)) / x.std(axis=0, ddof=1)


@pytest.mark.parametrize(
    ("distance", "gains", "cap", "expected"),
    [
        (5.0, 2.0, 2.0, "distance costs more"),
        (2.0, 5.0, 5.0, "intensity costs more"),
        (3.0, 2.8, 3.3, "equivalent"),
        (0.3, 0.2, 0.4, "no effect"),
        (5.0, 2.0, 8.0, "mixed"),
    ],
)
def test_the_findings(distance: float, gains: float, cap: float, expected: str) -> None:
    found = judge(
        responses(*(around(each, 0.3, 10, seed) for seed, each in enumerate((distance, gains, cap)))), RULES
    )
    assert found.of("relu").startswith(expected)
    if expected != "mixed":
        assert {each.finding for each in found.comparisons} == {expected}


def test_a_wide_spread_is_inconclusive() -> None:
    found = judge(responses(around(5.0, 8.0, 8, 0), around(3.0, 8.0, 8, 1), around(3.0, 8.0, 8, 2)), RULES)
    assert {each.finding for each in found.comparisons} == {"inconclusive"}
    assert found.of("relu").startswith("inconclusive")


def test_equivalence_takes_precedence_over_a_small_difference_that_is_significant() -> None:
    found = judge(responses(around(3.6, 0.1, 10, 0), around(3.0, 0.1, 10, 1), around(3.0, 0.1, 10, 2)), RULES)
    for each in found.comparisons:
        assert each.p_sign_flip is not None
        assert each.p_sign_flip < 0.01
        assert (each.p, each.finding) == (1.0, "equivalent")


def test_a_difference_within_the_margin_is_never_more() -> None:
    """D = 0.98 points with an interval that reaches beyond 1: neither equivalent nor more."""
    found = judge(
        responses(around(3.98, 0.1, 10, 0), around(3.0, 0.1, 10, 1), around(3.0, 0.1, 10, 2)), RULES
    )
    assert {each.finding for each in found.comparisons} == {"inconclusive"}


def test_the_numbers_are_those_of_scipy_and_statsmodels() -> None:
    distance, gains, cap = around(4.0, 1.0, 9, 3), around(3.2, 1.5, 9, 4), around(3.9, 0.5, 9, 5)
    found = judge(responses(distance, gains, cap), RULES)
    tested = []
    for each in found.comparisons:
        column = TARGETS.index(each.target)
        other = (gains if each.intensity == "gains" else cap)[:, column]
        d = distance[:, column] - other
        assert each.difference == pytest.approx(d.mean(), abs=1e-10)
        interval = stats.t.interval(0.9, 8, d.mean(), stats.sem(d))
        assert (each.low, each.high) == pytest.approx(interval, abs=1e-9)
        inside = ttost_paired(distance[:, column], other, -1.0, 1.0)[0] < 0.05
        assert (each.finding == "equivalent") == inside
        above, below = (
            stats.ttest_1samp(d, sign, alternative=side).pvalue
            for sign, side in ((1, "greater"), (-1, "less"))
        )
        tested.append(min(1.0, 2 * min(above, below)))
        assert each.p == pytest.approx(tested[-1], rel=1e-8)
        flips = stats.permutation_test(
            (d,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
        ).pvalue
        assert each.p_sign_flip == pytest.approx(flips, rel=1e-9)
    adjusted = multipletests(tested, method="holm")[1]
    assert [each.p_adjusted for each in found.comparisons] == pytest.approx(list(adjusted), rel=1e-8)


def test_holm_is_over_the_networks_of_a_model() -> None:
    """Another network changes nothing; another layer of the same model does; a joint adjustment is given beside."""
    made = responses(
        around(6.0, 1.0, 9, 3), around(3.0, 1.5, 9, 4), around(3.9, 0.5, 9, 5), networks=("abs", "relu")
    )
    alone = judge(made.sel(network=["relu"]), RULES).comparisons
    together = judge(made, RULES)
    layers = judge(made.assign_coords(model=("network", ["m", "m"])), RULES)
    for table in (together, layers):
        own = [row for row in table.comparisons if row.network == "relu"]
        assert [row.p_alone for row in own] == [row.p_adjusted for row in alone]
        joint = multipletests([row.p for row in table.comparisons], method="holm")[1]
        assert [row.p_joint for row in table.comparisons] == pytest.approx(list(joint), rel=1e-10)
    assert [row.p_adjusted for row in together.comparisons] == [row.p_alone for row in together.comparisons]
    assert [row.p_adjusted for row in layers.comparisons] == [row.p_joint for row in layers.comparisons]
    assert min(row.p_adjusted for row in layers.comparisons) > min(row.p_alone for row in layers.comparisons)
    assert "Holm within each of 2 models" in together.text()
    assert "Holm over 8 tests" in layers.text()


def test_a_difference_at_the_margin_is_found_by_the_earlier_test_alone() -> None:
    """D = 1.06 with a small spread: surely not 0, and surely not beyond the margin."""
    made = responses(around(4.06, 0.1, 20, 0), around(3.0, 0.1, 20, 1), around(3.0, 0.1, 20, 2))
    earlier = nz.Rules(targets=TARGETS, test="difference")
    assert {row.finding for row in judge(made, earlier).comparisons} == {"distance costs more"}
    assert {row.finding for row in judge(made, RULES).comparisons} == {"inconclusive"}


def test_a_small_spread_alone_makes_no_direction() -> None:
    """D = 1.2 in six runs that hardly differ: sd counts as a quarter of the margin, so t = 0.2 sqrt(6) / 0.25."""
    made = responses(around(4.2, 0.01, 6, 0), around(3.0, 0.01, 6, 1), around(3.0, 0.01, 6, 2))
    p = 2 * stats.t.sf(0.2 * np.sqrt(6) / 0.25, 5)
    for row in judge(made, RULES).comparisons:
        assert (row.p, row.finding) == (pytest.approx(p, rel=1e-6), "inconclusive")


def test_no_effect_asks_for_the_bounds_of_both_costs() -> None:
    """Mean costs of 0.8 and 0.2: with a wide spread the first may exceed the margin, and D is then tested."""
    for spread, finding in ((0.1, "no effect"), (1.0, "inconclusive")):
        made = responses(around(0.8, spread, 10, 0), around(0.2, 0.1, 10, 1), around(0.2, 0.1, 10, 2))
        assert {row.finding for row in judge(made, RULES).comparisons} == {finding}


def with_checks(made: xr.Dataset, **costs: tuple[float, float, float]) -> xr.Dataset:
    """Add checks with given costs of distance, gains and cap, each with a small spread."""
    runs = made.sizes["run"]
    parts = [
        responses(*(around(cost, 0.1, runs, seed) for seed, cost in enumerate(own))) for own in costs.values()
    ]
    checked = xr.concat([part.accuracy for part in parts], "check").transpose("network", "run", ...)
    whole = xr.concat([part.unperturbed_accuracy for part in parts], "check").transpose("network", "run", ...)
    return made.assign(
        checked_accuracy=checked,
        unperturbed_checked_accuracy=whole,
        checked=("family", np.full(made.sizes["family"], True)),
    ).assign_coords(check=list(costs))


@pytest.mark.parametrize(
    ("costs", "outcome", "phrase"),
    [
        ((6.0, 2.0, 2.0), "holds", "robust"),
        ((2.0, 6.0, 6.0), "turns", "changes with held-out data"),
        ((6.0, 2.0, 10.0), "turns", "changes with held-out data"),  # both directions
        ((3.0, 3.0, 3.0), "undecided", "undecided by held-out data"),
    ],
)
def test_a_check_holds_turns_or_is_undecided(
    costs: tuple[float, float, float], outcome: str, phrase: str
) -> None:
    made = responses(around(5.0, 0.3, 10, 0), around(2.0, 0.3, 10, 1), around(2.0, 0.3, 10, 2))
    found = judge(with_checks(made, held_out=costs), nz.Rules(targets=TARGETS, checks=("held_out",)))
    (result,) = found.checked("relu")
    assert (result.check, result.outcome) == ("held_out", outcome)
    assert found.robustness("relu") == phrase
    assert found.of("relu").endswith(f"; {phrase}")
    for row in found.checks["held_out"]:
        intensity = costs[1] if row.intensity == "gains" else costs[2]
        assert (row.distance_cost, row.difference) == pytest.approx((costs[0], costs[0] - intensity))


def test_robust_needs_all_checks_and_a_check_that_wasnt_measured_is_named() -> None:
    made = responses(around(5.0, 0.3, 10, 0), around(2.0, 0.3, 10, 1), around(2.0, 0.3, 10, 2))
    made = with_checks(made, whitened=(6.0, 2.0, 2.0), held_out=(2.0, 6.0, 6.0))
    made["centred_accuracy"] = made.accuracy
    found = judge(made, RULES)
    assert [result.outcome for result in found.checked("relu")] == ["holds", "not measured", "holds", "turns"]
    assert found.robustness("relu") == "changes with held-out data; not measured: centred logit change"
    other = judge(made.assign(checked=("family", [True, True, False, False])), RULES)
    assert {result.outcome for result in other.checked("relu") if result.check != "centred_accuracy"} == {
        "not measured"
    }
    none = judge(responses(*(around(3.0, 0.1, 10, seed) for seed in range(3))), RULES)
    assert (none.finding("relu"), none.checked("relu"), none.robustness("relu")) == ("equivalent", (), "")


def test_relative_costs_are_ratios_over_the_same_runs() -> None:
    distance, gains, cap = around(4.0, 1.0, 9, 3), around(2.0, 0.3, 9, 4), around(8.0, 0.5, 9, 5)
    found = judge(responses(distance, gains, cap), RULES).relative_costs
    assert [(row.intensity, row.target) for row in found] == [
        ("gains", 0.1),
        ("cap", 0.1),
        ("gains", 0.3),
        ("cap", 0.3),
    ]
    for row in found:
        column, own = TARGETS.index(row.target), gains if row.intensity == "gains" else cap
        expected = ratio_of_means(own[:, column], distance[:, column])
        assert (row.ratio.ratio, row.ratio.low, row.ratio.high) == pytest.approx(
            (expected.ratio, expected.low, expected.high), rel=1e-9
        )
    flat = judge(responses(around(0.0, 1.0, 9, 3), gains, cap), RULES).relative_costs
    assert {row.ratio.reason for row in flat} == {"the denominator's interval contains 0"}


def test_fewer_than_six_runs_are_described() -> None:
    found = judge(
        responses(*(around(each, 0.1, 5, seed) for seed, each in enumerate((9.0, 1.0, 1.0)))), RULES
    )
    for each in found.comparisons:
        assert each.finding == "description only"
        assert each.p is each.p_adjusted is None
        assert each.difference == pytest.approx(8.0)
        assert each.words == "5 runs, fewer than 6"
    assert found.of("relu").startswith("description only")


def test_equal_differences_are_degenerate() -> None:
    """No variance: t has no answer. By the earlier test, eight equal signs have the exact p = 2 / 2^8."""
    same = [np.full((8, 2), each) for each in (6.0, 2.0, 6.0)]
    found = judge(responses(*same), RULES)
    assert {(row.finding, row.p, row.p_adjusted) for row in found.comparisons} == {("degenerate", None, None)}
    assert found.finding("relu") == "degenerate"
    earlier = judge(responses(*same), nz.Rules(targets=TARGETS, test="difference"))
    gains, cap = earlier.comparisons[0], earlier.comparisons[1]
    assert (gains.finding, gains.words, gains.p) == ("distance costs more", "all differences equal", 2 / 2**8)
    assert (cap.finding, cap.p) == ("equivalent", 1.0)


def test_what_isnt_reached_is_said() -> None:
    made = responses(*(around(each, 0.3, 8, 0) for each in (5.0, 2.0, 2.0)))
    made.accuracy.loc[{"family": "cap", "target": 0.3}] = np.nan
    made.accuracy.loc[{"family": "signed_shift", "target": 0.1, "run": 0}] = np.nan
    found = judge(made, RULES)
    (lost,) = (each for each in found.comparisons if each.finding == "not reached")
    assert (lost.intensity, lost.target, lost.n, lost.words) == ("cap", 0.3, 0, "cap doesn't reach it")
    assert {each.n for each in found.comparisons if each.target == 0.1} == {7}


def test_scale_never_decides_where_it_is_flat_by_construction() -> None:
    made = responses(*(around(each, 0.3, 8, seed) for seed, each in enumerate((5.0, 0.0, 2.0))))
    made = made.assign_coords(family=["signed_shift", "scale", "cap", "shift"])
    made.accuracy.loc[{"family": "scale", "side": "below"}] = made.accuracy.sel(family="scale", side="above")
    rules = nz.Rules(intensity=("scale", "cap"), targets=TARGETS)
    found = judge(made, rules)
    assert {each.intensity for each in found.comparisons} == {"cap"}
    assert "flat by construction" in found.text()
    assert set(rules.changed) == {"intensity", "targets"}
    assert "aren't the default ones: intensity, targets" in found.text()
    gelu = judge(made.assign_coords(network=["gelu"]), rules)
    assert {each.intensity for each in gelu.comparisons} == {"scale", "cap"}


def test_scale_decides_where_more_than_a_linear_map_follows() -> None:
    """Biases and other layers after an inner layer make argmax(W2 a + b2 / s) wrong, whatever its activation is."""
    made = responses(*(around(each, 0.3, 8, seed) for seed, each in enumerate((5.0, 0.0, 2.0))))
    made = made.assign_coords(family=["signed_shift", "scale", "cap", "shift"])
    rules = nz.Rules(intensity=("scale", "cap"), targets=TARGETS)
    alone = made.isel(network=[0]).assign_coords(activation=("network", ["relu"]))
    both = xr.concat([alone, alone], "network").assign_coords(network=["inner", "last"])
    grid = both.assign_coords(layer=("network", [1, 2]), model=("network", ["deep", "deep"]))
    assert set(judge(grid, rules).left_out) == {"last"}
    own = grid.assign_coords(
        layers=("network", [2, 2])
    )  # other things may follow the last of a user's layers
    assert judge(own, rules).left_out == {}
    assert judge(alone.assign_attrs(backend="model"), rules).left_out == {}
    assert set(judge(alone.assign_attrs(backend="two-layer"), rules).left_out) == {"relu"}
    probed = both.assign(backend=("network", ["model", "two-layer"]))
    assert set(judge(probed, rules).left_out) == {"last"}


def test_runs_are_gathered_block_by_block() -> None:
    """The values and attributes of all runs at once, with variables that some lack, and lost runs."""
    runs: list[xr.Dataset | None] = [
        xr.Dataset(
            {"cost": ("target", [number, 0.5])}, {"target": [0.1, 0.2]}, {"seed": number, "halves": "a"}
        )
        for number in range(BLOCK + 1)
    ]
    runs[3], runs[5] = None, runs[5].assign(not_finite=1.0, reason="dead")  # type: ignore[union-attr]
    runs[6] = runs[6].assign(reason="")  # type: ignore[union-attr]
    whole = gathered([runs, runs], ["relu", "abs"])
    assert whole.attrs == {"halves": "a"}  # the last block has one run, which agrees with itself on the seed
    assert dict(whole.sizes) == {"network": 2, "run": BLOCK + 1, "target": 2}
    expected = [np.nan if number == 3 else number for number in range(BLOCK + 1)]
    np.testing.assert_array_equal(whole.cost.sel(network="abs", target=0.1), expected)
    assert np.flatnonzero(whole.not_finite.sel(network="relu") == 1).tolist() == [5]
    assert whole.reason.sel(network="abs").values[5] == "dead"


def test_costs_need_both_sides() -> None:
    made = responses(*(around(each, 0.3, 8, 0) for each in (5.0, 2.0, 3.0)))
    np.testing.assert_allclose(costs(made).sel(family="shift").mean("run").values, [[5.0, 5.0]])
    made.accuracy.loc[{"family": "shift", "side": "above"}] = np.nan
    assert costs(made).sel(family="shift").isnull().all()
    with pytest.raises(nz.InputError, match="no centred_accuracy; without labels there is agreement alone"):
        costs(made, "centred_accuracy")
    with pytest.raises(nz.InputError, match="unknown measure 'accuracies': did you mean 'accuracy'"):
        costs(made, "accuracies")  # type: ignore[arg-type]
    with pytest.raises(nz.InputError, match="no verdict on network 'rely': did you mean 'relu'"):
        judge(responses(*(around(each, 0.3, 8, 0) for each in (5.0, 2.0, 3.0))), RULES).of("rely")


def test_what_a_verdict_takes(trained: dict[str, nz.TwoLayer], mnist_5k: nz.datasets.Dataset) -> None:
    """Results of `nz.matched`, one for each run, in a list; a single one is described."""
    data = mnist_5k.test
    design = nz.Design(families=("signed_shift", "gains", "cap"), targets=TARGETS, draws=1)
    one = nz.matched(trained["relu"], data.pixels, data.labels, design=design)
    found = nz.verdict([one] * 6, RULES)
    assert found.networks == ("relu",)
    assert {each.n for each in found.comparisons} == {6}
    assert nz.verdict(one, RULES).of("relu").startswith("description only")
    other = nz.matched(
        trained["relu"],
        data.pixels,
        data.labels,
        design=nz.Design(families=("signed_shift",), targets=TARGETS),
    )
    with pytest.raises(nz.InputError, match="the runs don't fit together: family is"):
        nz.verdict([one, other])
    with pytest.raises(nz.InputError, match="at least one run; got none"):
        nz.verdict([])
    with pytest.raises(nz.InputError, match=r"as nz\.matched gives them; got int"):
        nz.verdict(3)  # type: ignore[arg-type]
    with pytest.raises(nz.InputError, match=r"the rules ask for target 0\.05, which wasn't measured"):
        nz.verdict(one)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": ()}, "distance must name families"),
        ({"distance": "shift"}, "distance must name families, as a tuple, at least one; got 'shift'"),
        (
            {"intensity": ("loudness",)},
            "intensity must name families; 'loudness' isn't one: known are offset",
        ),
        ({"intensity": ("gain",)}, "'gain' isn't one: did you mean 'gains'"),
        ({"measure": "acuracy"}, "unknown measure 'acuracy': did you mean 'accuracy'"),
        ({"distance": ("gains",)}, "a family is either distance or intensity"),
        ({"targets": (0.0,)}, "targets must be positive displacements"),
        (
            {"targets": (0.1,) * 101},
            "this would give 101 labels on the dimension target; a result has at most",
        ),
        ({"margin": 0.0}, "margin must be a positive number of percentage points"),
        ({"alpha": 0.7}, "alpha must lie between 0 and 0.5"),
        ({"minimum_runs": 5}, "minimum_runs must be at least 6"),
        ({"checks": ("heldout",)}, "'heldout' isn't one: did you mean 'held_out'"),
        ({"test": "t"}, "test must be|unknown test"),
    ],
)
def test_rules_that_cant_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(nz.InputError, match=message):
        nz.Rules(**change)  # type: ignore[arg-type]


def test_kept_results_say_by_which_rule_their_halves_were_cut(
    digits: nz.datasets.Dataset, tmp_path: Path
) -> None:
    results = Path(__file__).parents[2] / "results"
    grid = nz.Grid.open(results / "grids" / "width")
    assert "halves" not in grid.verdict().text()
    assert "halves" not in nz.Study.open(results / "paper").verdict().text()
    for name in ("grid.toml", "provenance.json"):
        (tmp_path / name).write_bytes((results / "grids" / "width" / name).read_bytes())
    responses = xr.load_dataset(results / "grids" / "width" / "responses.nc", engine="h5netcdf")
    del responses.attrs["halves"]  # as in the files of earlier versions
    responses.to_netcdf(tmp_path / "responses.nc", engine="h5netcdf")
    assert f"cut {EARLIER_HALVES}" in nz.Grid.open(tmp_path).verdict().text()
    network = initial_stack([0], "relu", inputs=64, units=8, classes=10)[0]
    fresh = nz.matched(network, digits.test.pixels, digits.test.labels)
    assert fresh.attrs["halves"] == HALVES
    assert "halves" not in nz.verdict(fresh).text()


def test_degenerate_runs_are_rows_with_words() -> None:
    """A dead run is left out of the costs and named in the row; responses without reasons have no such words."""
    design = nz.Design(families=("signed_shift", "gains", "cap"), targets=(0.1,), draws=1)
    x, y = np.random.default_rng(0).uniform(0.5, 3.0, (40, 2)), [0, 1] * 20
    alive = nz.TwoLayer(np.eye(2), np.zeros(2), np.eye(2), np.zeros(2), "relu")
    dead = nz.TwoLayer(-np.eye(2), np.zeros(2), np.eye(2), np.array([0.0, 1.0]), "relu")
    runs = [nz.matched(network, x, y, design=design) for network in (alive, dead, alive)]
    rules = nz.Rules(targets=(0.1,))
    row, other = nz.verdict(runs, rules).comparisons
    reason = "all pairs equal"
    assert (row.n, other.n) == (2, 2)
    assert row.finding == other.finding == "degenerate"  # twice the same run
    assert row.words.split("; ") == [reason, "1 of 3 runs: no unit is live"]
    row, _ = nz.verdict([dead_run := runs[1], dead_run], rules).comparisons
    assert (row.n, row.finding) == (0, "not reached")
    assert row.words == "distance and gains doesn't reach it; 2 of 2 runs: no unit is live"
    row, _ = nz.verdict([run.drop_vars("reason") for run in runs], rules).comparisons
    assert row.words == reason
