"""The bars that this project has set itself, as data, and what result files say of them.

Each is a figure of one measured case: at most, or at least, so much. `report.py` shows all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from shapes import BIG, MEMORY, MEMORY_SIZES
from timing import ratios

Records = Mapping[str, Sequence[dict]]
"""Kind of result file ("bench", "peers", "memory") -> its records."""


def _ratio(side: Sequence[float], over: Sequence[float]) -> float:
    return median(ratios(side, over))


FIGURES: dict[str, Callable[[dict], float]] = {
    "forward": lambda r: _ratio(r["seconds"]["forward"], r["seconds"]["sort"]),
    "value and gradient": lambda r: _ratio(r["seconds"]["gradient"], r["seconds"]["sort"]),
    "forward, x hard": lambda r: _ratio(r["seconds"]["forward"], r["seconds"]["hard"]),
    "value and gradient, x hard": lambda r: _ratio(r["seconds"]["gradient"], r["seconds"]["hard"]),
    "times faster, value and gradient": lambda r: _ratio(
        r["seconds"]["release"]["gradient"], r["seconds"]["softjax"]["gradient"]
    ),
    "largest column's marginal error, elements": lambda r: r["sides"]["softjax"]["marginal_error"],
    "share of finite gradients, float32": lambda r: float(r["sides"]["softjax"]["finite"]),
    "growth of temporary memory": lambda r: r["temporary_bytes"][1] / r["temporary_bytes"][0],
}
"""What is read from a record. Multiples are of `jnp.sort`'s time on the same array, or of JAX's own operator's."""


@dataclass(frozen=True)
class Bar:
    """A figure of a case, at a shape where its name has none, and what it may be at most, or must be at least."""

    kind: str
    case: str
    figure: str
    limit: float
    shape: tuple[int, ...] | None = None
    at_least: bool = False
    softness: float = 0.1

    def of(self, record: dict) -> bool:
        """Is the record of this bar's case?"""
        if self.shape is None:
            return record["case"] == self.case
        found = record["case"], tuple(record["shape"]), record.get("softness", 0.1)
        return found == (self.case, self.shape, self.softness)

    def measured(self, records: Records) -> float | None:
        """The figure, or None where the case was not measured."""
        for record in filter(self.of, records.get(self.kind, ())):
            try:
                return FIGURES[self.figure](record)
            except KeyError:  # a side that was refused or is not installed
                return None
        return None

    def holds(self, records: Records) -> bool:
        """Was it measured, and within the limit?"""
        value = self.measured(records)
        return value is not None and (value >= self.limit if self.at_least else value <= self.limit)

    @property
    def wanted(self) -> str:
        """The limit in words."""
        return f"at {'least' if self.at_least else 'most'} {self.limit:g}"


_GRADIENT = "value and gradient"
TIMES_SORT = [
    Bar("bench", f"softsort {case}", figure, limit, shape)
    for case, figure, limit in (
        *((op, *bar) for op in ("sort", "rank", "top_k", "quantile") for bar in (("forward", 1.4), (_GRADIENT, 2.6))),
        *((f"{mode} sort", _GRADIENT, 12.0) for mode in ("c0", "c1", "c2")),
    )
    for shape in BIG
]
"""SoftSort at the price of hard."""
NEURALSORT = [
    Bar("bench", "neuralsort sort", "forward", 15.0, (65_536,)),
    Bar("bench", "neuralsort sort", _GRADIENT, 40.0, (65_536,)),
]


def _beside_hard(case: str, shape: tuple[int, ...], limits: tuple[float, float], softness: float = 0.1) -> list[Bar]:
    figures = ("forward, x hard", "value and gradient, x hard")
    return [Bar("bench", case, *bar, shape, softness=softness) for bar in zip(figures, limits, strict=True)]


BELOW_HARD = [
    bar
    for case in (
        *(("softsort top_k", shape, (1.6, 2.5)) for shape in BIG[:2]),
        *(("softsort top_32", shape, (1.6, 2.5)) for shape in BIG[:2]),
        *((f"softsort {mode} top_32", BIG[0], (6.0, 8.0)) for mode in ("c0", "c1", "c2")),
        *((f"softsort {mode} top_32", BIG[1], (24.0, 36.0)) for mode in ("c0", "c1", "c2")),
        ("ot top_32", (16, 4_096), (6.0, 16.0)),
        ("ot top_32", (16, 4_096), (12.0, 30.0), 0.03),
        ("ot top_32", (64, 16_384), (8.0, 20.0)),
        ("ot mask_32", (64, 16_384), (8.0, 11.0)),
    )
    for bar in _beside_hard(*case)
] + [
    Bar("bench", f"ot {operator}", figure, limit, shape)
    for operator, shape, limits in (
        ("sort", (4, 1_024), (1.0, 3.0)),
        ("quantile", (64, 16_384), (0.25, 0.5)),
        *((name, (n,), (0.2, 0.8)) for name in ("sort", "rank") for n in (65_536, 1_000_000)),
    )
    for figure, limit in zip(("forward", _GRADIENT), limits, strict=True)
]
"""Soft below the price of hard: by points in place of the keys, and by the largest keys in place of a sort."""
LAPSUM = [
    Bar("bench", f"lapsum {operator}", figure, limit, shape)
    for operator, limits in (("sort", (2.0, 4.0)), ("rank", (1.0, 1.4)), ("mask", (1.0, 1.4)))
    for shape in BIG[:2]
    for figure, limit in zip(("forward", _GRADIENT), limits, strict=True)
]
"""A sort and a few recurrences."""
FAST_SOFT_SORT = [
    Bar("bench", f"fast_soft_sort c0 {operator}", figure, limit, shape)
    for operator in ("sort", "rank")
    for shape in ((1_000_000,), (64, 4_096))
    for figure, limit in (("forward", 1.0), (_GRADIENT, 1.2))
]
"""A sort, an isotonic regression in one loop, and sums of its blocks."""

_TOP_K = [f"ot top_k 32, 16 x 4096, softness {softness}" for softness in ("0.01", "0.001")]
_ERROR, _FINITE = "largest column's marginal error, elements", "share of finite gradients, float32"
_FASTER = f"times faster, {_GRADIENT}"
RELEASE = [
    Bar("peers", _TOP_K[0], _FASTER, 10.0, at_least=True),
    Bar("peers", _TOP_K[1], _FASTER, 50.0, at_least=True),
    Bar("peers", _TOP_K[0], _ERROR, 1e-3),
    Bar("peers", _TOP_K[0], _FINITE, 1.0, at_least=True),
    Bar("peers", _TOP_K[1], _ERROR, 1e-3),
    Bar("peers", _TOP_K[1], _FINITE, 1.0, at_least=True),
    Bar("peers", "softsort sort, 1 x 16384, softness 0.1", _FASTER, 50.0, at_least=True),
    Bar("peers", "neuralsort sort, 1 x 16384, softness 0.1", _FASTER, 8.0, at_least=True),
]
"""Against the released softjax, 0.1.1, in its own environment."""

# A tenth beyond linear, for buffers whose size is rounded up.
_MOST = 1.1 * MEMORY_SIZES[1] / MEMORY_SIZES[0]
LINEAR = [Bar("memory", case.name, "growth of temporary memory", _MOST, MEMORY_SIZES[1:]) for case in MEMORY]
"""Temporary memory of value and gradient, linear in n."""

BARS = (*TIMES_SORT, *NEURALSORT, *BELOW_HARD, *LAPSUM, *FAST_SOFT_SORT, *RELEASE, *LINEAR)


def meant_for(machine: str) -> bool:
    """The bars were set for CPUs."""
    return machine.startswith("cpu")
