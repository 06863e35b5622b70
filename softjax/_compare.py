"""Soft comparisons: operators that return a SoftBool.

What `softness` and `mode` mean is written once, in docs/softness.md.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from . import _check
from ._elementwise import enter, step
from ._types import ModeName, SoftBool, Softness


def _difference(x: Array, y: Array) -> Array:
    """x - y, zero between equal infinities."""
    same = (x == y) & jnp.isinf(x)
    zero = jnp.zeros_like(x)
    return jnp.where(same, zero, x) - jnp.where(same, zero, y)


def _distance(x: Array, y: Array) -> Array:
    """|x - y| with derivative 0 at equality, where jnp.abs has 1."""
    difference = _difference(x, y)
    return difference * lax.stop_gradient(jnp.sign(difference))


def _ordered(x: ArrayLike, y: ArrayLike, softness: Softness, mode: ModeName, hard: Callable) -> SoftBool:
    """S of x - y for the operators that are true where x is large, of y - x for the others."""
    soft, (x, y), tau = enter(mode, softness, x=x, y=y)
    if soft is None:
        return hard(x, y).astype(x.dtype)
    wide = x.astype(tau.dtype), y.astype(tau.dtype)
    larger, smaller = wide if hard in (jnp.greater, jnp.greater_equal) else wide[::-1]
    return step(soft, _difference(larger, smaller), tau).astype(x.dtype)


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
    """Soft `jnp.equal`: S(-|x - y| / softness), 1/2 at equality.

    **Arguments:**
        x, y: arrays, broadcastable against each other.
        softness: positive; broadcastable to the result. In units of x.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        normalize: divide by the value at equality, so that the result reaches 1.
    **Returns:** the degree to which x == y, in the broadcast shape.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    soft, (x, y), tau = enter(mode, softness, x=x, y=y)
    normalize = _check.flag("normalize", normalize)
    if soft is None:
        return jnp.equal(x, y).astype(x.dtype)
    distance = _distance(x.astype(tau.dtype), y.astype(tau.dtype))
    result = step(soft, -distance, tau)
    return (2 * result if normalize else result).astype(x.dtype)


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

    **Arguments:**
        a, b: arrays, broadcastable against each other.
        rtol, atol: relative and absolute tolerance, as in `jnp.isclose`.
        equal_nan: whether two NaN are close.
        softness: positive; broadcastable to the result. In units of a.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        normalize: divide by the value at a == b, so that the result reaches 1.
    **Returns:** the degree to which a is close to b, in the broadcast shape.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    soft, (a, b), tau = enter(mode, softness, a=a, b=b)
    equal_nan, normalize = _check.flag("equal_nan", equal_nan), _check.flag("normalize", normalize)
    if soft is None:
        return jnp.isclose(a, b, rtol, atol, equal_nan).astype(a.dtype)
    x, y = a.astype(tau.dtype), b.astype(tau.dtype)
    tolerances = [_check.real(name, t).astype(tau.dtype) for name, t in (("rtol", rtol), ("atol", atol))]
    rtol, atol = (_check.broadcast("tolerance", t, x.shape, against="the input's shape") for t in tolerances)
    tolerance = atol + rtol * jnp.where(jnp.isinf(y), jnp.zeros_like(y), jnp.abs(y))
    result = step(soft, tolerance - _distance(x, y), tau)
    if normalize:
        result = result / step(soft, tolerance, tau)
    if equal_nan:
        both = jnp.isnan(x) & jnp.isnan(y)
        peak = step(soft, jnp.zeros_like(x), tau)
        result = jnp.where(both, jnp.ones_like(peak) if normalize else peak, result)
    return result.astype(a.dtype)
