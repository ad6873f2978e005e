"""The engine on the processor: exact float32 gradient descent that skips the zeros of images.

Most pixels are zero, and a block of examples goes forward and back while it's in cache; how, is told in
`nearzero.kernels`. This module cuts the work into parts and puts their sums together. The parts are the
same however many threads there are and whatever other runs do, and their sums are added in one order, so
that run k alone is run k among twenty, bit for bit. Two ways to cut:

- a full batch, and every measurement: into at most sixteen shards of the examples, each of whole tiles;
- mini-batches: into seeds, since a batch is too small to share. Runs of one seed, of networks that differ in their
  activation, see the same batches, and share the lists that are made of them.

A measurement of the full batch leaves each run's gradient behind, and the next update at the same weights
takes it: to record the training curve at every step costs nothing.

Memory, for MNIST: 21 MB for the training images' lists, 23 MB more for a full batch; per run about 1 MB
(weights, gradient) and, with mini-batches, 0.5 MB a seed (the epoch's order); 30 MB for the sums of shards. Forty
runs come to less than 250 MB. What grows with the networks is held to `nearzero.support.memory`: the sums of shards
are as large as the gradients of 64 runs, or where that's too much, of 48, 32 or 16, one run in work at a time.
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
from nearzero.kernels.tiles import TILE, build_tiles, order_of, row_stride, tile_room
from nearzero.networks import Stack
from nearzero.support.memory import memory_limit
from nearzero.support.threads import parallel, thread_count
from nearzero.training import engine
from nearzero.training.engine import Examples, Measurement

__all__ = ["FusedEngine"]

SHARDS = 16  # parts of a set of examples whose sums are taken apart
GROUP = 4  # runs whose shards are in work at the same time, if memory allows
LARGEST = 256  # examples in a tile, of the sizes that it has on one processor or another
TURNS = 8  # that each run takes in a stretch of mini-batches
PIECES = 4  # in which the sums of shards are added up

Order = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A set of examples as tiles of similar images: their order, and the tiles with their labels."""

    order: Order
    batches: descent.Batches

    @classmethod
    def of(cls, examples: Examples, *, gradients: bool) -> _Prepared:
        """Prepared once for all engines that train on the same examples one after the other."""
        known = _prepared.setdefault(examples, {})
        if gradients not in known:
            order = order_of(examples.pixels)
            tiles = build_tiles(examples.pixels.values, order, gradients=gradients)
            labels = examples.labels[order].astype(np.int32)
            unread = np.empty(0, np.uint8), np.empty(0, np.int32)
            known[gradients] = cls(order, descent.Batches(tiles, False, *unread, labels))
        return known[gradients]

    def __len__(self) -> int:
        return len(self.order)

    @property
    def shard(self) -> int:
        """Examples in a shard: whole tiles, and as many whatever their size."""
        return -(-len(self) // (SHARDS * LARGEST)) * LARGEST

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-len(self) // self.shard)


# as long as the examples live
_prepared: WeakKeyDictionary[Examples, dict[bool, _Prepared]] = WeakKeyDictionary()


class _Team(NamedTuple):
    """Runs of one seed: all of them, or where there are fewer seeds than threads, one.

    Attributes:
        runs: their places in the stack.
        codes: of their activations.
        weights: a row for each.
    """

    runs: list[int]
    codes: npt.NDArray[np.int64]
    weights: descent.Weights


class _Desk(threading.local):
    """What a thread needs for itself: about 1 or 2.4 MB, and 0.4 MB for each run of a team beyond the first."""

    def __init__(self, shape: descent.Shape, teammates: int) -> None:
        self.workspace = tile_workspace(shape.inputs, shape.units, shape.classes)
        self.tile = tile_room(shape.inputs)
        self.gradients = descent.make_arrays(shape, teammates)


class FusedEngine:
    """Stochastic gradient descent on a stack of runs; see `nearzero.training.engine.Engine`.

    Args:
        stack: the weights to begin with; copied.
        train, test: the sets of examples, seen through the same affine map.
        seeds: one for each run, for the order of its examples. Runs of one seed are trained side by side, which
            changes no bit.
        learning_rate: w <- w - learning_rate * gradient of the batch's mean cross-entropy.
        batch_size: examples in a batch; None is the whole training set.
        threads: how many to use; all that this process may use unless given. The results don't depend on
            it.

    Raises:
        InputError: sets or seeds that don't fit the stack, or a stack that doesn't fit the memory.
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
        teams = [[run for run in range(runs) if seeds[run] == seed] for seed in dict.fromkeys(seeds)]
        if len(teams) < self._threads:  # to have something to do for all is worth more than to share
            teams = [[run] for run in range(runs)]
        self._most = max(map(len, teams))
        self._group = self._runs_at_once(runs)
        self._teams = [self._load(stack, team) for team in teams]
        self._place = {run: (team, row) for team in self._teams for row, run in enumerate(team.runs)}
        places = (self._place[run] for run in range(runs))
        self._weights = [descent.weights_of(team.weights, row) for team, row in places]
        self._desk = _Desk(self._shape, self._most)  # each thread has its own
        self._sets = {
            "train": _Prepared.of(train, gradients=batch_size is None),
            "test": _Prepared.of(test, gradients=False),
        }
        self._gradients: dict[int, descent.Arrays] = {}
        self._known: set[int] = set()  # runs whose gradient is that of their present weights
        self._parts: list[descent.Arrays] = []
        self._epochs: dict[int, tuple[int, Order, Order]] = {}

    def measure(self, which: str) -> Measurement:
        """The current weights on all of "train" or "test"."""
        return self._pass(which, np.flatnonzero(self.active).tolist())

    def advance(self, step: int, stop: int) -> None:
        """Apply updates step, step + 1, ..., stop - 1 to every active run."""
        runs = np.flatnonzero(self.active).tolist()
        if self._batch is not None:
            self._take_turns(step, stop)
            return
        rate = np.float32(self._rate / len(self._train))

        def move(run: int) -> None:
            descent.update(self._weights[run], self._gradients[run], self._shape, rate)

        for _ in range(step, stop):
            self._pass("train", [run for run in runs if run not in self._known])
            self._known.difference_update(runs)
            parallel(move, runs, self._threads)

    def stack(self) -> Stack:
        """A copy of the current weights."""
        runs, (inputs, units, classes) = len(self._weights), self._shape[:3]
        w1 = np.empty((runs, units, inputs), np.float32)
        w2 = np.empty((runs, even(classes), units), np.float32)
        for run, weights in enumerate(self._weights):
            from_strips(weights.own.w1, w1[run].T)
            from_strips(weights.own.w2, w2[run])
        b1 = np.stack([weights.own.b1[:units] for weights in self._weights])
        b2 = np.stack([weights.own.b2[:classes] for weights in self._weights])
        return Stack(w1, b1, w2[:, :classes].copy(), b2, self._activations)

    def _runs_at_once(self, runs: int) -> int:
        """Return how many runs' shards may be in work at the same time: up to `GROUP`, fewer if memory is short."""
        allowed = memory_limit()
        taken = [self._bytes_taken(runs, group) for group in range(1, GROUP + 1)]
        engine.check_memory(taken[0], allowed, runs, self._shape.units)
        return sum(each <= allowed for each in taken)

    def _bytes_taken(self, runs: int, group: int) -> int:
        """Return the bytes that training takes while the shards of `group` runs are in work at the same time.

        In arrays of the size of a network: the weights of a run as given, as trained, with the affine map folded in,
        and two on the way into a file; its gradient, on a full batch, and while it's in work those of its shards.
        Each thread has a team's gradients, two arrays (`TILE`, U), and the lists of a tile and what is sifted of them,
        eight bytes a pixel; a run of mini-batches has the order of an epoch. `TILE` depends on the processor.
        """
        inputs, units, classes, gain, shift = self._shape
        one = 4 * units * (inputs + classes + 1)
        full = self._batch is None
        each = (4 + full + (gain != 1 or shift != 0)) * one + (0 if full else 8 * len(self._train))
        threads = self._threads * (self._most * one + 8 * TILE * (units + row_stride(inputs)))
        shards = min(SHARDS, -(-len(self._train) // LARGEST)) if full else 0
        taken: int = runs * each + threads + group * shards * one
        return taken

    def _load(self, stack: Stack, runs: list[int]) -> _Team:
        team = descent.make_weights(self._shape, len(runs))
        for row, run in enumerate(runs):
            weights = descent.weights_of(team, row)
            to_strips(stack.w1[run].T, weights.own.w1)
            to_strips(np.pad(stack.w2[run], ((0, stack.w2.shape[1] % 2), (0, 0))), weights.own.w2)
            weights.own.b1[: self._shape.units] = stack.b1[run]
            weights.own.b2[: self._shape.classes] = stack.b2[run]
            descent.derive(weights, self._shape)
        return _Team(runs, np.array([ACTIVATION_CODES[stack.activations[run]] for run in runs]), team)

    # --- whole sets --------------------------------------------------------------------------------------

    def _pass(self, which: str, runs: list[int]) -> Measurement:
        """Measure some runs; on a full batch, keep their gradients."""
        data = self._sets[which]
        loss, correct = np.full(len(self.active), np.nan), np.zeros(len(self.active), np.int64)
        for first in range(0, len(runs), self._group):
            group = runs[first : first + self._group]
            losses, rights = self._shard_sums(data, group)
            for place, run in enumerate(group):
                loss[run] = sum(losses[place].tolist()) / len(data) if self._finite(run) else np.nan
                correct[run] = rights[place].sum()
        return Measurement(loss, correct)

    def _shard_sums(
        self, data: _Prepared, group: list[int]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """(group, shards): losses and correct predictions of a few runs; keeps gradients, given the tiles for it."""
        shards, backward = data.shards, data.batches.tiles.turned_starts.size > 1
        losses, rights = np.zeros((len(group), shards)), np.zeros((len(group), shards), np.int64)
        if backward:
            missing = len(group) * shards - len(self._parts)
            self._parts += [descent.make_arrays(self._shape, 1) for _ in range(missing)]
            for run in set(group) - self._gradients.keys():
                self._gradients[run] = descent.arrays_of(descent.make_arrays(self._shape, 1), 0)

        def work(item: tuple[int, int]) -> None:
            place, shard = item
            desk, (team, row) = self._desk, self._place[group[place]]
            gradients = self._parts[place * shards + shard] if backward else desk.gradients
            plan = descent.BatchPlan(data.shard, shard, shard + 1, backward, False, 0.0)
            found = (each[place, shard : shard + 1] for each in (losses, rights))
            runs = team.codes[row : row + 1], np.array([row]), team.weights, self._shape
            descent.descend(*runs, data.batches, plan, desk.workspace, gradients, *found)

        def gather(item: tuple[int, int]) -> None:
            place, piece = item
            parts = self._parts[place * shards : (place + 1) * shards]
            for total, *summands in zip(self._gradients[group[place]], *parts, strict=True):
                inside = slice(piece * total.size // PIECES, (piece + 1) * total.size // PIECES)
                total[inside] = summands[0][0, inside]
                for summand in summands[1:]:
                    total[inside] += summand[0, inside]

        parallel(work, product(range(len(group)), range(shards)), self._threads)
        if backward:
            parallel(gather, product(range(len(group)), range(PIECES)), self._threads)
            self._known.update(group)
        return losses, rights

    def _finite(self, run: int) -> bool:
        """Whether every weight is a number: relu in kernels takes NaN for 0, so the loss alone doesn't tell."""
        return all(bool(np.isfinite(array).all()) for array in self._weights[run].own)

    # --- mini-batches ------------------------------------------------------------------------------------

    def _take_turns(self, step: int, stop: int) -> None:
        """Updates step ... stop - 1 of all runs, seeds in turns, so that no thread waits long for the last one."""
        each = -(-(stop - step) // TURNS)
        teams = [place for place, team in enumerate(self._teams) if self.active[team.runs].any()]
        done, locks = dict.fromkeys(teams, step), {place: threading.Lock() for place in teams}

        def turn(place: int) -> None:
            with locks[place]:  # its turn before may still be in work
                last = min(done[place] + each, stop)
                self._descend(self._teams[place], done[place], last)
                done[place] = last

        parallel(turn, teams * TURNS, self._threads)

    def _descend(self, team: _Team, step: int, stop: int) -> None:
        """Apply updates step ... stop - 1 to the active runs of a team, an epoch's stretch at a time."""
        assert self._batch is not None
        per_epoch = engine.steps_per_epoch(len(self._train), self._batch)
        desk, values = self._desk, self._train.pixels.values.reshape(-1)
        rows = np.flatnonzero(self.active[team.runs])
        while step < stop:
            epoch, first = divmod(step, per_epoch)
            last = min(first + stop - step, per_epoch)
            order, labels = self._epoch(self._seeds[team.runs[0]], epoch)
            batches = descent.Batches(desk.tile, True, values, order, labels)
            plan = descent.BatchPlan(self._batch, first, last, True, True, self._rate)
            unread = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
            runs = team.codes[rows], rows, team.weights, self._shape
            descent.descend(*runs, batches, plan, desk.workspace, desk.gradients, *unread)
            step += last - first

    def _epoch(self, seed: int, epoch: int) -> tuple[Order, Order]:
        """The examples of one epoch and their labels; within a batch those that are alike meet."""
        known = self._epochs.get(seed)
        if known is None or known[0] != epoch:
            assert self._batch is not None
            similar = self._sets["train"].order
            rank = np.empty_like(similar)
            rank[similar] = np.arange(len(similar), dtype=np.int32)
            places = rank[engine.epoch_order(seed, epoch, len(similar))]
            whole = len(places) // self._batch * self._batch
            places[:whole].reshape(-1, self._batch).sort(axis=1)
            places[whole:].sort()
            order = similar[places]
            known = (epoch, order, self._sets["train"].batches.labels[places])
            self._epochs[seed] = known
        return known[1:]
