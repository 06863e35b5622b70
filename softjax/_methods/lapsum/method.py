"""LapSum in O(n) memory, at the price of a sort and a few recurrences."""

from dataclasses import dataclass
from typing import Any, final

import jax.numpy as jnp
from jax import Array, lax

from ..._modes import SMOOTH, Mode
from ..._types import Float, Int
from ..base import AbstractMethod, Keys, PerRow, Ranks, at_most, count
from ..hard_sort import gather, sort_with_permutation, unsort
from ..preprocess import nearest_zero, spoiled
from ..segments import segment_sums
from .definition import DEFINITION
from .thresholds import SUMS, Knots, Merged, knots, merged

_FEW = 16
"""Up to this many rows are cheaper one by one, O(n) each, than all of them at once."""


def _pieces(held: Knots, ranks: range) -> tuple[Merged, Int[Array, "batch p"]]:
    """The pieces of the line, and which of the ranks, counted from 1, each belongs to."""
    n, inner = held.s.shape[1], ranks.start > 0
    found = merged(held, max(ranks.start, 1), min(ranks.stop, n - 1))
    return found, jnp.minimum(found.passed + (0 if inner else 1), len(ranks) + 1)


def _beside(u: Array, after: Int[Array, "batch p"]) -> Float[Array, "batch p d"]:
    """u (batch, d, n) of the last of so many keys, 0 where there is none."""
    padded = jnp.pad(jnp.moveaxis(u, 1, 2), ((0, 0), (1, 0), (0, 0)))
    return gather(padded, after)


def _received(held: Knots, found: Merged, rows: Int[Array, "batch p"], r: int) -> Float[Array, "batch r d"]:
    """What rows of P receive, of every column of the knots."""
    n = held.s.shape[1]
    up, down = _beside(held.up, found.after), _beside(held.down[:, :, ::-1], n - found.after)
    pieces = found.left[:, :, None] * up + found.right[:, :, None] * down
    return segment_sums(pieces, rows, r + 2)[:, 1:-1]


@final
@dataclass(frozen=True)
class LapSum(AbstractMethod):
    """Sums of Laplace CDFs, in O(n) memory."""

    name = "lapsum"
    modes = (SMOOTH,)

    @property
    def definition(self) -> AbstractMethod:
        return DEFINITION

    def writes_rows(self, n: Any, ranks: Ranks) -> bool:
        """Are these few, or not known to be neighbours?"""
        return at_most(_FEW, count(ranks)) or not (isinstance(ranks, range) and isinstance(n, int))

    def rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
        return DEFINITION.rows(x, ranks, tau, mode)

    def log_rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
        return DEFINITION.log_rows(x, ranks, tau, mode)

    def apply(
        self, x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
    ) -> Float[Array, "batch r d"]:
        if self.writes_rows(x.shape[1], ranks):
            return DEFINITION.apply(x, ranks, payload, tau, mode)
        assert isinstance(ranks, range)
        s, permutation = sort_with_permutation(x)
        v = s[:, :, None] if payload is None else gather(payload, permutation)
        middle = nearest_zero(v)
        held = knots(s, tau, jnp.moveaxis(v - middle, 2, 1))
        found, rows = _pieces(held, ranks)
        sums = _received(held, found, rows, len(ranks))
        return sums[:, :, 1:] / lax.stop_gradient(sums[:, :, :1]) + middle + spoiled(tau)[:, None, None]

    def transposed(
        self, x: Keys, ranks: Ranks, y: Float[Array, "batch r d"], tau: PerRow, mode: Mode
    ) -> Float[Array, "batch n d"]:
        if self.writes_rows(x.shape[1], ranks):
            return DEFINITION.transposed(x, ranks, y, tau, mode)
        assert isinstance(ranks, range)
        s, permutation = sort_with_permutation(x)
        n, held = x.shape[1], knots(s, tau)
        found, rows = _pieces(held, ranks)
        share = y / lax.stop_gradient(_received(held, found, rows, len(ranks)))
        share = gather(jnp.pad(share, ((0, 0), (1, 1), (0, 0))), rows)
        left = segment_sums(found.left[:, :, None] * share, found.after, n + 1)[:, 1:]
        right = segment_sums(found.right[:, :, None] * share, found.after, n + 1)[:, :-1]
        out = sum(SUMS.bind(s, tau, *(jnp.moveaxis(a, 2, 1) for a in (right, left))))
        return unsort(jnp.moveaxis(out, 1, 2), permutation) + spoiled(tau)[:, None, None]

    def rank(self, x: Keys, tau: PerRow, mode: Mode) -> Keys:
        """The sum over the other elements of L((x_i - x_j) / tau)."""
        s, permutation = sort_with_permutation(x)
        held = knots(s, tau)
        index = lax.broadcasted_iota(s.dtype, s.shape, 1)
        return unsort(index + (held.rise - 0.5), permutation) + spoiled(tau)[:, None]

    def mask(self, x: Keys, k: PerRow, tau: PerRow, mode: Mode) -> Keys:
        return DEFINITION.mask(x, k, tau, mode)
