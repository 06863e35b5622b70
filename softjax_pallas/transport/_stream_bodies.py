"""The kernels of transport to many anchors, over tiles (keys, anchors) of a plan that is never stored.

A key's entries are p = phi(z - shift) * inv: `norms` finds both numbers and every other kernel starts from them.
Kernels that own keys sum over anchors, those that own anchors sum over keys. With w = phi'(z - shift) * inv the
derivative of a key's entries in the direction g, and the transpose of that, is w (g - c), c the mean of g under w:
`centre` finds c, `couple` the sums over keys, `pull` those over anchors. For g = v `couple` is the Laplacian times v.

A direction is g_ia = sum_d w_di u_da + u_a, from channels of the keys and of the anchors, the last one alone, or a
stored matrix plus u_a.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from ..pairwise import _maths as maths
from ..pairwise._logits import Pairs
from ..pairwise._maths import Value
from ..pairwise._program import Program
from ..pairwise._tile_bodies import Kernel, add, weight_of


def norms(p: Program, pairs: Pairs, degree: int | None, common: tuple, refs: tuple) -> None:
    """Per key its shift and inv."""
    k, (out_ref,) = Kernel(p, pairs, degree, common, True), refs
    top = k.fold(lambda t, z, top: jnp.maximum(top, p.max_rows(z)), p.per_row(maths.NOWHERE))
    shift = top
    if degree is not None:
        below = lambda visit, start: k.fold(lambda t, z, carry: visit(t, z - p.down(top), carry), start)
        shift = top + maths.threshold(p, degree, below)
    # From the shift as it is stored, so that its rounding does not change what a key gives away.
    total = k.fold(lambda t, z, total: total + p.sum_rows(maths.phi(degree, z - p.down(shift))), p.per_row(0.0))
    p.put_rows(out_ref, 0, shift)
    p.put_rows(out_ref, 1, k.marked(1.0 / total))


def collect(p: Program, pairs: Pairs, degree: int | None, common: tuple, refs: tuple) -> None:
    """Per anchor the sums of p times the keys' channels, if any, and last of p."""
    k, (*payload, norm_ref, out_ref) = Kernel(p, pairs, degree, common, False), refs
    d = payload[0].shape[-2] if payload else 0

    def visit(t, z, sums):
        weight = weight_of(k, maths.phi, norm_ref, t, z)
        return add(
            sums, [*(p.sum_columns(weight * p.down(p.rows(payload[0], c, t))) for c in range(d)), p.sum_columns(weight)]
        )

    for c, total in enumerate(k.fold(visit, (p.per_column(0.0),) * (d + 1))):
        p.put_columns(out_ref, c, total)


def distribute(p: Program, pairs: Pairs, degree: int | None, common: tuple, refs: tuple) -> None:
    """Per key the sums of p times the anchors' channels."""
    k, (values_ref, norm_ref, out_ref) = Kernel(p, pairs, degree, common, True), refs
    d, shift, inv = values_ref.shape[-2], p.rows(norm_ref, 0), p.rows(norm_ref, 1)

    def visit(t, z, sums):
        weight = maths.phi(degree, z - p.down(shift))
        return add(sums, [p.sum_rows(weight * p.across(p.columns(values_ref, c, t))) for c in range(d)])

    for c, total in enumerate(k.fold(visit, (p.per_row(0.0),) * d)):
        p.put_rows(out_ref, c, total * inv)


def plan(p: Program, pairs: Pairs, degree: int | None, common: tuple, refs: tuple) -> None:
    """The plan (keys, anchors), every anchor's entries times a value of its own."""
    k, (values_ref, norm_ref, out_ref) = Kernel(p, pairs, degree, common, True), refs
    shift, inv = p.rows(norm_ref, 0), p.rows(norm_ref, 1)

    def write(t, carry):
        weight = maths.phi(degree, k.logits(t, True) - p.down(shift)) * p.down(inv)
        p.put_tile(out_ref, t, weight * p.across(p.columns(values_ref, 0, t)))
        return carry

    lax.fori_loop(k.start, k.stop, write, jnp.int32(0))


class Stored:
    """Marks the reference to a direction's matrix, so that it is not taken for channels of the keys."""

    def __init__(self, ref: Any):
        self.ref = ref


def _direction(k: Kernel, given):
    """g by tile."""
    p, (*first, u_ref) = k.p, given
    alone = u_ref.shape[-2] - 1

    def at(t: Value) -> Value:
        of_key, of_anchor = (None, t) if k.by_rows else (t, None)
        g = p.across(p.columns(u_ref, alone, of_anchor))
        if first and isinstance(first[0], Stored):
            return g + p.tile(first[0].ref, t)
        for c in range(alone):
            g = g + p.down(p.rows(first[0], c, of_key)) * p.across(p.columns(u_ref, c, of_anchor))
        return g

    return at


def _means(k: Kernel, shift: Value, *tiles: Any) -> list[Value]:
    """Per key the means under w of tiles f(tile index)."""
    p = k.p

    def visit(t, z, sums):
        w = maths.slope(k.degree, z - p.down(shift))
        return add(sums, map(p.sum_rows, (w, *(w * tile(t) for tile in tiles))))

    mass, *totals = k.fold(visit, (p.per_row(0.0),) * (1 + len(tiles)))
    return [total / mass for total in totals]


def centre(p: Program, pairs: Pairs, degree: int | None, common: tuple, refs: tuple) -> None:
    """Per key the mean of g under w."""
    k, (*given, norm_ref, out_ref) = Kernel(p, pairs, degree, common, True), refs
    p.put_rows(out_ref, 0, _means(k, p.rows(norm_ref, 0), _direction(k, given))[0])


def couple(p: Program, pairs: Pairs, degree: int | None, common: tuple, refs: tuple) -> None:
    """Per anchor the sum of w (g - c)."""
    k, (*given, norm_ref, centre_ref, out_ref) = Kernel(p, pairs, degree, common, False), refs
    direction = _direction(k, given)

    def visit(t, z, total):
        bar = weight_of(k, maths.slope, norm_ref, t, z) * (direction(t) - p.down(p.rows(centre_ref, 0, t)))
        return total + p.sum_columns(jnp.where(p.valid(t), bar, 0.0))

    p.put_columns(out_ref, 0, k.fold(visit, p.per_column(0.0)))


def pull(p: Program, pairs: Pairs, degree: int | None, common: tuple, refs: tuple) -> None:
    """Per key the sum of w (g - c) dz/dy, its cotangent, and the sums of p times the anchors' channels but the last."""
    k, (*given, norm_ref, out_ref) = Kernel(p, pairs, degree, common, True), refs
    direction, shift, inv = _direction(k, given), p.rows(norm_ref, 0), p.rows(norm_ref, 1)
    u_ref = given[-1]
    d = u_ref.shape[-2] - 1
    by_key = lambda t: pairs.by_row(p, *k.sides(t), k.scale)[0]
    # Once more over the anchors: the mean of a product less the product of means would cancel. dz/dy also less its own
    # mean, which multiplies only what rounding leaves of the sum of w (g - c).
    middle, level = _means(k, shift, direction, by_key)

    def visit(t, z, sums):
        rest = z - p.down(shift)
        bar = maths.slope(degree, rest) * (direction(t) - p.down(middle)) * (by_key(t) - p.down(level))
        weight = maths.phi(degree, rest)
        return add(sums, [p.sum_rows(bar), *(p.sum_rows(weight * p.across(p.columns(u_ref, c, t))) for c in range(d))])

    for c, total in enumerate(k.fold(visit, (p.per_row(0.0),) * (1 + d))):
        p.put_rows(out_ref, c, total * inv)


def _stored(body, p: Program, pairs: Pairs, degree: int | None, common: tuple, refs: tuple) -> None:
    matrix, *rest = refs
    body(p, pairs, degree, common, (Stored(matrix), *rest))


def centre_of_matrix(p: Program, pairs: Pairs, degree: int | None, common: tuple, refs: tuple) -> None:
    """`centre` for a direction that is stored."""
    _stored(centre, p, pairs, degree, common, refs)


def couple_of_matrix(p: Program, pairs: Pairs, degree: int | None, common: tuple, refs: tuple) -> None:
    """`couple` for a direction that is stored."""
    _stored(couple, p, pairs, degree, common, refs)


def pull_of_matrix(p: Program, pairs: Pairs, degree: int | None, common: tuple, refs: tuple) -> None:
    """`pull` for a direction that is stored."""
    _stored(pull, p, pairs, degree, common, refs)
