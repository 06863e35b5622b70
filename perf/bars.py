"""The bars that this project has set itself, as data, and what result files say of them.

Each is a figure of one measured case: at most, or at least, so much. `report.py` shows all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from shapes import BIG, MEMORY, MEMORY_SIZES, Case
from timing import ratios

Records = Mapping[str, Sequence[dict]]
"""Kind of result file ("bench", "peers", "memory") -> its records."""


def meant_for(machine: str) -> bool:
    """The bars were set for CPUs."""
    return machine.startswith("cpu")


def _against_sort(which: str) -> Callable[[dict], float]:
    return lambda record: median(ratios(record["seconds"][which], record["seconds"]["sort"]))


def _release(record: dict) -> float:
    return median(ratios(record["seconds"]["release"]["gradient"], record["seconds"]["softjax"]["gradient"]))


def _growth(record: dict) -> float:
    small, large = record["temporary_bytes"]
    return large / small


FIGURES: dict[str, Callable[[dict], float]] = {
    "forward": _against_sort("forward"),
    "value and gradient": _against_sort("gradient"),
    "times faster, value and gradient": _release,
    "largest column's marginal error, elements": lambda record: record["sides"]["softjax"]["marginal_error"],
    "share of finite gradients, float32": lambda record: float(record["sides"]["softjax"]["finite"]),
    "growth of temporary memory": _growth,
}
"""What is read from a record. The first two are multiples of `jnp.sort`'s time on the same array."""


@dataclass(frozen=True)
class Bar:
    """A figure of a case, and what it may be at most, or must be at least."""

    kind: str
    case: str
    figure: str
    limit: float
    at_least: bool = False

    def measured(self, records: Records) -> float | None:
        """The figure, or None where the case was not measured."""
        for record in records.get(self.kind, ()):
            if key(record) == self.case:
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


def key(record: dict) -> str:
    """What a bar calls a record: a comparison's name says its shape, a case's does not."""
    return record["case"] if "sides" in record else f"{record['case']} {' x '.join(map(str, record['shape']))}"


def _times_sort(cases: Sequence[Case], **limits: float) -> list[Bar]:
    names = {"forward": "forward", "gradient": "value and gradient"}
    return [Bar("bench", case.key, names[which], limit) for which, limit in limits.items() for case in cases]


TIMES_SORT = [
    bar
    for operator in ("sort", "rank", "top_k", "quantile")
    for bar in _times_sort([Case(operator, "softsort", shape) for shape in BIG], forward=1.4, gradient=2.6)
]
"""Smooth SoftSort at the price of hard."""
TIMES_SORT += [
    bar
    for mode in ("c0", "c1", "c2")
    for bar in _times_sort([Case("sort", "softsort", shape, mode) for shape in BIG], gradient=12.0)
]
TIMES_SORT += _times_sort([Case("sort", "neuralsort", (65_536,))], forward=15.0, gradient=40.0)

_TOP_K = "ot top_k 32, 16 x 4096, softness"
RELEASE = [
    Bar("peers", f"{_TOP_K} 0.01", "times faster, value and gradient", 10.0, at_least=True),
    Bar("peers", f"{_TOP_K} 0.001", "times faster, value and gradient", 50.0, at_least=True),
    *(
        bar
        for softness in ("0.01", "0.001")
        for bar in (
            Bar("peers", f"{_TOP_K} {softness}", "largest column's marginal error, elements", 1e-3),
            Bar("peers", f"{_TOP_K} {softness}", "share of finite gradients, float32", 1.0, at_least=True),
        )
    ),
    *(
        Bar("peers", f"{method} sort, 1 x 16384, softness 0.1", "times faster, value and gradient", most, at_least=True)
        for method, most in (("softsort", 50.0), ("neuralsort", 8.0))
    ),
]
"""Against the released softjax, 0.1.1, in its own environment."""

SMALL, LARGE = MEMORY_SIZES
LINEAR = [
    # A tenth beyond linear, for buffers whose size is rounded up.
    Bar("memory", case.key, "growth of temporary memory", 1.1 * LARGE / SMALL)
    for case in MEMORY
]
"""Temporary memory of value and gradient, linear in n."""

BARS = (*TIMES_SORT, *RELEASE, *LINEAR)


def failing(records: Records) -> list[Bar]:
    """The bars that these results miss."""
    return [bar for bar in BARS if not bar.holds(records)]


def rows(bars: Sequence[Bar]) -> dict[tuple[str, str, str], list[Bar]]:
    """(case without its shape, figure, limit) -> the bars at several shapes."""
    found: dict[tuple[str, str, str], list[Bar]] = {}
    for bar in bars:
        shape = next((s for s in BIG if bar.case.endswith(at := f" {' x '.join(map(str, s))}")), None)
        name = bar.case.removesuffix(at) if shape else bar.case
        found.setdefault((name, bar.figure, bar.wanted), []).append(bar)
    return found
