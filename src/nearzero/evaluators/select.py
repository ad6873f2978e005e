"""The one place that picks the backend: compiled kernels for the paper's networks, PyTorch for all other models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError
from nearzero.evaluators.base import Backend, LayerEvaluator
from nearzero.evaluators.metrics import NAMES
from nearzero.evaluators.two_layer import TwoLayerEvaluator
from nearzero.networks import TwoLayer, as_network
from nearzero.networks.pixels import Pixels
from nearzero.support.arrays import as_array

if TYPE_CHECKING:
    from torch import Tensor

    from nearzero.evaluators.session import Session
    from nearzero.torch_models.batches import Batch
    from nearzero.torch_models.layer import Layer

__all__ = ["ModelOptions", "evaluators_of", "open_evaluator"]

SAME = 1e-4  # of the largest logit: above what float32 sums in another order differ by
# options of which an array of inputs alone says nothing
SAID = ("layer", "activation", "unit_axis", "prepare", "output", "causal", "method")


class ModelOptions(TypedDict, total=False):
    """What a user can say of a model and its data beside the model and the data.

    Keys:
        layer: the layer's name, as `nearzero.layers` lists it; the one activation of the model if None.
        activation: what follows a layer, where that isn't found.
        unit_axis: the dimension of the units.
        prepare: a function from a batch to (inputs, target, mask).
        output: a function from what the model returns to its logits.
        causal: whether logits are of the next token.
        batch_size: examples at a time, for data that come as examples.
        method: "auto", "suffix" or "full", see `nearzero.probe`.
        backend: "two-layer" or "model"; picked if None.
    """

    layer: str | Layer | None
    activation: str | Callable[[Tensor], Tensor] | None
    unit_axis: int | None
    prepare: Callable[[Any], tuple[Any, Any, Any]] | None
    output: Callable[[Any], Tensor] | None
    causal: bool | None
    batch_size: int | None
    method: str
    backend: Backend | None


@contextmanager
def open_evaluator(
    model: Any,
    data: Any,
    y: Any = None,
    options: ModelOptions | None = None,
    *,
    metrics: Any = None,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Iterator[LayerEvaluator]:
    """Within, one layer of a model can be evaluated on data; afterwards the model is bitwise as it was.

    Args:
        model: a `TwoLayer`, or a `torch.nn.Module`.
        data: inputs (N, D), or anything that `nearzero.probe` takes.
        y: the labels of inputs that come as an array, (N,).
        options: what the user says of model and data.
        metrics: those of the user's own, beside the known ones.
        threads, memory: as in `nearzero.analysis.sweep`.

    Raises:
        InputError: a model, a layer or data that can't be used, with why and what to do.
    """
    options = options or {}
    if unknown := [name for name in options if name not in ModelOptions.__annotations__]:
        known_names = ", ".join(ModelOptions.__annotations__)
        raise InputError(f"unknown option {unknown[0]!r}: known are {known_names}")
    backend = options.get("backend")
    _check_backend(backend)
    if isinstance(model, TwoLayer) and options.get("layer") == "hidden":  # as results call it
        options = {**options, "layer": None}
    y = y if y is None or hasattr(y, "detach") else as_array(y, "y")
    said = any(options.get(name) not in (None, "auto") for name in SAID)
    names = [metrics] if isinstance(metrics, str) or callable(metrics) else metrics
    known = names is None or (not isinstance(names, Mapping) and _all_known(names))
    if (y is not None or _is_array(data)) and known and not said and backend != "model":
        network = _recognised(model, needed=backend == "two-layer")
        if network is not None:
            yield TwoLayerEvaluator.of(network, data, y, threads=threads, memory=memory, metrics=names)
            return
    if y is not None and not _is_array(data):
        raise InputError(
            f"y goes with inputs that come as one array; got {type(data).__name__}, whose batches are to be "
            "(inputs, targets)"
        )
    from nearzero.evaluators.plan import Request
    from nearzero.evaluators.session import open_session

    given = {name: value for name, value in options.items() if name not in ("layer", "backend")}
    request = Request(layers=options.get("layer"), metrics=metrics, memory=memory, **given)  # type: ignore[arg-type]
    whole = (_dense(data), y) if y is not None else _dense(data)
    with open_session(model, whole, request) as session:
        _check_one(session, options.get("layer"))
        asked = None if metrics is None else list(session.metrics)
        yield evaluators_of(session, backend, metrics=asked, threads=threads)[0]


def evaluators_of(
    session: Session,
    backend: Backend | None = None,
    *,
    metrics: Sequence[str] | None = None,
    threads: int | None = None,
) -> list[LayerEvaluator]:
    """Return an evaluator for each layer: the two-layer backend where the model and its data are of that kind.

    Args:
        session: the model and the data.
        backend: the one that must be taken; picked if None.
        metrics: the names of those that will be asked for.
        threads: for compiled loops.

    Raises:
        InputError: the two-layer backend was asked for, and can't be had.
    """
    from nearzero.evaluators.model import ModelEvaluator

    _check_backend(backend)
    tried = backend != "model" and _all_known(metrics or ())
    exact = _two_layer(session, threads) if tried else None
    found: list[LayerEvaluator] = []
    for layer in session.layers:
        if exact is not None and _is_hidden(layer, exact.hidden.network.activation):
            found.append(TwoLayerEvaluator(exact.hidden, exact.labels, layer=layer.name, metrics=metrics))
        elif backend == "two-layer":
            raise InputError(
                f"layer {layer.name!r} can't be evaluated by backend='two-layer': the model isn't Linear, activation, "
                "Linear on plain inputs, or this isn't its hidden layer"
            )
        else:
            found.append(ModelEvaluator(session, layer, metrics=metrics))
    return found


def _all_known(names: Iterable[object]) -> bool:
    """Whether both backends have metrics of these names; a user's own functions are PyTorch's."""
    return all(isinstance(name, str) and name in NAMES for name in names)


def _check_backend(backend: object) -> None:
    if backend not in (None, "two-layer", "model"):
        raise InputError(f"backend must be 'two-layer', 'model' or None; got {backend!r}")


def _is_array(data: Any) -> bool:
    """Whether data are an array of inputs: pixels, an array or a tensor, or lists of numbers."""
    while isinstance(data, list) and data:
        data = data[0]
        if hasattr(data, "detach") or isinstance(data, np.ndarray):
            return False  # a list of batches
    return isinstance(data, (Pixels, np.ndarray, int, float, np.number)) or hasattr(data, "detach")


def _recognised(model: Any, *, needed: bool) -> TwoLayer | None:
    """The network that a model is; None for another module, or one in another precision, unless it is needed."""
    is_module = hasattr(model, "parameters")
    if not needed and is_module and any(str(each.dtype) != "torch.float32" for each in model.parameters()):
        return None
    try:
        return as_network(model)
    except InputError:
        if needed or not is_module:
            raise
        return None


def _dense(data: Any) -> Any:
    """Inputs as an array that PyTorch takes; other data as they are."""
    if isinstance(data, Pixels):
        return data.dense()
    return np.asarray(data) if isinstance(data, list) and _is_array(data) else data


def _check_one(session: Session, wanted: Any) -> None:
    """Refuse several layers."""
    if len(session.layers) == 1:
        return
    names = ", ".join(each.name for each in session.layers)
    if wanted is None:
        raise InputError(
            f"the model has {len(session.layers)} activations; say which layer, layer=...: one of {names}"
        )
    raise InputError(f"this is about one layer; {wanted!r} stands for {len(session.layers)}: {names}")


def _is_hidden(layer: Layer, activation: str) -> bool:
    """Whether a layer of a two-layer model is the hidden one, by its activation or by the linear layer before it."""
    placed = layer.kind == "activation" or layer.follows is not None
    return placed and layer.activation == activation


def _two_layer(session: Session, threads: int | None) -> TwoLayerEvaluator | None:
    """The evaluator of a model of the two-layer shape; None if it has another, or its data are too large or masked."""
    from nearzero.networks.two_layer import from_module

    request, model = session.request, session.model
    if request.output is not None or request.method != "auto" or session.causal:
        return None
    try:
        network = from_module(model.module)
    except InputError:
        return None
    module = network.to_module().to(model.device)
    inputs, targets, size = [], [], 0
    for batch in session.source:
        array = _plain_inputs(batch)
        # A model may be of that shape on some inputs alone, and tokens aren't examples.
        if array is None or array.shape[1] != network.inputs:
            return None
        if not _same_logits(model.logits(batch), module(batch.inputs[0].flatten(1))):
            return None
        size += array.nbytes
        if size > request.limit // 4:
            return None
        inputs.append(array)
        targets.append(None if batch.target is None else batch.target.cpu().numpy())
    known = [each for each in targets if each is not None]
    target = np.concatenate(known) if len(known) == len(inputs) else None
    if target is not None and not (
        target.dtype == np.int64 and target.ndim == 1 and 0 <= target.min() <= target.max() < network.classes
    ):
        return None
    return TwoLayerEvaluator.of(
        network, np.concatenate(inputs), target, threads=threads, memory=request.limit
    )


def _same_logits(logits: Tensor, known: Tensor) -> bool:
    """Whether a model's logits are those of the two-layer network, but for rounding and a constant per example."""
    import torch

    if logits.shape != known.shape or logits.dtype != known.dtype:
        return False
    logits, known = (each - each.mean(dim=1, keepdim=True) for each in (logits, known))
    return bool(torch.allclose(logits, known, rtol=0.0, atol=SAME * float(known.abs().amax())))


def _plain_inputs(batch: Batch) -> npt.NDArray[np.float32] | None:
    """(n, D): the inputs of a batch that holds nothing else than these and targets; None for all others."""
    given = [*batch.arguments, *batch.keywords.values()]
    if len(given) != 1 or batch.mask is not None:
        return None
    (inputs,) = given
    if not hasattr(inputs, "detach") or inputs.ndim < 2 or str(inputs.dtype) != "torch.float32":
        return None
    return np.asarray(inputs.reshape(len(batch), -1).cpu().numpy())
