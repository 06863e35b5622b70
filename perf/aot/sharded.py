"""A sharded batch on four TPUs, ahead of time: `python perf/aot/sharded.py` prints a line per case.

Needs libtpu, no TPU. Rows are to stay where they are, and a kernel to be chosen where a shard_map, or a mesh with
explicit axes, gives each device its rows; with automatic axes no kernel can be, since TPU compilers do not ask a kernel
how to split it.
"""

import re
import sys
from functools import partial

import targets

targets.prepare()
import jax  # noqa: E402  (its backends read the environment that `prepare` sets)
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec  # noqa: E402

import softjax as sj  # noqa: E402

CASES = {
    # operator by method and how the mesh is used; the operator; whether a kernel is to be found
    "top_k ot, shard_map": (lambda x: sj.top_k(x, 8, method="ot"), True),
    "top_k ot, explicit": (lambda x: sj.top_k(x, 8, method="ot"), True),
    "top_k ot, automatic": (lambda x: sj.top_k(x, 8, method="ot"), False),
    "mask ot, shard_map": (lambda x: sj.top_k_mask(x, 8.5), True),
    "mask ot, explicit": (lambda x: sj.top_k_mask(x, 8.5), True),
    "mask ot, automatic": (lambda x: sj.top_k_mask(x, 8.5), False),
    "sort softsort, explicit": (sj.sort, False),
    "sort softsort, automatic": (sj.sort, False),
    "rank softsort, automatic": (partial(sj.rank, axis=-1), False),
    "median ot, automatic": (partial(sj.median, axis=-1, method="ot"), False),
    "argsort softsort by name, shard_map": (partial(sj.argsort, implementation="pallas_mosaic_tpu"), True),
    "argsort softsort by name, explicit": (partial(sj.argsort, implementation="pallas_mosaic_tpu"), True),
    "max neuralsort, shard_map": (lambda x: sj.max(x, axis=-1, method="neuralsort"), False),
    "sort neuralsort, explicit": (partial(sj.sort, method="neuralsort"), False),
}
COLLECTIVES = ("all-gather", "all-to-all", "collective-permute")


def main() -> int:
    """Compile every case, print a line each, and say by the exit status whether all are as they should be."""
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    rows, kinds = PartitionSpec("rows"), {"explicit": AxisType.Explicit}
    bad = 0
    for name, (operator, kernel) in CASES.items():
        how = name.split(", ")[1]
        mesh = Mesh(np.array(topology.devices), ("rows",), axis_types=(kinds.get(how, AxisType.Auto),))
        x = jax.ShapeDtypeStruct((256, 1024), jnp.float32, sharding=NamedSharding(mesh, rows))

        def loss(x, operator=operator):
            y = operator(x)
            return sum(jnp.sum(jnp.sin(v)) for v in jax.tree.leaves(y)), y

        run = jax.grad(loss, has_aux=True)
        if how == "shard_map":
            run = jax.shard_map(run, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
        with jax.set_mesh(mesh):
            text = jax.jit(run).lower(x).compile().as_text()
        counts = {c: len(re.findall(rf" {c}(?:-start)?\(", text)) for c in COLLECTIVES}
        kernels = text.count('custom_call_target="tpu_custom_call"')
        wrong = any(counts.values()) or (kernels > 0) != kernel
        bad += wrong
        print(f"v5e:2x2 {name:34} kernels {kernels} {counts}{'  FAILED' if wrong else ''}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
