"""SoftSort without the n x n matrix: by recurrences in the smooth mode, by windows in the sparse ones."""

import jax
import jax.numpy as jnp
from jax import Array

from ..._modes import Mode
from ..._types import Float
from ..base import Forms, Keys, PerRow, Ranks, at_most, count, multiply
from ..non_finite import Pulled
from ..preprocess import spoiled
from . import definition, smooth, sparse

_FEW = 16
"""Up to this many rows are cheaper one by one, O(n) each, than all of them at once."""


def writes(n: int, ranks: Ranks) -> bool:
    """Are these few?"""
    del n
    return at_most(_FEW, count(ranks))


def _many(x: Keys, mode: Mode):
    """What serves many rows of these keys. Windows are found by halving and doubling, which no symbol counts."""
    if mode.degree is None:
        return smooth
    return sparse if isinstance(x.shape[-1], int) else definition.DENSE


def apply(
    x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
) -> Float[Array, "batch r d"]:
    """Rows of P times the payload."""
    if writes(x.shape[-1], ranks):
        return definition.DENSE.apply(x, ranks, payload, tau, mode)
    return _many(x, mode).apply(x, ranks, payload, tau, mode)


def transposed(
    x: Keys, ranks: Ranks, y: Float[Array, "batch r d"], tau: PerRow, mode: Mode
) -> Float[Array, "batch n d"]:
    """The transpose of rows of P times y."""
    if writes(x.shape[-1], ranks):
        return multiply(jnp.swapaxes(definition.rows(x, ranks, tau, mode), 1, 2), y)
    many = _many(x, mode)
    if isinstance(ranks, jax.Array) or many.transposed is None:
        return Pulled(apply)(x, ranks, y, tau, mode) + spoiled(tau)[:, None, None]
    return many.transposed(x, ranks, y, tau, mode)


def rank(x: Keys, tau: PerRow, mode: Mode) -> Keys:
    """Zero-based soft ranks."""
    return _many(x, mode).rank(x, tau, mode)


FAST = Forms(rows=definition.rows, apply=apply, rank=rank, transposed=transposed, writes=writes)
