"""The step that measures every run of a study at matched displacement, for the verdict.

Like the other steps it does only what is missing. There are three groups of results: responses at matched
displacement, on which the verdict rests; on request, the same for the networks before their first step, which
shows what isn't learned, and the effects near zero and far from it (`nearzero.analysis.near_far`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import xarray as xr

from nearzero.analysis.matched import HELD_OUT, matched
from nearzero.analysis.near_far import near_and_far
from nearzero.evaluators.base import EARLIER_HALVES
from nearzero.networks import TwoLayer
from nearzero.study.data import DataSource
from nearzero.study.jobs import StudyJob, apply, digest, forget, gather, results, run, study_jobs
from nearzero.study.journal import Journal
from nearzero.study.spec import Spec
from nearzero.study.store import Store
from nearzero.support.threads import thread_count
from nearzero.support.words import number_of
from nearzero.support.workers import HERE, Workers

__all__ = ["AnalysisJob", "analyse_networks", "analysis_of", "design_digest", "measured_for"]

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
        examples, design = self.examples["train"], self.spec.design_of(self.network, self.run)
        x, y = examples.pixels, examples.labels
        if self.group == "parts":
            responses = near_and_far(
                network, x, y, targets=design.targets, draws=design.draws, seed=design.draw_seed
            )
        else:
            held_out = None
            if self.group == "untrained":
                design = replace(design, families=self.spec.deciding, checks=(), checked=())
            elif HELD_OUT in self.spec.verdict_checks:
                held_out = (self.examples["test"].pixels, self.examples["test"].labels)
            responses = matched(network, x, y, design=design, held_out=held_out, threads=1)
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
    if results is None or results.attrs.get("design") != design_digest(spec or store.spec):
        return None
    results.attrs.setdefault("halves", EARLIER_HALVES)  # files without it are older than the attribute
    return results


def analyse_networks(
    store: Store,
    data: DataSource,
    journal: Journal,
    workers: Workers = HERE,
    groups: Sequence[str] = ("matched",),
) -> None:
    """Measure every run of every network, for each of the groups that is missing, and write them."""
    spec, design = store.spec, design_digest(store.spec)
    kept = {group: known for group in GROUPS if (known := analysis_of(store, group)) is not None}
    wanted = [group for group in groups if group not in kept]
    if not wanted:
        journal.note("analysis: nothing to do")
        return
    done: list[AnalysisJob] = []
    for group in wanted:
        jobs = study_jobs(partial(AnalysisJob, group=group), store, data, group, design)
        journal.say(f"measuring {number_of(len(jobs), 'network')}: {GROUPS[group]}")
        did, threads = f"measured, {group}", thread_count()
        run(jobs, journal, doing="measuring", did=did, threads=threads, workers=workers)
        whole = gather(results(jobs)).assign_coords(seed=("run", list(spec.seeds)))
        kept[group] = whole.assign_attrs(design=design, **asdict(spec.conduct))
        done += jobs
    store.write(kept)
    forget(done)


def measured_for(
    spec: Spec, store: Store, data: DataSource, journal: Journal, workers: Workers = HERE
) -> xr.Dataset:
    """Return responses at matched displacement for a spec with other rules than the study's; write nothing.

    Raises:
        InputError: the study isn't trained yet, or all runs diverged.
    """
    own = study_jobs(partial(AnalysisJob, group="matched"), store, data, "matched")
    jobs = [replace(job, spec=spec) for job in own]
    journal.say(f"measuring {number_of(len(jobs), 'network')}: {GROUPS['matched']}, for this question alone")
    measured: dict[str, list[xr.Dataset | None]] = {network: [] for network in spec.activations}
    found = apply(
        AnalysisJob.measure, jobs, journal, doing="measuring", threads=thread_count(), workers=workers
    )
    for job, responses in zip(jobs, found, strict=True):
        measured[job.network].append(responses)
    return gather(measured).assign_coords(seed=("run", list(spec.seeds)))


def design_digest(spec: Spec) -> str:
    """Return a digest of the design of the measurements."""
    values = asdict(spec.design)
    extra = {
        "held_out": HELD_OUT in spec.verdict_checks,
        **{key: values.pop(key) for key in ("checks", "checked")},
    }
    return digest(
        values | {key: value for key, value in extra.items() if value}
    )  # as for studies without checks
