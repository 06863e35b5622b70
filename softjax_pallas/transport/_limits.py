"""Where a transport kernel can run: data, and the reason where it cannot. Importing this does not import Pallas."""

import jax.numpy as jnp

from .._kernel import LINES, jax_version, unsupported

_HALVES = ("float32", "bfloat16", "float16")
DTYPES: dict[str, tuple[str, ...]] = {
    "pallas_triton": _HALVES,
    "pallas_mosaic_gpu": _HALVES,
    "pallas_interpret_gpu": _HALVES,
    "pallas_mosaic_tpu": ("float32", "bfloat16"),  # its compiler loads no float16 vectors
    "pallas_interpret": _HALVES,
    "pallas_interpret_races": _HALVES,
}

MAX_ANCHORS = {
    "pallas_triton": 64,
    "pallas_mosaic_gpu": 47,
    "pallas_interpret_gpu": 47,
    "pallas_mosaic_tpu": 128,
    "pallas_interpret": 128,
    "pallas_interpret_races": 128,
}
"""The k x k system is eliminated in registers (VMEM on TPU): beyond this it spills."""

PASS_VMEM = 12 << 20
"""Bytes of VMEM for a pass over many anchors, of the 16 MiB by default."""

TILE = 64
"""Keys and anchors of a Mosaic GPU program's tile where anchors are many."""

FEW = 8
"""Up to so many anchors the Mosaic GPU program holds one array of keys for each."""

MIN_KEYS = {"pallas_mosaic_gpu": (128, 64), "pallas_interpret_gpu": (128, 64)}
"""A tile of keys for up to FEW anchors and for more: Mosaic GPU's loads have no masks."""

MAX_KEYS = {"pallas_triton": 1 << 16, "pallas_mosaic_gpu": 1 << 16, "pallas_interpret_gpu": 1 << 16}
"""One streaming multiprocessor works on a row, which is to stay in its caches."""

VMEM = 48 << 20
"""Bytes of a row and its result in VMEM, twice for the pipeline; v5e, v5p and v6e have more."""


def max_payload(implementation: str, k: int) -> int:
    """So many columns are averaged without writing the plan; each holds a block's registers on Mosaic GPU."""
    return 1 if implementation in MIN_KEYS and k > FEW else 8


def many(k: int, implementation: str) -> bool:
    """Are there more anchors than one program holds? Then kernels are passes over the plan, for any number of them."""
    return k > MAX_ANCHORS[implementation]


def pass_anchors(k: int, implementation: str) -> int:
    """k, rounded up to what a pass takes: empty anchors fill a Mosaic GPU tile, and align its loads of two anchors."""
    return max(TILE, -(-k // 8) * 8) if implementation in MIN_KEYS else k


def pass_channels(implementation: str, line: int) -> int:
    """Channels of a payload that a pass visits at once, of at most `line` keys or anchors: what registers hold.

    A TPU has room for two groups of sublanes, but for the anchors' own channel, where VMEM has it for so long lines.
    """
    if implementation in LINES and 4 * line * _pass_lines(_MOST) <= PASS_VMEM:
        return _MOST
    return 4 if implementation in MIN_KEYS else _FEWEST


_FEWEST, _MOST = 7, 15


def _pass_lines(channels: int) -> int:
    """Numbers for each key, or anchor, that a pass holds: keys, shift and inv, c and the channels, twice in flight."""
    return 2 * (8 + 8 + -(-(1 + channels) // 8) * 8)  # in whole groups of sublanes


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
    if many(k, implementation):
        return _no_pass(op, n, k, implementation)
    if implementation == "pallas_triton" and jax_version() < (0, 12):
        return "the Triton of JAX 0.11 crashes on this kernel"
    if jnp.dtype(dtype).name not in DTYPES[implementation]:
        return f"kernels of {implementation} take {', '.join(DTYPES[implementation])}, not {jnp.dtype(dtype).name}"
    return _too_large(n, k, payload, implementation)


def _no_pass(op: str, n: int, k: int, implementation: str) -> str | None:
    """Passes convert keys and payload to float32 and take any number of columns, a few at a time."""
    if implementation in MIN_KEYS and n < TILE:
        return f"{n} keys do not fill a tile of {TILE}, and loads of {implementation} have no masks"
    if implementation == "pallas_mosaic_tpu":
        lane_tile = 128
        block = 4 * max(n, k) * (_pass_lines(_FEWEST) + (2 * lane_tile if op == "rows" else 0))
        if block > PASS_VMEM:
            return f"a pass over {n} keys and {k} anchors holds {block} bytes, more than {PASS_VMEM} of VMEM"
    return None


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
