"""`WorkPlan`: the steps of work that isn't done yet, with time from a pilot, memory and disk."""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nearzero.study.jobs import Job
from nearzero.study.spec import Spec
from nearzero.support.memory import limited_memory, memory_text
from nearzero.support.threads import limited_threads, one_blas_thread
from nearzero.support.workers import Workers

__all__ = ["PlannedStep", "WorkPlan", "planned", "trained_size", "work_plan"]

PILOTS = 2  # jobs of a step of which a part is done, where jobs differ
MINUTE, HOUR = 60, 3600


@dataclass(frozen=True)
class PlannedStep:
    """One step of the work: jobs of one kind.

    Attributes:
        name: of the step.
        jobs: the number of all its jobs.
        done: the number of those that are done.
        seconds: that the jobs that are left take, one after the other; None if it isn't known.
        at_once: the number of jobs at the same time.
        threads: of each job.
        memory: the bytes that each job may take beyond Python and the data.
        disk: the bytes that its files will take; those that are removed when the step is done count too.
        note: a sentence on its time, if that doesn't come from parts of jobs; else "".
    """

    name: str
    jobs: int
    done: int
    seconds: float | None
    at_once: int
    threads: int
    memory: int
    disk: int
    note: str = ""

    @property
    def left(self) -> float | None:
        """Return the expected time of the step, in seconds; None if it isn't known."""
        if self.done == self.jobs:
            return 0.0
        if self.seconds is None:
            return None
        left = self.jobs - self.done
        rounds = -(-left // self.at_once)  # the last workers wait for each other
        return self.seconds / left * rounds


@dataclass(frozen=True)
class WorkPlan:
    """The work that a study or a grid would do, and about what it takes; nothing of it is done.

    Attributes:
        title: of the study or the grid.
        steps: the steps in their order.
        process: the bytes of memory that this process took at most, pilots included: about what a worker takes.
        free: the bytes that are free on the disk of the folder.

    Example:
        >>> import tempfile
        >>> import nearzero as nz
        >>> with tempfile.TemporaryDirectory() as place:
        ...     study = nz.Study.create(f"{place}/digits", "quick", {"data": "digits", "runs": 2, "steps": 100})
        ...     plan = study.plan()
        >>> [(step.name, step.jobs, step.done) for step in plan.steps]
        [('train', 1, 0), ('sweep', 4, 0)]
    """

    title: str
    steps: tuple[PlannedStep, ...]
    process: int
    free: int

    @property
    def seconds(self) -> float | None:
        """Return the expected time of all steps; None if that of one isn't known."""
        left = [step.left for step in self.steps]
        return None if None in left else sum(seconds for seconds in left if seconds is not None)

    def rows(self) -> list[dict[str, str]]:
        """Return the plan as a table of texts, a row for each step."""
        return [
            {
                "step": step.name,
                "jobs": f"{step.jobs:,}",
                "done": f"{step.done:,}",
                "at once": f"{step.at_once}",
                "threads each": f"{step.threads}",
                "time left": _time_text(step.left),
                "memory each": f"up to {memory_text(step.memory)}",
                "disk": memory_text(step.disk),
            }
            for step in self.steps
        ]

    def sentences(self) -> list[str]:
        """Return what the table doesn't say: the whole time, memory and disk."""
        needed = sum(step.disk for step in self.steps)
        notes = [step.note for step in self.steps if step.note]
        source = "from parts of jobs done here; tables and figures come on top"
        lines = [
            f"Expected time: {_time_text(self.seconds)}{'' if self.seconds is None else f', {source}'}.",
            *notes,
            f"A worker takes about {memory_text(self.process)} for Python, data and kernels; that of its job comes on "
            "top.",
        ]
        if needed > self.free:
            lines.append(f"The disk has {memory_text(self.free)} free: too little for {memory_text(needed)}.")
        return lines


def planned(
    name: str,
    jobs: Sequence[Job],
    workers: Workers,
    *,
    at_once: int,
    threads: int,
    disk: int = 0,
    finished: int = 0,
) -> PlannedStep:
    """Return a step of these jobs, with the time that a part of some of them takes now.

    Args:
        name: of the step.
        jobs: the jobs of the step, but those of finished parts.
        workers: where they would be done.
        at_once, threads: the number of jobs at the same time, and of threads of each, without an executor.
        disk: the bytes of its results.
        finished: the number of jobs of finished parts, whose files are removed.
    """
    if workers.executor is not None:
        at_once, threads = workers.at_once, workers.limits.threads or 1
    left = [job for job in jobs if not job.done]
    memory = workers.memory_of(at_once)
    with limited_threads(threads), limited_memory(memory), one_blas_thread():
        seconds = _seconds(left)
    at_once = max(1, min(at_once, len(left)))
    number = len(jobs) + finished
    return PlannedStep(name, number, number - len(left), seconds, at_once, threads, memory, disk)


def _seconds(jobs: Sequence[Job]) -> float | None:
    """Return the time that jobs take together, from pilots of the first and the last kind of them."""
    kinds = list(dict.fromkeys(job.kind for job in jobs))
    if not kinds:
        return 0.0
    places = sorted({round(place) for place in np.linspace(0, len(kinds) - 1, PILOTS)})
    chosen = [next(job for job in jobs if job.kind == kinds[place]) for place in places]
    pilots = [(job.pilot(warm=place > 0), job.size) for place, job in enumerate(chosen)]
    rates = [seconds / size for seconds, size in pilots if seconds is not None]
    if len(rates) < len(pilots):
        return None
    of_kind = np.interp(np.arange(len(kinds)), places, rates)
    known: Mapping[str, float] = dict(zip(kinds, of_kind.tolist(), strict=True))
    return float(sum(known[job.kind] * job.size for job in jobs))


def work_plan(title: str, folder: Path, steps: Sequence[PlannedStep]) -> WorkPlan:
    """Return the plan of steps of work in a folder, which needn't exist yet."""
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return WorkPlan(title, tuple(steps), peak, shutil.disk_usage(place).free)


def trained_size(spec: Spec, inputs: int, classes: int) -> int:
    """Return the bytes of the networks of a study at most: all checkpoints, and the state of their training."""
    weights = 4 * (spec.units * (inputs + 1) + classes * (spec.units + 1))
    kept = 2 + (len(spec.thresholds) + 1 if spec.keep_checkpoints else 0)
    return len(spec.activations) * spec.runs * kept * weights


def _time_text(seconds: float | None) -> str:
    """Return a duration in words."""
    if seconds is None:
        return "unknown"
    if seconds < 1:
        return "0 s" if not seconds else "under 1 s"
    for unit, length in (("h", HOUR), ("min", MINUTE)):
        if seconds >= 2 * length:
            return f"about {seconds / length:.0f} {unit}"
    return f"about {seconds:.0f} s"
