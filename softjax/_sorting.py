"""Soft sorting, extrema, top-k and ranks.

What `softness`, `mode`, `method`, `standardize` and `implementation` mean is written once, in docs/softness.md.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from . import _check
from ._axis import Layout, layout_along, layout_reduced
from ._methods.hard_sort import gather
from ._permutation import Choice, SoftPermutation, chosen, ranked, soften
from ._sharding import over_rows
from ._types import Axis, Implementation, MethodName, ModeName, SoftIndex, Softness


def argsort(
    a: ArrayLike,
    axis: int | None = -1,
    *,
    descending: bool = False,
    stable: bool = True,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "softsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
    return_log_probs: bool = False,
    log_prob_eps: float = 0.0,
) -> SoftIndex:
    """Soft `jnp.argsort`: the soft permutation, one distribution over the elements for each rank.

    **Arguments:**
        a: array of any shape, with n elements along `axis`.
        axis: the axis to sort along; None flattens a first.
        descending: the largest first.
        stable: as in JAX, for the hard mode.
        softness: positive; broadcastable to a's shape without `axis`.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        method: "softsort", "neuralsort", "ot" or "lapsum".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
        return_log_probs: the logarithms of the distributions instead, from the logits.
        log_prob_eps: in [0, 1]; add so much to a probability before its logarithm is taken.
    **Returns:** SoftIndex (..., n, ..., n): a's shape, then the distribution.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the methods' papers are named there.
    """
    how = chosen(mode, method, standardize, implementation).with_rows(return_log_probs, log_prob_eps)
    x, layout = layout_along(_check.real("a", a), axis)
    descending, stable = _check.flag("descending", descending), _check.flag("stable", stable)
    p = soften(x, layout, softness, how, descending=descending)
    if how.mode is None:
        order = jnp.argsort(x, axis=layout.axes[0], stable=stable, descending=descending)
        return how.of_one_hot(jax.nn.one_hot(order, layout.n, dtype=x.dtype))
    return layout.along_index(p._rows(how.floor))


def sort(
    a: ArrayLike | Sequence[ArrayLike],
    axis: int | None = -1,
    *,
    descending: bool = False,
    stable: bool = True,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "softsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
    gated_grad: bool = True,
) -> Any:
    """Soft `jnp.sort`: P @ a; of a tuple (keys, *payloads), each of them in the keys' order, as `jax.lax.sort`.

    **Arguments:**
        a: array of any shape, or a tuple (or list) of arrays: the keys, and payloads of their shape or of that with
            further axes behind, where every key carries an array.
        axis: the axis to sort along; None flattens a first.
        descending: the largest first.
        stable: as in JAX, for the hard mode.
        softness: positive; broadcastable to a's shape without `axis`. In units of a (of the keys in (0, 1) where
            standardised).
        mode: "hard", "smooth", "c0", "c1" or "c2".
        method: "softsort", "neuralsort", "ot", "lapsum" or "fast_soft_sort".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
        gated_grad: False stops the gradient through P and keeps that through the values it averages.
    **Returns:** an array like a, or a tuple of them.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the methods' papers are named there.
    """
    how = chosen(mode, method, standardize, implementation)
    descending, stable = _check.flag("descending", descending), _check.flag("stable", stable)
    gated_grad = _check.flag("gated_grad", gated_grad)
    if is_several(a):
        return _sort_together(a, axis, _Order(descending, stable), softness, how.with_rows(), gated_grad)
    x, layout = layout_along(_check.real("a", a), axis)
    p = soften(x, layout, softness, how, descending=descending)
    if how.mode is None:
        return jnp.sort(x, axis=layout.axes[0], stable=stable, descending=descending)
    return layout.along(p._values(gated_grad))


def is_several(a: Any) -> bool:
    """Whether these are operands, as of `jax.lax.sort`: a tuple, or a list with arrays. A list of numbers is one."""
    if isinstance(a, list):
        return any(isinstance(operand, (jax.Array, np.ndarray)) and operand.ndim > 0 for operand in a)
    return isinstance(a, tuple)


class _Order(NamedTuple):
    descending: bool
    stable: bool


def _sort_together(
    operands: Any, axis: int | None, order: _Order, softness: Softness, how: Choice, gated_grad: bool
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
    p = soften(keys, layout, softness, how, descending=order.descending)
    behind = [array.shape[len(shape) :] for array in arrays]
    columns = [array.reshape(*keys.shape, math.prod(rest)) for array, rest in zip(arrays, behind, strict=True)]
    if how.mode is None:
        places = jnp.argsort(p.keys, axis=-1, stable=order.stable, descending=order.descending)
        moved = [over_rows(lambda i, v: gather(v, i), places, _by_column(layout.rows, column)) for column in columns]
    else:
        as_keys = partial(layout.rows, spread=True)
        payloads = [_by_column(as_keys, column.astype(wide)) for column in columns[1:]]
        moved = p._sorted_together(payloads, gated_grad)
    return tuple(
        _by_column(replace(layout, dtype=array.dtype).along, rows).reshape(keys.shape + rest)
        for rows, rest, array in zip(moved, behind, arrays, strict=True)
    )


def _by_column(function: Callable[[Array], Array], array: Array) -> Array:
    """The function of an array without its last axis, for each place on that axis."""
    if array.shape[-1] == 1:
        return function(array[..., 0])[..., None]
    return jax.vmap(function, in_axes=-1, out_axes=-1)(array)


def _end(p: SoftPermutation, largest: bool) -> SoftPermutation:
    n = p.keys.shape[-1]
    return ranked(p, n - 1, n) if largest else ranked(p, 0, 1)


def _arg_extreme(
    a: ArrayLike, axis: int | None, keepdims: bool, softness: Softness, how: Choice, largest: bool
) -> SoftIndex:
    x, keepdims = _check.real("a", a), _check.flag("keepdims", keepdims)
    layout = layout_reduced(x, None if axis is None else _check.axis("axis", axis, x.ndim))
    p = soften(x, layout, softness, how)
    if how.mode is None:
        hard = jnp.argmax if largest else jnp.argmin
        return how.of_one_hot(jax.nn.one_hot(hard(x, axis=axis, keepdims=keepdims), layout.n, dtype=x.dtype))
    return layout.reduced(_end(p, largest)._rows(how.floor)[..., 0, :], keepdims)


def _extreme(
    a: ArrayLike, over: tuple[Axis, bool], softness: Softness, how: Choice, gated_grad: bool, largest: bool
) -> Array:
    x, (axis, keepdims) = _check.real("a", a), over
    keepdims, gated_grad = _check.flag("keepdims", keepdims), _check.flag("gated_grad", gated_grad)
    layout = layout_reduced(x, axis)
    p = soften(x, layout, softness, how)
    if how.mode is None:
        return (jnp.max if largest else jnp.min)(x, axis=layout.axes, keepdims=keepdims)
    return layout.reduced(_end(p, largest)._values(gated_grad)[..., 0], keepdims)


def argmax(
    a: ArrayLike,
    axis: int | None = None,
    *,
    keepdims: bool = False,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "softsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
    return_log_probs: bool = False,
    log_prob_eps: float = 0.0,
) -> SoftIndex:
    """Soft `jnp.argmax`: the last row of P. With SoftSort it is the projection of a / softness (softmax).

    **Arguments:**
        a: array of any shape, with n elements along `axis`.
        axis: the axis to reduce; None flattens a first.
        keepdims: keep the reduced axes with size 1.
        softness: positive; broadcastable to a's shape without `axis`.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        method: "softsort", "neuralsort", "ot" or "lapsum".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
        return_log_probs: the logarithms of the distributions instead, from the logits.
        log_prob_eps: in [0, 1]; add so much to a probability before its logarithm is taken.
    **Returns:** SoftIndex: a's shape without `axis`, then n.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the methods' papers are named there.
    """
    how = chosen(mode, method, standardize, implementation).with_rows(return_log_probs, log_prob_eps)
    return _arg_extreme(a, axis, keepdims, softness, how, largest=True)


def argmin(
    a: ArrayLike,
    axis: int | None = None,
    *,
    keepdims: bool = False,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "softsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
    return_log_probs: bool = False,
    log_prob_eps: float = 0.0,
) -> SoftIndex:
    """Soft `jnp.argmin`: the first row of P. Arguments, returns, raises and source as in `argmax`.

    **Arguments:** see `argmax`.
    **Returns:** SoftIndex: a's shape without `axis`, then n.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    how = chosen(mode, method, standardize, implementation).with_rows(return_log_probs, log_prob_eps)
    return _arg_extreme(a, axis, keepdims, softness, how, largest=False)


def max(
    a: ArrayLike,
    axis: Axis = None,
    *,
    keepdims: bool = False,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "softsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
    gated_grad: bool = True,
) -> Array:
    """Soft `jnp.max`: the last row of P times a. With SoftSort the softmax-weighted mean.

    **Arguments:**
        a: array of any shape.
        axis: the axis or axes to reduce; None for all.
        keepdims: keep the reduced axes with size 1.
        softness: positive; broadcastable to a's shape without `axis`.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        method: "softsort", "neuralsort", "ot", "lapsum" or "fast_soft_sort".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
        gated_grad: False stops the gradient through P and keeps that through the values it averages.
    **Returns:** an array of a's shape without `axis`.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the methods' papers are named there.
    """
    how = chosen(mode, method, standardize, implementation)
    return _extreme(a, (axis, keepdims), softness, how, gated_grad, largest=True)


def min(
    a: ArrayLike,
    axis: Axis = None,
    *,
    keepdims: bool = False,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "softsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
    gated_grad: bool = True,
) -> Array:
    """Soft `jnp.min`: the first row of P times a. Arguments, returns, raises and source as in `max`.

    **Arguments:** see `max`.
    **Returns:** an array of a's shape without `axis`.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    how = chosen(mode, method, standardize, implementation)
    return _extreme(a, (axis, keepdims), softness, how, gated_grad, largest=False)


def _of_an_end(
    operand: ArrayLike, k: int, axis: int | None, softness: Softness, how: Choice, largest: bool
) -> tuple[SoftPermutation | tuple[Array, Any], Layout]:
    """The k rows of P at an end, that of the extreme first; in the hard mode the values and indices of `jnp.top_k`."""
    x, layout = layout_along(_check.real("operand", operand), axis)
    if not _check.is_concrete(k):
        remedy = "name it in `static_argnames` of jax.jit, or use `top_k_mask`, which takes a traced one"
        raise TypeError(f"`k` (={k!r}) must be a static integer: {remedy}.")
    k = _check.integer("k", k, 1, layout.n, why=", the number of elements along `axis`")
    p = soften(x, layout, softness, how)
    if how.mode is None:
        values, indices = lax.top_k(x if largest else -x, k, axis=layout.axes[0])
        one_hot = how.of_one_hot(jax.nn.one_hot(indices, layout.n, dtype=x.dtype)) if how.named.permutes else None
        return (values if largest else -values, one_hot), layout
    first = layout.n - k if largest else 0
    return ranked(p, first, first + k, descending=largest), layout


def argtop_k(
    operand: ArrayLike,
    k: int,
    *,
    axis: int | None = -1,
    is_stable: bool = True,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "softsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
    return_log_probs: bool = False,
    log_prob_eps: float = 0.0,
) -> SoftIndex:
    """Soft indices of the k largest, in descending order: the last k rows of P, reversed.

    **Arguments:** see `top_k`.
    **Returns:** SoftIndex (..., k, ..., n).
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the methods' papers are named there.
    """
    how = chosen(mode, method, standardize, implementation).with_rows(return_log_probs, log_prob_eps)
    _check.flag("is_stable", is_stable)
    top, layout = _of_an_end(operand, k, axis, softness, how, largest=True)
    return layout.along_index(top._rows(how.floor)) if isinstance(top, SoftPermutation) else top[1]


def top_k(
    operand: ArrayLike,
    k: int,
    *,
    axis: int | None = -1,
    is_stable: bool = True,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "softsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
    gated_grad: bool = True,
    return_log_probs: bool = False,
    log_prob_eps: float = 0.0,
) -> tuple[Array, SoftIndex]:
    """Soft `jax.lax.top_k`: values and soft indices of the k largest, in descending order.

    **Arguments:**
        operand: array of any shape, with n elements along `axis`.
        k: how many, a static integer in [1, n].
        axis: the axis to select along; None flattens operand first.
        is_stable: as in JAX; equal elements are taken in their order in any case.
        softness: positive; broadcastable to operand's shape without `axis`.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        method: "softsort", "neuralsort", "ot", "lapsum" or "fast_soft_sort".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
        gated_grad: False stops the gradient of the values through P.
        return_log_probs: the logarithms of the soft indices instead, from the logits.
        log_prob_eps: in [0, 1]; add so much to a probability before its logarithm is taken.
    **Returns:** values (..., k, ...) and SoftIndex (..., k, ..., n), None with "fast_soft_sort".
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the methods' papers are named there.
    """
    how = chosen(mode, method, standardize, implementation).in_logarithms(return_log_probs, log_prob_eps)
    _check.flag("is_stable", is_stable)
    return _values_and_rows(*_of_an_end(operand, k, axis, softness, how, largest=True), how.floor, gated_grad)


def bottom_k(
    operand: ArrayLike,
    k: int,
    *,
    axis: int | None = -1,
    is_stable: bool = True,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "softsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
    gated_grad: bool = True,
    return_log_probs: bool = False,
    log_prob_eps: float = 0.0,
) -> tuple[Array, SoftIndex]:
    """Soft `jnp.top_k` with its `mode="smallest"`: values and soft indices of the k smallest, in ascending order.

    **Arguments:** see `top_k`.
    **Returns:** values (..., k, ...) and SoftIndex (..., k, ..., n), None with "fast_soft_sort".
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the methods' papers are named there.
    """
    how = chosen(mode, method, standardize, implementation).in_logarithms(return_log_probs, log_prob_eps)
    _check.flag("is_stable", is_stable)
    return _values_and_rows(*_of_an_end(operand, k, axis, softness, how, largest=False), how.floor, gated_grad)


def _values_and_rows(
    found: SoftPermutation | tuple[Array, Any], layout: Layout, floor: float | None, gated_grad: bool
) -> tuple[Array, Any]:
    gated = _check.flag("gated_grad", gated_grad)
    if not isinstance(found, SoftPermutation):
        return found
    values, rows = found._values_and_rows(gated, floor)
    return layout.along(values), None if rows is None else layout.along_index(rows)


def ranking(
    a: ArrayLike,
    axis: int | None = -1,
    *,
    descending: bool = True,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "softsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
) -> Array:
    """Soft zero-based ranks, the inverse permutation of `argsort`; 0 is the largest unless `descending` is False.

    Ties share their average rank, in the hard mode too; without ties that is jnp.argsort(jnp.argsort(a)).

    **Arguments:**
        a: array of any shape.
        axis: the axis to rank along; None ranks the flattened a.
        descending: whether the largest has rank 0.
        softness: positive; broadcastable to a's shape without `axis`.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        method: "softsort", "neuralsort", "ot", "lapsum" or "fast_soft_sort".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
    **Returns:** an array like a (flattened if axis is None), with values in [0, n - 1].
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the methods' papers are named there.
    """
    how = chosen(mode, method, standardize, implementation)
    return _ranking(a, axis, descending, softness, how, first=0)


def rank(
    a: ArrayLike,
    axis: int | None = -1,
    *,
    descending: bool = True,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "softsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
) -> Array:
    """Soft one-based ranks: `ranking` + 1; the hard mode is `jax.scipy.stats.rankdata` for descending=False.

    **Arguments:** see `ranking`.
    **Returns:** an array like a (flattened if axis is None), with values in [1, n].
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the methods' papers are named there.
    """
    how = chosen(mode, method, standardize, implementation)
    return _ranking(a, axis, descending, softness, how, first=1)


def _ranking(a: ArrayLike, axis: int | None, descending: bool, softness: Softness, how: Choice, first: int) -> Array:
    x, layout = layout_along(_check.real("a", a), axis)
    descending = _check.flag("descending", descending)
    ascending = soften(x, layout, softness, how)._ranking()
    return layout.along((layout.n - 1 - ascending if descending else ascending) + first)
