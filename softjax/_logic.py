"""Fuzzy logic on SoftBools: conjunctions and disjunctions by the geometric mean or by the product."""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from . import _check
from ._axis import reduced_axes
from ._types import Axis, SoftBool

_FLOOR = 1e-10
"""Below this a degree counts as this in a geometric mean, which keeps its derivative finite."""


def _compute(*degrees: Array) -> tuple[tuple[Array, ...], np.dtype]:
    dtype = degrees[0].dtype
    return tuple(x.astype(_check.compute_dtype(dtype)) for x in degrees), dtype


def _pair(x: ArrayLike, y: ArrayLike) -> tuple[tuple[Array, ...], np.dtype]:
    return _compute(*_check.together(x=_check.real("x", x), y=_check.real("y", y)))


def _conjunction(x: Array, y: Array, use_geometric_mean: bool) -> Array:
    if not _check.flag("use_geometric_mean", use_geometric_mean):
        return x * y
    return jnp.sqrt(jnp.maximum(x, _FLOOR)) * jnp.sqrt(jnp.maximum(y, _FLOOR))


def _disjunction(x: Array, y: Array, use_geometric_mean: bool) -> Array:
    return 1 - _conjunction(1 - x, 1 - y, use_geometric_mean)


def logical_and(x: ArrayLike, y: ArrayLike, /, *, use_geometric_mean: bool = True) -> SoftBool:
    """Soft `jnp.logical_and`: the geometric mean sqrt(x y), or the product.

    **Arguments:**
        x, y: SoftBools, broadcastable against each other.
        use_geometric_mean: False takes the product x y.
    **Returns:** a SoftBool of the broadcast shape.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md.
    """
    (x, y), dtype = _pair(x, y)
    return _conjunction(x, y, use_geometric_mean).astype(dtype)


def logical_or(x: ArrayLike, y: ArrayLike, /, *, use_geometric_mean: bool = True) -> SoftBool:
    """Soft `jnp.logical_or`: not (not x and not y).

    **Arguments:**
        x, y: SoftBools, broadcastable against each other.
        use_geometric_mean: False takes 1 - (1 - x)(1 - y).
    **Returns:** a SoftBool of the broadcast shape.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md.
    """
    (x, y), dtype = _pair(x, y)
    return _disjunction(x, y, use_geometric_mean).astype(dtype)


def logical_not(x: ArrayLike, /) -> SoftBool:
    """Soft `jnp.logical_not`: 1 - x.

    **Arguments:**
        x: a SoftBool.
    **Returns:** a SoftBool like x.
    **Raises:** `TypeError` if x is not a real array.
    **Source:** docs/operators.md.
    """
    return 1 - _check.real("x", x)


def logical_xor(x: ArrayLike, y: ArrayLike, /, *, use_geometric_mean: bool = True) -> SoftBool:
    """Soft `jnp.logical_xor`: (x and not y) or (not x and y).

    **Arguments:**
        x, y: SoftBools, broadcastable against each other.
        use_geometric_mean: False takes products.
    **Returns:** a SoftBool of the broadcast shape.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md.
    """
    (x, y), dtype = _pair(x, y)
    only_x = _conjunction(x, 1 - y, use_geometric_mean)
    only_y = _conjunction(1 - x, y, use_geometric_mean)
    return _disjunction(only_x, only_y, use_geometric_mean).astype(dtype)


def all(a: ArrayLike, axis: Axis = None, *, keepdims: bool = False, use_geometric_mean: bool = True) -> SoftBool:
    """Soft `jnp.all`: the geometric mean over `axis`, or the product.

    **Arguments:**
        a: a SoftBool.
        axis: the axis or axes to reduce; None for all.
        keepdims: keep the reduced axes with size 1.
        use_geometric_mean: False takes the product.
    **Returns:** a SoftBool without the reduced axes.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md.
    """
    (x,), dtype = _compute(_check.real("a", a))
    return _every(x, axis, keepdims, use_geometric_mean).astype(dtype)


def any(a: ArrayLike, axis: Axis = None, *, keepdims: bool = False, use_geometric_mean: bool = True) -> SoftBool:
    """Soft `jnp.any`: not all(not a).

    **Arguments:**
        a: a SoftBool.
        axis: the axis or axes to reduce; None for all.
        keepdims: keep the reduced axes with size 1.
        use_geometric_mean: False takes 1 minus the product of 1 - a.
    **Returns:** a SoftBool without the reduced axes.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md.
    """
    (x,), dtype = _compute(_check.real("a", a))
    return (1 - _every(1 - x, axis, keepdims, use_geometric_mean)).astype(dtype)


def _every(x: Array, axis: Axis, keepdims: bool, use_geometric_mean: bool) -> Array:
    axes = reduced_axes(axis, x.ndim)
    keepdims = _check.flag("keepdims", keepdims)
    if not _check.flag("use_geometric_mean", use_geometric_mean):
        return jnp.prod(x, axis=axes, keepdims=keepdims)
    if x.size == 0:
        return jnp.prod(x, axis=axes, keepdims=keepdims)  # 1 where nothing is reduced, as jnp.all
    return jnp.exp(jnp.mean(jnp.log(jnp.maximum(x, _FLOOR)), axis=axes, keepdims=keepdims))
