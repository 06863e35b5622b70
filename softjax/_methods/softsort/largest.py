"""The k largest values of smooth SoftSort, without a sort of the other keys.

Every key below c, the k-th largest, weighs in all k rows alike but for a factor,

    exp(-(s_r - x_j) / tau) = exp(-(s_r - c) / tau) exp((x_j - c) / tau),        x_j < c <= s_r,

so that two sums over them serve every row; the k keys are a recurrence. That is exact, at the price of the hard top-k
and one pass. For the k smallest values keys are negated.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from ..._modes import Mode
from ..._slope import with_slope_of
from ..._types import Float
from ..base import Keys, PerRow, Ranks
from ..hard_sort import top_k
from ..preprocess import spoiled
from .linear_recurrence import both_sides

_SHARE = 8
"""Up to n / 8 keys are picked; beyond, a sort of all is cheaper [measured, between n / 8 and n / 4]."""


def serves(n: Any, ranks: Ranks) -> bool:
    """Are these ranks near enough to an end?"""
    return isinstance(n, int) and isinstance(ranks, range) and 1 < _reached(n, ranks) <= n // _SHARE


def _reached(n: int, ranks: range) -> int:
    """How many keys from the nearer end on hold these ranks."""
    return min(ranks.stop, n - ranks.start)


def values(x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r"]:
    """Rows of P times the keys."""
    assert isinstance(ranks, range)
    n = x.shape[-1]
    k = _reached(n, ranks)
    if ranks.stop == k:
        return -_largest(-x, k, tau, mode)[:, ranks.start :]
    return jnp.flip(_largest(x, k, tau, mode)[:, n - ranks.stop :], 1)


def _largest(x: Keys, k: int, tau: PerRow, mode: Mode) -> Float[Array, "batch k"]:
    """Rows n - 1 to n - k of P times the keys."""
    s, index = top_k(x, k)
    c, scale = lax.stop_gradient(s[:, -1:]), tau[:, None]
    # Keys that tie with the k-th largest and come after it, as it does, are as many keys at their mean.
    tied = ((x == c) & (lax.broadcasted_iota(index.dtype, x.shape, 1) >= index[:, -1:])).astype(x.dtype)
    number = jnp.sum(tied, axis=1, keepdims=True)
    mean = with_slope_of(jnp.sum(tied * x, axis=1, keepdims=True) / number, c)
    s = jnp.concatenate([s[:, :-1], mean], axis=1)
    times = jnp.concatenate([jnp.ones_like(s[:, :-1]), number], axis=1)

    beyond = lax.stop_gradient(mode.reach * scale)
    # Nothing is divided that is out of reach, so that neither a quotient nor its derivative overflows.
    decay = lambda gap, reached: jnp.exp(-jnp.where(reached, gap, beyond) / scale)
    gap, above = c - x, s - c
    near = (gap > 0) & (gap <= beyond)
    weights = decay(gap, near)
    middle = lax.optimization_barrier(jnp.clip(0, c, lax.stop_gradient(s[:, :1])))  # keeps digits, as `nearest_zero`
    offsets = jnp.where(near, x - middle, jnp.zeros_like(x))  # far out, times a cotangent, they may overflow
    below = jnp.stack([jnp.sum(weights * offsets, axis=1), jnp.sum(weights, axis=1)], axis=1)
    below = decay(above, above <= beyond)[:, None] * below[:, :, None]
    own = jnp.stack([times * (s - middle), times], axis=1)
    sums = both_sides(-s, tau, mode.reach, own) + below
    sums = lax.optimization_barrier(sums)
    return sums[:, 0] / sums[:, 1] + middle + spoiled(tau)[:, None]
