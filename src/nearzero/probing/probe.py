"""The probe: perturb any layers of any PyTorch model, at every level of several families.

`nearzero.torch_models.discovery` finds the layers, `nearzero.probing.measure` measures them in this process, and
`nearzero.probing.layer_jobs` on the workers of an executor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import count
from typing import Any

import xarray as xr
from torch import Tensor

from nearzero.analysis.matched import Design
from nearzero.errors import InputError
from nearzero.evaluators.base import Backend
from nearzero.evaluators.metrics import with_losses
from nearzero.evaluators.plan import Levels, Names, Request
from nearzero.evaluators.scores import Metrics
from nearzero.evaluators.session import Session, discover, open_session, source_of
from nearzero.perturbations.families import PAPER_FAMILIES, Conduct
from nearzero.perturbations.given import Families
from nearzero.probing.layer_jobs import LayerJobs
from nearzero.probing.measure import matched_layers, measure, plan_layers, record_responses
from nearzero.probing.result import LayerResponse, ProbeResult, dataset, with_perplexities
from nearzero.support.progress import Report, python_progress
from nearzero.support.versions import versions_of
from nearzero.support.workers import Workers
from nearzero.torch_models.assumptions.experiments import BatchAxis
from nearzero.torch_models.assumptions.outputs import ClassAxis, OutputKind
from nearzero.torch_models.batches import Prepare
from nearzero.torch_models.forward import Method
from nearzero.torch_models.layer import Basis, Layer, LayerError, Units
from nearzero.torch_models.named import Loading, open_model, resolve
from nearzero.torch_models.state import Model, Output, as_module, untouched

__all__ = ["layers", "probe"]

PACKAGES = ("nearzero", "torch", "numpy")  # whose versions a result keeps
BATCHES = 4  # the batches in which `layers` looks for modules that the first examples don't reach


def layers(
    model: object,
    data: Any,
    *,
    prepare: Prepare | None = None,
    output: Output | None = None,
    outputs: bool = False,
    loading: Loading | None = None,
) -> tuple[Layer, ...]:
    """Return the layers of a model that can be probed, in the order of its forward pass.

    The model is run on a few examples of the first batch. Its state is then restored, bit for bit.

    Args:
        model, data, prepare, output, loading: as in `probe`.
        outputs: True to list the inputs of linear layers and convolutions too, as `name:input`, and the outputs of all
            other modules, which `probe` takes by name.

    Raises:
        InputError: the model can't be probed, or can't be run on the data.

    Example:
        >>> import nearzero as nz
        >>> from torch import nn, zeros
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> for layer in nz.layers(model, [zeros(8, 4)]):
        ...     print(layer.name, layer.kind, layer.activation, layer.units)
        0 linear relu 3
        1 activation relu 3
        2 linear None 2
    """
    request = Request(prepare=prepare, output=output, loading=loading)
    named = resolve(model, data, loading)
    module = as_module(named.model)
    with untouched(module) as before:
        runnable = Model(module, before, output)
        discovery = discover(runnable, [source_of(runnable, named.data, request)], request, most=BATCHES)
        return discovery.places if outputs else discovery.layers


def probe(
    model: object,
    data: Any,
    layers: Names = None,
    *,
    families: Families = PAPER_FAMILIES,
    levels: Levels = None,
    metrics: Metrics = None,
    ranges_from: Any = None,
    quantiles: tuple[float, float] | None = None,
    conduct: Conduct | None = None,
    activation: str | Callable[[Tensor], Tensor] | None = None,
    unit_axis: int | None = None,
    prepare: Prepare | None = None,
    output: Output | None = None,
    output_kind: OutputKind | None = None,
    class_axis: ClassAxis | None = None,
    causal: bool | None = None,
    batch_size: int | None = None,
    batch_axis: BatchAxis = None,
    units: Units = None,
    basis: Basis = None,
    memory: int | str | None = None,
    method: Method = "auto",
    keep_items: bool = False,
    loading: Loading | None = None,
    design: Design | None = None,
    backend: Backend | None = None,
    progress: bool | None = None,
    advanced: Callable[[int], None] = lambda examples: None,
    executor: Executor | Workers | None = None,
) -> ProbeResult:
    """Perturb layers of a model, one at a time, and measure the model's responses.

    A layer has pre-activations z and units (the columns of a linear layer, the features of a token, the
    channels of a convolution). A perturbation replaces each unit's x by min(max(scale * x + offset, low), clip),
    where x is z or, for some families, the activation a. A family determines the four numbers from a level and
    the unit's range.

    Args:
        model: a `torch.nn.Module`, or a `TwoLayer`; or a name, such as "hf:openai-community/gpt2",
            "timm:resnet18.a1_in1k" or "torchvision:resnet18:IMAGENET1K_V1" (`docs/by_name.md`). It is run in evaluation
            mode. Its state is then restored, bit for bit.
        data: batches (a DataLoader, a list), a `Dataset`, or arrays; see `nearzero.torch_models.batches`.
            Targets are optional. Targets of -100 are ignored. Or a name: "hf:wikitext:wikitext-2-raw-v1:test", a
            folder of images, a text file.
        layers: names or globs, as `nz.layers` lists them, or names of other modules, whose output is then
            perturbed; all activations if None.
        families: names ("offset", "scale", "clip", or controls, see `nearzero.perturbations.families`), families
            such as `nz.Shift(range="post")`, perturbations, which have one level, 1; or a mapping from names of
            your own to these.
        levels: replaces the levels of each family: a mapping from family to levels, levels for all families,
            or the number of levels to take from each family's own, evenly spaced.
        metrics: "accuracy", "agreement", "cross_entropy", "perplexity", "margin", "kl_divergence", or functions from
            logits (n, K) and target (n,) to one number or to values (n,); or a mapping from names to these. If None:
            accuracy and agreement; without targets, agreement and KL divergence. The perplexity is exp of the mean
            cross-entropy over all items, which the result then has too.
        ranges_from: other data to take the unit ranges from.
        quantiles: (low, high), which replace the minimum and the maximum of a unit, such as (0.001, 0.999).
        conduct: the reading of the protocol. If None: the published one for ReLU and Abs; for all other
            activations a shift by the pre-activation range.
        activation: the activation after linear layers, where it isn't found: one of the nine names, or a
            function.
        unit_axis: the dimension of the units, where it isn't found correctly.
        prepare: a function from a batch of another form to (inputs, target, mask).
        output: where the logits aren't found in the model's output: their key or index, or a function from the
            output to them.
        output_kind: "logits", "probabilities" or "log-probabilities", where it isn't found correctly.
        class_axis: the dimension of the classes in the output, where it isn't found correctly; "none" if
            each number is the logit of an item of its own.
        causal: True if the logits at a token predict the next token; found by experiment if None.
        batch_size: the number of examples in a batch, for data that come as examples.
        batch_axis: the dimension of the inputs that holds the examples (0 or 1), or "none" if an example's logits
            depend on the others of its batch, so that batches can't be cut; found by experiment if None.
        units: the units that are perturbed, where not all are: their indices, or a mask; or a mapping from names to
            these, such as the heads of a layer, each of which is perturbed alone; or "each", for every unit alone.
        basis: directions to perturb in place of units, such as principal components or the direction of a feature:
            orthonormal columns B, (U, V) or (U,), or a mapping from names to these. A row x of the layer's values
            has the coordinates c = x B; it becomes x + (c' - c) B'.
        memory: the memory that may be used in addition to the model and the data, such as "2 GB";
            `NEARZERO_MEMORY` or 3 GB if None.
        method: "auto", "suffix" or "full"; see `nearzero.torch_models.forward`.
        keep_items: True to also return each metric for every example or token, in float32; with a `design`, at matched
            displacement too, of the half that responds.
        loading: a `Loading`, with what a name leaves open: columns, blocks of tokens, classes, preprocessing.
        design: a `Design` (families, targets, draws) for responses at matched displacement. The result's
            `matched` then holds them, as `nz.verdict` takes them.
        backend: "two-layer" or "model"; chosen for each layer if None, see `nearzero.evaluators.select`.
        progress: whether a progress bar is shown, on standard error or as an output of the cell; True for anywhere;
            in terminals and notebooks if None. It counts batches, and with an executor layers.
        advanced: a function that is called after each batch of the model backend, with the number of its
            examples. The two-layer backend doesn't call it, nor do workers, which read the data once for each layer.
        executor: measures the layers, each a job of its own; any `concurrent.futures.Executor`, see
            `nearzero.Workers`; this process if None, which measures all layers in one pass over the data. Models and
            data that were given by name are opened by the workers, which refuse other weights or data than this process
            has; everything else must be pickled. In threads of one process, layers are measured one after the other.

    Returns:
        A `ProbeResult`; its `response` is a Dataset on (layer, family, level).

    Raises:
        InputError: a model, a layer, data or settings that can't be used; the message says what to do.

    Example:
        Two units and two classes; unit u is the logit of class u. The clip's threshold is min + p (max - min),
        which is 1, 2 and 5 at these levels.

        >>> import nearzero as nz
        >>> import numpy as np
        >>> model = nz.TwoLayer(np.eye(2), np.zeros(2), np.eye(2), np.zeros(2), "relu").to_module()
        >>> x = np.array([[2, 1], [1, 2], [5, 4], [4, 5]], dtype=np.float32)
        >>> y = np.array([0, 1, 0, 1])
        >>> result = nz.probe(model, (x, y), families="clip", levels=[0.0, 0.25, 1.0])
        >>> result.response.accuracy.sel(layer="1", family="clip").values.tolist()
        [0.5, 0.75, 1.0]
    """
    measured, perplexities = with_losses(metrics)
    request = Request(
        layers=layers,
        families=families,
        levels=levels,
        metrics=measured,
        quantiles=quantiles,
        conduct=conduct,
        activation=activation,
        unit_axis=unit_axis,
        prepare=prepare,
        output=output,
        output_kind=output_kind,
        class_axis=class_axis,
        centred=design is not None,
        causal=causal,
        batch_size=batch_size,
        batch_axis=batch_axis,
        units=units,
        basis=basis,
        memory=memory,
        method=method,
        keep_items=keep_items,
        loading=loading,
    )
    model, way = _way(model, data, ranges_from, request, design, backend, advanced, executor)
    with (
        python_progress("probing", progress) as report,
        open_session(model, data, request, ranges_from=ranges_from) as session,
    ):
        responses, matched = way.measured(session, report)
        response = _labelled(session, responses, matched)
        return ProbeResult(with_perplexities(response, perplexities, metrics), matched)


def _way(
    model: Any,
    data: Any,
    ranges_from: Any,
    request: Request,
    design: Design | None,
    backend: Backend | None,
    advanced: Callable[[int], None],
    executor: Executor | Workers | None,
) -> tuple[Any, LayerJobs | _OnePass]:
    """Return the model, and the way in which its layers are measured.

    Raises:
        InputError: a design or an executor that can't be used, or something that workers can't be given.
    """
    if design is not None and not isinstance(design, Design):
        raise InputError(f"design must be an nz.Design; got {type(design).__name__}")
    workers = Workers.of(executor)
    if workers.executor is None:
        return model, _OnePass(design, backend, advanced)
    model = open_model(model, request.loading) if isinstance(model, str) else model
    return model, LayerJobs.of(model, data, ranges_from, request, design, backend, workers)


@dataclass(frozen=True)
class _OnePass:
    """All layers measured here, in one pass over the data.

    Attributes:
        design: of responses at matched displacement; None if there are none.
        backend: the backend that was asked for.
        advanced: called after each batch of the model backend, with the number of its examples.
    """

    design: Design | None
    backend: Backend | None
    advanced: Callable[[int], None]

    def measured(self, session: Session, report: Report) -> tuple[list[LayerResponse], xr.Dataset | None]:
        """Return the responses of all layers, and those at matched displacement if there is a design for them.

        Default layers that can't be probed are left out.
        """
        while True:
            layers = plan_layers(session, self.backend)
            try:
                responses = measure(layers, _counting(session, report, self.advanced))
            except LayerError as error:
                session = layers.session.without(error)
                continue
            record_responses(session, responses, self.backend)
            if self.design is None:
                return responses, None
            return responses, matched_layers(session, layers.evaluators, self.design)


def _labelled(session: Session, responses: Sequence[LayerResponse], matched: xr.Dataset | None) -> xr.Dataset:
    """Return the responses of all layers as labelled arrays, with how they were measured."""
    if matched is None:
        session.assumptions.record("halves", "none", "default", "design=")
    return dataset(responses, type(session.model.module).__name__).assign_attrs(_about(session))


def _about(session: Session) -> dict[str, str | int]:
    """Return what a result keeps about how it was measured, as attributes that a file can hold."""
    named = session.named
    return {
        **{f"{what}_origin": origin.to_json() for what, origin in named.origins.items()},
        **({"class_names": json.dumps(named.class_names)} if named.class_names else {}),
        "assumptions": session.assumptions.to_json(),
        "causal": int(session.causal),
        "versions": json.dumps(versions_of((*PACKAGES, *named.packages))),
    }


def _counting(session: Session, report: Report, advanced: Callable[[int], None]) -> Callable[[int], None]:
    """Return a function that counts batches for a progress bar, and passes the number of their examples on."""
    numbers = count(1)

    def took(examples: int) -> None:
        report(next(numbers), session.source.batches)
        advanced(examples)

    return took
