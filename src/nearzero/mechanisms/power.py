"""How many runs does a design need, and how often are its rules wrong? Counted where the answer is known."""

from __future__ import annotations

import json
import multiprocessing
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from nearzero.support.files import make_folder, write_text

__all__ = ["Counts", "Power", "Rate", "overall_findings", "power"]

DIRECTIONS = ("distance costs more", "intensity costs more")
FOUND = 0.9  # of the studies: as often a planted mechanism should be found
KINDS: tuple[dict[str, Any], ...] = (
    {"mechanism": "distance"},
    {"mechanism": "template"},
    {"mechanism": "mixed", "share": 0.5},
    {"mechanism": "template", "null": "one family"},
)
TOO_HARD = "too hard to plant"  # a share, in a task that one mechanism alone doesn't solve
NO_COMPARISON = "nothing to compare"  # all families of intensity are flat by construction
Job = tuple[Condition, int]


@dataclass(frozen=True)
class Rate:
    """In how many of some studies something was so."""

    count: int
    studies: int

    @property
    def share(self) -> float:
        """Return the share of the studies, 0 to 1."""
        return self.count / self.studies

    @property
    def interval(self) -> tuple[float, float]:
        """Return the exact 95 % interval of the probability (Clopper and Pearson, 1934)."""
        found = stats.binomtest(self.count, self.studies).proportion_ci(0.95, method="exact")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.share:.0f} % ({100 * low:.0f}–{100 * high:.0f})"


@dataclass(frozen=True)
class Counts:
    """What the rules said of all studies of one condition, with so many runs each.

    Attributes:
        condition: what is known.
        runs: of each study.
        findings: how many studies came to each finding.
    """

    condition: Condition
    runs: int
    findings: Mapping[str, int]

    @property
    def rates(self) -> dict[str, Rate | None]:
        """Return how many studies are right, find the wrong direction, and are neither; None where nothing is known.

        Of a null, in which nothing differs, "equivalent" is right and any direction is wrong. Nothing is known of a
        mixture: undecided are the studies that name no direction.
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
        """Return the counts as words, with 95 % intervals."""
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
class Power:
    """How often rules are right, wrong and undecided where the answer is known.

    Attributes:
        rules: which.
        draws: of families in which something is drawn.
        seed: of everything.
        counts: for each condition and number of runs, the runs ascending.
    """

    rules: Rules
    draws: int
    seed: int
    counts: tuple[Counts, ...]

    def sentences(self) -> list[str]:
        """Return a sentence for each condition with a known answer: what the rules find with the most runs."""
        said = []
        for condition in dict.fromkeys(each.condition for each in self.counts if each.condition.truth):
            own = [each for each in self.counts if each.condition == condition]
            row = own[-1].row
            where, wrong = f"({row['activation']}, strength {row['strength']})", row["wrong direction"]
            what = f"With {row['runs']} runs these rules find"
            if condition.null:
                said.append(f"{what} a difference that isn't there {where} in {wrong} of studies.")
                continue
            enough = [each.runs for each in own if (rate := each.rates["right"]) and rate.share >= FOUND]
            needed = f"{enough[0]} runs are enough" if enough else "no number of runs tried was enough"
            said.append(
                f"{what} planted {row['mechanism']} {where} in {row['right']} of studies and the wrong direction in "
                f"{wrong}; {needed} for {100 * FOUND:.0f} %."
            )
        return said

    def save(self, folder: str | Path) -> Path:
        """Write rules, settings, counts and the rows of the table into a folder, as power.json; return the file.

        Raises:
            InputError: the folder can't be written.
        """
        path = make_folder(Path(folder)) / "power.json"
        kept = asdict(self) | {"table": [each.row for each in self.counts]}
        write_text(path, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
        return path


def overall_findings(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Return how many verdicts, each on one network, came to each overall finding; sorted by its name."""
    return dict(sorted(Counter(map(_overall, verdicts)).items()))


def _overall(verdict: Verdict) -> str:
    return verdict.of(verdict.networks[0]).split(" (")[0] if verdict.networks else NO_COMPARISON


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
    advanced: Callable[[int], None] = lambda studies: None,
) -> Power:
    """Count how often rules are right on studies of planted networks, and how often they are wrong.

    For each activation and strength there are networks that measure distance, networks that match templates, networks
    that do half of each, and a null: one family measured several times (`nearzero.mechanisms.studies`).

    Args:
        rules: the default ones if None.
        design: how often random families are drawn, and the conduct; families and targets are those of the rules.
        runs: how many runs a study has; several answers are counted on the same studies.
        strengths: distances between prototypes, in standard deviations of the noise (`prototype_task`).
        activations: "abs", "relu" or both.
        studies: of each condition.
        seed: of everything. Results don't depend on anything else, nor on the number of workers.
        workers: processes. With more than one, a script that calls this must be importable
            (``if __name__ == "__main__":``).
        advanced: called with how many studies more are done.

    Raises:
        InputError: no runs, fewer than the rules ask for, or other numbers that can't be.

    Example:
        >>> from nearzero.mechanisms import power
        >>> found = power(runs=(6,), activations=("abs",), studies=1)
        >>> found.counts[0].condition.name
        'distance, abs, strength 8'
    """
    rules, design = rules or Rules(), design or Design()
    _check(rules, runs, studies, seed, workers)
    families = (*rules.distance, *rules.intensity)
    conditions = [
        Condition(activation=name, strength=each, studies=studies, runs=max(runs), families=families, **kind)
        for each in dict.fromkeys(strengths)
        for name in dict.fromkeys(activations)
        for kind in KINDS
    ]
    design = Design(targets=rules.targets, draws=design.draws, conduct=design.conduct)
    numbers = sorted(set(runs))
    jobs = [(condition, study) for study in range(studies) for condition in conditions]
    found = {(condition, each): Counter[str]() for condition in conditions for each in numbers}
    judged = partial(_judged, rules=rules, design=design, seed=seed, runs=numbers)
    for condition, findings in _results(judged, jobs, workers):
        for each, finding in zip(numbers, findings, strict=True):
            found[condition, each][finding] += 1
        advanced(1)
    counts = (Counts(*key, dict(sorted(findings.items()))) for key, findings in found.items())
    return Power(rules, design.draws, seed, tuple(counts))


def _check(rules: Rules, runs: Sequence[int], studies: int, seed: int, workers: int) -> None:
    if not runs or min(runs) < rules.minimum_runs:
        raise InputError(f"runs must be at least {rules.minimum_runs} by these rules; got {list(runs)}")
    for name, value, least in (("studies", studies, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if value < least:
            raise InputError(f"{name} must be a whole number, at least {least}; got {value}")


def _judged(
    job: Job, *, rules: Rules, design: Design, seed: int, runs: Sequence[int]
) -> tuple[Condition, list[str]]:
    """Measure one study; return its condition, and the finding of its first runs for each number of them."""
    condition, study = job
    try:
        responses = study_responses(condition, study, seed=seed, design=design, rules=rules, own_draws=True)
    except InputError:
        if condition.mechanism != "mixed":
            raise
        return condition, [TOO_HARD] * len(runs)
    first = (responses.isel(run=slice(0, number)) for number in runs)
    return condition, [_overall(judge(each, rules)) for each in first]


def _results(
    judged: Callable[[Job], tuple[Condition, list[str]]], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[Condition, list[str]]]:
    """Yield results in whatever order they come."""
    if workers == 1:
        yield from map(judged, jobs)
        return
    with _ignoring_interrupts():  # which the processes inherit: an interruption ends them from here
        pool = multiprocessing.get_context("spawn").Pool(min(workers, len(jobs)))
    with pool:
        yield from pool.imap_unordered(judged, jobs)


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # it can't set signals
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
