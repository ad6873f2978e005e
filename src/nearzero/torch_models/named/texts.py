"""Texts as tokens: joined and cut into blocks, or a text in a row, padded with a mask."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from nearzero.errors import InputError
from nearzero.support.words import number_of
from nearzero.torch_models.assumptions import Assumption
from nearzero.torch_models.batches import IGNORED
from nearzero.torch_models.named.images import labels_of
from nearzero.torch_models.named.options import TEXTS, Loading
from nearzero.torch_models.named.sources import (
    NamedData,
    NamedModel,
    Preparation,
    RawData,
    Rows,
    contents_digest,
)

__all__ = ["pad_token", "text_batches"]

BLOCK = 1024  # tokens, or fewer if the model takes fewer
NOTHING_MASKED = 'none: no token is masked out; batches with "labels", -100 at all other tokens, have a loss'
AT_A_TIME = 1000  # texts that are tokenised together

Example = dict[str, list[int]]


def text_batches(
    raw: RawData, preparation: Preparation, model: NamedModel | None, loading: Loading, batch_size: int
) -> NamedData:
    """Return texts as batches of tokens, with a mask, and labels if there are any.

    Raises:
        InputError: there are no tokens, or a block is longer than the model takes.
    """
    rows = [*raw.rows, Assumption("tokens", preparation.text, preparation.source, "Loading(preprocess=)")]
    joined = not preparation.rows if loading.block is None else loading.block != TEXTS
    labels: list[int] | None = None
    names: tuple[str, ...] = ()
    has_labels = not (joined or preparation.predicts or preparation.fills)
    if not has_labels:
        loading.refuse(("classes",), "the model or blocks have no classes")
    if joined:
        examples = _blocks(raw, preparation, loading, rows)
    else:
        raw = raw.first(loading.examples)
        rows[: len(raw.rows)] = raw.rows
        examples = _one_in_a_row(raw, preparation, loading, rows)
        if has_labels:
            labels, names = labels_of(raw, model, loading, rows)
    _check_known(examples, preparation)
    if empty := sum(not example["input_ids"] for example in examples):
        rows.append(Assumption("empty texts", f"{empty:,} left out", "they have no tokens", "data="))
        kept = [number for number, example in enumerate(examples) if example["input_ids"]]
        examples = [examples[number] for number in kept]
        labels = None if labels is None else [labels[number] for number in kept]
    if labels is not None:
        examples = [example | {"labels": [label]} for example, label in zip(examples, labels, strict=True)]
    if not examples:
        raise InputError(f"{raw.origin.name} holds no tokens")
    targets = (
        "the tokens themselves; -100 at padding"
        if preparation.predicts
        else "those of the data"
        if labels
        else NOTHING_MASKED
        if preparation.fills
        else "none"
    )
    rows.append(
        Assumption("targets of the tokens", targets, "the class of the model", "Loading(auto_class=)")
    )
    collate = partial(_padded, preparation=preparation)
    what = f"{len(examples):,} {'blocks' if joined else 'texts'} of tokens"
    digest = contents_digest(json.dumps(example, sort_keys=True).encode() for example in examples)
    origin = replace(raw.origin, files={**raw.origin.files, what: digest})
    return NamedData(DataLoader(examples, batch_size, collate_fn=collate), origin, names, rows)  # type: ignore[arg-type]


def _blocks(raw: RawData, preparation: Preparation, loading: Loading, rows: Rows) -> list[Example]:
    """Return the tokens of all texts, joined, in blocks; the last one is shorter.

    Raises:
        InputError: a block is longer than the model takes.
    """
    longest = preparation.longest
    size = min(BLOCK, longest or BLOCK) if loading.block is None else int(loading.block)
    if longest is not None and size > longest:
        raise InputError(f"block is {size} tokens, and the model takes {longest}; give at most as many")
    source = "given"
    if loading.block is None:
        source = (
            "the longest that the model takes"
            if size == longest
            else f"the default; the model takes {longest or 'any number'}"
        )
    most = None if loading.examples is None else loading.examples * size
    tokens = list(islice(chain.from_iterable(_tokenised(raw.items, preparation.function)), most))
    starts = range(0, len(tokens), size)
    # a block of one token has no next token
    blocks = [tokens[start : start + size] for start in starts if len(tokens) - start > 1]
    rows.append(
        Assumption(
            "blocks",
            f"{len(blocks):,} of {size:,} tokens or, at the end, fewer; from {number_of(len(raw.items), 'text')}"
            f"{', joined' if len(raw.items) > 1 else ''}",
            source,
            "Loading(block=)",
        )
    )
    return [{"input_ids": block, "attention_mask": [1] * len(block)} for block in blocks]


def _one_in_a_row(raw: RawData, preparation: Preparation, loading: Loading, rows: Rows) -> list[Example]:
    """Return the tokens of each text; those of longer texts than the model takes are cut."""
    tokenizer, longest = preparation.function, preparation.longest
    encoded = [
        dict(tokenizer(text, truncation=longest is not None, max_length=longest, verbose=False))
        for text in raw.items
    ]
    cut = 0
    if longest is not None:
        cut = sum(len(ids) > longest for ids in _tokenised(raw.items, tokenizer))
    text = f"one in a row, {len(encoded):,}"
    text += f", {cut:,} of which are cut to {longest:,} tokens" if cut else ""
    source = "the class of the model" if loading.block is None else "given"
    rows.append(Assumption("texts", text, source, "Loading(block=)"))
    return encoded


def _tokenised(texts: Sequence[str], tokenizer: Any) -> Iterable[list[int]]:
    """Yield the tokens of each text, with the special tokens that the tokenizer adds."""
    for first in range(0, len(texts), AT_A_TIME):
        some = [texts[number] for number in range(first, min(first + AT_A_TIME, len(texts)))]
        yield from tokenizer(some, verbose=False)["input_ids"]


def _check_known(examples: list[Example], preparation: Preparation) -> None:
    """Refuse tokens that the model doesn't know.

    Raises:
        InputError: there are some.
    """
    greatest = max((token for example in examples for token in example["input_ids"]), default=0)
    if preparation.known is not None and greatest >= preparation.known:
        raise InputError(
            f"the tokenizer, {preparation.text}, gives token {greatest}, and the model knows those below "
            f"{preparation.known}: they don't belong together"
        )


def _padded(examples: list[Example], preparation: Preparation) -> dict[str, Tensor]:
    """Return examples as one batch, padded to the longest of them."""
    tokenizer: Any = preparation.function
    pad = pad_token(tokenizer) if preparation.pad is None else preparation.pad
    pads = {"input_ids": pad, "token_type_ids": tokenizer.pad_token_type_id}
    batch = {
        name: torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(example[name]) for example in examples], True, pads.get(name, 0)
        )
        for name in examples[0]
        if name != "labels"
    }
    if "labels" in examples[0]:
        batch["labels"] = torch.tensor([example["labels"][0] for example in examples])
    elif preparation.predicts:
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
    return batch


def pad_token(tokenizer: Any, *, ends: bool = True) -> int:
    """Return the token that fills up a row; it is masked, so that any will do if the tokenizer has none.

    Args:
        tokenizer: the tokenizer.
        ends: False for another token than the one with which the tokenizer ends a text, for models that take the last
            token before the padding.
    """
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, 0, 1)
    last = None if ends else next(iter(tokenizer("")["input_ids"][-1:]), None)
    return next(int(each) for each in known if each not in (None, last))
