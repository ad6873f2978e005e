"""The examples of a probe that its page embeds: their metrics at every cell, and their pictures or tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.errors import InputError
from nearzero.page.examples import choose_examples
from nearzero.page.probe.cells import Cells, metrics_of
from nearzero.support.arrays import as_array

__all__ = ["Decode", "PageItems", "choose_items"]

BUDGET = 6e6  # bytes of the metrics of all embedded items
MOST_TOKENS = 128  # of an example
SIDE = 96  # pixels; larger pictures are averaged

Decode = Callable[[list[int]], str]


@dataclass(frozen=True, eq=False)
class PageItems:
    """Hold the items that a page embeds.

    Attributes:
        examples: the indices of the examples, ascending.
        total: the number of all examples.
        tokens: whether an example has several items, such as tokens.
        most: the greatest number of items of an example; None if all of its items are embedded.
        arrays: by name, the arrays.
        values: what is small enough for JSON.
    """

    examples: npt.NDArray[np.int64]
    total: int
    tokens: bool
    most: int | None
    arrays: dict[str, npt.NDArray[Any]]
    values: dict[str, Any]


def choose_items(cells: Cells, most: int, inputs: Any, decode: Decode | None) -> PageItems | None:
    """Return the items that a page embeds; None if the probe didn't keep its items.

    Args:
        cells: of the probe.
        most: the greatest number of examples.
        inputs: pictures or tokens of all examples, in the order of the data; or None.
        decode: a function from token ids to text, or None.

    Raises:
        InputError: inputs that aren't those of the probe, or that can't be shown.
    """
    response, names = cells.response, metrics_of(cells.response)
    if type(most) is not int or most < 1:
        raise InputError(f"examples must be a whole number from 1; got {most!r}")
    if any(f"unperturbed_{name}_items" not in response for name in names):
        if inputs is not None or decode is not None:
            raise InputError(
                "inputs and decode are for results that keep their items; probe with keep_items=True"
            )
        return None
    total = int(response.attrs["examples"])
    owner, token = response.sequence.values, response.token.values
    tokens = len(np.unique(owner)) < len(owner)
    size = len(cells) * sum(1 if _is_binary(response, name) else 4 for name in names)
    room = max(int(BUDGET // max(size, 1)), 1)  # items
    longest = min(int(np.unique(owner, return_counts=True)[1].max(initial=1)), MOST_TOKENS, room)
    chosen = choose_examples(total, min(most, max(room // longest, 1)))
    rank = _rank(owner)
    kept = np.flatnonzero(np.isin(owner, chosen) & (rank < longest))
    arrays: dict[str, npt.NDArray[Any]] = {
        "item/example": np.searchsorted(chosen, owner[kept]).astype(np.uint32),
        "item/token": token[kept].astype(np.uint32),
    }
    if "target" in response.coords and (response.target.values >= 0).all():
        arrays["item/target"] = response.target.values[kept].astype(np.uint32)
    for name in names:
        arrays |= _metric_arrays(cells, name, kept)
    shown = _shown(response, chosen, kept, tokens, inputs, decode)
    cut = longest if tokens and (rank >= longest).any() else None
    arrays |= {key: values for key, values in shown.items() if isinstance(values, np.ndarray)}
    values = {
        "examples": chosen.tolist(),
        "total": total,
        "tokens": tokens,
        "texts": shown.get("texts"),
        "targets": shown.get("targets"),
        "causal": bool(response.attrs.get("causal", 0)),
        "image": list(arrays["images"].shape[1:]) if "images" in arrays else None,
    }
    return PageItems(chosen, total, tokens, cut, arrays, values)


def _rank(owner: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the place of each item among those of its example; the items of an example follow each other."""
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    return np.arange(len(owner)) - np.repeat(first, np.diff(np.append(first, len(owner))))


def _is_binary(response: xr.Dataset, name: str) -> bool:
    """Return whether every item of a metric is right or wrong."""
    values = response[f"{name}_items"].values
    return bool(((values == 0) | (values == 1) | np.isnan(values)).all())


def _metric_arrays(cells: Cells, name: str, kept: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    """Return a metric of some items at each cell, (n, i), and unperturbed, (i,); in uint8, 255 is NaN."""
    response = cells.response
    values = cells.take(response[f"{name}_items"].isel(item=kept))
    plain = response[f"unperturbed_{name}_items"].values[kept].astype(np.float32)
    if _is_binary(response, name):
        values = np.where(np.isnan(values), 255, values).astype(np.uint8)
    return {f"item/{name}": values, f"item-plain/{name}": plain}


def _shown(
    response: xr.Dataset,
    chosen: npt.NDArray[np.int64],
    kept: npt.NDArray[np.int64],
    tokens: bool,
    inputs: Any,
    decode: Decode | None,
) -> dict[str, Any]:
    """Return the pictures of the chosen examples, or the texts of their tokens and of the targets of their items."""
    shown: dict[str, Any] = {}
    if inputs is not None:
        total = int(response.attrs["examples"])
        if len(inputs) != total:
            raise InputError(
                f"inputs are of {len(inputs):,} examples, and the probe had {total:,}; give all, in the data's order"
            )
        rows = [inputs[int(place)] for place in chosen]
        first = as_array(rows[0], "inputs")
        if first.ndim >= 2:
            return {"images": _pictures(np.stack([as_array(row, "inputs") for row in rows]))}
        if first.ndim != 1 or first.dtype.kind not in "iuU":
            raise InputError(
                "inputs must be pictures in uint8, (examples, height, width) with channels or without, or tokens as "
                f"whole numbers or texts; an example is {first.dtype} of shape {first.shape}"
            )
        _check_tokens(response, chosen, kept, rows)
        shown["texts"] = [
            [_text(token, decode) for token in as_array(row, "inputs").tolist()] for row in rows
        ]
    if tokens and "target" in response.coords:
        shown["targets"] = [_text(target, decode) for target in response.target.values[kept].tolist()]
    return shown


def _check_tokens(
    response: xr.Dataset, chosen: npt.NDArray[np.int64], kept: npt.NDArray[np.int64], rows: Sequence[Any]
) -> None:
    """Check that tokens are those of the probe: where a token predicts the next, that is its target.

    Raises:
        InputError: they aren't.
    """
    causal = bool(response.attrs.get("causal", 0))
    for item in kept:
        example, token = int(response.sequence.values[item]), int(response.token.values[item])
        row = as_array(rows[int(np.searchsorted(chosen, example))], "inputs")
        if token + causal >= len(row):
            raise InputError(
                f"inputs of example {example} have {len(row)} tokens, and the probe measured token {token + causal}"
            )
        if causal and "target" in response.coords and row.dtype.kind in "iu":
            target = int(response.target.values[item])
            if int(row[token + 1]) != target:
                raise InputError(
                    f"inputs aren't those of the probe: token {token + 1} of example {example} is "
                    f"{int(row[token + 1])}, and the probe's is {target}; give them in the order of the data"
                )


def _text(token: Any, decode: Decode | None) -> str:
    """Return the text of a token; a token that is a text already, as it is.

    Raises:
        InputError: `decode` gives something else than a text.
    """
    if decode is None or isinstance(token, str):
        return str(token)
    text = decode([int(token)])
    if not isinstance(text, str):
        raise InputError(
            f"decode must return a text, such as tokenizer.decode does; got {type(text).__name__}"
        )
    return text


def _pictures(images: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return pictures as (N, height, width, 1 or 3), larger ones averaged over squares.

    Raises:
        InputError: they aren't uint8, or have another number of channels.
    """
    if images.dtype != np.uint8:
        raise InputError(f"inputs that are pictures must be uint8, from 0 to 255; got {images.dtype}")
    if images.ndim == 3:
        images = images[..., None]
    elif images.ndim == 4 and images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
        images = np.moveaxis(images, 1, -1)
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise InputError(
            f"inputs that are pictures must have one channel or three; got the shape {images.shape}"
        )
    step = -(-max(images.shape[1:3]) // SIDE)
    if step > 1:
        count, height, width, channels = images.shape
        height, width = height // step, width // step
        squares = images[:, : height * step, : width * step].reshape(
            count, height, step, width, step, channels
        )
        images = squares.mean((2, 4)).round().astype(np.uint8)
    return np.ascontiguousarray(images)
