"""SoftSort in the modes c0, c1, c2 without the n x n matrix: sums over the window that a row's weights fill.

The derivation is in `softjax._orders._window`.
"""

import jax.numpy as jnp
from jax import Array, lax

from .._modes import Mode
from .._types import Float
from ._base import Keys, PerRow, Ranks
from ._keys import knots
from ._sorted import pick, sort_with_permutation, unsort
from ._ties import kink, mean_positions
from ._window.rules import Rows


def _scale(s: Keys, tau: PerRow) -> Float[Array, "batch 1"]:
    """A power of two that brings tau near 1, or as near as the keys allow: powers of distances stay in range."""
    s, tau = lax.stop_gradient((s, tau))
    largest = jnp.maximum(jnp.max(jnp.abs(s), axis=-1, keepdims=True), jnp.finfo(s.dtype).tiny)
    room = jnp.finfo(s.dtype).maxexp - 3 - jnp.frexp(largest)[1]
    exponent = jnp.minimum(1 - jnp.frexp(tau)[1], room)
    return jnp.ldexp(jnp.ones_like(tau), exponent)


def _sorted_rows(s: Keys, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode):
    """All rows of P times the payload, or times the keys, for ascending keys."""
    assert mode.degree is not None
    s, tau, spoil = knots(s, tau)
    scale = _scale(s, tau)
    s, tau = s * scale, tau * scale
    m = mode.degree
    y, reach, total, centre, _ = Rows(m)(s, tau, s[:, :, None] if payload is None else payload)
    # `centre` is less the own payload, and the tie shares it: a distance of 0 has the weight reach^m / total.
    weight = m * reach ** (m - 1) / total
    y = y + kink(s, -weight[:, :, None] * centre)
    return (y / scale[:, :, None] if payload is None else y) + spoil[:, :, None]


def apply(
    x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
) -> Float[Array, "batch r d"]:
    """Rows of P times the payload, or times the keys themselves."""
    s, permutation = sort_with_permutation(x)
    if payload is not None:
        payload = jnp.take_along_axis(payload, permutation[:, :, None], axis=1)
    return pick(_sorted_rows(s, payload, tau, mode), ranks)


def rank(x: Keys, tau: PerRow, mode: Mode) -> Keys:
    """The expected position among the sorted keys, weighted as a row of P that is centred on x_i."""
    s, permutation = sort_with_permutation(x)
    return unsort(_sorted_rows(s, mean_positions(s)[:, :, None], tau, mode)[..., 0], permutation)
