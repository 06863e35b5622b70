"""Which implementation of the fused operations runs, and why."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import _check

IMPLEMENTATIONS = {
    "xla": "the fast form in plain JAX",
    "dense": "the readable definition: rows of the soft permutation are materialised",
}
"""Name -> what it is."""


@dataclass(frozen=True)
class Explanation:
    """Which implementation a call runs and why."""

    implementation: str
    reason: str

    def __str__(self) -> str:
        return f"{self.implementation}: {self.reason}"


def choose(implementation: str | None) -> Explanation:
    """The implementation that a call with this argument runs."""
    if implementation is None:
        return Explanation("xla", "the fast form in plain JAX, on every backend")
    _check.choice("implementation", implementation, {None: None, **IMPLEMENTATIONS})
    return Explanation(implementation, "asked for by `implementation`")


def explain(operator: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Explanation:
    """Which implementation `operator(*args, **kwargs)` runs, and why. The call itself does not run.

    **Arguments:**
        operator: an array operator of this package.
        args, kwargs: what it would be called with.
    **Returns:** an `Explanation`; its `str` is one readable line.
    **Raises:** `TypeError` if the operator does not take these arguments, `ValueError` for an unknown
        implementation.
    """
    bound = inspect.signature(operator).bind(*args, **kwargs)
    bound.apply_defaults()
    if "implementation" not in bound.arguments:
        name = getattr(operator, "__name__", operator)
        raise TypeError(f"`operator` (={name}) must be an operator with an `implementation` argument.")
    return choose(bound.arguments["implementation"])
