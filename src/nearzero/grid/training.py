"""The training of many studies as one lot of work: the jobs of all of them share the workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from nearzero.study import Study
from nearzero.study.data import DataSource
from nearzero.study.jobs import run
from nearzero.study.journal import Journal
from nearzero.study.steps import TrainJob, runs_together
from nearzero.study.store import Store
from nearzero.support.workers import Workers

__all__ = ["train_studies"]


def train_studies(studies: Sequence[tuple[Store, DataSource]], journal: Journal, workers: Workers) -> None:
    """Train the networks of several studies that aren't trained yet; all of their jobs are one lot of work.

    A study is begun or opened when its first job is needed, and is closed when its last one is done.

    Args:
        studies: as `Store.proposed` returns them, and their data.
        journal: for progress.
        workers: where the networks are trained.
    """
    held: dict[Path, _HeldStudy] = {}

    def jobs() -> Iterator[TrainJob]:
        for store, data in studies:
            stack, study = ExitStack(), _begun(store)
            own, finish = stack.enter_context(study.training(data, journal.console, workers))
            if own:
                held[own[0].folder] = _HeldStudy(stack, finish, len(own))
                yield from own
            else:
                stack.close()

    def completed(job: TrainJob) -> None:
        study = held[job.folder]
        study.left -= 1
        if not study.left:
            study.finish()
            held.pop(job.folder).stack.close()

    begun = [store.spec for store, _ in studies if not (store.folder / "results.nc").exists()]
    total = sum(spec.steps * len(runs) for spec in begun for _, runs in runs_together(spec, workers))
    try:
        run(
            jobs(),
            journal,
            doing="training",
            did="trained",
            workers=workers,
            total=total,
            completed=completed,
        )
    finally:
        for study in held.values():
            study.stack.close()


def _begun(store: Store) -> Study:
    """Return the study of a store; it is begun if there is none."""
    return Study(Store.create(store.folder, lambda rules: store.spec))


@dataclass
class _HeldStudy:
    """A study whose folder is held while it is trained: what ends its training, and the jobs that are left."""

    stack: ExitStack
    finish: Callable[[], None]
    left: int
