"""The band of NeuralSort's matrix, walked along its diagonals; derived in `softjax._methods.neuralsort.band`."""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp
from jax import Array, lax

from ...._modes import Mode


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Rows per tile, and offsets per step of a tile's loop.

    Measured on AVX-512 CPUs: XLA compiles the whole loop of a tile into one kernel while its
    buffers are small (up to 2048 rows); beyond, each step becomes several dispatches, 5 x slower.
    Small tiles stop where their own rows do: 256 rows take 0.8 of the time of 1024. Two offsets in a step save a
    twelfth of the time and make programs a quarter longer; an exponential's, which are the longer ones, do without,
    and take as much again from tiles of 128.
    """

    rows: int = 256
    unroll: int = 2

    def __post_init__(self):
        if self.rows < 1 or self.unroll < 1:
            raise ValueError(f"`rows` (={self.rows}) and `unroll` (={self.unroll}) must be positive.")


TILING = Tiling()
# Finite, so that no 0 * inf arises; sums of it may overflow to inf, which only ever means "weight 0".
BARRIER = 1e30
_UNBRIDGED = 1e15


# ---------------------------------------------------------------- modes


class Smooth:
    """phi = exp; theta = log sum exp."""

    tiling = Tiling(rows=128, unroll=1)

    def phi(self, z: Array, order: int) -> Array:
        del order
        return jnp.exp(z)

    def row_alive(self, drop: Array, theta: Array, n: int) -> Array:
        # The logits fall monotonically: what is left of a row is at most n entries like the last one.
        return jnp.max(drop - theta) > math.log(half_ulp(drop.dtype) / n)

    def col_alive(self, drop: Array, reach: Array, theta: Array, n: int) -> Array:
        # One row further the drop grows by at least 2 * reach, so the rest of the column is at most
        # exp(drop) * sum_h exp(-2 h reach); the column weighs at least P_jj = exp(-theta_j).
        return jnp.exp(jnp.max(drop + theta)) > half_ulp(drop.dtype) * (2 * jnp.min(reach) + 1 / n)


@dataclasses.dataclass(frozen=True)
class Power:
    """phi = max(., 0)^degree; theta in [-1, 0) makes the row sum to 1."""

    degree: int
    tiling: ClassVar[Tiling] = TILING

    def phi(self, z: Array, order: int) -> Array:
        power = self.degree - order
        if power < 0:
            return jnp.zeros_like(z)
        scale = math.perm(self.degree, order)
        if power == 0:
            return jnp.where(z > 0, jnp.asarray(scale, z.dtype), 0)
        return scale * jnp.maximum(z, 0) ** power

    def row_alive(self, drop: Array, theta: Array, n: int) -> Array:
        del n
        return jnp.any(drop > theta)

    def col_alive(self, drop: Array, reach: Array, theta: Array, n: int) -> Array:
        del reach, theta, n
        return jnp.any(drop > -1)  # theta_r >= -1 for every row


def weights(mode: Mode) -> Smooth | Power:
    """The weight function of a mode."""
    return Smooth() if mode.degree is None else Power(mode.degree)


def half_ulp(dtype) -> float:
    return float(jnp.finfo(dtype).eps) / 2


# ---------------------------------------------------------------- the walk along the diagonals


@dataclasses.dataclass(frozen=True)
class Grid:
    """Geometry of the flat layout: `batch` rows of `n`, cut into tiles, with a halo on both sides."""

    batch: int
    n: int
    tiling: Tiling

    @property
    def rows(self) -> int:
        return max(1, min(self.tiling.rows, self.batch * self.n))

    @property
    def tiles(self) -> int:
        return -(-self.batch * self.n // self.rows)

    @property
    def halo(self) -> int:
        return self.n + self.tiling.unroll

    def flat(self, x: Array, fill: float = 0.0) -> Array:
        """(batch, n) -> (halo + tiles * rows + halo,)."""
        tail = self.tiles * self.rows - self.batch * self.n
        return jnp.pad(x.reshape(-1), (self.halo, self.halo + tail), constant_values=fill)

    def unflat(self, x: Array) -> Array:
        """(tiles, rows) -> (batch, n)."""
        return x.reshape(-1)[: self.batch * self.n].reshape(self.batch, self.n)

    def gaps(self, s: Array, tau: Array) -> Array:
        gap = jnp.diff(s, axis=-1) / tau
        return self.flat(jnp.pad(gap, ((0, 0), (0, 1)), constant_values=BARRIER), BARRIER)

    def gap_tangents(self, s: Array, tau: Array, ds: Array, dtau: Array) -> Array:
        gap = jnp.diff(s, axis=-1) / tau
        tangent = jnp.diff(ds, axis=-1) / tau - gap * (dtau / tau)
        # Nothing is seen across such a gap, and 0 * inf must not arise.
        tangent = jnp.where(gap < _UNBRIDGED, tangent, 0)
        return self.flat(jnp.pad(tangent, ((0, 0), (0, 1))))


class ByRow:
    """Own index = row, near index = column; state = D."""

    def start(self, zero: Array) -> Array:
        return zero

    def step(self, drop: Array, gap: Array, k: Array) -> Array:
        return drop - (2 * k - 1) * gap

    def drop(self, state: Array) -> Array:
        return state


class ByColumn:
    """Own index = column, near index = row; state = (X, D)."""

    def start(self, zero: Array) -> tuple[Array, Array]:
        return zero, zero

    def step(self, state: tuple[Array, Array], gap: Array, k: Array) -> tuple[Array, Array]:
        del k
        reach, drop = state
        return reach + gap, drop - (2 * reach + gap)

    def drop(self, state: tuple[Array, Array]) -> Array:
        return state[1]


def walk(grid, tile, by, paths, own, near, visit, alive):
    """Sums over one tile's band, outward from the diagonal.

    Args:
      tile: index of the tile. by: `ByRow` or `ByColumn`.
      paths: flat gap arrays; each is accumulated along the walk by `by`'s rule.
      own: arrays (rows,) of the tile. near: flat arrays, read at own index + k.
      visit: (k, drops, near, own) -> tuple of terms (rows,), k a float offset of either sign.
      alive: (sums, right state, left state, own) -> does the band go on (the first path's states).
    """
    rows, unroll = grid.rows, grid.tiling.unroll
    dtype = paths[0].dtype
    origin = tile * rows + grid.halo
    zero = jnp.zeros(rows, dtype)

    def window(arrays, first, size):
        return [lax.dynamic_slice(a, (first,), (size,), allow_negative_indices=False) for a in arrays]

    def body(state):  # carries k0, both sides' paths, sums and their lost digits, and whether to go on
        k0, right, left, sums, lost, _ = state
        size = rows + unroll
        gap_r, near_r = window(paths, origin + k0, size), window(near, origin + k0 + 1, size)
        gap_l, near_l = (window(a, origin - k0 - unroll, size) for a in (paths, near))
        chunk = (zero,) * len(sums)
        for u in range(unroll):
            k = (k0 + u + 1).astype(dtype)
            cut = slice(u, u + rows)
            right = tuple(by.step(p, g[cut], k) for p, g in zip(right, gap_r, strict=True))
            chunk = _add(chunk, visit(k, tuple(map(by.drop, right)), [a[cut] for a in near_r], own))
            cut = slice(unroll - 1 - u, unroll - 1 - u + rows)
            left = tuple(by.step(p, g[cut], k) for p, g in zip(left, gap_l, strict=True))
            chunk = _add(chunk, visit(-k, tuple(map(by.drop, left)), [a[cut] for a in near_l], own))
        # Compensated: a wide band (ties, large softness) has up to n terms of one sign.
        part = tuple(c - x for c, x in zip(chunk, lost, strict=True))
        total = _add(sums, part)
        lost = tuple((t - s) - p for t, s, p in zip(total, sums, part, strict=True))
        more = alive(total, right[0], left[0], own) & (k0 + unroll < grid.n)
        return k0 + unroll, right, left, total, lost, more

    start = (by.start(zero),) * len(paths)
    sums = tuple(visit(jnp.zeros((), dtype), (zero,) * len(paths), window(near, origin, rows), own))
    state = jnp.int32(0), start, start, sums, (zero,) * len(sums), jnp.bool_(grid.n > 1)
    return lax.while_loop(lambda state: state[-1], body, state)[3]


def _add(a, b):
    return tuple(x + y for x, y in zip(a, b, strict=True))


def over_tiles(grid: Grid, function: Callable[[Array, Callable], tuple]) -> list[Array]:
    """Run `function(tile, own)` for every tile, `own` cutting flat arrays; returns (batch, n) arrays."""

    def one(tile, _):
        own = lambda a: lax.dynamic_slice(
            a, (tile * grid.rows + grid.halo,), (grid.rows,), allow_negative_indices=False
        )
        return tile + 1, function(tile, own)

    out = lax.scan(one, jnp.int32(0), length=grid.tiles)[1]
    return [grid.unflat(a) for a in out]


def stop_rows(mode, n):
    """`alive` of a walk by rows whose first own array is theta."""

    def alive(sums, right, left, own):
        del sums
        return mode.row_alive(jnp.maximum(right, left), own[0], n)

    return alive


def stop_columns(mode, n):
    """`alive` of a walk by columns whose first own array is theta."""

    def alive(sums, right, left, own):
        del sums
        reach, drop = jnp.minimum(right[0], left[0]), jnp.maximum(right[1], left[1])
        return mode.col_alive(drop, reach, own[0], n)

    return alive
