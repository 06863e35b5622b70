"""What `perf/tune.py` tries: calls that exercise a family of kernels, candidate tiles, and the race between them."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import geometric_mean, median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from progress import tqdm
from timing import compiled_beside, interleaved

import softjax as sj
from softjax_pallas import tuning
from softjax_pallas._kernel import Tile
from softjax_pallas.tuning import Keys

OPERATORS: dict[str, Callable[..., jax.Array]] = {
    "sort": lambda x, k, **how: sj.sort(x, **how),
    "argsort": lambda x, k, **how: sj.argsort(x, **how),
    "rank": lambda x, k, **how: sj.rank(x, axis=-1, **how),
    "apply": lambda x, k, **how: sj.top_k(x, k, **how)[0],
    "rows": lambda x, k, **how: sj.argtop_k(x, k, **how),
    "mask": lambda x, k, **how: sj.top_k_mask(x, k, **how),
}
"""By the name of an operator, or of the form that transport is asked for."""


def _hard_rows(x: jax.Array, k: int) -> jax.Array:
    return jax.nn.one_hot(jax.lax.top_k(x, k)[1], x.shape[-1], dtype=x.dtype)


HARD: dict[str, Callable[..., jax.Array]] = {
    "sort": lambda x, k: jnp.sort(x, axis=-1),
    "argsort": lambda x, k: jnp.argsort(x, axis=-1),
    "rank": lambda x, k: jnp.argsort(jnp.argsort(x, axis=-1, descending=True), axis=-1),
    "apply": lambda x, k: jax.lax.top_k(x, k)[0],
    "rows": _hard_rows,
    "mask": lambda x, k: _hard_rows(x, k).sum(-2),
}
"""JAX's own operators, by the same names."""


@dataclass(frozen=True)
class Call:
    """An operator by a method at a shape (batch, n); k is how many are wanted, where the operator takes it."""

    operator: str
    method: str
    batch: int
    n: int
    k: int = 0
    mode: str = "smooth"
    softness: float = 0.1

    def __str__(self) -> str:
        k = f", k = {self.k}" if self.k else ""
        return f"{self.method} {self.mode} {self.operator} {self.batch} x {self.n}{k}"

    def keys(self) -> jax.Array:
        """Normal keys of a fixed seed."""
        return jnp.asarray(np.random.default_rng(0).normal(size=(self.batch, self.n)), jnp.float32)

    def function(self, implementation: str) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
        """x -> the result, and the gradient of its weighted sum."""
        how = {"method": self.method, "mode": self.mode, "softness": self.softness, "implementation": implementation}

        def weighted(x):
            y = OPERATORS[self.operator](x, self.k, **how)
            weights = jnp.cos(jnp.arange(y.shape[-1], dtype=y.dtype))
            return jnp.sum(y * weights.reshape((1,) * (y.ndim - 1) + weights.shape)), y

        def both(x):
            gradient, y = jax.grad(weighted, has_aux=True)(x)
            return y, gradient

        return both

    def forward(self, implementation: str) -> Callable[[jax.Array], jax.Array]:
        """x -> the result."""
        how = {"method": self.method, "mode": self.mode, "softness": self.softness, "implementation": implementation}
        return lambda x: OPERATORS[self.operator](x, self.k, **how)

    def hard(self, x: jax.Array) -> jax.Array:
        """x -> the result of JAX's own operator."""
        return HARD[self.operator](x, self.k)

    def hard_both(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x -> that result, and the gradient of its sum, zero where the result is of integers."""

        def value(x):
            y = self.hard(x).astype(x.dtype)
            return jnp.sum(y), y

        gradient, y = jax.grad(value, has_aux=True)(x)
        return y, gradient

    def disagreement(self, mine: Any, plain: Any) -> str | None:
        """How a result and gradient differ from plain JAX's beyond rounding, or None.

        Rounding: float32's unit times the root of the sums' length times the largest logit, which scales the keys'
        own rounding; relative to the largest entry.
        """
        allowed = 8 * float(jnp.finfo(jnp.float32).eps) * math.sqrt(self.n) * max(1.0, 4.0 / self.softness)
        for what, a, b in zip(("result", "gradient"), mine, plain, strict=True):
            scale = max(1e-30, float(jnp.max(jnp.abs(b))))
            off = float(jnp.max(jnp.abs(a - b))) / scale
            if not off <= allowed:
                return f"{what} of {self} differs by {off:.1e} of its scale from plain JAX, {allowed:.1e} is rounding"
        return None


@dataclass(frozen=True)
class Sweep:
    """A family's candidates on the calls that run its kernels; for transport up to so many anchors."""

    implementation: str
    family: str
    calls: tuple[Call, ...]
    candidates: tuple[Tile | Keys, ...]

    def table(self, tile: Tile | Keys) -> tuning.Table:
        """The table that holds a candidate and nothing else."""
        entry = (tile,) if isinstance(tile, Keys) else tile
        return tuning.Table(tiles={self.implementation: {self.family: entry}})

    def current(self) -> Tile | Keys:
        """What would be used without a sweep."""
        if self.family == "transport":
            anchors = max(entry.anchors for entry in self.candidates if isinstance(entry, Keys))
            return replace(tuning.keys(self.implementation, anchors), anchors=anchors)
        return tuning.tile(self.implementation, self.family)


def _grid(implementation: str, family: str, anchors: int, tiny: bool) -> tuple[Tile | Keys, ...]:
    """Every tile of a small grid that the compiler may take."""
    if family == "transport":
        sizes = (64,) if tiny else (16, 32, 64, 128, 256, 512, 1024, 2048)
        found: list[Tile | Keys] = [Keys(anchors, keys) for keys in sizes]
    else:
        sides = ((16,), (32,)) if tiny else ((16, 32, 64, 128, 256), (16, 32, 64, 128, 256))
        found = [Tile(*sides) for sides in itertools.product(*sides)]
    return tuple(tile for tile in found if tuning.limit(implementation, family, tile) is None)


def sweeps(implementation: str, families: Sequence[str], tiny: bool) -> list[Sweep]:
    """What there is to try for some families; `tiny` for a dry run."""
    batch, n = (2, 40) if tiny else (16, 2048)
    modes = ("smooth",) if tiny else ("smooth", "c1")
    square = tuple(Call("argsort", "softsort", batch, n, mode=mode) for mode in modes)
    if not tiny:
        square += (Call("sort", "neuralsort", batch, n, mode="c1"),)
    found = [
        Sweep(implementation, family, square, _grid(implementation, family, 0, tiny))
        for family in families
        if family != "transport"
    ]
    if "transport" in families:
        batch, n = (2, 80) if tiny else (1024, 1024)
        limits = _brackets(implementation)
        for anchors in limits[:1] if tiny else limits:
            k = 1 if tiny else anchors - 1  # and a filler
            transport = tuple(Call(op, "ot", batch, n, k) for op in (("apply",) if tiny else ("apply", "rows")))
            found.append(
                Sweep(implementation, "transport", transport, _grid(implementation, "transport", anchors, tiny))
            )
    return found


def _brackets(implementation: str) -> list[int]:
    """Up to how many anchors the sizes of transport's tiles are told apart: as in the default file."""
    entries = tuning.load(tuning.FOLDER / "default.json").tiles[implementation]["transport"]
    assert isinstance(entries, tuple)
    return sorted(entry.anchors for entry in entries)


def race(sweep: Sweep, seconds: float) -> tuple[Tile | Keys | None, list[dict]]:
    """The fastest candidate whose results agree with plain JAX's, None where none does; and what became of each."""
    inputs = [call.keys() for call in sweep.calls]
    plain = [jax.jit(call.function("xla"))(x) for call, x in zip(sweep.calls, inputs, strict=True)]
    candidates = dict.fromkeys((sweep.current(), *sweep.candidates))

    def traced() -> Iterator[tuple[tuple[Tile | Keys, int], Callable[[], jax.stages.Lowered]]]:
        for tile in (bar := tqdm(list(candidates), unit="tile", leave=False, disable=None)):
            bar.set_postfix_str(f"{sweep.implementation} {sweep.family} {tile}")
            with tuning.override(sweep.table(tile)):
                for i, (call, x) in enumerate(zip(sweep.calls, inputs, strict=True)):
                    yield (tile, i), partial(jax.jit(call.function(sweep.implementation)).lower, x)

    built = compiled_beside(traced())
    programs: dict[Tile | Keys, list] = {}
    told: list[dict] = []
    for tile in candidates:
        of = [built[tile, i] for i in range(len(sweep.calls))]
        if (wrong := _wrong(sweep, of, inputs, plain)) is None:
            programs[tile] = of
        told.append({"tile": vars(tile)} | ({} if wrong is None else {"refused": wrong}))
    medians = _medians(programs, inputs, seconds)
    for line, tile in zip(told, candidates, strict=True):
        line["seconds"] = medians.get(tile)
    return min(medians, key=lambda tile: geometric_mean(medians[tile]), default=None), told


def _wrong(sweep: Sweep, built: list, inputs: list[jax.Array], plain: list) -> str | None:
    """Why a candidate is out, or None: it did not compile or run, or does not agree with plain JAX."""
    try:
        for call, program, x, right in zip(sweep.calls, built, inputs, plain, strict=True):
            if isinstance(program, Exception):
                raise program
            if (wrong := call.disagreement(program(x), right)) is not None:
                return wrong
    except Exception as error:  # a compiler's refusal is a result; it is told
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None


def _medians(
    programs: dict[Tile | Keys, list], inputs: list[jax.Array], seconds: float
) -> dict[Tile | Keys, list[float]]:
    """Each candidate's median seconds of each call; of one call all candidates take turns."""
    found: dict[Tile | Keys, list[float]] = {tile: [] for tile in programs}
    for i, x in enumerate(inputs):
        times = interleaved({str(tile): (built[i], (x,)) for tile, built in programs.items()}, 11, seconds)
        for tile in programs:
            found[tile].append(median(times[str(tile)]))
    return found


def implementations() -> list[str]:
    """Kernels that run on this machine's first device, the one that is chosen for it first."""
    device = jax.devices()[0]
    if device.platform == "tpu":
        return ["pallas_mosaic_tpu"]
    capability = getattr(device, "compute_capability", None)
    if device.platform != "gpu" or capability is None:
        return []
    return ["pallas_mosaic_gpu"] if int(str(capability).split(".")[0]) >= 9 else []
