"""Optimal transport to many anchors in O(n) memory: the plan is recomputed in blocks of rows wherever it is needed.

The same Newton iteration as in `semidual_newton`, with the Laplacian H applied, not stored: H v is the derivative of
the column sums in the direction v, one pass over the plan. Conjugate gradients solve for the step. H is I - P^T P up to
scaling and P is a smoothing kernel of width sqrt(tau), so all but about 1/sqrt(tau) of H's eigenvalues
lie at 1 and that many iterations suffice, where Sinkhorn's rounds grow as 1/tau.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..._modes import Mode
from ..._sharding import vary_alike
from ..._types import Float
from .semidual_newton import (
    Potentials,
    Problem,
    SolverInfo,
    levels,
    logits,
    newton,
    no_tangent,
    project,
    remembered,
    rounding,
    scaled_keys,
    sinkhorn_rounds,
)

_BLOCK = 1 << 16
"""About this many entries of the plan exist at a time, for each row of the batch (at least 8 keys' worth)."""
_LARGE_BLOCK = 1 << 18
"""So many where a block would else have fewer than `_KEYS` keys, over which loops vectorise."""
_KEYS = 64


def _blocks(problem: Problem, x: Float[Array, "batch n ..."]) -> Float[Array, "count batch rows ..."]:
    """What belongs to the keys, in blocks to scan over; the last one is filled up with zeros."""
    (batch, n), k = problem.y.shape, problem.anchors.shape[0]
    rows = min(n, max(8, _BLOCK // k, min(_KEYS, _LARGE_BLOCK // k)))
    count = -(-n // rows)
    x = jnp.pad(x, ((0, 0), (0, count * rows - n)) + ((0, 0),) * (x.ndim - 2))
    return jnp.moveaxis(x.reshape((batch, count, rows) + x.shape[2:]), 1, 0)


def _scan(mode, level, anchors, scaled, payload, values):
    """`sweep` over blocks. Without a payload all keys count as 1, those that fill the last block up too."""

    multiply = partial(jnp.matmul, precision=lax.Precision.HIGHEST)

    @partial(jax.checkpoint, prevent_cse=False)
    def add(total, part):
        scaled, payload = part
        p = project(mode, logits(level, scaled, anchors))
        out = None if values is None else multiply(jnp.swapaxes(p, 1, 2), values)
        return total + (jnp.sum(p, axis=2, keepdims=True) if payload is None else multiply(p, payload)), out

    width = 1 if payload is None else payload.shape[-1]
    empty, *_ = vary_alike((jnp.zeros((*level.shape, width), level.dtype), level, scaled))
    return lax.scan(add, empty, (scaled, payload))


def sweep(
    mode: Mode,
    psi: Potentials,
    problem: Problem,
    payload: Float[Array, "batch n d"] | None = None,
    values: Float[Array, "batch k e"] | None = None,
) -> tuple[Float[Array, "batch k d1"], Float[Array, "batch n e"] | None]:
    """plan.T @ (payload, 1) and plan @ values, by one pass over the plan."""
    scaled, mask = _scaled_blocks(problem)
    if payload is not None:
        ones = jnp.ones_like(payload[:, :, :1])
        mask = _blocks(problem, jnp.concatenate([payload, ones], axis=2))
    collected, parts = _scan(mode, levels(psi, problem), problem.anchors, scaled, mask, values)
    if values is None:
        return collected, None
    (batch, n), e = problem.y.shape, values.shape[-1]
    return collected, jnp.moveaxis(parts, 0, 1).reshape(batch, -1, e)[:, :n]


def _scaled_blocks(problem: Problem) -> tuple[Array, Array | None]:
    """The scaled keys in blocks, and a payload of 1 for each, where zeros had to be filled up."""
    scaled = _blocks(problem, scaled_keys(problem))
    full = scaled.shape[0] * scaled.shape[2] == problem.y.shape[1]
    return scaled, None if full else _blocks(problem, jnp.ones_like(problem.y)[:, :, None])


def received(mode: Mode, problem: Problem) -> Callable[[Potentials], Potentials]:
    """psi -> the mass that each anchor receives."""
    scaled, mask = _scaled_blocks(problem)
    return lambda psi: _scan(mode, levels(psi, problem), problem.anchors, scaled, mask, None)[0][:, :, 0]


def conjugate_gradients(
    matvec: Callable[[Potentials], Potentials], rhs: Potentials, tolerance: float, limit: int
) -> Potentials:
    """matvec^-1 rhs, every row of the batch on its own, to a residual of `tolerance` times that of 0."""

    def dot(a, b):
        return jnp.sum(a * b, axis=-1, keepdims=True)

    rr = dot(rhs, rhs)
    rr = jnp.where(rr > 0, rr, jnp.zeros_like(rr))  # 0 for rows that are done, and for those of NaN
    goal = tolerance**2 * rr

    def unfinished(state):
        return (jnp.sum(state[3]) > 0) & (state[4] < limit)

    def improve(state):
        x, r, p, rr, step = state
        ap = matvec(p)
        curvature = dot(p, ap)
        alpha = rr / jnp.where(curvature > 0, curvature, jnp.inf)  # 0 for a row that has stopped
        r_new = r - alpha * ap
        rr_new = dot(r_new, r_new)
        rr_new = jnp.where((alpha > 0) & (rr_new > goal), rr_new, jnp.zeros_like(rr))
        beta = rr_new / jnp.maximum(rr, jnp.finfo(rr.dtype).tiny)
        return x + alpha * p, r_new, r_new + beta * p, rr_new, step + 1

    start = vary_alike((jnp.zeros_like(rhs), rhs, rhs, rr, jnp.zeros((), jnp.int32)))
    return lax.while_loop(unfinished, improve, start)[0]


Sums = Callable[[Potentials], Potentials]


def _curved(sums: Sums, psi: Potentials, damping: Array) -> Callable[[Potentials], Potentials]:
    """v -> (H + damping) v, from psi -> the mass that each anchor receives."""
    return lambda v: jax.jvp(sums, (psi,), (v,))[1] + damping[:, None] * v


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def potentials(mode: Mode, problem: Problem) -> tuple[Potentials, SolverInfo]:
    """The potentials of a problem with many anchors, and how they were found."""
    sums = received(mode, problem)

    def evaluate(psi):
        return sums(psi) - problem.masses[None], ()

    def solve(psi, _, residual, damping):
        return conjugate_gradients(_curved(sums, psi, damping), residual, 1e-2, 100)

    return newton(problem, evaluate, solve, rounds=sinkhorn_rounds(mode))


@potentials.defjvp
def _potentials_jvp(mode, primals, tangents):
    (problem,), (change,) = primals, tangents
    psi, info = potentials(mode, problem)
    psi = remembered(psi)
    moved = jax.jvp(lambda problem: received(mode, problem)(psi), (problem,), (change,))[1]
    return (psi, info), (_response(mode, psi, problem, moved - change.masses[None]), no_tangent(info))


def _response(mode: Mode, psi: Potentials, problem: Problem, excess: Potentials) -> Potentials:
    """How the potentials move against what anchors receive beyond their masses."""
    damping = jnp.broadcast_to(rounding(problem), problem.tau.shape)
    tolerance = 4 * float(jnp.finfo(problem.y.dtype).eps)
    solve = lambda matvec, rhs: conjugate_gradients(matvec, rhs, tolerance, 500)
    return -lax.custom_linear_solve(_curved(received(mode, problem), psi, damping), excess, solve, symmetric=True)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def solved_sweep(mode, psi, problem, payload, values):
    """`sweep` where psi are the `potentials` of the problem and follow it: one pass less than by the chain rule."""
    return sweep(mode, psi, problem, payload, values)


@solved_sweep.defjvp
def _solved_sweep_jvp(mode, primals, tangents):
    psi, problem, *fixed = primals
    found, moved = jax.jvp(partial(sweep, mode, psi), tuple(primals[1:]), tuple(tangents[1:]))
    step = _response(mode, psi, problem, moved[0][:, :, -1] - tangents[1].masses[None])
    turned = jax.jvp(lambda psi: sweep(mode, psi, problem, *fixed), (psi,), (step,))[1]
    return found, jax.tree.map(jnp.add, moved, turned)
