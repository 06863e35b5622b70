"""Soft quantiles: a row of the soft permutation at a real-valued rank.

The rank q (n - 1), rounded by `quantile_method`, lies between two ranks that the method has rows for; the result
blends the two. NeuralSort has rows at half-integers too, so its median is one row, softmax(-A / softness).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from . import _check
from ._axis import Layout, layout_reduced
from ._soft_rows import Softening, SoftRows, enter, one_hot
from ._types import Axis, Float, Implementation, MethodName, ModeName, QuantileRule, SoftIndex, Softness

RULES: dict[str, Callable] = {
    "linear": lambda r: r,
    "lower": lambda r: jnp.floor(r),
    "higher": lambda r: jnp.ceil(r),
    "midpoint": lambda r: (jnp.floor(r) + jnp.ceil(r)) / 2,
    "nearest": lambda r: jnp.where(r - jnp.floor(r) <= 0.5, jnp.floor(r), jnp.ceil(r)),
}
"""jnp.quantile's rules, as maps of the real-valued rank."""


def _probability(q: ArrayLike, top: float) -> Array:
    probability = _check.between("q", q, 0, top)
    if probability.ndim > 1:
        _check.wrong("q.shape", probability.shape, "() or (m,)")
    return probability if top == 1 else probability / top


def _neighbours(q: Array, n: int, rule: Callable, step: float, dtype) -> tuple[Array, Array, Array]:
    """The two ranks in multiples of `step` around each wanted rank, and the weight of the upper."""
    r = rule(jnp.clip(q.astype(dtype) * (n - 1), 0, n - 1))
    lower = jnp.clip(jnp.floor(r / step) * step, 0, n - 1)
    return lower, jnp.minimum(lower + step, n - 1), (r - lower) / step


def _blend(soft: SoftRows, q: Array, rule: Callable, rows_at: Callable[[Array], Array]) -> Array:
    """Rows (or values) at each q: (*batch, m, ...) for q (m,)."""
    dtype, axis = soft.keys.dtype, soft.keys.ndim - 1
    lower, upper, weight = _neighbours(q, soft.n, rule, soft.order.rank_step, dtype)
    both = jnp.stack([lower, upper], axis=1).reshape(-1)
    if soft.order.joint:  # rows wanted together would influence each other: one problem each
        found = jnp.squeeze(jax.vmap(rows_at, out_axes=axis)(both[:, None]), axis + 1)
    else:
        found = rows_at(both)
    below, above = (lax.slice_in_dim(found, first, None, 2, axis) for first in (0, 1))
    weight = weight.reshape((1,) * axis + (-1,) + (1,) * (found.ndim - axis - 1)).astype(found.dtype)
    return (1 - weight) * below + weight * above


def _lead(q_ndim: int, y: Array, axis: int, restore: Callable[[Array], Array]) -> Array:
    """(*batch, m, ...) -> m in front, each restored; `axis` is m's. A scalar q has no such axis."""
    if q_ndim == 0:
        return restore(jnp.squeeze(y, axis))
    if y.shape[axis] == 0:
        return restore(jnp.zeros(y.shape[:axis] + y.shape[axis + 1 :], y.dtype))[None][:0]
    return jnp.stack([restore(lax.index_in_dim(y, i, axis, keepdims=False)) for i in range(y.shape[axis])])


def _value(
    a: ArrayLike, q: ArrayLike, top: float, axis: Axis, keepdims: bool, rule: str, softening: Softening, gated: bool
) -> Array:
    x, probability, layout, keepdims, resolved = _prepare(a, q, top, axis, keepdims, rule)
    gated = _check.flag("gated_grad", gated)
    soft = enter(x, layout, softening, index=False)
    if soft.mode is None:
        return jnp.quantile(x, probability.astype(x.dtype), axis=layout.axes, method=rule, keepdims=keepdims)
    y = _blend(soft, probability.reshape(-1), resolved, lambda ranks: soft.wide_values(ranks, gated))
    return _lead(probability.ndim, y, soft.tau.ndim, lambda row: layout.reduced(row, keepdims)).astype(x.dtype)


def _index(
    a: ArrayLike, q: ArrayLike, top: float, axis: Axis, keepdims: bool, rule: str, softening: Softening
) -> SoftIndex:
    x, probability, layout, keepdims, resolved = _prepare(a, q, top, axis, keepdims, rule)
    soft = enter(x, layout, softening, index=True)
    rows_at = soft.wide_rows if soft.mode is not None else lambda ranks: _hard_rows(soft.x, ranks)
    p = _blend(soft, probability.reshape(-1), resolved, rows_at)
    return _lead(probability.ndim, p, soft.tau.ndim, lambda row: layout.reduced_index(row, keepdims)).astype(x.dtype)


def _prepare(
    a: ArrayLike, q: ArrayLike, top: float, axis: Axis, keepdims: bool, rule: str
) -> tuple[Array, Array, Layout, bool, Callable]:
    x, probability = _check.real("a", a), _probability(q, top)
    resolved = _check.choice("quantile_method", rule, RULES)
    return x, probability, layout_reduced(x, axis), _check.flag("keepdims", keepdims), resolved


def _hard_rows(x: Float[Array, "*batch n"], ranks: Array) -> Float[Array, "*batch r n"]:
    """One-hot rows at integer ranks; at a half-integer both neighbours' mean."""
    order = jnp.argsort(x, axis=-1)
    ends = (jnp.floor(ranks), jnp.ceil(ranks))
    below, above = (one_hot(jnp.take(order, end.astype(int), axis=-1), x.shape[-1], x.dtype) for end in ends)
    return (below + above) / 2


def quantile(
    a: ArrayLike,
    q: ArrayLike,
    axis: Axis = None,
    *,
    keepdims: bool = False,
    quantile_method: QuantileRule = "linear",
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "neuralsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
    gated_grad: bool = True,
) -> Array:
    """Soft `jnp.quantile`.

    **Arguments:**
        a: array of any shape.
        q: scalar or (m,), in [0, 1]; may be traced and has a gradient.
        axis: the axis or axes to reduce; None for all.
        keepdims: keep the reduced axes with size 1.
        quantile_method: "linear", "lower", "higher", "midpoint" or "nearest", as `method` of jnp.quantile.
        softness: positive; broadcastable to a's shape without `axis`.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        method: "softsort", "neuralsort" or "ot".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
        gated_grad: False stops the gradient through P and keeps that through the values it averages.
    **Returns:** an array of a's shape without `axis`, with a leading axis m if q is (m,).
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md; the methods' papers are named in docs/softness.md.
    """
    softening = Softening(softness, mode, method, standardize, implementation)
    return _value(a, q, 1.0, axis, keepdims, quantile_method, softening, gated_grad)


def argquantile(
    a: ArrayLike,
    q: ArrayLike,
    axis: Axis = None,
    *,
    keepdims: bool = False,
    quantile_method: QuantileRule = "linear",
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "neuralsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
) -> SoftIndex:
    """The distribution over elements whose expectation is `quantile`. In the hard mode a blend of one-hots.

    **Arguments:** see `quantile`.
    **Returns:** SoftIndex: a's shape without `axis`, then n, with a leading axis m if q is (m,).
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md; the methods' papers are named in docs/softness.md.
    """
    softening = Softening(softness, mode, method, standardize, implementation)
    return _index(a, q, 1.0, axis, keepdims, quantile_method, softening)


def percentile(
    a: ArrayLike,
    q: ArrayLike,
    axis: Axis = None,
    *,
    keepdims: bool = False,
    quantile_method: QuantileRule = "linear",
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "neuralsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
    gated_grad: bool = True,
) -> Array:
    """Soft `jnp.percentile`: `quantile` with q in [0, 100].

    **Arguments:** see `quantile`.
    **Returns:** an array of a's shape without `axis`, with a leading axis m if q is (m,).
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md; the methods' papers are named in docs/softness.md.
    """
    softening = Softening(softness, mode, method, standardize, implementation)
    return _value(a, q, 100.0, axis, keepdims, quantile_method, softening, gated_grad)


def argpercentile(
    a: ArrayLike,
    q: ArrayLike,
    axis: Axis = None,
    *,
    keepdims: bool = False,
    quantile_method: QuantileRule = "linear",
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "neuralsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
) -> SoftIndex:
    """The distribution over elements whose expectation is `percentile`: `argquantile` with q in [0, 100].

    **Arguments:** see `quantile`.
    **Returns:** SoftIndex: a's shape without `axis`, then n, with a leading axis m if q is (m,).
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md; the methods' papers are named in docs/softness.md.
    """
    softening = Softening(softness, mode, method, standardize, implementation)
    return _index(a, q, 100.0, axis, keepdims, quantile_method, softening)


def median(
    a: ArrayLike,
    axis: Axis = None,
    *,
    keepdims: bool = False,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "neuralsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
    gated_grad: bool = True,
) -> Array:
    """Soft `jnp.median`: `quantile` at q = 1/2.

    **Arguments:** see `quantile`.
    **Returns:** an array of a's shape without `axis`.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md; the methods' papers are named in docs/softness.md.
    """
    softening = Softening(softness, mode, method, standardize, implementation)
    return _value(a, 0.5, 1.0, axis, keepdims, "linear", softening, gated_grad)


def argmedian(
    a: ArrayLike,
    axis: Axis = None,
    *,
    keepdims: bool = False,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "neuralsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
) -> SoftIndex:
    """The distribution over elements whose expectation is `median`.

    **Arguments:** see `quantile`.
    **Returns:** SoftIndex: a's shape without `axis`, then n.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md; the methods' papers are named in docs/softness.md.
    """
    softening = Softening(softness, mode, method, standardize, implementation)
    return _index(a, 0.5, 1.0, axis, keepdims, "linear", softening)
