"""Infer whether the logits at a token are compared with the target of the next token.

Targets belong to the logits of their own token, unless the model's own loss compares them with the logits before,
or the targets are the tokens that the model reads and it doesn't see the later ones. The name of a class says
nothing.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearzero.errors import InputError
from nearzero.torch_models.assumptions.content import influences, looks_ahead
from nearzero.torch_models.batches import IGNORED, TARGETS, Batch, leaves
from nearzero.torch_models.state import Model

__all__ = ["read_causality"]

# the difference between a model's loss and the same loss of its logits, as a share, by the bytes of a logit
SAME_LOSS = {8: 1e-3, 4: 1e-3, 2: 2e-2}
BY_LOSS = "the model's own loss compares them so"
OPEN = (
    "causal=True compares the logits at a token with the next token, causal=False with that token; choose one"
)
TURN = "give logits, targets and mask with the examples first by output=... and prepare=..."


def read_causality(model: Model, given: bool | None, first: Batch, few: Batch) -> bool:
    """Return whether the logits at a token are compared with the next token, and record how that is known.

    Args:
        model: the model.
        given: what the user said; None to find out.
        first: the first batch.
        few: some examples of it, on which the model is run.

    Raises:
        InputError: both readings fit.
    """
    if given and first.axis is None:
        _check_tokens_second(model, few)
    causal, source = _infer(model, first, few) if given is None else (given, "given")
    value = "logits at a token are compared with the next token" if causal else "logits are compared in place"
    model.assumptions.record("causality", value, source, "causal=")
    return causal


def _infer(model: Model, batch: Batch, few: Batch) -> tuple[bool, str]:
    """Return whether the logits at a token are compared with the next token, and how that is known.

    Raises:
        InputError: both readings fit.
    """
    returned = model.logits(few)
    logits = model.tokens_second(returned)
    if logits.ndim != 3 or logits.shape[1] < 2:
        return False, f"logits {tuple(returned.shape)} aren't over tokens"
    shifted = _loss_is_shifted(model, few, logits)
    target, tokens = batch.target, (len(batch), logits.shape[1])
    if target is None or batch.two_sided or target.shape != tokens or target.is_floating_point():
        by_default = "there are no targets" if target is None else "targets have places of their own"
        return bool(shifted), by_default if shifted is None else BY_LOSS
    copied, ahead = (_are_inputs(batch, by) for by in (0, 1))
    if shifted and ahead and not copied:
        raise InputError(
            "the targets are the next tokens already, and the model's own loss compares logits with the next target; "
            f"{OPEN}"
        )
    if shifted or not copied:
        by_data = (
            "the targets are the next tokens already" if ahead else "the targets aren't the tokens themselves"
        )
        return bool(shifted), by_data if shifted is None else BY_LOSS
    if batch.axis is None and shifted is None:
        raise InputError(
            "the targets are the tokens that the model reads, and it isn't known whether examples or tokens come "
            f"first, since batches can't be cut; {OPEN}; where the tokens come first, {TURN}"
        )
    looks = looks_ahead(model, few, _counted(few, logits), returned)
    if looks or (looks is None and shifted is False):
        return False, "later tokens move the logits at earlier ones" if looks else BY_LOSS
    if looks is None:
        raise InputError(
            f"the targets are the tokens that the model reads, and it can't be tried whether it sees later ones; {OPEN}"
        )
    if shifted is False:
        raise InputError(
            "the targets are the tokens that the model reads, of which it doesn't see the later ones, but its own loss "
            f"compares the logits at a token with that token; {OPEN}"
        )
    _check_doubt(logits, target[: len(few)])
    return (
        True,
        "the targets are the tokens that the model reads, and later tokens move no logits at earlier ones",
    )


def _counted(few: Batch, logits: Tensor) -> Tensor:
    """Return a mask of the tokens of logits (B, S, K) that count."""
    if few.mask is not None and few.mask.shape == logits.shape[:2]:
        return few.mask
    return torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)


def _check_tokens_second(model: Model, few: Batch) -> None:
    """Raise an error if the first dimension of logits holds the tokens, by what depends on what.

    Tokens depend on each other, and examples perhaps, but of a model that predicts the next token none depends on
    later ones.
    """
    returned = model.logits(few)
    logits = model.tokens_second(returned)
    found = influences(model, few, _counted(few, logits), returned) if logits.ndim == 3 else None
    if found is None:
        return
    first, second = found
    if any(first) and (not any(second) or (second[1] and not first[1])):
        raise InputError(
            f"causal=True needs the examples first and the tokens second, but in the logits {tuple(returned.shape)} "
            f"those along the first dimension depend on each other as tokens do; {TURN}"
        )


def _check_doubt(logits: Tensor, target: Tensor) -> None:
    """Raise an error if the model predicts the tokens that it reads, as an autoencoder does."""
    classes = logits.shape[-1]
    if int(target.max()) >= classes or bool(((target < 0) & (target != IGNORED)).any()):
        return
    own, following = _losses(logits, target)
    if own < following and own < 0.5 * float(torch.tensor(classes).log()):
        raise InputError(
            "the targets are the tokens that the model reads, and it predicts these "
            f"(cross-entropy {own:.3g}) rather than the next ones ({following:.3g}); {OPEN}"
        )


def _are_inputs(batch: Batch, ahead: int) -> bool:
    """Return whether the targets (B, S) that count are the tokens of an input, or those some places ahead."""
    assert batch.target is not None
    target = batch.target[:, : batch.target.shape[1] - ahead]
    counted = target != IGNORED
    if not bool(counted.any()):
        return False
    inputs = (tensor.t() if batch.axis and tensor.ndim == 2 else tensor for tensor in batch.inputs)
    return any(
        bool((tensor[:, ahead:] == target)[counted].all())
        for tensor in inputs
        if tensor.shape == batch.target.shape
        and not tensor.is_floating_point()
        and tensor.dtype != torch.bool
    )


def _losses(logits: Tensor, target: Tensor) -> tuple[float, float]:
    """Return the mean cross-entropy of logits (B, S, K) with the targets of the same and of the next token."""
    pairs = ((logits, target), (logits[:, :-1], target[:, 1:]))
    own, following = (
        float(F.cross_entropy(rows.flatten(0, 1).float(), classes.flatten())) for rows, classes in pairs
    )
    return own, following


# --- the model's own loss ---


class _Seen(Exception):
    """Ends a forward pass once its loss was seen."""


def _loss_is_shifted(model: Model, few: Batch, logits: Tensor) -> bool | None:
    """Return whether the loss that the model computes from labels compares logits with the next one.

    The labels are the classes with the greatest logits, so that the two losses differ. If they don't, all labels but
    the first of each example are left out: then there is no next token with a label. None if the model computes no
    loss, or another one.
    """
    greatest = logits.argmax(-1)
    if few.mask is not None and few.mask.shape == greatest.shape:
        greatest = greatest.masked_fill(~few.mask, IGNORED)
    first = torch.full_like(greatest, IGNORED)
    first[:, 0] = greatest[:, 0]
    for labels in (greatest, first):
        fits = _fitting_losses(model, few, logits, labels)
        if fits is None or fits[0] != fits[1]:
            return None if fits is None else fits[1]
    return None


def _fitting_losses(model: Model, few: Batch, logits: Tensor, labels: Tensor) -> tuple[bool, bool] | None:
    """Return whether the model's loss is that of the same tokens, and of the next ones; None if it is neither."""
    orders = [labels, labels.t()] if few.axis is None else [labels.t() if few.axis else labels]
    for (module, name), order in itertools.product(_takers_of_labels(model.module), orders):
        seen = _output_with_labels(model, few, module, name, order)
        given = [leaf for leaf in leaves(seen) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        moved = (model.tokens_second(leaf.movedim(model.example_axis, 0)) for leaf in given if leaf.ndim == 3)
        same = [leaf for leaf in moved if leaf.shape == logits.shape]
        losses = [leaf for leaf in given if leaf.numel() == 1]
        if not same or not losses:
            continue
        loss, share = float(losses[0]), SAME_LOSS[logits.dtype.itemsize]
        own, following = (_is_same(loss, reading, share) for reading in _losses(same[0], labels))
        if own or following:
            return own, following
    return None


def _is_same(loss: float, reading: float, share: float) -> bool:
    """Return whether two losses are equal; without labels a loss is NaN, or 0."""
    if math.isnan(reading):
        return math.isnan(loss) or loss == 0
    return abs(loss - reading) <= share * abs(loss) + 1e-6


def _takers_of_labels(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield the modules that can be called with labels, from the outermost in, with the name of that argument."""
    for submodule in module.modules():
        try:
            taken = inspect.signature(submodule.forward).parameters
        except (TypeError, ValueError):
            continue
        yield from ((submodule, name) for name in TARGETS if name in taken)


def _output_with_labels(model: Model, few: Batch, module: nn.Module, name: str, labels: Tensor) -> Any:
    """Return the output of a part of the model that is given labels within a forward pass; None if it can't be."""
    seen: list[Any] = []

    def give(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, name: labels}

    def look(_: nn.Module, args: Any, output: Any) -> None:
        seen.append(vars(output) if hasattr(output, "loss") and hasattr(output, "__dict__") else output)
        raise _Seen

    hooks = [module.register_forward_pre_hook(give, with_kwargs=True), module.register_forward_hook(look)]
    try:
        model.logits(few)
    except Exception:  # noqa: S110 (labels of another form may be wanted, and a user's module may raise anything)
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0] if seen else None
