"""Optimal transport to many anchors in O(n) memory: the plan is recomputed in blocks of rows wherever it is needed.

The same Newton iteration as in `_transport`, with the Laplacian H applied, not stored: H v is the derivative of the
column sums in the direction v, one pass over the plan. Conjugate gradients solve for the step. H is I - P^T P up to
scaling and P is a smoothing kernel of width sqrt(tau), so all but about 1/sqrt(tau) of H's eigenvalues
lie at 1 and that many iterations suffice, where Sinkhorn's rounds grow as 1/tau.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from ._modes import Mode
from ._transport import Potentials, Problem, SolverInfo, logits, newton, no_tangent, rounding, sinkhorn_rounds
from ._types import Float
from ._varying import vary_alike

_BLOCK = 1 << 16
"""About this many entries of the plan exist at a time, for each row of the batch (at least 8 keys' worth)."""
_LARGE_BLOCK = 1 << 18
"""So many where a block would else have fewer than `_KEYS` keys, over which loops vectorise."""
_KEYS = 64


def _blocks(problem: Problem, *payload: Array) -> tuple[Array, ...]:
    """The keys in blocks (count, batch, rows) to scan over, a mask of those that exist, and the payload alike."""
    batch, n = problem.y.shape
    k = problem.anchors.shape[0]
    rows = min(n, max(8, _BLOCK // k, min(_KEYS, _LARGE_BLOCK // k)))
    count = -(-n // rows)

    def split(x):
        x = jnp.pad(x, ((0, 0), (0, count * rows - n)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(x.reshape((batch, count, rows) + x.shape[2:]), 1, 0)

    return tuple(split(x) for x in (problem.y, jnp.ones_like(problem.y), *payload))


def _plan_block(mode: Mode, psi: Potentials, problem: Problem, y: Array, mask: Array) -> Float[Array, "batch k rows"]:
    return mode.project(logits(psi, problem._replace(y=y)), axis=1) * mask[:, None, :]


def column_sums(mode: Mode, psi: Potentials, problem: Problem) -> Potentials:
    """The mass that each anchor receives."""

    @jax.checkpoint
    def add(total, part):
        return total + jnp.sum(_plan_block(mode, psi, problem, *part), axis=2), None

    return lax.scan(add, jnp.zeros_like(psi), _blocks(problem))[0]


def collect(mode: Mode, psi: Potentials, problem: Problem, payload: Float[Array, "batch n d"]):
    """plan.T @ payload: (batch, k, d)."""

    @jax.checkpoint
    def add(total, part):
        y, mask, values = part
        p = _plan_block(mode, psi, problem, y, mask)
        return total + jnp.matmul(p, values, precision=lax.Precision.HIGHEST), None

    empty, *_ = vary_alike((jnp.zeros(psi.shape + payload.shape[-1:], payload.dtype), psi, payload))
    return lax.scan(add, empty, _blocks(problem, payload))[0]


def distribute(mode: Mode, psi: Potentials, problem: Problem, values: Float[Array, "batch k d"]):
    """plan @ values: (batch, n, d)."""

    @jax.checkpoint
    def evaluate(_, part):
        p = _plan_block(mode, psi, problem, *part)
        return None, jnp.matmul(jnp.swapaxes(p, 1, 2), values, precision=lax.Precision.HIGHEST)

    parts = jnp.moveaxis(lax.scan(evaluate, None, _blocks(problem))[1], 0, 1)
    batch, n = problem.y.shape
    return parts.reshape(batch, -1, values.shape[-1])[:, :n]


def conjugate_gradients(
    matvec: Callable[[Potentials], Potentials], rhs: Potentials, tolerance: float, limit: int
) -> Potentials:
    """matvec^-1 rhs, every row of the batch on its own, to a residual of `tolerance` times that of 0."""

    def dot(a, b):
        return jnp.sum(a * b, axis=-1, keepdims=True)

    goal = tolerance**2 * dot(rhs, rhs)

    def unfinished(state):
        return jnp.any(state[3] > goal) & (state[4] < limit)

    def improve(state):
        x, r, p, rr, step = state
        ap = matvec(p)
        curvature = dot(p, ap)
        going = (rr > goal) & (curvature > 0)
        alpha = jnp.where(going, rr / jnp.where(going, curvature, jnp.ones_like(rr)), jnp.zeros_like(rr))
        r_new = r - alpha * ap
        rr_new = jnp.where(going, dot(r_new, r_new), jnp.zeros_like(rr))
        beta = rr_new / jnp.where(rr > 0, rr, jnp.ones_like(rr))
        return x + alpha * p, r_new, r_new + beta * p, rr_new, step + 1

    zero = jnp.zeros_like(rhs)
    start = vary_alike((zero, rhs, rhs, dot(rhs, rhs), jnp.zeros((), jnp.int32)))
    return lax.while_loop(unfinished, improve, start)[0]


def _curved(mode: Mode, psi: Potentials, problem: Problem, damping: Array) -> Callable[[Potentials], Potentials]:
    """v -> (H + damping) v."""

    def matvec(v):
        return jax.jvp(lambda psi: column_sums(mode, psi, problem), (psi,), (v,))[1] + damping[:, None] * v

    return matvec


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def potentials(mode: Mode, problem: Problem) -> tuple[Potentials, SolverInfo]:
    """The potentials of a problem with many anchors, and how they were found."""

    def evaluate(psi):
        return column_sums(mode, psi, problem) - problem.masses[None], psi

    def solve(psi, residual, damping):
        return conjugate_gradients(_curved(mode, psi, problem, damping), residual, 1e-2, 100)

    return newton(problem, evaluate, solve, rounds=sinkhorn_rounds(mode))


@potentials.defjvp
def _potentials_jvp(mode, primals, tangents):
    (problem,), (change,) = primals, tangents
    psi, info = potentials(mode, problem)
    received = jax.jvp(lambda problem: column_sums(mode, psi, problem), (problem,), (change,))[1]
    damping = jnp.broadcast_to(rounding(problem), problem.tau.shape)
    tolerance = 4 * float(jnp.finfo(problem.y.dtype).eps)
    step = lax.custom_linear_solve(
        _curved(mode, psi, problem, damping),
        received - change.masses[None],
        lambda matvec, rhs: conjugate_gradients(matvec, rhs, tolerance, 500),
        symmetric=True,
    )
    return (psi, info), (-step, no_tangent(info))
