"""NeuralSort without the n x n matrix: sums over the band of entries that can change a float.

The derivation is in `softjax._methods.neuralsort.band`.
"""

from dataclasses import dataclass, replace
from typing import Any, final

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..._dispatch import by_kernels
from ..._modes import Mode
from ..._types import Float
from ..base import AbstractMethod, Keys, PerRow, Ranks, at_most, count
from ..hard_sort import pick, sort_with_permutation, unpick, unsort
from ..preprocess import knots
from . import definition
from .band import rules
from .band.walk import weights
from .definition import DEFINITION

_FEW = 16
"""Up to this many rows are written out, O(n) each."""


def _normalisers(places: Keys, scale: Float[Array, "batch 1"], mode: Mode) -> Keys:
    """theta without a tangent: the rules of whatever takes it are total derivatives, its own part of theirs."""
    return lax.stop_gradient(rules.Normalisers(weights(mode))(*lax.stop_gradient((places, scale))))


@final
@dataclass(frozen=True)
class NeuralSort(AbstractMethod):
    """NeuralSort, in O(n) memory."""

    automatic: bool = True
    name = "neuralsort"
    rank_step = 0.5

    @property
    def plain(self) -> AbstractMethod:
        return replace(self, automatic=False)

    @property
    def definition(self) -> AbstractMethod:
        return DEFINITION

    def writes_rows(self, n: Any, ranks: Ranks) -> bool:
        """Are these few, or rows of a length that no walk knows?"""
        return at_most(_FEW, count(ranks)) or not isinstance(n, int)

    @by_kernels
    def rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
        return definition.rows(x, ranks, tau, mode)

    def log_rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
        return DEFINITION.log_rows(x, ranks, tau, mode)

    @by_kernels
    def apply(
        self, x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
    ) -> Float[Array, "batch r d"]:
        """All n rows are walked where more than a few neighbouring ones are wanted."""
        if self.writes_rows(x.shape[-1], ranks):
            return DEFINITION.apply(x, ranks, payload, tau, mode)
        if isinstance(ranks, jax.Array):  # between whole ranks, too, where no walk comes by
            row = lambda rank: DEFINITION.apply(x, rank[None], payload, tau, mode)[:, 0]
            return jnp.moveaxis(lax.map(row, ranks, batch_size=_FEW), 0, 1)
        s, permutation = sort_with_permutation(x)
        places, scale, spoil = knots(s, tau)
        columns = lambda payload: jnp.take_along_axis(payload, permutation[:, :, None], axis=1)
        v = places[:, :, None] if payload is None else columns(payload)
        _, y, _ = rules.Solve(weights(mode))(places, scale, v)
        return pick(y + spoil[:, :, None], ranks)

    @by_kernels
    def transposed(
        self, x: Keys, ranks: Ranks, y: Float[Array, "batch r d"], tau: PerRow, mode: Mode
    ) -> Float[Array, "batch n d"]:
        """The columns are walked where more than a few rows are given."""
        if self.writes_rows(x.shape[-1], ranks):
            return DEFINITION.transposed(x, ranks, y, tau, mode)
        s, permutation = sort_with_permutation(x)
        places, scale, spoil = knots(s, tau)
        theta = _normalisers(places, scale, mode)
        out = rules.apply_transposed(weights(mode), places, scale, theta, unpick(y, ranks, s.shape[-1]))
        return unsort(out + spoil[:, :, None], permutation)

    @by_kernels
    def rank(self, x: Keys, tau: PerRow, mode: Mode) -> Keys:
        """The column-normalised expectation sum_r P_rj r / sum_r P_rj."""
        if not isinstance(x.shape[-1], int):
            return DEFINITION.rank(x, tau, mode)
        s, permutation = sort_with_permutation(x)
        places, scale, spoil = knots(s, tau)
        theta = _normalisers(places, scale, mode)
        offset, _ = rules.RankOffset(weights(mode))(places, scale, theta)
        positions = jnp.arange(s.shape[-1], dtype=s.dtype)[None]
        return unsort(positions + offset + spoil, permutation)
