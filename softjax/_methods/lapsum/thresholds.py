"""Where a sum of Laplace CDFs, F(b) = sum_j L((b - x_j) / tau), has a value, in closed form.

Between two neighbours of the sorted keys F is a constant and two exponentials, so that b is the root of a quadratic.
Which neighbours, the values of F at the keys say, by the recurrences of `linear_recurrence`: with
U_i = sum_{j <= i} exp(-(s_i - s_j) / tau) and D_i the like from above F(s_i) = i + (1 + D_i - U_i) / 2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..._modes import SMOOTH
from ..._slope import with_slope_of
from ..._types import Float, Int
from ..base import Keys, PerRow
from ..hard_sort import gather
from ..linear_recurrence import Channels, Sums

SUMS = Sums(SMOOTH.reach, by_index=True)


def faint(sums: Array) -> Array:
    """Are these sums of exp(-d / tau) so small that F is flat, and its inverse anything?"""
    return sums <= float(jnp.finfo(sums.dtype).tiny) ** 0.25


class Knots(NamedTuple):
    """Ascending keys, and U and D of columns: of 1 first. Nothing is farther away than `reach` softnesses."""

    s: Keys
    tau: PerRow
    up: Channels
    down: Channels
    reach: float

    @property
    def rise(self) -> Keys:
        """F(s_i) - i."""
        return (1 + self.down[:, 0] - self.up[:, 0]) / 2

    def scaled(self, difference: Float[Array, "batch *any"]) -> Float[Array, "batch *any"]:
        """In softnesses. Clipped before it is divided, so that no derivative overflows."""
        tau = self.tau.reshape(-1, *(1,) * (difference.ndim - 1))
        return jnp.clip(difference, -self.reach * tau, self.reach * tau) / tau


def knots(s: Keys, tau: PerRow, columns: Channels | None = None, reach: float = SMOOTH.reach) -> Knots:
    """U and D of ascending keys, of 1 and of columns."""
    v = jnp.ones_like(s)[:, None]
    v = v if columns is None else jnp.concatenate([v, columns], axis=1)
    up, down = SUMS.bind(s, tau, v, v)
    return Knots(s, tau, up, down, reach)


def at_least_none(width: Float[Array, "..."]) -> Float[Array, "..."]:
    """Not negative by rounding. Neighbours that are equal are apart by index: what is between them has a derivative."""
    return with_slope_of(width, jnp.maximum(width, 0))


class Thresholds(NamedTuple):
    """Some b: so many keys are up to it, of which the last one is `low` softnesses below, the next one `high` above."""

    after: Int[Array, "batch m"]
    low: Float[Array, "batch m"]
    high: Float[Array, "batch m"]

    def beyond(self, held: Knots, x: Keys) -> Float[Array, "batch m n"]:
        """(b - x_j) / tau, with the digits that the nearer key gives."""
        from_low = (self.low <= self.high) & (self.after > 0) | (self.after == held.s.shape[1])
        nearer = gather(held.s, jnp.where(from_low, self.after - 1, self.after))
        offset = jnp.where(from_low, self.low, -self.high)
        return held.scaled(nearer[:, :, None] - x[:, None, :]) + offset[:, :, None]


def gaps(held: Knots) -> Float[Array, "batch n+1"]:
    """Between neighbours, in softnesses; nothing is beside the first and the last key."""
    return jnp.pad(held.scaled(jnp.diff(held.s, axis=1)), ((0, 0), (1, 1)), constant_values=held.reach)


def between(held: Knots, after: Int[Array, "batch m"], excess: Float[Array, "batch m"]) -> Thresholds:
    """The b behind so many keys, which are `excess` more than F(b). Not beyond the keys on either side."""
    n, one = held.s.shape[1], jnp.ones_like(excess)
    gap = gather(gaps(held), after)
    up = jnp.where(after == 0, 0 * one, gather(held.up[:, 0], jnp.maximum(after - 1, 0)))
    down = jnp.where(after == n, 0 * one, gather(held.down[:, 0], jnp.minimum(after, n - 1)))
    # up u^2 - 2 excess u - down exp(-gap) = 0 for u = exp(-low): each root from the side that it is nearer to.
    rest = up * down * jnp.exp(-gap)
    even = (excess == 0) & faint(lax.stop_gradient(jnp.sqrt(rest)))
    root = jnp.sqrt(jnp.where(even, one, excess**2 + rest))
    up, down = (jnp.where(a > 0, a, one) for a in (up, down))
    near_low = -jnp.log(jnp.where(excess > 0, excess + root, one) / up)
    near_high = -jnp.log(jnp.where(excess < 0, root - excess, one) / down)
    tilt = jnp.where(even, excess, excess / root)  # what both logarithms are where the excess is none, to first order
    middle = (gap + jnp.log(up) - jnp.log(down)) / 2 - tilt
    low = jnp.where(excess > 0, near_low, jnp.where(excess < 0, gap - near_high, middle))
    high = jnp.where(excess > 0, gap - near_low, jnp.where(excess < 0, near_high, gap - middle))
    inside = (after > 0) & (after < n)
    # By rounding a threshold may be found on the other side of a key, or among equal ones: it moves as it is to.
    clipped = lambda a: with_slope_of(a, jnp.where(inside, jnp.clip(a, 0, gap), a))
    return Thresholds(after, clipped(low), clipped(high))


def thresholds(held: Knots, above: Float[Array, "batch m"]) -> Thresholds:
    """The b at which F is n - above, for 0 < above < n: the sum of 1 - L((b - x_j) / tau) is `above`."""
    s = held.s
    # Counted from above, where few of many are a number with its digits.
    beyond = (s.shape[1] - lax.broadcasted_iota(jnp.int32, s.shape, 1)).astype(s.dtype)  # keys from this one on
    passed = held.rise[:, None] <= beyond[:, None] - above[:, :, None]
    after = lax.stop_gradient(jnp.sum(passed, axis=2, dtype=jnp.int32))
    return between(held, after, above - (s.shape[1] - after).astype(s.dtype))


class Merged(NamedTuple):
    """Keys and thresholds of neighbouring ranks in one ascending sequence, by the pieces that it cuts the line into.

    A piece lies behind so many keys (`after`) and thresholds (`passed`). What a key below it, of distance d to the last
    one, has there is exp(-d) `left`, one above it exp(-d) `right`.
    """

    after: Int[Array, "batch p"]
    passed: Int[Array, "batch p"]
    left: Float[Array, "batch p"]
    right: Float[Array, "batch p"]


def merged(held: Knots, first: int, last: int) -> Merged:
    """The keys, and the b at which F is first, ..., last."""
    s, m = held.s, last - first + 1
    batch, n = s.shape
    index = lax.broadcasted_iota(jnp.int32, s.shape, 1)
    # Of integers so many are less than F(s_i).
    rise = lax.stop_gradient(held.rise)
    less = index + jnp.ceil(jnp.where(jnp.isfinite(rise), rise, jnp.zeros_like(s))).astype(jnp.int32)
    places = index + lax.cummax(jnp.clip(less - first, 0, m), axis=1)
    mark = lambda at: jnp.zeros(n + m, jnp.int32).at[at].set(1, unique_indices=True, mode="promise_in_bounds")
    is_key = jax.vmap(mark)(places)
    pad = lambda a, value: jnp.pad(a, ((0, 0), value))
    after = pad(jnp.cumsum(is_key, axis=1, dtype=jnp.int32), (1, 0))
    passed = lax.broadcasted_iota(jnp.int32, after.shape, 1) - after
    b = between(held, after[:, 1:], (after - passed + 1 - first)[:, 1:].astype(s.dtype))
    gap = gather(gaps(held), after)
    # Where a piece begins and where it ends, from the key below and from that above.
    nothing, far = jnp.zeros((batch, 1), s.dtype), jnp.full((batch, 1), held.reach, s.dtype)
    key, none = is_key == 1, jnp.zeros_like(b.low)
    start_low = jnp.concatenate([nothing, jnp.where(key, none, b.low)], axis=1)
    start_high = jnp.concatenate([far, jnp.where(key, gap[:, 1:], b.high)], axis=1)
    end_low = jnp.concatenate([jnp.where(key, gap[:, :-1], b.low), far], axis=1)
    end_high = jnp.concatenate([jnp.where(key, none, b.high), nothing], axis=1)
    width = jnp.where(end_low < end_high, end_low - start_low, start_high - end_high)
    share = -jnp.expm1(-at_least_none(width)) / 2
    return Merged(after, passed, share * jnp.exp(-start_low), share * jnp.exp(-end_high))
