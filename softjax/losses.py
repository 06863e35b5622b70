"""Ranking losses: one less a metric of the hard ranks, with soft ones in their place.

All work on lists along `axis`, in O(n) memory, and give one number for each. `where` leaves elements out, as padding of
lists of different lengths: their scores count as -infinity, so that the method must take infinities, and not
standardise. A list with nothing to find (no gain, no relevant element, no variance) has a loss of 0 and no gradient.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from . import _check
from ._mask import top_k_mask
from ._sorting import ranking
from ._types import Implementation, MethodName, ModeName, Softness

__all__ = ["ndcg_loss", "precision_loss", "recall_loss", "spearman_loss"]


def _lists(scores: ArrayLike, axis: int, where: ArrayLike | None, **others: ArrayLike) -> tuple[Array, ...]:
    """Scores, which elements count, and other arrays of their shape, with lists last and zeros in what is left out."""
    x = _check.real("scores", scores)
    axis = _check.axis("axis", axis, x.ndim)
    count = jnp.ones(x.shape, bool) if where is None else jnp.asarray(where)
    if count.dtype != bool:
        raise TypeError(f"`where` (of dtype {count.dtype}) must be an array of bools.")
    count = _check.broadcast("where", count, x.shape, against="scores")
    arrays = [x, jnp.broadcast_to(count, x.shape)]
    for name, value in others.items():
        array = _check.broadcast(name, _check.real(name, value).astype(x.dtype), x.shape, against="scores")
        arrays.append(jnp.broadcast_to(array, x.shape))
    x, count, *arrays = (jnp.moveaxis(a, axis, -1) for a in arrays)
    x = x if where is None else jnp.where(count, x, -jnp.inf)
    return x, count, *(jnp.where(count, a, 0) for a in arrays)


def _over(part: Array, whole: Array) -> Array:
    """1 - part / whole, 0 where the whole is 0."""
    some = whole != 0
    return jnp.where(some, 1 - part / jnp.where(some, whole, 1), 0)


def _exponential(relevance: Array) -> Array:
    return jnp.exp2(relevance) - 1


def ndcg_loss(
    scores: ArrayLike,
    relevance: ArrayLike,
    axis: int = -1,
    *,
    k: int | None = None,
    where: ArrayLike | None = None,
    gain: Callable[[Array], Array] = _exponential,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "softsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
) -> Array:
    """1 - NDCG: the gains over log2(1 + rank), as a share of what they are in the best order (ApproxNDCG).

    **Arguments:**
        scores: array of any shape, lists along `axis`.
        relevance: of every element, broadcastable to scores.
        axis: that of a list.
        k: count the first k ranks alone, by a soft mask; None for all.
        where: bools, broadcastable to scores: which elements there are; None for all.
        gain: of relevance, an elementwise function; 2^relevance - 1 by default.
        softness: positive; broadcastable to scores' shape without `axis`.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        method: "softsort", "neuralsort", "ot", "lapsum" or "fast_soft_sort".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
    **Returns:** an array of scores' shape without `axis`, in [0, 1].
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** Jarvelin and Kekalainen 2002; Qin, Liu and Li 2010 (ApproxNDCG).
    """
    x, count, relevance = _lists(scores, axis, where, relevance=relevance)
    how = {"softness": softness, "mode": mode, "method": method, "standardize": standardize}
    gains = jnp.where(count, gain(relevance), 0)
    ranks = ranking(x, implementation=implementation, **how)
    found = gains / jnp.log2(2 + ranks)
    ideal = -jnp.sort(-gains, axis=-1)
    places = jnp.arange(x.shape[-1], dtype=gains.dtype)
    best = ideal / jnp.broadcast_to(jnp.log2(2 + places), ideal.shape)
    if k is not None:
        k = _check.integer("k", k, 1, x.shape[-1], why=", the length of a list")
        found = found * top_k_mask(x, k, implementation=implementation, **how)
        best = best[..., :k]
    return _over(jnp.sum(found, axis=-1), jnp.sum(best, axis=-1))


def spearman_loss(
    scores: ArrayLike,
    target: ArrayLike,
    axis: int = -1,
    *,
    where: ArrayLike | None = None,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "softsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
) -> Array:
    """1 - Spearman's rank correlation of the soft ranks of scores and the hard ones of the target; ties are averaged.

    **Arguments:**
        target: what scores should be in the order of, broadcastable to them.
        scores, axis, where, softness, mode, method, standardize, implementation: see `ndcg_loss`.
    **Returns:** an array of scores' shape without `axis`, in [0, 2].
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** Spearman 1904; with soft ranks Blondel et al., arXiv:2002.08871.
    """
    x, count, target = _lists(scores, axis, where, target=target)
    how = {"softness": softness, "mode": mode, "method": method, "standardize": standardize}
    wanted = target if where is None else jnp.where(count, target, -jnp.inf)
    ranks = ranking(x, implementation=implementation, **how), ranking(wanted, mode="hard")
    number = jnp.sum(count, axis=-1, keepdims=True).astype(x.dtype)

    def centred(r: Array) -> Array:
        r = jnp.where(count, r, 0)
        return jnp.where(count, r - jnp.sum(r, axis=-1, keepdims=True) / jnp.maximum(number, 1), 0)

    a, b = map(centred, ranks)
    scale = jnp.sum(a * a, axis=-1) * jnp.sum(b * b, axis=-1)
    some = scale > 0
    return _over(jnp.sum(a * b, axis=-1), jnp.where(some, jnp.sqrt(jnp.where(some, scale, 1)), 0))


def _found(
    scores: ArrayLike, relevant: ArrayLike, k: int, axis: int, where: ArrayLike | None, how: dict[str, Any]
) -> tuple[Array, Array]:
    """How much of what is relevant is among the k largest, and how much there is."""
    x, _, relevant = _lists(scores, axis, where, relevant=relevant)
    k = _check.integer("k", k, 1, x.shape[-1], why=", the length of a list")
    return jnp.sum(top_k_mask(x, k, **how) * relevant, axis=-1), jnp.sum(relevant, axis=-1)


def precision_loss(
    scores: ArrayLike,
    relevant: ArrayLike,
    k: int,
    axis: int = -1,
    *,
    where: ArrayLike | None = None,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "lapsum",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
) -> Array:
    """1 - precision at k: the share of relevant elements among the k largest, by a soft mask.

    **Arguments:**
        relevant: 1 for what is relevant, else 0, or a number between; broadcastable to scores.
        k: a static integer in [1, n].
        scores, axis, where, softness, mode, method, standardize, implementation: see `ndcg_loss`.
    **Returns:** an array of scores' shape without `axis`, in [0, 1].
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** Manning, Raghavan and Schuetze, Introduction to Information Retrieval, 8.4.
    """
    how = {"softness": softness, "mode": mode, "method": method, "standardize": standardize}
    found, _ = _found(scores, relevant, k, axis, where, how | {"implementation": implementation})
    return 1 - found / k


def recall_loss(
    scores: ArrayLike,
    relevant: ArrayLike,
    k: int,
    axis: int = -1,
    *,
    where: ArrayLike | None = None,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "lapsum",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
) -> Array:
    """1 - recall at k: the share of the relevant elements that are among the k largest, by a soft mask.

    **Arguments:** see `precision_loss`.
    **Returns:** an array of scores' shape without `axis`, in [0, 1].
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** see `precision_loss`.
    """
    how = {"softness": softness, "mode": mode, "method": method, "standardize": standardize}
    return _over(*_found(scores, relevant, k, axis, where, how | {"implementation": implementation}))
