"""Sums over wide windows from tables of moments; the derivation is in `softjax._orders._window`.

One side only, own index i < j: sum over the j > i with x = t_i - z_j > 0 of x^p times a payload. The other side is
the mirror image, and the sums of columns are those of rows with the parts of t and z exchanged.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

BLOCK = 32


class Point(NamedTuple):
    """A place key + reach, kept apart so that a difference of places loses no digits; h is its relative payload.

    A reach of None is 0.
    """

    key: Array
    reach: Array | None
    h: Array | None

    def minus(self, other: "Point") -> Array:
        difference = self.key - other.key
        if self.reach is None or other.reach is None:
            if self.reach is not None:
                difference = difference + self.reach
            return difference if other.reach is None else difference - other.reach
        return difference + (self.reach - other.reach)

    def part(self, which: slice) -> "Point":
        """The places at the positions `which`, without payload."""
        return Point(self.key[:, which], None if self.reach is None else self.reach[:, which], None)


class Moments(NamedTuple):
    """a_q = sum_j (anchor - z_j)^q g_j and k_q = sum_j (anchor - z_j)^q (kappa_j + g_j (h_j - h_anchor)).

    The anchor lies right of its elements: with g of one sign a_q never cancels, wherever it is moved to the right.
    """

    anchor: Point
    a: list[Array]
    k: list[Array] | None

    def moved(self, to: Point) -> "Moments":
        """The moments about an anchor further right."""
        step, k = to.minus(self.anchor), None
        if self.k is not None:
            assert self.anchor.h is not None and to.h is not None
            rise = self.anchor.h - to.h
            k = _shifted([k + rise * a for k, a in zip(self.k, self.a, strict=True)], step)
        return Moments(to, _shifted(self.a, step), k)

    def plus(self, other: "Moments") -> "Moments":
        return Moments(self.anchor, *jax.tree.map(jnp.add, self[1:], other[1:]))


def _shifted(moments: list[Array], step: Array) -> list[Array]:
    """sum_l C(q, l) step^(q-l) moments_l for every q, by Horner's rule."""
    out = []
    for q in range(len(moments)):
        value = moments[0]
        for i in range(1, q + 1):
            value = value * step + math.comb(q, i) * moments[i]
        out.append(value)
    return out


class Tables(NamedTuple):
    """What sums over one side of wide windows are read from. Positions are padded to whole blocks."""

    blocks: Moments  # (b, N): from the start of the own block to the element, about the element
    prefix: Moments  # (levels, b, M): from the start of the aligned run of 2^level blocks to the block, about its end
    suffix: Moments  # (levels, b, M): from the block to the end of the aligned run of 2^level blocks, about that end


def _read(tree, index: Array):
    """a.reshape(-1)[index] of every array; the indices are known to be in range."""
    numbers = lax.GatherDimensionNumbers(offset_dims=(), collapsed_slice_dims=(0,), start_index_map=(0,))
    mode = lax.GatherScatterMode.PROMISE_IN_BOUNDS
    one = lambda a: lax.gather(a.reshape(-1), index[..., None], numbers, (1,), mode=mode)
    return jax.tree.map(one, tree)


def _select(taken: Array, new: Moments, old: Moments) -> Moments:
    return jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, old)


def tables(blocks: Moments) -> Tables:
    """The tables from the moments inside blocks."""
    ends = jax.tree.map(lambda a: a[:, BLOCK - 1 :: BLOCK], blocks)
    batch, size = ends.anchor.key.shape
    own = lax.broadcasted_iota(jnp.int32, (batch, size), 1)
    row = lax.broadcasted_iota(jnp.int32, (batch, size), 0) * size

    def double(state, level):
        # A run of 2^(level + 1) blocks has two halves; one of them is to grow by the whole of the other.
        prefix, suffix = state
        on_right = (own >> level) & 1 == 1
        before = _read(prefix, row + jnp.maximum((own >> level << level) - 1, 0))
        after = _read(prefix, row + jnp.minimum(own | ((2 << level) - 1), size - 1))
        longer_prefix = prefix.plus(before.moved(prefix.anchor))
        longer_suffix = after.plus(suffix.moved(after.anchor))
        return (_select(on_right, longer_prefix, prefix), _select(on_right, suffix, longer_suffix)), state

    levels = max(1, (size - 1).bit_length())
    return Tables(blocks, *lax.scan(double, (ends, ends), jnp.arange(levels, dtype=jnp.int32))[1])


def _window_ends(z: Point, t: Point) -> Array:
    """For each target i the number of j with z_j < t_i, at least i + 1; z is ascending."""
    n = z.key.shape[1]
    own = lax.broadcasted_iota(jnp.int32, z.key.shape, 1)
    row = lax.broadcasted_iota(jnp.int32, z.key.shape, 0) * n

    def halve(_, bracket):
        low, high = bracket
        middle = jnp.minimum((low + high) // 2, n - 1)
        inside = t.minus(_read(z._replace(h=None), row + middle)) > 0
        open_ = low < high
        return jnp.where(open_ & inside, middle + 1, low), jnp.where(open_ & ~inside, middle, high)

    # No window ends further out than the widest; shifted comparisons find its size, so that halving starts there.
    steps = jnp.int32(BLOCK.bit_length() - 1)
    k = BLOCK
    while k < n:
        steps += jnp.any(t.part(slice(-k)).minus(z.part(slice(k, None))) > 0).astype(jnp.int32)
        k *= 2
    bracket = own + 1, jnp.minimum(own + (1 << steps), n)
    return lax.fori_loop(0, steps + 1, halve, bracket)[0]


def far(tables: Tables, t: Point) -> Moments:
    """Moments about the targets t of what their windows hold beyond their own block."""
    batch, size = t.key.shape
    levels, _, groups = tables.prefix.a[0].shape
    row = lax.broadcasted_iota(jnp.int32, (batch, size), 0)
    own = lax.broadcasted_iota(jnp.int32, (batch, size), 1) // BLOCK
    last = _window_ends(tables.blocks.anchor, t) - 1
    end = last // BLOCK
    # Whole blocks low..high: the last run's middle between them splits them into a suffix and a prefix.
    low, high = own + 1, end - 1
    level = jnp.clip(31 - lax.clz(low ^ high), 0, levels - 1)
    run = (level * batch + row) * groups
    total = None
    for source, index, taken in (
        (tables.blocks, row * size + last, end > own),
        (tables.suffix, run + jnp.minimum(low, groups - 1), low <= high),
        (tables.prefix, run + jnp.maximum(high, 0), low < high),
    ):
        part = _read(source, index).moved(t)
        part = _select(taken, part, jax.tree.map(jnp.zeros_like, part))
        total = part if total is None else total.plus(part)
    assert total is not None
    return total
