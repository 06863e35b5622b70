"""The portable body: one row of the batch, (anchors, keys) in a block, keys along the lanes.

The row of keys stays in fast memory (VMEM on TPU; L1 and L2 under Triton) while Newton's steps pass over it tile by
tile. Nothing is sliced that is not a reference, sizes are powers of two under Triton, and reductions keep their axis.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from . import _maths
from ._maths import NEVER, Axis, centred, each, newton, project
from ._spec import Spec

AXIS = Axis(
    total=lambda block: jnp.sum(block[0], axis=0, keepdims=True),
    largest=lambda block: jnp.max(block[0], axis=0, keepdims=True),
    spread=lambda margin: margin,
    any_key=jnp.max,
    vector_sum=lambda vector: jnp.sum(vector[0], axis=0, keepdims=True),
    vector_max=lambda vector: jnp.max(vector[0], axis=0, keepdims=True),
    scalar=jnp.max,
)


def one(index: int):
    """One row or column, kept as an axis."""
    from jax.experimental import pallas as pl

    return pl.ds(index, 1)


class Row(NamedTuple):
    """One row's small arrays, loaded: (K, 1) each, tau (1, 1)."""

    masses: jax.Array
    anchors: jax.Array
    tau: jax.Array
    real: jax.Array  # 1 for the k anchors that exist, 0 for the padding


def _row(masses_ref, anchors_ref, tau_ref, k: int) -> Row:
    masses, anchors, tau = masses_ref[...], anchors_ref[...], tau_ref[...]
    real = jnp.where(lax.broadcasted_iota(jnp.int32, masses.shape, 0) < k, 1.0, 0.0)
    return Row(masses, anchors, tau, real)


class Tiles:
    """Access to (rows, n) references tile by tile along n."""

    def __init__(self, n: int, tile: int, masked: bool):
        self.n, self.tile, self.masked = n, tile, masked
        self.count = -(-n // tile)
        self.width = self.count * tile

    def _at(self, j):
        from jax.experimental import pallas as pl

        return pl.ds(pl.multiple_of(j * self.tile, self.tile), self.tile)

    def exists(self, j):
        """(1, tile): whether the keys are within the row."""
        return j * self.tile + lax.broadcasted_iota(jnp.int32, (1, self.tile), 1) < self.n

    def line(self, ref, j, index: int = 0):
        """(1, tile) of one row in float32: 0 beyond its end."""
        at = one(index), self._at(j)
        if self.masked:
            from jax.experimental.pallas import triton as pltriton

            value = pltriton.load(ref.at[at], mask=self.exists(j), other=0.0)
            return value.astype(jnp.float32)
        return jnp.where(self.exists(j), ref[at].astype(jnp.float32), 0.0)

    def load(self, ref, j, rows: int):
        """(K, tile) in float32: 0 beyond the row and beyond the first `rows`."""
        size = ref.shape[0]
        exists = jnp.broadcast_to(self.exists(j), (size, self.tile))
        if rows < size:
            exists &= lax.broadcasted_iota(jnp.int32, (size, self.tile), 0) < rows
        if self.masked:
            from jax.experimental.pallas import triton as pltriton

            value = pltriton.load(ref.at[:, self._at(j)], mask=exists, other=0.0)
            return value.astype(jnp.float32)
        return jnp.where(exists, ref[:, self._at(j)].astype(jnp.float32), 0.0)

    def put(self, ref, j, value, index: int = 0):
        """Write (1, tile) of one row; entries that do not exist are dropped."""
        self._store(ref, (one(index), self._at(j)), value, self.exists(j))

    def store(self, ref, j, value, rows: int):
        """Write (K, tile); entries that do not exist are dropped."""
        exists = jnp.broadcast_to(self.exists(j), value.shape)
        exists &= lax.broadcasted_iota(jnp.int32, value.shape, 0) < rows
        self._store(ref, (slice(None), self._at(j)), value, exists)

    def _store(self, ref, at, value, exists):
        value = value.astype(ref.dtype)
        if self.masked:
            from jax.experimental.pallas import triton as pltriton

            pltriton.store(ref.at[at], value, mask=exists)
        else:
            ref[at] = value


def _logits(psi, y, row: Row):
    z = psi + (2 / row.tau) * (y - 0.5) * (row.anchors - 0.5)
    return jnp.where(row.masses > 0, z, NEVER)


def _halves(u):
    """u as a sum of two bfloat16; bits are cut, since a compiler may take a conversion there and back for nothing."""
    high = lax.bitcast_convert_type(lax.bitcast_convert_type(u, jnp.int32) & jnp.int32(-65536), jnp.float32)
    return high.astype(jnp.bfloat16), (u - high).astype(jnp.bfloat16)


def _gram(u):
    """u u^T, to a relative 1e-5 in every entry: entries of u are not negative, so nothing cancels."""
    if u.shape[0] < 16:
        wide = jnp.sum(u[:, None, :] * u[None, :, :], axis=2)
        return wide
    dot = partial(lax.dot_general, dimension_numbers=(((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    high, low = _halves(u)
    return dot(high, high) + (dot(high, low) + dot(low, high))


def _coupling(w, exists):
    """What a tile adds to sum_i w_ij w_ik / sum_l w_il."""
    scaled = w * jnp.where(exists, lax.rsqrt(jnp.sum(w, axis=0, keepdims=True)), 0.0)
    return _gram(scaled)


def _axes(size: int):
    return (lax.broadcasted_iota(jnp.int32, (size, size), axis) for axis in (0, 1))


def _solve(k: int, real, coupling, rhs, damping):
    """(H + damping)^-1 rhs by elimination, H from the couplings and pinned along the constant vector."""
    size = coupling.shape[0]
    i, j = _axes(size)
    off = jnp.where(i == j, 0.0, coupling)
    degree = jnp.sum(off, axis=1, keepdims=True)
    level = jnp.maximum(jnp.max(degree, axis=0, keepdims=True), damping)
    both = (i < k) & (j < k)
    diagonal = jnp.where(i == j, degree + jnp.where(real > 0, damping, 1.0), 0.0)
    matrix = diagonal - off + jnp.where(both, level / k, 0.0)
    column_index = lax.broadcasted_iota(jnp.int32, (size, 1), 0)

    def eliminate(step, state):
        matrix, rhs = state
        mine = column_index == step
        column = jnp.sum(jnp.where(j == step, matrix, 0.0), axis=1, keepdims=True)
        line = jnp.sum(jnp.where(i == step, matrix, 0.0), axis=0, keepdims=True)
        pivot = jnp.sum(jnp.where(mine, column, 0.0), axis=0, keepdims=True)
        value = jnp.sum(jnp.where(mine, rhs, 0.0), axis=0, keepdims=True)
        factor = jnp.where(mine, 0.0, column / pivot)
        return matrix - factor * line, rhs - factor * value

    matrix, rhs = lax.fori_loop(0, k, eliminate, (matrix, rhs))
    return rhs / jnp.sum(jnp.where(i == j, matrix, 0.0), axis=1, keepdims=True)


def _sweep(tiles: Tiles, visit: Callable[[Any], tuple], start: tuple) -> tuple:
    """The sum of visit(j) over the tiles."""

    def add(j, total):
        return each(jnp.add, total, visit(j))

    return lax.fori_loop(0, tiles.count, add, start)


def _newton(spec: Spec, tiles: Tiles, y_ref, row: Row, psi):
    size = psi.shape[0]

    def plan(psi, j):
        return project((_logits(psi, tiles.line(y_ref, j), row),), spec.degree, AXIS)

    def column(block, exists):
        return jnp.sum(jnp.where(exists, block, 0.0), axis=1, keepdims=True)

    zeros = jnp.zeros((size, 1), jnp.float32)

    def received(psi):
        return _sweep(tiles, lambda j: (column(plan(psi[0], j)[0][0], tiles.exists(j)),), (zeros,))

    def evaluate(psi):
        def visit(j):
            (p,), (w,) = plan(psi[0], j)
            return column(p, tiles.exists(j)), _coupling(w, tiles.exists(j))

        sums, coupling = _sweep(tiles, visit, (zeros, jnp.zeros((size, size), jnp.float32)))
        return (sums,), coupling

    def solve(coupling, rhs, damping):
        return (_solve(spec.k, row.real, coupling, rhs[0], damping),)

    masses = (row.masses,)
    problem = _maths.Newton(received, evaluate, solve, masses, row.tau, AXIS)
    (psi,) = newton(problem, (psi,), spec.rounds)
    (sums,) = received((psi,))
    return psi, sums


def forward_body(*refs, spec: Spec, tiles: Tiles):
    """refs: y (1, n), [payload (d, n)], psi, masses, anchors (K, 1), tau (1, 1); rows (K, n) or (K, d), psi, sums."""
    y_ref, *payload_ref = refs[: 2 if spec.payload else 1]
    start_ref, masses_ref, anchors_ref, tau_ref, out_ref, psi_ref, sums_ref = refs[-7:]
    row = _row(masses_ref, anchors_ref, tau_ref, spec.k)
    psi, sums = _newton(spec, tiles, y_ref, row, start_ref[...])
    psi_ref[...], sums_ref[...] = psi, sums
    divisor = jnp.where(row.masses > 0, sums, 1.0) if spec.normalise else jnp.ones_like(sums)

    def rows(j):
        (p,), _ = project((_logits(psi, tiles.line(y_ref, j), row),), spec.degree, AXIS)
        return p / divisor

    if not spec.payload:
        lax.fori_loop(0, tiles.count, lambda j, _: tiles.store(out_ref, j, rows(j), spec.wanted), None)
        return

    def visit(j):
        p, exists = rows(j), tiles.exists(j)
        values = [tiles.line(payload_ref[0], j, c) for c in range(spec.payload)]
        return tuple(jnp.sum(jnp.where(exists, p * v, 0.0), axis=1, keepdims=True) for v in values)

    averages = _sweep(tiles, visit, (jnp.zeros_like(psi),) * spec.payload)
    for c, average in enumerate(averages):
        out_ref[:, one(c)] = average


def backward_body(*refs, spec: Spec, tiles: Tiles):
    """refs: y, [payload], psi, masses, anchors, tau, sums, cotangent (K, n) or (K, d); of y, [payload], masses, tau."""
    y_ref, *payload_ref = refs[: 2 if spec.payload else 1]
    psi_ref, masses_ref, anchors_ref, tau_ref, sums_ref, g_ref = refs[len(payload_ref) + 1 : len(payload_ref) + 7]
    dy_ref, *dpayload_ref, dmasses_ref, dtau_ref = refs[len(payload_ref) + 7 :]
    row, psi = _row(masses_ref, anchors_ref, tau_ref, spec.k), psi_ref[...]
    divisor = jnp.where(row.masses > 0, sums_ref[...], 1.0) if spec.normalise else jnp.ones_like(psi)

    def value(c, j):
        return tiles.line(payload_ref[0], j, c)

    def cotangent(j):  # of the columns of P, as if their sums were constants
        if not spec.payload:
            return tiles.load(g_ref, j, spec.wanted) / divisor
        return sum(g_ref[:, one(c)] * value(c, j) for c in range(spec.payload)) / divisor

    def plan(j):
        y = tiles.line(y_ref, j)
        (p,), (w,) = project((_logits(psi, y, row),), spec.degree, AXIS)
        exists = tiles.exists(j)
        return y, jnp.where(exists, p, 0.0), w, exists

    def column(block, exists):
        return jnp.sum(jnp.where(exists, block, 0.0), axis=1, keepdims=True)

    def visit(j):
        _, p, w, exists = plan(j)
        g = cotangent(j)
        (pulled,) = centred((g,), (w,), AXIS)
        return column(pulled, exists), column(g * p, exists), _coupling(w, exists)

    zeros = jnp.zeros_like(psi)
    rhs, overlap, coupling = _sweep(tiles, visit, (zeros, zeros, jnp.zeros((psi.shape[0],) * 2, jnp.float32)))
    damping = _maths.floor_of((row.masses,), AXIS)
    multiplier = _solve(spec.k, row.real, coupling, rhs, damping)

    # A column's own sum: the potentials shift with it, which the masses feel and the keys do not.
    shift = -overlap / divisor if spec.normalise else zeros
    mean = jnp.sum(shift * row.real, axis=0, keepdims=True) / spec.k
    dmasses_ref[...] = multiplier + (shift - mean) * row.real

    def pull(j, total):
        y, p, w, exists = plan(j)
        (dz,) = centred((cotangent(j) - multiplier,), (w,), AXIS)
        dy = jnp.sum(dz * (row.anchors - 0.5), axis=0, keepdims=True) * (2 / row.tau)
        tiles.put(dy_ref, j, dy)
        for c in range(spec.payload):
            share = jnp.sum(p * (g_ref[:, one(c)] / divisor), axis=0, keepdims=True)
            tiles.put(dpayload_ref[0], j, share, c)
        return total - jnp.sum(jnp.where(exists, dy * (y - 0.5), 0.0), axis=1, keepdims=True)

    dtau_ref[...] = lax.fori_loop(0, tiles.count, pull, jnp.zeros((1, 1), jnp.float32)) / row.tau
