"""Sums over windows, walked along the diagonals; the derivation is in `softjax._methods.softsort.window`."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array, lax

from ...neuralsort.band.walk import BARRIER, TILING, Grid, over_tiles
from .moments import OneSide

BLOCK = 32
_RIGHT, _LEFT = 1, -1


def power(x: Array, p: int) -> Array:
    """max(x, 0)^p, with 0^0 = 0."""
    return jnp.where(x > 0, jnp.ones_like(x), 0) if p == 0 else jnp.maximum(x, 0) ** p


def barred(grid: Grid, distance: Array, blocks: bool = False) -> Array:
    """Flat distances (b, n - 1) to the next element, not to be crossed at the end of a row or of its `blocks`."""
    n = distance.shape[-1] + 1
    after = jnp.arange(1, n + 1)
    end = (after % BLOCK == 0) & blocks | (after == n)
    distance = jnp.pad(distance, ((0, 0), (0, 1)))
    return grid.flat(jnp.where(end[None], jnp.asarray(BARRIER, distance.dtype), distance), BARRIER)


def walk(
    grid: Grid,
    tile: Array,
    gap: Array,
    own: Sequence,
    near: Sequence,
    visit: Callable,
    start: Sequence,
    sides: Sequence,
) -> tuple[Array, ...]:
    """`start` and the sums of `visit`'s terms over one tile's windows, outward from the diagonal.

    Args:
      gap: flat distances to the next element. own: arrays (rows,). near: flat arrays, read at own index + k.
      visit: (distance, near, own) -> terms (rows,), x (rows,). No row whose x is not positive has anything to add
        further out.
      sides: to the right, to the left, or both.
    """
    rows, unroll = grid.rows, grid.tiling.unroll
    origin = tile * rows + grid.halo
    zero = jnp.zeros(rows, gap.dtype)

    def cut(arrays, first, size):
        return [lax.dynamic_slice(a, (first,), (size,), allow_negative_indices=False) for a in arrays]

    def one_side(side, k0, distance, sums):
        first = k0 if side == _RIGHT else -k0 - unroll
        (step,) = cut([gap], origin + first, rows + unroll)
        beyond = cut(near, origin + first + int(side == _RIGHT), rows + unroll)
        x = zero
        for u in range(unroll) if side == _RIGHT else reversed(range(unroll)):
            distance = distance + step[u : u + rows]
            terms, x = visit(distance, [a[u : u + rows] for a in beyond], own)
            sums = tuple(a + t for a, t in zip(sums, terms, strict=True))
        return distance, sums, x

    def body(state):
        k0, distances, sums, _ = state
        chunk, out, farthest = (zero,) * len(sums), [], zero
        for side, distance in zip(sides, distances, strict=True):
            distance, chunk, x = one_side(side, k0, distance, chunk)
            out.append(distance)
            farthest = jnp.maximum(farthest, x)
        sums = tuple(a + c for a, c in zip(sums, chunk, strict=True))
        return k0 + unroll, tuple(out), sums, jnp.any(farthest > 0) & (k0 + unroll < grid.n)

    state = jnp.int32(0), (zero,) * len(sides), tuple(start), jnp.bool_(grid.n > 1)
    return lax.while_loop(lambda state: state[-1], body, state)[2]


def grid_of(s: Array) -> Grid:
    return Grid(s.shape[0], s.shape[1], TILING)


def one_side(side: OneSide, reach: Array, powers: Sequence[int], blocks: bool = False) -> list[list[Array]]:
    """The sums of every power and kind, in `blocks` over nothing beyond an element's own block."""
    grid = grid_of(side.key)
    near = [grid.flat(a) for a in (reach, side.g, *(side.relative or ()))]

    def visit(distance, near, own):
        x = (near if side.by_column else own)[0] - distance
        kinds = near[1], *((near[2] + near[1] * (near[3] - own[3]),) if side.relative else ())
        return [power(x, p) * value for p in powers for value in kinds], x

    start = [jnp.zeros(grid.rows, reach.dtype)] * (len(powers) * (len(near) // 2))
    gap = barred(grid, jnp.diff(side.key, axis=-1), blocks)
    out = over_tiles(grid, lambda i, own: walk(grid, i, gap, list(map(own, near)), near, visit, start, (_RIGHT,)))
    kinds = len(out) // len(powers)
    return [out[i : i + kinds] for i in range(0, len(out), kinds)]


def norms(m: int, grid: Grid, tile: Array, gap: Array, reach: Array) -> tuple[Array, ...]:
    """sum_j x_ij^m and sum_j x_ij^(m-1) for the rows of one tile."""

    def visit(distance, near, own):
        x = own[0] - distance
        return (power(x, m), power(x, m - 1)), x

    return walk(grid, tile, gap, [reach], [], visit, visit(jnp.zeros_like(reach), [], [reach])[0], (_RIGHT, _LEFT))
