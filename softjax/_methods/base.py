"""What a method of soft ordering provides.

A method defines the soft permutation P of keys (batch, n): row r (0 = smallest) is a distribution over the elements.
Keys, payloads and softness are floats of one dtype. Infinities do not reach a method; a row's NaN does, and softness is
positive or NaN: the row's results are then NaN.
"""

import abc
from typing import Any, ClassVar, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jax import Array, lax

from .. import _check
from .._axis import Span, neighbours
from .._modes import Mode, logarithm
from .._types import Float, Int

Ranks = range | Span | jax.Array
"""A range of step 1, the like with symbols, or a 1-D array: of integers, or of multiples of a `rank_step` below 1.

All of them ascend, and `jnp.asarray` makes an array of any."""
Keys = Float[Array, "batch n"]
PerRow = Float[Array, " batch"]


class SolverInfo(NamedTuple):
    """How a solver of marginals fared, one entry for each row of the batch.

    `iterations` counts its steps; `marginal_error` is the largest difference between what an anchor receives and its
    mass, in elements. `points` is how many stood for the keys, 0 where these were taken as they are.
    """

    iterations: Int[Array, "*batch"]
    marginal_error: Float[Array, "*batch"]
    points: Int[Array, "*batch"] | None = None


class AbstractMethod(abc.ABC):
    """A method of soft ordering: `rows`, and whatever it can do better than by writing rows out.

    A subclass is a frozen dataclass: equal methods share compiled programs. `method=` of every array operator takes an
    instance. `mode.project(logits)` makes distributions of logits, in any mode.

    - `rank_step` is 1/2 where rows at half-integer ranks have a meaning of their own.
    - `joint` says that rows depend on which others are asked for beside them.
    - `standardize` is the default of the operators' argument.
    - `modes` are the soft modes that it has, None for all.
    - `permutes` says that there is a P. A method without one has `rank`, `mask` and, by `apply` of no payload, values;
      its keys come as they are, infinities among them, and standardising them is its own affair.
    - `selects` says that rows are one-hot, so that a payload's infinities are taken or left.
    """

    name: ClassVar[str] = ""
    rank_step: ClassVar[float] = 1.0
    joint: ClassVar[bool] = False
    standardize: ClassVar[bool] = False
    modes: ClassVar[tuple[Mode, ...] | None] = None
    permutes: ClassVar[bool] = True
    selects: ClassVar[bool] = False

    @property
    def plain(self) -> "AbstractMethod":
        """The same in plain JAX, whatever the platform: `implementation="xla"`."""
        return self

    @property
    def definition(self) -> "AbstractMethod":
        """The same by rows that are written out: `implementation="dense"`."""
        return self

    def at_softness(self, least: float, standardize: bool) -> "AbstractMethod":
        """The same where the softness is known to be at least so much, of keys that are standardised or not."""
        return self

    @abc.abstractmethod
    def rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
        """Rows of P, for elements in the order given."""

    def log_rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
        """The logarithms of rows of P: here of what is written out, whose smallest weights have been rounded to 0."""
        return logarithm(self.rows(x, ranks, tau, mode))

    def apply(
        self, x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
    ) -> Float[Array, "batch r d"]:
        """Rows of P times a payload; None stands for the keys themselves."""
        return multiply(self.rows(x, ranks, tau, mode), x[:, :, None] if payload is None else payload)

    def transposed(
        self, x: Keys, ranks: Ranks, y: Float[Array, "batch r d"], tau: PerRow, mode: Mode
    ) -> Float[Array, "batch n d"]:
        """The transpose of rows of P times y."""
        return multiply(jnp.swapaxes(self.rows(x, ranks, tau, mode), 1, 2), y)

    def rank(self, x: Keys, tau: PerRow, mode: Mode) -> Keys:
        """Zero-based ranks, ascending: here the column-normalised expectation sum_r P_rj r / sum_r P_rj."""
        n = x.shape[-1]
        positions = jnp.arange(n, dtype=x.dtype)
        y = jnp.stack([positions, jnp.ones_like(positions)], axis=1)
        weighted = self.transposed(x, neighbours(0, n), jnp.broadcast_to(y, (*x.shape, 2)), tau, mode)
        return weighted[..., 0] / weighted[..., 1]

    def mask(self, x: Keys, k: PerRow, tau: PerRow, mode: Mode) -> Keys:
        """The sum of the last k rows, k real in [0, n]: sums to k along the keys."""
        position = lax.broadcasted_iota(k.dtype, x.shape, 1)  # the largest first
        weights = jnp.clip(k[:, None] - position, 0, 1)[:, ::-1, None]
        return self.transposed(x, neighbours(0, x.shape[-1]), weights, tau, mode)[:, :, 0]

    def picks(self, n: Any, ranks: Ranks, mode: Mode) -> bool:
        """Does `transposed` take less for these ranks than `mask`, which goes through all of them?"""
        return False

    def writes_rows(self, n: Any, ranks: Ranks) -> bool:
        """Whether `apply` writes these rows out to multiply them: a caller who wants both then has them made once."""
        return True

    def values_and_rows(
        self, x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
    ) -> tuple[Float[Array, "batch r d"], Float[Array, "batch r n"]]:
        """What `apply` and `rows` give, of one soft permutation where `apply` writes rows anyway."""
        rows = self.rows(x, ranks, tau, mode)
        if not self.writes_rows(x.shape[-1], ranks):
            return self.apply(x, ranks, payload, tau, mode), rows
        return multiply(rows, x[:, :, None] if payload is None else payload), rows

    def solver_info(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> SolverInfo:
        """The report of the solver behind rows of P. **Raises:** `ValueError` in a method that solves nothing."""
        _check.wrong("method", self.name, "'ot' in a soft mode: the others solve nothing")


def refuse_rows(name: str) -> NoReturn:
    """Say that a method without a P has no soft indices."""
    _check.wrong("method", name, "one with soft indices, as 'softsort': it has values, ranks and masks alone")


def as_array(ranks: Ranks, dtype) -> jax.Array:
    """The ranks as a 1-D array."""
    return ranks.astype(dtype) if isinstance(ranks, jax.Array) else jnp.arange(ranks.start, ranks.stop, dtype=dtype)


def count(ranks: Ranks) -> Any:
    """How many ranks; a symbol, perhaps. Traced ones may differ from row to row, (batch, r)."""
    if isinstance(ranks, range):
        return len(ranks)
    return ranks.stop - ranks.start if isinstance(ranks, Span) else ranks.shape[-1]


def reached(n: int, ranks: range) -> int:
    """How many keys from the nearer end on hold these ranks."""
    return min(ranks.stop, n - ranks.start)


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
