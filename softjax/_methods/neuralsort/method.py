"""NeuralSort without the n x n matrix: sums over the band of entries that can change a float.

The derivation is in `softjax._methods.definition.band`.
"""

import jax.numpy as jnp
from jax import Array, lax

from ..._modes import Mode
from ..._types import Float
from ..base import Forms, Keys, PerRow, Ranks, at_most, count
from ..hard_sort import pick, sort_with_permutation, unpick, unsort
from ..preprocess import knots
from . import definition
from .band import rules
from .band.walk import weights

_FEW = 16
"""Up to this many rows are written out, O(n) each."""


def writes(n: int, ranks: Ranks) -> bool:
    """Are these few, or rows of a length that no walk knows?"""
    return at_most(_FEW, count(ranks)) or not isinstance(n, int)


def apply(
    x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
) -> Float[Array, "batch r d"]:
    """Rows of P times the payload; all n rows are walked where more than a few are wanted."""
    if writes(x.shape[-1], ranks):
        return definition.DENSE.apply(x, ranks, payload, tau, mode)
    s, permutation = sort_with_permutation(x)
    v = s[:, :, None] if payload is None else jnp.take_along_axis(payload, permutation[:, :, None], axis=1)
    places, scale, spoil = knots(s, tau)
    v = places[:, :, None] if payload is None else v
    _, y, _ = rules.Solve(weights(mode))(places, scale, v)
    return pick(y + spoil[:, :, None], ranks)


def transposed(
    x: Keys, ranks: Ranks, y: Float[Array, "batch r d"], tau: PerRow, mode: Mode
) -> Float[Array, "batch n d"]:
    """The transpose of rows of P times y; the columns are walked where more than a few rows are given."""
    if writes(x.shape[-1], ranks):
        return jnp.matmul(jnp.swapaxes(definition.rows(x, ranks, tau, mode), 1, 2), y, precision="highest")
    s, permutation = sort_with_permutation(x)
    places, scale, spoil = knots(s, tau)
    theta = _normalisers(places, scale, mode)
    out = rules.apply_transposed(weights(mode), places, scale, theta, unpick(y, ranks, s.shape[-1]))
    return unsort(out + spoil[:, :, None], permutation)


def rank(x: Keys, tau: PerRow, mode: Mode) -> Keys:
    """The column-normalised expectation sum_r P_rj r / sum_r P_rj."""
    if not isinstance(x.shape[-1], int):
        return definition.rank(x, tau, mode)
    s, permutation = sort_with_permutation(x)
    places, scale, spoil = knots(s, tau)
    theta = _normalisers(places, scale, mode)
    offset, _ = rules.RankOffset(weights(mode))(places, scale, theta)
    positions = jnp.arange(s.shape[-1], dtype=s.dtype)[None]
    return unsort(positions + offset + spoil, permutation)


def _normalisers(places: Keys, scale: Float[Array, "batch 1"], mode: Mode) -> Keys:
    """theta without a tangent: the rules of whatever takes it are total derivatives, its own part of theirs."""
    return lax.stop_gradient(rules.Normalisers(weights(mode))(*lax.stop_gradient((places, scale))))


FAST = Forms(rows=definition.rows, apply=apply, rank=rank, transposed=transposed, writes=writes)
