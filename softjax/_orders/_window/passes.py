"""Window sums by the cheaper way, and the windows themselves; the derivation is in `softjax._orders._window`."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from .._band.walk import half_ulp, over_tiles
from . import table, walk
from .table import BLOCK, Moments, Point, Tables
from .walk import Term, Window


@dataclasses.dataclass(frozen=True)
class Limits:
    """Elements on one side of a window up to which it is walked; beyond, it is read from tables."""

    walked: int = 512


LIMITS = Limits()
_STEPS = 40


def wide(s: Array, reach: Array) -> Array | None:
    """Does a window hold too many elements to be walked? None where none can."""
    limit = LIMITS.walked
    if s.shape[-1] <= limit:
        return None
    width = s[:, limit:] - s[:, :-limit]
    return jnp.any(width < jnp.maximum(reach[:, limit:], reach[:, :-limit]))


# ---------------------------------------------------------------- both sides from tables


def _facing(right: Array, left: Array, mode: str = "edge") -> Array:
    """The two sides' arrays as one batch, each as seen looking to its side, in whole blocks."""
    right, left = (jnp.pad(a, ((0, 0), (0, -a.shape[-1] % BLOCK)), mode=mode) for a in (right, left))
    return jnp.concatenate([right, left[:, ::-1]])


def _places(window: Window, h: Array | None) -> tuple[Point, Point]:
    """Places z and targets t with x_ij = t_i - z_j, of both sides."""
    key, reach = _facing(window.s, -window.s), _facing(window.reach, window.reach)
    h = None if h is None else _facing(h, h)
    return (
        (Point(key, -reach, h), Point(key, None, h))
        if window.by_column
        else (Point(key, None, h), Point(key, reach, h))
    )


def _tables(window: Window, g: Array, relative: tuple[Array, Array] | None, orders: int) -> Tables:
    kappa, h = relative or (None, None)
    kappa = None if kappa is None else _facing(kappa, kappa, "constant")
    return table.tables(table.in_blocks(_places(window, h)[0], _facing(g, g, "constant"), kappa, orders))


def _beyond(tables: Tables, window: Window, h: Array | None) -> tuple[Moments, Moments]:
    """Moments about t of what lies beyond the own block, to the right and to the left."""
    b, n = window.s.shape
    far = table.far(tables, _places(window, h)[1])
    return jax.tree.map(lambda a: a[:b, :n], far), jax.tree.map(lambda a: a[b:, ::-1][:, :n], far)


def sums(
    terms: tuple[Term, ...],
    window: Window,
    g: Array,
    relative: tuple[Array, Array] | None = None,
    cut: Array | None = None,
) -> list[Array]:
    """The terms, (b, n) each, for g (b, n) and relative = (kappa, h).

    `cut` says that windows are too wide to be walked, as `wide` does: then the walk ends with the own block.
    """
    cut = wide(window.s, window.reach) if cut is None else cut
    near = walk.sums(terms, window, g, relative, cut)
    if cut is None:
        return near

    def read():
        tables = _tables(window, g, relative, max(term.power for term in terms) + 1)
        right, left = _beyond(tables, window, relative and relative[1])
        at = lambda side, term: (side.k if term.relative and side.k else side.a)[term.power]
        return [at(right, term) + (-1 if term.odd else 1) * at(left, term) for term in terms]

    far = lax.cond(cut, read, lambda: [jnp.zeros_like(a) for a in near])
    return [a + b for a, b in zip(near, far, strict=True)]


# ---------------------------------------------------------------- the windows


def _bound(m: int, s: Array, tau: Array) -> Array:
    """An upper bound of R, within a factor of two where keys are spread evenly.

    With c elements no further than d from i, sum_j x_ij^m >= c (R - d)^m, so R <= d + tau c^(-1/m).
    """
    n = s.shape[-1]
    most = 1 << (n - 1).bit_length() >> 1  # the largest power of two below n; 0 for n = 1
    nothing = float(jnp.finfo(s.dtype).max) / 8
    padded = jnp.pad(s, ((0, 0), (most, most)), constant_values=((0, 0), (-nothing, nothing)))
    at = lambda first: lax.dynamic_slice_in_dim(padded, first, n, axis=1)

    def narrow(level, bound):
        k = jnp.int32(1) << level
        count = k.astype(s.dtype)
        after, before = at(most + k) - s, s - at(most - k)
        one = jnp.minimum(after, before) + tau * (count + 1) ** (-1 / m)
        both = jnp.maximum(after, before) + tau * (2 * count + 1) ** (-1 / m)
        return jnp.minimum(bound, jnp.minimum(one, both))

    return lax.fori_loop(0, most.bit_length(), narrow, jnp.broadcast_to(tau, s.shape))


def _newton(m: int, n: int, tau: Array, bound: Array, powers: Callable) -> Array:
    """The R with sum_j x_ij^m = tau^m, by Newton on the m-norm of x_i, from an upper bound.

    The norm is convex and increasing in R, so the iterates fall monotonically to the root. For evenly spread keys
    the sum is nearly a power of R, and a first step on the logarithms of both lands close to the root.
    powers: R -> the sums of x^m and x^(m-1).
    """
    low = tau * n ** (-1 / m)

    def step(state):
        reach, moving, count = state
        total, slope = powers(reach)
        norm = total ** (1 / m)
        straight = reach - (norm - tau) * norm ** (m - 1) / slope
        bent = reach * (tau / norm) ** (total / (reach * slope))
        new = jnp.clip(jnp.where(count < 1, bent, straight), low, bound)
        new = jnp.where(moving, new, reach)
        # What is left after a step is about its square. Right of the root a rise can only be rounding.
        far = (jnp.abs(new - reach) > 256 * half_ulp(tau.dtype) * reach) & ((new < reach) | (count < 2))
        return new, moving & far, count + 1

    state = bound, jnp.ones(bound.shape, bool), jnp.int32(0)
    return lax.while_loop(lambda state: jnp.any(state[1]) & (state[2] < _STEPS), step, state)[0]


def _solve_by_walk(m: int, s: Array, tau: Array, bound: Array) -> Array:
    grid = walk.grid_of(s)
    gap = walk.barred(grid, jnp.diff(s, axis=-1))
    arrays = [grid.flat(jnp.broadcast_to(a, s.shape), 1) for a in (tau, bound)]

    def tile(i, cut):
        scale, start = map(cut, arrays)
        return (_newton(m, grid.n, scale, start, lambda reach: walk.norms(m, grid, i, gap, reach)),)

    return over_tiles(grid, tile)[0]


def _solve_by_tables(m: int, s: Array, tau: Array, bound: Array) -> Array:
    tables = _tables(Window(s, bound, False), jnp.ones_like(s), None, m + 1)

    def powers(reach):
        window = Window(s, reach, False)
        near = walk.powers_of_rows(m, window)
        right, left = _beyond(tables, window, None)
        return [x + right.a[p] + left.a[p] for p, x in zip((m, m - 1), near, strict=True)]

    return _newton(m, s.shape[-1], jnp.broadcast_to(tau, s.shape), bound, powers)


def solve(m: int, s: Array, tau: Array) -> Array:
    """R (b, n) with sum_j max(R_i - |s_i - s_j|, 0)^m = tau^m, for ascending s (b, n) and tau (b, 1)."""
    bound = _bound(m, s, tau)
    by_tables, by_walk = (partial(form, m, s, tau, bound) for form in (_solve_by_tables, _solve_by_walk))
    cut = wide(s, bound)
    return by_walk() if cut is None else lax.cond(cut, by_tables, by_walk)
