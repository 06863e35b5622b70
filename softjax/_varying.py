"""What encloses a call: manual mesh axes that arrays vary over, and explicit ones that `jax.vmap` maps."""

import contextlib
from typing import Any, TypeVar

import jax
from jax import lax

T = TypeVar("T")


def vary_alike(tree: T) -> T:
    """The arrays, cast so that each varies over the manual axes that any of them varies over.

    A loop wants that of its carry, where JAX's own functions do it by themselves.
    """
    axes = set().union(*map(_varying, jax.tree.leaves(tree)))
    return jax.tree.map(lambda a: _cast(a, tuple(sorted(axes - _varying(a)))), tree) if axes else tree


def _varying(a: Any) -> set[str]:
    aval: Any = jax.typeof(a)
    return set(aval.vma if hasattr(aval, "vma") else aval.mat.varying)


def _cast(a: Any, axes: tuple[str, ...]) -> Any:
    if not axes:
        return a
    if hasattr(lax, "pcast"):
        return lax.pcast(a, axes, to="varying")
    return lax.pvary(a, axes)  # pyright: ignore[reportAttributeAccessIssue]  (JAX 0.10)


def mapped_mesh_axes() -> frozenset[str]:
    """Explicit axes along which an enclosing `jax.vmap` maps: an array's sharding does not name them."""
    try:
        from jax._src.core import get_axis_env
    except ImportError:
        return frozenset()
    return frozenset(getattr(get_axis_env(), "explicit_mesh_axis_names", ()))


def unchecked() -> contextlib.AbstractContextManager[Any]:
    """Inside, nothing is said of manual axes: for a primitive, whose own type says how its results vary."""
    try:
        from jax._src.config import _check_vma
    except ImportError:
        return contextlib.nullcontext()
    return _check_vma(False)
