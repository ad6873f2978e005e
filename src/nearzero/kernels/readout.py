"""From the hidden layer to logits, losses and predictions, and back again: a tile of examples at a time.

Logits have the order of sums that holds everywhere in nearzero: over units ascending, from 0, by fused multiply-adds;
the bias is added last. So these are the predictions that a sweep sees. Here a vector holds sixteen classes of one
example. Losses are float32, -log softmax by way of the greatest logit; their sum is float64.
"""

from __future__ import annotations

import numpy as np

from nearzero.kernels.activations import (
    KERNEL_ACTIVATIONS,
    Abs,
    Elu,
    Gelu,
    LeakyRelu,
    Relu,
    Sigmoid,
    Silu,
    Softplus,
    Tanh,
    activate,
    slope,
    vexp,
    vlog,
)
from nearzero.kernels.layout import strip_width
from nearzero.kernels.registers import (
    axpy_pair,
    first_equal,
    hmax,
    inlined,
    load_like,
    mul_n,
    outer_rows_n,
    store_rows_n,
)
from nearzero.kernels.simd import (
    add_n,
    hsum,
    jit,
    load,
    select_gt,
    splat,
    splat_n,
    store,
    store_n,
    vmax,
)

__all__ = [
    "ACTIVATION_CODES",
    "MISSING",
    "activate_tile",
    "hidden_gradient",
    "logit_tile",
    "loss_tile",
    "output_gradient",
    "residual_tile",
]

MISSING = np.float32(-1e30)  # the bias of a class that isn't there: it never wins, and its probability is 0
_TINY = np.float32(1e-30)  # lesser probabilities count as 0: their products would leave the normal numbers
_F = np.float32

ACTIVATION_CODES = {name: code for code, name in enumerate(KERNEL_ACTIVATIONS)}


@inlined
def _activate(act, z, a, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last, 16):
        value = load(z, i)
        store(a, i, activate(act, value))
        store(z, i, slope(act, value))


@jit
def activate_tile(code, z, a, examples, units):  # type: ignore[no-untyped-def]
    """Write act(z) to `a` and put act'(z) in the place of z, in the first `examples` rows of every strip.

    The activation comes as its place in `ACTIVATION_CODES`, so that the loops of training are compiled once for all nine.
    """
    unit = 0
    while unit < units:
        width = strip_width(units - unit)
        first, last = unit * 64, unit * 64 + examples * width
        if code == 0:
            _activate(Relu(0.0), z, a, first, last)
        elif code == 1:
            _activate(Abs(0.0), z, a, first, last)
        elif code == 2:
            _activate(LeakyRelu(0.01), z, a, first, last)
        elif code == 3:
            _activate(Gelu(0.0), z, a, first, last)
        elif code == 4:
            _activate(Silu(0.0), z, a, first, last)
        elif code == 5:
            _activate(Tanh(0.0), z, a, first, last)
        elif code == 6:
            _activate(Sigmoid(0.0), z, a, first, last)
        elif code == 7:
            _activate(Softplus(0.0), z, a, first, last)
        else:
            _activate(Elu(0.0), z, a, first, last)
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


@inlined
def _hidden_strip(residuals, stride, examples, w2, classes, base, slopes, dz, first, width, none):  # type: ignore[no-untyped-def]
    for e in range(0, examples, 2):
        one, at = e * stride, first + e * width
        sums = none + none
        for k in range(classes):
            sums = axpy_pair(residuals[one + k], residuals[one + stride + k], w2, base + k * width, sums)
        store_n(dz, at, mul_n(sums, load_like(slopes, at, sums)))


@jit
def hidden_gradient(residuals, stride, examples, w2, classes, slopes, dz):  # type: ignore[no-untyped-def]
    """dz = (W2' residual) act'(z), as strips of 64 rows, of which an even number is written.

    residuals: flat (64, stride); w2: strips of `even(classes)` rows; slopes: what `activate_tile` left.
    """
    units, rows, none = slopes.size // 64, classes + classes % 2, _F(0.0)
    unit = 0
    while unit < units:
        width = strip_width(units - unit)
        base, first = unit * rows, unit * 64
        if width == 128:
            _hidden_strip(residuals, stride, examples, w2, classes, base, slopes, dz, first, 128, splat_n(none, 8))
        elif width == 64:
            _hidden_strip(residuals, stride, examples, w2, classes, base, slopes, dz, first, 64, splat_n(none, 4))
        elif width == 32:
            _hidden_strip(residuals, stride, examples, w2, classes, base, slopes, dz, first, 32, splat_n(none, 2))
        else:
            _hidden_strip(residuals, stride, examples, w2, classes, base, slopes, dz, first, 16, splat_n(none, 1))
        unit += width


@inlined
def _output_strip(residuals, stride, examples, a, dz, rows, unit, width, none, g_w2, g_b1):  # type: ignore[no-untyped-def]
    base = unit * 64
    for k in range(0, rows, 2):
        at = unit * rows + k * width
        sums = none + none
        for e in range(examples):
            one = e * stride + k
            sums = axpy_pair(residuals[one], residuals[one + 1], a, base + e * width, sums)
        store_n(g_w2, at, add_n(load_like(g_w2, at, sums), sums))
    total = none
    for e in range(examples):
        total = add_n(total, load_like(dz, base + e * width, total))
    store_n(g_b1, unit, add_n(load_like(g_b1, unit, total), total))


@jit
def output_gradient(residuals, stride, examples, a, dz, classes, g_w2, g_b2, g_b1):  # type: ignore[no-untyped-def]
    """Add a tile's share to the gradients of w2 (strips of `even(classes)` rows), b2 (stride,) and b1 (units,)."""
    units, rows, none = g_b1.size, classes + classes % 2, _F(0.0)
    unit = 0
    while unit < units:
        width = strip_width(units - unit)
        if width == 128:
            _output_strip(residuals, stride, examples, a, dz, rows, unit, 128, splat_n(none, 8), g_w2, g_b1)
        elif width == 64:
            _output_strip(residuals, stride, examples, a, dz, rows, unit, 64, splat_n(none, 4), g_w2, g_b1)
        elif width == 32:
            _output_strip(residuals, stride, examples, a, dz, rows, unit, 32, splat_n(none, 2), g_w2, g_b1)
        else:
            _output_strip(residuals, stride, examples, a, dz, rows, unit, 16, splat_n(none, 1), g_w2, g_b1)
        unit += width
    for block in range(0, stride, 16):
        total = load(g_b2, block)
        for e in range(examples):
            total = total + load(residuals, e * stride + block)
        store(g_b2, block, total)
