"""The hidden layer of one of the paper's networks on a set of examples.

The pre-activations z are computed once; then predictions are computed under any number of perturbations. All
code that perturbs the paper's networks uses this module, so all of it gets the same predictions. The compiled
loops are in `nearzero.kernels`; `nearzero.perturbations.families` turns levels into perturbations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
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
from nearzero.perturbations.perturbation import PARAMETERS, Perturbation
from nearzero.perturbations.ranges import Ranges
from nearzero.support.arrays import as_numbers
from nearzero.support.memory import memory_limit
from nearzero.support.threads import parallel, thread_count
from nearzero.support.words import number_of

__all__ = ["HiddenLayer"]

SHARDS = 16  # groups of examples that are summed separately, for any number of threads, so the order is fixed

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Predictions = npt.NDArray[np.uint16]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


class HiddenLayer:
    """Compute predictions of one network on N examples, with its hidden layer perturbed.

    The network has z = W1 x + b1 (N, U) and logits W2 act(z) + b2 (N, K).

    Args:
        network: the network, with finite weights.
        inputs: `Pixels`, or an array (N, D) of real numbers. Whole numbers from 0 to 255 are taken as raw
            pixels.
        threads: the number of threads; by default, all that this process may use. The results don't depend on
            it.
        memory: the memory that z and the predictions may take, as `nearzero.support.memory.memory_limit`
            reads it. If they would take more, z isn't kept but computed again for each block of examples.

    Raises:
        InputError: no inputs, inputs of another width than the network's, or values that aren't finite.

    Example:
        Unit u is the logit of class u. If both units are clipped at 3, the last two examples have equal
        logits, and the first class is predicted.

        >>> import nearzero as nz
        >>> import numpy as np
        >>> network = nz.TwoLayer(np.eye(2), np.zeros(2), np.eye(2), np.zeros(2), "relu")
        >>> layer = nz.HiddenLayer(network, [[2, 1], [1, 2], [5, 4], [4, 5]])
        >>> layer.ranges.pre.maximum.tolist()
        [5.0, 5.0]
        >>> layer.unperturbed.tolist()
        [0, 1, 0, 1]
        >>> layer.predict([nz.Perturbation(clip=3.0)]).tolist()
        [[0, 1, 0, 0]]
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
        self._replaced_z: Floats | None = None

    def part(self, rows: npt.NDArray[np.integer]) -> HiddenLayer:
        """Return the same layer on some of the examples, given by their indices."""
        return self._like(self.network, _take(self._inputs, rows))

    def of_units(self, units: npt.NDArray[np.integer]) -> HiddenLayer:
        """Return the layer of some units, given by their indices, on the same examples."""
        network = self.network
        w1, b1, w2 = network.w1[units], network.b1[units], network.w2[:, units]
        return self._like(TwoLayer(w1, b1, w2, network.b2, network.activation), self._inputs)

    def _like(self, network: TwoLayer, inputs: Pixels | Floats) -> HiddenLayer:
        return HiddenLayer(network, inputs, threads=self.threads, memory=self.memory)

    def with_z(self, z: Floats) -> HiddenLayer:
        """Return the same layer with other pre-activations z (N, U).

        Raises:
            InputError: z has another shape.
        """
        if z.shape != (len(self), self.network.units):
            raise InputError(f"z must have shape ({len(self)}, {self.network.units}); got {z.shape}")
        other = self._like(self.network, self._inputs)
        other._replaced_z = np.ascontiguousarray(z, dtype=np.float32)
        return other

    def __len__(self) -> int:
        return len(self._inputs)

    def blocks(self, levels: int = 1) -> Iterator[slice]:
        """Yield consecutive blocks of examples whose z, and predictions at this number of levels, fit in memory."""
        # bytes per example: z in two layouts in float32, and predictions twice in uint16
        rows = self.memory // (8 * self.network.units + 4 * levels) // BLOCK * BLOCK
        for first in range(0, len(self), max(rows, BLOCK)):
            yield slice(first, min(first + max(rows, BLOCK), len(self)))

    @cached_property
    def z(self) -> Floats:
        """Return the pre-activations of all examples, (N, U)."""
        return self._preactivations(slice(0, len(self)))

    def z_of(self, rows: slice) -> Floats:
        """Return the pre-activations of a slice of the examples, (n, U); those of all examples are kept."""
        return self.z if self._is_whole(rows) else self._preactivations(rows)

    def exact(self, rows: slice) -> Doubles:
        """Return the pre-activations of a slice of the examples, computed in float64, (n, U)."""
        if self._replaced_z is not None:
            return self._replaced_z[rows].astype(np.float64)
        network, inputs = self.network, self._inputs
        if isinstance(inputs, Pixels):
            x = inputs.values[rows].astype(np.float64) * inputs.gain + inputs.shift
        else:
            x = inputs[rows].astype(np.float64)
        return np.asarray(x @ network.w1.T.astype(np.float64) + network.b1)

    @cached_property
    def ranges(self) -> Ranges:
        """Return the unit ranges over the examples, with the norms of the units' weights."""
        ranges = Ranges.of((self.z_of(rows) for rows in self.blocks()), self.network.act)
        return replace(ranges, norms=np.linalg.norm(self.network.w1.astype(np.float64), axis=1))

    @cached_property
    def unperturbed(self) -> Predictions:
        """Return the unperturbed predictions, (N,)."""
        return np.asarray(self.predict([Perturbation()])[0])

    def changes(self, perturbations: Sequence[Perturbation]) -> tuple[Doubles, Doubles]:
        """Return the sums over examples of (a' - a)^2 and of a' - a under each perturbation, (L, U) each."""
        units = self.network.units
        *parameters, post = _stacked(perturbations, units)
        flat = [parameter.ravel() for parameter in parameters]
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

    def logit_bounds(self, perturbations: Sequence[Perturbation]) -> Doubles:
        """Return for each perturbation a number that no |logit| exceeds, nor any term or part of its sum, (L,).

        With all parameters and weights by unit, |y| <= max(|scale| max |x| + |offset|, |clip|, |low|), and
        |act(y)| <= |y| + 1 for all nine activations. The sum over units takes the greatest |W2| of each.
        """
        scale, offset, clip, low, post = _stacked(perturbations, self.network.units)
        pre_size, post_size = (
            np.maximum(np.abs(side.minimum), np.abs(side.maximum)).astype(np.float64)
            for side in (self.ranges.pre, self.ranges.post)
        )
        sizes = np.where(post[:, None], post_size, pre_size)
        bounds = np.abs(scale) * sizes + np.abs(offset)
        for bound in (clip, low):
            bounds = np.maximum(bounds, np.where(np.isfinite(bound), np.abs(bound), 0.0))
        weights = np.abs(self.network.w2).max(axis=0).astype(np.float64)
        return np.asarray((bounds + 1.0) @ weights + np.abs(self.network.b2).max())

    def with_b2(self, b2: npt.NDArray[np.floating]) -> HiddenLayer:
        """Return the same layer, with z if that has been computed, in a network with other output biases (K,)."""
        network = self.network
        other = copy(self)
        other.network = TwoLayer(network.w1, network.b1, network.w2, b2, network.activation)
        for name in ("_readout", "unperturbed"):
            other.__dict__.pop(name, None)
        return other

    def predict(
        self, perturbations: Sequence[Perturbation], rows: slice | None = None, *, by_algebra: bool = True
    ) -> Predictions:
        """Return the class with the greatest logit, the first one in a tie, under each perturbation, (L, N).

        Two shortcuts avoid perturbing every z. A perturbation that scales all units by one s > 0 is applied
        to the logits if the activation is positively homogeneous: argmax(s W2 act(z) + b2) needs one product
        for all such s. A clip that no example reaches counts as s = 1. Perturbations on a straight line and
        without a lower bound are followed along it, see `nearzero.evaluators.affine_path`.

        Args:
            perturbations: L perturbations.
            rows: one of `blocks`, for its predictions only, (L, n).
            by_algebra: False to perturb every z in any case, to test the shortcuts.

        Raises:
            InputError: `perturbations` has elements of another type.
        """
        if not all(isinstance(each, Perturbation) for each in perturbations):
            raise InputError("predict takes a sequence of perturbations")
        scale, offset, clip, low, post = _stacked(perturbations, self.network.units)
        none = np.full(len(scale), np.nan, np.float32)
        common = self._common_scale(scale, offset, clip, low, post) if by_algebra else none
        scaled = ~np.isnan(common)
        rest = ~scaled
        paths = (
            list(find_affine_paths(self.network, scale, offset, clip, low, post, rest)) if by_algebra else []
        )
        for on_path, _ in paths:
            rest[on_path] = False

        def flat(levels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
            return *(parameter[levels].ravel() for parameter in (scale, offset, clip, low)), post[levels]

        predictions = []
        for block in [rows] if rows else self.blocks(len(perturbations)):
            out = np.empty((len(perturbations), block.stop - block.start), np.uint16)
            z, blocked = self._arranged(block)
            self._run(respond_scaled, blocked, (common[scaled],), out, np.flatnonzero(scaled))
            self._run(respond, blocked, flat(rest), out, np.flatnonzero(rest))
            for on_path, path in paths:
                undecided = self._follow(z, path, out, on_path)
                self._run(respond, blocked, flat(on_path), out, on_path, undecided)
            predictions.append(out)
        return predictions[0] if len(predictions) == 1 else np.concatenate(predictions, axis=1)

    def _run(self, kernel, z, arguments, out, levels, blocks=None) -> None:  # type: ignore[no-untyped-def]
        """Run a kernel that fills some levels (rows) of `out`, in all blocks or in some; threads share the blocks."""
        if not len(levels):
            return
        act, (w2, b2) = KERNEL_ACTIVATIONS[self.network.activation], self._readout

        def work(span: tuple[int, int]) -> None:
            workspace = response_workspace(self.network.units, b2.size)
            kernel(act, z, *arguments, w2, b2, workspace, out, levels, *span)

        spans = self._spans(out.shape[1]) if blocks is None else [(block, block + 1) for block in blocks]
        parallel(work, spans, self.threads)

    def _follow(self, z: Floats, path: AffinePath, out: Predictions, levels: Indices) -> Indices:
        """Fill some levels (rows) of `out` along a path, and return the blocks that it leaves undecided."""
        act, flat = KERNEL_ACTIVATIONS[self.network.activation], z.reshape(-1)
        undecided = np.zeros(-(-len(z) // BLOCK), np.bool_)

        def follow(span: tuple[int, int]) -> None:
            follow_path(act, flat, path, path_workspace(path), out, levels, *span, undecided)

        parallel(follow, self._spans(len(z)), self.threads)
        return np.flatnonzero(undecided)

    def _spans(self, examples: int) -> list[tuple[int, int]]:
        """Return spans (first, end) of the blocks of this number of examples, a few for each thread."""
        edges = np.linspace(0, -(-examples // BLOCK), 4 * self.threads + 1).astype(int).tolist()
        return list(pairwise(edges))

    def _common_scale(self, scale: Floats, offset: Floats, clip: Floats, low: Floats, post: Flags) -> Floats:
        """Return for each perturbation the scale that all units share, (L,); NaN if it does anything else.
        A clip of otherwise unperturbed z counts as none if no example reaches it. Units with act(z) = 0 on
        all of these examples may have any other positive scale, since it changes nothing.
        """
        active = (self.ranges.post.minimum != 0) | (self.ranges.post.maximum != 0)
        if not self.network.act.homogeneous or not active.any():
            return np.full(len(scale), np.nan, np.float32)
        first = scale[:, int(active.argmax())]
        unreached = (scale == 1) & ~post[:, None] & (clip >= self.ranges.pre.maximum)
        unbounded = ((clip == np.inf) | unreached) & (low == -np.inf)
        plain = (offset == 0).all(axis=1) & unbounded.all(axis=1) & (scale > 0).all(axis=1)
        same = (scale[:, active] == first[:, None]).all(axis=1)
        return np.where(plain & same, first, np.float32(np.nan))

    def _is_whole(self, rows: slice) -> bool:
        return rows == slice(0, len(self))

    def _preactivations(self, rows: slice) -> Floats:
        """Return z = W1 x + b1 of some examples, (n, U)."""
        if self._replaced_z is not None:
            return self._replaced_z[rows]
        if "z" in self.__dict__:
            return self.z[rows]
        network, inputs = self.network, self._inputs
        block = inputs if self._is_whole(rows) else _take(inputs, rows)
        if isinstance(block, Pixels):
            order = known_order(block)  # known for all examples only
            return preactivations(network.w1, network.b1, block, order=order, threads=self.threads)
        z = block @ network.w1.T
        z += network.b1
        return z

    def _arranged(self, rows: slice) -> tuple[Floats, Floats]:
        """Return z of some examples as (n, U) and as `_in_blocks`; both are kept for all examples."""
        z = self.z_of(rows)
        return z, self._whole if self._is_whole(rows) else _in_blocks(z)

    @cached_property
    def _whole(self) -> Floats:
        return _in_blocks(self.z)

    @cached_property
    def _readout(self) -> tuple[Floats, Floats]:
        """Return W2 as flat (groups, U, GROUP) and b2 as flat (groups, GROUP).

        The last group is filled up with classes of logit -inf, which are never predicted.
        """
        classes, units = self.network.w2.shape
        groups = -(-classes // GROUP)
        w2 = np.zeros((groups * GROUP, units), np.float32)
        b2 = np.full(groups * GROUP, -np.inf, np.float32)
        w2[:classes], b2[:classes] = self.network.w2, self.network.b2
        return np.ascontiguousarray(w2.reshape(groups, GROUP, units).transpose(0, 2, 1)).ravel(), b2


def _take(inputs: Pixels | Floats, rows: slice | npt.NDArray[np.integer]) -> Pixels | Floats:
    """Return the inputs of some examples."""
    if isinstance(inputs, Pixels):
        return Pixels(inputs.values[rows], inputs.gain, inputs.shift)
    return inputs[rows]


def _stacked(
    perturbations: Sequence[Perturbation], units: int
) -> tuple[Floats, Floats, Floats, Floats, Flags]:
    """Return scale, offset, clip and low of L perturbations, (L, U) each, and True for those of activations, (L,)."""
    parameters = np.empty((len(PARAMETERS), len(perturbations), units), np.float32)
    for level, perturbation in enumerate(perturbations):
        parameters[:, level] = perturbation.per_unit(units)
    post = np.array([perturbation.side == "post" for perturbation in perturbations], dtype=np.bool_)
    scale, offset, clip, low = parameters
    return scale, offset, clip, low, post


def _in_blocks(z: Floats) -> Floats:
    """Return z (n, U) as flat (blocks, U, BLOCK), padded with 0: one unit of BLOCK examples is contiguous."""
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
    """Return inputs (N, D) as pixels if they are whole numbers from 0 to 255, else as float32.

    Raises:
        InputError: they aren't an array of numbers with D = width and N > 0.
    """
    checked = inputs if isinstance(inputs, Pixels) else _as_floats_or_pixels(inputs)
    values = checked.values if isinstance(checked, Pixels) else checked
    if values.shape[1] != width:
        raise InputError(
            f"inputs have {number_of(values.shape[1], 'value')} an example, but the network takes {width}"
        )
    return checked


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
        if np.array_equal(pixels, array):  # raw pixels of any type are summed in one way, the fastest
            return Pixels(pixels)
        return np.ascontiguousarray(array, dtype=np.float32)
