"""A batch: the inputs of a model, the targets, and the mask of the tokens that count.

A batch may be given as a tensor of inputs; as a pair (inputs, targets), where inputs may be a tuple or list
of arguments; or as a mapping of named inputs, as tokenizers return it, in which "labels" are the targets and
"attention_mask" is the mask (`nearzero.torch_models.masks`). The user's own `prepare` converts any other form.
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
from nearzero.torch_models.masks import MaskReader

__all__ = [
    "DECODER",
    "IGNORED",
    "TARGETS",
    "Batch",
    "Prepare",
    "as_tensor",
    "leaves",
    "read_batch",
    "summary",
    "type_name",
]

IGNORED = -100  # the target of a token that doesn't count, as in torch.nn.functional.cross_entropy
TARGETS = ("labels", "label", "targets", "target", "y")
DECODER = (
    "decoder_input_ids",
    "decoder_inputs_embeds",
    "decoder_attention_mask",
    "tgt",
    "tgt_key_padding_mask",
)

Prepare = Callable[[Any], tuple[Any, Any, Any]]


@dataclass(frozen=True, eq=False)
class Batch:
    """The inputs of a model, with targets and masks, for B examples of S tokens each.

    Attributes:
        arguments, keywords: the model's inputs.
        target: (B,) or (B, S, ...) whole numbers, or None.
        mask: (B,) or (B, S) bool, True where an example or token counts; None if all count.
        two_sided: whether the model has an encoder and a decoder, with tokens of their own; `mask` is the
            encoder's.
        decoder_mask: the mask of the decoder's tokens; None if all count.
        masked_by: the input that the mask was read from; "" if there is none, or if `prepare` gave the mask.
    """

    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    target: Tensor | None = None
    mask: Tensor | None = None
    two_sided: bool = False
    decoder_mask: Tensor | None = None
    masked_by: str = ""

    @property
    def inputs(self) -> list[Tensor]:
        """Return the tensors among the inputs."""
        return [tensor for _, tensor in self.named]

    @property
    def named(self) -> list[tuple[str, Tensor]]:
        """Return the tensors among the inputs, each with its keyword, or its position as text."""
        positional = ((str(place), value) for place, value in enumerate(self.arguments))
        inputs = (*positional, *self.keywords.items())
        return [(name, leaf) for name, value in inputs for leaf in leaves(value) if isinstance(leaf, Tensor)]

    def __len__(self) -> int:
        tensors = [tensor for tensor in (self.target, self.mask, *self.inputs) if tensor is not None]
        return tensors[0].shape[0] if tensors and tensors[0].ndim else 1

    @property
    def elements(self) -> int:
        """Return the number of input elements per example."""
        return max(1, sum(tensor.numel() for tensor in self.inputs) // max(len(self), 1))

    @property
    def divisible(self) -> bool:
        """Return whether the batch can be split: no input tensor is nested, and each has examples first."""
        values = (*self.arguments, *self.keywords.values())
        plain = len(self.inputs) == sum(isinstance(value, Tensor) for value in values)
        return plain and all(tensor.ndim > 0 and tensor.shape[0] == len(self) for tensor in self.inputs)

    def take(self, part: slice | Tensor) -> Batch:
        """Return the examples of a slice, or at indices (m,), which may repeat, of a `divisible` batch."""
        return self._map(lambda tensor: tensor[part])

    def blocks(self, rows: int) -> Iterator[Batch]:
        """Yield the batch in blocks of at most `rows` examples, or as a whole if it isn't `divisible`."""
        if rows >= len(self) or not self.divisible:
            yield self
            return
        for first in range(0, len(self), rows):
            yield self.take(slice(first, first + rows))

    def copy(self) -> Batch:
        """Return the batch with copies of its inputs, for a model that writes into them."""
        return self.map_inputs(torch.clone)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Batch:
        """Return the batch on a device, with floating-point and uint8 inputs converted to `dtype` if given."""

        def move(tensor: Tensor) -> Tensor:
            tensor = tensor.to(device)
            return tensor.clone() if tensor.is_inference() else tensor

        moved = self._map(move)
        return moved if dtype is None else moved.map_inputs(lambda tensor: _converted(tensor, dtype))

    def map_inputs(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with a function applied to all tensors among its inputs."""
        inputs = {"arguments": self.arguments, "keywords": dict(self.keywords)}
        return replace(self, **_mapped(inputs, function))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        others = {"target": self.target, "mask": self.mask, "decoder_mask": self.decoder_mask}
        return replace(self.map_inputs(function), **_mapped(others, function))

    def describe(self) -> str:
        """Return dtypes and shapes of the inputs for an error message: float32 (32, 1, 28, 28)."""
        return ", ".join(
            f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}" for tensor in self.inputs
        )

    def counted(self, reads: frozenset[str] | None, named_decoder: bool) -> list[tuple[Tensor, bool]]:
        """Return the masks that apply to some values, (B,) or (B, S) bool, and whether each must fit them.

        Args:
            reads: the inputs that the values depend on; None if unknown.
            named_decoder: whether the values belong to the decoder by their name; used if `reads` is None.
        """
        decoder = named_decoder if reads is None else not reads.isdisjoint((*DECODER, "labels"))
        masks = [] if self.two_sided and decoder else [(self.mask, True)]
        if not self.two_sided or decoder:
            masks += [(self.decoder_mask, False), (_not_ignored(self.target), False)]
        return [(mask, strict) for mask, strict in masks if mask is not None and self._applies(mask, reads)]

    def _applies(self, mask: Tensor, reads: frozenset[str] | None) -> bool:
        """Return whether a mask applies to values: they depend on an input of its shape, if there is one.

        It doesn't apply to the values of images beside a masked text.
        """
        fitting = {name for name, tensor in self.named if tensor.shape[: mask.ndim] == mask.shape}
        return reads is None or not fitting or not fitting.isdisjoint(reads)


def _converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() or tensor.dtype == torch.uint8 else tensor


def _not_ignored(target: Tensor | None) -> Tensor | None:
    """Return a mask of the targets that aren't -100; None without whole-number targets, or if all count."""
    if target is None or target.is_floating_point():
        return None
    counted = target != IGNORED
    return None if bool(counted.all()) else counted


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return a value with a function applied to all tensors in it."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, function) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(item, function) for item in value)
    if type(value) is dict:
        return {name: _mapped(item, function) for name, item in value.items()}
    return value


def leaves(value: Any) -> Iterator[Any]:
    """Yield the values in nested mappings, tuples and lists."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def read_batch(
    item: Any,
    device: torch.device,
    prepare: Prepare | None = None,
    *,
    dtype: torch.dtype | None = None,
    keep_labels: bool = False,
    masks: MaskReader | None = None,
) -> Batch:
    """Return an item of the data as a batch on a device.

    Args:
        item: one item of an iteration over the data.
        device: the device of the model.
        prepare: converts an item to (inputs, target or None, mask or None), where inputs are a tensor, a
            tuple of arguments or a mapping of keywords.
        dtype: the type that floating-point and uint8 inputs are converted to; None keeps them.
        keep_labels: whether the labels are an input too, since the model makes its decoder's inputs from
            them.
        masks: reads the masks of all batches in one way.

    Raises:
        InputError: an item of another type, without tensors, or without examples.
    """
    masks = masks or MaskReader()
    if prepare is not None:
        prepared = prepare(item)
        if not isinstance(prepared, tuple) or len(prepared) != 3:
            raise InputError(
                f"prepare must return a tuple of three, (inputs, target, mask), where target and mask may be None; "
                f"got {summary(prepared)}"
            )
        inputs, target, mask = prepared
    else:
        inputs, target, mask = _split_item(item, keep_labels)
    target, mask = as_tensor(target), as_tensor(mask)
    arguments, keywords = _as_arguments(inputs)
    masked_by = ""
    if mask is None:
        masked_by, mask = masks.find(keywords)
    elif isinstance(mask, Tensor):
        mask = masks.values("mask of prepare=...", mask)
    batch = Batch(
        arguments,
        keywords,
        target,
        mask,
        two_sided=any(name in keywords for name in DECODER) or (keep_labels and "labels" in keywords),
        decoder_mask=masks.find(keywords, decoder=True)[1],
        masked_by=masked_by,
    )
    _check(batch, item, prepare is not None)
    return _normalised(batch).to(device, dtype)


def _check(batch: Batch, item: Any, prepared: bool) -> None:
    """Refuse inputs, targets and masks that aren't tensors, and an empty batch."""
    tensors = all(isinstance(value, (Tensor, type(None))) for value in (batch.target, batch.mask))
    if not tensors or (not batch.inputs and not prepared):
        raise InputError(
            f"a batch must be inputs, (inputs, targets) or a mapping, of tensors; got {summary(item)}; "
            "convert it with prepare=..."
        )
    if len(batch) == 0 or any(tensor.ndim and not tensor.shape[0] for tensor in batch.inputs):
        raise InputError("a batch is empty; leave it out of the data")


def _normalised(batch: Batch) -> Batch:
    """Return the batch with whole-number targets as int64, and masks as bool, or None if all tokens count."""
    target = batch.target
    if target is not None and not target.is_floating_point():
        target = target.long()

    def normalised(mask: Tensor | None) -> Tensor | None:
        return None if mask is None or bool(mask.all()) else mask

    return replace(
        batch, target=target, mask=normalised(batch.mask), decoder_mask=normalised(batch.decoder_mask)
    )


def _split_item(item: Any, keep_labels: bool) -> tuple[Any, Any, Any]:
    """Return (inputs, target, mask) of an item in one of the usual forms."""
    target = None
    if isinstance(item, (tuple, list)):
        if not 1 <= len(item) <= 2:
            raise InputError(
                f"a batch must have one or two parts, (inputs,) or (inputs, targets); got {len(item)}; convert it with "
                "prepare=..."
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
    """Return inputs as arguments and keywords; a DataLoader gives several arguments as a list of tensors."""
    if isinstance(inputs, Mapping):
        return (), {name: as_tensor(value) for name, value in inputs.items()}
    is_list = isinstance(inputs, list) and any(isinstance(value, Tensor) for value in inputs)
    if isinstance(inputs, tuple) or is_list:
        return tuple(as_tensor(value) for value in inputs), {}
    return (as_tensor(inputs),), {}


def as_tensor(value: Any) -> Any:
    """Return arrays and lists of numbers as tensors, and any other value unchanged.

    Raises:
        InputError: an array that doesn't hold numbers.
    """
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub":
            raise InputError(f"arrays must be of numbers; got {value.dtype}")
        # a writable array, since PyTorch warns of others
        return torch.from_numpy(np.require(value, requirements=["C", "W"]))
    if isinstance(value, list) and value:
        try:
            return collate(value)
        except (TypeError, RuntimeError):
            return value
    return value


def type_name(value: object) -> str:
    """Return the type of a value for an error message; a class is named as such."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def summary(value: Any) -> str:
    """Return the type of a value for an error message, and its shape or the first of its contents."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    name = type_name(value)
    if isinstance(value, Mapping):
        return f"{name} with {', '.join(map(str, value)) or 'nothing in it'}"
    if isinstance(value, (tuple, list)):
        types = ", ".join(type(item).__name__ for item in value[:4])
        return f"{name} of {types or 'nothing'}{', ...' if len(value) > 4 else ''}"
    return name
