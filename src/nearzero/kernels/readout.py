"""From the hidden layer to logits, losses and predictions, and back again: a tile of examples at a time.

Logits have the order of sums that holds everywhere in nearzero: over units ascending, from 0, by fused multiply-adds;
the bias is added last. So these are the predictions that a sweep sees. Here a vector holds sixteen classes of one
example. Losses are float32, -log softmax by way of the greatest logit; their sum is float64.
"""

from __future__ import annotations

import numpy as np

from nearzero.kernels.activations import activate, slope, vexp, vlog
from nearzero.kernels.layout import strip_width
from nearzero.kernels.registers import axpy_pair, first_equal, hmax, outer_rows_n, store_rows_n
from nearzero.kernels.simd import (
    add_n,
    axpy_n,
    hsum,
    jit,
    load,
    load_n,
    select_gt,
    splat,
    splat_n,
    store,
    store_n,
    vmax,
)

__all__ = ["MISSING", "activate_tile", "hidden_gradient", "logit_tile", "loss_tile", "output_gradient", "residual_tile"]

MISSING = np.float32(-1e30)  # the bias of a class that isn't there: it never wins, and its probability is 0
_TINY = np.float32(1e-30)  # lesser probabilities count as 0: their products would leave the normal numbers
_F = np.float32


@jit
def activate_tile(act, z, a, examples, units):  # type: ignore[no-untyped-def]
    """Write act(z) to `a` and put act'(z) in the place of z, in the first `examples` rows of every strip."""
    unit = 0
    while unit < units:
        width = strip_width(units - unit)
        for i in range(unit * 64, unit * 64 + examples * width, 16):
            value = load(z, i)
            store(a, i, activate(act, value))
            store(z, i, slope(act, value))
        unit += width


@jit
def logit_tile(a, w2t, units, classes, logits):  # type: ignore[no-untyped-def]
    """Logits without their bias, flat (64, classes).

    a: strips of 64 rows; units: how many there are, without padding; w2t: flat (units, classes), classes padded to a
    multiple of 16.
    """
    strip_units = a.size // 64
    for block in range(0, classes, 16):
        for k in range(0, 64, 8):
            sums = splat_n(_F(0.0), 8)
            unit = 0
            while unit < units:
                width = strip_width(strip_units - unit)
                base = unit * 64 + k * width
                for u in range(min(width, units - unit)):
                    sums = outer_rows_n(a, base + u, width, load(w2t, (unit + u) * classes + block), sums)
                unit += width
            store_rows_n(logits, k * classes + block, classes, sums)


@jit
def loss_tile(logits, b2, labels, first, examples, sums, losses):  # type: ignore[no-untyped-def]
    """Add biases to the logits, then put exp(logit - greatest) in their place.

    labels: of the whole set, the tile's from `first` on; sums, losses: (64,), written: the sums of the exponentials, and each
    example's loss. Returns (the sum of the losses, how many predictions are right). A logit that isn't finite
    makes the loss NaN.
    """
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
    for k in range(0, 64, 16):
        value = load(sums, k)
        store(losses, k, load(losses, k) + (vlog(value) + (value - value)))
    loss = 0.0
    for e in range(examples):
        loss += np.float64(losses[e])
    return loss, correct


@jit
def residual_tile(logits, labels, first, examples, classes, sums):  # type: ignore[no-untyped-def]
    """After `loss_tile`: put softmax - one-hot, the loss's derivative by the logits, in the place of the exponentials."""
    zero, tiny = splat(_F(0.0)), splat(_TINY)
    for e in range(examples):
        row = e * classes
        factor = splat(_F(1.0) / sums[e])
        for block in range(0, classes, 16):
            value = load(logits, row + block) * factor
            store(logits, row + block, select_gt(tiny, value, zero, value))
        logits[row + labels[first + e]] -= _F(1.0)
    for i in range(examples * classes, 64 * classes, 16):
        store(logits, i, zero)


@jit
def _pair_hidden(residuals, one, two, classes, w2, base, width, sums):  # type: ignore[no-untyped-def]
    for k in range(classes):
        sums = axpy_pair(residuals[one + k], residuals[two + k], w2, base + k * width, sums)
    return sums


@jit
def hidden_gradient(residuals, w2, classes, stride, examples, slopes, dz):  # type: ignore[no-untyped-def]
    """dz = (W2' residual) act'(z), as strips of 64 rows; rows beyond `examples` are left alone.

    residuals: flat (64, stride); w2: strips of `classes` rows; slopes: what `activate_tile` left.
    """
    units = slopes.size // 64
    unit = 0
    while unit < units:
        width = strip_width(units - unit)
        base = unit * classes
        for e in range(0, examples, 2):
            one, two, at = e * stride, e * stride + stride, unit * 64 + e * width
            if width == 128:
                store_n(dz, at, _pair_hidden(residuals, one, two, classes, w2, base, 128, splat_n(_F(0.0), 16)))
            elif width == 64:
                store_n(dz, at, _pair_hidden(residuals, one, two, classes, w2, base, 64, splat_n(_F(0.0), 8)))
            elif width == 32:
                store_n(dz, at, _pair_hidden(residuals, one, two, classes, w2, base, 32, splat_n(_F(0.0), 4)))
            else:
                store_n(dz, at, _pair_hidden(residuals, one, two, classes, w2, base, 16, splat_n(_F(0.0), 2)))
        for i in range(unit * 64, unit * 64 + examples * width, 16):
            store(dz, i, load(dz, i) * load(slopes, i))
        unit += width


@jit
def _column(factors, first, stride, examples, a, base, width, sums):  # type: ignore[no-untyped-def]
    for e in range(examples):
        sums = axpy_n(factors[first + e * stride], a, base + e * width, sums)
    return sums


@jit
def _rows(a, base, width, examples, sums):  # type: ignore[no-untyped-def]
    for e in range(examples):
        sums = axpy_n(_F(1.0), a, base + e * width, sums)
    return sums


@jit
def output_gradient(residuals, stride, a, dz, classes, examples, g_w2, g_b2, g_b1):  # type: ignore[no-untyped-def]
    """Add a tile's share to the gradients of w2 (strips of `classes` rows), b2 (stride,) and b1 (units,)."""
    units = g_b1.size
    unit = 0
    while unit < units:
        width = strip_width(units - unit)
        base = unit * 64
        for k in range(classes):
            at = unit * classes + k * width
            if width == 128:
                sums = _column(residuals, k, stride, examples, a, base, 128, splat_n(_F(0.0), 8))
                store_n(g_w2, at, add_n(load_n(g_w2, at, 8), sums))
            elif width == 64:
                sums4 = _column(residuals, k, stride, examples, a, base, 64, splat_n(_F(0.0), 4))
                store_n(g_w2, at, add_n(load_n(g_w2, at, 4), sums4))
            elif width == 32:
                sums2 = _column(residuals, k, stride, examples, a, base, 32, splat_n(_F(0.0), 2))
                store_n(g_w2, at, add_n(load_n(g_w2, at, 2), sums2))
            else:
                sums1 = _column(residuals, k, stride, examples, a, base, 16, splat_n(_F(0.0), 1))
                store_n(g_w2, at, add_n(load_n(g_w2, at, 1), sums1))
        for lane in range(0, width, 16):
            total = _rows(dz, base + lane, width, examples, splat_n(_F(0.0), 1))
            store_n(g_b1, unit + lane, add_n(load_n(g_b1, unit + lane, 1), total))
        unit += width
    for block in range(0, stride, 16):
        total = _rows(residuals, block, stride, examples, splat_n(_F(0.0), 1))
        store_n(g_b2, block, add_n(load_n(g_b2, block, 1), total))
