"""Soft comparisons: operators that return a SoftBool.

What `softness` and `mode` mean is written once, in docs/softness.md.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from . import _check
from ._elementwise import call, difference, enter
from ._modes import Mode, step
from ._types import ModeName, SoftBool, Softness


def _distance(x: Array, y: Array) -> Array:
    """|x - y| with derivative 0 at equality, where jnp.abs has 1."""
    d = difference(x, y)
    return d * lax.stop_gradient(jnp.sign(d))


def _ordered(x: ArrayLike, y: ArrayLike, softness: Softness, mode: ModeName, hard: Callable) -> SoftBool:
    """S of x - y for the operators that are true where x is large, of y - x for the others."""
    soft, (x, y), tau = enter(mode, softness, x=x, y=y)
    if soft is None:
        return hard(x, y).astype(x.dtype)
    larger, smaller = (x, y) if hard in (jnp.greater, jnp.greater_equal) else (y, x)
    return call(_above, soft, larger, smaller, tau)


def _above(mode: Mode, x: Array, y: Array, tau: Array) -> Array:
    return step(mode, difference(x, y), tau)


def greater(x: ArrayLike, y: ArrayLike, /, *, softness: Softness = 0.1, mode: ModeName = "smooth") -> SoftBool:
    """Soft `jnp.greater`: S((x - y) / softness), 1/2 at equality.

    **Arguments:**
        x, y: arrays, broadcastable against each other.
        softness: positive; broadcastable to the result. In units of x.
        mode: "hard", "smooth", "c0", "c1" or "c2".
    **Returns:** the degree to which x > y, in the broadcast shape.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    return _ordered(x, y, softness, mode, jnp.greater)


def greater_equal(x: ArrayLike, y: ArrayLike, /, *, softness: Softness = 0.1, mode: ModeName = "smooth") -> SoftBool:
    """Soft `jnp.greater_equal`: S((x - y) / softness), 1/2 at equality.

    **Arguments:**
        x, y: arrays, broadcastable against each other.
        softness: positive; broadcastable to the result. In units of x.
        mode: "hard", "smooth", "c0", "c1" or "c2".
    **Returns:** the degree to which x >= y, in the broadcast shape.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    return _ordered(x, y, softness, mode, jnp.greater_equal)


def less(x: ArrayLike, y: ArrayLike, /, *, softness: Softness = 0.1, mode: ModeName = "smooth") -> SoftBool:
    """Soft `jnp.less`: S((y - x) / softness), 1/2 at equality.

    **Arguments:**
        x, y: arrays, broadcastable against each other.
        softness: positive; broadcastable to the result. In units of x.
        mode: "hard", "smooth", "c0", "c1" or "c2".
    **Returns:** the degree to which x < y, in the broadcast shape.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    return _ordered(x, y, softness, mode, jnp.less)


def less_equal(x: ArrayLike, y: ArrayLike, /, *, softness: Softness = 0.1, mode: ModeName = "smooth") -> SoftBool:
    """Soft `jnp.less_equal`: S((y - x) / softness), 1/2 at equality.

    **Arguments:**
        x, y: arrays, broadcastable against each other.
        softness: positive; broadcastable to the result. In units of x.
        mode: "hard", "smooth", "c0", "c1" or "c2".
    **Returns:** the degree to which x <= y, in the broadcast shape.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    return _ordered(x, y, softness, mode, jnp.less_equal)


def equal(
    x: ArrayLike, y: ArrayLike, /, *, softness: Softness = 0.1, mode: ModeName = "smooth", normalize: bool = False
) -> SoftBool:
    """Soft `jnp.equal`: S(-|x - y| / softness), 1/2 at equality, where it has a kink in every mode.

    **Arguments:**
        x, y: arrays, broadcastable against each other.
        softness: positive; broadcastable to the result. In units of x.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        normalize: a form that reaches 1 at equality and has no kink there; docs/softness.md.
    **Returns:** the degree to which x == y, in the broadcast shape.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    soft, (x, y), tau = enter(mode, softness, x=x, y=y)
    normalize = _check.flag("normalize", normalize)
    if soft is None:
        return jnp.equal(x, y).astype(x.dtype)
    return call(_bump if normalize else _within, soft, x, y, None, tau)


def _within(mode: Mode, x: Array, y: Array, tolerance: Array | None, tau: Array) -> Array:
    """S((tolerance - |x - y|) / tau): its kink at x == y is the definition's."""
    if tolerance is None:
        return step(mode, -_distance(x, y), tau)
    return step(mode, tolerance - _within_all(_distance(x, y), tolerance), tau)


def _within_all(d: Array, tolerance: Array) -> Array:
    """A difference d, 0 where the tolerance is infinite: all is within, infinities too."""
    return jnp.where(jnp.isinf(tolerance) & jnp.isinf(d), jnp.zeros_like(d), d)


def _bump(mode: Mode, x: Array, y: Array, tolerance: Array | None, tau: Array) -> Array:
    """The normalised form, as smooth at x == y as the mode: docs/softness.md."""
    d = difference(x, y)
    theta = jnp.zeros_like(d) if tolerance is None else tolerance
    d = _within_all(d, theta)
    peak = step(mode, theta, tau)
    part = step(mode, theta - d, tau) * step(mode, theta + d, tau) / (peak * peak)
    bump = part / (part + (1 - part) / peak)
    return bump - lax.stop_gradient(jnp.maximum(bump - 1, 0))  # rounding may exceed 1


def not_equal(
    x: ArrayLike, y: ArrayLike, /, *, softness: Softness = 0.1, mode: ModeName = "smooth", normalize: bool = False
) -> SoftBool:
    """Soft `jnp.not_equal`: 1 - equal(x, y).

    **Arguments:**
        x, y: arrays, broadcastable against each other.
        softness: positive; broadcastable to the result. In units of x.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        normalize: as in `equal`; the result then reaches 0.
    **Returns:** the degree to which x != y, in the broadcast shape.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    return 1 - equal(x, y, softness=softness, mode=mode, normalize=normalize)


def isclose(
    a: ArrayLike,
    b: ArrayLike,
    rtol: ArrayLike = 1e-5,
    atol: ArrayLike = 1e-8,
    equal_nan: bool = False,
    *,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    normalize: bool = False,
) -> SoftBool:
    """Soft `jnp.isclose`: S((atol + rtol |b| - |a - b|) / softness), 1/2 at the edge of the tolerance.

    It has a kink at a == b, as `equal`.

    **Arguments:**
        a, b: arrays, broadcastable against each other.
        rtol, atol: relative and absolute tolerance, as in `jnp.isclose`.
        equal_nan: whether two NaN are close.
        softness: positive; broadcastable to the result. In units of a.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        normalize: a form that reaches 1 at a == b and has no kink there; docs/softness.md.
    **Returns:** the degree to which a is close to b, in the broadcast shape.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    soft, (a, b), tau = enter(mode, softness, a=a, b=b)
    equal_nan, normalize = _check.flag("equal_nan", equal_nan), _check.flag("normalize", normalize)
    if soft is None:
        return jnp.isclose(a, b, rtol, atol, equal_nan).astype(a.dtype)
    tolerances = [_check.real(name, t).astype(tau.dtype) for name, t in (("rtol", rtol), ("atol", atol))]
    rtol, atol = (_check.broadcast("tolerance", t, a.shape, against="the input's shape") for t in tolerances)
    wide = b.astype(tau.dtype)
    tolerance = atol + rtol * jnp.where(jnp.isinf(wide), jnp.zeros_like(wide), jnp.abs(wide))
    result = call(_bump if normalize else _within, soft, a, b, tolerance, tau)
    if equal_nan:
        both = jnp.isnan(a) & jnp.isnan(b)
        result = jnp.where(both, jnp.full_like(result, 1.0 if normalize else 0.5), result)
    return result
