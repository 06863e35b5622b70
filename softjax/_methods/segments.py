"""Sums over neighbours that belong together."""

import jax
import jax.numpy as jnp
from jax import Array

from .._types import Float, Int


def segment_sums(a: Float[Array, "batch p d"], to: Int[Array, "batch p"], size: int) -> Float[Array, "batch size d"]:
    """Sums of what goes to the same place; places ascend."""

    def of_row(a, to):
        room = jnp.zeros((size, a.shape[1]), a.dtype)
        return room.at[to].add(a, indices_are_sorted=True, mode="promise_in_bounds")

    return jax.vmap(of_row)(a, to)
