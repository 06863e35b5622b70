"""Soft sorting, extrema, top-k and ranks.

What `softness`, `mode`, `method`, `standardize` and `implementation` mean is written once, in docs/softness.md.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from . import _check
from ._axis import Layout, layout_along, layout_reduced, neighbours
from ._methods.base import Ranks
from ._payload import is_several, sort_together
from ._sharding import over_rows
from ._soft_rows import Softening, SoftRows, enter, one_hot
from ._types import Axis, Float, Implementation, MethodName, ModeName, SoftIndex, Softness


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
) -> SoftIndex:
    """Soft `jnp.argsort`: the soft permutation, one distribution over the elements for each rank.

    **Arguments:**
        a: array of any shape, with n elements along `axis`.
        axis: the axis to sort along; None flattens a first.
        descending: the largest first.
        stable: as in JAX, for the hard mode.
        softness: positive; broadcastable to a's shape without `axis`.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        method: "softsort", "neuralsort" or "ot".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
    **Returns:** SoftIndex (..., n, ..., n): a's shape, then the distribution.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the methods' papers are named there.
    """
    softening = Softening(softness, mode, method, standardize, implementation)
    x, layout = layout_along(_check.real("a", a), axis)
    descending, stable = _check.flag("descending", descending), _check.flag("stable", stable)
    soft = enter(x, layout, softening, index=True)
    if soft.mode is None:
        order = jnp.argsort(x, axis=layout.axes[0], stable=stable, descending=descending)
        return one_hot(order, layout.n, x.dtype)
    p = soft.rows(neighbours(0, layout.n))
    return layout.along_index(p[..., ::-1, :] if descending else p)


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
        method: "softsort", "neuralsort" or "ot".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
        gated_grad: False stops the gradient through P and keeps that through the values it averages.
    **Returns:** an array like a, or a tuple of them.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the methods' papers are named there.
    """
    softening = Softening(softness, mode, method, standardize, implementation)
    descending, stable = _check.flag("descending", descending), _check.flag("stable", stable)
    gated_grad = _check.flag("gated_grad", gated_grad)
    if is_several(a):
        return sort_together(a, axis, descending, stable, softening, gated_grad)
    x, layout = layout_along(_check.real("a", a), axis)
    soft = enter(x, layout, softening, index=False)
    if soft.mode is None:
        return jnp.sort(x, axis=layout.axes[0], stable=stable, descending=descending)
    y = soft.values(neighbours(0, layout.n), gated_grad)
    return layout.along(y[..., ::-1] if descending else y)


def _end(layout: Layout, largest: bool) -> Ranks:
    return neighbours(layout.n - 1, layout.n) if largest else neighbours(0, 1)


def _arg_extreme(a: ArrayLike, axis: int | None, keepdims: bool, softening: Softening, largest: bool) -> SoftIndex:
    x, keepdims = _check.real("a", a), _check.flag("keepdims", keepdims)
    layout = layout_reduced(x, None if axis is None else _check.axis("axis", axis, x.ndim))
    soft = enter(x, layout, softening, index=True)
    if soft.mode is None:
        hard = jnp.argmax if largest else jnp.argmin
        return one_hot(hard(x, axis=axis, keepdims=keepdims), layout.n, x.dtype)
    p = soft.rows(_end(layout, largest))[..., 0, :]
    return layout.reduced_index(p, keepdims)


def _extreme(a: ArrayLike, axis: Axis, keepdims: bool, softening: Softening, gated_grad: bool, largest: bool) -> Array:
    x, keepdims = _check.real("a", a), _check.flag("keepdims", keepdims)
    layout, gated_grad = layout_reduced(x, axis), _check.flag("gated_grad", gated_grad)
    soft = enter(x, layout, softening, index=False)
    if soft.mode is None:
        return (jnp.max if largest else jnp.min)(x, axis=layout.axes, keepdims=keepdims)
    y = soft.values(_end(layout, largest), gated_grad)[..., 0]
    return layout.reduced(y, keepdims)


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
) -> SoftIndex:
    """Soft `jnp.argmax`: the last row of P. With SoftSort it is the projection of a / softness (softmax).

    **Arguments:**
        a: array of any shape, with n elements along `axis`.
        axis: the axis to reduce; None flattens a first.
        keepdims: keep the reduced axes with size 1.
        softness: positive; broadcastable to a's shape without `axis`.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        method: "softsort", "neuralsort" or "ot".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
    **Returns:** SoftIndex: a's shape without `axis`, then n.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the methods' papers are named there.
    """
    softening = Softening(softness, mode, method, standardize, implementation)
    return _arg_extreme(a, axis, keepdims, softening, largest=True)


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
) -> SoftIndex:
    """Soft `jnp.argmin`: the first row of P. Arguments, returns, raises and source as in `argmax`.

    **Arguments:** see `argmax`.
    **Returns:** SoftIndex: a's shape without `axis`, then n.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    softening = Softening(softness, mode, method, standardize, implementation)
    return _arg_extreme(a, axis, keepdims, softening, largest=False)


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
        method: "softsort", "neuralsort" or "ot".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
        gated_grad: False stops the gradient through P and keeps that through the values it averages.
    **Returns:** an array of a's shape without `axis`.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the methods' papers are named there.
    """
    softening = Softening(softness, mode, method, standardize, implementation)
    return _extreme(a, axis, keepdims, softening, gated_grad, largest=True)


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
    softening = Softening(softness, mode, method, standardize, implementation)
    return _extreme(a, axis, keepdims, softening, gated_grad, largest=False)


def _top(operand: ArrayLike, k: int, axis: int | None, softening: Softening) -> tuple[Array, Layout, int, SoftRows]:
    x, layout = layout_along(_check.real("operand", operand), axis)
    if not _check.is_concrete(k):
        remedy = "name it in `static_argnames` of jax.jit, or use `top_k_mask`, which takes a traced one"
        raise TypeError(f"`k` (={k!r}) must be a static integer: {remedy}.")
    k = _check.integer("k", k, 1, layout.n, why=", the number of elements along `axis`")
    return x, layout, k, enter(x, layout, softening, index=True)


def _hard_top_k(x: Array, layout: Layout, k: int) -> tuple[Array, Array]:
    values, indices = lax.top_k(x, k, axis=layout.axes[0])
    return values, one_hot(indices, layout.n, x.dtype)


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
) -> SoftIndex:
    """Soft indices of the k largest, in descending order: the last k rows of P, reversed.

    **Arguments:** see `top_k`.
    **Returns:** SoftIndex (..., k, ..., n).
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the methods' papers are named there.
    """
    softening = Softening(softness, mode, method, standardize, implementation)
    _check.flag("is_stable", is_stable)
    x, layout, k, soft = _top(operand, k, axis, softening)
    if soft.mode is None:
        return _hard_top_k(x, layout, k)[1]
    return layout.along_index(soft.rows(neighbours(soft.n - k, soft.n))[..., ::-1, :])


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
) -> tuple[Array, SoftIndex]:
    """Soft `jax.lax.top_k`: values and soft indices of the k largest, in descending order.

    **Arguments:**
        operand: array of any shape, with n elements along `axis`.
        k: how many, a static integer in [1, n].
        axis: the axis to select along; None flattens operand first.
        is_stable: as in JAX; equal elements are taken in their order in any case.
        softness: positive; broadcastable to operand's shape without `axis`.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        method: "softsort", "neuralsort" or "ot".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
        gated_grad: False stops the gradient of the values through P.
    **Returns:** values (..., k, ...) and SoftIndex (..., k, ..., n).
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the methods' papers are named there.
    """
    softening = Softening(softness, mode, method, standardize, implementation)
    gated_grad = _check.flag("gated_grad", gated_grad)
    _check.flag("is_stable", is_stable)
    x, layout, k, soft = _top(operand, k, axis, softening)
    if soft.mode is None:
        return _hard_top_k(x, layout, k)
    ranks = neighbours(soft.n - k, soft.n)
    values, rows = soft.values_and_rows(ranks, gated_grad)
    return layout.along(values[..., ::-1]), layout.along_index(rows[..., ::-1, :])


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
        method: "softsort", "neuralsort" or "ot".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
    **Returns:** an array like a (flattened if axis is None), with values in [0, n - 1].
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the methods' papers are named there.
    """
    softening = Softening(softness, mode, method, standardize, implementation)
    return _ranking(a, axis, descending, softening, first=0)


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
    softening = Softening(softness, mode, method, standardize, implementation)
    return _ranking(a, axis, descending, softening, first=1)


def _ranking(a: ArrayLike, axis: int | None, descending: bool, softening: Softening, first: int) -> Array:
    x, layout = layout_along(_check.real("a", a), axis)
    descending = _check.flag("descending", descending)
    soft = enter(x, layout, softening, index=False)
    ascending = over_rows(_hard_ranking, soft.x) if soft.mode is None else soft.rank()
    ranks = soft.n - 1 - ascending if descending else ascending
    return layout.along((ranks + first).astype(x.dtype))


@partial(jax.jit, inline=True)
def _hard_ranking(x: Float[Array, "batch n"]) -> Float[Array, "batch n"]:
    """Average zero-based ranks: elements before, plus half of the others that are equal."""
    if isinstance(x.shape[-1], int):
        s = jnp.sort(x, axis=-1)
        search: Callable[..., Array] = jax.vmap(jnp.searchsorted, in_axes=(0, 0))
        before = search(s, x)
        through = jax.vmap(lambda row, v: jnp.searchsorted(row, v, side="right"))(s, x)
    else:  # a search takes steps that no symbol counts
        before = jnp.sum(x[:, None, :] < x[:, :, None], axis=-1)
        through = jnp.sum(x[:, None, :] <= x[:, :, None], axis=-1)
    average = (before + through - 1).astype(x.dtype) / 2
    return jnp.where(jnp.any(jnp.isnan(x), axis=-1, keepdims=True), jnp.full_like(x, jnp.nan), average)
