"""Selection by SoftIndex: the expectation of JAX's indexing over the distribution that an index is.

An integer index goes to JAX's own function, with every argument as it was given. A SoftIndex holds its distribution in
the last axis. What has a weight of 0 contributes nothing, also where it is infinite or NaN.
"""

import string
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from . import _check
from ._permutation import SoftPermutation
from ._types import SoftBool
from ._weighted import product, weighted_sum


def where(condition: ArrayLike, x: ArrayLike, y: ArrayLike) -> Array:
    """Soft `jnp.where`: condition * x + (1 - condition) * y.

    **Arguments:**
        condition: a SoftBool; a bool array goes to `jnp.where` itself.
        x, y: arrays, all three broadcastable against each other.
    **Returns:** an array of the broadcast shape.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md.
    """
    if _is_hard("condition", condition, jnp.bool_, jnp.integer):
        return jnp.where(condition, x, y)  # pyright: ignore[reportArgumentType]  (the stub's overloads)
    degree: SoftBool
    degree, x, y = _check.together(
        condition=_check.real("condition", condition), x=_check.real("x", x), y=_check.real("y", y)
    )
    dtype = _check.compute_dtype(x.dtype)
    c, a, b = degree.astype(dtype), x.astype(dtype), y.astype(dtype)
    return weighted_sum(c, a, 1 - c, b).astype(x.dtype)


def _is_hard(name: str, index: Any, *kinds: Any) -> bool:
    """Whether an index (or a condition) is of the dtypes that JAX's own function takes."""
    if index is None or isinstance(index, (str, bytes, list, tuple, dict)):
        raise TypeError(f"`{name}` (={index!r}) must be an array, soft or as for JAX's own function.")
    try:
        dtype = jnp.result_type(index)
    except TypeError as error:
        raise TypeError(f"`{name}` (of type {type(index).__name__}) must be an array of numbers.") from error
    return any(jnp.issubdtype(dtype, kind) for kind in kinds or (jnp.integer,))


def _operands(name: str, x: ArrayLike, index_name: str, index: ArrayLike) -> tuple[Array, Array, np.dtype]:
    """x in the dtype to compute in, the index as it is, and x's own dtype."""
    values, weights = _check.real(name, x), _check.real(index_name, index)
    if weights.ndim == 0:
        _check.wrong(f"{index_name}.shape", weights.shape, "at least 1-D: a SoftIndex has its distribution last")
    dtype = max(
        _check.compute_dtype(values.dtype), _check.compute_dtype(weights.dtype), key=lambda d: jnp.finfo(d).bits
    )
    return values.astype(dtype), weights, values.dtype


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
    elif _is_hard("indices", indices):
        return jnp.take_along_axis(arr, indices, axis)
    else:
        values, weights, dtype = _operands("arr", arr, "indices", indices)
    if axis is None:
        values, axis = values.reshape(-1), 0
    axis = _check.axis("axis", axis, values.ndim)
    if weights.ndim != values.ndim + 1:
        remedy = _remedy(values.shape, weights.shape, axis)
        if isinstance(weights, SoftPermutation):
            remedy = ": a soft permutation moves rows of arr by `indices @ arr`"
        _check.wrong("indices.ndim", weights.ndim, f"{values.ndim + 1}, arr's axes and the distribution{remedy}")
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


def _remedy(shape: tuple[int, ...], indices: tuple[int, ...], axis: int) -> str:
    """What to write in place of indices that lack an axis: the axis of size 1 with which they fit."""
    if indices[-1:] != (shape[axis],):
        return ""
    places = sorted(range(len(shape)), key=lambda place: (place != axis, -place))  # what `argmax` leaves out first
    for place in places if len(indices) == len(shape) else ():
        whole = indices[:place] + (1,) + indices[place:-1]
        others = [pair for i, pair in enumerate(zip(whole, shape, strict=True)) if i != axis]
        if all(1 in pair or pair[0] == pair[1] for pair in others):
            subscript = ", ".join([":"] * place + ["None"] + ([] if place == len(shape) - 1 else ["..."]))
            return f": `indices[{subscript}]`, or `take` where the same indices are for all of arr"
    return ": `take` is for indices that are the same for all of arr"


def _expectation(weights: Array, values: Array) -> Array:
    """weights (..., k, n) applied to values (..., n), the batch axes broadcast: (..., k)."""
    batch = jnp.broadcast_shapes(weights.shape[:-2], values.shape[:-1])
    weights = jnp.broadcast_to(weights, batch + weights.shape[-2:])
    values = jnp.broadcast_to(values, batch + values.shape[-1:])
    return product("...kn,...n->...k", weights, values)


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
    if _is_hard("indices", indices):
        return jnp.take(a, indices, axis)
    values, weights, dtype = _operands("a", a, "indices", indices)
    if axis is None:
        values, axis = values.reshape(-1), 0
    axis = _check.axis("axis", axis, values.ndim)
    _match("indices", weights.shape[-1], values.shape[axis], "a along `axis`")
    ours, theirs = string.ascii_lowercase[: values.ndim], string.ascii_uppercase[: weights.ndim - 1]
    n = ours[axis]
    return product(f"{theirs}{n},{ours}->{ours.replace(n, theirs)}", weights, values).astype(dtype)


def choose(a: ArrayLike, choices: ArrayLike | Sequence[ArrayLike]) -> Array:
    """Soft `jnp.choose`.

    **Arguments:**
        a: SoftIndex (..., n) over the choices.
        choices: n arrays, or one array (n, ...), broadcastable against a's shape without its last axis.
    **Returns:** an array of the broadcast shape.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md.
    """
    if _is_hard("a", a):
        return jnp.choose(a, choices)  # pyright: ignore[reportArgumentType]  (it takes a number, too)
    if isinstance(choices, (list, tuple)):
        named = {f"choices[{i}]": _check.real(f"choices[{i}]", choice) for i, choice in enumerate(choices)}
        if not named:
            _check.wrong("choices", choices, "at least one array")
        choices = jnp.stack(_check.together(**named))
    stacked = _check.real("choices", choices)
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
    if _is_hard("index", index):
        return lax.dynamic_index_in_dim(operand, index, axis, keepdims)  # pyright: ignore[reportArgumentType]
    result = _slice_along(operand, index, 1, axis, "index", "size")
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
    if _is_hard("start_index", start_index):
        return lax.dynamic_slice_in_dim(operand, start_index, slice_size, axis)  # pyright: ignore[reportArgumentType]
    return _slice_along(operand, start_index, slice_size, axis, "start_index", "slice_size")


def _slice_along(operand: ArrayLike, index: ArrayLike, size: int, axis: int, name: str, size_name: str) -> Array:
    values, weights, dtype = _operands("operand", operand, name, index)
    axis = _check.axis("axis", axis, values.ndim)
    n = values.shape[axis]
    if weights.ndim != 1:
        _check.wrong(f"{name}.shape", weights.shape, f"({n},): one distribution over the positions")
    _match(name, weights.shape[0], n, "operand along that axis")
    size = _check.integer(size_name, size, 0, n)
    last = n - size
    if size == 0:
        return lax.slice_in_dim(values, 0, 0, axis=axis).astype(dtype)
    # Start positions beyond the last that fits count as the last.
    beyond = jnp.sum(lax.slice_in_dim(weights, last, n), keepdims=True)
    starts = jnp.concatenate([lax.slice_in_dim(weights, 0, last), beyond])
    windows = jnp.arange(size)[:, None] + jnp.arange(last + 1)[None, :]
    windowed = jnp.take(values, windows, axis=axis)
    axes = string.ascii_lowercase[: windowed.ndim]
    start = axes[axis + 1]
    return product(f"{start},{axes}->{axes.replace(start, '')}", starts, windowed).astype(dtype)


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
    hard = _hard_starts(start_indices)
    if all(hard):
        return lax.dynamic_slice(operand, start_indices, slice_sizes)  # pyright: ignore[reportArgumentType]
    values = _check.real("operand", operand)
    for name, given in (("start_indices", start_indices), ("slice_sizes", slice_sizes)):
        if len(given) != values.ndim:
            _check.wrong(f"len({name})", len(given), f"{values.ndim}, one for each axis of operand")
    for axis, (index, size) in enumerate(zip(start_indices, slice_sizes, strict=True)):
        if hard[axis]:
            values = lax.dynamic_slice_in_dim(values, index, size, axis)
            continue
        values = _slice_along(values, index, size, axis, f"start_indices[{axis}]", f"slice_sizes[{axis}]")
    return values


def _hard_starts(start_indices: Any) -> list[bool]:
    if isinstance(start_indices, (list, tuple)):
        return [_is_hard(f"start_indices[{axis}]", index) for axis, index in enumerate(start_indices)]
    hard = _is_hard("start_indices", start_indices)
    if np.ndim(start_indices) == 0:
        raise TypeError(f"`start_indices` (={start_indices!r}) must be a sequence with one index for each axis.")
    return [hard] * len(start_indices)
