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
        """The moments of both, about this one's anchor."""
        return Moments(self.anchor, *jax.tree.map(jnp.add, self[1:], other[1:]))

    def packed(self) -> Array:
        """One array that leads with all of them, so that they are read at once."""
        return jnp.stack(jax.tree.leaves(self))

    def unpacked(self, packed: Array) -> "Moments":
        """What `packed` made of moments of this kind."""
        return jax.tree.unflatten(jax.tree.structure(self), list(packed))


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
    """What sums over one side of wide windows are read from, packed but for `blocks`, in whole blocks.

    within, blocks (b, N): from the start of the own block to the element, about the element;
    prefix (levels, b, M): from the start of the aligned run of 2^level blocks to the block, about its end;
    suffix (levels, b, M): from the block to the end of the aligned run of 2^level blocks, about that end.
    """

    blocks: Moments
    within: Array
    prefix: Array
    suffix: Array


def _read(packed: Array, index: Array) -> Array:
    """packed[:, index] of the dimensions after the first as one; the indices are known to be in range."""
    numbers = lax.GatherDimensionNumbers(offset_dims=(0,), collapsed_slice_dims=(1,), start_index_map=(1,))
    flat, mode = packed.reshape(packed.shape[0], -1), lax.GatherScatterMode.PROMISE_IN_BOUNDS
    # Once: fused into each of its uses it would be read as often.
    return lax.optimization_barrier(lax.gather(flat, index[..., None], numbers, (flat.shape[0], 1), mode=mode))


def in_blocks(z: Point, g: Array, kappa: Array | None, orders: int) -> Moments:
    """Moments from the start of every element's block to the element, about the element."""
    batch, size = z.key.shape
    turned = lambda a: jnp.moveaxis(a.reshape(batch, size // BLOCK, BLOCK), 2, 0)

    def step(before, at):
        point, g, kappa = at
        _, a, k = before.moved(point)
        new = Moments(point, [a[0] + g, *a[1:]], None if k is None else [k[0] + kappa, *k[1:]])
        return new, new[1:]

    given = jax.tree.map(turned, (z, g, kappa))
    first = jax.tree.map(lambda a: a[0], given[0])
    nothing = [jnp.zeros_like(first.key)] * orders
    out = lax.scan(step, Moments(first, nothing, None if kappa is None else nothing), given)[1]
    return Moments(z, *jax.tree.map(lambda a: jnp.moveaxis(a, 0, 2).reshape(batch, size), out))


def tables(blocks: Moments) -> Tables:
    """The tables from the moments inside blocks."""
    within = blocks.packed()
    ends = within[:, :, BLOCK - 1 :: BLOCK]
    _, batch, size = ends.shape
    own = lax.broadcasted_iota(jnp.int32, (batch, size), 1)
    row = lax.broadcasted_iota(jnp.int32, (batch, size), 0) * size

    def double(state, level):
        # A run of 2^(level + 1) blocks has two halves; one of them is to grow by the whole of the other.
        prefix, suffix = state
        on_right = (own >> level) & 1 == 1
        before = blocks.unpacked(_read(prefix, row + jnp.maximum((own >> level << level) - 1, 0)))
        after = blocks.unpacked(_read(prefix, row + jnp.minimum(own | ((2 << level) - 1), size - 1)))
        here = blocks.unpacked(prefix)
        longer_prefix = here.plus(before.moved(here.anchor)).packed()
        longer_suffix = after.plus(blocks.unpacked(suffix).moved(after.anchor)).packed()
        on_right = on_right[None]
        return (jnp.where(on_right, longer_prefix, prefix), jnp.where(on_right, suffix, longer_suffix)), state

    levels = max(1, (size - 1).bit_length())
    prefix, suffix = lax.scan(double, (ends, ends), jnp.arange(levels, dtype=jnp.int32))[1]
    return Tables(blocks, within, jnp.moveaxis(prefix, 0, 1), jnp.moveaxis(suffix, 0, 1))


def _window_ends(z: Point, t: Point) -> Array:
    """For each target i the number of j with z_j < t_i, at least i + 1; z is ascending."""
    n = z.key.shape[1]
    own = lax.broadcasted_iota(jnp.int32, z.key.shape, 1)
    row = lax.broadcasted_iota(jnp.int32, z.key.shape, 0) * n
    places = Moments(z._replace(h=None), [], None)
    packed = places.packed()

    def inside(j):
        return t.minus(places.unpacked(_read(packed, row + jnp.minimum(j, n - 1))).anchor) > 0

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) // 2
        further, open_ = inside(middle), low < high
        return jnp.where(open_ & further, middle + 1, low), jnp.where(open_ & ~further, middle, high)

    # No window ends further out than the widest: doubling finds its size, so that halving starts there.
    steps = lax.while_loop(
        lambda steps: (1 << steps < n) & jnp.any((own + (1 << steps) < n) & inside(own + (1 << steps))),
        lambda steps: steps + 1,
        jnp.int32(BLOCK.bit_length() - 1),
    )
    bracket = own + 1, jnp.minimum(own + (1 << steps), n)
    return lax.fori_loop(0, steps + 1, halve, bracket)[0]


def far(tables: Tables, t: Point) -> Moments:
    """Moments about the targets t of what their windows hold beyond their own block."""
    blocks = tables.blocks
    batch, size = t.key.shape
    _, levels, _, groups = tables.prefix.shape
    row = lax.broadcasted_iota(jnp.int32, (batch, size), 0)
    last = _window_ends(blocks.anchor, t) - 1
    # Whole blocks low..high: the last run's middle between them splits them into a suffix and a prefix.
    low, high = lax.broadcasted_iota(jnp.int32, (batch, size), 1) // BLOCK + 1, last // BLOCK - 1
    level = jnp.clip(31 - lax.clz(low ^ high), 0, levels - 1)
    run = (level * batch + row) * groups
    total = None
    for source, index, taken in (
        (tables.within, row * size + last, low <= high + 1),
        (tables.suffix, run + jnp.minimum(low, groups - 1), low <= high),
        (tables.prefix, run + jnp.maximum(high, 0), low < high),
    ):
        part = blocks.unpacked(_read(source, index)).moved(t)
        part = jax.tree.map(lambda a, taken=taken: jnp.where(taken, a, 0), part)
        total = part if total is None else total.plus(part)
    assert total is not None
    return total
