"""The hard sort around the kernels, and the way back, with payloads as lines (batch, channels, n).

XLA pads the last axis of a TPU's arrays to 128, so that a gather of (batch, n, few) takes 512 bytes an element there,
and without a SparseCore it takes one element after another. A sort carries what is to move in the keys' own layout.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from softjax._methods.base import Keys
from softjax._methods.hard_sort import gather, sort_with_permutation, unsort
from softjax._types import Float, Int

from ..._kernel import PORTABLE

Payload = Float[Array, "batch n d"]
Channels = Float[Array, "batch d n"]
Permutation = Int[Array, "batch n"]


def ascending(implementation: str, x: Keys, payload: Payload | None = None) -> tuple[Keys, Permutation, Channels]:
    """Ascending keys, the index each came from, and the payload in their order; without one the keys are it."""
    if implementation in PORTABLE:
        s, permutation, v = _sorted(x, None if payload is None else jnp.moveaxis(payload, -1, 1))
        return s, permutation, s[:, None] if v is None else v
    s, permutation = sort_with_permutation(x)
    if payload is None:
        return s, permutation, s[:, None]
    return s, permutation, jnp.moveaxis(jnp.take_along_axis(payload, permutation[:, :, None], axis=1), -1, 1)


def back(implementation: str, y: Channels, permutation: Permutation) -> Channels:
    """Values in sorted order, to the elements that they belong to."""
    if implementation in PORTABLE:
        return _moved(permutation, y)
    return jnp.stack([unsort(y[:, c], permutation) for c in range(y.shape[1])], axis=1)


def forth(implementation: str, y: Channels, permutation: Permutation) -> Channels:
    """The inverse of `back`."""
    if implementation in PORTABLE:
        return _by(_inverse(permutation), y)
    return jnp.stack([gather(y[:, c], permutation) for c in range(y.shape[1])], axis=1)


def _by(key: Permutation, y: Channels) -> Channels:
    """Values sorted by a key that no two elements share: what belongs to key k comes to place k."""
    _, *moved = lax.sort((key, *jnp.moveaxis(y, 1, 0)), dimension=1, num_keys=1, is_stable=False)
    return jnp.stack(moved, axis=1)


def _inverse(permutation: Permutation) -> Permutation:
    places = lax.broadcasted_iota(permutation.dtype, permutation.shape, 1)
    return lax.sort((permutation, places), dimension=1, num_keys=1, is_stable=False)[1]


@jax.custom_vjp
def _moved(permutation: Permutation, y: Channels) -> Channels:
    return _by(permutation, y)


_moved.defvjp(
    lambda permutation, y: (_by(permutation, y), permutation),
    lambda permutation, g: (None, _by(_inverse(permutation), g)),
)


@jax.custom_vjp
def _sorted(x: Keys, payload: Channels | None) -> tuple[Keys, Permutation, Channels | None]:
    """Keys, the index each came from, and a payload, all by one sort."""
    places = lax.broadcasted_iota(jnp.int32, x.shape, 1)
    given = () if payload is None else jnp.moveaxis(payload, 1, 0)
    s, permutation, *channels = lax.sort((x, places, *given), dimension=1, num_keys=1)
    return s, permutation, jnp.stack(channels, axis=1) if channels else None


def _sorted_forward(x, payload):
    out = _sorted(x, payload)
    return out, out[1]


def _sorted_backward(permutation, cotangents):
    ds, _, dchannels = cotangents
    if dchannels is None:
        return _by(permutation, ds[:, None])[:, 0], None
    _, dx, *moved = lax.sort(
        (permutation, ds, *jnp.moveaxis(dchannels, 1, 0)), dimension=1, num_keys=1, is_stable=False
    )
    return dx, jnp.stack(moved, axis=1)


_sorted.defvjp(_sorted_forward, _sorted_backward)
