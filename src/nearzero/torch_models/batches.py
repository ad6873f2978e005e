"""A batch: the inputs of a model, the targets, and the mask of the tokens that count.

A batch may be given as a tensor of inputs; as a pair (inputs, targets), where inputs may be a tuple or list
of arguments; or as a mapping of named inputs, as tokenizers return it, in which "labels" are the targets and
"attention_mask" is the mask (`nearzero.torch_models.masks`). The user's own `prepare` converts any other form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate as collate

from nearzero.errors import InputError
from nearzero.torch_models.assumptions.routing import RowSource
from nearzero.torch_models.masks import MaskReader, is_length
from nearzero.torch_models.snapshot import Snapshot, is_constant

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
    "type_of",
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
        names: the names of the arguments, as far as they are known.
        prepared: whether `prepare` gave the target and the mask, which then have the examples first.
        mask_given: whether `prepare` gave a mask, also one by which all count.
        mask_first: whether masks among the inputs have the examples first, whatever `axis` is.
        whole: whether the batch can't be cut into examples, although it is known where they are.
        is_block: whether it is a part of a batch, which memory doesn't hold.
        axis: the dimension of the inputs that holds the examples; None if it isn't known. Targets and masks have
            the examples first.
        causal: whether the logits at a token are compared with the next token.
        routed: by `Layer.key`, where the rows of a layer were selected in a pass on this batch, as far as they were.
    """

    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    target: Tensor | None = None
    mask: Tensor | None = None
    two_sided: bool = False
    decoder_mask: Tensor | None = None
    masked_by: str = ""
    names: tuple[str, ...] = ()
    prepared: bool = False
    mask_given: bool = False
    mask_first: bool = False
    whole: bool = False
    is_block: bool = False
    axis: int | None = 0
    causal: bool = False
    routed: dict[Any, RowSource] = field(default_factory=dict, init=False, repr=False)

    @property
    def inputs(self) -> list[Tensor]:
        """Return the tensors among the inputs."""
        return [tensor for _, tensor in self.named]

    @property
    def named(self) -> list[tuple[str, Tensor]]:
        """Return the tensors among the inputs, each with its name, or its position as text."""
        return [(name, leaf) for name, leaf in self._leaves if isinstance(leaf, Tensor)]

    @property
    def has_masks(self) -> bool:
        """Return whether an input is a mask by its name."""
        return any(_is_mask(name) for name, _ in self.named)

    @property
    def objects(self) -> dict[str, Any]:
        """Return the objects of other types among the inputs, such as caches, by keyword or position."""
        return {
            name: leaf
            for name, leaf in self._leaves
            if not isinstance(leaf, Tensor) and not is_constant(leaf)
        }

    @property
    def _leaves(self) -> list[tuple[str, Any]]:
        return [(name, leaf) for name, value in self._values for leaf in leaves(value)]

    def __len__(self) -> int:
        if self.axis:
            tensor = next(
                (each for name, each in self.named if not (_is_mask(name) or is_length(name))), self.inputs[0]
            )
            return tensor.shape[self.axis] if tensor.ndim > self.axis else 0
        tensors = [tensor for tensor in (self.target, self.mask, *self.inputs) if tensor is not None]
        return tensors[0].shape[0] if tensors and tensors[0].ndim else 1

    @property
    def elements(self) -> int:
        """Return the number of input elements per example."""
        return max(1, sum(tensor.numel() for tensor in self.inputs) // max(len(self), 1))

    @property
    def divisible(self) -> bool:
        """Return whether the batch can be cut into examples."""
        return self.indexable and not self.whole

    @property
    def indexable(self) -> bool:
        """Return whether examples can be taken: inputs are dense tensors with the examples on `axis`, or constants."""
        tensors = [(name, value) for name, value in self._values if not is_constant(value)]
        return bool(tensors) and all(self._has_examples(name, value) for name, value in tensors)

    @property
    def _values(self) -> list[tuple[str, Any]]:
        return [*_named(self.arguments, self.names).items(), *self.keywords.items()]

    def _has_examples(self, name: str, value: Any) -> bool:
        axis = self.axis_of(name)
        dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested
        return dense and axis is not None and value.ndim > axis and value.shape[axis] == len(self)

    def _leading(self, name: str, tensor: Tensor) -> torch.Size:
        """Return the sizes of the first two dimensions of an input, examples first."""
        return tensor.shape[:2][::-1] if self.axis_of(name) == 1 else tensor.shape[:2]

    def axis_of(self, name: str) -> int | None:
        """Return the dimension of an input that holds the examples; None if the batch can't be cut."""
        first = is_length(name) or (self.mask_first and _is_mask(name))
        return 0 if first and self.axis is not None else self.axis

    @property
    def row_counts(self) -> set[int]:
        """Return the numbers that rows may have before an expert selects some: of examples, and of tokens."""
        return {len(self), *(tensor.shape[:2].numel() for tensor in self.inputs if tensor.ndim > 1)}

    def take(self, part: slice | Tensor) -> Batch:
        """Return the examples of a slice, or at indices (m,), which may repeat, of an `indexable` batch."""
        axes = {id(tensor): self.axis_of(name) or 0 for name, tensor in self.named}
        others = {"target": self.target, "mask": self.mask, "decoder_mask": self.decoder_mask}
        inputs = self.map_inputs(lambda tensor: tensor[(*(slice(None),) * axes[id(tensor)], part)])
        return replace(inputs, **_mapped(others, lambda tensor: tensor[part]))

    def along(self, axis: int | None, mask_first: bool = False) -> Batch | None:
        """Return a batch as it was read with the examples of its inputs on another dimension; None if they can't be.

        Targets and masks over tokens that have the tokens first, as the inputs do, get the examples first. What
        `prepare` gives has the examples first already.

        Args:
            axis: the dimension.
            mask_first: whether masks among the inputs have the examples first nevertheless.

        Raises:
            InputError: targets of as many examples as tokens.
        """
        batch = replace(self, axis=axis, mask_first=mask_first)
        if not axis:
            return batch
        if not self.inputs or not batch.divisible:
            return None
        count, target, mask, decoder_mask = len(batch), self.target, self.mask, self.decoder_mask
        if self.masked_by and mask is not None and not (mask_first or is_length(self.masked_by)):
            mask = mask.movedim(axis, 0)
        if not self.prepared:
            target = _examples_first(target, axis, count)
            decoder_mask = _examples_first(decoder_mask, axis, count)
        if any(value is not None and len(value) != count for value in (target, mask, decoder_mask)):
            return None
        return replace(batch, target=target, mask=mask, decoder_mask=decoder_mask)

    def stacked(self) -> Batch:
        """Return the inputs as those of the only example of a batch, without targets and masks."""
        inputs = self.map_inputs(lambda tensor: tensor[None])
        return replace(inputs, target=None, mask=None, decoder_mask=None, axis=0)

    def blocks(self, rows: int) -> Iterator[Batch]:
        """Yield the batch in blocks of at most `rows` examples, or as a whole if it isn't `divisible`."""
        if rows >= len(self) or not self.divisible:
            yield self
            return
        for first in range(0, len(self), rows):
            yield self.take(slice(first, first + rows))

    def copy(self) -> Batch:
        """Return the batch with copies of its inputs, for a model that may write into them.

        Containers and objects among the inputs, such as caches, are copied with all that they hold, if they can be.
        """
        copies: dict[int, Tensor] = {}  # what is one tensor stays one

        def copied(tensor: Tensor) -> Tensor:
            if id(tensor) not in copies:
                copies[id(tensor)] = tensor.clone()
            return copies[id(tensor)]

        inputs = {"arguments": self.arguments, "keywords": dict(self.keywords)}
        return replace(self, **_mapped(inputs, copied, _copied))

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
        return ", ".join(f"{type_of(tensor)} {tuple(tensor.shape)}" for tensor in self.inputs)

    def counted(self, reads: frozenset[str] | None, named_decoder: bool) -> list[tuple[Tensor, bool]]:
        """Return the masks that apply to some values, (B,) or (B, S) bool, and whether each must fit them.

        Args:
            reads: the inputs that the values depend on; None if unknown.
            named_decoder: whether the values belong to the decoder by their name; used if `reads` is None.
        """
        decoder = named_decoder if reads is None else not reads.isdisjoint((*DECODER, "labels"))
        masks = [] if self.two_sided and decoder else [(self.mask, True)]
        if not self.two_sided or decoder:
            of_target = self.predicting if self.causal else _not_ignored(self.target)
            masks += [(self.decoder_mask, False), (of_target, False)]
        return [(mask, strict) for mask, strict in masks if mask is not None and self._applies(mask, reads)]

    @property
    def predicting(self) -> Tensor | None:
        """Return a mask of the tokens whose next one counts, (B, S) bool, if logits are compared with the next token.

        The last token has no next one. None if there are no tokens.
        """
        shapes = [
            self._leading(name, tensor)
            for name, tensor in self.named
            if tensor.ndim > 1 and not _is_mask(name) and (name in (*DECODER, "labels")) == self.two_sided
        ]
        if not shapes:
            return None
        mask, target = self.decoder_mask if self.two_sided else self.mask, self.target
        known = [values.shape for values in (mask, target) if values is not None]
        shape = next((shape for shape in shapes if shape in known), shapes[0])
        counts = torch.ones(shape, dtype=torch.bool, device=self.inputs[0].device)
        if mask is not None and mask.shape == shape:
            counts = counts & mask
        following = torch.cat([counts[:, 1:], torch.zeros_like(counts[:, :1])], 1) & counts
        if (kept := _not_ignored(target)) is not None and kept.ndim == 2:
            kept = kept[:, 1:] if kept.shape == shape else kept  # or it is that of the next tokens already
            if kept.shape == counts[:, 1:].shape:
                following[:, :-1] &= kept
        return following

    def _applies(self, mask: Tensor, reads: frozenset[str] | None) -> bool:
        """Return whether a mask applies to values: they depend on an input of its shape, if there is one.

        It doesn't apply to the values of images beside a masked text.
        """
        fitting = {
            name
            for name, tensor in self.named
            if not _is_mask(name) and self._leading(name, tensor)[: mask.ndim] == mask.shape
        }
        return reads is None or not fitting or not fitting.isdisjoint(reads)


def _is_mask(name: str) -> bool:
    return "mask" in name


def _converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() or tensor.dtype == torch.uint8 else tensor


def _not_ignored(target: Tensor | None) -> Tensor | None:
    """Return a mask of the targets that aren't -100; None without whole-number targets, or if all count."""
    if target is None or target.is_floating_point():
        return None
    counted = target != IGNORED
    return None if bool(counted.all()) else counted


def _mapped(
    value: Any,
    function: Callable[[Tensor], Tensor],
    of_object: Callable[[Any], Any] = lambda value: value,
) -> Any:
    """Return a value with a function applied to all tensors in it, and another to all objects of other types."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, function, of_object) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(item, function, of_object) for item in value)
    if type(value) is dict:
        return {name: _mapped(item, function, of_object) for name, item in value.items()}
    return of_object(value)


def _copied(value: Any) -> Any:
    """Return a copy of an object with all that it holds, or the object itself if it can't be copied."""
    if is_constant(value) or isinstance(value, torch.nn.Module):
        return value
    # PyTorch copies no tensor that has a gradient's graph, so all are copied here
    copies = {id(tensor): tensor.detach().clone() for tensor in Snapshot({"": value}).tensors}
    try:
        return deepcopy(value, copies)
    except Exception:  # any type may refuse; `find_layers` then looks whether a pass changes it
        return value


def _examples_first(tensor: Tensor | None, axis: int, examples: int) -> Tensor | None:
    """Return targets or a mask with the examples first, from the order of the inputs or from that already."""
    if tensor is None or tensor.ndim <= axis or tensor.shape[axis] != examples:
        return tensor
    if tensor.shape[0] == examples:
        raise InputError(
            f"targets or a mask {tuple(tensor.shape)} may have examples or tokens first; give them with the examples "
            "first by prepare=..., or batch_axis='none' if they have the tokens first"
        )
    return tensor.movedim(axis, 0)


def _named(arguments: tuple[Any, ...], names: tuple[str, ...]) -> dict[str, Any]:
    """Return arguments by name, or by position as text where there is no name."""
    return {
        names[place] if place < len(names) else str(place): value for place, value in enumerate(arguments)
    }


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
    names: tuple[str, ...] = (),
    dtype: torch.dtype | None = None,
    keep_labels: bool = False,
    collated: bool = False,
    masks: MaskReader | None = None,
) -> Batch:
    """Return an item of the data as a batch on a device.

    Args:
        item: one item of an iteration over the data.
        device: the device of the model.
        prepare: converts an item to (inputs, target or None, mask or None), where inputs are a tensor, a
            tuple of arguments or a mapping of keywords.
        names: the names of the arguments that the model takes by position.
        dtype: the type that floating-point and uint8 inputs are converted to; None keeps them.
        keep_labels: whether the labels are an input too, since the model makes its decoder's inputs from
            them.
        collated: whether `default_collate` made the item, which turns lists of numbers into lists of columns.
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
    if isinstance(inputs, Mapping):
        arguments, keywords, target = (), *_oriented(inputs, target, collated)
    else:
        arguments, keywords = _as_arguments(inputs), {}
        _, target = _oriented(dict(enumerate(arguments)), target, collated)
    if isinstance(target, (int, float, np.generic)):  # of a single example
        target = torch.tensor(target)
    mask, masked_by = as_tensor(mask), ""
    mask_given = mask is not None
    named = {**_named(arguments, names), **keywords}
    if mask is None:
        masked_by, mask = masks.find(named)
    elif isinstance(mask, Tensor):
        mask = masks.values("mask of prepare=...", mask)
    batch = Batch(
        arguments,
        keywords,
        target,
        mask,
        two_sided=any(name in named for name in DECODER) or (keep_labels and "labels" in keywords),
        decoder_mask=masks.find(named, decoder=True)[1],
        masked_by=masked_by,
        names=names,
        prepared=prepare is not None,
        mask_given=mask_given,
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
    for tensor in (*batch.inputs, *(value for value in (batch.target, batch.mask) if value is not None)):
        if tensor.is_nested or (tensor.layout != torch.strided and tensor is batch.target):
            kind = "nested" if tensor.is_nested else "sparse"
            raise InputError(f"a batch holds a {kind} tensor; make it dense by prepare=...")
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


def _as_arguments(inputs: Any) -> tuple[Any, ...]:
    """Return inputs as arguments; a DataLoader gives several of them as a list of tensors."""
    is_list = isinstance(inputs, list) and any(isinstance(value, Tensor) for value in inputs)
    if isinstance(inputs, tuple) or is_list:
        return tuple(as_tensor(value) for value in inputs)
    return (as_tensor(inputs),)


def _oriented(inputs: Mapping[Any, Any], target: Any, collated: bool) -> tuple[dict[Any, Any], Any]:
    """Return named inputs and targets as tensors; lists of tensors become one tensor with the examples first.

    Raises:
        InputError: a list of tensors that may hold an example or a column (one number of each example) each.
    """
    values = [target, *inputs.values()]
    known = next(
        (
            value.shape[0]
            for value in values
            if isinstance(value, Tensor) and not value.is_nested and value.ndim
        ),
        None,
    )

    def oriented(name: object, value: Any) -> Any:
        tensor = as_tensor(value)
        is_list = isinstance(value, list) and isinstance(tensor, Tensor) and isinstance(value[0], Tensor)
        if not is_list or tensor.ndim < 2:
            return tensor
        rows, columns = tensor.shape[:2]
        if not collated and (known is None or known == rows == columns):
            raise InputError(
                f"{name} is a list of {rows} tensors {tuple(tensor.shape[1:])}, each of which may be an example, or "
                "hold one number of each example; stack them by prepare=..."
            )
        return tensor.movedim(1, 0) if collated or (known == columns != rows) else tensor

    return {name: oriented(name, value) for name, value in inputs.items()}, oriented("the targets", target)


def as_tensor(value: Any) -> Any:
    """Return arrays and lists of numbers as tensors, and any other value unchanged.

    Raises:
        InputError: an array that doesn't hold numbers.
    """
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub":
            raise InputError(f"arrays must be of numbers; got {value.dtype}")
        native = value.dtype.newbyteorder("=") if value.dtype.itemsize <= 8 else np.float64  # longdouble
        # a writable array, since PyTorch warns of others
        return torch.from_numpy(np.require(value, native, requirements=["C", "W"]))
    if isinstance(value, list) and value:
        try:
            if isinstance(value[0], (list, np.ndarray)):
                return torch.stack([as_tensor(item) for item in value])
            return collate(value)
        except (TypeError, RuntimeError):
            return value
    return value


def type_of(tensor: Tensor) -> str:
    """Return the type of a tensor's numbers for an error message: float32."""
    return str(tensor.dtype).removeprefix("torch.")


def type_name(value: object) -> str:
    """Return the type of a value for an error message; a class is named as such."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def summary(value: Any) -> str:
    """Return the type of a value for an error message, and its shape or the first of its contents."""
    if isinstance(value, Tensor):
        return f"{type_of(value)} of shape {tuple(value.shape)}"
    name = type_name(value)
    if isinstance(value, Mapping):
        return f"{name} with {', '.join(map(str, value)) or 'nothing in it'}"
    if isinstance(value, (tuple, list)):
        types = ", ".join(type(item).__name__ for item in value[:4])
        return f"{name} of {types or 'nothing'}{', ...' if len(value) > 4 else ''}"
    return name
