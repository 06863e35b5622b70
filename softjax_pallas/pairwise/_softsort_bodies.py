"""The kernels of SoftSort over tiles: all modes, O(r n) work."""

from typing import Any

import jax.numpy as jnp

from . import _maths as maths
from ._maths import Value
from ._program import Program


def _fold(p: Program, logits):
    """The fold over a block's tiles that `maths` works with."""

    def fold(visit, start):
        return p.over(lambda t, carry: visit(t, logits(t), carry), start)

    return fold


def _softsort_logits(p: Program, q: Value, x_ref: Any, scale: Value, reach: float):
    """Logits of a block of rows with keys q, by tile of columns; `everywhere` also where a sum must not see them."""

    def logits(t, everywhere=False):
        z = maths.distance_logits(p.down(q) - p.across(p.columns(x_ref, 0, t)), scale, reach)
        return z if everywhere else jnp.where(p.valid(t), z, maths.NOWHERE)

    return logits


def softsort_rows(p: Program, degree: int | None, reach: float, refs) -> None:
    """P (rows, n), and theta and inv per row."""
    q_ref, x_ref, scale_ref, p_ref, norm_ref = refs
    scale = p.scalar(scale_ref)
    logits = _softsort_logits(p, p.rows(q_ref), x_ref, scale, reach)
    theta, inv = maths.normalise(p, degree, _fold(p, logits))
    inv = jnp.where(p.per_row(0.0) + scale > 0, inv, jnp.nan)  # a compiler's max may drop a NaN on the way

    def write(t, carry):
        p.put_tile(p_ref, t, maths.phi(degree, logits(t, True) - p.down(theta)) * p.down(inv))
        return carry

    p.over(write, jnp.int32(0))
    p.put_rows(norm_ref, 0, theta)
    p.put_rows(norm_ref, 1, inv)


def softsort_apply(p: Program, degree: int | None, reach: float, refs) -> None:
    """P times a payload (d, n), and theta and inv per row."""
    q_ref, x_ref, scale_ref, v_ref, y_ref, norm_ref = refs
    scale, d = p.scalar(scale_ref), v_ref.shape[-2]
    fold = _fold(p, _softsort_logits(p, p.rows(q_ref), x_ref, scale, reach))
    theta, inv = maths.normalise(p, degree, fold)
    inv = jnp.where(p.per_row(0.0) + scale > 0, inv, jnp.nan)

    def visit(t, z, sums):
        weight = maths.phi(degree, z - p.down(theta))
        values = [p.across(p.columns(v_ref, c, t)) for c in range(d)]
        return tuple(s + p.sum_rows(weight * v) for s, v in zip(sums, values, strict=True))

    sums = fold(visit, (p.per_row(0.0),) * d)
    for c in range(d):
        p.put_rows(y_ref, c, sums[c] * inv)
    p.put_rows(norm_ref, 0, theta)
    p.put_rows(norm_ref, 1, inv)


def softsort_back_rows(p: Program, degree: int | None, reach: float, refs) -> None:
    """From a cotangent g of P: per row the centre c, and the cotangents of its key and of tau.

    dP_ij = w_ij (dz_ij - dtheta_i), so zbar_ij = w_ij (g_ij - c_i) with c_i the mean of g under w.
    """
    *given, q_ref, x_ref, scale_ref, norm_ref, out_ref = refs
    q, scale = p.rows(q_ref), p.scalar(scale_ref)
    theta, inv = p.rows(norm_ref, 0), p.rows(norm_ref, 1)
    logits = _softsort_logits(p, q, x_ref, scale, reach)
    cotangent = _cotangent_by_rows(p, given)

    def visit(t, z, sums):
        w = maths.slope(degree, z - p.down(theta)) * p.down(inv)
        g = jnp.where(p.valid(t), cotangent(t), 0.0)
        side = maths.sign(p.down(q) - p.across(p.columns(x_ref, 0, t)))
        terms = w, w * g, w * side, w * g * side, w * z, w * g * z
        return tuple(s + p.sum_rows(term) for s, term in zip(sums, terms, strict=True))

    mass, mean, sides, key, logit, work = _fold(p, logits)(visit, (p.per_row(0.0),) * 6)
    centre = mean / mass
    p.put_rows(out_ref, 0, centre)
    p.put_rows(out_ref, 1, (centre * sides - key) * scale)
    p.put_rows(out_ref, 2, (centre * logit - work) * scale)


def softsort_back_columns(p: Program, degree: int | None, reach: float, refs) -> None:
    """From a cotangent g of P: the cotangents of the elements, and of their payload if g is w v^T."""
    *given, q_ref, x_ref, scale_ref, norm_ref, row_ref, out_ref = refs
    x, scale = p.columns(x_ref), p.scalar(scale_ref)
    d = given[1].shape[-2] if len(given) == 2 else 0
    cotangent = _cotangent_by_columns(p, given)

    def visit(t, sums):
        difference = p.down(p.rows(q_ref, 0, t)) - p.across(x)
        z = jnp.where(p.valid(t), maths.distance_logits(difference, scale, reach), maths.NOWHERE)
        z = jnp.where(p.valid(t), z - p.down(p.rows(norm_ref, 0, t)), maths.NOWHERE)
        inv = p.down(p.rows(norm_ref, 1, t))
        pull = maths.slope(degree, z) * inv * (cotangent(t) - p.down(p.rows(row_ref, 0, t)))
        terms = [jnp.where(p.valid(t), pull * maths.sign(difference), 0.0)]
        for c in range(d):
            terms.append(jnp.where(p.valid(t), maths.phi(degree, z) * inv * p.down(p.rows(given[0], c, t)), 0.0))
        return tuple(s + p.sum_columns(term) for s, term in zip(sums, terms, strict=True))

    sums = p.over(visit, (p.per_column(0.0),) * (1 + d))
    p.put_columns(out_ref, 0, sums[0] * scale)
    for c in range(d):
        p.put_columns(out_ref, 1 + c, sums[1 + c])


def _cotangent_by_rows(p: Program, given):
    """g of the own rows by tile of columns: given itself, or as the product of w (d, rows) and v (d, columns)."""
    if len(given) == 1:
        return lambda t: p.tile(given[0], t)
    w_ref, v_ref = given
    w = [p.rows(w_ref, c) for c in range(w_ref.shape[-2])]
    return lambda t: sum(p.down(a) * p.across(p.columns(v_ref, c, t)) for c, a in enumerate(w))


def _cotangent_by_columns(p: Program, given):
    """The same of the own columns by tile of rows."""
    if len(given) == 1:
        return lambda t: p.tile(given[0], t)
    w_ref, v_ref = given
    v = [p.columns(v_ref, c) for c in range(v_ref.shape[-2])]
    return lambda t: sum(p.down(p.rows(w_ref, c, t)) * p.across(a) for c, a in enumerate(v))
