"""Rows on several devices: what encloses a call, and how a function of rows runs on each device's own.

XLA splits elementwise work by itself, but replicates what it cannot split (a gather over flattened rows, a kernel).
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
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


@custom_vmap
def anywhere(flags: jax.Array) -> jax.Array:
    """Is any of them true? One answer for all that is mapped, so that a branch on it stays a branch."""
    return jnp.any(flags)


@anywhere.def_vmap
def _anywhere_in_the_batch(axis_size, in_batched, flags):
    del axis_size, in_batched
    return anywhere(flags), False


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
    rows, whole, along = PartitionSpec(*sharding.spec[: keys.ndim - 1]), PartitionSpec(), sharding.spec[-1]
    if along is not None or mapped_mesh_axes() & set(explicit):
        # A shard_map could not take mapped axes, and knows nothing of a partition by rows, or of sums over devices.
        def out(result):
            own = [along if size == keys.shape[-1] else None for size in result.shape[keys.ndim - 1 :]]
            first = [name if i == own.index(along) else None for i, name in enumerate(own)] if along in own else own
            return NamedSharding(sharding.mesh, PartitionSpec(*rows, *first))

        types = [None if a is None else jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (*arrays, *shared)]
        results = jax.tree.map(out, jax.eval_shape(run, *types))
        run = jax.sharding.auto_axes(run, axes=tuple(explicit), out_sharding=results)
        # What a derivative keeps is to be outside: no program takes arrays of a mesh with axes of either kind.
        return jax.checkpoint(run, prevent_cse=False)(*arrays, *shared)
    specs = (*(rows for _ in arrays), *(whole for _ in shared))
    given = zip((*arrays, *shared), specs, strict=True)
    placed = [None if a is None else _resharded(a, sharding.mesh, spec) for a, spec in given]
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


class Spread(NamedTuple):
    """Arrays whose last dimension is the keys', which several devices may share, among operands and results.

    `together(axes, own, found)` makes the results of what each device along the mesh axes found for its own keys.
    """

    operands: tuple[bool, ...]
    results: tuple[bool, ...]
    together: Callable[..., Sequence[jax.Array]]


def by_rows(
    function: Callable[..., Sequence[jax.Array]], lead: int, spread: Spread | None = None
) -> Callable[..., Sequence[jax.Array]]:
    """`function`, whose arrays and results all lead with the same `lead` dimensions of rows, for many devices.

    Sharding along those dimensions is kept, and along that of the keys where they may be `spread`; along any other it
    is not, and what is whole is gathered.
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
        shapes = [a.ndim for a in operands], [len(o.shape) for o in jax.eval_shape(function, *arrays)]
        rule, rest = _rule(*shapes, lead, count, spread)

        def partition(mesh, given, results):
            mesh, axes, placed, outs = _placed(mesh, given[:count], results, lead, spread)
            whole = NamedSharding(mesh, PartitionSpec())
            placed = *placed, *(whole for _ in given[count:])
            if spread is None or not axes:
                return mesh, local, outs, placed
            together = spread.together
            return mesh, lambda *given: tuple(together(axes, given[:count], local(*given))), outs, placed

        run.def_partition(partition, sharding_rule=rule, need_replication_factors=rest)
        return run(*operands)

    return call


def _rule(
    operands: list[int], results: list[int], lead: int, count: int, spread: Spread | None
) -> tuple[str, tuple[str, ...]]:
    """The sharding rule of arrays with so many dimensions, and its factors that must not be sharded."""
    rows, rest = [f"b{i}" for i in range(lead)], []

    def factors(array: int, ndim: int, shared: int, keys: bool) -> str:
        own = [f"a{array}d{i}" for i in range(shared, ndim - keys)]
        rest.extend(own)
        return " ".join([*rows[:shared], *own, *(["keys"] if keys else [])])

    along = [False] * (len(operands) + len(results))
    if spread is not None:
        along = [*spread.operands, *[False] * (len(operands) - count), *spread.results]
    inputs = [factors(i, ndim, lead if i < count else 0, along[i]) for i, ndim in enumerate(operands)]
    outputs = [factors(i, ndim, lead, along[i]) for i, ndim in enumerate(results, len(operands))]
    return f"{', '.join(inputs)} -> {', '.join(outputs)}", tuple(rest)


def _placed(
    mesh: Mesh, given: Sequence[Any], results: Sequence[Any], lead: int, spread: Spread | None
) -> tuple[Mesh, tuple[str, ...], tuple, tuple]:
    """What a partitioner wants to know: the mesh, its axes that share the keys, shardings of arrays and of results."""
    rows = [*given, *results]
    if not mesh.empty:
        spec = max((row_spec(a.sharding, lead) for a in rows), key=lambda s: _parts(mesh, s))
        keys, along = _keys_spec(mesh, rows, spec, spread)
        inner = [(*(None,) * (len(a.shape) - lead - 1), keys) if k else () for a, k in zip(rows, along, strict=True)]
        placed = [NamedSharding(mesh, PartitionSpec(*spec, *rest)) for rest in inner]
        return mesh, tuple(_names((keys,))), tuple(placed[: len(given)]), tuple(placed[len(given) :])
    # Without a mesh the arrays' own shardings stand if they split rows alone, and alike.
    splits = {
        tuple(math.ceil(n / s) for n, s in zip(a.shape, a.sharding.shard_shape(a.shape), strict=True)) for a in rows
    }
    devices = sorted(rows[0].sharding.device_set, key=lambda d: d.id)
    mesh = Mesh(np.array(devices), ("devices",))
    whole = NamedSharding(mesh, PartitionSpec())
    alike = len({s[:lead] for s in splits}) == 1 and all(n == 1 for s in splits for n in s[lead:])
    own = lambda a: a.sharding if alike else whole
    return mesh, (), tuple(map(own, given)), tuple(map(own, results))


def _keys_spec(mesh: Mesh, rows: list, spec: tuple, spread: Spread | None) -> tuple[Any, list[bool]]:
    """The mesh axes, none of which shards rows, that share the keys evenly, and the arrays that they shard."""
    nowhere = [False] * len(rows)
    if spread is None:
        return None, nowhere
    along, taken = [*spread.operands, *spread.results], set(_names(spec))
    for a in (a for a, keys in zip(rows, along, strict=True) if keys):
        entry = row_spec(a.sharding, len(a.shape))[-1]
        if entry is not None and not taken & set(_names((entry,))) and a.shape[-1] % _parts(mesh, (entry,)) == 0:
            return entry, along
    return None, nowhere


def row_spec(sharding: NamedSharding, lead: int) -> tuple:
    """How the leading dimensions are sharded."""
    return (*sharding.spec, *(None,) * lead)[:lead]


def _parts(mesh: Mesh, spec: tuple) -> int:
    return math.prod(mesh.shape[n] for n in _names(spec))


def _names(spec: tuple) -> list[str]:
    """The mesh axes of a partition."""
    return [n for entry in spec if entry is not None for n in (entry if isinstance(entry, tuple) else (entry,))]
