"""Smooth SoftSort in O(n): its kernel matrix is 1-semiseparable.

In sorted order row i is sum_j exp(-|s_i - s_j| / tau) v_j over the same sum of ones. The part up to i obeys

    F_i = v_i + exp(-(s_i - s_{i-1}) / tau) F_{i-1},

the part from i the mirror image. Every decay is at most 1, so nothing overflows at any tau, and the result is exact.
Payload and normaliser run in one associative scan (Blelloch, "Prefix sums and their applications", 1990).
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._modes import Mode
from ._base import Keys, PerRow, Ranks
from ._sorted import pick, sort_with_permutation, unsort

Channels = Float[Array, "d batch n"]


@jax.custom_jvp
def decayed_sums(decay: Keys, u: Channels) -> Channels:
    """F with F_i = u_i + decay_i F_{i-1} along each row, for every channel of u; decay_0 is not used."""

    def combine(left, right):
        return left[0] * right[0], left[1] * right[0] + right[1]

    return lax.associative_scan(combine, (decay[None], u), axis=2)[1]


@decayed_sums.defjvp
def _decayed_sums_jvp(primals, tangents):
    # dF_i = (du_i + d decay_i F_{i-1}) + decay_i dF_{i-1}: the same recurrence.
    (decay, u), (d_decay, du) = primals, tangents
    f = decayed_sums(decay, u)
    before = jnp.pad(f[:, :, :-1], ((0, 0), (0, 0), (1, 0)))
    return f, decayed_sums(decay, du + d_decay[None] * before)


def _decays(s: Keys, tau: PerRow, mode: Mode) -> Keys:
    """exp(-(s_i - s_{i-1}) / tau), with a leading 0."""
    scale = tau[:, None]
    gap = jnp.minimum(s[:, 1:] - s[:, :-1], mode.reach * scale)  # no weight beyond, and no overflow
    return jnp.pad(jnp.exp(-gap / scale), ((0, 0), (1, 0)))


def _both_sides(decay: Keys, u: Channels) -> Channels:
    """sum_j exp(-|s_i - s_j| / tau) u_j for every i."""
    mirrored = jnp.pad(decay[:, :0:-1], ((0, 0), (1, 0)))
    left = decayed_sums(decay, u)
    right = decayed_sums(mirrored, u[:, :, ::-1])[:, :, ::-1]
    return left + right - u


def _averages(s: Keys, tau: PerRow, v: Channels, mode: Mode) -> Channels:
    """The soft permutation of sorted keys times the payload v, in sorted order."""
    sums = _both_sides(_decays(s, tau, mode), jnp.concatenate([v, jnp.ones_like(s)[None]]))
    return sums[:-1] / sums[-1:]


def apply(
    x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
) -> Float[Array, "batch r d"]:
    """Rows of P times the payload, or times the keys themselves."""
    s, permutation = sort_with_permutation(x)
    if payload is None:
        v = s[None]
    else:
        v = jnp.moveaxis(jnp.take_along_axis(payload, permutation[:, :, None], axis=1), -1, 0)
    # Averages of offsets from the row's middle keep the digits of a payload far from zero.
    middle = lax.stop_gradient(v[:, :, v.shape[2] // 2][:, :, None])
    y = _averages(s, tau, v - middle, mode) + middle
    return pick(jnp.moveaxis(y, 0, -1), ranks)


def rank(x: Keys, tau: PerRow, mode: Mode) -> Keys:
    """The expected position among the sorted keys, weighted as a row of P that is centred on x_i."""
    s, permutation = sort_with_permutation(x)
    positions = jnp.broadcast_to(jnp.arange(s.shape[-1], dtype=s.dtype), s.shape)
    return unsort(_averages(s, tau, positions[None], mode)[0], permutation)
