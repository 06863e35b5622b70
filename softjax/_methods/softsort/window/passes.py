"""Window sums by the cheaper way, and the windows themselves; derived in `softjax._methods.softsort.window`."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from ...neuralsort.band.walk import half_ulp, over_tiles
from . import direct, sparse_table, two_stacks
from .moments import OneSide


@dataclasses.dataclass(frozen=True)
class Limits:
    """Elements on one side of a window up to which it is walked; beyond, it is summed by moments.

    Up to `row` keys windows are walked however wide they are, so that a program holds one way alone and takes two
    thirds of the time to compile. On a CPU moments would be cheaper from about 200 elements on: up to 4.4 times where
    windows hold all of 1024 keys, in c1 at a softness of 10 [measured].
    """

    walked: int = 256
    row: int = 1024


LIMITS = Limits()
_STEPS = 40


def wide(s: Array, reach: Array) -> Array | None:
    """Does a window hold too many elements to be walked? None where none can."""
    limit = LIMITS.walked
    if s.shape[-1] <= max(limit, LIMITS.row):
        return None
    width = s[:, limit:] - s[:, :-limit]
    return jnp.any(width < jnp.maximum(reach[:, limit:], reach[:, :-limit]))


# ---------------------------------------------------------------- sums over both sides


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


def _facing(right: Array, left: Array) -> Array:
    """The two sides' arrays as one batch, each as seen looking to its side."""
    return jnp.concatenate([right, left[:, ::-1]])


def _by_moments(found: Callable) -> Any:
    """found(one_side) with the way to sum over wide windows that suits the platform."""
    return lax.platform_dependent(cpu=lambda: found(two_stacks.one_side), default=lambda: found(sparse_table.one_side))


def sums(terms: tuple[Term, ...], window: Window, g: Array, relative: tuple[Array, Array] | None = None) -> list[Array]:
    """The terms, (b, n) each, for g (b, n) and relative = (kappa, h)."""
    b = g.shape[0]
    powers = sorted({term.power for term in terms})
    both = lambda a: _facing(a, a)
    reach = both(window.reach)
    facing = relative and (both(relative[0]), both(relative[1]))
    side = OneSide(_facing(window.s, -window.s), window.by_column, both(g), facing)
    by_moments = lambda: _by_moments(lambda form: form(side, reach, powers)(reach))
    by_walk = lambda: direct.one_side(side, reach, powers)
    cut = wide(window.s, window.reach)
    out = by_walk() if cut is None else lax.cond(cut, by_moments, by_walk)

    def of(term):
        beyond = out[powers.index(term.power)][int(term.relative)]
        right, left = beyond[:b], beyond[b:, ::-1]
        if term.odd:
            return right - left
        own = relative[0] if term.relative and relative else g
        return direct.power(window.reach, term.power) * own + (right + left)

    return [of(term) for term in terms]


# ---------------------------------------------------------------- the windows


def _bound(m: int, s: Array, tau: Array) -> Array:
    """An upper bound of R, within a factor of two where keys are spread evenly.

    With c elements no further than d from i, sum_j x_ij^m >= c (R - d)^m, so R <= d + tau c^(-1/m).
    """
    shifted = _shifts(s)

    def narrow(level, bound):
        k = jnp.int32(1) << level
        count = k.astype(s.dtype)
        after, before = shifted(k)
        one = jnp.minimum(after, before) + tau * (count + 1) ** (-1 / m)
        both = jnp.maximum(after, before) + tau * (2 * count + 1) ** (-1 / m)
        return jnp.minimum(bound, jnp.minimum(one, both))

    return lax.fori_loop(0, (s.shape[-1] - 1).bit_length(), narrow, jnp.broadcast_to(tau, s.shape))


def _shifts(s: Array, reach: Array | None = None) -> Callable[[Array], tuple[Array, Array]]:
    """k -> distances to the k-th element after and before every one, plus its reach; huge where there is none."""
    n = s.shape[-1]
    most = 1 << (n - 1).bit_length() >> 1  # the largest power of two below n; 0 for n = 1
    nothing = float(jnp.finfo(s.dtype).max) / 8
    pad = lambda a, beyond: jnp.pad(a, ((0, 0), (most, most)), constant_values=((0, 0), (-beyond, beyond)))
    keys, reaches = pad(s, nothing), None if reach is None else pad(reach, 0)
    at = lambda a, first: lax.dynamic_slice_in_dim(a, first, n, axis=1)

    def shifted(k):
        after, before = at(keys, most + k) - s, s - at(keys, most - k)
        return (after, before) if reaches is None else (after + at(reaches, most + k), before + at(reaches, most - k))

    return shifted


def _monotone(s: Array, reach: Array) -> Array:
    """The largest half-widths up to these whose windows' ends ascend, as those of all solutions do."""

    def double(state):
        k, reach, _ = state
        closer = jnp.minimum(reach, jnp.minimum(*_shifts(s, reach)(k)))
        return 2 * k, closer, jnp.any(closer < reach)  # where two steps of k change nothing, four do not either

    start = jnp.int32(1), reach, jnp.bool_(True)
    return lax.while_loop(lambda state: (state[0] < s.shape[-1]) & state[2], double, start)[1]


def _newton(
    m: int, n: int, tau: Array, bound: Array, powers: Callable, settle: Callable = lambda reach: reach
) -> tuple[Array, Array]:
    """The R with sum_j x_ij^m = tau^m, by Newton on the m-norm of x_i, from an upper bound; and that sum.

    The norm is convex and increasing in R, so the iterates fall monotonically to the root. For evenly spread keys
    the sum is nearly a power of R, and a first step on the logarithms of both lands close to the root.
    powers: R -> the sums of x^m and x^(m-1). settle: makes of an upper bound of all R a closer one.
    """
    low = tau * n ** (-1 / m)

    def step(state):
        reach, before, moving, count = state
        total, slope = powers(reach)
        norm = total ** (1 / m)
        straight = reach - (norm - tau) * norm ** (m - 1) / slope
        bent = reach * (tau / norm) ** (total / (reach * slope))
        new = jnp.clip(jnp.where(count < 1, bent, straight), low, bound)
        new = settle(jnp.where(moving, new, reach))
        # What is left after a step is about its square. Right of the root a rise can only be rounding.
        far = (jnp.abs(new - reach) > 256 * half_ulp(tau.dtype) * reach) & ((new < reach) | (count < 2))
        return new, jnp.where(moving, total + m * slope * (new - reach), before), moving & far, count + 1

    state = settle(bound), jnp.zeros_like(bound), jnp.ones(bound.shape, bool), jnp.int32(0)
    return lax.while_loop(lambda state: jnp.any(state[2]) & (state[3] < _STEPS), step, state)[:2]


def _solve_by_walk(m: int, s: Array, tau: Array, bound: Array) -> tuple[Array, Array]:
    grid = direct.grid_of(s)
    gap = direct.barred(grid, jnp.diff(s, axis=-1))
    arrays = [grid.flat(jnp.broadcast_to(a, s.shape), 1) for a in (tau, bound)]

    def tile(i, cut):
        scale, start = map(cut, arrays)
        return _newton(m, grid.n, scale, start, lambda reach: direct.norms(m, grid, i, gap, reach))

    reach, total = over_tiles(grid, tile)
    return reach, total


def _solve_by_moments(m: int, s: Array, tau: Array, bound: Array) -> tuple[Array, Array]:
    b, n = s.shape

    def solved(form):
        side = OneSide(_facing(s, -s), False, jnp.ones((2 * b, n), s.dtype), None)
        read = form(side, _facing(bound, bound), (m, m - 1))

        def powers(reach):
            beyond = [a for (a,) in read(_facing(reach, reach))]
            return [direct.power(reach, p) + (a[:b] + a[b:, ::-1]) for p, a in zip((m, m - 1), beyond, strict=True)]

        return _newton(m, n, jnp.broadcast_to(tau, s.shape), bound, powers, partial(_monotone, s))

    return _by_moments(solved)


def solve(m: int, s: Array, tau: Array) -> tuple[Array, Array]:
    """R (b, n) with sum_j max(R_i - |s_i - s_j|, 0)^m = tau^m, for ascending s (b, n) and tau (b, 1); and that sum."""
    bound = _bound(m, s, tau)
    by_moments, by_walk = (partial(form, m, s, tau, bound) for form in (_solve_by_moments, _solve_by_walk))
    cut = wide(s, bound)
    return by_walk() if cut is None else lax.cond(cut, by_moments, by_walk)
