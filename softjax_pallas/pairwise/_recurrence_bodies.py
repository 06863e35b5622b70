"""The kernels of smooth SoftSort by recurrence: chunks of sorted keys, dense inside, with a carry from either side.

With W_kj = exp(-|s_k - s_j| / tau), the part of sum_j W_kj u_j from before a chunk that starts at s_a is
exp(-(s_k - s_a) / tau) A, where A is that part at s_a; behind the chunk likewise with its last key. See
`softjax._orders.softsort_scan`. Chunks lie on the diagonal: rows and columns of a tile are the same elements, results
are values per column. Carries come as parts (chunks, 2 c + 2): c from the left, c from the right, first and last key.
"""

from typing import Any

import jax.numpy as jnp

from . import _maths as maths
from ._maths import Value
from ._program import Program


def _decays(p: Program, s_ref: Any, scale: Value, carry_ref: Any, channels: int):
    """W inside the chunk, and per column the decays to its first and from its last key."""
    s = p.columns(s_ref)
    w = jnp.exp(maths.distance_logits(p.down(p.rows(s_ref)) - p.across(s), scale, 1000.0))
    left = jnp.exp((p.part(carry_ref, 2 * channels) - s) * scale)
    right = jnp.exp((s - p.part(carry_ref, 2 * channels + 1)) * scale)
    return jnp.where(p.exists(), w, 0.0), left, right


def recurrence_apply(p: Program, refs) -> None:
    """y (d, n) = P v, and the row sums of W. Without a payload it is the element's number less n // 2."""
    *payload, s_ref, scale_ref, carry_ref, y_ref, total_ref = refs
    channels = payload[0].shape[-2] + 1 if payload else 2
    w, left, right = _decays(p, s_ref, p.scalar(scale_ref), carry_ref, channels)

    def whole(inside, c):
        return inside + left * p.part(carry_ref, c) + right * p.part(carry_ref, channels + c)

    total = whole(p.sum_columns(w), channels - 1)
    for c in range(channels - 1):
        v = p.rows(payload[0], c) if payload else _numbers(p, 0)
        p.put_columns(y_ref, c, whole(p.sum_columns(w * p.down(v)), c) / total)
    p.put_columns(total_ref, 0, total)


def _numbers(p: Program, axis: int) -> Value:
    return p.ids(axis) - float(p.count // 2)


def recurrence_back(p: Program, refs) -> None:
    """Cotangents of s and v, and the flux through the gap behind each key, from a = w / total and b = sum_c a_c y_c.

    e_kj = W_kj sum_c a_kc (v_jc - y_kc) is what the loss gains per unit of -|s_k - s_j| / tau. With F the sums over
    j <= k and G those over j > k of W_kj times a channel, the flux is sum_{i <= k < j} (e_ij + e_ji), a product of F at
    k with G at k, free of a running sum's cancellation.
    """
    *payload, a_ref, b_ref, y_ref, s_ref, scale_ref, carry_ref, out_ref = refs
    d = a_ref.shape[-2]
    channels, scale = 2 * d + 2, p.scalar(scale_ref)
    w, left, right = _decays(p, s_ref, scale, carry_ref, channels)
    w_left = jnp.where(p.upper(), w, 0.0)
    w_right = jnp.where(p.upper(), 0.0, w)

    def sides(c, v=None):
        """Both sums of a channel; None stands for ones."""
        tile = None if v is None else p.down(v)
        before, after = (p.sum_columns(m if tile is None else m * tile) for m in (w_left, w_right))
        return before + left * p.part(carry_ref, c), after + right * p.part(carry_ref, channels + c)

    ones = sides(d)
    f_b, g_b = sides(2 * d + 1, p.rows(b_ref))
    slope = -((f_b - p.columns(b_ref)) - g_b)
    flux = -(f_b * ones[1] + ones[0] * g_b)
    for c in range(d):
        v = [p.rows(payload[0], c), p.columns(payload[0], c)] if payload else [_numbers(p, 0), _numbers(p, 1)]
        f_v, g_v = sides(c, v[0])
        f_a, g_a = sides(d + 1 + c, p.rows(a_ref, c))
        a, y = p.columns(a_ref, c), p.columns(y_ref, c)
        slope = slope + a * ((f_v - v[1]) - g_v - y * ((ones[0] - 1.0) - ones[1])) + v[1] * ((f_a - a) - g_a)
        flux = flux + f_a * g_v + f_v * g_a
        p.put_columns(out_ref, 2 + c, f_a + g_a)
    p.put_columns(out_ref, 0, -slope * scale)
    p.put_columns(out_ref, 1, flux)
