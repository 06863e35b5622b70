"""SoftSort by tiles, in every mode: rows of P, and few rows, or the windows of c0, c1, c2, times a payload.

The keys of the rows are elements of x, so every row of logits has the maximum 0. In c0, c1 and c2 nothing further than
tau from a row's key has weight, so that of sorted keys a block of rows sees one window.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from softjax._methods.base import Keys, PerRow, Ranks, count
from softjax._methods.hard_sort import pick
from softjax._methods.softsort.definition import order_statistics
from softjax._modes import Mode
from softjax._types import Float

from .._kernel import MOSAIC_GPU
from . import _hard_sort, _recurrence, _tiled, _tiles
from ._launch import scale_of
from ._lean import Rule, Solve, whole
from ._tiled import Common, Spec


def _spec(implementation: str, mode: Mode) -> Spec:
    return Spec(implementation, "softsort", mode.degree, mode.reach)


def _common(q: Keys, x: Keys, tau: PerRow, bounds=None) -> Common:
    return Common(q[:, None], x[:, None], scale_of(x, tau), bounds)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def distributions(spec: Spec, q: Float[Array, "batch r"], x: Keys, tau: PerRow) -> Float[Array, "batch r n"]:
    """Row i is the projection of -|q_i - x_j| / tau."""
    return _distributions_forward(spec, q, x, tau)[0]


def _distributions_forward(spec, q, x, tau):
    p, norm = _tiled.rows(spec, _common(q, x, tau), x.dtype)
    return p, (q, x, tau, norm)


def _distributions_backward(spec, residuals, g):
    q, x, tau, norm = residuals
    rows, columns, dtau = _tiled.pull(spec, _common(q, x, tau), norm, _tiled.matrix(g))
    return rows[:, 0].astype(q.dtype), columns[:, 0].astype(x.dtype), _of_tau(dtau, tau)


distributions.defvjp(_distributions_forward, _distributions_backward)
DISTRIBUTIONS = Rule(
    distributions,
    _distributions_forward,
    _distributions_backward,
    result=lambda spec, q, x, tau: jax.ShapeDtypeStruct((*q.shape, x.shape[1]), x.dtype),
    kept=lambda residuals: residuals[3:],
    again=lambda spec, kept, *arrays: (*arrays, *kept),
)


def _of_tau(dtau: PerRow, tau: PerRow) -> PerRow:
    return (dtau / tau.astype(jnp.float32)).astype(tau.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def averages(
    spec: Spec, windowed: bool, q: Float[Array, "batch r"], x: Keys, tau: PerRow, v: Float[Array, "batch d n"]
) -> Float[Array, "batch d r"]:
    """Row i's distribution times the payload, by channel. `windowed` says that q and x are the same ascending keys."""
    return _averages_forward(spec, windowed, q, x, tau, v)[0]


def _averages_forward(spec, windowed, q, x, tau, v):
    bounds = windows(spec.implementation, x, tau) if windowed else None
    y, norm = _tiled.apply(spec, _common(q, x, tau, bounds), v)
    return y, (q, x, tau, norm, v, bounds)


def _averages_backward(spec, windowed, residuals, w):
    q, x, tau, norm, v, bounds = residuals
    rows, columns, dtau = _tiled.pull(spec, _common(q, x, tau, bounds), norm, _tiled.product(w, v))
    dv = columns[:, 2:].astype(v.dtype)
    return rows[:, 0].astype(q.dtype), columns[:, 0].astype(x.dtype), _of_tau(dtau, tau), dv


averages.defvjp(_averages_forward, _averages_backward)


def block_ends(implementation: str, n: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last elements of blocks of a length; Mosaic GPU's last one starts earlier instead of ending short."""
    starts, ends = _tiles.ends(n, length)
    return (np.minimum(starts, n - length) if implementation in MOSAIC_GPU else starts), ends


def windows(implementation: str, s: Keys, tau: PerRow) -> tuple[Array, Array]:
    """For blocks of rows and of columns of ascending keys: the range of tiles with an element nearer than tau."""
    n = s.shape[1]

    def ranges(own: int, visited: int):
        first, last = block_ends(implementation, n, own)
        starts, ends = _tiles.ends(n, visited)
        at = partial(_tiles.at, s)
        margin = tau[:, None] * 1.0001  # the kernel's own rounding of |s_i - s_j| / tau
        before = at(ends)[:, None] < (at(first) - margin)[:, :, None]
        behind = at(starts)[:, None] > (at(last) + margin)[:, :, None]
        bounds = jnp.sum(before, axis=-1), len(starts) - jnp.sum(behind, axis=-1)
        return jnp.stack(bounds, axis=-1).astype(jnp.float32)

    rows, columns = (_tiles.matrix(implementation, family, n, n) for family in ("rows", "columns"))
    return ranges(rows.rows, rows.columns), ranges(columns.columns, columns.rows)


def rows(
    implementation: str, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode, solve: Solve = whole
) -> Float[Array, "batch r n"]:
    """Rows of P."""
    return solve(DISTRIBUTIONS, (_spec(implementation, mode),), order_statistics(x, ranks), x, tau)


def apply(
    implementation: str, x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
) -> Float[Array, "batch r d"]:
    """Rows of P times the payload, or times the keys themselves."""
    if _tiles.few("softsort", mode, count(ranks), x.shape[1]):
        v = x[:, None] if payload is None else jnp.moveaxis(payload, -1, 1)
        y = averages(_spec(implementation, mode), False, order_statistics(x, ranks), x, tau, v)
        return jnp.moveaxis(y, 1, -1)
    if mode.degree is None:
        return _recurrence.apply(implementation, x, ranks, payload, tau, mode)
    s, _, v = _hard_sort.ascending(implementation, x, payload)
    y = averages(_spec(implementation, mode), True, s, s, tau, v)
    return pick(jnp.moveaxis(y, 1, -1), ranks)


def rank(implementation: str, x: Keys, tau: PerRow, mode: Mode) -> Keys:
    """The expected position among the sorted keys, weighted as a row of P that is centred on x_i."""
    if mode.degree is None:
        return _recurrence.rank(implementation, x, tau, mode)
    s, permutation, _ = _hard_sort.ascending(implementation, x)
    n = s.shape[1]
    numbers = lax.broadcasted_iota(jnp.float32, (s.shape[0], 1, n), 2) - float(n // 2)
    y = averages(_spec(implementation, mode), True, s, s, tau, numbers)
    return _hard_sort.back(implementation, y + float(n // 2), permutation)[:, 0].astype(x.dtype)
