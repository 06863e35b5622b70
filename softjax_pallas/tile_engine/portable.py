"""The portable program: one `pl.pallas_call` for Mosaic TPU and the CPU interpreter.

A value per row is (rows, 1), a value per column (1, columns). Arrays of values are (batch, channels, size), so that a
block's last two dimensions suit the TPU. Ragged ends are masked at every load; what lies beyond them is not copied out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._kernel import Tile, ceil_div, portable_options, tracing
from .operands import Operand
from .program import Program
from .tiles import fit


@dataclass(frozen=True)
class Shape:
    """The matrix (rows, columns) of one batch row, its tile, and whether programs own rows or columns of it."""

    rows: int
    columns: int
    tile: Tile
    by_rows: bool

    @property
    def blocks(self) -> int:
        """How many programs one batch row has."""
        return ceil_div(self.rows, self.tile.rows) if self.by_rows else ceil_div(self.columns, self.tile.columns)


@dataclass
class Portable(Program):
    """A program of the portable body."""

    shape: Shape
    block: Any

    @property
    def by_rows(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.shape.by_rows

    @property
    def tiles(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        size, tile = (
            (self.shape.columns, self.shape.tile.columns)
            if self.shape.by_rows
            else (self.shape.rows, self.shape.tile.rows)
        )
        return ceil_div(size, tile)

    def down(self, v):
        return v

    def across(self, v):
        return v

    def sum_rows(self, tile):
        return jnp.sum(tile, axis=1, keepdims=True)

    def sum_columns(self, tile):
        return jnp.sum(tile, axis=0, keepdims=True)

    def per_row(self, value):
        return jnp.full((self.shape.tile.rows, 1), value, jnp.float32)

    def per_column(self, value):
        return jnp.full((1, self.shape.tile.columns), value, jnp.float32)

    def largest(self, v):
        return jnp.max(v)

    def _ids(self, size: int, axis: int, tile: Any) -> Any:
        return tile * size + lax.broadcasted_iota(jnp.int32, (1, size) if axis else (size, 1), axis)

    def _line(self, ref, channel, tile, axis):
        """(1, size) of one channel, zero beyond the end."""
        size = self.shape.tile.columns if axis else self.shape.tile.rows
        end = self.shape.columns if axis else self.shape.rows
        ids = self._ids(size, 1, self.block if tile is None else tile)
        place = pl_ds(0 if tile is None else tile, size)
        return self._load(ref, (slice(channel, channel + 1), place), ids < end)

    def _load(self, ref, index, mask):
        return jnp.where(mask, ref[index].astype(jnp.float32), 0.0)

    def rows(self, ref, channel=0, tile=None):
        return self._line(ref, channel, tile, 0).reshape(self.shape.tile.rows, 1)

    def columns(self, ref, channel=0, tile=None):
        return self._line(ref, channel, tile, 1)

    def scalar(self, ref):
        return ref[...]

    def _window(self, tile):
        """Index of a visited tile in the own block of a dense array, and which of its places exist."""
        t = self.shape.tile
        if self.shape.by_rows:
            index, row, column = (slice(None), pl_ds(tile, t.columns)), self.block, tile
        else:
            index, row, column = (pl_ds(tile, t.rows), slice(None)), tile, self.block
        inside = (self._ids(t.rows, 0, row) < self.shape.rows) & (self._ids(t.columns, 1, column) < self.shape.columns)
        return index, inside

    def tile(self, ref, tile):
        return self._load(ref, *self._window(tile))

    def put_tile(self, ref, tile, v):
        ref[self._window(tile)[0]] = v.astype(ref.dtype)

    def put_rows(self, ref, channel, v):
        ref[channel : channel + 1, :] = v.reshape(1, self.shape.tile.rows).astype(ref.dtype)

    def put_columns(self, ref, channel, v):
        ref[channel : channel + 1, :] = v.astype(ref.dtype)

    def valid(self, tile):
        t = self.shape.tile
        if self.shape.by_rows:
            return self._ids(t.columns, 1, tile) < self.shape.columns
        return self._ids(t.rows, 0, tile) < self.shape.rows

    def bound(self, ref, channel):
        from jax.experimental import pallas as pl

        return jnp.max(ref[pl.ds(self.block, 1), channel : channel + 1]).astype(jnp.int32)

    def first(self, ref, channel, tile):
        line = self._line(ref, channel, tile, 0)
        first = lax.broadcasted_iota(jnp.int32, line.shape, 1) == 0
        return jnp.sum(jnp.where(first, line, 0.0), axis=1, keepdims=True)


def pl_ds(tile: Any, size: int) -> Any:
    """The slice of a tile."""
    from jax.experimental import pallas as pl

    return pl.ds(pl.multiple_of(tile * size, size) if not isinstance(tile, int) else tile * size, size)


def _spec(operand: Operand, shape: Shape, channels: int):
    from jax.experimental import pallas as pl

    tile = shape.tile
    if operand.kind == "scalar":
        return pl.BlockSpec((None, 1, 1), lambda b, i: (b, 0, 0))
    padded = {
        "rows": ceil_div(shape.rows, tile.rows) * tile.rows,
        "columns": ceil_div(shape.columns, tile.columns) * tile.columns,
    }
    if operand.kind == "matrix":
        if shape.by_rows:
            return pl.BlockSpec((None, tile.rows, padded["columns"]), lambda b, i: (b, i, 0))
        return pl.BlockSpec((None, padded["rows"], tile.columns), lambda b, i: (b, 0, i))
    if operand.kind == "bounds":
        return pl.BlockSpec((None, shape.blocks, channels), lambda b, i: (b, 0, 0))
    if operand.whole:
        return pl.BlockSpec((None, channels, padded[operand.kind]), lambda b, i: (b, 0, 0))
    return pl.BlockSpec((None, channels, getattr(tile, operand.kind)), lambda b, i: (b, 0, i))


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
    from jax.experimental import pallas as pl

    implementation, name = build
    shape = Shape(*sizes, fit(implementation, tile, *sizes), by_rows)

    def kernel(*refs):
        body(Portable(shape, pl.program_id(1)), refs)

    def call(*arrays):
        out = [jax.ShapeDtypeStruct((arrays[0].shape[0], *o.shape(*sizes)), o.dtype) for o in outputs]
        if 0 in (arrays[0].shape[0], *sizes):
            return tuple(jnp.zeros(o.shape, o.dtype) for o in out)
        with tracing():
            return tuple(
                pl.pallas_call(
                    kernel,
                    out_shape=out,
                    grid=(arrays[0].shape[0], shape.blocks),
                    in_specs=[
                        _spec(o, shape, a.shape[2 if o.kind == "bounds" else 1])
                        for o, a in zip(inputs, arrays, strict=True)
                    ],
                    out_specs=[_spec(o, shape, o.channels) for o in outputs],
                    name=name,
                    **portable_options(implementation),
                )(*arrays)
            )

    return call
