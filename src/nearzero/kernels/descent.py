"""Gradient descent on networks, tile by tile: forward, loss and backward while everything is in cache.

This module has the gradient of the first layer, the sum over examples of dz x^T, and the loop of training;
the other products are in `forward` and `readout`. A full batch is processed in shards, each a batch without
update; so are measurements. Networks that see the same batches are processed together, and share the lists of
non-zeros. `nearzero.training.fused` decides about runs, threads and steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nearzero.kernels import readout
from nearzero.kernels.forward import fold, forward_tile
from nearzero.kernels.layout import aligned, by_width, each_strip, even, padded
from nearzero.kernels.simd import fma, halves, inlined, jit, load, load_like, splat, store, store_n
from nearzero.kernels.tiles import TILE, TileArrays, add_list, build_tile, filter_lists, pixel_pairs

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
    """The sizes of a network, D pixels, U units, K classes, and the affine map x = gain p + shift of pixels."""

    inputs: int
    units: int
    classes: int
    gain: np.float32
    shift: np.float32


class Arrays(NamedTuple):
    """The four arrays of a network, or their gradients; or of several networks, a row for each.

    Attributes:
        w1: strips of D rows.
        b1: units, padded to a multiple of 16.
        w2: strips of K rows, and a row of zeros if K is odd.
        b2: classes, padded to a multiple of 16; in weights the padding is `MISSING`.
    """

    w1: Floats
    b1: Floats
    w2: Floats
    b2: Floats


class Weights(NamedTuple):
    """The arrays of a network, and arrays derived from them after each update; or of several, a row for each.

    Attributes:
        own: the network's arrays.
        w, b: w1 and b1 with the affine map folded in; the arrays of `own` if there is no such map.
        w2t: w2 as flat (U, classes), classes padded.
    """

    own: Arrays
    w: Floats
    b: Floats
    w2t: Floats


def make_arrays(shape: Shape, rows: int) -> Arrays:
    """Return arrays of zeros for a number of networks, a row for each."""
    units = padded(shape.units)
    sizes = units * shape.inputs, units, units * even(shape.classes), padded(shape.classes)
    return Arrays(*(aligned(rows * size).reshape(rows, size) for size in sizes))


def make_weights(shape: Shape, rows: int) -> Weights:
    """Return weights for a number of networks: zeros, and `MISSING` in the padding of b2."""
    own = make_arrays(shape, rows)
    own.b2[:, shape.classes :] = readout.MISSING
    affine = shape.gain != 1 or shape.shift != 0
    w = aligned(own.w1.size).reshape(own.w1.shape) if affine else own.w1
    b = aligned(own.b1.size).reshape(own.b1.shape) if affine else own.b1
    w2t = shape.units * own.b2.shape[1]
    return Weights(own, w, b, aligned(rows * w2t).reshape(rows, w2t))


class Batches(NamedTuple):
    """The examples from which batches are taken.

    Attributes:
        tiles: the tiles of the set, or if `build` the arrays in which each tile is built.
        build: whether to build each tile from `values` and `order`, which else aren't used.
        values: flat (N * D,), the pixels.
        order: (N,), the order of the examples.
        labels: (N,), in that order.
    """

    tiles: TileArrays
    build: bool
    values: npt.NDArray[np.uint8]
    order: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]


class BatchPlan(NamedTuple):
    """The batches to process, and what to do with them.

    Attributes:
        batch: examples in a batch; a multiple of `TILE` if tiles aren't built here.
        first, last: the range of batches, `last` excluded.
        backward: whether to compute gradients.
        update: whether to move the weights after each batch, by `rate` times its mean gradient; only if
            `backward`.
    """

    batch: int
    first: int
    last: int
    backward: bool
    update: bool
    rate: float


@jit
def arrays_of(arrays, row):  # type: ignore[no-untyped-def]
    """Return the arrays of the network in a row."""
    return Arrays(arrays.w1[row], arrays.b1[row], arrays.w2[row], arrays.b2[row])


@jit
def weights_of(weights, row):  # type: ignore[no-untyped-def]
    """Return the weights of the network in a row."""
    return Weights(arrays_of(weights.own, row), weights.w[row], weights.b[row], weights.w2t[row])


@jit
def derive(weights, shape):  # type: ignore[no-untyped-def]
    """Compute w, b and w2t from the network's own arrays."""
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
    """Update one strip: w1 <- w1 - rate * (gain * g_w1 + shift * g_b1 1'), the gradient by the chain rule."""
    w1, minus_rate, gain, shift = weights.own.w1, splat(-rate), splat(shape.gain), splat(shape.shift)
    for row in range(unit * shape.inputs, (unit + width) * shape.inputs, width):
        for lane in range(0, width, 16):
            slope = fma(gain, load(gradient.w1, row + lane), shift * load(gradient.b1, unit + lane))
            store(w1, row + lane, fma(minus_rate, slope, load(w1, row + lane)))


@jit
def _move_rest(weights, gradient, shape, rate):  # type: ignore[no-untyped-def]
    """Update the other arrays, then the derived ones."""
    minus_rate = splat(-rate)
    _move(weights.own.b1, gradient.b1, minus_rate)
    _move(weights.own.w2, gradient.w2, minus_rate)
    _move(weights.own.b2, gradient.b2, minus_rate)
    derive(weights, shape)


@jit
def update(weights, gradient, shape, rate):  # type: ignore[no-untyped-def]
    """Update all weights: w <- w - rate * gradient.

    The gradient is a sum over N examples, so the rate is the learning rate divided by N.
    """
    for unit, width in each_strip(weights.own.b1.size):
        _move_strip(weights, gradient, shape, unit, width, rate)
    _move_rest(weights, gradient, shape, rate)


@by_width
@inlined
def _pixel_strip(width, zeros, unit, arguments):  # type: ignore[no-untyped-def]
    entries, starts, tile, inputs, dz, fresh, g_w1 = arguments
    lists, base, start = tile * pixel_pairs(inputs), unit * TILE, unit * inputs
    for p in range(0, inputs, 2):
        k, row = lists + p // 2, start + p * width
        if starts[k] == starts[k + 1] and not fresh:
            continue
        first, second = zeros, zeros
        if not fresh:
            first = load_like(g_w1, row, zeros)
            if p + 1 < inputs:
                second = load_like(g_w1, row + width, zeros)
        first, second = halves(add_list(entries, starts[k], starts[k + 1], dz, base, width, first + second))
        store_n(g_w1, row, first)
        if p + 1 < inputs:
            store_n(g_w1, row + width, second)


@jit
def _pixel_gradient(entries, starts, tile, inputs, dz, unit, width, fresh, g_w1):  # type: ignore[no-untyped-def]
    """Add the sums over tile number `tile` to the gradient of w1, in the strip that begins at `unit`.

    The rows of dz of a strip stay in the first-level cache, and the sums of a pixel's row in registers.
    Pixels are processed in pairs: one load of dz is used for two rows of sums in the examples where at least
    one of the two pixels is nonzero; in most of these both are. Each sum goes over a batch's examples in
    order, so it doesn't depend on the size of tiles. Rows of pixels that are zero in the whole tile aren't
    accessed.

    entries, starts: the lists of pairs of pixels; dz: strips of `TILE` rows; fresh: whether to begin the
    gradient from 0 instead of adding to it; g_w1: strips of `inputs` rows.
    """
    _pixel_strip(width, unit, (entries, starts, tile, inputs, dz, fresh, g_w1))


@jit
def _clear(gradient):  # type: ignore[no-untyped-def]
    """Set the gradients to zero, except that of w1, which the first tile of a batch overwrites."""
    for array in (gradient.b1, gradient.w2, gradient.b2):
        array[:] = np.float32(0.0)


@jit
def _process_tile(code, weights, shape, batches, span, plan, fresh, rate, workspace, gradient, loss):  # type: ignore[no-untyped-def]
    """Process one tile with one network: forward and loss, gradients if planned, an update if `rate` isn't 0.

    span: the number of the tile in `batches`, its first example, and the number of its examples.
    Returns `loss` plus the tile's loss, and the number of correct predictions.
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
        entries, starts = tiles.by_pixel, tiles.by_pixel_starts
        if count < examples:
            filter_lists(tiles, tile, shape.inputs, workspace.contributing, count, workspace.filtered)
            entries, starts, tile = workspace.filtered.entries, workspace.filtered.starts, 0
        for unit, width in each_strip(units):
            _pixel_gradient(entries, starts, tile, shape.inputs, workspace.z, unit, width, fresh, gradient.w1)
            if rate:  # here, since the strip is still in the second-level cache
                _move_strip(weights, gradient, shape, unit, width, rate)
        if rate:
            _move_rest(weights, gradient, shape, rate)
    return loss, correct


@jit
def descend(codes, rows, weights, shape, batches, plan, workspace, gradients, losses, correct):  # type: ignore[no-untyped-def]
    """Process batches: forward and loss; if planned, gradients; if planned, an update after each batch.

    Args:
        codes: (n,), the networks' activations in `ACTIVATION_CODES`.
        rows: (n,), the rows of these networks in `weights`.
        weights: the weights of these and other networks.
        shape: the sizes of all networks, a `Shape`.
        batches: the examples, a `Batches`.
        plan: the batches to process and what to do with them, a `BatchPlan`.
        workspace: a `TileWorkspace`.
        gradients: afterwards, in the first n rows, the gradients of the last batch.
        losses, correct: (n,), to which the losses and the numbers of correct predictions are added; each
            batch is measured before its update.
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
                network, gradient = weights_of(weights, rows[k]), arrays_of(gradients, k)
                losses[k], hits = _process_tile(
                    codes[k], network, shape, batches, span, plan, fresh, rate, workspace, gradient, losses[k]
                )
                correct[k] += hits
