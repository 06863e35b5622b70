"""Transport to many anchors as fused operations: Newton's iteration in XLA around kernels, in O(n) memory.

The solver is that of `softjax._methods.ot.newton_cg`: damped Newton steps, each by conjugate gradients on H, which two
kernels apply. With SV(g) the derivative of the projection in the direction g and r the sums of SV(g) over keys, the
gradient for a cotangent g of the plan is SV(g - H^-1 r): one more solve, and no loop is differentiated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from softjax._methods.ot import method as ot
from softjax._methods.ot.newton_cg import conjugate_gradients
from softjax._methods.ot.semidual_newton import Potentials, Problem, newton, rounding, sinkhorn_rounds, start
from softjax._modes import Mode
from softjax._types import Float

from .._kernel import LINES, Traced
from ..pairwise._scan import doubled
from ..pairwise._tiled import Spec
from ..pairwise._tiles import at
from ._limits import pass_anchors
from ._passes import AnchorChannels, Direction, KeyChannels, Norm, Passes, passes

STEP_TOLERANCE, STEP_LIMIT = 1e-2, 100
"""Conjugate gradients of a Newton step, which is checked and damped: two digits do."""

GRADIENT_LIMIT = 500


class Stream(NamedTuple):
    """What is static: the implementation's name, the mode and the wanted ranks."""

    implementation: str
    mode: Mode
    ranks: range

    @property
    def spec(self) -> Spec:
        """What the kernels are built from."""
        return Spec(self.implementation, "transport", self.mode.degree, self.mode.reach)


class Solution(NamedTuple):
    """A problem, its potentials, and each key's shift and inv."""

    problem: Problem
    psi: Potentials
    norm: Norm

    def passes(self, stream: Stream) -> Passes:
        """The passes over the plan."""
        return passes(stream.spec, *self)


def _curved(at: Passes, damping: Float[Array, " batch"]) -> Callable[[Potentials], Potentials]:
    """v -> (H + damping) v."""
    return lambda v: at.laplacian(v) + damping[:, None] * v


def _start(stream: Stream, problem: Problem) -> Potentials:
    """`semidual_newton.start` by slices, since the cells' sizes follow from the ranks, and by a loop (`doubled`)."""
    n = problem.y.shape[1]
    cut = np.clip(np.cumsum(ot.cells(stream.ranks, n))[:-1], 1, n - 1)
    s = lax.sort(problem.y, dimension=1, is_stable=False)
    boundaries = (at(s, cut - 1) + at(s, cut)) / 2
    return start(problem._replace(boundaries=boundaries), partial(doubled, jnp.add))


def solve(stream: Stream, problem: Problem) -> Solution:
    """Potentials at which every anchor receives its mass."""

    def evaluate(psi):
        plan = passes(stream.spec, problem, psi)
        return plan.received() - problem.masses[None], plan.norm

    def step(psi, norm, residual, damping):
        matvec = _curved(Solution(problem, psi, norm).passes(stream), damping)
        return conjugate_gradients(matvec, residual, STEP_TOLERANCE, STEP_LIMIT)

    first = _start(stream, problem) if stream.implementation in LINES else None
    psi, _ = newton(problem, evaluate, step, rounds=sinkhorn_rounds(stream.mode), first=first)
    return Solution(problem, psi, passes(stream.spec, problem, psi).norm)


def cotangents(
    stream: Stream, solution: Solution, directions: Sequence[Direction]
) -> tuple[Problem, list[KeyChannels]]:
    """The problem's cotangents where the plan's is a sum of directions, and what `pull` gives for each of them."""
    at, (problem, *_) = solution.passes(stream), solution
    live = problem.masses > 0
    sums = reduce(jnp.add, (at.sums(g) for g in directions))
    # H is blind to a constant, and sums of SV(g) have none but by rounding, which the solve would blow up.
    excess = jnp.sum(sums, axis=1, keepdims=True) / jnp.sum(live.astype(sums.dtype))
    sums = jnp.where(live, sums - excess, jnp.zeros_like(sums))
    damping = jnp.broadcast_to(rounding(problem), problem.tau.shape)
    tolerance = 4 * float(jnp.finfo(jnp.float32).eps)
    lam = conjugate_gradients(_curved(at, damping), sums, tolerance, GRADIENT_LIMIT)
    first, *others = directions
    pulled = [at.pull(g) for g in (first.less(lam), *others)]
    dy = reduce(jnp.add, (key for key, _ in pulled))
    # z depends on tau as on y - 1/2, but for the sign.
    dtau = -jnp.sum((problem.y - 0.5) * dy, axis=1) / problem.tau
    found = Problem(dy, jnp.zeros_like(problem.anchors), jnp.sum(lam, axis=0), dtau)
    return found, [channels for _, channels in pulled]


def _share(received: Potentials) -> Float[Array, "batch 1 k"]:
    """1 / received, 0 for an empty anchor."""
    empty = received == 0
    return jnp.where(empty, jnp.zeros_like(received), 1 / jnp.where(empty, jnp.ones_like(received), received))[:, None]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def averages(stream: Stream, problem: Problem, payload: KeyChannels) -> AnchorChannels:
    """Every anchor's average of the payload."""
    return _averages_forward(stream, problem, payload)[0]


def _averages_forward(stream, problem, payload):
    solution = solve(stream, problem)
    sums, received = solution.passes(stream).collect(payload)
    share = _share(received)
    return sums * share, (solution, payload, share)


def _averages_backward(stream, residuals, g):
    solution, payload, share = residuals
    u = g * share  # a constant: the potentials' derivative keeps what anchors receive
    alone = jnp.zeros_like(u[:, :1])
    parts, keys = map(solution.passes(stream).chunks, (u, payload))
    directions = [Direction(jnp.concatenate([part, alone], axis=1), w) for part, w in zip(parts, keys, strict=True)]
    dproblem, dpayload = cotangents(stream, solution, directions)
    return dproblem, jnp.concatenate(dpayload, axis=1)


averages.defvjp(_averages_forward, _averages_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def expectations(stream: Stream, problem: Problem, values: Float[Array, " k"]) -> Float[Array, "batch n"]:
    """Every key's expected value of an anchor; the values are constants."""
    return _expectations_forward(stream, problem, values)[0]


def _spread(values: Array, problem: Problem) -> AnchorChannels:
    return jnp.broadcast_to(values, (problem.y.shape[0], 1, values.shape[0]))


def _expectations_forward(stream, problem, values):
    solution = solve(stream, problem)
    return solution.passes(stream).distribute(_spread(values, problem))[:, 0], (solution, values)


def _expectations_backward(stream, residuals, g):
    solution, values = residuals
    u = _spread(values, solution.problem)
    direction = Direction(jnp.concatenate([u, jnp.zeros_like(u)], axis=1), g[:, None])
    return cotangents(stream, solution, [direction])[0], jnp.zeros_like(values)


expectations.defvjp(_expectations_forward, _expectations_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def distributions(stream: Stream, dtype: Any, problem: Problem) -> Float[Array, "batch n k"]:
    """The plan, each anchor's entries divided by what it receives."""
    return _distributions_forward(stream, dtype, problem)[0]


def _distributions_forward(stream, dtype, problem):
    solution = solve(stream, problem)
    at = solution.passes(stream)
    share = _share(at.received())
    return at.plan(share, dtype), (solution, share)


def _distributions_backward(stream, dtype, residuals, g):
    solution, share = residuals
    alone = jnp.zeros_like(share)
    direction = Direction(alone, g.astype(jnp.float32) * share, stored=True)
    return (cotangents(stream, solution, [direction])[0],)


distributions.defvjp(_distributions_forward, _distributions_backward)


@dataclass(frozen=True)
class StreamKernel(Traced):
    """One form for many anchors by one compiler's kernels."""

    implementation: str
    op: str

    def form(self, *arguments):
        return getattr(self, self.op)(*arguments)

    def rows(self, x, ranks, tau, mode):
        """Rows of P, (batch, r, n)."""
        problem, bins = self._problem(x, ranks, tau)
        plan = distributions(Stream(self.implementation, mode, ranks), x.dtype, problem)
        return jnp.swapaxes(at(plan, bins), 1, 2)

    def apply(self, x, ranks, payload, tau, mode):
        """Rows of P times a payload, (batch, r, d)."""
        payload = x[:, :, None] if payload is None else payload
        problem, bins = self._problem(x, ranks, tau)
        channels = jnp.swapaxes(payload, 1, 2).astype(jnp.float32)
        found = averages(Stream(self.implementation, mode, ranks), problem, channels)
        return jnp.swapaxes(at(found, bins), 1, 2).astype(payload.dtype)

    def rank(self, x, tau, mode):
        """Every key's expected anchor, (batch, n)."""
        n = x.shape[1]
        problem, _ = self._problem(x, range(n), tau)
        positions = jnp.minimum(jnp.arange(problem.anchors.shape[0], dtype=jnp.float32), n - 1)
        return expectations(Stream(self.implementation, mode, range(n)), problem, positions).astype(x.dtype)

    def _problem(self, x, ranks, tau) -> tuple[Problem, Any]:
        """The problem in float32, and which anchors are wanted; further ones are empty."""
        n = x.shape[1]
        masses = ot.cells(ranks, n).astype(np.float32)
        k = len(masses)
        size = pass_anchors(k, self.implementation)
        # Numbers of a device's own making take no memory, as a constant's would.
        anchors = jnp.minimum(jnp.arange(size, dtype=jnp.float32), k - 1) / max(k - 1, 1)
        masses = jnp.asarray(np.pad(masses, (0, size - k)))
        return Problem(x.astype(jnp.float32), anchors, masses, tau.astype(jnp.float32)), ot.wanted_bins(ranks, n)
