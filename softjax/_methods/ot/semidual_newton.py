"""Regularised optimal transport from n keys of mass 1 to k anchors, by Newton's method on the semi-dual.

Row i of the plan is the projection onto the simplex of z_ij = psi_j + 2 (y_i - 1/2)(a_j - 1/2) / tau, the logits
(g_j - (y_i - a_j)**2) / tau up to a constant of the row and with a_j**2 moved into psi_j: the smallest numbers that
say the same. Rows have mass 1 by construction and the k potentials psi are the only unknowns. They solve
F(psi) = column sums - masses = 0. With w the sensitivity of the projection, the Jacobian of F is the Laplacian

    H_jk = delta_jk sum_i w_ij - sum_i w_ij w_ik / sum_l w_il,

symmetric, positive semi-definite, singular along the constant vector. Newton starts at the dual of the
unregularised problem, whose cell boundaries lie midway between consecutive keys, and is damped by a multiple of the
identity (Levenberg and Marquardt). The derivative of psi follows from the implicit function theorem.

Few anchors: H is a dense k x k matrix. Many: `newton_cg` applies it without storing it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import zero_from_primal

from ..._modes import Mode, logarithm
from ..._sharding import vary_alike
from ..._types import Bool, Float, Int
from ..base import SolverInfo
from ..hard_sort import sorted_keys

MAX_STEPS = 60
FOUND = "found"
"""By this name `jax.checkpoint` keeps what a solver found."""
NEVER = -1e30
"""The logit of an anchor that holds no mass."""

Keys = Float[Array, "batch n"]
Plan = Float[Array, "batch k n"]
Potentials = Float[Array, "batch k"]


def remembered(found: Array) -> Array:
    """What a solver found, by the name `FOUND`."""
    from jax.ad_checkpoint import checkpoint_name  # a module that importing JAX leaves out

    return checkpoint_name(found, FOUND)


def no_tangent(info: SolverInfo) -> SolverInfo:
    """The tangent of a report: none."""
    iterations: Any = zero_from_primal(info.iterations)
    return SolverInfo(iterations, jnp.zeros_like(info.marginal_error))


class Problem(NamedTuple):
    """What a plan depends on: n keys a row, k anchors with their masses, one softness a row.

    `boundaries` are where the cells of the hard problem end, as far as they are known (see `start`).
    """

    y: Keys
    anchors: Float[Array, " k"]
    masses: Float[Array, " k"]
    tau: Float[Array, " batch"]
    boundaries: Float[Array, "batch k1"] | None = None


def plan(problem: Problem, mode: Mode) -> Plan:
    """The transport plan, transposed: anchors by keys. Sums over anchors are 1, sums over keys `masses`.

    Differentiable any number of times in the problem's arrays.
    """
    y, anchors, _, tau, _ = problem
    if anchors.shape[0] == 1:
        return (jnp.ones_like(y) + 0 * (y + tau[:, None]))[:, None, :]
    return _plan(mode, problem)


def log_plan(problem: Problem, mode: Mode) -> Plan:
    """The logarithms of `plan`, of the smooth mode from the logits."""
    if mode.degree is not None or problem.anchors.shape[0] == 1:
        return logarithm(plan(problem, mode))
    psi = levels(potentials(mode, problem)[0], problem)
    return mode.log_project(logits(psi, scaled_keys(problem), problem.anchors), axis=1)


def logits(level: Potentials, scaled: Keys, anchors: Float[Array, " k"]) -> Plan:
    """z, whose projection over the anchors is the plan; the long axis last, so that sums over anchors vectorise.

    At small tau z is large and its rounding too, which matters little as long as all uses see the same z. A compiler
    computes it anew in every fusion and may contract the product and the sum in one of them but not in another: the
    maximum between them, which never acts, leaves nothing to contract, and the barrier keeps most of the copies away.
    """
    lift = _uncontracted(scaled[:, None, :] * (anchors - 0.5)[None, :, None])
    return lax.optimization_barrier(level[:, :, None] + lift)


@jax.custom_jvp
def _uncontracted(lift: Plan) -> Plan:
    return jnp.maximum(lift, NEVER)


_uncontracted.defjvps(lambda change, _, lift: change)


def scaled_keys(problem: Problem) -> Keys:
    """What a key multiplies an anchor by."""
    return 2 * (1 / problem.tau[:, None]) * (problem.y - 0.5)


def levels(psi: Potentials, problem: Problem) -> Potentials:
    """The potentials, out of reach for an anchor that holds no mass."""
    return jnp.where(problem.masses > 0, psi, jnp.full_like(psi, NEVER))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def project(mode: Mode, z: Plan) -> Plan:
    """The projection of logits over the anchors, with its derivative from the plan."""
    return mode.project(z, axis=1)


@project.defjvp
def _project_jvp(mode, primals, tangents):
    (z,), (dz,) = primals, tangents
    p = project(mode, z)
    return p, _turned(mode, p, dz)


def _turned(mode: Mode, p: Plan, dz: Plan) -> Plan:
    """The plan's change with its logits."""
    w = mode.sensitivity(p)
    mean = jnp.sum(w * dz, axis=1, keepdims=True)
    return w * (dz - (mean if mode.degree is None else mean / jnp.sum(w, axis=1, keepdims=True)))


def start(problem: Problem) -> Potentials:
    """The dual of the hard problem: two anchors' logits are equal at the boundary of their cells."""
    y, anchors, masses, tau, boundaries = problem
    if boundaries is None:
        cuts = jnp.clip(jnp.cumsum(masses)[:-1].astype(int), 1, y.shape[-1] - 1)
        boundaries = midway(y, partial(jnp.take, axis=-1), cuts)
    psi = jnp.cumsum(jnp.diff(anchors)[None] * (1 - 2 * boundaries), axis=-1) * (1 / tau[:, None])
    psi = jnp.concatenate([jnp.zeros_like(psi[:, :1]), psi], axis=-1)
    return psi - jnp.mean(psi, axis=-1, keepdims=True)


def midway(y: Keys, take: Callable[[Keys, Any], Array], cuts: Any) -> Array:
    """Midway between the sorted keys before and after each cut; `take` picks some of them."""
    s = sorted_keys(y)
    return (take(s, cuts - 1) + take(s, cuts)) / 2


def rounding(problem: Problem) -> Array:
    """The rounding of a column sum, in elements: no residual below it means anything."""
    return 4 * jnp.finfo(problem.y.dtype).eps * jnp.max(problem.masses)


def sinkhorn_rounds(mode: Mode) -> int:
    """Rounds before Newton: the update needs weights that are exponentials."""
    return 2 if mode.degree is None else 0


def sinkhorn(psi: Potentials, received: Potentials, mass: Float[Array, "1 k"]) -> Potentials:
    """Sinkhorn's update."""
    return psi + jnp.where(mass > 0, jnp.log(mass / received), jnp.zeros_like(received))


class _State(NamedTuple):
    psi: Potentials
    residual: Potentials
    known: Any
    damping: Float[Array, " batch"]
    active: Bool[Array, " batch"]
    iterations: Int[Array, " batch"]
    step: Array


class Stopping(NamedTuple):
    """Where the iteration ends: from the dtype's eps, 1 / tau and the rounding of a column sum."""

    eps: Any
    wide: Any
    floor: Any

    def goal(self, mass: Any) -> Any:
        """The residual that is as good as any: potentials of size 1 / (2 tau) cannot place a mass any better."""
        return self.eps * (2 * mass + 16 + self.wide)

    def near(self, mass: Any) -> Any:
        """Within reach of rounding: sums of many keys may be a few times worse."""
        return jnp.maximum(self.floor, self.eps * (16 * (2 * mass + 16) + 4 * self.wide))

    def hopeless(self, damping: Any, most: Any) -> Any:
        """Whether no step of any length led downhill, for a largest mass."""
        return damping > 1e6 * most


def next_damping(better: Any, damping: Any, floor: Any) -> Any:
    """The damping after a step that was better or not (Levenberg and Marquardt)."""
    damping = jnp.where(better, damping / 8, jnp.maximum(damping * 8, 1e-3))
    return jnp.where(damping < 1e-6, floor, damping)


def above_starving(residual: Any, before: Any, mass: Any) -> Any:
    """Not negative, or a column shrinks too much: one that a sparse mode empties has no slope and would stay empty."""
    return residual + 0.9 * mass - 0.1 * jnp.minimum(before, 0)


def newton(
    problem: Problem,
    evaluate: Callable[[Potentials], tuple[Potentials, Any]],
    solve: Callable[[Potentials, Any, Potentials, Array], Potentials],
    rounds: int,
    first: Potentials | None = None,
) -> tuple[Potentials, SolverInfo]:
    """The potentials and a report.

    From evaluate(psi) -> (F, what is known there) and solve(psi, known, F, damping) -> (H + damping)^-1 F, beginning at
    `first` or else at `start`.

    `rounds` of Sinkhorn's update come first: two of them bring the column sums within a small factor of the masses,
    for which Newton alone needs about five steps, since the sums are exponential in psi. They are the loop's first
    steps, after one with F = 0 that stays where it is, so that a program evaluates and solves in one place.
    """
    floor, mass = rounding(problem), problem.masses[None]
    stopping = Stopping(jnp.finfo(problem.y.dtype).eps, 1 / problem.tau[:, None], floor)
    goal, near = stopping.goal(mass), stopping.near(mass)

    def active(residual, damping, stalled):
        # Within reach of rounding, the first step that does not halve the residual's square is the last.
        error = jnp.abs(residual)
        stuck = stalled & (jnp.max(error - near, axis=-1) < 0) | stopping.hopeless(damping, jnp.max(mass))
        return (jnp.max(error - goal, axis=-1) > 0) & ~stuck

    def improve(state):
        by_newton = state.active & (state.step > rounds)
        rhs = jnp.where(by_newton[:, None], state.residual, jnp.zeros_like(state.residual))
        step = solve(state.psi, state.known, rhs, state.damping)
        candidate = jnp.where(state.step > rounds, state.psi - step, sinkhorn(state.psi, state.residual + mass, mass))
        residual, known = evaluate(candidate)
        before, after = jnp.sum(rhs**2, -1), jnp.sum(residual**2, -1)
        # The semi-dual is convex and the residual its gradient: a step that still leads downhill at its end descends.
        down = jnp.sum(residual * (candidate - state.psi), -1) < 0
        fed = jnp.min(above_starving(residual, state.residual, mass), axis=-1) >= 0
        better = by_newton & (down | (after < before) & fed) | (state.step <= rounds)
        better = lax.optimization_barrier(better)  # a compiler's fusions would repeat it

        def pick(new, old):
            return jnp.where(better.reshape(better.shape + (1,) * (new.ndim - 1)), new, old)

        damping = jnp.where(by_newton, next_damping(better, state.damping, floor), state.damping)
        psi, residual, known = jax.tree.map(pick, (candidate, residual, known), tuple(state[:3]))
        stalled = by_newton & (~better | (after > before / 2))
        going = state.active & ((state.step < rounds) | active(residual, damping, stalled))
        iterations = state.iterations + state.active.astype(jnp.int32)
        return _State(psi, residual, known, damping, going, iterations, state.step + 1)

    def unfinished(state):
        return jnp.any(state.active) & (state.step <= MAX_STEPS + rounds)

    psi = start(problem) if first is None else first
    known = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(evaluate, psi)[1])
    damping = jnp.full_like(problem.tau, floor)
    ever, none = jnp.ones(damping.shape, bool), jnp.zeros(damping.shape, jnp.int32)
    begin = _State(psi, jnp.zeros_like(psi), known, damping, ever, none, jnp.zeros((), jnp.int32))
    last = lax.while_loop(unfinished, improve, vary_alike(begin))
    return last.psi, SolverInfo(last.iterations - 1, jnp.max(jnp.abs(last.residual), axis=-1))


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
    identity = jnp.eye(k, dtype=h.dtype)[None]
    level = jnp.maximum(jnp.max(h * identity, axis=(-2, -1)), damping)
    # A factorisation of a sum of squares wants a damping beyond rounding.
    damping = jnp.maximum(damping, 4 * jnp.finfo(h.dtype).eps * level)
    pinned = h + level[:, None, None] / k + damping[:, None, None] * identity
    product = lambda v: jnp.sum(pinned * v[:, None, :], axis=-1)

    return lax.custom_linear_solve(product, rhs, lambda _, rhs: solve_definite(pinned, rhs), symmetric=True)


def solve_definite(matrix: Array, rhs: Potentials) -> Potentials:
    """matrix^-1 rhs for a symmetric positive definite matrix."""
    # A TPU's factorisation is one call for the whole batch, which XLA does not split over devices: it would gather.
    return lax.platform_dependent(matrix, rhs, tpu=_eliminate, default=_by_cholesky)


def _by_cholesky(matrix: Array, rhs: Potentials) -> Potentials:
    factor = lax.linalg.cholesky(matrix, symmetrize_input=False)
    half = lax.linalg.triangular_solve(factor, rhs[..., None], left_side=True, lower=True)
    return lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)[..., 0]


def _eliminate(matrix: Array, rhs: Potentials) -> Potentials:
    """matrix^-1 rhs by Gauss-Jordan elimination; a symmetric positive definite matrix needs no pivoting."""
    unknowns = lax.broadcasted_iota(jnp.int32, (1, matrix.shape[-1], 1), 1)

    def step(i, system):
        pivot = lax.dynamic_slice_in_dim(system, i, 1, axis=1)
        pivot = pivot / lax.dynamic_slice_in_dim(pivot, i, 1, axis=2)
        rest = system - lax.dynamic_slice_in_dim(system, i, 1, axis=2) * pivot
        return jnp.where(unknowns == i, pivot, rest)

    system = jnp.concatenate([matrix, rhs[..., None]], axis=-1)
    return lax.fori_loop(0, matrix.shape[-1], step, system)[..., -1]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def potentials(mode: Mode, problem: Problem) -> tuple[Potentials, SolverInfo]:
    """The potentials of a problem with few anchors, and how they were found."""
    scaled, mass = scaled_keys(problem), problem.masses[None]
    at = lambda psi: project(mode, logits(levels(psi, problem), scaled, problem.anchors))

    def evaluate(psi):
        p = at(psi)
        return jnp.sum(p, axis=2) - mass, _laplacian(mode, p)

    # In a loop of their own, since no Laplacian is wanted on the way.
    rounds = sinkhorn_rounds(mode)
    first = lax.fori_loop(0, rounds, lambda _, psi: sinkhorn(psi, jnp.sum(at(psi), axis=2), mass), start(problem))

    psi, info = newton(problem, evaluate, lambda _, h, rhs, damping: _solve(h, rhs, damping), 0, first)
    return psi, info._replace(iterations=info.iterations + rounds)


@potentials.defjvp
def _potentials_jvp(mode, primals, tangents):
    (problem,), (change,) = primals, tangents
    psi, info = potentials(mode, problem)
    psi = remembered(psi)
    return (psi, info), (_response(mode, psi, problem, change)[2], no_tangent(info))


def _response(mode: Mode, psi: Potentials, problem: Problem, change: Problem) -> tuple[Plan, Plan, Potentials]:
    """The plan, its change where the potentials stay, and how they have to move for the masses to be right."""
    at = lambda problem: logits(levels(psi, problem), scaled_keys(problem), problem.anchors)
    z, dz = jax.jvp(at, (problem,), (change,))
    p, dp = jax.jvp(partial(project, mode), (z,), (dz,))
    damping = jnp.broadcast_to(rounding(problem), problem.tau.shape)
    return p, dp, -_solve(_laplacian(mode, p), jnp.sum(dp, axis=2) - change.masses[None], damping)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _plan(mode: Mode, problem: Problem) -> Plan:
    psi, _ = potentials(mode, problem)
    return project(mode, logits(levels(psi, problem), scaled_keys(problem), problem.anchors))


@_plan.defjvp
def _plan_jvp(mode, primals, tangents):
    (problem,), (change,) = primals, tangents
    psi = remembered(potentials(mode, problem)[0])
    p, dp, step = _response(mode, psi, problem, change)
    return p, dp + _turned(mode, p, step[:, :, None])
