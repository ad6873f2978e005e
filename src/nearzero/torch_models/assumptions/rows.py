"""Find the dimensions of examples and tokens in the values of layers, by running more examples and fewer tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from nearzero.torch_models.batches import Batch
from nearzero.torch_models.forward import logits_with_hooks
from nearzero.torch_models.hooks import LayerHook
from nearzero.torch_models.layer import Layer, RowAxes
from nearzero.torch_models.state import Model

__all__ = ["EXAMPLES", "place_layers"]

EXAMPLES = 3  # that are run, and one of them once more, as in other experiments
CLOSE = 1e-3  # as a share of the greatest value


def place_layers(
    model: Model, layers: list[Layer], few: Batch, masked: Batch | None, most: int, *, random: bool = False
) -> list[Layer]:
    """Return layers with the dimensions of examples and tokens in their values, as far as they can be found.

    Without masks or targets that need them, layers whose examples are on the first dimension are left as they are.

    Args:
        model: the model.
        layers: the layers.
        few: some examples.
        masked: examples whose tokens are masked in part; None if there are none.
        most: the number of examples that the model is run on at a time.
        random: whether the values depend on random numbers.
    """
    predicting = few.predicting if few.causal else None
    over_tokens = (
        few.mask,
        few.decoder_mask,
        few.target,
        predicting,
        None if masked is None else masked.mask,
    )
    counts = [values.shape[1] for values in over_tokens if values is not None and values.ndim == 2]
    choices = [
        tuple(values.shape[1:]) for values in over_tokens if values is not None and _is_of_choices(values)
    ]
    counts += [count for *_, count in choices]
    placed = _place(model, layers, few, counts, choices, most, compared=not (few.whole or random))
    if counts or (few.axis and few.target is not None):
        return placed
    return [
        found if found.rows is not None and (found.rows.several or found.rows.problem) else layer
        for layer, found in zip(layers, placed, strict=True)
    ]


def _is_of_choices(values: Tensor) -> bool:
    """Return whether a mask is over examples, choices and tokens."""
    return values.ndim == 3 and values.dtype == torch.bool


def _place(
    model: Model,
    layers: Sequence[Layer],
    batch: Batch,
    counts: Sequence[int],
    choices: Sequence[tuple[int, ...]],
    most: int,
    *,
    compared: bool,
) -> list[Layer]:
    """Return layers with the dimensions of examples and tokens in their values, as far as they can be found.

    Examples are where one more example has more values, and those of the others stay. Tokens are where values are
    missing if the last token is. Of rows that an index selects it is known in each pass where they are from.

    Args:
        model: the model.
        layers: the layers.
        batch: some examples.
        counts: the numbers of tokens of masks and targets over tokens.
        choices: the numbers of choices and tokens of masks over these.
        most: the number of examples that the model is run on at a time.
        compared: whether examples have the same values in both, as they do unless they depend on each other.
    """
    if not batch.indexable:
        return list(layers)
    several = max(2, min(EXAMPLES, len(batch), most - 1)) if most > 2 else 1
    rows = (*(min(row, len(batch) - 1) for row in range(several)), 0)
    examples = [batch.take(torch.tensor(rows[:count])) for count in (len(rows) - 1, len(rows))]
    batches = (*examples, _without_last(examples[0], counts, choices))
    of_some, of_more, of_fewer = (_values(model, layers, each) for each in batches)
    placed = list(layers)
    for index, layer in enumerate(layers):
        if index in of_some and index in of_more and layer.key not in examples[1].routed:
            axis = layer.axis_of(of_some[index])
            some, more = (values[index].movedim(axis, -1) for values in (of_some, of_more))
            fewer = of_fewer[index].movedim(axis, -1) if index in of_fewer else None
            found = _axes(some, more, fewer, len(rows), counts, compared=compared)
            placed[index] = replace(layer, rows=found)
    return placed


def _axes(
    some: Tensor,
    more: Tensor,
    fewer: Tensor | None,
    count: int,
    counts: Sequence[int],
    *,
    compared: bool,
) -> RowAxes | None:
    """Return the dimensions of examples and tokens in rows (..., U); None if tokens may follow tokens in the first one.

    Args:
        some: the rows of some examples.
        more: the rows of the same examples and the first of them once more.
        fewer: the rows of the same examples without the last token; None if there are none.
        count: the number of examples in `more`.
        counts: the numbers of tokens.
        compared: whether examples have the same values in both.
    """
    grown = [axis for axis in range(some.ndim - 1) if some.shape[axis] != more.shape[axis]]
    if some.ndim != more.ndim or len(grown) != 1:
        return RowAxes(problem="it isn't known which of its values belong to which example")
    (examples,) = grown
    size = some.shape[examples]
    each = size // (count - 1)
    if more.shape[examples] != count * each or size != (count - 1) * each:
        return RowAxes(problem="its number of values isn't a multiple of the number of examples")
    first, again = more.narrow(examples, 0, size), more.narrow(examples, size, each)
    if compared and not (_close(first, some) and _close(again, some.narrow(examples, 0, each))):
        return RowAxes(problem="its values aren't in the order of the examples")
    if each > 1 and not compared:
        first_alone = examples == 0 and some.ndim == 2
        return None if first_alone else RowAxes(problem="its values mix examples and tokens")
    others = [axis for axis in range(some.ndim - 1) if axis != examples]
    if fewer is not None and fewer.ndim == some.ndim:
        tokens = [axis for axis in (examples, *others) if fewer.shape[axis] != some.shape[axis]]
    else:
        tokens = [axis for axis in others if some.shape[axis] in counts]
        tokens = tokens or ([examples] if each in counts else [])
    if len(tokens) > 1 and (fewer is None or examples in tokens):
        return RowAxes(problem=f"each of its dimensions {tokens} may be that of the tokens")
    return RowAxes(examples, tuple(tokens), several=each > 1)


class _Look(LayerHook):
    """A hook that takes values with any number of units."""

    def __call__(self, values: Any) -> None:
        """Call `visit` with the values."""
        with _disable_current_modes():  # the copy is not part of the model
            self.visit(values)


def _values(model: Model, layers: Sequence[Layer], batch: Batch | None) -> dict[int, Tensor]:
    """Return the values of layers on some examples, by the layer's index; none if the model can't be run on them."""
    found: dict[int, Tensor] = {}

    def visit(index: int, values: Tensor) -> None:
        found[index] = values.clone()

    if batch is None:
        return {}
    try:
        hooks = [_Look(layer, "pre", partial(visit, i)) for i, layer in enumerate(layers)]
        logits_with_hooks(model, batch, hooks)
    except Exception:  # a model may take examples or tokens of one number only
        return {}
    return found


def _without_last(batch: Batch, counts: Sequence[int], choices: Sequence[tuple[int, ...]]) -> Batch | None:
    """Return a batch without the last token in all inputs over tokens; None if that leaves no token."""
    if min(counts, default=0) < 2:
        return None
    names = {id(tensor): name for name, tensor in batch.named}

    def cut(tensor: Tensor) -> Tensor:
        name = names[id(tensor)]
        most = tensor.ndim if "mask" in name else min(2, tensor.ndim)
        axes = (0,) if batch.axis_of(name) else range(1, most)
        for axis in (2,) if tensor.shape[1:] in choices else axes:
            if tensor.shape[axis] in counts:
                tensor = tensor.narrow(axis, 0, tensor.shape[axis] - 1)
        return tensor

    return batch.map_inputs(cut)


def _close(left: Tensor, right: Tensor) -> bool:
    slack = CLOSE * float(right.abs().nan_to_num(0.0, 0.0, 0.0).amax()) if right.numel() else 0.0
    return left.shape == right.shape and torch.allclose(left, right, rtol=0.0, atol=slack, equal_nan=True)
