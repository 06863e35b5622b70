"""Soft forms of JAX's elementwise operators: step, ramp and what follows from them.

What `softness` and `mode` mean is written once, in docs/softness.md.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from . import _check
from ._modes import MODES, Mode
from ._rounding import soft_fraction
from ._types import ModeName, SoftBool, Softness

_FAR = 1e4
"""Beyond this many softnesses a step is flat and a ramp straight in every mode, in float64 too."""


_FLAT = 50.0
"""Beyond this many softnesses a step differs from 0 or 1 by less than a float64 can tell."""


def enter(mode: ModeName, softness: Softness, **arrays: ArrayLike) -> tuple[Mode | None, tuple[Array, ...], Array]:
    """Resolve the mode; bring the arrays to one dtype and shape, and `softness` to the dtype to compute in."""
    resolved = _check.choice("mode", mode, MODES)
    xs = _check.together(**{name: _check.real(name, x) for name, x in arrays.items()})
    dtype = _check.compute_dtype(xs[0].dtype)
    tau = _check.softness(softness, xs[0].shape, dtype, against="the input's shape")
    return resolved, xs, tau


def step(mode: Mode, x: Array, tau: Array) -> Array:
    """mode.step(x / tau), clamped first so that neither value nor derivative overflows."""
    return mode.step(jnp.clip(x, -_FAR * tau, _FAR * tau) / tau)


def ramp(mode: Mode, x: Array, tau: Array) -> Array:
    """The integral of `step` over x: tau * mode.ramp(x / tau)."""
    near = jnp.clip(x, -_FAR * tau, _FAR * tau)
    return tau * mode.ramp(near / tau) + jnp.maximum(x - _FAR * tau, 0)


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
    return step(soft, x.astype(tau.dtype), tau).astype(x.dtype)


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
    return step(soft, x.astype(tau.dtype), tau).astype(x.dtype)


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
    return _ramp(soft, x.astype(tau.dtype), tau, gated).astype(x.dtype)


def _ramp(mode: Mode, x: Array, tau: Array, gated: bool) -> Array:
    return jnp.maximum(x, -_FAR * tau) * step(mode, x, tau) if gated else ramp(mode, x, tau)


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
    """Soft `jnp.clip`: min + relu(x - min) - relu(x - max).

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
    y = x.astype(tau.dtype)
    bottom, top = (named[name].astype(tau.dtype) if name in named else None for name in ("min", "max"))
    if bottom is not None and top is not None:
        # Flat beyond, to the last float: two large ramps would only cancel.
        y = jnp.clip(y, bottom - _FLAT * tau, top + _FLAT * tau)
    result = y if bottom is None else bottom + _ramp(soft, y - bottom, tau, gated)
    if top is not None:
        result = result - _ramp(soft, y - top, tau, gated)
    return result.astype(x.dtype)


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
    y = x.astype(tau.dtype)
    return (y * _sign(soft, y, tau)).astype(x.dtype)


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
    return _sign(soft, x.astype(tau.dtype), tau).astype(x.dtype)


def _sign(mode: Mode, x: Array, tau: Array) -> Array:
    # S(t) - S(-t) equals 2 S(t) - 1 and keeps the digits of a small t.
    return step(mode, x, tau) - step(mode, -x, tau)


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
        decimals: number of decimals to round to.
        softness: positive; broadcastable to a. In units of the spacing, 10**-decimals.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        neighbor_radius: sum only this many steps on either side of each element. None sums all of them.
    **Returns:** an array like a.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the infinite sum in closed form is derived in `softjax._rounding`.
    """
    soft, (a,), tau = enter(mode, softness, a=a)
    decimals = _check.integer("decimals", decimals, -300, 300)
    if neighbor_radius is not None:
        neighbor_radius = _check.integer("neighbor_radius", neighbor_radius, 1)
    if soft is None:
        return jnp.round(a, decimals)
    scale = 10.0**decimals
    x = a.astype(tau.dtype) * scale
    nearest = jax.lax.stop_gradient(jnp.round(x))
    fraction = jnp.where(jnp.isfinite(x), x - nearest, jnp.zeros_like(x))
    return ((nearest + soft_fraction(soft, fraction, tau, neighbor_radius)) / scale).astype(a.dtype)
