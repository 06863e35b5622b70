"""SoftSort in the modes c0, c1, c2 without the n x n matrix: sums over the window that a row's weights fill.

The derivation is in `softjax._methods.softsort.window`.
"""

import jax.numpy as jnp
from jax import Array, lax

from ..._modes import Mode
from ..._types import Float
from ..base import Keys, PerRow, Ranks
from ..hard_sort import pick, sort_with_permutation, unpick, unsort
from ..preprocess import knots
from ..ties import mean_positions
from .window.rules import columns, rows


def _scale(s: Keys, tau: PerRow) -> Float[Array, "batch 1"]:
    """A power of two that brings tau near 1, or as near as the keys allow: powers of distances stay in range."""
    s, tau = lax.stop_gradient((s, tau))
    info = jnp.finfo(s.dtype)
    size = lambda a: lax.reduce_precision(a, info.nexp, 0)  # the nearest power of two
    largest = jnp.maximum(jnp.max(jnp.abs(s), axis=-1, keepdims=True), info.tiny)
    return jnp.minimum(1 / size(tau), 2.0 ** (info.maxexp - 4) / size(largest))


def _scaled(s: Keys, tau: PerRow) -> tuple[Keys, Array, Array, Array]:
    """Keys and softness that are free of NaN and of a good size, the scale, and what to add to results."""
    s, tau, spoil = knots(s, tau)
    scale = _scale(s, tau)
    # Once: fused into each of their uses they would be computed as often.
    return lax.optimization_barrier((s * scale, tau * scale, scale, spoil))


def of_ascending(
    s: Keys, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
) -> Float[Array, "batch n d"]:
    """All rows of P times the payload, or times the keys, for ascending keys."""
    assert mode.degree is not None
    s, tau, scale, spoil = _scaled(s, tau)
    y = rows(mode.degree, s, tau, s[:, :, None] if payload is None else payload)
    return lax.optimization_barrier((y / scale[:, :, None] if payload is None else y) + spoil[:, :, None])


def transposed_of_ascending(
    s: Keys, y: Float[Array, "batch n d"], tau: PerRow, mode: Mode
) -> Float[Array, "batch n d"]:
    """The transpose of P times y, for ascending keys."""
    assert mode.degree is not None
    s, tau, _, spoil = _scaled(s, tau)
    return columns(mode.degree, s, tau, y) + spoil[:, :, None]


def apply(
    x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
) -> Float[Array, "batch r d"]:
    """Rows of P times the payload, or times the keys themselves."""
    s, permutation = sort_with_permutation(x)
    if payload is not None:
        payload = jnp.take_along_axis(payload, permutation[:, :, None], axis=1)
    return pick(of_ascending(s, payload, tau, mode), ranks)


def transposed(
    x: Keys, ranks: Ranks, y: Float[Array, "batch r d"], tau: PerRow, mode: Mode
) -> Float[Array, "batch n d"]:
    """The transpose of rows of P times y."""
    s, permutation = sort_with_permutation(x)
    return unsort(transposed_of_ascending(s, unpick(y, ranks, s.shape[-1]), tau, mode), permutation)


def rank(x: Keys, tau: PerRow, mode: Mode) -> Keys:
    """The expected position among the sorted keys, weighted as a row of P that is centred on x_i."""
    s, permutation = sort_with_permutation(x)
    return unsort(of_ascending(s, mean_positions(s)[:, :, None], tau, mode)[..., 0], permutation)
