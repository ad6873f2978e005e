"""The plan of a study: its steps, as far as they were asked for, and what is done already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from nearzero.errors import check_choice
from nearzero.perturbations.families import make_family
from nearzero.study.analysis import AnalysisJob, analysis_of, design_digest
from nearzero.study.audit import AuditJob, audit_digest, measurements_of
from nearzero.study.data import DataSource
from nearzero.study.jobs import StudyJob, study_jobs
from nearzero.study.journal import Journal
from nearzero.study.plan.plan import PlannedStep, WorkPlan, planned, trained_size, work_plan
from nearzero.study.steps import SweepJob, runs_together, training_jobs
from nearzero.study.store import PAGE, Store
from nearzero.support.threads import thread_count
from nearzero.support.workers import Workers

__all__ = ["done_of", "plan_study"]

STEPS = ("train", "sweep", "matched", "untrained", "parts", "audit")
METRICS = 2  # accuracy and agreement


def done_of(store: Store) -> tuple[str, ...]:
    """Return what is done in a study, in words.

    Raises:
        InputError: a file is damaged.
    """
    groups = {
        "trained": store.read("history") is not None,
        "swept": store.read("response") is not None,
        "verdict": analysis_of(store, "matched") is not None,
        "verdict before training": analysis_of(store, "untrained") is not None,
        "near and far": analysis_of(store, "parts") is not None,
        "audit": measurements_of(store) is not None,
        "page": (store.folder / PAGE).is_file(),
    }
    return tuple(words for words, is_there in groups.items() if is_there)


def plan_study(
    store: Store, title: str, data: DataSource, workers: Workers, names: Sequence[str]
) -> WorkPlan:
    """Return the plan of some steps of a study; nothing is written.

    Args:
        store, title, data: of the study.
        workers: where the jobs would be done.
        names: of `STEPS`.

    Raises:
        InputError: an unknown step.
    """
    for name in names:
        check_choice("step", name, STEPS)
    steps = [
        _train(store, data, workers) if name == "train" else _measure(store, data, workers, name)
        for name in names
    ]
    return work_plan(title, store.folder, steps)


def _train(store: Store, data: DataSource, workers: Workers) -> PlannedStep:
    loaded = data.load()
    disk = trained_size(store.spec, loaded.train.pixels.shape[1], loaded.classes)
    jobs = training_jobs(store, data, Journal.unlogged(None), workers)
    options: dict[str, Any] = {"at_once": 1, "threads": thread_count(), "disk": disk}
    finished = 0 if jobs else len(runs_together(store.spec, workers))
    return planned("train", jobs, workers, **options, finished=finished)


def _measure(store: Store, data: DataSource, workers: Workers, name: str) -> PlannedStep:
    spec, kind, design = store.spec, _kind(name), ""
    if name == "sweep":
        finished = store.read("response") is not None
    elif name == "audit":
        finished, design = measurements_of(store) is not None, audit_digest(spec)
    else:
        finished, design = analysis_of(store, name) is not None, design_digest(spec)
    count = len(spec.activations) * spec.runs
    group = "response" if name == "sweep" else name
    jobs = [] if finished else study_jobs(kind, store, data, group, design, trained=False)
    levels = sum(len(make_family(family, spec.conduct).levels) for family in spec.families)
    disk = count * levels * METRICS * (2 if spec.test else 1) * 8
    # the audit measures one network after the other
    at_once = 1 if name == "audit" else min(thread_count(), count)
    threads = thread_count() if at_once == 1 else 1
    return planned(
        name, jobs, workers, at_once=at_once, threads=threads, disk=disk, finished=count if finished else 0
    )


def _kind(name: str) -> Callable[..., StudyJob]:
    if name == "sweep":
        return SweepJob
    return AuditJob if name == "audit" else partial(AnalysisJob, group=name)
