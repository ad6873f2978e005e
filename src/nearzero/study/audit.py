"""The step that measures the faults of the published study on a study's own networks.

Like the other steps it does only what is missing. Networks are read from their files and measured one by one;
nothing is trained. `nearzero.paper.audit` draws the conclusions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import xarray as xr

from nearzero.errors import InputError
from nearzero.networks import TwoLayer
from nearzero.paper.audit.evidence import Other, gathered
from nearzero.paper.audit.measure import MEASURED, QUANTILE, measure, published_rows
from nearzero.study.data import DataSource
from nearzero.study.jobs import StudyJob, digest, forget, gather, results, run, study_jobs
from nearzero.study.journal import Journal
from nearzero.study.spec import Spec
from nearzero.study.store import Store, remedy
from nearzero.support.words import number_of
from nearzero.support.workers import HERE, Workers

__all__ = [
    "AuditJob",
    "audit_digest",
    "audit_networks",
    "check_levels",
    "check_swept",
    "measurements_of",
    "other_study",
]

# An audit names those of these keys in which a study with the other pixels differs beyond its pixels.
TRAINING = ("data", "units", "runs", "first_seed", "learning_rate", "steps", "batch_size", "precision")


@dataclass(frozen=True)
class AuditJob(StudyJob):
    """The measurements of an audit for one run."""

    def measured(self, network: TwoLayer) -> xr.Dataset:
        """Return the audit's measurements at the levels of the published tables' rows."""
        train, test = (
            (self.examples[split].pixels, self.examples[split].labels) for split in ("train", "test")
        )
        rows = published_rows(self.spec.families, self.spec.conduct)
        return measure(network, train, test, rows=rows, conduct=self.spec.conduct)


def measurements_of(store: Store) -> xr.Dataset | None:
    """Return the measurements of the audit; None if there are none, or they were made with another design.

    Raises:
        InputError: they aren't of the rows of the published tables, as those of a damaged file.
    """
    kept = store.read("audit")
    if kept is None or kept.attrs.get("design") != audit_digest(store.spec):
        return None
    rows, wanted = kept.sizes["row"], len(published_rows(store.spec.families, store.spec.conduct))
    if rows != wanted:
        path = store.folder / "audit.nc"
        raise InputError(f"{path} has {rows:,} rows, and not {wanted}; {remedy(store.folder, path.name)}")
    return kept


def audit_networks(store: Store, data: DataSource, journal: Journal, workers: Workers = HERE) -> None:
    """Measure every run of every network, and write the measurements."""
    spec, design = store.spec, audit_digest(store.spec)
    if measurements_of(store) is not None:
        journal.note("audit: nothing to do")
        return
    check_swept(store)
    jobs = study_jobs(AuditJob, store, data, "audit", design)
    journal.say(f"auditing {number_of(len(jobs), 'network')}")
    run(jobs, journal, doing="auditing", did="audited", workers=workers)
    whole = gather(results(jobs), gathered).assign_coords(seed=("run", list(spec.seeds)))
    store.write({"audit": whole.assign_attrs(design=design, **asdict(spec.conduct))})
    forget(jobs)


def check_swept(store: Store) -> None:
    """Refuse a study that can't be audited.

    Raises:
        InputError: it hasn't been swept yet, or has none of the paper's families.
    """
    if store.read("response") is None:
        raise InputError(f"{store.folder} hasn't been swept yet; run `nearzero sweep {store.folder}` first")
    spec = store.spec
    if not published_rows(spec.families, spec.conduct):
        raise InputError(
            f"the audit is about the families offset, scale and clip; this study has {', '.join(spec.families)}"
        )


def check_levels(store: Store, response: xr.Dataset, measured: xr.Dataset) -> None:
    """Refuse responses to scale at other levels than those of the audit, as those of a damaged file.

    Raises:
        InputError: they differ in number for a network.
    """
    if "scale" not in response.family.values or "scale_level" not in measured.dims:
        return
    values = response.accuracy.sel(family="scale")
    counts = values.notnull().any(["run", "split"]).sum("level").values.tolist()
    if wrong := [count for count in counts if count not in (0, measured.sizes["scale_level"])]:
        path = store.folder / "results.nc"
        raise InputError(
            f"{path} has scale at {wrong[0]} levels, and the audit at {measured.sizes['scale_level']}: one of them is "
            f"damaged; {remedy(store.folder, path.name)}"
        )


def audit_digest(spec: Spec) -> str:
    """Return a digest of the design of the measurements."""
    rows = [asdict(row) for row in published_rows(spec.families, spec.conduct)]
    return digest([rows, asdict(spec.conduct), list(MEASURED), QUANTILE])


class Trained(Protocol):
    """A study as an audit reads another one."""

    folder: Path
    spec: Spec

    @property
    def title(self) -> str: ...
    @property
    def history(self) -> xr.Dataset: ...


def other_study(spec: Spec, folder: Path, against: Trained) -> Other:
    """Return the part of an audit's evidence that comes from a study with the other pixels.

    Args:
        spec, folder: of the study that is audited.
        against: the other study.

    Raises:
        InputError: it has the same pixels, or isn't trained.
    """
    if spec.pixels == against.spec.pixels:
        raise InputError(
            f"{against.folder} and {folder} both have {spec.pixels} pixels; give a study with the other pixels"
        )
    differing = [key for key in TRAINING if getattr(spec, key) != getattr(against.spec, key)]
    return Other(against.title, against.history, tuple(differing))
