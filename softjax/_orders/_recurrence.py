"""First-order linear recurrences along rows, with their derivatives as recurrences of the same kind.

F_i = u_i + a_i F_{i-1} from the left and G_i = v_i + a_{i+1} G_{i+1} from the right: a_i links i - 1 and i, and each
direction is the transpose of the other. A factor of 0 cuts: nothing crosses it, no infinity and no NaN. The first decay
of every row is 0, so on the CPU all rows are one sequence and both directions one loop over its elements, which XLA
compiles to a few scalar instructions an element. Elsewhere every row is an associative scan (Blelloch, "Prefix sums and
their applications", 1990).
"""

import math
from collections.abc import Callable

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


def _scanned(decay: Decay, left: tuple[Columns, ...], right: tuple[Columns, ...]) -> tuple[Columns, ...]:
    """By associative scans, with the factor by which an element takes over its predecessor's sum."""
    out = []
    for columns, reverse in ((left, False), (right, True)):
        factor = _predecessors(decay, -1, True) if reverse else decay
        out += lax.associative_scan(_combine, (factor[:, :, None], *columns), axis=1, reverse=reverse)[1:]
    return tuple(out)


def _in_turn(decay: Decay, left: tuple[Columns, ...], right: tuple[Columns, ...]) -> tuple[Columns, ...]:
    """In one loop over the elements of all rows, from both ends."""
    size, sides = math.prod(decay.shape), (left, right)
    if size == 0:
        return *left, *right
    factors = decay.reshape(size), _predecessors(decay, -1, True).reshape(size)
    given = [[u.reshape(size, u.shape[2]) for u in columns] for columns in sides]
    at = lambda a, i: lax.dynamic_index_in_dim(a, i, keepdims=False, allow_negative_indices=False)
    put = lambda a, x, i: lax.dynamic_update_index_in_dim(a, x, i, 0, allow_negative_indices=False)

    def step(state):
        i, sums, out = state
        places = i, size - 1 - i
        sums = [
            [_take_over(at(factor, k), at(u, k), before) for u, before in zip(us, befores, strict=True)]
            for factor, us, befores, k in zip(factors, given, sums, places, strict=True)
        ]
        out = [[put(a, x, k) for a, x in zip(*side, strict=True)] for *side, k in zip(out, sums, places, strict=True)]
        return i + 1, sums, out

    start = jnp.int32(0), [[jnp.zeros(u.shape[1:], u.dtype) for u in us] for us in given], given
    out = lax.while_loop(lambda state: state[0] < size, step, start)[2]
    return tuple(a.reshape(u.shape) for done, us in zip(out, sides, strict=True) for a, u in zip(done, us, strict=True))


def _predecessors(a: Array, axis: int, reverse: bool) -> Array:
    """Every element's predecessor in the direction of travel, 0 for the first."""
    n, first, pad = a.shape[axis], int(reverse), [(0, 0)] * a.ndim
    pad[axis] = (1 - first, first)
    return jnp.pad(lax.slice_in_dim(a, first, n - 1 + first, axis=axis), pad)


class _Recurrences(Operator):
    """(decays | u, v) -> F of every u and G of every v, of which there are as many."""

    fixed = 1

    def run(self, *args: Array) -> tuple[Array, ...]:
        in_turn, scanned = (lambda *a, form=form: form(*_sides(*a)) for form in (_in_turn, _scanned))
        return lax.platform_dependent(*args, cpu=in_turn, default=self._elsewhere(in_turn, scanned, *args))

    def run_on(self, target: Target | None, *args: Array) -> tuple[Array, ...]:
        if target is None:
            return self.run(*args)
        return (_in_turn if target.platform == "cpu" else self._elsewhere(_in_turn, _scanned, *args))(*_sides(*args))

    def _elsewhere(self, in_turn: Callable, scanned: Callable, decay: Array, *_: Array) -> Callable:
        return scanned if isinstance(decay.shape[-1], int) else in_turn  # no scan takes a symbolic length

    def shapes(self, *args):
        return args[1:]

    def transpose(self, fixed: tuple, cotangents: tuple) -> tuple[Array, ...]:
        _, of_left, of_right = _sides(*fixed, *cotangents)
        _, right, left = _sides(*fixed, *self.bind(*fixed, *of_right, *of_left))
        return *left, *right

    def absorbed(self, fixed: tuple, moving: tuple, dfixed: tuple, out: tuple) -> tuple[Array, ...]:
        del moving
        change = dfixed[0]
        _, left, right = _sides(*fixed, *out)
        before = (change[..., None] * _predecessors(f, -2, False) for f in left)
        behind = (_predecessors(change, -1, True)[..., None] * _predecessors(g, -2, True) for g in right)
        return *before, *behind


def _sides(decay: Array, *columns: Array) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
    half = len(columns) // 2
    return decay, columns[:half], columns[half:]


def both_sides(decay: Decay, *u: Columns) -> tuple[Columns, ...]:
    """sum_j a(i, j) u_j for every i, where a(i, j) is the product of the decays between i and j, and 1 at i = j.

    The first decay of every row must be 0.
    """
    _, left, right = _sides(decay, *_RECURRENCES.bind(decay, *u, *u))
    return tuple(f + g - v for f, g, v in zip(left, right, u, strict=True))


_RECURRENCES = _Recurrences()
