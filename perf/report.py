"""docs/performance.md and its plots from perf/results/*.jsonl: `make report`. No figure in them is typed by hand.

python perf/report.py          to docs/
python perf/report.py DIR      elsewhere
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import bars
import matplotlib
import plots
import record
import tables
from shapes import BIG, MEMORY_SIZES
from tables import markdown

DOCS = record.ROOT / "docs"

INTRODUCTION = """# Performance

What softness costs, measured: times are medians of calls in turns, ratios are medians of the ratios in each turn, and
spread is half the distance of their quartiles. Input is normal, in float32, along the last axis; softness is 0.1 where
nothing else is said. *With gradient* means value and gradient together.

`make report` writes this page from `perf/results/`, which `make bench BENCH_ARGS=--save`,
`make scaling SCALING_ARGS=--save`, `make memory MEMORY_ARGS=--save` and `make peers` fill: run them to see your machine
here. [Why the slowest lines take what they take](performance-notes.md). What needs no clock, figures of compiled
programs and kernels, is held to a baseline by `make gate` and `make aot`.

Lines of `ot` in the smooth mode run on [points in place of the keys](softness.md#method) from 255 keys on at a softness
of 0.1, from 510 at 0.05 and from 850 at 0.03, of keys that are standardised or of range 1. Fewer keys, a smaller
softness and c0, c1, c2 are solved by the keys themselves.
"""

SECTIONS = {
    "bench": ("Times hard", tables.STANDARD, plots.multiples, "Time as a multiple of jnp.sort"),
    "scaling": ("Growth", tables.SCALING, plots.growth, "Time, memory and times hard against n"),
    "peers": ("Other libraries", tables.PEERS, plots.peers, "Time of other libraries over this package's"),
    "kernels": ("Kernels", tables.KERNELS, None, ""),
}
"""Kind of result -> title, table, plot and its caption."""
UNSHOWN = ("memory", "compiling", "first")
"""Other kinds of result file, of which the bars show the first; a file without a kind is the standard set's."""


def shown(found: Sequence[bars.Bar], records: bars.Records) -> list[str]:
    """The measured values, and whether all of them hold."""
    values = [bar.measured(records) for bar in found]
    verdict = "yes" if all(bar.holds(records) for bar in found) else "**NO**"
    cells = ["not measured" if value is None else f"{value:.3g}" for value in values]
    return [*cells, "not measured" if None in values else verdict]


def held(records: bars.Records) -> str:
    """Every bar with what was measured."""
    holding = sum(bar.holds(records) for bar in bars.BARS)
    said = f"All {holding} hold." if holding == len(bars.BARS) else f"{holding} of {len(bars.BARS)} hold."
    wide = [
        [several[0].case, several[0].figure, f"{several[0].limit:g}", *shown(several, records)]
        for several in zip(*[iter(bars.TIMES_SORT)] * len(BIG), strict=True)
    ]
    single = [
        [f"{bar.case} {bar.shape[0]}", f"{bar.figure}, x `jnp.sort`", bar.wanted, *shown([bar], records)]
        for bar in bars.NEURALSORT
    ]
    for bar in bars.BELOW_HARD:
        against = "" if "hard" in bar.figure else ", x `jnp.sort`"
        softness = f", softness {bar.softness:g}" if bar.softness != 0.1 else ""
        name = f"{bar.case} {tables.shape(bar.shape or ())}{softness}"
        single.append([name, bar.figure + against, bar.wanted, *shown([bar], records)])
    single += [[bar.case, bar.figure, bar.wanted, *shown([bar], records)] for bar in bars.RELEASE]
    grown = []
    for bar in bars.LINEAR:
        found = tables.MEMORY.rows([r for r in records.get("memory", ()) if bar.of(r)])
        cells = found[0] if found else [bar.case, *["not measured"] * 3]
        grown.append([*cells, bar.wanted, shown([bar], records)[-1]])
    small, large = (f"{n:,}" for n in MEMORY_SIZES)
    return "\n\n".join(
        [
            f"{said} Time as a multiple of `jnp.sort` of the same array, at most:",
            markdown(["operator", "pass", "bar", *map(tables.shape, BIG), "holds"], wide),
            "NeuralSort; soft operators as multiples of JAX's own (*x hard*); value and gradient against the released\n"
            "softjax 0.1.1 in its own environment:",
            markdown(["operator", "figure", "bar", "measured", "holds"], single),
            f"Bytes of temporary memory of value and gradient, compiled at n = {small} and {large}:",
            markdown([*tables.MEMORY.header, "bar", "holds"], grown),
        ]
    )


def files(results: Path) -> dict[str, dict[str, list[dict]]]:
    """Machine -> kind of result -> records."""
    found: dict[str, dict[str, list[dict]]] = defaultdict(dict)
    for path in sorted(results.glob("*.jsonl")):
        first, _, rest = path.stem.partition("-")
        kind, machine = (first, rest) if first in (*SECTIONS, *UNSHOWN) else ("bench", path.stem)
        found[machine][kind] = record.read(path)
    return found


def section(machine: str, records: bars.Records, out: Path) -> Iterator[str]:
    """What is known of a machine; plots are written beside it."""
    yield f"## {machine}"
    every = [r for kind in records.values() for r in kind]
    each = lambda *keys: [", ".join(sorted({str(r[key]) for r in every})) for key in keys]
    yield "{}, jax {}, commit {}, {}".format(*each("device", "jax", "commit", "date"))
    if bars.meant_for(machine):
        yield from ("### Bars", held(records))
    for kind, (title, table, plot, caption) in SECTIONS.items():
        if kind in records:
            yield f"### {title}"
            if plot is not None:
                path = out / f"performance-{kind}-{machine}.png"
                plot(records[kind], path)
                yield f"![{caption}]({path.name})"
            yield table.text(records[kind])


def main(out: Path = DOCS) -> None:
    """Write the page and its plots."""
    matplotlib.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    sections = ["\n\n".join(section(*found, out)) + "\n" for found in files(record.RESULTS).items()]
    path = out / "performance.md"
    path.write_text("\n".join([INTRODUCTION, *sections]), encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
