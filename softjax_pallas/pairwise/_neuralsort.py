"""NeuralSort by tiles: rows of P, and its band times a payload or summed by columns.

Definition and notation: `softjax._orders.neuralsort` and `softjax._orders._band`. A row's logits fall on both sides of
its peak, and at a column the nearer of two rows has the larger one. What lies outside the tiles between the ends of a
block's band is below a bound that is found by bisection: such entries, all together, cannot change a float.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from softjax._modes import Mode
from softjax._orders._band.passes import _through_logits
from softjax._orders._base import Keys, PerRow, Ranks
from softjax._orders._sorted import gather, pick, sort_with_permutation, unsort
from softjax._types import Float, Int

from .._kernel import ceil_div
from . import _maths as maths
from . import _tiled, _tiles
from ._launch import scale_of
from ._lean import Rule, Solve, whole
from ._softsort import block_ends
from ._tiled import Common, Spec


def _spec(implementation: str, mode: Mode) -> Spec:
    # Relative to a reach of 1000 or 2 the exponential and the powers are zero either way.
    return Spec(implementation, "neuralsort", mode.degree, mode.reach)


def prefix_sums(s: Keys) -> tuple[Keys, Keys]:
    """sum_{i <= j} s_i in two floats: 48 bits, so that differences of near sums keep a float's digits."""

    def add(a, b):
        total, lost = maths.two_sum(a[0], b[0])
        return total, a[1] + b[1] + lost

    return lax.associative_scan(add, (s, jnp.zeros_like(s)), axis=1)


def _columns(s: Keys) -> Float[Array, "batch 4 n"]:
    """Place, key and prefix sum of every element of ascending keys."""
    high, low = prefix_sums(s)
    places = lax.broadcasted_iota(jnp.float32, s.shape, 1)
    return jnp.stack([places, s, high, low], axis=1)


def _rows(columns: Float[Array, "batch 4 n"], ranks: range | tuple[float, ...]) -> Float[Array, "batch 5 r"]:
    """The same of the rows' peaks, and c = 2 (r - floor(r)) - 1."""
    if isinstance(ranks, range):
        own = lax.slice_in_dim(columns, ranks.start, ranks.stop, axis=2)
        return jnp.concatenate([own, jnp.full_like(own[:, :1], -1.0)], axis=1)
    floors = [min(math.floor(r), columns.shape[2] - 1) for r in ranks]
    own = columns[:, :, np.asarray(floors)]
    share = np.asarray([2 * (r - f) - 1 for r, f in zip(ranks, floors, strict=True)], np.float32)
    return jnp.concatenate([own, jnp.broadcast_to(share, own[:, :1].shape)], axis=1)


# --- rows ----------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def distributions(spec: Spec, ranks: range | tuple[float, ...], x: Keys, tau: PerRow) -> Float[Array, "batch r n"]:
    """Rows of P, for elements in the order given."""
    return _distributions_forward(spec, ranks, x, tau)[0]


def _unsorted(ranks, x, tau):
    """Operands for columns in the order given, and the ascending keys with their permutation."""
    s, permutation = sort_with_permutation(x)
    ordered = _columns(s)
    columns = jnp.stack([unsort(ordered[:, c], permutation) for c in range(4)], axis=1)
    return Common(_rows(ordered, ranks), columns, scale_of(x, tau)), s, permutation


def _distributions_forward(spec, ranks, x, tau):
    common, s, permutation = _unsorted(ranks, x, tau)
    p, norm = _tiled.rows(spec, common, x.dtype)
    return p, (common, s, permutation, tau, norm)


def _distributions_backward(spec, ranks, residuals, g):
    del ranks
    common, s, permutation, tau, norm = residuals
    _, columns, _ = _tiled.pull(spec, common, norm, _tiled.matrix(g))
    dx, dtau = _through_sorted(s, tau, [gather(columns[:, c], permutation) for c in range(3)])
    return unsort(dx, permutation), dtau


distributions.defvjp(_distributions_forward, _distributions_backward)
DISTRIBUTIONS = Rule(
    distributions,
    _distributions_forward,
    _distributions_backward,
    result=lambda spec, ranks, x, tau: jax.ShapeDtypeStruct((x.shape[0], len(ranks), x.shape[1]), x.dtype),
    kept=lambda residuals: residuals[4:],
    again=lambda spec, ranks, kept, x, tau: (*_unsorted(ranks, x, tau), tau, *kept),
)


def _through_sorted(s: Keys, tau: PerRow, sums) -> tuple[Keys, PerRow]:
    """Cotangents of ascending keys and tau from the column sums of zbar, (r - j) zbar and zbar z."""
    ds, dtau = _through_logits(s, tau[:, None], *sums)
    return ds, dtau[:, 0]


# --- the band ------------------------------------------------------------------------------------------


def bands(spec: Spec, columns: Float[Array, "batch 4 n"], scale: Array) -> tuple[Array, Array]:
    """For blocks of rows and of columns: the range of tiles beyond which nothing can change a float.

    Smooth: beyond a drop of log(eps / 2) - 2 log n a row or column has at most n entries, each below eps / (2 n^2); a
    row's largest entry is at least 1 / n, and so is that of a column. c0, c1, c2: nothing has weight below a drop of 1.
    """
    n = columns.shape[2]
    cut = -1.0001 if spec.degree is not None else math.log(maths.EPS / 4) - 2 * math.log(n)

    def ranges(own: int, visited: int, by_rows: bool):
        first, last = block_ends(spec.implementation, n, own)
        # By rows the last row of a block reaches furthest right; of columns the last one meets the furthest row.
        high = _reach(columns, scale, last, cut, by_rows, 1)
        low = _reach(columns, scale, first, cut, by_rows, -1)
        return jnp.stack([low // visited, ceil_div(high + 1, visited)], axis=-1).astype(jnp.float32)

    rows, cols = (_tiles.matrix(spec.implementation, family, n, n) for family in ("rows", "columns"))
    return ranges(rows.rows, rows.columns, True), ranges(cols.columns, cols.rows, False)


def _reach(columns, scale, elements, cut: float, by_rows: bool, side: int) -> Int[Array, "batch m"]:
    """The furthest place on one side of the elements at which the drop is still above the cut."""
    batch, _, n = columns.shape
    start = jnp.broadcast_to(jnp.asarray(elements, jnp.int32), (batch, len(elements)))
    at = lambda place: [gather(columns[:, c], place) for c in range(4)]
    origin = at(start)

    def alive(place):
        row, column = (origin, at(place)) if by_rows else (at(place), origin)
        steps, _, prefix = maths.centred(column, row)
        # Row and first element are one here, so the row's own prefix is 0.
        drop = 2 * (prefix - steps * (column[1] - maths.rough(row[1]))) - (column[1] - row[1])
        return drop * scale[:, :, 0] > cut

    def halve(_, state):
        inside, outside = state  # distances from the element
        middle = (inside + outside) // 2
        place = jnp.clip(start + side * middle, 0, n - 1)
        good = alive(place) & (start + side * middle == place)
        return jnp.where(good, middle, inside), jnp.where(good, outside, middle)

    state = jnp.zeros_like(start), jnp.full_like(start, n)
    inside, _ = lax.fori_loop(0, max(1, n).bit_length(), halve, state)
    return start + side * inside


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def averages(
    spec: Spec, ranks: range | tuple[float, ...] | None, s: Keys, tau: PerRow, v: Float[Array, "batch d n"]
) -> Float[Array, "batch d r"]:
    """Rows of P of ascending keys times the payload in their order: the given rows, or all by the band."""
    return _averages_forward(spec, ranks, s, tau, v)[0]


def _sorted(spec, ranks, s, tau):
    columns, scale = _columns(s), scale_of(s, tau)
    if ranks is not None:
        return Common(_rows(columns, ranks), columns, scale)
    return Common(_rows(columns, range(s.shape[1])), columns, scale, bands(spec, columns, scale))


def _averages_forward(spec, ranks, s, tau, v):
    common = _sorted(spec, ranks, s, tau)
    y, norm = _tiled.apply(spec, common, v)
    return y, (common, s, tau, norm, v)


def _averages_backward(spec, ranks, residuals, w):
    del ranks
    common, s, tau, norm, v = residuals
    _, columns, _ = _tiled.pull(spec, common, norm, _tiled.product(w, v))
    return *_through_sorted(s, tau, [columns[:, c] for c in range(3)]), columns[:, 3:].astype(v.dtype)


averages.defvjp(_averages_forward, _averages_backward)
AVERAGES = Rule(
    averages,
    _averages_forward,
    _averages_backward,
    result=lambda spec, ranks, s, tau, v: jax.ShapeDtypeStruct(
        (*v.shape[:2], s.shape[1] if ranks is None else len(ranks)), v.dtype
    ),
    kept=lambda residuals: residuals[3:4],
    again=lambda spec, ranks, kept, s, tau, v: (_sorted(spec, ranks, s, tau), s, tau, *kept, v),
)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def rank_offsets(spec: Spec, s: Keys, tau: PerRow) -> Keys:
    """sum_r P_rj (r - j) / sum_r P_rj for ascending keys."""
    return _rank_forward(spec, s, tau)[0]


def _rank_forward(spec, s, tau):
    common = _sorted(spec, None, s, tau)
    # theta alone is wanted; the payload of ones costs one more sum.
    _, norm = _tiled.apply(spec, common, jnp.ones((s.shape[0], 1, s.shape[1]), jnp.float32))
    sums = _tiled.column_sums(spec, common, norm)
    return sums[:, 1] / sums[:, 0], (common, s, tau, norm, sums)


def _rank_backward(spec, residuals, rho):
    common, s, tau, norm, sums = residuals
    given = _tiled.offsets(jnp.stack([sums[:, 1] / sums[:, 0], rho / sums[:, 0]], axis=1))
    _, columns, _ = _tiled.pull(spec, common, norm, given, rank=True)
    return _through_sorted(s, tau, [columns[:, c] for c in range(3)])


rank_offsets.defvjp(_rank_forward, _rank_backward)
RANK_OFFSETS = Rule(
    rank_offsets,
    _rank_forward,
    _rank_backward,
    result=lambda spec, s, tau: jax.ShapeDtypeStruct(s.shape, jnp.float32),
    kept=lambda residuals: residuals[3:],
    again=lambda spec, kept, s, tau: (_sorted(spec, None, s, tau), s, tau, *kept),
)


# --- the interface -------------------------------------------------------------------------------------


def _static(ranks: Ranks) -> range | tuple[float, ...]:
    """Ranks that a kernel is built for."""
    if isinstance(ranks, range):
        return ranks
    if isinstance(ranks, Tracer):
        raise NotImplementedError(
            "The kernels of method 'neuralsort' take `ranks` that are known when the call is traced; use "
            "implementation='xla' for others."
        )
    return tuple(float(r) for r in np.asarray(ranks))


def _one_by_one(ranks: range | tuple[float, ...], function):
    """Scattered rows one at a time: a block's logits are relative to its first row."""
    if isinstance(ranks, range) or len(ranks) == 1:
        return function(ranks)
    return jnp.concatenate([function((r,)) for r in ranks], axis=-2)


def rows(
    implementation: str, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode, solve: Solve = whole
) -> Float[Array, "batch r n"]:
    """Rows of P."""
    spec = _spec(implementation, mode)
    return _one_by_one(_static(ranks), lambda r: solve(DISTRIBUTIONS, (spec, r), x, tau))


def apply(
    implementation: str,
    x: Keys,
    ranks: Ranks,
    payload: Float[Array, "batch n d"] | None,
    tau: PerRow,
    mode: Mode,
    solve: Solve = whole,
) -> Float[Array, "batch r d"]:
    """Rows of P times the payload, or times the keys themselves."""
    s, permutation = sort_with_permutation(x)
    if payload is None:
        v = s[:, None]
    else:
        v = jnp.moveaxis(jnp.take_along_axis(payload, permutation[:, :, None], axis=1), -1, 1)
    spec = _spec(implementation, mode)
    if _tiles.few("neuralsort", mode, len(ranks), x.shape[1]):
        return _one_by_one(_static(ranks), lambda r: jnp.moveaxis(solve(AVERAGES, (spec, r), s, tau, v), 1, -1))
    return pick(jnp.moveaxis(solve(AVERAGES, (spec, None), s, tau, v), 1, -1), ranks)


def rank(implementation: str, x: Keys, tau: PerRow, mode: Mode, solve: Solve = whole) -> Keys:
    """The column-normalised expectation sum_r P_rj r / sum_r P_rj."""
    s, permutation = sort_with_permutation(x)
    positions = lax.broadcasted_iota(jnp.float32, s.shape, 1)
    return unsort(positions + solve(RANK_OFFSETS, (_spec(implementation, mode),), s, tau), permutation)
