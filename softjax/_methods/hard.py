"""The hard order as a method: rows are one-hot, and applying them moves elements."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .._sharding import vary_alike
from .._types import Float
from .base import AbstractMethod, Keys, PerRow, Ranks
from .hard_sort import gather, pick, unsort
from .preprocess import spoiled


@dataclass(frozen=True)
class HardOrder(AbstractMethod):
    """What every method is in the mode "hard", which has no softness and is None here."""

    name = "hard"
    selects = True

    def rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Any) -> Float[Array, "batch r n"]:
        return jax.nn.one_hot(pick(jnp.argsort(x, axis=-1), ranks), x.shape[-1], dtype=x.dtype)

    def apply(
        self, x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Any
    ) -> Float[Array, "batch r d"]:
        return gather(x[:, :, None] if payload is None else payload, pick(jnp.argsort(x, axis=-1), ranks))

    def transposed(
        self, x: Keys, ranks: Ranks, y: Float[Array, "batch r d"], tau: PerRow, mode: Any
    ) -> Float[Array, "batch n d"]:
        nothing, _, y = vary_alike((jnp.zeros((*x.shape, y.shape[-1]), y.dtype), x, y))
        return jax.vjp(lambda payload: self.apply(x, ranks, payload, tau, mode), nothing)[1](y)[0]

    def rank(self, x: Keys, tau: PerRow, mode: Any) -> Keys:
        """Average ranks: elements before, plus half of the others that are equal."""
        if isinstance(x.shape[-1], int):
            s = jnp.sort(x, axis=-1)
            before, through = (
                jax.vmap(lambda row, v, side=side: jnp.searchsorted(row, v, side=side))(s, x)
                for side in ("left", "right")
            )
        else:  # a search takes steps that no symbol counts
            before = jnp.sum(x[:, None, :] < x[:, :, None], axis=-1)
            through = jnp.sum(x[:, None, :] <= x[:, :, None], axis=-1)
        average = (before + through - 1).astype(x.dtype) / 2
        return jnp.where(jnp.any(jnp.isnan(x), axis=-1, keepdims=True), jnp.full_like(x, jnp.nan), average)

    def mask(self, x: Keys, k: PerRow, tau: PerRow, mode: Any) -> Keys:
        """1 for the k largest, the fraction of k for the next; a row with a NaN is NaN."""
        position = jax.lax.broadcasted_iota(k.dtype, x.shape, 1)
        mask = unsort(jnp.clip(k[:, None] - position, 0, 1), jnp.argsort(x, axis=-1, descending=True))
        return mask + spoiled(jnp.where(jnp.any(jnp.isnan(x), axis=-1), -1, jnp.ones_like(k)))[:, None]


HARD = HardOrder()
