"""Regularised optimal transport from n keys of mass 1 to k anchors, by Newton's method on the semi-dual.

Row i of the plan is the projection onto the simplex of z_ij = psi_j + 2 (y_i - 1/2)(a_j - 1/2) / tau, the logits
(g_j - (y_i - a_j)**2) / tau up to a constant of the row and with a_j**2 moved into psi_j: the smallest numbers that
say the same. Rows have mass 1 by construction and the k potentials psi are the only unknowns. They solve
F(psi) = column sums - masses = 0. With w the sensitivity of the projection, the Jacobian of F is the Laplacian

    H_jk = delta_jk sum_i w_ij - sum_i w_ij w_ik / sum_l w_il,

symmetric, positive semi-definite, singular along the constant vector. Newton starts at the dual of the
unregularised problem, whose cell boundaries lie midway between consecutive keys, and is damped by a multiple of the
identity (Levenberg and Marquardt). The derivative of psi follows from the implicit function theorem.

Few anchors: H is a dense k x k matrix. Many: `_transport_stream` applies it without storing it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import zero_from_primal

from ._modes import Mode
from ._types import Bool, Float, Int
from ._varying import vary_alike

_MAX_STEPS = 60
_NEVER = -1e30
"""The logit of an anchor that holds no mass."""

Keys = Float[Array, "batch n"]
Plan = Float[Array, "batch k n"]
Potentials = Float[Array, "batch k"]


class SolverInfo(NamedTuple):
    """How a solver of marginals fared, one entry for each row of the batch.

    `iterations` counts its steps; `marginal_error` is the largest difference between what an anchor receives and its
    mass, in elements.
    """

    iterations: Int[Array, "*batch"]
    marginal_error: Float[Array, "*batch"]


def no_tangent(info: SolverInfo) -> SolverInfo:
    """The tangent of a report: none."""
    iterations: Any = zero_from_primal(info.iterations)
    return SolverInfo(iterations, jnp.zeros_like(info.marginal_error))


class Problem(NamedTuple):
    """What a plan depends on: n keys a row, k anchors with their masses, one softness a row."""

    y: Keys
    anchors: Float[Array, " k"]
    masses: Float[Array, " k"]
    tau: Float[Array, " batch"]


def plan(problem: Problem, mode: Mode) -> Plan:
    """The transport plan, transposed: anchors by keys. Sums over anchors are 1, sums over keys `masses`.

    Differentiable any number of times in the problem's arrays.
    """
    y, anchors, _, tau = problem
    if anchors.shape[0] == 1:
        return (jnp.ones_like(y) + 0 * (y + tau[:, None]))[:, None, :]
    return mode.project(logits(potentials(mode, problem)[0], problem), axis=1)


def logits(psi: Potentials, problem: Problem) -> Plan:
    """z, whose projection over the anchors is the plan; the long axis last, so that sums over anchors vectorise.

    At small tau z is large and its rounding too, which matters little as long as all uses see the same z. A compiler
    computes it anew in every fusion and may contract the product and the sum in one of them but not in another: the
    maximum between them, which never acts, leaves nothing to contract, and the barrier keeps most of the copies away.
    """
    y, anchors, masses, tau = problem
    level = jnp.where(masses > 0, psi, jnp.full_like(psi, _NEVER))
    lift = (2 / tau[:, None] * (y - 0.5))[:, None, :] * (anchors - 0.5)[None, :, None]
    return lax.optimization_barrier(level[:, :, None] + jnp.maximum(lift, _NEVER))


def start(
    problem: Problem, boundary: Potentials | None = None, cumsum: Callable[..., Array] = jnp.cumsum
) -> Potentials:
    """The dual of the hard problem: two anchors' logits are equal at the boundary of their cells.

    `boundary` (batch, k - 1) where it is known; `cumsum` where another form suits a compiler better.
    """
    y, anchors, masses, tau = problem
    if boundary is None:
        n = y.shape[-1]
        s = jnp.sort(y, axis=-1)
        cut = jnp.clip(jnp.cumsum(masses)[:-1].astype(int), 1, max(n - 1, 1))
        boundary = (jnp.take(s, cut - 1, axis=-1) + jnp.take(s, jnp.minimum(cut, n - 1), axis=-1)) / 2
    psi = cumsum(jnp.diff(anchors)[None] * (1 - 2 * boundary), axis=-1) / tau[:, None]
    psi = jnp.concatenate([jnp.zeros_like(psi[:, :1]), psi], axis=-1)
    return psi - jnp.mean(psi, axis=-1, keepdims=True)


def rounding(problem: Problem) -> Array:
    """The rounding of a column sum, in elements: no residual below it means anything."""
    return 4 * jnp.finfo(problem.y.dtype).eps * jnp.max(problem.masses)


def sinkhorn_rounds(mode: Mode) -> int:
    """Rounds before Newton: the update needs weights that are exponentials."""
    return 2 if mode.degree is None else 0


class _State(NamedTuple):
    psi: Potentials
    residual: Potentials
    curvature: Any
    damping: Float[Array, " batch"]
    stalled: Bool[Array, " batch"]
    iterations: Int[Array, " batch"]
    step: Array


def newton(
    problem: Problem,
    evaluate: Callable[[Potentials], tuple[Potentials, Any]],
    solve: Callable[[Any, Potentials, Array], Potentials],
    rounds: int,
    first: Potentials | None = None,
) -> tuple[Potentials, SolverInfo]:
    """The potentials and a report.

    From evaluate(psi) -> (F, curvature) and solve(curvature, F, damping) -> (H + damping)^-1 F, beginning at `first`
    or else at `start`.

    `rounds` of Sinkhorn's update come first: two of them bring the column sums within a small factor of the masses,
    for which Newton alone needs about five steps, since the sums are exponential in psi.
    """
    floor, mass = rounding(problem), problem.masses[None]
    # Potentials of size 1 / (2 tau) cannot place a mass any better; sums of many keys may be a few times worse.
    eps, wide = jnp.finfo(problem.y.dtype).eps, 1 / problem.tau[:, None]
    goal = eps * (2 * mass + 16 + wide)
    near = jnp.maximum(floor, eps * (16 * (2 * mass + 16) + 4 * wide))

    def active(state):
        # Within reach of rounding, the first step that does not halve the residual's square is the last.
        error = jnp.abs(state.residual)
        stuck = state.stalled & jnp.all(error < near, axis=-1) | (state.damping > 1e6 * jnp.max(mass))
        return jnp.any(error > goal, axis=-1) & ~stuck

    def alive(residual, before):
        # A column that a sparse mode empties has no slope and would stay empty: shrink it step by step.
        return jnp.all(residual + mass >= 0.1 * jnp.minimum(before + mass, mass), axis=-1)

    def improve(state):
        candidate = state.psi - solve(state.curvature, state.residual, state.damping)
        residual, curvature = evaluate(candidate)
        before, after = jnp.sum(state.residual**2, -1), jnp.sum(residual**2, -1)
        # The semi-dual is convex and the residual its gradient: a step that still leads downhill at its end descends.
        down = jnp.sum(residual * (candidate - state.psi), -1) < 0
        better = active(state) & (down | (after < before) & alive(residual, state.residual))

        def pick(new, old):
            return jnp.where(better.reshape(better.shape + (1,) * (new.ndim - 1)), new, old)

        damping = jnp.where(better, state.damping / 8, jnp.maximum(state.damping * 8, 1e-3))
        damping = jnp.where(damping < 1e-6, floor, damping)
        damping = jnp.where(active(state), damping, state.damping)
        new = jax.tree.map(pick, (candidate, residual, curvature), tuple(state[:3]))
        stalled = ~better | (after > before / 2)
        iterations = state.iterations + active(state).astype(jnp.int32)
        return _State(new[0], new[1], new[2], damping, stalled, iterations, state.step + 1)

    def unfinished(state):
        return jnp.any(active(state)) & (state.step < _MAX_STEPS)

    psi = start(problem) if first is None else first
    for _ in range(rounds):
        received = evaluate(psi)[0] + mass
        psi = psi + jnp.where(mass > 0, jnp.log(mass / received), jnp.zeros_like(received))
    damping = jnp.full_like(problem.tau, floor)
    residual, curvature = evaluate(psi)
    none = jnp.zeros(damping.shape, jnp.int32)
    begin = _State(psi, residual, curvature, damping, none > 0, none, jnp.zeros((), jnp.int32))
    last = lax.while_loop(unfinished, improve, vary_alike(begin))
    return last.psi, SolverInfo(last.iterations + rounds, jnp.max(jnp.abs(last.residual), axis=-1))


def _laplacian(mode: Mode, p: Plan) -> Float[Array, "batch k k"]:
    """H from its off-diagonal entries: the diagonal as their negative sum suffers no cancellation."""
    w = mode.sensitivity(p)
    scaled = w if mode.degree is None else w / jnp.sum(w, axis=1, keepdims=True)  # the smooth mode's add up to 1
    coupling = jnp.einsum("bkn,bln->bkl", w, scaled, precision=lax.Precision.HIGHEST)
    identity = jnp.eye(p.shape[1], dtype=p.dtype)[None]
    coupling = coupling * (1 - identity)
    return jnp.sum(coupling, axis=-1)[:, None, :] * identity - coupling


def _solve(h: Array, rhs: Potentials, damping: Array) -> Potentials:
    """(H + damping)^-1 rhs for a right-hand side whose entries sum to 0; the constant vector is pinned."""
    k = h.shape[-1]
    level = jnp.maximum(jnp.max(jnp.diagonal(h, axis1=-2, axis2=-1), axis=-1), damping)[:, None, None]
    pinned = h + level / k + damping[:, None, None] * jnp.eye(k, dtype=h.dtype)[None]
    by_lu = lambda a, b: jnp.linalg.solve(a, b[..., None])[..., 0]
    # A TPU's LU is one call for the whole batch, which XLA does not split over devices: it would gather the batch.
    return lax.platform_dependent(pinned, rhs, tpu=_eliminate, default=by_lu)


def _eliminate(matrix: Array, rhs: Potentials) -> Potentials:
    """matrix^-1 rhs by Gauss-Jordan elimination; a symmetric positive definite matrix needs no pivoting."""
    unknowns = lax.broadcasted_iota(jnp.int32, (1, matrix.shape[-1], 1), 1)
    product = lambda v: jnp.sum(matrix * v[:, None, :], axis=-1)

    def step(i, system):
        pivot = lax.dynamic_slice_in_dim(system, i, 1, axis=1)
        pivot = pivot / lax.dynamic_slice_in_dim(pivot, i, 1, axis=2)
        rest = system - lax.dynamic_slice_in_dim(system, i, 1, axis=2) * pivot
        return jnp.where(unknowns == i, pivot, rest)

    def solve(_, b):
        system = jnp.concatenate([matrix, b[..., None]], axis=-1)
        return lax.fori_loop(0, matrix.shape[-1], step, system)[..., -1]

    return lax.custom_linear_solve(product, rhs, solve, symmetric=True)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def potentials(mode: Mode, problem: Problem) -> tuple[Potentials, SolverInfo]:
    """The potentials of a problem with few anchors, and how they were found."""

    def evaluate(psi):
        p = mode.project(logits(psi, problem), axis=1)
        return jnp.sum(p, axis=2) - problem.masses[None], _laplacian(mode, p)

    return newton(problem, evaluate, _solve, rounds=sinkhorn_rounds(mode))


@potentials.defjvp
def _potentials_jvp(mode, primals, tangents):
    (problem,), (change,) = primals, tangents
    psi, info = potentials(mode, problem)
    z, dz = jax.jvp(partial(logits, psi), (problem,), (change,))
    p = mode.project(z, axis=1)
    w = mode.sensitivity(p)
    dp = w * (dz - jnp.sum(w * dz, axis=1, keepdims=True) / jnp.sum(w, axis=1, keepdims=True))
    excess = jnp.sum(dp, axis=2) - change.masses[None]
    damping = jnp.broadcast_to(rounding(problem), problem.tau.shape)
    return (psi, info), (-_solve(_laplacian(mode, p), excess, damping), no_tangent(info))
