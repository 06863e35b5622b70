"""Every transport kernel with shapes to compile it for, ahead of time and on machines that cannot run it."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from softjax._modes import MODES

from .._kernel import LINES
from ._kernels import kernels
from ._limits import DTYPES, MAX_ANCHORS, max_payload
from ._spec import Operands, Spec
from .op import forms

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

PASSES = (
    # form, keys, wanted ranks, payload, mode. Rows keep a second matrix beside their result, so few of them.
    ("apply", 1000, 1000, 1, "smooth"),
    ("apply", 1000, 1000, 1, "c0"),
    ("apply", 1000, 1000, 7, "c1"),
    ("apply", 1000, 1000, 7, "c2"),
    ("apply", 1000, 200, 12, "smooth"),
    ("rank", 1000, 1000, 0, "smooth"),
    ("rank", 1000, 1000, 0, "c2"),
    ("rows", 300, 200, 0, "smooth"),
    ("rows", 300, 200, 0, "c2"),
)


def kernels_for_aot(implementation: str) -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    """(name, function, arguments as jax.ShapeDtypeStruct), forward and backward, for each shape and dtype."""
    for n, k, wanted, payload, degree in SHAPES:
        if k > MAX_ANCHORS[implementation] or payload > max_payload(implementation, k):
            continue
        spec = Spec(n, k, wanted, payload, degree, normalise=True)
        for dtype in DTYPES[implementation] if k in (2, 33) else ("float32",):
            yield from _pair(implementation, spec, dtype)
    for op, n, wanted, columns, mode in PASSES:
        yield _passes(implementation, (op, n, wanted, columns), mode)
    if implementation in LINES:  # where XLA's padding of arrays around the kernels would show
        yield _passes(implementation, ("apply", 2048, 2048, 1), "smooth", _BATCH)


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


def _passes(implementation: str, call: tuple[str, int, int, int], name: str, batch: int = 2):
    """Value and gradient of a form of many anchors: all of its kernels in the solver's loop."""
    op, n, k, columns = call
    form, mode = getattr(forms(implementation)["ot"], op), MODES[name]
    number: Any = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    arrays = (number((batch, n)), number((batch,)), *((number((batch, n, columns)),) if columns else ()))

    def value(x, tau, *payload):
        more = () if op == "rank" else (range(n - k, n), *payload)
        return form(x, *more, tau, mode)

    def both(g, *arrays):
        y, pull = jax.vjp(value, *arrays)
        return y, pull(g)

    what = f"transport-{op}-{name}-n{n}-wanted{k}-d{columns}-float32"
    return what, both, (jax.eval_shape(value, *arrays), *arrays)
