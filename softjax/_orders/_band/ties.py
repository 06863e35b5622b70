"""The derivative of sum_i |s_i - s_j| at ties: sign(0) = 0 (`jnp.abs` has 1 in JAX 0.12).

The gap form orders tied elements, and so differentiates |s_i - s_j| from one side. For j in the
tie group T that leaves out of tau dL_rj the term sum_{i in T} sign(j - i) (ds_j - ds_i). With it,
tied elements with equal payloads get equal gradients, and dense and banded forms agree.
"""

from functools import partial

import jax.numpy as jnp
from jax import Array, lax


def tie_terms(s: Array, x: Array) -> tuple[Array, Array]:
    """For s, x (..., n): x_j sum_{i in T} sign(j - i), and sum_{i in T} sign(j - i) x_i.

    The missing term is their difference; its transpose, their sum.
    """
    pad = [(0, 0)] * (s.ndim - 1)
    new = jnp.pad(s[..., 1:] != s[..., :-1], [*pad, (1, 1)], constant_values=True)
    within = partial(_within_group, new)
    # Two scans, not one of a pair: the count must stay a constant where `x` is a tangent.
    return within(jnp.ones_like(x)) * x, within(x)


def _within_group(new: Array, x: Array) -> Array:
    """sum_{i in T} sign(j - i) x_i; `new` (..., n + 1) marks between which elements a group ends."""

    def combine(a, b):
        return a[0] | b[0], jnp.where(b[0], b[1], a[1] + b[1])

    scan = partial(lax.associative_scan, combine, axis=x.ndim - 1)
    return scan((new[..., :-1], x))[1] - scan((new[..., 1:], x), reverse=True)[1]
