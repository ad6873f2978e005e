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

from scipy import stats

from nearzero.activations import ACTIVATIONS
from nearzero.errors import InputError
from nearzero.files import make_folder, write_text
from nearzero.matched import Design
from nearzero.mechanisms.conditions import Condition, study_responses
from nearzero.verdict import Rules, Verdict, judge

__all__ = ["Counts", "Power", "Rate", "overall_findings", "power"]

DIRECTIONS = ("distance costs more", "intensity costs more")
FOUND = 0.9  # of the studies: as often a planted mechanism should be found
SHARE = 0.5  # of distance in the mixtures
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
    def right(self) -> Rate | None:
        """Return how many say what is so; None for a mixture, of which nothing is known."""
        return None if self.condition.truth is None else self._rate([self.condition.truth])

    @property
    def wrong(self) -> Rate | None:
        """Return how many find the other direction; of a null, any direction. None for a mixture."""
        if self.condition.truth is None:
            return None
        false = [name for name in DIRECTIONS if name != self.condition.truth]
        return self._rate([*false, "mixed"] if self.condition.null else false)

    @property
    def undecided(self) -> Rate:
        """Return how many are neither right nor wrong; of a mixture, how many name no direction."""
        known = [self.right, self.wrong]
        decided = sum(each.count for each in known if each is not None)
        if self.condition.truth is None:
            decided = self._rate(DIRECTIONS).count
        studies = sum(self.findings.values())
        return Rate(studies - decided, studies)

    @property
    def what(self) -> str:
        """Return the mechanism, in words."""
        return {"": self.condition.mechanism, "one family": "null"}.get(
            self.condition.null, self.condition.null
        )

    def _rate(self, findings: Iterable[str]) -> Rate:
        return Rate(sum(self.findings.get(name, 0) for name in findings), sum(self.findings.values()))


@dataclass(frozen=True)
class Power:
    """How often rules are right, wrong and undecided where the answer is known.

    Attributes:
        rules: which.
        draws: of families in which something is drawn.
        seed: of everything.
        counts: for each condition and number of runs.
    """

    rules: Rules
    draws: int
    seed: int
    counts: tuple[Counts, ...]

    def table(self) -> list[dict[str, str]]:
        """Return a row for each condition and number of runs, as words, with 95 % intervals."""
        return [
            {
                "mechanism": each.what,
                "activation": ACTIVATIONS[each.condition.activation].label,
                "strength": f"{each.condition.strength:g}",
                "runs": str(each.runs),
                "studies": str(sum(each.findings.values())),
                "right": "–" if each.right is None else str(each.right),
                "wrong direction": "–" if each.wrong is None else str(each.wrong),
                "undecided": str(each.undecided),
                "findings": ", ".join(
                    f"{name.removesuffix(' costs more')} {count}" for name, count in each.findings.items()
                ),
            }
            for each in self.counts
        ]

    def sentences(self) -> list[str]:
        """Return what follows for each condition: how often the rules are right with the most runs, and the fewest."""
        said = []
        for condition in dict.fromkeys(each.condition for each in self.counts):
            own = [each for each in self.counts if each.condition == condition]
            most = max(own, key=lambda each: each.runs)
            if most.right is None or most.wrong is None:
                continue
            where = f"({ACTIVATIONS[condition.activation].label}, strength {condition.strength:g})"
            if condition.null:
                said.append(
                    f"With {most.runs} runs these rules find a difference that isn't there {where} in "
                    f"{most.wrong} of studies."
                )
                continue
            enough = [each.runs for each in own if each.right is not None and each.right.share >= FOUND]
            said.append(
                f"With {most.runs} runs these rules find planted {most.what} {where} in {most.right} of studies and "
                f"the wrong direction in {most.wrong}; "
                + (
                    f"{min(enough)} runs are enough for {100 * FOUND:.0f} %."
                    if enough
                    else f"no number of runs tried was enough for {100 * FOUND:.0f} %."
                )
            )
        return said

    def save(self, folder: str | Path) -> Path:
        """Write rules, settings and counts into a folder, as power.json; return the file.

        Raises:
            InputError: the folder can't be written.
        """
        rows = [
            {"condition": asdict(each.condition), "runs": each.runs, "findings": dict(each.findings)}
            | {
                name: None if rate is None else {"count": rate.count, "interval": rate.interval}
                for name, rate in (
                    ("right", each.right),
                    ("wrong", each.wrong),
                    ("undecided", each.undecided),
                )
            }
            for each in self.counts
        ]
        kept = {"rules": asdict(self.rules), "draws": self.draws, "seed": self.seed, "rows": rows}
        path = make_folder(Path(folder)) / "power.json"
        write_text(path, json.dumps(kept, indent=1) + "\n")
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
    advanced: Callable[[int, int], None] = lambda done, of: None,
) -> Power:
    """Count how often rules are right on studies of planted networks, and how often they are wrong.

    For each activation and strength there are networks that measure distance, networks that match templates, networks
    that do half of each, and a null: one family measured several times (`nearzero.mechanisms.one_family`).

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
        advanced: called with how many studies are done, and of how many.

    Raises:
        InputError: no runs, fewer than the rules ask for, or other numbers that can't be.

    Example:
        >>> from nearzero.mechanisms import power
        >>> found = power(runs=(6,), activations=("abs",), studies=1)
        >>> found.counts[0].undecided.studies
        1
    """
    rules, design = rules or Rules(), design or Design()
    _check(rules, runs, studies, seed, workers)
    conditions = [
        Condition(
            mechanism=mechanism,
            activation=activation,
            strength=strength,
            share=SHARE if mechanism == "mixed" else None,
            null=null,
            studies=studies,
            runs=max(runs),
            families=(*rules.distance, *rules.intensity),
        )
        for strength in dict.fromkeys(strengths)
        for activation in dict.fromkeys(activations)
        for mechanism, null in (("distance", ""), ("template", ""), ("mixed", ""), ("template", "one family"))
    ]
    design = Design(targets=rules.targets, draws=design.draws, conduct=design.conduct)
    numbers = sorted(set(runs))
    jobs = [(condition, study) for study in range(studies) for condition in conditions]
    found: dict[tuple[Condition, int], Counter[str]] = {
        (condition, each): Counter() for condition in conditions for each in numbers
    }
    judged = partial(_judged, rules=rules, design=design, seed=seed, runs=numbers)
    for done, (condition, findings) in enumerate(_results(judged, jobs, workers), 1):
        for each, finding in zip(numbers, findings, strict=True):
            found[condition, each][finding] += 1
        advanced(done, len(jobs))
    counts = (
        Counts(condition, each, dict(sorted(findings.items())))
        for (condition, each), findings in found.items()
    )
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
