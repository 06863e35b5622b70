"""Values whose derivative is another array's."""

import jax
from jax import Array


@jax.custom_jvp
def with_slope_of(x: Array, value: Array) -> Array:
    """`value`, differentiated as x, which has its shape."""
    return value


with_slope_of.defjvps(lambda change, value, *_: change, None)
