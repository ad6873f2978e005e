"""How often intervals cover the truth, by simulation: the table of docs/intervals.md, and what must hold of it.

`benchmarks/intervals.py` simulates, and prints that table. Here its cases are simulated again with other seeds and, for
what takes long, fewer studies. Bounds are exact binomial (Clopper-Pearson) 99.9 % intervals, so that a sound table
seldom fails, whatever the seeds; these are fixed.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from nearzero.statistics.paired import equivalence_test
from nearzero.statistics.summaries import t_interval

ROOT = Path(__file__).parents[2]
STUDIES = 60  # of bands and bootstraps; twenty times as many of t intervals
SURE = 0.999
ROW = re.compile(
    r"^\| (.+?) \| (.+?) \| (\d+) \| ([\d.]+) \(([\d.]+) to ([\d.]+)\) \| ([\d.]+) \(([\d.]+) to ([\d.]+)\) \|$"
)


def simulations() -> ModuleType:
    """`benchmarks/intervals.py`."""
    spec = importlib.util.spec_from_file_location("intervals", ROOT / "benchmarks" / "intervals.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclass looks for its annotations
    spec.loader.exec_module(module)
    return module


SIMULATIONS = simulations()
CASES = {f"{case.intervals[0]}: {case.simulated}": case for case in SIMULATIONS.all_cases()}


def published() -> dict[tuple[str, str, int], tuple[float, float, float]]:
    """Of the page, by interval, simulation and runs: the share covered, and its bounds."""
    page = (ROOT / "docs" / "intervals.md").read_text(encoding="utf-8").splitlines()
    shares = {}
    for interval, simulated, _, *numbers in (match.groups() for match in map(ROW.match, page) if match):
        few, many = (tuple(float(each) / 100 for each in numbers[i : i + 3]) for i in (0, 3))
        shares |= {(interval, simulated, 5): few, (interval, simulated, 20): many}
    return shares


PUBLISHED = published()


def test_the_page_has_these_simulations_and_no_others():
    assert list(PUBLISHED) == [
        (interval, case.simulated, runs)
        for case in CASES.values()
        for interval in case.intervals
        for runs in SIMULATIONS.RUNS
    ]


@pytest.mark.parametrize("runs", [5, 20])
@pytest.mark.parametrize("name", CASES)
def test_other_studies_are_covered_as_often_as_the_page_says(name, runs):
    case = CASES[name]
    hits, studies = case.measure(runs, STUDIES, seed=1)
    for interval, covered in zip(case.intervals, hits, strict=True):
        low, high = SIMULATIONS.clopper_pearson(covered, studies, SURE)
        _, least, most = PUBLISHED[interval, case.simulated, runs]
        assert low <= most + 5e-4, "fewer than the page says, which rounds"
        assert high >= least - 5e-4, "more than the page says, which rounds"


@pytest.mark.parametrize("runs", [5, 20])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_normal_runs_are_covered_as_often_as_claimed(runs, confidence):
    """Nominal: 40,000 studies, so that one point more or fewer would be seen."""
    covered = SIMULATIONS.by_t(SIMULATIONS.normal, confidence)
    (hits,) = covered(np.random.default_rng(runs), runs, 40_000)
    low, high = SIMULATIONS.clopper_pearson(hits, 40_000, SURE)
    assert low <= confidence <= high
    assert high - low < 0.011


@pytest.mark.parametrize(("wrong", "runs"), [(10, 5), (1, 5), (1, 20), (0.1, 5), (0.1, 20)])
def test_near_100_percent_accuracy_it_is_what_enumeration_says(wrong, runs):
    """Binomial runs of 500 examples: the exact coverage, over all sums and sums of squares that runs can have."""
    exact = exact_coverage(wrong, runs, confidence=0.95)
    (hits,) = SIMULATIONS.by_t(SIMULATIONS.wrong(wrong), 0.95)(np.random.default_rng(runs), runs, 20_000)
    low, high = SIMULATIONS.clopper_pearson(hits, 20_000, SURE)
    assert low <= exact <= high
    simulated = {
        10: "10 of 500 wrong in a run",
        1: "1 of 500 wrong in a run",
        0.1: "1 of 500 wrong in ten runs",
    }
    share, _, _ = PUBLISHED["t", simulated[wrong], runs]
    assert share == pytest.approx(exact, abs=0.008)


def exact_coverage(wrong: float, runs: int, confidence: float) -> float:
    """Run by run: the probability of each sum and sum of squares of the counts; then those that are covered."""
    most = int(stats.binom.isf(1e-9, 500, wrong / 500))
    share = stats.binom.pmf(np.arange(most + 1), 500, wrong / 500)
    joint = {(0, 0): 1.0}
    for _ in range(runs):
        added: dict[tuple[int, int], float] = {}
        for (total, squares), chance in joint.items():
            for count, each in enumerate(share.tolist()):
                key = (total + count, squares + count * count)
                added[key] = added.get(key, 0.0) + chance * each
        joint = {key: chance for key, chance in added.items() if chance > 1e-12}
    total, squares = (np.array(each, dtype=float) for each in zip(*joint, strict=True))
    mean = total / runs
    error = np.sqrt(np.maximum(squares - runs * mean**2, 0.0) / (runs - 1) / runs)
    covered = np.abs(mean - wrong) <= stats.t.ppf((1 + confidence) / 2, runs - 1) * error + 1e-12
    return float(np.array(list(joint.values()))[covered].sum())


@pytest.mark.parametrize("runs", [5, 20])
def test_equivalence_is_claimed_at_the_margin_as_seldom_as_it_says(runs):
    """The mean difference is the margin itself: equivalent in 5 % of studies where the margin is wide, no more ever."""
    rng = np.random.default_rng(runs)
    x = rng.standard_normal((20_000, runs))
    for margin, at_least in ((3.0, True), (0.5, False)):
        low, high = t_interval(x + margin, 0.9)
        claimed = int(((-margin < low) & (high < margin)).sum())
        assert all(
            equivalence_test(row + margin, margin=margin).equivalent == ((-margin < a) and (b < margin))
            for row, a, b in zip(x[:50], low, high, strict=False)
        )
        least, most = SIMULATIONS.clopper_pearson(claimed, 20_000, SURE)
        assert least <= 0.05
        assert most >= 0.05 or not at_least


def test_what_the_page_says_in_words():
    """Below nominal: the percentile interval of five runs, runs that are nearly all perfect, and skewed ones."""
    share = {key: value[0] for key, value in PUBLISHED.items()}
    both = [key for key in share if key[0] == "crossed, t" and "wrong" not in key[1]]
    assert len(both) == 8
    assert min(share[key] for key in both) > 0.93
    assert share["crossed, percentile", "runs matter most", 5] < 0.86
    assert share["t", "1 of 500 wrong in ten runs", 5] < 0.42
    assert share["t", "skewed: lognormal error rates", 5] < 0.85
