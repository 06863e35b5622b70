"""Sums over the band. Each takes s (b, n), tau (b, 1), theta (b, n), payloads (b, n, d).

The derivation, and what P, D, phi, theta, q and the centres are, is in `softjax._methods.neuralsort.band`.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from ...._modes import threshold_move
from ...ties import tie_terms
from .walk import ByColumn, ByRow, Grid, Smooth, half_ulp, over_tiles, stop_columns, stop_rows, walk


def _grid(mode, s: Array) -> Grid:
    return Grid(s.shape[0], s.shape[1], mode.tiling)


def _columns(grid: Grid, v: Array) -> list[Array]:
    return [grid.flat(v[..., i]) for i in range(v.shape[-1])]


def _sum_rows(grid, mode, paths, own, near, visit) -> list[Array]:
    """`visit`'s terms summed over every row's band, (b, n) each; it gets `own` at the row, theta first."""
    theta, *own = own
    mine = [grid.flat(theta), *own]
    stop = stop_rows(mode, grid.n)
    return over_tiles(grid, lambda i, cut: walk(grid, i, ByRow(), paths, tuple(map(cut, mine)), near, visit, stop))


def _sum_columns(grid, mode, paths, own, near, visit) -> list[Array]:
    """The same over every column's band; `visit` gets (theta_j, *own) and (theta_r, *near)."""
    theta, *own = own
    normaliser = grid.flat(theta)
    mine, near = [normaliser, *own], [normaliser, *near]
    stop = stop_columns(mode, grid.n)
    return over_tiles(grid, lambda i, cut: walk(grid, i, ByColumn(), paths, tuple(map(cut, mine)), near, visit, stop))


# ---------------------------------------------------------------- normalisers


def normalisers(mode, s, tau):
    """theta (b, n)."""
    grid = _grid(mode, s)
    if isinstance(mode, Smooth):
        return jnp.log(_smooth_sums(grid, s, tau, [])[0])
    paths = (grid.gaps(s, tau),)
    return over_tiles(grid, lambda i, cut: (_newton(grid, mode, i, paths, s.dtype),))[0]


def _smooth_sums(grid, s, tau, values):
    """sum_j exp(D_rj), and sum_j exp(D_rj) (v_j - v_r) for every column of v."""
    eps = half_ulp(s.dtype) / grid.n

    def visit(k, drops, near, own):
        del k
        weight = jnp.exp(drops[0])
        return weight, *(weight * (b - a) for b, a in zip(near, own, strict=True))

    def stop(sums, right, left, own):
        del own
        return jnp.any(jnp.maximum(jnp.exp(right), jnp.exp(left)) > eps * sums[0])

    paths = (grid.gaps(s, tau),)
    return over_tiles(grid, lambda i, cut: walk(grid, i, ByRow(), paths, tuple(map(cut, values)), values, visit, stop))


def _solve_smooth(grid, mode, s, tau, v):
    """theta, P v, and c - v_r for every row, in one walk."""
    del mode
    total, *sums = _smooth_sums(grid, s, tau, _columns(grid, v))
    centre = jnp.stack(sums, -1) / total[..., None]
    return jnp.log(total), v + centre, centre


def _newton(grid, mode, i, paths, dtype):
    """theta of one tile's rows: Newton on ||max(D - theta, 0)||_m = 1, from theta = -1.

    The norm is convex and decreasing in theta and at least 1 at theta = -1, so the iterates rise
    monotonically to the root; where all drops are equal the norm is linear, and one step is exact.
    """
    m = mode.degree

    def visit(k, drops, near, own):
        del k, near
        z = drops[0] - own[0]
        return mode.phi(z, 0), mode.phi(z, 1) / m

    def step(state):
        theta, moving, count = state
        total, slope = walk(grid, i, ByRow(), paths, (theta,), (), visit, stop_rows(mode, grid.n))
        move = threshold_move(total, slope, m)
        # A row that has converged stands still, whatever its tile's other rows need.
        move = jnp.where(moving, move, jnp.zeros_like(move))
        new = jnp.clip(theta + move, -1, 0)
        return new, moving & (jnp.abs(move) > 16 * half_ulp(dtype) * jnp.abs(new)), count + 1

    state = jnp.full(grid.rows, -1, dtype), jnp.ones(grid.rows, bool), jnp.int32(0)
    return lax.while_loop(lambda state: jnp.any(state[1]) & (state[2] < 40), step, state)[0]


def _solve_power(grid, mode, s, tau, v):
    """theta, P v, and c - v_r for every row."""
    paths, values = (grid.gaps(s, tau),), _columns(grid, v)

    def visit(k, drops, near, own):
        del k
        z = drops[0] - own[0]
        p, q = mode.phi(z, 0), mode.phi(z, 1)
        ahead = [b - a for b, a in zip(near, own[1:], strict=True)]
        return p, q, *(p * x for x in ahead), *(q * x for x in ahead)

    def tile(i, cut):
        theta = _newton(grid, mode, i, paths, s.dtype)
        mine = theta, *map(cut, values)
        return theta, *walk(grid, i, ByRow(), paths, mine, values, visit, stop_rows(mode, grid.n))

    theta, total, slope, *sums = over_tiles(grid, tile)
    mean, centre = jnp.split(jnp.stack(sums, -1), 2, -1)
    return theta, v + mean / total[..., None], centre / slope[..., None]


def solve(mode, s, tau, v):
    """theta (b, n), P v and c - v_r (b, n, d)."""
    return (_solve_smooth if isinstance(mode, Smooth) else _solve_power)(_grid(mode, s), mode, s, tau, v)


# ---------------------------------------------------------------- phi^(order) applied


def rows_pass(mode, order, s, tau, theta, v):
    """sum_j phi^(order)(D_rj - theta_r) v_j; linear in v."""
    grid = _grid(mode, s)

    def visit(k, drops, near, own):
        del k
        weight = mode.phi(drops[0] - own[0], order)
        return tuple(weight * x for x in near)

    return jnp.stack(_sum_rows(grid, mode, (grid.gaps(s, tau),), (theta,), _columns(grid, v), visit), -1)


def cols_pass(mode, order, s, tau, theta, w):
    """sum_r phi^(order)(D_rj - theta_r) w_r; linear in w."""
    grid = _grid(mode, s)

    def visit(k, drops, near, own):
        del k, own
        weight = mode.phi(drops[0] - near[0], order)
        return tuple(weight * x for x in near[1:])

    return jnp.stack(_sum_columns(grid, mode, (grid.gaps(s, tau),), (theta,), _columns(grid, w), visit), -1)


# ---------------------------------------------------------------- tangents, and their transposes


def _tie_tangent(s: Array, tau: Array, ds: Array) -> Array:
    """What the tie convention adds to dD_rj (see `ties`): this at j less this at r."""
    own, others = tie_terms(s, ds)
    return (own - others) / tau


def through_logits(
    s: Array, tau: Array, flux: Array, moment: Array, work: Array, *, ties: Callable[..., Any] = tie_terms
) -> tuple[Array, Array]:
    """Cotangents (s, tau) from the sums over r of q_rj, (r - j) q_rj and q_rj D_rj; q's rows sum to 0.

    tau dL_rj = (2(r - j) + 1) ds_j + 2 sum_{i<j} ds_i + (a constant of the row), hence
    tau sbar_j = 2 moment_j + flux_j + 2 sum_{i>j} flux_i; and dD / dtau = -D / tau.
    """
    after = lax.cumsum(flux, axis=1, reverse=True) - flux
    own, others = ties(s, flux)
    sbar = (2 * moment + flux + 2 * after + (own + others)) / tau
    return sbar, -jnp.sum(work, -1, keepdims=True) / tau


def _work(q: Array, drop: Array) -> Array:
    # Beyond the end of a row q = 0 and the drop is -inf.
    return q * jnp.maximum(drop, -1e30)


def tangent_pass(mode, s, tau, theta, v, centre, ds, dtau, dv):
    """sum_j P_rj dv_j + phi'_rj dD_rj (v_j - c_r); linear in (ds, dtau, dv)."""
    grid = _grid(mode, s)
    paths = grid.gaps(s, tau), grid.gap_tangents(s, tau, ds, dtau)
    d, values = v.shape[-1], _columns(grid, v)
    shift = grid.flat(_tie_tangent(s, tau, ds))

    def visit(k, drops, near, own):
        del k
        z = drops[0] - own[0]
        p, q = mode.phi(z, 0), mode.phi(z, 1) * (drops[1] + (near[0] - own[1]))
        ahead = [b - a - c for b, a, c in zip(near[1 : d + 1], own[2 : d + 2], own[d + 2 :], strict=True)]
        return tuple(q * x + p * t for x, t in zip(ahead, near[d + 1 :], strict=True))

    own, near = [shift, *values, *_columns(grid, centre)], [shift, *values, *_columns(grid, dv)]
    return jnp.stack(_sum_rows(grid, mode, paths, (theta, *own), near, visit), -1)


def cotangent_pass(mode, s, tau, theta, v, centre, w):
    """Cotangents (s, tau, v) of sum(w * P v), from q_rj = phi'_rj sum_d w_rd (v_jd - c_rd)."""
    grid = _grid(mode, s)
    d, values = v.shape[-1], _columns(grid, v)

    def visit(k, drops, near, own):
        z, weights = drops[0] - near[0], near[2 * d + 1 :]
        behind = [a - b - c for a, b, c in zip(own[1:], near[1 : d + 1], near[d + 1 : 2 * d + 1], strict=True)]
        p, q = mode.phi(z, 0), mode.phi(z, 1) * sum(x * y for x, y in zip(weights, behind, strict=True))
        return q, k * q, _work(q, drops[0]), *(p * x for x in weights)

    near = [*values, *_columns(grid, centre), *_columns(grid, w)]
    flux, moment, work, *payload = _sum_columns(grid, mode, (grid.gaps(s, tau),), (theta, *values), near, visit)
    return *through_logits(s, tau, flux, moment, work), jnp.stack(payload, -1)


def centre_pass(mode, s, tau, theta, v):
    """c_r - v_r."""
    grid = _grid(mode, s)
    values = _columns(grid, v)

    def visit(k, drops, near, own):
        del k
        q = mode.phi(drops[0] - own[0], 1)
        return q, *(q * (b - a) for b, a in zip(near, own[1:], strict=True))

    slope, *sums = _sum_rows(grid, mode, (grid.gaps(s, tau),), (theta, *values), values, visit)
    return jnp.stack(sums, -1) / slope[..., None]


def _theta_tangent(grid, mode, paths, theta, shift):
    """dtheta_r = sum_j phi'_rj dD_rj / sum_j phi'_rj."""

    def visit(k, drops, near, own):
        del k
        q = mode.phi(drops[0] - own[0], 1)
        return q, q * (drops[1] + (near[0] - own[1]))

    slope, total = _sum_rows(grid, mode, paths, (theta, shift), (shift,), visit)
    return total / slope


def cols_tangent_pass(mode, s, tau, theta, w, ds, dtau, dw):
    """sum_r P_rj dw_r + phi'_rj (dD_rj - dtheta_r) w_r; linear in (ds, dtau, dw)."""
    grid = _grid(mode, s)
    paths = grid.gaps(s, tau), grid.gap_tangents(s, tau, ds, dtau)
    d, shift = w.shape[-1], grid.flat(_tie_tangent(s, tau, ds))
    # The row's part of the tie shift joins dtheta_r.
    moved = grid.flat(_theta_tangent(grid, mode, paths, theta, shift)) + shift

    def visit(k, drops, near, own):
        del k
        z = drops[0] - near[0]
        p, q = mode.phi(z, 0), mode.phi(z, 1) * (drops[1] + own[1] - near[1])
        return tuple(q * x + p * t for x, t in zip(near[2 : d + 2], near[d + 2 :], strict=True))

    near = [moved, *_columns(grid, w), *_columns(grid, dw)]
    return jnp.stack(_sum_columns(grid, mode, paths, (theta, shift), near, visit), -1)


# ---------------------------------------------------------------- the column-normalised rank


def rank_pass(mode, s, tau, theta):
    """m_j = sum_r P_rj (r - j) / sum_r P_rj, and that denominator."""
    grid = _grid(mode, s)

    def visit(k, drops, near, own):
        del own
        p = mode.phi(drops[0] - near[0], 0)
        return p, k * p

    mass, moment = _sum_columns(grid, mode, (grid.gaps(s, tau),), (theta,), (), visit)
    return moment / mass, mass


def rank_tangent_pass(mode, s, tau, theta, offset, mass, ds, dtau):
    """dm_j = sum_r phi'_rj (dD_rj - dtheta_r) ((r - j) - m_j) / mass_j."""
    grid = _grid(mode, s)
    paths = grid.gaps(s, tau), grid.gap_tangents(s, tau, ds, dtau)
    shift = grid.flat(_tie_tangent(s, tau, ds))
    moved = grid.flat(_theta_tangent(grid, mode, paths, theta, shift)) + shift

    def visit(k, drops, near, own):
        q = mode.phi(drops[0] - near[0], 1) * (drops[1] + own[1] - near[1])
        return (q * (k - own[2]),)

    return _sum_columns(grid, mode, paths, (theta, shift, grid.flat(offset)), (moved,), visit)[0] / mass


def rank_cotangent_pass(mode, s, tau, theta, offset, mass, rho):
    """Cotangents (s, tau) of sum(rho * m): entries x_rj = ((r - j) - m_j) rho_j / mass_j, centred by row."""
    grid = _grid(mode, s)
    paths = (grid.gaps(s, tau),)
    offset, scale = grid.flat(offset), grid.flat(rho / mass)

    def visit_row(k, drops, near, own):
        q = mode.phi(drops[0] - own[0], 1)
        return q, q * ((-k - near[0]) * near[1])

    slope, total = _sum_rows(grid, mode, paths, (theta,), (offset, scale), visit_row)

    def visit_column(k, drops, near, own):
        q = mode.phi(drops[0] - near[0], 1) * ((k - own[1]) * own[2] - near[1])
        return q, k * q, _work(q, drops[0])

    centre = grid.flat(total / slope)
    sums = _sum_columns(grid, mode, paths, (theta, offset, scale), (centre,), visit_column)
    return through_logits(s, tau, *sums)
