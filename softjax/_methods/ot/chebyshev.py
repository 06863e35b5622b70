"""Sums over keys of analytic functions by Chebyshev moments, and polynomials at the keys, which are the transpose.

[-1, 1] is cut into panels. In each a function f that is analytic around it is its interpolant on 16 Chebyshev points z
up to rounding, so that

    sum_i v_i f(t_i) = sum_q W_q f(z_q)     with     W_q = sum_i v_i L_q(t_i),

L_q the Lagrange polynomials of the panel that t_i lies in. Far keys do not reach a point's weight, which would cancel
where f is small at most keys and large at few. By T_{8 + b} = 2 T_8 T_b - T_{8 - b} the moments sum_i v_i T_q follow
from ten polynomials of each key and one product of two small matrices, which takes 3 ns a key on a CPU's core.
"""

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..._primitive import Operator, Target
from ..._types import Float

_LOW = 8
POINTS = 2 * _LOW
"""Of a panel."""
_CHUNK = 4096
"""So many keys are taken at a time, whose polynomials stay in a core's cache."""

Places = Float[Array, "batch n"]
PerKey = Float[Array, "batch d n"]
PerNode = Float[Array, "batch d m"]

_ANGLES = (np.arange(POINTS) + 0.5) * np.pi / POINTS
_DEGREES = np.arange(POINTS)
_COEFFICIENTS = 2 / POINTS * np.cos(np.outer(_ANGLES, _DEGREES)) * np.where(_DEGREES == 0, 0.5, 1.0)
"""Values at the points times it are the coefficients of T_q in their interpolant."""


def points(panels: int) -> np.ndarray:
    """The Chebyshev points of all panels, in [-1, 1]."""
    middles = (np.arange(panels) + 0.5) * 2 / panels - 1
    return (middles[:, None] + np.cos(_ANGLES) / panels).reshape(-1)


def lagrange(places: np.ndarray, panels: int) -> np.ndarray:
    """(points, places): every L_q at these places in [-1, 1]."""
    panel, inside = _located(places, panels, np)
    values = _COEFFICIENTS @ np.cos(_DEGREES[:, None] * np.arccos(np.clip(inside, -1, 1)))
    return np.concatenate([np.where(panel == i, values, 0) for i in range(panels)])


def _located(t: Any, panels: int, np: Any) -> tuple[Any, Any]:
    """The panel that t lies in, and where in it, from -1 to 1."""
    scaled = (t + 1) * (panels / 2)
    panel = np.clip(np.floor(scaled), 0, panels - 1)
    return panel, 2 * (scaled - panel) - 1


def _products() -> np.ndarray:
    """(16, 16): L_q as a sum of the products T_{8 a} T_b, [q, 8 a + b]."""
    folded = np.zeros((POINTS, 2, _LOW))
    for q in range(POINTS):
        a, b = divmod(q, _LOW)
        folded[q, a, b] = 2 if a and b else 1
        if a and b:
            folded[q, 0, _LOW - b] -= 1
    return _COEFFICIENTS @ folded.reshape(POINTS, POINTS)


_PRODUCTS = _products()


def _slopes(panels: int) -> np.ndarray:
    """(points, points): the derivative of L_q at the point r of its panel, as [q, r]."""
    series = np.polynomial.chebyshev.chebder(_COEFFICIENTS.T)
    return np.kron(np.eye(panels), panels * np.polynomial.chebyshev.chebval(np.cos(_ANGLES), series))


_sum = partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def _factors(t: Array, panels: int) -> tuple[Array, Array]:
    """T_0 ... T_7 (8, ...), and T_0 and T_8 in the panel of t, 0 in others: (2 panels, ...), the panel first."""
    # Barriers, or a compiler makes what is used twice twice.
    panel, inside = lax.optimization_barrier(_located(t, panels, jnp))
    low = [jnp.ones_like(t), inside]
    while len(low) < _LOW:
        low.append(2 * inside * low[-1] - low[-2])
    stacked = lax.optimization_barrier(jnp.stack(low))
    high = jnp.stack([jnp.ones_like(t), 2 * stacked[_LOW // 2] ** 2 - 1])
    every = lax.broadcasted_iota(t.dtype, (panels, 1, *t.shape), 0)
    return stacked, jnp.where(panel[None, None] == every, high[None], 0.0).reshape(2 * panels, *t.shape)


def _chunks(n: int) -> tuple[int, int]:
    """How many chunks n keys make, and of how many keys."""
    count = -(-n // _CHUNK)
    return count, -(-n // count)


def _place(i: Array, count: int, size: int) -> tuple[Array, Array]:
    """The row of a chunk and its first key."""
    i = i.astype(jnp.uint32)
    if count == 1:
        return i, jnp.zeros_like(i)
    return lax.div(i, jnp.uint32(count)), lax.rem(i, jnp.uint32(count)) * jnp.uint32(size)


_cut = partial(lax.dynamic_slice, allow_negative_indices=False)
_put = partial(lax.dynamic_update_slice, allow_negative_indices=False)
_ZERO = np.uint32(0)


def _filled(a: Array, size: int) -> Array:
    return a if a.shape[-1] == size else jnp.pad(a, ((0, 0),) * (a.ndim - 1) + ((0, size - a.shape[-1]),))


def _in_turn(target: Target | None, a: Array) -> bool:
    """Is it for one CPU, which takes rows and chunks one after another?"""
    return (
        target is not None
        and target.platform == "cpu"
        and target.local
        and isinstance(a.shape[0], int)
        and a.shape[0] > 0
    )


@dataclasses.dataclass(frozen=True)
class NodeWeights(Operator):
    """(t | v) -> W: the weights of the panels' points for sums over the keys t in [-1, 1] times each v."""

    panels: int
    fixed = 1
    along_keys = (True, True), (False,)

    def run(self, *args: Array) -> tuple[Array, ...]:
        return self.run_on(None, *args)

    def run_on(self, target: Target | None, *args: Array) -> tuple[Array, ...]:
        t, v = args
        sums = self._in_turn(t, v) if _in_turn(target, t) else self._whole(t, v)
        sums = sums.reshape(*v.shape[:2], self.panels, POINTS)
        weights = _sum("bdpf,qf->bdpq", sums, jnp.asarray(_PRODUCTS, v.dtype))
        return (weights.reshape(*v.shape[:2], self.panels * POINTS),)

    def _whole(self, t: Places, v: PerKey) -> Float[Array, "batch d h l"]:
        low, high = _factors(t, self.panels)
        return _sum("lbn,hbdn->bdhl", low, high[:, :, None] * v[None])

    def _in_turn(self, t: Places, v: PerKey) -> Float[Array, "batch dh l"]:
        batch, d, n = v.shape
        count, size = _chunks(n)
        t, v = (_filled(a, count * size) for a in (t[:, None], v))

        def add(i, sums):
            row, first = _place(i, count, size)
            part = lambda a: _cut(a, (row, _ZERO, first), (1, a.shape[1], size))[0]
            low, high = _factors(part(t)[0], self.panels)
            left = (part(v)[:, None] * high[None]).reshape(-1, size)
            new, at = _sum("hn,ln->hl", left, low)[None], (row, _ZERO, _ZERO)
            return _put(sums, _cut(sums, at, new.shape) + new, at)

        return lax.fori_loop(0, batch * count, add, jnp.zeros((batch, 2 * d * self.panels, _LOW), t.dtype))

    def transpose(self, fixed, cotangents):
        return Interpolated(self.panels).bind(*fixed, *cotangents)

    def tangent(self, fixed, moving, dfixed, out):
        slopes = jnp.asarray(_slopes(self.panels), out[0].dtype)
        return (_sum("...dr,qr->...dq", self(*fixed, moving[0] * dfixed[0][..., None, :]), slopes),)


@dataclasses.dataclass(frozen=True)
class Interpolated(Operator):
    """(t | values) -> the polynomials through the values at the panels' points, at t in [-1, 1]."""

    panels: int
    fixed = 1
    along_keys = (True, False), (True,)

    def run(self, *args: Array) -> tuple[Array, ...]:
        return self.run_on(None, *args)

    def run_on(self, target: Target | None, *args: Array) -> tuple[Array, ...]:
        t, values = args
        batch, d, _ = values.shape
        values = values.reshape(batch, d, self.panels, POINTS)
        factors = _sum("bdpq,qf->bdpf", values, jnp.asarray(_PRODUCTS, values.dtype))
        form = self._in_turn if _in_turn(target, t) else self._whole
        return (form(t, factors.reshape(batch, d, 2 * self.panels, _LOW)),)

    def _whole(self, t: Places, factors: Float[Array, "batch d h l"]) -> PerKey:
        low, high = _factors(t, self.panels)
        return jnp.sum(_sum("bdhl,lbn->bdhn", factors, low) * jnp.moveaxis(high, 0, 1)[:, None], axis=2)

    def _in_turn(self, t: Places, factors: Float[Array, "batch d h l"]) -> PerKey:
        (batch, n), d = t.shape, factors.shape[1]
        count, size = _chunks(n)
        t, factors = _filled(t, count * size), factors.reshape(batch * d, 2 * self.panels, _LOW)

        def put(i, out):
            column, first = _place(i, count, size)
            row = lax.div(column, jnp.uint32(d)) if d > 1 else column
            low, high = _factors(_cut(t, (row, first), (1, size))[0], self.panels)
            own = _cut(factors, (column, _ZERO, _ZERO), (1, *factors.shape[1:]))[0]
            return _put(out, jnp.sum(_sum("hl,ln->hn", own, low) * high, axis=0)[None], (column, first))

        out = lax.fori_loop(0, batch * d * count, put, jnp.zeros((batch * d, count * size), t.dtype))
        return out[:, :n].reshape(batch, d, n)

    def transpose(self, fixed, cotangents):
        return NodeWeights(self.panels).bind(*fixed, *cotangents)

    def tangent(self, fixed, moving, dfixed, out):
        slopes = jnp.asarray(_slopes(self.panels), out[0].dtype)
        return (self(*fixed, _sum("...dq,qr->...dr", moving[0], slopes)) * dfixed[0][..., None, :],)
