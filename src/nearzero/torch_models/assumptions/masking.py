"""Check on the model that a mask is read the right way round: what is masked moves no logits of what isn't."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from nearzero.errors import InputError
from nearzero.torch_models.assumptions.content import SHARE, moved_by, rounding_of
from nearzero.torch_models.assumptions.table import UNREAD
from nearzero.torch_models.batches import Batch
from nearzero.torch_models.data import BatchSource
from nearzero.torch_models.masks import OPEN, OVERRIDE, MaskReader, is_length, mask_of_lengths
from nearzero.torch_models.state import Model

__all__ = ["read_masks"]

POSITIONS = "position_ids"  # the argument of transformers' models for the place of each token in its text
FIRST = 4  # batches among which masked tokens are looked for


def read_masks(model: Model, source: BatchSource, masks: MaskReader, most: int) -> Batch | None:
    """Find out which tokens the mask of some data leaves out, and record it.

    Args:
        model: the model.
        source: the data.
        masks: reads the masks of the data; learns whether they are to be turned.
        most: the number of examples that the model is run on at a time.

    Returns:
        Examples whose tokens are masked in part; None if the first batches have none.

    Raises:
        InputError: it isn't known which tokens the mask leaves out.
    """
    record, masked, name, given, nothing = model.assumptions.record, None, "", False, True
    for batch in islice(source, FIRST):
        name, given = name or batch.masked_by, given or batch.mask_given
        nothing = nothing and batch.mask is not None and not bool(batch.mask.any())
        masked = _masked_examples(batch, most)
        if masked is not None or not (name or batch.prepared):
            break
    if not name:
        value, known = "1 or True where it counts", "given"
        if not given:
            masks.lengths, masked, value, known = _try_lengths(model, source, most)
        if not masks.lengths:
            _refuse_unnamed(model, source, most)
        record("mask", masks.describe(masks.lengths) if masks.lengths else value, known, "prepare=")
        return masked
    turned, known = False, "its name; no token is masked in the first batches"
    if masked is not None:
        turned, known = _infer(model, masked)
    elif nothing and name in OPEN:
        turned, known = True, "the other reading masks all tokens"
    if turned:
        masks.ignores = True
        masked = masked and replace(masked, mask=None if masked.mask is None else ~masked.mask)
    record("mask", masks.describe(name), known, "prepare=")
    if masked is not None:
        _check_positions(model, masked)
    return masked


def _check_positions(model: Model, masked: Batch) -> None:
    """Refuse texts that are padded on the left, if the model counts the padding among the positions of tokens.

    Models that learn a vector for each position do so, unless they are given `position_ids`; in generation they are.

    Raises:
        InputError: other positions, counted from the first token that isn't masked, give other logits.
    """
    mask = masked.mask
    if mask is None or mask.ndim != 2 or masked.axis != 0 or masked.two_sided or POSITIONS in masked.keywords:
        return
    if POSITIONS not in inspect.signature(model.module.forward).parameters or bool(mask[:, 0].all()):
        return
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    try:
        logits = model.tokens_second(model.logits(masked))
        own = model.tokens_second(
            model.logits(replace(masked, keywords={**masked.keywords, POSITIONS: positions}))
        )
    except Exception:  # it may take other positions, or none beside other inputs
        return
    if logits.shape[:2] != mask.shape or own.shape != logits.shape:
        return
    apart = float((own - logits)[mask].abs().max())
    if apart > rounding_of(logits):
        raise InputError(
            "texts are padded on the left, and the model counts the padding among the positions of tokens (with "
            f"positions from the first token on, logits change by {apart:.3g}); pad on the right, or give "
            f"{POSITIONS!r} in each batch: (attention_mask.cumsum(1) - 1).clamp(min=0)"
        )


def _try_lengths(model: Model, source: BatchSource, most: int) -> tuple[str, Batch | None, str, str]:
    """Find out whether an input holds the number of tokens of each example that count.

    Returns:
        The name of the input, "" if it isn't to be read as a mask; examples with fewer tokens than others; what is
        read, and how that is known.
    """
    seen, value, known = False, "none", "no input has the name of one"
    for batch in islice(source, FIRST):
        for name, tensor in batch.named:
            if not is_length(name) or tensor.is_floating_point() or tensor.ndim != 1:
                continue
            seen, value = True, f"none; {name} isn't read as a mask"
            known = "no token is beyond it in the first batches"
            mask = None if batch.prepared else mask_of_lengths(tensor, dict(batch.named))
            if mask is None:
                return (
                    "",
                    None,
                    value,
                    "prepare= gives none" if batch.prepared else "it isn't a number of tokens",
                )
            few = _masked_examples(replace(batch, mask=mask, masked_by=name), most)
            if few is not None:
                kept, _ = _readings(model, few, model.logits(few))
                if kept:
                    return name, few, "", "what is beyond it moves no logits"
                known = "it can't be tried on the model" if kept is None else "what is beyond it moves logits"
                return "", None, value, known
        if not seen:
            break
    return "", None, value, known


def _refuse_unnamed(model: Model, source: BatchSource, most: int) -> None:
    """Refuse inputs that act as a mask without the name of one.

    Raises:
        InputError: what an input has 0 for, or what it has 1 for, moves no logits of the rest.
    """
    for batch in islice(source, FIRST):
        for name, counts in _possible_masks(batch):
            few = _masked_examples(replace(batch, mask=counts), most)
            if few is None or few.mask is None:
                continue
            kept, turned = _readings(model, few, model.logits(few))
            if kept is not None and kept != turned:
                raise InputError(
                    f"the input {name!r} acts as a mask, but hasn't the name of one, so it isn't known what it leaves "
                    f"out; {OVERRIDE}"
                )


def _possible_masks(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    """Yield the inputs that have the form and the values of a mask, as masks (B, S), unless the user gave it."""
    sizes = {tuple(tensor.shape[:2]) for _, tensor in batch.named if tensor.ndim > 1}
    for name, tensor in () if batch.prepared else batch.named:
        known = any(word in name for word in ("position", "type", "label"))
        if tensor.layout != torch.strided or tensor.ndim < 2 or known or bool((tensor > 1).any()):
            continue
        try:
            counts = MaskReader().read("attention_mask", tensor)
        except InputError:  # other values
            continue
        counts = counts.t() if batch.axis and counts.ndim == 2 else counts
        if counts.ndim == 2 and (tuple(counts.shape) in sizes or tuple(counts.shape[::-1]) in sizes):
            yield name, counts


def _masked_examples(batch: Batch, most: int) -> Batch | None:
    """Return some examples of a batch whose tokens are masked in part; None if there are none."""
    if batch.mask is None or batch.mask.ndim < 2:
        return None
    tokens = batch.mask.flatten(1)
    partly = (tokens.any(1) & ~tokens.all(1)).nonzero()[:most, 0]
    if not len(partly):
        return None
    return batch.take(partly) if batch.divisible else batch  # one that can't be cut is run as it is


def _infer(model: Model, few: Batch) -> tuple[bool, str]:
    """Return whether the mask of some examples is to be turned round, and how that is known.

    Args:
        model: the model.
        few: examples whose tokens are masked in part, as `_masked_examples` returns them.

    Raises:
        InputError: what is masked moves logits of what isn't, or both readings fit.
    """
    name, mask = few.masked_by, few.mask
    assert mask is not None
    logits = model.logits(few)
    kept, turned = _readings(model, few, logits)
    if name in OPEN:
        return _choice(model, few, kept, turned)
    if kept is False and not _is_read(model, few, logits):
        return False, f"its name; {UNREAD}"
    if kept is False:
        raise InputError(
            f"changing what the {name} masks changes the logits of what it doesn't, so it may have another meaning, or "
            f"the model doesn't follow it everywhere; {OVERRIDE}"
        )
    return False, "its name" if kept is None or turned else "what is masked moves no other logits"


def _readings(model: Model, few: Batch, logits: Tensor) -> tuple[bool | None, bool | None]:
    """Return whether the model follows the mask of some examples as it is, and turned round; None if unknown."""
    assert few.mask is not None
    everything = moved_by(model, few, torch.ones_like(few.mask), logits)
    if everything is None:
        return None, None
    slack = max(SHARE * float(everything.amax()), rounding_of(logits))
    kept, turned = (_is_followed(model, few, mask, logits, slack) for mask in (few.mask, ~few.mask))
    return kept, turned


def _choice(model: Model, few: Batch, kept: bool | None, turned: bool | None) -> tuple[bool, str]:
    """Return whether to turn a mask whose name doesn't tell its meaning.

    Raises:
        InputError: the experiment doesn't tell it either.
    """
    assert few.mask is not None
    # a model that sees no later tokens follows any mask of later ones, but not with its values exchanged
    fits = [
        bool(followed) and _is_followed_when_turned(model, few, mask)
        for followed, mask in ((kept, few.mask), (turned, ~few.mask))
    ]
    if fits[0] != fits[1]:
        return fits[1], "what is masked moves no other logits"
    raise InputError(
        f"the {few.masked_by} may be 1 where a token counts or where it is ignored, and the model doesn't tell which; "
        f"{OVERRIDE}"
    )


def _is_followed(model: Model, few: Batch, mask: Tensor, logits: Tensor, slack: float) -> bool | None:
    """Return whether what a mask (B, S) leaves out moves no logits of what it doesn't; None if that isn't known."""
    distance = moved_by(model, few, ~mask, logits)
    if distance is None:
        return None
    if distance.shape != mask.shape or few.two_sided:  # logits of whole examples, or of other tokens
        return float(distance.amax()) <= slack
    return not bool(mask.any()) or float(distance[mask].amax()) <= slack


def _is_followed_when_turned(model: Model, few: Batch, mask: Tensor) -> bool:
    """Return whether the model, given a mask with its values exchanged, ignores what that leaves out.

    Args:
        model: the model.
        few: some examples, whose input has the mask.
        mask: (B, S), True for tokens that count by the mask as it is.
    """
    source = dict(few.named)[few.masked_by]
    turned = few.map_inputs(lambda tensor: _exchanged(source) if tensor is source else tensor)
    logits = model.logits(turned)
    everything = moved_by(model, turned, torch.ones_like(mask), logits)
    if everything is None:
        return False
    slack = max(SHARE * float(everything.amax()), rounding_of(logits))
    tokens = mask.flatten(1)
    whole = ~tokens.any(1) | tokens.all(1)  # of these all tokens, or none, would be left out
    return bool(_is_followed(model, turned, ~mask | whole.view(-1, *[1] * (mask.ndim - 1)), logits, slack))


def _exchanged(mask: Tensor) -> Tensor:
    """Return a mask of two values with each in place of the other."""
    if mask.dtype == torch.bool:
        return ~mask
    low, high = mask.aminmax()
    return torch.where(mask == low, high, low)


def _is_read(model: Model, few: Batch, logits: Tensor) -> bool:
    """Return whether another mask in place of the mask changes the logits."""
    mask = dict(few.named)[few.masked_by]
    other = next((each for each in (mask.roll(1, 0), mask.flip(-1)) if not torch.equal(each, mask)), mask)
    after = model.logits(few.map_inputs(lambda tensor: other if tensor is mask else tensor))
    return not torch.equal(after.nan_to_num(), logits.nan_to_num())
