"""Run by test_sharding.py in a process with four virtual devices: `sharded.py NAME...` prints one JSON line per case.

A case is "operator method mode implementation". A line says which collectives its compiled value-and-gradient has, how
the results are sharded, and how far they are from those on one device. `--eager` alone: a call where no mesh is set.
`--batch`: two batch axes, of which either or both are sharded, one more line for each. `--vmap`: over a sharded axis.
"""

import json
import os
import re
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4 --xla_cpu_parallel_codegen_split_count=1"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import softjax as sj

jax.config.update("jax_disable_most_optimizations", True)
ROWS, N = 8, 64
OPERATORS = {
    "sort": sj.sort,
    "payload": lambda x, **o: sj.sort((x, jnp.cos(x)), **o)[1],
    "payload of all": lambda x, **o: sj.sort((x, jnp.linspace(0.0, 1.0, x.shape[-1])), **o)[1],
    "payload of all_st": lambda x, **o: sj.sort_st((x, jnp.linspace(0.0, 1.0, x.shape[-1])), **o)[1],
    "argsort": sj.argsort,
    "ranking": sj.ranking,
    "top_k": lambda x, **o: sj.top_k(x, 3, **o),
    "top_20": lambda x, **o: sj.top_k(x, 20, **o)[0],
    "max": lambda x, **o: sj.max(x, axis=-1, **o),
    "quantile": lambda x, **o: sj.quantile(x, 0.3, axis=-1, **o),
    "median": lambda x, **o: sj.median(x, axis=-1, **o),
    "mask": lambda x, **o: sj.top_k_mask(x, min(5.5, x.shape[-1] / 2), **o),
    "transpose": lambda x, **o: sj.soft_permutation(x, **o).T @ x[..., None],
}
COLLECTIVES = ("all-gather", "collective-permute", "all-to-all")


def case(name: str) -> dict:
    operator, method, mode, implementation = name.split()
    how = {"method": method, "mode": mode, "implementation": None if implementation == "None" else implementation}

    def loss(x):
        y = OPERATORS[operator](x, **how)
        return sum(jnp.sum(jnp.sin(v)) for v in jax.tree.leaves(y)), y

    both = jax.grad(loss, has_aux=True)
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    x = np.random.default_rng(0).normal(size=(ROWS, N)).astype(np.float32)
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("rows")))
    compiled = jax.jit(both).lower(split).compile()
    text = compiled.as_text()
    have, want = jax.tree.leaves(compiled(split)), jax.tree.leaves(jax.jit(both)(x))
    rows = PartitionSpec("rows")
    told = jax.make_mesh((4,), ("rows",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(told):  # of which constants are a part, too
        explicit = jax.jit(both).lower(jax.device_put(x, NamedSharding(told, PartitionSpec("rows")))).compile()
    mapped = jax.jit(jax.shard_map(both, mesh=mesh, in_specs=rows, out_specs=rows))
    return {
        "case": name,
        "collectives": {c: len(re.findall(rf" {c}(?:-start)?\(", text)) for c in COLLECTIVES},
        "explicit": sum(len(re.findall(rf" {c}(?:-start)?\(", explicit.as_text())) for c in COLLECTIVES),
        "rows": sorted({a.sharding.shard_shape(a.shape)[0] for a in have}),
        "error": max(float(np.max(np.abs(a - b))) for a, b in zip(have, want, strict=True)),
        "mapped": mapped_error(mapped, split, want),
    }


def mapped_error(mapped, split, want) -> float:
    have = jax.tree.leaves(mapped(split))
    return max(float(np.max(np.abs(a - b))) for a, b in zip(have, want, strict=True))


def eager() -> dict:
    """A comparison of explicitly sharded rows with a number, where no mesh is set."""
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(jax.sharding.AxisType.Explicit,))
    x = np.linspace(-2, 2, ROWS * 4, dtype=np.float32).reshape(ROWS, 4)
    have = sj.clip(sj.greater(jax.device_put(x, NamedSharding(mesh, PartitionSpec("rows"))), 1.0), 0.1, 0.9)
    want = sj.clip(sj.greater(x, 1.0), 0.1, 0.9)
    return {"rows": have.sharding.shard_shape(have.shape)[0], "error": float(np.max(np.abs(have - want)))}


BATCHES = [
    "sort softsort smooth",
    "mask softsort hard",
    "median neuralsort smooth",
    "max ot smooth",
]


def batch(name: str, axis: int, spec: tuple, kind: str) -> dict:
    """Value and gradient of an operator on a (4, 4, 4) array with two batch axes."""
    operator, method, mode = name.split()

    def function(x):
        rows = jnp.moveaxis(x, axis, -1)
        return OPERATORS[operator](rows, method=method, mode=mode)

    both = jax.jit(jax.grad(lambda x: (lambda y: (total(y), y))(function(x)), has_aux=True))
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(getattr(jax.sharding.AxisType, kind),) * 2)
    x = np.random.default_rng(1).normal(size=(4, 4, 4)).astype(np.float32)
    with jax.set_mesh(mesh):
        split = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
        compiled = both.lower(split).compile()
        slope, out = compiled(split)
    # With automatic axes some loops ask all devices whether they are done.
    collectives = (*COLLECTIVES, "all-reduce") if kind == "Explicit" else COLLECTIVES
    text, kept = compiled.as_text(), [s for i, s in enumerate(spec) if i != axis]
    error = max(
        float(np.max(np.abs(a - b)))
        for a, b in zip(jax.tree.leaves((slope, out)), jax.tree.leaves(both(x)), strict=True)
    )
    placed = all((tuple(v.sharding.spec) + (None,) * 3)[:2] == tuple(kept) for v in jax.tree.leaves(out))
    return {
        "case": f"{name} {spec} {kind}",
        "collectives": {c: len(re.findall(rf" {c}(?:-start)?\(", text)) for c in collectives},
        "placed": placed and (mode == "hard" or slope.sharding.is_equivalent_to(split.sharding, 3)),
        "error": error,
    }


def total(y) -> jax.Array:
    return sum(jnp.sum(jnp.sin(v)) for v in jax.tree.leaves(y))


def vmapped(name: str) -> dict:
    """Value and gradient mapped over an axis that a mesh of JAX's default kind shards."""
    operator, method, mode = name.rsplit(maxsplit=2)

    def both(x):
        function = lambda x: OPERATORS[operator](x, method=method, mode=mode)
        return jax.grad(lambda x: (lambda y: (total(y), y))(function(x)), has_aux=True)(x)

    x = np.random.default_rng(2).normal(size=(4, 20)).astype(np.float32)
    want = jax.jit(jax.vmap(both))(x)
    mesh = jax.make_mesh((4,), ("rows",))
    with jax.set_mesh(mesh):
        split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("rows", None)))
        have = [jax.jit(jax.vmap(both))(split)]
        if mode == "smooth":  # without a jit around them forward and backward are programs of their own
            have.append(jax.vmap(both)(split))
    pairs = list(zip(jax.tree.leaves(have), jax.tree.leaves([want] * len(have)), strict=True))
    return {
        "case": name,
        "placed": all(jax.typeof(a).sharding.spec[0] == "rows" for a, _ in pairs),
        "error": max(float(np.max(np.abs(a - b))) for a, b in pairs),
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["--batch"]:
        for name in BATCHES:
            for axis, spec in ((2, (None, "a", None)), (1, ("a", None, "b"))):
                for kind in ("Explicit", "Auto"):
                    print(json.dumps(batch(name, axis, spec, kind)), flush=True)
        sys.exit()
    if sys.argv[1] == "--vmap":
        for name in sys.argv[2:]:
            print(json.dumps(vmapped(name)), flush=True)
        sys.exit()
    if sys.argv[1:] == ["--eager"]:
        print(json.dumps(eager()))
        sys.exit()
    for line in sys.argv[1:]:
        print(json.dumps(case(line)), flush=True)
