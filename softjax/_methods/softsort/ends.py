"""Rows near an end in the modes c0, c1, c2, without a sort of the other keys.

Row r reaches the keys within R_r of s_r, and both s_r - R_r and s_r + R_r grow with r, since R changes by less than the
anchor does. So the rows of the k largest keys are those among the K largest alone if that of the k-th does not reach
the K-th, which one sum says:

    sum_j max(s_k - s_K - |s_k - x_j|, 0)^m >= tau^m    over the K largest keys.

Where it says otherwise, at a large softness, all keys are sorted. Likewise at the other end.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..._modes import Mode
from ..._sharding import anywhere
from ..._types import Bool, Float, Int
from ..base import Keys, PerRow, Ranks, reached
from ..hard_sort import gather, pick, sort_with_permutation, top_k, unpick
from . import sparse
from .largest import SHARE

LONG = 2048
"""From so many keys on [measured] a mask of a known k, and the rows of a sparse mode, are made without a sort: by a
program half as large again."""


def serves(n: Any, ranks: Ranks) -> bool:
    """Are these ranks near enough to an end, of many keys?"""
    return isinstance(n, int) and isinstance(ranks, range) and n >= LONG and 1 < reached(n, ranks) <= n // SHARE


class _Near(NamedTuple):
    """The keys nearest to an end, ascending, their places among all, and the ranks among them."""

    keys: Float[Array, "batch few"]
    places: Int[Array, "batch few"]
    ranks: range


def _near(x: Keys, ranks: range) -> _Near:
    """Twice as many as are wanted, and as many again as a row may reach at a usual softness."""
    n = x.shape[-1]
    few = 2 * reached(n, ranks) + min(n // 16, 1024)
    at_the_top = ranks.stop > n - ranks.start
    first = n - few if at_the_top else 0
    if few > n // SHARE:  # the sort is cheaper, and still the sums are over few keys
        s, places = (lax.slice_in_dim(a, first, first + few, axis=1) for a in sort_with_permutation(x))
    elif at_the_top:
        s, places = (jnp.flip(a, 1) for a in top_k(x, few))
    else:
        s, places = top_k(-x, few)
        s = -s
    return _Near(s, places, range(ranks.start - first, ranks.stop - first))


def _enough(near: _Near, tau: PerRow, mode: Mode) -> Bool[Array, " batch"]:
    """Does no row of these ranks reach beyond the keys that are near?"""
    assert mode.degree is not None
    s, tau = lax.stop_gradient((near.keys, tau[:, None]))
    few = s.shape[1]
    rank, furthest = (near.ranks.start, 0) if near.ranks.stop > few - near.ranks.start else (near.ranks.stop - 1, -1)
    own = s[:, rank, None]
    rest = jnp.abs(own - s[:, furthest, None]) - jnp.abs(own - s)
    return jnp.sum((jnp.maximum(rest, 0) / tau) ** mode.degree, axis=1) >= 1


def apply(
    x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
) -> Float[Array, "batch r d"]:
    """Rows of P times the payload, or times the keys themselves."""

    def among(near):
        y = None if payload is None else gather(payload, near.places)
        return pick(sparse.of_ascending(near.keys, y, tau, mode), near.ranks)

    return _among_few_or_all(x, ranks, tau, mode, among, lambda: sparse.apply(x, ranks, payload, tau, mode))


def transposed(
    x: Keys, ranks: Ranks, y: Float[Array, "batch r d"], tau: PerRow, mode: Mode
) -> Float[Array, "batch n d"]:
    """The transpose of rows of P times y."""

    def among(near):
        own = sparse.transposed_of_ascending(near.keys, unpick(y, near.ranks, near.keys.shape[1]), tau, mode)
        put = lambda own, places: jnp.zeros((x.shape[1], y.shape[2]), y.dtype).at[places].set(own, unique_indices=True)
        return jax.vmap(put)(own, near.places)

    return _among_few_or_all(x, ranks, tau, mode, among, lambda: sparse.transposed(x, ranks, y, tau, mode))


def _among_few_or_all(
    x: Keys, ranks: Ranks, tau: PerRow, mode: Mode, few: Callable[[_Near], Array], everything: Callable[[], Array]
) -> Array:
    assert isinstance(ranks, range)
    near = _near(x, ranks)
    # What the branch not taken would save for a derivative is made anew.
    everything = jax.checkpoint(everything, prevent_cse=False)
    return lax.cond(anywhere(~_enough(near, tau, mode)), everything, lambda: few(near))
