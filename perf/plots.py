"""The plots of docs/performance.md."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import bars
import matplotlib.pyplot as plt
from tables import by_series, shape
from timing import ratios

COLOURS = {
    "softsort": "tab:blue",
    "neuralsort": "tab:orange",
    "ot": "tab:green",
    "lapsum": "tab:purple",
    "fast_soft_sort": "tab:brown",
}


class Line(NamedTuple):
    """A line from a forward ratio to that with gradient, where there is one; and the bar of the latter."""

    name: str
    method: str
    ends: list[float]
    bar: float | None = None


def _save(figure, path: Path) -> None:
    # Without the date that would make every file differ.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _lines(lines: Sequence[Line], label: str, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 0.22 * len(lines) + 1.2), layout="constrained")
    for place, (_, method, ends, bar) in enumerate(lines):
        colour = COLOURS[method]
        axes.plot(ends, [place] * len(ends), color=colour, linewidth=2, alpha=0.5)
        for end, face in zip(ends, ("white", colour), strict=False):
            axes.plot(end, place, "o", color=colour, markersize=5, markerfacecolor=face)
        if bar:
            axes.plot(bar, place, "|", color="tab:red", markersize=9, markeredgewidth=2)
    axes.plot([], [], "o", color="tab:gray", markerfacecolor="white", label="forward")
    axes.plot([], [], "o", color="tab:gray", label="with gradient")
    if any(line.bar for line in lines):
        axes.plot([], [], "|", color="tab:red", markersize=9, markeredgewidth=2, label="bar, with gradient")
    axes.set_yticks(range(len(lines)), [line.name for line in lines], fontsize=7)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(label)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    _save(figure, path)


def multiples(records: list[dict], path: Path) -> None:
    """The multiples of hard sort of every case, and the bars."""
    barred = (
        (*bars.TIMES_SORT, *bars.NEURALSORT, *bars.LAPSUM, *bars.FAST_SOFT_SORT)
        if bars.meant_for(records[0]["machine"])
        else ()
    )
    lines = []
    for r in records:
        ends = [median(ratios(r["seconds"][key], r["seconds"]["sort"])) for key in ("forward", "gradient")]
        limits = [bar.limit for bar in barred if bar.of(r) and bar.figure == "value and gradient"]
        lines.append(Line(f"{r['case']}, {shape(r['shape'])}", r["method"], ends, *limits))
    _lines(lines, "time / time of jnp.sort", path)


def peers(records: list[dict], path: Path) -> None:
    """The time of every peer over ours."""
    lines = []
    for r in records:
        for peer in r["differences"]:
            ends = [median(ratios(t, r["seconds"]["softjax"][which])) for which, t in r["seconds"][peer].items()]
            lines.append(Line(f"{peer}: {r['case']}", r["method"], ends))
    _lines(lines, "time of the peer / time of this package", path)


def growth(records: list[dict], path: Path) -> None:
    """Time, temporary memory and times hard of value and gradient, against n."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 4.6), layout="constrained")
    values = {
        "seconds": lambda r: median(r["seconds"]["gradient"]),
        "temporary memory, MiB": lambda r: r["temporary_bytes"]["gradient"] / 2**20,
        "time / time of jnp.sort": lambda r: median(ratios(r["seconds"]["gradient"], r["seconds"]["sort"])),
    }
    for marker, (name, points) in zip("osD^vPX*<>", by_series(records, "n").items(), strict=False):
        how = {"color": COLOURS[points[0]["method"]], "marker": marker, "markersize": 4, "label": name}
        for axes, value in zip(panels, values.values(), strict=True):
            axes.plot([r["shape"][-1] for r in points], [value(r) for r in points], linewidth=1, **how)
    sort = {r["shape"][-1]: median(r["seconds"]["sort"]) for r in records if r["along"] == "n"}
    panels[0].plot(sorted(sort), [sort[n] for n in sorted(sort)], color="black", label="jnp.sort")
    panels[2].axhline(1, color="black")
    for axes, label in zip(panels, values, strict=True):
        axes.set(xscale="log", yscale="log", xlabel="n")
        axes.set_title(label, fontsize=10)
        axes.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    _save(figure, path)
