"""What `perf/tune.py` tries: cases that exercise a family of kernels, candidate tiles, and the race between them."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import geometric_mean, median
from typing import Any

import jax
from kernel_comparison import implementations as implementations
from shapes import Case
from timing import compiled_beside, interleaved

from softjax_pallas import tuning
from softjax_pallas.tuning import Keys, Tile


@dataclass(frozen=True)
class Sweep:
    """A family's candidates on the cases that run its kernels; for transport up to so many anchors."""

    implementation: str
    family: str
    cases: tuple[Case, ...]
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


def sweeps(implementation: str, families: Sequence[str], tiny: bool) -> Iterator[Sweep]:
    """What there is to try for some families, of tiles that the compiler may take; `tiny` for a dry run."""
    allowed = lambda family, tiles: tuple(t for t in tiles if tuning.limit(implementation, family, t) is None)
    shape, sides = ((2, 40), (16, 32)) if tiny else ((16, 2048), (16, 32, 64, 128, 256))
    square = [Case("argsort", "softsort", shape)]
    if not tiny:
        square += [Case("argsort", "softsort", shape, "c1"), Case("sort", "neuralsort", shape, "c1")]
    grid = [Tile(*both) for both in ([sides] if tiny else itertools.product(sides, sides))]
    for family in families:
        if family != "transport":
            yield Sweep(implementation, family, tuple(square), allowed(family, grid))
    if "transport" not in families:
        return
    # As many entries as the default file tells apart.
    entries = tuning.load(tuning.FOLDER / "default.json").tiles[implementation]["transport"]
    assert isinstance(entries, tuple)
    sizes = (64,) if tiny else (16, 32, 64, 128, 256, 512, 1024, 2048)
    for anchors in sorted(entry.anchors for entry in entries)[: 1 if tiny else None]:
        k = 1 if tiny else anchors - 1  # and a filler
        shape, operators = ((2, 80), ["top_k"]) if tiny else ((1024, 1024), ["top_k", "argtop_k"])
        cases = tuple(Case(operator, "ot", shape, k=k) for operator in operators)
        yield Sweep(implementation, "transport", cases, allowed("transport", [Keys(anchors, n) for n in sizes]))


def race(sweep: Sweep, seconds: float) -> tuple[Tile | Keys | None, dict[Tile | Keys, list[float] | str]]:
    """The fastest candidate whose results agree with plain JAX's, None where none does.

    Beside it each candidate's median seconds of every case, or why it is out; of one case all candidates take turns.
    """
    inputs = [case.keys() for case in sweep.cases]
    plain = [jax.jit(case.by("xla").result_and_gradient())(x) for case, x in zip(sweep.cases, inputs, strict=True)]

    def traced() -> Iterator[tuple[Any, Callable]]:
        for tile in dict.fromkeys((sweep.current(), *sweep.candidates)):
            with tuning.override(sweep.table(tile)):
                for case, x in zip(sweep.cases, inputs, strict=True):
                    function = case.by(sweep.implementation).result_and_gradient()
                    yield (tile, case), partial(jax.jit(function).lower, x)

    built = compiled_beside(traced())
    told: dict[Tile | Keys, Any] = {}
    for tile in dict.fromkeys(tile for tile, _ in built):
        wrong = (_wrong(case, built[tile, case], x, y) for case, x, y in zip(sweep.cases, inputs, plain, strict=True))
        told[tile] = next(filter(None, wrong), [])
    racing = [tile for tile, reason in told.items() if not reason]
    for case, x in zip(sweep.cases, inputs, strict=True):
        times = interleaved({str(tile): built[tile, case] for tile in racing}, x, seconds=seconds)
        for tile in racing:
            told[tile].append(median(times[str(tile)]))
    return min(racing, key=lambda tile: geometric_mean(told[tile]), default=None), told


def _wrong(case: Case, program: Any, x: jax.Array, plain: Any) -> str | None:
    """Why a candidate is out, or None: it did not compile or run, or does not agree with plain JAX."""
    try:
        if isinstance(program, Exception):
            raise program
        return case.disagreement(program(x), plain)
    except Exception as error:  # a compiler's refusal is a result; it is told
        return f"{type(error).__name__}: {str(error)[:200]}"
