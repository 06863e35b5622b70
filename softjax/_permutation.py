"""The soft permutation, lazily: the linear operator that every array operator is an application of.

sort(x) = P @ x      top_k(x, k) = P[:-k - 1:-1] @ x, P[:-k - 1:-1]      argsort(x) = P      max(x) = P[-1] @ x
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from . import _check
from ._axis import Layout, Span, layout_along, neighbours, refuse_symbol
from ._dispatch import Form, implemented, show
from ._methods import METHODS
from ._methods.base import AbstractMethod, Ranks, SolverInfo, count, multiply, refuse_rows
from ._methods.hard import HARD
from ._methods.non_finite import ExtremesOf, InRange, finite_part, known_harmless
from ._methods.preprocess import Prepared, as_they_are, prepare, restored
from ._modes import MODES, Mode, logarithm
from ._primitive import Applied
from ._sharding import over_rows
from ._types import Float, Implementation, MethodName, ModeName, SoftIndex, Softness


class Choice(NamedTuple):
    """What the names that a caller gave stand for. The mode is None for the hard order.

    `floor` is None where weights are wanted, else they are their logarithms, to which so much was added. `named` is
    the method that was named, in the hard mode too.
    """

    mode: Mode | None
    method: AbstractMethod
    standardize: bool
    named: AbstractMethod
    floor: float | None = None

    def with_rows(self, return_log_probs: bool = False, log_prob_eps: float = 0.0) -> "Choice":
        """The same for an operator that is of no use without; raises if the method that was named has none."""
        if not self.named.permutes:
            refuse_rows(self.named.name)
        return self.in_logarithms(return_log_probs, log_prob_eps)

    def in_logarithms(self, return_log_probs: bool, log_prob_eps: float) -> "Choice":
        """With what `return_log_probs` and `log_prob_eps` say."""
        _check.number("log_prob_eps", log_prob_eps, 0, 1)
        return self._replace(floor=float(log_prob_eps) if _check.flag("return_log_probs", return_log_probs) else None)

    def of_one_hot(self, index: SoftIndex) -> SoftIndex:
        """The result for hard indices."""
        return index if self.floor is None else raised(logarithm(index), self.floor)


def chosen(
    mode: ModeName, method: MethodName, standardize: bool | None, implementation: Implementation | None
) -> Choice:
    """The mode, and the method as the implementation has it: looked up once, and no name is compared below."""
    entry = _check.choice("mode", mode, MODES)
    found = named_method(method)
    if standardize is not None:
        _check.flag("standardize", standardize)
    found = implemented(found, implementation)
    if entry is None:
        return Choice(None, HARD, False, found)
    check_mode(mode, found)
    return Choice(entry, found, found.standardize if standardize is None else standardize, found)


def check_mode(mode: ModeName, method: MethodName) -> None:
    """Raise for a mode that the method does not have."""
    found = named_method(method)
    if found.modes is not None and MODES[mode] not in (None, *found.modes):
        names = ", ".join(repr(own.name) for own in found.modes)
        _check.wrong("mode", mode, f"'hard' or {names}, the modes of the method {found.name!r}")


def named_method(method: Any) -> AbstractMethod:
    """The method itself, or that of a name."""
    if isinstance(method, AbstractMethod):
        try:
            hash(method)
        except TypeError as error:
            raise TypeError(f"`method` (={method!r}) must be hashable, as a frozen dataclass is.") from error
        return method
    if not (isinstance(method, str) and method in METHODS):
        _check.wrong("method", method, f"one of {', '.join(map(repr, METHODS))}, or an instance of `AbstractMethod`")
    return METHODS[method]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["keys", "softness"],
    meta_fields=["ranks", "descending", "mode", "method", "standardize"],
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
    ranks: Ranks
    descending: bool
    mode: Mode | None
    method: AbstractMethod
    standardize: bool

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
        return len(self._listed)

    def __iter__(self) -> Iterator[SoftIndex]:
        """The rows of `todense()`."""
        return _rows(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return _as_numpy(self, dtype, copy)

    def __getitem__(self, key: Any) -> "SoftPermutation | SoftIndex":
        if isinstance(key, slice):
            try:
                ranks = self._listed[key]
            except TypeError as error:
                raise TypeError(f"`key` (={key}) must have static integers: `top_k_mask` takes a traced k.") from error
            if len(ranks) == 0 or (len(ranks) > 1 and abs(ranks.step) != 1):
                _check.wrong("key", key, f"a slice of step 1 or -1 that keeps some of the {len(self)} ranks")
            first, last = sorted((ranks[0], ranks[-1]))
            return replace(self, ranks=range(first, last + 1), descending=ranks[0] > ranks[-1])
        try:
            i = _check.integer("key", key, -len(self), len(self) - 1, why=", the ranks there are")
        except ValueError as error:  # what loops and converters expect past the end
            raise IndexError(str(error)) from None
        return ranked(self, self._listed[i], self._listed[i] + 1).todense()[..., 0, :]

    def __matmul__(self, y: "ArrayLike | SoftPermutation | Transposed") -> Array:
        return self._applied(y, transposed=False)

    def __rmatmul__(self, y: ArrayLike) -> Array:
        return _from_the_left(y, self.T)

    def todense(self) -> SoftIndex:
        """The matrices, (..., r, n)."""
        return self._checked()._rows()

    def solver_info(self) -> SolverInfo:
        """How the solver of these ranks fares, for a method that has one: runs it and reports for each batch row."""
        p = self._checked()
        return p._run("solver_info", p._prepared())

    # What the operators are made of. The keys and the softness are known to be legal, and `gated_grad` False stops the
    # gradient through P.

    def _rows(self, floor: float | None = None) -> SoftIndex:
        """With a floor the logarithms, see `Choice`."""
        if floor is None:
            return self._in_order(self._run("rows", self._prepared())).astype(self.dtype)
        return raised(self._in_order(self._log_rows(self._prepared())), floor).astype(self.dtype)

    def _log_rows(self, prepared: Prepared) -> Float[Array, "*batch r n"]:
        """The logarithms of rows; -infinity between finite keys and infinite ones, which stand at finite places."""
        logs = self._run("log_rows", prepared)
        kind = jnp.where(jnp.isinf(self.keys), jnp.sign(self.keys), jnp.zeros_like(self.keys))[..., None, :]
        largest = jnp.max(lax.stop_gradient(logs), axis=-1, keepdims=True)
        of_row = jnp.max(jnp.where(logs == largest, kind, jnp.full_like(kind, -1)), axis=-1, keepdims=True)
        return jnp.where((kind == of_row) | jnp.isnan(logs), logs, jnp.full_like(logs, -jnp.inf))

    def _values(self, gated_grad: bool) -> Float[Array, "*batch r"]:
        """P @ keys, the soft order statistics."""
        prepared = self._prepared()
        if not self.method.permutes:  # and no P either to have no gradient
            soft = self._run("apply", prepared, None)
        else:
            payload = None if gated_grad and not self.standardize else prepared.finite[..., None]
            soft = self._run("apply", prepared if gated_grad else _fixed(prepared), payload)
        return self._in_order(restored(soft[..., 0], prepared), axis=-1).astype(self.dtype)

    def _values_and_rows(self, gated_grad: bool, floor: float | None = None) -> tuple[Float[Array, "*batch r"], Any]:
        """Both, of one solve where values are made of rows anyway; no rows of a method that has none."""
        if not self.method.permutes:
            return self._values(gated_grad), None
        prepared = self._prepared()
        finite = prepared.finite[..., None]
        if floor is not None:
            logs = self._log_rows(prepared)
            p, rows = jnp.exp(logs), raised(logs, floor)
            soft = multiply(p if gated_grad else lax.stop_gradient(p), finite)
        elif gated_grad:
            soft, rows = self._run("values_and_rows", prepared, finite if self.standardize else None)
        elif self.method.writes_rows(self.keys.shape[-1], self.ranks):
            rows = self._run("rows", prepared)
            soft = multiply(lax.stop_gradient(rows), finite)
        else:
            return self._values(gated_grad), self._rows()
        values = self._in_order(restored(soft[..., 0], prepared), axis=-1)
        return values.astype(self.dtype), self._in_order(rows).astype(self.dtype)

    def _sorted_together(self, payloads: Sequence[Array], gated_grad: bool) -> list[Float[Array, "*batch r d"]]:
        """The values, a column, and P @ each payload (*batch, n, d), of one product."""
        prepared = self._prepared()
        columns = jnp.concatenate([prepared.finite[..., None], *payloads], axis=-1)
        y = self._in_order(self._product("apply", prepared if gated_grad else _fixed(prepared), columns))
        values, *products = jnp.split(y, np.cumsum([1, *(v.shape[-1] for v in payloads)])[:-1], axis=-1)
        return [restored(values[..., 0], prepared)[..., None], *products]

    def _ranking(self) -> Float[Array, "*batch n"]:
        """Zero-based ascending ranks of the elements, by all rows of P."""
        return self._run("rank", self._prepared()).astype(self.dtype)

    def _mask(self, k: Float[Array, "*batch"], most: int | None) -> Float[Array, "*batch n"]:
        """The sum of the last k of all rows of P, k real; in [0, 1] where the method has a mask of its own.

        No k is more than `most`, if that is known.
        """
        prepared, n = self._prepared(), self.keys.shape[-1]
        if most and self.mode is not None and self.method.picks(n, ranks := range(n - most, n), self.mode):
            rank = lax.broadcasted_iota(k.dtype, (*k.shape, most), k.ndim)  # the largest first
            weights = jnp.clip(k[..., None] - rank, 0, 1)[..., ::-1, None]
            return replace(self, ranks=ranks)._run("transposed", prepared, weights)[..., 0].astype(self.dtype)
        return self._run("mask", prepared, k).astype(self.dtype)

    @property
    def _listed(self) -> range:
        """The ranks in their order, to pick some of them."""
        ranks = self.ranks if isinstance(self.ranks, range) else refuse_symbol(self.shape[-1])
        return ranks[::-1] if self.descending else ranks

    def _in_order(self, rows: Array, axis: int = -2) -> Array:
        """From ascending ranks to those of P, and back."""
        return jnp.flip(rows, axis) if self.descending else rows

    def _checked(self) -> "SoftPermutation":
        """P, whose leaves a caller may have changed."""
        dtype, batch = _check.compute_dtype(self.dtype), self.keys.shape[:-1]
        tau = _check.softness(self.softness, batch, dtype, against="the keys without their last axis")
        if self.standardize:
            _check.no_infinities(self.keys)
        method = self.method.at_softness(_check.least(self.softness), self.standardize)
        return replace(self, softness=jnp.broadcast_to(tau, batch), method=method)

    def _prepared(self) -> Prepared:
        """The keys as a method can work on them."""
        x = self.keys.astype(_check.compute_dtype(self.dtype))
        if self.mode is None or not self.method.permutes:
            return as_they_are(x, self.softness)
        return prepare(x, self.softness, self.standardize)

    def _run(self, op: str, prepared: Prepared, *given: Array | None) -> Any:
        """A function of the method: of the keys, the ranks where it takes them, what is given, and the softness."""
        ranks = None if op in ("rank", "mask") else self.ranks
        return _call(Form(self.method, op), self.mode, ranks, prepared.keys, *given, prepared.tau)

    def _product(self, op: str, prepared: Prepared, payload: Array) -> Array:
        """Rows of P, or their transpose, times a payload that may hold infinities and NaN."""
        if self.method.selects or known_harmless(payload):
            return self._run(op, prepared, payload)
        extremes = ExtremesOf(Form(self.method.plain, op))
        added = _call(extremes, self.mode, self.ranks, prepared.keys, payload, prepared.tau)
        finite = finite_part(prepared.keys, payload)
        in_range = InRange(Form(self.method, op))
        return _call(in_range, self.mode, self.ranks, prepared.keys, finite, prepared.tau) + added

    def _applied(self, y: "ArrayLike | SoftPermutation | Transposed", transposed: bool) -> Array:
        y = _check.real("y", _dense(y))
        r, n = self.shape[-2:]
        size = r if transposed else n
        columns = y[:, None] if y.ndim == 1 else y
        if y.ndim == 0 or columns.shape[-2] != size:
            _check.wrong("y.shape", y.shape, f"({size},) or (..., {size}, d)")
        batch = _check.batch("y", columns.shape[:-2], self.keys.shape[:-1])
        wide = jnp.promote_types(_check.compute_dtype(self.dtype), _check.compute_dtype(y.dtype))
        columns = jnp.broadcast_to(columns, (*batch, *columns.shape[-2:])).astype(wide)
        checked = self._checked()
        softness = jnp.broadcast_to(checked.softness, batch).astype(wide)
        p = replace(checked, keys=jnp.broadcast_to(self.keys, (*batch, n)).astype(wide), softness=softness)
        if transposed:
            out = p._product("transposed", p._prepared(), p._in_order(columns))
        else:
            out = p._in_order(p._product("apply", p._prepared(), columns))
        out = out.astype(jnp.promote_types(self.dtype, y.dtype))
        return out[..., 0] if y.ndim == 1 else out


def raised(logs: Array, floor: float) -> Array:
    """log(p + floor)."""
    return jnp.logaddexp(logs, jnp.full_like(logs, math.log(floor))) if floor else logs


def ranked(p: SoftPermutation, start: Any, stop: Any, *, descending: bool = False) -> SoftPermutation:
    """The rows of P of the ranks from start to stop - 1."""
    ranks = neighbours(start, stop) if isinstance(p.shape[-1], int) else Span(start, stop)
    return replace(p, ranks=ranks, descending=descending)


def _fixed(prepared: Prepared) -> Prepared:
    """The same without a gradient through P."""
    changed = {"finite": prepared.finite} if prepared.standard is None else {"standard": prepared.standard}
    return prepared._replace(**lax.stop_gradient(changed | {"tau": prepared.tau}))


_LINEAR = ("apply", "transposed")


def _call(form: Any, mode: Mode | None, ranks: Ranks | None, keys: Array, *rest: Array | None) -> Any:
    """form(keys, [ranks], *rest, mode), compiled: an eager call compiles it once for each shape."""
    n, given = keys.shape[-1], () if ranks is None else (ranks,)
    shapes = [None if a is None else _of_rows(a, keys.ndim - 1) for a in (keys, *rest)]
    show(form, shapes[0], *given, *shapes[1:], mode)
    run = _with_traced_ranks if isinstance(ranks, jax.Array) else _with_static_ranks
    if isinstance(n, int):
        return run(form, mode, ranks, keys, *rest)
    try:
        return run(form, mode, ranks, keys, *rest)
    except Exception:  # of whatever kind: it comes of a symbol where a form counts
        refuse_symbol(n)


def _of_rows(a: Array, lead: int) -> jax.ShapeDtypeStruct:
    """The type of an array whose `lead` batch axes are one."""
    return jax.ShapeDtypeStruct((math.prod(a.shape[:lead]), *a.shape[lead:]), a.dtype)


@partial(jax.jit, static_argnums=(0, 1, 2), inline=True)
def _with_static_ranks(form, mode, ranks, keys, *rest):
    given = () if ranks is None else (ranks,)
    if form.op in _LINEAR and rest[0] is not None:
        payload, tau = rest
        return over_rows(Applied(form, ranks, mode, payload.shape[-2]), keys, tau, payload)
    return over_rows(lambda keys, *rest: form(keys, *given, *rest, mode), keys, *rest)


@partial(jax.jit, static_argnums=(0, 1), inline=True)
def _with_traced_ranks(form, mode, ranks, keys, *rest):
    call = lambda keys, *rest: form(keys, rest[-1], *rest[:-1], mode)
    return over_rows(call, keys, *rest, shared=(ranks,))


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
        return _as_numpy(self, dtype, copy)

    def todense(self) -> Array:
        """The matrices, (..., n, r)."""
        return jnp.swapaxes(self.T.todense(), -1, -2)


def _as_numpy(matrices: SoftPermutation | Transposed, dtype: Any, copy: bool | None) -> np.ndarray:
    if copy is False:
        raise ValueError("The matrices of a lazy soft permutation are made, not held: `copy=False` is not possible.")
    return np.array(matrices.todense(), dtype)


def _dense(y: Any) -> Any:
    """The other factor of a product, written out where it is lazy, too."""
    return y.todense() if isinstance(y, (SoftPermutation, Transposed)) else y


def _rows(matrices: SoftPermutation | Transposed) -> Iterator[Array]:
    return iter(jnp.moveaxis(matrices.todense(), -2, 0))


def _from_the_left(y: ArrayLike, transposed: SoftPermutation | Transposed) -> Array:
    """y @ A from A's transpose."""
    y = _check.real("y", _dense(y))
    if y.ndim == 0:
        _check.wrong("y.shape", y.shape, f"({transposed.shape[-1]},) or (..., d, {transposed.shape[-1]})")
    return transposed @ y if y.ndim == 1 else jnp.swapaxes(transposed @ jnp.swapaxes(y, -1, -2), -1, -2)


def soften(x: Array, layout: Layout, softness: Softness, how: Choice, *, descending: bool = False) -> SoftPermutation:
    """P of the rows of x, in the dtype to compute in: what an array operator applies."""
    dtype = _check.compute_dtype(x.dtype)
    tau = layout.softness(softness, dtype, hard=how.mode is None)
    if how.standardize:
        _check.no_infinities(x)
    method = how.method.at_softness(_check.least(softness), how.standardize)
    ranks = neighbours(0, layout.n)
    keys = layout.rows(x.astype(dtype), spread=how.mode is not None)
    return SoftPermutation(keys, tau, ranks, descending, how.mode, method, how.standardize)


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
        method: "softsort", "neuralsort", "ot", "lapsum", or an `AbstractMethod` of your own.
        standardize: work on sigmoid of the z-scores; None for the method's own default.
        implementation: None to choose automatically.
    **Returns:** a `SoftPermutation` of shape (..., n, n), a's shape without `axis` in front: `P @ y`, `P.T @ y`,
        `P[i]`, `P[:k]`, `P.todense()`. For use under jit, vmap and grad; `take_along_axis` takes it as indices.
    **Raises:** `ValueError` or `TypeError` for an argument that is not legal.
    **Source:** docs/softness.md; the methods' papers are named there.
    """
    how = chosen(mode, method, standardize, implementation).with_rows()
    x, layout = layout_along(_check.real("a", a), axis)
    # Leaves may change, so that nothing is known of them.
    return replace(soften(x, layout, softness, how), keys=layout.rows(x), method=how.method)
