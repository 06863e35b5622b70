"""The one list of what is measured: operators, the cases that pair them with shapes, and the sets of these.

STANDARD is what `make bench` times, SCALING, MEMORY, COMPILED and KERNELS what `perf/bench.py --set` measures beside,
GATE what `make gate` compiles and counts. Everything is float32 with normal data of a fixed seed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import softjax as sj

METHODS = ("softsort", "neuralsort", "ot")
"""Those in every mode."""


SOFT: dict[str, Callable[..., jax.Array]] = {
    "sort": lambda x, k, **how: sj.sort(x, **how),
    "rank": lambda x, k, **how: sj.rank(x, axis=-1, **how),
    "top_k": lambda x, k, **how: sj.top_k(x, k, **how)[0],
    "argtop_k": lambda x, k, **how: sj.argtop_k(x, k, **how),
    "quantile": lambda x, k, **how: sj.quantile(x, 0.9, axis=-1, **how),
    "max": lambda x, k, **how: sj.max(x, axis=-1, **how),
    "mask": lambda x, k, **how: sj.top_k_mask(x, k, **how),
    "argsort": lambda x, k, **how: sj.argsort(x, **how),
}
"""Operators along the last axis, of which some take k."""


def _hard_mask(x: jax.Array, k: int) -> jax.Array:
    chosen = jax.lax.top_k(x, k)[1]
    return jnp.put_along_axis(jnp.zeros_like(x), chosen, jnp.ones((), x.dtype), axis=-1, inplace=False)


HARD: dict[str, Callable[[jax.Array, int], jax.Array]] = {
    "sort": lambda x, k: jnp.sort(x, axis=-1),
    "rank": lambda x, k: jnp.argsort(jnp.argsort(x, axis=-1, descending=True), axis=-1) + 1,
    "top_k": lambda x, k: jax.lax.top_k(x, k)[0],
    "argtop_k": lambda x, k: jax.nn.one_hot(jax.lax.top_k(x, k)[1], x.shape[-1], dtype=x.dtype),
    "quantile": lambda x, k: jnp.quantile(x, 0.9, axis=-1),
    "max": lambda x, k: jnp.max(x, axis=-1),
    "mask": _hard_mask,
    "argsort": lambda x, k: jnp.argsort(x, axis=-1),
}
"""JAX's own operators that they replace."""


@dataclass(frozen=True)
class Case:
    """An operator by a method and mode, at a shape; k elements where it takes so many, by default a tenth."""

    operator: str
    method: str
    shape: tuple[int, ...]
    mode: str = "smooth"
    softness: float = 0.1
    k: int | None = None
    implementation: str | None = None

    @property
    def label(self) -> str:
        """The operator, with k in its name where it is given."""
        return self.operator if self.k is None else f"{self.operator.removesuffix('_k')}_{self.k}"

    @property
    def name(self) -> str:
        """The method and the operator, with the mode between them where it is not the default."""
        return " ".join([self.method, *([self.mode] if self.mode != "smooth" else []), self.label])

    @property
    def key(self) -> str:
        """The name and the shape, and a softness that is not the default: what a case is called in files."""
        softness = f", softness {self.softness:g}" if self.softness != 0.1 else ""
        return f"{self.name} {' x '.join(map(str, self.shape))}{softness}"

    def about(self) -> dict[str, Any]:
        """What a record says of the case."""
        how = {"method": self.method, "mode": self.mode, "softness": self.softness}
        return {"case": self.name, "operator": self.label, **how, "shape": list(self.shape)}

    def by(self, implementation: str) -> "Case":
        """The same case by one implementation; "dense" is the readable definition."""
        return replace(self, implementation=implementation)

    def _k(self) -> int:
        return self.k or max(1, self.shape[-1] // 10)

    def soft(self, x: jax.Array) -> jax.Array:
        """The soft operator."""
        how = {"softness": self.softness, "mode": self.mode, "method": self.method}
        return SOFT[self.operator](x, self._k(), **how, implementation=self.implementation)

    def hard(self, x: jax.Array) -> jax.Array:
        """JAX's own operator."""
        return HARD[self.operator](x, self._k())

    def keys(self) -> jax.Array:
        """The input: normal, with a fixed seed."""
        return jnp.asarray(np.random.default_rng(0).normal(size=self.shape), jnp.float32)

    def abstract(self) -> jax.ShapeDtypeStruct:
        """Its shape and type, of which a program is compiled."""
        return jax.ShapeDtypeStruct(self.shape, jnp.float32)

    def _weighted(self, operator: Callable) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
        """x -> a weighted sum of the result, and the result."""
        shape = jax.eval_shape(operator, self.abstract()).shape
        # Of one axis, so that the program of a large result does not hold as large a constant.
        weights = np.random.default_rng(1).normal(size=shape[-1:]).astype(np.float32)

        def weighted(x):
            y = operator(x)
            return jnp.sum(y * jnp.asarray(weights).reshape((1,) * (len(shape) - 1) + shape[-1:])), y

        return weighted

    def value_and_gradient(self) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
        """x -> a weighted sum of the result, and its gradient."""
        weighted = self._weighted(self.soft)
        return jax.value_and_grad(lambda x: weighted(x)[0])

    def result_and_gradient(self, operator: Callable | None = None) -> Callable:
        """x -> the result of the soft operator, or of another, and the gradient of its weighted sum."""
        differentiated = jax.grad(self._weighted(operator or self.soft), has_aux=True)
        return lambda x: differentiated(x)[::-1]

    def disagreement(self, mine: Any, plain: Any) -> str | None:
        """How a result and gradient differ from plain JAX's beyond rounding, or None.

        Rounding: float32's unit times the root of the sums' length times the largest logit, which scales the keys'
        own rounding; relative to the largest entry.
        """
        rounding = 8 * float(jnp.finfo(jnp.float32).eps) * math.sqrt(self.shape[-1]) * max(1.0, 4.0 / self.softness)
        for what, a, b in zip(("result", "gradient"), mine, plain, strict=True):
            scale = max(1e-30, float(jnp.max(jnp.abs(b))))
            off = float(jnp.max(jnp.abs(a - b))) / scale
            if not off <= rounding:
                return (
                    f"{what} of {self.key} differs by {off:.1e} of its scale from plain JAX, {rounding:.1e} is rounding"
                )
        return None


def exponent(operator: str, method: str, along: str = "n") -> float:
    """The power of n, or of the batch, by which a case's time grows in theory; sorting's logarithm is left out.

    NeuralSort walks a band of about sqrt(n) entries a row. Transport has as many anchors as there are ranks wanted, but
    at the softness of these cases points stand for keys and anchors.
    """
    return 1.5 if along == "n" and method == "neuralsort" and operator in ("sort", "rank") else 1.0


def goals(method: str, mode: str) -> tuple[int, float]:
    """Instructions and seconds to compile that value and gradient should take at most."""
    if method == "fast_soft_sort":
        return 1_000, 1.5
    smooth = {"softsort": (900, 1.5), "ot": (1_500, 3.0), "neuralsort": (2_000, 3.0), "lapsum": (3_000, 3.0)}
    return smooth[method] if mode == "smooth" else (3_000, 3.0)


BIG = ((1_000_000,), (64, 16_384), (1_024, 1_024))

STANDARD = (
    *(Case(name, "softsort", shape) for shape in BIG for name in ("sort", "rank", "top_k", "quantile")),
    *(Case("sort", "softsort", shape, mode) for shape in BIG for mode in ("c0", "c1", "c2")),
    *(Case("sort", "softsort", shape) for shape in ((1_000,), (10_000,), (100_000,))),
    *(Case("sort", "softsort", (batch, 100)) for batch in (100, 1_000, 10_000)),
    Case("argsort", "softsort", (4, 1_024)),
    Case("max", "softsort", (1_024, 1_024)),
    *(Case("sort", "neuralsort", (n,)) for n in (4_096, 16_384, 65_536)),
    Case("sort", "neuralsort", (16_384,), "c1"),
    Case("rank", "neuralsort", (16_384,)),
    Case("quantile", "neuralsort", (64, 16_384)),
    *(Case(name, "softsort", shape, k=32) for shape in BIG[:2] for name in ("top_k", "mask")),
    *(Case("top_k", "softsort", shape, mode, k=32) for shape in BIG[:2] for mode in ("c0", "c1", "c2")),
    *(Case("top_k", "ot", (16, 4_096), softness=softness, k=32) for softness in (0.1, 0.03, 0.01)),
    Case("top_k", "ot", (64, 16_384), k=32),
    *(Case("quantile", "ot", shape) for shape in ((16, 4_096), (64, 16_384))),
    *(Case("mask", "ot", (64, 16_384), k=k) for k in (None, 32)),
    *(Case("sort", "ot", shape) for shape in ((4, 512), (4, 1_024), (65_536,), (1_000_000,))),
    *(Case("rank", "ot", shape) for shape in ((4, 1_024), (65_536,), (1_000_000,))),
    *(Case(name, "lapsum", shape) for shape in BIG[:2] for name in ("sort", "rank", "mask")),
    *(Case(name, "fast_soft_sort", shape, "c0") for shape in ((1_000_000,), (64, 4_096)) for name in ("sort", "rank")),
)
"""What `make bench` times, in under ten minutes on two cores."""

KERNELS = (
    *(Case("top_k", "ot", shape, k=32) for shape in ((4096, 1024), (256, 16384))),
    *(Case("argsort", method, (64, 2048)) for method in ("softsort", "neuralsort")),
    Case("sort", "neuralsort", (64, 2048)),
)
"""What `make gpu` times by kernels, plain JAX and the definition."""

MEMORY_SIZES = (8_192, 32_768)
MEMORY = (
    *(Case("sort", "softsort", MEMORY_SIZES[-1:], mode) for mode in ("smooth", "c0", "c1", "c2")),
    *(Case(name, "softsort", MEMORY_SIZES[-1:]) for name in ("rank", "top_k", "quantile")),
    Case("sort", "neuralsort", MEMORY_SIZES[-1:]),
    *(Case(name, "ot", MEMORY_SIZES[-1:], k=k) for name, k in (("top_k", 32), ("sort", None))),
    *(Case(name, "lapsum", MEMORY_SIZES[-1:]) for name in ("sort", "rank", "mask")),
    *(Case(name, "fast_soft_sort", MEMORY_SIZES[-1:], "c0") for name in ("sort", "rank")),
)
"""Whose temporary memory is promised to be linear in n."""


_SHAPES = {"n": [(1, 10**d) for d in range(2, 7)], "batch": [(10**d, 100) for d in range(5)]}
_GROWING = {
    "n": [
        *(Case(name, "softsort", ()) for name in ("sort", "rank", "quantile")),
        Case("sort", "softsort", (), "c1"),
        *(Case(name, "neuralsort", ()) for name in ("sort", "quantile")),
        *(Case(name, "ot", (), k=k) for name, k in (("top_k", 32), ("mask", None), ("sort", None))),
        *(Case(name, "lapsum", ()) for name in ("sort", "rank", "mask")),
        *(Case(name, "fast_soft_sort", (), "c0") for name in ("sort", "rank")),
    ],
    "batch": [
        *(Case("sort", method, ()) for method in (*METHODS, "lapsum")),
        Case("sort", "fast_soft_sort", (), "c0"),
    ],
}
SCALING = {
    f"{case.name} along {along}": (along, [replace(case, shape=shape) for shape in _SHAPES[along]])
    for along, cases in _GROWING.items()
    for case in cases
}
"""Cases that differ in n, of one row, or in the batch, of rows of 100: whose powers of these are fitted to times."""

COMPILED = (
    *(Case(name, "softsort", (64, 1_024)) for name in ("sort", "rank", "top_k", "quantile", "max", "mask")),
    *(Case(name, "neuralsort", (64, 1_024)) for name in ("sort", "rank", "quantile", "mask")),
    *(Case(name, "ot", (64, 1_024)) for name in ("sort", "rank", "top_k", "quantile", "mask")),
    *(Case(name, "lapsum", (64, 1_024)) for name in ("sort", "rank", "mask")),
    *(Case(name, "softsort", (64, 1_024), "c1") for name in ("sort", "rank", "mask")),
    *(Case("sort", method, (64, 1_024), "c1") for method in ("neuralsort", "ot")),
    *(Case(name, "fast_soft_sort", (64, 1_024), "c0") for name in ("sort", "rank")),
)
"""Whose programs `make compiling` counts and times, long enough for every form of long rows."""

_SMALL = (2, 512)
GATE = (
    *(Case(*c, _SMALL, mode) for c in product(("sort", "rank"), METHODS) for mode in ("smooth", "c1")),
    *(Case(name, "softsort", _SMALL) for name in ("top_k", "quantile", "max", "mask", "argsort")),
    *(Case(name, "softsort", _SMALL, "c1") for name in ("top_k", "quantile", "mask")),
    Case("sort", "softsort", (2, 2_048), "c1"),  # with wide windows
    *(Case(name, "neuralsort", _SMALL) for name in ("top_k", "quantile", "max", "argsort")),
    *(Case(name, "ot", _SMALL) for name in ("top_k", "quantile", "max", "mask", "argsort")),
    *(Case(name, "ot", _SMALL, "c1") for name in ("top_k", "mask")),
    *(Case(name, "lapsum", _SMALL) for name in ("sort", "rank", "top_k", "quantile", "mask", "argsort")),
    *(Case(name, "fast_soft_sort", _SMALL, "c0") for name in ("sort", "rank", "quantile", "mask")),
    *COMPILED,
)
"""What `make gate` compiles and counts: every method, both kinds of mode, and every form of each."""
