"""Gradient descent on networks, tile by tile: forward, loss and backward while everything is in cache.

The other products are in `forward` and `readout`; here is the gradient of the first layer, sum over examples of
dz x^T, and the loop that training is. A full batch goes through it in shards, each a batch without update; so do
measurements. Networks that see the same batches go through it together, and share the lists of non-zeros.
Which run, which threads, which steps: that's `nearzero.training.fused`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nearzero.kernels import readout
from nearzero.kernels.forward import fold, forward_tile
from nearzero.kernels.layout import aligned, by_width, each_strip, even, padded
from nearzero.kernels.simd import fma, halves, inlined, jit, load, load_like, splat, store, store_n
from nearzero.kernels.tiles import TILE, TileArrays, add_list, build_tile, pixel_pairs, sift

__all__ = [
    "Arrays",
    "BatchPlan",
    "Batches",
    "Shape",
    "Weights",
    "arrays_of",
    "derive",
    "descend",
    "make_arrays",
    "make_weights",
    "update",
    "weights_of",
]

Floats = npt.NDArray[np.float32]


class Shape(NamedTuple):
    """What a network's arrays are: D pixels, U units, K classes; the affine map before them."""

    inputs: int
    units: int
    classes: int
    gain: np.float32
    shift: np.float32


class Arrays(NamedTuple):
    """The four arrays of a network, or their gradients, as kernels want them; or of several, a row for each.

    Attributes:
        w1: strips of D rows. b1: units padded to a multiple of 16.
        w2: strips of K rows, a row of zeros added if K is odd. b2: classes padded to a multiple of 16; in
            weights the padding is `MISSING`.
    """

    w1: Floats
    b1: Floats
    w2: Floats
    b2: Floats


class Weights(NamedTuple):
    """A network's arrays, and what is derived from them after each update; or several networks', a row for each.

    Attributes:
        own: the network's.
        w, b: w1 and b1 with the affine map folded in; the same arrays where there's none.
        w2t: w2 as flat (U, classes), classes padded.
    """

    own: Arrays
    w: Floats
    b: Floats
    w2t: Floats


def make_arrays(shape: Shape, rows: int) -> Arrays:
    """Zeros, for so many networks."""
    units = padded(shape.units)
    sizes = units * shape.inputs, units, units * even(shape.classes), padded(shape.classes)
    return Arrays(*(aligned(rows * size).reshape(rows, size) for size in sizes))


def make_weights(shape: Shape, rows: int) -> Weights:
    """Zeros, and `MISSING` where there's no class, for so many networks."""
    own = make_arrays(shape, rows)
    own.b2[:, shape.classes :] = readout.MISSING
    affine = shape.gain != 1 or shape.shift != 0
    w = aligned(own.w1.size).reshape(own.w1.shape) if affine else own.w1
    b = aligned(own.b1.size).reshape(own.b1.shape) if affine else own.b1
    w2t = shape.units * own.b2.shape[1]
    return Weights(own, w, b, aligned(rows * w2t).reshape(rows, w2t))


class Batches(NamedTuple):
    """The examples that batches are cut from.

    Attributes:
        tiles: those of the set (`TileArrays`), or workspace for one if `build`.
        build: whether to build each tile from `values`, flat (N * D,), and `order`, (N,); else these aren't
            looked at.
        labels: (N,) in the order of the examples.
    """

    tiles: TileArrays
    build: bool
    values: npt.NDArray[np.uint8]
    order: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]


class BatchPlan(NamedTuple):
    """Which batches to go through, and what for.

    Attributes:
        batch: examples in a batch; where tiles aren't built on the way, a multiple of `TILE`.
        first, last: the batches, `last` excluded.
        backward: whether to compute gradients.
        update: whether to move the weights after each batch, by `rate` times its mean gradient; only if `backward`.
    """

    batch: int
    first: int
    last: int
    backward: bool
    update: bool
    rate: float


@jit
def arrays_of(arrays, row):  # type: ignore[no-untyped-def]
    """One network's arrays of several's."""
    return Arrays(arrays.w1[row], arrays.b1[row], arrays.w2[row], arrays.b2[row])


@jit
def weights_of(weights, row):  # type: ignore[no-untyped-def]
    """One network's weights of several's."""
    return Weights(arrays_of(weights.own, row), weights.w[row], weights.b[row], weights.w2t[row])


@jit
def derive(weights, shape):  # type: ignore[no-untyped-def]
    """Bring w, b and w2t up to date with the network's own arrays."""
    own, w2t = weights.own, weights.w2t
    if shape.gain != np.float32(1.0) or shape.shift != np.float32(0.0):
        fold(own.w1, own.b1, shape.inputs, shape.gain, shape.shift, weights.w, weights.b)
    for unit, width in each_strip(own.b1.size):
        for k in range(shape.classes):
            row = unit * (shape.classes + shape.classes % 2) + k * width
            for u in range(min(width, shape.units - unit)):
                w2t[(unit + u) * own.b2.size + k] = own.w2[row + u]


@jit
def _move(array, direction, rate):  # type: ignore[no-untyped-def]
    for i in range(0, array.size, 16):
        store(array, i, fma(rate, load(direction, i), load(array, i)))


@jit
def _move_strip(weights, gradient, shape, unit, width, rate):  # type: ignore[no-untyped-def]
    """w1 <- w1 - rate * its gradient, in one strip; by the chain rule that's gain * g_w1 + shift * g_b1 1'."""
    w1, down, gain, shift = weights.own.w1, splat(-rate), splat(shape.gain), splat(shape.shift)
    for row in range(unit * shape.inputs, (unit + width) * shape.inputs, width):
        for lane in range(0, width, 16):
            slope = fma(gain, load(gradient.w1, row + lane), shift * load(gradient.b1, unit + lane))
            store(w1, row + lane, fma(down, slope, load(w1, row + lane)))


@jit
def _move_rest(weights, gradient, shape, rate):  # type: ignore[no-untyped-def]
    """The same for the other arrays; after that, what is derived."""
    down = splat(-rate)
    _move(weights.own.b1, gradient.b1, down)
    _move(weights.own.w2, gradient.w2, down)
    _move(weights.own.b2, gradient.b2, down)
    derive(weights, shape)


@jit
def update(weights, gradient, shape, rate):  # type: ignore[no-untyped-def]
    """w <- w - rate * gradient, and what is derived. The rate is that of a sum over examples: the learning rate / N."""
    for unit, width in each_strip(weights.own.b1.size):
        _move_strip(weights, gradient, shape, unit, width, rate)
    _move_rest(weights, gradient, shape, rate)


@by_width
@inlined
def _pixel_strip(width, none, unit, job):  # type: ignore[no-untyped-def]
    entries, starts, tile, inputs, dz, fresh, g_w1 = job
    lists, base, start = tile * pixel_pairs(inputs), unit * TILE, unit * inputs
    for p in range(0, inputs, 2):
        its, row = lists + p // 2, start + p * width
        if starts[its] == starts[its + 1] and not fresh:
            continue
        one, other = none, none
        if not fresh:
            one = load_like(g_w1, row, none)
            if p + 1 < inputs:
                other = load_like(g_w1, row + width, none)
        one, other = halves(add_list(entries, starts[its], starts[its + 1], dz, base, width, one + other))
        store_n(g_w1, row, one)
        if p + 1 < inputs:
            store_n(g_w1, row + width, other)


@jit
def _pixel_gradient(entries, starts, tile, inputs, dz, unit, width, fresh, g_w1):  # type: ignore[no-untyped-def]
    """Add the share of tile number `tile` to the gradient of w1, in the strip of `width` units from `unit` on.

    The rows of dz of a strip stay in the first-level cache, and the sums of a pixel's row in registers. Pixels are
    taken two at a time: in the examples where either isn't zero, and that's mostly both, one load of dz serves two
    rows of sums. Each sum goes over a batch's examples in order, so the size of tiles can't be seen in it. Rows of
    pixels that are zero in the whole tile aren't touched.

    entries, starts: lists of pairs of pixels; dz: strips of `TILE` rows; fresh: whether the gradient starts here,
    from 0; g_w1: strips of `inputs` rows.
    """
    _pixel_strip(width, unit, (entries, starts, tile, inputs, dz, fresh, g_w1))


@jit
def _clear(gradient):  # type: ignore[no-untyped-def]
    """Zeros, w1's gradient apart: the first tile of a batch overwrites that."""
    for array in (gradient.b1, gradient.w2, gradient.b2):
        array[:] = np.float32(0.0)


@jit
def _go_through(code, weights, shape, batches, span, plan, fresh, rate, workspace, gradient, loss):  # type: ignore[no-untyped-def]
    """One network on one tile: forward and loss, gradients if asked, and an update by `rate` unless that's 0.

    span: the tile's number among those of `batches`, its first example, and how many there are.
    Returns loss plus the tile's; correct ones.
    """
    tiles, labels, (tile, at, examples) = batches.tiles, batches.labels, span
    classes, units, pairs = weights.own.b2.size, weights.b.size, (examples + 1) // 2
    forward_tile(tiles, tile, pairs, weights.w, weights.b, shape.inputs, workspace.z)
    readout.activate_tile(code, workspace.z, workspace.a, 2 * pairs, units)
    readout.logit_tile(workspace.a, examples, weights.w2t, shape.units, classes, workspace.logits)
    loss, correct = readout.loss_tile(workspace, weights.own.b2, labels, at, examples, loss)
    if plan.backward:
        count = readout.residual_tile(workspace, classes, labels, at, examples)
        readout.hidden_gradient(workspace, classes, count, weights.own.w2, shape.classes)
        readout.output_gradient(workspace, classes, count, shape.classes, gradient)
        entries, starts = tiles.turned, tiles.turned_starts
        if count < examples:
            sift(tiles, tile, shape.inputs, workspace.taught, count, workspace.sifted)
            entries, starts, tile = workspace.sifted.entries, workspace.sifted.starts, 0
        for unit, width in each_strip(units):
            _pixel_gradient(entries, starts, tile, shape.inputs, workspace.z, unit, width, fresh, gradient.w1)
            if rate:  # while the strip is in the second-level cache
                _move_strip(weights, gradient, shape, unit, width, rate)
        if rate:
            _move_rest(weights, gradient, shape, rate)
    return loss, correct


@jit
def descend(codes, rows, weights, shape, batches, plan, workspace, gradients, losses, correct):  # type: ignore[no-untyped-def]
    """Run through batches: forward and loss; if asked, gradients; if asked, an update after each batch.

    Args:
        codes: (n,) of the networks' activations, in `ACTIVATION_CODES`.
        rows: (n,) which of `weights` are these networks'.
        weights, shape: of the networks, and what is the same for them all.
        batches: the examples.
        plan: what to do with them, a `BatchPlan`.
        workspace: for one tile's way through a network.
        gradients: of the last batch, afterwards, in its first n rows.
        losses, correct: (n,), to which the losses and the numbers of correct predictions are added, each batch
            measured before its update.
    """
    for step in range(plan.first, plan.last):
        start = step * plan.batch
        stop = min(start + plan.batch, batches.labels.size)
        for k in range(rows.size):
            _clear(arrays_of(gradients, k))
        for at in range(start, stop, TILE):
            examples, tile = min(TILE, stop - at), at // TILE
            last = plan.update and at + examples == stop
            rate = np.float32(plan.rate / (stop - start)) if last else np.float32(0.0)
            if batches.build:
                values, order = batches.values, batches.order
                build_tile(batches.tiles, values, shape.inputs, order, at, examples, plan.backward)
                tile = 0
            span, fresh = (tile, at, examples), at == start
            for k in range(rows.size):
                one, gradient = weights_of(weights, rows[k]), arrays_of(gradients, k)
                losses[k], right = _go_through(
                    codes[k], one, shape, batches, span, plan, fresh, rate, workspace, gradient, losses[k]
                )
                correct[k] += right
