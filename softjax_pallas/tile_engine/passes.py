"""The kernels over tiles as differentiable functions: P, P v, and the column sums of P, from values per row and column.

These know nothing of sorting. Their cotangents are those of the logits' own inputs: a key per row and column
(SoftSort), or the column sums from which NeuralSort's follow.
"""

from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from softjax._types import Float

from . import bodies, tiles
from .launch import launch
from .logits import NeuralSortPairs, Pairs, SoftSortPairs
from .operands import BOUNDS, MATRIX, OWN_COLUMNS, OWN_ROWS, SCALAR, WHOLE_COLUMNS, WHOLE_ROWS, results

PAIRS = {"softsort": SoftSortPairs, "neuralsort": NeuralSortPairs}


@dataclass(frozen=True)
class Spec:
    """What a kernel is built from, besides shapes."""

    implementation: str
    method: str
    degree: int | None
    reach: float

    @property
    def pairs(self) -> Pairs:
        """The method's logits."""
        return PAIRS[self.method](self.reach)


class Common(NamedTuple):
    """The operands of every kernel. `bounds` are the tiles each block visits, by rows and by columns."""

    rows: Float[Array, "batch k r"]
    columns: Float[Array, "batch k n"]
    scale: Float[Array, "batch 1 1"]
    bounds: tuple[Float[Array, "batch m 2"], Float[Array, "batch m 2"]] | None = None


class Given(NamedTuple):
    """A cotangent of P: arrays, and how a kernel by rows and one by columns read them."""

    arrays: tuple
    by_rows: tuple
    by_columns: tuple


def matrix(g: Float[Array, "batch r n"]) -> Given:
    """A cotangent that is stored."""
    return Given((g,), (MATRIX,), (MATRIX,))


def product(w: Float[Array, "batch d r"], v: Float[Array, "batch d n"]) -> Given:
    """The cotangent sum_d w_dr v_dj."""
    return Given((w, v), (OWN_ROWS, WHOLE_COLUMNS), (WHOLE_ROWS, OWN_COLUMNS))


def offsets(m_and_h: Float[Array, "batch 2 n"]) -> Given:
    """The cotangent ((r - j) - m_j) h_j."""
    return Given((m_and_h,), (WHOLE_COLUMNS,), (OWN_COLUMNS,))


def run(spec: Spec, body: Any, by_rows: bool, common: Common, more: tuple[tuple, tuple], outputs: tuple) -> Any:
    """Run a body on the common operands and more: (their operands, the arrays)."""
    sizes = common.rows.shape[2], common.columns.shape[2]
    inputs = (OWN_ROWS, WHOLE_COLUMNS, SCALAR) if by_rows else (WHOLE_ROWS, OWN_COLUMNS, SCALAR)
    arrays = common[:3]
    if common.bounds is not None:
        inputs, arrays = (*inputs, BOUNDS), (*arrays, common.bounds[0 if by_rows else 1])
    count = len(inputs)

    @wraps(body)
    def bound(program, refs):
        body(program, spec.pairs, spec.degree, tuple(refs[:count]), tuple(refs[count:]))

    bound.__name__ = f"{spec.method}_{body.__name__}"
    tile = tiles.matrix(spec.implementation, "rows" if by_rows else "columns", *sizes)
    return launch(spec.implementation, bound, by_rows, sizes, ((*inputs, *more[0]), outputs), tile)(*arrays, *more[1])


def rows(spec: Spec, common: Common, dtype: Any) -> tuple[Float[Array, "batch r n"], Float[Array, "batch 2 r"]]:
    """P, and what its backward pass wants to know."""
    return run(spec, bodies.rows, True, common, ((), ()), results(dtype, MATRIX, rows=2))


def apply(spec: Spec, common: Common, v: Float[Array, "batch d n"]) -> tuple[Array, Array]:
    """P v (batch, d, r), and what its backward pass wants to know."""
    outputs = results(v.dtype, rows=v.shape[1]) + results(jnp.float32, rows=2)
    return run(spec, bodies.apply, True, common, ((WHOLE_COLUMNS,), (v,)), outputs)


def column_sums(spec: Spec, common: Common, norm: Float[Array, "batch 2 r"]) -> Float[Array, "batch 2 n"]:
    """sum_r P_rj and sum_r P_rj (r - j)."""
    return run(spec, bodies.column_sums, False, common, ((WHOLE_ROWS,), (norm,)), results(jnp.float32, columns=2))[0]


def pull(spec: Spec, common: Common, norm: Array, given: Given, rank: bool = False) -> tuple[Array, Array, Array]:
    """Cotangents from one of P: per row (batch, terms, r), per column (batch, terms + 1 + d, n), of tau times tau."""
    by_rows, by_columns = (
        (bodies.back_rows_of_rank, bodies.back_columns_of_rank) if rank else (bodies.back_rows, bodies.back_columns)
    )
    pairs = spec.pairs
    outputs = results(jnp.float32, rows=1 + pairs.row_terms)
    (own,) = run(spec, by_rows, True, common, ((*given.by_rows, OWN_ROWS), (*given.arrays, norm)), outputs)
    d = given.arrays[1].shape[1] if len(given.arrays) == 2 else 0
    outputs = results(jnp.float32, columns=pairs.column_terms + 1 + d)
    more = (*given.by_columns, WHOLE_ROWS, WHOLE_ROWS), (*given.arrays, norm, own)
    (columns,) = run(spec, by_columns, False, common, more, outputs)
    return own[:, 1:], columns, -jnp.sum(columns[:, pairs.column_terms], axis=-1)
