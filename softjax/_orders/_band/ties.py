"""The derivative of sum_i |s_i - s_j| at ties: sign(0) = 0 (`jnp.abs` has 1 in JAX 0.12).

The gap form orders tied elements, and so differentiates |s_i - s_j| from one side. For j in the
tie group T that leaves out of tau dL_rj the term sum_{i in T} sign(j - i) (ds_j - ds_i). With it,
tied elements with equal payloads get equal gradients, and dense and banded forms agree.
"""

import jax.numpy as jnp
from jax import Array

from .._ties import SIGNED, tied


def tie_terms(s: Array, x: Array) -> tuple[Array, Array]:
    """For s, x (..., n): x_j sum_{i in T} sign(j - i), and sum_{i in T} sign(j - i) x_i.

    The missing term is their difference; its transpose, their sum.
    """
    count, others = _within_groups(s, jnp.stack([jnp.ones_like(x), x], axis=-1))
    return count * x, others


def tie_tangents(s: Array, x: Array) -> tuple[Array, Array]:
    """The same where `x` is a tangent, of which the count must not become a function."""
    (count,), (others,) = (_within_groups(s, v[..., None]) for v in (jnp.ones_like(x), x))
    return count * x, others


def _within_groups(s: Array, x: Array) -> tuple[Array, ...]:
    """sum_{i in T} sign(j - i) x_i for every column of x (..., n, d)."""
    return tuple(jnp.moveaxis(SIGNED(tied(s), x), -1, 0))
