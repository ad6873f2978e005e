"""Networks whose mechanism is known because it was planted: what the verdict is validated on.

Both mechanisms solve one task, to tell examples of equally distant prototypes apart. Either each class has units that
measure the distance to its prototype and the smallest activation wins, or units that match a template and the largest
wins, or both have a share (`planted`). `studies` measures networks for `nearzero.analysis.verdict.judge`, and makes
nulls, in which neither costs more, by construction. `power` counts how often given rules are right. The proofs, and
what the verdict says of all this, are in `docs/validation.md`; the command that makes its tables is
`benchmarks/validation.py`.
"""

from nearzero.mechanisms.power import power

__all__ = ["power"]
