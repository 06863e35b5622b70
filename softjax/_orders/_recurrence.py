"""First-order linear recurrences along rows, with their derivatives as recurrences of the same kind.

F_i = u_i + a_i F_{i-1} from the left, or F_i = u_i + a_{i+1} F_{i+1} from the right: a_i links i - 1 and i, and each
direction is the transpose of the other. A factor of 0 cuts: nothing crosses it, no infinity and no NaN. The first decay
of every row is 0, so on the CPU all rows are one sequence and one loop over its elements, which XLA compiles to a few
scalar instructions an element. Elsewhere every row is an associative scan (Blelloch, "Prefix sums and their
applications", 1990).
"""

import dataclasses
import math

import jax.numpy as jnp
from jax import Array, lax

from .._types import Float
from ._linear import Operator, Target

Decay = Float[Array, "batch n"]
Columns = Float[Array, "batch n d"]


def _take_over(factor: Array, u: Array, before: Array) -> Array:
    return jnp.where(factor == 0, u, u + factor * before)


def _combine(left, right):
    return left[0] * right[0], *(_take_over(right[0], g, f) for f, g in zip(left[1:], right[1:], strict=True))


def _scanned(factor: Decay, *u: Columns, reverse: bool) -> tuple[Columns, ...]:
    """`factor` is the decay with which an element takes over its predecessor's sum."""
    return tuple(lax.associative_scan(_combine, (factor[:, :, None], *u), axis=1, reverse=reverse)[1:])


def _in_turn(factor: Decay, *u: Columns, reverse: bool) -> tuple[Columns, ...]:
    flat = [a.reshape(math.prod(a.shape[:2]), *a.shape[2:]) for a in (factor, *u)]

    def step(before, at):
        sums = tuple(_take_over(at[0], v, f) for v, f in zip(at[1:], before, strict=True))
        return sums, sums

    start = tuple(jnp.zeros_like(a[0]) for a in flat[1:])
    return tuple(
        a.reshape(v.shape) for a, v in zip(lax.scan(step, start, tuple(flat), reverse=reverse)[1], u, strict=True)
    )


def _predecessors(a: Array, axis: int, reverse: bool) -> Array:
    """Every element's predecessor in the direction of travel, 0 for the first."""
    n, first, pad = a.shape[axis], int(reverse), [(0, 0)] * a.ndim
    pad[axis] = (1 - first, first)
    return jnp.pad(lax.slice_in_dim(a, first, n - 1 + first, axis=axis), pad)


@dataclasses.dataclass(frozen=True)
class _Recurrence(Operator):
    """(decays | u) -> the sums of every u."""

    reverse: bool
    fixed = 1

    def _factor(self, decay: Array) -> Array:
        return _predecessors(decay, -1, True) if self.reverse else decay

    def run(self, *args: Array) -> tuple[Array, ...]:
        decay, *u = args
        factor = self._factor(decay)
        cpu, default = (lambda *a, form=form: form(*a, reverse=self.reverse) for form in (_in_turn, _scanned))
        return lax.platform_dependent(factor, *u, cpu=cpu, default=default)

    def run_on(self, target: Target | None, *args: Array) -> tuple[Array, ...]:
        if target is None:
            return self.run(*args)
        in_turn = target.platform == "cpu" and all(isinstance(size, int) for size in args[0].shape)
        form = _in_turn if in_turn else _scanned  # a loop over a symbolic number of elements is none that JAX knows
        return form(self._factor(args[0]), *args[1:], reverse=self.reverse)

    def shapes(self, *args):
        return args[1:]

    def transpose(self, fixed: tuple, cotangents: tuple) -> tuple[Array, ...]:
        return decayed_sums(*fixed, *cotangents, reverse=not self.reverse)

    def absorbed(self, fixed: tuple, moving: tuple, dfixed: tuple, out: tuple) -> tuple[Array, ...]:
        del fixed, moving
        change = self._factor(dfixed[0])[..., None]
        return tuple(change * _predecessors(f, -2, self.reverse) for f in out)


def decayed_sums(decay: Decay, *u: Columns, reverse: bool = False) -> tuple[Columns, ...]:
    """F of every u, from the left or from the right; the first decay of every row must be 0."""
    return _Recurrence(reverse).bind(decay, *u)


def both_sides(decay: Decay, *u: Columns) -> tuple[Columns, ...]:
    """sum_j a(i, j) u_j for every i, where a(i, j) is the product of the decays between i and j, and 1 at i = j."""
    left, right = decayed_sums(decay, *u), decayed_sums(decay, *u, reverse=True)
    return tuple(f + g - v for f, g, v in zip(left, right, u, strict=True))
