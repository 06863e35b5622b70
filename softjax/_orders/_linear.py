"""One primitive for linear operators that know their transposes, with every JAX transformation.

`jax.custom_derivatives.linear_call` has no batching rule and a `custom_vjp` no forward mode; this has both.
"""

import abc
import dataclasses
import math
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

_linear_p = Primitive("soft_order")
_linear_p.multiple_results = True


@dataclasses.dataclass(frozen=True)
class Operator(abc.ABC):
    """A linear operator out = A(*fixed)(*moving) on arrays that share their leading dimensions.

    `run` computes it on (batch, ...) arrays; `transpose(fixed, cotangents)` applies A^T;
    `tangent(fixed, moving, dfixed, out)` differentiates it with respect to `fixed`.
    A subclass is a frozen dataclass: its fields are the operator's static parameters.
    """

    fixed: ClassVar[int]

    def __call__(self, *args: Array) -> Any:
        out = _linear_p.bind(*args, op=self)
        return out[0] if len(out) == 1 else tuple(out)

    @abc.abstractmethod
    def run(self, *args: Array) -> tuple[Array, ...]:
        """A(*fixed)(*moving) for arrays (batch, ...)."""

    def transpose(self, fixed: tuple, cotangents: tuple) -> Any:
        """A(*fixed)^T (*cotangents), for operators with moving arguments."""
        raise TypeError(f"{type(self).__name__} has no moving argument to transpose.")

    @abc.abstractmethod
    def tangent(self, fixed: tuple, moving: tuple, dfixed: tuple, out: tuple) -> tuple:
        """The tangent of A(*fixed)(*moving) = out along dfixed."""

    def evaluate(self, *args: Array) -> tuple[Array, ...]:
        lead = args[0].shape[:-1]
        flat = [a.reshape(math.prod(lead), *a.shape[len(lead) :]) for a in args]
        return tuple(a.reshape(*lead, *a.shape[1:]) for a in self.run(*flat))


def _jvp(primals, tangents, *, op):
    out = _linear_p.bind(*primals, op=op)
    fixed, moving = primals[: op.fixed], primals[op.fixed :]
    dfixed, dmoving = tangents[: op.fixed], tangents[op.fixed :]
    terms = []
    if not all(isinstance(t, ad.Zero) for t in dmoving):
        terms.append(_linear_p.bind(*fixed, *map(ad.instantiate_zeros, dmoving), op=op))
    if not all(isinstance(t, ad.Zero) for t in dfixed):
        terms.append(op.tangent(fixed, moving, tuple(map(ad.instantiate_zeros, dfixed)), out))
    if not terms:
        return out, [ad.Zero(jax.typeof(x).to_tangent_aval()) for x in out]
    return out, [sum(t[1:], t[0]) for t in zip(*terms, strict=True)]


def _transpose(cotangents, *args, op):
    fixed, moving = args[: op.fixed], args[op.fixed :]
    out = op.transpose(fixed, tuple(map(ad.instantiate_zeros, cotangents)))
    return [None] * len(fixed) + [c if ad.is_undefined_primal(m) else None for c, m in zip(out, moving, strict=True)]


def _batch(args, axes, *, op):
    size = next(a.shape[x] for a, x in zip(args, axes, strict=True) if x is not None)
    args = [
        jnp.broadcast_to(a, (size, *a.shape)) if x is None else jnp.moveaxis(a, x, 0)
        for a, x in zip(args, axes, strict=True)
    ]
    out = _linear_p.bind(*args, op=op)
    return out, [0] * len(out)


def _evaluate(*args, op):
    return list(op.evaluate(*args))


def _abstract(*avals, op):
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
    return [ShapedArray(o.shape, o.dtype) for o in jax.eval_shape(partial(_evaluate, op=op), *shapes)]


_linear_p.def_impl(jax.jit(_evaluate, static_argnames="op"))
_linear_p.def_abstract_eval(_abstract)
ad.primitive_jvps[_linear_p] = _jvp
ad.primitive_transposes[_linear_p] = _transpose
batching.primitive_batchers[_linear_p] = _batch
mlir.register_lowering(_linear_p, mlir.lower_fun(_evaluate, multiple_results=True))
