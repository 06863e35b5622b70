"""How records of measurements are shown: the same cells in a terminal, a line as it is measured, and in Markdown."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from shapes import MEMORY_SIZES, exponent, goals
from timing import power, ratios, spread

Records = Sequence[dict]
PASSES = ("forward", "gradient")
KERNEL_COLUMNS = ("kernel", "xla", "dense", "hard")


@dataclass(frozen=True)
class Table:
    """Columns, the cells of records below them, a text above them, and notes of what has no cells."""

    header: Sequence[str]
    rows: Callable[[Records], list[list[str]]]
    above: Callable[[Records], str] = lambda records: ""
    notes: Callable[[Records], list[str]] = lambda records: []

    def line(self, cells: Sequence[str]) -> str:
        """For a terminal; two columns to the left, numbers to the right."""
        widths = [max(len(name), least) for name, least in zip(self.header, [44, 22, *[8] * 8], strict=False)]
        columns = enumerate(zip(cells, widths, strict=True))
        return "  ".join(cell.rjust(width) if place > 1 else cell.ljust(width) for place, (cell, width) in columns)

    def lines(self, records: Records) -> list[str]:
        """Records in a terminal."""
        return [*map(self.line, self.rows(records)), *(f"  {n}" for n in self.notes(records) if n.startswith("-"))]

    def text(self, records: Records) -> str:
        """Records in Markdown."""
        rows = "\n".join([markdown(self.header, self.rows(records)), *self.notes(records)])
        return self.above(records) + rows


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; numbers to the right, which are all columns but the first two."""
    rule = ["---", "---", *["---:"] * (len(header) - 2)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def milliseconds(seconds: Sequence[float]) -> str:
    """The median, to three digits."""
    value = 1e3 * median(seconds)
    return f"{value:.3g}" if value < 1_000 else f"{value:,.0f}"


def shape(sizes: Sequence[int]) -> str:
    """As tables have it."""
    return " x ".join(f"{size:,}" for size in sizes)


# --- times hard ----------------------------------------------------------------------------------------


def _standard(records: Records) -> list[list[str]]:
    rows = []
    for r in records:
        seconds = r["seconds"]
        against = [ratios(seconds[key], seconds["sort"]) for key in PASSES]
        rows.append(
            [
                r["case"] + (f", softness {r['softness']:g}" if r["softness"] != 0.1 else ""),
                shape(r["shape"]),
                milliseconds(seconds["sort"]),
                *(f"{median(values):.2f}" for values in against),
                f"{max(map(spread, against)):.0%}",
                *(f"{median(ratios(seconds[key], seconds['hard'])):.2f}" for key in PASSES),
                f"{r['compile_seconds']['gradient']:.1f}" if r["compile_seconds"] else "",
                f"{r['temporary_bytes']['gradient'] / 2**20:.1f}",
            ]
        )
    return rows


STANDARD = Table(
    [
        *("operator", "shape", "`jnp.sort`, ms", "forward", "with gradient", "spread", "x hard", "with gradient"),
        *("compile, s", "temporary, MiB"),
    ],
    _standard,
    lambda _: (
        "Forward and value-with-gradient time as multiples of `jnp.sort` of the same array, and both as multiples of\n"
        "JAX's own operator (`jnp.sort`, `jax.lax.top_k`, `jnp.quantile`, `jnp.max`, ...). Compile time and temporary\n"
        "memory are those of value and gradient. Softness 0.1 where nothing else is said.\n\n"
    ),
)


# --- growth --------------------------------------------------------------------------------------------


def by_series(records: Records, along: str) -> dict[str, list[dict]]:
    """The name of a series along n or the batch -> its points in order of size."""
    found = defaultdict(list)
    for r in records:
        if r["along"] == along:
            found[r["case"]].append(r)
    return {name: sorted(points, key=lambda r: r["shape"]) for name, points in found.items()}


def _scaling(records: Records) -> list[list[str]]:
    rows = []
    for along, place in (("n", -1), ("batch", 0)):
        for name, points in by_series(records, along).items():
            sizes, fixed = [r["shape"][place] for r in points], points[0]["shape"][-1 - place]
            memory = [r["temporary_bytes"]["gradient"] for r in points]
            powers = [power(sizes, [median(r["seconds"][key]) for r in points]) for key in PASSES]
            powers.append(power(sizes, memory) if min(memory) else math.nan)
            cells = ["" if math.isnan(value) else f"{value:.2f}" for value in powers]
            span = f"{along}, {sizes[0]:,} to {sizes[-1]:,} ({'n =' if along == 'batch' else 'batch'} {fixed:,})"
            theory = exponent(points[0]["operator"], points[0]["method"], along)
            rows.append([name, span, *cells[:2], f"{theory:g}", cells[2]])
    return rows


SCALING = Table(
    ["operator", "along", "time, forward", "time, with gradient", "theory", "temporary memory"],
    _scaling,
    lambda _: (
        "The power of n, and of the batch, by which time grows: the slope of a line through the logarithms of the\n"
        "points that take at least twice the shortest time. Theory leaves out sorting's logarithm. A series ends\n"
        "where a call would take too long.\n\n"
    ),
)


# --- memory, instructions ------------------------------------------------------------------------------

MEMORY = Table(
    ["operator", *(f"n = {n:,}" for n in MEMORY_SIZES), "growth"],
    lambda records: [
        [r["case"], f"{small:,}", f"{large:,}", f"{large / small:.3g}"]
        for r in records
        for small, large in [r["temporary_bytes"]]
    ],
)


COMPILING = Table(
    ["value and gradient", "shape", "instructions", "goal", "seconds", "goal"],
    lambda records: [
        [r["case"], shape(r["shape"]), f"{r['instructions']:,}", f"{most:,}", f"{r['seconds']:.2f}", f"{longest:g}"]
        for r in records
        for most, longest in [goals(r["method"], r["mode"])]
    ],
)
FIRST_CALLS = Table(
    ["first call of ten numbers", "programs", "seconds", "goal"],
    lambda records: [[r["case"], str(r["programs"]), f"{r['seconds']:.2f}", "1"] for r in records],
)


# --- kernels, peers ------------------------------------------------------------------------------------


def _name(record: dict) -> str:
    return f"{record['case']} {' x '.join(map(str, record['shape']))}"


def _times(seconds: dict) -> list[str]:
    return [milliseconds(seconds[name]) if name in seconds else "" for name in KERNEL_COLUMNS]


KERNELS = Table(
    ["case", "program", "kernel by", *(f"{name}, ms" for name in KERNEL_COLUMNS)],
    lambda records: [
        [_name(r), which, r["implementation"], *_times(seconds)]
        for r in records
        for which, seconds in r["seconds"].items()
    ],
    notes=lambda records: [f"- {_name(r)}, {who}: {why}" for r in records for who, why in r["refused"].items()],
)


def _timed(records: Records) -> Iterator[tuple[dict, str, str, Sequence[float], Sequence[float]]]:
    """Record, peer, pass, the peer's seconds and ours."""
    for r in records:
        for peer in r["differences"]:
            for which, theirs in r["seconds"][peer].items():
                yield r, peer, which, theirs, r["seconds"]["softjax"][which]


def _peers(records: Records) -> list[list[str]]:
    rows = []
    for r, peer, which, theirs, ours in _timed(records):
        times = [milliseconds(theirs), milliseconds(ours), f"{median(ratios(theirs, ours)):.2f}"]
        rows.append([r["case"], peer, which, r["peers"][peer], f"{r['differences'][peer]:.0e}", *times])
    return rows


def _faster(records: Records) -> str:
    lines = []
    for r, peer, which, theirs, ours in _timed(records):
        if r["peers"][peer] != "hard" and (less := median(ratios(ours, theirs))) > 1:
            lines.append(f"- {peer} in {less:.1f} times less time: {r['case']}, {which}")
    return "A soft peer is faster here:\n\n" + "\n".join(lines) if lines else "No soft peer is faster in what follows."


def _untimed(records: Records) -> list[str]:
    lines = []
    for r in records:
        for peer in r["peers"]:
            for state, reasons in (("not installed", r["absent"]), ("refused", r["refused"])):
                lines += [f"- {peer}, {r['case']}: {state}: {reasons[peer]}"] if peer in reasons else []
            if problem := r["sides"].get(peer, {}).get("no gradient"):
                lines.append(f"- {peer}, {r['case']}, gradient: {problem}")
    return ["", "Not timed:", "", *lines] if lines else []


PEERS = Table(
    ["comparison", "peer", "pass", "softness", "apart", "peer, ms", "this package, ms", "ratio"],
    _peers,
    lambda records: (
        f"{_faster(records)}\n\n"
        "Time of the peer over this package's: above 1 this package is faster. Results were compared first. *same*:\n"
        "softness means the same and results agree; *near*: it does, in another definition of the operator; *limit*:\n"
        "it does not, and both are near the hard result; *hard*: another library's hard operator, equal to JAX's.\n"
        "Apart is the largest difference.\n\n"
    ),
    _untimed,
)
