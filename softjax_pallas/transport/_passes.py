"""Passes over the plan of keys and many anchors: each a kernel that reads O(n) numbers and writes O(n).

The passes of `softjax._methods.ot.newton_cg`, whose blocks of the plan go through memory, here through registers. The
machinery is that of the pairwise kernels: keys are its rows, anchors its columns.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from softjax._methods.ot.semidual_newton import Potentials, Problem
from softjax._types import Float

from ..pairwise._launch import scale_of
from ..pairwise._operands import MATRIX, OWN_COLUMNS, OWN_ROWS, WHOLE_COLUMNS, WHOLE_ROWS, results
from ..pairwise._tiled import Common, Spec, run
from . import _stream_bodies as bodies
from ._limits import pass_channels
from ._maths import NEVER

KeyChannels = Float[Array, "batch d n"]
AnchorChannels = Float[Array, "batch d k"]
PerKey = Float[Array, "batch 1 n"]
Norm = Float[Array, "batch 2 n"]

FLOAT = jnp.float32


class Direction(NamedTuple):
    """g_ia = sum_d w_di u_da + u_a, the last channel of `anchors` alone; `keys` is w, or a matrix in place of the sum,
    or None."""

    anchors: AnchorChannels
    keys: KeyChannels | Float[Array, "batch n k"] | None = None
    stored: bool = False

    def less(self, v: Potentials) -> "Direction":
        """g_ia - v_a."""
        return self._replace(anchors=self.anchors.at[:, -1].add(-v))

    def given(self, by_keys: bool) -> tuple[tuple, tuple]:
        """Operands and arrays of a kernel that owns keys, or anchors."""
        anchors, keys = (WHOLE_COLUMNS, OWN_ROWS) if by_keys else (OWN_COLUMNS, WHOLE_ROWS)
        if self.keys is None:
            return (anchors,), (self.anchors,)
        return (MATRIX if self.stored else keys, anchors), (self.keys, self.anchors)


@dataclass(frozen=True)
class Passes:
    """The passes over one plan: keys, anchors at their potentials, and each key's shift and inv."""

    spec: Spec
    common: Common
    norm: Norm

    def _by_keys(self, body: Any, given: tuple[tuple, tuple], outputs: tuple) -> Any:
        more = (*given[0], OWN_ROWS), (*given[1], self.norm)
        return run(self.spec, body, True, self.common, more, outputs)[0]

    def _by_anchors(self, body: Any, given: tuple[tuple, tuple], more: tuple, channels: int) -> Any:
        operands = (*given[0], *(WHOLE_ROWS for _ in more))
        return run(
            self.spec, body, False, self.common, (operands, (*given[1], *more)), results(FLOAT, columns=channels)
        )[0]

    def chunks(self, channels: Float[Array, "batch d _"]) -> list[Float[Array, "batch c _"]]:
        """Channels in groups of what a pass visits at once."""
        line = max(self.common.rows.shape[2], self.common.columns.shape[2])
        size = pass_channels(self.spec.implementation, line)
        return [channels[:, first : first + size] for first in range(0, channels.shape[1], size)]

    def received(self) -> Potentials:
        """The mass that each anchor receives."""
        return self._by_anchors(bodies.collect, ((), ()), (self.norm,), 1)[:, 0]

    def collect(self, payload: KeyChannels) -> tuple[AnchorChannels, Potentials]:
        """Per anchor the sums of p times the payload, and of p."""
        parts = [
            self._by_anchors(bodies.collect, ((WHOLE_ROWS,), (part,)), (self.norm,), part.shape[1] + 1)
            for part in self.chunks(payload)
        ]
        return jnp.concatenate([part[:, :-1] for part in parts], axis=1), parts[0][:, -1]

    def distribute(self, values: AnchorChannels) -> KeyChannels:
        """Per key the sums of p times the values."""
        given = (WHOLE_COLUMNS,), (values,)
        return self._by_keys(bodies.distribute, given, results(FLOAT, rows=values.shape[1]))

    def plan(self, values: Float[Array, "batch 1 k"], dtype: Any) -> Float[Array, "batch n k"]:
        """The plan, every anchor's entries times a value of its own."""
        return self._by_keys(bodies.plan, ((WHOLE_COLUMNS,), (values,)), results(dtype, MATRIX))

    def sums(self, g: Direction) -> Potentials:
        """Per anchor the derivative of `received` in the direction g of the logits."""
        centre, couple = (
            (bodies.centre_of_matrix, bodies.couple_of_matrix) if g.stored else (bodies.centre, bodies.couple)
        )
        middle = self._by_keys(centre, g.given(True), results(FLOAT, rows=1))
        return self._by_anchors(couple, g.given(False), (self.norm, middle), 1)[:, 0]

    def laplacian(self, v: Potentials) -> Potentials:
        """H v."""
        return self.sums(Direction(v[:, None]))

    def pull(self, g: Direction) -> tuple[Float[Array, "batch n"], KeyChannels]:
        """The keys' cotangent where g is that of the plan, and per key the sums of p times g's anchor channels."""
        body = bodies.pull_of_matrix if g.stored else bodies.pull
        out = self._by_keys(body, g.given(True), results(FLOAT, rows=g.anchors.shape[1]))
        return out[:, 0], out[:, 1:]


def passes(spec: Spec, problem: Problem, psi: Potentials, norm: Norm | None = None) -> Passes:
    """The passes at potentials psi; each key's shift and inv are found first where they are not known."""
    y, anchors, masses, tau = problem[:4]
    level = jnp.where(masses > 0, psi, jnp.full_like(psi, NEVER))
    slope = (2 / tau)[:, None] * (anchors - 0.5)[None]
    common = Common((y - 0.5)[:, None], jnp.stack([level, slope], axis=1), scale_of(y, tau))
    if norm is not None:
        return Passes(spec, common, norm)
    return Passes(spec, common, run(spec, bodies.norms, True, common, ((), ()), results(FLOAT, rows=2))[0])
