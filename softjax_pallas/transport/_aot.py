"""Every transport kernel with shapes to compile it for, ahead of time and on machines that cannot run it."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ._kernels import kernels
from ._limits import DTYPES, MAX_ANCHORS, max_payload
from ._spec import Operands, Spec

_BATCH = 64
_NAMES = {None: "smooth", 1: "c0", 2: "c1", 3: "c2"}

SHAPES = (
    # n, anchors, wanted, payload, degree: argmax, mask, quantile, top-k of 7, 32 and what fills a kernel.
    (1000, 2, 1, 0, None),
    (1024, 2, 1, 1, 3),
    (1000, 4, 2, 1, 1),
    (1000, 8, 7, 0, None),
    (1000, 8, 7, 8, 3),
    (1000, 16, 15, 0, 2),
    (1024, 33, 32, 0, None),
    (1000, 33, 32, 1, 3),
    (1000, 47, 46, 8, 3),
    (1000, 47, 46, 1, 2),
    (1000, 63, 32, 1, 3),
    (1024, 63, 62, 0, None),
    (1024, 128, 127, 0, None),
    (1000, 101, 100, 8, 3),
)


def kernels_for_aot(implementation: str) -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    """(name, function, arguments as jax.ShapeDtypeStruct), forward and backward, for each shape and dtype."""
    for n, k, wanted, payload, degree in SHAPES:
        if k > MAX_ANCHORS[implementation] or payload > max_payload(implementation, k):
            continue
        spec = Spec(n, k, wanted, payload, degree, normalise=True)
        for dtype in DTYPES[implementation] if k in (2, 33) else ("float32",):
            yield from _pair(implementation, spec, dtype)


def _pair(implementation: str, spec: Spec, dtype: str):
    run, n, k, d = kernels(implementation), spec.n, spec.k, spec.payload
    keys: Any = partial(jax.ShapeDtypeStruct, dtype=dtype)
    number: Any = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    vector = number((_BATCH, k))
    at = Operands(keys((_BATCH, n)), keys((_BATCH, d, n)) if d else None, vector, vector, vector, number((_BATCH,)))
    what = f"transport-{_NAMES[spec.degree]}-n{n}-k{k}-d{d}-{dtype}"
    yield f"{what}-forward", partial(run.forward, spec), (at,)
    cotangent = number((_BATCH, spec.wanted, d)) if d else keys((_BATCH, spec.wanted, n))
    yield f"{what}-backward", partial(run.backward, spec), (at, vector, cotangent)
