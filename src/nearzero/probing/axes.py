"""Where the units are: the dimension that a convolution or a matrix product puts them on, carried through what
follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from nearzero.probing.operations import tensors_in

__all__ = ["RESHAPED", "VIEWS", "axis_after", "usual_axis"]

# What leaves values, and who computed them, as they are.
VIEWS = {
    "view", "_unsafe_view", "alias", "detach", "clone", "contiguous", "expand", "unsqueeze", "squeeze", "dropout",
}  # fmt: skip
SECOND = ("convolution", "batch_norm", "group_norm", "instance_norm")
LAST = ("addmm", "mm", "bmm", "baddbmm", "linear", "lstm", "gru", "mkldnn_rnn_layer", "embedding")
# What changes a tensor's own shape, so that what was known of it no longer holds.
RESHAPED = {
    "squeeze_", "unsqueeze_", "t_", "swapaxes_", "swapdims_", "resize_", "resize_as_", "set_", "as_strided_",
}  # fmt: skip
SHAPED = ("view", "_unsafe_view", "reshape", "as_strided")  # of which nothing is known but the shape


def usual_axis(values: Tensor) -> int:
    """The second dimension for images and volumes, and the last for all else."""
    return 1 if values.ndim in (4, 5) else values.ndim - 1


def axis_after(
    name: str, args: tuple[Any, ...], result: Tensor, known: Callable[[Tensor], int | None]
) -> int | None:
    """The dimension of units after an operation; None if unknown.

    Args:
        name, args, result: the operation.
        known: the dimension of a tensor's units, if that's known.
    """
    source = _source(args, result, known)
    axis = None if source is None else known(source)
    if any(part in name for part in SECOND):
        return 1
    if name in LAST:
        return result.ndim - 1
    if "layer_norm" in name or "rms_norm" in name:  # over the last dimensions, of which units may be any
        return result.ndim - 1 if axis is None else axis
    if source is None or axis is None:
        return None
    if name in ("permute", "transpose", "transpose_", "t"):
        return _turned(name, args, source, axis)
    if source.ndim == result.ndim and (name not in SHAPED or result.shape[axis] == source.shape[axis]):
        return axis
    if axis == source.ndim - 1 and result.ndim and result.shape[-1] == source.shape[-1]:
        return result.ndim - 1
    if axis < result.ndim and result.shape[: axis + 1] == source.shape[: axis + 1]:
        return axis
    return None


def _source(args: tuple[Any, ...], result: Tensor, known: Callable[[Tensor], int | None]) -> Tensor | None:
    """The argument, or the first of a list that is one, whose units are known."""
    sources = [each for each in tensors_in(args) if known(each) is not None]
    return next((each for each in sources if each.ndim == result.ndim), sources[0] if sources else None)


def _turned(name: str, args: tuple[Any, ...], source: Tensor, axis: int) -> int:
    """Where a dimension is after a permutation."""
    if name == "permute":
        return [dim % source.ndim for dim in args[1]].index(axis)
    if name == "t":
        return 1 - axis if source.ndim == 2 else axis
    swapped = [dim % source.ndim for dim in args[1:3]]
    return swapped[1 - swapped.index(axis)] if axis in swapped else axis
