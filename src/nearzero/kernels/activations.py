"""The nine activations and their derivatives on vectors of sixteen float32, and the functions they need.

Each activation is a type of its own (`Relu()`, `Gelu()`, ...), and kernels take a value of it. So Numba
compiles a kernel once for each activation, and inner loops don't branch. `nearzero.perturbations.activations`
defines the activations; here are their computations, the methods `value` and `slope`, which kernels call as
``activate(act, z)`` and ``slope(act, z)``. Exponential, logarithm and hyperbolic tangent are the
single-precision polynomials of Cephes (S. L. Moshier, Cephes Mathematical Library); erfc is the Chebyshev fit
of W. H. Press et al., Numerical Recipes, section 6.2. Errors are a few units in the last place; the tests
measure them against SciPy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from nearzero.kernels.simd import (
    exp2i,
    fma,
    jit,
    polynomial,
    select_gt,
    splat,
    split_exponent,
    vabs,
    vmax,
    vmin,
)

__all__ = ["KERNEL_ACTIVATIONS", "activate", "slope", "verfc", "vexp", "vlog", "vtanh"]

_F = np.float32
_ROUND = _F(12582912.0)  # 1.5 * 2**23: adding and subtracting it rounds a float32 to a whole number
_LOG2E, _LN2_HIGH, _LN2_LOW = _F(1.44269504), _F(0.693359375), _F(-2.12194440e-4)
_EXP_MIN, _EXP_MAX = _F(-87.3), _F(88.0)


def _float32(*numbers: float) -> tuple[np.float32, ...]:
    return tuple(map(_F, numbers))


# coefficients of polynomials, from the highest power down
_EXP = _float32(1.98756915e-4, 1.39819995e-3, 8.33345191e-3, 4.16657959e-2, 0.16666665459, 0.50000001201)
_LOG = _float32(
    *(7.0376836292e-2, -0.1151461031, 0.1167699874, -0.12420140846),
    *(0.14249322787, -0.16668057665, 0.20000714765, -0.24999993993, 0.33333331174),
)
_TANH = _float32(-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 0.133314422036, -0.333332819422)
_ERFC = _float32(
    *(0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807),
    *(-0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223),
)


@jit
def vexp(x):  # type: ignore[no-untyped-def]
    """Return e**x, with x clamped to [-87.3, 88], so that no lane overflows or is subnormal."""
    x = vmax(vmin(x, splat(_EXP_MAX)), splat(_EXP_MIN))
    n = fma(x, splat(_LOG2E), splat(_ROUND)) - splat(_ROUND)
    r = fma(n, splat(-_LN2_LOW), fma(n, splat(-_LN2_HIGH), x))
    p = fma(polynomial(r, _EXP), r * r, r) + splat(_F(1.0))
    return p * exp2i(n)


@jit
def vlog(x):  # type: ignore[no-untyped-def]
    """Return log(x), for positive normal x."""
    m, e = split_exponent(x)
    root_half = splat(_F(0.70710678))
    one = splat(_F(1.0))
    e = select_gt(root_half, m, e - one, e)
    m = select_gt(root_half, m, m + m, m) - one
    square = m * m
    tail = fma(e, splat(_LN2_LOW), polynomial(m, _LOG) * m * square)
    return fma(e, splat(_LN2_HIGH), m + fma(square, splat(_F(-0.5)), tail))


@jit
def vtanh(x):  # type: ignore[no-untyped-def]
    """Return tanh(x): a polynomial near zero, computed from the exponential elsewhere."""
    size = vabs(x)
    one = splat(_F(1.0))
    far = one - splat(_F(2.0)) / (vexp(size + size) + one)
    far = select_gt(splat(_F(0.0)), x, -far, far)
    square = x * x
    near = fma(polynomial(square, _TANH) * square, x, x)
    return select_gt(splat(_F(0.625)), size, near, far)


@jit
def verfc(x):  # type: ignore[no-untyped-def]
    """Return erfc(x) = 1 - erf(x), with a small relative error also where it is tiny."""
    size = vabs(x)
    one = splat(_F(1.0))
    t = one / fma(splat(_F(0.5)), size, one)
    tail = t * vexp(polynomial(t, _ERFC) - size * size)
    return select_gt(splat(_F(0.0)), x, splat(_F(2.0)) - tail, tail)


@jit
def _sigmoid(x):  # type: ignore[no-untyped-def]
    one = splat(_F(1.0))
    return one / (one + vexp(-x))


@jit
def _normal_cdf(x):  # type: ignore[no-untyped-def]
    return splat(_F(0.5)) * verfc(x * splat(_F(-0.70710678118654752)))


@jit
def _log1p(u):  # type: ignore[no-untyped-def]
    """Return log(1 + u) for 0 <= u <= 1; where 1 + u rounds to 1, return u."""
    one = splat(_F(1.0))
    w = one + u
    return select_gt(w, one, vlog(w) * u / select_gt(w, one, w - one, one), u)


class Relu(NamedTuple):
    """max(z, 0)."""

    def value(self, z):  # type: ignore[no-untyped-def]
        return vmax(z, splat(_F(0.0)))

    def slope(self, z):  # type: ignore[no-untyped-def]
        return select_gt(z, splat(_F(0.0)), splat(_F(1.0)), splat(_F(0.0)))


class AbsoluteValue(NamedTuple):
    """|z|."""

    def value(self, z):  # type: ignore[no-untyped-def]
        return vabs(z)

    def slope(self, z):  # type: ignore[no-untyped-def]
        zero = splat(_F(0.0))
        return select_gt(z, zero, splat(_F(1.0)), select_gt(zero, z, splat(_F(-1.0)), zero))


class LeakyRelu(NamedTuple):
    """z where z > 0, else 0.01 z."""

    def value(self, z):  # type: ignore[no-untyped-def]
        return select_gt(z, splat(_F(0.0)), z, z * splat(_F(0.01)))

    def slope(self, z):  # type: ignore[no-untyped-def]
        return select_gt(z, splat(_F(0.0)), splat(_F(1.0)), splat(_F(0.01)))


class Gelu(NamedTuple):
    """z Phi(z), with the exact normal distribution function."""

    def value(self, z):  # type: ignore[no-untyped-def]
        return z * _normal_cdf(z)

    def slope(self, z):  # type: ignore[no-untyped-def]
        density = splat(_F(0.3989422804014327)) * vexp(z * z * splat(_F(-0.5)))
        return fma(z, density, _normal_cdf(z))


class Silu(NamedTuple):
    """z sigmoid(z)."""

    def value(self, z):  # type: ignore[no-untyped-def]
        return z * _sigmoid(z)

    def slope(self, z):  # type: ignore[no-untyped-def]
        s = _sigmoid(z)
        return s * fma(z, splat(_F(1.0)) - s, splat(_F(1.0)))


class Tanh(NamedTuple):
    """tanh(z)."""

    def value(self, z):  # type: ignore[no-untyped-def]
        return vtanh(z)

    def slope(self, z):  # type: ignore[no-untyped-def]
        a = vtanh(z)
        return splat(_F(1.0)) - a * a


class Sigmoid(NamedTuple):
    """1 / (1 + exp(-z))."""

    def value(self, z):  # type: ignore[no-untyped-def]
        return _sigmoid(z)

    def slope(self, z):  # type: ignore[no-untyped-def]
        s = _sigmoid(z)
        return s * (splat(_F(1.0)) - s)


class Softplus(NamedTuple):
    """log(1 + exp(z))."""

    def value(self, z):  # type: ignore[no-untyped-def]
        return vmax(z, splat(_F(0.0))) + _log1p(vexp(-vabs(z)))

    def slope(self, z):  # type: ignore[no-untyped-def]
        return _sigmoid(z)


class Elu(NamedTuple):
    """z where z > 0, else exp(z) - 1."""

    def value(self, z):  # type: ignore[no-untyped-def]
        negative = vmin(z, splat(_F(0.0)))
        # exp(z) - 1 = tanh(z/2) (exp(z) + 1), without the cancellation near zero
        below = vtanh(negative * splat(_F(0.5))) * (vexp(negative) + splat(_F(1.0)))
        return select_gt(z, splat(_F(0.0)), z, below)

    def slope(self, z):  # type: ignore[no-untyped-def]
        return select_gt(z, splat(_F(0.0)), splat(_F(1.0)), vexp(vmin(z, splat(_F(0.0)))))


KERNEL_ACTIVATIONS: dict[str, NamedTuple] = {
    "relu": Relu(),
    "abs": AbsoluteValue(),
    "leaky_relu": LeakyRelu(),
    "gelu": Gelu(),
    "silu": Silu(),
    "tanh": Tanh(),
    "sigmoid": Sigmoid(),
    "softplus": Softplus(),
    "elu": Elu(),
}


def activate(act: Any, z: Any) -> Any:
    """Return act(z), lane by lane; inside kernels only."""
    raise NotImplementedError


def slope(act: Any, z: Any) -> Any:
    """Return act'(z), lane by lane; 0 at the kink of relu and abs, as in PyTorch; inside kernels only."""
    raise NotImplementedError


@overload(activate, inline="always")
def _overload_activate(self, z):  # type: ignore[no-untyped-def]
    return self.instance_class.value


@overload(slope, inline="always")
def _overload_slope(self, z):  # type: ignore[no-untyped-def]
    return self.instance_class.slope
