"""The power of a design: how often its rules are right or wrong, counted on studies with a known answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scipy import stats

from nearzero.analysis.matched import Design
from nearzero.analysis.verdict import Rules, Verdict, judge
from nearzero.errors import InputError
from nearzero.mechanisms.studies import Condition, study_responses
from nearzero.perturbations.activations import ACTIVATIONS
from nearzero.support.checksums import write_recorded
from nearzero.support.display import Displayed
from nearzero.support.workers import Workers, do_all, local_processes

__all__ = ["CAPTION", "Counts", "Power", "Rate", "overall_findings", "power"]

CAPTION = (
    "Shares of studies, with 95 % intervals (Clopper-Pearson). In the null nothing differs: equivalent is right, any "
    "direction is wrong. Of a mixture neither is known."
)

DIRECTIONS = ("distance costs more", "intensity costs more")
FOUND = 0.9  # the share of the studies in which a planted mechanism should be found
KINDS: tuple[dict[str, Any], ...] = (
    {"mechanism": "distance"},
    {"mechanism": "template"},
    {"mechanism": "mixed", "share": 0.5},
    {"mechanism": "template", "null": "one family"},
)
TOO_HARD = "too hard to plant"  # a mixed network, in a task that one mechanism alone doesn't solve
NO_COMPARISON = "nothing to compare"  # all families of intensity are flat by construction
Job = tuple[Condition, int]


@dataclass(frozen=True)
class Rate:
    """The number of studies with some outcome, out of all studies."""

    count: int
    studies: int

    @property
    def share(self) -> float:
        """Return the share of the studies, 0 to 1."""
        return self.count / self.studies

    @property
    def interval(self) -> tuple[float, float]:
        """Return the exact 95 % interval of the probability (Clopper and Pearson, 1934)."""
        interval = stats.binomtest(self.count, self.studies).proportion_ci(0.95, method="exact")
        return float(interval.low), float(interval.high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.share:.0f} % ({100 * low:.0f}–{100 * high:.0f})"


@dataclass(frozen=True)
class Counts:
    """The findings on all studies of one condition, with a given number of runs each.

    Attributes:
        condition: the condition, which has a known answer.
        runs: the number of runs of each study.
        findings: by finding, the number of studies.
    """

    condition: Condition
    runs: int
    findings: Mapping[str, int]

    @property
    def rates(self) -> dict[str, Rate | None]:
        """Return the rates of studies that are right, that find the wrong direction, and that are neither.

        For a null, in which nothing differs, "equivalent" is right and any direction is wrong. For a mixture
        there is no right or wrong direction: these rates are None, and a study is undecided if it names no
        direction.
        """
        truth, studies = self.condition.truth, sum(self.findings.values())
        false = {*DIRECTIONS, "mixed"} if self.condition.null else {*DIRECTIONS} - {truth}
        right, wrong = (
            sum(count for name, count in self.findings.items() if name in names) for names in ({truth}, false)
        )
        return {
            "right": Rate(right, studies) if truth else None,
            "wrong direction": Rate(wrong, studies) if truth else None,
            "undecided": Rate(studies - right - wrong, studies),
        }

    @property
    def row(self) -> dict[str, str]:
        """Return the counts as text for a table, with 95 % intervals."""
        condition, findings = self.condition, self.findings.items()
        return {
            "mechanism": "null" if condition.null else condition.mechanism,
            "activation": ACTIVATIONS[condition.activation].label,
            "strength": f"{condition.strength:g}",
            "runs": str(self.runs),
            "studies": str(sum(self.findings.values())),
            **{name: "–" if rate is None else str(rate) for name, rate in self.rates.items()},
            "findings": ", ".join(f"{name.removesuffix(' costs more')} {count}" for name, count in findings),
        }


@dataclass(frozen=True)
class Power(Displayed):
    """The result of `power`: how often rules are right, wrong and undecided on studies with a known answer.

    Attributes:
        rules: the rules.
        draws: the number of draws of families that draw random numbers.
        seed: the seed.
        counts: the findings for each condition and number of runs, the runs ascending.
    """

    rules: Rules
    draws: int
    seed: int
    counts: tuple[Counts, ...]

    def sentences(self) -> list[str]:
        """Return a sentence for each condition with a known answer: the findings with the most runs."""
        sentences = []
        for condition in dict.fromkeys(counts.condition for counts in self.counts if counts.condition.truth):
            own = [counts for counts in self.counts if counts.condition == condition]
            row = own[-1].row
            where, wrong = f"({row['activation']}, strength {row['strength']})", row["wrong direction"]
            subject = f"With {row['runs']} runs these rules find"
            if condition.null:
                sentences.append(f"{subject} a difference that isn't there {where} in {wrong} of studies.")
                continue
            enough = _enough(own)
            needed = f"{enough} runs are enough" if enough else "no number of runs tried was enough"
            sentences.append(
                f"{subject} planted {row['mechanism']} {where} in {row['right']} of studies and the wrong direction in "
                f"{wrong}; {needed} for {100 * FOUND:.0f} %."
            )
        return sentences

    @property
    def enough(self) -> int | None:
        """Return the least number of runs with which every planted mechanism is found in 90 % of the studies.

        None if no number of runs was enough, or if no mechanism was planted.
        """
        planted: dict[Condition, list[Counts]] = {}
        for counts in self.counts:
            if counts.condition.truth and not counts.condition.null:
                planted.setdefault(counts.condition, []).append(counts)
        least = [_enough(own) for own in planted.values()]
        return max((runs for runs in least if runs), default=None) if all(least) else None

    @property
    def conclusion(self) -> str:
        """Return one line on the number of runs that is enough."""
        said = (
            "no number of runs tried is enough" if self.enough is None else f"{self.enough} runs are enough"
        )
        return f"{said} to find every planted mechanism in {100 * FOUND:.0f} % of studies"

    def save(self, folder: str | Path) -> Path:
        """Write rules, settings, counts and the rows of the table to power.json in a folder; return its path.

        Its checksum is in the folder's record, which `nearzero verify` reads.

        Raises:
            InputError: the folder can't be written.
        """
        path = Path(folder) / "power.json"
        kept = asdict(self) | {"table": [counts.row for counts in self.counts]}
        write_recorded(path.parent, path, (json.dumps(kept, indent=1, ensure_ascii=False) + "\n").encode())
        return path


def _enough(counts: Iterable[Counts]) -> int | None:
    """Return the least number of runs with which the planted mechanism of a condition is found often enough."""
    rates = {each.runs: each.rates["right"] for each in counts}
    return next((runs for runs, rate in rates.items() if rate and rate.share >= FOUND), None)


def overall_findings(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Return, by overall finding, the number of verdicts, each on one network; sorted by name."""
    return dict(sorted(Counter(map(_overall, verdicts)).items()))


def _overall(verdict: Verdict) -> str:
    return verdict.finding(verdict.networks[0]) if verdict.networks else NO_COMPARISON


def power(
    rules: Rules | None = None,
    *,
    design: Design | None = None,
    runs: Sequence[int] = (6, 10),
    strengths: Sequence[float] = (8.0,),
    activations: Sequence[str] = ("abs", "relu"),
    studies: int = 20,
    seed: int = 0,
    workers: int = 1,
    executor: Executor | Workers | None = None,
    advanced: Callable[[int], None] = lambda studies: None,
) -> Power:
    """Count how often rules are right, and how often they are wrong, on studies of planted networks.

    For each activation and strength there are four conditions: networks that measure distances, networks that
    match templates, networks that do half of each, and a null in which one family is measured several times
    (`nearzero.mechanisms.studies`). The checks of the rules, which don't change a finding, aren't measured.

    Args:
        rules: `Rules()` if None.
        design: the number of draws and the conduct; families and targets are those of the rules.
        runs: numbers of runs; all of them are counted on the same studies.
        strengths: distances between prototypes, in standard deviations of the noise (`prototype_task`).
        activations: "abs", "relu" or both.
        studies: the number of studies of each condition.
        seed: the seed. The results don't depend on the number of workers.
        workers: the number of processes. With more than one, the script that calls this must be importable
            (``if __name__ == "__main__":``).
        executor: does the work in the place of processes, any `concurrent.futures.Executor`, see `nearzero.Workers`.
        advanced: called with the number of studies that have been completed since the last call.

    Raises:
        InputError: no runs, fewer than the rules require, an unknown activation, or other numbers out of
            range.

    Example:
        >>> import nearzero as nz
        >>> from nearzero.mechanisms.power import Counts, power
        >>> from nearzero.mechanisms.studies import Condition
        >>> found = power(nz.Rules(margin=2.0), runs=(10,), studies=20)  # doctest: +SKIP
        >>> condition = Condition(mechanism="distance", activation="abs")  # by hand, one of `found.counts`:
        >>> counts = Counts(condition, runs=10, findings={"distance costs more": 19, "inconclusive": 1})
        >>> str(counts.rates["right"]), str(counts.rates["wrong direction"])
        ('95 % (75–100)', '0 % (0–17)')
        >>> power(runs=(3,))
        Traceback (most recent call last):
        nearzero.errors.InputError: runs must be at least 6 by these rules; got [3]
    """
    rules, design = rules or Rules(), design or Design()
    _check(rules, runs, studies, seed, workers)
    families = (*rules.distance, *rules.intensity)
    conditions = [
        Condition(
            activation=name, strength=strength, studies=studies, runs=max(runs), families=families, **kind
        )
        for strength in dict.fromkeys(strengths)
        for name in dict.fromkeys(activations)
        for kind in KINDS
    ]
    design = Design(targets=rules.targets, draws=design.draws, conduct=design.conduct)
    run_counts = sorted(set(runs))
    jobs = [(condition, study) for study in range(studies) for condition in conditions]
    counters = {(condition, number): Counter[str]() for condition in conditions for number in run_counts}
    judged = partial(_judged, rules=rules, design=design, seed=seed, runs=run_counts)

    def count(job: Job, findings: list[str]) -> None:
        for number, finding in zip(run_counts, findings, strict=True):
            counters[job[0], number][finding] += 1
        advanced(1)

    alone = executor is not None or workers == 1
    with nullcontext(executor) if alone else local_processes(workers) as pool:
        do_all(judged, jobs, Workers.of(pool), name=_study_name, finished=count, keeps=False)
    counts = (Counts(*key, dict(sorted(findings.items()))) for key, findings in counters.items())
    return Power(rules, design.draws, seed, tuple(counts))


def _check(rules: Rules, runs: Sequence[int], studies: int, seed: int, workers: int) -> None:
    if not runs or min(runs) < rules.minimum_runs:
        raise InputError(f"runs must be at least {rules.minimum_runs} by these rules; got {list(runs)}")
    for name, value, least in (("studies", studies, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if value < least:
            raise InputError(f"{name} must be a whole number, at least {least}; got {value}")


def _judged(job: Job, *, rules: Rules, design: Design, seed: int, runs: Sequence[int]) -> list[str]:
    """Measure one study; return for each number of runs the finding on its first runs."""
    condition, study = job
    try:
        responses = study_responses(condition, study, seed=seed, design=design, rules=rules)
    except InputError:
        if condition.mechanism != "mixed":
            raise
        return [TOO_HARD] * len(runs)
    subsets = (responses.isel(run=slice(0, number)) for number in runs)
    return [_overall(judge(subset, rules)) for subset in subsets]


def _study_name(job: Job) -> str:
    return f"study {job[1]} of {job[0].name}"
