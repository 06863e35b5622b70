"""Payloads in the soft order of their keys: one soft permutation, applied to all of them at once."""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from . import _check
from ._axis import layout_along, neighbours
from ._soft_rows import Softening, enter, in_order


def is_several(a: Any) -> bool:
    """Whether these are operands, as of `jax.lax.sort`: a tuple, or a list with arrays. A list of numbers is one."""
    if isinstance(a, list):
        return any(isinstance(operand, (jax.Array, np.ndarray)) and operand.ndim > 0 for operand in a)
    return isinstance(a, tuple)


def sort_together(
    operands: Any,
    axis: int | None,
    descending: bool,
    stable: bool,
    softening: Softening,
    gated_grad: bool,
) -> tuple[Array, ...]:
    """P @ each of (keys, *payloads), with P of the keys; a payload may have further axes behind the keys'."""
    arrays = [_check.real(f"a[{i}]", operand) for i, operand in enumerate(operands)]
    if not arrays:
        _check.wrong("a", operands, "an array, or a tuple of arrays with the keys first")
    shape = arrays[0].shape
    for i, array in enumerate(arrays):
        if array.shape[: len(shape)] != shape:
            _check.wrong(f"a[{i}].shape", array.shape, f"{shape}, the shape of the keys, or that and further axes")
    wide = reduce(np.promote_types, (_check.compute_dtype(array.dtype) for array in arrays))
    keys, layout = layout_along(arrays[0].astype(wide), axis)
    soft = enter(keys, layout, softening, index=False)
    behind = [array.shape[len(shape) :] for array in arrays]
    columns = [array.reshape(*keys.shape, math.prod(rest)) for array, rest in zip(arrays, behind, strict=True)]
    if soft.mode is None:
        order = jnp.argsort(soft.x, axis=-1, stable=stable, descending=descending)
        moved = [_by_column(layout.along, in_order(order, _by_column(layout.rows, column))) for column in columns]
    else:
        payload = [soft.finite[..., None], *(_by_column(layout.rows, column.astype(wide)) for column in columns[1:])]
        y = soft.apply(neighbours(0, layout.n), jnp.concatenate(payload, axis=-1), gated_grad)
        sorted_keys, *others = jnp.split(y, np.cumsum([p.shape[-1] for p in payload])[:-1], axis=-1)
        sorted_rows = [soft.with_infinities(sorted_keys[..., 0])[..., None], *others]
        moved = [_by_column(layout.along, r[..., ::-1, :] if descending else r) for r in sorted_rows]
    return tuple(
        column.reshape(keys.shape + rest).astype(array.dtype)
        for column, rest, array in zip(moved, behind, arrays, strict=True)
    )


def _by_column(function: Callable[[Array], Array], array: Array) -> Array:
    """The function of an array without its last axis, for each place on that axis."""
    if array.shape[-1] == 1:
        return function(array[..., 0])[..., None]
    return jax.vmap(function, in_axes=-1, out_axes=-1)(array)
