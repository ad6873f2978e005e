"""Unit axes: the dimension on which an operation puts the units, followed through the pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from nearzero.torch_models.replay import tensors_in

__all__ = ["RESHAPING_IN_PLACE", "VALUE_PRESERVING", "default_unit_axis", "unit_axis_after"]

# Operations that keep the values of a layer's output: the result is still the output of that layer.
VALUE_PRESERVING = {
    *("view", "_unsafe_view", "expand", "unsqueeze", "squeeze"),
    *("alias", "detach", "clone", "contiguous", "dropout"),
}
UNITS_SECOND = ("convolution", "batch_norm", "group_norm", "instance_norm")  # parts of names
UNITS_LAST = ("addmm", "mm", "bmm", "baddbmm", "linear", "lstm", "gru", "mkldnn_rnn_layer", "embedding")
# Operations that change the shape of their argument, so that its unit axis as noted before no longer holds.
RESHAPING_IN_PLACE = {
    *("squeeze_", "unsqueeze_", "t_", "swapaxes_", "swapdims_"),
    *("resize_", "resize_as_", "set_", "as_strided_"),
}
# Operations after which only the shape hints at the unit axis.
RESHAPING = ("view", "_unsafe_view", "reshape", "as_strided")


def default_unit_axis(values: Tensor) -> int:
    """Return the second dimension for images and volumes, and the last for all other values."""
    return 1 if values.ndim in (4, 5) else values.ndim - 1


def unit_axis_after(
    name: str, args: tuple[Any, ...], result: Tensor, known: Callable[[Tensor], int | None]
) -> int | None:
    """Return the dimension of units after an operation; None if unknown.

    Args:
        name, args, result: the operation.
        known: returns the dimension of a tensor's units; None if unknown.
    """
    source = _source(args, result, known)
    axis = None if source is None else known(source)
    if any(part in name for part in UNITS_SECOND):
        return 1
    if name in UNITS_LAST:
        return result.ndim - 1
    if "layer_norm" in name or "rms_norm" in name:  # over the last dimensions, of which units may be any
        return result.ndim - 1 if axis is None else axis
    if source is None or axis is None:
        return None
    if name in ("permute", "transpose", "transpose_", "t"):
        return _permuted(name, args, source, axis)
    if source.ndim == result.ndim and (name not in RESHAPING or result.shape[axis] == source.shape[axis]):
        return axis
    if axis == source.ndim - 1 and result.ndim and result.shape[-1] == source.shape[-1]:
        return result.ndim - 1
    if axis < result.ndim and result.shape[: axis + 1] == source.shape[: axis + 1]:
        return axis
    return None


def _source(args: tuple[Any, ...], result: Tensor, known: Callable[[Tensor], int | None]) -> Tensor | None:
    """Return the first argument with a known unit axis, preferably one with the dimensions of the result."""
    sources = [tensor for tensor in tensors_in(args) if known(tensor) is not None]
    return next((tensor for tensor in sources if tensor.ndim == result.ndim), sources[0] if sources else None)


def _permuted(name: str, args: tuple[Any, ...], source: Tensor, axis: int) -> int:
    """Return the position of a dimension after a permutation."""
    if name == "permute":
        return [dim % source.ndim for dim in args[1]].index(axis)
    if name == "t":
        return 1 - axis if source.ndim == 2 else axis
    swapped = [dim % source.ndim for dim in args[1:3]]
    return swapped[1 - swapped.index(axis)] if axis in swapped else axis
