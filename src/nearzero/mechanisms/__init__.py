"""Networks with a planted mechanism, on which the verdict is validated, because the right answer is known.

Both mechanisms solve the same task: to distinguish classes of examples around equally distant prototypes.
Either each class has units that measure the distance to its prototype, and the smallest activation wins. Or
it has units that match a template, and the largest activation wins. A mixed network has a share of both.
`planted` makes the task and the networks. `studies` measures networks for `nearzero.analysis.verdict.judge`,
and makes nulls, in which neither distance nor intensity costs more, by construction. `power` counts how often
given rules are right. `trained` has networks that are trained, whose architecture fixes what small and large
activations mean. The proofs, and the verdict on all of these networks, are in `docs/validation.md`; the
commands that make its tables are `benchmarks/validation.py` and `benchmarks/controls.py`.
"""
