"""Smooth SoftSort in O(n): the carries between chunks by a scan in XLA, and the kernels inside the chunks."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from softjax._methods.base import Keys, PerRow, Ranks
from softjax._methods.hard_sort import pick
from softjax._modes import Mode
from softjax._types import Float

from .._kernel import MOSAIC_GPU
from . import _hard_sort, _tiles
from . import _recurrence_bodies as bodies
from ._launch import launch, scale_of
from ._operands import OWN_COLUMNS, PARTS, SCALAR, results
from ._scan import scan_of

Channels = Float[Array, "batch d n"]


@dataclass(frozen=True)
class Chunks:
    """How n sorted keys are cut. With `shifted` the last chunk is full and starts earlier."""

    n: int
    size: int
    shifted: bool

    @property
    def count(self) -> int:
        return -(-self.n // self.size)

    @property
    def starts(self) -> np.ndarray:
        starts = np.arange(self.count) * self.size
        return np.minimum(starts, max(0, self.n - self.size)) if self.shifted else starts

    @property
    def ends(self) -> np.ndarray:
        """Last elements."""
        return np.minimum(np.arange(1, self.count + 1) * self.size, self.n) - 1


def _chunks(implementation: str, n: int) -> Chunks:
    return Chunks(n, _tiles.chunk(implementation, n).rows, implementation in MOSAIC_GPU)


def carries(implementation: str, s: Keys, scale: Float[Array, "batch 1 1"], u: Channels) -> Float[Array, "batch m k"]:
    """What the chunks see of the channels u on their left and right, and their first and last keys.

    Each is anchored at a chunk's end key, so that every exponential is at most 1.
    """
    batch, channels, n = u.shape
    chunks = _chunks(implementation, n)
    m, size = chunks.count, chunks.size
    first, last = _tiles.at(s, chunks.starts), _tiles.at(s, chunks.ends)
    if m == 1:
        none = jnp.zeros((batch, 1, 2 * channels), jnp.float32)
        return jnp.concatenate([none, first[..., None], last[..., None]], axis=-1)
    cut = lambda a: jnp.pad(a, ((0, 0), (0, 0), (0, m * size - n))).reshape(batch, -1, m, size)
    keys, values = cut(s[:, None]), cut(u)
    aligned = _tiles.at(s, np.arange(m) * size)
    following = jnp.concatenate([aligned[:, 1:], last[:, -1:]], axis=1)[:, None, :, None]
    preceding = jnp.concatenate([first[:, :1], last[:, :-1]], axis=1)[:, None, :, None]
    near = scale[..., None]
    # Of the padding only the values are zero; its keys would overflow the exponential.
    to_right = jnp.sum(values * jnp.exp(jnp.minimum(keys - following, jnp.zeros_like(keys)) * near), axis=-1)
    to_left = jnp.sum(values * jnp.exp(jnp.minimum(preceding - keys, jnp.zeros_like(keys)) * near), axis=-1)
    backwards = lambda a: lax.rev(a, (a.ndim - 1,))
    gains = jnp.stack([to_right, backwards(to_left)], axis=1)
    left, right = jnp.unstack(
        _scan(implementation, gains, jnp.stack([aligned, -backwards(last)], axis=1), scale), axis=1
    )
    right = backwards(right)
    if chunks.shifted:
        part = slice(int((m - 2) * size), int(chunks.starts[-1]))
        gap = (s[:, None, part] - first[:, None, -1:]) * scale
        gained = jnp.sum(u[:, :, part] * jnp.exp(gap), axis=-1)
        decay = jnp.exp((aligned[:, None, m - 2] - first[:, None, -1]) * scale[..., 0])
        left = jnp.concatenate([left[..., :-1], (left[..., m - 2] * decay + gained)[..., None]], axis=-1)
    ends = jnp.stack([first, last], axis=1)
    return jnp.moveaxis(jnp.concatenate([left, right, ends], axis=1), 1, 2)


def _scan(
    implementation: str, gains: Float[Array, "batch 2 c m"], anchors: Float[Array, "batch 2 m"], scale: Array
) -> Float[Array, "batch 2 c m"]:
    """A with A_0 = 0 and A_{i+1} = exp(-(anchor_{i+1} - anchor_i) / tau) A_i + gain_i."""
    decay = jnp.exp((anchors[..., :-1] - anchors[..., 1:]) * scale)[:, :, None]
    shift = lambda a: jnp.pad(a, [(0, 0)] * 3 + [(1, 0)])
    combine = lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1])
    return scan_of(implementation)(combine, (shift(decay), shift(gains[..., :-1])), axis=3)[1]


def _numbers(s: Keys) -> Channels:
    n = s.shape[-1]
    return jnp.broadcast_to(jnp.arange(n, dtype=jnp.float32) - n // 2, (s.shape[0], 1, n))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def averages(implementation: str, s: Keys, tau: PerRow, v: Channels | None) -> Channels:
    """The soft permutation of ascending keys times the payload, in their order. None stands for numbers less n // 2."""
    return _forward(implementation, s, tau, v)[0]


def _forward(implementation, s, tau, v):
    n, scale = s.shape[1], scale_of(s, tau)
    u = _numbers(s) if v is None else v
    ones = jnp.ones((s.shape[0], 1, n), jnp.float32)
    carry = carries(implementation, s, scale, jnp.concatenate([u, ones], axis=1))
    given = () if v is None else (v,)
    outputs = results(s.dtype, columns=u.shape[1]) + results(jnp.float32, columns=1)
    inputs = (*(OWN_COLUMNS for _ in given), OWN_COLUMNS, SCALAR, PARTS)
    kernel = launch(
        implementation,
        bodies.recurrence_apply,
        implementation in MOSAIC_GPU,
        (n, n),
        (inputs, outputs),
        _tiles.chunk(implementation, n),
    )
    y, total = kernel(*given, s[:, None], scale, carry)
    return y, (s, tau, v, y, total)


def _backward(implementation, residuals, w):
    s, tau, v, y, total = residuals
    n, scale = s.shape[1], scale_of(s, tau)
    u = _numbers(s) if v is None else v
    a = w / total
    b = jnp.sum(a * y, axis=1, keepdims=True)
    channels = jnp.concatenate([u, jnp.ones_like(total), a, b], axis=1)
    carry = carries(implementation, s, scale, channels)
    given = (a, b, y) if v is None else (v, a, b, y)
    inputs = (*(OWN_COLUMNS for _ in given), OWN_COLUMNS, SCALAR, PARTS)
    outputs = results(jnp.float32, columns=2 + a.shape[1])
    kernel = launch(
        implementation,
        bodies.recurrence_back,
        implementation in MOSAIC_GPU,
        (n, n),
        (inputs, outputs),
        _tiles.chunk(implementation, n),
    )
    (out,) = kernel(*given, s[:, None], scale, carry)
    dtau = jnp.sum(out[:, 1, :-1] * (s[:, 1:] - s[:, :-1]), axis=-1) * scale[:, 0, 0] ** 2
    return out[:, 0], dtau, None if v is None else out[:, 2:]


averages.defvjp(_forward, _backward)


def apply(
    implementation: str, x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
) -> Float[Array, "batch r d"]:
    """Rows of P times the payload, or times the keys themselves."""
    del mode
    s, _, v = _hard_sort.ascending(implementation, x, payload)
    # Half precision ends at the sort: differences of keys and of payloads are taken in float32.
    dtype, s, v = v.dtype, s.astype(jnp.float32), v.astype(jnp.float32)
    # Averages of offsets from the row's middle keep the digits of a payload far from zero.
    middle = lax.stop_gradient(v[:, :, v.shape[2] // 2][:, :, None])
    y = averages(implementation, s, tau, v - middle) + middle
    return pick(jnp.moveaxis(y.astype(dtype), 1, -1), ranks)


def rank(implementation: str, x: Keys, tau: PerRow, mode: Mode) -> Keys:
    """The expected position among the sorted keys, weighted as a row of P that is centred on x_i."""
    del mode
    s, permutation, _ = _hard_sort.ascending(implementation, x)
    s = s.astype(jnp.float32)
    # Mosaic GPU's search for layouts does not come to an end where numbers are made in the kernel.
    v = _numbers(s) if implementation in MOSAIC_GPU else None
    y = averages(implementation, s, tau, v) + float(x.shape[1] // 2)
    return _hard_sort.back(implementation, y, permutation)[:, 0].astype(x.dtype)
