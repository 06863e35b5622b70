"""The rows of sparse SoftSort and their derivatives, as linear operators; see `softjax._orders._window`."""

# pyright: reportIncompatibleMethodOverride=false
# (operators differ in the number of arrays they take)

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from .._linear import Operator
from . import passes
from .walk import Term, Window


def _each(d: int, *arrays: Array) -> list[Array]:
    """(b, n) or (b, n, d) -> (b * d, n): columns of a payload become rows of the batch."""
    out = []
    for a in arrays:
        a = jnp.broadcast_to(a[..., None], (*a.shape, d)) if a.ndim == 2 else a
        out.append(jnp.moveaxis(a, 2, 1).reshape(-1, a.shape[1]))
    return out


def _together(d: int, a: Array) -> Array:
    """(b * d, n) -> (b, n, d)."""
    return jnp.moveaxis(a.reshape(-1, d, a.shape[-1]), 1, 2)


# ---------------------------------------------------------------- any order: sums of x^p sign(j - i)^odd


@dataclasses.dataclass(frozen=True)
class _Sums(Operator):
    """(s, R | v) -> sum_j x_ij^p sign(j - i)^odd v_j, or with `transposed` sum_i x_ij^p sign(j - i)^odd v_i."""

    power: int
    odd: bool
    transposed: bool = False
    fixed = 2
    end_to_end = True

    def run(self, s, reach, v):
        d = v.shape[-1]
        s, reach, g = _each(d, s, reach, v)
        (out,) = passes.sums((Term(self.power, self.odd),), Window(s, reach, self.transposed), g)
        # Seen from a column the near index is the row: the sign turns.
        return (_together(d, -out if self.odd and self.transposed else out),)

    def transpose(self, fixed, cotangents):
        return (dataclasses.replace(self, transposed=not self.transposed)(*fixed, *cotangents),)

    def tangent(self, fixed, moving, dfixed, out):
        del out
        (s, reach), (v,) = fixed, moving
        ds, dreach = (x[..., None] for x in dfixed)
        if self.power == 0:
            return (jnp.zeros_like(v),)
        # dx_ij = dR_i - sign(j - i) (ds_j - ds_i)
        plain = partial(dataclasses.replace(self, power=self.power - 1), s, reach)
        turned = partial(dataclasses.replace(self, power=self.power - 1, odd=not self.odd), s, reach)
        if self.transposed:
            change = plain(dreach * v) - ds * turned(v) + turned(ds * v)
        else:
            change = dreach * plain(v) - turned(ds * v) + ds * turned(v)
        return (self.power * change,)


@dataclasses.dataclass(frozen=True)
class _Reach(Operator):
    """(s, tau) -> R."""

    m: int
    fixed = 2
    end_to_end = True

    def run(self, s, tau):
        return (passes.solve(self.m, s, tau),)

    def tangent(self, fixed, moving, dfixed, out):
        del moving
        (s, tau), (ds, dtau), (reach,) = fixed, dfixed, out
        plain, turned = (partial(_Sums(self.m - 1, odd), s, reach) for odd in (False, True))
        one = jnp.ones_like(s)[..., None]
        moved = turned(ds[..., None]) - ds[..., None] * turned(one)
        return ((tau ** (self.m - 1) * dtau + moved[..., 0]) / plain(one)[..., 0],)


def _reference(m, s, tau, v):
    reach = _Reach(m)(s, tau)
    rows = partial(_Sums(m, False), s, reach)
    return rows(v) / rows(jnp.ones_like(s)[..., None])


def _tangent_of(reference, fixed, dfixed):
    """Tangent of a rule through its slower, generic form, which is differentiable to every order."""
    return jax.jvp(reference, fixed, dfixed)[1]


# ---------------------------------------------------------------- first order, fused and locally centred
# R, Z and the centres are functions of (s, tau, v) here: their own tangents are ignored because
# every rule below is a total derivative.


@dataclasses.dataclass(frozen=True)
class Rows(Operator):
    """(s, tau, v) -> P v, R, Z = sum_j x^m, b = c - v_i, e = dy_i / ds_i at fixed s_j; P v alone has a tangent."""

    m: int
    fixed = 3
    end_to_end = True

    def run(self, s, tau, v):
        m, d = self.m, v.shape[-1]
        reach = passes.solve(m, s, tau)
        keys, wide, h = _each(d, s, reach, v)
        terms = (
            Term(m),
            Term(m, relative=True),
            Term(m - 1),
            Term(m - 1, relative=True),
            Term(m - 1, odd=True),
            Term(m - 1, odd=True, relative=True),
        )
        out = passes.sums(terms, Window(keys, wide, False), jnp.ones_like(h), (jnp.zeros_like(h), h))
        total, rise, slope, centre, lean, turn = (_together(d, a) for a in out)
        b = centre / slope
        return v + rise / total, reach, total[..., 0], b, m * (turn - b * lean) / total

    def tangent(self, fixed, moving, dfixed, out):
        del moving
        s, tau, v = fixed
        y, reach, total, b, e = out
        # dy / dtau = m (c - y) / tau
        f = self.m * ((v - y) + b)
        dy = _Tangent(self.m)(s, tau, v, reach, total, b, e, f, *dfixed)
        return dy, *map(jnp.zeros_like, out[1:])


class _First(Operator):
    """A rule of first order at (s, tau, v, R, Z, b, e, f)."""

    fixed = 8
    end_to_end = True


@dataclasses.dataclass(frozen=True)
class _Tangent(_First):
    """(... | ds, dtau, dv) -> d(P v)."""

    m: int

    def run(self, s, tau, v, reach, total, b, e, f, ds, dtau, dv):
        m, d = self.m, v.shape[-1]
        keys, wide, h, moved, dh = _each(d, s, reach, v, ds, dv)
        window = Window(keys, wide, False)
        terms = Term(m - 1, odd=True), Term(m - 1, odd=True, relative=True)
        lean, turn = passes.sums(terms, window, moved, (jnp.zeros_like(h), h))
        (flow,) = passes.sums((Term(m),), window, dh)
        lean, turn, flow = (_together(d, a) for a in (lean, turn, flow))
        mean = (flow - m * (turn - b * lean)) / total[..., None]
        return (mean + e * ds[..., None] + f * (dtau / tau)[..., None],)

    def transpose(self, fixed, cotangents):
        return _Cotangent(self.m)(*fixed, *cotangents)

    def tangent(self, fixed, moving, dfixed, out):
        del out

        def reference(s, tau, v, *_):
            return jax.jvp(partial(_reference, self.m), (s, tau, v), moving)[1]

        return (_tangent_of(reference, fixed, dfixed),)


@dataclasses.dataclass(frozen=True)
class _Cotangent(_First):
    """(... | w) -> cotangents (s, tau, v) of sum(w * P v)."""

    m: int

    def run(self, s, tau, v, reach, total, b, e, f, w):
        m, d = self.m, v.shape[-1]
        weight = w / total[..., None]
        keys, wide, h, g, kappa = _each(d, s, reach, v, weight, weight * b)
        terms = Term(m), Term(m - 1, odd=True, relative=True)
        vbar, flux = passes.sums(terms, Window(keys, wide, True), g, (kappa, h))
        sbar = jnp.sum(w * e - m * _together(d, flux), -1)
        return sbar, jnp.sum(w * f, (-2, -1))[..., None] / tau, _together(d, vbar)

    def transpose(self, fixed, cotangents):
        return (_Tangent(self.m)(*fixed, *cotangents),)

    def tangent(self, fixed, moving, dfixed, out):
        del out

        def reference(s, tau, v, *_):
            return jax.vjp(partial(_reference, self.m), s, tau, v)[1](*moving)

        return _tangent_of(reference, fixed, dfixed)
