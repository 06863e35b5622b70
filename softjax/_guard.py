"""Guards: hard functions whose values are JAX's own and whose gradients are finite.

Where a derivative is not, at an end of the function's domain or beyond it, it counts as 0: a masked or an unlucky
element does not make a whole gradient NaN. At such a point that holds at every order, since derivatives are made of
powers that are guarded themselves. Nothing is softened.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from . import _check
from ._axis import reduced_axes
from ._types import Axis


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _power(exponent: float, x: Array) -> Array:
    """x**exponent, 0 where that is not finite."""
    return _finite(x**exponent)


@_power.defjvp
def _power_jvp(exponent, primals, tangents):
    (x,), (dx,) = primals, tangents
    return _power(exponent, x), exponent * _power(exponent - 1, x) * dx


def _finite(slope: Array) -> Array:
    return jnp.where(jnp.isfinite(slope), slope, jnp.zeros_like(slope))


def _guarded(function: Callable[[Array], Array], slope: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A function of each element with a derivative of its own."""

    @jax.custom_jvp
    def guarded(x: Array) -> Array:
        return function(x)

    @guarded.defjvp
    def _guarded_jvp(primals, tangents):
        (x,), (dx,) = primals, tangents
        return guarded(x), slope(x) * dx

    return guarded


def _arc_slope(x: Array) -> Array:
    inside = jnp.where(jnp.abs(x) < 1, x, jnp.ones_like(x))
    return _power(-0.5, (1 - inside) * (1 + inside))


_sqrt = _guarded(jnp.sqrt, lambda x: 0.5 * _power(-0.5, x))
_log = _guarded(jnp.log, partial(_power, -1))
_arcsin = _guarded(jnp.arcsin, _arc_slope)
_arccos = _guarded(jnp.arccos, lambda x: -_arc_slope(x))


@jax.custom_jvp
def _quotient(x: Array, y: Array) -> Array:
    return jnp.divide(x, y)


@_quotient.defjvp
def _quotient_jvp(primals, tangents):
    (x, y), (dx, dy) = primals, tangents
    value = _quotient(x, y)
    fits = jnp.isfinite(value / y) & jnp.isfinite(x)
    held, divisor = jnp.where(fits, x, jnp.zeros_like(x)), jnp.where(fits, y, jnp.ones_like(y))
    return value, _power(-1, y) * dx - _quotient(held, divisor) * _power(-1, divisor) * dy


@partial(jax.jit, static_argnums=0)
def _length(axes: tuple[int, ...], x: Array) -> Array:
    return jnp.sqrt(jnp.sum(x * x, axis=axes, keepdims=True))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _norm(axes: tuple[int, ...], x: Array) -> Array:
    return _length(axes, x)


@_norm.defjvp
def _norm_jvp(axes, primals, tangents):
    (x,), (dx,) = primals, tangents
    length = _norm(axes, x)
    some = (length > 0) & jnp.isfinite(length)
    direction = jnp.where(some, x, jnp.zeros_like(x)) / jnp.where(some, length, jnp.ones_like(length))
    return length, jnp.sum(direction * dx, axis=axes, keepdims=True)


def sqrt(x: ArrayLike, /) -> Array:
    """`jnp.sqrt` with a derivative of 0 at 0 and below.

    **Arguments:**
        x: array of any shape.
    **Returns:** an array like x; NaN for what is negative.
    **Raises:** `TypeError` if x is not a real array.
    **Source:** docs/operators.md.
    """
    return _sqrt(_check.real("x", x))


def log(x: ArrayLike, /) -> Array:
    """`jnp.log` with a derivative of 0 at 0.

    **Arguments:**
        x: array of any shape.
    **Returns:** an array like x; -infinity for 0, NaN for what is negative.
    **Raises:** `TypeError` if x is not a real array.
    **Source:** docs/operators.md.
    """
    return _log(_check.real("x", x))


def arcsin(x: ArrayLike, /) -> Array:
    """`jnp.arcsin` with a derivative of 0 at -1, at 1 and beyond.

    **Arguments:**
        x: array of any shape.
    **Returns:** an array like x, in radians; NaN beyond -1 and 1.
    **Raises:** `TypeError` if x is not a real array.
    **Source:** docs/operators.md.
    """
    return _arcsin(_check.real("x", x))


def arccos(x: ArrayLike, /) -> Array:
    """`jnp.arccos` with a derivative of 0 at -1, at 1 and beyond.

    **Arguments:**
        x: array of any shape.
    **Returns:** an array like x, in radians; NaN beyond -1 and 1.
    **Raises:** `TypeError` if x is not a real array.
    **Source:** docs/operators.md.
    """
    return _arccos(_check.real("x", x))


def div(x: ArrayLike, y: ArrayLike, /) -> Array:
    """`jnp.divide` with a derivative by x of 0 where 1 / y is not finite, by y where x / y^2 is not.

    **Arguments:**
        x, y: arrays, broadcastable against each other.
    **Returns:** an array of the broadcast shape; an infinity or NaN where y is 0.
    **Raises:** `ValueError` or `TypeError` if an argument is not a real array, or if shapes do not fit.
    **Source:** docs/operators.md.
    """
    return _quotient(*_check.together(x=_check.real("x", x), y=_check.real("y", y)))


def norm(x: ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """`jnp.linalg.norm`, the square root of the sum of squares, with a derivative of 0 where that is 0 or not finite.

    **Arguments:**
        x: array of any shape.
        axis: the axis or axes to reduce, any number of them; None for all.
        keepdims: keep the reduced axes with size 1.
    **Returns:** an array of x's dtype without the reduced axes.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md.
    """
    x = _check.real("x", x)
    axes, keepdims = reduced_axes(axis, x.ndim), _check.flag("keepdims", keepdims)
    length = _norm(axes, x)
    return length if keepdims else jnp.squeeze(length, axes)
