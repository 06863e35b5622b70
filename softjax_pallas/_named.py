"""A method by the kernels that were asked for by name."""

from dataclasses import dataclass
from typing import Any

from jax import Array

from softjax._dispatch import note
from softjax._methods import METHODS
from softjax._methods.base import AbstractMethod, Keys, PerRow, Ranks, SolverInfo
from softjax._modes import Mode

from ._kernel import cannot_run
from .ops import ot, pairwise

OPS = {"softsort": pairwise, "neuralsort": pairwise, "ot": ot}
"""What holds the kernels of a method."""


@dataclass(frozen=True)
class NamedKernels(AbstractMethod):
    """A method by kernels of one implementation. Never another way: what has no kernel raises `NotImplementedError`."""

    method: AbstractMethod
    implementation: str

    def __post_init__(self):
        for name in ("name", "rank_step", "joint", "standardize", "modes", "permutes"):
            object.__setattr__(self, name, getattr(self.method, name))

    @property
    def plain(self):
        return self.method.plain

    @property
    def _has_kernels(self) -> bool:
        """One of the user's own has none, whatever its name."""
        return self.name in OPS and METHODS.get(self.name) == self.method

    def _by_kernel(self, op: str, *arguments: Any) -> Array:
        if not self._has_kernels:
            raise cannot_run(self.implementation, op, self.name, "it has no kernels")
        note(self.implementation, self.name, op, *arguments)
        return OPS[self.name].named(self.implementation, self.name, op, *arguments)

    def rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Array:
        return self._by_kernel("rows", x, ranks, tau, mode)

    def log_rows(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> Array:
        raise NotImplementedError("No kernel serves log-probabilities by name: use implementation='xla'.")

    def apply(self, x: Keys, ranks: Ranks, payload: Array | None, tau: PerRow, mode: Mode) -> Array:
        return self._by_kernel("apply", x, ranks, payload, tau, mode)

    def rank(self, x: Keys, tau: PerRow, mode: Mode) -> Array:
        return self._by_kernel("rank", x, tau, mode)

    def mask(self, x: Keys, k: PerRow, tau: PerRow, mode: Mode) -> Array:
        if not self._has_kernels or "mask" in OPS[self.name].OPS:
            return self._by_kernel("mask", x, k, tau, mode)
        return super().mask(x, k, tau, mode)

    def solver_info(self, x: Keys, ranks: Ranks, tau: PerRow, mode: Mode) -> SolverInfo:
        return self.method.solver_info(x, ranks, tau, mode)

    def transposed(self, x: Keys, ranks: Ranks, y: Array, tau: PerRow, mode: Mode) -> Array:
        raise NotImplementedError("No kernel serves the transpose of P by name: use implementation='xla'.")
