"""A layer as a value: a place in a model's forward pass where a pre-activation can be perturbed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from nearzero.perturbations.perturbation import Side

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
        operation, ordinal: for functions, the operation and which of its calls within that call of the module,
            from 0.
        in_place: whether the activation writes into its argument.
        reads: which of the model's inputs its values depend on, by name, or by number as text; None if unknown.
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
    reads: frozenset[str] | None = field(default=None, repr=False)
    act: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    follows: Layer | None = field(default=None, repr=False)

    @property
    def units(self) -> int:
        """How many units it has."""
        return self.shape[self.unit_axis]

    def place(self, side: Side) -> tuple[Layer, bool]:
        """The module or function that is watched for one side's values, and whether after it (else before it)."""
        post = side == "post"
        if self.kind in ("activation", "function"):
            return self, post
        return (self.follows, True) if post and self.follows is not None else (self, True)

    def axis_of(self, values: Tensor) -> int:
        """The dimension of units of some values; the last where they have another number of dimensions."""
        return self.unit_axis if values.ndim == len(self.shape) else values.ndim - 1
