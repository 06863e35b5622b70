"""NeuralSort by tiles: rows of P, and its band times a payload or summed by columns.

Definition and notation: `softjax._methods.neuralsort.definition` and `softjax._methods.neuralsort.band`. A row's logits
fall on both sides of its peak, and at a column the nearer of two rows has the larger one. What lies outside the tiles
between the ends of a block's band is below a bound, by comparing tiles' ends: such entries, all together, cannot change
a float.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from softjax._methods.base import Keys, PerRow, Ranks, count
from softjax._methods.hard_sort import pick
from softjax._methods.neuralsort.band.passes import through_logits
from softjax._methods.ties import tie_terms
from softjax._modes import Mode
from softjax._types import Float

from ..._autodiff import Rule, Solve
from ..._kernel import PORTABLE
from ...tile_engine import maths, passes, tiles
from ...tile_engine.launch import scale_of
from ...tile_engine.passes import Common, Spec
from . import hard_sort
from .scan import doubled, scan_of


def _spec(implementation: str, mode: Mode) -> Spec:
    # Relative to a reach of 1000 or 2 the exponential and the powers are zero either way.
    return Spec(implementation, "neuralsort", mode.degree, mode.reach)


def prefix_sums(implementation: str, s: Keys) -> tuple[Keys, Keys]:
    """sum_{i <= j} s_i in two floats: 48 bits, so that differences of near sums keep a float's digits."""

    def add(a, b):
        total, lost = maths.two_sum(a[0], b[0])
        return total, a[1] + b[1] + lost

    return scan_of(implementation)(add, (s, jnp.zeros_like(s)), axis=1)


def _columns(implementation: str, s: Keys) -> Float[Array, "batch 4 n"]:
    """Place, key and prefix sum of every element of ascending keys, in float32."""
    s = s.astype(jnp.float32)
    high, low = prefix_sums(implementation, s)
    places = lax.broadcasted_iota(jnp.float32, s.shape, 1)
    return jnp.stack([places, s, high, low], axis=1)


def _rows(columns: Float[Array, "batch 4 n"], ranks: range | tuple[float, ...]) -> Float[Array, "batch 5 r"]:
    """The same of the rows' peaks, and c = 2 (r - floor(r)) - 1."""
    if isinstance(ranks, range):
        own = lax.slice_in_dim(columns, ranks.start, ranks.stop, axis=2)
        return jnp.concatenate([own, jnp.full_like(own[:, :1], -1.0)], axis=1)
    floors = [min(math.floor(r), columns.shape[2] - 1) for r in ranks]
    own = jnp.concatenate([columns[:, :, f : f + 1] for f in floors], axis=2)
    share = np.asarray([2 * (r - f) - 1 for r, f in zip(ranks, floors, strict=True)], np.float32)
    return jnp.concatenate([own, jnp.broadcast_to(share, own[:, :1].shape)], axis=1)


# --- rows ----------------------------------------------------------------------------------------------


def _unsorted(spec, ranks, x, tau):
    """Operands for columns in the order given, and the ascending keys with their permutation."""
    s, permutation, _ = hard_sort.ascending(spec.implementation, x)
    ordered = _columns(spec.implementation, s)
    columns = hard_sort.back(spec.implementation, ordered, permutation)
    return Common(_rows(ordered, ranks), columns, scale_of(x, tau)), s, permutation


def _distributions_forward(spec, ranks, x, tau):
    """Rows of P (batch, r, n), for elements in the order given."""
    common, s, permutation = _unsorted(spec, ranks, x, tau)
    p, norm = passes.rows(spec, common, x.dtype)
    return p, (common, s, permutation, tau, norm)


def _distributions_backward(spec, ranks, residuals, g):
    del ranks
    common, s, permutation, tau, norm = residuals
    _, columns, _ = passes.pull(spec, common, norm, passes.matrix(g))
    sums = hard_sort.forth(spec.implementation, columns[:, :3], permutation)
    dx, dtau = _through_sorted(spec, s, tau, sums)
    return hard_sort.back(spec.implementation, dx[:, None], permutation)[:, 0], dtau


DISTRIBUTIONS = Rule(
    _distributions_forward,
    _distributions_backward,
    result=lambda spec, ranks, x, tau: jax.ShapeDtypeStruct((x.shape[0], len(ranks), x.shape[1]), x.dtype),
    kept=lambda residuals: residuals[4:],
    saves=1,
    again=lambda spec, ranks, kept, x, tau: (*_unsorted(spec, ranks, x, tau), tau, *kept),
)


def _through_sorted(spec: Spec, s: Keys, tau: PerRow, sums: Float[Array, "batch d n"]) -> tuple[Keys, PerRow]:
    """Cotangents of ascending keys and tau from the column sums of zbar, (r - j) zbar and zbar z."""
    flux, moment, work = (sums[:, c] for c in range(3))
    ties = _tie_terms if spec.implementation in PORTABLE else tie_terms
    ds, dtau = through_logits(s.astype(jnp.float32), tau[:, None], flux, moment, work, ties=ties)
    return ds.astype(s.dtype), dtau[:, 0]


def _tie_terms(s: Keys, x: Keys) -> tuple[Keys, Keys]:
    """`softjax._methods.ties.tie_terms` by one scan of both sums from both sides."""
    edge = jnp.ones_like(s[:, :1], bool)
    new = jnp.concatenate([edge, s[:, 1:] != s[:, :-1], edge], axis=1)
    both = lambda a, b: jnp.stack([a, lax.rev(b, (b.ndim - 1,))])
    values = jnp.stack([jnp.ones_like(x), x], axis=1)

    def combine(a, b):
        return a[0] | b[0], jnp.where(b[0], b[1], a[1] + b[1])

    _, sums = doubled(combine, (both(new[:, None, :-1], new[:, None, 1:]), both(values, values)), axis=3)
    found = sums[0] - lax.rev(sums[1], (2,))
    return found[:, 0] * x, found[:, 1]


# --- the band ------------------------------------------------------------------------------------------


def bands(spec: Spec, columns: Float[Array, "batch 4 n"], scale: Array) -> tuple[Array, Array]:
    """For blocks of rows and of columns: the range of tiles beyond which nothing can change a float.

    Smooth: beyond a drop of log(eps / 2) - 2 log n a row or column has at most n entries, each below eps / (2 n^2); a
    row's largest entry is at least 1 / n, and so is that of a column. c0, c1, c2: nothing has weight below a drop of 1.
    """
    n = columns.shape[2]
    cut = -1.0001 if spec.degree is not None else math.log(maths.EPS / 4) - 2 * math.log(n)

    def ranges(own: int, visited: int, by_rows: bool):
        first, last = tiles.block_ends(spec.implementation, n, own)
        starts, ends = tiles.ends(n, visited)
        # By rows the last row of a block reaches furthest right; of columns the last one meets the furthest row.
        right = _alive(columns, scale, last, starts, cut, by_rows) & (starts > last[:, None])[None]
        left = _alive(columns, scale, first, ends, cut, by_rows) & (ends < first[:, None])[None]
        tile = lambda elements: (elements // visited).astype(np.float32)[None]
        high = jnp.max(jnp.where(right, tile(starts)[:, None], tile(last)[..., None]), axis=-1)
        low = jnp.min(jnp.where(left, tile(ends)[:, None], tile(first)[..., None]), axis=-1)
        return jnp.stack([low, high + 1], axis=-1)

    rows, cols = (tiles.matrix(spec.implementation, family, n, n) for family in ("rows", "columns"))
    return ranges(rows.rows, rows.columns, True), ranges(cols.columns, cols.rows, False)


def _alive(columns, scale, elements: np.ndarray, places: np.ndarray, cut: float, by_rows: bool):
    """(batch, m, t): whether the drop between the elements and the places, of a row and a column, is above the cut."""
    origin, at = (tiles.at(columns, index) for index in (elements, places))
    origin, at = [origin[:, c, :, None] for c in range(4)], [at[:, c, None, :] for c in range(4)]
    row, column = (origin, at) if by_rows else (at, origin)
    steps, _, prefix = maths.centred(column, row)
    # Row and first element are one here, so the row's own prefix is 0.
    drop = 2 * (prefix - steps * (column[1] - maths.rough(row[1]))) - (column[1] - row[1])
    return drop * scale > cut


def _sorted(spec, ranks, s, tau):
    columns, scale = _columns(spec.implementation, s), scale_of(s, tau)
    if ranks is not None:
        return Common(_rows(columns, ranks), columns, scale)
    return Common(_rows(columns, range(s.shape[1])), columns, scale, bands(spec, columns, scale))


def _averages_forward(spec, ranks, s, tau, v):
    """Rows of P of ascending keys times their payload (batch, d, n): the given rows, or all by the band."""
    common = _sorted(spec, ranks, s, tau)
    y, norm = passes.apply(spec, common, v)
    return y, (common, s, tau, norm, v)


def _averages_backward(spec, ranks, residuals, w):
    del ranks
    common, s, tau, norm, v = residuals
    _, columns, _ = passes.pull(spec, common, norm, passes.product(w, v))
    return *_through_sorted(spec, s, tau, columns), columns[:, 3:].astype(v.dtype)


AVERAGES = Rule(
    _averages_forward,
    _averages_backward,
    result=lambda spec, ranks, s, tau, v: jax.ShapeDtypeStruct(
        (*v.shape[:2], s.shape[1] if ranks is None else len(ranks)), v.dtype
    ),
    kept=lambda residuals: residuals[3:4],
    saves=1,
    again=lambda spec, ranks, kept, s, tau, v: (_sorted(spec, ranks, s, tau), s, tau, *kept, v),
)


def _rank_forward(spec, s, tau):
    """sum_r P_rj (r - j) / sum_r P_rj for ascending keys."""
    common = _sorted(spec, None, s, tau)
    # theta alone is wanted; the payload of ones costs one more sum.
    _, norm = passes.apply(spec, common, jnp.ones((s.shape[0], 1, s.shape[1]), jnp.float32))
    sums = passes.column_sums(spec, common, norm)
    return sums[:, 1] / sums[:, 0], (common, s, tau, norm, sums)


def _rank_backward(spec, residuals, rho):
    common, s, tau, norm, sums = residuals
    given = passes.offsets(jnp.stack([sums[:, 1] / sums[:, 0], rho / sums[:, 0]], axis=1))
    _, columns, _ = passes.pull(spec, common, norm, given, rank=True)
    return _through_sorted(spec, s, tau, columns)


RANK_OFFSETS = Rule(
    _rank_forward,
    _rank_backward,
    result=lambda spec, s, tau: jax.ShapeDtypeStruct(s.shape, jnp.float32),
    kept=lambda residuals: residuals[3:],
    saves=2,
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
    implementation: str, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode, solve: Solve
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
    solve: Solve,
) -> Float[Array, "batch r d"]:
    """Rows of P times the payload, or times the keys themselves."""
    s, _, v = hard_sort.ascending(implementation, x, payload)
    spec = _spec(implementation, mode)
    if count(ranks) <= tiles.FEW:
        return _one_by_one(_static(ranks), lambda r: jnp.moveaxis(solve(AVERAGES, (spec, r), s, tau, v), 1, -1))
    return pick(jnp.moveaxis(solve(AVERAGES, (spec, None), s, tau, v), 1, -1), ranks)


def rank(implementation: str, x: Keys, tau: PerRow, mode: Mode, solve: Solve) -> Keys:
    """The column-normalised expectation sum_r P_rj r / sum_r P_rj."""
    s, permutation, _ = hard_sort.ascending(implementation, x)
    positions = lax.broadcasted_iota(jnp.float32, s.shape, 1)
    ranks = positions + solve(RANK_OFFSETS, (_spec(implementation, mode),), s, tau)
    return hard_sort.back(implementation, ranks[:, None], permutation)[:, 0].astype(x.dtype)
