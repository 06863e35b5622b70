"""The pairwise methods by kernels: which calls they serve, and the forms that dispatch hands out.

Sorting, gathers and the scan over chunks stay in XLA, since no Pallas compiler lowers a sort.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from softjax._fused import run
from softjax._methods.base import Forms
from softjax._modes import MODES, Mode

from .._kernel import IMPLEMENTATIONS, LINES, MOSAIC_GPU, Named, Traced, cannot_run, unsupported
from ._lean import Restoring, Saving
from ._tiles import LEAST, few

METHODS = ("softsort", "neuralsort")
OPS = ("rows", "apply", "rank")
MOST_CHANNELS = 8
"""Payload channels that a kernel keeps in registers at once."""
VMEM_BYTES = 12 * 2**20
"""What a TPU kernel's blocks may take of the 16 MiB that are its by default, two buffers each."""


def supports(op: str, method: str, mode: Mode, dtype: Any, shape: tuple[int, ...], implementation: str) -> str | None:
    """Why no kernel serves such a call, or None if one does.

    **Arguments:**
        op: "rows", "apply" or "rank". method: "softsort" or "neuralsort". mode: the mode's entry.
        shape: (batch, r, n) for rows, (batch, r, n, d) for apply, (batch, n) for rank.
        implementation: the kernel's name.
    """
    if op not in OPS or method not in METHODS:
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
        return _mosaic_gpu_reason(op, method, mode, (wanted, n))
    if implementation == "pallas_mosaic_tpu":
        if jnp.dtype(dtype).name == "float16":
            return "Mosaic TPU does not load float16"
        return _tpu_reason(op, method, (wanted, n), channels)
    return None


def _mosaic_gpu_reason(op: str, method: str, mode: Mode, sizes: tuple[int, int]) -> str | None:
    wanted, n = sizes
    one_by_one = op == "rows" or (op == "apply" and few(method, mode, wanted, n))
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


def forms(implementation: str) -> dict[str, Forms]:
    """The forms of both methods by kernels of that implementation; kernels are built when a form is traced."""
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"`implementation` (={implementation!r}) must be one of {', '.join(IMPLEMENTATIONS)}.")
    return {
        method: Forms(*(partial(_form, PairwiseKernel(implementation, method, op)) for op in OPS))  # pyright: ignore[reportArgumentType]
        for method in METHODS
    }


@dataclass(frozen=True)
class PairwiseKernel(Traced):
    """One form of one method by one compiler's kernels."""

    implementation: str
    method: str
    op: str

    def form(self, *arguments):
        return getattr(_module(self.method), self.op)(self.implementation, *arguments)


LEAN = {"softsort": ("rows",), "neuralsort": OPS}
"""Forms with a `LeanKernel`."""


@dataclass(frozen=True)
class LeanKernel:
    """A form by one compiler's kernels that saves the rows' norms, and makes the rest again for the backward pass.

    What it saves has one shape for every compiler and tile size. Ranks are a range.
    """

    implementation: str
    method: str
    op: str

    def value(self, *arguments: Any) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """The form's result, and what is saved."""
        solve = Saving()
        return self._form(*arguments, solve), solve.saved

    def pull(self, saved: tuple[jax.Array, ...], cotangent: jax.Array, *arguments: Any) -> tuple[jax.Array, ...]:
        """Cotangents of the arguments that are arrays of floats."""
        places = [i for i, a in enumerate(arguments) if hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.floating)]

        def form(*floats):
            every = list(arguments)
            for i, a in zip(places, floats, strict=True):
                every[i] = a
            return self._form(*every, Restoring(saved))

        return jax.vjp(form, *(arguments[i] for i in places))[1](cotangent)

    def _form(self, *arguments: Any) -> jax.Array:
        return getattr(_module(self.method), self.op)(self.implementation, *arguments)

    @staticmethod
    def saved(method: str, op: str, x: Any, *arguments: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes of what is saved; Pallas is not imported for them."""
        batch, n = x.shape
        wanted = n if op == "rank" else len(arguments[0])
        if op == "apply" and not few(method, arguments[-1], wanted, n):
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
    def _product(self) -> LeanKernel:
        return LeanKernel(self.implementation, self.method, "apply")

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
    from . import _neuralsort, _softsort

    return {"softsort": _softsort, "neuralsort": _neuralsort}[method]


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
    return supports(op, method, arguments[-1], x.dtype, _shape(op, x, *arguments), implementation)


def _form(kernel: PairwiseKernel, x: jax.Array, *arguments: Any) -> jax.Array:
    """One form: checks that a kernel serves the call, then calls it."""
    op, method, implementation = kernel.op, kernel.method, kernel.implementation
    shape = _shape(op, x, *arguments)
    if 0 in shape:
        return jnp.zeros((*shape[:2], shape[3]) if op == "apply" else shape, x.dtype)
    if (reason := refusal(implementation, method, op, x, *arguments)) is not None:
        raise cannot_run(implementation, op, method, reason)
    return run(Named(implementation, method, op, kernel), x, *arguments)


# --- the list that is compiled ahead of time -----------------------------------------------------------


class Compiled(NamedTuple):
    """A function whose kernels are to compile for a target, and the shapes of its arrays."""

    name: str
    function: Any
    shapes: tuple[jax.ShapeDtypeStruct, ...]


def kernels_for_aot(implementation: str) -> Iterator[Compiled]:
    """Every kernel of this package, value and gradient, for each mode and dtype it is built for."""
    n = 1000
    if implementation in LINES:  # where XLA's padding of arrays around the kernels would show
        for method, mode in (("softsort", "smooth"), ("neuralsort", "c0")):
            yield _compiled((implementation, method, "apply"), mode, jnp.float32, (2048, range(2048), 2), batch=64)
    for method in METHODS:
        for mode in ("smooth", "c0", "c1", "c2"):
            calls = [("rows", range(n), 0), ("apply", range(n), 2), ("rank", range(n), 0)]
            # Few rows, each over all columns; a Mosaic GPU tile has 64 of them, and takes them where that is still few.
            wanted = LEAST if implementation in MOSAIC_GPU else 10
            if few(method, _mode(mode), wanted, n):
                calls.append(("apply", range(n - wanted, n), 1))
            for op, ranks, channels in calls:
                yield _compiled((implementation, method, op), mode, jnp.float32, (n, ranks, channels))
        if implementation in MOSAIC_GPU:  # rows of an odd length have a layout of their own
            for op, channels in (("rows", 0), ("apply", 2), ("rank", 0)):
                yield _compiled((implementation, method, op), "smooth", jnp.float32, (n + 1, range(n + 1), channels))
    for dtype in (jnp.bfloat16, jnp.float16):
        for method in METHODS:
            for mode, op in (*(("smooth", op) for op in OPS), ("c0", "apply")):
                shape = (2, n) if op == "rank" else (2, n, n, 2)
                if supports(op, method, _mode(mode), dtype, shape, implementation) is None:
                    yield _compiled((implementation, method, op), mode, dtype, (n, range(n), 2 * (op == "apply")))


def _mode(name: str) -> Mode:
    mode = MODES[name]
    assert mode is not None
    return mode


def _compiled(
    which: tuple[str, str, str], mode: str, dtype: Any, case: tuple[int, range, int], batch: int = 2
) -> Compiled:
    (implementation, method, op), (n, ranks, channels) = which, case
    form, entry = getattr(forms(implementation)[method], op), _mode(mode)
    arrays = (jax.ShapeDtypeStruct((batch, n), dtype), jax.ShapeDtypeStruct((batch,), jnp.float32))
    if channels:
        arrays = (*arrays, jax.ShapeDtypeStruct((batch, n, channels), dtype))

    def value(x, tau, *v):
        more = () if op == "rank" else (ranks,) if op == "rows" else (ranks, v[0] if v else None)
        return form(x, *more, tau, entry)

    def both(g, *arrays):
        y, pull = jax.vjp(value, *arrays)
        return y, pull(g)

    rows = f" n{n}" if op == "rank" else len(ranks)
    name = f"{method} {op}{rows} {mode} {jnp.dtype(dtype).name}"
    return Compiled(name, both, (jax.eval_shape(value, *arrays), *arrays))
