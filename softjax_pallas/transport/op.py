"""Optimal transport to few anchors as fused operations: the dual solve, the result and its gradient in a kernel each.

Rows of P, averages of a payload, ranks and the mask derive from the plan's columns, `Solve`. Sorting for the start
stays in XLA, since no Pallas backend lowers it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from softjax._fused import run
from softjax._methods.base import Forms, Keys, PerRow, Ranks, always, count
from softjax._methods.ot import method as ot
from softjax._methods.ot import semidual_newton
from softjax._modes import Mode
from softjax._types import Float

from .._kernel import Named, cannot_run
from ._kernels import Kernels, kernels, sizes
from ._limits import OPS, max_payload, supports
from ._spec import Operands, Spec


class Solve:
    """The plan's first columns from a problem: solved here, and remembered for the cotangent."""

    def __init__(self, run: Kernels):
        self.run = run
        self.saved: tuple[Array, ...] = ()

    def __call__(self, spec: Spec, at: Operands) -> Float[Array, "batch wanted last"]:
        """The first `wanted` columns of the plan (batch, wanted, n), or their averages of a payload (batch, wanted, d).

        `at.psi` is where Newton starts; it and `at.anchors` have no gradient.
        """
        out, *saved = self.run.forward(spec, at)
        self.saved = tuple(saved)
        return out


class Solved(Solve):
    """The same of a problem whose potentials and column sums are known: for its derivative, the values are zeros."""

    def __init__(self, run: Kernels, saved: tuple[Array, ...]):
        super().__init__(run)
        self.saved = saved

    def __call__(self, spec: Spec, at: Operands) -> Float[Array, "batch wanted last"]:
        psi, sums = self.saved
        return _solved(spec, self.run, at._replace(psi=lax.stop_gradient(psi)), sums)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _solved(spec: Spec, run: Kernels, at: Operands, sums: Array) -> Array:
    return _solved_forward(spec, run, at, sums)[0]


def _solved_forward(spec, run, at, sums):
    shape = (at.y.shape[0], spec.wanted, spec.payload or spec.n)
    return jnp.zeros(shape, jnp.float32 if spec.payload else at.y.dtype), (at, sums)


def _solved_backward(spec, run, residuals, cotangent):
    at, sums = residuals
    dy, dpayload, dmasses, dtau = run.backward(spec, at, sums, cotangent)
    zeros = jnp.zeros_like(at.psi)
    at = Operands(dy, dpayload, zeros, dmasses.astype(at.masses.dtype), zeros, dtau.astype(at.tau.dtype))
    return at, jnp.zeros_like(sums)


_solved.defvjp(_solved_forward, _solved_backward)


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


def _columns(
    solve: Solve, x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
) -> Float[Array, "batch r last"]:
    """Rows of P (batch, r, n) where the payload is None, else rows of P times the payload (batch, r, d)."""
    wanted, at = _problem(x, ranks, payload, tau)
    d = 0 if payload is None else payload.shape[2]
    return solve(Spec(x.shape[1], at.masses.shape[1], wanted, d, mode.degree, normalise=True), at)


def _rows(solve, x, ranks, tau, mode):
    return _columns(solve, x, ranks, None, tau, mode)


def _apply(solve, x, ranks, payload, tau, mode):
    payload = x[:, :, None] if payload is None else payload
    if payload.shape[2] > max_payload(solve.run.name, _bins(ranks, x.shape[1])):
        return jnp.matmul(_rows(solve, x, ranks, tau, mode), payload, precision=lax.Precision.HIGHEST)
    return _columns(solve, x, ranks, payload, tau, mode)


def _rank(solve, x, tau, mode):
    n = x.shape[1]
    at = _problem(x, range(n), None, tau)[1]
    plan = solve(Spec(n, n, n, 0, mode.degree, normalise=False), at)
    positions = jnp.arange(n, dtype=plan.dtype)
    return jnp.matmul(positions, plan, precision=lax.Precision.HIGHEST)


def _mask(solve, x, k, tau, mode):
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
    found = solve(Spec(n, 2, 1, 0, mode.degree, normalise=False), at)[:, 0]
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


@dataclass(frozen=True)
class TransportKernel:
    """One form by one compiler's kernels."""

    implementation: str
    op: str

    def value(self, *arguments: Any) -> tuple[Array, tuple[Array, ...]]:
        """The form's result; potentials and column sums."""
        solve = Solve(kernels(self.implementation))
        return _FORMS[self.op](solve, *arguments), solve.saved

    def pull(self, saved: tuple[Array, ...], cotangent: Array, *arguments: Any) -> tuple[Array, ...]:
        """Cotangents of the arguments that are arrays of floats."""
        places = [
            i for i, a in enumerate(arguments) if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jnp.floating)
        ]

        def form(*floats):
            every = list(arguments)
            for i, a in zip(places, floats, strict=True):
                every[i] = a
            return _FORMS[self.op](Solved(kernels(self.implementation), saved), *every)

        return jax.vjp(form, *(arguments[i] for i in places))[1](cotangent)


def refusal(implementation: str, op: str, x: Any, *arguments: Any) -> str | None:
    """Why no kernel of that implementation serves a call, or None."""
    k, d = anchors(op, x, *arguments), 0
    if op == "apply":
        d = 1 if arguments[1] is None else arguments[1].shape[2]
        # More columns than a kernel averages: the rows are written and multiplied.
        d = 0 if d > max_payload(implementation, k) else d
    return supports(op, "ot", x.dtype, (*x.shape, k, d), implementation)


def _form(kernel: TransportKernel, x: Keys, *arguments: Any) -> Array:
    """One form: checks that a kernel serves the call, then calls it."""
    implementation, op = kernel.implementation, kernel.op
    if x.shape[0] == 0 or x.shape[1] < 2 or anchors(op, x, *arguments) < 2:  # nothing to solve
        return getattr(ot.DENSE, op)(x, *arguments)
    if reason := refusal(implementation, op, x, *arguments):
        raise cannot_run(implementation, op, "ot", reason)
    arguments = tuple(
        jnp.broadcast_to(a, (x.shape[0], *a.shape))
        if i == 0 and op in ("rows", "apply") and isinstance(a, jax.Array)
        else a
        for i, a in enumerate(arguments)
    )
    return run(Named(implementation, "ot", op, kernel), x, *arguments)


def forms(implementation: str) -> dict[str, Forms]:
    """The forms of every method that this package implements by transport kernels, on keys (batch, n)."""
    by_kernels = {op: partial(_form, TransportKernel(implementation, op)) for op in OPS}
    return {"ot": Forms(**by_kernels, writes=always)}  # pyright: ignore[reportArgumentType]


def tiles(op: str, implementation: str, x: Any, *arguments: Any) -> dict[str, int]:
    """Keys at a time, and anchors with their padding."""
    return sizes(implementation, x.shape[1], anchors(op, x, *arguments))
