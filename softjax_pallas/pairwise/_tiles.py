"""Tile sizes of the pairwise kernels, per compiler: what compiles without spills; not yet timed on hardware."""

from typing import Any

from .._kernel import Tile

ROWS = {
    "pallas_triton": Tile(32, 64, 4),
    "pallas_mosaic_gpu": Tile(64, 64, 4),
    "pallas_mosaic_tpu": Tile(128, 128),
    "pallas_interpret": Tile(32, 64),
    "pallas_interpret_races": Tile(8, 8),
    "pallas_interpret_gpu": Tile(64, 64),
}
"""Tiles of the soft permutation, for kernels that own rows."""

COLUMNS = ROWS | {"pallas_mosaic_gpu": Tile(64, 32, 4), "pallas_interpret_gpu": Tile(64, 32)}
"""The same for kernels that own columns."""

CHUNKS = {
    "pallas_triton": Tile(32, 32, 1),
    "pallas_mosaic_gpu": Tile(64, 64, 4),
    "pallas_mosaic_tpu": Tile(128, 128, parts=8),
    "pallas_interpret": Tile(32, 32, parts=2),
    "pallas_interpret_races": Tile(8, 8),
    "pallas_interpret_gpu": Tile(64, 64),
}
"""Chunks of the recurrence: dense inside, a carry between."""


def tiles(op: str, implementation: str, *arguments: Any) -> dict[str, int]:
    """Sizes of the tiles and of the recurrence's chunks, before they are cut to a matrix that is smaller."""
    del op, arguments
    tile = ROWS[implementation]
    return {"rows": tile.rows, "columns": tile.columns, "chunk": CHUNKS[implementation].rows, "warps": tile.warps}
