"""Sums of Laplace CDFs (LapSum: Struski et al., arXiv:2503.06242).

F(b) = sum_j L((b - x_j) / tau), with L the distribution function of Laplace's distribution, rises from 0 to n. Where it
is n - k, at a threshold that has a closed form, the elements' shares beyond it, 1 - L, are a mask whose sum is k. Row r
of P is the difference of two such masks, what lies between the thresholds for r and for r + 1: P is doubly stochastic.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..._modes import SMOOTH, Mode, logarithm
from ..._types import Float
from ..base import AbstractMethod, Keys, PerRow, Ranks, as_array
from ..hard_sort import sort_with_permutation
from ..preprocess import spoiled
from .thresholds import at_least_none, faint, knots, thresholds


def _beyond(x: Keys, above: Float[Array, "batch m"], tau: PerRow, reach: float) -> Float[Array, "batch m n"]:
    """(b - x_j) / tau for thresholds b with so much above them: none or all of it far away on either side."""
    n = jnp.asarray(x.shape[1], x.dtype)
    held = knots(sort_with_permutation(x)[0], tau, reach=reach)
    end = (above <= 0).astype(x.dtype) - (above >= n).astype(x.dtype)
    some = end == 0
    t = thresholds(held, jnp.where(some, above, n / 2 * jnp.ones_like(above))).beyond(held, x)
    return jnp.where(some[..., None], t, reach * end[..., None])


def _log_rows(x: Keys, ranks: Ranks, tau: PerRow, reach: float) -> Float[Array, "batch r n"]:
    """log(L(behind) - L(below)), of which the nearer tail has all digits."""
    above = jnp.asarray(x.shape[1], x.dtype) - as_array(ranks, x.dtype)
    above = jnp.broadcast_to(jnp.concatenate([above, above - 1], axis=-1), (x.shape[0], 2 * above.shape[-1]))
    below, behind = jnp.split(_beyond(x, above, tau, reach), 2, axis=1)
    width = at_least_none(behind - below)
    apart = (below > 0) | (behind < 0)
    nearest = jnp.where(below > 0, below, -behind)
    beside = logarithm(-jnp.expm1(-width)) - nearest
    around = jnp.expm1(jnp.where(apart, -nearest, below)) + jnp.expm1(jnp.where(apart, -nearest, -behind))
    return jnp.where(apart, beside, logarithm(-around)) - jnp.log(jnp.full_like(below, 2))


def share_above(t: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 - L(t)."""
    tail = jnp.exp(jnp.where(t > 0, -t, t)) / 2  # of |t|, which has no slope at 0
    return jnp.where(t > 0, tail, 1 - tail)


def mask(x: Keys, k: PerRow, tau: PerRow, reach: float) -> Keys:
    """What elements have beyond the threshold with k above it, a real number."""
    k = jnp.where(k > x.shape[1], jnp.full_like(k, x.shape[1]), k)
    t = _beyond(x, k[:, None], tau, reach)[:, 0]
    nearness = -jnp.abs(t)
    # Where F is flat the threshold does not follow k, and yet the nearest elements share what there is more of it.
    apart = faint(jnp.sum(jnp.exp(nearness), axis=1) / 2)
    more = jnp.where(apart, k - lax.stop_gradient(k), jnp.zeros_like(k))
    return share_above(t) + more[:, None] * jax.nn.softmax(nearness, axis=1)


@dataclass(frozen=True)
class LapSumDefinition(AbstractMethod):
    """Sums of Laplace CDFs, by rows that are written out."""

    name = "lapsum"
    modes = (SMOOTH,)

    def rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
        rows = jnp.exp(_log_rows(x, ranks, tau, mode.reach))
        return rows / lax.stop_gradient(jnp.sum(rows, axis=-1, keepdims=True)) + spoiled(tau)[:, None, None]

    def log_rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
        logs = _log_rows(x, ranks, tau, mode.log_reach)
        return logs - jax.nn.logsumexp(lax.stop_gradient(logs), axis=-1, keepdims=True) + spoiled(tau)[:, None, None]

    def rank(self, x: Keys, tau: PerRow, mode: Mode) -> Keys:
        """The sum over the other elements of L((x_i - x_j) / tau)."""
        t = (x[:, :, None] - x[:, None, :]) / tau[:, None, None]
        return jnp.asarray(x.shape[1], x.dtype) - 0.5 - jnp.sum(share_above(t), axis=2) + spoiled(tau)[:, None]

    def mask(self, x: Keys, k: PerRow, tau: PerRow, mode: Mode) -> Keys:
        return mask(x, k, tau, mode.reach) + spoiled(tau)[:, None]


DEFINITION = LapSumDefinition()
