"""A layer as a value: a place in a model's forward pass where values can be perturbed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

from torch import Tensor

from nearzero.errors import InputError, did_you_mean
from nearzero.perturbations.perturbation import Side

__all__ = ["Layer", "LayerError", "RowAxes"]


@dataclass(frozen=True)
class RowAxes:
    """Name the dimensions of a layer's values, those of units left out, that examples and tokens are on.

    Attributes:
        examples, tokens: the dimensions; values of pairs of tokens have two of them, values of whole examples none.
        problem: why they aren't known; "" if they are.
    """

    examples: int = 0
    tokens: tuple[int, ...] = ()
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Layer:
    """A place in a model's forward pass where values can be perturbed: a pre-activation, or a module's output.

    `nearzero.layers` finds the layers of a model; `nearzero.probe` takes them, or their names.

    Attributes:
        name: what `probe` calls the layer. For a module, its dotted path. For a function, the path of the
            module whose forward calls it, a colon, and the function. If there are several calls, @k is added
            to the k-th. If a module returns several tensors, their places in what it returns follow in
            brackets: lstm[0], lstm[1][0], encoder[last_hidden_state].
        kind: "activation" (a module), "function", "linear", "convolution", "normalization", or "output" for
            any other module.
        type: the class of the module, or the function.
        shape: the shape of the pre-activations of the batch on which the layer was found.
        unit_axis: the dimension of `shape` that the units are on.
        unit_axes: the dimensions that the units of the operation which made the values are on; None if they
            couldn't be followed, and several where they were divided, into heads for instance.
        activation: the name of the activation applied to the pre-activations; None if none follows directly.
        path, call: the module, and which of its calls in a forward pass it is, counted from 1.
        operation, ordinal: for functions, the operation, and which of its calls within that call of the
            module it is, counted from 0.
        element: for an output, the place of the tensor in what the module returns; () for the tensor itself.
        in_place: whether the activation writes into its argument.
        reads: the inputs of the model that the layer's values depend on, by keyword or by position as text;
            None if unknown. "?" stands for tensors of unknown origin.
        branch: for an activation, whether its argument is read elsewhere too.
        conditional: whether some examples don't reach the layer, or give it another number of rows.
        act: the function a = act(z), on tensors of the shape of z; None if no activation follows.
        follows: for a layer whose output is passed to an activation directly, the layer of that activation.
        producer: the path of the linear layer or convolution that gives the values, z_u = w_u x + b_u; None
            if none does, or it isn't known.
        rows: the dimensions of examples and tokens; None if the examples are the first one.

    Example:
        >>> import torch
        >>> import nearzero as nz
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> for layer in nz.layers(model, torch.zeros(5, 4)):
        ...     print(layer.name, layer.kind, layer.units, layer.activation)
        0 linear 3 relu
        1 activation 3 relu
        2 linear 2 None
    """

    name: str
    kind: str
    type: str
    shape: tuple[int, ...]
    unit_axis: int
    activation: str | None
    path: str
    unit_axes: tuple[int, ...] | None = field(default=None, repr=False, kw_only=True)
    call: int = 1
    operation: str = ""
    ordinal: int = -1
    element: tuple[int | str, ...] = ()
    in_place: bool = False
    branch: bool = field(default=False, repr=False)
    conditional: bool = field(default=False, repr=False)
    reads: frozenset[str] | None = field(default=None, repr=False)
    act: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    follows: Layer | None = field(default=None, repr=False)
    producer: str | None = field(default=None, repr=False)
    rows: RowAxes | None = field(default=None, repr=False)

    @property
    def key(self) -> tuple[Any, ...]:
        """Return the place of the layer in any forward pass: the call, and the operation or element in it."""
        return self.path, self.call, self.operation, self.ordinal, self.element

    @property
    def is_followed(self) -> bool:
        """Return whether the dimension of the units was followed from the operation that put them there."""
        return self.unit_axes == (self.unit_axis,)

    @property
    def units(self) -> int:
        """Return the number of units."""
        return self.shape[self.unit_axis]

    @property
    def unit_problem(self) -> str:
        """Return why no dimension holds the units alone; "" if one does, or if that isn't known."""
        if self.unit_axes is None or len(self.unit_axes) == 1:
            return ""
        axes = " and ".join(map(str, self.unit_axes))
        return (
            f"its units lie on dimensions {axes} of its values {self.shape}, as those of heads do"
            if axes
            else f"its values {self.shape} hold no units, which were selected, summed or multiplied with each other"
        )

    def place(self, side: Side) -> tuple[Layer, bool]:
        """Return the layer to hook for the values of one side, and whether after its call (else before).

        Raises:
            InputError: a side other than "pre" and "post".
        """
        if side not in get_args(Side):
            hint = did_you_mean(side, get_args(Side))
            raise InputError(f"unknown side {side!r}: {hint}known are {', '.join(get_args(Side))}")
        post = side == "post"
        if self.kind in ("activation", "function"):
            return self, post
        return (self.follows, True) if post and self.follows is not None else (self, True)

    def rows_of(self, values: Tensor) -> RowAxes | None:
        """Return the dimensions of examples and tokens of some values; None if they aren't known."""
        return self.rows if values.ndim == len(self.shape) else None

    def axis_of(self, values: Tensor) -> int:
        """Return the dimension of units of some values: the last if they have another number of dimensions."""
        return self.unit_axis if values.ndim == len(self.shape) else values.ndim - 1


class LayerError(InputError):
    """A layer can't be probed, though others of its model may be.

    Attributes:
        layer: the name of the layer.
        reason: the reason, as a sentence whose subject is the layer.
    """

    def __init__(self, layer: Layer, reason: str) -> None:
        super().__init__(f"layer {layer.name!r} {reason}")
        self.layer, self.reason = layer.name, reason
