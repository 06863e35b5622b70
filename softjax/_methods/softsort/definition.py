"""SoftSort (Prillo and Eisenschlos, arXiv:2006.16038): row r is the projection of -|s_r - x_j| / tau, s = sort(x)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..._modes import Mode
from ..._types import Float
from ..base import AbstractMethod, Keys, PerRow, Ranks, count, multiply, reached
from ..hard_sort import pick, top_k
from ..preprocess import spoiled


def order_statistics(x: Keys, ranks: Ranks) -> Float[Array, "batch r"]:
    """sort(x)[ranks] along each row, by the cheapest hard operator that yields them."""
    n = x.shape[-1]
    if not isinstance(ranks, jax.Array):
        wanted = count(ranks)
        if wanted == 1 and ranks.start in (0, n - 1):
            return (jnp.max if ranks.start else jnp.min)(x, axis=-1, keepdims=True)
        if isinstance(ranks, range) and reached(n, ranks) <= n // 4:
            if ranks.stop > n // 2:
                return top_k(x, n - ranks.start)[0][:, n - ranks.stop :][:, ::-1]
            return -top_k(-x, ranks.stop)[0][:, ranks.start :]
    return pick(jnp.sort(x, axis=-1), ranks)


def _logits(from_keys: Array, to_keys: Array, tau: PerRow, reach: float) -> Float[Array, "batch r n"]:
    difference = from_keys[:, :, None] - to_keys[:, None, :]
    distance = difference * lax.stop_gradient(jnp.sign(difference))  # jnp.abs has derivative 1 at a tie
    scale = tau[:, None, None]
    # Clamped where the weight is zero anyway, so that neither distance nor derivative overflows.
    return -jnp.minimum(distance, reach * scale) / scale


def _distributions(from_keys: Array, to_keys: Array, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
    return mode.project(_logits(from_keys, to_keys, tau, mode.reach)) + spoiled(tau)[:, None, None]


def rows(x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
    """Rows of P."""
    return _distributions(order_statistics(x, ranks), x, tau, mode)


def _mean_positions(s: Keys) -> Keys:
    """The positions of ascending keys, ties sharing their mean: whichever of them comes first has no say."""
    before, through = (
        jnp.sum(compare(s[:, None, :], s[:, :, None]), axis=-1) for compare in (jnp.less, jnp.less_equal)
    )
    return (before + through - 1).astype(s.dtype) / 2


@dataclass(frozen=True)
class SoftSortDefinition(AbstractMethod):
    """SoftSort by rows that are written out."""

    name = "softsort"

    def rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
        return rows(x, ranks, tau, mode)

    def log_rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
        logits = _logits(order_statistics(x, ranks), x, tau, mode.log_reach)
        return mode.log_project(logits) + spoiled(tau)[:, None, None]

    def rank(self, x: Keys, tau: PerRow, mode: Mode) -> Float[Array, "batch n"]:
        """The expected position among the sorted keys, weighted as a row of P that is centred on x_i."""
        s = jnp.sort(x, axis=-1)
        return multiply(_distributions(x, s, tau, mode), _mean_positions(s)[:, :, None])[:, :, 0]


DEFINITION = SoftSortDefinition()
