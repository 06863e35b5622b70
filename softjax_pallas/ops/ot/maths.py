"""The semi-dual of transport to few anchors, written once for every kernel body.

The maths is that of `softjax._methods.ot.semidual_newton`, one row of the batch at a time. A body chooses how a block
of the plan is laid out and says so with an `Axis`:

- a *block* is a tuple of parts that together hold keys x anchors: one two-dimensional part, or a part for each anchor,
- a *vector* is a tuple of parts with one number for each anchor,
- a *number* belongs to the row: a scalar, or an array of one element.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from softjax._methods.ot.semidual_newton import MAX_STEPS, Stopping, above_starving, next_damping

from ...tile_engine.maths import EPS, power, root, threshold_move
from ...tile_engine.maths import MAX_STEPS as MAX_THRESHOLD_STEPS

Block = tuple[Any, ...]
Vector = tuple[Any, ...]


class Axis(NamedTuple):
    """How a body reduces: over the anchors of a block, over the keys of a block's margin, over a vector."""

    total: Callable[[Block], Any]
    largest: Callable[[Block], Any]
    spread: Callable[[Any], Any]  # a margin, one number for each key, to where it meets a block's part
    lift: Callable[[Any], Any]  # a vector's part, to where it meets a block's part
    any_key: Callable[[Any], Any]  # the largest entry of a margin, as a scalar
    vector_sum: Callable[[Vector], Any]
    vector_max: Callable[[Vector], Any]
    scalar: Callable[[Any], Any]  # a number as a scalar, for the condition of a loop


def each(function: Callable, *operands: tuple) -> tuple:
    """`function` of every part."""
    return tuple(map(function, *operands))


def project(z: Block, degree: int | None, axis: Axis) -> tuple[Block, Block]:
    """The distribution over the anchors that logits stand for, and its sensitivity to them."""
    top = axis.spread(axis.largest(z))
    z = each(lambda part: part - top, z)
    if degree is None:
        weights = each(jnp.exp, z)
        scale = axis.spread(1 / axis.total(weights))
        p = each(lambda part: part * scale, weights)
        return p, p
    theta = axis.spread(_threshold(z, degree, axis))
    rest = each(lambda part: jnp.maximum(part - theta, 0.0), z)
    weights = each(lambda part: power(part, degree), rest)
    scale = axis.spread(1 / axis.total(weights))
    slopes = each(lambda part: degree * power(part, degree - 1), rest)
    return each(lambda part: part * scale, weights), slopes


def _root(x, m: int):
    """The m-th root of a positive number, to the last place: exp2 and log2 are what every compiler has."""
    if m < 3:
        return root(x, m)
    guess = jnp.exp2(jnp.log2(x) * (1 / 3))
    return guess - (guess * guess * guess - x) / (3 * guess * guess)


def _threshold(z: Block, m: int, axis: Axis):
    """`softjax._modes.simplex_threshold` over the anchors: Newton's method on the m-norm."""

    def improve(state):
        theta, moving, step = state
        across = axis.spread(theta)
        rest = each(lambda part: jnp.maximum(part - across, 0.0), z)
        slope = axis.total(each(lambda part: power(part, m - 1), rest))
        total = axis.total(each(lambda part: power(part, m), rest))
        move = jnp.where(moving > 0, threshold_move(_root(total, m), slope, m), 0.0)
        new = jnp.minimum(jnp.maximum(theta + move, -1.0), 0.0)
        still = jnp.where(jnp.abs(move) > 2 * EPS * jnp.abs(new), moving, 0.0)
        return new, still, step + 1

    def unfinished(state):
        return (axis.any_key(state[1]) > 0) & (state[2] < MAX_THRESHOLD_STEPS)

    start = axis.largest(z) - 1  # z has maximum 0, or NaN, which stays in its column
    return lax.while_loop(unfinished, improve, (start, start * 0 + 1, jnp.int32(0)))[0]


def centred(change: Block, w: Block, axis: Axis) -> Block:
    """SV(change) = w (change - sum w change / sum w): the derivative of `project` in a direction, and its transpose."""
    mean = axis.spread(axis.total(each(jnp.multiply, w, change)) / axis.total(w))
    return each(lambda part, weight: weight * (part - mean), change, w)


def halves(u):
    """u as a sum of two bfloat16; bits are cut, since a compiler may take a conversion there and back for nothing."""
    high = lax.bitcast_convert_type(lax.bitcast_convert_type(u, jnp.int32) & jnp.int32(-65536), jnp.float32)
    return high.astype(jnp.bfloat16), (u - high).astype(jnp.bfloat16)


class Newton(NamedTuple):
    """What the iteration needs from a body.

    received(psi) -> column sums; evaluate(psi) -> (column sums, curvature);
    solve(curvature, rhs, damping) -> (H + damping)^-1 rhs; keep(better, new, old) -> the curvature to go on with.
    """

    received: Callable[[Vector], Vector]
    evaluate: Callable[[Vector], tuple[Vector, Any]]
    solve: Callable[[Any, Vector, Any], Vector]
    keep: Callable[[Any, Any, Any], Any]
    masses: Callable[[], Vector]  # asked for where they are used: what a body would rather load again than hold
    tau: Any
    axis: Axis


def floor_of(masses: Vector, axis: Axis):
    """The rounding of a column sum, in elements."""
    return 4 * EPS * axis.vector_max(masses)


def pick(better, new, old) -> Any:
    """`new` where the number `better` is positive, else `old`."""
    if isinstance(new, tuple):
        return tuple(pick(better, a, b) for a, b in zip(new, old, strict=True))
    if better.ndim < new.ndim:  # Mosaic GPU broadcasts numbers, not conditions
        better = lax.broadcast(better, new.shape)
    return jnp.where(better > 0, new, old)


def newton(problem: Newton, psi: Vector, rounds: int) -> Vector:
    """`semidual_newton.newton` on one row: the same start, damping and stopping rule, so the same potentials."""
    axis = problem.axis
    floor = floor_of(problem.masses(), axis)
    most = floor / (4 * EPS)

    stopping = Stopping(EPS, 1 / problem.tau, floor)

    def over(r, mass):
        return jnp.where(jnp.abs(r) > stopping.goal(mass), 1.0, 0.0)

    def away(r, mass):
        return jnp.where(jnp.abs(r) < stopping.near(mass), 0.0, 1.0)

    def active(residual, damping, stalled):
        far = axis.vector_max(each(over, residual, problem.masses()))
        near = axis.vector_max(each(away, residual, problem.masses())) < 1
        stuck = ((stalled > 0) & near) | stopping.hopeless(damping, most)
        return jnp.where((far > 0) & ~stuck, 1.0, 0.0)

    def residual_of(sums):
        return each(jnp.subtract, sums, problem.masses())

    def squares(residual):
        return axis.vector_sum(each(jnp.multiply, residual, residual))

    def starved(residual, before):
        def low(r, b, mass):
            return jnp.where(above_starving(r, b, mass) >= 0, 0.0, 1.0)

        return axis.vector_max(each(low, residual, before, problem.masses()))

    def improve(state):
        psi, residual, curvature, damping, _, step, _ = state
        candidate = each(jnp.subtract, psi, problem.solve(curvature, residual, damping))
        sums, new_curvature = problem.evaluate(candidate)
        new_residual = residual_of(sums)
        before, after = squares(residual), squares(new_residual)
        slope = axis.vector_sum(each(lambda r, new, old: r * (new - old), new_residual, candidate, psi))
        good = (slope < 0) | (after < before) & (starved(new_residual, residual) < 1)
        stalled = jnp.where(good & (after <= before / 2), 0.0, 1.0)
        better = jnp.where(good, 1.0, 0.0)
        psi, residual = pick(better, candidate, psi), pick(better, new_residual, residual)
        curvature = problem.keep(better, new_curvature, curvature)
        damping = next_damping(good, damping, floor)
        return psi, residual, curvature, damping, stalled, step + 1, active(residual, damping, stalled)

    def unfinished(state):
        return (axis.scalar(state[-1]) > 0) & (state[-2] < MAX_STEPS)

    def scale(_, psi):
        def log_scale(v, got, mass):
            return v + jnp.where(mass > 0, jnp.log(mass / got), 0.0)

        return each(log_scale, psi, problem.received(psi), problem.masses())

    psi = lax.fori_loop(0, rounds, scale, psi) if rounds else psi
    sums, curvature = problem.evaluate(psi)
    residual, curvature = residual_of(sums), problem.keep(floor * 0 + 1, curvature, None)
    first = (psi, residual, curvature, floor, floor * 0, jnp.int32(0), active(residual, floor, floor * 0))
    return lax.while_loop(unfinished, improve, first)[0]
