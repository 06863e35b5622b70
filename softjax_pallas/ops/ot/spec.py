"""What a transport kernel is compiled for, and the arrays that go in."""

from dataclasses import dataclass
from typing import NamedTuple

import jax

Array = jax.Array


@dataclass(frozen=True)
class Spec:
    """The static side of one kernel.

    n keys, k anchors, of which the first `wanted` are written; `payload` columns to average instead of writing the
    plan, 0 for none; `degree` of the mode; `normalise` divides a column by its sum.
    """

    n: int
    k: int
    wanted: int
    payload: int
    degree: int | None
    normalise: bool

    @property
    def rounds(self) -> int:
        """Sinkhorn's rounds before Newton: the update needs weights that are exponentials."""
        return 2 if self.degree is None else 0


class Operands(NamedTuple):
    """Arrays of a kernel, every one with the batch in front."""

    y: Array  # (batch, n) keys
    payload: Array | None  # (batch, d, n)
    psi: Array  # (batch, k) potentials: the start, or the solution in the backward pass
    masses: Array  # (batch, k)
    anchors: Array  # (batch, k)
    tau: Array  # (batch,)
