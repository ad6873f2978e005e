"""The audit of the paper: each fault of the published study with its measured effect, and what its sentences are worth.

`measure` takes the numbers of one network, `evidence` gathers them over runs and adds a study's results, `faults` and
`rows` set what was published, as run and put right beside each other, `sentences` decides by rules. It reads no
files; a study does that, and hands it what is needed.
"""

from dataclasses import asdict

from nearzero.audit.evidence import Evidence, Other, gathered
from nearzero.audit.faults import entries
from nearzero.audit.measure import MEASURED, QUANTILE, as_dataset, measure, published_rows
from nearzero.audit.rows import level_rows
from nearzero.audit.sentences import sentences
from nearzero.audit.values import FAULTS, Audit, Entry, LevelRow, Sentence
from nearzero.families import Conduct

__all__ = [
    "FAULTS",
    "MEASURED",
    "QUANTILE",
    "Audit",
    "Entry",
    "Evidence",
    "LevelRow",
    "Other",
    "Sentence",
    "as_dataset",
    "audit",
    "gathered",
    "measure",
    "published_rows",
]


def audit(evidence: Evidence) -> Audit:
    """Everything the evidence says."""
    rows, conduct = level_rows(evidence), asdict(evidence.conduct)
    other = [f"{name}={value}" for name, value in conduct.items() if value != getattr(Conduct(), name)]
    notices = evidence.notices
    if other:
        notices += (f"as run is this study's conduct, which isn't the published one: {', '.join(other)}",)
    return Audit(
        title=evidence.title,
        entries=entries(evidence, rows),
        levels=rows,
        sentences=sentences(evidence, rows),
        margin=evidence.margin,
        notices=notices,
    )
