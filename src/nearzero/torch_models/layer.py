"""A layer as a value: a place in a model's forward pass where values can be perturbed, and which of them are.

A perturbation acts on all units of a row, or on its coordinates: some units, or directions in the space of all
units. What these don't hold stays as it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, final, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nearzero.errors import InputError, did_you_mean
from nearzero.perturbations.perturbation import Side
from nearzero.support.arrays import as_numbers
from nearzero.support.names import check_label
from nearzero.support.words import number_of

__all__ = [
    "Basis",
    "Coordinates",
    "Directions",
    "Layer",
    "LayerError",
    "RowAxes",
    "SelectedUnits",
    "Units",
    "read_coordinates",
]


Units = npt.ArrayLike | Mapping[str, npt.ArrayLike] | Literal["each"] | None
Basis = npt.ArrayLike | Mapping[str, npt.ArrayLike] | None
ORTHONORMAL = 1e-4  # the greatest difference of B'B from the identity: more than float32 rounds


@dataclass(frozen=True)
class RowAxes:
    """Name the dimensions of a layer's values, those of units left out, that examples and tokens are on.

    Attributes:
        examples, tokens: the dimensions; values of pairs of tokens have two of them, values of whole examples none.
        several: whether an example has several rows on its dimension, which follow one another. They are its tokens
            if that dimension is among those of tokens too.
        problem: why they aren't known; "" if they are.
    """

    examples: int = 0
    tokens: tuple[int, ...] = ()
    several: bool = False
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
        kind: "activation" (a module), "function", "linear", "convolution", "normalization", "output" for any other
            module, or "input" for what a linear layer or convolution is given, such as the product of a gate.
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
        coordinates: the units or directions that are perturbed; None for all units.
        group: their name, which follows the layer's in braces; "" if they have none.

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
    coordinates: Coordinates | None = field(default=None, repr=False)
    group: str = field(default="", repr=False)

    @property
    def key(self) -> tuple[Any, ...]:
        """Return the place of the layer in any forward pass: the call, and the operation or element in it."""
        return self.path, self.call, self.operation, self.ordinal, self.element

    @property
    def is_input_of_activation(self) -> bool:
        """Return whether the layer is found as the input of an activation, whose module or function it names."""
        return self.kind in ("activation", "function")

    @property
    def is_followed(self) -> bool:
        """Return whether the dimension of the units was followed from the operation that put them there."""
        return self.unit_axes == (self.unit_axis,)

    @property
    def units(self) -> int:
        """Return the number of units, or of the coordinates that are perturbed."""
        return self.width if self.coordinates is None else self.coordinates.count

    @property
    def width(self) -> int:
        """Return the size of the dimension of the units."""
        return self.shape[self.unit_axis]

    def on(self, group: str, coordinates: Coordinates) -> Layer:
        """Return the layer with perturbations of some coordinates; the name of a group is part of its name.

        No activation, nor the weights of a unit, belong to a direction.

        Raises:
            InputError: they don't fit the layer's units.
        """
        coordinates.check(self.name, self.width)
        name = f"{self.name}{{{group}}}" if group else self.name
        layer = replace(self, name=name, coordinates=coordinates, group=group)
        if isinstance(coordinates, Directions):
            return replace(layer, activation=None, act=None, follows=None, producer=None)
        return layer

    @property
    def whole(self) -> str:
        """Return the name of the layer without that of the group."""
        return self.name.removesuffix(f"{{{self.group}}}") if self.group else self.name

    def read(self, values: Tensor) -> Tensor:
        """Return the units, or the coordinates that are perturbed, of each row of some values, (..., U)."""
        rows = values.movedim(self.axis_of(values), -1)
        return rows if self.coordinates is None else self.coordinates.read(rows)

    def changed(self, rows: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Return rows with a function applied to their units, or to the coordinates that are perturbed."""
        return change(rows) if self.coordinates is None else self.coordinates.changed(rows, change)

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
        if self.kind == "input":
            return self, False
        post = side == "post"
        if self.is_input_of_activation:
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


class Coordinates(ABC):
    """V numbers that are read from each row of U values, and written back."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Return V."""

    @abstractmethod
    def check(self, layer: str, units: int) -> None:
        """Raise an InputError unless they are coordinates of values with this number of units."""

    @abstractmethod
    def read(self, rows: Tensor) -> Tensor:
        """Return the coordinates of rows, (..., U) to (..., V)."""

    @abstractmethod
    def changed(self, rows: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Return rows (..., U) with a function applied to their coordinates (..., V)."""


@final
@dataclass(frozen=True, eq=False)
class SelectedUnits(Coordinates):
    """Some of the units.

    Attributes:
        indices: (V,), their numbers.
        mask: the length of the mask that gave them; None if numbers did.
    """

    indices: npt.NDArray[np.int64]
    mask: int | None = None

    @property
    def count(self) -> int:
        """Return V."""
        return len(self.indices)

    def check(self, layer: str, units: int) -> None:
        """Raise an InputError for a unit that the layer doesn't have, or a mask of another length."""
        if self.mask not in (None, units):
            raise InputError(
                f"units: layer {layer!r} has {number_of(units, 'unit')}, but the mask has "
                f"{number_of(self.mask, 'value')}"
            )
        if self.indices.max() >= units:
            raise InputError(
                f"units: layer {layer!r} has {units} units, 0 to {units - 1}; got unit {self.indices.max()}"
            )

    def read(self, rows: Tensor) -> Tensor:
        """Return the values of these units."""
        return rows[..., torch.from_numpy(self.indices).to(rows.device)]

    def changed(self, rows: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Return rows with a function applied to the values of these units."""
        out = rows.clone()
        out[..., torch.from_numpy(self.indices).to(rows.device)] = change(self.read(rows))
        return out


@final
@dataclass(frozen=True, eq=False)
class Directions(Coordinates):
    """Orthonormal directions, the columns of B: c = x B, and x + (c' - c) B'.

    Attributes:
        basis: B, (U, V).
    """

    basis: npt.NDArray[np.float64]

    @property
    def count(self) -> int:
        """Return V."""
        return int(self.basis.shape[1])

    def check(self, layer: str, units: int) -> None:
        """Raise an InputError if the directions have another number of components than the layer has units."""
        if len(self.basis) != units:
            raise InputError(
                f"basis: layer {layer!r} has {number_of(units, 'unit')}, but the directions have "
                f"{number_of(len(self.basis), 'component')}; their shape must be (units, directions)"
            )

    def read(self, rows: Tensor) -> Tensor:
        """Return x B, in float32, or in float64 for such rows."""
        exact = rows if rows.dtype == torch.float64 else rows.float()
        return exact @ torch.from_numpy(self.basis).to(exact)

    def changed(self, rows: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Return x + (c' - c) B'."""
        before = self.read(rows)
        step = change(before) - before
        return rows + step @ torch.from_numpy(self.basis.T.copy()).to(step)


def read_coordinates(units: Any, basis: Any) -> dict[str, Coordinates] | Literal["each"] | None:
    """Return the coordinates that a user asked for, by the name of the group, "" for one without a name.

    Args:
        units: indices or a mask of units, a mapping from names to these, "each" for every unit alone, or None.
        basis: a direction (U,) or directions (U, V), a mapping from names to these, or None.

    Returns:
        The coordinates of each group, "each", or None for all units.

    Raises:
        InputError: both are given, or values that aren't units or orthonormal directions.
    """
    if units is not None and basis is not None:
        raise InputError("give units= or basis=, not both")
    if units is None and basis is None:
        return None
    if isinstance(units, str):
        if units != "each":
            raise InputError(
                f"units must be indices, a mask, a mapping from names to these, or 'each'; got {units!r}"
            )
        return "each"
    given, read = (basis, _directions) if units is None else (units, _selected)
    groups = given if isinstance(given, Mapping) else {"": given}
    if not groups:
        raise InputError(f"{'basis' if units is None else 'units'} must have at least one group; got none")
    if isinstance(given, Mapping):
        for name in groups:
            check_label(name, "the name of a group")
    return {name: read(values) for name, values in groups.items()}


def _selected(given: Any) -> SelectedUnits:
    """Return the units given by indices or a mask.

    Raises:
        InputError: no units, the same one twice, or values that are neither.
    """
    if isinstance(given, slice):
        raise InputError(f"units must be numbers or a mask, such as range(8); got {given}")
    given = list(given) if isinstance(given, (range, set, frozenset)) else given
    values = np.atleast_1d(as_numbers(given, "units"))
    if not values.size:
        raise InputError("units must name at least one unit; got none")
    if values.ndim != 1 or values.dtype.kind not in "biu":
        raise InputError(
            f"units must be a flat list of whole numbers or a mask; got {values.dtype} of shape {values.shape}"
        )
    if values.dtype.kind == "b":
        if not values.any():
            raise InputError("units must name at least one unit; the mask has none")
        return SelectedUnits(np.flatnonzero(values), len(values))
    if values.min() < 0 or values.max() > np.iinfo(np.int64).max:
        wrong = values.min() if values.min() < 0 else values.max()
        raise InputError(f"units are counted from 0, up to the last unit of the layer; got {wrong}")
    if len(np.unique(values)) < len(values):
        raise InputError(f"units must name each unit once; got {values.tolist()[:10]}")
    return SelectedUnits(values.astype(np.int64))


def _directions(given: Any) -> Directions:
    """Return orthonormal directions.

    Raises:
        InputError: directions that aren't finite, or not orthonormal to 1e-4.
    """
    basis = as_numbers(given, "basis").astype(np.float64)
    basis = basis[:, None] if basis.ndim == 1 else basis
    if basis.ndim != 2 or not basis.size or not np.isfinite(basis).all():
        raise InputError(
            f"basis must be finite numbers of shape (units, directions); got shape {basis.shape}"
        )
    apart = float(np.abs(basis.T @ basis - np.eye(basis.shape[1])).max())
    if apart > ORTHONORMAL:
        advice = "divide a single direction by its length, or take np.linalg.qr(basis)[0]"
        if basis.shape[0] < basis.shape[1]:
            advice = f"of {len(basis)} units there can't be {basis.shape[1]}: give the directions as columns, basis.T"
        raise InputError(
            f"the columns of basis must be orthonormal; B'B differs from the identity by {apart:.3g}: {advice}"
        )
    return Directions(basis)
