"""What every kernel shares: the compilers it can be built for, their parameters, and folding vmap into the batch.

Importing this module does not import Pallas.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import custom_batching

PORTABLE = ("pallas_triton", "pallas_mosaic_tpu", "pallas_interpret", "pallas_interpret_races")
MOSAIC_GPU = ("pallas_mosaic_gpu", "pallas_interpret_gpu")
IMPLEMENTATIONS = (*PORTABLE, *MOSAIC_GPU)
OLDEST_JAX = (0, 11)
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Tile:
    """Rows and columns of a tile, the warps that work on it where the compiler asks, and own tiles per program."""

    rows: int
    columns: int
    warps: int = 4
    parts: int = 1

    def __post_init__(self):
        for name in ("rows", "columns", "warps", "parts"):
            size = getattr(self, name)
            if size < 1:
                raise ValueError(f"`{name}` (={size}) must be positive.")


def jax_version() -> tuple[int, ...]:
    """The running JAX's version, major and minor."""
    return tuple(int(part) for part in jax.__version__.split(".")[:2])


def unsupported(implementation: str, dtype: Any) -> str | None:
    """Why no kernel of that implementation can run here on that dtype, or None."""
    if implementation not in IMPLEMENTATIONS:
        return f"{implementation!r} is no kernel implementation"
    if jax_version() < OLDEST_JAX:
        return f"kernels need JAX >= {'.'.join(map(str, OLDEST_JAX))}, this is {jax.__version__}"
    if jnp.dtype(dtype).name not in DTYPES:
        return f"kernels take {', '.join(DTYPES)}, not {jnp.dtype(dtype).name}"
    return None


def cannot_run(implementation: str, op: str, order: str, reason: str) -> NotImplementedError:
    """The error of a named kernel that does not serve a call: it never falls back, and says what can."""
    return NotImplementedError(
        f"implementation={implementation!r} cannot run {op} of method {order!r}: {reason}. implementation='xla' can."
    )


def ceil_div(a: Any, b: int) -> Any:
    """a / b rounded up."""
    return -(-a // b)


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(0, math.ceil(math.log2(max(1, n))))


def tracing() -> Any:
    """Tracing of a kernel: 32-bit integers, whatever the caller's x64 mode."""
    return jax.enable_x64(False)


def portable_options(implementation: str, warps: int) -> dict[str, Any]:
    """Keywords of `pl.pallas_call` for one of the compilers that the portable body serves.

    "pallas_interpret_races" interprets two programs at a time and looks for races; it is slow.
    """
    if implementation == "pallas_triton":
        from jax.experimental.pallas import triton as pltriton

        return {"compiler_params": pltriton.CompilerParams(num_warps=warps, num_stages=2)}
    from jax.experimental.pallas import tpu as pltpu

    params = {"compiler_params": pltpu.CompilerParams(dimension_semantics=("parallel", "parallel"))}
    if implementation == "pallas_mosaic_tpu":
        return params
    if implementation == "pallas_interpret_races":
        return params | {"interpret": pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2)}
    return params | {"interpret": True}


def mosaic_gpu_options(implementation: str) -> dict[str, Any]:
    """Keywords of `plgpu.kernel`."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    options: dict[str, Any] = {"compiler_params": plgpu.CompilerParams()}
    if implementation == "pallas_interpret_gpu":
        options["interpret"] = plgpu.InterpretGPUParams()
    return options


def batched(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of arrays that lead with the batch, with vmap folded into that axis.

    A grid axis per vmap would put more than 65,535 programs on CUDA's second axis, and Mosaic GPU has no such rule.
    """

    @custom_batching.custom_vmap
    def call(*arrays):
        return function(*arrays)

    @call.def_vmap
    def rule(size, mapped, *arrays):
        spread = [a if m else jnp.broadcast_to(a, (size, *a.shape)) for a, m in zip(arrays, mapped, strict=True)]
        batch = spread[0].shape[1]
        out = call(*(a.reshape(size * batch, *a.shape[2:]) for a in spread))
        out = jax.tree.map(lambda a: a.reshape(size, batch, *a.shape[1:]), out)
        return out, jax.tree.map(lambda a: True, out)

    return call


def static(function: Callable[..., Any], *options: Any) -> Callable[..., Any]:
    """`function(*options)` with its options bound, as a vmap-safe function of arrays."""
    return batched(partial(function, *options))
