"""The plots of docs/performance.md."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import bars
import matplotlib.pyplot as plt
from timing import ratios

COLOURS = {"softsort": "tab:blue", "neuralsort": "tab:orange", "ot": "tab:green"}


def shape(sizes: Sequence[int]) -> str:
    """As the tables have it."""
    return " x ".join(f"{size:,}" for size in sizes)


def save(figure, path: Path) -> None:
    """Without the date that would make every file differ."""
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def multiples(records: list[dict], path: Path) -> None:
    """A line for each case, from its forward time to that with gradient, times hard sort; and the bars."""
    figure, axes = plt.subplots(figsize=(8, 0.22 * len(records) + 1.2), layout="constrained")
    barred = bars.meant_for(records[0]["machine"])
    limits = {(bar.case, bar.figure): bar.limit for bar in bars.TIMES_SORT} if barred else {}
    for place, r in enumerate(records):
        colour = COLOURS[r["method"]]
        ends = [median(ratios(r["seconds"][key], r["seconds"]["sort"])) for key in ("forward", "gradient")]
        axes.plot(ends, [place, place], color=colour, linewidth=2, alpha=0.5)
        axes.plot(ends[0], place, "o", color=colour, markersize=5, markerfacecolor="white")
        axes.plot(ends[1], place, "o", color=colour, markersize=5)
        if limit := limits.get((bars.key(r), "value and gradient")):
            axes.plot(limit, place, "|", color="tab:red", markersize=9, markeredgewidth=2)
    legend: dict[str, dict] = {
        "forward": {"marker": "o", "markerfacecolor": "white"},
        "with gradient": {"marker": "o"},
    }
    if barred:
        legend["bar, with gradient"] = {"marker": "|", "color": "tab:red", "markersize": 9, "markeredgewidth": 2}
    for label, style in legend.items():
        axes.plot([], [], **{"linestyle": "", "color": "tab:gray", "label": label, **style})
    axes.set_yticks(range(len(records)), [f"{r['case']}, {shape(r['shape'])}" for r in records], fontsize=7)
    axes.set_ylim(len(records) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("time / time of jnp.sort")
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    save(figure, path)


def by_series(records: list[dict], along: str) -> dict[str, list[dict]]:
    """Series name -> its points in order of size."""
    found = defaultdict(list)
    for r in records:
        if r["along"] == along:
            found[r["series"]].append(r)
    return {name: sorted(points, key=lambda r: r["size"]) for name, points in found.items()}


def growth(records: list[dict], path: Path) -> None:
    """Time, temporary memory and times hard of value and gradient, against n."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 4.6), layout="constrained")
    values = {
        "seconds": lambda r: median(r["seconds"]["gradient"]),
        "temporary memory, MiB": lambda r: r["temporary_bytes"]["gradient"] / 2**20,
        "time / time of jnp.sort": lambda r: median(ratios(r["seconds"]["gradient"], r["seconds"]["sort"])),
    }
    markers = iter("osD^vPX*<>")
    for name, points in by_series(records, "n").items():
        how = {"color": COLOURS[points[0]["method"]], "marker": next(markers), "markersize": 4, "label": name}
        for axes, value in zip(panels, values.values(), strict=True):
            axes.plot([r["size"] for r in points], [value(r) for r in points], linewidth=1, **how)
    sort = {r["size"]: median(r["seconds"]["sort"]) for r in records if r["along"] == "n"}
    panels[0].plot(sorted(sort), [sort[n] for n in sorted(sort)], color="black", label="jnp.sort")
    panels[2].axhline(1, color="black")
    for axes, label in zip(panels, values, strict=True):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("n")
        axes.set_title(label, fontsize=10)
        axes.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    save(figure, path)


def peers(records: list[dict], path: Path) -> None:
    """A point for each comparison, peer and pass: the peer's time over ours."""
    points = [
        (f"{peer}: {r['case']}", which, median(ratios(theirs, r["seconds"]["softjax"][which])))
        for r in records
        for peer in r["differences"]
        for which, theirs in r["seconds"][peer].items()
    ]
    names = list(dict.fromkeys(name for name, _, _ in points))
    figure, axes = plt.subplots(figsize=(8, 0.28 * len(names) + 1.2), layout="constrained")
    for which, face in (("forward", "white"), ("gradient", "tab:blue")):
        chosen = [(ratio, names.index(name)) for name, kind, ratio in points if kind == which]
        label = {"forward": "forward", "gradient": "with gradient"}[which]
        axes.plot(*zip(*chosen, strict=True), "o", color="tab:blue", markerfacecolor=face, label=label)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("time of the peer / time of this package")
    axes.legend(fontsize=8)
    save(figure, path)
