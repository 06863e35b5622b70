"""The kernels of smooth SoftSort by recurrence: chunks of sorted keys, dense inside, with a carry from either side.

With W_kj = exp(-|s_k - s_j| / tau), the part of sum_j W_kj u_j from before a chunk that starts at s_a is
exp(-(s_k - s_a) / tau) A, where A is that part at s_a; behind the chunk likewise with its last key. See
`softjax._methods.softsort.smooth`. Chunks lie on the diagonal: rows and columns of a tile are the same elements,
results are values per column. Carries come as parts (chunks, 2 c + 2): c from the left, c from the right, first and
last key.
"""

from typing import Any

import jax.numpy as jnp

from . import _maths as maths
from ._maths import Value
from ._program import Program


class Chunk:
    """A square tile on the diagonal: each own element's sums over all elements of the chunk.

    The own elements are its rows or its columns, whichever the compiler reduces to at the lower price.
    """

    def __init__(self, p: Program, s_ref: Any, scale: Value, carry_ref: Any, channels: int):
        self.p, self.carry_ref, self.channels = p, carry_ref, channels
        s = self.own(s_ref)
        difference = p.down(p.rows(s_ref)) - p.across(p.columns(s_ref))
        w = jnp.exp(maths.distance_logits(difference, scale, 1000.0))
        self.w = jnp.where(p.exists(), w, 0.0)
        self.left = jnp.exp((p.part(carry_ref, 2 * channels) - s) * scale)
        self.right = jnp.exp((s - p.part(carry_ref, 2 * channels + 1)) * scale)

    def own(self, ref: Any, channel: int = 0) -> Value:
        """A value per own element."""
        return (self.p.rows if self.p.by_rows else self.p.columns)(ref, channel)

    def other(self, ref: Any, channel: int = 0) -> Value:
        """The same values as a tile, of the elements that are summed over."""
        p = self.p
        return p.across(p.columns(ref, channel)) if p.by_rows else p.down(p.rows(ref, channel))

    def numbers(self) -> tuple[Value, Value]:
        """The elements' numbers less n // 2: per own element, and as a tile of the others."""
        p, middle = self.p, float(self.p.count // 2)
        own, other = (0, 1) if p.by_rows else (1, 0)
        return p.ids(own) - middle, p.tile_ids(other) - middle

    def total(self, tile: Value) -> Value:
        """Sums within the chunk, per own element."""
        return (self.p.sum_rows if self.p.by_rows else self.p.sum_columns)(tile)

    def put(self, ref: Any, channel: int, v: Value) -> None:
        """Store a value per own element."""
        (self.p.put_rows if self.p.by_rows else self.p.put_columns)(ref, channel, v)

    def whole(self, c: int, other: Value | None = None) -> Value:
        """sum_j W_kj u_j for channel c over all j; None stands for ones."""
        inside = self.total(self.w if other is None else self.w * other)
        left, right = (self.p.part(self.carry_ref, i) for i in (c, self.channels + c))
        return inside + self.left * left + self.right * right

    def sides(self, c: int, other: Value | None = None) -> tuple[Value, Value]:
        """The same over j <= k, and over j > k."""
        p = self.p
        before = p.iota(1) <= p.iota(0) if p.by_rows else p.iota(0) <= p.iota(1)
        tile = self.w if other is None else self.w * other
        left, right = (p.part(self.carry_ref, i) for i in (c, self.channels + c))
        return (
            self.total(jnp.where(before, tile, 0.0)) + self.left * left,
            self.total(jnp.where(before, 0.0, tile)) + self.right * right,
        )


def recurrence_apply(p: Program, refs) -> None:
    """y (d, n) = P v, and the row sums of W. Without a payload it is the element's number less n // 2."""
    *payload, s_ref, scale_ref, carry_ref, y_ref, total_ref = refs
    channels = payload[0].shape[-2] + 1 if payload else 2
    k = Chunk(p, s_ref, p.scalar(scale_ref), carry_ref, channels)
    total = k.whole(channels - 1)
    for c in range(channels - 1):
        k.put(y_ref, c, k.whole(c, k.other(payload[0], c) if payload else k.numbers()[1]) / total)
    k.put(total_ref, 0, total)


def recurrence_back(p: Program, refs) -> None:
    """Cotangents of s and v, and the flux through the gap behind each key, from a = w / total and b = sum_c a_c y_c.

    e_kj = W_kj sum_c a_kc (v_jc - y_kc) is what the loss gains per unit of -|s_k - s_j| / tau. With F the sums over
    j <= k and G those over j > k of W_kj times a channel, the flux is sum_{i <= k < j} (e_ij + e_ji), a product of F at
    k with G at k, free of a running sum's cancellation.
    """
    *payload, a_ref, b_ref, y_ref, s_ref, scale_ref, carry_ref, out_ref = refs
    d, scale = a_ref.shape[-2], p.scalar(scale_ref)
    k = Chunk(p, s_ref, scale, carry_ref, 2 * d + 2)
    f_1, g_1 = k.sides(d)
    f_b, g_b = k.sides(2 * d + 1, k.other(b_ref))
    slope = g_b - (f_b - k.own(b_ref))
    flux = -(f_b * g_1 + f_1 * g_b)
    for c in range(d):
        v, others = (k.own(payload[0], c), k.other(payload[0], c)) if payload else k.numbers()
        f_v, g_v = k.sides(c, others)
        f_a, g_a = k.sides(d + 1 + c, k.other(a_ref, c))
        a, y = k.own(a_ref, c), k.own(y_ref, c)
        slope = slope + a * ((f_v - v) - g_v - y * ((f_1 - 1.0) - g_1)) + v * ((f_a - a) - g_a)
        flux = flux + f_a * g_v + f_v * g_a
        k.put(out_ref, 2 + c, f_a + g_a)
    k.put(out_ref, 0, -slope * scale)
    k.put(out_ref, 1, flux)
