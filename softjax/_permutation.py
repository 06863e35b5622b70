"""The soft permutation itself, lazily: a linear operator whose rows are the soft order statistics.

Every array operator is this one applied: sort(x) = P @ x, argsort(x) = P.todense(), top_k(x, k) = P[:-k - 1:-1] @ x.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from . import _check
from ._axis import Span, layout_along, neighbours, refuse_symbol
from ._methods.base import SolverInfo, count
from ._soft_rows import Softening, SoftRows, enter
from ._types import Float, Implementation, MethodName, ModeName, SoftIndex, Softness


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["keys", "softness"],
    meta_fields=["ranks", "mode", "method", "standardize", "implementation"],
)
@dataclass(frozen=True, eq=False)
class SoftPermutation:
    """P, or some of its rows: a stack of (r, n) matrices, computed where they are applied. See `soft_permutation`.

    `P @ y` and `P.T @ y` follow `jnp.matmul`'s rules for shapes: y is (n,), or (..., n, d) with batch axes that
    broadcast. `P[i]` is the row of rank i, a distribution (..., n); `P[:k]`, `P[-k:]` and `P[::-1]` are lazy again.
    An index always means ranks, never batch axes. A pytree, with the keys and the softness as leaves.

    With `ot`, a slice is the transport problem of its own ranks, with k + 1 anchors for k neighbouring ones, as in
    `top_k`: its rows are not those of the whole, whose anchors are closer.
    """

    keys: Float[Array, "*batch n"]
    softness: Float[Array, "*batch"]
    ranks: range | Span
    mode: ModeName
    method: MethodName
    standardize: bool | None
    implementation: Implementation | None

    __array_ufunc__ = None  # a NumPy array leaves `y @ P` to P

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., r, n): the keys' batch axes, the ranks, the elements."""
        return (*self.keys.shape[:-1], count(self.ranks), self.keys.shape[-1])

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> jnp.dtype:
        """The keys' dtype."""
        return self.keys.dtype

    @property
    def T(self) -> "Transposed":
        """The transpose of every matrix, as lazy."""
        return Transposed(self)

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[SoftIndex]:
        """The rows of `todense()`."""
        return _rows(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.todense(), dtype)

    def __getitem__(self, key: Any) -> "SoftPermutation | SoftIndex":
        if isinstance(key, slice):
            try:
                ranks = self._known[key]
            except TypeError as error:
                raise TypeError(f"`key` (={key}) must have static integers: `top_k_mask` takes a traced k.") from error
            if len(ranks) == 0 or (len(ranks) > 1 and abs(ranks.step) != 1):
                _check.wrong("key", key, f"a slice of step 1 or -1 that keeps some of the {len(self)} ranks")
            return replace(self, ranks=ranks)
        try:
            i = _check.integer("key", key, -len(self), len(self) - 1, why=", the ranks there are")
        except ValueError as error:  # what loops and converters expect past the end
            raise IndexError(str(error)) from None
        return replace(self, ranks=range(self._known[i], self._known[i] + 1)).todense()[..., 0, :]

    def __matmul__(self, y: "ArrayLike | SoftPermutation | Transposed") -> Array:
        return self._applied(y, transposed=False)

    def __rmatmul__(self, y: ArrayLike) -> Array:
        return _from_the_left(y, self.T)

    def todense(self) -> SoftIndex:
        """The matrices, (..., r, n)."""
        p = self._soft(self.keys, self.softness, index=True).rows(self._ascending)
        return self._in_order(p)

    def solver_info(self) -> SolverInfo:
        """How the solver of these ranks fares, for a method that has one: runs it and reports for each batch row."""
        soft = self._soft(self.keys, self.softness)
        return soft.solver_info(self._ascending)

    @property
    def _known(self) -> range:
        """`ranks`, to pick some of them."""
        return self.ranks if isinstance(self.ranks, range) else refuse_symbol(self.shape[-1])

    @property
    def _ascending(self) -> range | Span:
        if isinstance(self.ranks, Span):
            return self.ranks
        first, last = sorted((self.ranks[0], self.ranks[-1]))
        return range(first, last + 1)

    def _in_order(self, rows: Array) -> Array:
        """From ascending ranks to those of `ranks`, and back."""
        return rows if isinstance(self.ranks, Span) or self.ranks[-1] >= self.ranks[0] else rows[..., ::-1, :]

    def _soft(self, keys: Array, softness: Array, *, index: bool = False) -> SoftRows:
        softening = Softening(softness, self.mode, self.method, self.standardize, self.implementation)
        return enter(keys, layout_along(keys, -1)[1], softening, index=index)

    def _applied(self, y: "ArrayLike | SoftPermutation | Transposed", transposed: bool) -> Array:
        y = _check.real("y", _dense(y))
        r, n = self.shape[-2:]
        size = r if transposed else n
        columns = y[:, None] if y.ndim == 1 else y
        if y.ndim == 0 or columns.shape[-2] != size:
            _check.wrong("y.shape", y.shape, f"({size},) or (..., {size}, d)")
        batch = _check.batch("y", columns.shape[:-2], self.keys.shape[:-1])
        wide = jnp.promote_types(_check.compute_dtype(self.dtype), _check.compute_dtype(y.dtype))
        soft = self._soft(
            jnp.broadcast_to(self.keys, (*batch, n)).astype(wide), jnp.broadcast_to(self.softness, batch).astype(wide)
        )
        columns = jnp.broadcast_to(columns, (*batch, *columns.shape[-2:])).astype(wide)
        if transposed:
            out = soft.apply_transposed(self._ascending, self._in_order(columns))
        else:
            out = self._in_order(soft.apply(self._ascending, columns))
        out = out.astype(jnp.promote_types(self.dtype, y.dtype))
        return out[..., 0] if y.ndim == 1 else out


@partial(jax.tree_util.register_dataclass, data_fields=["T"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class Transposed:
    """The transpose of a `SoftPermutation`, (..., n, r): `P.T @ y` sends what the ranks hold back to the elements."""

    T: SoftPermutation

    __array_ufunc__ = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., n, r)."""
        *batch, r, n = self.T.shape
        return (*batch, n, r)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.T.ndim

    @property
    def dtype(self) -> jnp.dtype:
        """The keys' dtype."""
        return self.T.dtype

    def __matmul__(self, y: "ArrayLike | SoftPermutation | Transposed") -> Array:
        return self.T._applied(y, transposed=True)

    def __rmatmul__(self, y: ArrayLike) -> Array:
        return _from_the_left(y, self.T)

    def __len__(self) -> int:
        return self.shape[-2]

    def __iter__(self) -> Iterator[Array]:
        """The rows of `todense()`."""
        return _rows(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.todense(), dtype)

    def todense(self) -> Array:
        """The matrices, (..., n, r)."""
        return jnp.swapaxes(self.T.todense(), -1, -2)


def _dense(y: Any) -> Any:
    """The other factor of a product, written out where it is lazy, too."""
    return y.todense() if isinstance(y, (SoftPermutation, Transposed)) else y


def _rows(matrices: SoftPermutation | Transposed) -> Iterator[Array]:
    return iter(jnp.moveaxis(matrices.todense(), -2, 0))


def _from_the_left(y: ArrayLike, transposed: SoftPermutation | Transposed) -> Array:
    """y @ A from A's transpose."""
    y = _check.real("y", _dense(y))
    return transposed @ y if y.ndim == 1 else jnp.swapaxes(transposed @ jnp.swapaxes(y, -1, -2), -1, -2)


def soft_permutation(
    a: ArrayLike,
    axis: int | None = -1,
    *,
    softness: Softness = 0.1,
    mode: ModeName = "smooth",
    method: MethodName = "softsort",
    standardize: bool | None = None,
    implementation: Implementation | None = None,
) -> SoftPermutation:
    """The soft permutation P that sorts a, as a lazy linear operator.

    **Arguments:**
        a: the keys, an array of any shape with n elements along `axis`.
        axis: the axis to sort along; None flattens a first.
        softness: positive; broadcastable to a's shape without `axis`.
        mode: "hard", "smooth", "c0", "c1" or "c2".
        method: "softsort", "neuralsort" or "ot".
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
    **Returns:** a `SoftPermutation` of shape (..., n, n), a's shape without `axis` in front: `P @ y`, `P.T @ y`,
        `P[i]`, `P[:k]`, `P.todense()`. For use under jit, vmap and grad; `take_along_axis` takes it as indices.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the methods' papers are named there.
    """
    x, layout = layout_along(_check.real("a", a), axis)
    keys = jnp.moveaxis(x, layout.axes[0], -1)
    softening = Softening(softness, mode, method, standardize, implementation)
    soft = enter(x, layout, softening, index=False)
    tau = layout.softness(softness, soft.tau.dtype, hard=soft.mode is None)
    return SoftPermutation(keys, tau, neighbours(0, layout.n), mode, method, standardize, implementation)
