"""Tiles of the pairwise kernels: the sizes that `tuning` has, cut to a matrix that is smaller."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .. import tuning
from .._kernel import MOSAIC_GPU, Tile, ceil_div

LEAST = 64
"""Rows of the smallest tile on Mosaic GPU: a warpgroup's."""

FEW = 16
"""Up to this many rows are multiplied by a payload one by one, O(n) each and without a band."""


def fit(implementation: str, tile: Tile, rows: int, columns: int) -> Tile:
    """The tile, no larger than the matrix. A TPU block spans few rows exactly."""
    if implementation in MOSAIC_GPU:  # whose loads have no masks
        return replace(tile, rows=min(tile.rows, rows // 64 * 64), columns=min(tile.columns, columns // 8 * 8))
    return replace(tile, rows=min(tile.rows, rows))


def matrix(implementation: str, family: str, rows: int, columns: int) -> Tile:
    """The tile of a kernel over a matrix: family "rows" or "columns", which its programs own."""
    return fit(implementation, tuning.tile(implementation, family), rows, columns)


def ends(n: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last elements of tiles of a length; the last tile may be shorter."""
    starts = np.arange(ceil_div(n, length)) * length
    return starts, np.minimum(starts + length, n) - 1


def block_ends(implementation: str, n: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last elements of blocks of a length; Mosaic GPU's last one starts earlier instead of ending short."""
    starts, last = ends(n, length)
    return (np.minimum(starts, n - length) if implementation in MOSAIC_GPU else starts), last


def at(values: Array, places: np.ndarray) -> Array:
    """values[..., places] of ascending places; by slices where they are evenly spaced but for the last."""
    part = lambda first, last, step=1: lax.slice_in_dim(values, int(first), int(last) + 1, int(step), axis=-1)
    steps = np.diff(places)
    if len(set(steps)) <= 1:
        return part(places[0], places[-1], max(steps, default=1))
    if len(set(steps[:-1])) > 1:
        return values[..., places]
    return jnp.concatenate([part(places[0], places[-2], steps[0]), part(places[-1], places[-1])], axis=-1)


def tiles(op: str, implementation: str, *arguments: Any) -> dict[str, int]:
    """Sizes of the tiles, before they are cut to a matrix that is smaller."""
    del op, arguments
    rows, columns = (tuning.tile(implementation, family) for family in ("rows", "columns"))
    size = {"rows": rows.rows, "columns": rows.columns}
    if (rows.rows, rows.columns) != (columns.rows, columns.columns):
        size |= {"rows by columns": columns.rows, "columns by columns": columns.columns}
    return size
