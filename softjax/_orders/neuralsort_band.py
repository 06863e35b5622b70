"""NeuralSort without the n x n matrix: sums over the band of entries that can change a float.

The derivation is in `softjax._orders._band`.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._modes import Mode
from . import neuralsort
from ._band import rules
from ._band.walk import weights
from ._base import Forms, Keys, PerRow, Ranks
from ._sorted import pick, sort_with_permutation, unsort

_FEW = 16
"""Up to this many rows are written out, O(n) each."""


def _knots(s: Keys, tau: PerRow) -> tuple[Keys, Float[Array, "batch 1"], Float[Array, "batch 1"]]:
    """Keys and softness for the walk, and what to add to its results: NaN for rows that hold one, else 0."""
    bad = jnp.any(jnp.isnan(s), axis=-1, keepdims=True) | ~(tau[:, None] > 0)
    limit = float(jnp.finfo(s.dtype).max) / 4
    # The gaps of a bad row are so wide that its walk stops at once.
    apart = jnp.broadcast_to(1e20 * jnp.arange(s.shape[-1], dtype=s.dtype), s.shape)
    knots = jnp.where(bad, apart, jnp.clip(s, -limit, limit))
    spoil = jnp.where(bad, jnp.full_like(s[:, :1], jnp.nan), jnp.zeros_like(s[:, :1]))
    return knots, jnp.where(bad, jnp.ones_like(s[:, :1]), tau[:, None]), spoil


def apply(
    x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
) -> Float[Array, "batch r d"]:
    """Rows of P times the payload; all n rows are walked where more than a few are wanted."""
    if len(ranks) <= _FEW:
        return neuralsort.DENSE.apply(x, ranks, payload, tau, mode)
    s, permutation = sort_with_permutation(x)
    v = s[:, :, None] if payload is None else jnp.take_along_axis(payload, permutation[:, :, None], axis=1)
    knots, scale, spoil = _knots(s, tau)
    v = knots[:, :, None] if payload is None else v
    _, y, _ = rules.Solve(weights(mode))(knots, scale, v)
    return pick(y + spoil[:, :, None], ranks)


def rank(x: Keys, tau: PerRow, mode: Mode) -> Keys:
    """The column-normalised expectation sum_r P_rj r / sum_r P_rj."""
    s, permutation = sort_with_permutation(x)
    knots, scale, spoil = _knots(s, tau)
    # The rules of whatever takes theta are total derivatives: its own tangent is part of theirs.
    theta = lax.stop_gradient(rules.theta_of(weights(mode), lax.stop_gradient(knots), lax.stop_gradient(scale)))
    offset, _ = rules.RankOffset(weights(mode))(knots, scale, theta)
    positions = jnp.arange(s.shape[-1], dtype=s.dtype)[None]
    return unsort(positions + offset + spoil, permutation)


FAST = Forms(rows=neuralsort.rows, apply=apply, rank=rank)
