"""The backend for any `torch.nn.Module`.

Hooks read a layer's values. Logits come from the recorded suffix or from a full forward pass.
"""

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
from nearzero.evaluators.scores import METRICS, Items, Metric, find_not_finite
from nearzero.evaluators.session import Half, Session
from nearzero.perturbations.families import AT_ACTIVATIONS, BY_WEIGHTS, Conduct
from nearzero.perturbations.perturbation import AnyPerturbation, Perturbation
from nearzero.perturbations.ranges import Ranges
from nearzero.support.memory import is_out_of_memory, memory_text
from nearzero.support.threads import thread_count
from nearzero.support.words import number_of
from nearzero.torch_models.batches import Batch
from nearzero.torch_models.forward import Passes, SharedPasses, logits_with_hooks, not_reached
from nearzero.torch_models.hooks import LayerHook
from nearzero.torch_models.layer import Directions, Layer, LayerError
from nearzero.torch_models.ranges import by_unit, counted_rows, layer_ranges, row_owners
from nearzero.torch_models.replay import Suffix

__all__ = ["ModelEvaluator", "scores_of"]

VALUES = 2**18  # values of a layer that are perturbed at a time
FEW = 4  # examples on which the operations after the layer are recorded
# bound on the effect of rounding, as a share of the greatest logit or activation, by the number of bytes of a
# number
ROUNDING = {8: 1e-5, 4: 1e-5, 2: 5e-2}
NORMALISING = ("native_layer_norm", "native_group_norm", "rms_norm", "_fused_rms_norm", "rsqrt")
PREDICTION = {"prediction": Metric(lambda outputs, *_: outputs.predictions, by_item=True)}


class ModelEvaluator(base.LayerEvaluator):
    """Evaluate one layer of a user's model on data, or on one half of the data; usable while its session is open.

    Args:
        session: the model and the data.
        layer: one of the session's layers.
        half: the half of the data; all data if None.
        metrics: the names of the metrics that were asked for.
        most: the number of examples after which no further batch is read; None to read all.

    Attributes:
        session: as given.
        torch_layer: the layer as given; `layer` is its name.
    """

    backend: Backend = "model"

    def __init__(
        self,
        session: Session,
        layer: Layer,
        half: Half | None = None,
        metrics: Sequence[str] | None = None,
        most: int | None = None,
    ) -> None:
        self.session, self.torch_layer, self._half, self._most = session, layer, half, most
        self.metrics = tuple(metrics or default_metrics(session.discovery.batch.target is not None))
        self.layer, self.activation, self.units = layer.name, layer.activation, layer.units
        self.limit, self.threads = session.request.limit, thread_count()
        self.halves: Literal["example", "batch"] = session.halves
        dtype = session.model.dtype
        self.precision = str(dtype).removeprefix("torch.") if dtype else "the model's own precision"
        # cached, so that the suffix of each side is tried only once
        self._passes = cache(lambda side: Passes(session.model, layer, side, session.request.method))
        self._by_row = layer.act is None  # True once the activation is known to act on each row separately

    # --- properties ---

    @cached_property
    def examples(self) -> Integers:
        """Return the numbers of the examples in the data."""
        return np.concatenate([numbers for numbers, _ in self._batches()])

    @cached_property
    def ranges(self) -> Ranges:
        """Return the unit ranges over the examples; this takes one pass over the data."""
        batches = (batch for _, batch in self._batches())
        (ranges,) = layer_ranges(self.session.model, [self.torch_layer], batches, self.session.budget)
        return ranges

    @property
    def undefined(self) -> frozenset[str]:
        """Return the names of the families that aren't defined here.

        They need the units' weights, which aren't known, or activations, which directions don't have.
        """
        by_weights = BY_WEIGHTS if self.torch_layer.producer is None else frozenset()
        of_directions = isinstance(self.torch_layer.coordinates, Directions)
        return by_weights | AT_ACTIVATIONS if of_directions else by_weights

    def conduct(self, conduct: Conduct | None) -> Conduct:
        """Return the conduct asked for, or the default one of the layer's activation."""
        return conduct_of(self.torch_layer, conduct)

    def check(self, conduct: Conduct, families: Iterable[str]) -> None:
        """Raise an error for families that aren't defined at this layer."""
        check_families(self.torch_layer, conduct, families)

    def _act(self, z: Tensor) -> Tensor:
        return z if self.torch_layer.act is None else self.torch_layer.act(z)

    def split(self, seed: int) -> tuple[ModelEvaluator, ModelEvaluator]:
        """Return the layer on the reference half and on the responding half."""
        if self._half is not None:
            raise InputError("these data are a half already, and a half can't be split again")
        reference, responding = (
            ModelEvaluator(self.session, self.torch_layer, Half(seed, is_reference), self.metrics)
            for is_reference in (True, False)
        )
        return reference, responding

    def first(self, examples: int) -> ModelEvaluator:
        """Return the layer on the first examples; on more of them if a batch that can't be cut has more."""
        return ModelEvaluator(self.session, self.torch_layer, self._half, self.metrics, examples)

    def _batches(self) -> Iterator[tuple[Integers, Batch]]:
        """Yield the batches of the data or of the half, with the numbers of their examples, as far as they are read."""
        left = self._most
        for numbers, batch in self.session.batches(self._half):
            if left is None or len(batch) <= left or not batch.divisible:
                yield numbers, batch
            else:
                yield numbers[:left], batch.take(torch.arange(left))
            left = None if left is None else left - len(batch)
            if left is not None and left <= 0:
                return

    def _gather(self, function: Callable[[Batch, Integers], Part]) -> list[Part]:
        """Return the results of a function for each block of examples and their numbers, in order.

        If the function raises an error, it must not have changed any state, since it may be called again.
        """
        parts: list[Part] = []
        for numbers, batch in self._batches():
            first = 0

            def run(piece: Batch, numbers: Integers = numbers) -> None:
                nonlocal first
                parts.append(function(piece, numbers[first : first + len(piece)]))
                first += len(piece)

            self.session.budget.run_in_blocks(batch, run)
        return parts

    # --- values of the layer ---

    @cached_property
    def _stored(self) -> tuple[Tensor, Integers]:
        """Return z of all rows, (R, U) in float32 or float64, and the numbers of their examples, (R,).

        Raises:
            InputError: the values take more than a quarter of the memory.
        """
        total_bytes = 0

        def gather(piece: Batch, numbers: Integers) -> tuple[Tensor, Integers]:
            nonlocal total_bytes
            rows, owners = self._rows_of(piece)
            if total_bytes + rows.nbytes > self.limit // 4:
                raise InputError(
                    f"the values of layer {self.layer!r} take more than a quarter of {memory_text(self.limit)}, and "
                    "all of them are needed at once; give fewer examples, or more memory by NEARZERO_MEMORY or "
                    "memory=..."
                )
            total_bytes += rows.nbytes
            return rows, numbers[owners]

        parts = self._gather(gather)
        return torch.cat([rows for rows, _ in parts]), np.concatenate([owners for _, owners in parts])

    def _rows_of(self, batch: Batch) -> tuple[Tensor, Integers]:
        """Return the rows of a batch, (r, U), and the index of each row's example in the batch, (r,)."""
        seen: list[tuple[Tensor, Integers]] = []

        def visit(values: Tensor) -> None:
            values = values.detach()
            rows = _exact(by_unit(values, self.torch_layer, batch)).reshape(-1, self.units)
            if not self._by_row:
                self._check_by_row(rows, by_unit(self._act(values), self.torch_layer, batch))
                self._by_row = True
            self._check_owners(values, batch)
            seen.append((rows.clone(), _owners(values, self.torch_layer, batch)))

        logits_with_hooks(self.session.model, batch, [LayerHook(self.torch_layer, "pre", visit)])
        if not seen:
            raise not_reached(self.torch_layer, batch)
        return seen[0]

    def _check_owners(self, values: Tensor, batch: Batch) -> None:
        """Raise an error unless the first dimension of the layer's values is that of the examples.

        Raises:
            InputError: it doesn't grow with the number of examples, for instance because tokens come before
                examples, or because not all of them reach the layer.
        """
        first = self.session.discovery.batch
        alike = [array.shape[1:] for array in batch.inputs] == [array.shape[1:] for array in first.inputs]
        if not (alike and batch.divisible and first.divisible) or self.torch_layer.rows is not None:
            return  # the dimensions of some layers are known
        if values.shape[0] * len(first) != self.torch_layer.shape[0] * len(batch):
            raise LayerError(
                self.torch_layer,
                f"has values {tuple(values.shape)} for {number_of(len(batch), 'example')}, and "
                f"{self.torch_layer.shape} for {len(first)} others, "
                "so it isn't known which rows belong to which example; leave the layer out",
            )

    def _check_by_row(self, rows: Tensor, activations: Tensor) -> None:
        """Raise an error unless the activation gives rows (r, U) the same values as within their examples.

        Raises:
            InputError: it doesn't, as a PReLU with a slope for each token.
        """
        expected = _exact(activations).reshape(-1, self.units)
        slack = ROUNDING[activations.dtype.itemsize] * (float(expected.abs().max()) if len(rows) else 0.0)
        try:
            apart = self._act(rows) - expected
        except RuntimeError as error:  # the shapes don't fit
            if is_out_of_memory(error):
                raise
        else:
            if bool((apart.abs() <= slack).all()):
                return
        raise InputError(
            f"the activation of layer {self.layer!r} depends on a row's position in its example, and displacements are "
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
        squares, sums = np.zeros((2, len(perturbations), self.units))
        for level, moved in self._moved(perturbations):
            squares[level] += moved.square().sum(0).cpu().numpy()
            sums[level] += moved.sum(0).cpu().numpy()
        return squares, sums

    def projected_changes(self, perturbations: Perturbations, root: Floats) -> Doubles:
        """Return the sums over rows of ||(a' - a) root||^2, (L,)."""
        sums = np.zeros(len(perturbations))
        device = self._stored[0].device
        matrix = torch.from_numpy(np.asarray(root)).to(device).double()
        for level, moved in self._moved(perturbations):
            sums[level] += float((moved @ matrix).square().sum())
        return sums

    def _moved(self, perturbations: Perturbations) -> Iterator[tuple[int, Tensor]]:
        """Yield the index of a perturbation and a' - a, (r, U) float64, for each block of rows and perturbation."""
        z = self._stored[0]
        size = max(1, VALUES // self.units)
        flat = Layer("", "activation", "", (1, self.units), 1, None, "", act=self.torch_layer.act)
        rows = Batch((z,), {})
        for first in range(0, len(z), size):
            block = z[first : first + size]
            a = self._act(block)
            for level, perturbation in enumerate(perturbations):
                pre = perturbation.side == "pre"
                before = block if pre else a
                (change,) = changes_of([perturbation], before, flat, rows, first)
                after = self._act(change(before)) if pre else change(before)
                yield level, (after - a).double()

    # --- logits ---

    def _items(self, batch: Batch, logits: Tensor) -> Items:
        return Items.of(batch, logits, self.session.causal, self.session.model.reading)

    def _collector(
        self, perturbations: Perturbations, metrics: Mapping[str, Metric], *, keep_items: bool
    ) -> ResponseCollector:
        at_least_one = list(perturbations) or [Perturbation()]
        plan = LayerPlan(self.torch_layer, self.ranges, Conduct(), {}, at_least_one)
        method = self.session.request.method
        return ResponseCollector(self.session.model, plan, metrics, self.session.causal, method, keep_items)

    def mean_logit_change(self, perturbations: Perturbations) -> Doubles:
        """Return the mean over items of l' - l, (L, K)."""
        collector = self._collector(perturbations, {}, keep_items=False)
        sums = self._gather(lambda batch, _: collector.logit_changes(batch))
        return np.asarray(sum(sums))[: len(perturbations)] / max(collector.items, 1)

    def scores(
        self,
        perturbations: Perturbations,
        names: Iterable[str],
        shift: Doubles | None = None,
        *,
        keep: bool = False,
    ) -> base.Scores:
        """Return metrics under each perturbation, see `nearzero.evaluators.base.LayerEvaluator`."""
        known = METRICS | PREDICTION | self.session.metrics
        chosen = {name: known[name] for name in names}
        predicted = chosen.get("prediction") is PREDICTION["prediction"]  # not a metric of the user's own
        collector = self._collector(perturbations, chosen, keep_items=keep or predicted)
        if shift is not None:
            unmoved = (
                len(collector.plan.perturbations) + 1 - len(shift)
            )  # without a perturbation, and fillers
            collector.centre(np.concatenate([shift, np.zeros((unmoved, shift.shape[1]))]))
        passes = SharedPasses(list(collector.passes.values()))
        self._gather(lambda batch, _: take_batch([collector], passes, batch))
        scores = scores_of(collector, len(perturbations))
        if not predicted:
            return scores
        predictions = scores.values["prediction"].astype(np.int64)
        values = {name: table for name, table in scores.values.items() if keep and "prediction" not in name}
        return replace(scores, predictions=predictions, values=values)

    def gather(self, function: Callable[[base.Block], Part]) -> list[Part]:
        """Return the results of a function for each block of examples, in order."""
        first_row = 0

        def run(batch: Batch, _: Integers) -> Part:
            nonlocal first_row
            block = _ModelBlock(self, batch, first_row)
            part = function(block)
            first_row += len(block.row_examples)
            return part

        return self._gather(run)

    # --- common scales ---

    @cached_property
    def normalisations(self) -> tuple[str, ...]:
        """Return the names of operations after the layer that divide by values which depend on it.

        Empty if the operations can't be recorded.
        """
        _, batch = next(self._batches())
        try:
            return tuple(dict.fromkeys(_normalisers(self._passes("pre").suffix(next(batch.blocks(FEW))))))
        except Exception:  # any operation of a user's model may be impossible to record
            return ()

    def gather_scaled(self, scales: Doubles, function: Callable[[base.ScaledBlock], Part]) -> list[Part]:
        """Return the results of a function for each block of items under common scales, in order.

        The operations after the layer aren't known as a formula, so B and A are measured. All logits of an
        item are centred, since a constant for all classes changes no prediction. The logits at the least and
        the greatest scale give B and A, and these give the expected logits s B + A at all scales between.
        """
        live = self.ranges.live  # before the blocks, since it may take a pass over the data
        return self._gather(lambda batch, _: function(_scaled(self, batch, scales, live)))

    # --- a level for each item ---

    def gather_pinned(
        self, parameters: base.LevelParameters, function: Callable[[base.PinnedBlock], Part]
    ) -> list[Part]:
        """Return the results of a function for each block of items with a separate level for each item.

        The example of each item is copied, and the layer is perturbed at the item's level in this copy.
        """
        if self.halves == "batch":
            raise InputError(
                f"layer {self.layer!r}: critical levels need examples that can be told apart, and the inputs of this "
                "model don't all have them as first dimension"
            )
        first = 0

        def run(batch: Batch, _: Integers) -> Part:
            nonlocal first
            logits = self.session.model.logits(batch)
            items = self._items(batch, logits)
            rows = slice(first, first + len(items))
            unperturbed = items.logits(logits).argmax(-1).cpu().numpy()
            block = base.PinnedBlock(
                partial(_Pinned, self, parameters, batch, items), len(batch), unperturbed, rows
            )
            part = function(block)
            first += len(items)
            return part

        return self._gather(run)


def scores_of(collector: ResponseCollector, levels: int) -> base.Scores:
    """Return the scores that a collector holds, of its first perturbations."""
    count = max(collector.items, 1)
    kept = {name: np.concatenate(parts, axis=1) for name, parts in collector.kept.items()}
    return base.Scores(
        means={name: sums[:levels] / count for name, sums in collector.sums.items()},
        unperturbed={name: float(sums[-1] / count) for name, sums in collector.sums.items()},
        examples=collector.examples,
        items=collector.items,
        values={name: values[:levels] for name, values in kept.items()},
        unperturbed_values={name: values[-1] for name, values in kept.items()},
        positions=np.concatenate(collector.positions) if collector.keep_items else None,
        targets=np.concatenate(collector.targets) if collector.targets else None,
        not_finite=collector.not_finite[:levels].astype(np.int64),
    )


class _ModelBlock(base.Block):
    """Hold some examples of a model, see `nearzero.evaluators.base.Block`."""

    def __init__(self, evaluator: ModelEvaluator, batch: Batch, first_row: int) -> None:
        self._evaluator, self._batch, self._first_row = evaluator, batch, first_row
        self._changed = cache(lambda side: evaluator._passes(side).on(batch))
        changed = self._changed("pre")
        self._items = evaluator._items(batch, changed.logits)
        self.row_examples = _owners(changed.values, evaluator.torch_layer, batch)
        self.activations = self._rows(evaluator._act(changed.values))
        self.logits = _numpy(self._items.logits(changed.logits))

    def _rows(self, values: Tensor) -> Floats:
        rows = by_unit(values, self._evaluator.torch_layer, self._batch)
        return _numpy(rows).reshape(-1, self._evaluator.units)

    def under(self, perturbation: AnyPerturbation) -> tuple[Floats, Floats]:
        """Return activations and logits under a perturbation."""
        changed = self._changed(perturbation.side)
        layer = self._evaluator.torch_layer
        (change,) = changes_of([perturbation], changed.values, layer, self._batch, self._first_row)
        after = change(changed.values)
        logits = changed.run(change)
        activations = self._evaluator._act(after) if perturbation.side == "pre" else after
        return self._rows(activations), _numpy(self._items.logits(logits))


class _Pinned:
    """Compute logits of items with a separate level for each item: each has a copy of its example."""

    def __init__(
        self,
        evaluator: ModelEvaluator,
        parameters: base.LevelParameters,
        batch: Batch,
        items: Items,
        rows: Integers,
    ) -> None:
        self._layer, self._parameters = evaluator.torch_layer, parameters
        positions = items.position[rows]
        examples, self._tokens = positions[:, 0], positions[:, 1]
        self._batch = batch.take(examples)
        self._changed = evaluator._passes(parameters.side).on(self._batch)
        evaluator._check_owners(self._changed.values, self._batch)
        self._items = evaluator._items(self._batch, self._changed.logits)
        self._levels = np.zeros(len(positions))

    def __call__(self, indices: Integers, levels: Doubles) -> Floats:
        """Return the logits (k, K) of the items of some indices (k,), at levels (k,)."""
        self._levels[indices] = levels
        logits = self._changed.run(self._change)
        at_levels, unperturbed = (
            self._items.at(each, self._tokens)[torch.from_numpy(indices)]
            for each in (logits, self._changed.logits)
        )
        not_finite = find_not_finite(at_levels[None], unperturbed[None])
        if not_finite is not None and bool(not_finite.any()):
            raise base.not_finite_at(levels[not_finite[0].cpu().numpy()])
        return _numpy(at_levels)

    def _change(self, values: Tensor) -> Tensor:
        axis = self._layer.axis_of(values)
        owners = row_owners(values, self._layer, self._batch)
        dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
        shape = (len(self._levels), self._layer.units)

        def change(x: Tensor) -> Tensor:
            with np.errstate(over="ignore"):  # a bound beyond float32 becomes infinite, and changes nothing
                scale, offset, clip, low = (
                    torch.from_numpy(np.broadcast_to(parameter, shape).copy()).to(x)[owners]
                    for parameter in self._parameters.at(self._levels)
                )
            return torch.minimum(torch.maximum(scale * x + offset, low), clip)

        changed = self._layer.changed(values.movedim(axis, -1).to(dtype), change)
        return torch.empty_like(values).copy_(changed.movedim(-1, axis))


def _scaled(
    evaluator: ModelEvaluator, batch: Batch, scales: Doubles, live: npt.NDArray[np.bool_]
) -> base.ScaledBlock:
    """Return one block of items under all scales."""
    changed = evaluator._passes("pre").on(batch)
    items = evaluator._items(batch, changed.logits)
    # the least and the greatest scale first, since they give B and A, which the others are compared with
    order = [0, len(scales) - 1, *range(1, len(scales) - 1)]
    scaled = [Perturbation(scale=np.where(live, scales[index], 1.0)) for index in order]
    changes = changes_of(scaled, changed.values, evaluator.torch_layer, batch, first_row=0)
    logits = map(changed.run, [_of_another, *changes])
    plain = _centred(items, changed.logits)
    of_another, at_least, at_greatest = (_centred(items, next(logits)) for _ in range(3))
    slope = (at_greatest - at_least) / (scales[-1] - scales[0])
    rest = at_least - scales[0] * slope
    apart, sizes, moved = np.zeros((3, len(scales)))
    measured = np.empty((len(scales), len(plain)), np.int64)
    between = (_centred(items, of_scale) for of_scale in logits)
    for index, rows in zip(order, (at_least, at_greatest, *between), strict=True):
        measured[index] = rows.argmax(axis=1)
        apart[index] = np.abs(rows - (scales[index] * slope + rest)).max(initial=0.0)
        sizes[index] = np.abs(rows).max(initial=0.0)
        moved[index] = np.square(rows - plain).sum()
    rounding = ROUNDING[min(changed.logits.dtype.itemsize, changed.values.dtype.itemsize)]
    act = evaluator.torch_layer.act
    return base.ScaledBlock(
        expected=lambda index: scales[index] * slope + rest,
        slack=lambda index: rounding * (scales[index] * np.abs(slope).max(axis=1) + np.abs(rest).max(axis=1)),
        measured=measured,
        unperturbed=plain.argmax(axis=1),
        labels=_labels(items, plain.shape[1]),
        rounding=rounding,
        homogeneity=0.0 if act is None else base.homogeneity_error(act, changed.values),
        apart=apart,
        sizes=sizes,
        terms=np.array([np.abs(term).max(initial=0.0) for term in (slope, rest)]),
        plain=plain,
        moved=moved,
        worth=float(np.square(of_another - plain).sum()),
    )


def _of_another(values: Tensor) -> Tensor:
    """Return each example's values moved to the next example; a single example's values in reverse order."""
    return values.roll(1, 0) if values.shape[0] > 1 else values.flip(tuple(range(1, values.ndim)))


def _centred(items: Items, logits: Tensor) -> Doubles:
    """Return the logits of the items in float64, minus their mean over classes, (n, K).

    Raises:
        InputError: logits that aren't finite.
    """
    rows = items.logits(logits).cpu().double().numpy()
    if not np.isfinite(rows).all():
        raise InputError(
            "an audit needs finite logits, but some are infinite or NaN; output=... can leave these classes out"
        )
    return np.asarray(rows - rows.mean(axis=1, keepdims=True))


def _labels(items: Items, classes: int) -> npt.NDArray[np.int64] | None:
    """Return the targets (n,) if they are classes; else None."""
    if items.target is None or items.target.is_floating_point() or items.target.ndim > 1:
        return None
    items.with_classes(classes)
    return np.asarray(items.target.cpu().numpy(), dtype=np.int64)


def _normalisers(suffix: Suffix) -> Iterator[str]:
    """Yield the names of a suffix's operations that divide by values which depend on the layer."""
    for step in suffix.steps:
        operation: Any = step.function
        name = operation._schema.name.removeprefix("aten::")
        by_dependent = name in ("div", "div_") and any(place == 1 for place, _ in step.places)
        # argument 5 (training): statistics of the batch or instance; with running statistics it is affine
        own_statistics = "batch_norm" in name and len(step.arguments) > 5 and step.arguments[5] is True
        if name in NORMALISING or by_dependent or own_statistics:
            yield name


def _owners(values: Tensor, layer: Layer, batch: Batch) -> Integers:
    """Return the index in the batch of the example of each row that counts, (r,)."""
    owners, counted = row_owners(values, layer, batch), counted_rows(values, layer, batch)
    return (owners.reshape(-1) if counted is None else owners[counted]).cpu().numpy()


def _of_units(values: Tensor, units: Integers | None) -> Floats:
    return _numpy(values if units is None else values[:, torch.from_numpy(units).to(values.device)])


def _exact(values: Tensor) -> Tensor:
    """Return values in float32 or float64."""
    return values.float() if values.dtype.itemsize < 4 else values


def _numpy(values: Tensor) -> Floats:
    return np.asarray(_exact(values.detach()).cpu().numpy())
