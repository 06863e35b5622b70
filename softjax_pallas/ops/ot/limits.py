"""Where a transport kernel can run: data, and the reason where it cannot. Importing this does not import Pallas."""

import jax.numpy as jnp

from ..._kernel import unsupported

_HALVES = ("float32", "bfloat16", "float16")
DTYPES: dict[str, tuple[str, ...]] = {
    "pallas_mosaic_gpu": _HALVES,
    "pallas_interpret_gpu": _HALVES,
    "pallas_mosaic_tpu": ("float32", "bfloat16"),  # its compiler loads no float16 vectors
    "pallas_interpret": _HALVES,
    "pallas_interpret_races": _HALVES,
}

MAX_ANCHORS = {
    "pallas_mosaic_gpu": 47,
    "pallas_interpret_gpu": 47,
    "pallas_mosaic_tpu": 128,
    "pallas_interpret": 128,
    "pallas_interpret_races": 128,
}
"""The k x k system is eliminated in registers (VMEM on TPU): beyond this it spills."""

FEW = 8
"""Up to so many anchors the Mosaic GPU program holds one array of keys for each."""

MIN_KEYS = {"pallas_mosaic_gpu": (128, 64), "pallas_interpret_gpu": (128, 64)}
"""A tile of keys for up to FEW anchors and for more: Mosaic GPU's loads have no masks."""

MAX_KEYS = {"pallas_mosaic_gpu": 1 << 16, "pallas_interpret_gpu": 1 << 16}
"""One streaming multiprocessor works on a row, which is to stay in its caches."""

VMEM = 48 << 20
"""Bytes of a row and its result in VMEM, twice for the pipeline; v5e, v5p and v6e have more."""


def max_payload(implementation: str, k: int) -> int:
    """So many columns are averaged without writing the plan; each holds a block's registers on Mosaic GPU."""
    return 1 if implementation in MIN_KEYS and k > FEW else 8


OPS = ("rows", "apply", "rank", "mask")


def supports(op: str, method: str, dtype, shape: tuple[int, ...], implementation: str) -> str | None:
    """Why `implementation` cannot run an operation, or None.

    `shape` is (batch, n, anchors, payload): the last is 0 where the rows of P are the result. For "rank" and "mask"
    (batch, n) suffices.
    """
    if implementation not in MAX_ANCHORS:
        return f"{implementation!r} is no kernel implementation"
    if op not in OPS or method != "ot":
        return f"there is no transport kernel for {op!r} of {method!r}"
    if (reason := unsupported(implementation, dtype)) is not None:
        return reason
    _, n, k, payload = (*shape, *{"rank": (shape[1], 0), "mask": (2, 0)}.get(op, ()))[:4]
    if k > MAX_ANCHORS[implementation]:
        return f"{k} anchors are more than the {MAX_ANCHORS[implementation]} that a kernel holds"
    if jnp.dtype(dtype).name not in DTYPES[implementation]:
        return f"kernels of {implementation} take {', '.join(DTYPES[implementation])}, not {jnp.dtype(dtype).name}"
    return _too_large(n, k, payload, implementation)


def _too_large(n: int, k: int, payload: int, implementation: str) -> str | None:
    if payload > max_payload(implementation, k):
        return f"{payload} columns of payload are more than the {max_payload(implementation, k)} a kernel averages"
    least = MIN_KEYS.get(implementation, (1, 1))[k > FEW]
    if n < least:
        return f"{n} keys do not fill a tile of {least}, and loads of {implementation} have no masks"
    if n > MAX_KEYS.get(implementation, n):
        return f"{n} keys are more than the {MAX_KEYS[implementation]} that one multiprocessor should work on"
    # Twice each, for the pipeline: keys and payload and their cotangents, or keys, their cotangent and the plan's.
    lines = 2 * (2 + 2 * payload if payload else 2 + -(-k // 8) * 8)
    if implementation == "pallas_mosaic_tpu" and 4 * n * lines > VMEM:
        return f"a row of {n} keys and its result ({4 * n * lines} bytes) do not fit {VMEM} bytes of VMEM"
    return None
