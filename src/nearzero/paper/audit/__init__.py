"""The audit of the paper: each fault of the published study with its measured effect, and what its sentences are worth.

`measure` takes the numbers of one network, `evidence` gathers them over runs, adds a study's results and sets what
was published, as run and put right beside each other, row by row; `faults` does so fault by fault, `sentences` decides
by rules. It reads no files; a study does that, and hands it what is needed.
"""

from dataclasses import asdict

from nearzero.paper.audit.evidence import Evidence
from nearzero.paper.audit.faults import entries
from nearzero.paper.audit.sentences import sentences
from nearzero.paper.audit.values import Audit
from nearzero.perturbations.families import Conduct

__all__ = ["audit"]


def audit(evidence: Evidence) -> Audit:
    """Return everything that the evidence says."""
    conduct = asdict(evidence.conduct)
    other = [f"{name}={value}" for name, value in conduct.items() if value != getattr(Conduct(), name)]
    notices = evidence.notices
    if other:
        notices += (f"as run is this study's conduct, which isn't the published one: {', '.join(other)}",)
    return Audit(
        title=evidence.title,
        entries=entries(evidence),
        levels=evidence.levels,
        sentences=sentences(evidence),
        margin=evidence.margin,
        notices=notices,
    )
