"""Selection by SoftIndex: the expectation of JAX's indexing over the distribution that an index is.

An integer index goes to JAX's own function. A SoftIndex holds its distribution in the last axis.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from . import _check
from ._permutation import SoftPermutation
from ._types import SoftBool


def where(condition: ArrayLike, x: ArrayLike, y: ArrayLike) -> Array:
    """Soft `jnp.where`: condition * x + (1 - condition) * y.

    **Arguments:**
        condition: a SoftBool; a bool array goes to `jnp.where` itself.
        x, y: arrays, all three broadcastable against each other.
    **Returns:** an array of the broadcast shape.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md.
    """
    if jnp.result_type(condition) == jnp.bool_:
        x, y = (_check.real(name, value) for name, value in (("x", x), ("y", y)))
        x, y = _check.together(x=x, y=y) if x.shape == y.shape else (x, y)
        return jnp.where(jnp.asarray(condition), x, y)
    degree: SoftBool
    degree, x, y = _check.together(
        condition=_check.real("condition", condition), x=_check.real("x", x), y=_check.real("y", y)
    )
    dtype = _check.compute_dtype(x.dtype)
    c, a, b = degree.astype(dtype), x.astype(dtype), y.astype(dtype)
    return (c * a + (1 - c) * b).astype(x.dtype)


def _is_hard(indices: ArrayLike) -> bool:
    return jnp.issubdtype(jnp.result_type(indices), jnp.integer)


def _operands(name: str, x: ArrayLike, index_name: str, index: ArrayLike) -> tuple[Array, Array, np.dtype]:
    """Both as float arrays of the dtype to compute in, and x's own dtype."""
    values, weights = _check.real(name, x), _check.real(index_name, index)
    if weights.ndim == 0:
        _check.wrong(f"{index_name}.shape", weights.shape, "at least 1-D: a SoftIndex has its distribution last")
    dtype = max(
        _check.compute_dtype(values.dtype), _check.compute_dtype(weights.dtype), key=lambda d: jnp.finfo(d).bits
    )
    return values.astype(dtype), weights.astype(dtype), values.dtype


def _match(index_name: str, size: int, n: int, what: str) -> None:
    if size != n:
        _check.wrong(f"{index_name}.shape[-1]", size, f"{n}, the size of {what}")


def take_along_axis(arr: ArrayLike, indices: ArrayLike | SoftPermutation, axis: int | None = -1) -> Array:
    """Soft `jnp.take_along_axis`.

    **Arguments:**
        arr: values, (..., n, ...) with n at `axis`.
        indices: SoftIndex (..., k, ..., n): arr's axes with k at `axis`, then the distribution.
            The other axes broadcast against arr's. Or a `SoftPermutation` of keys shaped like arr, in O(n) memory.
        axis: the axis of arr to select along; None flattens arr, indices are then (k, n).
    **Returns:** an array (..., k, ...).
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md.
    """
    if isinstance(indices, SoftPermutation):
        values, weights = _check.real("arr", arr), indices
        dtype = values.dtype
    elif _is_hard(indices):
        return jnp.take_along_axis(_check.real("arr", arr), jnp.asarray(indices), axis)
    else:
        values, weights, dtype = _operands("arr", arr, "indices", indices)
    if axis is None:
        values, axis = values.reshape(-1), 0
    axis = _check.axis("axis", axis, values.ndim)
    if weights.ndim != values.ndim + 1:
        _check.wrong("indices.ndim", weights.ndim, f"{values.ndim + 1}, arr's axes and the distribution")
    _match("indices", weights.shape[-1], values.shape[axis], "arr along `axis`")
    values = jnp.moveaxis(values, axis, -1)
    try:
        if isinstance(weights, SoftPermutation):
            selected = (weights @ values[..., None])[..., 0]
        else:
            selected = _expectation(jnp.moveaxis(weights, axis, -2), values)
    except ValueError as error:
        raise ValueError(
            f"`indices.shape` (={weights.shape}) must be broadcastable against `arr.shape` (={jnp.shape(arr)}) "
            f"outside `axis` (={axis}) and the distribution."
        ) from error
    return jnp.moveaxis(selected, -1, axis).astype(dtype)


def _expectation(weights: Array, values: Array) -> Array:
    """weights (..., k, n) applied to values (..., n), the batch axes broadcast: (..., k)."""
    batch = jnp.broadcast_shapes(weights.shape[:-2], values.shape[:-1])
    weights = jnp.broadcast_to(weights, batch + weights.shape[-2:])
    values = jnp.broadcast_to(values, batch + values.shape[-1:])
    return jnp.einsum("...kn,...n->...k", weights, values, precision=lax.Precision.HIGHEST)


def take(a: ArrayLike, indices: ArrayLike, axis: int | None = None) -> Array:
    """Soft `jnp.take`.

    **Arguments:**
        a: values, with n elements along `axis`.
        indices: SoftIndex (..., n).
        axis: the axis of a to select along; None flattens a.
    **Returns:** an array of shape a.shape[:axis] + indices.shape[:-1] + a.shape[axis + 1:].
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md.
    """
    if _is_hard(indices):
        return jnp.take(_check.real("a", a), jnp.asarray(indices), axis)
    values, weights, dtype = _operands("a", a, "indices", indices)
    if axis is None:
        values, axis = values.reshape(-1), 0
    axis = _check.axis("axis", axis, values.ndim)
    _match("indices", weights.shape[-1], values.shape[axis], "a along `axis`")
    taken = jnp.tensordot(values, weights, axes=((axis,), (weights.ndim - 1,)), precision=lax.Precision.HIGHEST)
    batch = weights.ndim - 1
    source = tuple(range(values.ndim - 1, values.ndim - 1 + batch))
    return jnp.moveaxis(taken, source, tuple(range(axis, axis + batch))).astype(dtype)


def choose(a: ArrayLike, choices: ArrayLike | Sequence[ArrayLike]) -> Array:
    """Soft `jnp.choose`.

    **Arguments:**
        a: SoftIndex (..., n) over the choices.
        choices: n arrays, or one array (n, ...), broadcastable against a's shape without its last axis.
    **Returns:** an array of the broadcast shape.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md.
    """
    if isinstance(choices, (list, tuple)):
        named = {f"choices[{i}]": _check.real(f"choices[{i}]", choice) for i, choice in enumerate(choices)}
        if not named:
            _check.wrong("choices", choices, "at least one array")
        choices = jnp.stack(_check.together(**named))
    stacked = _check.real("choices", choices)
    if _is_hard(a):
        return jnp.choose(jnp.asarray(a), stacked)
    values, weights, dtype = _operands("choices", stacked, "a", a)
    if values.ndim == 0:
        _check.wrong("choices.shape", values.shape, "at least 1-D")
    _match("a", weights.shape[-1], values.shape[0], "choices along its first axis")
    values = jnp.moveaxis(values, 0, -1)
    try:
        return _expectation(weights[..., None, :], values)[..., 0].astype(dtype)
    except ValueError as error:
        raise ValueError(
            f"`a.shape[:-1]` (={jnp.shape(a)[:-1]}) must be broadcastable against "
            f"`choices.shape[1:]` (={values.shape[:-1]})."
        ) from error


def dynamic_index_in_dim(operand: ArrayLike, index: ArrayLike, axis: int = 0, keepdims: bool = True) -> Array:
    """Soft `jax.lax.dynamic_index_in_dim`.

    **Arguments:**
        operand: values, with n elements along `axis`.
        index: SoftIndex (n,).
        axis: the axis to select along.
        keepdims: keep that axis with size 1.
    **Returns:** operand without `axis`, or with size 1 there.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md.
    """
    keepdims = _check.flag("keepdims", keepdims)
    if _is_hard(index):
        return lax.dynamic_index_in_dim(_check.real("operand", operand), index, axis, keepdims)
    result = dynamic_slice_in_dim(operand, index, 1, axis)
    return result if keepdims else jnp.squeeze(result, axis)


def dynamic_slice_in_dim(operand: ArrayLike, start_index: ArrayLike, slice_size: int, axis: int = 0) -> Array:
    """Soft `jax.lax.dynamic_slice_in_dim`: the expectation over start positions, clamped so that the slice fits.

    **Arguments:**
        operand: values, with n elements along `axis`.
        start_index: SoftIndex (n,).
        slice_size: number of elements to take, in [0, n].
        axis: the axis to slice.
    **Returns:** operand with `slice_size` elements along `axis`.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md.
    """
    if _is_hard(start_index):
        return lax.dynamic_slice_in_dim(_check.real("operand", operand), start_index, slice_size, axis)
    values, weights, dtype = _operands("operand", operand, "start_index", start_index)
    axis = _check.axis("axis", axis, values.ndim)
    return _soft_slice(values, weights, slice_size, axis, "start_index", "slice_size").astype(dtype)


def _soft_slice(values: Array, weights: Array, size: int, axis: int, name: str, size_name: str) -> Array:
    n = values.shape[axis]
    if weights.ndim != 1:
        _check.wrong(f"{name}.shape", weights.shape, f"({n},): one distribution over the positions")
    _match(name, weights.shape[0], n, "operand along that axis")
    size = _check.integer(size_name, size, 0, n)
    last = n - size
    if size == 0:
        return lax.slice_in_dim(values, 0, 0, axis=axis)
    # Start positions beyond the last that fits count as the last: fold their weight into it.
    starts = weights[: last + 1].at[last].add(jnp.sum(weights[last + 1 :]))
    windows = jnp.arange(size)[:, None] + jnp.arange(last + 1)[None, :]
    windowed = jnp.take(values, windows, axis=axis)
    result = jnp.tensordot(windowed, starts, axes=((axis + 1,), (0,)), precision=lax.Precision.HIGHEST)
    return result


def dynamic_slice(operand: ArrayLike, start_indices: Sequence[ArrayLike], slice_sizes: Sequence[int]) -> Array:
    """Soft `jax.lax.dynamic_slice`: independent soft starts along every axis.

    **Arguments:**
        operand: values.
        start_indices: one SoftIndex (n_i,) for each axis; integers go to JAX's own function.
        slice_sizes: number of elements to take along each axis.
    **Returns:** an array of shape `slice_sizes`.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md.
    """
    values = _check.real("operand", operand)
    for name, given in (("start_indices", start_indices), ("slice_sizes", slice_sizes)):
        if len(given) != values.ndim:
            _check.wrong(f"len({name})", len(given), f"{values.ndim}, one for each axis of operand")
    for axis, (index, size) in enumerate(zip(start_indices, slice_sizes, strict=True)):
        if _is_hard(index):
            values = lax.dynamic_slice_in_dim(values, index, size, axis)
            continue
        wide, weights, dtype = _operands("operand", values, f"start_indices[{axis}]", index)
        names = (f"start_indices[{axis}]", f"slice_sizes[{axis}]")
        values = _soft_slice(wide, weights, size, axis, *names).astype(dtype)
    return values
