"""The one derivative mechanism: kernels save what is costly to make again, in shapes that no compiler decides.

A form is plain JAX around rules. It calls each through `solve(rule, static, *arrays)`: `Saving` runs it forward and
keeps what its backward pass would not make again; `Restoring` has that and makes the rest: the sort, the operands, and
the ranges of tiles that a band visits.
"""

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Rule(NamedTuple):
    """A function of (*static, *arrays) by its forward and backward pass."""

    forward: Callable[..., tuple[jax.Array, Any]]
    """The result and the residuals."""
    backward: Callable[..., tuple]
    """(*static, residuals, cotangent) -> cotangents of the arrays."""
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

    def __call__(self, rule: Rule, static: tuple, *arrays: jax.Array | None) -> jax.Array:
        out, residuals = rule.forward(*static, *arrays)
        self.saved += rule.kept(residuals)
        return out


class Restoring:
    """Runs rules backward, from what one `Saving` kept. Their results are zeros, which nobody reads."""

    def __init__(self, saved: tuple[jax.Array, ...]) -> None:
        self.saved: Iterator[jax.Array] = iter(saved)

    def __call__(self, rule: Rule, static: tuple, *arrays: jax.Array | None) -> jax.Array:
        return _restored(rule, static, tuple(islice(self.saved, rule.saves)), *arrays)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _restored(rule: Rule, static: tuple, kept: tuple[jax.Array, ...], *arrays: jax.Array | None) -> jax.Array:
    return _restored_forward(rule, static, kept, *arrays)[0]


def _restored_forward(rule, static, kept, *arrays):
    out = rule.result(*static, *arrays)
    return jnp.zeros(out.shape, out.dtype), (kept, arrays)


def _restored_backward(rule, static, residuals, g):
    kept, arrays = residuals
    cotangents = rule.backward(*static, rule.again(*static, kept, *arrays), g)
    return jax.tree.map(jnp.zeros_like, kept), *cotangents


_restored.defvjp(_restored_forward, _restored_backward)


@dataclass(frozen=True)
class FormKernel(abc.ABC):
    """One form of one method by one compiler's kernels."""

    implementation: str
    method: str
    op: str

    @abc.abstractmethod
    def form(self, solve: Solve, *arguments: Any) -> jax.Array:
        """The form, made of rules."""

    def value(self, *arguments: Any) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """The form's result, and what is saved."""
        solve = Saving()
        return self.form(solve, *arguments), solve.saved

    def pull(self, saved: tuple[jax.Array, ...], cotangent: jax.Array, *arguments: Any) -> tuple[jax.Array, ...]:
        """Cotangents of the arguments that are arrays of floats."""
        places = [i for i, a in enumerate(arguments) if hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.floating)]

        def form(*floats):
            every = list(arguments)
            for i, a in zip(places, floats, strict=True):
                every[i] = a
            return self.form(Restoring(saved), *every)

        return jax.vjp(form, *(arguments[i] for i in places))[1](cotangent)
