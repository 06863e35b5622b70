"""Soft quantiles: a row of the soft permutation at a real-valued rank.

The rank q (n - 1), rounded by `quantile_method`, lies between two ranks that the method has rows for; the result
blends the two. NeuralSort has rows at half-integers too, so its median is one row, softmax(-A / softness).
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from . import _check
from ._axis import Layout, layout_reduced
from ._methods import METHODS
from ._methods.base import AbstractMethod
from ._methods.hard_sort import pick
from ._modes import logarithm
from ._permutation import Choice, SoftPermutation, chosen, raised, soften
from ._sharding import over_rows
from ._types import Axis, Float, Implementation, MethodName, ModeName, QuantileRule, SoftIndex, Softness
from ._weighted import finite_part, weighted_sum

RULES: dict[str, Callable] = {
    "linear": lambda f: f,
    "lower": lambda f: jnp.zeros_like(f),
    "higher": lambda f: jnp.ceil(f),
    "midpoint": lambda f: jnp.ceil(f) / 2,
    "nearest": lambda f: jnp.where(f <= 0.5, jnp.zeros_like(f), jnp.ones_like(f)),
}
"""jnp.quantile's rules, as maps of the rank's fractional part."""


class _Neighbours(NamedTuple):
    """The two ranks that the method has rows for around each wanted rank, and the weight of the upper.

    A weight within `error` of 0 or 1 is one of them: the wanted rank is known no better.
    """

    lower: Array
    upper: Array
    weight: Array
    error: Array


def _probability(q: ArrayLike, top: float) -> Array:
    """q in [0, 1], in at least float32: a rank among many elements is no number of the 16-bit floats."""
    probability = _check.between("q", q, 0, top)
    if probability.ndim > 1:
        _check.wrong("q.shape", probability.shape, "() or (m,)")
    probability = probability.astype(_check.compute_dtype(probability.dtype))
    return probability if top == 1 else probability / top


def _wanted(q: Array, n: int) -> tuple[Array, Array]:
    """The real-valued rank q (n - 1) as a whole number and a fraction."""
    q = jnp.clip(q, 0, 1)
    if isinstance(n, int) and n > 1 << jnp.finfo(q.dtype).nmant + 1:
        return _wanted_among_many(q, n)
    rank = q * (n - 1)
    whole = jnp.floor(rank)
    return whole, rank - whole


def _wanted_among_many(q: Array, n: int) -> tuple[Array, Array]:
    """`_wanted` by integers of 12 binary digits, where the dtype does not hold every rank.

    With n - 1 = a 2^24 + b and q = m / 2^24 + rest it is m a + m b / 2^24 + rest (n - 1).
    """
    fixed = lax.stop_gradient(q) * 2.0**24
    m, (a, b) = jnp.floor(fixed), divmod(n - 1, 1 << 24)
    (high, low), (b_high, b_low) = divmod(m.astype(int), 1 << 12), divmod(b, 1 << 12)
    cross = high * b_low + low * b_high
    fraction = ((cross & 4095) * 4096 + low * b_low).astype(q.dtype) / 2**24 + (fixed - m) * ((n - 1) / 2**24)
    carry = jnp.floor(fraction)
    whole = m.astype(int) * a + high * b_high + (cross >> 12) + carry.astype(int)
    return whole, fraction - carry + (q - lax.stop_gradient(q)) * float(n - 1)  # plus zero, with the derivative


@partial(jax.jit, static_argnums=(1, 2, 3), inline=True)
def _neighbours(q: Array, n: int, rule: str, step: float) -> _Neighbours:
    """Ranks in multiples of `step` around q (n - 1) as `rule` rounds it."""
    whole, fraction = _wanted(q, n)
    offset = RULES[rule](fraction)
    steps = jnp.floor(offset / step) * step
    lower = (whole.astype(q.dtype) if step < 1 else whole) + steps.astype(whole.dtype if step == 1 else q.dtype)
    upper = jnp.minimum(lower + jnp.asarray(step, lower.dtype), n - 1)
    error = jnp.minimum(2 * float(jnp.finfo(q.dtype).eps) / step * whole.astype(q.dtype), 0.25)
    return _Neighbours(lower, upper, (offset - steps) / step, lax.stop_gradient(error))


def _last(a: Array, ndim: int) -> Array:
    """a (m,) with so many dimensions, its own the last."""
    return a.reshape((1,) * (ndim - 1) + a.shape)


@partial(jax.jit, inline=True)
def _blend_values(below: Array, above: Array, near: _Neighbours) -> Array:
    """The neighbours' values (*batch, m), blended: a weight of 0 times an infinity is nothing."""
    dtype = np.promote_types(below.dtype, near.weight.dtype)
    return _blended(
        *(a.astype(dtype) for a in (below, above, _last(near.weight, below.ndim), _last(near.error, below.ndim)))
    )


@jax.custom_jvp
def _blended(below: Array, above: Array, weight: Array, error: Array) -> Array:
    beside = jnp.isinf(below) | jnp.isinf(above)
    none, all_ = ((beside & (rest <= error)).astype(weight.dtype) for rest in (weight, 1 - weight))
    upper = jnp.maximum(weight * (1 - none), all_)
    return weighted_sum(1 - upper, below, upper, above)


@_blended.defjvp
def _blended_jvp(primals, tangents):
    (below, above, weight, error), (dbelow, dabove, dweight, _) = primals, tangents
    slope = finite_part(above) - finite_part(below)
    return _blended(below, above, weight, error), (1 - weight) * dbelow + weight * dabove + dweight * slope


@partial(jax.jit, inline=True)
def _blend_rows(below: Array, above: Array, near: _Neighbours) -> Array:
    """The neighbours' rows (*batch, m, n), blended."""
    weight = _last(near.weight, below.ndim - 1)[..., None].astype(below.dtype)
    return (1 - weight) * below + weight * above


def _blend_logs(below: Array, above: Array, near: _Neighbours) -> Array:
    """The same of their logarithms. Where the upper one has no weight, all that it has is a derivative."""
    weight = _last(near.weight, below.ndim - 1)[..., None].astype(below.dtype)
    parts = below + logarithm(1 - weight), above + logarithm(weight)
    nowhere = (parts[0] == -jnp.inf) & (parts[1] == -jnp.inf)
    both = jnp.logaddexp(jnp.where(nowhere, jnp.zeros_like(below), parts[0]), parts[1])
    held = below > -jnp.inf
    ratio = jnp.exp(jnp.minimum(above - jnp.where(held, below, jnp.zeros_like(below)), 80.0))
    alone = jnp.where(held, below + weight * (ratio - 1), below)
    return jnp.where(weight == 0, alone, jnp.where(nowhere, below, both))


def _at_neighbours(
    p: SoftPermutation, near: _Neighbours, ranks: range | None, of_rows: Callable[[SoftPermutation], Array]
) -> tuple[Array, Array]:
    """What there is at the lower and at the upper ranks, which are `ranks` if given: (*batch, m, ...) each."""
    axis = p.keys.ndim - 1
    if ranks is not None:  # near an end they may need no sort
        found = of_rows(replace(p, ranks=ranks))
        return lax.slice_in_dim(found, 0, 1, 1, axis), lax.slice_in_dim(found, len(ranks) - 1, None, 1, axis)
    both = jnp.stack([near.lower, near.upper], axis=1).reshape(-1)
    both = both.astype(int if p.method.rank_step == 1 else p.dtype)
    at = lambda ranks: of_rows(replace(p, ranks=ranks))
    if p.method.joint:  # rows wanted together would influence each other: one problem each
        found = jnp.squeeze(jax.vmap(at, out_axes=axis)(both[:, None]), axis + 1)
    else:
        found = at(both)
    upper = min(1, found.shape[axis])  # there may be none
    return lax.slice_in_dim(found, 0, None, 2, axis), lax.slice_in_dim(found, upper, None, 2, axis)


@partial(jax.jit, static_argnames="rule", inline=True)
def _hard_values(x: Float[Array, "batch n"], q: Array, rule: str) -> Float[Array, "batch m"]:
    """`jnp.quantile` of every row, its ranks in at least float32."""
    s = jnp.sort(x, axis=-1)
    s = jnp.where(jnp.isnan(s[:, -1:]), jnp.full_like(s, jnp.nan), s)  # NaN is sorted last
    near = _neighbours(q, x.shape[-1], rule, 1.0)
    upper = jnp.where(near.weight > 0, near.upper, near.lower)
    return _blend_values(pick(s, near.lower), pick(s, upper), near)


def _soft_values(p: SoftPermutation, gated: bool) -> Array:
    """Rows of P times the input."""
    y = p._values(gated)
    return y if p.method.rank_step == 1 else _infinite_beside(p.keys, jnp.asarray(p.ranks), y)


@partial(jax.jit, inline=True)
def _infinite_beside(
    x: Float[Array, "*batch n"], ranks: Float[Array, " r"], y: Float[Array, "*batch r"]
) -> Float[Array, "*batch r"]:
    """The values y, but where a rank or its other neighbour is infinite that infinity, and NaN between the two.

    Half of an infinity, or less at ties, is not told from finite elements that pull the other way.
    """
    ranks = _last(ranks, y.ndim)
    number = lambda which: jnp.sum(which.astype(ranks.dtype), axis=-1, keepdims=True)
    low = jnp.floor(ranks) < number(x == -jnp.inf)
    high = jnp.ceil(ranks) >= x.shape[-1] - number(x == jnp.inf)
    # A selection of constants would know no mesh, and could not be mapped over one that x is sharded by.
    ends = (high.astype(y.dtype) - low.astype(y.dtype)) / 0.0
    return jnp.where((low | high) & ~jnp.isnan(y), ends, y)


def _lead(q_ndim: int, y: Array, axis: int, restore: Callable[[Array], Array]) -> Array:
    """(*batch, m, ...) -> m in front, each restored; `axis` is m's. A scalar q has no such axis."""
    if q_ndim == 0:
        return restore(jnp.squeeze(y, axis))
    if y.shape[axis] == 0:
        return restore(jnp.zeros(y.shape[:axis] + y.shape[axis + 1 :], y.dtype))[None][:0]
    return jnp.stack([restore(lax.index_in_dim(y, i, axis, keepdims=False)) for i in range(y.shape[axis])])


class _Call(NamedTuple):
    """What the operators of this file share, once it is legal; `known` says that q is one number, not traced."""

    x: Array
    layout: Layout
    keepdims: bool
    probability: Array
    rule: str
    known: bool

    def near(self, method: AbstractMethod) -> tuple[_Neighbours, range | None]:
        """The method's ranks around the wanted ones, and as numbers where a program is made for this q alone."""
        find = lambda: _neighbours(self.probability.reshape(-1), self.layout.n, self.rule, method.rank_step)
        near = find()
        # Under jit a constant is a tracer. An eager call, also under a transformation, were compiled for every q anew.
        staged = self.known and isinstance(self.layout.n, int) and not _check.is_concrete(near.lower)
        if not staged or method.joint or method.rank_step < 1:
            return near, None
        with jax.ensure_compile_time_eval():
            near = find()
        lower, upper = (int(np.asarray(rank)[0]) for rank in near[:2])
        return near, range(lower, upper + 1)


def _call(a: ArrayLike, q: tuple[ArrayLike, float], axis: Axis, keepdims: bool, rule: str = "linear") -> _Call:
    """`q` is given with what 1 stands for."""
    x, keepdims = _check.real("a", a), _check.flag("keepdims", keepdims)
    _check.choice("quantile_method", rule, RULES)
    known = isinstance(q[0], (int, float))
    with jax.ensure_compile_time_eval() if known else contextlib.nullcontext():
        probability = _probability(*q)
    return _Call(x, layout_reduced(x, axis), keepdims, probability, rule, known)


def _how(
    mode: ModeName,
    method: MethodName,
    standardize: bool | None,
    implementation: Implementation | None,
    jax_method: str = "`quantile_method` here",
) -> Choice:
    """What the names stand for; `jax_method` says what the `method` of JAX's function is."""
    if isinstance(method, str) and method in (*RULES, "inverted_cdf"):
        legal = f"one of {', '.join(map(repr, METHODS))}; the `method` of JAX's function is {jax_method}"
        _check.wrong("method", method, legal)
    return chosen(mode, method, standardize, implementation)


def _all_finite(a: Array) -> bool:
    """Is it known to be so?"""
    if not _check.is_concrete(a):
        return False
    with jax.ensure_compile_time_eval():
        return bool(jnp.all(jnp.isfinite(a)))


def _value(call: _Call, softness: Softness, how: Choice, gated: bool) -> Array:
    x, layout, keepdims, q, rule, _ = call
    gated = _check.flag("gated_grad", gated)
    p = soften(x, layout, softness, how)
    if how.mode is None:
        if _check.is_concrete(x) and _check.is_concrete(q) and layout.n < 1 << 24 and _all_finite(x):
            # JAX's to the last bit; beside infinities it is NaN where a neighbour has no weight.
            plain = jnp.quantile(x, q, axis=layout.axes, method=rule, keepdims=keepdims).astype(x.dtype)
            if _all_finite(plain):
                return plain
        y = over_rows(partial(_hard_values, rule=rule), p.keys, shared=(q.reshape(-1),))
    else:
        near, ranks = call.near(how.method)
        y = _blend_values(*_at_neighbours(p, near, ranks, lambda rows: _soft_values(rows, gated)), near)
    return _lead(q.ndim, y, p.softness.ndim, lambda row: layout.reduced(row, keepdims))


def _index(call: _Call, softness: Softness, how: Choice) -> SoftIndex:
    x, layout, keepdims, q, *_ = call
    p = soften(x, layout, softness, how)
    near, ranks = call.near(how.method)
    if how.floor is None:
        rows = _blend_rows(*_at_neighbours(p, near, ranks, SoftPermutation._rows), near)
    else:
        rows = raised(_blend_logs(*_at_neighbours(p, near, ranks, lambda p: p._rows(0.0)), near), how.floor)
    return _lead(q.ndim, rows, p.softness.ndim, lambda row: layout.reduced(row, keepdims))


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
        method: "softsort", "neuralsort", "ot", "lapsum" or "fast_soft_sort".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
        gated_grad: False stops the gradient through P and keeps that through the values it averages.
    **Returns:** an array of a's shape without `axis`, with a leading axis m if q is (m,).
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md; the methods' papers are named in docs/softness.md.
    """
    how = _how(mode, method, standardize, implementation)
    return _value(_call(a, (q, 1.0), axis, keepdims, quantile_method), softness, how, gated_grad)


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
    return_log_probs: bool = False,
    log_prob_eps: float = 0.0,
) -> SoftIndex:
    """The distribution over elements whose expectation is `quantile`. In the hard mode a blend of one-hots.

    **Arguments:** see `quantile`, and `argsort` for `return_log_probs` and `log_prob_eps`.
    **Returns:** SoftIndex: a's shape without `axis`, then n, with a leading axis m if q is (m,).
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md; the methods' papers are named in docs/softness.md.
    """
    how = _how(mode, method, standardize, implementation).with_rows(return_log_probs, log_prob_eps)
    return _index(_call(a, (q, 1.0), axis, keepdims, quantile_method), softness, how)


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
    how = _how(mode, method, standardize, implementation)
    return _value(_call(a, (q, 100.0), axis, keepdims, quantile_method), softness, how, gated_grad)


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
    return_log_probs: bool = False,
    log_prob_eps: float = 0.0,
) -> SoftIndex:
    """The distribution over elements whose expectation is `percentile`: `argquantile` with q in [0, 100].

    **Arguments:** see `quantile`, and `argsort` for `return_log_probs` and `log_prob_eps`.
    **Returns:** SoftIndex: a's shape without `axis`, then n, with a leading axis m if q is (m,).
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md; the methods' papers are named in docs/softness.md.
    """
    how = _how(mode, method, standardize, implementation).with_rows(return_log_probs, log_prob_eps)
    return _index(_call(a, (q, 100.0), axis, keepdims, quantile_method), softness, how)


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
    how = _how(mode, method, standardize, implementation, "`quantile_method` of `quantile`")
    return _value(_call(a, (0.5, 1.0), axis, keepdims), softness, how, gated_grad)


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
    return_log_probs: bool = False,
    log_prob_eps: float = 0.0,
) -> SoftIndex:
    """The distribution over elements whose expectation is `median`.

    **Arguments:** see `quantile`, and `argsort` for `return_log_probs` and `log_prob_eps`.
    **Returns:** SoftIndex: a's shape without `axis`, then n.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/operators.md; the methods' papers are named in docs/softness.md.
    """
    how = _how(mode, method, standardize, implementation, "`quantile_method` of `quantile`")
    how = how.with_rows(return_log_probs, log_prob_eps)
    return _index(_call(a, (0.5, 1.0), axis, keepdims), softness, how)
