"""The backend for the paper's networks: the compiled kernels of `hidden_layer`, and the algebra of W2 a + b2."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError
from nearzero.evaluators import base
from nearzero.evaluators import metrics as numpy_metrics
from nearzero.evaluators.base import (
    NO_CLASS,
    SAFE,
    Backend,
    Classes,
    Doubles,
    Floats,
    Integers,
    Part,
    Perturbations,
    halves,
)
from nearzero.evaluators.hidden_layer import HiddenLayer
from nearzero.networks import TwoLayer
from nearzero.networks.pixels import Pixels
from nearzero.perturbations.families import BY_FORMULA, Conduct
from nearzero.perturbations.perturbation import Addition, AnyPerturbation, Perturbation
from nearzero.perturbations.ranges import Ranges
from nearzero.support.arrays import as_array
from nearzero.support.threads import one_blas_thread, parallel

__all__ = ["TwoLayerEvaluator", "as_labels"]

ROWS = 2048  # examples whose activations fit in the cache
SCALED_ROWS = 4096  # examples in a block under common scales
PINNED_ROWS = 512  # most examples in a block with a level for each example
PINNED = 4096  # most of these that are evaluated at a time, with repetitions
PINNED_BYTES = 2**25  # approximate size of such a block's arrays, on each thread
CHUNK_BYTES = 2**23  # size of an array of activations at levels
SAMPLE = 2048  # examples on which homogeneity and the algebra of logits are tested
HOMOGENEOUS = (
    1e-5  # bound on float32's difference from the algebra, as a share of the greatest activation or logit
)
ROUNDING = 2.0**-20  # bound on the error of float32 sums, as a share of the sum of absolute terms
STEEPEST = 1.2  # more than the steepest slope of all nine activations


class TwoLayerEvaluator(base.LayerEvaluator):
    """Evaluate the hidden layer of a network W2 act(W1 x + b1) + b2 on N examples; rows and items are examples.

    Args:
        hidden: the layer on the examples.
        labels: (N,), or None.
        layer: the name of the layer.
        examples: (N,), the numbers of the examples in the data; 0 to N - 1 if None.
        metrics: the names of the metrics that were asked for.
    """

    backend: Backend = "two-layer"

    def __init__(
        self,
        hidden: HiddenLayer,
        labels: npt.NDArray[np.int64] | None = None,
        *,
        layer: str = "hidden",
        examples: Integers | None = None,
        metrics: Sequence[str] | None = None,
    ) -> None:
        self.hidden, self.labels, self.layer = hidden, labels, layer
        self.readout: tuple[Floats, Floats] = (hidden.network.w2, hidden.network.b2)
        self.metrics = tuple(metrics or numpy_metrics.default_metrics(labels is not None))
        self.activation: str | None = hidden.network.activation
        self.units = hidden.network.units
        self.limit, self.threads = hidden.memory, hidden.threads
        self._examples = np.arange(len(hidden)) if examples is None else examples

    @classmethod
    def of(
        cls,
        network: TwoLayer,
        x: Pixels | npt.ArrayLike,
        y: npt.ArrayLike | None = None,
        *,
        threads: int | None = None,
        memory: int | str | None = None,
        metrics: Sequence[str] | None = None,
    ) -> TwoLayerEvaluator:
        """Return the evaluator of a network on examples (N, D) with labels (N,).

        Raises:
            InputError: shapes that don't fit, or values that aren't finite.
        """
        hidden = HiddenLayer(network, x, threads=threads, memory=memory)
        labels = None if y is None else as_labels(y, len(hidden), network.classes)
        return cls(hidden, labels, metrics=metrics)

    # --- properties ---

    @property
    def examples(self) -> Integers:
        """Return the numbers of the examples in the data."""
        return self._examples

    row_examples = examples  # a row is an example

    @property
    def ranges(self) -> Ranges:
        """Return the unit ranges over the examples."""
        return self.hidden.ranges

    def conduct(self, conduct: Conduct | None) -> Conduct:
        """Return the conduct asked for, or the default one of the activation."""
        return conduct or Conduct.default([self.hidden.network.activation])

    def check(self, conduct: Conduct, families: Iterable[str]) -> None:
        """Raise an error for an offset as run, unless the activation is ReLU or Abs."""
        if not BY_FORMULA.isdisjoint(families):
            conduct.check([self.hidden.network.activation])

    def act(self, z: Floats) -> Floats:
        """Return act(z) for z (n, U)."""
        return self.hidden.network.act(z)

    def split(self, seed: int) -> tuple[TwoLayerEvaluator, TwoLayerEvaluator]:
        """Return the layer on the reference half and on the responding half."""
        reference, responding = map(self._part, halves(len(self.hidden), seed))
        return reference, responding

    def first(self, examples: int) -> TwoLayerEvaluator:
        """Return the layer on the first examples."""
        return self._part(np.arange(min(examples, len(self.hidden))))

    def _part(self, rows: Integers) -> TwoLayerEvaluator:
        """Return the layer on some of the examples, given by their indices."""
        return TwoLayerEvaluator(
            self.hidden.part(rows),
            None if self.labels is None else self.labels[rows],
            layer=self.layer,
            examples=self.examples[rows],
            metrics=self.metrics,
        )

    def preactivations(self, units: Integers | None = None) -> Floats:
        """Return z of all units, (N, U), or of some, (N, len(units))."""
        return self.hidden.z if units is None else self.hidden.of_units(units).z

    def activations(self, units: Integers | None = None) -> Floats:
        """Return act(z) of all units, (N, U), or of some, (N, len(units))."""
        return self.act(self.preactivations(units))

    # --- how far perturbations move activations and logits ---

    def changes(self, perturbations: Perturbations) -> tuple[Doubles, Doubles]:
        """Return the sums over examples of (a' - a)^2 and of a' - a, (L, U) each."""
        per_unit = [each for each in perturbations if isinstance(each, Perturbation)]
        if len(per_unit) == len(perturbations):
            return self.hidden.changes(per_unit)
        squares, sums = np.zeros((2, len(perturbations), self.units))
        for rows, z, a in self._pieces():
            for level, perturbation in enumerate(perturbations):
                change = self._changed(perturbation, rows, z, a) - a
                squares[level] += np.einsum("ru,ru->u", change, change)
                sums[level] += change.sum(axis=0)
        return squares, sums

    def projected_changes(self, perturbations: Perturbations, root: Floats) -> Doubles:
        """Return the sums over examples of ||(a' - a) root||^2, (L,)."""
        sums = np.zeros(len(perturbations))
        for rows, z, a in self._pieces():
            for level, perturbation in enumerate(perturbations):
                projected = (self._changed(perturbation, rows, z, a) - a) @ root
                sums[level] += np.vdot(projected, projected)
        return sums

    def mean_logit_change(self, perturbations: Perturbations) -> Doubles:
        """Return the mean over examples of l' - l, (L, K)."""
        _, sums = self.changes(perturbations)
        return np.asarray((sums / len(self.hidden)) @ self.hidden.network.w2.T.astype(np.float64))

    def gather(self, function: Callable[[base.Block], Part]) -> list[Part]:
        """Return the results of a function for each block of examples, in order."""
        with one_blas_thread():
            return [function(_TwoLayerBlock(self, rows, z, a)) for rows, z, a in self._pieces()]

    def _pieces(self) -> Iterator[tuple[slice, Floats, Floats]]:
        """Yield consecutive slices of examples, with z and act(z) of each."""
        for rows in self.hidden.blocks():
            z_of_block = self.hidden.z_of(rows)
            for first in range(0, len(z_of_block), ROWS):
                z = z_of_block[first : first + ROWS]
                begin = rows.start + first
                yield slice(begin, begin + len(z)), z, self.act(z)

    def _changed(self, perturbation: AnyPerturbation, rows: slice, z: Floats, a: Floats) -> Floats:
        """Return a' of some examples."""
        before = z if perturbation.side == "pre" else a
        after = perturbation.apply(before, rows)
        return self.act(after) if perturbation.side == "pre" else after

    # --- scores ---

    def scores(
        self,
        perturbations: Perturbations,
        names: Iterable[str],
        shift: Doubles | None = None,
        *,
        keep: bool = False,
    ) -> base.Scores:
        """Return metrics under each perturbation, see `nearzero.evaluators.base.LayerEvaluator`."""
        tally = _Tally(self, len(perturbations), list(names), keep)
        for prefix, shift_taken in (
            {"": None, "centred_": shift}.items() if shift is not None else [("", None)]
        ):
            not_finite = self._not_finite(perturbations, shift_taken)
            for rows, classes in self._classes(perturbations, shift_taken):
                for level, items in not_finite.items():
                    classes[level, items[rows]] = NO_CLASS
                tally.add_classes(prefix, rows, classes)
            if not prefix:
                tally.add_not_finite(not_finite)
            if tally.by_logits:
                add = partial(tally.add_logits, prefix, perturbations, shift_taken)
                self.gather(add)
        return tally.scores()

    def _logit_bounds(self, perturbations: Perturbations, shift: Doubles | None) -> Doubles:
        """Return numbers that no |logit| exceeds under each perturbation and, last, without one, (L + 1,)."""
        per_unit = [each for each in perturbations if isinstance(each, Perturbation)]
        bounds = np.empty(len(perturbations) + 1)
        is_per_unit = np.array([*(isinstance(each, Perturbation) for each in perturbations), True])
        bounds[is_per_unit] = self.hidden.logit_bounds([*per_unit, Perturbation()])
        greatest: dict[int, float] = {}  # of each array of additions, which are often shared
        weight = np.abs(self.readout[0]).max(axis=0).sum(dtype=np.float64)
        for level, each in enumerate(perturbations):
            if isinstance(each, Addition):
                key, values = id(each.values), each.values
                if key not in greatest:
                    greatest[key] = max(values.max(initial=0.0), -values.min(initial=0.0))
                bounds[level] = bounds[-1] + STEEPEST * weight * abs(each.factor) * greatest[key]
        if shift is not None:
            bounds[:-1] += np.abs(shift).max(axis=1, initial=0.0)
        return bounds

    def _not_finite(
        self, perturbations: Perturbations, shift: Doubles | None
    ) -> dict[int, npt.NDArray[np.bool_]]:
        """Return which examples have logits that are NaN or infinite, (N,), for the perturbations with such examples.

        Logits are computed for this only where a bound on them says that they may overflow float32.

        Raises:
            InputError: unperturbed logits that can't be ranked.
        """
        doubtful = np.flatnonzero(~(self._logit_bounds(perturbations, shift) <= SAFE)).tolist()
        if not doubtful:
            return {}

        def find(block: base.Block) -> npt.NDArray[np.bool_]:
            found = np.zeros((len(perturbations) + 1, len(block.logits)), np.bool_)
            found[-1] = ~np.isfinite(block.logits.max(axis=1))
            for level in doubtful:
                if level < len(perturbations):
                    logits = block.under(perturbations[level])[1]
                    logits = logits if shift is None else logits - shift[level]
                    found[level] = ~(np.isfinite(logits) | (logits == block.logits)).all(axis=1)
            return found

        found = np.concatenate(self.gather(find), axis=1)
        if found[-1].any():
            raise InputError(
                f"without a perturbation, {np.count_nonzero(found[-1])} of {len(self.hidden)} examples have logits "
                "that are NaN or infinite; look for divergence in the network's weights"
            )
        return {level: found[level] for level in doubtful if found[level].any()}

    def _classes(
        self, perturbations: Perturbations, shift: Doubles | None = None
    ) -> Iterator[tuple[slice, npt.NDArray[np.uint16]]]:
        """Yield predictions under each perturbation and, last, without one, (L + 1, n), block by block."""
        per_unit = [each for each in perturbations if isinstance(each, Perturbation)]
        if shift is None and len(per_unit) == len(perturbations):
            # together with the identity, which may be computed from the same sums as a family
            with_identity = [*per_unit, Perturbation()]
            for rows in self.hidden.blocks(len(with_identity)):
                yield rows, self.hidden.predict(with_identity, rows)
            return
        out = np.empty((len(perturbations) + 1, len(self.hidden)), np.uint16)
        if shift is None:
            levels = [isinstance(each, Perturbation) for each in perturbations]
            out[[*levels, False]] = self.hidden.predict(per_unit)
        for level, perturbation in enumerate(perturbations):
            b2 = self.readout[1] if shift is None else self.readout[1] - shift[level]
            if isinstance(perturbation, Addition) and perturbation.side == "pre":
                moved = self.hidden.with_z(self.hidden.z + perturbation.added())
                out[level] = moved.with_b2(b2).unperturbed
            elif isinstance(perturbation, Addition):
                logits = np.concatenate(self.gather(lambda block, p=perturbation: block.under(p)[1]))  # type: ignore[misc]
                out[level] = (logits + (b2 - self.readout[1])).argmax(axis=1)
            elif shift is not None:
                out[level] = self.hidden.with_b2(b2).predict([perturbation])[0]
        out[-1] = self.hidden.unperturbed
        yield slice(0, len(self.hidden)), out

    # --- scale by algebra, and a level for each example ---

    def gather_scaled(self, scales: Doubles, function: Callable[[base.ScaledBlock], Part]) -> list[Part]:
        """Return the results of a function for each block of examples under common scales, in order.

        The expected logits are computed from z in float64 by s B + A, where B is the part of the live units
        and A that of dead units and biases. The measured predictions are those of the network with each z
        scaled, in float32. They are computed without the algebra, since that would compare it with itself.
        """
        hidden, live = self.hidden, self.ranges.live
        algebra = _Algebra(hidden.network, live)
        sample = hidden.exact(slice(0, SAMPLE)).astype(np.float32)
        homogeneity = base.homogeneity_error(self.act, sample)
        apart, greatest = algebra.errors(sample)
        perturbations = [Perturbation(scale=np.where(live, scale, 1.0)) for scale in scales]
        results = []
        for rows in hidden.blocks(len(scales)):
            measured = hidden.predict(perturbations, rows, by_algebra=False)
            plain = hidden.predict([Perturbation()], rows)[0]
            for first in range(rows.start, rows.stop, SCALED_ROWS):
                part = slice(first, min(first + SCALED_ROWS, rows.stop))
                within = slice(part.start - rows.start, part.stop - rows.start)
                slope, rest, size, rest_size = algebra.of(self.act(hidden.exact(part)))
                block = base.ScaledBlock(
                    expected=lambda index, b=slope, a=rest: scales[index] * b + a,  # type: ignore[misc]
                    slack=lambda index, b=size, a=rest_size: ROUNDING * (scales[index] * b + a),  # type: ignore[misc]
                    measured=measured[:, within],
                    unperturbed=plain[within],
                    labels=None if self.labels is None else self.labels[part],
                    rounding=HOMOGENEOUS,
                    homogeneity=homogeneity,
                    apart=apart,
                    sizes=greatest,
                    terms=np.array([np.abs(slope).max(), np.abs(rest).max()]),
                    constant=bool((rest.max(axis=1) - rest.min(axis=1) <= ROUNDING * rest_size).all()),
                )
                results.append(function(block))
        return results

    def gather_pinned(
        self, parameters: base.LevelParameters, function: Callable[[base.PinnedBlock], Part]
    ) -> list[Part]:
        """Return the results of a function for each block of examples with a separate level for each example."""

        def run(z: Doubles, rows: slice) -> Part:
            unperturbed = self.exact_logits(self.act(z)).argmax(axis=1)
            block = base.PinnedBlock(
                lambda indices: partial(self._pinned, parameters, z[indices]), PINNED, unperturbed, rows
            )
            return function(block)

        return self.gather_exact(run)

    def gather_exact(self, function: Callable[[Doubles, slice], Part]) -> list[Part]:
        """Return the results of a function of z (n, U) in float64 and the slice of examples, for each block in order.

        Threads share the blocks.
        """
        network = self.hidden.network
        # x in float64, and about ten arrays of the size of z
        bytes_per_example = 8 * (network.inputs + 10 * network.units)
        size = max(1, min(PINNED_ROWS, PINNED_BYTES // bytes_per_example))
        edges = [*range(0, len(self.hidden), size), len(self.hidden)]
        blocks = [slice(*pair) for pair in pairwise(edges)]
        return parallel(lambda rows: function(self.hidden.exact(rows), rows), blocks, self.threads)

    def _pinned(
        self, parameters: base.LevelParameters, z: Doubles, indices: Integers, levels: Doubles
    ) -> Doubles:
        """Return the logits (k, K) in float64 of the rows of z (m, U) of some indices (k,), at levels (k,)."""
        size, pre, logits = max(1, CHUNK_BYTES // (8 * self.units)), parameters.side == "pre", []
        for first in range(0, len(indices), size):
            rows = z[indices[first : first + size]]
            scale, offset, clip, low = parameters.at(levels[first : first + size])
            moved = scale * (rows if pre else self.act(rows)) + offset
            changed = np.minimum(np.maximum(moved, low), clip)
            logits.append(self.exact_logits(self.act(changed) if pre else changed))
        return np.concatenate(logits) if logits else np.empty((0, self.hidden.network.classes))

    def exact_logits(self, activations: Floats) -> Doubles:
        """Return W2 a + b2 in float64, (n, K)."""
        w2, b2 = self.readout
        return np.asarray(activations @ w2.T.astype(np.float64) + b2)


class _TwoLayerBlock(base.Block):
    """Hold some examples of a two-layer network, see `nearzero.evaluators.base.Block`."""

    def __init__(self, evaluator: TwoLayerEvaluator, rows: slice, z: Floats, a: Floats) -> None:
        self.rows, self.activations, self.row_examples = rows, a, np.arange(len(a))
        self._evaluator, self._z = evaluator, z
        self.logits = self._logits(a)

    def under(self, perturbation: AnyPerturbation) -> tuple[Floats, Floats]:
        """Return activations and logits under a perturbation."""
        with np.errstate(over="ignore", invalid="ignore"):  # logits that aren't finite are counted
            changed = self._evaluator._changed(perturbation, self.rows, self._z, self.activations)
        return changed, self._logits(changed)

    def _logits(self, activations: Floats) -> Floats:
        w2, b2 = self._evaluator.readout
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(activations @ w2.T + b2)


class _Tally:
    """Add up the scores of a two-layer network, block by block."""

    def __init__(self, evaluator: TwoLayerEvaluator, levels: int, names: Sequence[str], keep: bool) -> None:
        self._evaluator, self._keep, self._shape = evaluator, keep, (levels + 1, len(evaluator.hidden))
        self.by_logits = [name for name in names if name in numpy_metrics.BY_LOGITS]
        self._by_classes = [name for name in names if name in ("accuracy", "agreement")]
        if evaluator.labels is None and not {"accuracy", "cross_entropy"}.isdisjoint(names):
            raise InputError("accuracy and cross-entropy need labels, but there are none; give y")
        self._predictions = np.empty((levels, self._shape[1]), np.uint16) if "prediction" in names else None
        self._not_finite = np.zeros(levels, np.int64)
        self._sums: defaultdict[str, Doubles] = defaultdict(lambda: np.zeros(self._shape[0]))
        self._values: defaultdict[str, npt.NDArray[np.floating]] = defaultdict(
            lambda: np.empty(self._shape, np.float32)
        )

    def add_classes(self, prefix: str, rows: slice, classes: npt.NDArray[np.uint16]) -> None:
        """Add accuracy and agreement of predictions (L + 1, n)."""
        if self._predictions is not None and not prefix:
            self._predictions[:, rows] = classes[:-1]
        references: dict[str, Classes] = {"agreement": classes[-1]}
        if self._evaluator.labels is not None:
            # the type of the predictions, since otherwise each comparison would convert a row
            references["accuracy"] = self._evaluator.labels[rows].astype(classes.dtype)
        for name in self._by_classes:
            self._sums[prefix + name] += numpy_metrics.matches(classes, references[name])
            if self._keep:
                self._values[prefix + name][:, rows] = classes == references[name]

    def add_not_finite(self, not_finite: Mapping[int, npt.NDArray[np.bool_]]) -> None:
        """Add the examples whose logits can't be ranked, (N,), under some perturbations."""
        for level, items in not_finite.items():
            self._not_finite[level] = np.count_nonzero(items)

    def add_logits(
        self, prefix: str, perturbations: Perturbations, shift: Doubles | None, block: base.Block
    ) -> None:
        """Add the metrics that need logits."""
        assert isinstance(block, _TwoLayerBlock)
        labels = None if self._evaluator.labels is None else self._evaluator.labels[block.rows]
        for level in range(self._shape[0]):
            last = level == self._shape[0] - 1
            logits = block.logits if last else block.under(perturbations[level])[1]
            if shift is not None and not last:
                logits = logits - shift[level]
            for name in self.by_logits:
                values = numpy_metrics.score(name, logits, block.logits, labels)
                self._sums[prefix + name][level] += values.sum()
                if self._keep:
                    self._values[prefix + name][level, block.rows] = values

    def scores(self) -> base.Scores:
        """Return the scores of all blocks."""
        count = self._shape[1]
        means = {name: sums / count for name, sums in self._sums.items()}
        positions = (
            np.stack([self._evaluator.examples, np.zeros(count, np.int64)], axis=1) if self._keep else None
        )
        return base.Scores(
            targets=self._evaluator.labels if self._keep else None,
            means={name: levels[:-1] for name, levels in means.items()},
            unperturbed={name: float(levels[-1]) for name, levels in means.items()},
            examples=count,
            items=count,
            not_finite=self._not_finite,
            values={name: levels[:-1] for name, levels in self._values.items()},
            unperturbed_values={name: levels[-1] for name, levels in self._values.items()},
            positions=positions,
            predictions=self._ranked_predictions(),
        )

    def _ranked_predictions(self) -> Classes | None:
        """Return the predictions, with -1 where logits can't be ranked."""
        if self._predictions is None or not self._not_finite.any():
            return self._predictions
        return np.where(self._predictions == NO_CLASS, -1, self._predictions.astype(np.int32))


class _Algebra:
    """Compute logits in float64 as s B + A, where s is a scale of the live units."""

    def __init__(self, network: TwoLayer, live: npt.NDArray[np.bool_]) -> None:
        self._network, self._live = network, live
        self._w2, self._b2 = network.w2.astype(np.float64), network.b2.astype(np.float64)

    def of(self, a: Floats) -> tuple[Doubles, Doubles, Doubles, Doubles]:
        """Return B and A, (n, K) each, and the size of each, (n,): a logit's absolute terms, at the greatest class."""
        w2, live = self._w2, self._live
        parts = [(a[:, mask], w2[:, mask]) for mask in (live, ~live)]
        slope, rest = (part @ weights.T for part, weights in parts)
        size, rest_size = ((np.abs(part) @ np.abs(weights).T) for part, weights in parts)
        return slope, rest + self._b2, size.max(axis=1), (rest_size + np.abs(self._b2)).max(axis=1)

    def errors(self, z: Floats) -> tuple[Doubles, Doubles]:
        """Return at the tested scales the greatest |logits - (s B + A)|, and the greatest |logit|, (5,) each."""
        network = self._network
        slope, rest, _, _ = self.of(network.act(z.astype(np.float64)))
        apart, sizes = [], []
        for s in base.TESTED:
            scaled = np.where(self._live, np.float32(s) * z, z)
            logits = network.act(scaled) @ network.w2.T + network.b2
            apart.append(np.abs(logits - (s * slope + rest)).max())
            sizes.append(np.abs(logits).max())
        return np.array(apart), np.array(sizes)


def as_labels(y: npt.ArrayLike, examples: int, classes: int) -> npt.NDArray[np.int64]:
    """Return labels (N,) as int64, after a check that there is one class for each example.

    Raises:
        InputError: labels of another shape or type, or outside the classes.
    """
    labels = as_array(y, "y")
    if labels.shape != (examples,):
        raise InputError(f"y must have one label per example, shape ({examples},); got {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels must be whole numbers, the classes; got {labels.dtype}")
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise InputError(
            f"labels must be classes from 0 to {classes - 1}; got values from {labels.min()} to {labels.max()}"
        )
    return labels.astype(np.int64)
