"""Weighted sums in which a weight of 0 leaves out what is not finite, as a selection does: 0 times infinity is nothing.

Their derivative with respect to a weight takes infinities and NaN for 0, so that it is finite wherever they are.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from ._sharding import anywhere


def finite_part(values: Array) -> Array:
    """The values, 0 where they are not finite."""
    return jnp.where(jnp.isfinite(values), values, jnp.zeros_like(values))


@jax.custom_jvp
def weighted_sum(c: Array, a: Array, d: Array, b: Array) -> Array:
    """c a + d b, elementwise."""
    a = jnp.where((c == 0) & ~jnp.isfinite(a), jnp.zeros_like(a), a)
    b = jnp.where((d == 0) & ~jnp.isfinite(b), jnp.zeros_like(b), b)
    return c * a + d * b


@weighted_sum.defjvp
def _weighted_sum_jvp(primals, tangents):
    (c, a, d, b), (dc, da, dd, db) = primals, tangents
    return weighted_sum(c, a, d, b), dc * finite_part(a) + dd * finite_part(b) + c * da + d * db


@partial(jax.jit, static_argnums=0, inline=True)
def product(subscripts: str, weights: Array, values: Array) -> Array:
    """The sum of products of `jnp.einsum`, in which a weight of 0 leaves out what is not finite."""
    return _product_of(subscripts, weights, values)


def _einsum(subscripts: str, weights: Array, values: Array) -> Array:
    return jnp.einsum(subscripts, weights.astype(values.dtype), values, precision=lax.Precision.HIGHEST)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _product_of(subscripts: str, weights: Array, values: Array) -> Array:
    # Whatever is not finite among the values shows in the plain product, even at a weight of 0: NaN.
    plain = _einsum(subscripts, weights, values)
    careful = partial(_careful_product, subscripts)
    return lax.cond(anywhere(~jnp.isfinite(plain)), careful, lambda plain, *_: plain, plain, weights, values)


@_product_of.defjvp
def _product_jvp(subscripts, primals, tangents):
    (weights, values), (dweights, dvalues) = primals, tangents
    # A weight of 0 has no derivative by what lies far out either: a cotangent times it may overflow.
    chosen = jnp.where(weights == 0, jnp.zeros_like(dweights), dweights)
    near, none = jnp.abs(values) <= _far_out(weights.dtype), jnp.zeros_like(values)
    of_near = _einsum(subscripts, dweights, jnp.where(near, values, none))
    of_far = _einsum(subscripts, chosen, jnp.where(near, none, finite_part(values)))
    moved = of_near + of_far + _einsum(subscripts, weights, dvalues)
    return _product_of(subscripts, weights, values), moved


def _far_out(dtype) -> float:
    """From here on values mask elements, as `jnp.finfo(dtype).min` does."""
    info = jnp.finfo(dtype)
    return float(info.max) / (256 if info.nexp >= 8 else 2)


def _careful_product(subscripts: str, plain: Array, weights: Array, values: Array) -> Array:
    """The finite part, and infinities and NaN by the signs of their weights."""
    sign, finite = jnp.sign(weights), jnp.isfinite(values)
    infinities = jnp.where(jnp.isinf(values), jnp.sign(values), jnp.zeros_like(values))
    count = _einsum(subscripts, jnp.abs(sign), (~finite).astype(values.dtype))
    total = _einsum(subscripts, sign, infinities)
    alike = jnp.where(jnp.abs(total) == count, total / 0.0, total * jnp.nan)  # infinities of one sign, or NaN
    beside = jnp.where(count == 0, jnp.zeros_like(plain), alike)
    return jnp.where(jnp.isfinite(plain), plain, _einsum(subscripts, weights, finite_part(values)) + beside)
