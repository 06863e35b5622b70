"""How arrays meet programs: the operands and results of a kernel, for every compiler."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp


@dataclass(frozen=True)
class Operand:
    """An array (batch, channels, size) with one value per row or column, a (batch, rows, columns) matrix, a scalar, or
    "bounds" (batch, blocks, 2) with the range of tiles that every block visits.

    `whole` gives every program all of it rather than its own block's part. `channels` and `dtype` are for results.
    """

    kind: str
    whole: bool = False
    channels: int = 1
    dtype: Any = jnp.float32

    def shape(self, rows: int, columns: int) -> tuple[int, ...]:
        """A result's shape behind the batch."""
        if self.kind == "matrix":
            return rows, columns
        return self.channels, rows if self.kind == "rows" else columns


OWN_ROWS, WHOLE_ROWS = Operand("rows"), Operand("rows", whole=True)
OWN_COLUMNS, WHOLE_COLUMNS = Operand("columns"), Operand("columns", whole=True)
MATRIX, SCALAR, BOUNDS = Operand("matrix"), Operand("scalar"), Operand("bounds")


def results(dtype: Any, *matrices: Operand, rows: int = 0, columns: int = 0) -> tuple[Operand, ...]:
    """Matrices of a dtype, and values per row or column with so many channels (float32 beside a matrix)."""
    out = [Operand("matrix", dtype=dtype) for _ in matrices]
    other = jnp.float32 if matrices else dtype
    out += [Operand("rows", channels=rows, dtype=other)] if rows else []
    out += [Operand("columns", channels=columns, dtype=other)] if columns else []
    return tuple(out)
