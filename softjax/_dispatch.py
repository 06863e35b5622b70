"""Which implementation of the fused operations runs, and why.

`xla` and `dense` are this package's own. The others are kernels of `softjax_pallas`, which is imported when one of
them is asked for by name and not before.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import _check
from ._orders import Order
from ._orders._base import Forms

OWN = {
    "xla": "the fast form in plain JAX",
    "dense": "the readable definition: rows of the soft permutation are materialised",
}
KERNELS = {
    "pallas_triton": "Pallas kernels through Triton: NVIDIA GPUs of compute capability 8.x",
    "pallas_mosaic_gpu": "Pallas kernels through Mosaic GPU: compute capability 9.0 and newer",
    "pallas_mosaic_tpu": "Pallas kernels through Mosaic TPU",
    "pallas_interpret": "the portable Pallas kernels, interpreted: slow, anywhere",
}
IMPLEMENTATIONS = OWN | KERNELS
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
        return Explanation("xla", "the fast form in plain JAX, on every backend: no kernel has been measured yet")
    _check.choice("implementation", implementation, {None: None, **IMPLEMENTATIONS})
    return Explanation(implementation, f"asked for by `implementation`: {IMPLEMENTATIONS[implementation]}")


def forms(order: Order, implementation: str) -> Forms:
    """The forms of a method by an implementation."""
    if implementation in OWN:
        return order.forms(implementation)
    import softjax_pallas

    return softjax_pallas.forms(order.name, implementation)


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
