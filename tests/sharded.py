"""Run by test_sharding.py in a process with four virtual devices: `sharded.py NAME...` prints one JSON line per case.

A case is "operator method mode implementation". A line says which collectives its compiled value-and-gradient has, how
the results are sharded, and how far they are from those on one device. `--eager` alone: a call where no mesh is set.
`--batch`: two batch axes, of which either or both are sharded, one more line for each. `--vmap`: over a sharded axis.
`--spread KIND NAME...`: the softened axis itself is sharded. `--process I PORT`: so over two processes, this the Ith.
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
    "max_of_512": lambda x, **o: sj.max(jnp.concatenate([x + i for i in range(8)], axis=-1), axis=-1, **o),
    "take": lambda x, **o: sj.take_along_axis(x, sj.argsort(x, **o), axis=-1),
    "standardised": lambda x, **o: sj.sort(x, standardize=True, **o),
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
    if operator in ("median", "quantile", "standardised", "mask", "take"):  # where no mesh is set
        have.append(jax.jit(jax.vmap(both))(split))
    with jax.set_mesh(mesh):
        if mode == "smooth":  # without a jit around them forward and backward are programs of their own
            have.append(jax.vmap(both)(split))
    pairs = list(zip(jax.tree.leaves(have), jax.tree.leaves([want] * len(have)), strict=True))
    return {
        "case": name,
        "placed": all(jax.typeof(a).sharding.spec[0] == "rows" for a, _ in pairs),
        "error": max(float(np.max(np.abs(a - b))) for a, b in pairs),
    }


SPREAD = {
    "ot top_k": lambda x: sj.top_k(x, 20, method="ot"),
    "ot max": lambda x: sj.max(x, axis=-1, method="ot"),
    "ot mask": lambda x: sj.top_k_mask(x, 20.5, method="ot"),
    "ot quantile": lambda x: sj.quantile(x, 0.9, axis=-1, method="ot"),
    "ot sort": lambda x: sj.sort(x, method="ot"),
    "ot payload": lambda x: sj.sort((x, jnp.cos(x)), method="ot")[1],
    "ot rank": lambda x: sj.rank(x, method="ot"),
    "softsort top_k": lambda x: sj.top_k(x, 20),
    "softsort bottom": lambda x: sj.bottom_k_mask(x, 3, method="softsort"),
    "softsort max": lambda x: sj.max(x, axis=-1, method="softsort"),
    "softsort mask": lambda x: sj.top_k_mask(x, 20.5, method="softsort"),
    "hard sort": lambda x: sj.sort(x, mode="hard"),
    "neuralsort median": lambda x: sj.median(x, axis=-1, method="neuralsort"),
}
LONG = 2048


def keys_to_spread() -> np.ndarray:
    """A normal row, one with many ties, one with the same key at every place, one that holds a NaN."""
    x = np.random.default_rng(3).normal(size=(4, LONG)).astype(np.float32)
    x[1] = np.round(4 * x[1]) / 4
    x[2] = 0.25
    x[3, 200] = np.nan
    return x


def spread_case(name: str):
    """Values, and the gradient of a sum of them with weights of their own."""

    def loss(x):
        outs = jax.tree.leaves(SPREAD[name](x))
        weight = lambda y: jnp.sin(jnp.arange(y[0].size, dtype=y.dtype)).reshape(y.shape[1:])
        return sum(jnp.sum(weight(y) * y, axis=tuple(range(1, y.ndim))) for y in outs), outs

    def both(x):
        total, pullback, outs = jax.vjp(loss, x, has_aux=True)
        return [*outs, *pullback(jnp.ones_like(total))]

    return both


def spread(kind: str, name: str) -> dict:
    """The softened axis over two or four devices; "Manual": which is automatic in a `jax.shard_map` over rows."""
    both, x = spread_case(name), keys_to_spread()
    want = jax.jit(both)(x)
    axis = jax.sharding.AxisType.Explicit if kind in ("Explicit", "Eager") else jax.sharding.AxisType.Auto
    sizes = (2, 2) if kind == "Manual" else (1, 4)
    mesh = jax.make_mesh(sizes, ("rows", "keys"), axis_types=(axis, axis))
    with jax.set_mesh(mesh):
        split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("rows", "keys")))
        if kind == "Eager":
            text, have = "", both(split)
        else:
            rows = PartitionSpec("rows")
            run = jax.shard_map(both, in_specs=rows, out_specs=rows, axis_names={"rows"}) if kind == "Manual" else both
            compiled = jax.jit(run).lower(split).compile()
            text, have = compiled.as_text(), compiled(split)
    nans = lambda a: np.isnan(np.asarray(a)).reshape(4, -1)
    far = lambda a, b: np.max(np.abs(np.asarray(a) - np.asarray(b))[:3]) / np.max(np.abs(np.asarray(b)[:3]))
    return {
        "case": name,
        "gathers": len(re.findall(r" all-gather(?:-start)?\(", text)),
        "along": [a.sharding.shard_shape(a.shape)[-1] * sizes[1] == LONG for a in have if LONG == a.shape[-1]],
        "nan": all(nans(a)[3].all() and not nans(a)[:3].any() for a in have[:-1]),
        "error": float(max(map(far, have, want))),
    }


def process(i: int, port: str) -> None:
    """Two devices of two processes share the keys: every process prints how far its part is from the whole."""
    jax.config.update("jax_num_cpu_devices", 1)
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=i)
    mesh = jax.make_mesh((2,), ("keys",), axis_types=(jax.sharding.AxisType.Auto,))
    x = keys_to_spread()[:3]
    split = jax.make_array_from_callback(
        x.shape, NamedSharding(mesh, PartitionSpec(None, "keys")), lambda index: x[index]
    )
    for name in ("ot top_k", "ot rank", "softsort mask"):
        error = 0.0
        for have, want in zip(jax.jit(spread_case(name))(split), jax.jit(spread_case(name))(x), strict=True):
            for part in have.addressable_shards:
                error = max(error, float(np.max(np.abs(part.data - np.asarray(want)[part.index]))))
        print(json.dumps({"case": name, "devices": jax.device_count(), "error": error}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--spread":
        for name in sys.argv[3:]:
            print(json.dumps(spread(sys.argv[2], name)), flush=True)
        sys.exit()
    if sys.argv[1] == "--process":
        process(int(sys.argv[2]), sys.argv[3])
        sys.exit()
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
