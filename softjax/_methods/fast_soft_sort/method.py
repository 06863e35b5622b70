"""Values, ranks and masks by projection onto the permutahedron, in O(n) memory at the price of a sort."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, NoReturn, final

import jax.numpy as jnp
from jax import Array, lax

from ..._modes import C0, Mode
from ..._types import Float
from ..base import AbstractMethod, Keys, PerRow, Ranks, refuse_rows
from ..hard_sort import gather, pick, sort_with_permutation, unsort
from ..ot.two_anchors import pair_mask
from ..preprocess import deviation, prepare, spoiled
from ..segments import segment_sums
from .isotonic import BLOCKS, Places, by_definition

_HARD = 16.0
"""Between anchors that are so far apart, in units of a row, every gap fits."""
_FAR = 2.0**100


class _Scaled(NamedTuple):
    """Keys in units of their row, a power of two; infinite ones are 0, and their signs apart."""

    s: Keys
    sign: Keys
    unit: Float[Array, "batch 1"]


def _scaled(s: Keys) -> _Scaled:
    infinite = jnp.isinf(s)
    finite = jnp.where(infinite, jnp.zeros_like(s), s)
    info = jnp.finfo(s.dtype)
    largest = lax.stop_gradient(jnp.max(jnp.abs(finite), axis=1, keepdims=True))
    unit = lax.reduce_precision(jnp.clip(largest, float(info.tiny), float(info.max) / 4), info.nexp, 0)
    return _Scaled(finite / unit, jnp.where(infinite, jnp.sign(s), jnp.zeros_like(s)), unit)


class _Pools(NamedTuple):
    """The first and the last element of the block that each element belongs to."""

    first: Places
    last: Places

    def middle(self, dtype) -> Keys:
        """The mean of the block's indices."""
        return (self.first + self.last).astype(dtype) / 2

    def mean(self, s: Keys) -> tuple[Keys, Keys]:
        """A key of the block, and how far the mean of all is above it."""
        near = lax.stop_gradient(gather(s, self.first))
        share = (s - near) / (self.last - self.first + 1).astype(s.dtype)
        return near, gather(segment_sums(share[:, :, None], self.first, s.shape[1])[:, :, 0], self.first)


def _per_rank(tau: PerRow, n: int, scale: Float[Array, "batch 1"]) -> Float[Array, "batch 1"]:
    """(n - 1) tau scale, as far as it matters."""
    steps = tau[:, None] * jnp.maximum(jnp.asarray(n, tau.dtype) - 1, 1)
    return jnp.minimum(steps, lax.stop_gradient(_FAR / scale)) * scale


@final
@dataclass(frozen=True)
class FastSoftSort(AbstractMethod):
    """Projection onto the permutahedron.

    `deviations` says that keys are in standard deviations of their row; `written_out`, that means of all ranges of a
    row say which elements are pooled.
    """

    deviations: bool = False
    written_out: bool = False

    name = "fast_soft_sort"
    modes = (C0,)
    standardize = True
    permutes = False

    @property
    def definition(self) -> AbstractMethod:
        return replace(self, written_out=True)

    def at_softness(self, least: float, standardize: bool) -> AbstractMethod:
        return replace(self, deviations=standardize)

    def rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> NoReturn:
        refuse_rows(self.name)

    def apply(
        self, x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
    ) -> Float[Array, "batch r d"]:
        """The anchors, projected onto the permutahedron of the keys."""
        if payload is not None:
            refuse_rows(self.name)
        s = sort_with_permutation(x)[0]
        held = _scaled(s)
        gap = 1 / jnp.maximum(_per_rank(tau, x.shape[1], self._scale(held)), 1 / _HARD)
        index = lax.broadcasted_iota(s.dtype, s.shape, 1)
        pools = self._pools(held, index * gap - held.s)
        near, above = pools.mean(held.s)
        y = (near + ((index - pools.middle(s.dtype)) * gap + above)) * held.unit
        y = jnp.where(held.sign == 0, y, lax.stop_gradient(s)) + self._spoil(x, tau)
        return pick(y, ranks)[:, :, None]

    def rank(self, x: Keys, tau: PerRow, mode: Mode) -> Keys:
        """The keys, projected onto the permutahedron of the ranks."""
        s, permutation = sort_with_permutation(x)
        held = _scaled(s)
        steps = _per_rank(1 / tau, x.shape[1], self._scale(held))
        gap = 1 / jnp.maximum(steps, 1 / _FAR)
        pools = self._pools(held, held.s - lax.broadcasted_iota(s.dtype, s.shape, 1) * gap)
        near, above = pools.mean(held.s)
        y = pools.middle(s.dtype) + ((held.s - near) - above) * steps
        return unsort(y + self._spoil(x, tau), permutation)

    def mask(self, x: Keys, k: PerRow, tau: PerRow, mode: Mode) -> Keys:
        """The keys, projected onto the permutahedron of k ones: transport to two anchors."""
        if self.deviations:
            held = _scaled(x)
            x, tau = x / held.unit, tau / self._scale(held)[:, 0]
        prepared = prepare(x, tau, False)
        return pair_mask(mode, prepared.finite, k, prepared.tau)[0] + self._spoil(x, tau)

    def _scale(self, held: _Scaled) -> Float[Array, "batch 1"]:
        """The row's unit, in units of its keys or in standard deviations."""
        return 1 / deviation(held.s) if self.deviations else held.unit

    def _pools(self, held: _Scaled, d: Keys) -> _Pools:
        """Where d is to ascend; no infinite key is in a block with others."""
        find: Callable = by_definition if self.written_out else BLOCKS
        return _Pools(*find(lax.stop_gradient(d) + held.sign * (float(jnp.finfo(d.dtype).max) / 4)))

    def _spoil(self, x: Keys, tau: PerRow) -> Float[Array, "batch 1"]:
        """NaN for rows that hold one, or an infinity where there is no deviation, else 0."""
        bad = jnp.any(~jnp.isfinite(x) if self.deviations else jnp.isnan(x), axis=1)
        return spoiled(jnp.where(bad, jnp.nan * tau, tau))[:, None]
