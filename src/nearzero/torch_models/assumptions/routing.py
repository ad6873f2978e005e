"""Follow rows that an index selects, so that it is known which token or example each row of an expert is of."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from nearzero.torch_models.replay import tensors_in

__all__ = ["RoutedRows", "RowSource"]

PRODUCTS = {
    "mm": 0,
    "addmm": 1,
    "bmm": 0,
    "baddbmm": 1,
    "_grouped_mm": 0,
    "grouped_mm_fallback": 0,
}  # the place of the rows
# Operations beside elementwise ones that keep each row in its place, if the number of rows stays.
KEEPING = (
    *(
        "view",
        "_unsafe_view",
        "reshape",
        "unsqueeze",
        "squeeze",
        "alias",
        "detach",
        "clone",
        "_to_copy",
        "slice",
    ),
    *("split", "split_with_sizes", "native_layer_norm", "_fused_rms_norm", "_softmax", "native_dropout"),
)


@dataclass(frozen=True, eq=False)
class RowSource:
    """Say where rows were selected.

    Attributes:
        index: (R,) int64, for each row the number of the token or example that it was selected from.
        shape: the leading dimensions of what they were selected from: (examples, tokens), (tokens, examples), or
            all in one.
    """

    index: Tensor
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Return the number of tokens or examples that rows were selected from."""
        return prod(self.shape)


class RoutedRows(TorchDispatchMode):
    """Follow selected rows through the operations of one forward pass.

    Args:
        counts: the numbers of examples and of tokens of the batch; selections from other tensors aren't followed.
    """

    def __init__(self, counts: Collection[int]) -> None:
        super().__init__()
        self._counts = counts
        self._sources: Any = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor) -> RowSource | None:
        """Return where the rows of a tensor were selected; None if they weren't, or it isn't known."""
        source: RowSource | None = self._sources.get(tensor)
        return source

    def note(self, tensor: Tensor, source: RowSource) -> None:
        """Note where the rows of a tensor were selected."""
        self._sources[tensor] = source

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and follow rows from its arguments to its results."""
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[-1]
        if name in ("index", "index_select"):
            source = self._selected(args)
        elif self._sources and (torch.Tag.pointwise in func.tags or _keeps_rows(name, args)):
            rows = args[PRODUCTS[name]] if name in PRODUCTS else args
            known = (self.of(tensor) for tensor in tensors_in((rows,)))
            source = next((each for each in known if each is not None), None)
        else:
            source = None
        if source is not None:
            for tensor in tensors_in(result):
                if tensor.ndim and tensor.shape[0] == len(source.index):
                    self.note(tensor, source)
        return result

    def _selected(self, args: tuple[Any, ...]) -> RowSource | None:
        """Return the selection of an index along the first dimension, or of a mask over the first dimensions."""
        values, *indices = args
        if len(indices) == 2:  # index_select
            index = indices[1] if indices[0] == 0 else None
        else:
            index = indices[0][0] if len(indices[0]) == 1 else None
        if index is None or values.shape[: index.ndim].numel() == 0:
            return None
        if index.dtype == torch.bool:
            shape = tuple(index.shape)
            index = index.reshape(-1).nonzero()[:, 0]
        else:
            shape = (values.shape[0],)
            index = index.long() % values.shape[0]
        before = self.of(values)
        if index.ndim != 1 or (before is None and prod(shape) not in self._counts):
            return None
        return RowSource(index, shape) if before is None else RowSource(before.index[index], before.shape)


def _keeps_rows(name: str, args: tuple[Any, ...]) -> bool:
    """Return whether an operation keeps each row in its place, if the number of rows stays."""
    if name == "permute":
        return bool(args[1][0] == 0)
    return name in KEEPING or name in PRODUCTS or (name == "transpose" and 0 not in args[1:])
