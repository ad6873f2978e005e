"""A layer as a value: a place in a model's forward pass where a pre-activation can be perturbed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["Layer"]


@dataclass(frozen=True, eq=False)
class Layer:
    """A place in a model's forward pass where a pre-activation can be perturbed.

    Attributes:
        name: what `probe` calls it: a module's dotted path, or that of the module in whose forward a function is
            called, then a colon and the function; with @k, the k-th of several calls.
        kind: "activation" (a module), "function", "linear", "convolution" or "normalization".
        type: the module's class, or the function.
        shape: of the pre-activations of the batch that was watched.
        unit_axis: the dimension of `shape` that the units are on.
        activation: what is applied to them: a name; None if no activation follows directly.
        path, call: the module and which of its calls in a forward pass, from 1.
        operation, ordinal: for functions, the operation and which of its calls in a forward pass, from 0.
        in_place: whether the activation writes into its argument.
        act: a = act(z) on tensors of z's shape; None if no activation follows.
        follows: the layer of the activation that takes the output of this one.
    """

    name: str
    kind: str
    type: str
    shape: tuple[int, ...]
    unit_axis: int
    activation: str | None
    path: str
    call: int = 1
    operation: str = ""
    ordinal: int = -1
    in_place: bool = False
    act: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    follows: Layer | None = field(default=None, repr=False)

    @property
    def units(self) -> int:
        """How many units it has."""
        return self.shape[self.unit_axis]
