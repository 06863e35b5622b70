"""Smooth SoftSort in O(n): its kernel matrix is symmetric and 1-semiseparable.

In sorted order P = diag(K 1)^-1 K with K_ij = exp(-|s_i - s_j| / tau), and K times columns is a recurrence from either
side. Every decay is at most 1, so nothing overflows at any tau, and the result is exact. Payload and normaliser share
one recurrence.
"""

import jax.numpy as jnp
from jax import Array

from ..._modes import Mode
from ..._types import Float
from ..base import Keys, PerRow, Ranks
from ..hard_sort import gather, pick, sort_with_permutation, unpick, unsort
from ..linear_recurrence import both_sides
from ..preprocess import nearest_zero, spoiled
from ..ties import mean_positions


def _averages(s: Keys, tau: PerRow, v: Float[Array, "batch n d"], mode: Mode) -> Float[Array, "batch n d"]:
    """The soft permutation of sorted keys times the payload v, in sorted order."""
    v = jnp.moveaxis(v, 2, 1)
    sums = both_sides(s, tau, mode.reach, jnp.concatenate([v, jnp.ones_like(v[:, :1])], axis=1))
    return jnp.moveaxis(sums[:, :-1] / sums[:, -1:], 1, 2) + spoiled(tau)[:, None, None]


def apply(
    x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
) -> Float[Array, "batch r d"]:
    """Rows of P times the payload, or times the keys themselves."""
    s, permutation = sort_with_permutation(x)
    v = s[:, :, None] if payload is None else gather(payload, permutation)
    middle = nearest_zero(v)
    return pick(_averages(s, tau, v - middle, mode) + middle, ranks)


def transposed(
    x: Keys, ranks: Ranks, y: Float[Array, "batch r d"], tau: PerRow, mode: Mode
) -> Float[Array, "batch n d"]:
    """The transpose of rows of P times y: K is its own, and rows are divided before they are summed."""
    s, permutation = sort_with_permutation(x)
    total = both_sides(s, tau, mode.reach, jnp.ones_like(s)[:, None])
    share = jnp.moveaxis(unpick(y, ranks, s.shape[-1]), 2, 1) / total
    out = both_sides(s, tau, mode.reach, share) + spoiled(tau)[:, None, None]
    return unsort(jnp.moveaxis(out, 1, 2), permutation)


def rank(x: Keys, tau: PerRow, mode: Mode) -> Keys:
    """The expected position among the sorted keys, weighted as a row of P that is centred on x_i."""
    s, permutation = sort_with_permutation(x)
    return unsort(_averages(s, tau, mean_positions(s)[:, :, None], mode)[:, :, 0], permutation)
