"""What every kernel shares: the compilers it can be built for, their parameters, and what makes a kernel a form.

Importing this module does not import Pallas.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from softjax._kernel_form import Kernel, Source

PORTABLE = ("pallas_mosaic_tpu", "pallas_interpret", "pallas_interpret_races")
"""Programs of the portable body. The long axis is last: XLA pads the last axis of a TPU's arrays to 128 elements."""
MOSAIC_GPU = ("pallas_mosaic_gpu", "pallas_interpret_gpu")
IMPLEMENTATIONS = (*PORTABLE, *MOSAIC_GPU)
PLATFORMS = {"cuda": ("pallas_mosaic_gpu",), "tpu": ("pallas_mosaic_tpu",)}
"""What is compiled for a platform; interpreters run on any."""
OLDEST_JAX = (0, 11)
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Tile:
    """Rows and columns of a tile."""

    rows: int
    columns: int

    def __post_init__(self):
        for name in ("rows", "columns"):
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


def cannot_run(implementation: str, op: str, method: str, reason: str) -> NotImplementedError:
    """The error of a named kernel that does not serve a call: it never falls back, and says what can."""
    return NotImplementedError(
        f"implementation={implementation!r} cannot run {op} of method {method!r}: {reason}. implementation='xla' can."
    )


def compute_capability(device: Any) -> int | None:
    """The major compute capability of a CUDA device; of one that is only described, by its name."""
    stated = getattr(device, "compute_capability", None)
    if stated is not None:
        return int(str(stated).split(".")[0])
    words = re.findall(r"[A-Z]+[0-9]+", getattr(device, "device_kind", None) or "")
    return next((major for word in words for major, names in _CAPABILITIES.items() if word in names), None)


_CAPABILITIES = {
    8: ("A10", "A30", "A40", "A100", "A800", "L4", "L40"),
    9: ("H100", "H200", "H800", "H20", "GH200"),
    10: ("B100", "B200", "B300", "GB200", "GB300"),
}
"""Data centre GPUs by major capability (NVIDIA, CUDA GPU Compute Capability)."""


def needs_other_hardware(implementation: str, device: Any) -> str | None:
    """Why a CUDA device does not run an implementation, or None: also where its capability is not known."""
    capability = compute_capability(device)
    if implementation != "pallas_mosaic_gpu" or capability is None or capability >= 9:
        return None
    return f"it needs compute capability 9.0 or newer, and {device.device_kind} has {capability}.x"


def ceil_div(a: Any, b: int) -> Any:
    """a / b rounded up."""
    return -(-a // b)


def tracing() -> Any:
    """Tracing of a kernel: 32-bit integers, whatever the caller's x64 mode."""
    return jax.enable_x64(False)


def portable_options(implementation: str) -> dict[str, Any]:
    """Keywords of `pl.pallas_call` for one of the compilers that the portable body serves.

    "pallas_interpret_races" interprets two programs at a time and looks for races; it is slow.
    """
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


def mosaic_gpu_store(ref: Any, value: Any) -> None:
    """A Mosaic GPU kernel's ref[...] = value where the value's layout and the memory need not suit each other.

    JAX 0.12 asks for that by `plgpu.store`; before, every store did what it could.
    """
    from jax.experimental.pallas import mosaic_gpu as plgpu

    if hasattr(plgpu, "store"):
        plgpu.store(ref, value.astype(ref.dtype), optimized=False)
    else:
        ref[...] = value.astype(ref.dtype)


@dataclass(frozen=True)
class Named(Source):
    """The kernel that was asked for by name, wherever the program runs."""

    implementation: str
    method: str
    op: str
    kernel: Kernel
    plain = None
    platform = None

    def at(self, target, *arguments):
        platform = next((p for p, theirs in PLATFORMS.items() if self.implementation in theirs), None)
        if target is not None and platform not in (None, target.platform):
            raise cannot_run(
                self.implementation,
                self.op,
                self.method,
                f"it is compiled for {platform}, and this program is for {target.platform}",
            )
        if target is not None and (reason := needs_other_hardware(self.implementation, target.device)) is not None:
            raise cannot_run(self.implementation, self.op, self.method, reason)
        if target is not None and not target.local:
            raise cannot_run(
                self.implementation, self.op, self.method, "XLA cannot split a kernel over devices, jax.shard_map does"
            )
        return self.kernel

    def result(self, *arguments):
        return self._value_shapes(*arguments)[0]

    def saved(self, *arguments):
        return self._value_shapes(*arguments)[1]

    def _value_shapes(self, *arguments):
        return shapes_of(self.kernel.value, *arguments)

    def effects(self, *arguments):
        return set(_traced(self.kernel.value, *arguments)[1].effects)

    def no_derivative(self, what):
        return cannot_run(self.implementation, self.op, self.method, f"a kernel has no {what}")


def shapes_of(function: Callable[..., Any], *arguments: Any) -> Any:
    """`jax.eval_shape` of a function some of whose arguments are no arrays, remembered."""
    return _traced(function, *arguments)[0]


def _traced(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    """Shapes, and the program."""
    structs = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) if hasattr(a, "dtype") else a for a in arguments)
    return _remembered(
        function,
        structs,
        (jax.config.read("jax_enable_x64"), jax.config.jax_default_device, jax.sharding.get_abstract_mesh()),
    )


def forget() -> None:
    """Forget shapes that were traced: those of what is saved may follow from tile sizes."""
    _remembered.cache_clear()


@lru_cache(maxsize=512)
def _remembered(function: Callable[..., Any], arguments: tuple, context: Any) -> tuple[Any, Any]:
    del context
    places = [i for i, a in enumerate(arguments) if hasattr(a, "dtype")]

    def call(*arrays):
        every = list(arguments)
        for i, a in zip(places, arrays, strict=True):
            every[i] = a
        return function(*every)

    program, shapes = jax.make_jaxpr(call, return_shape=True)(*(arguments[i] for i in places))
    return shapes, program
