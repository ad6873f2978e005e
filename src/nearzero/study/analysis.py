"""The step that measures every run of a study at matched displacement, for the verdict.

Like the other steps it does only what is missing. There are three groups of results: responses at matched
displacement, on which the verdict rests; the same for the networks before their first step, which shows what
isn't learned; and the effects near zero and far from it (`nearzero.analysis.near_far`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial

import xarray as xr

from nearzero.analysis.matched import matched
from nearzero.analysis.near_far import near_and_far
from nearzero.evaluators.base import EARLIER_HALVES
from nearzero.networks import TwoLayer
from nearzero.study.data import DataSource
from nearzero.study.jobs import Results, StudyJob, digest, forget, gather, results, run, study_jobs
from nearzero.study.journal import Journal
from nearzero.study.spec import Spec
from nearzero.study.store import Store

__all__ = ["AnalysisJob", "analyse_networks", "analysis_of", "measured_for"]

# Groups of results, and their descriptions for the log.
GROUPS = {
    "matched": "responses at matched displacement",
    "untrained": "the same before their first step",
    "parts": "near zero against far out",
}


@dataclass(frozen=True)
class AnalysisJob(StudyJob):
    """The measurement of one group of results of one run.

    Attributes:
        group: one of `GROUPS`.
    """

    group: str

    def subject(self) -> TwoLayer:
        """Return the network to be measured: trained, or before its first step for the group "untrained"."""
        if self.group != "untrained":
            return super().subject()
        return self.data.initial(self.spec, self.network, [self.spec.seeds[self.run]])[0]

    def measured(self, network: TwoLayer) -> xr.Dataset:
        """Return the network's responses on the training set."""
        examples, design = self.examples["train"], self.spec.design_of(self.run)
        x, y = examples.pixels, examples.labels
        if self.group == "parts":
            responses = near_and_far(
                network, x, y, targets=design.targets, draws=design.draws, seed=design.draw_seed
            )
        else:
            if self.group == "untrained":
                design = replace(design, families=self.spec.deciding)
            responses = matched(network, x, y, design=design)
        differing = ("seed", "first_draw")  # runs differ in these, so they can't be attributes of all runs
        kept = {
            key: value
            for key, value in responses.attrs.items()
            if isinstance(value, str | int | float) and key not in differing
        }
        return responses.drop_attrs(deep=False).assign_attrs(kept)


def analysis_of(store: Store, group: str, spec: Spec | None = None) -> xr.Dataset | None:
    """Return a group of results; None if it is missing, or was measured with another design.

    Args:
        store: the files of the study.
        group: one of `GROUPS`.
        spec: the spec that has the design; the study's own if None.
    """
    results = store.read(group)
    if results is None or results.attrs.get("design") != _design(spec or store.spec):
        return None
    results.attrs.setdefault("halves", EARLIER_HALVES)  # files without it are older than the attribute
    return results


def analyse_networks(store: Store, data: DataSource, journal: Journal) -> None:
    """Measure every run of every network, group by group, and write all groups."""
    spec, design = store.spec, _design(store.spec)
    groups = {group: kept for group in GROUPS if (kept := analysis_of(store, group)) is not None}
    if len(groups) == len(GROUPS):
        journal.note("analysis: nothing to do")
        return
    done: list[AnalysisJob] = []
    for group in [group for group in GROUPS if group not in groups]:
        jobs = study_jobs(partial(AnalysisJob, group=group), store, data, group, design)
        journal.say(f"measuring {len(jobs)} networks: {GROUPS[group]}")
        run(jobs, journal, doing="measuring", did=f"measured, {group}")
        whole = gather(results(jobs)).assign_coords(seed=("run", list(spec.seeds)))
        groups[group] = whole.assign_attrs(design=design, **asdict(spec.conduct))
        done += jobs
    store.write(groups)
    forget(done)


def measured_for(spec: Spec, store: Store, data: DataSource, journal: Journal) -> xr.Dataset:
    """Return responses at matched displacement for a spec with other rules than the study's; write nothing.

    Raises:
        InputError: the study isn't trained yet, or all runs diverged.
    """
    own = study_jobs(partial(AnalysisJob, group="matched"), store, data, "matched")
    jobs = [replace(job, spec=spec) for job in own]
    journal.say(f"measuring {len(jobs)} networks: {GROUPS['matched']}, for this question alone")
    measured: Results = {network: [] for network in spec.activations}
    with journal.bar("measuring", len(jobs)) as bar:
        for done, job in enumerate(jobs, 1):
            measured[job.network].append(job.measure())
            bar(done)
    return gather(measured).assign_coords(seed=("run", list(spec.seeds)))


def _design(spec: Spec) -> str:
    """Return a digest of the design of the measurements."""
    return digest(asdict(spec.design))
