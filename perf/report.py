"""docs/performance.md and its plots from the result files: `make report`. Nothing in them is typed by hand.

python perf/report.py              from perf/results/*.jsonl to docs/
python perf/report.py --out DIR    elsewhere
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

import matplotlib
import matplotlib.pyplot as plt
import record
import scaling
from timing import ratios, spread

DOCS = record.ROOT / "docs"

INTRODUCTION = """# Performance

Written by `make report` from `perf/results/*.jsonl`, which `make bench BENCH_ARGS=--save`,
`make scaling SCALING_ARGS=--save` and `make peers` write: run those first to see your machine here. Input is normal, in
float32, along the last axis. Times are medians of calls in turns, ratios medians of the rounds' ratios, and spread is
half the distance of their quartiles. What does not depend on a machine is checked by `make gate`.
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
    seen = {(r["device"], r["machine"], f"jax {r['jax']}", f"commit {r['commit']}", r["date"]) for r in records}
    return "; ".join(", ".join(entry) for entry in sorted(seen))


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
                f"{r['compile_seconds']['gradient']:.1f}",
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


def multiples(records: list[dict], path: Path) -> None:
    """A bar for each case: times hard sort."""
    figure, axes = plt.subplots(figsize=(8, 0.26 * len(records) + 1), layout="constrained")
    places = range(len(records))
    for key, offset in (("gradient", 0.2), ("forward", -0.2)):
        values = [median(ratios(r["seconds"][key], r["seconds"]["sort"])) for r in records]
        axes.barh([place + offset for place in places], values, 0.4, label="with gradient" if offset > 0 else key)
    axes.set_yticks(places, [f"{r['case']}, {shape(r['shape'])}" for r in records], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("time / jnp.sort")
    axes.legend()
    save(figure, path)


# --- growth --------------------------------------------------------------------------------------------


def by_series(records: list[dict], along: str) -> dict[str, list[dict]]:
    """Series name -> its points in order of size."""
    found = defaultdict(list)
    for r in records:
        if r["along"] == along:
            found[r["series"]].append(r)
    return {name: sorted(points, key=lambda r: r["size"]) for name, points in found.items()}


def growth(records: list[dict]) -> str:
    """The fitted powers beside theory's."""
    rows = []
    for along in ("n", "batch"):
        for name, points in by_series(records, along).items():
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


def curves(records: list[dict], value: Callable[[dict], float], label: str, path: Path) -> None:
    """A line for each series along n."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, points in by_series(records, "n").items():
        axes.plot([r["size"] for r in points], [value(r) for r in points], marker="o", markersize=3, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("n")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    save(figure, path)


def save(figure, path: Path) -> None:
    """Without the date that would make every file differ."""
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


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
            for which, theirs in r["seconds"][peer].items():
                ours = r["seconds"]["softjax"][which]
                ratio = median(ratios(theirs, ours))
                apart = f"{r['differences'][peer]:.0e}"
                pair = [milliseconds(median(times)) for times in (theirs, ours)]
                rows.append([r["case"], peer, which, meaning, apart, *pair, f"{ratio:.2f}"])
                if ratio < 1:
                    faster.append(f"- {peer} in {1 / ratio:.1f} times less time: {r['case']}, {which}")
    told = (
        "A ratio above 1 means that this package is faster. Results were compared first. *same*: softness means the\n"
        "same and results agree; *limit*: it does not, and both are near the hard result. Apart is the largest\n"
        "difference.\n\n"
    )
    header = ["comparison", "peer", "pass", "softness", "apart", "peer, ms", "this package, ms", "ratio"]
    text = told + table(header, rows) if rows else ""
    text += "\n\nWhere a peer is faster:\n\n" + ("\n".join(faster) if faster else "- nowhere in this table")
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


KERNEL_COLUMNS = ("kernel", "xla", "dense")


def page(results: Path, out: Path) -> str:
    """The page's text; plots are written beside it."""
    matplotlib.use("Agg")
    parts = [INTRODUCTION]
    kinds = {prefix: sorted(results.glob(f"{prefix}*.jsonl")) for prefix in ("scaling-", "peers-", "kernels-")}
    apart = {path for paths in kinds.values() for path in paths}
    machines = [path for path in sorted(results.glob("*.jsonl")) if path not in apart]
    for path in machines:
        name, found = path.stem, record.read([path])
        parts.append(f"## {name}\n\n{source(found)}\n\n{standard(found)}\n")
        multiples(found, out / f"performance-{name}.png")
        parts.append(f"![Time as a multiple of jnp.sort](performance-{name}.png)\n")
    for path in kinds["scaling-"]:
        name, found = path.stem.removeprefix("scaling-"), record.read([path])
        parts.append(f"## Growth on {name}\n\n{source(found)}\n\n{growth(found)}\n")
        gradient = lambda r: median(r["seconds"]["gradient"])
        curves(found, gradient, "value and gradient, seconds", out / f"performance-time-{name}.png")
        memory = lambda r: r["temporary_bytes"]["gradient"] / 2**20
        curves(found, memory, "temporary memory, MiB", out / f"performance-memory-{name}.png")
        parts.append(f"![Time against n](performance-time-{name}.png)\n")
        parts.append(f"![Temporary memory against n](performance-memory-{name}.png)\n")
    for path in kinds["peers-"]:
        name, found = path.stem.removeprefix("peers-"), record.read([path])
        parts.append(f"## Peers on {name}\n\n{source(found)}\n\n{peers(found)}\n")
    for path in kinds["kernels-"]:
        name, found = path.stem.removeprefix("kernels-"), record.read([path])
        parts.append(f"## Kernels on {name}\n\n{source(found)}\n\n{kernels(found)}\n")
    return "\n".join(parts)


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
