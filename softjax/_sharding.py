"""Partitioning of a function of rows over the devices of a mesh: every device works on its own rows.

XLA splits elementwise work by itself, but replicates what it cannot split (a gather over flattened rows, a kernel).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


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
