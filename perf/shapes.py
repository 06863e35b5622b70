"""The one list of what is measured: operators, shapes, and the cases that pair them.

STANDARD is what `make bench` times, SCALING what `perf/scaling.py` fits, GATE what `make gate` compiles and counts.
Everything is float32 with normal data of a fixed seed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

import softjax as sj

METHODS = ("softsort", "neuralsort", "ot")


@dataclass(frozen=True)
class Operator:
    """soft(x, **how) along the last axis, and the hard operator of JAX that it replaces."""

    soft: Callable[..., jax.Array]
    hard: Callable[[jax.Array], jax.Array]


def _tenth(x: jax.Array) -> int:
    return max(1, x.shape[-1] // 10)


def _hard_mask(x: jax.Array) -> jax.Array:
    chosen = jax.lax.top_k(x, _tenth(x))[1]
    return jnp.put_along_axis(jnp.zeros_like(x), chosen, jnp.ones((), x.dtype), axis=-1, inplace=False)


def _hard_rank(x: jax.Array) -> jax.Array:
    return jnp.argsort(jnp.argsort(x, axis=-1, descending=True), axis=-1) + 1


OPERATORS = {
    "sort": Operator(lambda x, **how: sj.sort(x, **how), lambda x: jnp.sort(x, axis=-1)),
    "rank": Operator(lambda x, **how: sj.rank(x, axis=-1, **how), _hard_rank),
    "top_k": Operator(lambda x, **how: sj.top_k(x, _tenth(x), **how)[0], lambda x: jax.lax.top_k(x, _tenth(x))[0]),
    "top_32": Operator(lambda x, **how: sj.top_k(x, 32, **how)[0], lambda x: jax.lax.top_k(x, 32)[0]),
    "quantile": Operator(lambda x, **how: sj.quantile(x, 0.9, axis=-1, **how), lambda x: jnp.quantile(x, 0.9, axis=-1)),
    "max": Operator(lambda x, **how: sj.max(x, axis=-1, **how), lambda x: jnp.max(x, axis=-1)),
    "mask": Operator(lambda x, **how: sj.top_k_mask(x, _tenth(x), **how), _hard_mask),
    "argsort": Operator(lambda x, **how: sj.argsort(x, **how), lambda x: jnp.argsort(x, axis=-1)),
}


@dataclass(frozen=True)
class Case:
    """An operator by a method and mode, at a shape."""

    operator: str
    method: str
    shape: tuple[int, ...]
    mode: str = "smooth"
    softness: float = 0.1
    implementation: str | None = None

    @property
    def name(self) -> str:
        """The method and the operator, with the mode between them where it is not the default."""
        return " ".join([self.method, *([self.mode] if self.mode != "smooth" else []), self.operator])

    @property
    def key(self) -> str:
        """The name and the shape: what a case is called in files."""
        return f"{self.name} {' x '.join(map(str, self.shape))}"

    def soft(self, x: jax.Array) -> jax.Array:
        """The soft operator."""
        how = {"softness": self.softness, "mode": self.mode, "method": self.method}
        return OPERATORS[self.operator].soft(x, **how, implementation=self.implementation)

    def with_dense(self) -> "Case":
        """The same case by its readable definition."""
        return replace(self, implementation="dense")

    def hard(self, x: jax.Array) -> jax.Array:
        """JAX's own operator."""
        return OPERATORS[self.operator].hard(x)

    def keys(self) -> jax.Array:
        """The input: normal, with a fixed seed."""
        return jnp.asarray(np.random.default_rng(0).normal(size=self.shape), jnp.float32)

    def value_and_gradient(self) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
        """x -> a weighted sum of the result, and its gradient."""
        shape = jax.eval_shape(self.soft, jax.ShapeDtypeStruct(self.shape, jnp.float32)).shape
        # Of one axis, so that the program of a large result does not hold as large a constant.
        weights = np.random.default_rng(1).normal(size=shape[-1:]).astype(np.float32)
        return jax.value_and_grad(lambda x: jnp.sum(self.soft(x) * jnp.asarray(weights).reshape(_row(shape))))


def _row(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1,) * (len(shape) - 1) + shape[-1:]


def exponent(operator: str, method: str) -> float:
    """The power of n by which a case's time grows in theory; sorting's logarithm is left out.

    NeuralSort walks a band of about sqrt(n) entries a row. Transport costs n times its anchors: as many as there are
    ranks for a sort, k + 1 for a top-k.
    """
    if method == "neuralsort" and operator in ("sort", "rank"):
        return 1.5
    return 2.0 if method == "ot" and operator in ("sort", "rank") else 1.0


BIG = ((1_000_000,), (64, 16_384), (1_024, 1_024))

STANDARD = (
    *(Case(name, "softsort", shape) for shape in BIG for name in ("sort", "rank", "top_k", "quantile")),
    *(Case("sort", "softsort", shape, mode) for shape in BIG for mode in ("c0", "c1", "c2")),
    # Beside the first, what the exponents by n and by batch are read from.
    *(Case("sort", "softsort", shape) for shape in ((1_000,), (10_000,), (100_000,))),
    *(Case("sort", "softsort", (batch, 100)) for batch in (100, 1_000, 10_000)),
    Case("argsort", "softsort", (4, 1_024)),
    Case("max", "softsort", (1_024, 1_024)),
    *(Case("sort", "neuralsort", (n,)) for n in (4_096, 16_384, 65_536)),
    Case("sort", "neuralsort", (16_384,), "c1"),
    Case("rank", "neuralsort", (16_384,)),
    Case("quantile", "neuralsort", (64, 16_384)),
    Case("top_32", "ot", (16, 4_096), softness=0.01),
    Case("quantile", "ot", (16, 4_096)),
    Case("mask", "ot", (64, 16_384)),
    *(Case("sort", "ot", shape) for shape in ((4, 512), (4, 1_024))),
    Case("rank", "ot", (4, 1_024)),
)
"""What `make bench` times, in under ten minutes on two cores."""


@dataclass(frozen=True)
class Series:
    """Cases that differ in one size, "n" or "batch", and the power of it by which time grows in theory."""

    operator: str
    method: str
    along: str
    sizes: tuple[int, ...]
    other: int
    theory: float
    mode: str = "smooth"
    softness: float = 0.1

    @property
    def name(self) -> str:
        """The cases' name."""
        return self.cases[0].name

    @property
    def cases(self) -> list[Case]:
        """One case for each size."""
        shape = (lambda size: (self.other, size)) if self.along == "n" else (lambda size: (size, self.other))
        return [Case(self.operator, self.method, shape(size), self.mode, self.softness) for size in self.sizes]


MEMORY_SIZES = (8_192, 32_768)
MEMORY = (
    *(Case("sort", "softsort", MEMORY_SIZES[-1:], mode) for mode in ("smooth", "c0", "c1", "c2")),
    *(Case(name, "softsort", MEMORY_SIZES[-1:]) for name in ("rank", "top_k", "quantile")),
    Case("sort", "neuralsort", MEMORY_SIZES[-1:]),
    *(Case(name, "ot", MEMORY_SIZES[-1:]) for name in ("top_32", "sort")),
)
"""Whose temporary memory is promised to be linear in n."""

_DECADES = (100, 1_000, 10_000, 100_000, 1_000_000)
_BATCHES = (1, 10, 100, 1_000, 10_000)

SCALING = (
    *(Series(name, "softsort", "n", _DECADES, 1, exponent(name, "softsort")) for name in ("sort", "rank", "quantile")),
    Series("sort", "softsort", "n", _DECADES, 1, exponent("sort", "softsort"), "c1"),
    *(Series(name, "neuralsort", "n", _DECADES, 1, exponent(name, "neuralsort")) for name in ("sort", "quantile")),
    *(Series(name, "ot", "n", _DECADES, 1, exponent(name, "ot")) for name in ("top_32", "mask", "sort")),
    *(Series("sort", method, "batch", _BATCHES, 100, 1.0) for method in METHODS),
)


def _gated() -> tuple[Case, ...]:
    """Few enough to compile in about two minutes, with every method, both kinds of mode, and every form of each."""
    shape = (2, 512)
    whole = [Case(*c, shape, mode) for c in product(("sort", "rank"), METHODS) for mode in ("smooth", "c1")]
    softsort = [Case(name, "softsort", shape) for name in ("top_k", "quantile", "max", "mask", "argsort")]
    softsort += [Case(name, "softsort", shape, "c1") for name in ("top_k", "quantile", "mask")]
    softsort += [Case("sort", "softsort", (2, 2_048), "c1")]  # with wide windows
    neuralsort = [Case(name, "neuralsort", shape) for name in ("top_k", "quantile", "max", "argsort")]
    ot = [Case(name, "ot", shape) for name in ("top_k", "quantile", "max", "mask", "argsort")]
    ot += [Case(name, "ot", shape, "c1") for name in ("top_k", "mask")]
    return (*whole, *softsort, *neuralsort, *ot)


COMPILED = (
    *(Case(name, "softsort", (64, 1_024)) for name in ("sort", "rank", "top_k", "quantile", "max", "mask")),
    *(Case(name, "neuralsort", (64, 1_024)) for name in ("sort", "rank", "quantile", "mask")),
    *(Case(name, "ot", (64, 1_024)) for name in ("sort", "rank", "top_k", "quantile", "mask")),
    *(Case(name, "softsort", (64, 1_024), "c1") for name in ("sort", "rank", "mask")),
    *(Case("sort", method, (64, 1_024), "c1") for method in ("neuralsort", "ot")),
)
"""Whose programs `perf/compiling.py` counts and times, long enough for every form of long rows."""

GATE = (*_gated(), *COMPILED)
"""What `make gate` compiles, forward and with its gradient, and counts."""
