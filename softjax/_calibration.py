"""Choosing softness: the one at which rows are as soft as wanted, by safeguarded root-finding."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from . import _check
from ._axis import layout_along
from ._methods.hard import HARD
from ._permutation import SoftPermutation, chosen, soften
from ._slope import with_slope_of
from ._types import Float, Implementation, MethodName, ModeName

_RANGE = 40
"""Powers of two around the unit that are searched."""
_STEPS = 24
_RANKS = 256
"""The entropy of longer rows is a mean over so many ranks, evenly spaced."""


def calibrate_softness(
    a: ArrayLike,
    axis: int | None = -1,
    *,
    entropy: ArrayLike | None = None,
    error: ArrayLike | None = None,
    per_row: bool = False,
    mode: ModeName = "smooth",
    method: MethodName = "softsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
) -> Array:
    """The softness at which array operators are as soft on a as wanted, between 0, hard, and 1, constant.

    Exactly one of two measures is given. Both rise with softness, and neither has a unit.

    **Arguments:**
        a: array of any shape, with n > 1 elements along `axis`: what the softness is for, or a sample of it.
        axis: the axis that is to be softened; None flattens a first.
        entropy: in (0, 1); the mean entropy of the soft permutation's rows over log(n). May be traced.
        error: in (0, 1); the mean distance of `sort` from the hard one, over that of a from its mean. May be traced.
        per_row: one softness for each row, where measures are else averaged over them; `entropy` and `error` then
            broadcast against a's shape without `axis`.
        mode: "smooth", "c0", "c1" or "c2".
        method: "softsort", "neuralsort", "ot", "lapsum" or, for an error, "fast_soft_sort".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
    **Returns:** a scalar, or with `per_row` an array of a's shape without `axis`; differentiable in a and in the
        measure. Where no softness attains it, as of constant rows, the nearest end of what was searched, 2^-40 to 2^40
        times the unit of the keys.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md.
    """
    how = chosen(mode, method, standardize, implementation)
    per_row = _check.flag("per_row", per_row)
    if how.mode is None:
        _check.wrong("mode", mode, "a soft one: the hard mode has no softness")
    if entropy is not None and error is None:
        how = how.with_rows()
        name, value, measure = "entropy", entropy, _entropy
    elif error is not None and entropy is None:
        name, value, measure = "error", error, _error
    else:
        given = {"entropy": entropy, "error": error}
        raise TypeError(f"Exactly one of `entropy` and `error` must be given, not {given!r}.")
    x, layout = layout_along(_check.real("a", a), axis)
    if layout.n < 2:
        _check.wrong("a", x, "an array with at least two elements along `axis`")
    p = soften(x, layout, 1.0, how)
    shape = layout.batch_shape if per_row else ()
    goal = _check.broadcast(name, _check.between(name, value, 0, 1).astype(p.dtype), shape, against="a without `axis`")
    found = _root(partial(_measured, measure, per_row), p, jnp.broadcast_to(goal, shape))
    return found.astype(layout.dtype)


def _measured(measure, per_row: bool, p: SoftPermutation, tau: Array) -> Array:
    """The measure at one softness for all rows, or at one for each."""
    batch = p.keys.shape[:-1]
    each = measure(replace(p, softness=jnp.broadcast_to(tau, batch)))
    return each if per_row else jnp.mean(each)


def _entropy(p: SoftPermutation) -> Float[Array, "*batch"]:
    n = p.keys.shape[-1]
    ranks = p.ranks if n <= _RANKS else jnp.round(jnp.linspace(0, n - 1, _RANKS)).astype(int)
    rows = replace(p, ranks=ranks)._rows()
    some = rows > 0
    held = jnp.where(some, rows, jnp.ones_like(rows))
    return jnp.mean(jnp.sum(-held * jnp.log(held), axis=-1), axis=-1) / jnp.log(jnp.asarray(n, rows.dtype))


def _error(p: SoftPermutation) -> Float[Array, "*batch"]:
    values, hard = p._values(True), replace(p, mode=None, method=HARD, standardize=False)._values(True)
    spread = jnp.mean(jnp.abs(hard - jnp.mean(hard, axis=-1, keepdims=True)), axis=-1)
    return jnp.mean(jnp.abs(values - hard), axis=-1) / jnp.where(spread > 0, spread, jnp.ones_like(spread))


def _unit(p: SoftPermutation, shape: tuple[int, ...]) -> Array:
    """What a softness is compared with, up to factors of n and of the method."""
    if p.standardize or not p.method.permutes:
        return jnp.ones(shape, p.dtype)
    std = jnp.std(p.keys, axis=-1)
    std = std if shape else jnp.mean(std)
    return jnp.where(std > 0, std, jnp.ones_like(std))


def _root(measured, p: SoftPermutation, goal: Array) -> Array:
    """tau with measured(p, tau) = goal: halving of a bracket of its logarithm, then one step of Newton's method.

    That step alone is differentiated, and has the derivative of the implicit function.
    """
    fixed = jax.tree.map(lax.stop_gradient, p)
    unit = _unit(fixed, goal.shape)
    at = lambda p, power: measured(p, unit * jnp.exp2(power))

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        below = at(fixed, middle) < lax.stop_gradient(goal)
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    bounds = jnp.full_like(goal, -_RANGE), jnp.full_like(goal, _RANGE)
    low, high = lax.fori_loop(0, _STEPS, halve, bounds)
    middle = (low + high) / 2
    slope = jax.jvp(partial(at, fixed), (middle,), (jnp.ones_like(middle),))[1]
    rises = slope > 0
    step = (goal - at(p, middle)) / lax.stop_gradient(jnp.where(rises, slope, jnp.ones_like(slope)))
    step = jnp.where(rises, step, jnp.zeros_like(step))
    power = middle + with_slope_of(step, jnp.clip(step, low - middle, high - middle))
    return unit * jnp.exp2(power)
