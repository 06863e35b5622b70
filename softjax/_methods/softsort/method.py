"""SoftSort without the n x n matrix: by recurrences in the smooth mode, by windows in the sparse ones."""

from dataclasses import dataclass, replace
from typing import Any, final

import jax
from jax import Array

from ..._dispatch import by_kernels
from ..._modes import Mode
from ..._types import Float
from ..base import AbstractMethod, Keys, PerRow, Ranks, at_most, count, reached
from . import definition, ends, largest, smooth, sparse
from .definition import DEFINITION

_FEW = 16
"""Up to this many rows are cheaper one by one, O(n) each, than all of them at once."""


def _many(n: Any, mode: Mode) -> Any:
    """What serves all rows. Windows are found by halving and doubling, which no symbol counts."""
    if mode.degree is None:
        return smooth
    return sparse if isinstance(n, int) else DEFINITION


def _of_an_end(n: Any, ranks: Ranks, mode: Mode) -> Any:
    """What serves ranks near an end without a sort, None for others."""
    form = largest if mode.degree is None else ends
    return form if form.serves(n, ranks) else None


@final
@dataclass(frozen=True)
class SoftSort(AbstractMethod):
    """SoftSort, in O(n) memory and at the price of a sort."""

    automatic: bool = True
    name = "softsort"

    @property
    def plain(self) -> AbstractMethod:
        return replace(self, automatic=False)

    @property
    def definition(self) -> AbstractMethod:
        return DEFINITION

    def picks(self, n: Any, ranks: Ranks, mode: Mode) -> bool:
        return _of_an_end(n, ranks, mode) is not None and n >= ends.LONG

    def _of_values(self, n: Any, ranks: Ranks, mode: Mode) -> Any:
        """What makes values of ranks near an end. Few rows of a sparse mode are cheaper, as are a quantile's two."""
        if not isinstance(ranks, range) or (mode.degree is not None and self.writes_rows(n, ranks)):
            return None
        return _of_an_end(n, ranks, mode) if reached(n, ranks) <= _FEW * len(ranks) else None

    def writes_rows(self, n: Any, ranks: Ranks) -> bool:
        """Are these few?"""
        return at_most(_FEW, count(ranks))

    @by_kernels
    def rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
        return definition.rows(x, ranks, tau, mode)

    def log_rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
        return DEFINITION.log_rows(x, ranks, tau, mode)

    def apply(
        self, x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
    ) -> Float[Array, "batch r d"]:
        n = x.shape[-1]
        form = self._of_values(n, ranks, mode) if payload is None else None
        form = form or (DEFINITION if self.writes_rows(n, ranks) else _many(n, mode))
        return form.apply(x, ranks, payload, tau, mode)

    def transposed(
        self, x: Keys, ranks: Ranks, y: Float[Array, "batch r d"], tau: PerRow, mode: Mode
    ) -> Float[Array, "batch n d"]:
        n = x.shape[-1]
        by_rows = isinstance(ranks, jax.Array) or self.writes_rows(n, ranks)
        form = _of_an_end(n, ranks, mode) or (DEFINITION if by_rows else _many(n, mode))
        return form.transposed(x, ranks, y, tau, mode)

    def values_and_rows(
        self, x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
    ) -> tuple[Float[Array, "batch r d"], Float[Array, "batch r n"]]:
        # A caller of values alone then pays for no rows.
        if payload is None and self._of_values(x.shape[-1], ranks, mode) is not None:
            return self.apply(x, ranks, payload, tau, mode), self.rows(x, ranks, tau, mode)
        return super().values_and_rows(x, ranks, payload, tau, mode)

    def rank(self, x: Keys, tau: PerRow, mode: Mode) -> Keys:
        """The expected position among the sorted keys, weighted as a row of P that is centred on x_i."""
        return _many(x.shape[-1], mode).rank(x, tau, mode)
