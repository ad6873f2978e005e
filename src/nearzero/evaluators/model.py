"""The backend of any `torch.nn.Module`: a layer's values by hooks, logits by the recorded suffix or a full pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nearzero.errors import InputError
from nearzero.evaluators import base
from nearzero.evaluators.base import Backend, Doubles, Floats, Integers, Part, Perturbations
from nearzero.evaluators.metrics import default_metrics
from nearzero.evaluators.plan import LayerPlan, check_families, conduct_of
from nearzero.evaluators.responses import ResponseCollector, changes_of, take_batch
from nearzero.evaluators.scores import METRICS, Items, Metric
from nearzero.evaluators.session import Half, Session
from nearzero.perturbations.families import Conduct
from nearzero.perturbations.perturbation import AnyPerturbation, Perturbation
from nearzero.perturbations.ranges import Ranges
from nearzero.support.memory import memory_text
from nearzero.support.threads import thread_count
from nearzero.torch_models.batches import Batch
from nearzero.torch_models.data import is_out_of_memory
from nearzero.torch_models.forward import Passes, SharedPasses, logits_with_hooks
from nearzero.torch_models.hooks import LayerHook
from nearzero.torch_models.layer import Layer
from nearzero.torch_models.ranges import by_unit, counted_rows, layer_ranges, row_owners
from nearzero.torch_models.replay import Suffix

__all__ = ["ModelEvaluator", "scores_of"]

ROWS = 2**18  # numbers that are changed at a time
FEW = 4  # examples on which what follows the layer is looked at
# As a share of the greatest logit, or activation: what rounding may be, by bytes a number; fewer bytes, more rounding.
ROUNDING = {8: 1e-5, 4: 1e-5, 2: 5e-2}
NORMALISING = ("native_layer_norm", "native_group_norm", "rms_norm", "_fused_rms_norm", "rsqrt")
PREDICTION = {"prediction": Metric(lambda outputs, *_: outputs.predictions, by_item=True)}


class ModelEvaluator(base.LayerEvaluator):
    """One layer of a user's model on data, or on one half of them; it works within its session.

    Args:
        session: the model and the data.
        layer: one of the session's layers.
        half: of the data; all of them if None.
        metrics: the names of those that were asked for.
    """

    backend: Backend = "model"

    def __init__(
        self,
        session: Session,
        layer: Layer,
        half: Half | None = None,
        metrics: Sequence[str] | None = None,
    ) -> None:
        self.session, self.place, self._half = session, layer, half
        self.metrics = tuple(metrics or default_metrics(session.found.batch.target is not None))
        self.layer, self.activation, self.units = layer.name, layer.activation, layer.units
        self.limit, self.threads = session.request.limit, thread_count()
        self.halves: Literal["example", "batch"] = session.halves
        dtype = session.model.dtype
        self.precision = str(dtype).removeprefix("torch.") if dtype else "the model's own precision"
        # whether one side of the layer can be cut is tried once
        self._pass = cache(lambda side: Passes(session.model, layer, side, session.request.method))
        self._by_row = layer.act is None  # whether the activation is known to work on rows by themselves

    # --- what it is ---

    @cached_property
    def examples(self) -> Integers:
        """Return the numbers of the examples in the data."""
        return np.concatenate([numbers for numbers, _ in self.session.batches(self._half)])

    @cached_property
    def ranges(self) -> Ranges:
        """Return the unit ranges over the examples, taken in one pass over the data."""
        batches = (batch for _, batch in self.session.batches(self._half))
        (ranges,) = layer_ranges(self.session.model, [self.place], batches, self.session.room)
        return ranges

    def conduct(self, conduct: Conduct | None) -> Conduct:
        """Return the conduct asked for, or the default one of the layer's activation."""
        return conduct_of(self.place, conduct)

    def check(self, conduct: Conduct, families: Iterable[str]) -> None:
        """Refuse families that have no meaning at this layer."""
        check_families(self.place, conduct, families)

    def _act(self, z: Tensor) -> Tensor:
        return z if self.place.act is None else self.place.act(z)

    def split(self, seed: int) -> tuple[ModelEvaluator, ModelEvaluator]:
        """Return the layer on the reference half and on the half that responds."""
        if self._half is not None:
            raise InputError("the half of some data can't be split again")
        one, other = (
            ModelEvaluator(self.session, self.place, Half(seed, reference), self.metrics)
            for reference in (True, False)
        )
        return one, other

    def _gather(self, function: Callable[[Batch, Integers], Part]) -> list[Part]:
        """Return what a function gives for each block of examples and their numbers, in order.

        Where the function raises, it must have left no trace.
        """
        parts: list[Part] = []
        for numbers, batch in self.session.batches(self._half):
            first = 0

            def work(piece: Batch, numbers: Integers = numbers) -> None:
                nonlocal first
                parts.append(function(piece, numbers[first : first + len(piece)]))
                first += len(piece)

            self.session.room.run_in_blocks(batch, work)
        return parts

    # --- values of the layer ---

    @cached_property
    def _stored(self) -> tuple[Tensor, Integers]:
        """z of all rows, (R, U) in float32 or float64, and the numbers of their examples, (R,).

        Raises:
            InputError: they take more than a quarter of the memory.
        """
        taken = 0

        def gather(piece: Batch, numbers: Integers) -> tuple[Tensor, Integers]:
            nonlocal taken
            rows, places = self._rows_of(piece)
            if taken + rows.nbytes > self.limit // 4:
                raise InputError(
                    f"the values of layer {self.layer!r} take more than a quarter of {memory_text(self.limit)}, and "
                    "all of them are needed at once; give fewer examples, or more memory by NEARZERO_MEMORY or "
                    "memory=..."
                )
            taken += rows.nbytes
            return rows, numbers[places]

        parts = self._gather(gather)
        return torch.cat([rows for rows, _ in parts]), np.concatenate([owners for _, owners in parts])

    def _rows_of(self, batch: Batch) -> tuple[Tensor, Integers]:
        """The rows of a batch, (r, U), and the places of their examples in it."""
        seen: list[tuple[Tensor, Integers]] = []

        def visit(values: Tensor) -> None:
            rows = _exact(by_unit(values, self.place, batch)).reshape(-1, self.units)
            if not self._by_row:
                self._check_by_row(rows, by_unit(self._act(values), self.place, batch))
                self._by_row = True
            self._check_owners(values, batch)
            seen.append((rows.clone(), _owners(values, self.place, batch)))

        logits_with_hooks(self.session.model, batch, [LayerHook(self.place, "pre", visit)])
        return seen[0]

    def _check_owners(self, values: Tensor, batch: Batch) -> None:
        """Refuse values whose first dimension doesn't grow with the examples, since rows are told apart by it.

        Raises:
            InputError: it doesn't, as where tokens come before examples.
        """
        known = self.session.found.batch
        alike = [each.shape[1:] for each in batch.inputs] == [each.shape[1:] for each in known.inputs]
        if not (alike and batch.divisible and known.divisible):
            return
        if values.shape[0] * len(known) != self.place.shape[0] * len(batch):
            raise InputError(
                f"layer {self.layer!r} has values {tuple(values.shape)} for {len(batch)} examples, which aren't the "
                "first dimension, so it isn't known which rows are whose; leave the layer out"
            )

    def _check_by_row(self, rows: Tensor, activations: Tensor) -> None:
        """Refuse an activation that gives rows (r, U) other values than it gives them within their examples.

        Raises:
            InputError: it does, as a PReLU with a slope for each token.
        """
        expected = _exact(activations).reshape(-1, self.units)
        slack = ROUNDING[activations.dtype.itemsize] * (float(expected.abs().max()) if len(rows) else 0.0)
        try:
            apart = self._act(rows) - expected
        except RuntimeError as error:  # shapes that don't fit
            if is_out_of_memory(error):
                raise
        else:
            if bool((apart.abs() <= slack).all()):
                return
        raise InputError(
            f"the activation of layer {self.layer!r} depends on where in its example a row is, and displacements are "
            "measured row by row; leave the layer out"
        )

    @property
    def row_examples(self) -> Integers:
        """Return the number of each row's example in the data."""
        return self._stored[1]

    def preactivations(self, units: Integers | None = None) -> Floats:
        """Return z of all units, (R, U), or of some, (R, len(units))."""
        return _of_units(self._stored[0], units)

    def activations(self, units: Integers | None = None) -> Floats:
        """Return act(z) of all units, (R, U), or of some, (R, len(units))."""
        return _of_units(self._act(self._stored[0]), units)

    def changes(self, perturbations: Perturbations) -> tuple[Doubles, Doubles]:
        """Return the sums over rows of (a' - a)^2 and of a' - a, (L, U) each."""
        z = self._stored[0]
        size = max(1, ROWS // self.units)
        squares, sums = np.zeros((2, len(perturbations), self.units))
        flat = Layer("", "activation", "", (1, self.units), 1, None, "", act=self.place.act)
        rows = Batch((z,), {})
        for first in range(0, len(z), size):
            block = z[first : first + size]
            a = self._act(block)
            for level, each in enumerate(perturbations):
                before = block if each.side == "pre" else a
                (change,) = changes_of([each], before, flat, rows, first)
                after = self._act(change(before)) if each.side == "pre" else change(before)
                moved = (after - a).double()
                squares[level] += moved.square().sum(0).cpu().numpy()
                sums[level] += moved.sum(0).cpu().numpy()
        return squares, sums

    # --- logits ---

    def _items(self, batch: Batch, logits: Tensor) -> Items:
        return Items.of(batch, logits, self.session.causal)

    def _work(
        self, perturbations: Perturbations, metrics: Mapping[str, Metric], *, keep_items: bool
    ) -> ResponseCollector:
        plan = LayerPlan(self.place, self.ranges, Conduct(), {}, list(perturbations) or [Perturbation()])
        method = self.session.request.method
        return ResponseCollector(self.session.model, plan, metrics, self.session.causal, method, keep_items)

    def mean_logit_change(self, perturbations: Perturbations) -> Doubles:
        """Return the mean over items of l' - l, (L, K)."""
        work = self._work(perturbations, {}, keep_items=False)
        sums = self._gather(lambda batch, _: work.logit_changes(batch))
        return np.asarray(sum(sums))[: len(perturbations)] / max(work.items, 1)

    def scores(
        self,
        perturbations: Perturbations,
        names: Iterable[str],
        shift: Doubles | None = None,
        *,
        keep: bool = False,
    ) -> base.Scores:
        """Return metrics under each perturbation, see `nearzero.evaluators.base.LayerEvaluator`."""
        known = METRICS | self.session.metrics | PREDICTION
        chosen = {name: known[name] for name in names}
        predicted = "prediction" in chosen
        work = self._work(perturbations, chosen, keep_items=keep or predicted)
        if shift is not None:
            work.centre(np.concatenate([shift, np.zeros((1, shift.shape[1]))]))
        passes = SharedPasses(list(work.passes.values()))
        self._gather(lambda batch, _: take_batch([work], passes, batch))
        scores = scores_of(work, len(perturbations))
        if not predicted:
            return scores
        predictions = scores.values["prediction"].astype(np.int64)
        rest = {name: each for name, each in scores.values.items() if keep and "prediction" not in name}
        return replace(scores, predictions=predictions, values=rest)

    def gather(self, function: Callable[[base.Block], Part]) -> list[Part]:
        """Return what a function gives for each block of examples, in order."""
        first_row = 0

        def work(batch: Batch, _: Integers) -> Part:
            nonlocal first_row
            block = _ModelBlock(self, batch, first_row)
            part = function(block)
            first_row += len(block.row_examples)
            return part

        return self._gather(work)

    # --- common scales ---

    @cached_property
    def normalisations(self) -> tuple[str, ...]:
        """Return the operations after the layer that divide by what depends on it; none if it can't be recorded."""
        _, batch = next(self.session.batches(self._half))
        try:
            return tuple(dict.fromkeys(_normalisers(self._pass("pre").suffix(next(batch.blocks(FEW))))))
        except Exception:  # an operation that can't be recorded
            return ()

    def gather_scaled(self, scales: Doubles, function: Callable[[base.ScaledBlock], Part]) -> list[Part]:
        """Return what a function gives for each block of items under common scales, in order.

        What follows the layer isn't known as a formula, so it is measured. All logits of an item are centred, since a
        constant for all classes changes no prediction. From those at the least and the greatest scale B and A follow,
        and with them the expected logits s B + A for all scales between.
        """
        live = self.ranges.live  # now, since it may take a pass over the data
        return self._gather(lambda batch, _: function(_scaled(self, batch, scales, live)))

    # --- levels of their own ---

    def gather_pinned(
        self, parameters: base.LevelParameters, function: Callable[[base.PinnedBlock], Part]
    ) -> list[Part]:
        """Return what a function gives for each block of items whose logits can be had at levels of their own.

        An item at a level of its own is a copy of its example, of which the layer is perturbed at that level.
        """
        if self.halves == "batch":
            raise InputError(
                f"layer {self.layer!r}: critical levels need examples that can be told apart, and the inputs of this "
                "model don't all have them as first dimension"
            )
        done = 0

        def work(batch: Batch, _: Integers) -> Part:
            nonlocal done
            logits = self.session.model.logits(batch)
            items = self._items(batch, logits)
            rows, unperturbed = slice(done, done + len(items)), items.logits(logits).argmax(-1).cpu().numpy()
            block = base.PinnedBlock(
                partial(_Pinned, self, parameters, batch, items), len(batch), unperturbed, rows
            )
            part = function(block)
            done += len(items)
            return part

        return self._gather(work)


def scores_of(work: ResponseCollector, levels: int) -> base.Scores:
    """Return what the work on a layer has come to, at its first levels."""
    count = max(work.items, 1)
    return base.Scores(
        means={name: sums[:levels] / count for name, sums in work.sums.items()},
        unperturbed={name: float(sums[-1] / count) for name, sums in work.sums.items()},
        examples=work.examples,
        items=work.items,
        values={name: np.concatenate(each, axis=1)[:levels] for name, each in work.kept.items()},
        places=np.concatenate(work.places) if work.keep_items else None,
    )


class _ModelBlock(base.Block):
    """Some examples of a model, see `nearzero.evaluators.base.Block`."""

    def __init__(self, evaluator: ModelEvaluator, batch: Batch, first_row: int) -> None:
        self._evaluator, self._batch, self._first_row = evaluator, batch, first_row
        self._on = cache(lambda side: evaluator._pass(side).on(batch))
        changed = self._on("pre")
        self._items = evaluator._items(batch, changed.logits)
        self.row_examples = _owners(changed.values, evaluator.place, batch)
        self.activations = self._rows(evaluator._act(changed.values))
        self.logits = _numpy(self._items.logits(changed.logits))

    def _rows(self, values: Tensor) -> Floats:
        return _numpy(by_unit(values, self._evaluator.place, self._batch)).reshape(-1, self._evaluator.units)

    def under(self, perturbation: AnyPerturbation) -> tuple[Floats, Floats]:
        """Return activations and logits under a perturbation."""
        changed = self._on(perturbation.side)
        place = self._evaluator.place
        (change,) = changes_of([perturbation], changed.values, place, self._batch, self._first_row)
        after = change(changed.values)
        logits = changed.run(change)
        activations = self._evaluator._act(after) if perturbation.side == "pre" else after
        return self._rows(activations), _numpy(self._items.logits(logits))


class _Pinned:
    """Logits of items at levels of their own: copies of their examples, the layer of each perturbed at its level."""

    def __init__(
        self,
        evaluator: ModelEvaluator,
        parameters: base.LevelParameters,
        batch: Batch,
        items: Items,
        rows: Integers,
    ) -> None:
        self._place, self._parameters = evaluator.place, parameters
        places = items.place[rows]
        examples, self._tokens = places[:, 0], places[:, 1]
        self._batch = batch.take(examples)
        self._changed = evaluator._pass(parameters.side).on(self._batch)
        evaluator._check_owners(self._changed.values, self._batch)
        self._items = evaluator._items(self._batch, self._changed.logits)
        self._levels = np.zeros(len(places))

    def __call__(self, places: Integers, levels: Doubles) -> Floats:
        """Return the logits (k, K) of those at some places, at levels (k,)."""
        self._levels[places] = levels
        logits = self._changed.run(self._change)
        return _numpy(self._items.at(logits, self._tokens)[torch.from_numpy(places)])

    def _change(self, values: Tensor) -> Tensor:
        axis = self._place.axis_of(values)
        owners = row_owners(values, self._place, self._batch)
        exact = torch.float64 if values.dtype == torch.float64 else torch.float32
        x = values.movedim(axis, -1).to(exact)
        with np.errstate(over="ignore"):
            scale, offset, clip = (
                torch.from_numpy(np.broadcast_to(each, (len(self._levels), self._place.units)).copy()).to(x)[
                    owners
                ]
                for each in self._parameters.at(self._levels)
            )
        changed = torch.minimum(scale * x + offset, clip).movedim(-1, axis)
        return torch.empty_like(values).copy_(changed)


def _scaled(
    evaluator: ModelEvaluator, batch: Batch, scales: Doubles, live: npt.NDArray[np.bool_]
) -> base.ScaledBlock:
    """One block of items under all scales."""
    changed = evaluator._pass("pre").on(batch)
    items = evaluator._items(batch, changed.logits)
    # the two ends first: what is between is held against them
    order = [0, len(scales) - 1, *range(1, len(scales) - 1)]
    scaled = [Perturbation(scale=np.where(live, scales[place], 1.0)) for place in order]
    changes = changes_of(scaled, changed.values, evaluator.place, batch, first_row=0)
    logits = map(changed.run, [_of_another, *changes])
    plain = _centred(items, changed.logits)
    other, first, last = (_centred(items, next(logits)) for _ in range(3))
    slope = (last - first) / (scales[-1] - scales[0])
    rest = first - scales[0] * slope
    apart, sizes, moved = np.zeros((3, len(scales)))
    measured = np.empty((len(scales), len(plain)), np.int64)
    between = (_centred(items, each) for each in logits)
    for place, each in zip(order, (first, last, *between), strict=True):
        measured[place] = each.argmax(axis=1)
        apart[place] = np.abs(each - (scales[place] * slope + rest)).max(initial=0.0)
        sizes[place] = np.abs(each).max(initial=0.0)
        moved[place] = np.square(each - plain).sum()
    rounding = ROUNDING[min(changed.logits.dtype.itemsize, changed.values.dtype.itemsize)]
    act = evaluator.place.act
    return base.ScaledBlock(
        expected=lambda place: scales[place] * slope + rest,
        slack=lambda place: rounding * (scales[place] * np.abs(slope).max(axis=1) + np.abs(rest).max(axis=1)),
        measured=measured,
        unperturbed=plain.argmax(axis=1),
        labels=_labels(items, plain.shape[1]),
        rounding=rounding,
        homogeneity=0.0 if act is None else base.homogeneity_error(act, changed.values),
        apart=apart,
        sizes=sizes,
        terms=np.array([np.abs(each).max(initial=0.0) for each in (slope, rest)]),
        plain=plain,
        moved=moved,
        worth=float(np.square(other - plain).sum()),
    )


def _of_another(values: Tensor) -> Tensor:
    """Each example's values in the place of the next one's; of a single example, those of another place in it."""
    return values.roll(1, 0) if values.shape[0] > 1 else values.flip(tuple(range(1, values.ndim)))


def _centred(items: Items, logits: Tensor) -> Doubles:
    """(n, K): the logits of the items in float64, less their mean over classes.

    Raises:
        InputError: logits that aren't finite.
    """
    rows = items.logits(logits).cpu().double().numpy()
    if not np.isfinite(rows).all():
        raise InputError(
            "an audit needs finite logits, and some are infinite or NaN; output=... can leave these classes out"
        )
    return np.asarray(rows - rows.mean(axis=1, keepdims=True))


def _labels(items: Items, classes: int) -> npt.NDArray[np.int64] | None:
    """(n,): the targets, if they're classes."""
    if items.target is None or items.target.is_floating_point() or items.target.ndim > 1:
        return None
    items.check_classes(classes)
    return np.asarray(items.target.cpu().numpy(), dtype=np.int64)


def _normalisers(suffix: Suffix) -> Iterator[str]:
    for step in suffix.steps:
        operation: Any = step.function
        name = operation._schema.name.removeprefix("aten::")
        by_dependent = name in ("div", "div_") and any(place == 1 for place, _ in step.places)
        # of a batch or instance, not those that were kept: then it's affine
        own_statistics = "batch_norm" in name and len(step.arguments) > 5 and step.arguments[5] is True
        if name in NORMALISING or by_dependent or own_statistics:
            yield name


def _owners(values: Tensor, layer: Layer, batch: Batch) -> Integers:
    """The place in the batch of the example of each row that counts, (r,)."""
    owners, chosen = row_owners(values, layer, batch), counted_rows(values, layer, batch)
    return (owners.reshape(-1) if chosen is None else owners[chosen]).cpu().numpy()


def _of_units(values: Tensor, units: Integers | None) -> Floats:
    return _numpy(values if units is None else values[:, torch.from_numpy(units).to(values.device)])


def _exact(values: Tensor) -> Tensor:
    """Values in float32 at least."""
    return values.float() if values.dtype.itemsize < 4 else values


def _numpy(values: Tensor) -> Floats:
    return np.asarray(_exact(values.detach()).cpu().numpy())
