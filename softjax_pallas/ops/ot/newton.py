"""The two programs, forward and backward, of one row, in terms of what a kernel body provides."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from softjax._methods.ot.semidual_newton import NEVER

from .maths import Axis, Block, Newton, Vector, centred, each, floor_of, newton, pick, project
from .spec import Spec

Visit = Callable[[Any], tuple[tuple[Block, ...], Block | None]]


class Program:
    """One row's operands and results, reached tile by tile. `_maths` says what blocks, vectors and numbers are.

    `real` is 1 for the anchors that exist and 0 for a vector's padding.
    """

    spec: Spec
    axis: Axis
    tau: Any

    @property
    @abstractmethod
    def masses(self) -> Vector: ...

    @property
    @abstractmethod
    def anchors(self) -> Vector: ...

    @property
    @abstractmethod
    def real(self) -> Vector: ...

    @abstractmethod
    def keys(self, tile) -> Any:
        """A margin: the keys, anything finite where there are none."""

    @abstractmethod
    def value(self, column: int, tile) -> Any:
        """A margin: one column of the payload, likewise."""

    @abstractmethod
    def collect(self, visit: Visit, count: int, coupled: bool) -> tuple[tuple[Vector, ...], Any]:
        """Visit every tile. Of its `count` blocks the sums over the keys; of its sensitivities w the couplings.

        A coupling is sum_i w_ij w_ik / sum_l w_il; None unless `coupled`.
        """

    @abstractmethod
    def solve(self, coupling: Any, rhs: Vector, damping: Any) -> Vector:
        """(H + damping)^-1 rhs, H from the couplings and pinned along the constant vector."""

    def keep(self, better: Any, new: Any, old: Any) -> Any:
        """Of two couplings the new one where `better` is positive; a body may hold it elsewhere and return a token.

        Called first with 1 and no old one.
        """
        return pick(better, new, new if old is None else old)

    @abstractmethod
    def put_rows(self, tile, block: Block) -> None:
        """Write the wanted rows of a block: the result."""

    @abstractmethod
    def put_averages(self, averages: tuple[Vector, ...]) -> None:
        """Write the result where there is a payload: one vector for each of its columns."""

    @abstractmethod
    def cotangent_rows(self, tile) -> Block:
        """The cotangent of `put_rows`' block, 0 in the anchors that are not wanted."""

    @abstractmethod
    def cotangent_average(self, column: int) -> Vector:
        """The cotangent of one vector of `put_averages`, 0 in the anchors that are not wanted."""

    @abstractmethod
    def put_keys(self, tile, margin: Any) -> None:
        """Write the cotangent of the keys."""

    @abstractmethod
    def put_value(self, column: int, tile, margin: Any) -> None:
        """Write the cotangent of one column of the payload."""

    # --- what follows is the same for all ---

    def plan(self, psi: Vector, tile) -> tuple[Any, Block, Block]:
        """Keys less 1/2, the plan and its sensitivity."""
        lift, y = self.axis.lift, self.keys(tile) - 0.5
        slope = self.axis.spread(y * (2 / self.tau))

        def logit(v, anchor, mass):
            return lift(jnp.where(mass > 0, v, NEVER)) + slope * lift(anchor - 0.5)

        return y, *project(each(logit, psi, self.anchors, self.masses), self.spec.degree, self.axis)

    def received(self, psi: Vector) -> Vector:
        """The mass that each anchor receives."""
        return self.collect(lambda tile: ((self.plan(psi, tile)[1],), None), 1, False)[0][0]

    def potentials(self, start: Vector) -> Vector:
        """The solution of the dual."""

        def evaluate(psi):
            def visit(tile):
                _, p, w = self.plan(psi, tile)
                return (p,), w

            (sums,), coupling = self.collect(visit, 1, True)
            return sums, coupling

        problem = Newton(self.received, evaluate, self.solve, self.keep, lambda: self.masses, self.tau, self.axis)
        return newton(problem, start, self.spec.rounds)

    def share(self, sums: Vector) -> Vector:
        """What the columns are multiplied by to become the result."""
        if not self.spec.normalise:
            return self.real
        return each(lambda total, mass: 1 / jnp.where(mass > 0, total, 1.0), sums, self.masses)

    def scaled(self, block: Block, vector: Vector) -> Block:
        """A block whose columns are multiplied by a vector."""
        return each(lambda part, factor: part * self.axis.lift(factor), block, vector)


def forward(program: Program, start: Vector) -> tuple[Vector, Vector]:
    """Solve and write the result; returns the potentials and the column sums."""
    psi = program.potentials(start)
    sums = program.received(psi)
    share = program.share(sums)

    def visit(tile):
        rows = program.scaled(program.plan(psi, tile)[1], share)
        if not program.spec.payload:
            program.put_rows(tile, rows)
            return (), None
        values = (program.axis.spread(program.value(c, tile)) for c in range(program.spec.payload))
        return tuple(each(lambda part, value=value: part * value, rows) for value in values), None

    averages, _ = program.collect(visit, program.spec.payload, False)
    if program.spec.payload:
        program.put_averages(averages)
    return psi, sums


def backward(program: Program, psi: Vector, sums: Vector) -> tuple[Vector, Any]:
    """Write the cotangents of keys and payload; returns those of the masses and of tau.

    With SV as in `centred`, the potentials' cotangent is r = column sums of SV(dP) and lam = H^-1 r, so the logits'
    is SV(dP - lam). A normalised column's own sum adds a constant to dP, which shifts lam alike and SV ignores.
    """
    spec, axis, share = program.spec, program.axis, program.share(sums)
    weights = tuple(program.cotangent_average(c) for c in range(spec.payload))
    weights = tuple(each(jnp.multiply, weight, share) for weight in weights)

    def cotangent(tile) -> Block:
        if not spec.payload:
            return program.scaled(program.cotangent_rows(tile), share)
        total = None
        for c, weight in enumerate(weights):
            value = axis.spread(program.value(c, tile))
            term = each(lambda part, value=value: value * axis.lift(part), weight)
            total = term if total is None else each(jnp.add, total, term)
        assert total is not None
        return total

    def gather(tile):
        w = program.plan(psi, tile)[2]
        return (centred(cotangent(tile), w, axis),), w

    (rhs,), coupling = program.collect(gather, 1, True)
    multiplier = program.solve(coupling, rhs, floor_of(program.masses, axis))

    def pull(tile):
        y, p, w = program.plan(psi, tile)
        given = cotangent(tile)
        g = each(lambda part, m: part - axis.lift(m), given, multiplier)
        moments = program.scaled(centred(g, w, axis), each(lambda a: (a - 0.5) * (2 / program.tau), program.anchors))
        program.put_keys(tile, axis.total(moments))
        for c, weight in enumerate(weights):
            program.put_value(c, tile, axis.total(program.scaled(p, weight)))
        across = axis.spread(y)
        return (each(lambda part: part * across, moments), each(jnp.multiply, given, p)), None

    (moment, overlap), _ = program.collect(pull, 2, False)
    dtau = -axis.vector_sum(moment) / program.tau
    if not spec.normalise:
        return multiplier, dtau
    shift = each(lambda part, factor, real: -part * factor * real, overlap, share, program.real)
    mean = axis.vector_sum(shift) / spec.k
    return each(lambda m, s, real: m + (s - mean) * real, multiplier, shift, program.real), dtau
