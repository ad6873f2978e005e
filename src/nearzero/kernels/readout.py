"""From the hidden layer to logits, losses and predictions, and back again: a tile of examples at a time.

Logits have the order of sums that holds everywhere in nearzero: over units ascending, from 0, by fused
multiply-adds; the bias is added last. So these are the predictions that a sweep sees. Here a vector holds
sixteen classes of one example. Losses are float32, -log softmax by way of the greatest logit; their sum is
float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nearzero.kernels.activations import KERNEL_ACTIVATIONS, activate, slope, vexp, vlog
from nearzero.kernels.layout import MANY_REGISTERS, aligned, by_width, each_strip, padded
from nearzero.kernels.simd import (
    add_n,
    axpy_pair,
    first_equal,
    halves,
    hmax,
    hsum,
    inlined,
    jit,
    load,
    load_like,
    mul_n,
    outer_n,
    select_gt,
    splat,
    splat_at,
    splat_n,
    store,
    store_n,
    store_rows_n,
    vmax,
)
from nearzero.kernels.tiles import TILE, Sifted, sift_room

__all__ = [
    "ACTIVATION_CODES",
    "MISSING",
    "TileWorkspace",
    "activate_tile",
    "hidden_gradient",
    "logit_tile",
    "loss_tile",
    "output_gradient",
    "residual_tile",
    "tile_workspace",
]

MISSING = np.float32(-1e30)  # the bias of a class that isn't there: it never wins, and its probability is 0
ROWS = 8 if MANY_REGISTERS else 4  # examples whose logits are summed together
_TINY = np.float32(1e-30)  # lesser probabilities count as 0: their products would leave the normal numbers
SPARED = 4  # lists are sifted where at least one example in so many adds nothing to a gradient
_F = np.float32
Floats = npt.NDArray[np.float32]

ACTIVATION_CODES = {name: code for code, name in enumerate(KERNEL_ACTIVATIONS)}


class TileWorkspace(NamedTuple):
    """A tile on its way through the network: about 170 or 670 KB for 784 pixels and 128 units.

    Attributes:
        z: pre-activations, then slopes, then dz, the loss's derivative by z; a: activations; strips of `TILE` rows.
        logits: then exponentials, then residuals: flat (`TILE`, classes), padded to a multiple of 16.
        sums, losses: (`TILE`,), of the exponentials, and each example's loss.
        taught: (`TILE` + 1,), which examples gradients are made of; see `residual_tile`.
        sifted: their part of the lists of pairs of pixels.
    """

    z: Floats
    a: Floats
    logits: Floats
    sums: Floats
    losses: Floats
    taught: npt.NDArray[np.int64]
    sifted: Sifted


def tile_workspace(inputs: int, units: int, classes: int) -> TileWorkspace:
    """Room for one tile."""
    z, a, logits = (aligned(TILE * padded(each)) for each in (units, units, classes))
    return TileWorkspace(
        z, a, logits, aligned(TILE), aligned(TILE), np.zeros(TILE + 1, np.int64), sift_room(inputs)
    )


def _loop(acts: Sequence[NamedTuple]) -> Any:
    """The loop of `activate_tile` for the activation at place `code` among some."""
    act = acts[0]

    @inlined
    def loop(_code, z, a, first, last):  # type: ignore[no-untyped-def]
        for i in range(first, last, 16):
            value = load(z, i)
            store(a, i, activate(act, value))
            store(z, i, slope(act, value))

    if len(acts) == 1:
        return loop
    others = _loop(acts[1:])

    @inlined
    def either(code, z, a, first, last):  # type: ignore[no-untyped-def]
        if code == 0:
            loop(code, z, a, first, last)
        else:
            others(code - 1, z, a, first, last)

    return either


_activate = _loop(list(KERNEL_ACTIVATIONS.values()))


@jit
def activate_tile(code, z, a, examples, units):  # type: ignore[no-untyped-def]
    """Write act(z) to `a` and put act'(z) in the place of z, in the first `examples` rows of every strip.

    The activation comes as its place in `ACTIVATION_CODES`, so that the loops of training are compiled once
    for all nine.
    """
    for unit, width in each_strip(units):
        _activate(code, z, a, unit * TILE, unit * TILE + examples * width)


@jit
def logit_tile(a, examples, w2t, units, classes, logits):  # type: ignore[no-untyped-def]
    """Logits without their bias, flat (`TILE`, classes), of the first `examples`.

    a: strips of `TILE` rows; units: how many there are, without padding; w2t: flat (units, classes), with
    classes padded to a multiple of 16.
    """
    strip_units = a.size // TILE
    for block in range(0, classes, 16):
        for k in range(0, examples, ROWS):
            sums = splat_n(_F(0.0), ROWS)
            for unit, width in each_strip(strip_units):
                base = unit * TILE + k * width
                for u in range(min(width, units - unit)):
                    weights = (load(w2t, (unit + u) * classes + block),)
                    sums = outer_n(a, base + u, width, weights, sums)
            store_rows_n(logits, k * classes + block, classes, sums)


@jit
def loss_tile(workspace, b2, labels, first, examples, loss):  # type: ignore[no-untyped-def]
    """Add biases to the logits, then put exp(logit - greatest) in their place.

    labels: of the whole set, the tile's from `first` on; loss: the sum so far. Returns the sum of the losses, and how
    many predictions are right. A logit that isn't finite makes the loss NaN.
    """
    logits, sums, losses = workspace.logits, workspace.sums, workspace.losses
    classes = b2.size
    correct = 0
    for e in range(examples):
        row = e * classes
        greatest = splat(MISSING)
        for block in range(0, classes, 16):
            value = load(logits, row + block) + load(b2, block)
            store(logits, row + block, value)
            greatest = vmax(value, greatest)
        top = splat(hmax(greatest))
        best = 0
        for block in range(0, classes, 16):
            lane = first_equal(load(logits, row + block), top)
            if lane < 16:
                best = block + lane
                break
        label = labels[first + e]
        correct += best == label
        losses[e] = hmax(greatest) - logits[row + label]
        total = splat(_F(0.0))
        for block in range(0, classes, 16):
            value = load(logits, row + block)
            value = vexp(value - top) + (value - value)
            store(logits, row + block, value)
            total = total + value
        sums[e] = hsum(total)
    for k in range(0, examples, 16):
        value = load(sums, k)
        store(losses, k, load(losses, k) + (vlog(value) + (value - value)))
    for e in range(examples):
        loss += np.float64(losses[e])
    return loss, correct


@jit
def residual_tile(workspace, classes, labels, first, examples):  # type: ignore[no-untyped-def]
    """After `loss_tile`: put softmax - one-hot, the loss's derivative, in the place of the exponentials.

    An example whose loss is 0 is left out of gradients. There the label's probability is 1, and those of all other
    classes come to a few 2^-24 at most: as much as the derivative by the label's logit, p - 1, is wrong in any float32.
    Lists in `workspace.taught` those that aren't left out, and returns how many. If they are more than three in four,
    all examples are listed, the others with zeros. If the number is odd the last one stands there once more, since rows
    are taken in pairs.
    """
    logits, sums, taught = workspace.logits, workspace.sums, workspace.taught
    zero, tiny, one = splat(_F(0.0)), splat(_TINY), _F(1.0)
    count = 0
    for e in range(examples):
        row, label = e * classes, e * classes + labels[first + e]
        if sums[e] == one and logits[label] == one:
            for block in range(0, classes, 16):
                store(logits, row + block, zero)
            continue
        factor = splat(one / sums[e])
        for block in range(0, classes, 16):
            value = load(logits, row + block) * factor
            store(logits, row + block, select_gt(tiny, value, zero, value))
        logits[label] -= one
        taught[count] = e
        count += 1
    if SPARED * count > (SPARED - 1) * examples:
        for e in range(examples):
            taught[e] = e
        count = examples
    taught[count] = taught[max(count - 1, 0)]
    return count


@by_width
@inlined
def _hidden_strip(width, none, unit, job):  # type: ignore[no-untyped-def]
    workspace, stride, count, w2, classes = job
    residuals, z, base, first = workspace.logits, workspace.z, unit * (classes + classes % 2), unit * TILE
    for k in range(0, count, 2):
        e, f = workspace.taught[k], workspace.taught[k + 1]
        sums = none + none
        for c in range(classes):
            factors = splat_at(residuals, e * stride + c), splat_at(residuals, f * stride + c)
            sums = axpy_pair(*factors, w2, base + c * width, sums)
        one, two = halves(sums)
        at, to = first + e * width, first + f * width
        one, two = mul_n(one, load_like(z, at, one)), mul_n(two, load_like(z, to, two))
        store_n(z, at, one)
        store_n(z, to, two)


@jit
def hidden_gradient(workspace, stride, count, w2, classes):  # type: ignore[no-untyped-def]
    """Put dz = (W2' residual) act'(z) in the place of act'(z), in the rows of the first `count` of `workspace.taught`.

    stride: from one example's residuals to the next's; w2: strips of `even(classes)` rows.
    """
    for unit, width in each_strip(workspace.z.size // TILE):
        _hidden_strip(width, unit, (workspace, stride, count, w2, classes))


@by_width
@inlined
def _output_strip(width, none, unit, job):  # type: ignore[no-untyped-def]
    workspace, stride, count, rows, g_w2, g_b1 = job
    residuals, taught, base = workspace.logits, workspace.taught, unit * TILE
    for c in range(0, rows, 2):
        at = unit * rows + c * width
        sums = load_like(g_w2, at, none + none)
        for k in range(count):
            one = taught[k] * stride + c
            factors = splat_at(residuals, one), splat_at(residuals, one + 1)
            sums = axpy_pair(*factors, workspace.a, base + taught[k] * width, sums)
        store_n(g_w2, at, sums)
    total = load_like(g_b1, unit, none)
    for k in range(count):
        total = add_n(total, load_like(workspace.z, base + taught[k] * width, total))
    store_n(g_b1, unit, total)


@jit
def output_gradient(workspace, stride, count, classes, gradient):  # type: ignore[no-untyped-def]
    """Add the share of the first `count` of `workspace.taught` to the gradients of w2, b2 and b1 (`Arrays`)."""
    g_w2, g_b1, g_b2, rows = gradient.w2, gradient.b1, gradient.b2, classes + classes % 2
    for unit, width in each_strip(g_b1.size):
        _output_strip(width, unit, (workspace, stride, count, rows, g_w2, g_b1))
    for block in range(0, stride, 16):
        total = load(g_b2, block)
        for k in range(count):
            total = total + load(workspace.logits, workspace.taught[k] * stride + block)
        store(g_b2, block, total)
