"""Regularised optimal transport from n keys of mass 1 to k anchors, by Newton's method on the semi-dual.

Row i of the plan is the projection of z_ij = psi_j - (y_i - a_j)**2 / tau onto the simplex, so rows have mass 1 by
construction and the k scaled potentials psi are the only unknowns. They solve F(psi) = column sums - masses = 0. With w
the sensitivity of the projection, the Jacobian of F is the weighted Laplacian

    H_jk = delta_jk sum_i w_ij - sum_i w_ij w_ik / sum_l w_il,

symmetric, positive semi-definite, singular along the constant vector. Newton starts at the dual of the
unregularised problem, whose cell boundaries lie midway between consecutive keys, and is damped by a multiple of the
identity (Levenberg and Marquardt). The derivative of psi follows from the implicit function theorem: one k x k solve.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ._modes import Mode

_MAX_STEPS = 60
_NEVER = -1e30
"""The logit of an anchor that holds no mass."""

Keys = Float[Array, "batch n"]
Plan = Float[Array, "batch n k"]
Potentials = Float[Array, "batch k"]


def plan(
    y: Keys, anchors: Float[Array, " k"], masses: Float[Array, " k"], tau: Float[Array, " batch"], mode: Mode
) -> Plan:
    """The transport plan: rows sum to 1, columns to `masses`.

    Differentiable any number of times in y, anchors, masses and tau.
    """
    if anchors.shape[0] == 1:
        return jnp.ones(y.shape + (1,), y.dtype) + 0 * (y + tau[:, None])[:, :, None]
    psi = _potentials(mode, y, anchors, masses, tau)
    return mode.project(_logits(psi, y, anchors, masses, tau))


def _logits(psi, y, anchors, masses, tau) -> Plan:
    z = psi[:, None, :] - (y[:, :, None] - anchors[None, None]) ** 2 / tau[:, None, None]
    return jnp.where(masses[None, None] > 0, z, jnp.full_like(z, _NEVER))


def _linearised(mode: Mode, p: Plan):
    """D -> the change of the plan p when its logits change by D."""
    w = mode.sensitivity(p)
    total = jnp.sum(w, axis=-1, keepdims=True)
    return lambda d: w * (d - jnp.sum(w * d, axis=-1, keepdims=True) / total)


def _laplacian(mode: Mode, p: Plan) -> Float[Array, "batch k k"]:
    """H from its off-diagonal entries: the diagonal as their negative sum suffers no cancellation."""
    w = mode.sensitivity(p)
    scaled = w / jnp.sum(w, axis=-1, keepdims=True)
    coupling = jnp.matmul(w.transpose(0, 2, 1), scaled, precision=lax.Precision.HIGHEST)
    identity = jnp.eye(p.shape[-1], dtype=p.dtype)[None]
    coupling = coupling * (1 - identity)
    return jnp.sum(coupling, axis=-1)[:, None, :] * identity - coupling


def _regular_solve(h: Array, rhs: Array, damping: Array) -> Potentials:
    """(H + damping + constant part)^-1 rhs for a right-hand side whose entries sum to 0."""
    k = h.shape[-1]
    level = jnp.maximum(jnp.max(jnp.diagonal(h, axis1=-2, axis2=-1), axis=-1), damping)[:, None, None]
    pinned = h + level / k + damping[:, None, None] * jnp.eye(k, dtype=h.dtype)[None]
    return jnp.linalg.solve(pinned, rhs[..., None])[..., 0]


def _floor(y: Keys, masses: Array) -> Array:
    """The rounding of a column sum, in elements: no residual below it means anything."""
    return 4 * jnp.finfo(y.dtype).eps * jnp.max(masses)


def _start(y: Keys, anchors: Array, masses: Array, tau: Array) -> Potentials:
    """The dual of the hard problem: boundary b between cells j, j+1 gives psi_{j+1} - psi_j."""
    n = y.shape[-1]
    s = jnp.sort(y, axis=-1)
    cut = jnp.clip(jnp.cumsum(masses)[:-1].astype(int), 1, max(n - 1, 1))
    boundary = (jnp.take(s, cut - 1, axis=-1) + jnp.take(s, jnp.minimum(cut, n - 1), axis=-1)) / 2
    width, middle = jnp.diff(anchors)[None], (anchors[1:] + anchors[:-1])[None] / 2
    change = 2 * width * (middle - boundary)
    psi = jnp.cumsum(change, axis=-1) / tau[:, None]
    psi = jnp.concatenate([jnp.zeros_like(psi[:, :1]), psi], axis=-1)
    return psi - jnp.mean(psi, axis=-1, keepdims=True)


class _State(NamedTuple):
    psi: Potentials
    residual: Potentials
    hessian: Array
    damping: Float[Array, " batch"]
    step: Array


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _potentials(mode: Mode, y, anchors, masses, tau) -> Potentials:
    tolerance, mass = _floor(y, masses), masses[None]

    def evaluate(psi):
        p = mode.project(_logits(psi, y, anchors, masses, tau))
        return jnp.sum(p, axis=1) - masses[None], _laplacian(mode, p)

    def error(residual):
        return jnp.max(jnp.abs(residual), axis=-1)

    def active(state):
        return (error(state.residual) > tolerance) & (state.damping < 1e6 * jnp.max(masses))

    def alive(residual, before):
        # A column that a sparse mode empties has no slope and would stay empty: shrink it step by step.
        return jnp.all(residual + mass >= 0.1 * jnp.minimum(before + mass, mass), axis=-1)

    def improve(state):
        candidate = state.psi - _regular_solve(state.hessian, state.residual, state.damping)
        residual, hessian = evaluate(candidate)
        smaller = jnp.sum(residual**2, -1) < jnp.sum(state.residual**2, -1)
        better = active(state) & smaller & alive(residual, state.residual)

        def pick(new, old):
            return jnp.where(better.reshape(better.shape + (1,) * (new.ndim - 1)), new, old)

        damping = jnp.where(better, state.damping / 8, jnp.maximum(state.damping * 8, 1e-3))
        damping = jnp.where(damping < 1e-6, tolerance, damping)
        damping = jnp.where(active(state), damping, state.damping)
        new = (pick(candidate, state.psi), pick(residual, state.residual), pick(hessian, state.hessian))
        return _State(*new, damping, state.step + 1)

    def unfinished(state):
        return jnp.any(active(state)) & (state.step < _MAX_STEPS)

    psi = _start(y, anchors, masses, tau)
    start = _State(psi, *evaluate(psi), jnp.full_like(tau, tolerance), jnp.zeros((), jnp.int32))
    return lax.while_loop(unfinished, improve, start).psi


@_potentials.defjvp
def _potentials_jvp(mode, primals, tangents):
    y, anchors, masses, tau = primals
    psi = _potentials(mode, *primals)
    z, dz = jax.jvp(partial(_logits, psi), primals, tangents)
    p = mode.project(z)
    change = jnp.sum(_linearised(mode, p)(dz), axis=1) - tangents[2][None]
    damping = jnp.broadcast_to(_floor(y, masses), tau.shape)
    return psi, -_regular_solve(_laplacian(mode, p), change, damping)
