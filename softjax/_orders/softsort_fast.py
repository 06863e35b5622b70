"""SoftSort without the n x n matrix: by recurrences in the smooth mode."""

from jaxtyping import Array, Float

from .._modes import Mode
from . import softsort, softsort_scan
from ._base import Forms, Keys, PerRow, Ranks

_FEW = 16
"""Up to this many rows are cheaper one by one, O(n) each, than all of them by the scan."""


def apply(
    x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
) -> Float[Array, "batch r d"]:
    """Rows of P times the payload."""
    if mode.degree is not None or len(ranks) <= _FEW:
        return softsort.DENSE.apply(x, ranks, payload, tau, mode)
    return softsort_scan.apply(x, ranks, payload, tau, mode)


def rank(x: Keys, tau: PerRow, mode: Mode) -> Keys:
    """Zero-based soft ranks."""
    return (softsort if mode.degree is not None else softsort_scan).rank(x, tau, mode)


FAST = Forms(rows=softsort.rows, apply=apply, rank=rank)
