"""Choose the backend: compiled kernels for the paper's networks, PyTorch for all other models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError, check_choice, did_you_mean
from nearzero.evaluators.base import Backend, LayerEvaluator
from nearzero.evaluators.metrics import NAMES
from nearzero.evaluators.two_layer import TwoLayerEvaluator
from nearzero.networks import TwoLayer, as_network
from nearzero.networks.pixels import Pixels
from nearzero.support.arrays import as_array
from nearzero.support.users import running

if TYPE_CHECKING:
    from torch import Tensor

    from nearzero.evaluators.session import Session
    from nearzero.torch_models.assumptions.outputs import ClassAxis, OutputKind
    from nearzero.torch_models.batches import Batch
    from nearzero.torch_models.layer import Basis, Layer, Units
    from nearzero.torch_models.named import Loading
    from nearzero.torch_models.state import Output

__all__ = ["ModelOptions", "evaluators_of", "open_evaluator"]

SAME = 1e-4  # as a share of the largest logit: more than the rounding of float32 sums in another order
# options that only the model backend can respect
MODEL_ONLY = (
    *("layer", "activation", "unit_axis", "prepare", "output", "output_kind", "class_axis"),
    *("causal", "batch_axis", "units", "basis"),
)


class ModelOptions(TypedDict, total=False):
    """Hold the optional settings of an analysis that describe the model and its data.

    Keys:
        layer: the layer's name, as `nearzero.layers` lists it; the only activation of the model if None.
        activation: the activation after a layer, where it isn't found.
        unit_axis: the dimension of the units.
        prepare: a function from a batch to (inputs, target, mask).
        output: the key or index of the logits in the model's output, or a function from it to them.
        output_kind: "logits", "probabilities" or "log-probabilities".
        class_axis: the dimension of the classes; "none" if each number is an item.
        causal: True if the logits at a token predict the next token.
        batch_size: the number of examples in a batch, for data that come as examples.
        batch_axis: the dimension of the inputs that holds the examples, or "none"; see `nearzero.probe`.
        units, basis: the units or the directions that are perturbed, see `nearzero.probe`.
        method: "auto", "suffix" or "full", see `nearzero.probe`.
        backend: "two-layer" or "model"; chosen if None.
        loading: what the names of a model and data leave open.
    """

    layer: str | Layer | None
    activation: str | Callable[[Tensor], Tensor] | None
    unit_axis: int | None
    prepare: Callable[[Any], tuple[Any, Any, Any]] | None
    output: Output | None
    output_kind: OutputKind | None
    class_axis: ClassAxis | None
    causal: bool | None
    batch_size: int | None
    batch_axis: int | Literal["none"] | None
    units: Units
    basis: Basis
    method: str
    backend: Backend | None
    loading: Loading | None


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
    """Open one layer of a model on data as an evaluator; on leaving, the model's state is restored, bit for bit.

    Args:
        model: a `TwoLayer`, or a `torch.nn.Module`.
        data: inputs (N, D), or anything that `nearzero.probe` takes.
        y: the labels of inputs that come as an array, (N,).
        options: the user's settings for model and data.
        metrics: names of metrics, or functions of the user's own; the default ones if None.
        threads, memory: as in `nearzero.analysis.sweep`.

    Yields:
        The evaluator. It can be used only within the `with` block.

    Raises:
        InputError: a model, a layer or data that can't be used; the message says why and what to do.

    Example:
        >>> import nearzero as nz
        >>> import numpy as np
        >>> from nearzero.evaluators.select import open_evaluator
        >>> network = nz.TwoLayer(np.eye(2), np.zeros(2), np.eye(2), np.zeros(2), "relu")
        >>> with open_evaluator(network, [[2, 1], [1, 2], [5, 4], [4, 5]], [0, 1, 0, 1]) as evaluator:
        ...     print(evaluator.backend, evaluator.ranges.post.width.tolist())
        ...     print(evaluator.scores([nz.Perturbation(clip=2.0)], ["accuracy"]).means["accuracy"].tolist())
        two-layer [4.0, 4.0]
        [0.75]
    """
    options = options or {}
    if unknown := [name for name in options if name not in ModelOptions.__annotations__]:
        hint = did_you_mean(unknown[0], ModelOptions.__annotations__)
        known_names = ", ".join(ModelOptions.__annotations__)
        raise InputError(f"unknown option {unknown[0]!r}: {hint}known are {known_names}")
    backend = options.get("backend")
    _check_backend(backend)
    if isinstance(model, TwoLayer) and options.get("layer") == "hidden":  # the layer's name in results
        options = {**options, "layer": None}
    y = y if y is None or hasattr(y, "detach") else as_array(y, "y")
    model_only = options.get("method", "auto") != "auto" or any(
        options.get(name) is not None for name in MODEL_ONLY
    )
    names = [metrics] if isinstance(metrics, str) or callable(metrics) else metrics
    if isinstance(names, Iterable) and not isinstance(names, Mapping):
        metrics = names = list(names)
    in_both = names is None or (isinstance(names, list) and _in_both_backends(names))
    if (y is not None or _is_array(data)) and in_both and not model_only and backend != "model":
        network = _recognised(model, needed=backend == "two-layer")
        if network is not None:
            own = None if names is None else list(dict.fromkeys(names))
            yield TwoLayerEvaluator.of(network, data, y, threads=threads, memory=memory, metrics=own)
            return
    if y is not None and not _is_array(data):
        raise InputError(
            f"y goes with inputs that come as one array; got {type(data).__name__}, whose batches are to be "
            "(inputs, targets)"
        )
    from nearzero.evaluators.plan import Request
    from nearzero.evaluators.session import open_session

    settings = {name: value for name, value in options.items() if name not in ("layer", "backend")}
    request = Request(
        layers=options.get("layer"),
        metrics=metrics,
        memory=memory,
        centred=True,
        **settings,  # type: ignore[arg-type]
    )
    inputs_and_labels = (_dense(data), y) if y is not None else _dense(data)
    with open_session(model, inputs_and_labels, request) as session:
        _check_one(session, options.get("layer"))
        chosen = None if metrics is None else list(session.metrics)
        yield evaluators_of(session, backend, metrics=chosen, threads=threads)[0]


def evaluators_of(
    session: Session,
    backend: Backend | None = None,
    *,
    metrics: Sequence[str] | None = None,
    threads: int | None = None,
) -> list[LayerEvaluator]:
    """Return an evaluator for each layer of a session, on the two-layer backend where that is possible.

    Args:
        session: the model and the data.
        backend: the backend to use; chosen if None.
        metrics: the names of the metrics that will be asked for.
        threads: the number of threads of compiled loops.

    Raises:
        InputError: the two-layer backend was asked for, and isn't possible.
    """
    from nearzero.evaluators.model import ModelEvaluator
    from nearzero.evaluators.scores import METRICS

    _check_backend(backend)
    # a metric of the user's own may have the name of another
    in_both = all(metric is METRICS.get(name) for name, metric in session.metrics.items())
    tried = backend != "model" and in_both
    with running("the model's response to the data can't be measured"):
        two_layer = _two_layer(session, threads) if tried else None
    evaluators: list[LayerEvaluator] = []
    for layer in session.layers:
        if two_layer is not None and _is_hidden(layer, two_layer.hidden.network.activation):
            evaluators.append(
                TwoLayerEvaluator(two_layer.hidden, two_layer.labels, layer=layer.name, metrics=metrics)
            )
        elif backend == "two-layer":
            raise InputError(
                f"layer {layer.name!r} can't be evaluated by backend='two-layer': the model isn't Linear, activation, "
                "Linear on plain inputs, or this isn't its hidden layer"
            )
        else:
            evaluators.append(ModelEvaluator(session, layer, metrics=metrics))
        evaluators[-1].assumptions = session.assumptions
    return evaluators


def _in_both_backends(names: Iterable[object]) -> bool:
    """Return True if both backends have these metrics; a user's own function takes PyTorch's tensors."""
    return all(isinstance(name, str) and name in NAMES for name in names)


def _check_backend(backend: object) -> None:
    if backend is not None:
        check_choice("backend", backend, get_args(Backend))


def _is_array(data: Any) -> bool:
    """Return True for one array of inputs: pixels, an array or a tensor, or lists of numbers."""
    while isinstance(data, list) and data:
        data = data[0]
        if hasattr(data, "detach") or isinstance(data, np.ndarray):
            return False  # a list of batches
    return isinstance(data, (Pixels, np.ndarray, int, float, np.number)) or hasattr(data, "detach")


def _recognised(model: Any, *, needed: bool) -> TwoLayer | None:
    """Return a model as a two-layer network; None for a module of another form, or in another precision.

    Raises:
        InputError: the model isn't a two-layer network, and must be one (`needed`) or isn't even a module.
    """
    is_module = hasattr(model, "parameters")
    if not needed and is_module and any(str(array.dtype) != "torch.float32" for array in model.parameters()):
        return None
    try:
        return as_network(model)
    except InputError:
        if needed or not is_module:
            raise
        return None


def _dense(data: Any) -> Any:
    """Return inputs as an array that PyTorch takes; other data as they are."""
    if isinstance(data, Pixels):
        return data.dense()
    return np.asarray(data) if isinstance(data, list) and _is_array(data) else data


def _check_one(session: Session, wanted: Any) -> None:
    """Raise an InputError unless the session has exactly one layer."""
    if len(session.layers) == 1:
        return
    names = ", ".join(layer.name for layer in session.layers)
    if wanted is None:
        raise InputError(
            f"the model has {len(session.layers)} activations; choose one by layer=...: one of {names}"
        )
    raise InputError(f"this analysis takes one layer, but {wanted!r} matches {len(session.layers)}: {names}")


def _is_hidden(layer: Layer, activation: str) -> bool:
    """Return True for the hidden layer of a two-layer model: its activation, or the linear layer before it."""
    placed = layer.kind == "activation" or layer.follows is not None
    return placed and layer.activation == activation and layer.coordinates is None


def _two_layer(session: Session, threads: int | None) -> TwoLayerEvaluator | None:
    """Return the evaluator of a model of the two-layer form; None for others, and for data too large or masked."""
    from nearzero.networks.two_layer import from_module

    request, model = session.request, session.model
    given = request.output is not None or request.method != "auto" or request.batch_axis is not None
    if given or session.causal or session.discovery.random:
        return None
    if model.reading.kind == "probabilities" or model.reading.class_axis != 1:
        return None
    try:
        network = from_module(model.module)
    except InputError:
        return None
    module = network.to_module().to(model.device)
    inputs, targets, size = [], [], 0
    for batch in session.source:
        array = _plain_inputs(batch)
        # A model may have this form on some inputs only, and tokens aren't examples.
        if array is None or array.shape[1] != network.inputs:
            return None
        if not _same_logits(model.logits(batch), module(batch.inputs[0].flatten(1))):
            return None
        size += array.nbytes
        if size > request.limit // 4:
            return None
        inputs.append(array)
        targets.append(None if batch.target is None else batch.target.cpu().numpy())
    labelled = [labels for labels in targets if labels is not None]
    target = np.concatenate(labelled) if len(labelled) == len(inputs) else None
    if target is not None and not (
        target.dtype == np.int64 and target.ndim == 1 and 0 <= target.min() <= target.max() < network.classes
    ):
        return None
    return TwoLayerEvaluator.of(
        network, np.concatenate(inputs), target, threads=threads, memory=request.limit
    )


def _same_logits(logits: Tensor, expected: Tensor) -> bool:
    """Return True if logits are finite and those expected, except for rounding and a constant per example."""
    import torch

    if logits.shape != expected.shape or logits.dtype != expected.dtype:
        return False
    if not bool(logits.isfinite().all() and expected.isfinite().all()):
        return False
    logits, expected = (array - array.mean(dim=1, keepdim=True) for array in (logits, expected))
    return bool(torch.allclose(logits, expected, rtol=0.0, atol=SAME * float(expected.abs().amax())))


def _plain_inputs(batch: Batch) -> npt.NDArray[np.float32] | None:
    """Return the inputs (n, D) of a batch of only dense float32 inputs and n targets; None for other batches."""
    arguments = [*batch.arguments, *batch.keywords.values()]
    if len(arguments) != 1 or batch.mask is not None:
        return None
    (inputs,) = arguments
    if not hasattr(inputs, "detach") or inputs.ndim < 2 or str(inputs.dtype) != "torch.float32":
        return None
    if str(inputs.layout) != "torch.strided" or inputs.shape[0] != len(batch):
        return None
    return np.asarray(inputs.reshape(len(batch), -1).cpu().numpy())
