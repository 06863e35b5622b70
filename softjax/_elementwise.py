"""Soft forms of JAX's elementwise operators: step, ramp and what follows from them.

What `softness` and `mode` mean is written once, in docs/softness.md.

`round` is a staircase of soft steps, summed over all integers in closed form; `floor`, `ceil`, `trunc` and `mod` are
made of round(x - 1/2).

With u = x - round(x) in [-1/2, 1/2] the staircase is round(x) + r(u) and, since S(-t) = 1 - S(t),

    r(u) = sum_{k >= 0} S((u - k - 1/2) / tau) - S((-u - k - 1/2) / tau).

- smooth, tau < 1/4: the terms fall off like exp(-k / tau); a few suffice.
- smooth, tau >= 1/4: Poisson summation with the characteristic function X / sinh(X), X = 2 pi^2 tau m, of
  the logistic density gives r(u) = u + sum_{m >= 1} (-1)^m X / sinh(X) sin(2 pi m u) / (pi m).
- c0, c1, c2: a step rises on an interval of width w = 10 tau. For w < 1 only k = 0 can.
- c0, c1, c2, w >= 1: S is a polynomial between its ends, at which derivative j jumps by J_j / w^j at the lower and by
  (-1)^j J_j / w^j at the upper. Poisson summation makes of a jump the periodic Bernoulli polynomial B_{j+1} of the
  distance to it (DLMF 24.8.3): r(u) = u - G({h + u}) + G({h - u}) with h = (w - 1) / 2, the fractional part {}, and
  G = sum_j J_j B_{j+1} / ((j + 1)! w^j). Nothing in it grows with w.
"""

import math
from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from . import _check
from ._modes import HALF_WIDTH, MODES, Mode, of_quotient, ramp, soften, step, to_scale
from ._slope import with_slope_of
from ._types import ModeName, SoftBool, Softness


def enter(mode: ModeName, softness: Softness, **arrays: ArrayLike) -> tuple[Mode | None, tuple[Array, ...], Array]:
    """Resolve the mode; bring the arrays to one dtype and shape, and `softness` to the dtype to compute in."""
    resolved = _check.choice("mode", mode, MODES)
    xs = _check.together(**{name: _check.real(name, x) for name, x in arrays.items()})
    dtype = _check.compute_dtype(xs[0].dtype)
    tau = _check.softness(softness, xs[0].shape, dtype, against="the input's shape", hard=resolved is None)
    return resolved, xs, tau if tau.ndim == 0 else _check.placed_like(tau, xs[0])


@partial(jax.jit, static_argnums=(0, 1), inline=True)
def call(form: Callable[..., Array], mode: Mode, *arrays: Array | None) -> Array:
    """form(mode, *arrays) in the dtype of the last, the softness, returned in that of the first.

    An eager call runs one program, in which numbers that it does not select may be NaN or infinite.
    """
    x, tau = arrays[0], arrays[-1]
    assert x is not None and tau is not None
    return form(mode, *(a if a is None else a.astype(tau.dtype) for a in arrays)).astype(x.dtype)


def difference(x: Array, y: Array) -> Array:
    """x - y, zero between equal infinities."""
    same = (x == y) & jnp.isinf(x)
    zero = jnp.zeros_like(x)
    return jnp.where(same, zero, x) - jnp.where(same, zero, y)


def sigmoidal(x: ArrayLike, *, softness: Softness = 0.1, mode: ModeName = "smooth") -> SoftBool:
    """Soft unit step, S(x / softness).

    S is the logistic function (smooth), or on [-5, 5] with u = t/10 + 1/2 the linear (c0), cubic Hermite (c1)
    or quintic Hermite (c2) step.

    **Arguments:**
        x: array of any shape.
        softness: positive; broadcastable to x. In units of x.
        mode: "hard", "smooth", "c0", "c1" or "c2".
    **Returns:** an array like x, from 0 to 1.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    soft, (x,), tau = enter(mode, softness, x=x)
    if soft is None:
        return jnp.heaviside(x, jnp.full_like(x, 0.5))
    return call(step, soft, x, tau)


def heaviside(
    x1: ArrayLike, x2: ArrayLike = 0.5, /, *, softness: Softness = 0.1, mode: ModeName = "smooth"
) -> SoftBool:
    """Soft `jnp.heaviside`: `sigmoidal(x1)`.

    **Arguments:**
        x1: array of any shape.
        x2: the hard operator's value at 0; a soft step passes 1/2 there.
        softness: positive; broadcastable to x1. In units of x1.
        mode: "hard", "smooth", "c0", "c1" or "c2".
    **Returns:** an array like x1, from 0 to 1.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    soft, (x, at_zero), tau = enter(mode, softness, x1=x1, x2=x2)
    if soft is None:
        return jnp.heaviside(x, at_zero)
    return call(step, soft, x, tau)


def softrelu(x: ArrayLike, *, softness: Softness = 0.1, mode: ModeName = "smooth", gated: bool = False) -> Array:
    """Soft ramp: the integral of `sigmoidal` from minus infinity to x.

    **Arguments:**
        x: array of any shape.
        softness: positive; broadcastable to x. In units of x.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        gated: return x * sigmoidal(x) instead (for the smooth mode: SiLU, Hendrycks and Gimpel, arXiv:1606.08415).
    **Returns:** an array like x.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; in the smooth mode softness * softplus(x / softness).
    """
    soft, (x,), tau = enter(mode, softness, x=x)
    gated = _check.flag("gated", gated)
    if soft is None:
        return jax.nn.relu(x)
    return call(_RAMPS[gated], soft, x, tau)


def _gated(mode: Mode, x: Array, tau: Array) -> Array:
    form = lambda x, _, t: x * mode.step(t)
    return soften(mode, x, tau, partial(to_scale, form), lambda x: jnp.maximum(x, 0))


_RAMPS = {False: ramp, True: _gated}


def relu(x: ArrayLike, *, softness: Softness = 0.1, mode: ModeName = "smooth", gated: bool = False) -> Array:
    """Soft `jax.nn.relu`: `softrelu`.

    **Arguments:**
        x: array of any shape.
        softness: positive; broadcastable to x. In units of x.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        gated: return x * sigmoidal(x) instead of the integral of sigmoidal.
    **Returns:** an array like x.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    return softrelu(x, softness=softness, mode=mode, gated=gated)


def clip(
    x: ArrayLike,
    /,
    min: ArrayLike | None = None,
    max: ArrayLike | None = None,
    *,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    gated: bool = False,
) -> Array:
    """Soft `jnp.clip`: min + relu(x - min) - relu(x - max), and max where min > max.

    **Arguments:**
        x: array of any shape.
        min: lower bound, broadcastable against x, or None.
        max: upper bound, broadcastable against x, or None.
        softness: positive; broadcastable to the result. In units of x.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        gated: build it from the gated ramp, see `relu`.
    **Returns:** an array of x's dtype and the broadcast shape.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    bounds = {name: bound for name, bound in (("min", min), ("max", max)) if bound is not None}
    soft, (x, *given), tau = enter(mode, softness, x=x, **bounds)
    gated = _check.flag("gated", gated)
    named = dict(zip(bounds, given, strict=True))
    if soft is None:
        return jnp.clip(x, **named)
    return call(_CLIPS[gated], soft, x, named.get("min"), named.get("max"), tau)


def _clip(soft_ramp: Callable[..., Array], mode: Mode, x: Array, low: Array | None, high: Array | None, tau: Array):
    """The hard result plus what the ramps R add inside of its corners: R(t) is R(-t) + t, and R(-inf) is 0.

    Large ramps would cancel, and infinite ones give NaN. Where a bound is met exactly both branches have one
    derivative.
    """
    if low is not None and high is not None:
        low = jnp.where(low > high, high, low)
    hard, corners = x, jnp.zeros_like(x)
    for bound, sign in ((low, 1), (high, -1)):
        if bound is not None:
            above = x > bound
            distance = difference(x, bound)
            corners = corners + sign * soft_ramp(mode, jnp.where(above, -distance, distance), tau)
            hard = jnp.where(above, hard, bound) if sign == 1 else jnp.where(above, bound, hard)
    return hard + corners


_CLIPS = {gated: partial(_clip, soft_ramp) for gated, soft_ramp in _RAMPS.items()}


def abs(x: ArrayLike, *, softness: Softness = 0.1, mode: ModeName = "smooth") -> Array:
    """Soft `jnp.abs`: x * sign(x).

    **Arguments:**
        x: array of any shape.
        softness: positive; broadcastable to x. In units of x.
        mode: "hard", "smooth", "c0", "c1" or "c2".
    **Returns:** a non-negative array like x.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    soft, (x,), tau = enter(mode, softness, x=x)
    if soft is None:
        return jnp.abs(x)
    return call(_abs, soft, x, tau)


def _abs(mode: Mode, x: Array, tau: Array) -> Array:
    return soften(mode, x, tau, partial(to_scale, lambda x, _, t: x * mode.sign(t)), jnp.abs)


def sign(x: ArrayLike, *, softness: Softness = 0.1, mode: ModeName = "smooth") -> Array:
    """Soft `jnp.sign`: 2 * sigmoidal(x) - 1.

    **Arguments:**
        x: array of any shape.
        softness: positive; broadcastable to x. In units of x.
        mode: "hard", "smooth", "c0", "c1" or "c2".
    **Returns:** an array like x, from -1 to 1.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    soft, (x,), tau = enter(mode, softness, x=x)
    if soft is None:
        return jnp.sign(x)
    return call(_sign, soft, x, tau)


def _sign(mode: Mode, x: Array, tau: Array) -> Array:
    return soften(mode, x, tau, partial(of_quotient, mode.sign), jnp.sign)


def round(
    a: ArrayLike,
    decimals: int = 0,
    *,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    neighbor_radius: int | None = None,
) -> Array:
    """Soft `jnp.round`: a staircase of soft steps at the half-integers.

    **Arguments:**
        a: array of any shape.
        decimals: number of decimals to round to; beyond the dtype's own nothing is rounded.
        softness: positive; broadcastable to a. In units of the spacing, 10**-decimals.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        neighbor_radius: sum only this many steps on either side of each element. None sums all of them.
    **Returns:** an array like a.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the infinite sum in closed form is derived in `softjax._elementwise`.
    """
    soft, (a,), tau = enter(mode, softness, a=a)
    dtype = _check.compute_dtype(a.dtype)
    digits = int(-math.log10(jnp.finfo(dtype).tiny))
    decimals = _check.integer("decimals", decimals, -digits, why=f" for {dtype}")
    if neighbor_radius is not None:
        neighbor_radius = _check.integer("neighbor_radius", neighbor_radius, 1)
    if decimals > digits:  # beyond the precision of any number, where `jnp.round` may overflow
        return a
    if soft is None:
        return jnp.round(a, decimals)
    return call(_rounding(decimals, neighbor_radius), soft, a, tau)


@cache
def _rounding(decimals: int, radius: int | None) -> Callable[..., Array]:
    """The form for these static arguments: one object, so that its program is compiled once."""
    return partial(staircase, scale=10.0**decimals, radius=radius)


def floor(x: ArrayLike, /, *, softness: Softness = 0.1, mode: ModeName = "smooth") -> Array:
    """Soft `jnp.floor`: a staircase of soft steps at the integers.

    **Arguments:**
        x: array of any shape.
        softness: positive; broadcastable to x. In units of x, whose steps are 1 apart.
        mode: "hard", "smooth", "c0", "c1" or "c2".
    **Returns:** an array like x, n - 1/2 at an integer n; beyond the dtype's precision x.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the infinite sum in closed form is derived in `softjax._elementwise`.
    """
    soft, (x,), tau = enter(mode, softness, x=x)
    return jnp.floor(x) if soft is None else call(_floor, soft, x, tau)


def ceil(x: ArrayLike, /, *, softness: Softness = 0.1, mode: ModeName = "smooth") -> Array:
    """Soft `jnp.ceil`: `floor` + 1.

    **Arguments:**
        x: array of any shape.
        softness: positive; broadcastable to x. In units of x, whose steps are 1 apart.
        mode: "hard", "smooth", "c0", "c1" or "c2".
    **Returns:** an array like x, n + 1/2 at an integer n; beyond the dtype's precision x.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** as `floor`.
    """
    soft, (x,), tau = enter(mode, softness, x=x)
    return jnp.ceil(x) if soft is None else call(_ceil, soft, x, tau)


def trunc(x: ArrayLike, /, *, softness: Softness = 0.1, mode: ModeName = "smooth") -> Array:
    """Soft `jnp.trunc`: a staircase of soft steps at the integers but 0.

    **Arguments:**
        x: array of any shape.
        softness: positive; broadcastable to x. In units of x, whose steps are 1 apart.
        mode: "hard", "smooth", "c0", "c1" or "c2".
    **Returns:** an array like x; beyond the dtype's precision x.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** as `floor`.
    """
    soft, (x,), tau = enter(mode, softness, x=x)
    return jnp.trunc(x) if soft is None else call(_trunc, soft, x, tau)


def mod(x1: ArrayLike, x2: ArrayLike, /, *, softness: Softness = 0.1, mode: ModeName = "smooth") -> Array:
    """Soft `jnp.mod`: x1 - x2 * floor(x1 / x2), a saw whose teeth fall off softly.

    **Arguments:**
        x1: array of any shape.
        x2: the period, broadcastable against x1.
        softness: positive; broadcastable to the result. In units of x1.
        mode: "hard", "smooth", "c0", "c1" or "c2".
    **Returns:** an array of the broadcast shape, x2 / 2 where a tooth falls; NaN where x2 is 0.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** as `floor`.
    """
    soft, (x1, x2), tau = enter(mode, softness, x1=x1, x2=x2)
    return jnp.mod(x1, x2) if soft is None else call(_mod, soft, x1, x2, tau)


# ---------------------------------------------------------------- the staircase behind `round` and `floor`

_SWITCH = 0.25


def staircase(mode: Mode, a: Array, tau: Array, *, scale: float, radius: int | None) -> Array:
    """The soft steps at the half-integers of a * scale, divided by scale; `radius` sums only so many on each side."""
    x = a * scale
    # Beyond the precision rounding alone decides where between two integers a * scale is.
    resolved = jnp.isfinite(x) if scale == 1 else jnp.abs(x) < 1 / float(jnp.finfo(x.dtype).eps)
    nearest = lax.stop_gradient(jnp.round(x))
    # Differentiated in the unit of a: a cotangent divided by a scale of 1e37 would underflow.
    u = jnp.where(resolved, with_slope_of(a, x - nearest), jnp.zeros_like(x))
    tau = with_slope_of(tau / scale, tau)
    fraction = _fraction(mode, u, tau, radius)
    return jnp.where(resolved, with_slope_of(fraction, (nearest + fraction) / scale), a)


def _floor(mode: Mode, x: Array, tau: Array) -> Array:
    return _at_integers(mode, x, tau, jnp.zeros_like(x))


def _ceil(mode: Mode, x: Array, tau: Array) -> Array:
    return _at_integers(mode, x, tau, jnp.ones_like(x))


def _trunc(mode: Mode, x: Array, tau: Array) -> Array:
    return _at_integers(mode, x, tau, step(mode, -x, tau))


def _at_integers(mode: Mode, x: Array, tau: Array, more: Array) -> Array:
    """The soft steps at the integers, and as much more."""
    finite = jnp.isfinite(x)
    nearest = lax.stop_gradient(jnp.round(x))
    u = jnp.where(finite, x - nearest, jnp.zeros_like(x))
    fraction = _fraction(mode, u, tau, None, 0.5)
    return jnp.where(finite, nearest + (fraction + more), x)


_PERIODS = 2.0**60
"""A period beyond this, or below its inverse, or of which an x is more than so many, is not softened."""


def _mod(mode: Mode, x: Array, period: Array, tau: Array) -> Array:
    """By the remainder, which floats hold exactly however many periods x is away."""
    size = jnp.abs(period)
    regular = (size >= 1 / _PERIODS) & (size <= _PERIODS) & (jnp.abs(x) <= _PERIODS * jnp.minimum(size, _PERIODS))
    x0, period0 = jnp.where(regular, x, jnp.zeros_like(x)), jnp.where(regular, period, jnp.ones_like(period))
    size0 = jnp.abs(period0)
    u = lax.rem(*lax.stop_gradient((x0, period0))) / lax.stop_gradient(period0)
    u = with_slope_of(x0 / period0, u - jnp.round(u))
    # Beyond these bounds nothing is soft, or nothing is left of the teeth; a float may not hold so few or many periods.
    width = jnp.clip(tau, 4 * float(jnp.finfo(tau.dtype).tiny) * size0, 2.0**30 * size0) / size0
    soft = period0 * (u - _fraction(mode, u, width, None, 0.5))
    given = jnp.where(regular, jnp.zeros_like(x), x), jnp.where(regular, jnp.ones_like(period), period)
    return jnp.where(regular, soft, jnp.mod(*given))


def _fraction(mode: Mode, u: Array, tau: Array, radius: int | None, shift: float = 0.0) -> Array:
    """r(u - shift) for u in [-1/2, 1/2], with the digits of a small u; the shift 1/2 puts the steps at the integers."""
    if radius is not None:
        return _pairs(mode, u, tau, radius, shift)
    if mode.degree is not None:
        eps = float(jnp.finfo(u.dtype).eps)
        apart = tau < (1 - 8 * eps) / (2 * HALF_WIDTH)
        wide = jnp.where(apart, jnp.ones_like(tau), tau)
        return jnp.where(apart, _pairs(mode, u, tau, 1, shift), _overlapping(mode.degree, u - shift, wide))
    digits = -math.log(jnp.finfo(u.dtype).eps)
    small = tau < _SWITCH
    switch = jnp.full_like(tau, _SWITCH)
    direct = _pairs(mode, u, jnp.where(small, tau, switch), math.ceil(digits * _SWITCH) + 1, shift)
    terms = math.ceil(digits / (2 * math.pi**2 * _SWITCH)) + 1
    return jnp.where(small, direct, _fourier(u - shift, jnp.where(small, switch, tau), terms))


def _pairs(mode: Mode, u: Array, tau: Array, terms: int, shift: float) -> Array:
    total = jnp.zeros_like(u)
    for k in range(terms):
        total = total + step(mode, u - (k + 0.5 + shift), tau) - step(mode, -u - (k + 0.5 - shift), tau)
    return total


def _fourier(u: Array, tau: Array, terms: int) -> Array:
    total = u
    tau = jnp.minimum(tau, 50.0)  # where the amplitudes are 0
    for m in range(1, terms + 1):
        x = 2 * math.pi**2 * m * tau
        amplitude = 2 * x * jnp.exp(-x) / (1 - jnp.exp(-2 * x))
        total = total + (-1) ** m * amplitude * jnp.sin(2 * math.pi * m * u) / (math.pi * m)
    return total


def _overlapping(degree: int, u: Array, tau: Array) -> Array:
    """r(u) of a compact step that rises on an interval of width 10 tau >= 1."""
    eps = float(jnp.finfo(u.dtype).eps)
    tau = jnp.where(tau > eps**-2, jnp.full_like(tau, eps**-2), tau)  # where nothing is left of G
    v = 1 / (2 * HALF_WIDTH * tau)
    h = HALF_WIDTH * tau - 0.5

    def ends(y):  # G at {y}, by powers of m = {y} - 1/2
        m = y - jnp.floor(y) - 0.5
        if degree == 1:
            # The kinks of two steps cancel where they meet, on either side of which rounding may put the point: at a
            # kink the derivative is the mean of its sides.
            kink = jnp.abs(m) > 0.5 - 4 * eps * (1 + h)
            m = jnp.where(kink, jnp.full_like(m, 0.5), m)
            return v * (m**2 - 1 / 12) / 2
        b4 = m**4 - m**2 / 2 + 7 / 240
        if degree == 2:
            return v**2 * ((m**2 - 0.25) * m - v * b4 / 2)
        b5 = m * (m**4 - 5 * m**2 / 6 + 7 / 48)
        b6 = m**6 - 5 * m**4 / 4 + 7 * m**2 / 16 - 31 / 1344
        return v**3 * (2.5 * b4 - v * (3 * b5 - v * b6))

    return u - ends(h + u) + ends(h - u)
