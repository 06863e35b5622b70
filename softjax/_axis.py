"""The only place where axes are moved and put back.

Every array operator works on rows, an array (*batch, n): the softened axis last. Batch axes stay apart, so that each
is sharded as it was; a form, which knows one, is mapped over the others (`softjax._sharding.over_rows`).
"""

import math
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax import Array

from . import _check
from ._sharding import whole_along
from ._types import Axis, Float, Softness


def reduced_axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """`axis` (an integer, several, or None for all) as ascending non-negative integers."""
    if axis is None:
        return tuple(range(ndim))
    several = axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = tuple(sorted(_check.axis("axis", value, ndim) for value in several))
    if len(set(axes)) != len(axes):
        _check.wrong("axis", axis, "without duplicates")
    return axes


@dataclass(frozen=True)
class Span:
    """Neighbouring ranks, from start to stop - 1, of rows of symbolic length: no `range` has symbols."""

    start: Any
    stop: Any

    def __jax_array__(self) -> Array:
        return jnp.arange(self.start, self.stop)


def neighbours(start: Any, stop: Any) -> range | Span:
    """The ranks from start to stop - 1."""
    return range(start, stop) if isinstance(start, int) and isinstance(stop, int) else Span(start, stop)


@dataclass(frozen=True)
class Layout:
    """How an array of `shape` becomes rows along `axes`, and how results find their way back, in its dtype."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    dtype: jnp.dtype

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(size for i, size in enumerate(self.shape) if i not in self.axes)

    @property
    def n(self) -> int:
        return math.prod(self.shape[i] for i in self.axes)

    def rows(self, x: Array, spread: bool = False) -> Float[Array, "*batch n"]:
        """x with the softened axes last and flattened; if `spread`, several devices may go on sharing the one axis."""
        kept = tuple(i for i in range(len(self.shape)) if i not in self.axes)
        x = x if spread and len(self.axes) == 1 else whole_along(x, self.axes)
        x = x.transpose(kept + self.axes)
        return x if len(self.axes) == 1 else x.reshape((*self.batch_shape, self.n))

    def softness(self, value: Softness, dtype, hard: bool = False) -> Float[Array, "*batch"]:
        """`softness` checked and laid out, one value per row."""
        tau = _check.softness(value, self.batch_shape, dtype, against="the input's shape without `axis`", hard=hard)
        return jnp.broadcast_to(tau, self.batch_shape)

    def reduced(self, y: Float[Array, "..."], keepdims: bool) -> Array:
        """One value per row, or one distribution: the input's shape without the reduced axes, then n."""
        y = y.astype(self.dtype)
        return jnp.expand_dims(y, self.axes) if keepdims else y

    def along(self, y: Float[Array, "*batch r"]) -> Array:
        """r values per row, along the softened axis."""
        return jnp.moveaxis(y.astype(self.dtype), -1, self.axes[0])

    def along_index(self, p: Float[Array, "*batch r n"]) -> Array:
        """r distributions per row: along the softened axis, then n."""
        return jnp.moveaxis(p.astype(self.dtype), -2, self.axes[0])


def refuse_symbol(n: Any) -> NoReturn:
    """The error of whatever cannot take a symbolic n."""
    raise NotImplementedError(
        f"The length along `axis` (={n}) must be a number for this: kernels by name and slices of a soft permutation "
        "take no symbolic one. Export with a fixed length (a symbolic batch is fine), or leave `implementation` None."
    )


def layout_along(x: jax.Array, axis: int | None, name: str = "axis") -> tuple[Array, Layout]:
    """x and its layout for an operator that keeps the axis; axis=None flattens x first."""
    if axis is None:
        x, axis = whole_along(x, range(x.ndim)).reshape(-1), 0
    layout = Layout(x.shape, (_check.axis(name, axis, x.ndim),), x.dtype)
    _not_empty(layout)
    return x, layout


def layout_reduced(x: jax.Array, axis: Axis) -> Layout:
    """The layout for an operator that reduces `axis`."""
    layout = Layout(x.shape, reduced_axes(axis, x.ndim), x.dtype)
    _not_empty(layout)
    return layout


def _not_empty(layout: Layout) -> None:
    if layout.n == 0:
        _check.wrong("shape", layout.shape, "of at least one element along `axis`")
