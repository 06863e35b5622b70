"""The soft permutation of every row of an input: what all array operators apply.

sort(x) = P @ x      top_k(x, k) = P[-k:] @ x, P[-k:]      argsort(x) = P      max(x) = P[-1] @ x
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from . import _check, _dispatch
from ._axis import Layout, neighbours, refuse_symbol
from ._methods import METHODS, Method
from ._methods.base import Forms, Ranks, SolverInfo, multiply
from ._methods.hard_sort import gather, pick, unsort
from ._methods.non_finite import ExtremesOf, Pulled, finite_part, known_finite
from ._methods.preprocess import Prepared, prepare, restored, spoiled
from ._modes import MODES, Mode
from ._primitive import Applied
from ._sharding import over_rows, placed_as_rows
from ._types import Float, Implementation, Int, MethodName, ModeName, SoftIndex, Softness


class Softening(NamedTuple):
    """What softening adds to an array operator, as the caller gave it."""

    softness: Softness
    mode: ModeName
    method: MethodName
    standardize: bool | None
    implementation: Implementation | None


@dataclass(frozen=True)
class SoftRows:
    """The soft permutation of every row of an input, ready to be applied.

    `mode` is None for the hard operator.
    """

    x: Float[Array, "*batch n"]
    prepared: Prepared
    mode: Mode | None
    method: Method
    forms: Forms
    layout: Layout
    dtype: jnp.dtype

    @property
    def n(self) -> int:
        return self.layout.n

    @property
    def finite(self) -> Float[Array, "*batch n"]:
        """The input with infinities and what is nearly so at nearer places."""
        return self.prepared.finite

    @property
    def keys(self) -> Float[Array, "*batch n"]:
        """`finite` or its standardised form."""
        return self.finite if self.prepared.standard is None else self.prepared.standard

    @property
    def tau(self) -> Float[Array, "*batch"]:
        """The softness of every row."""
        return self.prepared.tau

    def _soft(self) -> Mode:
        assert self.mode is not None
        return self.mode

    def rows(self, ranks: Ranks) -> Float[Array, "*batch r n"]:
        """Rows of P in the input's dtype."""
        return self.wide_rows(ranks).astype(self.dtype)

    def values(self, ranks: Ranks, gated_grad: bool) -> Float[Array, "*batch r"]:
        """Rows of P times the input, in its dtype."""
        return self.wide_values(ranks, gated_grad).astype(self.dtype)

    def wide_rows(self, ranks: Ranks) -> Float[Array, "*batch r n"]:
        """Rows of P in the dtype they were computed in; one-hot in the hard mode."""
        if self.mode is None:
            return one_hot(pick(jnp.argsort(self.x, axis=-1), ranks, axis=-1), self.n, self.x.dtype)
        assert self.forms.rows is not None
        return _call(self.forms.rows, self.mode, ranks, self.keys, self.tau)

    def wide_values(self, ranks: Ranks, gated_grad: bool) -> Float[Array, "*batch r"]:
        """Rows of P times the input, in the dtype they were computed in."""
        payload = None if gated_grad and self.prepared.standard is None else self.finite[..., None]
        return self.with_infinities(self._apply_finite(ranks, payload, gated_grad)[..., 0])

    def values_and_rows(self, ranks: Ranks, gated_grad: bool) -> tuple[Float[Array, "*batch r"], SoftIndex]:
        """`values` and `rows`; of one soft permutation where the values are made of rows anyway."""
        if not self.forms.writes(self.n, ranks):
            return self.values(ranks, gated_grad), self.rows(ranks)
        rows = self.wide_rows(ranks)
        weights = rows if gated_grad else lax.stop_gradient(rows)
        soft = multiply(weights, self.finite[..., None])[..., 0]
        return self.with_infinities(soft).astype(self.dtype), rows.astype(self.dtype)

    def with_infinities(self, soft: Float[Array, "*batch r"]) -> Float[Array, "*batch r"]:
        """P times `finite` as P times the input."""
        return restored(soft, self.prepared)

    def apply(
        self, ranks: Ranks, payload: Float[Array, "*batch n d"], gated_grad: bool = True
    ) -> Float[Array, "*batch r d"]:
        """Rows of P times a payload; in the hard mode its elements in the order of the keys."""
        if self.mode is None or known_finite(payload):
            return self._apply_finite(ranks, payload, gated_grad)
        extremes = self._extremes(self._plain_forms().apply, ranks, payload)
        return self._apply_finite(ranks, finite_part(self.keys, payload), gated_grad) + extremes

    def _apply_finite(
        self, ranks: Ranks, payload: Float[Array, "*batch n d"] | None, gated_grad: bool
    ) -> Float[Array, "*batch r d"]:
        if self.mode is None:
            order = pick(jnp.argsort(self.x, axis=-1), ranks, axis=-1)
            return in_order(order, self.x[..., None] if payload is None else payload)
        keys, tau = (self.keys, self.tau) if gated_grad else lax.stop_gradient((self.keys, self.tau))
        return _call(self.forms.apply, self.mode, ranks, keys, payload, tau)

    def apply_transposed(self, ranks: Ranks, y: Float[Array, "*batch r d"]) -> Float[Array, "*batch n d"]:
        """The transpose of rows of P times y: a form of its own, or what reverse mode makes of `apply`."""
        if self.mode is None or known_finite(y):
            return self._transpose_finite(ranks, y)
        plain = self._plain_forms()
        extremes = self._extremes(plain.transposed or Pulled(plain.apply), ranks, y)
        return self._transpose_finite(ranks, finite_part(self.keys, y)) + extremes

    def _transpose_finite(self, ranks: Ranks, y: Float[Array, "*batch r d"]) -> Float[Array, "*batch n d"]:
        if self.mode is not None and self.forms.transposed is not None:
            return _call(self.forms.transposed, self.mode, ranks, self.keys, y, self.tau)
        if not self.forms.transposes:
            raise NotImplementedError("No kernel serves the transpose of P by name: use implementation='xla'.")
        start = placed_as_rows(jnp.zeros((*y.shape[:-2], self.n, y.shape[-1]), y.dtype), self.keys)
        apply = lambda payload: self._apply_finite(ranks, payload, True)
        (out,) = jax.vjp(apply, start)[1](placed_as_rows(y, self.keys))
        return out if self.mode is None else out + spoiled(self.tau)[..., None, None]

    def _plain_forms(self) -> Forms:
        """Forms without kernels."""
        return self.forms if self.forms is self.method.dense else self.method.xla

    def _extremes(self, form: Callable, ranks: Ranks, payload: Array) -> Array:
        """What a payload's infinities and NaN add to a form of its finite part."""
        return _call(ExtremesOf(form), self._soft(), ranks, self.keys, payload, self.tau)

    def mask(self, k: Float[Array, "*batch"]) -> Float[Array, "*batch n"]:
        """The sum of the last k rows, k real: in [0, 1] where the method has a form for that."""
        if self.mode is not None and self.forms.mask is not None:
            return _call(self.forms.mask, self.mode, None, self.keys, k, self.tau)
        position = lax.broadcasted_iota(k.dtype, (*k.shape, self.n), k.ndim)  # the largest first
        weights = jnp.clip(k[..., None] - position, 0, 1)
        if self.mode is None:
            mask = over_rows(_unsort, jnp.argsort(self.x, axis=-1, descending=True), weights)
            bad = jnp.any(jnp.isnan(self.x), axis=-1)
            return mask + spoiled(jnp.where(bad, -1, jnp.ones_like(self.tau)))[..., None]
        return self._transpose_finite(neighbours(0, self.n), weights[..., ::-1, None])[..., 0]

    def solver_info(self, ranks: Ranks) -> SolverInfo:
        """The report of the solver behind these rows."""
        if self.method.info is None or self.mode is None:
            able = ", ".join(repr(name) for name, method in METHODS.items() if method.info is not None)
            _check.wrong("method", self.method.name, f"{able} in a soft mode: the others solve nothing")
        return _call(self.method.info, self.mode, ranks, self.keys, self.tau)

    def rank(self) -> Float[Array, "*batch n"]:
        """Zero-based ascending ranks, not yet in the input's dtype."""
        return _call(self.forms.rank, self._soft(), None, self.keys, self.tau)


def in_order(order: Int[Array, "*batch r"], payload: Float[Array, "*batch n d"]) -> Float[Array, "*batch r d"]:
    """The elements that `order` names, where the rows of `order` are."""
    return over_rows(lambda order, payload: gather(payload, order), order, payload)


def _call(form: Callable, mode: Mode, ranks: Ranks | None, keys: Array, *rest: Array | None) -> Any:
    """form(keys, [ranks], [payload], tau, mode), compiled: an eager call compiles it once for each shape."""
    n, given = keys.shape[-1], () if ranks is None else (ranks,)
    shapes = [None if a is None else _of_rows(a, keys.ndim - 1) for a in (keys, *rest)]
    _dispatch.note(form, shapes[0], *given, *shapes[1:], mode)
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
    if ranks is not None and len(rest) == 2 and rest[0] is not None:
        payload, tau = rest
        return over_rows(Applied(form, ranks, mode, payload.shape[-2]), keys, tau, payload)
    return over_rows(lambda keys, *rest: form(keys, *given, *rest, mode), keys, *rest)


@partial(jax.jit, static_argnums=(0, 1), inline=True)
def _with_traced_ranks(form, mode, ranks, keys, *rest):
    call = lambda keys, *rest: form(keys, rest[-1], *rest[:-1], mode)
    return over_rows(call, keys, *rest, shared=(ranks,))


def _unsort(permutation: Array, y: Array) -> Array:
    return unsort(y, permutation)


def enter(x: Array, layout: Layout, softening: Softening, *, index: bool) -> SoftRows:
    """Check what the caller gave and lay the input out as rows; `index` says that rows of P will be asked for."""
    mode = _check.choice("mode", softening.mode, MODES)
    method = _check.choice("method", softening.method, METHODS)
    if softening.standardize is not None:
        _check.flag("standardize", softening.standardize)
    _dispatch.choose(softening.implementation)
    forms = _dispatch.forms(method, softening.implementation)
    if index and forms.rows is None:
        able = {name: entry for name, entry in METHODS.items() if entry.dense.rows is not None}
        _check.wrong("method", softening.method, f"one of {', '.join(map(repr, able))} where indices are asked for")
    dtype = _check.compute_dtype(x.dtype)
    tau = layout.softness(softening.softness, dtype, hard=mode is None)
    rows = layout.rows(x.astype(dtype))
    standardize = method.standardize if softening.standardize is None else softening.standardize
    if standardize and mode is not None:
        _check.no_infinities(x)
    return SoftRows(rows, prepare(rows, tau, standardize), mode, method, forms, layout, x.dtype)


def one_hot(indices: Array, n: int, dtype) -> SoftIndex:
    """Integer indices (...) as SoftIndex (..., n)."""
    return jax.nn.one_hot(indices, n, dtype=dtype)
