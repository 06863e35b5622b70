"""The public types and the literals that name a choice, each spelled once."""

from typing import Literal, TypeAlias

import jax
from jaxtyping import Array, Float

SoftBool: TypeAlias = Float[Array, "..."]
"""A float array with values in [0, 1]: the degree to which each element is true."""

SoftIndex: TypeAlias = Float[Array, "..."]
"""A float array whose last axis is a distribution over the indices 0..n-1."""

ModeName: TypeAlias = Literal["hard", "smooth", "c0", "c1", "c2"]
MethodName: TypeAlias = Literal["softsort", "neuralsort", "ot"]
QuantileRule: TypeAlias = Literal["linear", "lower", "higher", "midpoint", "nearest"]
Implementation: TypeAlias = Literal[
    "dense", "xla", "pallas_triton", "pallas_mosaic_gpu", "pallas_mosaic_tpu", "pallas_interpret"
]
Softness: TypeAlias = float | jax.Array
Axis: TypeAlias = int | tuple[int, ...] | None
