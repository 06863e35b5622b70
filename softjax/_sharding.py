"""Rows on several devices: what encloses a call, and how a function of rows runs on each device's own.

XLA splits elementwise work by itself, but replicates what it cannot split (a gather over flattened rows, a kernel).
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")

# ---------------------------------------------------------------- what encloses a call: manual axes, and mapped ones


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


# ---------------------------------------------------------------- batch axes: explicit ones stay where they are


def over_rows(function: Callable[..., Any], *arrays: jax.Array | None, shared: Sequence[jax.Array] = ()) -> Any:
    """function(*arrays, *shared) for a function of arrays (batch, ...), where these are (*batch, ...).

    On a mesh with explicit axes every device computes on its own rows. What is shared is the same for every row. The
    first array says what the batch axes are and how rows are sharded. Anything else that is sharded is gathered.
    """
    keys = arrays[0]
    assert keys is not None
    run = _mapped(function, keys.ndim - 1, len(arrays), len(shared))
    sharding = jax.typeof(keys).sharding
    explicit = getattr(sharding.mesh, "explicit_axes", ())
    if not explicit:
        return run(*arrays, *shared)
    rows, whole = PartitionSpec(*sharding.spec[: keys.ndim - 1]), PartitionSpec()
    specs = (*(rows for _ in arrays), *(whole for _ in shared))
    given = zip((*arrays, *shared), specs, strict=True)
    placed = [None if a is None else _resharded(a, sharding.mesh, spec) for a, spec in given]
    if mapped_mesh_axes() & set(explicit):  # a shard_map could not take them, and knows nothing of a partition by rows
        out = NamedSharding(sharding.mesh, rows)
        run = jax.sharding.auto_axes(run, axes=tuple(explicit), out_sharding=out)
        # What a derivative keeps is to be outside: no program takes arrays of a mesh with axes of either kind.
        return jax.checkpoint(run, prevent_cse=False)(*placed)
    # With its default checks: without them derivatives are summed over the axes that shard no rows.
    run = jax.shard_map(run, mesh=sharding.mesh, in_specs=specs, out_specs=rows, axis_names=set(explicit))
    return run(*placed)


def _mapped(function: Callable[..., Any], batch_ndim: int, arrays: int, shared: int) -> Callable[..., Any]:
    """`function`, which takes one batch axis, for so many."""
    if batch_ndim == 0:

        def one_row(*given):
            one = [None if a is None else a[None] for a in given[:arrays]]
            return jax.tree.map(lambda a: jnp.squeeze(a, 0), function(*one, *given[arrays:]))

        return one_row
    for _ in range(batch_ndim - 1):
        function = jax.vmap(function, in_axes=(*(0,) * arrays, *(None,) * shared))
    return function


def whole_along(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """x, gathered along the axes that an explicit mesh shards."""
    sharding = jax.typeof(x).sharding
    if not any(sharding.spec[i] for i in axes):
        return x
    spec = [None if i in axes else name for i, name in enumerate(sharding.spec)]
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*spec)))


def _resharded(a: jax.Array, mesh: Any, spec: PartitionSpec) -> jax.Array:
    """The array, its first dimensions sharded so and the others whole."""
    rest = (None,) * (a.ndim - len(spec))
    return jax.sharding.reshard(a, NamedSharding(mesh, PartitionSpec(*spec, *rest)))


# ---------------------------------------------------------------- automatic axes: a partitioner is told


def by_rows(function: Callable[..., Sequence[jax.Array]], lead: int) -> Callable[..., Sequence[jax.Array]]:
    """`function`, whose arrays and results all lead with the same `lead` dimensions of rows, for many devices.

    Sharding along those dimensions is kept, along any other it is not: whole rows are gathered.
    """

    def call(*arrays):
        from jax.experimental.custom_partitioning import custom_partitioning
        from jax.extend import core

        closed = jax.make_jaxpr(function)(*arrays)
        count = len(arrays)
        constants = [np.asarray(c) for c in closed.consts]

        def local(*operands):
            held = [c.reshape(k.shape) for c, k in zip(operands[count:], constants, strict=True)]
            if all(a.shape == b.shape for a, b in zip(operands[:count], arrays, strict=True)):
                same = core.ClosedJaxpr(closed.jaxpr, held)  # pyright: ignore[reportPrivateImportUsage]
                return tuple(core.jaxpr_as_fun(same)(*operands[:count]))
            return tuple(function(*operands[:count]))

        run = custom_partitioning(local)
        operands = [*arrays, *(c.reshape(c.shape or (1,)) for c in constants)]
        rule, rest = _rule(
            [a.ndim for a in operands], [len(o.shape) for o in jax.eval_shape(function, *arrays)], lead, count
        )
        run.def_partition(
            lambda mesh, given, results: (*_placed(mesh, given, results, lead, count, local),),
            sharding_rule=rule,
            need_replication_factors=rest,
        )
        return run(*operands)

    return call


def _rule(operands: list[int], results: list[int], lead: int, count: int) -> tuple[str, tuple[str, ...]]:
    """The sharding rule of arrays with so many dimensions, and its factors that must not be sharded."""
    rows, rest = [f"b{i}" for i in range(lead)], []

    def factors(array: int, ndim: int, shared: int) -> str:
        own = [f"a{array}d{i}" for i in range(shared, ndim)]
        rest.extend(own)
        return " ".join([*rows[:shared], *own])

    inputs = [factors(i, ndim, lead if i < count else 0) for i, ndim in enumerate(operands)]
    outputs = [factors(len(operands) + i, ndim, lead) for i, ndim in enumerate(results)]
    return f"{', '.join(inputs)} -> {', '.join(outputs)}", tuple(rest)


def _placed(mesh: Mesh, given: Any, results: Any, lead: int, count: int, local: Callable) -> tuple:
    """What a partitioner wants to know: the mesh, each device's function, and shardings of results and operands."""
    rows = [*given[:count], *results]
    if not mesh.empty:
        spec = max((row_spec(a.sharding, lead) for a in rows), key=lambda s: _parts(mesh, s))
        kept, whole = NamedSharding(mesh, PartitionSpec(*spec)), NamedSharding(mesh, PartitionSpec())
        placed = tuple(kept for _ in results), (*(kept for _ in given[:count]), *(whole for _ in given[count:]))
        return mesh, local, *placed
    # Without a mesh the arrays' own shardings stand if they split rows alone, and alike.
    splits = {
        tuple(math.ceil(n / s) for n, s in zip(a.shape, a.sharding.shard_shape(a.shape), strict=True)) for a in rows
    }
    devices = sorted(rows[0].sharding.device_set, key=lambda d: d.id)
    mesh = Mesh(np.array(devices), ("devices",))
    whole = NamedSharding(mesh, PartitionSpec())
    alike = len({s[:lead] for s in splits}) == 1 and all(n == 1 for s in splits for n in s[lead:])
    own = lambda a: a.sharding if alike else whole
    return mesh, local, tuple(map(own, results)), (*map(own, given[:count]), *(whole for _ in given[count:]))


def row_spec(sharding: NamedSharding, lead: int) -> tuple:
    """How the `lead` dimensions of rows are sharded."""
    return (*sharding.spec, *(None,) * lead)[:lead]


def _parts(mesh: Mesh, spec: tuple) -> int:
    names = [n for entry in spec if entry is not None for n in (entry if isinstance(entry, tuple) else (entry,))]
    return math.prod(mesh.shape[n] for n in names)
