"""Regularised transport of n elements to two anchors, of masses n - k and k: a soft top-k mask. One unknown.

An element's row of the plan is the projection of two logits, so its share of the upper anchor depends on their
difference alone, share(2 (y_i - t) / tau + c): a step around a threshold t, moved by c so that the shares sum to k.
t is the hard threshold, a key or midway between two. Then c is about 1, whatever the softness, where the
potentials of `semidual_newton` are of size 1 / tau and lose that many digits.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..._modes import Mode
from ..._sharding import vary_alike
from ..._types import Float
from ..base import SolverInfo
from ..hard_sort import sorted_keys
from .semidual_newton import no_tangent, remembered

Keys = Float[Array, "batch n"]
PerRow = Float[Array, " batch"]

_MAX_STEPS = 80


def pair_mask(mode: Mode, y: Keys, k: PerRow, tau: PerRow) -> tuple[Keys, SolverInfo]:
    """Shares of the upper anchor, (batch, n) in [0, 1] with row sums k in [0, n], and how the solver fared."""
    share = SHARES[mode.degree]
    margin = _margin(mode, y, k, tau)
    moved, info = shift(mode, margin, k)
    mask = share(margin + moved[:, None])
    n = y.shape[-1]
    # Nothing or everything: no finite c does that for an exponential share.
    full, empty = (k >= n)[:, None], (k <= 0)[:, None]
    mask = jnp.where(full, jnp.ones_like(mask), jnp.where(empty, jnp.zeros_like(mask), mask))
    return mask + 0 * margin, info  # NaN stays in its row


def _margin(mode: Mode, y: Keys, k: PerRow, tau: PerRow) -> Keys:
    """2 (y - t) / tau with the hard threshold t, which carries no derivative: c makes up for whatever it is."""
    n = y.shape[-1]
    s = sorted_keys(y)
    below = jnp.clip(n - lax.stop_gradient(k), 0, n)  # elements outside of the mask, not always a whole number
    upper = jnp.minimum(jnp.floor(below), n - 1).astype(jnp.int32)
    lower = jnp.clip(jnp.ceil(below) - 1, 0, n - 1).astype(jnp.int32)
    at = partial(jnp.take_along_axis, s, axis=-1)
    first, second = at(lower[:, None]), at(upper[:, None])
    t = remembered(first + (second - first) / 2)
    scale = tau[:, None] / 2
    return jnp.clip(y - t, -mode.reach * scale, mode.reach * scale) / scale


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def shift(mode: Mode, margin: Keys, k: PerRow) -> tuple[PerRow, SolverInfo]:
    """c with sum_i share(margin_i + c) = k, by Newton's method inside a bracket that halves where Newton leaves it."""
    share = SHARES[mode.degree]
    n = margin.shape[-1]
    limit = 1.0 if mode.degree is not None else 20.0 + math.log(2**31)  # n is less
    goal = 4 * jnp.finfo(margin.dtype).eps * jnp.maximum(k, 1)
    solvable = (k > 0) & (k < n)

    def evaluate(c):
        value, slope = jax.jvp(share, (margin + c[:, None],), (jnp.ones_like(margin),))
        return jnp.sum(value, axis=-1) - k, jnp.sum(slope, axis=-1)

    def improve(state):
        c, low, high, excess, slope, steps, count = state
        going = solvable & (jnp.abs(excess) > goal) & (high > low)
        low, high = jnp.where(excess < 0, c, low), jnp.where(excess > 0, c, high)
        newton = c - excess / jnp.where(slope > 0, slope, jnp.ones_like(slope))
        inside = (slope > 0) & (newton > low) & (newton < high)
        candidate = jnp.where(inside, newton, low + (high - low) / 2)
        # A bracket of two neighbouring floats has nothing inside.
        still = (candidate == low) | (candidate == high)
        low = jnp.where(still, high, low)
        c = jnp.where(going, candidate, c)
        return c, low, high, *evaluate(c), steps + going.astype(jnp.int32), count + 1

    def unfinished(state):
        _, low, high, excess, _, _, count = state
        return jnp.any(solvable & (jnp.abs(excess) > goal) & (high > low)) & (count < _MAX_STEPS)

    zero = jnp.zeros_like(k)
    steps = jnp.zeros(k.shape, jnp.int32)
    state = (zero, zero - limit, zero + limit, *evaluate(zero), steps, jnp.zeros((), jnp.int32))
    c, _, _, excess, _, steps, _ = lax.while_loop(unfinished, improve, vary_alike(state))
    return c, SolverInfo(steps, jnp.where(solvable, jnp.abs(excess), zero))


@shift.defjvp
def _shift_jvp(mode, primals, tangents):
    (margin, k), (d_margin, dk) = primals, tangents
    c, info = shift(mode, margin, k)
    c = remembered(c)
    slopes = jax.jvp(SHARES[mode.degree], (margin + c[:, None],), (jnp.ones_like(margin),))[1]
    total = jnp.sum(slopes, axis=-1)
    moves = total > 0  # where a gap is wider than a sparse step, c has no influence and no derivative
    missing = dk - jnp.sum(slopes * d_margin, axis=-1)
    dc = jnp.where(moves, missing / jnp.where(moves, total, jnp.ones_like(total)), jnp.zeros_like(total))
    return (c, info), (dc, no_tangent(info))


# --- shares: the upper entry of the projection of logits (0, d), in closed form -----------------------


def _linear(d: Array) -> Array:
    return jnp.clip((1 + d) / 2, 0, 1)


def _quadratic(d: Array) -> Array:
    """a^2 with a^2 + b^2 = 1 and a - b = d."""
    d = jnp.clip(d, -1, 1)
    return ((d + jnp.sqrt(2 - d**2)) / 2) ** 2


def _cubic(d: Array) -> Array:
    """a^3 with a^3 + b^3 = 1 and a - b = d: their sum s solves s^3 + 3 d^2 s = 4 (Cardano)."""
    d = jnp.clip(d, -1, 1)
    root = jnp.cbrt(2 + jnp.sqrt(4 + d**6))
    return jnp.maximum((root - d**2 / root + d) / 2, 0) ** 3


SHARES: dict[int | None, Callable[[Array], Array]] = {None: jax.nn.sigmoid, 1: _linear, 2: _quadratic, 3: _cubic}
"""The step of two logits by the degree of the mode."""
