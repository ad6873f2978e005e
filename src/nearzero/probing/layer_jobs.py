"""A probe's layers as jobs, which any process can do: the numbers and the assumptions of one process.

The process that is called opens the model and the data, infers what they mean, and takes the unit ranges of all layers
in one pass. A job is one layer with its ranges. Its worker opens the model and the data once for all of its jobs,
infers the same from them, and returns the layer's response.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import xarray as xr

from nearzero.analysis.matched import Design, matched_of
from nearzero.errors import InputError
from nearzero.evaluators.base import Backend
from nearzero.evaluators.plan import LayerPlan, Request
from nearzero.evaluators.select import evaluators_of
from nearzero.evaluators.session import Session, open_session
from nearzero.perturbations.ranges import Ranges
from nearzero.probing.measure import (
    PlannedLayers,
    join_matched,
    measure,
    plan_layers,
    plan_of,
    record_responses,
)
from nearzero.probing.result import LayerResponse
from nearzero.probing.sources import (
    ONE_AT_A_TIME,
    JobInputs,
    ModelSource,
    anywhere,
    is_on_processor,
    module_digest,
)
from nearzero.support.progress import Report
from nearzero.support.workers import Workers, do_all
from nearzero.torch_models.assumptions import Assumption, Assumptions
from nearzero.torch_models.layer import Layer, LayerError
from nearzero.torch_models.named import Named, NamedModel, record, resolve
from nearzero.torch_models.state import as_module

__all__ = ["LayerJobs"]

Value = TypeVar("Value")


@dataclass(frozen=True)
class LayerJobs:
    """The jobs of one probe, and the workers that do them.

    Attributes:
        source: the model.
        given: the data, other data for the ranges, and the settings.
        design: of responses at matched displacement; None if there are none.
        backend: the backend that was asked for.
        workers: where the jobs are done.
    """

    source: ModelSource
    given: JobInputs
    design: Design | None
    backend: Backend | None
    workers: Workers

    @classmethod
    def of(
        cls,
        model: Any,
        data: Any,
        ranges_from: Any,
        request: Request,
        design: Design | None,
        backend: Backend | None,
        workers: Workers,
    ) -> LayerJobs:
        """Return the jobs of a probe of a model, which wasn't run yet.

        Raises:
            InputError: workers can't measure it: it is on another device, or something can't be sent to them.
        """
        module = as_module(model.module if isinstance(model, NamedModel) else model)
        if not is_on_processor(module):
            raise InputError(
                "workers measure on their processors, and the model is on another device; move it by "
                "model.to('cpu'), or leave out executor=..."
            )
        _refuse_iterators(data, ranges_from)
        source = ModelSource.of(model, request.loading, "the model", workers)
        needed = (anywhere(data), anywhere(ranges_from), replace(request, layers=request.wanted))
        return cls(source, JobInputs.of(needed, "data or a setting", workers), design, backend, workers)

    def measured(self, session: Session, report: Report) -> tuple[list[LayerResponse], xr.Dataset | None]:
        """Return the responses of all layers, and those at matched displacement if there is a design for them.

        Default layers that can't be probed are left out.

        Args:
            session: of the model and the data.
            report: sets a progress bar, which counts layers.

        Raises:
            InputError: a layer can't be probed, or a worker's model or data aren't those of the session.
        """
        _refuse_iterators(session.named.data, session.named.ranges_from)  # which have names
        planned = plan_layers(session, self.backend)
        session.model.before.restore()  # threads of this process begin with its state
        digest = module_digest(session.model.module) if self.source.is_opened_again else ""
        measurement = _LayerMeasurement(
            uuid.uuid4().hex,
            self.source,
            self.given,
            digest,
            session.source.seen,
            {row.what: row.value for row in session.assumptions},
            self.design,
            self.backend,
        )
        jobs = [
            _LayerJob(plan.layer.name, evaluator.backend, plan.ranges)
            for evaluator, plan in zip(planned.evaluators, planned.plans, strict=True)
        ]
        found: dict[str, _LayerOutcome] = {}

        def take(job: _LayerJob, outcome: _LayerOutcome) -> None:
            found[job.layer] = outcome
            if session.request.wanted is not None:
                outcome.response.check(layers[job.layer])
            report(len(found), len(jobs))

        layers = {layer.name: layer for layer in planned.session.layers}
        report(0, len(jobs))
        try:
            do_all(measurement, jobs, self.workers, name=lambda job: job.name, finished=take, keeps=False)
        finally:
            _forget(measurement.key)
        return self._joined(planned, [found[name] for name in layers])

    def _joined(
        self, planned: PlannedLayers, outcomes: Sequence[_LayerOutcome]
    ) -> tuple[list[LayerResponse], xr.Dataset | None]:
        """Return the outcomes of all layers as one result; what they recorded follows in the order of one process."""
        session, responses = planned.session, list[LayerResponse]()
        matched: dict[str, Callable[[], xr.Dataset]] = {}
        for outcome in outcomes:
            record(session.assumptions, outcome.response.rows)
        for layer, plan, outcome in zip(planned.session.layers, planned.plans, outcomes, strict=True):
            try:
                responses.append(outcome.response.value_of(layer)(plan))
            except LayerError as error:
                session = session.without(error)
            if outcome.matched is not None:
                matched[layer.name] = partial(_recorded, outcome.matched, layer, session)
        record_responses(session, responses, self.backend)
        return responses, None if self.design is None else join_matched(session, matched)


def _refuse_iterators(data: Any, ranges_from: Any) -> None:
    """Refuse data that can be read only once.

    Raises:
        InputError: they are an iterator.
    """
    for name, each in {"data": data, "ranges_from": ranges_from}.items():
        if isinstance(each, Iterator):
            raise InputError(
                f"{name} is an iterator ({type(each).__name__}), which can be read only once and not by every worker; "
                "give a list of batches, a DataLoader or a Dataset, or leave out the workers"
            )


@dataclass(frozen=True, eq=False)
class _LayerJob:
    """One layer to measure.

    Attributes:
        layer: its name.
        backend: the backend that measures it.
        ranges: its unit ranges.
    """

    layer: str
    backend: Backend
    ranges: Ranges

    @property
    def name(self) -> str:
        """Return the name of the job, in messages."""
        return f"layer {self.layer!r}"


@dataclass(frozen=True, eq=False)
class _Found(Generic[Value]):
    """Hold what was measured of a layer.

    Attributes:
        value: the value; None if there is a problem.
        problem: the reason why there is none, as in a `LayerError`; else "".
        rows: what was inferred on the way.
    """

    value: Value | None
    problem: str
    rows: list[Assumption]

    @classmethod
    def by(cls, measured: Callable[[], Value], session: Session) -> _Found[Value]:
        """Return what a function measures, and take what it infers out of the session's assumptions."""
        value, problem = None, ""
        with session.assumptions.apart() as rows:
            try:
                value = measured()
            except LayerError as error:
                problem = error.reason
        return cls(value, problem, rows)

    def check(self, layer: Layer) -> None:
        """Raise the problem of the layer, if there is one."""
        if self.problem:
            raise LayerError(layer, self.problem)

    def value_of(self, layer: Layer) -> Value:
        """Return the value.

        Raises:
            LayerError: the layer has none.
        """
        self.check(layer)
        assert self.value is not None
        return self.value


def _recorded(found: _Found[xr.Dataset], layer: Layer, session: Session) -> xr.Dataset:
    """Return what was found at matched displacement, and record what was inferred on the way."""
    record(session.assumptions, found.rows)
    return found.value_of(layer)


@dataclass(frozen=True, eq=False)
class _LayerOutcome:
    """The outcome of a job.

    Attributes:
        response: what makes the layer's response from its plan.
        matched: the response at matched displacement; None if there is no design, or no response.
    """

    response: _Found[Callable[[LayerPlan], LayerResponse]]
    matched: _Found[xr.Dataset] | None


@dataclass(frozen=True, eq=False)
class _LayerMeasurement:
    """Measure one layer after the other, in any process.

    Attributes:
        key: of the probe, by which a process knows what it has opened.
        source, given, design, backend: as in `LayerJobs`.
        model_digest: of the model, if it is opened anew; else "".
        seen: of the data, as `BatchSource.seen`.
        inferred: the value of each assumption of the process that gives the jobs.
    """

    key: str
    source: ModelSource
    given: JobInputs
    model_digest: str
    seen: Mapping[int, str]
    inferred: Mapping[str, str]
    design: Design | None
    backend: Backend | None

    def __call__(self, job: _LayerJob) -> _LayerOutcome:
        """Return what was measured of a layer.

        Raises:
            InputError: the model or the data can't be opened, aren't those of the process that gives the job, or can't
                be used.
        """
        with ONE_AT_A_TIME, self.given.surroundings.applied():
            named, request = _opened(self)
            with open_session(named.model, named.data, request, named.ranges_from) as session:
                return self._measured(session, job)

    def _measured(self, session: Session, job: _LayerJob) -> _LayerOutcome:
        """Return what was measured of a layer of a session, which has all layers of the probe."""
        self._check_inferred(session.assumptions)
        evaluators = evaluators_of(session, self.backend, metrics=list(session.metrics))
        layer, evaluator = next(
            pair for pair in zip(session.layers, evaluators, strict=True) if pair[0].name == job.layer
        )
        if evaluator.backend != job.backend:
            raise InputError(
                f"a worker has too little memory for the backend {job.backend!r}; give each worker more "
                "(nz.Workers(memory=...), NEARZERO_MEMORY), or choose backend='model'"
            )
        planned = PlannedLayers(
            replace(session, layers=[layer]), [evaluator], [plan_of(session.request, layer, job.ranges)]
        )
        response = _Found.by(partial(_response, planned), session)
        seen = session.source.seen
        if any(seen.get(number, value) != value for number, value in self.seen.items()):
            raise InputError(
                "a worker reads other data than this process; give data that are the same wherever they are read"
            )
        matched = None
        if self.design is not None and not response.problem:
            keep = session.request.keep_items
            matched = _Found.by(partial(matched_of, evaluator, self.design, keep_items=keep), session)
        return _LayerOutcome(response, matched)

    def _check_inferred(self, assumptions: Assumptions) -> None:
        """Refuse assumptions that aren't those of the process that gives the jobs.

        Raises:
            InputError: names one.
        """
        for row in assumptions:
            expected = self.inferred.get(row.what, row.value)
            if row.value != expected:
                raise InputError(
                    f"a worker reads {row.what} as {row.value} ({row.source}), and this process as {expected}; choose "
                    f"by {row.argument}..."
                )


def _response(planned: PlannedLayers) -> Callable[[LayerPlan], LayerResponse]:
    """Return what makes the response of the only layer from its plan, which holds modules and stays here."""
    (found,) = measure(planned, lambda examples: None)
    return partial(
        LayerResponse,
        scores=found.scores,
        method=found.method,
        reason=found.reason,
        rows=found.rows,
        partial=found.partial,
    )


_kept: dict[str, tuple[Named, Request]] = {}  # what this process opened last, by the key of the probe


def _opened(measurement: _LayerMeasurement) -> tuple[Named, Request]:
    """Return model, data and settings of a probe; a process opens them once, and keeps those of one probe.

    Raises:
        InputError: they can't be opened, or the model isn't that of the process that gives the jobs.
    """
    if measurement.key not in _kept:
        _kept.clear()
        model = measurement.source.open()
        data, ranges_from, request = measurement.given.packed.open()
        named = resolve(model, data, request.loading, request.batch_size, ranges_from)
        if measurement.model_digest not in ("", module_digest(as_module(named.model))):
            raise InputError(
                f"{measurement.source.origin} gives a worker another model than this process has: its weights are "
                "drawn anew, come from another file, or were changed after loading; save them and name their file "
                "(--weights, NamedModel.with_weights), or give the module itself"
            )
        _kept[measurement.key] = named, request
    named, request = _kept[measurement.key]
    return named, replace(request)  # its memory limit is that of the job


def _forget(key: str) -> None:
    """Forget what this process opened for a probe, if its threads did the jobs."""
    _kept.pop(key, None)
