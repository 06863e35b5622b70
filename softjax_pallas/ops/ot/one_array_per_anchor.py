"""The Mosaic GPU program for up to 8 anchors: a warpgroup per row, one 1-D array of keys for each anchor.

A vector is a tuple of scalars, so the k x k system is solved in scalar registers and the anchors cost no padding.
Loads have no masks: the last tile starts earlier, overlaps the one before it, and what it repeats is left out of sums.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import jax.numpy as jnp
from jax import lax

from ..._kernel import mosaic_gpu_store
from .maths import Axis
from .newton import Program
from .spec import Spec

AXIS = Axis(
    total=lambda block: reduce(jnp.add, block),
    largest=lambda block: reduce(jnp.maximum, block),
    spread=lambda margin: margin,
    lift=lambda part: part,
    any_key=jnp.max,
    vector_sum=lambda vector: reduce(jnp.add, vector),
    vector_max=lambda vector: reduce(jnp.maximum, vector),
    scalar=lambda number: number,
)


def eliminate(matrix: list[list[Any]], rhs: Sequence[Any]) -> tuple:
    """matrix^-1 rhs for a positive definite matrix of scalars, unrolled."""
    k = len(rhs)
    matrix, rhs = [list(line) for line in matrix], list(rhs)
    for step in range(k):
        inverse = 1 / matrix[step][step]
        for i in range(step + 1, k):
            factor = matrix[i][step] * inverse
            for j in range(step + 1, k):
                matrix[i][j] -= factor * matrix[step][j]
            rhs[i] -= factor * rhs[step]
    for step in reversed(range(k)):
        later = sum(matrix[step][j] * rhs[j] for j in range(step + 1, k))
        rhs[step] = (rhs[step] - later) / matrix[step][step]
    return tuple(rhs)


class Few(Program):
    """A program whose vectors are tuples of k scalars and whose margins are 1-D arrays of `width` keys."""

    axis = AXIS

    def __init__(self, spec: Spec, width: int, batch: Any, refs: dict[str, Any]):
        from jax.experimental.pallas import mosaic_gpu as plgpu

        self.spec, self.width, self.batch, self.refs = spec, width, batch, refs
        self.layout = plgpu.Layout.WG_STRIDED((width,), vec_size=1)
        self._masses, self._anchors = self.vector("masses"), self.vector("anchors")
        self.tau = refs["tau"][batch, 0]

    @property
    def masses(self):
        return self._masses

    @property
    def anchors(self):
        return self._anchors

    @property
    def real(self):
        return (jnp.float32(1),) * self.spec.k

    def vector(self, name: str) -> tuple:
        """A vector from memory."""
        return tuple(self.refs[name][self.batch, j] for j in range(self.spec.k))

    def put_vector(self, name: str, vector: tuple) -> None:
        """A vector to memory."""
        for j, number in enumerate(vector):
            self.refs[name][self.batch, j] = number

    def _at(self, tile):
        from jax.experimental import pallas as pl

        return pl.ds(jnp.minimum(tile * self.width, self.spec.n - self.width), self.width)

    def _load(self, name: str, *index):
        from jax.experimental.pallas import mosaic_gpu as plgpu

        ref = self.refs[name].at[(self.batch, *index)]
        return plgpu.load(ref, layout=self.layout, optimized=False).astype(jnp.float32)

    def _store(self, name: str, margin, *index):
        mosaic_gpu_store(self.refs[name].at[(self.batch, *index)], margin)

    def _zeros(self):
        from jax.experimental.pallas import mosaic_gpu as plgpu

        return plgpu.layout_cast(jnp.zeros((self.width,), jnp.float32), self.layout)

    def _exists(self, tile):
        from jax.experimental.pallas import mosaic_gpu as plgpu

        start = jnp.minimum(tile * self.width, self.spec.n - self.width)
        return start + plgpu.broadcasted_iota(jnp.int32, (self.width,), 0, layout=self.layout) >= tile * self.width

    def keys(self, tile):
        return self._load("y", self._at(tile))

    def value(self, column, tile):
        return self._load("payload", column, self._at(tile))

    def collect(self, visit, count, coupled):
        k = self.spec.k
        pairs = [(i, j) for i in range(k) for j in range(i)] if coupled else []
        zeros = (self._zeros(),) * (count * k + len(pairs))

        def add(tile, totals):
            blocks, w = visit(tile)
            exists = self._exists(tile)
            new = [jnp.where(exists, part, 0.0) for block in blocks for part in block]
            if w is not None:
                inverse = jnp.where(exists, 1 / self.axis.total(w), 0.0)
                new += [w[i] * w[j] * inverse for i, j in pairs]
            return tuple(total + part for total, part in zip(totals, new, strict=True))

        totals = [jnp.sum(total) for total in lax.fori_loop(0, -(-self.spec.n // self.width), add, zeros)]
        vectors = tuple(tuple(totals[k * i : k * (i + 1)]) for i in range(count))
        return vectors, tuple(totals[k * count :]) if coupled else None

    def solve(self, coupling, rhs, damping):
        k = self.spec.k
        place = {pair: number for number, pair in enumerate((i, j) for i in range(k) for j in range(i))}
        off = [[coupling[place[max(i, j), min(i, j)]] if i != j else 0.0 for j in range(k)] for i in range(k)]
        degrees = [sum(line) for line in off]
        level = jnp.maximum(reduce(jnp.maximum, degrees), damping) / k
        matrix = [[level + (degrees[i] + damping if i == j else -off[i][j]) for j in range(k)] for i in range(k)]
        return eliminate(matrix, rhs)

    def put_rows(self, tile, block):
        for j in range(self.spec.wanted):
            self._store("out", block[j], j, self._at(tile))

    def put_averages(self, averages):
        for column, average in enumerate(averages):
            for j in range(self.spec.wanted):
                self.refs["out"][self.batch, column, j] = average[j]

    def _fill(self, wanted: list, zero) -> tuple:
        return (*wanted, *(zero for _ in range(self.spec.k - self.spec.wanted)))

    def cotangent_rows(self, tile):
        rows = [self._load("out", j, self._at(tile)) for j in range(self.spec.wanted)]
        return self._fill(rows, self._zeros())

    def cotangent_average(self, column):
        numbers = [self.refs["out"][self.batch, column, j] for j in range(self.spec.wanted)]
        return self._fill(numbers, jnp.float32(0))

    def put_keys(self, tile, margin):
        self._store("dy", margin, self._at(tile))

    def put_value(self, column, tile, margin):
        self._store("dpayload", margin, column, self._at(tile))
