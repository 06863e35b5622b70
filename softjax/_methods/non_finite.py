"""Payloads that hold infinities or NaN: 0 times infinity is no part of a soft permutation's sums.

A form is linear in its payload, with weights in [0, 1]. It is applied to the finite part, and what is not finite is
added behind: an infinity where it has a positive weight, which the form of indicators tells, and NaN everywhere.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from .._check import is_concrete
from .._dispatch import Form
from .._modes import Mode
from .._primitive import Operator, unit_of
from .._sharding import over_rows, vary_alike
from .base import Keys, PerRow, Ranks


def known_harmless(payload: Array) -> bool:
    """Is it known now that all of it is finite, and far from overflow?"""
    if not is_concrete(payload):
        return False
    with jax.ensure_compile_time_eval():
        return bool(jnp.all(jnp.abs(payload) <= 2.0 ** (jnp.finfo(payload.dtype).maxexp // 4)))


@dataclasses.dataclass(frozen=True)
class _Finite(Operator):
    """v -> v, with 0 for what is not finite. Linear for derivatives, in which it changes nothing."""

    fixed = 0

    def run(self, *args):
        return tuple(jnp.where(jnp.isfinite(a), a, jnp.zeros_like(a)) for a in args)

    def transpose(self, fixed, cotangents):
        return cotangents

    def tangent(self, fixed, moving, dfixed, out):
        return moving


def finite_part(x: Keys, payload: Array) -> Array:
    """The payload (*batch, n, d) of keys (*batch, n), with 0 for what is not finite."""
    return over_rows(lambda x, payload: _Finite()(payload), x, payload)


@dataclasses.dataclass(frozen=True)
class InRange:
    """A form of a finite payload, whose numbers are brought nearer where a row has large ones: nothing overflows."""

    form: Form

    @property
    def op(self) -> str:
        return self.form.op

    def __call__(self, x: Keys, ranks: Ranks, payload: Array, tau: PerRow, mode: Mode) -> Array:
        unit = unit_of(jnp.max(jnp.abs(lax.stop_gradient(payload)), axis=1, keepdims=True))
        return self.form(x, ranks, payload / unit, tau, mode) * unit


@dataclasses.dataclass(frozen=True)
class ExtremesOf:
    """A form of what is not finite in a payload: its infinities and NaN where they belong, 0 elsewhere."""

    form: Form

    @property
    def op(self) -> str:
        return self.form.op

    def __call__(self, x: Keys, ranks: Ranks, payload: Array, tau: PerRow, mode: Mode) -> Array:
        return _Extremes(self.form, mode, ranks, payload.shape[-2])(x, tau, payload)


@dataclasses.dataclass(frozen=True)
class _Extremes(Operator):
    """(keys, tau | payload) -> infinities, NaN and zeros: constants for derivatives."""

    form: Callable
    mode: Mode
    ranks: Any
    size: int
    fixed = 2

    def run(self, *args):
        x, tau, v = args
        apply = lambda payload: self.form(x, self.ranks, payload, tau, self.mode)

        def present():
            infinity = jnp.full((), jnp.inf, v.dtype)
            signs = jnp.concatenate([v == infinity, v == -infinity], axis=-1).astype(v.dtype)
            up, down = jnp.split(apply(signs) > 0, 2, axis=-1)
            spoiled = jnp.any(jnp.isnan(v), axis=1, keepdims=True) | (up & down)
            found = jnp.where(up, infinity, jnp.where(down, -infinity, jnp.zeros_like(infinity)))
            return jnp.where(spoiled, jnp.full_like(found, jnp.nan), found)

        shape = jax.eval_shape(apply, v)
        return (lax.cond(jnp.all(jnp.isfinite(v)), lambda: jnp.zeros(shape.shape, shape.dtype), present),)

    def transpose(self, fixed, cotangents):
        (extremes,) = cotangents
        nothing = jnp.zeros((*fixed[0].shape[:-1], self.size, extremes.shape[-1]), extremes.dtype)
        return (vary_alike((nothing, extremes))[0],)

    def tangent(self, fixed, moving, dfixed, out):
        return tuple(map(jnp.zeros_like, out))
