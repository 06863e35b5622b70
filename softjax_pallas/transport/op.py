"""Optimal transport as fused operations. Few anchors: the dual solve, the result and its gradient in a kernel each.

`columns` is their one operation with a custom gradient; rows of P, averages of a payload and the mask derive from it.
More anchors than its kernels hold are left to `_stream`, whose kernels are passes over the plan. Sorting for the start
stays in XLA, since no Pallas backend lowers it.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from softjax import _transport
from softjax._modes import Mode
from softjax._orders import ot
from softjax._orders._base import Forms, Keys, PerRow, Ranks

from .._kernel import cannot_run
from . import _stream
from ._kernels import Kernels, kernels
from ._limits import many, max_payload, pass_anchors, supports
from ._spec import Operands, Spec


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def columns(spec: Spec, run: Kernels, at: Operands) -> Float[Array, "batch wanted last"]:
    """The first `wanted` columns of the plan, (batch, wanted, n), or their averages of a payload, (batch, wanted, d).

    `at.psi` is where Newton starts; it and `at.anchors` have no gradient.
    """
    return run.forward(spec, at)[0]


def _columns_forward(spec, run, at):
    out, psi, sums = run.forward(spec, at)
    return out, (at._replace(psi=psi), sums)


def _columns_backward(spec, run, residuals, cotangent):
    at, sums = residuals
    dy, dpayload, dmasses, dtau = run.backward(spec, at, sums, cotangent)
    zeros = jnp.zeros_like(at.psi)
    return (Operands(dy, dpayload, zeros, dmasses.astype(at.masses.dtype), zeros, dtau.astype(at.tau.dtype)),)


columns.defvjp(_columns_forward, _columns_backward)


def _per_row(vector: Array, batch: int) -> Array:
    return jnp.broadcast_to(vector[None] if vector.ndim == 1 else vector, (batch, vector.shape[-1]))


def _checked_columns(op: str, spec: Spec, run: Kernels, at: Operands) -> Array:
    """`columns`, or an error that says why this implementation has no kernel for it."""
    shape = (*at.y.shape, spec.k, spec.payload)
    if reason := supports(op, "ot", at.y.dtype, shape, run.name):
        raise cannot_run(run.name, op, "ot", reason)
    return columns(spec, run, at)


def _problem(x: Keys, ranks: Ranks, payload: Array | None, tau: PerRow) -> tuple[int, Operands]:
    """How many columns are wanted, and the operands, wanted bins first: the maths ignores the anchors' order."""
    batch, n = x.shape
    target = ot.targets(ranks, n, jnp.dtype(jnp.float32))
    wanted = target.bins.tolist()
    order = np.array(wanted + sorted(set(range(target.anchors.shape[0])) - set(wanted)))
    tau = tau.astype(jnp.float32)
    problem = _transport.Problem(x.astype(jnp.float32), target.anchors, target.masses, tau)
    start = lax.stop_gradient(_transport.start(problem))[:, order]
    masses, anchors = (_per_row(v[order], batch) for v in (target.masses, target.anchors))
    transposed = None if payload is None else payload.transpose(0, 2, 1)
    return len(wanted), Operands(x, transposed, start, masses, anchors, tau)


def plan_columns(
    run: Kernels, x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
) -> Float[Array, "batch r last"]:
    """Rows of P (batch, r, n) where the payload is None, else rows of P times the payload (batch, r, d)."""
    wanted, at = _problem(x, ranks, payload, tau)
    k, d = at.masses.shape[1], 0 if payload is None else payload.shape[2]
    spec = Spec(x.shape[1], k, wanted, d, mode.degree, normalise=True)
    return _checked_columns("apply" if d else "rows", spec, run, at)


def mask(implementation: str, x: Keys, k: PerRow, tau: PerRow, mode: Mode) -> Float[Array, "batch n"]:
    """How much of every element is among the `k` largest: the plan's column to the upper of two anchors.

    `k` (batch,) is real, in [0, n], may be traced and has a gradient. Entries lie in [0, 1] and sum to it.
    """
    run = kernels(implementation)
    batch, n = x.shape
    mass = jnp.where((k > 0) & (k < n), k, jnp.full_like(k, n / 2))
    y, tau = x.astype(jnp.float32), tau.astype(jnp.float32)
    cut = jnp.clip(jnp.floor(n - mass).astype(jnp.int32), 1, max(n - 1, 1))[:, None]
    ends = jnp.concatenate([cut - 1, jnp.minimum(cut, n - 1)], axis=1)
    boundary = jnp.mean(jnp.take_along_axis(jnp.sort(y, axis=1), ends, axis=1), axis=1)
    half = lax.stop_gradient((0.5 - boundary) / tau)
    mass = mass.astype(jnp.float32)
    at = Operands(
        x,
        None,
        jnp.stack([half, -half], axis=1),
        jnp.stack([mass, n - mass], axis=1),
        jnp.broadcast_to(jnp.asarray([1.0, 0.0], jnp.float32), (batch, 2)),
        tau,
    )
    found = _checked_columns("mask", Spec(n, 2, 1, 0, mode.degree, normalise=False), run, at)[:, 0]
    # Nothing or everything needs no solver.
    empty, full = (k <= 0)[:, None], (k >= n)[:, None]
    return jnp.where(full, jnp.ones_like(found), jnp.where(empty, jnp.zeros_like(found), found))


def _bins(ranks: Ranks, n: int) -> int:
    """The number of anchors."""
    if isinstance(ranks, range):
        return len(ranks) + (ranks.start > 0) + (ranks.stop < n) if len(ranks) else 1
    return 2 * len(ranks) + 1


def _check(op: str, x: Keys, k: int, payload: int, implementation: str) -> None:
    if reason := supports(op, "ot", x.dtype, (*x.shape, k, payload), implementation):
        raise cannot_run(implementation, op, "ot", reason)


def _streamed(implementation: str, x: Keys, ranks: Ranks, tau: PerRow) -> tuple[_transport.Problem, np.ndarray]:
    """The problem of many anchors, in float32, and which anchors are wanted; further ones are empty."""
    target = ot.targets(ranks, x.shape[1], jnp.dtype(jnp.float32))
    k = target.masses.shape[0]
    missing = (0, pass_anchors(k, implementation) - k)
    anchors, masses = jnp.pad(target.anchors, missing, mode="edge"), jnp.pad(target.masses, missing)
    return _transport.Problem(x.astype(jnp.float32), anchors, masses, tau.astype(jnp.float32)), target.bins


def _rows(run: Kernels, x, ranks, tau, mode):
    k = _bins(ranks, x.shape[1])
    if x.shape[0] == 0 or k < 2:
        return ot.rows(x, ranks, tau, mode)
    if many(k, run.name):
        _check("rows", x, k, 0, run.name)
        problem, bins = _streamed(run.name, x, ranks, tau)
        plan = _stream.distributions(_stream.Stream(run.name, mode), x.dtype, problem)
        return jnp.swapaxes(plan[:, :, bins], 1, 2)
    return plan_columns(run, x, ranks, None, tau, mode)


def _apply(run: Kernels, x, ranks, payload, tau, mode):
    payload = x[:, :, None] if payload is None else payload
    k = _bins(ranks, x.shape[1])
    if x.shape[0] == 0 or k < 2:
        return ot.DENSE.apply(x, ranks, payload, tau, mode)
    if many(k, run.name):
        _check("apply", x, k, payload.shape[2], run.name)
        problem, bins = _streamed(run.name, x, ranks, tau)
        channels = jnp.swapaxes(payload, 1, 2).astype(jnp.float32)
        found = _stream.averages(_stream.Stream(run.name, mode), problem, channels)
        return jnp.swapaxes(found[:, :, bins], 1, 2).astype(payload.dtype)
    if payload.shape[2] > max_payload(run.name, k):
        return jnp.matmul(_rows(run, x, ranks, tau, mode), payload, precision=lax.Precision.HIGHEST)
    return plan_columns(run, x, ranks, payload, tau, mode)


def _rank(run: Kernels, x, tau, mode):
    batch, n = x.shape
    if batch == 0 or n < 2:
        return ot.DENSE.rank(x, tau, mode)
    if many(n, run.name):
        _check("rank", x, n, 0, run.name)
        problem, _ = _streamed(run.name, x, range(n), tau)
        positions = jnp.minimum(jnp.arange(problem.anchors.shape[0], dtype=jnp.float32), n - 1)
        return _stream.expectations(_stream.Stream(run.name, mode), problem, positions).astype(x.dtype)
    at = _problem(x, range(n), None, tau)[1]
    plan = _checked_columns("rank", Spec(n, n, n, 0, mode.degree, normalise=False), run, at)
    positions = jnp.arange(n, dtype=plan.dtype)
    return jnp.matmul(positions, plan, precision=lax.Precision.HIGHEST)


def forms(implementation: str) -> dict[str, Forms]:
    """The forms of every method that this package implements by transport kernels, on keys (batch, n)."""
    run = kernels(implementation)
    return {
        "ot": Forms(
            rows=partial(_rows, run),
            apply=partial(_apply, run),
            rank=partial(_rank, run),
            mask=partial(mask, implementation),
        )
    }
