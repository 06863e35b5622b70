"""The logits of a pair (row, column) under each method, and what they depend on: all that tells the methods apart.

SoftSort: -|q_r - x_j| / tau, from one key per row and column.

NeuralSort, with s ascending, P_j = sum_{i <= j} s_i, f the whole part of the rank r and c = 2 (r - f) - 1, has the drop
from the peak (see `softjax._methods.neuralsort.definition`)

    tau D_r(j) = 2 [(P_j - P_f) - (j - f) s_j] + c (s_j - s_f),

for j on either side of f. In this form its terms are n times larger than D, so sums start near by: with
f_0 the first row of a block and m about s_{f_0}, P becomes Q_j = sum_{f_0 < i <= j} (s_i - m) and s becomes s - m. Q is
computed from prefix sums in two floats, once per column and block. Columns may come in any order.
"""

import abc
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from . import maths
from .maths import Value
from .program import Program


class Pairs(abc.ABC):
    """Logits from values per row and per column. `row_terms` per row get a cotangent through their own key."""

    rows: int
    """Channels of values per row."""
    columns: int
    """Channels of values per column."""
    row_terms: int
    column_terms: int

    @abc.abstractmethod
    def of_rows(self, p: Program, ref: Any, tile: Value | None) -> Any:
        """What a block of rows needs."""

    @abc.abstractmethod
    def of_columns(self, p: Program, ref: Any, tile: Value | None) -> Any:
        """What a block of columns needs."""

    @abc.abstractmethod
    def logits(self, p: Program, rows: Any, columns: Any, scale: Value) -> Value:
        """Logits of a tile, at least -reach."""

    @abc.abstractmethod
    def by_row(self, p: Program, rows: Any, columns: Any, scale: Value) -> Sequence[Value]:
        """Tiles f with cotangent_r = sum_j zbar_rj f_rj."""

    @abc.abstractmethod
    def by_column(self, p: Program, rows: Any, columns: Any, scale: Value) -> Sequence[Value | None]:
        """Tiles f of which the column sums of zbar f are wanted; None stands for ones."""


class SoftSortPairs(Pairs):
    """-|q_r - x_j| / tau."""

    rows = columns = row_terms = column_terms = 1

    def __init__(self, reach: float):
        self.reach = reach

    def of_rows(self, p, ref, tile):
        return p.down(p.rows(ref, 0, tile))

    def of_columns(self, p, ref, tile):
        return p.across(p.columns(ref, 0, tile))

    def logits(self, p, rows, columns, scale):
        return maths.distance_logits(rows - columns, scale, self.reach)

    def by_row(self, p, rows, columns, scale):
        return (-maths.sign(rows - columns) * scale,)

    def by_column(self, p, rows, columns, scale):
        return (maths.sign(rows - columns) * scale,)


class NeuralSortPairs(Pairs):
    """The drop from a row's peak. Channels: place, key, prefix sum in two floats; of a row also c."""

    rows, columns, row_terms, column_terms = 5, 4, 0, 2

    def __init__(self, reach: float):
        self.reach = reach

    def of_rows(self, p, ref, tile):
        first = [p.first(ref, c, tile) for c in range(4)]
        place, key, high, low, share = (p.rows(ref, c, tile) for c in range(5))
        near = maths.centred((place, key, high, low), first)
        return first, [p.down(v) for v in near], p.down(key), p.down(share)

    def of_columns(self, p, ref, tile):
        return [p.columns(ref, c, tile) for c in range(4)]

    def logits(self, p, rows, columns, scale):
        first, (place, _, prefix), key, share = rows
        of_column = maths.centred(columns, first)
        column_place, column_key, column_prefix = (p.across(v) for v in of_column)
        drop = 2.0 * ((column_prefix - prefix) - (column_place - place) * column_key)
        z = (drop + share * (p.across(columns[1]) - key)) * scale
        z = jnp.where(z > 0, 0.0, z)
        return jnp.where(z < -self.reach, -self.reach, z)

    def by_row(self, p, rows, columns, scale):
        return ()

    def by_column(self, p, rows, columns, scale):
        return None, self.offset(p, rows, columns)

    def offset(self, p: Program, rows: Any, columns: Any) -> Value:
        """r - j."""
        first, (place, _, _), _, share = rows
        return place + (share + 1.0) * 0.5 - p.across(columns[0] - first[0])
