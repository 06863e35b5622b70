"""Soft top-k masks: how much of each element belongs to the k largest, the sum of P's last k rows."""

import math
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from . import _check
from ._axis import layout_along
from ._permutation import Choice, chosen, soften
from ._types import Implementation, MethodName, ModeName, Softness


def top_k_mask(
    operand: ArrayLike,
    k: ArrayLike,
    *,
    axis: int | None = -1,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "ot",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
) -> Array:
    """A soft mask of the k largest elements, whose sum along `axis` is k.

    With `ot`, `lapsum` and `fast_soft_sort` it lies in [0, 1]: a step around a threshold. With the others it is the
    sum of the last k rows of the soft permutation, a fraction of the next one included.

    **Arguments:**
        operand: array of any shape, with n elements along `axis`.
        k: how many, a real number in [0, n] or an array of them that broadcasts against operand's shape without
            `axis`; may be traced and has a gradient.
        axis: the axis to select along; None flattens operand first.
        softness: positive; broadcastable to operand's shape without `axis`.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        method: "softsort", "neuralsort", "ot", "lapsum" or "fast_soft_sort".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
    **Returns:** an array like operand (flattened if axis is None).
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** Xie et al., arXiv:2002.06504, with two anchors; docs/softness.md.
    """
    how = chosen(mode, method, standardize, implementation)
    return _mask(operand, k, axis, softness, how, sign=1)


def bottom_k_mask(
    operand: ArrayLike,
    k: ArrayLike,
    *,
    axis: int | None = -1,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "ot",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
) -> Array:
    """A soft mask of the k smallest elements: `top_k_mask` of -operand.

    **Arguments:** see `top_k_mask`.
    **Returns:** an array like operand (flattened if axis is None).
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** see `top_k_mask`.
    """
    how = chosen(mode, method, standardize, implementation)
    return _mask(operand, k, axis, softness, how, sign=-1)


def _mask(operand: ArrayLike, k: ArrayLike, axis: int | None, softness: Softness, how: Choice, sign: int) -> Array:
    x, layout = layout_along(_check.real("operand", operand), axis)
    p = soften(sign * x, layout, softness, how)
    size = _check.between("k", k, 0, layout.n if isinstance(layout.n, int) else math.inf)
    per_row = _check.broadcast("k", size.astype(p.dtype), layout.batch_shape, against="operand without `axis`")
    wanted = jnp.broadcast_to(per_row, layout.batch_shape)
    if not _check.is_concrete(k):  # a NaN makes its row NaN: a softness of NaN does, in every form
        spoil = jnp.where(jnp.isnan(wanted), wanted, jnp.zeros_like(wanted))
        p = replace(p, softness=p.softness + spoil)
    known = _check.is_concrete(k) and isinstance(layout.n, int)
    return layout.along(p._mask(wanted, math.ceil(np.max(np.asarray(k), initial=0)) if known else None))
