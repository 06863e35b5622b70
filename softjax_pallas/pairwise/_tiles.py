"""Tiles of the pairwise kernels: the sizes that `tuning` has, cut to a matrix that is smaller."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from softjax._modes import Mode

from .. import tuning
from .._kernel import MOSAIC_GPU, Tile, ceil_div, power_of_two

LEAST = 64
"""Rows, or elements of a chunk, of the smallest tile on Mosaic GPU: a warpgroup's."""

FEW = 16
"""Up to this many rows are computed one by one, O(n) each and without a sort or a band."""


def few(method: str, mode: Mode, wanted: int, n: int) -> bool:
    """Are rows times a payload computed one by one? In c0, c1, c2 SoftSort's are up to an eighth of all."""
    return wanted <= (max(FEW, n // 8) if method == "softsort" and mode.degree is not None else FEW)


def fit(implementation: str, tile: Tile, rows: int, columns: int) -> Tile:
    """The tile, no larger than the matrix. A TPU block spans few rows exactly; Triton wants powers of two."""
    if implementation == "pallas_triton":
        return replace(tile, rows=min(tile.rows, power_of_two(rows)), columns=min(tile.columns, power_of_two(columns)))
    if implementation in MOSAIC_GPU:  # whose loads have no masks
        return replace(tile, rows=min(tile.rows, rows // 64 * 64), columns=min(tile.columns, columns // 8 * 8))
    return replace(tile, rows=min(tile.rows, rows))


def matrix(implementation: str, family: str, rows: int, columns: int) -> Tile:
    """The tile of a kernel over a matrix: family "rows" or "columns", which its programs own."""
    return fit(implementation, tuning.tile(implementation, family), rows, columns)


def chunk(implementation: str, n: int) -> Tile:
    """The recurrence's chunk of n keys: dense inside, a carry between."""
    tile = tuning.tile(implementation, "chunks")
    if implementation not in MOSAIC_GPU:
        return tile
    size = min(tile.rows, n // LEAST * LEAST)
    return replace(tile, rows=size, columns=size)


def ends(n: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last elements of tiles of a length; the last tile may be shorter."""
    starts = np.arange(ceil_div(n, length)) * length
    return starts, np.minimum(starts + length, n) - 1


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
    """Sizes of the tiles and of the recurrence's chunks, before they are cut to a matrix that is smaller."""
    del op, arguments
    rows, columns = (tuning.tile(implementation, family) for family in ("rows", "columns"))
    size = {"rows": rows.rows, "columns": rows.columns}
    if (rows.rows, rows.columns) != (columns.rows, columns.columns):
        size |= {"rows by columns": columns.rows, "columns by columns": columns.columns}
    return size | {"chunk": tuning.tile(implementation, "chunks").rows, "warps": rows.warps}
