"""Gradient descent on one network, tile by tile: forward, loss and backward while everything is in cache.

The products themselves are in `forward`, `readout` and `gradient`; here they are put together into the two loops that
training runs, over shards of a full batch (`run_tiles`, which measures too) and over mini-batches (`run_batches`).
Which run, which threads, which steps: that's `nearzero.training.fused`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nearzero.kernels.forward import fold, forward_tile
from nearzero.kernels.gradient import pixel_gradient
from nearzero.kernels.layout import aligned, padded, strip_width
from nearzero.kernels.readout import (
    MISSING,
    activate_tile,
    hidden_gradient,
    logit_tile,
    loss_tile,
    output_gradient,
    residual_tile,
)
from nearzero.kernels.simd import fma, jit, load, splat, store
from nearzero.kernels.tiles import TILE, build_tile

__all__ = ["Arrays", "Room", "Shape", "Weights", "make_arrays", "make_room", "make_weights", "run_batches", "run_tiles", "update"]

Floats = npt.NDArray[np.float32]


class Shape(NamedTuple):
    """What a network's arrays are: D pixels, U units, K classes; the affine map before them."""

    inputs: int
    units: int
    classes: int
    gain: np.float32
    shift: np.float32


class Arrays(NamedTuple):
    """The four arrays of a network, or their gradients, as kernels want them.

    Attributes:
        w1: strips of D rows. b1: units padded to a multiple of 16.
        w2: strips of K rows. b2: classes padded to a multiple of 16; in weights the padding is `MISSING`.
    """

    w1: Floats
    b1: Floats
    w2: Floats
    b2: Floats


class Weights(NamedTuple):
    """A network's arrays, and what is derived from them after each update.

    Attributes:
        own: the network's.
        w, b: w1 and b1 with the affine map folded in; the same arrays where there's none.
        w2t: w2 as flat (U, classes), classes padded.
    """

    own: Arrays
    w: Floats
    b: Floats
    w2t: Floats


class Room(NamedTuple):
    """A tile on its way through the network: about 100 KB for 128 units, of which most stays in the first-level cache."""

    z: Floats
    a: Floats
    dz: Floats
    logits: Floats
    sums: Floats
    losses: Floats


def make_arrays(shape: Shape) -> Arrays:
    """Zeros."""
    units = padded(shape.units)
    return Arrays(
        aligned(units * shape.inputs), aligned(units), aligned(units * shape.classes), aligned(padded(shape.classes))
    )


def make_weights(shape: Shape) -> Weights:
    """Zeros, and `MISSING` where there's no class."""
    own = make_arrays(shape)
    own.b2[shape.classes :] = MISSING
    affine = (shape.gain, shape.shift) != (1.0, 0.0)
    w = aligned(own.w1.size) if affine else own.w1
    b = aligned(own.b1.size) if affine else own.b1
    return Weights(own, w, b, aligned(shape.units * own.b2.size))


def make_room(shape: Shape) -> Room:
    """Room for one tile."""
    hidden, classes = TILE * padded(shape.units), padded(shape.classes)
    return Room(
        aligned(hidden), aligned(hidden), aligned(hidden), aligned(TILE * classes), aligned(TILE), aligned(TILE)
    )


@jit
def derive(weights, shape):  # type: ignore[no-untyped-def]
    """Bring w, b and w2t up to date with the network's own arrays."""
    own, w2t = weights.own, weights.w2t
    if shape.gain != np.float32(1.0) or shape.shift != np.float32(0.0):
        fold(own.w1, own.b1, shape.inputs, shape.gain, shape.shift, weights.w, weights.b)
    unit = 0
    while unit < shape.units:
        width = strip_width(own.b1.size - unit)
        for k in range(shape.classes):
            row = unit * shape.classes + k * width
            for u in range(min(width, shape.units - unit)):
                w2t[(unit + u) * own.b2.size + k] = own.w2[row + u]
        unit += width


@jit
def _descend(array, gradient, rate):  # type: ignore[no-untyped-def]
    for i in range(0, array.size, 16):
        store(array, i, fma(rate, load(gradient, i), load(array, i)))


@jit
def update(weights, gradient, shape, rate):  # type: ignore[no-untyped-def]
    """w <- w - rate * gradient, and what is derived; by the chain rule w1's is gain * g_w1 + shift * g_b1 1'.

    The rate is that of a sum over examples, so the learning rate over the size of the batch.
    """
    own = weights.own
    down, gain, shift = splat(-rate), splat(shape.gain), splat(shape.shift)
    unit = 0
    while unit < own.b1.size:
        width = strip_width(own.b1.size - unit)
        for lane in range(0, width, 16):
            common = shift * load(gradient.b1, unit + lane)
            for at in range(unit * shape.inputs + lane, (unit + width) * shape.inputs, width):
                slope = fma(gain, load(gradient.w1, at), common)
                store(own.w1, at, fma(down, slope, load(own.w1, at)))
        unit += width
    _descend(own.b1, gradient.b1, down)
    _descend(own.w2, gradient.w2, down)
    _descend(own.b2, gradient.b2, down)
    derive(weights, shape)


@jit
def _clear(gradient):  # type: ignore[no-untyped-def]
    gradient.b1[:] = 0
    gradient.w2[:] = 0
    gradient.b2[:] = 0


@jit
def _forward(act, weights, shape, entries, starts, tile, labels, first, examples, room):  # type: ignore[no-untyped-def]
    """One tile from pixels to exponentials of logits; returns (sum of losses, correct)."""
    pairs = (examples + 1) // 2
    forward_tile(entries, starts, tile, pairs, weights.w, weights.b, shape.inputs, room.z)
    activate_tile(act, room.z, room.a, 2 * pairs, weights.b.size)
    logit_tile(room.a, weights.w2t, shape.units, weights.own.b2.size, room.logits)
    return loss_tile(room.logits, weights.own.b2, labels, first, examples, room.sums, room.losses)


@jit
def _backward(weights, shape, columns, masks, tile, labels, first, examples, fresh, room, gradient):  # type: ignore[no-untyped-def]
    """The same tile back, after `_forward`: add its share to the gradient; if `fresh`, w1's starts from 0."""
    stride = weights.own.b2.size
    residual_tile(room.logits, labels, first, examples, stride, room.sums)
    hidden_gradient(room.logits, weights.own.w2, shape.classes, stride, examples, room.z, room.dz)
    output_gradient(
        room.logits, stride, room.a, room.dz, shape.classes, examples, gradient.w2, gradient.b2, gradient.b1
    )
    pixel_gradient(columns, masks, tile, shape.inputs, room.dz, weights.b.size, fresh, gradient.w1)


@jit
def run_tiles(act, weights, shape, entries, starts, columns, masks, labels, first, last, room, gradient):  # type: ignore[no-untyped-def]
    """Measure tiles `first` to `last` (excluded) of a set; where columns aren't empty, sum their gradient too.

    labels: in the order of the tiles; gradient: overwritten. Returns (sum of losses, correct).
    """
    loss, correct = 0.0, 0
    backward = masks.size > 0
    _clear(gradient)
    for tile in range(first, last):
        examples = min(64, labels.size - tile * 64)
        some, right = _forward(act, weights, shape, entries, starts, tile, labels, tile * 64, examples, room)
        loss += some
        correct += right
        if backward:
            fresh = tile == first
            _backward(
                weights, shape, columns, masks, tile, labels, tile * 64, examples, fresh, room, gradient
            )
    return loss, correct


@jit
def run_batches(act, weights, shape, values, labels, order, batch, first, last, rate, tile, room, gradient):  # type: ignore[no-untyped-def]
    """Descend by mini-batches `first` to `last` (excluded) of an epoch.

    values: (N, D) pixels; labels: (N,) in the epoch's order; order: (N,); batch: how many examples; rate: the
    learning rate.
    """
    for step in range(first, last):
        start = step * batch
        stop = min(start + batch, order.size)
        _clear(gradient)
        for at in range(start, stop, 64):
            examples = min(64, stop - at)
            build_tile(tile, values, order, at, examples, True)
            _forward(act, weights, shape, tile.entries, tile.starts, 0, labels, at, examples, room)
            _backward(
                weights, shape, tile.columns, tile.masks, 0, labels, at, examples, at == start, room, gradient
            )
        update(weights, gradient, shape, np.float32(rate / (stop - start)))


@jit
def add_gradients(parts, total):  # type: ignore[no-untyped-def]
    """total += part, for every array of a gradient."""
    for i in range(0, total.w1.size, 16):
        store(total.w1, i, load(total.w1, i) + load(parts.w1, i))
    for i in range(0, total.b1.size, 16):
        store(total.b1, i, load(total.b1, i) + load(parts.b1, i))
    for i in range(0, total.w2.size, 16):
        store(total.w2, i, load(total.w2, i) + load(parts.w2, i))
    for i in range(0, total.b2.size, 16):
        store(total.b2, i, load(total.b2, i) + load(parts.b2, i))
