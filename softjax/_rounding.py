"""The staircase of soft steps behind `round`, summed over all integers in closed form.

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

import jax.numpy as jnp
from jax import Array, lax

from ._modes import HALF_WIDTH, Mode, step
from ._slope import with_slope_of

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


def _fraction(mode: Mode, u: Array, tau: Array, radius: int | None) -> Array:
    """r(u) for u in [-1/2, 1/2]."""
    if radius is not None:
        return _pairs(mode, u, tau, radius)
    if mode.degree is not None:
        eps = float(jnp.finfo(u.dtype).eps)
        apart = tau < (1 - 8 * eps) / (2 * HALF_WIDTH)
        wide = jnp.where(apart, jnp.ones_like(tau), tau)
        return jnp.where(apart, _pairs(mode, u, tau, 1), _overlapping(mode.degree, u, wide))
    digits = -math.log(jnp.finfo(u.dtype).eps)
    small = tau < _SWITCH
    switch = jnp.full_like(tau, _SWITCH)
    direct = _pairs(mode, u, jnp.where(small, tau, switch), math.ceil(digits * _SWITCH) + 1)
    terms = math.ceil(digits / (2 * math.pi**2 * _SWITCH)) + 1
    return jnp.where(small, direct, _fourier(u, jnp.where(small, switch, tau), terms))


def _pairs(mode: Mode, u: Array, tau: Array, terms: int) -> Array:
    total = jnp.zeros_like(u)
    for k in range(terms):
        total = total + step(mode, u - k - 0.5, tau) - step(mode, -u - k - 0.5, tau)
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
