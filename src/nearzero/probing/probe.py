"""The probe: any layers of any PyTorch model, perturbed at every level of some families.

One pass over the data finds the unit ranges, and one the responses: batch by batch, layer by layer, level by
level. What a layer is, is in `layers`; how logits are had with a layer changed, in `passes`; what is measured on
them, in `scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nearzero.errors import InputError
from nearzero.families import Conduct, make_family
from nearzero.memory import memory_limit, memory_text
from nearzero.probing.batches import Batch, Prepare, as_batches, read_batch
from nearzero.probing.layer import Layer
from nearzero.probing.layers import Found, find_layers, select_layers
from nearzero.probing.model import Model, Output, as_module, untouched
from nearzero.probing.passes import Method
from nearzero.probing.plan import Levels, make_plan
from nearzero.probing.ranges import layer_ranges
from nearzero.probing.result import ProbeResult
from nearzero.probing.scores import choose_metrics
from nearzero.probing.two_layer import exact_data
from nearzero.probing.work import Work, dataset

__all__ = ["layers", "probe"]

PAPER_FAMILIES = ("offset", "scale", "clip")
SAMPLE = 2  # examples on which a model's layers are found
# A recording keeps up to what a pass computes; a level's values and logits, the look at the first batch and
# what operations need for themselves come on top.
SHARE = 3


def layers(
    model: object, data: Any, *, prepare: Prepare | None = None, output: Output | None = None
) -> tuple[Layer, ...]:
    """What can be probed in a model, in the order of its forward pass on the first batch of some data.

    Args:
        model, data, prepare, output: as in `probe`.

    Raises:
        InputError: a model that can't be probed, or data that it can't be run on.
    """
    module = as_module(model)
    with untouched(module):
        known = Model(module, output)
        batches = as_batches(data, None, memory_limit())
        return _look(known, _first(batches, known, prepare)).layers


def probe(
    model: object,
    data: Any,
    layers: str | Sequence[str] | None = None,
    *,
    families: str | Sequence[str] = PAPER_FAMILIES,
    levels: Levels = None,
    metrics: str | Sequence[str] | Mapping[str, Callable[..., Any]] | None = None,
    ranges_from: Any = None,
    quantiles: tuple[float, float] | None = None,
    conduct: Conduct | None = None,
    activation: str | Callable[[Tensor], Tensor] | None = None,
    unit_axis: int | None = None,
    prepare: Prepare | None = None,
    output: Output | None = None,
    causal: bool | None = None,
    batch_size: int | None = None,
    memory: int | str | None = None,
    method: Method = "auto",
    keep_items: bool = False,
    advanced: Callable[[int], None] = lambda examples: None,
) -> ProbeResult:
    """Perturb layers of a model, one at a time, and see what comes out.

    At a layer with pre-activations z, per unit (a column of a linear layer or a token's feature, a channel of a
    convolution), z becomes min(scale * z + offset, clip), as a family says at a level from the unit's range.

    Args:
        model: a `torch.nn.Module`. It's run in evaluation mode, and afterwards is bitwise as it was.
        data: batches (a DataLoader, a list), a `Dataset`, or arrays; see `nearzero.probing.batches`. Labels are
            optional.
        layers: names or globs, as `nz.layers` lists them; all activations if None.
        families: "offset", "scale", "clip".
        levels: in place of each family's own: a mapping from family to levels, levels for all, or how many of
            each family's own to take, evenly spaced.
        metrics: names ("accuracy", "agreement", "cross_entropy", "margin", "kl_divergence"), or a mapping from
            names to functions of (logits (n, K), target (n,)), whose value is one number or (n,). If None,
            accuracy and agreement; without labels, agreement and KL divergence.
        ranges_from: other data to take the unit ranges from.
        quantiles: (low, high) in place of minimum and maximum as a unit's range, (0.001, 0.999) say.
        conduct: which reading of the protocol; if None, the published one for ReLU and Abs, and for all else
            a shift by the pre-activation range.
        activation: what follows the layers, where it isn't found: one of the nine names, or a function.
        unit_axis: the dimension of the units, where it isn't found rightly.
        prepare: from a batch of another kind to (inputs, target, mask).
        output: from what the model returns to its logits, where they aren't found.
        causal: whether the logits at a token are of the next one; if None, by the model's class.
        batch_size: for data that come as examples.
        memory: what it may take besides the model and the data, "2 GB" say; `NEARZERO_MEMORY` or 3 GB.
        method: "auto", "suffix" or "full"; see `nearzero.probing.passes`.
        keep_items: also return each metric for every single example or token, float32.
        advanced: called with how many examples are done.

    Returns:
        A `ProbeResult`; its `response` is a Dataset on (layer, family, level).

    Raises:
        InputError: a model, a layer, data or settings that can't be used, with why and what to do.
    """
    names = [families] if isinstance(families, str) else list(families)
    limit = memory_limit(memory)
    if method not in ("auto", "suffix", "full"):
        raise InputError(f"method must be auto, suffix or full; got {method!r}")
    _check_quantiles(quantiles)
    for name in names:
        make_family(name, conduct or Conduct())
    module = as_module(model)
    known = Model(module, output)
    with untouched(module):
        source = as_batches(data, batch_size, limit)
        ranging = source if ranges_from is None else as_batches(ranges_from, batch_size, limit)
        first = _first(source, known, prepare)
        found = _look(known, first)
        chosen = select_layers(known, found, [layers] if isinstance(layers, str) else layers)
        chosen = [_as_told(each, activation, unit_axis) for each in chosen]
        scores = choose_metrics(metrics, first.target)
        causal = _is_causal(module) if causal is None else causal
        rows = _rows(found, limit)

        def blocks(batches: Iterable[Any]) -> Iterator[Batch]:
            for item in batches:
                yield from read_batch(item, known.device, prepare).blocks(rows)

        ranges = layer_ranges(known, chosen, lambda: blocks(ranging), quantiles)
        plans = [
            make_plan(layer, each, names, levels, conduct) for layer, each in zip(chosen, ranges, strict=True)
        ]
        work = [Work(known, plan, scores, causal, method, keep_items) for plan in plans]
        exact = exact_data(module, lambda: blocks(source), causal, limit) if method == "auto" else None
        if exact is not None:
            told = ranges_from is not None or quantiles is not None
            for each in work:
                exact.answer(each, each.plan.ranges if told else None)
        rest = [each for each in work if each.open]
        for batch in blocks(source) if rest else ():
            for each in rest:
                each.take(batch)
            advanced(len(batch))
    return ProbeResult(dataset(work, type(module).__name__))


def _first(batches: Iterable[Any], model: Model, prepare: Prepare | None) -> Batch:
    """The first batch.

    Raises:
        InputError: there is none.
    """
    for item in batches:
        return read_batch(item, model.device, prepare)
    raise InputError("data hold no batches")


def _look(model: Model, first: Batch) -> Found:
    """The layers, found on a few examples of the first batch."""
    return find_layers(model, next(first.blocks(SAMPLE)))


def _rows(found: Found, limit: int) -> int:
    """Examples that fit in memory at a time."""
    each = SHARE * found.bytes / found.examples
    if each > limit:
        raise InputError(
            f"one example takes about {memory_text(each)} in this model, more than the {memory_text(limit)} that are "
            "allowed; raise NEARZERO_MEMORY or give memory=..."
        )
    return int(limit // max(each, 1))


def _check_quantiles(quantiles: tuple[float, float] | None) -> None:
    if quantiles is None:
        return
    pair = tuple(quantiles)
    if len(pair) != 2 or not 0 <= pair[0] < pair[1] <= 1:
        raise InputError(f"quantiles must be two numbers from 0 to 1, the lower first; got {quantiles!r}")


def _as_told(
    layer: Layer, activation: str | Callable[[Tensor], Tensor] | None, unit_axis: int | None
) -> Layer:
    """A layer with what the user says of it."""
    if unit_axis is not None:
        if not -len(layer.shape) <= unit_axis < len(layer.shape) or unit_axis % len(layer.shape) == 0:
            raise InputError(
                f"unit_axis={unit_axis} isn't a dimension of units of layer {layer.name!r}, whose values are "
                f"{layer.shape} with the examples first"
            )
        layer = replace(layer, unit_axis=unit_axis % len(layer.shape))
    if activation is None or layer.kind in ("activation", "function"):
        return layer
    if callable(activation):
        return replace(layer, act=activation, activation=getattr(activation, "__name__", "given"))
    from nearzero.networks.modules import activation_module

    return replace(layer, act=activation_module(activation), activation=activation)


def _is_causal(module: torch.nn.Module) -> bool:
    """Whether a model's logits are of the next token, by the name of its class, as in Hugging Face's library."""
    return type(module).__name__.endswith(("ForCausalLM", "LMHeadModel", "DoubleHeadsModel"))
