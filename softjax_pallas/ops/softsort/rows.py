"""SoftSort by tiles, in every mode: rows of P, forward and backward.

The keys of the rows are elements of x, so every row of logits has the maximum 0.
"""

import jax
import jax.numpy as jnp
from jax import Array

from softjax._methods.base import Keys, PerRow, Ranks
from softjax._methods.softsort.definition import order_statistics
from softjax._modes import Mode
from softjax._types import Float

from ..._autodiff import Rule, Solve
from ...tile_engine import passes
from ...tile_engine.launch import scale_of
from ...tile_engine.passes import Common, Spec


def _common(q: Keys, x: Keys, tau: PerRow) -> Common:
    return Common(q[:, None], x[:, None], scale_of(x, tau))


def _distributions_forward(spec, q, x, tau):
    """Row i is the projection of -|q_i - x_j| / tau, for q (batch, r) and x (batch, n)."""
    p, norm = passes.rows(spec, _common(q, x, tau), x.dtype)
    return p, (q, x, tau, norm)


def _distributions_backward(spec, residuals, g):
    q, x, tau, norm = residuals
    rows, columns, dtau = passes.pull(spec, _common(q, x, tau), norm, passes.matrix(g))
    dtau = (dtau / tau.astype(jnp.float32)).astype(tau.dtype)
    return rows[:, 0].astype(q.dtype), columns[:, 0].astype(x.dtype), dtau


DISTRIBUTIONS = Rule(
    _distributions_forward,
    _distributions_backward,
    result=lambda spec, q, x, tau: jax.ShapeDtypeStruct((*q.shape, x.shape[1]), x.dtype),
    kept=lambda residuals: residuals[3:],
    saves=1,
    again=lambda spec, kept, *arrays: (*arrays, *kept),
)


def rows(
    implementation: str, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode, solve: Solve
) -> Float[Array, "batch r n"]:
    """Rows of P."""
    spec = Spec(implementation, "softsort", mode.degree, mode.reach)
    return solve(DISTRIBUTIONS, (spec,), order_statistics(x, ranks), x, tau)
