"""The k largest values of smooth SoftSort, without a sort of the other keys.

Every key below c, the k-th largest, weighs in all k rows alike but for a factor,

    exp(-(s_r - x_j) / tau) = exp(-(s_r - c) / tau) exp((x_j - c) / tau),        x_j < c <= s_r,

so that two sums over them serve every row; the k keys are a recurrence. That is exact, at the price of the hard top-k
and one pass. For the k smallest values keys are negated.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..._modes import Mode
from ..._slope import with_slope_of
from ..._types import Bool, Float, Int
from ..base import Keys, PerRow, Ranks, reached
from ..hard_sort import top_k
from ..linear_recurrence import both_sides
from ..preprocess import spoiled

SHARE = 8
"""Up to n / 8 keys are picked; beyond, a sort of all is cheaper [measured, between n / 8 and n / 4]."""


def serves(n: Any, ranks: Ranks) -> bool:
    """Are these ranks near enough to an end?"""
    return isinstance(n, int) and isinstance(ranks, range) and 1 < reached(n, ranks) <= n // SHARE


def apply(x: Keys, ranks: Ranks, payload: None, tau: PerRow, mode: Mode) -> Float[Array, "batch r 1"]:
    """Rows of P times the keys."""
    assert isinstance(ranks, range)
    n = x.shape[-1]
    k = reached(n, ranks)
    if ranks.stop == k:
        values = -_picked(-x, k, tau, mode).values()[:, ranks.start :]
    else:
        values = jnp.flip(_picked(x, k, tau, mode).values()[:, n - ranks.stop :], 1)
    return values[:, :, None]


def transposed(
    x: Keys, ranks: Ranks, y: Float[Array, "batch r d"], tau: PerRow, mode: Mode
) -> Float[Array, "batch n d"]:
    """The transpose of rows of P times y."""
    assert isinstance(ranks, range)
    n = x.shape[-1]
    k = reached(n, ranks)
    if ranks.stop == k:
        x = -x
    else:
        y, ranks = jnp.flip(y, 1), range(n - ranks.stop, k)
    y = jnp.pad(y, ((0, 0), (ranks.start, k - ranks.stop), (0, 0)))
    picked = _picked(x, k, tau, mode)
    return picked._replace(c=picked.s[:, -1:]).transposed(y)  # what c sends moves with it


class _Picked(NamedTuple):
    """The k largest keys s of x, descending, which are those at `places`; c is the last of them.

    `times` says how many keys each stands for: the last one also those that tie with it and come after it, at their
    mean. Nothing further than `beyond` has weight.
    """

    x: Keys
    s: Float[Array, "batch k"]
    places: Int[Array, "batch k"]
    c: Float[Array, "batch 1"]
    times: Float[Array, "batch k"]
    tau: PerRow
    beyond: Float[Array, "batch 1"]
    reach: float

    def values(self) -> Float[Array, "batch k"]:
        """Rows n - 1 to n - k of P times the keys."""
        below, weights = self._below()
        middle = lax.stop_gradient(self.s[:, :1])
        middle = lax.optimization_barrier(jnp.clip(0, self.c, middle))  # keeps digits, as `nearest_zero`
        offsets = jnp.where(below, self.x - middle, jnp.zeros_like(self.x))  # far out, times a cotangent, they overflow
        own = jnp.stack([self.times * (self.s - middle), self.times], axis=1)
        sums = self._sums(own, jnp.stack([jnp.sum(weights * offsets, axis=1), jnp.sum(weights, axis=1)], axis=1))
        return sums[:, 0] / sums[:, 1] + middle + spoiled(self.tau)[:, None]

    def transposed(self, y: Float[Array, "batch k d"]) -> Float[Array, "batch n d"]:
        """What these rows send to the keys, y what they hold. Those that tie with c get what the last of them does."""
        _, weights = self._below()
        share = jnp.moveaxis(y, 2, 1) / self._sums(self.times[:, None], jnp.sum(weights, axis=1)[:, None])
        own = both_sides(-self.s, self.tau, self.reach, share)
        weights = jnp.where(self.x == self.c, jnp.ones_like(weights), weights)
        put = jax.vmap(lambda places, own: jnp.zeros_like(self.x[0]).at[places].set(own, unique_indices=True))
        above = jax.vmap(put, (None, 1), 1)(self.places, own)
        out = jnp.where((self.x > self.c)[:, None], above, weights[:, None] * own[:, :, -1:])
        return jnp.moveaxis(out, 1, 2) + spoiled(self.tau)[:, None, None]

    def _below(self) -> tuple[Bool[Array, "batch n"], Keys]:
        """Which keys lie below c and near enough, and exp(-(c - x) / tau) for these. A NaN lies there."""
        gap = self.c - self.x
        below = ~((gap <= 0) | (gap > self.beyond))
        return below, self._decay(gap, below)

    def _sums(self, own: Float[Array, "batch d k"], below: Float[Array, "batch d"]) -> Float[Array, "batch d k"]:
        """Sums over all keys for each of the largest: of what these have themselves, and of sums over those below."""
        above = self.s - self.c
        sums = both_sides(-self.s, self.tau, self.reach, own)
        return lax.optimization_barrier(sums + self._decay(above, above <= self.beyond)[:, None] * below[:, :, None])

    def _decay(self, gap: Array, reached: Array) -> Array:
        # Nothing is divided that is out of reach, so that neither a quotient nor its derivative overflows.
        return jnp.exp(-jnp.where(reached, gap, self.beyond) / self.tau[:, None])


def _picked(x: Keys, k: int, tau: PerRow, mode: Mode) -> _Picked:
    x = with_slope_of(x, jnp.where(x == 0, jnp.zeros_like(x), x))  # for a top-k -0 is less than 0, and for a tie equal
    s, places = top_k(x, k)
    c = lax.stop_gradient(s[:, -1:])
    tied = ((x == c) & (lax.broadcasted_iota(places.dtype, x.shape, 1) >= places[:, -1:])).astype(x.dtype)
    number = jnp.sum(tied, axis=1, keepdims=True)
    mean = with_slope_of(jnp.sum(tied * x, axis=1, keepdims=True) / number, c)
    s = jnp.concatenate([s[:, :-1], mean], axis=1)
    times = jnp.concatenate([jnp.ones_like(s[:, :-1]), number], axis=1)
    return _Picked(x, s, places, c, times, tau, lax.stop_gradient(mode.reach * tau[:, None]), mode.reach)
