"""Compile-only devices: an H200 described by an XLA target config, and TPU topologies.

Settings of a target are process-wide (and a compiler's abort ends its process), so each runs in a process of its own.
"""

import functools
import os
import re
import subprocess
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
IMPLEMENTATIONS = {
    "h200": ("pallas_mosaic_gpu",),
    "v5e": ("pallas_mosaic_tpu",),
    "v5p": ("pallas_mosaic_tpu",),
    "v6e": ("pallas_mosaic_tpu",),
}
TOPOLOGIES = {"v5e": "v5e:1x1", "v5p": "v5p:2x2x1", "v6e": "v6e:1x1"}
KINDS = {
    "h200": "NVIDIA H200",
    "v5e": "TPU v5 lite",
    "v5p": "TPU v5",
    "v6e": "TPU v6 lite",
}
"""What JAX calls such a device, and the file of its tile sizes."""
ARCHITECTURE = {"h200": "sm_90a"}


def prepare() -> None:
    """Environment of a compile-only process; call before JAX is imported."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no device is shared here
    os.environ["MOSAIC_GPU_DUMP_PTXAS"] = "1"


def mesh(target: str):
    """A mesh of one such device."""
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh

    if target in TOPOLOGIES:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[target])
        return Mesh(np.array(topology.devices[:1]), ("x",))
    config = (HERE / f"{target}.txtpb").read_text(encoding="utf-8")
    topology = topologies.get_topology_desc(platform="cuda", topology_name="", target_config=config, topology="1x1x1")
    return topologies.make_mesh(topo=topology, mesh_shape=(1,), axis_names=("x",))


def on_tpu(target_mesh) -> bool:
    """Is it a TPU's?"""
    return target_mesh.devices.flat[0].platform == "tpu"


@functools.cache
def compiler(target: str) -> str:
    """The versions that a target's code depends on."""
    versions = lambda *names: ", ".join(f"{name} {metadata.version(name)}" for name in names)
    if target in TOPOLOGIES:
        return versions("jax", "libtpu")
    said = subprocess.run(["ptxas", "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"V([\d.]+)", said)
    assert found, said
    return f"{versions('jax', 'jax-cuda13-pjrt')}, ptxas {found[1]}"


def lower_for(target_mesh, function, shapes):
    """function(*shapes), lowered for the mesh's device.

    On a TPU arguments and results lie as the compiler likes, as they do between a larger program's operations: its
    default for (64, 62, 1024) on v5p has the batch second to last, and a copy would bring it back.
    """
    import jax
    from jax.experimental.layout import Format, Layout
    from jax.sharding import NamedSharding, PartitionSpec, use_abstract_mesh

    placed = NamedSharding(target_mesh, PartitionSpec())
    if on_tpu(target_mesh):
        placed = Format(Layout.AUTO, placed)
    arguments = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), shapes)
    with use_abstract_mesh(target_mesh.abstract_mesh):
        return jax.jit(function, in_shardings=placed, out_shardings=placed).lower(*arguments)


def compile(target_mesh, lowered, options):
    """The executable; it cannot run here.

    For a GPU LLVM does not optimise what XLA generates, which halves the time. Memory is settled before that; Mosaic
    GPU compiles the kernels itself.
    """
    from jax.sharding import use_abstract_mesh

    quick = {} if on_tpu(target_mesh) else {"xla_backend_optimization_level": 0}
    with use_abstract_mesh(target_mesh.abstract_mesh):
        return lowered.compile(quick | options)
