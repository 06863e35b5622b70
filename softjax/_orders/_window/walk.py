"""Sums over windows, walked along the diagonals; the derivation is in `softjax._orders._window`."""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array, lax

from .._band.walk import BARRIER, TILING, Grid, over_tiles
from .table import BLOCK

RIGHT, LEFT = 1, -1


@dataclasses.dataclass(frozen=True)
class Term:
    """sum over the window of x^power g, with sign(near - own) where `odd`, and with kappa + g (h_near - h_own)
    for g where `relative`.
    """

    power: int
    odd: bool = False
    relative: bool = False


@dataclasses.dataclass(frozen=True)
class Window:
    """Sorted keys s (b, n) and the half-width R (b, n) of each row's window, in the same unit.

    x = R_row - |s_row - s_column| where that is positive. Sums run over the columns of each row, or
    over the rows of each column (`by_column`).
    """

    s: Array
    reach: Array
    by_column: bool


def power(x: Array, p: int) -> Array:
    """max(x, 0)^p, with 0^0 = 0."""
    return jnp.where(x > 0, jnp.ones_like(x), 0) if p == 0 else jnp.maximum(x, 0) ** p


def barred(grid: Grid, distance: Array, cut: Array | bool = False) -> Array:
    """Flat distances (b, n - 1) to the next element, not to be crossed at a row's or, where `cut`, a block's end."""
    n = distance.shape[-1] + 1
    after = jnp.arange(1, n + 1)
    end = (after % BLOCK == 0) & cut | (after == n)
    distance = jnp.pad(distance, ((0, 0), (0, 1)))
    return grid.flat(jnp.where(end[None], jnp.asarray(BARRIER, distance.dtype), distance), BARRIER)


def walk(grid: Grid, tile: Array, gap: Array, own: Sequence, near: Sequence, visit: Callable, sides=(RIGHT, LEFT)):
    """Sums of `visit`'s terms over one tile's windows, outward from the diagonal.

    Args:
      gap: flat distances to the next element. own: arrays (rows,). near: flat arrays, read at own index + k.
      visit: (side, distance, near, own) -> terms (rows,), x (rows,); side 0 at the diagonal. No row whose x is not
        positive has anything to add further out.
    """
    rows, unroll = grid.rows, grid.tiling.unroll
    origin = tile * rows + grid.halo
    zero = jnp.zeros(rows, gap.dtype)

    def cut(arrays, first, size):
        return [lax.dynamic_slice(a, (first,), (size,), allow_negative_indices=False) for a in arrays]

    def one_side(side, k0, distance, sums):
        first = k0 if side == RIGHT else -k0 - unroll
        (step,) = cut([gap], origin + first, rows + unroll)
        beyond = cut(near, origin + first + int(side == RIGHT), rows + unroll)
        x = zero
        for u in range(unroll) if side == RIGHT else reversed(range(unroll)):
            distance = distance + step[u : u + rows]
            terms, x = visit(side, distance, [a[u : u + rows] for a in beyond], own)
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

    start = visit(0, zero, cut(near, origin, rows), own)[0]
    state = jnp.int32(0), (zero,) * len(sides), start, jnp.bool_(grid.n > 1)
    return lax.while_loop(lambda state: state[-1], body, state)[2]


def grid_of(s: Array) -> Grid:
    return Grid(s.shape[0], s.shape[1], TILING)


def sums(
    terms: tuple[Term, ...],
    window: Window,
    g: Array,
    relative: tuple[Array, Array] | None,
    cut: Array | None = None,
) -> list[Array]:
    """The terms, (b, n) each, for g (b, n) and relative = (kappa, h); where `cut`, not beyond the own block."""
    grid = grid_of(window.s)
    near = [grid.flat(a) for a in (window.reach, g, *(relative or ()))]

    def visit(side, distance, near, own):
        x = (near if window.by_column else own)[0] - distance
        powers = {p: power(x, p) for p in {term.power for term in terms}}
        out = []
        for term in terms:
            value = powers[term.power] * (near[2] + near[1] * (near[3] - own[3]) if term.relative else near[1])
            out.append(side * value if term.odd and side != RIGHT else value)
        return tuple(out), x

    gap = barred(grid, jnp.diff(window.s, axis=-1), False if cut is None else cut)
    return over_tiles(grid, lambda i, own: walk(grid, i, gap, list(map(own, near)), near, visit))


def powers_of_rows(m: int, window: Window) -> list[Array]:
    """sum_j x_ij^m and sum_j x_ij^(m-1) over the own block."""
    grid = grid_of(window.s)
    gap, reach = barred(grid, jnp.diff(window.s, axis=-1), True), grid.flat(window.reach)
    return over_tiles(grid, lambda i, cut: norms(m, grid, i, gap, cut(reach)))


def norms(m: int, grid: Grid, tile: Array, gap: Array, reach: Array) -> tuple[Array, Array]:
    """The same for the rows of one tile."""

    def visit(side, distance, near, own):
        x = own[0] - distance
        return (power(x, m), power(x, m - 1)), x

    return walk(grid, tile, gap, [reach], [], visit)
