"""Sums over wide windows from tables of moments; the derivation is in `softjax._methods.softsort.window`."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from . import direct
from .direct import BLOCK
from .moments import Moments, OneSide, Point


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


def _packed(moments: Moments) -> Array:
    """One array (numbers, ...) that holds all of them, so that they are read at once."""
    sums = moments.sums
    return jnp.concatenate([jnp.stack(jax.tree.leaves(moments.anchor)), sums.reshape(-1, *sums.shape[2:])])


def _unpacked(packed: Array, like: Moments) -> Moments:
    """What `_packed` made of moments of this kind."""
    places, kind = jax.tree.flatten(like.anchor)
    count = len(places)
    anchor = jax.tree.unflatten(kind, list(packed[:count]))
    return Moments(anchor, packed[count:].reshape(*like.sums.shape[:2], *packed.shape[1:]))


def _read(packed: Array, index: Array) -> Array:
    """packed[:, index] of the dimensions after the first as one; the indices are known to be in range."""
    numbers = lax.GatherDimensionNumbers(offset_dims=(0,), collapsed_slice_dims=(1,), start_index_map=(1,))
    flat, mode = packed.reshape(packed.shape[0], -1), lax.GatherScatterMode.PROMISE_IN_BOUNDS
    # Once: fused into each of its uses it would be read as often.
    return lax.optimization_barrier(lax.gather(flat, index[..., None], numbers, (flat.shape[0], 1), mode=mode))


def _in_blocks(z: Point, payload: Array, degrees: int) -> Moments:
    """Moments from the start of every element's block to the element, about the element; payload (1 or 2, b, N)."""
    in_turn = lambda a: jnp.moveaxis(a.reshape(*a.shape[:-1], -1, BLOCK), -1, 0)
    single = jnp.pad(payload[None], ((0, degrees - 1), (0, 0), (0, 0), (0, 0)))

    def step(before, at):
        new = before.moved(at[0]).plus(at[1])
        return new, new.sums

    given = jax.tree.map(in_turn, (z, single))
    first = jax.tree.map(lambda a: a[0], given)
    sums = lax.scan(step, Moments(first[0], jnp.zeros_like(first[1])), given)[1]
    return Moments(z, jnp.moveaxis(sums, 0, -1).reshape(single.shape))


def _tables(blocks: Moments) -> Tables:
    """The tables from the moments inside blocks."""
    within = _packed(blocks)
    ends = within[:, :, BLOCK - 1 :: BLOCK]
    _, batch, size = ends.shape
    own = lax.broadcasted_iota(jnp.int32, (batch, size), 1)
    row = lax.broadcasted_iota(jnp.int32, (batch, size), 0) * size

    def double(state, level):
        # A run of 2^(level + 1) blocks has two halves; one of them is to grow by the whole of the other.
        prefix, suffix = state
        on_right = ((own >> level) & 1 == 1)[None]
        read = lambda index: _unpacked(_read(prefix, row + index), blocks)
        before, after = (
            read(jnp.maximum((own >> level << level) - 1, 0)),
            read(jnp.minimum(own | ((2 << level) - 1), size - 1)),
        )
        here = _unpacked(prefix, blocks)
        longer_prefix = _packed(here.plus(before.moved(here.anchor)))
        longer_suffix = _packed(after.plus(_unpacked(suffix, blocks).moved(after.anchor)))
        return (jnp.where(on_right, longer_prefix, prefix), jnp.where(on_right, suffix, longer_suffix)), state

    levels = max(1, (size - 1).bit_length())
    prefix, suffix = lax.scan(double, (ends, ends), jnp.arange(levels, dtype=jnp.int32))[1]
    return Tables(blocks, within, jnp.moveaxis(prefix, 0, 1), jnp.moveaxis(suffix, 0, 1))


def _window_ends(z: Point, t: Point) -> Array:
    """For each target i the number of j with z_j < t_i, at least i + 1; z is ascending."""
    n = z.key.shape[1]
    own = lax.broadcasted_iota(jnp.int32, z.key.shape, 1)
    row = lax.broadcasted_iota(jnp.int32, z.key.shape, 0) * n
    places, kind = jax.tree.flatten(z._replace(h=None))
    packed = jnp.stack(places)

    def inside(j):
        return t.minus(jax.tree.unflatten(kind, list(_read(packed, row + jnp.minimum(j, n - 1))))) > 0

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


def _far(tables: Tables, t: Point) -> Array:
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
    parts = (
        (tables.within, row * size + last, low <= high + 1),
        (tables.suffix, run + jnp.minimum(low, groups - 1), low <= high),
        (tables.prefix, run + jnp.maximum(high, 0), low < high),
    )
    read = lambda source, index: _unpacked(_read(source, index), blocks).moved(t).sums
    first, *others = (jnp.where(taken[None, None], read(source, index), 0) for source, index, taken in parts)
    return sum(others, first)


def one_side(side: OneSide, reach: Array, powers: Sequence[int]) -> Callable[[Array], list[list[Array]]]:
    """Half-widths -> the sums of every power and kind. Of sums by columns the tables hold `reach`."""
    n = side.key.shape[1]
    whole = lambda a, mode="edge": jnp.pad(a, ((0, 0), (0, -n % BLOCK)), mode=mode)
    relative = side.relative and (whole(side.relative[0], "constant"), whole(side.relative[1]))
    side = side._replace(key=whole(side.key), g=whole(side.g, "constant"), relative=relative)
    tables = _tables(_in_blocks(side.places(whole(reach))[0], jnp.stack(side.payload()), max(powers) + 1))

    def read(reach):
        reach = whole(reach)
        near, far = direct.one_side(side, reach, powers, blocks=True), _far(tables, side.places(reach)[1])
        return [[(a + b)[:, :n] for a, b in zip(near[i], far[p], strict=True)] for i, p in enumerate(powers)]

    return read
