"""Isotonic regression of every row: the ascending sequence nearest to it, constant on blocks of neighbours.

On the CPU by pooling adjacent violators (Best and Chakravarti, 1990), one loop over the elements of all rows, of which
each is pushed onto a stack and popped once. Elsewhere by halves: two ascending sequences are joined at the one number v
to which the larger elements of the first fall and the smaller ones of the second rise, found for all pairs at once.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..._primitive import Operator
from ..._types import Float, Int
from ..base import Keys

Places = Int[Array, "batch n"]

_MAX_STEPS = 80


@dataclass(frozen=True)
class Blocks(Operator):
    """d -> the first and the last element of the block that each belongs to. Equal neighbours are of one block."""

    fixed = 1

    def run(self, *args):
        return lax.platform_dependent(*args, cpu=_in_turn, default=self._elsewhere)

    def run_on(self, target, *args):
        if target is None:
            return self.run(*args)
        return (_in_turn if target.platform == "cpu" else self._elsewhere)(*args)

    def _elsewhere(self, d):
        return (_by_halves if isinstance(d.shape[1], int) else _in_turn)(d)

    def shapes(self, *args):
        return [jax.ShapeDtypeStruct(args[0].shape, jnp.int32)] * 2

    def tangent(self, fixed, moving, dfixed, out):
        return out


def _in_turn(d: Keys) -> tuple[Places, Places]:
    """By a stack of blocks: their means, and where they begin."""
    batch, n = d.shape
    size = batch * n
    if isinstance(size, int) and size == 0:
        return jnp.zeros(d.shape, jnp.int32), jnp.zeros(d.shape, jnp.int32)
    flat = d.reshape(size)
    one, zero, length = jnp.int32(1), jnp.int32(0), jnp.asarray(n, jnp.int32)
    at = lambda a, i: lax.dynamic_index_in_dim(a, i, keepdims=False, allow_negative_indices=False)
    put = lambda a, x, i: lax.dynamic_update_index_in_dim(a, x, i, 0, allow_negative_indices=False)

    def step(state):
        """Push the block, or join it with the one below it."""
        i, depth, mean, begin, means, begins = state
        # Written first: what is read before it is written is copied.
        means, begins = put(means, mean, depth), put(begins, begin, depth)
        below = jnp.maximum(depth - 1, 0)
        lower, lower_begin = at(means, below), at(begins, below)
        joins = (lax.rem(begin, length) != 0) & (lower >= mean)
        share = (begin - lower_begin).astype(d.dtype) / (i - lower_begin).astype(d.dtype)
        following = at(flat, jnp.minimum(i, size - 1))
        return (
            jnp.where(joins, i, i + 1),
            jnp.where(joins, below, depth + 1),
            jnp.where(joins, mean + (lower - mean) * share, following),
            jnp.where(joins, lower_begin, i),
            means,
            begins,
        )

    def back(state):
        i, depth, last, firsts, lasts = state
        begin = at(begins, depth)
        left = begin == i
        firsts, lasts = put(firsts, lax.rem(begin, length), i), put(lasts, lax.rem(last, length), i)
        return i - 1, jnp.where(left, depth - 1, depth), jnp.where(left, i - 1, last), firsts, lasts

    # The block in hand ends before element i.
    start = one, zero, flat[0], zero, jnp.zeros_like(flat), jnp.zeros(size, jnp.int32)
    _, depth, _, _, _, begins = lax.while_loop(lambda state: state[0] <= size, step, start)
    end = jnp.asarray(size, jnp.int32) - 1
    places = jnp.zeros(size, jnp.int32)
    start = end, depth - 1, end, places, places
    *_, firsts, lasts = lax.while_loop(lambda state: state[0] >= 0, back, start)
    return firsts.reshape(d.shape), lasts.reshape(d.shape)


def _by_halves(d: Keys) -> tuple[Places, Places]:
    """From pairs of neighbours on, until halves of the row are joined."""
    batch, n = d.shape
    size = 1 << max(n - 1, 0).bit_length()
    v = jnp.pad(d, ((0, 0), (0, size - n)), constant_values=jnp.inf)
    half = 1
    while half < size:
        low, high = jnp.split(v.reshape(batch, size // (2 * half), 2, half), 2, axis=2)
        joint = _meeting(low, high)
        v = jnp.concatenate([jnp.minimum(low, joint), jnp.maximum(high, joint)], axis=2).reshape(batch, size)
        half *= 2
    return _runs(v[:, :n])


def _runs(v: Keys) -> tuple[Places, Places]:
    """Of equal neighbours the first and the last."""
    batch, n = v.shape
    starts = jnp.concatenate([jnp.ones((batch, 1), bool), v[:, 1:] != v[:, :-1]], axis=1)[:, :n]
    ends = jnp.concatenate([starts[:, 1:], jnp.ones((batch, 1), bool)], axis=1)[:, :n]
    index = lax.broadcasted_iota(jnp.int32, v.shape, 1)
    first = lax.cummax(jnp.where(starts, index, 0), axis=1)
    return first, lax.cummin(jnp.where(ends, index, n - 1), axis=1, reverse=True)


def _meeting(low: Float[Array, "batch m 1 half"], high: Float[Array, "batch m 1 half"]) -> Float[Array, "batch m 1 1"]:
    """v with sum(max(low - v, 0)) = sum(max(v - high, 0)), by Newton's method inside a bracket; what is apart stays."""
    top, bottom = low[..., -1:], high[..., :1]
    apart = ~(top > bottom)

    def evaluate(v):
        over, under = jnp.maximum(low - v, 0), jnp.where(high < v, v - high, jnp.zeros_like(high))
        count = jnp.sum((low > v).astype(v.dtype) + (high < v).astype(v.dtype), axis=-1, keepdims=True)
        return jnp.sum(over - under, axis=-1, keepdims=True), jnp.maximum(count, 1)

    def improve(state):
        v, below, above, excess, count, going, steps = state
        below, above = jnp.where(excess > 0, v, below), jnp.where(excess < 0, v, above)
        newton = v + excess / count
        within = (newton > below) & (newton < above)
        moved = jnp.where(within, newton, below + (above - below) / 2)
        going = going & (moved != v) & (moved > below) & (moved < above)
        v = jnp.where(going, moved, v)
        return v, below, above, *evaluate(v), going, steps + 1

    start = jnp.where(apart, top, bottom + (top - bottom) / 2)
    state = start, bottom, top, *evaluate(start), ~apart, jnp.zeros((), jnp.int32)
    return lax.while_loop(lambda state: jnp.any(state[5]) & (state[6] < _MAX_STEPS), improve, state)[0]


def by_definition(d: Keys) -> tuple[Places, Places]:
    """The largest over the beginnings, up to an element, of the least mean over the ends, from it on."""
    batch, n = d.shape
    sums = jnp.pad(jnp.cumsum(d, axis=1), ((0, 0), (1, 0)))
    begin, end = (lax.broadcasted_iota(jnp.int32, (batch, n, n), axis) for axis in (1, 2))
    means = (sums[:, None, 1:] - sums[:, :-1, None]) / jnp.maximum(end - begin + 1, 1).astype(d.dtype)
    far = jnp.full_like(means, jnp.inf)
    least = lax.cummin(jnp.where(begin <= end, means, far), axis=2, reverse=True)
    v = jnp.max(jnp.where(begin <= end, least, -far), axis=1)
    return _runs(v)


BLOCKS = Blocks()
