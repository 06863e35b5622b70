"""From the input to the keys that a method works on: standardised, and with the farthest elements at nearer places."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._primitive import Operator
from .._slope import with_slope_of
from .._types import Float
from .base import Keys, PerRow

_LIFT = 2.0**60
"""Elements beyond the largest float / 256 are brought nearer by this factor: room for sums and cotangents."""


class Prepared(NamedTuple):
    """Rows as a method can work on them without overflow, and the way back from its values.

    `finite` is the input with what lies far out moved nearer, `standard` its standardised form, None where that does
    not matter. `tau` is NaN for rows that hold one. Soft values that stem from a moved element are to be multiplied by
    `lift`; one beyond `bound` can only stem from an infinity.
    """

    finite: Keys
    standard: Keys | None
    tau: PerRow
    lift: Float[Array, "batch 1"]
    bound: Float[Array, "batch 1"]

    @property
    def keys(self) -> Keys:
        """What a method works on."""
        return self.finite if self.standard is None else self.standard


def as_they_are(x: Keys, tau: PerRow) -> Prepared:
    """The input for a method that takes all of it."""
    one = jnp.ones_like(x[..., :1])
    return Prepared(x, None, tau, one, jnp.full_like(one, jnp.finfo(x.dtype).max))


@partial(jax.jit, static_argnames="standardize", inline=True)
def prepare(x: Keys, tau: PerRow, standardize: bool) -> Prepared:
    """What a method is to work on, for an input and a softness."""
    if standardize:
        top = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
        # What is standardised knows no scale, and its values have that of the input: derivatives are the input's own.
        far = top > _limit(x.dtype)
        lift = jnp.where(far, jnp.full_like(top, _LIFT), jnp.ones_like(top))
        lift, top = lax.optimization_barrier((lift, top))
        finite = with_slope_of(x, x / lift)
        keys, std = standardized(finite, top / lift)
        # A compiler's vectorised maximum may drop a NaN, a sum does not.
        soft = _in_range(tau, jnp.ones_like(tau), x.shape[-1]) + 0 * lax.stop_gradient(std[..., 0])
        soft = lax.optimization_barrier(soft)
        # A selection of constants knows no mesh, and could not be mapped over one that x is sharded by.
        told = jnp.maximum(_LIFT * far.astype(x.dtype), 1)
        bound = jnp.full_like(top, jnp.finfo(x.dtype).max)
        return Prepared(finite, keys, soft, told, bound)
    finite, largest, lift, bound = _brought_nearer(x, lax.stop_gradient(tau)[..., None])
    return Prepared(finite, None, _in_range(tau, largest[..., 0], x.shape[-1]), lift, bound)


@partial(jax.jit, inline=True)
def restored(soft: Float[Array, "batch r"], prepared: Prepared) -> Float[Array, "batch r"]:
    """Soft values of `prepared.finite` as soft values of the input."""
    fixed, most = lax.stop_gradient(soft), float(jnp.finfo(soft.dtype).max)
    value = jnp.clip(fixed * prepared.lift, -most, most)
    if prepared.standard is not None:
        return with_slope_of(soft, value)
    size = jnp.abs(fixed)
    value, infinite = jnp.where(size > most / 2.0**80, value, fixed), size > prepared.bound
    return with_slope_of(jnp.where(infinite, jnp.zeros_like(soft), soft), jnp.where(infinite, fixed * jnp.inf, value))


@jax.custom_jvp
def standardized(x: Keys, size: Float[Array, "batch 1"]) -> tuple[Keys, Float[Array, "batch 1"]]:
    """sigmoid((x - mean) / std) along each row, keys in (0, 1) whatever the input's place and scale; and std / size.

    A row whose deviation is within rounding of zero counts as constant, and its std as 1; that of a row that holds a
    NaN is NaN. `size` is the largest |x|.
    """
    z, _, std = _scores(x, size)
    return jax.nn.sigmoid(z), std


@standardized.defjvp
def _standardized_jvp(primals, tangents):
    z, size, std = _scores(*primals)
    y, change = jax.nn.sigmoid(z), tangents[0] / size / std
    change = change - jnp.mean(change, axis=-1, keepdims=True)
    change = y * (1 - y) * (change - z * jnp.mean(z * change, axis=-1, keepdims=True))
    return (y, std), (change, jnp.zeros_like(std))  # which no one takes a derivative of


def deviation(x: Keys) -> Float[Array, "batch 1"]:
    """The standard deviation of each row; of one that counts as constant its largest |x|, or 1."""
    _, size, std = _scores(x, lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True)))
    return size * std


def _scores(x: Keys, size: Float[Array, "batch 1"]) -> tuple[Keys, Float[Array, "batch 1"], Float[Array, "batch 1"]]:
    """z-scores, and what to divide by for them: first by the size, on which they do not depend, so that squares fit."""
    size = jnp.where(size > 0, size, jnp.ones_like(size))
    x = x / size
    centred = lax.optimization_barrier(x - jnp.mean(x, axis=-1, keepdims=True))
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    varies = ~(variance <= (8 * jnp.finfo(x.dtype).eps) ** 2)  # true for NaN, which then propagates
    std = jnp.sqrt(jnp.where(varies, variance, jnp.ones_like(variance)))
    return lax.optimization_barrier(centred / std), size, std


def _limit(dtype) -> float:
    """Beyond it lie the last 8 powers of two, with what masks elements: `jnp.finfo(dtype).min`."""
    return float(jnp.finfo(dtype).max) / 256


@dataclass(frozen=True)
class _LargestSizes(Operator):
    """The largest |x| of all, of the finite ones and of those not far out, in one pass."""

    fixed = 1
    along_keys = (True,), (False, False, False)

    def run(self, *args):
        (size,) = args
        none, most = jnp.zeros_like(size), float(jnp.finfo(size.dtype).max)
        kinds = size, jnp.where(size > most, none, size), jnp.where(size > _limit(size.dtype), none, size)
        larger = lambda a, b: [*map(jnp.maximum, a, b)]
        return tuple(lax.reduce(kinds, (np.zeros((), size.dtype),) * 3, larger, (size.ndim - 1,)))

    def together(self, axes, own, found):
        return lax.pmax(found, axes)


def _brought_nearer(x: Keys, tau: Keys) -> tuple[Keys, Keys, Keys, Keys]:
    """x with elements beyond `_limit` at nearer places, the largest of the others, the factor, and the bound beyond
    which a soft value can only stem from an infinity.

    Those places are still beyond the reach of all others. No method looks so far, so that only differences between
    neighbours matter: derivatives are the input's own. Rows whose other keys or whose softness are large, too, keep
    what is finite. Infinities go to finite places beyond everything else.
    """
    most, size = float(jnp.finfo(x.dtype).max), lax.stop_gradient(jnp.abs(x))
    far = size > _limit(x.dtype)
    top, largest, others = (a[..., None] for a in _LargestSizes().bind(size))
    fits = (largest > _limit(x.dtype)) & (jnp.maximum(others, tau * 2.0**20) < most / 2.0**84)
    largest = jnp.where(fits, largest / _LIFT, largest)
    place = jnp.where(fits, most / 2.0**42, jnp.minimum(3 * largest + 1000 * tau, most / 8))
    bound = jnp.where(jnp.isinf(top), largest + (place - largest) / (4 * x.shape[-1]), most)
    largest, fits, bound, place = lax.optimization_barrier((largest, fits, bound, place))
    moved = jnp.where(jnp.isinf(x), jnp.sign(x) * place, with_slope_of(x, x * jnp.where(fits, 1 / _LIFT, 1)))
    return jnp.where(far, moved, x), largest, jnp.where(fits, _LIFT, jnp.ones_like(top)), bound


def _in_range(tau: PerRow, largest: PerRow, n: int) -> PerRow:
    """tau, but where it is so small that nothing is soft any more, or so large that rows of P are constant."""
    info = jnp.finfo(tau.dtype)
    smallest = float(info.tiny) ** 0.5 * 8  # its square is not lost
    floor = jnp.where(largest > 0, jnp.minimum(largest / 2.0**24, smallest), smallest)
    ceiling = jnp.clip(largest * (4.0 * n * n / float(info.eps)), 2.0**60, float(info.max) / 2.0**12)
    return lax.optimization_barrier(jnp.clip(tau, floor, ceiling))


@partial(jax.jit, inline=True)
def spoiled(tau: PerRow) -> PerRow:
    """What to add to results: NaN for rows whose softness is not positive, else 0.

    A compiler's vectorised exponential may make a number of NaN.
    """
    return jnp.where(tau > 0, jnp.zeros_like(tau), jnp.full_like(tau, jnp.nan))


def nearest_zero(v: Float[Array, "batch n *d"]) -> Float[Array, "batch 1 *d"]:
    """The number within each column's range that is nearest to zero, without a derivative.

    Averages of what remains when it is taken away keep their digits, of a column far from zero as of one that is near
    zero in some rows and far from it in others.
    """
    v = lax.stop_gradient(v)
    return jnp.clip(0, jnp.min(v, axis=1, keepdims=True), jnp.max(v, axis=1, keepdims=True))


def knots(s: Keys, tau: PerRow) -> tuple[Keys, Float[Array, "batch 1"], Float[Array, "batch 1"]]:
    """Keys and softness for the walk, and what to add to its results: NaN for rows that hold one, else 0."""
    bad = jnp.any(jnp.isnan(s), axis=-1, keepdims=True) | ~(tau[:, None] > 0)
    limit = float(jnp.finfo(s.dtype).max) / 4
    # The gaps of a bad row are so wide that its walk stops at once.
    apart = jnp.broadcast_to(1e20 * jnp.arange(s.shape[-1], dtype=s.dtype), s.shape)
    places = jnp.where(bad, apart, jnp.clip(s, -limit, limit))
    spoil = jnp.where(bad, jnp.full_like(s[:, :1], jnp.nan), jnp.zeros_like(s[:, :1]))
    return places, jnp.where(bad, jnp.ones_like(s[:, :1]), tau[:, None]), spoil
