"""Which implementation of the fused operations runs, and why.

`xla` and `dense` are this package's own. The others are kernels of `softjax_pallas`, which is imported by the first
call that may run one; Pallas itself by the first that does.
"""

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import jax

from . import _check
from ._fused import run_where
from ._methods import Method
from ._methods.base import Forms
from ._primitive import PLATFORMS, Target

OWN = {
    "xla": "the fast form in plain JAX",
    "dense": "the readable definition: rows of the soft permutation are materialised",
}
KERNELS = {
    "pallas_mosaic_gpu": "Pallas kernels through Mosaic GPU: compute capability 9.0 and newer",
    "pallas_mosaic_tpu": "Pallas kernels through Mosaic TPU",
    "pallas_interpret": "the portable Pallas kernels, interpreted: slow, anywhere",
}
IMPLEMENTATIONS = OWN | KERNELS
"""Name -> what it is."""


@dataclass(frozen=True)
class Explanation:
    """Which implementation a call runs and why; sizes of a kernel's tiles, where it is one."""

    implementation: str
    reason: str
    tiles: dict[str, int] | None = None

    def __str__(self) -> str:
        tiles = "" if self.tiles is None else f" ({', '.join(f'{name} {size}' for name, size in self.tiles.items())})"
        return f"{self.implementation}: {self.reason}{tiles}"


def choose(implementation: str | None) -> Explanation:
    """The implementation that a call with this argument runs, as far as the argument says."""
    if implementation is None:
        return Explanation("xla", "the fast form in plain JAX: no kernel is chosen for this call on any platform")
    _check.choice("implementation", implementation, {None: None, **IMPLEMENTATIONS})
    return Explanation(implementation, f"asked for by `implementation`: {IMPLEMENTATIONS[implementation]}")


OPS = ("rows", "apply", "rank", "mask")


@dataclass(frozen=True)
class Fused:
    """A form that may run as a kernel: the named one, or with None the one that suits where the program runs."""

    method: str
    op: str
    implementation: str | None
    plain: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        import softjax_pallas

        if self.implementation is not None:
            return getattr(softjax_pallas.forms(self.method, self.implementation), self.op)(*arguments)
        assert self.plain is not None
        sources = softjax_pallas._selection.sources(self.method, self.op, self.plain, *arguments)
        return run_where(sources, self.plain, *arguments) if sources else self.plain(*arguments)

    def explain(self, target: Target, *arguments: Any) -> Explanation:
        """What runs on a target."""
        import softjax_pallas

        found, reason = self.implementation, choose(self.implementation).reason
        if found is None:
            found, reason = softjax_pallas._selection.pick(self.method, self.op, target, *arguments)
        if found is None:
            return Explanation("xla", f"the fast form in plain JAX: {reason}")
        return Explanation(found, reason, softjax_pallas.tiles(self.method, self.op, found, *arguments))


def forms(method: Method, implementation: str | None) -> Forms:
    """The forms of a method by an implementation, or each by the one that suits where the program runs."""
    if implementation in OWN:
        return method.forms(implementation)
    if implementation is None:
        return replace(method.xla, **{op: Fused(method.name, op, None, getattr(method.xla, op)) for op in method.fused})
    import softjax_pallas

    theirs = softjax_pallas.forms(method.name, implementation)
    there = [op for op in OPS if getattr(theirs, op) is not None]
    return replace(theirs, **{op: Fused(method.name, op, implementation) for op in there})


_noted: ContextVar[list[tuple[Fused, tuple]] | None] = ContextVar("noted", default=None)


def note(form: Any, *arguments: Any) -> None:
    """Tell `explain`, where it listens, that a call runs a form."""
    notes = _noted.get()
    if notes is not None and isinstance(form, Fused):
        notes.append((form, arguments))


def explain(operator: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Explanation:
    """Which implementation `operator(*args, **kwargs)` runs on JAX's default device, and why. Nothing is computed.

    **Arguments:**
        operator: an array operator of this package.
        args, kwargs: what it would be called with; for arrays `jax.ShapeDtypeStruct` will do.
    **Returns:** an `Explanation`; its `str` is one readable line. `tiles` are a kernel's tile sizes.
    **Raises:** `TypeError` if the operator does not take these arguments, `ValueError` for an unknown
        implementation, and what the operator raises for such arguments.
    """
    bound = inspect.signature(operator).bind(*args, **kwargs)
    bound.apply_defaults()
    if "implementation" not in bound.arguments:
        name = getattr(operator, "__name__", operator)
        raise TypeError(f"`operator` (={name}) must be an operator with an `implementation` argument.")
    chosen = choose(bound.arguments["implementation"])
    token = _noted.set([])
    try:
        _trace(operator, args, kwargs)
        notes = _noted.get() or []
    finally:
        _noted.reset(token)
    device = jax.devices()[0]
    target = Target(PLATFORMS.get(str(device.platform), str(device.platform)), device)
    found = [form.explain(target, *arguments) for form, arguments in notes]
    return next((e for e in found if e.implementation != "xla"), found[0] if found else chosen)


def _trace(operator: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> None:
    """Trace a call whose arrays may be shapes."""
    leaves, tree = jax.tree.flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]

    def call(*arrays):
        for i, a in zip(places, arrays, strict=True):
            leaves[i] = a
        args, kwargs = jax.tree.unflatten(tree, leaves)
        operator(*args, **kwargs)

    jax.eval_shape(call, *(leaves[i] for i in places))
