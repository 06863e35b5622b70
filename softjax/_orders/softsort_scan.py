"""Smooth SoftSort in O(n): its kernel matrix is 1-semiseparable.

In sorted order row i is sum_j exp(-|s_i - s_j| / tau) v_j over the same sum of ones. The part up to i obeys

    F_i = v_i + exp(-(s_i - s_{i-1}) / tau) F_{i-1},

the part from i the mirror image. Every decay is at most 1, so nothing overflows at any tau, and the result is exact.
Payload and normaliser share the decays of one recurrence.
"""

import jax.numpy as jnp
from jax import Array, lax

from .._modes import Mode
from .._types import Float
from ._base import Keys, PerRow, Ranks
from ._keys import spoiled
from ._recurrence import Columns, both_sides
from ._sorted import pick, sort_with_permutation, unsort
from ._ties import kink, mean_positions


def _decays(s: Keys, tau: PerRow, mode: Mode) -> Keys:
    """exp(-(s_i - s_{i-1}) / tau), with a leading 0."""
    scale = tau[:, None]
    gap = s[:, 1:] - s[:, :-1]
    near = gap < mode.reach * scale  # no weight beyond, no overflow, and no cotangent: what it multiplies may be large
    decay = jnp.where(near, jnp.exp(-jnp.where(near, gap, jnp.zeros_like(gap)) / scale), jnp.zeros_like(gap))
    return jnp.pad(decay, ((0, 0), (1, 0)))


def _averages(s: Keys, tau: PerRow, v: Columns, mode: Mode) -> Columns:
    """The soft permutation of sorted keys times the payload v, in sorted order."""
    sums, total = both_sides(_decays(s, tau, mode), v, jnp.ones_like(s)[:, :, None])
    y = sums / total
    return y + kink(s, (v - y) / (tau[:, None, None] * total)) + spoiled(tau)[:, None, None]


def apply(
    x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
) -> Float[Array, "batch r d"]:
    """Rows of P times the payload, or times the keys themselves."""
    s, permutation = sort_with_permutation(x)
    v = s[:, :, None] if payload is None else jnp.take_along_axis(payload, permutation[:, :, None], axis=1)
    # Averages of offsets from the row's middle keep the digits of a payload far from zero. One that begins at zero has
    # none to lose, and keeps its zeros.
    half = v.shape[1] // 2
    middle = lax.stop_gradient(lax.slice_in_dim(v, half, half + 1, axis=1))
    if payload is None:
        # A key so large that the next float is out of reach has ties only, and needs no middle.
        alone = jnp.abs(v) * (float(jnp.finfo(v.dtype).eps) / 4) > mode.reach * tau[:, None, None]
        middle = lax.stop_gradient(jnp.where(alone, v, middle))
    else:
        middle = jnp.where(lax.stop_gradient(jnp.min(v, axis=1, keepdims=True)) == 0, jnp.zeros_like(middle), middle)
    return pick(_averages(s, tau, v - middle, mode) + middle, ranks)


def rank(x: Keys, tau: PerRow, mode: Mode) -> Keys:
    """The expected position among the sorted keys, weighted as a row of P that is centred on x_i."""
    s, permutation = sort_with_permutation(x)
    return unsort(_averages(s, tau, mean_positions(s)[:, :, None], mode)[:, :, 0], permutation)
