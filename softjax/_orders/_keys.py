"""From the input to the keys that an order works on: standardised, and with infinities at finite places."""

import jax.numpy as jnp
from jax import Array, lax

from .._types import Float
from ._base import Keys, PerRow


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
    return 1 / (1 + jnp.exp(-centred / std))


def without_infinities(x: Keys, tau: PerRow) -> tuple[Keys, Float[Array, "batch 1"]]:
    """x with +-inf moved to finite places so far out that no finite element can feel them.

    Returns the keys and the bound beyond which a soft value can only stem from an infinity.
    """
    infinite = jnp.isinf(x)
    finite = jnp.where(infinite, jnp.zeros_like(x), x)
    largest = lax.stop_gradient(jnp.max(jnp.abs(finite), axis=-1, keepdims=True))
    reach = 2 * largest + 1000 * lax.stop_gradient(tau)[..., None]
    place = jnp.minimum(largest + reach, jnp.finfo(x.dtype).max / 8)
    bound = largest + (place - largest) / (4 * x.shape[-1])
    return jnp.where(infinite, jnp.sign(x) * place, x), bound


def knots(s: Keys, tau: PerRow) -> tuple[Keys, Float[Array, "batch 1"], Float[Array, "batch 1"]]:
    """Keys and softness for the walk, and what to add to its results: NaN for rows that hold one, else 0."""
    bad = jnp.any(jnp.isnan(s), axis=-1, keepdims=True) | ~(tau[:, None] > 0)
    limit = float(jnp.finfo(s.dtype).max) / 4
    # The gaps of a bad row are so wide that its walk stops at once.
    apart = jnp.broadcast_to(1e20 * jnp.arange(s.shape[-1], dtype=s.dtype), s.shape)
    places = jnp.where(bad, apart, jnp.clip(s, -limit, limit))
    spoil = jnp.where(bad, jnp.full_like(s[:, :1], jnp.nan), jnp.zeros_like(s[:, :1]))
    return places, jnp.where(bad, jnp.ones_like(s[:, :1]), tau[:, None]), spoil
