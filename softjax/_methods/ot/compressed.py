"""Smooth transport on Chebyshev points in place of the keys, in time that their number enters by one pass.

Row i of the plan is softmax_j(psi_j + 2 (y_i - 1/2) (a_j - 1/2) / tau): it depends on the key y_i alone, as a function
without poles where |Im y| < pi tau / 2. Sums over keys are therefore sums over m points (`chebyshev`), whatever the
potentials, and so the transport of m weighted keys has the potentials of the whole. Rows depend on a_j in the same
way, so that a run of many neighbouring ranks becomes m points too, with the weights (`shares`) of their own sums.

The potentials are found by Sinkhorn's update, corrected on a coarse space. An update is a step of Newton's method as if
the Hessian were its diagonal; what that leaves is smooth along the anchors, because the plan is, and a few
polynomials hold it (two-level methods: Xu, "Iterative methods by space decomposition", 1992).

How many points are enough is known beforehand, from the softness (`method`).
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..._modes import SMOOTH
from ..._primitive import unit_of
from ..._sharding import vary_alike
from ..._types import Float, Int
from ..base import Keys, PerRow
from . import newton_cg
from .chebyshev import POINTS, Interpolated, NodeWeights, PerKey, PerNode, lagrange, points
from .semidual_newton import Problem, solve_definite

MANY = 64
"""From so many ranks a panel on points stand for a run of them."""
_SINKHORN = 4
"""Rounds that come first where there are fillers, whose masses are so much larger than the others'."""
_MAX_STEPS = 40
_STRIDE = 2.0
"""The most that a potential moves by Newton's method at a time: beyond it the plan is another one."""
_KNOWN = 4096
"""Up to so many ranks a constant holds the polynomials at each."""

Potentials = Float[Array, "batch k"]
Plan = Float[Array, "batch k m"]

_sum = partial(jnp.einsum, precision=lax.Precision.HIGHEST)


class Anchors(NamedTuple):
    """Anchors that stand for the bins of neighbouring ranks: fillers, and the run of `size` bins between them.

    Sums over bins are sums over anchors times `shares`; `masses` are those of one bin. `run` says which anchors hold
    the wanted ranks, or points that stand for them if `many`. `coarse` spans what Sinkhorn's update leaves.
    """

    places: Any
    shares: np.ndarray
    masses: Any
    coarse: Any
    run: slice
    size: int
    many: bool = False


def anchors(ranks: range, n: int, panels: int, degrees: int) -> Anchors:
    """The anchors of neighbouring ranks of n elements, whose coarse space has so many dimensions along the run."""
    count, before, behind = len(ranks), ranks.start > 0, ranks.stop < n
    places = np.linspace(0, 1, count + before + behind) if count + before + behind > 1 else np.zeros(1)
    wanted = places[before : before + count]
    many = count >= MANY * panels  # fewer would have points between them, of negative shares
    if many:
        middle, half = (wanted[0] + wanted[-1]) / 2, (wanted[-1] - wanted[0]) / 2
        along, shares = points(panels), _shares(count, panels)
        wanted = middle + half * along
    else:
        along, shares = np.linspace(-1, 1, count), np.ones(count)
    ends = lambda low, high: (np.full(int(before), low), np.full(int(behind), high))
    around = lambda low, middle, high: np.concatenate([ends(low, high)[0], middle, ends(low, high)[1]])
    coarse = np.cos(np.outer(np.arccos(np.clip(along, -1, 1)), np.arange(min(degrees, len(along)))))
    coarse = np.pad(coarse, ((int(before), int(behind)), (0, int(before and behind))))
    if before and behind:
        # Of the smaller filler: the larger one's mass has few digits for that of a rank.
        coarse[0 if ranks.start < n - ranks.stop else -1, -1] = 1
    elif not (before or behind):
        coarse = coarse[:, 1:]  # potentials that all move alike move nothing
    shares, masses = around(1, shares, 1), around(ranks.start, np.ones(len(wanted)), n - ranks.stop)
    run = slice(int(before), int(before) + len(wanted))
    return Anchors(around(0, wanted, 1), shares, masses, coarse, run, count, many)


@cache
def _shares(count: int, panels: int) -> np.ndarray:
    """The weights of the points for sums over so many ranks."""
    places = np.array_split(np.linspace(-1, 1, count), 1 + count // 2**16)
    return np.sum([lagrange(some, panels).sum(axis=1) for some in places], axis=0)


def anchors_of_one(rank: Array, n: int) -> Anchors:
    """The same for one rank, which may be traced: beside the first or the last one a filler is next to empty."""
    none, one = jnp.zeros_like(rank), jnp.ones_like(rank)
    masses = jnp.maximum(jnp.concatenate([rank, one, n - 1 - rank]), 8 * jnp.finfo(rank.dtype).eps)
    place = (1 + jnp.sign(rank) + jnp.sign(rank - (n - 1))) / 2  # at its empty neighbour's
    smaller = jnp.where(rank < n - 1 - rank, one, none)  # the other filler has few digits for a rank's mass
    coarse = jnp.stack([jnp.concatenate([none, one, none]), jnp.concatenate([smaller, none, 1 - smaller])], axis=1)
    return Anchors(jnp.concatenate([none, place, one]), np.ones(3), masses, coarse, slice(1, 2), 1)


class Sums(NamedTuple):
    """What stands for sums over keys of 1 and of d columns: weights of the points, (batch, 1 + d, m).

    The derivative by a key's place is better taken of a function at the points than of its interpolant: `weights` do
    not vary with places, `moved` is 0 and varies instead, and multiplies that derivative. `live` are weights that vary
    in the usual way, for what is differentiated twice.
    """

    weights: PerNode
    moved: PerNode
    live: PerNode

    def part(self, some: slice) -> "Sums":
        """Some of the columns."""
        return Sums(*(w[:, some] for w in self))


def sums_over(t: Keys, columns: PerKey, panels: int) -> Sums:
    """The sums over keys at places t of 1 and of such columns."""
    live = NodeWeights(panels)(t, jnp.concatenate([jnp.ones_like(t)[:, None], columns], axis=1))
    fixed, moved = _apart(panels, t, columns, live)
    return Sums(fixed, moved, live)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _apart(panels: int, t: Keys, columns: PerKey, live: PerNode) -> tuple[PerNode, PerNode]:
    return live, jnp.zeros_like(live)


@_apart.defjvp
def _apart_jvp(panels, primals, tangents):
    (t, columns, live), (dt, changed, _) = primals, tangents
    dt = dt[:, None]
    moved, changed = jnp.split(
        NodeWeights(panels)(t, jnp.concatenate([dt, columns * dt, changed], axis=1)), [live.shape[1]], axis=1
    )
    return _apart(panels, t, columns, live), (jnp.pad(changed, ((0, 0), (1, 0), (0, 0))), moved)


class Nodes(NamedTuple):
    """Transport of weighted keys, of which only their distance from the middle of the row's range is known."""

    keys: Float[Array, "batch m"]
    counts: Sums
    tau: PerRow
    places: Float[Array, " k"]
    shares: Float[Array, "1 k"]
    masses: Float[Array, "batch k"]
    coarse: Float[Array, "k c"]


def _lift(nodes: Nodes) -> Plan:
    return (2 / nodes.tau)[:, None, None] * nodes.keys[:, None, :] * (nodes.places - 0.5)[None, :, None]


def plan(psi: Potentials, nodes: Nodes) -> Plan:
    """What an anchor receives of each key, a density along the anchors: sums with `shares` are 1."""
    e = jnp.exp(psi[:, :, None] + _lift(nodes))  # exponents are a few dozen at most: tau is a tenth
    return e / _sum("bkm,k->bm", e, nodes.shares[0])[:, None, :]


def slope(p: Plan, nodes: Nodes) -> Plan:
    """The plan's derivative by the keys' places in [-1, 1]."""
    places = nodes.places - 0.5
    mean = _sum("bkm,k->bm", p, nodes.shares[0] * places)
    half = nodes.keys[:, :1] / float(points(nodes.keys.shape[1] // POINTS)[0])
    steep = (2 / nodes.tau)[:, None] * half
    return p * steep[:, :, None] * (places[None, :, None] - mean[:, None, :])


def received(p: Plan, weights: PerNode) -> Float[Array, "batch k d"]:
    """What each anchor receives, of every column."""
    return _sum("bkm,bdm->bkd", p, weights)


@jax.custom_jvp
def collected(p: Plan, columns: Sums, nodes: Nodes) -> Float[Array, "batch k d"]:
    """What each anchor receives of every column, where the plan is that of the nodes."""
    return received(p, columns.weights)


@collected.defjvp
def _collected_jvp(primals, tangents):
    return collected(*primals), _moved(*primals, *tangents[:2])


def _moved(p: Plan, columns: Sums, nodes: Nodes, dp: Plan, change: Sums) -> Float[Array, "batch k d"]:
    """How `collected` changes with the plan and the sums."""
    return received(dp, columns.live) + received(p, change.weights) + received(slope(p, nodes), change.moved)


def _curvature(p: Plan, nodes: Nodes, v: Float[Array, "batch k c"]) -> Float[Array, "batch k c"]:
    """H v for the derivative H of what anchors receive by psi, times shares: symmetric."""
    q, weights = p * nodes.shares[:, :, None], nodes.counts.live
    own = received(q, weights) * v
    return own - _sum("bkm,bcm->bkc", q, weights * _sum("bkm,bkc->bcm", q, v))


def _two_levels(p: Plan, nodes: Nodes) -> Callable[[Potentials], Potentials]:
    """An approximate inverse of H."""
    diagonal = nodes.shares * nodes.masses
    turned = _curvature(p, nodes, jnp.broadcast_to(nodes.coarse, (p.shape[0], *nodes.coarse.shape)))
    h = _sum("kc,bkd->bcd", nodes.coarse, turned)

    def apply(rhs):
        fine = rhs / diagonal
        left = _sum("kc,bk->bc", nodes.coarse, rhs) - _sum("bkc,bk->bc", turned, fine)
        return fine + _sum("kc,bc->bk", nodes.coarse, solve_definite(h, left))

    return apply


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def potentials(rounds: int, nodes: Nodes) -> Potentials:
    """The potentials at which anchors receive their masses; so many of Sinkhorn's updates alone come first."""
    return search(rounds, nodes)[0]


def search(rounds: int, nodes: Nodes) -> tuple[Potentials, Int[Array, ""]]:
    """The potentials, and how many steps it took."""
    enough = float(jnp.finfo(nodes.keys.dtype).eps) ** 0.6
    kernel, weights = jnp.exp(_lift(nodes)), nodes.counts.weights

    def sinkhorn(_, u):
        seen = weights[:, 0] / _sum("bkm,bk->bm", kernel, nodes.shares * u)
        ratio = u * _sum("bkm,bm->bk", kernel, seen) / nodes.masses
        return u / jnp.maximum(ratio, 1e-3)  # rounding may leave less than nothing

    psi, _ = vary_alike((jnp.zeros_like(nodes.masses), nodes.keys))
    if rounds:
        psi = jnp.log(lax.fori_loop(0, rounds, sinkhorn, jnp.exp(psi)))

    def improve(state):
        psi, last, _, step = state
        p = plan(psi, nodes)
        mass = received(p, weights)[:, :, 0]
        newton = jnp.clip(_two_levels(p, nodes)(nodes.shares * (mass - nodes.masses)), -_STRIDE, _STRIDE)
        # Far from the solution Newton's step may lead nowhere, for ever; Sinkhorn's always leads on.
        ratio = jnp.log(jnp.maximum(mass / nodes.masses, 1e-3))
        off = jnp.max(jnp.abs(ratio), axis=1, keepdims=True)
        going = jnp.any((off > enough) & ((off > 0.01) | (off < last / 2)))  # near it rounding may keep it off
        return psi - jnp.where(off > 1, ratio, newton), off, going, step + 1

    def unfinished(state):
        return state[2] & (state[3] < _MAX_STEPS)

    first = psi, jnp.full_like(nodes.tau, jnp.inf)[:, None], jnp.ones((), bool), jnp.zeros((), jnp.int32)
    psi, _, _, steps = lax.while_loop(unfinished, improve, vary_alike(first))
    return psi, steps + rounds


@potentials.defjvp
def _potentials_jvp(rounds, primals, tangents):
    (nodes,), (change,) = primals, tangents
    psi = potentials(rounds, nodes)
    p, dp = jax.jvp(lambda tau: plan(psi, nodes._replace(tau=tau)), (nodes.tau,), (change.tau,))
    moved = _moved(p, nodes.counts, nodes, dp, change.counts)[:, :, 0]
    return psi, -_response(p, nodes, nodes.shares * (moved - change.masses))


def _response(p: Plan, nodes: Nodes, rhs: Potentials) -> Potentials:
    """H^-1 rhs."""

    def solve(matvec, rhs):
        inverse = _two_levels(p, nodes)
        step = lambda _, x: x + inverse(rhs - matvec(x))
        refinements = 6 if jnp.finfo(rhs.dtype).bits <= 32 else 12
        return lax.fori_loop(0, refinements, step, vary_alike((jnp.zeros_like(rhs), rhs))[0])

    matvec = lambda v: _curvature(p, nodes, v[:, :, None])[:, :, 0]
    return lax.custom_linear_solve(matvec, rhs, solve, symmetric=True)


class Compressed(NamedTuple):
    """A solved problem: its anchors, the keys from the middle of their range and as places in [-1, 1], the sums over
    them, the points with their potentials, the plan there, and the middle and the unit of the payload."""

    held: Anchors
    keys: Keys
    t: Keys
    columns: Sums
    nodes: Nodes
    psi: Potentials
    p: Plan
    middle: Float[Array, "batch 1 d"]
    unit: Float[Array, "batch 1 d"]

    def values(self) -> Float[Array, "batch r d"]:
        """Rows of P times the payload."""
        values = (collected(self.p, self.columns, self.nodes) / self._mass)[:, self.held.run]
        return (self._at_ranks(values) if self.held.many else values) * self.unit + self.middle

    def rows(self) -> Float[Array, "batch r n"]:
        """Rows of P."""
        p = self._of_ranks(jax.nn.softmax)
        return p / lax.stop_gradient(jnp.sum(p, axis=2, keepdims=True))

    def log_shares(self) -> Float[Array, "batch r n"]:
        """The logarithms of what the ranks receive of each key."""
        return self._of_ranks(jax.nn.log_softmax)

    def _of_ranks(self, project: Callable[..., Array]) -> Float[Array, "batch r n"]:
        psi, places = self.of_bins()
        lift = (2 / self.nodes.tau)[:, None, None] * self.keys[:, None, :] * (places - 0.5)[None, :, None]
        first = self.held.run.start
        return project(psi[:, :, None] + lift, axis=1)[:, first : first + self.held.size]

    def of_bins(self) -> tuple[Float[Array, "batch bins"], Float[Array, " bins"]]:
        """Potentials and places of all bins."""
        psi, run = self.psi, self.held.run
        if not self.held.many:
            return psi, self.nodes.places
        apart = psi[:, : run.start], psi[:, run.stop :]
        # Not by a product with a constant: fused with what uses it, XLA in JAX 0.10 sums a part of it.
        psi = jnp.concatenate([apart[0], self._over_ranks(Interpolated, psi[:, run, None])[:, :, 0], apart[1]], axis=1)
        return psi, jnp.asarray(np.linspace(0, 1, psi.shape[1]), psi.dtype)

    def transposed(self, u: Float[Array, "batch r d"]) -> Float[Array, "batch n d"]:
        """The transpose of rows of P times u."""
        if self.held.many:
            u = _sum("mr,brd->bmd", self._known(u), u) if self._few else self._over_ranks(NodeWeights, u)
        return self._sent(u / self._mass[:, self.held.run])

    def expected(self) -> Keys:
        """Every key's expected anchor, as a rank, where all ranks are wanted."""
        ranks = self.nodes.shares[0] * self.nodes.places * (self.t.shape[1] - 1)
        return self._at_keys(lambda p: _sum("bkm,k->bm", p, ranks)[:, None])[:, :, 0]

    @property
    def _panels(self) -> int:
        return self.nodes.keys.shape[1] // POINTS

    @property
    def _mass(self) -> Float[Array, "batch k 1"]:
        """What anchors receive, a constant: the potentials' derivative keeps it."""
        return lax.stop_gradient(received(self.p, self.nodes.counts.weights))

    def _sent(self, u: Float[Array, "batch k d"]) -> Float[Array, "batch n d"]:
        """What keys are sent by anchors that hold u."""
        return self._at_keys(lambda p: _sum("bkm,bkd->bdm", p[:, self.held.run], u))

    def _at_keys(self, sent: Callable[[Plan], PerNode]) -> Float[Array, "batch n d"]:
        """What a function that is linear in the plan gives at the keys."""
        return jnp.swapaxes(_interpolated(self.t, sent(self.p), sent(slope(self.p, self.nodes))), 1, 2)

    def _at_ranks(self, values: Float[Array, "batch k d"]) -> Float[Array, "batch r d"]:
        """What points of a run hold, at the ranks."""
        if self._few:
            return _sum("mr,bmd->brd", self._known(values), values)
        return self._over_ranks(Interpolated, values)

    @property
    def _few(self) -> bool:
        return self.held.size <= _KNOWN

    def _known(self, like: Array) -> Float[Array, "m r"]:
        return jnp.asarray(lagrange(np.linspace(-1, 1, self.held.size), self._panels), like.dtype)

    def _over_ranks(self, operator: type[NodeWeights] | type[Interpolated], a: Array) -> Array:
        size = self.held.size
        ranks = lax.broadcasted_iota(a.dtype, (a.shape[0], size), 1) * (2 / (size - 1)) - 1
        if ranks.shape == self.t.shape:  # devices that share the keys share the ranks
            t = lax.stop_gradient(self.t)
            ranks = jnp.where(jnp.isnan(t), t, ranks)
        return jnp.swapaxes(operator(self._panels)(ranks, jnp.swapaxes(a, 1, 2)), 1, 2)


@jax.custom_jvp
def _interpolated(t: Keys, values: PerNode, slopes: PerNode) -> PerKey:
    """The polynomials through the values, whose slopes at the points are known better than by differences."""
    return Interpolated(values.shape[-1] // POINTS)(t, values)


@_interpolated.defjvp
def _interpolated_jvp(primals, tangents):
    (t, values, slopes), (dt, moved, _) = primals, tangents
    at = Interpolated(values.shape[-1] // POINTS)
    out, slope = jnp.split(at(t, jnp.concatenate([values, slopes], axis=1)), 2, axis=1)
    return out, at(t, moved) + slope * dt[:, None]


def solved(
    y: Keys, held: Anchors, tau: PerRow, panels: int, payload: Float[Array, "batch n d"] | None = None
) -> Compressed:
    """The transport of keys y, solved on the points of so many panels."""
    array = lambda a: jnp.asarray(a, y.dtype)
    low, high = (f(lax.stop_gradient(y), axis=1, keepdims=True) for f in (jnp.min, jnp.max))
    half = jnp.maximum((high - low) / 2, 2.0**-10)  # sums do not depend on where their points are
    keys = y - (low + high) / 2
    t = keys / half
    if payload is None:
        payload = jnp.zeros((*y.shape, 0), y.dtype)
    # Rows sum to 1: no payload's place enters, but by rounding.
    middle = lax.stop_gradient(jnp.sum(payload * (1 / y.shape[1]), axis=1, keepdims=True))
    offsets = payload - middle
    unit = unit_of(jnp.max(jnp.abs(lax.stop_gradient(offsets)), axis=1, keepdims=True))  # no sum overflows
    every = sums_over(t, jnp.swapaxes(offsets / unit, 1, 2), panels)
    counts, rest = every.part(slice(1)), every.part(slice(1, None))
    masses = jnp.broadcast_to(array(held.masses), (y.shape[0], held.masses.shape[-1]))
    nodes = Nodes(
        half * array(points(panels))[None],
        counts,
        tau,
        array(held.places),
        array(held.shares)[None],
        masses,
        array(held.coarse),
    )
    nodes = vary_alike(nodes)  # a solve that is differentiated keeps the types of its constants
    psi = potentials(_rounds(held), nodes)
    return Compressed(held, keys, t, rest, nodes, psi, plan(psi, nodes), middle, unit)


def _rounds(held: Anchors) -> int:
    return 0 if held.size == 1 or held.run == slice(0, len(held.shares)) else _SINKHORN


def report(found: Compressed) -> tuple[Int[Array, ""], Float[Array, " batch"]]:
    """How many steps the solver took, and the largest error of a bin's mass, of the keys themselves."""
    (psi, places), tau = found.of_bins(), found.nodes.tau
    masses = found.nodes.masses[0]
    if found.held.many:
        wanted, run = jnp.ones(found.held.size, psi.dtype), found.held.run
        masses = jnp.concatenate([masses[: run.start], wanted, masses[run.stop :]])
    problem = Problem(found.keys + 0.5, places, masses, tau)
    error = jnp.abs(newton_cg.received(SMOOTH, problem)(psi) - masses[None])
    return search(_rounds(found.held), found.nodes)[1], jnp.max(error, axis=1)


def mask(y: Keys, k: PerRow, tau: PerRow, panels: int, degrees: int) -> Keys:
    """Transport to two anchors, of masses n - k and k: the upper one's column."""
    n = y.shape[1]
    some = (k > 0) & (k < n)
    inside = jnp.where(some, jnp.clip(k, n * 2.0**-22, n * (1 - 2.0**-22)), jnp.full_like(k, n / 2))
    held = anchors(range(n - 1, n), n, panels, degrees)._replace(masses=jnp.stack([n - inside, inside], axis=1))
    found = solved(y, held, tau, panels)
    out = jax.nn.sigmoid((found.psi[:, 1] - found.psi[:, 0])[:, None] + 2 * found.keys / tau[:, None])
    return jnp.where(some[:, None], out, jnp.broadcast_to((k >= n)[:, None], out.shape).astype(out.dtype))
