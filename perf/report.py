"""docs/performance.md and its plots from the result files: `make report`. No figure in them is typed by hand.

python perf/report.py              from perf/results/*.jsonl to docs/
python perf/report.py --out DIR    elsewhere
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

import bars
import matplotlib
import plots
import record
import scaling
from timing import ratios, spread

DOCS = record.ROOT / "docs"
KINDS = ("scaling", "peers", "memory", "kernels")
"""Result files whose name begins so; all others are the standard set's."""

INTRODUCTION = """# Performance

What softness costs, measured: times are medians of calls in turns, ratios are medians of the ratios in each turn, and
spread is half the distance of their quartiles. Input is normal, in float32, along the last axis; softness is 0.1 where
nothing else is said. *With gradient* means value and gradient together.

`make report` writes this page from `perf/results/`, which `make bench BENCH_ARGS=--save`,
`make scaling SCALING_ARGS=--save`, `make memory MEMORY_ARGS=--save` and `make peers` fill: run them to see your machine
here. [Why the slowest lines take what they take](performance-notes.md). What needs no clock, figures of compiled
programs and kernels, is held to a baseline by `make gate` and `make aot`.
"""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; numbers to the right, which are all columns but the first two."""
    rule = ["---", "---", *["---:"] * (len(header) - 2)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def milliseconds(seconds: float) -> str:
    """To three digits."""
    value = 1e3 * seconds
    return f"{value:.3g}" if value < 1_000 else f"{value:,.0f}"


def shape(sizes: Sequence[int]) -> str:
    """As the tables have it."""
    return " x ".join(f"{size:,}" for size in sizes)


def source(records: list[dict]) -> str:
    """Where and when these were measured."""
    each = lambda *keys: [", ".join(sorted({str(r[key]) for r in records})) for key in keys]
    device, jax, commits, dates = each("device", "jax", "commit", "date")
    return f"{device}, jax {jax}, commit {commits}, {dates}"


# --- the bars ------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """To three digits."""
    return "not measured" if value is None else f"{value:.3g}"


def verdict(found: Sequence[bars.Bar], records: bars.Records) -> str:
    """Do all of them hold?"""
    if any(bar.measured(records) is None for bar in found):
        return "not measured"
    return "yes" if all(bar.holds(records) for bar in found) else "**NO**"


def shown(found: Sequence[bars.Bar], records: bars.Records) -> list[str]:
    """The measured values."""
    return [number(bar.measured(records)) for bar in found]


def _memory(case: str, records: bars.Records) -> list[str]:
    sizes = [r["temporary_bytes"] for r in records.get("memory", ()) if bars.key(r) == case]
    return [f"{size:,}" for size in sizes[0]] if sizes else ["not measured"] * 2


def held(records: bars.Records) -> str:
    """Every bar with what was measured."""
    missed = bars.failing(records)
    holding = len(bars.BARS) - len(missed)
    said = f"All {holding} hold." if not missed else f"{holding} of {len(bars.BARS)} hold."
    shapes = [shape(size) for size in bars.BIG]
    wide, single = [], []
    for (case, figure, wanted), found in bars.rows(bars.TIMES_SORT).items():
        cells = [case, figure, wanted.removeprefix("at most ")]
        if len(found) == len(bars.BIG):
            wide.append([*cells, *shown(found, records), verdict(found, records)])
        else:
            single.append([case, f"{figure}, x `jnp.sort`", wanted, *shown(found, records), verdict(found, records)])
    single += [
        [bar.case, bar.figure, bar.wanted, *shown([bar], records), verdict([bar], records)] for bar in bars.RELEASE
    ]
    grown = [
        [
            bar.case.rpartition(" ")[0],
            *_memory(bar.case, records),
            *shown([bar], records),
            bar.wanted,
            verdict([bar], records),
        ]
        for bar in bars.LINEAR
    ]
    return "\n\n".join(
        [
            f"{said} Time as a multiple of `jnp.sort` of the same array, at most:",
            table(["operator", "pass", "bar", *shapes, "holds"], wide),
            "NeuralSort, and value and gradient against the released softjax 0.1.1 in its own environment:",
            table(["operator", "figure", "bar", "measured", "holds"], single),
            f"Bytes of temporary memory of value and gradient, compiled at n = {bars.SMALL:,} and {bars.LARGE:,}:",
            table(["operator", f"n = {bars.SMALL:,}", f"n = {bars.LARGE:,}", "growth", "bar", "holds"], grown),
        ]
    )


# --- the standard set ----------------------------------------------------------------------------------


def standard(records: list[dict]) -> str:
    """What softness costs."""
    rows = []
    for r in records:
        seconds = r["seconds"]
        against = {key: ratios(seconds[key], seconds["sort"]) for key in ("forward", "gradient")}
        rows.append(
            [
                r["case"] + (f", softness {r['softness']:g}" if r["softness"] != 0.1 else ""),
                shape(r["shape"]),
                milliseconds(median(seconds["sort"])),
                *(f"{median(values):.2f}" for values in against.values()),
                f"{max(map(spread, against.values())):.0%}",
                f"{median(ratios(seconds['forward'], seconds['hard'])):.2f}",
                f"{r['compile_seconds']['gradient']:.1f}" if r["compile_seconds"] else "",
                f"{r['temporary_bytes']['gradient'] / 2**20:.1f}",
            ]
        )
    header = ["operator", "shape", "`jnp.sort`, ms", "forward", "with gradient", "spread", "forward, x hard"]
    told = (
        "Forward and value-with-gradient time as multiples of `jnp.sort` of the same array; forward as a multiple of\n"
        "JAX's own operator (`jnp.sort`, `jax.lax.top_k`, `jnp.quantile`, `jnp.max`, ...). Compile time and temporary\n"
        "memory are those of value and gradient. Softness 0.1 where nothing else is said.\n\n"
    )
    return told + table([*header, "compile, s", "temporary, MiB"], rows)


# --- growth --------------------------------------------------------------------------------------------


def growth(records: list[dict]) -> str:
    """The fitted powers beside theory's."""
    rows = []
    for along in ("n", "batch"):
        for name, points in plots.by_series(records, along).items():
            sizes = [r["size"] for r in points]
            powers = [scaling.power(sizes, [median(r["seconds"][key]) for r in points]) for key in scaling.TIMED]
            memory = [r["temporary_bytes"]["gradient"] for r in points]
            powers.append(scaling.power(sizes, memory) if min(memory) else math.nan)
            fixed = f"n = {points[0]['other']:,}" if along == "batch" else f"batch {points[0]['other']:,}"
            span = f"{sizes[0]:,} to {sizes[-1]:,}"
            shown = ["" if math.isnan(value) else f"{value:.2f}" for value in powers]
            rows.append([name, f"{along}, {span} ({fixed})", *shown[:2], f"{points[0]['theory']:g}", shown[2]])
    header = ["operator", "along", "time, forward", "time, with gradient", "theory", "temporary memory"]
    told = (
        "The power of n, and of the batch, by which time grows: the slope of a line through the logarithms of the\n"
        "points that take at least twice the shortest time. Theory leaves out sorting's logarithm. A series ends\n"
        "where a call would take too long.\n\n"
    )
    return told + table(header, rows)


# --- peers ---------------------------------------------------------------------------------------------


def peers(records: list[dict]) -> str:
    """Each peer's time over ours, and what was not timed and why."""
    rows, untimed, faster = [], [], []
    for r in records:
        for peer, meaning in r["meaning"].items():
            why = r["absent"].get(peer) or r["refused"].get(peer)
            if why:
                untimed.append(f"- {peer}, {r['case']}: {'not installed' if peer in r['absent'] else 'refused'}: {why}")
                continue
            if problem := r["sides"].get(peer, {}).get("no gradient"):
                untimed.append(f"- {peer}, {r['case']}, gradient: {problem}")
            for which, theirs in r["seconds"][peer].items():
                ours = r["seconds"]["softjax"][which]
                ratio = median(ratios(theirs, ours))
                apart = f"{r['differences'][peer]:.0e}"
                pair = [milliseconds(median(times)) for times in (theirs, ours)]
                rows.append([r["case"], peer, which, meaning, apart, *pair, f"{ratio:.2f}"])
                if ratio < 1:
                    faster.append(f"- {peer} in {1 / ratio:.1f} times less time: {r['case']}, {which}")
    told = (
        "Time of the peer over this package's: above 1 this package is faster. Results were compared first. *same*:\n"
        "softness means the same and results agree; *near*: it does, in another definition of the operator; *limit*:\n"
        "it does not, and both are near the hard result. Apart is the largest difference.\n\n"
    )
    header = ["comparison", "peer", "pass", "softness", "apart", "peer, ms", "this package, ms", "ratio"]
    text = "A peer is faster here:\n\n" + "\n".join(faster) if faster else "No peer is faster in what follows."
    text += f"\n\n{told}{table(header, rows)}" if rows else ""
    return text + ("\n\nNot timed:\n\n" + "\n".join(untimed) if untimed else "")


# --- the page ------------------------------------------------------------------------------------------


def kernels(records: list[dict]) -> str:
    """Kernels beside plain JAX and the definition; what did not run, or did not agree, is told below."""
    rows = []
    for r in records:
        for program, seconds in r["seconds"].items():
            cells = [milliseconds(median(seconds[name])) if name in seconds else "" for name in KERNEL_COLUMNS]
            rows.append([r["case"], program, r["implementation"], *cells])
    notes = [f"- {r['case']}, {who}: {why}" for r in records for who, why in r["refused"].items()]
    return "\n".join(
        [table(["case", "program", "kernel by", *(f"{name}, ms" for name in KERNEL_COLUMNS)], rows), *notes]
    )


KERNEL_COLUMNS = ("kernel", "xla", "dense", "hard")


def files(results: Path) -> dict[str, dict[str, list[dict]]]:
    """Machine -> kind of result -> records."""
    found: dict[str, dict[str, list[dict]]] = defaultdict(dict)
    for path in sorted(results.glob("*.jsonl")):
        first, _, rest = path.stem.partition("-")
        kind, machine = (first, rest) if first in KINDS else ("bench", path.stem)
        found[machine][kind] = record.read([path])
    return found


def section(machine: str, records: bars.Records, out: Path) -> str:
    """What is known of a machine; plots are written beside it."""
    parts = [f"## {machine}", source([r for kind in records.values() for r in kind])]
    if bars.meant_for(machine):
        parts += ["### Bars", held(records)]

    def add(title: str, kind: str, text, plot, caption: str) -> None:
        if kind in records:
            path = out / f"performance-{kind}-{machine}.png"
            plot(records[kind], path)
            parts.extend([f"### {title}", f"![{caption}]({path.name})", text(records[kind])])

    add("Times hard", "bench", standard, plots.multiples, "Time as a multiple of jnp.sort")
    add("Growth", "scaling", growth, plots.growth, "Time, memory and times hard against n")
    add("Other libraries", "peers", peers, plots.peers, "Time of other libraries over this package's")
    if "kernels" in records:
        parts.extend(["### Kernels", kernels(records["kernels"])])
    return "\n\n".join(parts) + "\n"


def page(results: Path, out: Path) -> str:
    """The page's text."""
    matplotlib.use("Agg")
    return "\n".join([INTRODUCTION, *(section(machine, found, out) for machine, found in files(results).items())])


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "performance.md"
    path.write_text(page(options.results, options.out), encoding="utf-8")
    print(f"{path.name} from {len(list(options.results.glob('*.jsonl')))} files")


if __name__ == "__main__":
    main()
