"""Moments of payloads about places on a line, and how they move; what for is in `softjax._methods.softsort.window`."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class Point(NamedTuple):
    """A place key + reach, kept apart so that a difference of places loses no digits; h is its relative payload.

    A reach of None is 0.
    """

    key: Array
    reach: Array | None
    h: Array | None

    def minus(self, other: "Point") -> Array:
        difference = self.key - other.key
        if self.reach is None or other.reach is None:
            if self.reach is not None:
                difference = difference + self.reach
            return difference if other.reach is None else difference - other.reach
        return difference + (self.reach - other.reach)


class Moments(NamedTuple):
    """sums[q, 0] = sum_j (anchor - z_j)^q g_j and sums[q, 1] = sum_j (anchor - z_j)^q (kappa_j + g_j (h_j - h_anchor)).

    The second kind is there if the anchor has an h. The anchor lies right of its elements: with g of one sign nothing
    cancels, wherever it is moved to the right.
    """

    anchor: Point
    sums: Array

    def moved(self, to: Point) -> "Moments":
        """The moments about an anchor further right."""
        sums, step = self.sums, to.minus(self.anchor)[None, None]
        if self.anchor.h is not None and to.h is not None:
            none = ((0, 0),) * (sums.ndim - 2)
            sums = sums + (self.anchor.h - to.h)[None, None] * jnp.pad(sums[:, :1], ((0, 0), (1, 0), *none))
        # sum_l C(q, l) step^(q-l) sums_l by Horner's rule, of all q at once.
        column = lambda values: jnp.asarray(values, sums.dtype).reshape(-1, *(1,) * (sums.ndim - 1))
        degrees = range(sums.shape[0])
        out = jnp.broadcast_to(sums[:1], sums.shape)
        for i in degrees[1:]:
            factor = jnp.where(column([q >= i for q in degrees]) > 0, step, jnp.ones_like(step))
            out = out * factor + column([math.comb(q, i) for q in degrees]) * sums[i : i + 1]
        return Moments(to, out)

    def plus(self, other: "Moments | Array") -> "Moments":
        """The moments of both, about this one's anchor."""
        return self._replace(sums=self.sums + (other.sums if isinstance(other, Moments) else other))


class OneSide(NamedTuple):
    """Sums over what lies to one side of every element, j > i:

        sum_j x_ij^p g_j        and, where there is relative = (kappa, h), sum_j x_ij^p (kappa_j + g_j (h_j - h_i))

    with x_ij = R - (key_j - key_i) where that is positive, else 0, for ascending keys (b, n). R is the half-width of i,
    or of j where sums are `by_column`.
    """

    key: Array
    by_column: bool
    g: Array
    relative: tuple[Array, Array] | None

    def places(self, reach: Array) -> tuple[Point, Point]:
        """Places z and targets t with x_ij = t_i - z_j."""
        h = self.relative and self.relative[1]
        z, t = (-reach, None) if self.by_column else (None, reach)
        return Point(self.key, z, h), Point(self.key, t, h)

    def payload(self) -> list[Array]:
        """What the moments of single elements about themselves are."""
        return [self.g, *(self.relative or ())[:1]]
