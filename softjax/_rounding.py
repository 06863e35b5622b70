"""The staircase of soft steps behind `round`, summed over all integers in closed form.

With u = x - round(x) in [-1/2, 1/2] the staircase is round(x) + r(u) and, since S(-t) = 1 - S(t),

    r(u) = sum_{k >= 0} S((u - k - 1/2) / tau) - S((-u - k - 1/2) / tau).

- smooth, tau < 1/4: the terms fall off like exp(-k / tau); a few suffice.
- smooth, tau >= 1/4: Poisson summation with the characteristic function X / sinh(X), X = 2 pi^2 tau m, of
  the logistic density gives r(u) = u + sum_{m >= 1} (-1)^m X / sinh(X) sin(2 pi m u) / (pi m).
- c0, c1, c2: with w = 10 tau, S(-y / tau) = 1/2 - c_1 (y/w) - c_3 (y/w)^3 - c_5 (y/w)^5 for y < w/2, else 0; the sum of
  powers over y = a, a + 1, .., a + N - 1 is (B_{p+1}(a + N) - B_{p+1}(a)) / (p + 1), with Bernoulli
  polynomials B (DLMF 24.4.9).
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from ._modes import Mode

_ODD_COEFFICIENTS = {1: (1.0, 0.0, 0.0), 2: (1.5, -2.0, 0.0), 3: (1.875, -5.0, 6.0)}
"""Degree of the mode -> coefficients of v, v^3, v^5 in S = 1/2 + ..., v = t / 10."""

_SWITCH = 0.25


def soft_fraction(mode: Mode, u: Array, tau: Array, radius: int | None) -> Array:
    """r(u) for u in [-1/2, 1/2]; `radius` truncates the sum to that many terms."""
    if radius is not None:
        return _pairs(mode, u, tau, radius)
    if mode.degree is not None:
        return _partial_staircase(mode, 0.5 - u, tau) - _partial_staircase(mode, 0.5 + u, tau)
    digits = -math.log(jnp.finfo(u.dtype).eps)
    direct = _pairs(mode, u, jnp.minimum(tau, _SWITCH), math.ceil(digits * _SWITCH) + 1)
    terms = math.ceil(digits / (2 * math.pi**2 * _SWITCH)) + 1
    return jnp.where(tau < _SWITCH, direct, _fourier(u, jnp.maximum(tau, _SWITCH), terms))


def _pairs(mode: Mode, u: Array, tau: Array, terms: int) -> Array:
    far = 1e4 * tau
    total = jnp.zeros_like(u)
    for k in range(terms):
        up, down = (jnp.clip(side - k - 0.5, -far, far) / tau for side in (u, -u))
        total = total + mode.step(up) - mode.step(down)
    return total


def _fourier(u: Array, tau: Array, terms: int) -> Array:
    total = u
    for m in range(1, terms + 1):
        x = jnp.minimum(2 * math.pi**2 * m * tau, 700.0)
        amplitude = 2 * x * jnp.exp(-x) / (1 - jnp.exp(-2 * x))
        total = total + (-1) ** m * amplitude * jnp.sin(2 * math.pi * m * u) / (math.pi * m)
    return total


def _partial_staircase(mode: Mode, a: Array, tau: Array) -> Array:
    """sum_{k >= 0} S(-(a + k) / tau) for a compact step and a in [0, 1]."""
    assert mode.degree is not None
    # Up to w = 2 only k = 0 lies on the step's rise.
    single = mode.step(jnp.clip(-a, -1e4 * tau, 0) / tau)
    w = jnp.maximum(10 * tau, 2.0)
    count = jax.lax.stop_gradient(jnp.maximum(jnp.ceil(w / 2 - a), 0))
    c1, c3, c5 = _ODD_COEFFICIENTS[mode.degree]

    def bernoulli_sum(x):  # the antiderivatives at x, each power of y in units of w
        y, inverse = (x - 0.5) / w, 1 / w**2
        b2 = y**2 - inverse / 12
        b4 = y**4 - y**2 * inverse / 2 + 7 * inverse**2 / 240
        b6 = y**6 - 1.25 * y**4 * inverse + 7 * y**2 * inverse**2 / 16 - 31 * inverse**3 / 1344
        return w * (c1 * b2 / 2 + c3 * b4 / 4 + c5 * b6 / 6)

    several = count / 2 - (bernoulli_sum(a + count) - bernoulli_sum(a))
    return jnp.where(10 * tau < 2.0, single, several)
