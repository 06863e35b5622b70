"""The kernels over tiles, for both methods and all modes. Rows: O(r n) work; with bounds, only the tiles that matter.

Operands common to all: values per row, values per column, 1 / tau, and the bounds of the tiles to visit where the
matrix has a band. `Kernel` is bound to one program and knows how to fold over its tiles.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from . import maths
from .logits import NeuralSortPairs, Pairs
from .maths import Value
from .program import Program


class Kernel:
    """One program at work: logits of its own rows or columns by tile, and folds over the tiles."""

    def __init__(self, p: Program, pairs: Pairs, degree: int | None, common: tuple, by_rows: bool):
        self.p, self.pairs, self.degree, self.by_rows = p, pairs, degree, by_rows
        self.row_ref, self.column_ref, scale_ref, *bounds = common
        self.scale = p.scalar(scale_ref)
        self.own = pairs.of_rows(p, self.row_ref, None) if by_rows else pairs.of_columns(p, self.column_ref, None)
        self.start, self.stop = (p.bound(bounds[0], 0), p.bound(bounds[0], 1)) if bounds else (0, p.tiles)

    def sides(self, t: Value) -> tuple[Any, Any]:
        """Rows' and columns' values of a visited tile."""
        if self.by_rows:
            return self.own, self.pairs.of_columns(self.p, self.column_ref, t)
        return self.pairs.of_rows(self.p, self.row_ref, t), self.own

    def logits(self, t: Value, everywhere: bool = False) -> Value:
        """Logits of a visited tile; `everywhere` also where a sum must not see them."""
        z = self.pairs.logits(self.p, *self.sides(t), self.scale)
        return z if everywhere else jnp.where(self.p.valid(t), z, maths.NOWHERE)

    def fold(self, visit, start):
        """visit(tile, logits, carry) -> carry over the tiles."""
        return lax.fori_loop(self.start, self.stop, lambda t, carry: visit(t, self.logits(t), carry), start)

    def normalise(self) -> tuple[Value, Value]:
        """theta and inv of the own rows; inv is marked, since a compiler's max may drop a NaN."""
        theta, inv = maths.normalise(self.p, self.degree, self.fold)
        return theta, self.marked(inv)

    def marked(self, v: Value) -> Value:
        """A value per row, NaN where 1 / tau is."""
        return jnp.where(self.p.per_row(0.0) + self.scale > 0, v, jnp.nan)


def add(sums, terms):
    return tuple(s + term for s, term in zip(sums, terms, strict=True))


def rows(p: Program, pairs: Pairs, degree: int | None, common: tuple, refs: tuple) -> None:
    """P (rows, n), and theta and inv per row."""
    k, (out_ref, norm_ref) = Kernel(p, pairs, degree, common, True), refs
    theta, inv = k.normalise()

    def write(t, carry):
        p.put_tile(out_ref, t, maths.phi(degree, k.logits(t, True) - p.down(theta)) * p.down(inv))
        return carry

    lax.fori_loop(k.start, k.stop, write, jnp.int32(0))
    p.put_rows(norm_ref, 0, theta)
    p.put_rows(norm_ref, 1, inv)


def apply(p: Program, pairs: Pairs, degree: int | None, common: tuple, refs: tuple) -> None:
    """P times a payload (d, n), and theta and inv per row."""
    k, (v_ref, y_ref, norm_ref) = Kernel(p, pairs, degree, common, True), refs
    d = v_ref.shape[-2]
    theta, inv = k.normalise()

    def visit(t, z, sums):
        weight = maths.phi(degree, z - p.down(theta))
        return add(sums, [p.sum_rows(weight * p.across(p.columns(v_ref, c, t))) for c in range(d)])

    sums = k.fold(visit, (p.per_row(0.0),) * d)
    for c in range(d):
        p.put_rows(y_ref, c, sums[c] * inv)
    p.put_rows(norm_ref, 0, theta)
    p.put_rows(norm_ref, 1, inv)


def column_sums(p: Program, pairs: NeuralSortPairs, degree: int | None, common: tuple, refs: tuple) -> None:
    """Per column sum_r P_rj and sum_r P_rj (r - j)."""
    k, (norm_ref, out_ref) = Kernel(p, pairs, degree, common, False), refs

    def visit(t, z, sums):
        weight = weight_of(k, maths.phi, norm_ref, t, z)
        return add(sums, [p.sum_columns(weight), p.sum_columns(weight * pairs.offset(p, *k.sides(t)))])

    for c, total in enumerate(k.fold(visit, (p.per_column(0.0),) * 2)):
        p.put_columns(out_ref, c, total)


def weight_of(k: Kernel, function, norm_ref: Any, t: Value, z: Value) -> Value:
    """phi or its slope, normalised, of the own columns in a tile of rows; zero where there is no row."""
    p = k.p
    w = function(k.degree, z - p.down(p.rows(norm_ref, 0, t))) * p.down(p.rows(norm_ref, 1, t))
    return jnp.where(p.valid(t), w, 0.0)


def back_rows(p: Program, pairs: Pairs, degree: int | None, common: tuple, refs: tuple) -> None:
    """From a cotangent g of P: per row the centre c, and what its own key gets.

    dP_rj = w_rj (dz_rj - dtheta_r), so zbar_rj = w_rj (g_rj - c_r) with c_r the mean of g under w.
    """
    k, (*given, norm_ref, out_ref) = Kernel(p, pairs, degree, common, True), refs
    theta, inv = p.rows(norm_ref, 0), p.rows(norm_ref, 1)
    cotangent = _cotangent(k, given)

    def visit(t, z, sums):
        w = maths.slope(degree, z - p.down(theta)) * p.down(inv)
        g = jnp.where(p.valid(t), cotangent(t), 0.0)
        terms = [w, w * g]
        for f in pairs.by_row(p, *k.sides(t), k.scale):
            terms += [w * f, w * g * f]
        return add(sums, map(p.sum_rows, terms))

    mass, mean, *own = k.fold(visit, (p.per_row(0.0),) * (2 + 2 * pairs.row_terms))
    centre = mean / mass
    p.put_rows(out_ref, 0, centre)
    for c in range(pairs.row_terms):
        p.put_rows(out_ref, 1 + c, own[2 * c + 1] - centre * own[2 * c])


def back_columns(p: Program, pairs: Pairs, degree: int | None, common: tuple, refs: tuple) -> None:
    """From a cotangent g of P: column sums of zbar times what the method asks for, of zbar z; P^T w if g = w v^T."""
    k, (*given, norm_ref, centre_ref, out_ref) = Kernel(p, pairs, degree, common, False), refs
    d = given[1].shape[-2] if len(given) == 2 else 0
    cotangent = _cotangent(k, given)

    def visit(t, z, sums):
        pull = weight_of(k, maths.slope, norm_ref, t, z) * (cotangent(t) - p.down(p.rows(centre_ref, 0, t)))
        pull = jnp.where(p.valid(t), pull, 0.0)
        terms = [pull if f is None else pull * f for f in pairs.by_column(p, *k.sides(t), k.scale)]
        terms.append(pull * jnp.where(p.valid(t), z, 0.0))
        if d:
            weight = weight_of(k, maths.phi, norm_ref, t, z)
            terms += [jnp.where(p.valid(t), weight * p.down(p.rows(given[0], c, t)), 0.0) for c in range(d)]
        return add(sums, map(p.sum_columns, terms))

    for c, total in enumerate(k.fold(visit, (p.per_column(0.0),) * (pairs.column_terms + 1 + d))):
        p.put_columns(out_ref, c, total)


def _cotangent(k: Kernel, given):
    """g by tile: a matrix; w (d, rows) times v (d, columns); or, for a rank, ((r - j) - m_j) h_j from (m, h)."""
    p = k.p
    if len(given) == 2:
        w_ref, v_ref = given
        return lambda t: _product(k, w_ref, v_ref, t)
    (ref,) = given
    if isinstance(ref, Offsets):
        tile = lambda t: t if k.by_rows else None

        def from_offsets(t):
            m, h = (p.across(p.columns(ref.ref, c, tile(t))) for c in range(2))
            assert isinstance(k.pairs, NeuralSortPairs)
            return (k.pairs.offset(p, *k.sides(t)) - m) * h

        return from_offsets
    return lambda t: p.tile(ref, t)


class Offsets:
    """Marks the reference to (m, h), so that it is not taken for a matrix."""

    def __init__(self, ref: Any):
        self.ref = ref


def _product(k: Kernel, w_ref: Any, v_ref: Any, t: Value) -> Value:
    of_row, of_column = (None, t) if k.by_rows else (t, None)
    total = None
    for c in range(w_ref.shape[-2]):
        term = k.p.down(k.p.rows(w_ref, c, of_row)) * k.p.across(k.p.columns(v_ref, c, of_column))
        total = term if total is None else total + term
    return total


def back_rows_of_rank(p: Program, pairs: Pairs, degree: int | None, common: tuple, refs: tuple) -> None:
    """`back_rows` for the cotangent of a column-normalised rank."""
    offsets, *rest = refs
    back_rows(p, pairs, degree, common, (Offsets(offsets), *rest))


def back_columns_of_rank(p: Program, pairs: Pairs, degree: int | None, common: tuple, refs: tuple) -> None:
    """`back_columns` for the cotangent of a column-normalised rank."""
    offsets, *rest = refs
    back_columns(p, pairs, degree, common, (Offsets(offsets), *rest))
