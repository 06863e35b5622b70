"""The rows of sparse SoftSort and their derivatives, as linear operators; see `softjax._methods.softsort.window`."""

# pyright: reportIncompatibleMethodOverride=false
# (operators differ in the number of arrays they take)

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from ...._primitive import Operator
from ...ties import kink
from . import passes
from .passes import Term, Window


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
    sound = 2

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
    sound = 2

    def run(self, s, tau):
        return (passes.solve(self.m, s, tau)[0],)

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


def _applied(m, s, v, reach, total):
    """P v, b and e."""
    d = v.shape[-1]
    keys, wide, h = _each(d, s, reach, v)
    terms = (
        Term(m, relative=True),
        Term(m - 1),
        Term(m - 1, relative=True),
        Term(m - 1, odd=True),
        Term(m - 1, odd=True, relative=True),
    )
    out = passes.sums(terms, Window(keys, wide, False), jnp.ones_like(h), (jnp.zeros_like(h), h))
    rise, slope, centre, lean, turn = (_together(d, a) for a in out)
    b = centre / slope
    return v + rise / total[..., None], b, m * (turn - b * lean) / total[..., None]


@dataclasses.dataclass(frozen=True)
class Rows(Operator):
    """(s, tau, v) -> P v, R, Z = sum_j x^m, b = c - v_i, e = dy_i / ds_i at fixed s_j; P v alone has a tangent."""

    m: int
    fixed = 3
    end_to_end = True
    sound = 2

    def run(self, s, tau, v):
        reach, total = passes.solve(self.m, s, tau)
        y, b, e = _applied(self.m, s, v, reach, total)
        return y, reach, total, b, e

    def shapes(self, *args):
        s, _, v = args
        return v, s, s, v, v

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
    sound = 2


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

    def shapes(self, *args):
        return args[2:3]

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

    def shapes(self, *args):
        return args[:3]

    def transpose(self, fixed, cotangents):
        return (_Tangent(self.m)(*fixed, *cotangents),)

    def tangent(self, fixed, moving, dfixed, out):
        del out

        def reference(s, tau, v, *_):
            return jax.vjp(partial(_reference, self.m), s, tau, v)[1](*moving)

        return _tangent_of(reference, fixed, dfixed)


def rows(m: int, s: Array, tau: Array, v: Array) -> Array:
    """P v for keys s (b, n), ascending and NaN-free, tau (b, 1) and v (b, n, d)."""
    y, reach, total, b, _ = Rows(m)(s, tau, v)
    return y + kink(s, _tie(m, reach, total, b))


def _tie(m, reach, total, b):
    """What `kink` takes: a distance of 0 has the weight R^m / Z, and b is less the own payload, which ties share."""
    return -(m * reach ** (m - 1) / total)[..., None] * b


# ---------------------------------------------------------------- the transpose of P, and its first derivatives


def columns(m: int, s: Array, tau: Array, w: Array) -> Array:
    """P^T w."""
    return Columns(m)(s, tau, w)[0]


def _pulled(m, s, tau, w):
    """P^T w by reverse mode, which is differentiable to every order."""
    return jax.vjp(partial(rows, m, s, tau), jnp.zeros_like(w))[1](w)[0]


@dataclasses.dataclass(frozen=True)
class Columns(Operator):
    """(s, tau, w) -> P^T w, R, Z; P^T w alone has a tangent."""

    m: int
    fixed = 3
    end_to_end = True
    sound = 2

    def run(self, s, tau, w):
        reach, total = passes.solve(self.m, s, tau)
        d = w.shape[-1]
        keys, wide, g = _each(d, s, reach, w / total[..., None])
        (out,) = passes.sums((Term(self.m),), Window(keys, wide, True), g)
        return _together(d, out), reach, total

    def shapes(self, *args):
        s, _, w = args
        return w, s, s

    def tangent(self, fixed, moving, dfixed, out):
        _, reach, total = out
        change = _ColumnsTangent(self.m)(*fixed, reach, total, *dfixed)
        return change, jnp.zeros_like(reach), jnp.zeros_like(total)


@dataclasses.dataclass(frozen=True)
class _ColumnsTangent(Operator):
    """(s, tau, w, R, Z | ds, dtau, dw) -> d(P^T w)."""

    m: int
    fixed = 5

    def run(self, *args):
        return (jax.jvp(partial(_pulled, self.m), args[:3], args[5:])[1],)

    def shapes(self, *args):
        return args[2:3]

    def transpose(self, fixed, cotangents):
        return _ColumnsCotangent(self.m)(*fixed, *cotangents)

    def tangent(self, fixed, moving, dfixed, out):
        first = lambda *fixed: jax.jvp(partial(_pulled, self.m), fixed, moving)[1]
        return (_tangent_of(first, fixed[:3], dfixed[:3]),)


@dataclasses.dataclass(frozen=True)
class _ColumnsCotangent(Operator):
    """(s, tau, w, R, Z | g) -> cotangents (s, tau, w) of sum(g * P^T w), which is sum(w * P g)."""

    m: int
    fixed = 5
    end_to_end = True
    sound = 2

    def run(self, s, tau, w, reach, total, g):
        y, b, e = _applied(self.m, s, g, reach, total)
        f = self.m * ((g - y) + b)
        sbar, taubar, _ = _Cotangent(self.m).run(s, tau, g, reach, total, b, e, f, w)
        (ties,) = jax.vjp(lambda s: kink(s, _tie(self.m, reach, total, b)), s)[1](w)
        return sbar + ties, taubar, y

    def shapes(self, *args):
        return args[:3]

    def transpose(self, fixed, cotangents):
        return (_ColumnsTangent(self.m)(*fixed, *cotangents),)

    def tangent(self, fixed, moving, dfixed, out):
        first = lambda *fixed: jax.vjp(partial(_pulled, self.m), *fixed)[1](*moving)
        return _tangent_of(first, fixed[:3], dfixed[:3])
