"""Optimal transport to few anchors as fused operations: the dual solve, the result and its gradient in a kernel each.

Rows of P, averages of a payload, ranks and the mask derive from the plan's columns, `PLAN`. Sorting for the start
stays in XLA, since no Pallas backend lowers it.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from softjax._kernel_form import run
from softjax._methods.base import Keys, PerRow, Ranks, count
from softjax._methods.ot import method as ot
from softjax._methods.ot import semidual_newton
from softjax._modes import Mode
from softjax._types import Float

from ..._autodiff import FormKernel, Rule, Solve
from ..._kernel import Named, cannot_run
from .kernels import kernels, sizes
from .limits import max_payload, supports
from .spec import Operands, Spec


def _plan_forward(spec: Spec, implementation: str, *arrays: Any):
    """The first `wanted` columns of the plan (batch, wanted, n), or their averages of a payload (batch, wanted, d).

    `psi` is where Newton starts; it and `anchors` have no gradient. The potentials and the column sums are kept.
    """
    at = Operands(*arrays)
    out, psi, sums = kernels(implementation).forward(spec, at)
    return out, (at, psi, sums)


def _plan_backward(spec: Spec, implementation: str, residuals, cotangent):
    at, psi, sums = residuals
    backward = kernels(implementation).backward
    dy, dpayload, dmasses, dtau = backward(spec, at._replace(psi=psi), sums, cotangent)
    zeros = jnp.zeros_like(psi)
    return Operands(dy, dpayload, zeros, dmasses.astype(at.masses.dtype), zeros, dtau.astype(at.tau.dtype))


def _plan_result(spec: Spec, implementation: str, *arrays: Any) -> jax.ShapeDtypeStruct:
    y = Operands(*arrays).y
    dtype = jnp.float32 if spec.payload else y.dtype
    return jax.ShapeDtypeStruct((y.shape[0], spec.wanted, spec.payload or spec.n), dtype)


PLAN = Rule(
    _plan_forward,
    _plan_backward,
    _plan_result,
    kept=lambda residuals: residuals[1:],
    saves=2,
    again=lambda spec, implementation, kept, *arrays: (Operands(*arrays), *kept),
)


def _per_row(vector: Array, batch: int) -> Array:
    return jnp.broadcast_to(vector[None] if vector.ndim == 1 else vector, (batch, vector.shape[-1]))


def _problem(x: Keys, ranks: Ranks, payload: Array | None, tau: PerRow) -> tuple[int, Operands]:
    """How many columns are wanted, and the operands, wanted bins first: the maths ignores the anchors' order."""
    (batch, n), tau = x.shape, tau.astype(jnp.float32)
    keys, dtype = lax.stop_gradient(x.astype(jnp.float32)), jnp.dtype(jnp.float32)
    bins = np.arange(_bins(ranks, n))
    wanted = bins[ot.wanted_bins(ranks, n)]
    order = np.concatenate([wanted, np.setdiff1d(bins, wanted)])

    def started(x, places, masses, tau):
        return lax.stop_gradient(semidual_newton.start(semidual_newton.Problem(x, places, masses, tau)))

    if isinstance(ranks, range):
        places, masses = ot.targets(ranks, n, dtype)[:2]
        start = started(keys, places, masses, tau)
    else:  # traced: every row has its own
        places, masses = jax.vmap(lambda ranks: ot.targets(ranks, n, dtype)[:2])(ranks)
        start = jax.vmap(lambda x, a, m, t: started(x[None], a, m, t[None])[0])(keys, places, masses, tau)
    masses, places = (_per_row(v[..., order], batch) for v in (masses, places))
    transposed = None if payload is None else payload.transpose(0, 2, 1)
    return len(wanted), Operands(x, transposed, start[:, order], masses, places, tau)


class _Plan(NamedTuple):
    """The plan's columns by one implementation's kernels."""

    solve: Solve
    implementation: str

    def columns(self, spec: Spec, at: Operands) -> Float[Array, "batch wanted last"]:
        return self.solve(PLAN, (spec, self.implementation), *at)


def _columns(
    plan: _Plan, x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
) -> Float[Array, "batch r last"]:
    """Rows of P (batch, r, n) where the payload is None, else rows of P times the payload (batch, r, d)."""
    wanted, at = _problem(x, ranks, payload, tau)
    d = 0 if payload is None else payload.shape[2]
    spec = Spec(x.shape[1], at.masses.shape[1], wanted, d, mode.degree, normalise=True)
    return plan.columns(spec, at)


def _rows(plan, x, ranks, tau, mode):
    return _columns(plan, x, ranks, None, tau, mode)


def _apply(plan, x, ranks, payload, tau, mode):
    payload = x[:, :, None] if payload is None else payload
    if payload.shape[2] > max_payload(plan.implementation, _bins(ranks, x.shape[1])):
        return jnp.matmul(_rows(plan, x, ranks, tau, mode), payload, precision=lax.Precision.HIGHEST)
    return _columns(plan, x, ranks, payload, tau, mode)


def _rank(plan, x, tau, mode):
    n = x.shape[1]
    at = _problem(x, range(n), None, tau)[1]
    columns = plan.columns(Spec(n, n, n, 0, mode.degree, normalise=False), at)
    positions = jnp.arange(n, dtype=columns.dtype)
    return jnp.matmul(positions, columns, precision=lax.Precision.HIGHEST)


def _mask(plan, x, k, tau, mode):
    """How much of every element is among the `k` largest: the plan's column to the upper of two anchors.

    `k` (batch,) is real, in [0, n], may be traced and has a gradient. Entries lie in [0, 1] and sum to it.
    """
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
    found = plan.columns(Spec(n, 2, 1, 0, mode.degree, normalise=False), at)[:, 0]
    # Nothing or everything needs no solver.
    empty, full = (k <= 0)[:, None], (k >= n)[:, None]
    return jnp.where(full, jnp.ones_like(found), jnp.where(empty, jnp.zeros_like(found), found))


_FORMS: dict[str, Callable[..., Array]] = {"rows": _rows, "apply": _apply, "rank": _rank, "mask": _mask}


def _bins(ranks: Ranks, n: int) -> int:
    """The number of anchors."""
    if isinstance(ranks, range):
        return len(ranks) + (ranks.start > 0) + (ranks.stop < n) if len(ranks) else 1
    return 2 * count(ranks) + 1


def anchors(op: str, x: Any, *arguments: Any) -> int:
    """The number of anchors of a call of one form."""
    n = x.shape[1]
    return {"mask": 2, "rank": n}.get(op) or _bins(arguments[0], n)


class TransportKernel(FormKernel):
    """A form that saves potentials and column sums."""

    def form(self, solve, *arguments):
        return _FORMS[self.op](_Plan(solve, self.implementation), *arguments)


def refusal(implementation: str, op: str, x: Any, *arguments: Any) -> str | None:
    """Why no kernel of that implementation serves a call, or None."""
    k, d = anchors(op, x, *arguments), 0
    if op == "apply":
        d = 1 if arguments[1] is None else arguments[1].shape[2]
        # More columns than a kernel averages: the rows are written and multiplied.
        d = 0 if d > max_payload(implementation, k) else d
    return supports(op, "ot", x.dtype, (*x.shape, k, d), implementation)


_kernel = cache(TransportKernel)  # a kernel is one object, by which its traced shapes are remembered


def named(implementation: str, method: str, op: str, x: Keys, *arguments: Any) -> Array:
    """A function of a method by kernels of that implementation, once it is sure that one serves the call."""
    if x.shape[0] == 0 or x.shape[1] < 2 or anchors(op, x, *arguments) < 2:  # nothing to solve
        return getattr(ot.DEFINITION, op)(x, *arguments)
    if reason := refusal(implementation, op, x, *arguments):
        raise cannot_run(implementation, op, method, reason)
    arguments = tuple(
        jnp.broadcast_to(a, (x.shape[0], *a.shape))
        if i == 0 and op in ("rows", "apply") and isinstance(a, jax.Array)
        else a
        for i, a in enumerate(arguments)
    )
    return run(Named(implementation, method, op, _kernel(implementation, method, op)), x, *arguments)


def tiles(op: str, implementation: str, x: Any, *arguments: Any) -> dict[str, int]:
    """Keys at a time, and anchors with their padding."""
    return sizes(implementation, x.shape[1], anchors(op, x, *arguments))
