"""Experiments on a user's model, run once on a few examples, before any number.

- *The first dimension is the examples*: rows of a batch alone, cut and permuted give the same logits as in the
  batch. If not, the second dimension is tried, as for models that take the tokens first. If that fails too,
  batches aren't cut. Which dimension holds the examples is then found on whole batches: other contents of one
  example move its logits alone, or examples in another order have the same logits in that order.
- *A pass repeats*: a second pass gives the same logits, once what the first has changed is put back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nearzero.errors import InputError
from nearzero.support.memory import is_out_of_memory
from nearzero.support.words import number_of
from nearzero.torch_models.assumptions.table import Assumptions
from nearzero.torch_models.batches import Batch
from nearzero.torch_models.forward import check_repeats, distance, greatest
from nearzero.torch_models.masks import OVERRIDE
from nearzero.torch_models.state import Model

__all__ = ["GIVE_BATCHES", "BatchAxis", "Cuts", "changed_by_a_pass", "find_cuts"]

BatchAxis = int | Literal["none"] | None
FEW = 4  # examples
# The difference of logits that rounding explains, as a share of the greatest logit, by the bytes of a number:
# other numbers of examples take other kernels, which sum in another order.
ROUNDING = {8: 1e-8, 4: 1e-4, 2: 5e-2, 1: 5e-2}
AXES = (0, 1)
GIVE_BATCHES = "give batches, such as DataLoader(data, batch_size=...)"


@dataclass(frozen=True)
class Cuts:
    """The way in which batches can be cut into examples.

    Attributes:
        axis: the dimension of the inputs that holds the examples; None if it isn't known.
        whole: whether batches can't be cut although it is known.
        mask_first: whether masks among the inputs have the examples first nevertheless.
        example_axis: the dimension of the logits that holds the examples.
        source: how that is known.
    """

    axis: int | None
    example_axis: int = 0
    source: str = ""
    mask_first: bool = False
    whole: bool = False

    @property
    def text(self) -> str:
        """Return the cuts for a reader."""
        if self.axis is None:
            return "not cut"
        if self.whole:
            return f"not cut, along dimension {self.axis} of the inputs" if self.axis else "not cut"
        return f"as memory allows, along dimension {self.axis} of the inputs"


def find_cuts(
    model: Model,
    batch: Batch,
    given: BatchAxis,
    *,
    random: str = "",
    most: int = FEW,
    batched: bool = False,
) -> Cuts:
    """Return the way in which batches can be cut into examples, by experiment unless it is given.

    Args:
        model: the model.
        batch: a batch, as it was read.
        given: the dimension that holds the examples, or "none", as the user says.
        random: what draws random numbers on which the logits depend; "" if nothing does.
        most: the number of examples that fit in memory.
        batched: whether the batch was made from examples, so that it can't be a single one.

    Raises:
        InputError: the batch is a single example, can't have its examples on the dimension that is given, or
            has targets or a mask of as many examples as tokens that can be read in two ways.
    """
    model = replace(model, dimensions=None, assumptions=Assumptions())  # leaves no traces
    if given is not None:
        if given == "none":
            return Cuts(None, source="given")
        possible = _divided(batch, (given,))
        if not possible:
            raise InputError(f"batch_axis={given} isn't a dimension of examples in inputs {batch.describe()}")
        tried = _first_that_fits(model, possible, most)
        return replace(tried or Cuts(given), source="given")
    possible, problem = [], None
    for axis in AXES:
        try:
            possible += _divided(batch, (axis,))
        except InputError as error:  # targets that could be read in two ways
            problem = error
    cuts = None if random else _first_that_fits(model, possible, most, others=problem is not None)
    if cuts is not None:
        return cuts
    source = "rows of a batch alone, or permuted, give other logits than in the batch"
    source = f"the logits depend on random numbers ({random})" if random else source
    unordered = _has_other_order(batch)
    if cuts := _whole_that_fits(model, possible, alone=problem is not None or unordered):
        return replace(cuts, source=source)
    if problem is not None or any(along.axis and (unordered or _is_square(batch)) for along in possible):
        turned = "targets with the examples first by prepare=..., or " if unordered else ""
        raise problem or InputError(
            f"it isn't known whether examples or tokens come first in inputs {batch.describe()}, and both would fit; "
            f"give {turned}batch_axis='none' if the targets and the mask have them in the order of the logits"
        )
    if not possible:
        _refuse_single(model, batch, batched=batched)
        if not random:
            _refuse_examples_elsewhere(model, batch)
            return Cuts(None, source=f"inputs {batch.describe()} of {len(batch)} examples")
    if random:
        _refuse_other_counts(model, batch)
    else:
        _refuse_other_readings(model, batch, batched=batched)
    return Cuts(None, source=source)


def changed_by_a_pass(model: Model, batch: Batch) -> list[str]:
    """Return the names of what a pass changes in the model, outside of its inputs.

    Raises:
        InputError: a second pass gives other logits, although this was put back.
    """
    first = model.logits(batch)
    changed = model.before.changed()
    check_repeats(first, model.logits(batch))
    return changed


def _is_square(batch: Batch) -> bool:
    """Return whether targets or a mask have as many examples as tokens."""
    over_tokens = (value for value in (batch.target, batch.mask) if value is not None and value.ndim > 1)
    return any(value.shape[0] == value.shape[1] for value in over_tokens)


def _has_other_order(batch: Batch) -> bool:
    """Return whether targets for each class and token, (K, B, S) for example, don't have the inputs' order."""
    target = batch.target
    if target is None or target.ndim < 3 or batch.prepared or not batch.inputs:
        return False
    return target.shape[0] != batch.inputs[0].shape[0]


def _divided(batch: Batch, axes: Iterable[int]) -> list[Batch]:
    """Return a batch with the examples on each of some dimensions, as far as its shapes allow for that.

    Raises:
        InputError: targets that can be read in two ways.
    """
    readings = [(axis, False) for axis in axes]
    readings += [(axis, True) for axis, _ in readings if axis and batch.has_masks]
    found = (batch.along(*reading) for reading in readings)
    return [along for along in found if along is not None and along.divisible]


def _first_that_fits(
    model: Model, batches: Iterable[Batch], most: int, *, others: bool = False
) -> Cuts | None:
    """Return the cuts along the first of several dimensions whose examples give the same logits alone, or None.

    If two dimensions do on a few rows, or if memory holds fewer rows than that, they are tried on more of them.

    Args:
        model: the model.
        batches: the batch along each dimension.
        most: the number of examples that fit in memory.
        others: whether there are dimensions that can't be tried, so that more rows are tried in any case.

    Raises:
        InputError: the mask fits with the examples first and with the tokens first.
    """
    found = [(batch, cuts) for batch in batches if (cuts := _tried(model, batch, _spread(batch, most)))]
    if others or len(found) > 1 or most < FEW:
        found = [each for each in found if _fits_everywhere(model, each[0], most)]
    if not found:
        return None
    first = [cuts for _, cuts in found if cuts.axis == found[0][1].axis]
    if len(first) > 1:
        raise InputError(
            f"the mask among inputs {found[0][0].describe()} may have examples or tokens first, and the model doesn't "
            f"tell; {OVERRIDE}"
        )
    too = ", and so do those along dimension 1" if len(found) > 1 else ""
    return replace(first[0], source=first[0].source + too)


def _spread(batch: Batch, most: int) -> Tensor:
    """Return the rows of a few examples; a single one is repeated."""
    count = 2 if len(batch) == 2 else max(2, min(FEW, most))
    return torch.linspace(0, len(batch) - 1, count).round().long()


def _fits_everywhere(model: Model, batch: Batch, most: int) -> bool:
    """Return whether neighbours among the first examples, too, give the same logits alone."""
    size = len(_spread(batch, most))
    starts = range(0, min(len(batch) - size + 1, FEW * size), size - 1)
    return all(_tried(model, batch, torch.arange(first, first + size)) for first in starts)


def _tried(model: Model, batch: Batch, rows: Tensor) -> Cuts | None:
    """Return the cuts along the batch's axis if some examples give the same logits alone; else None."""
    few, count = batch.take(rows), len(rows)
    order = torch.arange(count).flip(0)
    parts = [order, torch.arange(1, count), *(torch.tensor([row]) for row in range(count))]
    slack = _rounding(model)
    try:
        whole = model.logits(few)
        fitting = set(range(whole.ndim))
        for part in parts:
            logits = model.logits(few.take(part))
            fitting = {axis for axis in fitting if _fits(logits, whole, part, count, axis, slack)}
            del logits  # frees them before the next are computed
            if not fitting:
                return None
    except Exception as error:  # a user's forward may raise anything
        if is_out_of_memory(error):
            source = f"not tried, since memory doesn't hold {count} examples"
            return Cuts(batch.axis, source=source, mask_first=batch.mask_first)
        return None
    source = f"rows of {count} examples alone and permuted give the same logits"
    return Cuts(batch.axis, min(fitting), source, batch.mask_first)


def _whole_that_fits(model: Model, batches: Iterable[Batch], *, alone: bool) -> Cuts | None:
    """Return the dimension of the examples of batches that can't be cut, of those that are possible, or None.

    If several have only the logits in their order, none is taken.

    Args:
        model: the model.
        batches: the batch along each possible dimension.
        alone: whether it must be shown that other contents of one example move its logits alone.
    """
    tried = [_tried_whole(model, batch) for batch in batches]
    if cuts := next((cuts for is_alone, cuts in tried if is_alone), None):
        return cuts
    ordered = [cuts for _, cuts in tried if cuts is not None]
    return ordered[0] if len(ordered) == 1 and not alone else None


def _tried_whole(model: Model, batch: Batch) -> tuple[bool, Cuts | None]:
    """Return the dimensions of the examples of a batch that can't be cut; None if the experiments don't tell.

    Returns:
        Whether other contents of one example move its logits alone, which tells more than that the order of the
        logits is that of the examples: tokens that attend to each other have the second property too.
    """
    count = len(batch)
    order, slack = torch.arange(count), _rounding(model)
    replaced = [torch.where(order == row, (order + 1) % count, order) for row in (0, count - 1)]
    try:
        whole, flipped = model.logits(batch), model.logits(batch.take(order.flip(0)))
        others = [model.logits(batch.take(rows)) for rows in replaced]
    except Exception:  # a user's forward may raise anything
        return False, None
    ordered = None
    for axis in range(whole.ndim if count > 1 else 0):
        cuts = Cuts(batch.axis, axis, mask_first=batch.mask_first, whole=True)
        if all(
            _fits(logits, whole, order, count, axis, slack, order[rows == order])
            and not _fits(logits, whole, order, count, axis, 0.0)
            for logits, rows in zip(others, replaced, strict=True)
        ):
            return True, cuts
        if ordered is None and _fits(flipped, whole, order.flip(0), count, axis, slack):
            ordered = cuts
    return False, ordered


def _rounding(model: Model) -> float:
    """Return the difference of logits that rounding explains, as a share of the greatest one."""
    sizes = [weight.dtype.itemsize for weight in model.module.parameters() if weight.is_floating_point()]
    return ROUNDING[min(sizes, default=4)]


def _fits(
    logits: Tensor,
    whole: Tensor,
    part: Tensor,
    count: int,
    axis: int,
    slack: float,
    places: Tensor | None = None,
) -> bool:
    """Return whether the logits of some of `count` examples are those in the whole, with the examples on `axis`.

    Each example may have several entries there, such as its tokens. `places` are those that are compared, if not all.
    """
    if whole.shape[axis] % count:
        return False
    if logits.ndim != whole.ndim or logits.shape[axis] * count != whole.shape[axis] * len(part):
        return False
    own, all_rows = logits.unflatten(axis, (len(part), -1)), whole.unflatten(axis, (count, -1))
    most = slack * greatest(whole)
    rows = part.tolist()
    return all(
        distance(own.select(axis, place), all_rows.select(axis, rows[place])) <= most
        for place in (range(len(rows)) if places is None else places.tolist())
    )


def _logits(model: Model, batch: Batch) -> Tensor | None:
    """Return the logits of a batch, or None if the model fails on it."""
    try:
        return replace(model, dimensions=None).logits(batch)
    except Exception:  # a user's forward may raise anything
        return None


def _refuse_other_counts(model: Model, batch: Batch) -> None:
    """Refuse logits whose first dimension can't be that of the examples, of a batch that can't be cut.

    Raises:
        InputError: there aren't as many as examples in any reading of the batch, or several for each.
    """
    shape = tuple(model.logits(batch).shape)
    if not any(count and shape[0] % count == 0 for count in _counts(batch)):
        raise _not_first(shape, batch)


def _refuse_examples_elsewhere(model: Model, batch: Batch) -> None:
    """Refuse logits that seem to have the examples on another dimension than the first.

    Raises:
        InputError: as many logits as examples lie on another dimension, and not on the first.
    """
    shape = tuple(model.logits(batch).shape)
    if len(batch) in shape[1:] and not any(count and shape[0] % count == 0 for count in _counts(batch)):
        raise _not_first(shape, batch)


def _counts(batch: Batch) -> set[int]:
    """Return the numbers of examples that a batch may have."""
    return {len(batch), *(size for tensor in batch.inputs for size in tensor.shape[:2])}


def _not_first(shape: tuple[int, ...], batch: Batch) -> InputError:
    return InputError(
        f"the logits {shape} of inputs {batch.describe()} don't have the examples first; give output=..., a "
        "function from what the model returns to logits that have"
    )


def _refuse_other_readings(model: Model, batch: Batch, *, batched: bool) -> None:
    """Refuse a batch that can't be cut if its logits aren't those of its examples.

    Raises:
        InputError: the item is one example, or has another number of logits than examples.
    """
    several, target = any(tensor.ndim > 1 for tensor in batch.inputs), batch.target
    if several and target is not None and target.ndim and len(target) == len(batch.inputs[0]):
        return
    whole = _logits(model, batch)
    if whole is None or (
        whole.ndim == 2 and len(whole) == len(batch)
    ):  # the items are the same in both readings
        return
    single = not batched and _is_single(model, batch, whole)
    if single or (whole.ndim == 1 and not (batched and len(whole) == len(batch))):
        raise InputError(
            f"the logits {tuple(whole.shape)} of inputs {batch.describe()} aren't those of "
            f"{number_of(len(batch), 'example')}; if an item of your data is one example, {GIVE_BATCHES}; if the "
            "examples of a batch depend on each other, give batch_axis='none'"
        )


def _refuse_single(model: Model, batch: Batch, *, batched: bool) -> None:
    """Refuse an item of the data that is a single example, whose inputs share no dimension of examples.

    Raises:
        InputError: the item is one example.
    """
    target = batch.target
    one_target = target is not None and target.ndim == 0
    if target is not None and not one_target and any(tensor.ndim > 1 for tensor in batch.inputs):
        return  # several targets, which don't fit the inputs
    whole = None if batched else _logits(model, batch)
    if whole is None or (len(whole) == len(batch) and not (one_target and whole.ndim == 1)):
        return
    if _is_single(model, batch, whole):
        raise InputError(
            f"an item of your data is one example, with inputs {batch.describe()} and logits {tuple(whole.shape)}; "
            f"{GIVE_BATCHES}"
        )


def _is_single(model: Model, batch: Batch, whole: Tensor) -> bool:
    """Return whether the logits of an item of the data are those of the only example of a batch."""
    stacked = _logits_of_one(model, batch)
    return stacked is not None and _fits(stacked, whole[None], torch.tensor([0]), 1, 0, _rounding(model))


def _logits_of_one(model: Model, item: Batch) -> Tensor | None:
    """Return the logits of an item of the data as the only example of a batch; None if the model fails on it."""
    try:
        return _logits(model, item.stacked())
    except Exception:  # an input may have no dense form
        return None
