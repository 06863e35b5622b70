"""SoftSort without the n x n matrix: by recurrences in the smooth mode, by windows in the sparse ones."""

import jax.numpy as jnp
from jax import Array

from .._modes import Mode
from .._types import Float
from . import softsort, softsort_scan, softsort_window
from ._base import Forms, Keys, PerRow, Ranks, multiply
from ._extremes import Pulled
from ._keys import spoiled

_FEW = 16
"""Up to this many rows are cheaper one by one, O(n) each, than all of them at once."""


def writes(n: int, ranks: Ranks) -> bool:
    """Are these few?"""
    del n
    count = len(ranks) if isinstance(ranks, range) else ranks.shape[0]
    return isinstance(count, int) and count <= _FEW  # a symbolic number is none that is known to be small


def apply(
    x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
) -> Float[Array, "batch r d"]:
    """Rows of P times the payload."""
    if writes(x.shape[-1], ranks):
        return softsort.DENSE.apply(x, ranks, payload, tau, mode)
    return (softsort_scan if mode.degree is None else softsort_window).apply(x, ranks, payload, tau, mode)


def transposed(
    x: Keys, ranks: Ranks, y: Float[Array, "batch r d"], tau: PerRow, mode: Mode
) -> Float[Array, "batch n d"]:
    """The transpose of rows of P times y."""
    if writes(x.shape[-1], ranks):
        return multiply(jnp.swapaxes(softsort.rows(x, ranks, tau, mode), 1, 2), y)
    if not isinstance(ranks, range):
        return Pulled(apply)(x, ranks, y, tau, mode) + spoiled(tau)[:, None, None]
    return (softsort_scan if mode.degree is None else softsort_window).transposed(x, ranks, y, tau, mode)


def rank(x: Keys, tau: PerRow, mode: Mode) -> Keys:
    """Zero-based soft ranks."""
    return (softsort_scan if mode.degree is None else softsort_window).rank(x, tau, mode)


FAST = Forms(rows=softsort.rows, apply=apply, rank=rank, transposed=transposed, writes=writes)
