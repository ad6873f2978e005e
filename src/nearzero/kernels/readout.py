"""From the hidden layer to logits, losses and predictions, and back to gradients, for a tile of examples.

Logits are sums in the order that is used everywhere in nearzero: over units ascending, from 0, by fused
multiply-adds; the bias is added last. So predictions are the same in training and in sweeps. Here a vector
contains sixteen classes of one example. Losses are float32, -log softmax relative to the greatest logit;
their sum is float64.
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
from nearzero.kernels.tiles import TILE, FilteredLists, empty_filtered

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

MISSING = np.float32(-1e30)  # the bias of a class in the padding: it's never predicted, its probability is 0
ROWS = 8 if MANY_REGISTERS else 4  # examples whose logits are computed together
_TINY = np.float32(1e-30)  # smaller probabilities count as 0, since their products would be subnormal
FILTER_SHARE = 4  # lists are filtered if at least one example in FILTER_SHARE adds nothing to gradients
_F = np.float32
Floats = npt.NDArray[np.float32]

ACTIVATION_CODES = {name: code for code, name in enumerate(KERNEL_ACTIVATIONS)}


class TileWorkspace(NamedTuple):
    """The arrays for one tile in one network: about 170 or 670 KB for 784 pixels and 128 units.

    Attributes:
        z: strips of `TILE` rows: first pre-activations, then slopes, then dz, the derivative of the loss by
            z.
        a: strips of `TILE` rows: activations.
        logits: flat (`TILE`, classes), classes padded to a multiple of 16: first logits, then exponentials,
            then residuals.
        sums: (`TILE`,), the sums of the exponentials.
        losses: (`TILE`,), the loss of each example.
        contributing: (`TILE` + 1,), the examples in gradients; see `residual_tile`.
        filtered: the lists of pairs of pixels of these examples.
    """

    z: Floats
    a: Floats
    logits: Floats
    sums: Floats
    losses: Floats
    contributing: npt.NDArray[np.int64]
    filtered: FilteredLists


def tile_workspace(inputs: int, units: int, classes: int) -> TileWorkspace:
    """Return arrays for one tile."""
    z, a, logits = (aligned(TILE * padded(width)) for width in (units, units, classes))
    return TileWorkspace(
        z, a, logits, aligned(TILE), aligned(TILE), np.zeros(TILE + 1, np.int64), empty_filtered(inputs)
    )


def _loop(acts: Sequence[NamedTuple]) -> Any:
    """Return the loop of `activate_tile`, which takes the activation by its place `code` in `acts`."""
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
    """Write act(z) to `a`, and act'(z) over z, in the first `examples` rows of every strip.

    code: the activation in `ACTIVATION_CODES`. It isn't a type, so that the loops of training are compiled
    once for all activations.
    """
    for unit, width in each_strip(units):
        _activate(code, z, a, unit * TILE, unit * TILE + examples * width)


@jit
def logit_tile(a, examples, w2t, units, classes, logits):  # type: ignore[no-untyped-def]
    """Write the logits without bias, flat (`TILE`, classes), of the first `examples`.

    a: strips of `TILE` rows; units: their number without padding; w2t: flat (units, classes), classes padded
    to a multiple of 16.
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
    """Add biases to the logits, compute losses, and write exp(logit - greatest logit) over the logits.

    labels: the labels of the whole set, of which the tile's begin at `first`; loss: a sum of losses. Returns
    `loss` plus the losses of the tile, and the number of correct predictions. A logit that isn't finite makes
    the loss NaN.
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
    """After `loss_tile`: write residuals, softmax - one-hot, over the exponentials.

    A residual is the derivative of the loss by a logit. An example whose loss is 0 is left out of gradients:
    the probability of its label is 1, and those of all other classes add up to a few 2^-24 at most, which is
    also the error of the residual of the label, p - 1, in float32.

    The other examples are listed in `workspace.contributing`; their number is returned. If they are more than
    three in four, all examples are listed, and those without a loss have zeros as residuals. The last of the
    list is repeated after it, since rows are processed in pairs.
    """
    logits, sums, contributing = workspace.logits, workspace.sums, workspace.contributing
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
        contributing[count] = e
        count += 1
    if FILTER_SHARE * count > (FILTER_SHARE - 1) * examples:
        for e in range(examples):
            contributing[e] = e
        count = examples
    contributing[count] = contributing[max(count - 1, 0)]
    return count


@by_width
@inlined
def _hidden_strip(width, zeros, unit, arguments):  # type: ignore[no-untyped-def]
    workspace, stride, count, w2, classes = arguments
    residuals, z, base, first = workspace.logits, workspace.z, unit * (classes + classes % 2), unit * TILE
    for k in range(0, count, 2):
        e, f = workspace.contributing[k], workspace.contributing[k + 1]
        sums = zeros + zeros
        for c in range(classes):
            factors = splat_at(residuals, e * stride + c), splat_at(residuals, f * stride + c)
            sums = axpy_pair(*factors, w2, base + c * width, sums)
        dz_e, dz_f = halves(sums)
        at_e, at_f = first + e * width, first + f * width
        dz_e, dz_f = mul_n(dz_e, load_like(z, at_e, dz_e)), mul_n(dz_f, load_like(z, at_f, dz_f))
        store_n(z, at_e, dz_e)
        store_n(z, at_f, dz_f)


@jit
def hidden_gradient(workspace, stride, count, w2, classes):  # type: ignore[no-untyped-def]
    """Write dz = (W2' residual) act'(z) over act'(z), for the first `count` of `workspace.contributing`.

    stride: the distance between the residuals of two examples; w2: strips of `even(classes)` rows.
    """
    for unit, width in each_strip(workspace.z.size // TILE):
        _hidden_strip(width, unit, (workspace, stride, count, w2, classes))


@by_width
@inlined
def _output_strip(width, zeros, unit, arguments):  # type: ignore[no-untyped-def]
    workspace, stride, count, rows, g_w2, g_b1 = arguments
    residuals, contributing, base = workspace.logits, workspace.contributing, unit * TILE
    for c in range(0, rows, 2):
        at = unit * rows + c * width
        sums = load_like(g_w2, at, zeros + zeros)
        for k in range(count):
            residual = contributing[k] * stride + c
            factors = splat_at(residuals, residual), splat_at(residuals, residual + 1)
            sums = axpy_pair(*factors, workspace.a, base + contributing[k] * width, sums)
        store_n(g_w2, at, sums)
    total = load_like(g_b1, unit, zeros)
    for k in range(count):
        total = add_n(total, load_like(workspace.z, base + contributing[k] * width, total))
    store_n(g_b1, unit, total)


@jit
def output_gradient(workspace, stride, count, classes, gradient):  # type: ignore[no-untyped-def]
    """Add the gradients of the first `count` of `workspace.contributing` to w2, b2 and b1 of `gradient`."""
    g_w2, g_b1, g_b2, rows = gradient.w2, gradient.b1, gradient.b2, classes + classes % 2
    for unit, width in each_strip(g_b1.size):
        _output_strip(width, unit, (workspace, stride, count, rows, g_w2, g_b1))
    for block in range(0, stride, 16):
        total = load(g_b2, block)
        for k in range(count):
            total = total + load(workspace.logits, workspace.contributing[k] * stride + block)
        store(g_b2, block, total)
