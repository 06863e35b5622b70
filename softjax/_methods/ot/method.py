"""Soft permutations by regularised optimal transport to a few anchors.

(Cuturi, Teboul and Vert, arXiv:1905.11885; Xie et al., "Differentiable top-k with optimal transport", 2020;
sparse modes after Blondel, Seguy and Rolet, arXiv:1710.06276, with the regulariser on each element's row.)
The elements, of mass 1 each, are transported to anchors in [0, 1]: one of mass 1 for each wanted rank and, for each
gap between wanted ranks, a filler with the mass of the ranks skipped. The plan's columns are the rows of P.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar, final

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..._axis import neighbours
from ..._dispatch import by_kernels
from ..._modes import Mode
from ..._sharding import anywhere
from ..._types import Float
from ..base import AbstractMethod, Keys, PerRow, Ranks, SolverInfo, as_array, count
from ..preprocess import spoiled
from . import compressed, newton_cg
from .compressed import Compressed
from .semidual_newton import FOUND, Problem, log_plan, midway, plan, potentials
from .two_anchors import pair_mask


class Targets(NamedTuple):
    """Anchors and masses of the bins, and which bin holds each wanted rank."""

    anchors: Float[Array, " bins"]
    masses: Float[Array, " bins"]
    bins: np.ndarray | slice


def wanted_bins(ranks: Ranks, n: int) -> np.ndarray | slice:
    """Which bin holds each wanted rank."""
    if isinstance(ranks, range):
        return (np.cumsum(_masses(ranks, n) > 0) - 1)[1::2]
    return slice(1, None, 2)


def _masses(ranks: range, n: int) -> np.ndarray:
    """Fillers and wanted ranks in turn; a filler may be empty."""
    ends = np.array([-1, *ranks, n])
    return np.stack([np.diff(ends) - 1, np.ones(len(ends) - 1, int)], axis=1).reshape(-1)[:-1]


def cells(ranks: range, n: int) -> np.ndarray:
    """The masses of the bins, none of them empty."""
    masses = _masses(ranks, n)
    return masses[masses > 0]


def targets(ranks: Ranks, n: int, dtype) -> Targets:
    """Walk the wanted ranks, in ascending order, and fill the gaps between them.

    Traced ranks keep an empty bin, of mass 0 and at its neighbour's anchor, where static ones drop it; so do
    those of rows of symbolic length.
    """
    if isinstance(ranks, range):  # by NumPy, since a compiler does not fold sums into constants
        masses = cells(ranks, n).astype(dtype)
        places = np.linspace(0, 1, len(masses), dtype=dtype)
        return Targets(jnp.asarray(places), jnp.asarray(masses), wanted_bins(ranks, n))
    ends = jnp.concatenate([jnp.full(1, -1.0, dtype), as_array(ranks, dtype), jnp.full(1, n, dtype)])
    masses = jnp.stack([jnp.diff(ends) - 1, jnp.ones(count(ranks) + 1, dtype)], axis=1).reshape(-1)[:-1]
    place = jnp.maximum(jnp.cumsum(masses > 0) - 1, 0).astype(dtype)
    return Targets(place / jnp.maximum(place[-1], 1), masses, wanted_bins(ranks, n))


def _problem(x: Keys, ranks: Ranks, tau: PerRow) -> tuple[Problem, np.ndarray | slice]:
    n = x.shape[-1]
    t = targets(ranks, n, x.dtype)
    boundaries = None
    if isinstance(ranks, range) and len(t.masses) > 1:
        boundaries = midway(x, _pick, np.cumsum(cells(ranks, n))[:-1])
    return Problem(x, t.anchors, t.masses, _resolved(tau), boundaries), t.bins


def _resolved(tau: PerRow) -> PerRow:
    """tau, but where floats no longer resolve logits of size 1 / tau: no smaller one decides anything."""
    return jnp.maximum(tau, 2 * float(jnp.finfo(tau.dtype).eps))


def _pick(a: Array, bins: np.ndarray | slice) -> Array:
    """a[:, bins]; a slice where the bins are evenly spaced, whose transpose is no scatter."""
    if isinstance(bins, slice):
        return a[:, bins]
    steps = np.unique(np.diff(bins))
    if len(steps) > 1:
        return a[:, bins]
    return lax.slice_in_dim(a, int(bins[0]), int(bins[-1]) + 1, int(steps[0]) if len(steps) else 1, axis=1)


def rows(x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
    """Rows of P: columns of the plan, for ascending ranks that are all different."""
    problem, bins = _problem(x, ranks, tau)
    mass = _pick(plan(problem, mode), bins)
    # 1 up to the solver's tolerance, and constant: the potentials' derivative keeps the sums.
    return mass / lax.stop_gradient(jnp.sum(mass, axis=-1, keepdims=True)) + spoiled(tau)[:, None, None]


def log_rows(x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
    """The logarithms of `rows`."""
    problem, bins = _problem(x, ranks, tau)
    return _shares(_pick(log_plan(problem, mode), bins)) + spoiled(tau)[:, None, None]


def _shares(logs: Float[Array, "batch r n"]) -> Float[Array, "batch r n"]:
    """Logarithms of what anchors receive as those of distributions; their sum is a constant, as in `rows`."""
    return logs - jax.nn.logsumexp(lax.stop_gradient(logs), axis=-1, keepdims=True)


def _mask(x: Keys, k: PerRow, tau: PerRow, mode: Mode) -> Keys:
    """Transport to two anchors, of masses n - k and k: the upper one's column."""
    return pair_mask(mode, x, k, _resolved(tau))[0] + spoiled(tau)[:, None]


@dataclass(frozen=True)
class TransportDefinition(AbstractMethod):
    """Optimal transport by plans that are written out."""

    name = "ot"
    joint = True
    standardize = True

    def rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
        return rows(x, ranks, tau, mode)

    def log_rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
        return log_rows(x, ranks, tau, mode)

    def rank(self, x: Keys, tau: PerRow, mode: Mode) -> Float[Array, "batch n"]:
        """Every element's expected anchor: rows of the plan are distributions over the ranks."""
        positions = jnp.arange(x.shape[-1], dtype=x.dtype)
        problem, bins = _problem(x, neighbours(0, x.shape[-1]), tau)
        p = _pick(plan(problem, mode), bins)
        return jnp.matmul(positions, p, precision="highest") + spoiled(tau)[:, None]

    def mask(self, x: Keys, k: PerRow, tau: PerRow, mode: Mode) -> Keys:
        return _mask(x, k, tau, mode)

    def solver_info(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> SolverInfo:
        return _solver_info(x, ranks, tau, mode, potentials)


DEFINITION = TransportDefinition()

_FEW = 128
"""Up to this many anchors the plan of n x anchors entries is kept, and its Laplacian inverted directly."""


class Grade(NamedTuple):
    """What is enough for keys of range 1 and a softness of at least so much, however the keys lie: panels of points for
    few anchors, and for many, whose plan is smoother, in float32; and dimensions of the solver's coarse space.

    At 0.1 points alone err by 4e-6 of the row's spread, and 2e-8 for many, in exact arithmetic, for the worst
    standardised keys that a search finds.
    """

    softness: float
    few: int
    many: int
    coarse: int

    @property
    def least(self) -> float:
        """The least softness, of keys of range 1; also as float32 has it."""
        return self.softness * (1 - 1e-6)

    def panels(self, dtype: jnp.dtype) -> tuple[int, int]:
        """For few anchors and for many, of keys of a dtype."""
        return (self.few, self.many) if jnp.finfo(dtype).bits <= 32 else (4 * self.few, 3 * self.many)

    def worthwhile(self, n: int) -> bool:
        """Are keys so many more than points that these are cheaper?"""
        return n >= 85 * self.few


_GRADES = (Grade(0.1, 3, 2, 7), Grade(0.05, 6, 4, 10), Grade(0.03, 10, 7, 14))
_OF_ANY_KEYS = [grade._replace(many=grade.many + 1) for grade in reversed(_GRADES)]
"""The finest first. Keys that are not standardised may lie in two clusters at the ends of the range: many anchors on as
many points as of standardised ones err by 6e-5 of the spread."""
_ONLY_FOUND = jax.checkpoint_policies.save_only_these_names(FOUND)
T = TypeVar("T")


@final
@dataclass(frozen=True)
class OptimalTransport(AbstractMethod):
    """Optimal transport, in O(n) memory however many ranks are wanted.

    In the smooth mode Chebyshev points stand for many keys where the softness is of a `grade`, relative to their range.
    Where that is not `known` before the program runs, it looks and branches.
    """

    automatic: bool = True
    grade: Grade | None = None
    known: bool = False
    name = "ot"
    joint = True
    standardize = True

    @property
    def plain(self) -> AbstractMethod:
        return replace(self, automatic=False)

    @property
    def definition(self) -> AbstractMethod:
        return DEFINITION

    def at_softness(self, least: float, standardize: bool) -> AbstractMethod:
        graded = (grade for grade in _GRADES if standardize and least >= grade.least)
        return replace(self, grade=next(graded, None), known=standardize and least > 0)

    def _either(
        self,
        given: tuple[Keys, Ranks | None],
        tau: PerRow,
        mode: Mode,
        on_points: Callable[[Grade, Keys, PerRow], T],
        by_keys: Callable[[Keys, PerRow], T],
    ) -> T:
        """The result for keys and ranks on points of a grade, or by the keys themselves."""
        x, ranks = given
        grade = self._grade(x.shape[-1], ranks, mode)
        if grade is None:
            return by_keys(x, tau)
        if self.known:
            return on_points(grade, x, tau)
        held, size = lax.stop_gradient((x, tau[:, None]))
        low, high = jnp.min(held, axis=1, keepdims=True), jnp.max(held, axis=1, keepdims=True)
        steep = anywhere(size < grade.least * (high - low))
        # The plan depends on distances in units of the softness: they get a range near 1, or a softness near 1/8.
        unit = lax.reduce_precision(jnp.maximum(high - low, 8 * size), jnp.finfo(x.dtype).nexp, 0)
        scaled = (x - (low / 2 + high / 2)) / unit, tau / unit[:, 0]
        # Logits keep their digits where keys are near 1/2; a mask is made of distances.
        nearer = x if ranks is None else x - (jnp.clip(0.5, low, high) - 0.5)
        # What the branch not taken would save for a derivative is made anew, but for what solvers found.
        by_keys = jax.checkpoint(by_keys, prevent_cse=False, policy=_ONLY_FOUND)
        return lax.cond(steep, lambda: by_keys(nearer, tau), lambda: on_points(grade, *scaled))

    def _grade(self, n: Any, ranks: Ranks | None, mode: Mode) -> Grade | None:
        """The grade by which points may stand for keys, None where they do not."""
        neighbours_or_one = ranks is None or isinstance(ranks, range) or getattr(ranks, "shape", None) == (1,)
        if mode.degree is not None or not isinstance(n, int) or not neighbours_or_one:
            return None
        grades = (self.grade,) if self.known else _OF_ANY_KEYS
        return next((grade for grade in grades if grade is not None and grade.worthwhile(n)), None)

    def writes_rows(self, n: Any, ranks: Ranks) -> bool:
        """Do these ranks and the fillers between them make few anchors? Rows of symbolic length are never streamed."""
        return not isinstance(n, int) or jax.eval_shape(lambda: targets(ranks, n, jnp.float32).masses).shape[0] <= _FEW

    @by_kernels
    def rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
        on_points = lambda grade, x, tau: _compressed(grade, x, ranks, tau).rows() + spoiled(tau)[:, None, None]
        return self._either((x, ranks), tau, mode, on_points, lambda x, tau: rows(x, ranks, tau, mode))

    def log_rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Float[Array, "batch r n"]:
        def on_points(grade, x, tau):
            return _shares(_compressed(grade, x, ranks, tau).log_shares()) + spoiled(tau)[:, None, None]

        return self._either((x, ranks), tau, mode, on_points, lambda x, tau: log_rows(x, ranks, tau, mode))

    @by_kernels
    def apply(
        self, x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
    ) -> Float[Array, "batch r d"]:
        v = x[:, :, None] if payload is None else payload

        def by_keys(x, tau):
            if self.writes_rows(x.shape[-1], ranks):
                return DEFINITION.apply(x, ranks, v, tau, mode)
            problem, bins = _problem(x, ranks, tau)
            psi, _ = newton_cg.potentials(mode, problem)
            sums, _ = newton_cg.solved_sweep(mode, psi, problem, v, None)
            return _pick(sums[:, :, :-1] / lax.stop_gradient(sums[:, :, -1:]), bins) + spoiled(tau)[:, None, None]

        on_points = lambda grade, x, tau: _compressed(grade, x, ranks, tau, v).values() + spoiled(tau)[:, None, None]
        return self._either((x, ranks), tau, mode, on_points, by_keys)

    def transposed(
        self, x: Keys, ranks: Ranks, y: Float[Array, "batch r d"], tau: PerRow, mode: Mode
    ) -> Float[Array, "batch n d"]:
        def by_keys(x, tau):
            if self.writes_rows(x.shape[-1], ranks):
                return DEFINITION.transposed(x, ranks, y, tau, mode)
            problem, bins = _problem(x, ranks, tau)
            psi, _ = newton_cg.potentials(mode, problem)
            received = _pick(lax.stop_gradient(newton_cg.received(mode, problem)(psi)), bins)[:, :, None]
            values = jnp.zeros((*psi.shape, y.shape[-1]), y.dtype).at[:, bins].set(y / received)
            return newton_cg.solved_sweep(mode, psi, problem, None, values)[1] + spoiled(tau)[:, None, None]

        on_points = lambda grade, x, tau: _compressed(grade, x, ranks, tau).transposed(y) + spoiled(tau)[:, None, None]
        return self._either((x, ranks), tau, mode, on_points, by_keys)

    def rank(self, x: Keys, tau: PerRow, mode: Mode) -> Keys:
        """Every element's expected anchor: rows of the plan are distributions over the ranks."""
        n = x.shape[-1]
        ranks = neighbours(0, n)

        def by_keys(x, tau):
            if self.writes_rows(n, ranks):
                return DEFINITION.rank(x, tau, mode)
            problem, _ = _problem(x, ranks, tau)
            psi, _ = newton_cg.potentials(mode, problem)
            positions = jnp.broadcast_to(jnp.arange(n, dtype=x.dtype), x.shape)
            sums = newton_cg.solved_sweep(mode, psi, problem, None, positions[:, :, None])[1]
            return sums[:, :, 0] + spoiled(tau)[:, None]

        on_points = lambda grade, x, tau: _compressed(grade, x, ranks, tau).expected() + spoiled(tau)[:, None]
        return self._either((x, ranks), tau, mode, on_points, by_keys)

    def values_and_rows(
        self, x: Keys, ranks: Ranks, payload: Float[Array, "batch n d"] | None, tau: PerRow, mode: Mode
    ) -> tuple[Float[Array, "batch r d"], Float[Array, "batch r n"]]:
        plain, v = super().values_and_rows, x[:, :, None] if payload is None else payload
        if self._grade(x.shape[-1], ranks, mode) is None:
            return plain(x, ranks, payload, tau, mode)

        def on_points(grade, x, tau):
            found = _compressed(grade, x, ranks, tau, v)
            return found.values() + spoiled(tau)[:, None, None], found.rows() + spoiled(tau)[:, None, None]

        def by_keys(x, tau):
            return replace(self, automatic=False, grade=None, known=True).values_and_rows(x, ranks, v, tau, mode)

        at_once = lambda *_: self._either((x, ranks), tau, mode, on_points, by_keys)
        if not self.automatic:
            return at_once()
        # Where a kernel may write the rows, they are multiplied.
        by_kernel = lambda _: plain(x, ranks, payload, tau, mode)
        return lax.platform_dependent(x, cuda=by_kernel, tpu=by_kernel, default=at_once)

    @by_kernels
    def mask(self, x: Keys, k: PerRow, tau: PerRow, mode: Mode) -> Keys:
        def on_points(grade, x, tau):
            return compressed.mask(x, k, tau, grade.panels(x.dtype)[0], grade.coarse) + spoiled(tau)[:, None]

        return self._either((x, None), tau, mode, on_points, lambda x, tau: _mask(x, k, tau, mode))

    def solver_info(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> SolverInfo:
        def on_points(grade, x, tau):
            found = _compressed(grade, x, ranks, tau)
            steps, error = compressed.report(found)
            points = jnp.full(tau.shape, found.nodes.keys.shape[1], jnp.int32)
            return SolverInfo(jnp.broadcast_to(steps, tau.shape), error + spoiled(tau), points)

        def by_keys(x, tau):
            solver = potentials if self.writes_rows(x.shape[-1], ranks) else newton_cg.potentials
            return _solver_info(x, ranks, tau, mode, solver)

        return self._either((x, ranks), tau, mode, on_points, by_keys)


def _compressed(
    grade: Grade, x: Keys, ranks: Ranks, tau: PerRow, payload: Float[Array, "batch n d"] | None = None
) -> Compressed:
    """The problem on the points of a grade."""
    n, (few, many) = x.shape[-1], grade.panels(x.dtype)
    if isinstance(ranks, range):
        panels = many if len(ranks) >= many * compressed.MANY else few
        return compressed.solved(x, compressed.anchors(ranks, n, panels, grade.coarse), tau, panels, payload)
    return compressed.solved(x, compressed.anchors_of_one(as_array(ranks, x.dtype), n), tau, few, payload)


def _solver_info(x: Keys, ranks: Ranks, tau: PerRow, mode: Mode, solver: Callable[..., Any]) -> SolverInfo:
    """How the potentials behind these rows are found: one solve."""
    problem, none = _problem(x, ranks, tau)[0], jnp.zeros(tau.shape, jnp.int32)
    if problem.anchors.shape[0] == 1:
        return SolverInfo(none, jnp.zeros_like(tau), none)
    return solver(mode, problem)[1]._replace(points=none)
