"""The audit of the paper: the measured effect of each fault of the published study, and a verdict on each sentence.

`measure` measures one network. `evidence` gathers the measurements over runs, adds the study's own results,
and makes the rows of the published tables: as published, as run, and put right. `faults` does the same fault
by fault, and `sentences` decides by rules. No module here reads files: a study passes in what is needed.
"""

from dataclasses import asdict

from nearzero.paper.audit.evidence import Evidence
from nearzero.paper.audit.faults import entries
from nearzero.paper.audit.sentences import sentences
from nearzero.paper.audit.values import Audit
from nearzero.perturbations.families import Conduct

__all__ = ["audit"]


def audit(evidence: Evidence) -> Audit:
    """Return the audit that follows from the evidence."""
    conduct = asdict(evidence.conduct)
    differing = [f"{name}={value}" for name, value in conduct.items() if value != getattr(Conduct(), name)]
    notices = evidence.notices
    if differing:
        notices += (f"as run is this study's conduct, which isn't the published one: {', '.join(differing)}",)
    if evidence.departures:
        notices += (f"no published number stands beside these: {'; '.join(evidence.departures)}",)
    return Audit(
        title=evidence.title,
        entries=entries(evidence),
        levels=evidence.levels,
        sentences=sentences(evidence),
        margin=evidence.margin,
        notices=notices,
    )
