"""The maths of the pairwise kernels, written once for every compiler.

A kernel works on tiles (rows, columns) of the soft permutation. `Lanes` is what a compiler's body provides: how a value
per row or per column spreads over a tile, and how a tile is summed. Everything below is written in those terms.

Weights are P = phi(z - theta) * inv, with phi = exp and theta = 0 in the smooth mode and phi = max(., 0)^m, theta the
simplex threshold, in c0, c1, c2 (m = 1, 2, 3); `inv` makes a row sum to 1. Logits have the maximum 0 in every row: the
key of a SoftSort row is one of the elements, and a NeuralSort row peaks on its diagonal.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

NOWHERE = -1e30
"""The logit of a place outside the array: its weight is zero, and no arithmetic on it gives NaN."""

EPS = 2.0**-23
MAX_STEPS = 50
"""Newton steps for a threshold; 5 to 10 are usual."""

Value = Any
"""An array of whatever shape the lanes give to a tile, or to a value per row or column."""


class Lanes(abc.ABC):
    """Layouts and reductions of one compiler. "Per row" and "per column" are its own kinds of vectors."""

    @abc.abstractmethod
    def down(self, v: Value) -> Value:
        """A value per row as a tile."""

    @abc.abstractmethod
    def across(self, v: Value) -> Value:
        """A value per column as a tile."""

    @abc.abstractmethod
    def sum_rows(self, tile: Value) -> Value:
        """The sum of each row, a value per row."""

    @abc.abstractmethod
    def sum_columns(self, tile: Value) -> Value:
        """The sum of each column, a value per column."""

    @abc.abstractmethod
    def per_row(self, value: float) -> Value:
        """A constant value per row, fit to start a sum."""

    @abc.abstractmethod
    def per_column(self, value: float) -> Value:
        """A constant value per column, fit to start a sum."""

    @abc.abstractmethod
    def largest(self, v: Value) -> Value:
        """The maximum of a value per row, a scalar."""


def power(v: Value, m: int) -> Value:
    """v**m for m = 0, 1, 2, 3 without `pow`, which one compiler lacks."""
    if m == 0:
        return jnp.where(v > 0, 1.0, 0.0)
    return v if m == 1 else v * v if m == 2 else v * v * v


def root(v: Value, m: int) -> Value:
    """v**(1/m) for positive v and m = 1, 2, 3."""
    if m == 1:
        return v
    return jnp.sqrt(v) if m == 2 else jnp.exp(jnp.log(v) * (1 / 3))


def threshold_move(norm: Value, slope: Value, m: int) -> Value:
    """`softjax._modes.threshold_move` from the m-norm, without `pow`."""
    return (norm - 1.0) * (power(norm, m - 1) if m > 1 else 1.0) / slope


def phi(degree: int | None, z: Value) -> Value:
    """The weight at a logit less its row's threshold, before normalisation."""
    return jnp.exp(z) if degree is None else power(jnp.maximum(z, 0.0), degree)


def slope(degree: int | None, z: Value) -> Value:
    """phi's derivative."""
    return jnp.exp(z) if degree is None else degree * power(jnp.maximum(z, 0.0), degree - 1)


Fold = Callable[[Callable[[Any, Value, Any], Any], Any], Any]
"""fold(visit, start): visit(tile index, logits, carry) -> carry over the tiles of a block of rows."""


def normalise(lanes: Lanes, degree: int | None, fold: Fold) -> tuple[Value, Value]:
    """theta and inv of a block of rows."""
    theta = lanes.per_row(0.0) if degree is None else threshold(lanes, degree, fold)
    total = fold(lambda t, z, total: total + lanes.sum_rows(phi(degree, z - lanes.down(theta))), lanes.per_row(0.0))
    return theta, 1.0 / total


def threshold(lanes: Lanes, degree: int, fold: Fold) -> Value:
    """The theta with sum_j max(z_j - theta, 0)**m = 1 in every row.

    The m-norm of max(z - theta, 0) is convex and decreasing in theta and at least 1 at theta = -1, so Newton's iterates
    rise monotonically to the root; no sort is needed. A row that has converged stands still, whatever its block needs.
    """

    def sums(theta):
        def visit(t, z, carry):
            rest = jnp.maximum(z - lanes.down(theta), 0.0)
            total, count = carry
            return total + lanes.sum_rows(power(rest, degree)), count + lanes.sum_rows(power(rest, degree - 1))

        return fold(visit, (lanes.per_row(0.0), lanes.per_row(0.0)))

    def improve(state):
        theta, moving, _, step = state
        total, count = sums(theta)
        move = jnp.where(moving > 0, threshold_move(root(total, degree), count, degree), 0.0)
        new = jnp.minimum(theta + move, 0.0)
        moving = jnp.where(jnp.abs(move) > 2 * EPS * jnp.abs(new), moving, 0.0)
        return new, moving, lanes.largest(moving), step + 1

    start = lanes.per_row(-1.0), lanes.per_row(1.0), jnp.float32(1.0), jnp.int32(0)
    return lax.while_loop(lambda state: (state[2] > 0) & (state[3] < MAX_STEPS), improve, start)[0]


# --- SoftSort ------------------------------------------------------------------------------------------


def distance_logits(difference: Value, scale: Value, reach: float) -> Value:
    """-|difference| / tau, cut where the weight is zero anyway; NaN stays NaN."""
    t = jnp.abs(difference) * scale
    return -jnp.where(t > reach, reach, t)


def sign(v: Value) -> Value:
    """The sign, 0 at 0."""
    return jnp.where(v > 0, 1.0, 0.0) - jnp.where(v < 0, 1.0, 0.0)


# --- NeuralSort ----------------------------------------------------------------------------------------


COARSE = 1.5 * 2.0**35
"""Adding and subtracting it rounds a count to a multiple of 4096; one compiler has no `floor`."""


def two_sum(a: Value, b: Value) -> tuple[Value, Value]:
    """a + b rounded, and what the rounding lost (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def rough(v: Value) -> Value:
    """v to 12 bits (Veltkamp's splitting), so that its product with an integer of 12 bits is exact."""
    scaled = v * 4097.0
    return scaled - (scaled - v)


def centred(element: Sequence[Any], first: Sequence[Any]) -> tuple[Value, Value, Value]:
    """Place, key and prefix sum relative to a first element: j - f_0, s_j - m, sum_{f_0 < i <= j} (s_i - m).

    m is the first key to 12 bits and the count is split in two, so that the product of both is exact.
    """
    place, key, high, low = element
    first_place, first_key, first_high, first_low = first
    middle = rough(first_key)
    steps = place - first_place
    coarse = (steps + COARSE) - COARSE
    total, lost = two_sum(high, -first_high)
    total, more = two_sum(total, -(coarse * middle))
    total, last = two_sum(total, -((steps - coarse) * middle))
    return steps, key - middle, total + (((low - first_low) + lost) + (more + last))
