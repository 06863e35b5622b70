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
    "times faster, value and gradient": lambda r: _ratio(
        r["seconds"]["release"]["gradient"], r["seconds"]["softjax"]["gradient"]
    ),
    "largest column's marginal error, elements": lambda r: r["sides"]["softjax"]["marginal_error"],
    "share of finite gradients, float32": lambda r: float(r["sides"]["softjax"]["finite"]),
    "growth of temporary memory": lambda r: r["temporary_bytes"][1] / r["temporary_bytes"][0],
}
"""What is read from a record. The first two are multiples of `jnp.sort`'s time on the same array."""


@dataclass(frozen=True)
class Bar:
    """A figure of a case, at a shape where its name has none, and what it may be at most, or must be at least."""

    kind: str
    case: str
    figure: str
    limit: float
    shape: tuple[int, ...] | None = None
    at_least: bool = False

    def of(self, record: dict) -> bool:
        """Is the record of this bar's case?"""
        return record["case"] == self.case and (self.shape is None or list(self.shape) == record["shape"])

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

BARS = (*TIMES_SORT, *NEURALSORT, *RELEASE, *LINEAR)


def meant_for(machine: str) -> bool:
    """The bars were set for CPUs."""
    return machine.startswith("cpu")
