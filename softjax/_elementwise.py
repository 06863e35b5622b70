"""Soft forms of JAX's elementwise operators: step, ramp and what follows from them.

What `softness` and `mode` mean is written once, in docs/softness.md.
"""

import math
from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from . import _check
from ._modes import MODES, Mode, ramp, soften, step
from ._rounding import staircase
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
    return soften(mode, x, tau, lambda x, t: x * mode.step(t), lambda x: jnp.maximum(x, 0))


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
    return soften(mode, x, tau, lambda x, t: x * _odd(mode, t), jnp.abs)


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
    return soften(mode, x, tau, lambda _, t: _odd(mode, t), jnp.sign)


def _odd(mode: Mode, t: Array) -> Array:
    # S(t) - S(-t) equals 2 S(t) - 1 and keeps the digits of a small t.
    return mode.step(t) - mode.step(-t)


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
    **Source:** docs/softness.md; the infinite sum in closed form is derived in `softjax._rounding`.
    """
    soft, (a,), tau = enter(mode, softness, a=a)
    dtype = _check.compute_dtype(a.dtype)
    digits = int(-math.log10(jnp.finfo(dtype).tiny))
    decimals = _check.integer("decimals", decimals, -digits, why=f" for {dtype}")
    if neighbor_radius is not None:
        neighbor_radius = _check.integer("neighbor_radius", neighbor_radius, 1)
    if soft is None:
        return jnp.round(a, decimals)
    if decimals > digits:  # beyond the precision of any number, as in `jnp.round`
        return a
    return call(_rounding(decimals, neighbor_radius), soft, a, tau)


@cache
def _rounding(decimals: int, radius: int | None) -> Callable[..., Array]:
    """The form for these static arguments: one object, so that its program is compiled once."""
    return partial(staircase, scale=10.0**decimals, radius=radius)
