"""Routing of tokens to experts by soft top-k masks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from . import _check
from ._mask import top_k_mask
from ._straight_through import top_k_mask_st
from ._types import Float, Implementation, MethodName, ModeName, Softness


class Routing(NamedTuple):
    """Where tokens go.

    `weights` combine the experts' outputs, and sum to 1 for every token with k > 0; `mask` says which experts a token
    goes to, and sums to k. `balance_loss` is 1 where experts share the tokens evenly, and more where they do not.
    `active_experts` is the expected number of experts that some token goes to, each with its mask's entry as a
    probability.
    """

    weights: Float[Array, "*batch tokens experts"]
    mask: Float[Array, "*batch tokens experts"]
    balance_loss: Float[Array, "*batch"]
    active_experts: Float[Array, "*batch"]


def _normalised(x: Array) -> Array:
    """Over the last axis; what sums to 0 stays 0."""
    total = jnp.sum(x, axis=-1, keepdims=True)
    return x / jnp.where(total > 0, total, jnp.ones_like(total))


def router(
    logits: ArrayLike,
    k: ArrayLike,
    *,
    straight_through: bool = False,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "ot",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
) -> Routing:
    """Top-k routing for a mixture of experts, with a gradient to every expert's score.

    The weights are softmax(logits) times `top_k_mask` of the logits, normalised: in the hard mode a softmax of the k
    largest logits. The loss is E sum_e f_e p_e, with f_e the share of the tokens' k places that expert e has, and p_e
    the mean of its softmax.

    **Arguments:**
        logits: (..., tokens, experts), what the gate says of each token.
        k: how many experts a token goes to, a real number in [0, experts] or an array (..., tokens) of them; 0 for one
            that goes nowhere.
        straight_through: hard masks, and the soft ones' derivative: k experts are computed, all of them learn.
        softness: positive; broadcastable to (..., tokens).
        mode: "hard", "smooth", "c0", "c1" or "c2".
        method: "softsort", "neuralsort", "ot", "lapsum" or "fast_soft_sort".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
    **Returns:** a `Routing`.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** Shazeer et al., arXiv:1701.06538; the loss is that of Fedus et al., arXiv:2101.03961, eq. 4.
    """
    x = _check.real("logits", logits)
    if x.ndim < 2 or 0 in x.shape[-2:]:
        _check.wrong("logits.shape", x.shape, "(..., tokens, experts)")
    select = top_k_mask_st if _check.flag("straight_through", straight_through) else top_k_mask
    how = {"softness": softness, "mode": mode, "method": method, "standardize": standardize}
    mask = select(x, k, implementation=implementation, **how)
    wide = x.astype(_check.compute_dtype(x.dtype))
    given = mask.astype(wide.dtype)
    p = jax.nn.softmax(wide, axis=-1)
    share = p * given
    weights, places = _normalised(share), _normalised(given)
    loss = x.shape[-1] * jnp.sum(jnp.mean(places, axis=-2) * jnp.mean(p, axis=-2), axis=-1)
    active = jnp.sum(1 - jnp.prod(1 - given, axis=-2), axis=-1)
    return Routing(weights.astype(x.dtype), mask, loss.astype(x.dtype), active.astype(x.dtype))
