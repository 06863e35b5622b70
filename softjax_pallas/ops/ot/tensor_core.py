"""The Mosaic GPU program for 9 to 47 anchors: a warpgroup per row, 64 keys by K anchors in the WGMMA layout.

The Laplacian is accumulated by the tensor cores from two bfloat16 halves of the sensitivities. The k x k system has the
anchors on both axes, its right-hand side in the last column, and is eliminated where it lies, in registers.
Loads have no masks: the last tile starts earlier, overlaps the one before it, and what it repeats is left out of sums.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from ..._kernel import mosaic_gpu_store
from .maths import Axis, halves
from .newton import Program
from .spec import Spec

ROWS = 64
"""Keys at a time, and the rows of the k x k system: the height of a tensor core operation."""


TILED = 16
"""Blocks have a multiple of so many columns: a tile of shared memory in bfloat16."""


def padded(k: int) -> int:
    """Columns of a block: one at least is left for the right-hand side."""
    return (k // TILED + 1) * TILED


def scratch(k: int) -> dict[str, Any]:
    """The shared memory of a program: the halves, and the couplings at the potentials that were accepted last."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    # Both are concrete: what their base declares beyond them is not for kernels.
    tiling = plgpu.TilingTransform((8, TILED))  # pyright: ignore[reportAbstractUsage]
    swizzled = tiling, plgpu.SwizzleTransform(2 * TILED)  # pyright: ignore[reportAbstractUsage]
    half = plgpu.SMEM((ROWS, ROWS), jnp.bfloat16, transforms=swizzled)
    return {"high": half, "low": half, "held": plgpu.SMEM((ROWS, padded(k)), jnp.float32)}


class Many(Program):
    """A program whose vectors are 1-D arrays of K anchors and whose margins are 1-D arrays of 64 keys."""

    def __init__(self, spec: Spec, batch: Any, refs: dict[str, Any]):
        from jax.experimental.pallas import mosaic_gpu as plgpu

        self.spec, self.size, self.batch, self.refs = spec, padded(spec.k), batch, refs
        self.layout = plgpu.Layout.WGMMA
        self.per_key, self.per_anchor = self.layout.reduce(1), self.layout.reduce(0)
        self.axis = Axis(
            total=lambda block: self._row_sums(block[0]),
            largest=lambda block: self._cast(jnp.max(block[0], axis=1), self.per_key),
            spread=self._down,
            lift=self._across,
            any_key=jnp.max,
            vector_sum=lambda vector: jnp.sum(vector[0]),
            vector_max=lambda vector: jnp.max(vector[0]),
            scalar=lambda number: number,
        )
        self.tau = refs["tau"][batch, 0]
        if self.size < ROWS:
            for name in ("high", "low"):
                refs[name][...] = plgpu.layout_cast(jnp.zeros((ROWS, ROWS), jnp.bfloat16), self.layout)

    # A vector is K / 4 registers of every thread: these are loaded again wherever they are used.
    @property
    def masses(self):
        return self.vector("masses")

    @property
    def anchors(self):
        return self.vector("anchors")

    @property
    def real(self):
        return self.vector("real")

    def vector(self, name: str) -> tuple:
        """A vector from memory."""
        return (self._load(name, self.per_anchor),)

    def put_vector(self, name: str, vector: tuple) -> None:
        """A vector to memory."""
        self._store(name, vector[0])

    def _cast(self, value, layout):
        """The layout said, where inference would search for it."""
        from jax.experimental.pallas import mosaic_gpu as plgpu

        return plgpu.layout_cast(value, layout)

    def _down(self, margin):
        return self._cast(lax.broadcast_in_dim(margin, (ROWS, self.size), (0,)), self.layout)

    def _across(self, part):
        return self._cast(lax.broadcast_in_dim(part, (ROWS, self.size), (1,)), self.layout)

    def _row_sums(self, block):
        return self._cast(jnp.sum(block, axis=1), self.per_key)

    def _column_sums(self, block):
        return self._cast(jnp.sum(block, axis=0), self.per_anchor)

    def _index(self, axis: int):
        from jax.experimental.pallas import mosaic_gpu as plgpu

        return plgpu.broadcasted_iota(jnp.int32, (ROWS, self.size), axis, layout=self.layout)

    def _zeros(self):
        from jax.experimental.pallas import mosaic_gpu as plgpu

        return plgpu.layout_cast(jnp.zeros((ROWS, self.size), jnp.float32), self.layout)

    def _start(self, tile):
        return jnp.minimum(tile * ROWS, self.spec.n - ROWS)

    def _at(self, tile):
        from jax.experimental import pallas as pl

        return pl.ds(self._start(tile), ROWS)

    def _load(self, name: str, layout, *index):
        from jax.experimental.pallas import mosaic_gpu as plgpu

        ref = self.refs[name].at[(self.batch, *index)]
        return plgpu.load(ref, layout=layout, optimized=False).astype(jnp.float32)

    def _store(self, name: str, value, *index):
        mosaic_gpu_store(self.refs[name].at[(self.batch, *index)], value)

    def keys(self, tile):
        return self._load("y", self.per_key, self._at(tile))

    def value(self, column, tile):
        return self._load("payload", self.per_key, column, self._at(tile))

    def collect(self, visit, count, coupled):
        from jax.experimental import pallas as pl
        from jax.experimental.pallas import mosaic_gpu as plgpu

        def sweep(accumulator):
            def add(tile, totals):
                blocks, w = visit(tile)
                exists = self._start(tile) + self._index(0) >= tile * ROWS
                new = [jnp.where(exists, part, 0.0) for (part,) in blocks]
                totals = tuple(total + part for total, part in zip(totals, new, strict=True))
                if w is not None:
                    inverse = self.axis.spread(lax.rsqrt(self.axis.total(w)))
                    self._couple(accumulator, jnp.where(exists, w[0] * inverse, 0.0))
                return totals

            totals = lax.fori_loop(0, -(-self.spec.n // ROWS), add, (self._zeros(),) * count)
            sums = tuple((self._column_sums(total),) for total in totals)
            return sums, accumulator[...] if coupled else None

        if not coupled:
            return sweep(None)
        return pl.run_scoped(sweep, plgpu.WGMMAAccumulatorRef((ROWS, self.size), jnp.float32))

    def _couple(self, accumulator, u):
        """accumulator += u^T u."""
        from jax.experimental import pallas as pl
        from jax.experimental.pallas import mosaic_gpu as plgpu

        inside = pl.ds(0, self.size)
        high, low = self.refs["high"], self.refs["low"]
        high[:, inside], low[:, inside] = halves(u)
        plgpu.commit_smem()
        for left, right in ((high, high), (high, low), (low, high)):
            plgpu.wgmma(accumulator, left.transpose((1, 0)), right.at[:, inside])
        plgpu.wgmma_wait(0)

    def keep(self, better, new, old):
        from jax.experimental.pallas import mosaic_gpu as plgpu

        held = self.refs["held"]
        before = plgpu.load(held, layout=self.layout, optimized=False)
        accepted = jnp.where(lax.broadcast(better, new.shape) > 0, new, before)
        mosaic_gpu_store(held, accepted)
        return ()

    def solve(self, coupling, rhs, damping):
        from jax.experimental.pallas import mosaic_gpu as plgpu

        if isinstance(coupling, tuple):
            coupling = plgpu.load(self.refs["held"], layout=self.layout, optimized=False)
        k, i, j = self.spec.k, self._index(0), self._index(1)
        off = jnp.where(i == j, 0.0, coupling)
        degree = self._row_sums(off)
        level = jnp.maximum(jnp.max(degree), damping) / k
        diagonal = self._down(degree) + jnp.where(i < k, damping, 1.0)
        matrix = jnp.where(i == j, diagonal, -off) + jnp.where((i < k) & (j < k), level, 0.0)
        turned = self._row_sums(jnp.where(i == j, self._across(rhs[0]), 0.0))
        matrix = jnp.where(j == self.size - 1, self._down(turned), matrix)

        def eliminate(step, matrix):
            line = self._across(self._column_sums(jnp.where(i == step, matrix, 0.0)))
            column = self._down(self._row_sums(jnp.where(j == step, matrix, 0.0)))
            pivot = self._down(self._row_sums(jnp.where(j == step, line, 0.0)))
            return matrix - jnp.where(i == step, 0.0, column / pivot) * line

        matrix = lax.fori_loop(0, k, eliminate, matrix)
        value = self._row_sums(jnp.where(j == self.size - 1, matrix, 0.0))
        pivots = self._row_sums(jnp.where(i == j, matrix, 0.0))
        # Back to one number for each column; rows beyond k hold none.
        solution = jnp.where((i == j) & (i < k), self._down(value / pivots), 0.0)
        return (self._column_sums(solution),)

    def put_rows(self, tile, block):
        def put(j, _):
            self._store("out", self._row_sums(jnp.where(self._index(1) == j, block[0], 0.0)), j, self._at(tile))

        lax.fori_loop(0, self.spec.wanted, put, None)

    def put_averages(self, averages):
        for column, (average,) in enumerate(averages):
            self._store("out", average, column)

    def cotangent_rows(self, tile):
        def get(j, block):
            row = self._load("out", self.per_key, j, self._at(tile))
            return jnp.where(self._index(1) == j, self._down(row), block)

        return (lax.fori_loop(0, self.spec.wanted, get, self._zeros()),)

    def cotangent_average(self, column):
        return self.vector_at("out", column)

    def vector_at(self, name: str, index: int) -> tuple:
        """One of several vectors from memory."""
        return (self._load(name, self.per_anchor, index),)

    def put_keys(self, tile, margin):
        self._store("dy", margin, self._at(tile))

    def put_value(self, column, tile, margin):
        self._store("dpayload", margin, column, self._at(tile))
