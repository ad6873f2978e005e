"""The backend of the paper's networks: the compiled kernels of `hidden_layer`, and the algebra of W2 a + b2."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from nearzero.errors import InputError
from nearzero.evaluators import base
from nearzero.evaluators import metrics as known
from nearzero.evaluators.base import Backend, Classes, Doubles, Floats, Integers, Part, Perturbations, halves
from nearzero.evaluators.hidden_layer import HiddenLayer
from nearzero.networks import TwoLayer
from nearzero.networks.pixels import Pixels
from nearzero.perturbations.families import BY_FORMULA, Conduct
from nearzero.perturbations.perturbation import Addition, AnyPerturbation, Perturbation
from nearzero.perturbations.ranges import Ranges
from nearzero.support.arrays import as_array
from nearzero.support.threads import parallel

__all__ = ["TwoLayerEvaluator", "as_labels"]

ROWS = 2048  # examples whose activations stay in cache
SCALED_ROWS = 4096
PINNED_ROWS = 512  # examples whose logits are pinned to levels at a time
PINNED = 4096  # of these, repeated, at a time
PINNED_BYTES = 2**25  # about what the arrays of such a block may take, on each thread
CHUNK_BYTES = 2**23  # what an array of activations at levels may take
SAMPLE = 2048  # examples on which homogeneity and the algebra of logits are tested
HOMOGENEOUS = 1e-5  # of the greatest activation or logit: how far float32 may be from the algebra
ROUNDING = 2.0**-20  # of the sum of absolute terms: what float32 sums of them may be wrong by


class TwoLayerEvaluator(base.LayerEvaluator):
    """The hidden layer of a network W2 act(W1 x + b1) + b2 on N examples; a row and an item is an example.

    Args:
        hidden: the layer on the examples.
        labels: (N,), or None.
        layer: what the layer is called.
        examples: (N,), the numbers of the examples in the data; 0 to N - 1 unless given.
        metrics: the names of those that were asked for.
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
        self.metrics = tuple(metrics or known.default_metrics(labels is not None))
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

    # --- what it is ---

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
        """Refuse an offset as run for another activation than ReLU and Abs."""
        if not BY_FORMULA.isdisjoint(families):
            conduct.check([self.hidden.network.activation])

    def act(self, z: Floats) -> Floats:
        """Return act(z) for z (n, U)."""
        return self.hidden.network.act(z)

    def split(self, seed: int) -> tuple[TwoLayerEvaluator, TwoLayerEvaluator]:
        """Return the layer on the reference half and on the half that responds."""
        first, second = (
            TwoLayerEvaluator(
                self.hidden.part(rows),
                None if self.labels is None else self.labels[rows],
                layer=self.layer,
                examples=self.examples[rows],
                metrics=self.metrics,
            )
            for rows in halves(len(self.hidden), seed)
        )
        return first, second

    def preactivations(self, units: Integers | None = None) -> Floats:
        """Return z of all units, (N, U), or of some, (N, len(units))."""
        return self.hidden.z if units is None else self.hidden.of_units(units).z

    def activations(self, units: Integers | None = None) -> Floats:
        """Return act(z) of all units, (N, U), or of some, (N, len(units))."""
        return self.act(self.preactivations(units))

    # --- how far perturbations move activations and logits ---

    def changes(self, perturbations: Perturbations) -> tuple[Doubles, Doubles]:
        """Return the sums over examples of (a' - a)^2 and of a' - a, (L, U) each."""
        if not any(isinstance(each, Addition) for each in perturbations):
            return self.hidden.changes([each for each in perturbations if isinstance(each, Perturbation)])
        squares, sums = np.zeros((2, len(perturbations), self.units))
        for rows, z, a in self._pieces():
            for level, each in enumerate(perturbations):
                change = self._changed(each, rows, z, a) - a
                squares[level] += np.einsum("ru,ru->u", change, change)
                sums[level] += change.sum(axis=0)
        return squares, sums

    def mean_logit_change(self, perturbations: Perturbations) -> Doubles:
        """Return the mean over examples of l' - l, (L, K)."""
        _, sums = self.changes(perturbations)
        return np.asarray((sums / len(self.hidden)) @ self.hidden.network.w2.T.astype(np.float64))

    def gather(self, function: Callable[[base.Block], Part]) -> list[Part]:
        """Return what a function gives for each block of examples, in order."""
        # The products are small, and threads that wait for each other cost more than they bring.
        with threadpool_limits(limits=1, user_api="blas"):
            return [function(_TwoLayerBlock(self, rows, z, a)) for rows, z, a in self._pieces()]

    def _pieces(self) -> Iterator[tuple[slice, Floats, Floats]]:
        """Consecutive examples, with z and act(z)."""
        for rows in self.hidden.blocks():
            z = self.hidden.z_of(rows)
            for first in range(0, len(z), ROWS):
                part = z[first : first + ROWS]
                begin = rows.start + first
                yield slice(begin, begin + len(part)), part, self.act(part)

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
        for prefix, taken in {"": None, "centred_": shift}.items() if shift is not None else [("", None)]:
            for rows, classes in self._classes(perturbations, taken):
                tally.add_classes(prefix, rows, classes)
            if tally.by_logits:
                self.gather(lambda block, p=prefix, s=taken: tally.add_logits(p, block, perturbations, s))  # type: ignore[misc]
        return tally.scores()

    def _classes(
        self, perturbations: Perturbations, shift: Doubles | None = None
    ) -> Iterator[tuple[slice, npt.NDArray[np.uint16]]]:
        """Predictions under each perturbation and last without one, (L + 1, n), block by block."""
        plain = [each for each in perturbations if isinstance(each, Perturbation)]
        if shift is None and len(plain) == len(perturbations):
            # the identity among them: a family's sums may serve it too
            everything = [*plain, Perturbation()]
            for rows in self.hidden.blocks(len(everything)):
                yield rows, self.hidden.predict(everything, rows)
            return
        out = np.empty((len(perturbations) + 1, len(self.hidden)), np.uint16)
        if shift is None:
            out[[isinstance(each, Perturbation) for each in perturbations] + [False]] = self.hidden.predict(
                plain
            )
        for level, each in enumerate(perturbations):
            b2 = self.readout[1] if shift is None else self.readout[1] - shift[level]
            if isinstance(each, Addition) and each.side == "pre":
                moved = self.hidden.with_z(self.hidden.z + each.added())
                out[level] = moved.with_b2(b2).unperturbed
            elif isinstance(each, Addition):
                logits = np.concatenate(self.gather(lambda block, p=each: block.under(p)[1]))  # type: ignore[misc]
                out[level] = (logits + (b2 - self.readout[1])).argmax(axis=1)
            elif shift is not None:
                out[level] = self.hidden.with_b2(b2).predict([each])[0]
        out[-1] = self.hidden.unperturbed
        yield slice(0, len(self.hidden)), out

    # --- what algebra knows ---

    def gather_scaled(self, scales: Doubles, function: Callable[[base.ScaledBlock], Part]) -> list[Part]:
        """Return what a function gives for each block of examples under common scales, in order.

        The expected logits are those of W2 act(z) and b2 in float64, from z on; dead units aren't scaled. The measured
        predictions are those of the network with each z scaled, in float32: the sweep makes use of the algebra, and so
        isn't asked.
        """
        hidden, live = self.hidden, self.ranges.live
        algebra = _Algebra(hidden.network, live)
        few = hidden.exact(slice(0, SAMPLE)).astype(np.float32)
        homogeneity = base.homogeneity_error(self.act, few)
        apart, greatest = algebra.errors(few)
        perturbations = [Perturbation(scale=np.where(live, level, 1.0)) for level in scales]
        parts = []
        for rows in hidden.blocks(len(scales)):
            measured = hidden.predict(perturbations, rows, by_algebra=False)
            plain = hidden.predict([Perturbation()], rows)[0]
            for first in range(rows.start, rows.stop, SCALED_ROWS):
                part = slice(first, min(first + SCALED_ROWS, rows.stop))
                here = slice(part.start - rows.start, part.stop - rows.start)
                slope, rest, size, rest_size = algebra.of(self.act(hidden.exact(part)))
                block = base.ScaledBlock(
                    expected=lambda place, b=slope, a=rest: scales[place] * b + a,  # type: ignore[misc]
                    slack=lambda place, b=size, a=rest_size: ROUNDING * (scales[place] * b + a),  # type: ignore[misc]
                    measured=measured[:, here],
                    unperturbed=plain[here],
                    labels=None if self.labels is None else self.labels[part],
                    rounding=HOMOGENEOUS,
                    homogeneity=homogeneity,
                    apart=apart,
                    sizes=greatest,
                    terms=np.array([np.abs(slope).max(), np.abs(rest).max()]),
                    constant=bool((rest.max(axis=1) - rest.min(axis=1) <= ROUNDING * rest_size).all()),
                )
                parts.append(function(block))
        return parts

    def gather_pinned(
        self, parameters: base.LevelParameters, function: Callable[[base.PinnedBlock], Part]
    ) -> list[Part]:
        """Return what a function gives for each block of examples whose logits can be had at levels of their own."""

        def work(z: Doubles, rows: slice) -> Part:
            unperturbed = self.exact_logits(self.act(z)).argmax(axis=1)
            block = base.PinnedBlock(
                lambda places: partial(self._pinned, parameters, z[places]), PINNED, unperturbed, rows
            )
            return function(block)

        return self.gather_exact(work)

    def gather_exact(self, function: Callable[[Doubles, slice], Part]) -> list[Part]:
        """Return what a function gives for z (n, U) in float64 of each block, in order; threads share the blocks."""
        network = self.hidden.network
        # x in float64, and about ten arrays of the size of z
        each = 8 * (network.inputs + 10 * network.units)
        size = max(1, min(PINNED_ROWS, PINNED_BYTES // each))
        edges = [*range(0, len(self.hidden), size), len(self.hidden)]
        blocks = [slice(*pair) for pair in pairwise(edges)]
        return parallel(lambda rows: function(self.hidden.exact(rows), rows), blocks, self.threads)

    def _pinned(
        self, parameters: base.LevelParameters, z: Doubles, places: Integers, levels: Doubles
    ) -> Doubles:
        """The logits in float64 of the examples z (m, U) at some places, each at a level of its own."""
        size, pre, parts = max(1, CHUNK_BYTES // (8 * self.units)), parameters.side == "pre", []
        for first in range(0, len(places), size):
            some = z[places[first : first + size]]
            scale, offset, clip = parameters.at(levels[first : first + size])
            changed = np.minimum(scale * (some if pre else self.act(some)) + offset, clip)
            parts.append(self.exact_logits(self.act(changed) if pre else changed))
        return np.concatenate(parts) if parts else np.empty((0, self.hidden.network.classes))

    def exact_logits(self, activations: Floats) -> Doubles:
        """Return W2 a + b2 in float64, (n, K)."""
        w2, b2 = self.readout
        return np.asarray(activations @ w2.T.astype(np.float64) + b2)


class _TwoLayerBlock(base.Block):
    """Some examples, see `nearzero.evaluators.base.Block`."""

    def __init__(self, evaluator: TwoLayerEvaluator, rows: slice, z: Floats, a: Floats) -> None:
        self.rows, self.activations, self.row_examples = rows, a, np.arange(len(a))
        self._evaluator, self._z = evaluator, z
        self.logits = self._logits(a)

    def under(self, perturbation: AnyPerturbation) -> tuple[Floats, Floats]:
        """Return activations and logits under a perturbation."""
        changed = self._evaluator._changed(perturbation, self.rows, self._z, self.activations)
        return changed, self._logits(changed)

    def _logits(self, activations: Floats) -> Floats:
        w2, b2 = self._evaluator.readout
        return np.asarray(activations @ w2.T + b2)


class _Tally:
    """The scores of a two-layer network, gathered block by block."""

    def __init__(self, evaluator: TwoLayerEvaluator, levels: int, names: Sequence[str], keep: bool) -> None:
        self._evaluator, self._keep, self._shape = evaluator, keep, (levels + 1, len(evaluator.hidden))
        self.by_logits = [name for name in names if name in known.BY_LOGITS]
        self._by_classes = [name for name in names if name in ("accuracy", "agreement")]
        if evaluator.labels is None and not {"accuracy", "cross_entropy"}.isdisjoint(names):
            raise InputError("accuracy and cross-entropy need labels, and there are none")
        self._predictions = np.empty((levels, self._shape[1]), np.uint16) if "prediction" in names else None
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
            # of the same type, or each row would be converted before it's compared
            references["accuracy"] = self._evaluator.labels[rows].astype(classes.dtype)
        for name in self._by_classes:
            self._sums[prefix + name] += known.matches(classes, references[name])
            if self._keep:
                self._values[prefix + name][:, rows] = classes == references[name]

    def add_logits(
        self, prefix: str, block: base.Block, perturbations: Perturbations, shift: Doubles | None
    ) -> None:
        """Add what needs logits."""
        assert isinstance(block, _TwoLayerBlock)
        labels = None if self._evaluator.labels is None else self._evaluator.labels[block.rows]
        for level in range(self._shape[0]):
            last = level == self._shape[0] - 1
            logits = block.logits if last else block.under(perturbations[level])[1]
            if shift is not None and not last:
                logits = logits - shift[level]
            for name in self.by_logits:
                values = known.score(name, logits, block.logits, labels)
                self._sums[prefix + name][level] += values.sum()
                if self._keep:
                    self._values[prefix + name][level, block.rows] = values

    def scores(self) -> base.Scores:
        """Return everything."""
        count = self._shape[1]
        means = {name: sums / count for name, sums in self._sums.items()}
        places = (
            np.stack([self._evaluator.examples, np.zeros(count, np.int64)], axis=1) if self._keep else None
        )
        return base.Scores(
            means={name: each[:-1] for name, each in means.items()},
            unperturbed={name: float(each[-1]) for name, each in means.items()},
            examples=count,
            items=count,
            values={name: each[:-1] for name, each in self._values.items()},
            places=places,
            predictions=self._predictions,
        )


class _Algebra:
    """What the logits are made of, in float64: s B + A under a scale s of the live units."""

    def __init__(self, network: TwoLayer, live: npt.NDArray[np.bool_]) -> None:
        self._network, self._live = network, live
        self._w2, self._b2 = network.w2.astype(np.float64), network.b2.astype(np.float64)

    def of(self, a: Floats) -> tuple[Doubles, Doubles, Doubles, Doubles]:
        """Return B and A, (n, K), and for each the greatest sum of absolute terms over classes, (n,)."""
        w2, live = self._w2, self._live
        parts = [(a[:, mask], w2[:, mask]) for mask in (live, ~live)]
        slope, rest = (each @ weights.T for each, weights in parts)
        size, rest_size = ((np.abs(each) @ np.abs(weights).T) for each, weights in parts)
        return slope, rest + self._b2, size.max(axis=1), (rest_size + np.abs(self._b2)).max(axis=1)

    def errors(self, z: Floats) -> tuple[Doubles, Doubles]:
        """Return at five scales how far the network's logits are from s B + A at most, and the greatest logit, (5,)."""
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
    """Return labels (N,), checked: one for each example, each a class.

    Raises:
        InputError: labels that aren't that.
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
