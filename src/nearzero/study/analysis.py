"""The step that measures what a verdict rests on, and what stands beside it, for every run of a study.

Like the other steps it looks at what is there and does what is missing. Three groups: responses at matched
displacement; the same of the untrained networks, the runs before their first step, for what they show isn't learned;
and near zero against far out (`nearzero.analysis.near_far`).
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
from nearzero.study.jobs import StudyJob, digest, forget, gather, results, run, study_jobs
from nearzero.study.journal import Journal
from nearzero.study.spec import Spec
from nearzero.study.store import Store

__all__ = ["AnalysisJob", "analyse_networks", "analysis_of"]

GROUPS = {
    "matched": "responses at matched displacement",
    "untrained": "the same before their first step",
    "parts": "near zero against far out",
}


@dataclass(frozen=True)
class AnalysisJob(StudyJob):
    """One group of the analysis, of one run.

    Attributes:
        group: one of `GROUPS`.
    """

    group: str

    def subject(self) -> TwoLayer:
        """Return the network that is measured: the trained one, or the same before its first step."""
        if self.group != "untrained":
            return super().subject()
        return self.data.initial(self.spec, self.network, [self.spec.seeds[self.run]])[0]

    def measured(self, network: TwoLayer) -> xr.Dataset:
        """Return its responses, on the training set."""
        examples, design = self.examples["train"], self.spec.design_of(self.run)
        x, y = examples.pixels, examples.labels
        if self.group == "parts":
            found = near_and_far(
                network, x, y, targets=design.targets, draws=design.draws, seed=design.draw_seed
            )
        else:
            if self.group == "untrained":
                design = replace(design, families=self.spec.deciding)
            found = matched(network, x, y, design=design)
        of_runs = ("seed", "first_draw")  # in which they differ
        kept = {
            key: value
            for key, value in found.attrs.items()
            if isinstance(value, str | int | float) and key not in of_runs
        }
        return found.drop_attrs(deep=False).assign_attrs(kept)


def analysis_of(store: Store, group: str) -> xr.Dataset | None:
    """Return a group of the analysis; None if there is none, or one of another design than the spec asks for."""
    found = store.read(group)
    if found is None or found.attrs.get("design") != _design(store.spec):
        return None
    found.attrs.setdefault("halves", EARLIER_HALVES)
    return found


def analyse_networks(store: Store, data: DataSource, journal: Journal) -> None:
    """Measure every run of every network, group by group: "matched", "untrained" and "parts"; ends with all on disk."""
    spec, design = store.spec, _design(store.spec)
    found = {group: there for group in GROUPS if (there := analysis_of(store, group)) is not None}
    if len(found) == len(GROUPS):
        journal.note("analysis: nothing to do")
        return
    done: list[AnalysisJob] = []
    for group in [group for group in GROUPS if group not in found]:
        jobs = study_jobs(partial(AnalysisJob, group=group), store, data, group, design)
        journal.say(f"measuring {len(jobs)} networks: {GROUPS[group]}")
        run(jobs, journal, doing="measuring", did=f"measured, {group}")
        whole = gather(results(jobs)).assign_coords(seed=("run", list(spec.seeds)))
        found[group] = whole.assign_attrs(design=design, **asdict(spec.conduct))
        done += jobs
    store.write(found)
    forget(done)


def _design(spec: Spec) -> str:
    """Return a digest of what is measured."""
    return digest(asdict(spec.design))
