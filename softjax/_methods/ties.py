"""The derivative of |s_i - s_j| at ties, 0 whatever the order of the elements.

Forms for sorted keys differentiate |s_i - s_j| from one side, by index: as sign(i - j) (ds_i - ds_j). For the tie group
T of i, that adds to the tangent of row i

    -f_i sum_{j in T} sign(i - j) (ds_i - ds_j) u_j,        u_j = v_j - c_i,

which is not to be there: v is the payload, and f_i and the centre c_i are the same for all of T. `kink` is zero with
the derivative that takes it away.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array, lax

from .._primitive import Operator
from .._types import Float
from .base import Keys

Columns = Float[Array, "*batch n d"]


def tied(s: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """1 where an ascending key equals the one before it, else 0."""
    s = lax.stop_gradient(s)
    return jnp.pad((s[..., 1:] == s[..., :-1]).astype(s.dtype), [(0, 0)] * (s.ndim - 1) + [(1, 0)])


def _before(a: Array, reverse: bool = False) -> Array:
    """The element before every one in the direction of travel along axis 1, 0 for the first."""
    pad = (-1, 1, 0) if reverse else (1, -1, 0)
    return lax.pad(a, jnp.zeros((), a.dtype), [(0, 0, 0), pad, *[(0, 0, 0)] * (a.ndim - 2)])


@dataclasses.dataclass(frozen=True)
class _Signed(Operator):
    """(tied | u) -> sum_{j in T} sign(i - j) u_j, by doubling: as many steps as the longest group has bits, or none."""

    fixed = 1

    def shapes(self, *args):
        return args[1:]

    def run(self, *args):
        link, u = args
        n = link.shape[1]
        both = lambda a, b: jnp.stack([a, lax.rev(b, (1,))])  # and from both sides alike
        linked = both(link, jnp.pad(link[:, 1:], ((0, 0), (0, 1))))[..., None] > 0

        def double(state):
            step, linked, sums = state

            def back(a):
                room = jnp.pad(a, ((0, 0), (0, 0), (n, 0), (0, 0)))
                return lax.dynamic_slice_in_dim(room, n - step, n, axis=2, allow_negative_indices=False)

            sums = sums + jnp.where(linked, back(sums), jnp.zeros_like(sums))
            return 2 * step, linked & back(linked), sums

        first = jnp.ones((), jnp.int32), linked, both(u, u)
        left, right = lax.while_loop(lambda state: (state[0] < n) & jnp.any(state[1]), double, first)[2]
        return (left - lax.rev(right, (1,)),)

    def transpose(self, fixed, cotangents):
        return (-self(*fixed, *cotangents),)

    def tangent(self, fixed, moving, dfixed, out):
        return tuple(map(jnp.zeros_like, out))


@dataclasses.dataclass(frozen=True)
class _SignedOfTwo(_Signed):
    """The same in one step and without a loop where no tie is of more than two, as in most float data."""

    def run(self, *args):
        linked = args[0][:, :, None] > 0

        def of_two(_, u):
            where = lambda a: jnp.where(linked, a, jnp.zeros_like(a))
            return (where(_before(u)) - _before(where(u), reverse=True),)

        return lax.cond(jnp.any(linked & _before(linked)), super().run, of_two, *args)


SIGNED = _Signed()


@dataclasses.dataclass(frozen=True)
class _Slope(Operator):
    """(tied, u | w) -> sum_{j in T} sign(i - j) (w_i - w_j) u_j for w (..., n), and the transpose, for w (..., n, d).

    Either is one application of `_Signed`, to u and to what moves.
    """

    transposed: bool = False
    fixed = 2

    def shapes(self, *args):
        link, u, _ = args
        return (jax.ShapeDtypeStruct(link.shape, u.dtype) if self.transposed else u,)

    def run(self, *args):
        link, u, w = args
        other = w if self.transposed else w[:, :, None] * u
        of_u, of_w = jnp.split(SIGNED.run(link, jnp.concatenate([u, other], axis=-1))[0], 2, axis=-1)
        if self.transposed:
            return (jnp.sum(w * of_u + u * of_w, axis=-1),)
        return (w[:, :, None] * of_u - of_w,)

    def transpose(self, fixed, cotangents):
        return (_Slope(not self.transposed)(*fixed, *cotangents),)

    def tangent(self, fixed, moving, dfixed, out):
        return (self(fixed[0], dfixed[1], *moving),)


@dataclasses.dataclass(frozen=True)
class _Kink(Operator):
    """(s | u) -> 0; its own transpose."""

    fixed = 1

    def shapes(self, *args):
        return args[1:]

    def run(self, *args):
        return (jnp.zeros_like(args[1]),)

    def transpose(self, fixed, cotangents):
        return (self(*fixed, *cotangents),)

    def tangent(self, fixed, moving, dfixed, out):
        return (_Slope()(tied(fixed[0]), moving[0], dfixed[0]),)


def kink(s: Keys, u: Columns) -> Columns:
    """Zero, with the tangent sum_{j in T} sign(i - j) (ds_i - ds_j) u_j."""
    return _Kink()(s, u)


def tie_terms(s: Keys, x: Keys) -> tuple[Keys, Keys]:
    """For s, x (..., n): x_j sum_{i in T} sign(j - i), and sum_{i in T} sign(j - i) x_i.

    What a sum over i of |s_i - s_j| that is differentiated by index has too much at j is their difference; that of the
    transpose, their sum.
    """
    count, others = jnp.moveaxis(SIGNED(tied(s), jnp.stack([jnp.ones_like(x), x], axis=-1)), -1, 0)
    return count * x, others


def tie_tangents(s: Keys, x: Keys) -> tuple[Keys, Keys]:
    """The same where `x` is a tangent, of which the count must not become a function."""
    count, others = (SIGNED(tied(s), v[..., None])[..., 0] for v in (jnp.ones_like(x), x))
    return count * x, others


def mean_positions(s: Keys) -> Keys:
    """The positions of ascending keys, ties sharing their mean."""
    positions = jnp.broadcast_to(jnp.arange(s.shape[-1], dtype=s.dtype), s.shape)
    before_less_after = _SignedOfTwo()(tied(s), jnp.ones_like(s)[:, :, None])[:, :, 0]
    return positions - before_less_after / 2
