"""The pairwise methods by kernels: which calls they serve, and the forms that dispatch hands out.

Sorting, gathers and scans stay in XLA, since no Pallas compiler lowers a sort.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from softjax._kernel_form import run

from .._autodiff import FormKernel
from .._kernel import MOSAIC_GPU, Named, cannot_run, unsupported
from ..tile_engine.tiles import FEW, LEAST
from ..tile_engine.tiles import tiles as tiles

OPS = ("rows", "apply", "rank")
KERNELS = {"softsort": ("rows",), "neuralsort": OPS}
"""What each method has kernels of. SoftSort's other forms take plain JAX O(n), which no kernel has beaten."""
MOST_CHANNELS = 8
"""Payload channels that a kernel keeps in registers at once."""
VMEM_BYTES = 12 * 2**20
"""What a TPU kernel's blocks may take of the 16 MiB that are its by default, two buffers each."""


def supports(op: str, method: str, dtype: Any, shape: tuple[int, ...], implementation: str) -> str | None:
    """Why no kernel serves such a call, or None if one does.

    **Arguments:**
        op: "rows", "apply" or "rank". method: "softsort" or "neuralsort".
        shape: (batch, r, n) for rows, (batch, r, n, d) for apply, (batch, n) for rank.
        implementation: the kernel's name.
    """
    if op not in KERNELS.get(method, ()):
        return f"there is no kernel for {op!r} of {method!r}"
    if (reason := unsupported(implementation, dtype)) is not None:
        return reason
    batch, n = shape[0], shape[1] if op == "rank" else shape[2]
    wanted = n if op == "rank" else shape[1]
    channels = shape[3] if op == "apply" else 1
    if batch == 0 or n == 0 or wanted == 0:
        return "the call is empty"
    if channels > MOST_CHANNELS:
        return f"a kernel takes up to {MOST_CHANNELS} payload channels, not {channels}"
    if implementation in MOSAIC_GPU:
        return _mosaic_gpu_reason(op, (wanted, n))
    if implementation == "pallas_mosaic_tpu":
        if jnp.dtype(dtype).name == "float16":
            return "Mosaic TPU does not load float16"
        return _tpu_reason(op, method, (wanted, n), channels)
    return None


def _mosaic_gpu_reason(op: str, sizes: tuple[int, int]) -> str | None:
    wanted, n = sizes
    one_by_one = op == "rows" or (op == "apply" and wanted <= FEW)
    if n < LEAST or (one_by_one and wanted < LEAST):
        return f"a Mosaic GPU tile has {LEAST} rows and columns, the call ({wanted}, {n})"
    return None


def _tpu_reason(op: str, method: str, sizes: tuple[int, int], channels: int) -> str | None:
    wanted, n = sizes
    lines = (1 if method == "softsort" else 4) + (channels if op != "rows" else 0)
    block = 8 * (min(wanted, 128) * n if op == "rows" else lines * 8 * max(wanted, n) // 4)
    if op == "rows":
        block = max(block, 8 * 128 * wanted)  # the backward pass by columns
    if block > VMEM_BYTES:
        return f"blocks of {block} bytes exceed the {VMEM_BYTES} that a TPU kernel has"
    return None


@dataclass(frozen=True)
class PairwiseKernel(FormKernel):
    """A form that saves the rows' norms, whose shape follows from no tile size."""

    def form(self, solve, *arguments):
        return getattr(_module(self.method), self.op)(self.implementation, *arguments, solve)

    @staticmethod
    def saved(method: str, op: str, x: Any, *arguments: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes of what is saved, for ranks that are a range; Pallas is not imported for them."""
        batch, n = x.shape
        wanted = n if op == "rank" else len(arguments[0])
        if op == "apply" and wanted > FEW:
            wanted = n
        norm = jax.ShapeDtypeStruct((batch, 2, wanted), jnp.float32)
        return (norm, norm) if op == "rank" else (norm,)


@dataclass(frozen=True)
class TransposedKernel:
    """The transpose of rows of P times y, by the kernels of rows of P times a payload. It saves nothing.

    Its cotangent u makes <y, P u>: the product with u, and that product's cotangents.
    """

    implementation: str
    method: str

    @property
    def _product(self) -> PairwiseKernel:
        return PairwiseKernel(self.implementation, self.method, "apply")

    def value(self, *arguments: Any) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """The form's result; nothing is saved."""
        x, ranks, y, *more = arguments
        product = x, ranks, jnp.zeros((*x.shape, y.shape[2]), y.dtype), *more
        _, saved = self._product.value(*product)
        return self._product.pull(saved, y, *product)[1], ()

    def pull(self, saved: tuple[jax.Array, ...], cotangent: jax.Array, *arguments: Any) -> tuple[jax.Array, ...]:
        """Cotangents of the keys, of y and of the softness."""
        x, ranks, y, *more = arguments
        out, saved = self._product.value(x, ranks, cotangent, *more)
        keys, _, softness = self._product.pull(saved, y, x, ranks, cotangent, *more)
        return keys, out, softness


def _module(method: str) -> Any:
    from .neuralsort import band
    from .softsort import rows

    return {"softsort": rows, "neuralsort": band}[method]


def _shape(op: str, x: Any, *arguments: Any) -> tuple[int, ...]:
    """A call's sizes, as `supports` takes them."""
    if op == "rank":
        return x.shape
    shape = x.shape[0], len(arguments[0]), x.shape[1]
    if op == "rows":
        return shape
    return *shape, 1 if arguments[1] is None else arguments[1].shape[2]


def refusal(implementation: str, method: str, op: str, x: Any, *arguments: Any) -> str | None:
    """Why no kernel of that implementation serves a call, or None."""
    return supports(op, method, x.dtype, _shape(op, x, *arguments), implementation)


_kernel = cache(PairwiseKernel)  # a kernel is one object, by which its traced shapes are remembered


def named(implementation: str, method: str, op: str, x: jax.Array, *arguments: Any) -> jax.Array:
    """A function of a method by kernels of that implementation, once it is sure that one serves the call."""
    shape = _shape(op, x, *arguments)
    if 0 in shape:
        return jnp.zeros((*shape[:2], shape[3]) if op == "apply" else shape, x.dtype)
    if (reason := refusal(implementation, method, op, x, *arguments)) is not None:
        raise cannot_run(implementation, op, method, reason)
    return run(Named(implementation, method, op, _kernel(implementation, method, op)), x, *arguments)
