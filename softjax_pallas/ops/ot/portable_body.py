"""The portable body: one row of the batch, (anchors, keys) in a block, keys along the lanes.

The row of keys stays in VMEM while Newton's steps pass over it tile by tile. Nothing is sliced that is not a reference,
and reductions keep their axis.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax

from . import newton
from .maths import Axis, halves
from .newton import Program
from .spec import Spec

AXIS = Axis(
    total=lambda block: jnp.sum(block[0], axis=0, keepdims=True),
    largest=lambda block: jnp.max(block[0], axis=0, keepdims=True),
    spread=lambda margin: margin,
    lift=lambda part: part,
    any_key=jnp.max,
    vector_sum=lambda vector: jnp.sum(vector[0], axis=0, keepdims=True),
    vector_max=lambda vector: jnp.max(vector[0], axis=0, keepdims=True),
    scalar=jnp.max,
)


def one(index: int):
    """One row or column, kept as an axis."""
    from jax.experimental import pallas as pl

    return pl.ds(index, 1)


class Tiles:
    """Access to (rows, n) references tile by tile along n."""

    def __init__(self, n: int, tile: int):
        self.n, self.tile = n, tile
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
        return jnp.where(self.exists(j), ref[at].astype(jnp.float32), 0.0)

    def load(self, ref, j, rows: int):
        """(K, tile) in float32: 0 beyond the row and beyond the first `rows`."""
        size = ref.shape[0]
        exists = jnp.broadcast_to(self.exists(j), (size, self.tile))
        if rows < size:
            exists &= lax.broadcasted_iota(jnp.int32, (size, self.tile), 0) < rows
        return jnp.where(exists, ref[:, self._at(j)].astype(jnp.float32), 0.0)

    def put(self, ref, j, value, index: int = 0):
        """Write (1, tile) of one row; what lies beyond the end is not copied out."""
        ref[one(index), self._at(j)] = value.astype(ref.dtype)

    def store(self, ref, j, value):
        """Write (K, tile); entries that do not exist are not copied out."""
        ref[:, self._at(j)] = value.astype(ref.dtype)


def _couple(total, w, exists):
    """total + the tile's sum_i w_ij w_ik / sum_l w_il, to a relative 1e-5 in every entry: nothing cancels."""
    u = w * jnp.where(exists, lax.rsqrt(jnp.sum(w, axis=0, keepdims=True)), 0.0)
    if u.shape[0] < 16:
        return total + jnp.sum(u[:, None, :] * u[None, :, :], axis=2)
    dot = partial(lax.dot_general, dimension_numbers=(((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    high, low = halves(u)
    # One after the other, so that a compiler accumulates into the total's own registers.
    return ((total + dot(high, low)) + dot(low, high)) + dot(high, high)


def _axes(size: int):
    return (lax.broadcasted_iota(jnp.int32, (size, size), axis) for axis in (0, 1))


def turned(vector, axis: int):
    """(1, K) as (K, 1) with axis 1, (K, 1) as (1, K) with axis 0, exactly: a sum of which one term is not zero."""
    i, j = _axes(vector.size)
    return jnp.sum(jnp.where(i == j, vector, 0.0), axis=axis, keepdims=True)


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


class Portable(Program):
    """A program whose vectors are (K, 1) and whose margins are (1, tile)."""

    axis = AXIS

    def __init__(self, spec: Spec, tiles: Tiles, row: tuple, refs: dict[str, Any]):
        self.spec, self.tiles, self.refs = spec, tiles, refs
        self._masses, self._anchors, tau = row
        self.tau = tau[...]

    # Loaded where they are used, rather than held in registers.
    @property
    def masses(self):
        return (self._masses[...],)

    @property
    def anchors(self):
        return (self._anchors[...],)

    @property
    def real(self):
        index = lax.broadcasted_iota(jnp.int32, self._masses.shape, 0)
        return (jnp.where(index < self.spec.k, 1.0, 0.0),)

    def keys(self, tile):
        return self.tiles.line(self.refs["y"], tile)

    def value(self, column, tile):
        return self.tiles.line(self.refs["payload"], tile, column)

    def collect(self, visit, count, coupled):
        size = self._masses.shape[0]
        zeros = (jnp.zeros((size, 1), jnp.float32),) * count
        zeros += (jnp.zeros((size, size), jnp.float32),) * coupled

        def add(tile, totals):
            blocks, w = visit(tile)
            exists = self.tiles.exists(tile)
            new = [jnp.sum(jnp.where(exists, part, 0.0), axis=1, keepdims=True) for (part,) in blocks]
            sums = [total + part for total, part in zip(totals, new, strict=False)]
            return (*sums, *([] if w is None else [_couple(totals[count], w[0], exists)]))

        totals = lax.fori_loop(0, self.tiles.count, add, zeros)
        return tuple((total,) for total in totals[:count]), totals[count] if coupled else None

    def solve(self, coupling, rhs, damping):
        return (_solve(self.spec.k, self.real[0], coupling, rhs[0], damping),)

    def put_rows(self, tile, block):
        self.tiles.store(self.refs["out"], tile, block[0])

    def put_averages(self, averages):
        for column, (average,) in enumerate(averages):
            self.refs["out"][:, one(column)] = average

    def cotangent_rows(self, tile):
        return (self.tiles.load(self.refs["out"], tile, self.spec.wanted),)

    def cotangent_average(self, column):
        return (self.refs["out"][:, one(column)],)

    def put_keys(self, tile, margin):
        self.tiles.put(self.refs["dy"], tile, margin)

    def put_value(self, column, tile, margin):
        self.tiles.put(self.refs["dpayload"], tile, margin, column)


def forward_body(*refs, spec: Spec, tiles: Tiles):
    """refs: y (1, n), [payload (d, n)], psi, masses, anchors (K, 1), tau (1, 1); rows (K, n) or (K, d), psi, sums."""
    y, *payload = refs[: 1 + (spec.payload > 0)]
    start, *row, out, psi_ref, sums_ref = refs[1 + len(payload) :]
    program = Portable(spec, tiles, tuple(row), {"y": y, "payload": payload and payload[0], "out": out})
    (psi,), (sums,) = newton.forward(program, (start[...],))
    psi_ref[...], sums_ref[...] = psi, sums


def backward_body(*refs, spec: Spec, tiles: Tiles):
    """refs: y, [payload], psi, masses, anchors, tau, sums, cotangent (K, n) or (K, d); of y, [payload], masses, tau."""
    count = 1 + (spec.payload > 0)
    y, *payload = refs[:count]
    psi, *row, sums, cotangent = refs[count : count + 6]
    dy, *dpayload, dmasses, dtau = refs[count + 6 :]
    held = {"y": y, "payload": payload and payload[0], "out": cotangent}
    program = Portable(spec, tiles, tuple(row), held | {"dy": dy, "dpayload": dpayload and dpayload[0]})
    (dmasses[...],), dtau[...] = newton.backward(program, (psi[...],), (sums[...],))
