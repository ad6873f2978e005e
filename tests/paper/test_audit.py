"""The audit of the paper: what is measured, against plain arithmetic; what follows, against SciPy and by hand."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from commands import run
from numpy.typing import NDArray
from scipy import stats

import nearzero as nz
from nearzero.analysis.verdict import judge
from nearzero.evaluators.base import halves
from nearzero.paper.audit import audit
from nearzero.paper.audit.evidence import Evidence, gathered
from nearzero.paper.audit.measure import measure, published_rows, quantile_ranges
from nearzero.paper.audit.sentences import sentences
from nearzero.paper.audit.values import FAULTS, Audit, FaultEntry
from nearzero.report.audit import audited_tables, fault_tables
from nearzero.report.tables import response_table
from nearzero.study import audit as auditing
from nearzero.study.store import Store

SETTINGS = {
    "data": "digits",
    "runs": 6,
    "units": 12,
    "steps": 150,
    "batch_size": 64,
    "evaluate_every": 50,
    "learning_rate": 0.01,
}
FAMILIES = ("offset", "scale", "clip")
ROWS = published_rows(FAMILIES, nz.Conduct())
Floats = NDArray[np.float64]


def make(folder: Path, **settings: Any) -> nz.Study:
    return nz.Study.create(folder, "quick", SETTINGS | settings).train().sweep()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> nz.Study:
    found = make(tmp_path_factory.mktemp("audits") / "study")
    found.audit()
    return found


@pytest.fixture(scope="module")
def evidence(study: nz.Study) -> Evidence:
    """Return the evidence as if it were comparable, so that published numbers have their places."""
    return replace(study.evidence(), departures=())


@pytest.fixture(scope="module")
def found(evidence: Evidence) -> Audit:
    return audit(evidence)


def entry(audit: Audit, fault: int, network: str, beginning: str) -> FaultEntry:
    (one,) = [
        each
        for each in audit.entries
        if (each.fault, each.network) == (fault, network) and each.quantity.startswith(beginning)
    ]
    return one


# --- what is measured of one network -----------------------------------------------------------------------


def place(family: str, level: float) -> int:
    return [(row.family, row.level) for row in ROWS].index((family, level))


class Plain:
    """The paper's network in float64, straight from its formulas."""

    def __init__(self, network: nz.TwoLayer, pixels: NDArray[np.uint8]) -> None:
        self.w2, self.b2 = network.w2.astype(np.float64), network.b2.astype(np.float64)
        self.act = np.abs if network.activation == "abs" else lambda z: np.maximum(z, 0)
        self.z = pixels.astype(np.float64) @ network.w1.T.astype(np.float64) + network.b1
        self.a = self.act(self.z)

    def activations(
        self, family: str, level: float, rows: Any = slice(None), by: Any = slice(None)
    ) -> Floats:
        """a' of some examples, with ranges by others."""
        z, low, high = self.z[rows], self.a[by].min(axis=0), self.a[by].max(axis=0)
        if family == "scale":
            return self.act(level * z)
        if family == "clip":
            return self.act(np.minimum(z, low + level * (high - low)))
        return self.act(z * (high - level * (high - low)) / high + level * (high - low))

    def logits(self, activations: Floats) -> Floats:
        return np.asarray(activations @ self.w2.T + self.b2)


@pytest.fixture(scope="module", params=["abs", "relu"])
def one(
    request: pytest.FixtureRequest, study: nz.Study, digits: nz.datasets.Dataset
) -> tuple[xr.Dataset, Plain, Plain]:
    network = study.network(request.param, 2)
    train, test = digits.train, digits.test
    found = measure(
        network, (train.pixels, train.labels), (test.pixels, test.labels), rows=ROWS, conduct=nz.Conduct()
    )
    return found, Plain(network, train.pixels), Plain(network, test.pixels)


def test_levels_against_plain_arithmetic(
    one: tuple[xr.Dataset, Plain, Plain], digits: nz.datasets.Dataset
) -> None:
    found, plain, held_out = one
    labels, n = digits.train.labels, len(digits.train.labels)
    ranges = slice(None)
    unperturbed = plain.logits(plain.a)
    for family, level in (("scale", 0.1), ("clip", 0.3), ("offset", -0.25), ("offset", 0.05)):
        number = place(family, level)
        level = ROWS[number].grid
        here, row = plain.activations(family, level, by=ranges), found.isel(row=number)
        logits = plain.logits(here)
        assert float(row.accuracy) == pytest.approx(np.mean(logits.argmax(1) == labels), abs=1.5 / n)
        assert float(row.agreement) == pytest.approx(
            np.mean(logits.argmax(1) == unperturbed.argmax(1)), abs=1.5 / n
        )
        moved = np.sqrt(np.square(here - plain.a).sum() / np.square(plain.a).sum())
        assert float(row.displacement) == pytest.approx(moved, rel=1e-4)
        own = logits[np.arange(n), labels]
        others = np.where(np.arange(10) == labels[:, None], -np.inf, logits).max(axis=1)
        assert float(row.margin) == pytest.approx(np.mean(own - others), rel=1e-4, abs=1e-4)
        loss = -stats_log_softmax(logits)[np.arange(n), labels].mean()
        assert float(row.loss) == pytest.approx(loss, rel=1e-4)
        # held-out examples, by the ranges of the training set
        held_out_z = Plain.__new__(Plain)
        held_out_z.__dict__ = {**held_out.__dict__, "z": np.vstack([held_out.z, plain.z])}
        held_out_z.a = held_out_z.act(held_out_z.z)
        some, others_ = slice(0, len(held_out.z)), slice(len(held_out.z), None)
        predicted = plain.logits(held_out_z.activations(family, level, some, others_)).argmax(1)
        right = np.mean(predicted == digits.test.labels)
        assert float(row.test_accuracy) == pytest.approx(right, abs=1.5 / len(predicted))


def stats_log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def test_what_one_half_sets_is_measured_on_the_other(
    one: tuple[xr.Dataset, Plain, Plain], digits: nz.datasets.Dataset
) -> None:
    found, plain, _ = one
    labels, n = digits.train.labels, len(digits.train.labels)
    parts = halves(n, 0)
    for level in (-0.25, 0.1, 0.25):
        row = found.isel(row=place("offset", level))
        centred = other = 0
        for reference, responding in (parts, parts[::-1]):
            mean = (
                plain.logits(plain.activations("offset", level, reference)) - plain.logits(plain.a[reference])
            ).mean(axis=0)
            logits = plain.logits(plain.activations("offset", level, responding)) - mean
            centred += np.sum(logits.argmax(1) == labels[responding])
            logits = plain.logits(plain.activations("offset", level, responding, reference))
            other += np.sum(logits.argmax(1) == labels[responding])
        assert float(row.centred_accuracy) == pytest.approx(centred / n, abs=1.5 / n)
        assert float(row.other_half_accuracy) == pytest.approx(other / n, abs=1.5 / n)
    assert found.centred_accuracy[[row.family != "offset" for row in ROWS]].isnull().all()


def test_clips_and_quantiles_against_plain_arithmetic(
    one: tuple[xr.Dataset, Plain, Plain], digits: nz.datasets.Dataset
) -> None:
    found, plain, _ = one
    labels, n = digits.train.labels, len(digits.train.labels)
    number = place("clip", 0.3)
    low, high = plain.a.min(axis=0), plain.a.max(axis=0)
    threshold = low + ROWS[number].grid * (high - low)
    row = found.isel(row=number)
    above = plain.a > threshold
    left = above & (plain.act(np.minimum(plain.z, threshold)) > threshold)
    assert float(row.untouched) == pytest.approx(left.sum() / above.sum(), abs=1e-3)
    after = plain.logits(np.minimum(plain.a, threshold)).argmax(1)
    assert float(row.clip_post_accuracy) == pytest.approx(np.mean(after == labels), abs=1.5 / n)
    assert float(row.clip_pre_accuracy) == float(row.accuracy)
    low, high = np.quantile(plain.a, 0.001, axis=0), np.quantile(plain.a, 0.999, axis=0)
    live = plain.a.max(axis=0) > plain.a.min(axis=0)
    share = ((high - low) / np.ptp(plain.a, axis=0).clip(1e-30))[live].mean()
    assert float(found.width) == pytest.approx(share, rel=1e-5)
    move = 0.1 * (high - low)
    live = high > low
    with np.errstate(invalid="ignore"):
        z = np.where(live, plain.z * (high - move) / high + move, plain.z)
    predicted = plain.logits(plain.act(z)).argmax(1)
    quantile = float(found.quantile_accuracy[place("offset", 0.1)])
    assert quantile == pytest.approx(np.mean(predicted == labels), abs=1.5 / n)


def test_scale_without_its_bias_and_by_algebra(
    one: tuple[xr.Dataset, Plain, Plain], digits: nz.datasets.Dataset
) -> None:
    found, plain, _ = one
    labels, n = digits.train.labels, len(digits.train.labels)
    assert float(found.no_bias_accuracy) == pytest.approx(
        np.mean((plain.a @ plain.w2.T).argmax(1) == labels), abs=1.5 / n
    )
    for level in (0.01, 10.0):
        right = np.mean((plain.a @ plain.w2.T + plain.b2 / level).argmax(1) == labels)
        predicted = float(found.predicted_accuracy.sel(scale_level=level, method="nearest"))
        assert predicted == pytest.approx(right, abs=1e-9)
    assert float(found.scale_unexplained) == 0.0
    assert float(found.flat) == 1.0


def test_quantile_ranges_leave_the_outermost_out() -> None:
    z = np.arange(-1000.0, 1001.0, dtype=np.float32)[:, None]
    found = quantile_ranges(z, np.abs(z))
    assert (found.pre.minimum[0], found.pre.maximum[0]) == (-998.0, 998.0)
    assert (found.post.minimum[0], found.post.maximum[0]) == (1.0, 999.0)


def test_a_dead_unit_by_the_formula_as_it_stands(digits: nz.datasets.Dataset) -> None:
    import torch

    rng = np.random.default_rng(3)
    w1, b1 = rng.normal(size=(6, 64)) / 8, np.zeros(6)
    w1[4], b1[4] = -1.0, -1.0  # pixels are positive: dead
    network = nz.TwoLayer(w1, b1, rng.normal(size=(10, 6)), rng.normal(size=10), "relu")
    train, test = ((each.pixels, each.labels) for each in (digits.train, digits.test))
    found = measure(network, train, test, rows=ROWS, conduct=nz.Conduct())
    assert (int(found.nan_units), int(found.dead_units)) == (1, 1)
    z = torch.from_numpy(digits.train.pixels.astype(np.float32)) @ torch.tensor(network.w1).T + torch.tensor(
        network.b1
    )
    highest = z.relu().max(dim=0).values
    reach = highest - z.relu().min(dim=0).values
    y = (z * ((highest - 0.0 * reach) / highest) + 0.0 * reach).relu()
    predicted = (y @ torch.tensor(network.w2).T + torch.tensor(network.b2)).argmax(dim=1).numpy()
    assert float(found.silent_accuracy) == np.mean(predicted == digits.train.labels)
    assert float(found.accuracy[place("offset", 0.0)]) == float(found.unperturbed_accuracy)


# --- what follows over runs --------------------------------------------------------------------------------


def test_tests_of_the_rows_against_scipy_and_statsmodels(study: nz.Study, found: Audit) -> None:
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.weightstats import ttost_paired

    ps = []
    for row in found.levels:
        curve = 100 * study.curve(row.network, row.family)
        here = curve.sel(level=row.grid).values
        whole = 100 * study.response.unperturbed_accuracy.sel(network=row.network, split="train").values
        assert row.as_run == pytest.approx(here.mean())
        if row.p_entry is not None:
            t, p = stats.ttest_rel(curve.isel(level=50).values, here)
            assert (row.t_entry, row.p_entry) == (pytest.approx(t, rel=1e-6), pytest.approx(p, rel=1e-6))
        if row.p_identity is None:
            assert row.reason == "all pairs equal"
            assert np.array_equal(here, whole)
            assert row.within
            continue
        t, p = stats.ttest_rel(whole, here)
        ps.append(p)
        assert (row.t_identity, row.p_identity) == (pytest.approx(t, rel=1e-6), pytest.approx(p, rel=1e-6))
        assert row.within == (ttost_paired(whole, here, -1.0, 1.0)[0] < 0.05)
    adjusted = [row.p_holm for row in found.levels if row.p_identity is not None]
    assert len(ps) > 50
    np.testing.assert_allclose(adjusted, multipletests(ps, method="holm")[1], rtol=1e-6)


def test_rows_say_what_the_tables_of_the_study_say(study: nz.Study, found: Audit) -> None:
    rows = found.levels
    for family in FAMILIES:
        table = response_table(study, family)
        cells = [
            cell
            for cell, level in zip(table.cells("identity"), table.cells("level"), strict=True)
            if level.value is not None  # type: ignore[union-attr]
        ]
        own = [row for row in rows if row.family == family]
        assert len(cells) == len(own)
        for cell, row in zip(cells, own, strict=True):
            assert (cell.t, cell.p) == (row.t_identity, row.p_identity)  # type: ignore[union-attr]


def test_counts_of_the_wrong_baseline_by_hand(found: Audit) -> None:
    for network in ("abs", "relu"):
        rows = [row for row in found.levels if row.network == network]
        assert len(rows) == 36
        below = [
            [p is not None and p < 0.05 for p in (row.p_published, row.p_entry, row.p_identity)]
            for row in rows
        ]
        one = entry(found, 1, network, "rows with p")
        assert [one.published, one.as_run, one.put_right] == np.sum(below, axis=0).tolist()
        signs = np.array([np.sign([row.t_entry or 0.0, row.t_identity or 0.0]) for row in rows])
        assert entry(found, 1, network, "rows whose t").as_run == np.sum(signs[:, 0] != signs[:, 1])
        assert entry(found, 11, network, "rows with p").put_right == sum(
            row.p_holm is not None and row.p_holm < 0.05 for row in rows
        )
    # the published rows: 36 of ReLU and 32 of Abs lie below 0.05, for 15 and 18 rows with t < 0
    counts = {network: entry(found, 1, network, "rows with p").published for network in ("abs", "relu")}
    assert counts == {"abs": 32.0, "relu": 36.0}
    assert entry(found, 1, "abs", "t of clip").published == -26.5


def test_an_interval_for_new_examples_is_no_narrower(found: Audit) -> None:
    for network in ("abs", "relu"):
        one = entry(found, 11, network, "95 % interval")
        ends = [[float(end) for end in str(text).split(" to ")] for text in (one.as_run, one.put_right)]
        assert all(low < high for low, high in ends)
        row = next(
            row for row in found.levels if (row.network, row.family, row.level) == (network, "offset", 0.01)
        )
        whole = next(
            row for row in found.levels if (row.network, row.family, row.level) == (network, "offset", 0.0)
        )
        assert row.as_run is not None
        assert whole.as_run is not None
        for low, high in ends:
            assert (low + high) / 2 == pytest.approx(whole.as_run - row.as_run, abs=2e-3)


def test_runs_alone_are_runs_among_others(evidence: Evidence, found: Audit) -> None:
    for network in ("abs", "relu"):
        assert entry(found, 12, network, "runs").put_right == 6.0
    measured = evidence.measured.copy(deep=True)
    measured.accuracy[0, 2, 5] += 1 / 1442
    tampered = audit(replace(evidence, measured=measured))
    one = entry(tampered, 12, "abs", "runs")
    assert one.put_right == 5.0
    assert "greatest difference 1 example;" in one.note


def test_levels_that_another_machine_has_rounded_otherwise(evidence: Evidence, found: Audit) -> None:
    level = evidence.response.level.values
    other = evidence.response.assign_coords(
        level=np.nextafter(level, np.where(np.arange(level.size) % 2, 9, -9))
    )
    assert audit(replace(evidence, response=other)).levels == found.levels


def test_every_fault_has_entries_for_every_network(found: Audit) -> None:
    assert {(each.fault, each.network) for each in found.entries} == {
        (fault, network) for fault in FAULTS for network in ("abs", "relu")
    }
    assert [table.title.split(":")[0] for table in fault_tables(found)] == [
        f"Fault {fault}" for fault in FAULTS
    ]


# --- sentences ---------------------------------------------------------------------------------------------


def with_costs(evidence: Evidence, **costs: float) -> Evidence:
    """Evidence in which every row but the identity costs what is given, points, by family; runs differ a little."""
    measured, response = evidence.measured.copy(deep=True), evidence.response.copy(deep=True)
    names, whole = (
        ("accuracy", "centred_accuracy", "clip_pre_accuracy", "clip_post_accuracy"),
        measured.unperturbed_accuracy.values,
    )
    jitter = np.linspace(-1e-4, 1e-4, 6)
    for number, row in enumerate(evidence.rows):
        cost = costs.get(f"{row.family}_{abs(row.level):g}", costs.get(row.family, 0.0)) / 100
        if (row.family, row.level) in (("scale", 1.0), ("offset", 0.0)):
            cost = 0.0
        for name in names:
            extra = costs.get(f"{row.family}_{name}", cost * 100) / 100
            measured[name].values[:, :, number] = whole - extra - jitter
        place = [
            response[dim].values.tolist().index(value)
            for dim, value in (("family", row.family), ("level", row.grid))
        ]
        response.accuracy.values[:, :, place[0], place[1], 0] = whole - cost - jitter
    return replace(evidence, measured=measured, response=response)


def finding(evidence: Evidence, name: str) -> str:
    return {each.network: each.finding for each in sentences(evidence) if each.name == name}["abs"]


def test_small_offsets_and_both_directions(evidence: Evidence) -> None:
    assert finding(with_costs(evidence, offset=1.1), "small offsets") == "survives"
    assert finding(with_costs(evidence, offset=0.9), "small offsets") == "doesn't survive"
    only_far = with_costs(evidence, **{"offset_0.1": 1.1})
    assert finding(only_far, "small offsets") == "survives in part"
    assert finding(only_far, "both directions") == "survives"
    constant = with_costs(evidence, offset=5.0, offset_centred_accuracy=0.0)
    assert finding(constant, "small offsets") == "survives in part"
    assert finding(constant, "both directions") == "survives in part"


def test_scaling_that_algebra_decides_says_nothing(evidence: Evidence) -> None:
    free = evidence.measured.assign(flat=xr.zeros_like(evidence.measured.flat))
    nothing = with_costs(evidence, scale=0.1)
    assert finding(nothing, "scaling") == "doesn't survive"
    assert (
        finding(replace(nothing, measured=nothing.measured.assign(flat=free.flat)), "scaling") == "survives"
    )
    much = with_costs(evidence, scale=2.0)
    much = replace(much, measured=much.measured.assign(flat=free.flat))
    assert finding(much, "scaling") == "doesn't survive"


def test_clipping(evidence: Evidence) -> None:
    assert finding(with_costs(evidence, **{"clip_0.1": 20.0}), "clipping") == "survives"
    assert (
        finding(with_costs(evidence, **{"clip_0.1": 20.0, "clip_0.5": 3.0}), "clipping") == "survives in part"
    )


def test_large_p(evidence: Evidence) -> None:
    assert (
        finding(with_costs(evidence), "large p") == "survives"
    )  # what costs nothing is found within the margin
    wild = with_costs(evidence)
    response = wild.response.copy(deep=True)
    row = wild.rows[0]
    response.accuracy.loc[{"family": row.family, "level": row.grid}] += (
        np.array([5, -5, 5, -5, 5, -5])[:, None] / 100
    )
    assert finding(replace(wild, response=response), "large p") == "survives in part"


def test_fewer_than_six_runs_are_described(evidence: Evidence) -> None:
    few = replace(
        with_costs(evidence, offset=5.0),
        measured=with_costs(evidence, offset=5.0).measured.isel(run=slice(5)),
        response=evidence.response.isel(run=slice(5)),
        history=evidence.history.isel(run=slice(5)),
    )
    assert finding(few, "small offsets") == "description only"


def test_networks_that_differ(evidence: Evidence) -> None:
    costly, cheap = with_costs(evidence, offset=5.0), with_costs(evidence, offset=0.0)
    mixed = replace(
        costly,
        measured=xr.concat([costly.measured.isel(network=[0]), cheap.measured.isel(network=[1])], "network"),
    )
    expected = "survives in part (Abs: survives, ReLU: doesn't survive)"
    assert audit(mixed).of("small offsets") == expected
    assert (
        f"Small moves of the boundary already cost much accuracy. {expected.capitalize()[:16]}"
        in audit(mixed).text()
    )
    with pytest.raises(nz.InputError, match=r"the sentences are small offsets, .*; got 'lies'"):
        audit(mixed).of("lies")
    with pytest.raises(nz.InputError, match=r"did you mean 'small offsets'\? got 'small offset'"):
        audit(mixed).of("small offset")


def with_matched(
    evidence: Evidence, shift: float, other: float, centred: float | None = None, *, distance: str = "shift"
) -> Evidence:
    """Evidence with responses at a displacement of 10 %, at which a shift and the families of intensity cost this.

    With `centred`, what the shift costs in centred accuracy, which is then a check. `distance` is its name.
    """
    families, sides = [distance, "gains", "cap"], ["below", "above"]
    accuracy = np.full((2, 6, 3, 2, 1), np.nan)
    accuracy[:, :, 0] = 0.9 - shift / 100
    accuracy[:, :, 1, 1] = accuracy[:, :, 2, 0] = 0.9 - other / 100
    accuracy += np.linspace(-1e-3, 1e-3, 6)[:, None, None, None] * np.arange(1, 4)[:, None, None]
    matched = xr.Dataset(
        {
            "accuracy": (("network", "run", "family", "side", "target"), accuracy),
            "unperturbed_accuracy": (("network", "run"), np.full((2, 6), 0.9)),
        },
        {"network": ["abs", "relu"], "family": families, "side": sides, "target": [0.1]},
    )
    checks = () if centred is None else ("centred_accuracy",)
    if centred is not None:
        change = xr.where(matched.family == distance, (shift - centred) / 100, 0.0)
        matched["centred_accuracy"] = (matched.accuracy + change).transpose(*matched.accuracy.dims)
    found = judge(matched, nz.Rules(targets=(0.1,), distance=(distance,), checks=checks))
    return replace(evidence, matched=matched.assign(level=matched.accuracy), verdict=found)


def test_the_conclusion_follows_the_verdict_and_planted_networks(evidence: Evidence, found: Audit) -> None:
    assert found.of("conclusion") == "not decided"
    for shift, other, expected in (
        (5, 1, "survives in part"),  # the direction alone, without planted networks for these rules
        (1, 5, "doesn't survive"),
        (5, 5, "doesn't survive"),
    ):
        assert finding(with_matched(evidence, shift, other), "conclusion") == expected
    for shift, other, centred, expected in (
        (5, 1, 5, "survives in part"),
        (1, 5, 1, "doesn't survive"),
        (5, 1, 1, "not decided"),  # the check is undecided
        (5, 3, 0, "not decided"),  # the check turns
        (1, 5, 9, "not decided"),
    ):
        assert finding(with_matched(evidence, shift, other, centred), "conclusion") == expected
    # relative to a signed shift of 10 %, gains and a cap cost 0.02 and 0.2; with planted distance and ReLU, a cap at
    # most 0.08
    likely = audit(with_matched(evidence, 10, 0.2, distance="signed_shift"))
    between = audit(with_matched(evidence, 10, 2, distance="signed_shift"))
    assert likely.of("conclusion") == "survives"
    assert between.of("conclusion") == "survives in part (Abs: survives, ReLU: survives in part)"
    numbers = {row.network: row.numbers for row in between.sentences if row.name == "conclusion"}
    words = r"cap 0\.2\d \([^;]*, with planted distance -0\.54 to 0\.08, [^;]*: between planted distance and templates$"
    assert re.search(words, numbers["relu"])
    hanging = audit(with_matched(evidence, 5, 3, 0))
    assert "distance costs more; changes with centred accuracy" in next(
        row.numbers for row in hanging.sentences if row.name == "conclusion"
    )
    after = audit(with_matched(evidence, 5, 1))
    assert entry(after, 7, "relu", "verdict").put_right == "distance costs more"
    assert entry(after, 7, "relu", "points lost to shift").put_right == pytest.approx(5.0)
    assert entry(after, 7, "relu", "points lost to cap").put_right == pytest.approx(1.0)


def test_a_pure_shift_counts_for_both_directions_where_it_is_measured(evidence: Evidence) -> None:
    costly = with_costs(evidence, offset=5.0)
    assert finding(with_matched(costly, 5, 1), "both directions") == "survives"
    assert finding(with_matched(costly, 0, 1), "both directions") == "survives in part"


# --- other studies, files and the command ------------------------------------------------------------------


def test_a_study_of_another_kind(tmp_path: Path) -> None:
    study = make(
        tmp_path / "s",
        activations="gelu",
        runs=1,
        pixels="normalized",
        families=["offset", "scale"],
        steps=50,
    )
    found = study.audit()
    assert {each.fault for each in found.entries} == set(FAULTS)
    assert entry(found, 3, "gelu", "units").note == "the formula isn't defined for GELU"
    assert entry(found, 4, "gelu", "activations").note == "clip wasn't swept"
    assert "not flat by construction" in entry(found, 5, "gelu", "examples").note
    assert entry(found, 2, "gelu", "train").as_run is None
    assert found.notices[0] == (
        "as run is this study's conduct, which isn't the published one: offset=shift, range=pre"
    )
    assert found.notices[1].startswith("no published number stands beside these: data = digits, not mnist; ")
    assert all(row.p_identity is None and row.published is None for row in found.levels)
    assert found.of("clipping") == "not decided"
    assert found.of("scaling") == "description only"
    for table in audited_tables(found):
        text = (study.folder / "tables" / f"{table.name}.md").read_text()
        assert not re.search(r"\bnan\b", text)  # words and not a number that is none


def test_nothing_published_stands_beside_a_study_that_departs(study: nz.Study, found: Audit) -> None:
    """The numbers of its own stay, and so do the findings."""
    departing = study.audited()
    assert "no published number stands beside these: data = digits, not mnist" in departing.notices[-1]
    assert all(row.published is row.t_published is row.p_published is None for row in departing.levels)
    assert [each.published for each in departing.entries] == [None] * len(found.entries)
    assert any(each.published is not None for each in found.entries)
    assert [replace(each, published=None) for each in found.entries] == list(departing.entries)
    assert departing.sentences == found.sentences
    for table, beside in zip(audited_tables(departing)[1:], audited_tables(found)[1:], strict=True):
        names, others = ([column.name for column in each.columns] for each in (table, beside))
        assert "published" not in names
        assert [name for name in others if name != "published"] == names
        assert table.cells("as_run") == beside.cells("as_run")


def test_a_run_that_diverged_is_left_out(
    evidence: Evidence, study: nz.Study, digits: nz.datasets.Dataset
) -> None:
    train, test = ((each.pixels, each.labels) for each in (digits.train, digits.test))
    first, second = (
        measure(study.network("abs", run), train, test, rows=ROWS, conduct=nz.Conduct()) for run in (0, 1)
    )
    whole = gathered([[first, None, second], [None, None, None]], ["abs", "relu"])
    assert np.isnan(whole.accuracy.sel(network="abs", run=1)).all()
    np.testing.assert_array_equal(whole.accuracy.sel(network="abs", run=2), second.accuracy)
    assert float(whole.bootstrap_low.sel(network="abs")) < float(whole.bootstrap_high.sel(network="abs"))
    assert np.isnan(whole.bootstrap_low.sel(network="relu"))
    measured = evidence.measured.copy(deep=True)
    for each in measured.data_vars.values():
        if "run" in each.dims:
            each.values[:, 3] = np.nan
    lost = replace(evidence, measured=measured)
    assert audit(lost).entries[0].n == 6  # tests are on the study's responses
    assert entry(audit(lost), 12, "abs", "runs").put_right == 5.0
    measured.unperturbed_accuracy.values[1] = np.nan
    assert lost.networks == ("abs",)


def test_an_interrupted_audit_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make(tmp_path / "s", runs=2, steps=20, activations="relu")
    at_once = nz.Study.open(shutil.copytree(study.folder, tmp_path / "t"))
    calls = []

    def counted(*arguments: Any, **named: Any) -> xr.Dataset:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*arguments, **named)

    monkeypatch.setattr(auditing, "measure", counted)
    (study.folder / "state").mkdir()
    (study.folder / "state" / "another-command.nc").write_bytes(b"its file")
    with pytest.raises(KeyboardInterrupt):
        study.audit()
    assert not (study.folder / "audit.nc").exists()
    with pytest.raises(nz.InputError, match="hasn't been audited yet; run `nearzero audit"):
        study.audited()
    study.audit()
    assert len(calls) == 3  # the first was kept, the second is measured again
    assert [path.name for path in (study.folder / "state").iterdir()] == ["another-command.nc"]
    at_once.audit()
    assert len(calls) == 5
    assert at_once.audited() == study.audited()
    study.audit()
    assert len(calls) == 5  # nothing left to do


def test_the_command(study: nz.Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = nz.Study.create(
        tmp_path / "other",
        "quick",
        SETTINGS | {"pixels": "normalized", "runs": 2, "steps": 20, "activations": "abs"},
    ).train()
    code, out, err = run(capsys, "audit", study.folder, "--against", other.folder)
    assert (code, err) == (0, "")
    for words in ("Small moves of the boundary", "tables", "of the paper's 6 sentences: "):
        assert words in out
    assert len(out.splitlines()) < 20
    names = {path.stem for path in (study.folder / "tables").glob("audit*.md")}
    assert names == {"audit", "audit_levels", "audit_sentences"}
    against = study.audited(other)
    one = entry(against, 2, "abs", "test")
    expected = 100 * float(other.history.test_accuracy.sel(network="abs").isel(step=-1).mean())
    assert one.put_right == pytest.approx(expected)
    assert "it differs in runs, steps too" in one.note
    assert "has no ReLU" in entry(against, 2, "relu", "test").note


def test_bad_input_is_one_line_and_exit_code_2(
    study: nz.Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = nz.Study.create(tmp_path / "fresh", "quick", SETTINGS).folder
    shifted = nz.Study.create(
        tmp_path / "shifted", "quick", SETTINGS | {"families": ["shift"], "steps": 5, "runs": 1}
    )
    shifted.train().sweep()
    for arguments, message in (
        (["nowhere"], "nowhere isn't a folder"),
        ([fresh], "hasn't been swept yet; run `nearzero sweep"),
        ([shifted.folder], "the audit is about the families offset, scale and clip; this study has shift"),
        ([study.folder, "--against", "nowhere"], "nowhere isn't a folder"),
        (
            [study.folder, "--against", study.folder],
            "both have raw pixels; give a study with the other pixels",
        ),
    ):
        code, _, err = run(capsys, "audit", *arguments)
        assert code == 2, message
        assert message in err
        assert err.count("\n") == 1


def test_responses_at_other_levels_than_the_audits_are_refused(tmp_path: Path) -> None:
    """A damaged file can have numbers where a family has no level."""
    accuracy = xr.DataArray(
        np.where(np.arange(5) < 3, 0.5, np.nan) * np.ones((2, 4, 1, 1, 5)),
        {"network": ["abs", "relu"], "family": ["offset", "scale", "clip", "cap"]},
        ("network", "family", "run", "split", "level"),
    )
    measured, store = xr.Dataset({"x": ("scale_level", np.zeros(3))}), Store(tmp_path, nz.Spec())
    auditing.check_levels(store, xr.Dataset({"accuracy": accuracy}), measured)
    accuracy[1, 1, 0, 0, 4] = 0.25
    with pytest.raises(
        nz.InputError, match=r"results\.nc has scale at 4 levels, and the audit at 3: one of them"
    ):
        auditing.check_levels(store, xr.Dataset({"accuracy": accuracy}), measured)
