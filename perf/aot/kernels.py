"""Every kernel with shapes to compile it for, ahead of time and on machines that cannot run it."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from softjax._methods import METHODS
from softjax._modes import MODES, Mode
from softjax_pallas import named
from softjax_pallas._kernel import MOSAIC_GPU, PORTABLE
from softjax_pallas.ops import pairwise
from softjax_pallas.ops.ot.kernels import kernels
from softjax_pallas.ops.ot.limits import DTYPES, MAX_ANCHORS, max_payload
from softjax_pallas.ops.ot.spec import Operands, Spec
from softjax_pallas.ops.pairwise import KERNELS


class Compiled(NamedTuple):
    """A function whose kernels are to compile for a target, and the shapes of its arrays."""

    name: str
    function: Any
    shapes: tuple[Any, ...]


def of_pairs(implementation: str) -> Iterator[Compiled]:
    """Value and gradient, for each mode and dtype."""
    n = 1000
    if implementation in PORTABLE:  # where XLA's padding of arrays around the kernels would show
        yield _compiled((implementation, "neuralsort", "apply"), "c0", jnp.float32, (2048, range(2048), 2), batch=64)
    for method, ops in KERNELS.items():
        for mode in ("smooth", "c0", "c1", "c2"):
            calls = [(op, range(n), 2 * (op == "apply")) for op in ops]
            if "apply" in ops:
                # Few rows, each over all columns; a Mosaic GPU tile has 64 of them, and takes none.
                calls += [] if implementation in MOSAIC_GPU else [("apply", range(n - 10, n), 1)]
            for op, ranks, channels in calls:
                yield _compiled((implementation, method, op), mode, jnp.float32, (n, ranks, channels))
        if implementation in MOSAIC_GPU:  # rows of an odd length have a layout of their own
            for op in ops:
                yield _compiled(
                    (implementation, method, op), "smooth", jnp.float32, (n + 1, range(n + 1), 2 * (op == "apply"))
                )
    for dtype in (jnp.bfloat16, jnp.float16):
        for method, ops in KERNELS.items():
            for mode, op in (*(("smooth", op) for op in ops), *((("c0", "apply"),) if "apply" in ops else ())):
                shape = (2, n) if op == "rank" else (2, n, n, 2)
                if pairwise.supports(op, method, dtype, shape, implementation) is None:
                    yield _compiled((implementation, method, op), mode, dtype, (n, range(n), 2 * (op == "apply")))


def _mode(name: str) -> Mode:
    mode = MODES[name]
    assert mode is not None
    return mode


def _compiled(
    which: tuple[str, str, str], mode: str, dtype: Any, case: tuple[int, range, int], batch: int = 2
) -> Compiled:
    (implementation, method, op), (n, ranks, channels) = which, case
    form, entry = getattr(named(METHODS[method], implementation), op), _mode(mode)
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


# --- transport ---------------------------------------------------------------------------------------

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


def of_transport(implementation: str) -> Iterator[Compiled]:
    """Forward and backward, for each shape and dtype."""
    for n, k, wanted, payload, degree in SHAPES:
        if k > MAX_ANCHORS[implementation] or payload > max_payload(implementation, k):
            continue
        spec = Spec(n, k, wanted, payload, degree, normalise=True)
        for dtype in DTYPES[implementation] if k in (2, 33) else ("float32",):
            yield from _pair(implementation, spec, dtype)


def _pair(implementation: str, spec: Spec, dtype: str) -> Iterator[Compiled]:
    run, n, k, d = kernels(implementation), spec.n, spec.k, spec.payload
    keys: Any = partial(jax.ShapeDtypeStruct, dtype=dtype)
    number: Any = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    vector = number((_BATCH, k))
    at = Operands(keys((_BATCH, n)), keys((_BATCH, d, n)) if d else None, vector, vector, vector, number((_BATCH,)))
    what = f"transport-{_NAMES[spec.degree]}-n{n}-k{k}-d{d}-{dtype}"
    yield Compiled(f"{what}-forward", partial(run.forward, spec), (at,))
    cotangent = number((_BATCH, spec.wanted, d)) if d else keys((_BATCH, spec.wanted, n))
    yield Compiled(f"{what}-backward", partial(run.backward, spec), (at, vector, cotangent))


LISTS = {of_pairs: ("rows", "columns"), of_transport: ("transport",)}
"""Each yields the programs of an implementation, whose tiles are of these families."""
