"""Every check of an argument, with its message: what was given and what is legal."""

import operator
from collections.abc import Mapping
from functools import partial, reduce
from typing import Any, NoReturn, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

T = TypeVar("T")


def wrong(name: str, value: Any, legal: str) -> NoReturn:
    """Raise the ValueError that every wrong value gets."""
    raise ValueError(f"`{name}` (={value!r}) must be {legal}.")


def choice(name: str, value: Any, table: Mapping[Any, T]) -> T:
    """The entry of `table` that `value` names."""
    if isinstance(value, str) and value in table:
        return table[value]
    wrong(name, value, "one of " + ", ".join(repr(key) for key in table))


def is_concrete(x: Any) -> bool:
    """Whether x has values that can be looked at now."""
    return not isinstance(x, jax.core.Tracer)


def real(name: str, x: Any) -> jax.Array:
    """x as an array of floats: integers and bools become the default float, as in `jnp.mean`."""
    if x is None or isinstance(x, (str, bytes, dict)):
        raise TypeError(f"`{name}` (={x!r}) must be an array of real numbers.")
    if type(x) in (int, bool):
        x = float(x)  # stays weakly typed: it takes the dtype of the arrays beside it
    try:
        x = jnp.asarray(x)
    except TypeError as error:
        raise TypeError(f"`{name}` (of type {type(x).__name__}) must be an array of real numbers.") from error
    if jnp.issubdtype(x.dtype, jnp.complexfloating) or not (
        jnp.issubdtype(x.dtype, jnp.number) or jnp.issubdtype(x.dtype, jnp.bool_)
    ):
        raise TypeError(f"`{name}` (of dtype {x.dtype}) must have a real dtype: float, integer or bool.")
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))


def no_infinities(x: jax.Array) -> None:
    """Raise where a concrete input that is to be standardised has an infinity, which leaves no scale."""
    if is_concrete(x):
        with jax.ensure_compile_time_eval():
            if not bool(jnp.all(jnp.isfinite(x) | jnp.isnan(x))):
                remedy = "`standardize=False` takes infinities, and softness then is compared with the input itself"
                raise ValueError(f"The input (with infinities) must be finite where it is standardised: {remedy}.")


def compute_dtype(dtype: Any) -> Any:
    """The dtype to compute in: float32 for the 16-bit floats, else the dtype itself."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def softness(value: Any, shape: tuple[int, ...], dtype: Any, *, against: str, hard: bool = False) -> jax.Array:
    """`softness` in `dtype`, broadcast to `shape` unless it is a scalar; NaN where it is traced and not positive.

    A positive one out of the dtype's range is moved into it. The hard mode has none, and also takes 0 or None: 1.
    """
    value = 1.0 if hard and value is None else value
    positive("softness", value, or_zero=hard)
    tiny, largest = _softness_range(dtype)
    if is_concrete(value):  # no NaN is built for what is known to be legal: jax_debug_nans would stop there
        numbers = np.asarray(value).astype(np.float64)
        inside = np.clip(numbers, tiny, largest)
        tau = jnp.asarray(value if np.array_equal(inside, numbers) else inside).astype(dtype)
        if np.max(inside, initial=0) > float(jnp.finfo(dtype).eps) / tiny:
            tau = lax.optimization_barrier(tau)  # of constants a compiler makes reciprocals, which are 0 here
    else:
        tau = _positive_or_nan(jnp.asarray(value).astype(dtype))
    return broadcast("softness", jnp.ones_like(tau) if hard else tau, shape, against=against)


def least(softness: Any) -> float:
    """The smallest softness as far as it is known: 0 where it is traced."""
    known = softness is not None and is_concrete(softness) and np.size(softness) > 0
    return float(np.min(np.asarray(softness))) if known else 0.0


def _softness_range(dtype: Any) -> tuple[float, float]:
    """From the smallest normal number to half of the largest: a ramp at 0 is up to 5/4 of the softness."""
    return float(jnp.finfo(dtype).tiny), float(jnp.finfo(dtype).max) / 2


@partial(jax.jit, inline=True)
def _positive_or_nan(tau: jax.Array) -> jax.Array:
    # Arithmetic takes a subnormal number for 0; its bits, read as an integer, are above 0.
    above_zero = lax.bitcast_convert_type(tau, f"int{jnp.finfo(tau.dtype).bits}") > 0
    tiny, largest = (jnp.asarray(limit, tau.dtype) for limit in _softness_range(tau.dtype))
    inside = lax.clamp(tiny, tau, largest)
    return jnp.where(above_zero, inside, jnp.full_like(tau, jnp.nan))


def positive(name: str, value: Any, *, or_zero: bool = False) -> None:
    """Raise for what is no real number or array of them, or is known and not positive."""
    legal = "a positive number or an array of them"
    if value is None or isinstance(value, (str, bytes, bool, complex)):
        raise TypeError(f"`{name}` (={value!r}) must be {legal}.")
    dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise TypeError(f"`{name}` (of dtype {dtype}) must be {legal}.")
    if is_concrete(value):
        numbers = np.asarray(value)
        if not np.all((numbers >= 0) if or_zero else (numbers > 0)):
            wrong(name, value, "positive" + (" or 0" if or_zero else ""))


def broadcast(name: str, x: jax.Array, shape: tuple[int, ...], *, against: str) -> jax.Array:
    """x broadcast to `shape`; a scalar stays one."""
    if x.ndim == 0:
        return x
    if x.ndim > len(shape) or any(
        have not in (1, want) for have, want in zip(x.shape[::-1], shape[::-1], strict=False)
    ):
        wrong(f"{name}.shape", x.shape, f"broadcastable to {against}, {shape}")
    return jnp.broadcast_to(x, shape)


def between(name: str, value: ArrayLike, lowest: float, highest: float) -> jax.Array:
    """A real array whose values, where they are known, lie in [lowest, highest]."""
    x = real(name, value)
    if is_concrete(value):  # as the caller gave it: under jit a constant becomes a tracer
        numbers = np.asarray(value)
        if not np.all((numbers >= lowest) & (numbers <= highest)):
            wrong(name, value, f"in [{lowest:g}, {highest:g}]")
    return x


def batch(name: str, shape: tuple[int, ...], against: tuple[int, ...]) -> tuple[int, ...]:
    """The batch shape of an operand and an operator together."""
    try:
        return jnp.broadcast_shapes(shape, against)
    except ValueError:
        wrong(f"the batch shape of {name}", shape, f"broadcastable to {against}")


def together(**arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays, promoted to one dtype and broadcast to one shape."""
    shapes = {name: x.shape for name, x in arrays.items()}
    try:
        shape = jnp.broadcast_shapes(*shapes.values())
    except ValueError as error:
        listed = ", ".join(f"`{name}.shape` (={value})" for name, value in shapes.items())
        raise ValueError(f"{listed} must be broadcastable to each other.") from error
    dtypes = [x.dtype for x in arrays.values() if not _weak(x)] or [x.dtype for x in arrays.values()]
    dtype = dtypes[0]
    for other in dtypes[1:]:
        dtype = jnp.promote_types(dtype, other)
    xs = [jnp.broadcast_to(x.astype(dtype), shape) for x in arrays.values()]
    if any(getattr(jax.typeof(x).sharding.mesh, "explicit_axes", ()) for x in xs):
        # `jnp.where` wants them alike; what is computed of all of them is sharded by JAX's rules.
        result: Any = jax.make_jaxpr(lambda *xs: reduce(lax.add, xs))(*xs).out_avals[0]
        xs = [x if _lies(x, result.sharding) else jax.sharding.reshard(x, result.sharding) for x in xs]
    return tuple(xs)


def placed_like(x: jax.Array, other: jax.Array) -> jax.Array:
    """x where `other` is, of its shape, on a mesh with explicit axes."""
    sharding = jax.typeof(other).sharding
    if not getattr(sharding.mesh, "explicit_axes", ()) or _lies(x, sharding):
        return x
    return jax.sharding.reshard(x, sharding)


def _lies(x: jax.Array, sharding: Any) -> bool:
    """Is it sharded so, or on one device, which an eager operation brings together by itself?"""
    own = jax.typeof(x).sharding
    return own == sharding or own.mesh.empty


def _weak(x: jax.Array) -> bool:
    return bool(getattr(x, "weak_type", False))


def axis(name: str, value: Any, ndim: int) -> int:
    """One axis as a number in [0, ndim)."""
    try:
        index = operator.index(value)
    except TypeError as error:
        raise TypeError(f"`{name}` (={value!r}) must be an integer.") from error
    if not -ndim <= index < ndim:
        wrong(name, index, f"in [{-ndim}, {ndim}) for an array with {ndim} axes")
    return index % ndim


def integer(name: str, value: Any, lowest: int, highest: int | None = None, *, why: str = "") -> int:
    """A static integer in [lowest, highest]."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(f"`{name}` (={value!r}) must be a static integer.") from error
    if isinstance(value, bool):
        raise TypeError(f"`{name}` (={value!r}) must be a static integer.")
    if number < lowest or (highest is not None and number > highest):
        legal = f"at least {lowest}" if highest is None else f"in [{lowest}, {highest}]"
        wrong(name, number, legal + why)
    return number


def number(name: str, value: Any, lowest: float, highest: float) -> None:
    """Raise for what is no Python number in [lowest, highest]."""
    if type(value) not in (int, float):
        raise TypeError(f"`{name}` (={value!r}) must be a Python number in [{lowest}, {highest}].")
    if not lowest <= value <= highest:
        wrong(name, value, f"in [{lowest}, {highest}]")


def flag(name: str, value: Any) -> bool:
    """A static True or False."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"`{name}` (={value!r}) must be True or False.")
