"""What a method of soft ordering provides.

A method defines the soft permutation P of keys (batch, n): row r (0 = smallest) is a distribution over the
elements. `ranks` is a range of step 1, the like with symbols, or a 1-D array of ranks in multiples of `rank_step`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from .._axis import Span
from .._modes import Mode
from .._types import Float, Int

Ranks = range | Span | jax.Array
Keys = Float[Array, "batch n"]
PerRow = Float[Array, " batch"]


class SolverInfo(NamedTuple):
    """How a solver of marginals fared, one entry for each row of the batch.

    `iterations` counts its steps; `marginal_error` is the largest difference between what an anchor receives and its
    mass, in elements.
    """

    iterations: Int[Array, "*batch"]
    marginal_error: Float[Array, "*batch"]


class Rows(Protocol):
    """rows(x, ranks, tau, mode) -> (batch, r, n): rows of P, for elements in the order given."""

    def __call__(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]: ...


class Apply(Protocol):
    """apply(x, ranks, payload, tau, mode) -> (batch, r, d): rows of P times a payload (batch, n, d).

    A payload of None stands for the keys themselves.
    """

    def __call__(
        self, x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
    ) -> Float[Array, "batch r d"]: ...


class Rank(Protocol):
    """rank(x, tau, mode) -> (batch, n): zero-based soft ranks, ascending."""

    def __call__(self, x: Keys, tau: PerRow, mode: Mode) -> Float[Array, "batch n"]: ...


class Info(Protocol):
    """info(x, ranks, tau, mode): the report of the solver behind rows of P."""

    def __call__(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> SolverInfo: ...


class Mask(Protocol):
    """mask(x, k, tau, mode) -> (batch, n): in [0, 1], with sum k, for real k in [0, n]."""

    def __call__(self, x: Keys, k: PerRow, tau: PerRow, mode: Mode) -> Float[Array, "batch n"]: ...


class Transposed(Protocol):
    """transposed(x, ranks, y, tau, mode) -> (batch, n, d): the transpose of rows of P times y (batch, r, d)."""

    def __call__(
        self, x: Keys, ranks: Ranks, y: Float[Array, "batch r d"], tau: PerRow, mode: Mode
    ) -> Float[Array, "batch n d"]: ...


@dataclass(frozen=True)
class Forms:
    """One implementation of a method. `rows` is None for a method that yields values only.

    `mask` is a top-k mask of its own, in place of the sum of the last rows, `transposed` a P.T of its own, in place of
    `apply`'s derivative. `transposes` says that P.T exists: a named kernel's `apply` has no derivative to spare.
    `writes(n, ranks)` says that `apply` writes these rows out to multiply them, so that a caller who wants both
    computes them once.
    """

    rows: Rows | None
    apply: Apply
    rank: Rank
    mask: Mask | None = None
    transposed: Transposed | None = None
    transposes: bool = True
    writes: Callable[[int, Ranks], bool] = lambda n, ranks: False


@dataclass(frozen=True)
class Method:
    """One method: its implementations by name, "dense" (the readable definition) and "xla" (the fast form).

    `rank_step` is 1/2 where rows at half-integer ranks have a meaning of their own. `joint` says that rows depend
    on which others are asked for beside them. `standardize` is the method's default. `info` reports on the solver
    of a method that has one. `fused` are the forms for which a kernel may be chosen where nobody asked for one.
    """

    name: str
    dense: Forms
    xla: Forms
    rank_step: float = 1.0
    joint: bool = False
    standardize: bool = False
    info: Info | None = None
    fused: tuple[str, ...] = ()

    def forms(self, implementation: str) -> Forms:
        """The implementation of that name."""
        return {"dense": self.dense, "xla": self.xla}[implementation]


def always(n: int, ranks: Ranks) -> bool:
    """`writes` of a dense form."""
    return True


def as_array(ranks: Ranks, dtype) -> jax.Array:
    """The ranks as a 1-D array."""
    return ranks.astype(dtype) if isinstance(ranks, jax.Array) else jnp.arange(ranks.start, ranks.stop, dtype=dtype)


def count(ranks: Ranks) -> Any:
    """How many ranks; a symbol, perhaps."""
    if isinstance(ranks, range):
        return len(ranks)
    return ranks.shape[0] if isinstance(ranks, jax.Array) else ranks.stop - ranks.start


def at_most(few: int, number: Any) -> bool:
    """Is it known to be so few? A symbol may be any number."""
    return isinstance(number, int) and number <= few


def multiply(rows: Float[Array, "batch r n"], payload: Float[Array, "batch n d"]) -> Float[Array, "batch r d"]:
    """Rows of P times a payload, to full precision. One column is a sum, which XLA fuses with what makes the rows."""
    # A weight of 0 has no derivative, and no cotangent: times a large payload it may overflow, and 0 * inf is NaN.
    rows = jnp.where(rows == 0, jnp.zeros_like(rows), rows)
    if payload.shape[-1] == 1:
        return jnp.sum(rows * payload[..., None, :, 0], axis=-1, keepdims=True)
    return jnp.matmul(rows, payload, precision=jax.lax.Precision.HIGHEST)


def applied(rows: Callable[..., Any]) -> Apply:
    """The dense `apply`: materialise the rows and multiply."""

    def apply(x, ranks, payload, tau, mode):
        return multiply(rows(x, ranks, tau, mode), x[:, :, None] if payload is None else payload)

    return apply
