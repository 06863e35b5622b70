"""SoftSort by tiles: rows of the soft permutation, and rows times a payload, for all modes.

The keys of the rows are elements of x, so every row of logits has the maximum 0.
"""

from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from softjax._modes import Mode
from softjax._orders._base import Keys, PerRow, Ranks
from softjax._orders.softsort import order_statistics

from . import _softsort_bodies as bodies
from . import _tiles
from ._launch import launch, scale_of
from ._operands import MATRIX, OWN_COLUMNS, OWN_ROWS, SCALAR, WHOLE_COLUMNS, WHOLE_ROWS, results


@dataclass(frozen=True)
class Spec:
    """What a kernel is built from, besides shapes."""

    implementation: str
    degree: int | None
    reach: float

    def launch(self, body: Any, by_rows: bool, sizes: tuple[int, int], inputs: Any, outputs: Any) -> Any:
        """The kernel of a body."""
        bound = wraps(body)(lambda program, refs: body(program, self.degree, self.reach, refs))
        table = _tiles.ROWS if by_rows else _tiles.COLUMNS
        return launch(self.implementation, bound, by_rows, sizes, (inputs, outputs), table)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def distributions(spec: Spec, q: Float[Array, "batch r"], x: Keys, tau: PerRow) -> Float[Array, "batch r n"]:
    """Row i is the projection of -|q_i - x_j| / tau."""
    return _distributions_forward(spec, q, x, tau)[0]


def _distributions_forward(spec, q, x, tau):
    sizes = q.shape[1], x.shape[1]
    kernel = spec.launch(
        bodies.softsort_rows, True, sizes, (OWN_ROWS, WHOLE_COLUMNS, SCALAR), results(x.dtype, MATRIX, rows=2)
    )
    p, norm = kernel(q[:, None], x[:, None], scale_of(x, tau))
    return p, (q, x, tau, norm)


def _distributions_backward(spec, residuals, g):
    return _pull(spec, residuals, (g,))[0]


distributions.defvjp(_distributions_forward, _distributions_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def averages(
    spec: Spec, q: Float[Array, "batch r"], x: Keys, tau: PerRow, v: Float[Array, "batch d n"]
) -> Float[Array, "batch d r"]:
    """Row i's distribution times the payload, for each of its channels."""
    return _averages_forward(spec, q, x, tau, v)[0]


def _averages_forward(spec, q, x, tau, v):
    sizes = q.shape[1], x.shape[1]
    inputs = OWN_ROWS, WHOLE_COLUMNS, SCALAR, WHOLE_COLUMNS
    kernel = spec.launch(
        bodies.softsort_apply, True, sizes, inputs, results(v.dtype, rows=v.shape[1]) + results(jnp.float32, rows=2)
    )
    y, norm = kernel(q[:, None], x[:, None], scale_of(x, tau), v)
    return y, (q, x, tau, norm, v)


def _averages_backward(spec, residuals, w):
    *residuals, v = residuals
    (dq, dx, dtau), dv = _pull(spec, residuals, (w, v))
    return dq, dx, dtau, dv.astype(v.dtype)


averages.defvjp(_averages_forward, _averages_backward)


def _pull(spec, residuals, given):
    """Cotangents of (q, x, tau), and of the payload, from a cotangent of P: given, or as a product (w, v)."""
    q, x, tau, norm = residuals
    sizes, scale = (q.shape[1], x.shape[1]), scale_of(x, tau)
    dense = len(given) == 1
    inputs = ((MATRIX,) if dense else (OWN_ROWS, WHOLE_COLUMNS)) + (OWN_ROWS, WHOLE_COLUMNS, SCALAR, OWN_ROWS)
    by_rows = spec.launch(bodies.softsort_back_rows, True, sizes, inputs, results(jnp.float32, rows=3))
    (rows,) = by_rows(*given, q[:, None], x[:, None], scale, norm)
    inputs = ((MATRIX,) if dense else (WHOLE_ROWS, OWN_COLUMNS)) + (
        WHOLE_ROWS,
        OWN_COLUMNS,
        SCALAR,
        WHOLE_ROWS,
        WHOLE_ROWS,
    )
    channels = 1 if dense else 1 + given[1].shape[1]
    by_columns = spec.launch(bodies.softsort_back_columns, False, sizes, inputs, results(jnp.float32, columns=channels))
    (columns,) = by_columns(*given, q[:, None], x[:, None], scale, norm, rows)
    dtau = jnp.sum(rows[:, 2], axis=-1).astype(tau.dtype)
    return (rows[:, 1].astype(q.dtype), columns[:, 0].astype(x.dtype), dtau), columns[:, 1:]


def rows(implementation: str, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
    """Rows of P."""
    spec = Spec(implementation, mode.degree, mode.reach)
    return distributions(spec, order_statistics(x, ranks), x, tau)
