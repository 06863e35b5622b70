"""The Mosaic GPU program (compute capability >= 9.0): one warpgroup per block, straight between registers and memory.

A tile is a 2-D array in the WGMMA layout, a value per row or column a 1-D array in that layout reduced. Its lanes
access two neighbours of a row at once, which must lie at an even place in memory. Where rows have an odd length every
other one starts at an odd place, and a layout of single elements takes over.

Loads have no masks: at a ragged end a block starts earlier, so that it overlaps the block before it. What a loop visits
twice is masked; what two programs own is computed twice, and both store the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._kernel import Tile, ceil_div, mosaic_gpu_options, mosaic_gpu_store, tracing
from .operands import Operand
from .program import Program
from .tiles import fit

MOST_ROWS = 65_535
"""Rows of the batch in one launch: CUDA's limit of a grid's second dimension."""

SINGLES = (64, 8), (16, 8), (4, 8), (1,)
"""Tiles within tiles: 64 rows over four warps, and 4 rows of 8 columns over a warp's lanes, one element each."""


@dataclass
class MosaicGPU(Program):
    """A program of the Mosaic GPU body."""

    sizes: tuple[int, int]
    tile_shape: Tile
    by_rows: bool
    batch: Any
    block: Any
    again: dict[int, Any]
    """Each input's second reference. The compiler merges equal loads, and one load has one layout."""

    @cached_property
    def _layout(self):
        from jax.experimental.pallas import mosaic_gpu as plgpu

        if self.sizes[1] % 2 == 0:
            return plgpu.Layout.WGMMA
        return plgpu.Layout.TILED(plgpu.Tiling(SINGLES), warp_dims=(-7,), lane_dims=(-3, -2), vector_dim=-1)

    @property
    def tiles(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return ceil_div(self.sizes[self.by_rows], self._length(int(self.by_rows)))

    def _length(self, axis: int) -> int:
        return self.tile_shape.columns if axis else self.tile_shape.rows

    def _place(self, tile: Any, axis: int):
        """The slice of a tile, or of the own block, along rows (0) or columns (1)."""
        from jax.experimental import pallas as pl

        length = self._length(axis)
        start = jnp.minimum((self.block if tile is None else tile) * length, self.sizes[axis] - length)
        return pl.ds(start, length)

    def _load(self, ref, index, layout):
        from jax.experimental.pallas import mosaic_gpu as plgpu

        return plgpu.load(ref.at[(self.batch, *index)], layout=layout, optimized=False).astype(jnp.float32)

    def _pin(self, v, axis=None):
        """Layouts are stated wherever a value changes its kind: the compiler's search for them is exponential."""
        from jax.experimental.pallas import mosaic_gpu as plgpu

        return plgpu.layout_cast(v, self._layout if axis is None else self._layout.reduce(1 - axis))

    def down(self, v):
        return self._pin(lax.broadcast_in_dim(v, (self.tile_shape.rows, self.tile_shape.columns), (0,)))

    def across(self, v):
        return self._pin(lax.broadcast_in_dim(v, (self.tile_shape.rows, self.tile_shape.columns), (1,)))

    def sum_rows(self, tile):
        return self._pin(jnp.sum(tile, axis=1), 0)

    def sum_columns(self, tile):
        return self._pin(jnp.sum(tile, axis=0), 1)

    def _constant(self, value, axis):
        return self._pin(jnp.full((self._length(axis),), value, jnp.float32), axis)

    def per_row(self, value):
        return self._constant(value, 0)

    def per_column(self, value):
        return self._constant(value, 1)

    def largest(self, v):
        return jnp.max(v)

    def rows(self, ref, channel=0, tile=None):
        return self._load(self.again[id(ref)], (channel, self._place(tile, 0)), self._layout.reduce(1))

    def columns(self, ref, channel=0, tile=None):
        return self._load(ref, (channel, self._place(tile, 1)), self._layout.reduce(0))

    def scalar(self, ref):
        return ref[self.batch, 0, 0]

    def _window(self, tile):
        row, column = (None, tile) if self.by_rows else (tile, None)
        return self._place(row, 0), self._place(column, 1)

    def tile(self, ref, tile):
        return self._load(ref, self._window(tile), self._layout)

    def _store(self, ref, index, v):
        mosaic_gpu_store(ref.at[(self.batch, *index)], v)

    def put_tile(self, ref, tile, v):
        self._store(ref, self._window(tile), v)

    def put_rows(self, ref, channel, v):
        self._store(ref, (channel, self._place(None, 0)), v)

    def put_columns(self, ref, channel, v):
        self._store(ref, (channel, self._place(None, 1)), v)

    def valid(self, tile):
        from jax.experimental.pallas import mosaic_gpu as plgpu

        axis = int(self.by_rows)
        length = self._length(axis)
        first = tile * length
        start = jnp.minimum(first, self.sizes[axis] - length)
        shape = self.tile_shape.rows, self.tile_shape.columns
        return start + plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=self._layout) >= first

    def bound(self, ref, channel):
        return ref[self.batch, self.block, channel].astype(jnp.int32)

    def first(self, ref, channel, tile):
        return ref[self.batch, channel, self._place(tile, 0).start]


def run(
    body: Callable[..., None],
    sizes: tuple[int, int],
    by_rows: bool,
    tile: Tile,
    inputs: Sequence[Operand],
    outputs: Sequence[Operand],
    build: tuple[str, str],
) -> Callable[..., Any]:
    """The kernel as a function of arrays (batch, ...); `build` is (implementation, name)."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    implementation, name = build
    tile = fit(implementation, tile, *sizes)
    length = tile.rows if by_rows else tile.columns
    blocks = ceil_div(sizes[not by_rows], length)

    count = len(inputs)

    def kernel(*refs):
        given = refs[:count] + refs[2 * count :]
        again = {id(ref): other for ref, other in zip(refs[:count], refs[count:], strict=False)}
        body(MosaicGPU(sizes, tile, by_rows, lax.axis_index("b"), lax.axis_index("i"), again), given)

    kernel.__name__ = kernel.__qualname__ = name  # what the compiled kernel is called

    def call(*arrays):
        batch = arrays[0].shape[0]
        out = [jax.ShapeDtypeStruct((batch, *o.shape(*sizes)), o.dtype) for o in outputs]
        if batch == 0:
            return tuple(jnp.zeros(o.shape, o.dtype) for o in out)
        if batch > MOST_ROWS:
            pieces = [call(*(a[i : i + MOST_ROWS] for a in arrays)) for i in range(0, batch, MOST_ROWS)]
            return tuple(jnp.concatenate(parts) for parts in zip(*pieces, strict=True))
        with tracing():
            launch = plgpu.kernel(
                kernel,
                out_type=out,
                grid=(batch, blocks),
                grid_names=("b", "i"),
                **mosaic_gpu_options(implementation),
            )
            return tuple(launch(*arrays, *arrays))

    return call
