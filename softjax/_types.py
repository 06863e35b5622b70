"""The public types and the literals that name a choice, each spelled once."""

import sys
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import jax
from jax import Array

# Importing jaxtyping takes as long as importing this package. Those who check shapes and dtypes while running have
# imported it before (its import hook does); for others annotations are plain `jax.Array`.
if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool as Bool
    from jaxtyping import Float as Float
    from jaxtyping import Int as Int
else:

    class Float:
        """`Float[Array, "shape"]` without the shape."""

        def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
            return item[0]

    Bool = Int = Float

SoftBool: TypeAlias = Float[Array, "..."]
"""A float array with values in [0, 1]: the degree to which each element is true."""

SoftIndex: TypeAlias = Float[Array, "..."]
"""A float array whose last axis is a distribution over the indices 0..n-1."""

ModeName: TypeAlias = Literal["hard", "smooth", "c0", "c1", "c2"]
if TYPE_CHECKING:
    from ._methods.base import AbstractMethod

    MethodName: TypeAlias = Literal["softsort", "neuralsort", "ot", "lapsum", "fast_soft_sort"] | AbstractMethod
else:
    MethodName = Literal["softsort", "neuralsort", "ot", "lapsum", "fast_soft_sort"] | Any
QuantileRule: TypeAlias = Literal["linear", "lower", "higher", "midpoint", "nearest"]
Implementation: TypeAlias = Literal["dense", "xla", "pallas_mosaic_gpu", "pallas_mosaic_tpu", "pallas_interpret"]
Softness: TypeAlias = float | jax.Array | None  # None in the hard mode alone
Axis: TypeAlias = int | tuple[int, ...] | None
