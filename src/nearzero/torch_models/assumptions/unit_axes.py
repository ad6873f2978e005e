"""Follow the dimensions on which units lie from tensor to tensor through a forward pass.

A convolution puts units on the second dimension, and a product with weights on that of the weights. From there
each dimension is followed as *factors*: parts of it, in row-major order, that hold units or don't. So
features that are divided into heads, or channels that are merged with examples, are told apart from a
dimension of units that only has the same size. Sizes alone decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from math import prod
from typing import Any

from torch import Tensor

from nearzero.torch_models.replay import storage_key, tensors_in

__all__ = ["UnitAxes", "default_unit_axis"]

Factor = tuple[int, bool]  # a size, and whether it holds units
Dims = tuple[tuple[Factor, ...], ...]  # the factors of each dimension

UNITS_SECOND = ("convolution", "batch_norm", "group_norm", "instance_norm")  # parts of names
UNITS_LAST = ("linear", "lstm", "gru", "mkldnn_rnn_layer", "embedding")
PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}  # the place of the first of two factors
VIEWS = ("view", "_unsafe_view", "reshape")
REDUCTIONS = ("mean", "sum", "amax", "amin", "max", "min", "median", "logsumexp", "prod", "std", "var")
BROADCAST = ("add", "sub", "rsub", "mul", "div", "maximum", "minimum", "where", "pow")
# Operations that change the shape of their argument, so that what was noted before no longer holds.
RESHAPING_IN_PLACE = {
    *("squeeze_", "unsqueeze_", "t_", "transpose_", "swapaxes_", "swapdims_"),
    *("resize_", "resize_as_", "set_", "as_strided_"),
}


def default_unit_axis(values: Tensor) -> int:
    """Return the second dimension for images and volumes, and the last for all other values."""
    return 1 if values.ndim in (4, 5) else values.ndim - 1


class UnitAxes:
    """Note the dimensions of units of the tensors of one forward pass, which the caller keeps.

    Args:
        varies: returns whether a tensor depends on the model's inputs; weights don't.
        weights: the model's parameters.

    Attributes:
        weights: the storages of parameters, and of what is made of them alone.
    """

    def __init__(self, varies: Callable[[Tensor], bool], weights: Iterable[Tensor]) -> None:
        self._varies = varies
        self.weights = set(map(storage_key, weights))
        self._dims: dict[int, Dims] = {}  # by tensor

    def of(self, tensor: Tensor) -> tuple[int, ...] | None:
        """Return the dimensions that hold units; () if the units were selected or reduced, None if unknown.

        A single dimension that holds units and something else beside them counts as unknown.
        """
        dims = self._dims.get(id(tensor))
        if dims is None:
            return None
        axes = tuple(axis for axis, factors in enumerate(dims) if any(unit for _, unit in factors))
        mixed = any(not unit for axis in axes for _, unit in dims[axis])
        return None if mixed and len(axes) == 1 else axes

    def copy(self, source: Tensor, result: Tensor) -> None:
        """Note for a result of a module, if nothing is known of it, what is known of its argument of the same shape."""
        if id(source) in self._dims:
            self._dims.setdefault(id(result), self._dims[id(source)])

    def forget(self, tensor: Tensor) -> None:
        """Forget a tensor, which the caller doesn't keep any longer."""
        self._dims.pop(id(tensor), None)

    def follow(self, name: str, args: tuple[Any, ...], result: Tensor) -> None:
        """Note the dimensions of one result of an operation from those of its arguments."""
        if not self._varies(result) and not self.weights.isdisjoint(map(storage_key, tensors_in(args))):
            self.weights.add(storage_key(result))
        if name in RESHAPING_IN_PLACE:
            self._dims.pop(id(result), None)
            return
        dims = self._after(name.removesuffix("_"), args, result)
        if dims is not None and len(dims) == result.ndim:
            self._dims[id(result)] = dims
        else:
            self._dims.pop(id(result), None)

    def _after(self, name: str, args: tuple[Any, ...], result: Tensor) -> Dims | None:
        sources = [tensor for tensor in tensors_in(args) if id(tensor) in self._dims]
        alike = [tensor for tensor in sources if tensor.ndim == result.ndim]
        source = alike[0] if alike else sources[0] if sources else None
        dims = None if source is None else self._dims[id(source)]
        if any(part in name for part in UNITS_SECOND):
            return dims if "norm" in name and dims is not None else _on(result, 1)
        if name in PRODUCTS:
            return self._of_product(args[PRODUCTS[name]], args[PRODUCTS[name] + 1], result)
        if name in UNITS_LAST:
            return _on(result, result.ndim - 1)
        if "layer_norm" in name or "rms_norm" in name:  # over the last dimensions, of which units may be any
            known = None if source is None else self.of(source)
            return _on(result, result.ndim - 1) if known is None or len(known) != 1 else dims
        if source is None or dims is None:
            return None
        if name in BROADCAST:
            if len({self.of(tensor) for tensor in alike}) > 1:
                return None
            dims = (*[()] * (result.ndim - len(dims)), *dims)
            return _resized(dims, result)
        if name in MOVES:
            return MOVES[name](dims, args[1:], result)
        return _resized(dims, result) if source.ndim == result.ndim else None

    def _of_product(self, left: Tensor, right: Tensor, result: Tensor) -> Dims | None:
        """Return the dimensions after a matrix product: the units are those of the weights, or of the right factor.

        A constant on the left mixes rows and leaves the units in place. Products of units with units, as in
        attention, hold none.
        """
        if not self._varies(right):
            return _on(result, result.ndim - 1)
        if storage_key(left) in self.weights:
            return _on(result, result.ndim - 2)
        dims = self._dims.get(id(right))
        if dims is None:
            return None
        if not any(unit for _, unit in dims[-1]):
            return _on(result, result.ndim) if result.ndim > 2 else None
        return (*dims[:-2], ((result.shape[-2], False),), dims[-1])


def _on(result: Tensor, axis: int) -> Dims:
    """Return the dimensions of a tensor with units on one of them, or on none if it doesn't have that one."""
    return tuple(((size, place == axis),) for place, size in enumerate(result.shape))


def _resized(dims: Dims, result: Tensor) -> Dims | None:
    """Return the dimensions with the sizes of a result; None if one of another size is of several factors."""
    resized = []
    for factors, size in zip(dims, result.shape, strict=True):
        if prod(part for part, _ in factors) != size:
            if len({unit for _, unit in factors}) > 1:
                return None
            factors = ((size, bool(factors) and factors[0][1]),)
        resized.append(factors)
    return tuple(resized)


def _viewed(dims: Dims, _: tuple[Any, ...], result: Tensor) -> Dims | None:
    """Return the dimensions after a view: the factors in their order, divided anew."""
    factors = [factor for of_dim in dims for factor in of_dim]
    flow = [
        (prod(size for size, _ in group), unit)
        for unit, group in _grouped([factor for factor in factors if factor[0] > 1])
    ]
    divided = []
    for size in result.shape:
        own = []
        while size > 1:
            if not flow:
                return None
            first, unit = flow.pop(0)
            part = min(size, first)
            if max(size, first) % part:
                return None
            own.append((part, unit))
            size //= part
            if first > part:
                flow.insert(0, (first // part, unit))
        divided.append(tuple(own))
    if (1, True) in factors and not any(unit for own in divided for _, unit in own):  # a single unit
        ones = [place for place, size in enumerate(result.shape) if size == 1]
        if len(ones) > 1:
            return None
        for place in ones:
            divided[place] = ((1, True),)
    return tuple(divided)


def _grouped(factors: list[Factor]) -> Iterator[tuple[bool, list[Factor]]]:
    """Yield neighbours that all hold units, or all don't."""
    return ((unit, list(group)) for unit, group in groupby(factors, key=lambda factor: factor[1]))


def _permuted(dims: Dims, args: tuple[Any, ...], _: Tensor) -> Dims:
    return tuple(dims[place] for place in args[0])


def _transposed(dims: Dims, args: tuple[Any, ...], _: Tensor) -> Dims:
    order = list(range(len(dims)))
    first, second = args if args else (0, -1)
    order[first], order[second] = order[second], order[first]
    return tuple(dims[place] for place in order)


def _inserted(dims: Dims, args: tuple[Any, ...], result: Tensor) -> Dims:
    place = (args[0] if args else 0) % result.ndim
    return (*dims[:place], ((result.shape[place], False),), *dims[place:])


def _squeezed(dims: Dims, args: tuple[Any, ...], result: Tensor) -> Dims:
    wanted = range(len(dims)) if not args else args[0] if isinstance(args[0], (list, tuple)) else [args[0]]
    ones = {place % len(dims) for place in wanted if prod(size for size, _ in dims[place]) == 1}
    return tuple(factors for place, factors in enumerate(dims) if place not in ones)


def _selected(dims: Dims, args: tuple[Any, ...], _: Tensor) -> Dims:
    place = (args[0] if args else 0) % len(dims)
    return (*dims[:place], *dims[place + 1 :])


def _expanded(dims: Dims, _: tuple[Any, ...], result: Tensor) -> Dims | None:
    return _resized((*[()] * (result.ndim - len(dims)), *dims), result)


def _reduced(dims: Dims, args: tuple[Any, ...], result: Tensor) -> Dims | None:
    if len(dims) == result.ndim:
        return _resized(dims, result)
    given = args[0] if args else None
    over = [given] if type(given) is int else given
    if not isinstance(over, (list, tuple)):
        return None
    dropped = {place % len(dims) for place in over}
    return tuple(factors for place, factors in enumerate(dims) if place not in dropped)


def _indexed(dims: Dims, args: tuple[Any, ...], result: Tensor) -> Dims | None:
    """Return the dimensions after indexing with tensors on leading dimensions: those that follow them stay."""
    indices = args[0]
    if not all(index is None or isinstance(index, Tensor) for index in indices):
        return None
    used = sum(1 if index is None or not _is_mask(index) else index.ndim for index in indices)
    leading = result.ndim - (len(dims) - used)
    if any(unit for factors in dims[:used] for _, unit in factors) or leading < 0:
        return None
    return (*(((size, False),) for size in result.shape[:leading]), *dims[used:])


def _is_mask(index: Tensor) -> bool:
    return str(index.dtype) in ("torch.bool", "torch.uint8")


# functions of the dimensions of the first argument, the other arguments, and the result
MOVES: dict[str, Callable[[Dims, tuple[Any, ...], Tensor], Dims | None]] = {
    **dict.fromkeys(VIEWS, _viewed),
    **dict.fromkeys(REDUCTIONS, _reduced),
    **{"permute": _permuted, "transpose": _transposed, "t": _transposed},
    **{"unsqueeze": _inserted, "squeeze": _squeezed, "expand": _expanded},
    **{"select": _selected, "unbind": _selected, "index": _indexed, "as_strided": lambda *_: None},
}
