"""Payloads in the soft order of their keys: one soft permutation, applied to all of them at once."""

from functools import reduce

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from . import _check
from ._axis import layout_along
from ._soft_rows import Softening, enter


def sort_together(
    operands: tuple[ArrayLike, ...], axis: int | None, descending: bool, softening: Softening, gated_grad: bool
) -> tuple[Array, ...]:
    """P @ each of (keys, *payloads), with P of the keys."""
    arrays = [_check.real(f"a[{i}]", operand) for i, operand in enumerate(operands)]
    if not arrays:
        _check.wrong("a", operands, "an array, or a tuple of arrays with the keys first")
    for i, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            _check.wrong(f"a[{i}].shape", array.shape, f"{arrays[0].shape}, the shape of the keys")
    wide = reduce(jnp.promote_types, (_check.compute_dtype(array.dtype) for array in arrays))
    keys, layout = layout_along(arrays[0].astype(wide), axis)
    soft = enter(keys, layout, softening, index=False)
    if soft.mode is None:
        order = jnp.argsort(keys, axis=layout.axes[0], descending=descending)
        shaped = [array.reshape(keys.shape) for array in arrays]
        return tuple(jnp.take_along_axis(array, order, axis=layout.axes[0]) for array in shaped)
    payload = [soft.finite, *(layout.rows(array.reshape(keys.shape).astype(wide)) for array in arrays[1:])]
    y = soft.apply(layout.ranks(0, layout.n), jnp.stack(payload, axis=-1), gated_grad)
    columns = [soft.with_infinities(y[..., 0]), *(y[..., i] for i in range(1, len(arrays)))]
    if descending:
        columns = [column[..., ::-1] for column in columns]
    return tuple(layout.along(c).astype(array.dtype) for c, array in zip(columns, arrays, strict=True))
