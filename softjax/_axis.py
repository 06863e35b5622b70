"""The only place where axes are moved, flattened and put back.

Every array operator works on rows, an array (batch, n): the softened axis last, all others in one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from . import _check
from ._types import Axis, Float, Softness
from ._varying import vary_alike


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
class Layout:
    """How an array of `shape` becomes rows along `axes`, and how results find their way back.

    `flat` says that the operator flattens its input (axis=None) instead of working along one axis.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(size for i, size in enumerate(self.shape) if i not in self.axes)

    @property
    def n(self) -> int:
        return math.prod(self.shape[i] for i in self.axes)

    def rows(self, x: Array) -> Float[Array, "batch n"]:
        """x with the softened axes last and flattened, the others in front and flattened."""
        kept = tuple(i for i in range(len(self.shape)) if i not in self.axes)
        return x.transpose(kept + self.axes).reshape(math.prod(self.batch_shape), self.n)

    def softness(self, value: Softness, dtype) -> Float[Array, " batch"]:
        """`softness` checked and laid out, one value per row."""
        tau = _check.softness(value, self.batch_shape, dtype, against="the input's shape without `axis`")
        return jnp.broadcast_to(tau, self.batch_shape).reshape(math.prod(self.batch_shape))

    def reduced(self, y: Float[Array, " batch"], keepdims: bool) -> Array:
        """One value per row, in the input's shape without the reduced axes."""
        return y.reshape(self._reduced_shape(keepdims))

    def reduced_index(self, p: Float[Array, "batch n"], keepdims: bool) -> Array:
        """One distribution per row: the input's shape without the reduced axes, then n."""
        return p.reshape(self._reduced_shape(keepdims) + (p.shape[-1],))

    def along(self, y: Float[Array, "batch r"]) -> Array:
        """r values per row, along the softened axis."""
        return jnp.moveaxis(y.reshape(self.batch_shape + y.shape[-1:]), -1, self.axes[0])

    def along_index(self, p: Float[Array, "batch r n"]) -> Array:
        """r distributions per row: along the softened axis, then n."""
        return jnp.moveaxis(p.reshape(self.batch_shape + p.shape[-2:]), -2, self.axes[0])

    def _reduced_shape(self, keepdims: bool) -> tuple[int, ...]:
        if keepdims:
            return tuple(1 if i in self.axes else size for i, size in enumerate(self.shape))
        return self.batch_shape


def layout_along(x: jax.Array, axis: int | None, name: str = "axis") -> tuple[Array, Layout]:
    """x and its layout for an operator that keeps the axis; axis=None flattens x first."""
    if axis is None:
        x, axis = x.reshape(-1), 0
    layout = Layout(x.shape, (_check.axis(name, axis, x.ndim),))
    _not_empty(layout)
    return x, layout


def layout_reduced(x: jax.Array, axis: Axis) -> Layout:
    """The layout for an operator that reduces `axis`."""
    layout = Layout(x.shape, reduced_axes(axis, x.ndim))
    _not_empty(layout)
    return layout


def _not_empty(layout: Layout) -> None:
    if layout.n == 0:
        _check.wrong("shape", layout.shape, "of at least one element along `axis`")


def by_shard(function: Callable[..., Any], *arrays: jax.Array | None, shared: Sequence[jax.Array] = ()) -> Any:
    """function(*arrays, *shared); on a mesh with explicit axes every device computes on its own rows.

    Arrays are of rows, (batch, ...) each; what is shared is the same for every row. The first array says how rows are
    sharded. Anything else that is sharded is gathered.
    """
    sharding = jax.typeof(arrays[0]).sharding
    explicit = getattr(sharding.mesh, "explicit_axes", ())
    if not explicit:
        return function(*arrays, *shared)
    rows, whole = PartitionSpec(*sharding.spec[:1]), PartitionSpec()
    specs = (*(rows for _ in arrays), *(whole for _ in shared))
    given = zip((*arrays, *shared), specs, strict=True)
    placed = [None if a is None else _placed(a, sharding.mesh, spec) for a, spec in given]
    run = jax.shard_map(
        function, mesh=sharding.mesh, in_specs=specs, out_specs=rows, axis_names=set(explicit), check_vma=False
    )
    return run(*placed)


def placed_as_rows(a: jax.Array, rows: jax.Array) -> jax.Array:
    """a (batch, ...) where the rows (batch, ...) are: on a mesh with explicit axes, and over manual ones."""
    a, _ = vary_alike((a, rows))
    sharding = jax.typeof(rows).sharding
    if not getattr(sharding.mesh, "explicit_axes", ()):
        return a
    return _placed(a, sharding.mesh, PartitionSpec(*sharding.spec[:1]))


def _placed(a: jax.Array, mesh: Any, spec: PartitionSpec) -> jax.Array:
    """The array, its first dimensions sharded so and the others whole."""
    rest = (None,) * (a.ndim - len(spec))
    return jax.sharding.reshard(a, NamedSharding(mesh, PartitionSpec(*spec, *rest)))
