"""Chains of elementwise operations: what an activation takes may be a function of other values, such as 1.7 h."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from nearzero.torch_models.discovery.module_types import ACTIVATION_OPERATIONS

__all__ = ["Chain", "Chains", "Values"]

Values = tuple[int, int]  # the values of a tensor: its id, and how often its storage had been written to

ARITHMETIC = (
    *("add", "sub", "rsub", "mul", "div", "neg", "pow", "square", "sqrt", "abs"),
    *("exp", "log1p", "erf", "clamp", "clamp_min", "clamp_max", "maximum", "minimum", "where", "addcmul"),
)


@dataclass(frozen=True)
class Chain:
    """The operations that make values, each elementwise, from those of one tensor.

    Attributes:
        root: the values that the chain begins with.
        values: these, those between, and those that the chain ends with.
        operations: the operations, by number.
    """

    root: Values
    values: frozenset[Values]
    operations: frozenset[int] = frozenset()


class Chains:
    """The chain of all values of a pass that are an elementwise function of one tensor."""

    def __init__(self) -> None:
        self._chains: dict[Values, Chain] = {}

    def of(self, values: Values) -> Chain:
        """Return the chain of values; an empty one if they are no function of others."""
        return self._chains.get(values) or Chain(values, frozenset([values]))

    def follow(self, name: str, number: int, given: Collection[Values], result: Values) -> None:
        """Note an operation on values that depend on the model's inputs, if it is elementwise on one tensor's values.

        Args:
            name: of the operation.
            number: of the operation.
            given: the values that it reads.
            result: the values that it gives.
        """
        plain = name.split(".")[0].removesuffix("_")
        chains = [self.of(values) for values in given]
        if (plain not in ARITHMETIC and plain not in ACTIVATION_OPERATIONS) or len(
            {each.root for each in chains}
        ) != 1:
            return
        self._chains[result] = Chain(
            chains[0].root,
            frozenset[Values]().union([result], *(each.values for each in chains)),
            frozenset([number]).union(*(each.operations for each in chains)),
        )
