"""The plan of a grid: the training of the networks of all points, and their measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from nearzero.grid.networks import DeepJob, Networks, grid_jobs
from nearzero.grid.spec import GridSpec
from nearzero.study.data import DataSource
from nearzero.study.jobs import Job
from nearzero.study.journal import Journal
from nearzero.study.plan import PlannedStep, WorkPlan, planned, trained_size, work_plan
from nearzero.study.spec import spec_digest
from nearzero.study.steps import runs_together, training_jobs
from nearzero.support.threads import thread_count
from nearzero.support.workers import Workers

if TYPE_CHECKING:
    from nearzero.grid.own.runs import TrainingJob
    from nearzero.grid.own.source import OwnNetworks  # with PyTorch, which other grids don't need

__all__ = ["plan_grid", "plan_own"]


def plan_grid(
    spec: GridSpec,
    title: str,
    folder: Path,
    networks: Networks,
    data: Mapping[str, DataSource],
    workers: Workers,
    *,
    measured: bool,
) -> WorkPlan:
    """Return the plan of a grid; nothing is written.

    Args:
        spec, title, folder: of the grid.
        networks: the folder of its networks.
        data: by the name in a point's spec.
        workers: where the jobs would be done.
        measured: whether all networks are measured already.
    """
    points = () if measured else spec.points
    jobs = [
        job
        for point in points
        for activation in point.spec.activations
        for job in grid_jobs(spec, folder, networks, point, activation, data[point.spec.data])
    ]
    count = sum(len(point.spec.activations) * point.spec.runs for point in spec.points)
    options = {"at_once": 1, "threads": thread_count(), "finished": count if measured else 0}
    return work_plan(
        title, folder, (_train(spec, networks, data, workers), planned("measure", jobs, workers, **options))
    )


def plan_own(
    title: str, folder: Path, networks: OwnNetworks, workers: Workers, *, measured: bool
) -> WorkPlan:
    """Return the plan of a grid of a user's own networks; nothing is written.

    No part of a training can be done: its time is that of trainings that are done.

    Args:
        title, folder: of the grid.
        networks: the networks.
        workers: where the jobs would be done.
        measured: whether all networks are measured already.

    Raises:
        InputError: functions, data or layers can't be used.
    """
    networks.check()
    trainings, jobs = networks.trainings(), [] if measured else networks.jobs()
    options = {"at_once": 1, "threads": 1}
    finished = len(trainings) if measured else 0
    train = planned("train", [] if measured else trainings, workers, **options, finished=finished)
    if train.done < train.jobs and train.seconds is None:
        train = _timed(train, trainings)
    measure = planned("measure", jobs, workers, **options, finished=finished)
    return work_plan(title, folder, (train, measure))


def _timed(train: PlannedStep, trainings: Sequence[TrainingJob]) -> PlannedStep:
    """Return the training with the time that it took where it is done: at the same point, or else at the others."""
    known = [(job.network, seconds) for job in trainings if (seconds := job.seconds) is not None]
    if not known:
        note = "The time of training isn't known before one network is trained; no part of it can be done."
        return replace(train, note=note)
    mean = fmean(seconds for _, seconds in known)
    of_point = {point: fmean(seconds for name, seconds in known if name == point) for point, _ in known}
    left = sum(of_point.get(job.network, mean) for job in trainings if not job.done)
    count = "the training" if len(known) == 1 else f"the {len(known)} trainings"
    return replace(train, seconds=left, note=f"The time of training is that of {count} done so far.")


def _train(
    spec: GridSpec, networks: Networks, data: Mapping[str, DataSource], workers: Workers
) -> PlannedStep:
    """Return the training of the networks that aren't trained; points can share those of one study."""
    jobs: list[Job] = []
    finished = disk = 0
    for point in {(spec_digest(point.spec), point.layers): point for point in spec.points}.values():
        own, source = point.spec, data[point.spec.data]
        loaded = source.load()
        disk += trained_size(own, loaded.train.pixels.shape[1], loaded.classes)
        if point.layers is not None:
            pairs = [(name, run) for name in own.activations for run in range(own.runs)]
            jobs += [DeepJob(networks.folder, name, run, point, source) for name, run in pairs]
            continue
        left = training_jobs(networks.store(own), source, Journal.unlogged(None), workers)
        finished += 0 if left else len(runs_together(own, workers))
        jobs += left
    at_once = thread_count() if any(point.layers is not None for point in spec.points) else 1
    threads = 1 if at_once > 1 else thread_count()
    options = {"at_once": at_once, "threads": threads, "disk": disk, "finished": finished}
    return planned("train", jobs, workers, **options)
