"""Sums over wide windows element by element, for CPUs: a window that slides, kept as two stacks that only ever add.

The window of target i is (i, last], and `last` grows with i. A front and a back meet at `middle`: of the front the
moments from every element to `middle` are written down, those of the back are carried along and grow with it. When i
reaches `middle`, the whole window becomes the front: every element is pushed once and written down at most once. All
rows follow one another in one loop, which XLA compiles to a few hundred scalar instructions an element.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from .moments import Moments, OneSide, Point


def _read(tree, i: Array):
    return jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, 0, False, allow_negative_indices=False), tree)


def _write(a: Array, value: Array, i: Array) -> Array:
    return lax.dynamic_update_index_in_dim(a, value, i, 0, allow_negative_indices=False)


def _slide(z: Point, t: Point, payload: Array, n: int, degrees: int) -> Array:
    """Moments about t_i of the j > i with z_j < t_i of the same row, for places (rows * n,), ascending in rows."""
    size, kinds = payload.shape
    single = lambda j: jnp.pad(_read(payload, j)[None], ((0, degrees - 1), (0, 0)))

    def step(state):
        i, end, last, middle, back, front, out = state
        end = jnp.where(i == end, end + n, end)
        first, last = end - n, jnp.maximum(last, i)
        empty, anchor = middle <= i, _read(z, last)

        def write_down(state):
            j, sums, front = state
            sums = sums + Moments(_read(z, j), single(j)).moved(anchor).sums
            return j - 1, sums, _write(front, sums, j - 1 - first)

        start = jnp.where(empty, last, i), jnp.zeros_like(back), front
        front = lax.while_loop(lambda state: state[0] > i, write_down, start)[2]
        middle, back = jnp.where(empty, last, middle), jnp.where(empty, jnp.zeros_like(back), back)
        target = _read(t, i)

        def more(state):
            following = state[0] + 1
            return (following < end) & (target.minus(_read(z, jnp.minimum(following, size - 1))) > 0)

        def push(state):
            last, back = state
            return last + 1, Moments(_read(z, last), back).moved(_read(z, last + 1)).plus(single(last + 1)).sums

        last, back = lax.while_loop(more, push, (last, back))
        near = jnp.where(middle > i, _read(front, i - first), jnp.zeros_like(back))
        both = Moments(_read(z, middle), near).moved(target).plus(Moments(_read(z, last), back).moved(target))
        return i + 1, end, last, middle, back, front, _write(out, both.sums, i)

    nothing, none = jnp.zeros((degrees, kinds), payload.dtype), jnp.int32(-1)
    front, out = (jnp.zeros((length, degrees, kinds), payload.dtype) for length in (n, size))
    start = jnp.int32(0), jnp.int32(0), none, none, nothing, front, out
    return lax.while_loop(lambda state: state[0] < size, step, start)[-1]


def one_side(side: OneSide, reach: Array, powers: Sequence[int]) -> Callable[[Array], list[list[Array]]]:
    """Half-widths -> the sums of every power and kind."""
    del reach
    b, n = side.key.shape
    payload = jnp.stack([a.reshape(-1) for a in side.payload()], -1)

    def read(reach):
        z, t = jax.tree.map(lambda a: a.reshape(-1), side.places(reach))
        out = _slide(z, t, payload, n, max(powers) + 1).reshape(b, n, -1, payload.shape[1])
        return [[out[..., p, kind] for kind in range(out.shape[-1])] for p in powers]

    return read
