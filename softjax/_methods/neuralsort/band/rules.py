"""The operators P, P^T and their derivatives, as linear operators; derived in `softjax._methods.neuralsort.band`."""

# pyright: reportIncompatibleMethodOverride=false
# (operators differ in the number of arrays they take)

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from ...._primitive import Operator
from ...ties import tie_tangents
from . import passes
from .walk import Power, Smooth


@dataclasses.dataclass(frozen=True)
class BandOperator(Operator):
    mode: Smooth | Power
    order: int = 0
    end_to_end = True
    sound = 3  # keys, softness and theta


def _tangent_of(reference, fixed, dfixed):
    """Tangent of a rule through its slower, generic form, which is differentiable to every order."""
    return jax.jvp(reference, fixed, dfixed)[1]


# ---------------------------------------------------------------- any order: phi^(q) and explicit theta


def _logit_factors(s, tau, ds, dtau):
    """a, b, e with dD_rj = 2 r a_j - b_j - e_r (r centred): the tangent of D as two payloads."""
    r = _centred_ranks(s)
    a = ds / tau - s * (dtau / tau**2)
    a = a - jnp.mean(a, -1, keepdims=True)
    own, others = tie_tangents(s, a)
    b = (2 * r - 1) * a - 2 * (jnp.cumsum(a, -1) - a) - (own - others)
    return a, b, 2 * r * a - b


def _centred_ranks(s):
    """Ranks less n // 2, with as many axes as s."""
    n = s.shape[-1]
    return (jnp.arange(n, dtype=s.dtype) - n // 2).reshape((1,) * (s.ndim - 1) + (n,))


class _Rows(BandOperator):
    """(s, tau, theta | v) -> sum_j phi^(q)(D_rj - theta_r) v_j."""

    fixed = 3

    def run(self, s, tau, theta, v):
        return (passes.rows_pass(self.mode, self.order, s, tau, theta, v),)

    def transpose(self, fixed, cotangents):
        return (_Cols(self.mode, self.order)(*fixed, *cotangents),)

    def tangent(self, fixed, moving, dfixed, out):
        del out
        (s, tau, theta), (v,), (ds, dtau, dtheta) = fixed, moving, dfixed
        a, b, e = (x[..., None] for x in _logit_factors(s, tau, ds, dtau))
        r = _centred_ranks(s)[..., None]
        # Two calls: a product of two tangents would appear if `v` shared the payload of `a * v`.
        rows = partial(_Rows(self.mode, self.order + 1), s, tau, theta)
        first, second = jnp.split(rows(jnp.concatenate([a * v, b * v], -1)), 2, -1)
        return (2 * r * first - second - (e + dtheta[..., None]) * rows(v),)


class _Cols(BandOperator):
    """(s, tau, theta | w) -> sum_r phi^(q)(D_rj - theta_r) w_r."""

    fixed = 3

    def run(self, s, tau, theta, w):
        return (passes.cols_pass(self.mode, self.order, s, tau, theta, w),)

    def transpose(self, fixed, cotangents):
        return (_Rows(self.mode, self.order)(*fixed, *cotangents),)

    def tangent(self, fixed, moving, dfixed, out):
        del out
        (s, tau, theta), (w,), (ds, dtau, dtheta) = fixed, moving, dfixed
        a, b, e = (x[..., None] for x in _logit_factors(s, tau, ds, dtau))
        r = _centred_ranks(s)[..., None]
        cols = partial(_Cols(self.mode, self.order + 1), s, tau, theta)
        first, second = jnp.split(cols(jnp.concatenate([r * w, w], -1)), 2, -1)
        return (2 * a * first - b * second - cols((e + dtheta[..., None]) * w),)


class Normalisers(BandOperator):
    """(s, tau) -> theta."""

    fixed = sound = 2

    def run(self, s, tau):
        return (passes.normalisers(self.mode, s, tau),)

    def tangent(self, fixed, moving, dfixed, out):
        del moving
        (theta,) = out
        a, b, e = _logit_factors(*fixed, *dfixed)
        rows = partial(_Rows(self.mode, 1), *fixed, theta)
        moved, slope = rows(jnp.stack([a, b], -1)), rows(jnp.ones_like(a)[..., None])[..., 0]
        return ((2 * _centred_ranks(theta) * moved[..., 0] - moved[..., 1]) / slope - e,)


def _rows_reference(mode, s, tau, v):
    return _Rows(mode)(s, tau, Normalisers(mode)(s, tau), v)


def _cols_reference(mode, s, tau, w):
    return _Cols(mode)(s, tau, Normalisers(mode)(s, tau), w)


# ---------------------------------------------------------------- first order, fused and locally centred
# theta and the centres are functions of (s, tau, v) here: their own tangents are ignored because
# every rule below is a total derivative.


class Solve(BandOperator):
    """(s, tau, v) -> theta, P v, c - v_r, of which P v alone has a tangent."""

    fixed = 3
    sound = 2
    sound_results = 1

    def run(self, s, tau, v):
        return passes.solve(self.mode, s, tau, v)

    def tangent(self, fixed, moving, dfixed, out):
        del moving
        s, tau, v = fixed
        theta, _, centre = out
        dy = _RowsTangent(self.mode)(s, tau, theta, v, centre, *dfixed)
        return jnp.zeros_like(theta), dy, jnp.zeros_like(centre)


class _RowsTangent(BandOperator):
    """(s, tau, theta, v, centre | ds, dtau, dv) -> d(P v)."""

    fixed = 5

    def run(self, *args):
        return (passes.tangent_pass(self.mode, *args),)

    def transpose(self, fixed, cotangents):
        return _RowsCotangent(self.mode)(*fixed, *cotangents)

    def tangent(self, fixed, moving, dfixed, out):
        del out

        def reference(s, tau, theta, v, centre):
            return jax.jvp(partial(_rows_reference, self.mode), (s, tau, v), moving)[1]

        return (_tangent_of(reference, fixed, dfixed),)


class _RowsCotangent(BandOperator):
    """(s, tau, theta, v, centre | w) -> cotangents (s, tau, v) of sum(w * P v)."""

    fixed = 5

    def run(self, *args):
        return passes.cotangent_pass(self.mode, *args)

    def transpose(self, fixed, cotangents):
        return (_RowsTangent(self.mode)(*fixed, *cotangents),)

    def tangent(self, fixed, moving, dfixed, out):
        del out

        def reference(s, tau, theta, v, centre):
            return jax.vjp(partial(_rows_reference, self.mode), s, tau, v)[1](*moving)

        return _tangent_of(reference, fixed, dfixed)


class _ColsTangent(BandOperator):
    """(s, tau, theta, w | ds, dtau, dw) -> d(P^T w)."""

    fixed = 4

    def run(self, *args):
        return (passes.cols_tangent_pass(self.mode, *args),)

    def transpose(self, fixed, cotangents):
        return _ColsCotangent(self.mode)(*fixed, *cotangents)

    def tangent(self, fixed, moving, dfixed, out):
        del out

        def reference(s, tau, theta, w):
            return jax.jvp(partial(_cols_reference, self.mode), (s, tau, w), moving)[1]

        return (_tangent_of(reference, fixed, dfixed),)


class _ColsCotangent(BandOperator):
    """(s, tau, theta, w | v) -> cotangents (s, tau, w) of sum(v * P^T w)."""

    fixed = 4

    def run(self, s, tau, theta, w, v):
        centre = passes.centre_pass(self.mode, s, tau, theta, v)
        sbar, taubar, _ = passes.cotangent_pass(self.mode, s, tau, theta, v, centre, w)
        return sbar, taubar, passes.rows_pass(self.mode, 0, s, tau, theta, v)

    def transpose(self, fixed, cotangents):
        return (_ColsTangent(self.mode)(*fixed, *cotangents),)

    def tangent(self, fixed, moving, dfixed, out):
        del out

        def reference(s, tau, theta, w):
            return jax.vjp(partial(_cols_reference, self.mode), s, tau, w)[1](*moving)

        return _tangent_of(reference, fixed, dfixed)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def apply_transposed(mode, s, tau, theta, w):
    return _Cols(mode)(s, tau, theta, w)


@apply_transposed.defjvp
def apply_transposed_jvp(mode, primals, tangents):
    s, tau, theta, w = primals
    ds, dtau, _, dw = tangents
    return apply_transposed(mode, *primals), _ColsTangent(mode)(s, tau, theta, w, ds, dtau, dw)


# ---------------------------------------------------------------- the column-normalised rank


def _offset_reference(mode, s, tau):
    r = _centred_ranks(s)
    w = jnp.broadcast_to(jnp.stack([r, jnp.ones_like(r)], -1), (*s.shape, 2))
    out = _cols_reference(mode, s, tau, w)
    return out[..., 0] / out[..., 1] - r


class RankOffset(BandOperator):
    """(s, tau, theta) -> m_j = rank_j - j, sum_r P_rj; m alone has a tangent."""

    fixed = 3

    def run(self, s, tau, theta):
        return passes.rank_pass(self.mode, s, tau, theta)

    def tangent(self, fixed, moving, dfixed, out):
        del moving
        return _RankTangent(self.mode)(*fixed, *out, *dfixed[:2]), jnp.zeros_like(out[1])


class _RankTangent(BandOperator):
    """(s, tau, theta, m, mass | ds, dtau) -> dm."""

    fixed = 5

    def run(self, *args):
        return (passes.rank_tangent_pass(self.mode, *args),)

    def transpose(self, fixed, cotangents):
        return _RankCotangent(self.mode)(*fixed, *cotangents)

    def tangent(self, fixed, moving, dfixed, out):
        del out

        def reference(s, tau, *_):
            return jax.jvp(partial(_offset_reference, self.mode), (s, tau), moving)[1]

        return (_tangent_of(reference, fixed, dfixed),)


class _RankCotangent(BandOperator):
    """(s, tau, theta, m, mass | rho) -> cotangents (s, tau) of sum(rho * m)."""

    fixed = 5

    def run(self, *args):
        return passes.rank_cotangent_pass(self.mode, *args)

    def transpose(self, fixed, cotangents):
        return (_RankTangent(self.mode)(*fixed, *cotangents),)

    def tangent(self, fixed, moving, dfixed, out):
        del out

        def reference(s, tau, *_):
            return jax.vjp(partial(_offset_reference, self.mode), s, tau)[1](*moving)

        return _tangent_of(reference, fixed, dfixed)
