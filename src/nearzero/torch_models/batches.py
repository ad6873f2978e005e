"""One batch as a probe sees it: the model's inputs, targets, and which tokens count.

What a batch may be: a tensor of inputs; a pair (inputs, targets), where inputs may be a tuple or list of
arguments; a mapping of named inputs, as tokenizers give it, in which "labels" are the targets and
"attention_mask" is the mask. Anything else goes through the user's own `prepare`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate as collate

from nearzero.errors import InputError

__all__ = ["IGNORED", "Batch", "Prepare", "as_tensor", "leaves", "read_batch", "shown", "type_name"]

IGNORED = -100  # the target that counts in nothing, as in torch.nn.functional.cross_entropy
TARGETS = ("labels", "label", "targets", "target", "y")
DECODER = ("decoder_input_ids", "decoder_inputs_embeds", "decoder_attention_mask")

Prepare = Callable[[Any], tuple[Any, Any, Any]]


@dataclass(frozen=True, eq=False)
class Batch:
    """What the model is called with, and what it's held against.

    Attributes:
        arguments, keywords: the model's inputs.
        target: (B,) or (B, S, ...) whole numbers, or None.
        mask: (B,) or (B, S) bool, True where an example or token counts; None if all do.
        two_sided: whether it's for an encoder and a decoder, whose tokens are other ones; `mask` is the encoder's.
        decoder_mask: the mask of the decoder's tokens.
    """

    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    target: Tensor | None = None
    mask: Tensor | None = None
    two_sided: bool = False
    decoder_mask: Tensor | None = None

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors among the inputs."""
        return [tensor for _, tensor in self.named]

    @property
    def named(self) -> list[tuple[str, Tensor]]:
        """The tensors among the inputs, each with its keyword, or its number as text."""
        known = [*((str(place), each) for place, each in enumerate(self.arguments)), *self.keywords.items()]
        return [(name, leaf) for name, each in known for leaf in leaves(each) if isinstance(leaf, Tensor)]

    def __len__(self) -> int:
        known = [each for each in (self.target, self.mask, *self.inputs) if each is not None]
        return known[0].shape[0] if known and known[0].ndim else 1

    @property
    def elements(self) -> int:
        """How many numbers its inputs hold, for each example."""
        return max(1, sum(each.numel() for each in self.inputs) // max(len(self), 1))

    @property
    def divisible(self) -> bool:
        """Whether its examples can be taken apart: every input is a tensor that has them as first dimension."""
        given = (*self.arguments, *self.keywords.values())
        plain = len(self.inputs) == sum(isinstance(each, Tensor) for each in given)
        return plain and all(each.ndim > 0 and each.shape[0] == len(self) for each in self.inputs)

    def take(self, part: slice | Tensor) -> Batch:
        """Return some examples, or those at places (m,), each as often as it is named; only if `divisible`."""
        return self._each(lambda tensor: tensor[part])

    def blocks(self, rows: int) -> Iterator[Batch]:
        """The batch in blocks of at most so many examples, if it can be taken apart."""
        if rows >= len(self) or not self.divisible:
            yield self
            return
        for first in range(0, len(self), rows):
            yield self.take(slice(first, first + rows))

    def copy(self) -> Batch:
        """Its inputs as copies, for a model that writes into them."""
        return self._each_input(torch.clone)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Batch:
        """On another device; inputs that are floating-point numbers or bytes as `dtype`, if given."""

        def move(tensor: Tensor) -> Tensor:
            tensor = tensor.to(device)
            return tensor.clone() if tensor.is_inference() else tensor

        moved = self._each(move)
        return moved if dtype is None else moved._each_input(lambda tensor: _as(tensor, dtype))

    def _each_input(self, function: Callable[[Tensor], Tensor]) -> Batch:
        inputs = {"arguments": self.arguments, "keywords": dict(self.keywords)}
        return replace(self, **_mapped(inputs, function))

    def _each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        others = {"target": self.target, "mask": self.mask, "decoder_mask": self.decoder_mask}
        return replace(self._each_input(function), **_mapped(others, function))

    def describe(self) -> str:
        """Its inputs for an error message: float32 (32, 1, 28, 28)."""
        return ", ".join(
            f"{str(each.dtype).removeprefix('torch.')} {tuple(each.shape)}" for each in self.inputs
        )

    def counted(self, reads: frozenset[str] | None, named_decoder: bool) -> list[tuple[Tensor, bool]]:
        """What says which tokens count, (B,) or (B, S) bool each, and whether it must fit whatever it's used on.

        Args:
            reads: the inputs that it's used on depends on; None if unknown.
            named_decoder: whether its name says that the decoder's tokens are meant.
        """
        decoder = named_decoder if reads is None else not reads.isdisjoint((*DECODER, "labels"))
        masks = [] if self.two_sided and decoder else [(self.mask, True)]
        if not self.two_sided or decoder:
            masks += [(self.decoder_mask, False), (_not_ignored(self.target), False)]
        return [(mask, strict) for mask, strict in masks if mask is not None and self._concerns(mask, reads)]

    def _concerns(self, mask: Tensor, reads: frozenset[str] | None) -> bool:
        """Whether some values depend on the inputs that a mask is for, by its shape; images beside a text don't."""
        fitting = {name for name, each in self.named if each.shape[: mask.ndim] == mask.shape}
        return reads is None or not fitting or not fitting.isdisjoint(reads)


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() or tensor.dtype == torch.uint8 else tensor


def _not_ignored(target: Tensor | None) -> Tensor | None:
    """Where a target isn't -100; None if nowhere."""
    if target is None or target.is_floating_point():
        return None
    counted = target != IGNORED
    return None if bool(counted.all()) else counted


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A value with all tensors in it mapped."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(each, function) for each in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(each, function) for each in value)
    if type(value) is dict:
        return {name: _mapped(each, function) for name, each in value.items()}
    return value


def leaves(value: Any) -> Iterator[Any]:
    """What mappings, tuples and lists hold, however deep."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for each in value:
            yield from leaves(each)
    else:
        yield value


def read_batch(
    item: Any,
    device: torch.device,
    prepare: Prepare | None = None,
    *,
    dtype: torch.dtype | None = None,
    keep_labels: bool = False,
) -> Batch:
    """A batch as inputs, target and mask, on a device.

    Args:
        item: what iterating over the data gave.
        device: where the model is.
        prepare: from such an item to (inputs, target or None, mask or None), where inputs are a tensor, a
            tuple of arguments or a mapping of keywords.
        dtype: what inputs that are floating-point numbers or bytes are converted to.
        keep_labels: whether a model gets the labels too, since it makes its decoder's inputs from them.

    Raises:
        InputError: an item of another kind, without tensors, or without examples.
    """
    if prepare is not None:
        parts = prepare(item)
        if not isinstance(parts, tuple) or len(parts) != 3:
            raise InputError(
                f"prepare must return a tuple of three, (inputs, target, mask), where target and mask may be None; "
                f"got {shown(parts)}"
            )
        inputs, target, mask = parts
    else:
        inputs, target, mask = _take_apart(item, keep_labels)
    target, mask = as_tensor(target), as_tensor(mask)
    arguments, keywords = _as_arguments(inputs)
    if mask is None:
        mask = _two_dimensional(keywords.get("attention_mask"))
    batch = Batch(
        arguments,
        keywords,
        target,
        mask,
        two_sided=any(name in keywords for name in DECODER) or (keep_labels and "labels" in keywords),
        decoder_mask=_two_dimensional(keywords.get("decoder_attention_mask")),
    )
    _check(batch, item, prepare is not None)
    return _settled(batch).to(device, dtype)


def _check(batch: Batch, item: Any, prepared: bool) -> None:
    """Refuse what no model could be called with, or held against."""
    labels = (batch.target, batch.mask)
    strange = not all(isinstance(each, (Tensor, type(None))) for each in labels)
    if strange or (not batch.inputs and not prepared):
        raise InputError(
            f"a batch must be inputs, (inputs, targets) or a mapping, of tensors; got {shown(item)}; "
            "prepare=... can take it apart"
        )
    if len(batch) == 0 or any(each.ndim and not each.shape[0] for each in batch.inputs):
        raise InputError("a batch is empty; leave it out of the data")


def _settled(batch: Batch) -> Batch:
    """Targets and masks in the types they're used in; a mask that leaves nothing out is none."""
    target = batch.target
    if target is not None and not target.is_floating_point():
        target = target.long()

    def plain(mask: Tensor | None) -> Tensor | None:
        return None if mask is None or bool(mask.bool().all()) else mask.bool()

    return replace(batch, target=target, mask=plain(batch.mask), decoder_mask=plain(batch.decoder_mask))


def _take_apart(item: Any, keep_labels: bool) -> tuple[Any, Any, Any]:
    """(inputs, target, mask) of a batch of one of the usual kinds."""
    target = None
    if isinstance(item, (tuple, list)):
        if not 1 <= len(item) <= 2:
            raise InputError(
                f"a batch of {len(item)} parts: (inputs,) or (inputs, targets) is understood; prepare=... can take "
                "others apart"
            )
        item, target = item[0], (item[1] if len(item) == 2 else None)
    if isinstance(item, Mapping):
        named = dict(item)
        for name in TARGETS:
            if target is None and name in named:
                target = named[name] if keep_labels else named.pop(name)
        return named, target, None
    return item, target, None


def _as_arguments(inputs: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Inputs as arguments and keywords; a list of tensors is what a DataLoader makes of several arguments."""
    if isinstance(inputs, Mapping):
        return (), {name: as_tensor(each) for name, each in inputs.items()}
    several = isinstance(inputs, list) and any(isinstance(each, Tensor) for each in inputs)
    if isinstance(inputs, tuple) or several:
        return tuple(as_tensor(each) for each in inputs), {}
    return (as_tensor(inputs),), {}


def _two_dimensional(mask: Any) -> Tensor | None:
    return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None


def as_tensor(value: Any) -> Any:
    """Arrays and lists of numbers as tensors; anything else as it is.

    Raises:
        InputError: an array of something else than numbers.
    """
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub":
            raise InputError(f"arrays must be of numbers; got {value.dtype}")
        # PyTorch warns of arrays that can't be written to
        return torch.from_numpy(np.require(value, requirements=["C", "W"]))
    if isinstance(value, list) and value:
        try:
            return collate(value)
        except (TypeError, RuntimeError):
            return value
    return value


def type_name(value: object) -> str:
    """What a value is, for an error message."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def shown(value: Any) -> str:
    """A value for an error message: what it is, and what is in it."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    name = type_name(value)
    if isinstance(value, Mapping):
        return f"{name} with {', '.join(map(str, value)) or 'nothing in it'}"
    if isinstance(value, (tuple, list)):
        kinds = ", ".join(type(each).__name__ for each in value[:4])
        return f"{name} of {kinds or 'nothing'}{', ...' if len(value) > 4 else ''}"
    return name
