"""The engine on the processor: exact float32 gradient descent that skips the zeros of images.

Most pixels are zero, and a block of examples goes forward and back while it's in cache (`nearzero.kernels`).
This module divides the work and adds up the sums of its parts. The parts don't depend on the number of
threads or on other runs, and their sums are added in a fixed order. So run k trained alone equals run k among
twenty, bit for bit. There are two ways to divide the work:

- A full batch, and every measurement, is divided into at most sixteen shards of the examples, each of whole
  tiles.
- Mini-batches are divided by seed, since a batch is too small to be shared by threads. Runs of one seed,
  whose networks differ in their activation, see the same batches, and share the lists that are made of them.

A measurement of the full batch keeps each run's gradient, and the next update uses it if the weights are
still the same. So recording the training curve at every step costs no extra time.

Memory, for MNIST: 21 MB for the lists of the training images, 23 MB more for a full batch; about 1 MB per run
(weights, gradient) and, with mini-batches, 0.5 MB per seed (the order of the epoch); 30 MB for the sums
of shards. Forty runs need less than 250 MB. The memory that grows with the networks respects the limit of
`nearzero.support.memory`: the sums of shards take as much as the gradients of 64 runs or, where that's
too much, of 48, 32 or 16, for one run at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from nearzero.kernels import descent
from nearzero.kernels.layout import even, from_strips, to_strips
from nearzero.kernels.readout import ACTIVATION_CODES, tile_workspace
from nearzero.kernels.tiles import TILE, build_tiles, empty_tile, order_of, row_stride
from nearzero.networks import Stack
from nearzero.support.memory import memory_limit
from nearzero.support.threads import parallel, thread_count
from nearzero.training import engine
from nearzero.training.engine import Examples, Measurement

__all__ = ["FusedEngine"]

SHARDS = 16  # parts of a set of examples, each with sums of its own
RUNS_AT_ONCE = 4  # runs whose shards are processed at the same time, if memory allows
LARGEST_TILE = 256  # examples; the size of tiles depends on the processor
TURNS = 8  # parts of a call of `advance` with mini-batches
PIECES = 4  # parts of the arrays in which the sums of shards are added up

Order = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A set of examples as tiles of similar images: the order of examples, the tiles and the labels."""

    order: Order
    batches: descent.Batches

    @classmethod
    def of(cls, examples: Examples, *, gradients: bool) -> _Prepared:
        """Return the tiles of a set, which are kept for later engines that train on the same examples."""
        cached = _prepared.setdefault(examples, {})
        if gradients not in cached:
            order = order_of(examples.pixels)
            tiles = build_tiles(examples.pixels.values, order, gradients=gradients)
            labels = examples.labels[order].astype(np.int32)
            unused = np.empty(0, np.uint8), np.empty(0, np.int32)
            cached[gradients] = cls(order, descent.Batches(tiles, False, *unused, labels))
        return cached[gradients]

    def __len__(self) -> int:
        return len(self.order)

    @property
    def shard(self) -> int:
        """Return the number of examples in a shard, a multiple of the largest tile, the same on every machine."""
        return -(-len(self) // (SHARDS * LARGEST_TILE)) * LARGEST_TILE

    @property
    def shards(self) -> int:
        """Return the number of shards."""
        return -(-len(self) // self.shard)


# entries are dropped with their examples
_prepared: WeakKeyDictionary[Examples, dict[bool, _Prepared]] = WeakKeyDictionary()


class _SeedGroup(NamedTuple):
    """Runs of one seed that are trained together: all of them or, if there are fewer seeds than threads, one.

    Attributes:
        runs: the places of the runs in the stack.
        codes: (n,), their activations in `ACTIVATION_CODES`.
        weights: their weights, a row for each run.
    """

    runs: list[int]
    codes: npt.NDArray[np.int64]
    weights: descent.Weights


class _ThreadWorkspace(threading.local):
    """The arrays of one thread: 1 or 2.4 MB, and 0.4 MB for each run of a seed group beyond the first."""

    def __init__(self, shape: descent.Shape, runs: int) -> None:
        self.network = tile_workspace(shape.inputs, shape.units, shape.classes)
        self.tile = empty_tile(shape.inputs)
        self.gradients = descent.make_arrays(shape, runs)


class FusedEngine:
    """Stochastic gradient descent on a stack of runs; see `nearzero.training.engine.Engine`.

    Args:
        stack: the weights to begin with; copied.
        train, test: the sets of examples, with the same gain and shift of pixels.
        seeds: one for each run, for the order of its examples. Runs of one seed are trained together, which
            changes no bit of the results.
        learning_rate: w <- w - learning_rate * gradient of the batch's mean cross-entropy.
        batch_size: examples in a batch; None stands for the whole training set.
        threads: the number of threads; None stands for all that this process may use. The results don't
            depend on it.

    Raises:
        InputError: the sets or seeds don't fit the stack, or the memory is too small for the stack.
    """

    def __init__(
        self,
        stack: Stack,
        train: Examples,
        test: Examples,
        *,
        seeds: Sequence[int],
        learning_rate: float,
        batch_size: int | None,
        threads: int | None = None,
    ) -> None:
        engine.check_engine(stack, train, test, seeds, batch_size)
        runs, classes = stack.b2.shape
        units, inputs = stack.w1.shape[1:]
        pixels = train.pixels
        self.active = np.ones(runs, dtype=np.bool_)
        self._activations = stack.activations
        self._shape = descent.Shape(inputs, units, classes, np.float32(pixels.gain), np.float32(pixels.shift))
        self._train, self._seeds, self._batch = train, list(seeds), batch_size
        self._rate = float(learning_rate)
        self._threads = thread_count(threads)
        members = [[run for run in range(runs) if seeds[run] == seed] for seed in dict.fromkeys(seeds)]
        if len(members) < self._threads:  # using all threads saves more time than sharing lists
            members = [[run] for run in range(runs)]
        self._most_members = max(map(len, members))
        self._runs_at_once = self._most_runs_at_once(runs)
        self._seed_groups = [self._load(stack, group) for group in members]
        self._place = {run: (group, row) for group in self._seed_groups for row, run in enumerate(group.runs)}
        places = (self._place[run] for run in range(runs))
        self._weights = [descent.weights_of(group.weights, row) for group, row in places]
        self._workspace = _ThreadWorkspace(self._shape, self._most_members)  # one for each thread
        self._sets = {
            "train": _Prepared.of(train, gradients=batch_size is None),
            "test": _Prepared.of(test, gradients=False),
        }
        self._gradients: dict[int, descent.Arrays] = {}
        self._current: set[int] = set()  # runs whose gradient is that of their current weights
        self._shard_gradients: list[descent.Arrays] = []
        self._epochs: dict[int, tuple[int, Order, Order]] = {}

    def measure(self, which: str) -> Measurement:
        """Measure the current weights on all examples of "train" or "test"."""
        return self._pass(which, np.flatnonzero(self.active).tolist())

    def advance(self, step: int, stop: int) -> None:
        """Apply updates step, step + 1, ..., stop - 1 to every active run."""
        runs = np.flatnonzero(self.active).tolist()
        if self._batch is not None:
            self._advance_in_turns(step, stop)
            return
        rate = np.float32(self._rate / len(self._train))

        def move(run: int) -> None:
            descent.update(self._weights[run], self._gradients[run], self._shape, rate)

        for _ in range(step, stop):
            self._pass("train", [run for run in runs if run not in self._current])
            self._current.difference_update(runs)
            parallel(move, runs, self._threads)

    def stack(self) -> Stack:
        """Return a copy of the current weights."""
        runs, (inputs, units, classes) = len(self._weights), self._shape[:3]
        w1 = np.empty((runs, units, inputs), np.float32)
        w2 = np.empty((runs, even(classes), units), np.float32)
        for run, weights in enumerate(self._weights):
            from_strips(weights.own.w1, w1[run].T)
            from_strips(weights.own.w2, w2[run])
        b1 = np.stack([weights.own.b1[:units] for weights in self._weights])
        b2 = np.stack([weights.own.b2[:classes] for weights in self._weights])
        return Stack(w1, b1, w2[:, :classes].copy(), b2, self._activations)

    def _most_runs_at_once(self, runs: int) -> int:
        """Return the number of runs whose shards are processed together: at most `RUNS_AT_ONCE`."""
        allowed = memory_limit()
        needed = [self._bytes_needed(runs, at_once) for at_once in range(1, RUNS_AT_ONCE + 1)]
        engine.check_memory(needed[0], allowed, runs, self._shape.units)
        return sum(size <= allowed for size in needed)

    def _bytes_needed(self, runs: int, at_once: int) -> int:
        """Return the bytes that training takes if the shards of `at_once` runs are processed together.

        In arrays of the size of a network, a run takes: its weights as given, as trained, with the affine map
        folded in, and two copies while they are saved; with a full batch, its gradient and, while it is
        processed, those of its shards. Each thread takes the gradients of a seed group, two arrays (`TILE`,
        U), and the lists of a tile and the filtered lists, eight bytes per pixel. With mini-batches a run
        takes the order of an epoch. `TILE` depends on the processor.
        """
        inputs, units, classes, gain, shift = self._shape
        network = 4 * units * (inputs + classes + 1)
        full = self._batch is None
        per_run = (4 + full + (gain != 1 or shift != 0)) * network + (0 if full else 8 * len(self._train))
        per_thread = self._most_members * network + 8 * TILE * (units + row_stride(inputs))
        shards = min(SHARDS, -(-len(self._train) // LARGEST_TILE)) if full else 0
        needed: int = runs * per_run + self._threads * per_thread + at_once * shards * network
        return needed

    def _load(self, stack: Stack, runs: list[int]) -> _SeedGroup:
        """Return a seed group with a copy of the weights of some runs of a stack."""
        rows = descent.make_weights(self._shape, len(runs))
        for row, run in enumerate(runs):
            weights = descent.weights_of(rows, row)
            to_strips(stack.w1[run].T, weights.own.w1)
            to_strips(np.pad(stack.w2[run], ((0, stack.w2.shape[1] % 2), (0, 0))), weights.own.w2)
            weights.own.b1[: self._shape.units] = stack.b1[run]
            weights.own.b2[: self._shape.classes] = stack.b2[run]
            descent.derive(weights, self._shape)
        return _SeedGroup(runs, np.array([ACTIVATION_CODES[stack.activations[run]] for run in runs]), rows)

    # --- whole sets --------------------------------------------------------------------------------------

    def _pass(self, which: str, runs: list[int]) -> Measurement:
        """Measure some runs, and keep their gradients if the set's tiles were built for gradients."""
        data = self._sets[which]
        loss, correct = np.full(len(self.active), np.nan), np.zeros(len(self.active), np.int64)
        for first in range(0, len(runs), self._runs_at_once):
            together = runs[first : first + self._runs_at_once]
            losses, hits = self._shard_sums(data, together)
            for place, run in enumerate(together):
                loss[run] = sum(losses[place].tolist()) / len(data) if self._finite(run) else np.nan
                correct[run] = hits[place].sum()
        return Measurement(loss, correct)

    def _shard_sums(
        self, data: _Prepared, runs: list[int]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return losses and correct predictions of some runs, (runs, shards) each.

        If the tiles were built for gradients, keep the gradients of these runs.
        """
        shards, backward = data.shards, data.batches.tiles.by_pixel_starts.size > 1
        losses, hits = np.zeros((len(runs), shards)), np.zeros((len(runs), shards), np.int64)
        if backward:
            missing = len(runs) * shards - len(self._shard_gradients)
            self._shard_gradients += [descent.make_arrays(self._shape, 1) for _ in range(missing)]
            for run in set(runs) - self._gradients.keys():
                self._gradients[run] = descent.arrays_of(descent.make_arrays(self._shape, 1), 0)

        def work(item: tuple[int, int]) -> None:
            place, shard = item
            workspace, (group, row) = self._workspace, self._place[runs[place]]
            gradients = self._shard_gradients[place * shards + shard] if backward else workspace.gradients
            plan = descent.BatchPlan(data.shard, shard, shard + 1, backward, False, 0.0)
            sums = (totals[place, shard : shard + 1] for totals in (losses, hits))
            network = group.codes[row : row + 1], np.array([row]), group.weights, self._shape
            descent.descend(*network, data.batches, plan, workspace.network, gradients, *sums)

        def gather(item: tuple[int, int]) -> None:
            place, piece = item
            parts = self._shard_gradients[place * shards : (place + 1) * shards]
            for total, *summands in zip(self._gradients[runs[place]], *parts, strict=True):
                inside = slice(piece * total.size // PIECES, (piece + 1) * total.size // PIECES)
                total[inside] = summands[0][0, inside]
                for summand in summands[1:]:
                    total[inside] += summand[0, inside]

        parallel(work, product(range(len(runs)), range(shards)), self._threads)
        if backward:
            parallel(gather, product(range(len(runs)), range(PIECES)), self._threads)
            self._current.update(runs)
        return losses, hits

    def _finite(self, run: int) -> bool:
        """Return whether every weight is finite.

        ReLU in kernels maps NaN to 0, so the loss alone doesn't show it.
        """
        return all(bool(np.isfinite(array).all()) for array in self._weights[run].own)

    # --- mini-batches ------------------------------------------------------------------------------------

    def _advance_in_turns(self, step: int, stop: int) -> None:
        """Apply updates step ... stop - 1 to all runs.

        Seeds take turns, so that no thread is idle long at the end.
        """
        updates = -(-(stop - step) // TURNS)
        active = [place for place, group in enumerate(self._seed_groups) if self.active[group.runs].any()]
        done, locks = dict.fromkeys(active, step), {place: threading.Lock() for place in active}

        def turn(place: int) -> None:
            with locks[place]:  # another thread may still be at the previous turn of this seed
                last = min(done[place] + updates, stop)
                self._descend(self._seed_groups[place], done[place], last)
                done[place] = last

        parallel(turn, active * TURNS, self._threads)

    def _descend(self, group: _SeedGroup, step: int, stop: int) -> None:
        """Apply updates step ... stop - 1 to the active runs of a seed group, epoch by epoch."""
        assert self._batch is not None
        per_epoch = engine.steps_per_epoch(len(self._train), self._batch)
        workspace, values = self._workspace, self._train.pixels.values.reshape(-1)
        rows = np.flatnonzero(self.active[group.runs])
        while step < stop:
            epoch, first = divmod(step, per_epoch)
            last = min(first + stop - step, per_epoch)
            order, labels = self._epoch(self._seeds[group.runs[0]], epoch)
            batches = descent.Batches(workspace.tile, True, values, order, labels)
            plan = descent.BatchPlan(self._batch, first, last, True, True, self._rate)
            ignored = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
            networks = group.codes[rows], rows, group.weights, self._shape
            descent.descend(*networks, batches, plan, workspace.network, workspace.gradients, *ignored)
            step += last - first

    def _epoch(self, seed: int, epoch: int) -> tuple[Order, Order]:
        """Return the order of the examples in one epoch, and their labels.

        Within a batch, similar examples are adjacent.
        """
        cached = self._epochs.get(seed)
        if cached is None or cached[0] != epoch:
            assert self._batch is not None
            similar = self._sets["train"].order
            rank = np.empty_like(similar)
            rank[similar] = np.arange(len(similar), dtype=np.int32)
            places = rank[engine.epoch_order(seed, epoch, len(similar))]
            whole = len(places) // self._batch * self._batch
            places[:whole].reshape(-1, self._batch).sort(axis=1)
            places[whole:].sort()
            order = similar[places]
            cached = (epoch, order, self._sets["train"].batches.labels[places])
            self._epochs[seed] = cached
        return cached[1:]
