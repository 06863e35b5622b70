"""Kernels that save little: what is costly to make again, in shapes that no compiler and no tile size decides.

A form calls its differentiable parts through `solve(rule, static, *arrays)`. `Saving` runs them forward and keeps what
their backward passes would not make again; `Restoring` has that and makes the rest: the sort, the operands, and the
ranges of tiles that a band visits.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Rule(NamedTuple):
    """A function of (*static, *arrays) by its forward and backward pass."""

    forward: Callable[..., tuple[jax.Array, Any]]
    backward: Callable[..., tuple]
    result: Callable[..., jax.ShapeDtypeStruct]
    kept: Callable[[Any], tuple[jax.Array, ...]]
    """What is saved, of the residuals: `saves` arrays."""
    saves: int
    again: Callable[..., Any]
    """(*static, kept, *arrays) -> the residuals."""


Solve = Callable[..., jax.Array]


class Saving:
    """Runs rules forward; `saved` is what they keep."""

    def __init__(self) -> None:
        self.saved: tuple[jax.Array, ...] = ()

    def __call__(self, rule: Rule, static: tuple, *arrays: jax.Array) -> jax.Array:
        out, residuals = rule.forward(*static, *arrays)
        self.saved += rule.kept(residuals)
        return out


class Restoring:
    """Runs rules backward, from what one `Saving` kept. Their results are zeros, which nobody reads."""

    def __init__(self, saved: tuple[jax.Array, ...]) -> None:
        self.saved: Iterator[jax.Array] = iter(saved)

    def __call__(self, rule: Rule, static: tuple, *arrays: jax.Array) -> jax.Array:
        return _restored(rule, static, tuple(islice(self.saved, rule.saves)), *arrays)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _restored(rule: Rule, static: tuple, kept: tuple[jax.Array, ...], *arrays: jax.Array) -> jax.Array:
    return _restored_forward(rule, static, kept, *arrays)[0]


def _restored_forward(rule, static, kept, *arrays):
    out = rule.result(*static, *arrays)
    return jnp.zeros(out.shape, out.dtype), (kept, arrays)


def _restored_backward(rule, static, residuals, g):
    kept, arrays = residuals
    cotangents = rule.backward(*static, rule.again(*static, kept, *arrays), g)
    return jax.tree.map(jnp.zeros_like, kept), *cotangents


_restored.defvjp(_restored_forward, _restored_backward)
