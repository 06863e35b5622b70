"""From the input to the keys that an order works on: standardised, and with the farthest elements at nearer places."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from .._types import Float
from ._base import Keys, PerRow

_LIFT = 2.0**60
"""Elements beyond the largest float / 256 are brought nearer by this factor: room for sums and cotangents."""


class Prepared(NamedTuple):
    """Rows as an order can work on them without overflow, and the way back from its values.

    `finite` is the input with what lies far out moved nearer, `standard` its standardised form, None where that does not
    matter. A soft value beyond `near` is to be multiplied by `lift`; one beyond `bound` can only stem from an infinity.
    """

    finite: Keys
    standard: Keys | None
    tau: PerRow
    near: Float[Array, "batch 1"]
    lift: Float[Array, "batch 1"]
    bound: Float[Array, "batch 1"]


@partial(jax.jit, static_argnames="standardize", inline=True)
def prepare(x: Keys, tau: PerRow, standardize: bool) -> Prepared:
    """What an order is to work on, for an input and a softness."""
    if standardize:
        finite, lift = _scaled_down(x)
        keys = standardized(finite)
        every = jnp.full_like(lift, -1)
        return Prepared(finite, keys, _in_range(tau, keys), every, lift, jnp.full_like(lift, jnp.finfo(x.dtype).max))
    far, lift = _out_of_reach(x, tau)
    finite, bound = without_infinities(jnp.where(far, _with_slope_one(x / lift, x), x), tau)
    near = jnp.full_like(lift, jnp.finfo(x.dtype).max / 2.0**80)
    return Prepared(finite, None, _in_range(tau, finite), near, lift, bound)


@partial(jax.jit, inline=True)
def restored(soft: Float[Array, "batch r"], x: Keys, prepared: Prepared) -> Float[Array, "batch r"]:
    """Soft values of `prepared.finite` as soft values of x."""
    limit = jnp.finfo(soft.dtype).max / prepared.lift
    fixed = lax.stop_gradient(soft)
    lifted = jnp.clip(fixed, -limit, limit) * prepared.lift + (soft - fixed)
    soft = jnp.where(jnp.abs(soft) > prepared.near, lifted, soft)
    infinite = jnp.any(jnp.isinf(x), axis=-1, keepdims=True) & (jnp.abs(soft) > prepared.bound)
    return jnp.where(infinite, jnp.copysign(jnp.full_like(soft, jnp.inf), soft), soft)


def standardized(x: Keys) -> Keys:
    """sigmoid((x - mean) / std) along each row: keys in (0, 1) whatever the input's place and scale.

    A row whose deviation is within rounding of zero counts as constant, and its std as 1.
    """
    # z-scores do not depend on the scale, so a constant power-free scale keeps squares in range.
    size = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    x = x / jnp.where(size > 0, size, jnp.ones_like(size))
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    varies = ~(variance <= (8 * jnp.finfo(x.dtype).eps) ** 2)  # true for NaN, which then propagates
    std = jnp.sqrt(jnp.where(varies, variance, jnp.ones_like(variance)))
    return jax.nn.sigmoid(centred / std)


def _far(x: Keys) -> Array:
    """Elements of the last 8 powers of two, where masked ones are: `jnp.finfo(dtype).min`."""
    return (jnp.abs(x) > jnp.finfo(x.dtype).max / 256) & jnp.isfinite(x)


def _with_slope_one(value: Keys, x: Keys) -> Keys:
    """`value`, differentiated as x."""
    return lax.stop_gradient(value) + (x - lax.stop_gradient(x))


def _scaled_down(x: Keys) -> tuple[Keys, Float[Array, "batch 1"]]:
    """x and the factor by which rows with far elements were made smaller. What is standardised knows no scale, and
    its values have that of the input: derivatives are the input's own.
    """
    lift = _lift_where(jnp.any(_far(x), axis=-1, keepdims=True), x.dtype)
    return jnp.where(jnp.isinf(x), x, _with_slope_one(x / lift, x)), lift


def _out_of_reach(x: Keys, tau: PerRow) -> tuple[Array, Float[Array, "batch 1"]]:
    """Which far elements may come nearer by a factor, still beyond the reach of all others, and that factor.

    No order looks so far, so that only differences between neighbours matter: derivatives are the input's own. Rows
    whose other keys or whose softness are large, too, stay what they are.
    """
    x, tau = lax.stop_gradient(x), lax.stop_gradient(tau)[:, None]
    far, most = _far(x), float(jnp.finfo(x.dtype).max)
    largest = jnp.max(jnp.where(far | jnp.isinf(x), jnp.zeros_like(x), jnp.abs(x)), axis=-1, keepdims=True)
    fits = jnp.any(far, axis=-1, keepdims=True) & (largest < most / 2.0**84) & (tau < most / 2.0**104)
    return far & fits, _lift_where(fits, x.dtype)


def _lift_where(taken: Array, dtype) -> Float[Array, "batch 1"]:
    return jnp.where(taken, jnp.asarray(_LIFT, dtype), jnp.ones((), dtype))


def _in_range(tau: PerRow, keys: Keys) -> PerRow:
    """tau, but where it is so small that nothing is soft any more, or so large that rows of P are constant."""
    n, info = keys.shape[-1], jnp.finfo(keys.dtype)
    largest = lax.stop_gradient(jnp.max(jnp.abs(keys), axis=-1))
    smallest = float(info.tiny) ** 0.5 * 8  # its square is not lost
    floor = jnp.where(largest > 0, jnp.minimum(largest / 2.0**24, smallest), smallest)
    ceiling = jnp.clip(largest * (4 * n * n / float(info.eps)), 2.0**60, float(info.max) / 2.0**12)
    return jnp.clip(tau, floor, ceiling)
def without_infinities(x: Keys, tau: PerRow) -> tuple[Keys, Float[Array, "batch 1"]]:
    """x with +-inf moved to finite places so far out that no finite element can feel them.

    Returns the keys and the bound beyond which a soft value can only stem from an infinity.
    """
    infinite = jnp.isinf(x)
    finite = jnp.where(infinite, jnp.zeros_like(x), x)
    largest = lax.stop_gradient(jnp.max(jnp.abs(finite), axis=-1, keepdims=True))
    reach = 2 * largest + 1000 * lax.stop_gradient(tau)[:, None]
    place = jnp.minimum(largest + reach, jnp.finfo(x.dtype).max / 8)
    bound = largest + (place - largest) / (4 * x.shape[-1])
    return jnp.where(infinite, jnp.sign(x) * place, x), bound


def spoiled(x: Keys, tau: PerRow) -> PerRow:
    """What to add to results: NaN for rows that hold one or whose softness is not positive, else 0.

    A compiler's vectorised exponential may make a number of NaN.
    """
    bad = jnp.any(jnp.isnan(x), axis=-1) | ~(tau > 0)
    return jnp.where(bad, jnp.full_like(tau, jnp.nan), jnp.zeros_like(tau))


def knots(s: Keys, tau: PerRow) -> tuple[Keys, Float[Array, "batch 1"], Float[Array, "batch 1"]]:
    """Keys and softness for the walk, and what to add to its results: NaN for rows that hold one, else 0."""
    bad = jnp.any(jnp.isnan(s), axis=-1, keepdims=True) | ~(tau[:, None] > 0)
    limit = float(jnp.finfo(s.dtype).max) / 4
    # The gaps of a bad row are so wide that its walk stops at once.
    apart = jnp.broadcast_to(1e20 * jnp.arange(s.shape[-1], dtype=s.dtype), s.shape)
    places = jnp.where(bad, apart, jnp.clip(s, -limit, limit))
    spoil = jnp.where(bad, jnp.full_like(s[:, :1], jnp.nan), jnp.zeros_like(s[:, :1]))
    return places, jnp.where(bad, jnp.ones_like(s[:, :1]), tau[:, None]), spoil
