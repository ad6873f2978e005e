"""From pre-activations to predictions, for many perturbations at once: the sweep's inner loop.

A block is 32 examples side by side: one vector holds the same unit of 16 examples, so that per-unit
parameters are scalars and no sum runs across lanes. The block, a quarter of the first-level cache, stays
there while every level goes over it; sums for ten classes stay in registers while the units go by.

Sums have one order, the same everywhere in nearzero: over units ascending from 0 by fused multiply-adds, the
bias added last. So a prediction doesn't depend on which path, block or thread it was made in. What is
perturbed, and by how much, is decided in `nearzero.families`; `nearzero.sweep` calls these loops and knows
their arrays.
"""

from __future__ import annotations

import numpy as np

from nearzero.kernels.activations import activate
from nearzero.kernels.simd import (
    add_n,
    argmax_n,
    axpy_n,
    fma,
    jit,
    load,
    outer_n,
    splat,
    splat_n,
    store,
    store_n,
    vmin,
)

__all__ = ["BLOCK", "GROUP", "perturb", "respond", "respond_scaled"]

BLOCK = 32  # examples in a block
GROUP = 10  # classes whose sums are in registers together

_F = np.float32
_NEVER = _F(-np.inf)


@jit
def perturb(act, z, scale, offset, clip, post):  # type: ignore[no-untyped-def]
    """The perturbed activations of sixteen examples, all arguments vectors but `post`."""
    if post:
        return vmin(fma(scale, activate(act, z), offset), clip)
    return activate(act, vmin(fma(scale, z, offset), clip))


@jit
def _bias_n(b2, first):  # type: ignore[no-untyped-def]
    """The biases of ten classes, each in all lanes."""
    return outer_n(b2, first, splat(_F(1.0)), splat_n(_F(0.0), 10))


@jit
def _write(places, out, level, start, stop):  # type: ignore[no-untyped-def]
    for lane in range(stop - start):
        out[level, start + lane] = np.uint16(places[lane])


@jit
def respond(act, z, scale, offset, clip, post, w2, b2, out, first_block, last_block):  # type: ignore[no-untyped-def]
    """Predictions under every perturbation, for blocks `first_block` to `last_block` (excluded).

    act: kernel activation; z: flat (blocks, U, 32); scale, offset, clip: flat (L, U); post: (L,) bool,
    whether the perturbation acts on activations; w2: flat (groups, U, 10), missing classes 0; b2: flat
    (groups, 10), missing classes -inf; out: (L, N) uint16, written.
    """
    groups = b2.size // 10
    units = w2.size // (10 * groups)
    places = np.empty(32, np.float32)
    for block in range(first_block, last_block):
        base = block * units * 32
        stop = min(block * 32 + 32, out.shape[1])
        for level in range(out.shape[0]):
            after = post[level]
            best0, best1 = splat(_NEVER), splat(_NEVER)
            where0, where1 = splat(_F(0.0)), splat(_F(0.0))
            for group in range(groups):
                sums0, sums1 = splat_n(_F(0.0), 10), splat_n(_F(0.0), 10)
                for unit in range(units):
                    s = splat(scale[level * units + unit])
                    o = splat(offset[level * units + unit])
                    c = splat(clip[level * units + unit])
                    weights = (group * units + unit) * 10
                    a0 = perturb(act, load(z, base + unit * 32), s, o, c, after)
                    a1 = perturb(act, load(z, base + unit * 32 + 16), s, o, c, after)
                    sums0 = outer_n(w2, weights, a0, sums0)
                    sums1 = outer_n(w2, weights, a1, sums1)
                bias = _bias_n(b2, group * 10)
                best0, where0 = argmax_n(add_n(sums0, bias), _F(group * 10), best0, where0)
                best1, where1 = argmax_n(add_n(sums1, bias), _F(group * 10), best1, where1)
            store(places, 0, where0)
            store(places, 16, where1)
            _write(places, out, level, block * 32, stop)


@jit
def respond_scaled(act, z, scales, w2, b2, out, first_block, last_block):  # type: ignore[no-untyped-def]
    """Predictions when every activation is multiplied by s: argmax(s * W2 act(z) + b2), one product for all
    s.

    This is what a positive scale of the pre-activations comes to where the activation is positively
    homogeneous.
    scales: (L,) float32; the rest as in `respond`. At s = 1 the logits are the unperturbed ones to the last
        bit.
    """
    groups = b2.size // 10
    units = w2.size // (10 * groups)
    places = np.empty(16, np.float32)
    sums = np.empty(groups * 160, np.float32)
    for half in range(2 * first_block, 2 * last_block):
        base = (half // 2) * units * 32 + (half % 2) * 16
        start, stop = half * 16, min(half * 16 + 16, out.shape[1])
        if start >= stop:
            continue
        for group in range(groups):
            total = splat_n(_F(0.0), 10)
            for unit in range(units):
                a = activate(act, load(z, base + unit * 32))
                total = outer_n(w2, (group * units + unit) * 10, a, total)
            store_n(sums, group * 160, total)
        for level in range(out.shape[0]):
            best, where = splat(_NEVER), splat(_F(0.0))
            for group in range(groups):
                logits = axpy_n(scales[level], sums, group * 160, _bias_n(b2, group * 10))
                best, where = argmax_n(logits, _F(group * 10), best, where)
            store(places, 0, where)
            _write(places, out, level, start, stop)
