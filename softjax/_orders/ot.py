"""Soft order by regularised optimal transport to a few anchors.

(Cuturi, Teboul and Vert, arXiv:1905.11885; Xie et al., "Differentiable top-k with optimal transport", 2020;
sparse modes after Blondel, Seguy and Rolet, arXiv:1710.06276, with the regulariser on each element's row.)
The elements, of mass 1 each, are transported to anchors in [0, 1]: one of mass 1 for each wanted rank and, for each
gap between wanted ranks, a filler with the mass of the ranks skipped. The plan's columns are the rows of P.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._modes import Mode
from .._transport import plan
from ._base import Forms, Keys, PerRow, Ranks, applied


class Targets(NamedTuple):
    """Anchors and masses of the bins, and which bin holds each wanted rank."""

    anchors: Float[Array, " bins"]
    masses: Float[Array, " bins"]
    bins: np.ndarray


def targets(ranks: Ranks, n: int, dtype) -> Targets:
    """Walk the wanted ranks, in ascending order, and fill the gaps between them.

    Traced ranks keep an empty bin, of mass 0 and at its neighbour's anchor, where static ones drop it.
    """
    if isinstance(ranks, np.ndarray):
        ends = np.concatenate([[-1], ranks, [n]]).astype(int)
        masses = np.stack([np.diff(ends) - 1, np.ones(len(ends) - 1, int)], axis=1).reshape(-1)[:-1]
        used = masses > 0
        bins = (np.cumsum(used) - 1)[1::2]
        masses = jnp.asarray(masses[used], dtype)
    else:
        ends = jnp.concatenate([jnp.full(1, -1.0, dtype), ranks.astype(dtype), jnp.full(1, n, dtype)])
        masses = jnp.stack([jnp.diff(ends) - 1, jnp.ones(len(ranks) + 1, dtype)], axis=1).reshape(-1)[:-1]
        bins = np.arange(1, 2 * len(ranks), 2)
    place = jnp.maximum(jnp.cumsum(masses > 0) - 1, 0).astype(dtype)
    return Targets(place / jnp.maximum(place[-1], 1), masses, bins)


def rows(x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
    """Rows of P: columns of the plan, for ascending ranks that are all different."""
    t = targets(ranks, x.shape[-1], x.dtype)
    return plan(x, t.anchors, t.masses, tau, mode)[:, :, t.bins].transpose(0, 2, 1)


def rank(x: Keys, tau: PerRow, mode: Mode) -> Float[Array, "batch n"]:
    """Every element's expected anchor: rows of the plan are distributions over the ranks."""
    n = x.shape[-1]
    t = targets(np.arange(n), n, x.dtype)
    positions = jnp.arange(n, dtype=x.dtype)
    return plan(x, t.anchors, t.masses, tau, mode) @ positions


DENSE = Forms(rows=rows, apply=applied(rows), rank=rank)
