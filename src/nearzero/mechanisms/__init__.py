"""Networks whose mechanism is known because it was planted: what the verdict is validated on.

Both mechanisms solve one task, to tell examples of equally distant prototypes apart (`tasks`). Either each class has
units that measure the distance to its prototype and the smallest activation wins, or units that match a template
and the largest wins, or both have a share (`planted`). `nulls` makes studies in which neither costs more, by
construction; `studies` measures networks for `nearzero.verdict.judge`. `conditions` puts these together, and `power`
counts how often given rules are right. The proofs, and what the verdict says of all this, are in
`docs/validation.md`; the command that makes its tables is `benchmarks/validation.py`.
"""

from nearzero.mechanisms.conditions import Condition, study_responses
from nearzero.mechanisms.nulls import chance_labels, dealt, one_family
from nearzero.mechanisms.planted import distance_network, mixed_network, template_network
from nearzero.mechanisms.power import Power, Rate, overall_findings, power
from nearzero.mechanisms.studies import as_responses, measure_study
from nearzero.mechanisms.tasks import Task, prototype_task

__all__ = [
    "Condition",
    "Power",
    "Rate",
    "Task",
    "as_responses",
    "chance_labels",
    "dealt",
    "distance_network",
    "measure_study",
    "mixed_network",
    "one_family",
    "overall_findings",
    "power",
    "prototype_task",
    "study_responses",
    "template_network",
]
