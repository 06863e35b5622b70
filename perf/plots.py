"""The plots of docs/performance.md."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import bars
import matplotlib.pyplot as plt
from tables import by_series, shape
from timing import ratios

COLOURS = {"softsort": "tab:blue", "neuralsort": "tab:orange", "ot": "tab:green"}


def _save(figure, path: Path) -> None:
    # Without the date that would make every file differ.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _ratios(names: Sequence[str], height: float, label: str):
    """A figure with a line for each name, and ratios on a logarithmic axis."""
    figure, axes = plt.subplots(figsize=(8, height * len(names) + 1.2), layout="constrained")
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(label)
    return figure, axes


def multiples(records: list[dict], path: Path) -> None:
    """A line for each case, from its forward time to that with gradient, times hard sort; and the bars."""
    names = [f"{r['case']}, {shape(r['shape'])}" for r in records]
    figure, axes = _ratios(names, 0.22, "time / time of jnp.sort")
    barred = (*bars.TIMES_SORT, *bars.NEURALSORT) if bars.meant_for(records[0]["machine"]) else ()
    for place, r in enumerate(records):
        colour = COLOURS[r["method"]]
        ends = [median(ratios(r["seconds"][key], r["seconds"]["sort"])) for key in ("forward", "gradient")]
        axes.plot(ends, [place, place], color=colour, linewidth=2, alpha=0.5)
        axes.plot(ends[0], place, "o", color=colour, markersize=5, markerfacecolor="white")
        axes.plot(ends[1], place, "o", color=colour, markersize=5)
        for bar in barred:
            if bar.of(r) and bar.figure == "value and gradient":
                axes.plot(bar.limit, place, "|", color="tab:red", markersize=9, markeredgewidth=2)
    grey = {"linestyle": "", "color": "tab:gray"}
    axes.plot([], [], marker="o", markerfacecolor="white", label="forward", **grey)
    axes.plot([], [], marker="o", label="with gradient", **grey)
    if barred:
        red = grey | {"color": "tab:red", "markersize": 9, "markeredgewidth": 2}
        axes.plot([], [], marker="|", label="bar, with gradient", **red)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    _save(figure, path)


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
            axes.plot([r["shape"][-1] for r in points], [value(r) for r in points], linewidth=1, **how)
    sort = {r["shape"][-1]: median(r["seconds"]["sort"]) for r in records if r["along"] == "n"}
    panels[0].plot(sorted(sort), [sort[n] for n in sorted(sort)], color="black", label="jnp.sort")
    panels[2].axhline(1, color="black")
    for axes, label in zip(panels, values, strict=True):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("n")
        axes.set_title(label, fontsize=10)
        axes.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    _save(figure, path)


def peers(records: list[dict], path: Path) -> None:
    """A point for each comparison, peer and pass: the peer's time over ours."""
    timed = [(r, peer) for r in records for peer in r["differences"]]
    figure, axes = _ratios(
        [f"{peer}: {r['case']}" for r, peer in timed], 0.28, "time of the peer / time of this package"
    )
    for which, label, face in (("forward", "forward", "white"), ("gradient", "with gradient", "tab:blue")):
        points = [
            (median(ratios(r["seconds"][peer][which], r["seconds"]["softjax"][which])), place)
            for place, (r, peer) in enumerate(timed)
            if which in r["seconds"][peer]
        ]
        axes.plot(*zip(*points, strict=True), "o", color="tab:blue", markerfacecolor=face, label=label)
    axes.legend(fontsize=8)
    _save(figure, path)
