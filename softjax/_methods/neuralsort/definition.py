"""NeuralSort (Grover et al., arXiv:1903.08850): row r is the projection of ((2r + 1 - n) x_j - A_j) / tau.

A_j = sum_i |x_i - x_j|, with the hard absolute value. In sorted order neighbouring logits differ by

    L_r(j + 1) - L_r(j) = (2 r - 2 j - 1) gap_j / tau,    gap_j = s_{j+1} - s_j >= 0,

so a row peaks at j = r and falls off on both sides. Logits relative to that peak, summed outward from it,
have terms of one sign: no cancellation, whatever n and the keys' offset.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array, lax

from ..._modes import Mode
from ..._types import Float
from ..base import AbstractMethod, Keys, PerRow, Ranks, as_array
from ..preprocess import spoiled
from ..ties import kink


def rows(x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
    """Rows of P; at a half-integer rank the two neighbours share the peak."""
    return _unsorted(sorted_rows(jnp.sort(x, axis=-1), ranks, tau, mode), x)


def _unsorted(in_order: Float[Array, "batch r n"], x: Keys) -> Float[Array, "batch r n"]:
    place = jnp.argsort(jnp.argsort(lax.stop_gradient(x), axis=-1), axis=-1)
    return jnp.take_along_axis(in_order, place[:, None, :], axis=-1)


def sorted_rows(s: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
    """Rows of P for ascending keys s, in their order."""
    return mode.project(_logits(s, ranks, tau, mode.reach)) + spoiled(tau)[:, None, None]


def _logits(s: Keys, ranks: Ranks, tau: PerRow, reach: float) -> Float[Array, "batch r n"]:
    n = s.shape[-1]
    scale = tau[:, None, None]
    r = as_array(ranks, s.dtype)[:, None]
    j = jnp.arange(n - 1, dtype=s.dtype)[None, :]
    # A gap beyond `reach` softnesses already ends a row's support; more would only overflow.
    gap = jnp.minimum((s[:, 1:] - s[:, :-1])[:, None, :], reach * scale) / scale
    steps = (2 * r - 2 * j - 1)[None] * gap
    zero = jnp.zeros_like(steps)
    before, behind = (((0, 0), (0, 0), end) for end in ((1, 0), (0, 1)))
    right = lax.cumsum(jnp.pad(jnp.where((j >= jnp.floor(r))[None], steps, zero), before), axis=2)
    left = lax.cumsum(jnp.pad(jnp.where((j < jnp.floor(r))[None], steps, zero), behind), axis=2, reverse=True)
    return jnp.maximum(right - left, -reach) + _tie_tangent(s, tau)[:, None, :]


def _tie_tangent(s: Keys, tau: PerRow) -> Keys:
    """Zero, with the derivative that makes |s_i - s_j| flat at a tie; the gap form takes one side's.

    Terms that are constant in a row do not matter to its projection and are left out.
    """
    return kink(s, jnp.ones_like(s)[:, :, None])[:, :, 0] / tau[:, None]


@dataclass(frozen=True)
class NeuralSortDefinition(AbstractMethod):
    """NeuralSort by rows that are written out."""

    name = "neuralsort"
    rank_step = 0.5

    def rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
        return rows(x, ranks, tau, mode)

    def log_rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
        logits = _logits(jnp.sort(x, axis=-1), ranks, tau, mode.log_reach)
        return _unsorted(mode.log_project(logits), x) + spoiled(tau)[:, None, None]


DEFINITION = NeuralSortDefinition()
