"""Which implementation of a method runs, and why.

`xla` and `dense` are this package's own. The others are kernels of `softjax_pallas`, which is imported by the first
call that may run one; Pallas itself by the first that does.
"""

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any

import jax

from . import _check
from ._kernel_form import run_where
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


@dataclass(frozen=True)
class Form:
    """One function of a method, compared by value: a part of a program's cache key."""

    method: Any
    op: str

    def __call__(self, *arguments: Any) -> Any:
        return getattr(self.method, self.op)(*arguments)


def by_kernels(form: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a function of methods: of an `automatic` one, a kernel may be chosen where a program is lowered."""
    op = form.__name__

    @wraps(form)
    def chosen(self: Any, *arguments: Any) -> Any:
        if not self.automatic:
            return form(self, *arguments)
        import softjax_pallas

        note(None, self.name, op, *arguments)
        plain = Form(self.plain, op)
        sources = softjax_pallas.sources(self.name, op, plain, *arguments)
        return run_where(sources, plain, *arguments) if sources else plain(*arguments)

    return chosen


def implemented(method: Any, implementation: str | None) -> Any:
    """The method as `implementation` says; with None its functions choose where a program is lowered."""
    choose(implementation)
    if implementation is None:
        return method
    if implementation in OWN:
        return method.plain if implementation == "xla" else method.definition
    import softjax_pallas

    return softjax_pallas.named(method, implementation)


Note = tuple[str | None, str, str, tuple]
_explaining: ContextVar[list[Note] | None] = ContextVar("explaining", default=None)
_notes: ContextVar[list[Note] | None] = ContextVar("notes", default=None)


def show(form: Form, *arguments: Any) -> None:
    """Let `explain`, where it listens, see what a form comes to, on types with all rows in one batch."""
    if (notes := _explaining.get()) is None:
        return
    token = _notes.set(notes)
    try:
        _trace(form, arguments, {})
    finally:
        _notes.reset(token)


def note(implementation: str | None, method: str, op: str, *arguments: Any) -> None:
    """Tell `explain` which implementation a function of a method runs by, None for one that may be chosen."""
    if (notes := _notes.get()) is not None:
        types = (jax.ShapeDtypeStruct(a.shape, a.dtype) if isinstance(a, jax.Array) else a for a in arguments)
        notes.append((implementation, method, op, tuple(types)))


def _explained(note: Note, target: Target) -> Explanation:
    import softjax_pallas

    (found, method, op, arguments), reason = note, choose(note[0]).reason
    if found is None:
        found, reason = softjax_pallas.pick(method, op, target, *arguments)
    if found is None:
        return Explanation("xla", f"the fast form in plain JAX: {reason}")
    return Explanation(found, reason, softjax_pallas.tiles(method, op, found, *arguments))


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
    token = _explaining.set([])
    try:
        _trace(operator, args, kwargs)
        notes = _explaining.get() or []
    finally:
        _explaining.reset(token)
    device = jax.devices()[0]
    target = Target(PLATFORMS.get(str(device.platform), str(device.platform)), device)
    found = [_explained(note, target) for note in notes]
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
