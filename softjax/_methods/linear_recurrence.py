"""Sums over smaller and over larger keys of ascending rows, weighted by exp(-|s_i - s_j| / tau), by recurrences.

With a_i = exp(-(s_i - s_{i-1}) / tau), from the left

    (F p)_i = p_i + a_i (F p)_{i-1}     over elements up to i, by index,
    (L p)_i = a_i (F p)_{i-1}           over smaller keys only: at a tie that of the element before,

and from the right G = F^T and R = L^T. A factor of 0 cuts: nothing crosses it, no infinity and no NaN. What links rows
is 0, so on the CPU all of them are one sequence and both directions one loop over its elements, which XLA compiles to a
few scalar instructions an element. Elsewhere every row is an associative scan (Blelloch, "Prefix sums and
their applications", 1990).

The derivative of |s_i - s_j| is 0 at ties, so that a sum's is made of L and R alone: along ds

    tau d(F p) = tau d(L p) = L(ds p) - ds L p,        tau d(G p) = tau d(R p) = ds R p - R(ds p).
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.interpreters import ad

from .._primitive import Operator, Target
from .._types import Float
from .base import Keys, PerRow

Channels = Float[Array, "batch d n"]
Pair = tuple[Channels, ...]
"""Of the left, and of the right."""


def _before(a: Array, axis: int, reverse: bool, first: Any = 0) -> Array:
    """The element before every one in the direction of travel, `first` for the first."""
    pad = [(0, 0, 0)] * a.ndim
    pad[axis] = (-1, 1, 0) if reverse else (1, -1, 0)
    return lax.pad(a, jnp.asarray(first, a.dtype), pad)


def _links(s: Keys, tau: PerRow, reach: float) -> Keys:
    """exp(-(s_{i+1} - s_i) / tau), but -1 at ties, and 0 for the last key. With a tau of 0 all but ties are 0."""
    gap, scale = _before(s, -1, True, jnp.inf) - s, tau[:, None]
    decay = jnp.where(gap <= reach * scale, jnp.exp(-gap / scale), jnp.zeros_like(gap))
    return jnp.where(gap == 0, -jnp.ones_like(gap), decay)


def _across(link: Array, total: Array) -> Array:
    return jnp.where(link == 0, jnp.zeros_like(total), jnp.abs(link) * total)


def _in_turn(links: Keys, p: Pair, *q: Pair) -> list[Pair]:
    """F p + L q and L (p + q) from either side, in one loop over the elements of all rows."""
    batch, d, n = p[0].shape
    size = batch * n
    if isinstance(size, int) and size == 0:
        return [p, p]
    links = links[:, None]
    first, length = jnp.uint32(0), jnp.asarray(n, jnp.uint32)
    at = lambda a, row, i: lax.dynamic_slice(a, (row, first, i), (1, a.shape[1], 1), allow_negative_indices=False)
    put = lambda a, x, row, i: lax.dynamic_update_slice(a, x, (row, first, i), allow_negative_indices=False)

    def step(state):
        i, (total, own, smaller), out = state
        row, place = lax.div(i, length), lax.rem(i, length)
        # A barrier, or a compiler repeats what is an index of several arrays.
        row, place, behind = lax.optimization_barrier((row, place, length - 1 - place))
        both = lambda pair, at_: jnp.concatenate([at(a, row, k) for a, k in zip(pair, at_, strict=True)])
        # Before the first element is a number beyond all, and so the last link, 0.
        places, link = (place, behind), both((links, links), (place - 1, behind))
        given, *moved = (both(pair, places) for pair in (p, *q))
        reached, tied = _across(link, total), link < 0
        smaller = jnp.where(tied, smaller, reached)
        total = reached + given
        own = given + jnp.where(tied, own, reached) if moved else total
        put_both = lambda pair, x: tuple(put(a, x[k : k + 1], row, places[k]) for k, a in enumerate(pair))
        return i + 1, (sum(moved, total), own, smaller), [*map(put_both, out, (own, smaller))]

    start = first, (jnp.zeros((2, d, 1), p[0].dtype),) * 3, [p, p]
    return lax.while_loop(lambda state: state[0] < size, step, start)[2]


def _combine(left, right):
    return left[0] * right[0], right[1] + _across(right[0], left[1])


def _scanned(links: Keys, p: Pair, *q: Pair) -> list[Pair]:
    """The same by associative scans."""

    def way(reverse, link, p, *q):
        scan = lambda factor, u: lax.associative_scan(_combine, (factor, u), axis=2, reverse=reverse)[1]
        total, tied = scan(jnp.abs(link), sum(q, p)), link < 0
        start = jnp.where(tied, jnp.zeros_like(total), _across(link, _before(total, 2, reverse)))
        held = lambda u: scan(tied.astype(u.dtype), u)
        return held(p + start) if q else total, held(start)

    both = _before(links, 1, False)[:, None], links[:, None]
    return [*zip(*map(way, (False, True), both, p, *q), strict=True)]


@dataclasses.dataclass(frozen=True)
class Sums(Operator):
    """(s, tau | p, q, p', q') -> F p + L q, L (p + q), G p' + R q', R (p' + q').

    There are q if `moved`, and the second and the fourth result if `apart`. `by_index` has the keys before by index in
    place of those that are smaller: for functions of the keys that are differentiable at ties.
    """

    reach: float
    moved: bool = False
    apart: bool = False
    by_index: bool = False
    fixed = 2

    def run(self, *args: Array) -> tuple[Array, ...]:
        by = lambda form: partial(self._by, form)
        return lax.platform_dependent(*args, cpu=by(_in_turn), default=by(self._elsewhere(args[0])))

    def run_on(self, target: Target | None, *args: Array) -> tuple[Array, ...]:
        if target is None:
            return self.run(*args)
        return self._by(_in_turn if target.platform == "cpu" else self._elsewhere(args[0]), *args)

    def _elsewhere(self, s: Array) -> Callable[..., list[Pair]]:
        return _scanned if isinstance(s.shape[-1], int) else _in_turn  # no scan takes a symbolic length

    def _by(self, form: Callable[..., list[Pair]], s: Array, tau: Array, *columns: Array) -> tuple[Array, ...]:
        links = _links(s, tau, self.reach)
        kinds = form(jnp.abs(links) if self.by_index else links, *zip(*_sides(columns), strict=True))
        return tuple(a for side in zip(*kinds, strict=True) for a in side[: 1 + self.apart])

    def shapes(self, *args):
        return [args[2]] * (2 + 2 * self.apart)

    def transpose(self, fixed, cotangents):
        mirrored = dataclasses.replace(self, moved=self.apart, apart=self.moved)
        return _exchanged(mirrored.bind(*fixed, *_exchanged(cotangents)))

    def jvp(self, primals, tangents):
        if all(isinstance(t, ad.Zero) for t in tangents[:2]):
            return super().jvp(primals, tangents)
        s, tau, *columns = primals
        ds, dtau, *moves = map(ad.instantiate_zeros, tangents)
        sums = dataclasses.replace(self, apart=True).bind(*primals)
        softened = None if isinstance(tangents[1], ad.Zero) else dtau / tau
        sides = zip(self._changes(s, tau, ds, softened), *map(_sides, (columns, moves, sums)), strict=True)
        given, along, out = [], [], []
        for change, (p, *q), (dp, *dq), (own, smaller) in sides:
            moved, added = change(sum(q, p), smaller)
            given += [dp, sum(dq, moved)]
            along += [added] * (1 + self.apart)
            out += [own, smaller][: 1 + self.apart]
        dout = dataclasses.replace(self, moved=True).bind(s, tau, *given)
        return out, [*map(jnp.add, dout, along)]

    def _changes(self, s: Array, tau: Array, ds: Array, dtau: Array | None) -> list[Callable[[Array, Array], tuple]]:
        """For either direction: from w and L w, what it adds to q, and to the sums, that s and log tau change."""
        rate = (ds / tau[..., None])[..., None, :]
        rates = (rate, -rate)
        if dtau is None:
            return [lambda w, sums, a=a, b=b: (a * w, b * sums) for a, b in (rates, rates[::-1])]
        # Along log tau: sums of w times the distance / tau, which are L(gap L w) + (distance to the next key) L w.
        gap = jnp.clip((s - _before(s, -1, False)) / tau[..., None], 0, self.reach)[..., None, :]
        gaps = gap, _before(gap, -1, True)
        distances = gaps if self.by_index else Sums(self.reach).bind(lax.stop_gradient(s), jnp.zeros_like(tau), *gaps)
        growth = dtau[..., None, None]

        def change(rate, gap, distance, w, sums):
            return rate * w + growth * gap * sums, (growth * distance - rate) * sums

        return [partial(change, *of) for of in zip(rates, gaps, distances, strict=True)]


def _sides(arrays: Sequence[Array]) -> tuple[Sequence[Array], Sequence[Array]]:
    half = len(arrays) // 2
    return arrays[:half], arrays[half:]


def _exchanged(arrays: Sequence[Array]) -> tuple[Array, ...]:
    left, right = _sides(arrays)
    return *right, *left


def both_sides(s: Keys, tau: PerRow, reach: float, v: Channels) -> Channels:
    """sum_j exp(-|s_i - s_j| / tau) v_j for every i of ascending keys; nothing further than reach * tau counts."""
    left, right = Sums(reach).bind(s, tau, v, v)
    return left + right - v
