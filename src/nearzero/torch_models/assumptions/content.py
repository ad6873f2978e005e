"""Change what a model reads at some tokens, and see which logits move.

Tokens that come as numbers are changed in the data. Tokens that come as indices are changed where they are
embedded, since a model may also compare the indices, with that of the padding for example.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from nearzero.torch_models.batches import DECODER, Batch
from nearzero.torch_models.forward import greatest
from nearzero.torch_models.hooks import plain_name
from nearzero.torch_models.masks import ADDED
from nearzero.torch_models.state import Model

__all__ = ["influences", "looks_ahead", "moved_by", "rounding_of"]

NO_CONTENT = (
    "mask",
    "position",
    "type",
)  # in the names of inputs over tokens that aren't the tokens themselves
# changes of logits that may be rounding, as a share of the greatest logit, by the bytes of a number
ROUNDING = {8: 1e-5, 4: 1e-5, 2: 2e-2}
TOKENS = 64  # tokens whose logits are compared at a time
SHARE = 1e-5  # the same, as a share of the change of other logits


def _contents(batch: Batch, shape: tuple[int, ...]) -> list[Tensor]:
    """Return the inputs that are tokens, one or more numbers for each, by their leading dimensions (B, S) or (B, C, S).

    Of an encoder and a decoder these are the encoder's.
    """
    return [
        tensor
        for name, tensor in batch.named
        if tensor.shape[: len(shape)] == (shape[::-1] if batch.axis else shape)
        and name not in (*DECODER, "labels")
        and _is_content(name, tensor, len(shape))
    ]


def _is_content(name: str, tensor: Tensor, ndim: int) -> bool:
    if (
        tensor.layout != torch.strided
        or tensor.dtype == torch.bool
        or any(word in name for word in NO_CONTENT)
    ):
        return False
    if tensor.ndim == ndim and bool(
        ((tensor == 0) | (tensor == 1) | (tensor <= ADDED)).all()
    ):  # perhaps a mask
        return False
    return tensor.is_floating_point() or tensor.ndim == ndim


def moved_by(model: Model, batch: Batch, where: Tensor, logits: Tensor) -> Tensor | None:
    """Return how far logits move if what the model reads at some tokens is changed.

    Args:
        model: the model.
        batch: some examples.
        where: (B, S), or (B, C, S) for the tokens of several choices, True for tokens to change.
        logits: the logits without a change.

    Returns:
        The greatest change, (B, S) of logits over these tokens, else (B,); None if nothing could be changed, or
        if it isn't known which logits belong to which token.
    """
    tokens = _contents(batch, tuple(where.shape))
    if not tokens or not bool(where.any()):
        return None
    at_inputs = where.t() if batch.axis else where
    numbers = {id(tensor): _noisy(tensor, at_inputs) for tensor in tokens if tensor.is_floating_point()}
    indices = [tensor for tensor in tokens if not tensor.is_floating_point()]
    embedding = _ChangedEmbedding(indices, at_inputs)
    with embedding:
        after = model.logits(_with(batch, numbers))
    if indices and not embedding.seen:
        exchanged = {id(tensor): _exchanged(tensor, at_inputs) for tensor in indices}
        after = model.logits(_with(batch, numbers | exchanged))
    if after.shape != logits.shape:
        return None
    after, logits = model.tokens_second(after), model.tokens_second(logits)
    count = where.shape[-1]
    if logits.ndim == 3 and where.ndim == 2 and logits.shape[1] == count:
        pairs = zip(after.split(TOKENS, 1), logits.split(TOKENS, 1), strict=True)
        return torch.cat([_distance(new, old).amax(-1) for new, old in pairs], 1)
    if logits.shape == where.shape and model.class_axis is None:  # one number for each token
        return _distance(after, logits)
    if where.ndim == 2 and count in logits.shape[1:]:
        return _distance(after, logits).amax(1) if logits.ndim == 3 else None
    return _distance(after, logits).flatten(1).amax(1) if logits.ndim > 1 else _distance(after, logits)


def _distance(after: Tensor, before: Tensor) -> Tensor:
    """Return the absolute difference: 0 for two NaN, infinite for one."""
    same = (after == before) | (after.isnan() & before.isnan())
    return torch.where(same, 0.0, (after - before).abs()).nan_to_num(nan=torch.inf).float()


def looks_ahead(model: Model, batch: Batch, mask: Tensor, logits: Tensor) -> bool | None:
    """Return whether the logits (B, S, K) at a token depend on later tokens; None if that can't be tried.

    Args:
        model: the model.
        batch: some examples.
        mask: (B, S), True for tokens that count.
        logits: the logits of the batch.
    """
    places = mask.any(0).nonzero()
    if len(places) < 2:
        return None
    cut = (int(places[0]) + int(places[-1]) + 1) // 2
    later = torch.arange(mask.shape[1], device=mask.device) >= cut
    both = (mask & later).any(1, keepdim=True) & (mask & ~later).any(1, keepdim=True)
    changed, earlier = mask & later & both, mask & ~later & both
    distance = moved_by(model, batch, changed, logits)
    if distance is None or distance.shape != mask.shape:
        return None
    own = float(distance[changed].amax())
    if own <= rounding_of(logits):
        return None
    return float(distance[earlier].amax()) > max(SHARE * own, rounding_of(logits))


def influences(model: Model, batch: Batch, mask: Tensor, logits: Tensor) -> list[tuple[bool, bool]] | None:
    """Return whether logits depend on what is read at earlier and at later places, along each of two dimensions.

    Args:
        model: the model.
        batch: some examples.
        mask: (A, B), True for places that count.
        logits: (A, B, K), those of the batch.

    Returns:
        Two flags (on earlier, on later) for each dimension; None if that can't be tried.
    """
    found = []
    for axis, count in enumerate(mask.shape):
        earlier = (torch.arange(count, device=mask.device) < (count + 1) // 2).unsqueeze(1 - axis)
        moved = []
        for changed in (mask & earlier, mask & ~earlier):
            others = mask & ~changed
            distance = moved_by(model, batch, changed, logits)
            if distance is None or distance.shape != mask.shape or not bool(others.any()):
                return None
            moved.append(float(distance[others].amax()) > rounding_of(logits))
        found.append((moved[0], moved[1]))
    return found


def rounding_of(logits: Tensor) -> float:
    """Return a change of logits that rounding may explain."""
    return ROUNDING[logits.dtype.itemsize] * greatest(logits)


class _ChangedEmbedding(TorchDispatchMode):
    """Adds noise to what is looked up for some tokens."""

    def __init__(self, indices: Sequence[Tensor], where: Tensor) -> None:
        super().__init__()
        pairs = [(tokens, where) for tokens in indices]
        if where.ndim == 2:
            self._changes = [*pairs, *((tokens.t(), where.t()) for tokens, where in pairs)]
        else:  # choices may be laid out as examples
            self._changes = [
                *pairs,
                *((tokens.flatten(0, 1), where.flatten(0, 1)) for tokens, where in pairs),
            ]
        self.seen = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if plain_name(func, ()) != "embedding":
            return result
        with _disable_current_modes():
            for tokens, where in self._changes:
                if args[1].shape == tokens.shape and torch.equal(args[1].long(), tokens.long()):
                    self.seen = True
                    return _noisy(result, where)
        return result


def _with(batch: Batch, replaced: dict[int, Tensor]) -> Batch:
    """Return a batch with some of its inputs replaced, by their ids."""
    return batch.map_inputs(lambda tensor: replaced.get(id(tensor), tensor))


def _noisy(values: Tensor, where: Tensor) -> Tensor:
    """Return numbers with noise of their own size at some tokens."""
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0)).to(values.device)
    size = values.float().square().mean().sqrt().clamp(min=1e-3)
    places = where.reshape(*where.shape, *[1] * (values.ndim - where.ndim))
    return torch.where(places, values + (noise * size).to(values.dtype), values)


def _exchanged(indices: Tensor, where: Tensor) -> Tensor:
    """Return indices with others in place of some, each of which occurs elsewhere."""
    known = indices.unique()
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(1, max(2, len(known)), indices.shape, generator=generator).to(indices.device)
    other = known[(torch.searchsorted(known, indices) + steps) % len(known)]
    return torch.where(where, other, indices)
