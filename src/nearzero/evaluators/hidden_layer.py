"""A network's hidden layer on one set of examples: z computed once, then asked for predictions again and
again.

Everything that perturbs the paper's networks goes through here, so that two ways to a response can't give two
answers. The loops themselves are in `nearzero.kernels`; what the levels mean is in `nearzero.perturbations.families`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError
from nearzero.evaluators.affine_path import find_affine_paths
from nearzero.kernels.activations import KERNEL_ACTIVATIONS
from nearzero.kernels.affine_path import AffinePath, follow_path, path_workspace
from nearzero.kernels.forward import preactivations
from nearzero.kernels.layout import aligned
from nearzero.kernels.respond import BLOCK, GROUP, add_changes, respond, respond_scaled, response_workspace
from nearzero.kernels.tiles import known_order
from nearzero.networks import TwoLayer
from nearzero.networks.pixels import Pixels
from nearzero.perturbations.perturbation import Perturbation
from nearzero.perturbations.ranges import Ranges
from nearzero.support.arrays import as_numbers
from nearzero.support.memory import memory_limit
from nearzero.support.threads import parallel, thread_count

__all__ = ["HiddenLayer"]

SHARDS = 16  # parts of a set of examples whose sums are taken apart, however many threads there are

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Predictions = npt.NDArray[np.uint16]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]


class HiddenLayer:
    """The hidden layer of one network on N examples.

    Args:
        network: the network, with finite weights.
        inputs: `Pixels`, or an array (N, D) of real numbers; whole numbers from 0 to 255 are raw pixels.
        threads: how many to use; all that this process may use unless given. The results don't depend on it.
        memory: what z and the predictions may take, as `nearzero.support.memory.memory_limit` reads it. Where they
            would take more, z isn't kept but computed again for each block of examples.

    Raises:
        InputError: inputs of another width than the network's, none at all, or values that aren't finite.
    """

    def __init__(
        self,
        network: TwoLayer,
        inputs: Pixels | npt.ArrayLike,
        *,
        threads: int | None = None,
        memory: int | str | None = None,
    ) -> None:
        if not network.finite:
            raise InputError(
                "the network has weights that aren't finite; it can't be swept (did it diverge?)"
            )
        self.network = network
        self.threads = thread_count(threads)
        self.memory = memory_limit(memory)
        self._inputs = _as_inputs(inputs, network.inputs)
        self._given: Floats | None = None

    def part(self, rows: npt.NDArray[np.integer]) -> HiddenLayer:
        """The same layer on some of the examples."""
        return self._like(self.network, _some(self._inputs, rows))

    def of_units(self, units: npt.NDArray[np.integer]) -> HiddenLayer:
        """Return the layer of some units on the same examples."""
        net = self.network
        some = TwoLayer(net.w1[units], net.b1[units], net.w2[:, units], net.b2, net.activation)
        return self._like(some, self._inputs)

    def _like(self, network: TwoLayer, inputs: Pixels | Floats) -> HiddenLayer:
        return HiddenLayer(network, inputs, threads=self.threads, memory=self.memory)

    def with_z(self, z: Floats) -> HiddenLayer:
        """The same layer on as many examples, with other pre-activations (N, U)."""
        if z.shape != (len(self), self.network.units):
            raise InputError(f"z must be ({len(self)}, {self.network.units}); got {z.shape}")
        other = self._like(self.network, self._inputs)
        other._given = np.ascontiguousarray(z, dtype=np.float32)
        return other

    def __len__(self) -> int:
        return len(self._inputs)

    def blocks(self, levels: int = 1) -> Iterator[slice]:
        """Consecutive blocks of examples whose z, and predictions at so many levels, fit in memory."""
        # z in two layouts, float32; predictions twice, uint16
        rows = self.memory // (8 * self.network.units + 4 * levels) // BLOCK * BLOCK
        for first in range(0, len(self), max(rows, BLOCK)):
            yield slice(first, min(first + max(rows, BLOCK), len(self)))

    @cached_property
    def z(self) -> Floats:
        """(N, U): the pre-activations of all examples."""
        return self._preactivations(slice(0, len(self)))

    def z_of(self, rows: slice) -> Floats:
        """Return the pre-activations of some examples, (n, U); they are kept if they are of all."""
        return self.z if self._is_whole(rows) else self._preactivations(rows)

    def exact(self, rows: slice) -> Doubles:
        """z of some examples in float64, (n, U)."""
        if self._given is not None:
            return self._given[rows].astype(np.float64)
        network, inputs = self.network, self._inputs
        if isinstance(inputs, Pixels):
            x = inputs.values[rows].astype(np.float64) * inputs.gain + inputs.shift
        else:
            x = inputs[rows].astype(np.float64)
        return np.asarray(x @ network.w1.T.astype(np.float64) + network.b1)

    @cached_property
    def ranges(self) -> Ranges:
        """The unit ranges over these examples."""
        return Ranges.of((self.z_of(rows) for rows in self.blocks()), self.network.act)

    @cached_property
    def unperturbed(self) -> Predictions:
        """(N,): the predictions of the network as it is."""
        return np.asarray(self.predict([Perturbation()])[0])

    def changes(self, perturbations: Sequence[Perturbation]) -> tuple[Doubles, Doubles]:
        """What perturbations do to the activations: sums over examples of (a' - a)^2 and of a' - a, (L, U) each."""
        units = self.network.units
        *parameters, post = _stacked(perturbations, units)
        flat = [each.ravel() for each in parameters]
        act = KERNEL_ACTIVATIONS[self.network.activation]
        total = np.zeros((2, len(perturbations), units))
        for rows in self.blocks():
            (_, z), examples = self._arranged(rows), rows.stop - rows.start
            edges = np.linspace(0, -(-examples // BLOCK), SHARDS + 1).astype(int)
            parts = np.zeros((SHARDS, *total.shape))

            def work(shard: int, z=z, examples=examples, edges=edges, parts=parts) -> None:  # type: ignore[no-untyped-def]
                squares, sums = parts[shard]
                add_changes(act, z, *flat, post, examples, squares, sums, *edges[shard : shard + 2])

            parallel(work, range(SHARDS), self.threads)
            total += parts.sum(axis=0)
        return total[0], total[1]

    def with_b2(self, b2: npt.NDArray[np.floating]) -> HiddenLayer:
        """The same layer, z included if it's there, before other output biases (K,)."""
        network = self.network
        other = copy(self)
        other.network = TwoLayer(network.w1, network.b1, network.w2, b2, network.activation)
        for name in ("_readout", "unperturbed"):
            other.__dict__.pop(name, None)
        return other

    def predict(
        self, perturbations: Sequence[Perturbation], rows: slice | None = None, *, by_algebra: bool = True
    ) -> Predictions:
        """(L, N): the class with the greatest logit, the first of equals, under each perturbation.

        A common positive scale of all units, where the activation is positively homogeneous, is taken through
        to the logits: argmax(s W2 act(z) + b2), one product for all such perturbations. So is a clip that no
        example reaches, being a scale of 1. Perturbations on a line are followed along it
        (`nearzero.evaluators.affine_path`).

        Args:
            perturbations: L of them.
            rows: one of `blocks`, to be given predictions for it alone, (L, n).
            by_algebra: False has every z perturbed, to see whether the algebra holds.
        """
        if not all(isinstance(each, Perturbation) for each in perturbations):
            raise InputError("predict takes a sequence of perturbations")
        scale, offset, clip, post = _stacked(perturbations, self.network.units)
        unknown = np.full(len(scale), np.nan, np.float32)
        common = self._common_scale(scale, offset, clip, post) if by_algebra else unknown
        closed = ~np.isnan(common)
        rest = ~closed
        lines = list(find_affine_paths(self.network, scale, offset, clip, post, rest)) if by_algebra else []
        for places, _ in lines:
            rest[places] = False

        def flat(levels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
            return scale[levels].ravel(), offset[levels].ravel(), clip[levels].ravel(), post[levels]

        parts = []
        for part in [rows] if rows else self.blocks(len(perturbations)):
            out = np.empty((len(perturbations), part.stop - part.start), np.uint16)
            z, blocked = self._arranged(part)
            self._run(respond_scaled, blocked, (common[closed],), out, np.flatnonzero(closed))
            self._run(respond, blocked, flat(rest), out, np.flatnonzero(rest))
            for places, line in lines:
                undecided = self._follow(z, line, out, places)
                self._run(respond, blocked, flat(places), out, places, undecided)
            parts.append(out)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _run(self, kernel, z, arguments, out, levels, blocks=None) -> None:  # type: ignore[no-untyped-def]
        """Let a kernel fill the given levels of `out`, in all blocks or the given ones, threads sharing them."""
        if not len(levels):
            return
        act, (w2, b2) = KERNEL_ACTIVATIONS[self.network.activation], self._readout

        def work(span: tuple[int, int]) -> None:
            workspace = response_workspace(self.network.units, b2.size)
            kernel(act, z, *arguments, w2, b2, workspace, out, levels, *span)

        spans = self._spans(out.shape[1]) if blocks is None else [(block, block + 1) for block in blocks]
        parallel(work, spans, self.threads)

    def _follow(self, z: Floats, line: AffinePath, out: Predictions, levels: Places) -> Places:
        """Fill the given levels of `out` along a line; the blocks for which that has to be done in the other way."""
        act, flat = KERNEL_ACTIVATIONS[self.network.activation], z.reshape(-1)
        left = np.zeros(-(-len(z) // BLOCK), np.bool_)

        def work(span: tuple[int, int]) -> None:
            follow_path(act, flat, line, path_workspace(line), out, levels, *span, left)

        parallel(work, self._spans(len(z)), self.threads)
        return np.flatnonzero(left)

    def _spans(self, examples: int) -> list[tuple[int, int]]:
        """Blocks of so many examples in a few parts for each thread: first and last (excluded)."""
        edges = np.linspace(0, -(-examples // BLOCK), 4 * self.threads + 1).astype(int).tolist()
        return list(pairwise(edges))

    def _common_scale(self, scale: Floats, offset: Floats, clip: Floats, post: Flags) -> Floats:
        """(L,): the scale that all units share where a perturbation is nothing but that; else NaN.

        A clip of otherwise unperturbed z counts as none where no example reaches it.
        Units that are silent on these examples (act(z) = 0 for all of them) may have any other positive
        scale.
        """
        speaking = (self.ranges.post.minimum != 0) | (self.ranges.post.maximum != 0)
        if not self.network.act.homogeneous or not speaking.any():
            return np.full(len(scale), np.nan, np.float32)
        first = scale[:, int(speaking.argmax())]
        unreached = (scale == 1) & ~post[:, None] & (clip >= self.ranges.pre.maximum)
        unclipped = (clip == np.inf) | unreached
        plain = (offset == 0).all(axis=1) & unclipped.all(axis=1) & (scale > 0).all(axis=1)
        same = (scale[:, speaking] == first[:, None]).all(axis=1)
        return np.where(plain & same, first, np.float32(np.nan))

    def _is_whole(self, rows: slice) -> bool:
        return rows == slice(0, len(self))

    def _preactivations(self, rows: slice) -> Floats:
        """Return z = w1 x + b1 of some examples, (n, U)."""
        if self._given is not None:
            return self._given[rows]
        if "z" in self.__dict__:
            return self.z[rows]
        network, inputs = self.network, self._inputs
        part = inputs if self._is_whole(rows) else _some(inputs, rows)
        if isinstance(part, Pixels):
            order = known_order(part)  # only of all examples
            return preactivations(network.w1, network.b1, part, order=order, threads=self.threads)
        z = part @ network.w1.T
        z += network.b1
        return z

    def _arranged(self, rows: slice) -> tuple[Floats, Floats]:
        """z of some examples, (n, U) and as `_in_blocks`; kept if they are all."""
        z = self.z_of(rows)
        return z, self._whole if self._is_whole(rows) else _in_blocks(z)

    @cached_property
    def _whole(self) -> Floats:
        return _in_blocks(self.z)

    @cached_property
    def _readout(self) -> tuple[Floats, Floats]:
        """W2 as flat (groups, U, GROUP), b2 as (groups, GROUP); classes that fill up the last group never win."""
        classes, units = self.network.w2.shape
        groups = -(-classes // GROUP)
        w2 = np.zeros((groups * GROUP, units), np.float32)
        b2 = np.full(groups * GROUP, -np.inf, np.float32)
        w2[:classes], b2[:classes] = self.network.w2, self.network.b2
        return np.ascontiguousarray(w2.reshape(groups, GROUP, units).transpose(0, 2, 1)).ravel(), b2


def _some(inputs: Pixels | Floats, rows: slice | npt.NDArray[np.integer]) -> Pixels | Floats:
    """The inputs of some examples."""
    if isinstance(inputs, Pixels):
        return Pixels(inputs.values[rows], inputs.gain, inputs.shift)
    return inputs[rows]


def _stacked(perturbations: Sequence[Perturbation], units: int) -> tuple[Floats, Floats, Floats, Flags]:
    """Scale, offset and clip of L perturbations, (L, U) each; whether they act on activations, (L,)."""
    parameters = np.empty((3, len(perturbations), units), np.float32)
    for level, each in enumerate(perturbations):
        parameters[:, level] = each.per_unit(units)
    post = np.array([each.side == "post" for each in perturbations], dtype=np.bool_)
    return parameters[0], parameters[1], parameters[2], post


def _in_blocks(z: Floats) -> Floats:
    """z (n, U) as flat (blocks, U, 32): the same unit of 32 examples side by side; the last block is padded with 0."""
    examples, units = z.shape
    blocks = -(-examples // BLOCK)
    flat: Floats = aligned(blocks * units * BLOCK)
    padded = flat.reshape(blocks, units, BLOCK)
    whole = examples // BLOCK
    padded[:whole] = z[: whole * BLOCK].reshape(whole, BLOCK, units).transpose(0, 2, 1)
    if whole < blocks:
        padded[whole, :, : examples - whole * BLOCK] = z[whole * BLOCK :].T
    return flat


def _as_inputs(inputs: Pixels | npt.ArrayLike, width: int) -> Pixels | Floats:
    """The inputs as whole-number pixels where they are that, else as float32, (N, D)."""
    known = inputs if isinstance(inputs, Pixels) else _as_floats_or_pixels(inputs)
    seen = (known.values if isinstance(known, Pixels) else known).shape[1]
    if seen != width:
        raise InputError(f"inputs have {seen} values an example, but the network takes {width}")
    return known


def _as_floats_or_pixels(inputs: npt.ArrayLike) -> Pixels | Floats:
    array = as_numbers(inputs, "inputs")
    if array.ndim > 2 and array.size:
        array = array.reshape(len(array), -1)
    if array.ndim != 2 or not array.size:
        raise InputError(
            f"inputs must be an array (examples, inputs) with at least one example; got shape {array.shape}"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        pixels = array.astype(np.uint8)
        if np.array_equal(pixels, array):  # raw pixels in whatever type: one way to sum them, and the fastest
            return Pixels(pixels)
        return np.ascontiguousarray(array, dtype=np.float32)
