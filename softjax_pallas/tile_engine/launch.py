"""From a body to a kernel: the compiler's program, and what becomes of tau."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from softjax._methods.base import Keys, PerRow
from softjax._types import Float

from .._kernel import MOSAIC_GPU, Tile


def launch(
    implementation: str,
    body: Any,
    by_rows: bool,
    sizes: tuple[int, int],
    operands: tuple[Any, Any],
    tile: Tile,
) -> Any:
    """The kernel of a body as a function of arrays (batch, ...) that returns a tuple."""
    if implementation in MOSAIC_GPU:
        from . import mosaic_gpu as backend
    else:
        from . import portable as backend
    build = implementation, f"softjax_{body.__name__}"
    return backend.run(body, sizes, by_rows, tile, *operands, build)


def scale_of(x: Keys, tau: PerRow) -> Float[Array, "batch 1 1"]:
    """1 / tau, NaN for a batch row whose result must be NaN: one with a NaN, or with tau not positive."""
    good = (tau > 0) & ~jnp.any(jnp.isnan(x), axis=-1)
    tau = tau.astype(jnp.float32)
    return jnp.where(good, 1 / jnp.where(good, tau, jnp.ones_like(tau)), jnp.full_like(tau, jnp.nan))[:, None, None]
