"""How time grows: the fitted power of n and of the batch beside the one that theory has.

    python perf/scaling.py                     n from 100 to 1,000,000, batch from 1 to 10,000 (perf/shapes.py)
    python perf/scaling.py ot                  series whose name contains one of the words
    python perf/scaling.py --save              write the points to perf/results/scaling-<machine>.jsonl

A series ends before a size that its last growth says would take longer than --limit seconds a call. The power is the
slope of a straight line through the logarithms, of the points whose time is at least twice the shortest: below that
a call costs what calls cost.
"""

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from statistics import linear_regression, median

import jax.numpy as jnp
from progress import tqdm
from record import append, destination
from shapes import SCALING, Case, Series, exponent
from timing import compiled, interleaved, temporary_bytes

TIMED = ("forward", "gradient")


def power(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of log seconds against log size, above the cost of a call; NaN where too few points are above it."""
    floor = 2 * min(seconds)
    points = [(math.log(n), math.log(t)) for n, t in zip(sizes, seconds, strict=True) if t >= floor]
    if len(points) < 2:
        return math.nan
    return linear_regression(*zip(*points, strict=True)).slope


def within(records: list[dict]) -> list[str]:
    """Lines with the powers of n and of the batch, for those of a benchmark's cases that differ in just that."""
    groups = defaultdict(list)
    for record in records:
        *batch, n = record["shape"]
        size = math.prod(batch)
        groups[record["case"], record["operator"], record["method"], "n", size].append((n, record))
        groups[record["case"], record["operator"], record["method"], "batch", n].append((size, record))
    lines = []
    for (name, operator, method, along, other), points in groups.items():
        sizes, chosen = zip(*sorted(points, key=lambda point: point[0]), strict=True)
        found = [power(sizes, [median(record["seconds"][key]) for record in chosen]) for key in TIMED]
        if len(sizes) >= 3 and not any(map(math.isnan, found)):
            theory = exponent(operator, method) if along == "n" else 1.0
            lines.append(_shown(name, along, other, sizes, found, theory))
    return [_HEADER, *lines] if lines else []


_HEADER = f"\n{'growth':24}{'along':>8}{'sizes':>24}{'forward':>10}{'gradient':>10}{'theory':>9}"


def _shown(name: str, along: str, other: int, sizes: Sequence[int], found: Sequence[float], theory: float) -> str:
    span = f"{sizes[0]:,} to {sizes[-1]:,}"
    fixed = f" (n = {other:,})" if along == "batch" else f" (batch {other:,})" if other > 1 else ""
    return f"{name:24}{along:>8}{span:>24}{found[0]:10.2f}{found[1]:10.2f}{theory:9.1f}{fixed}"


def measure(case: Case, seconds: float) -> dict:
    """Times and temporary memory of `jnp.sort`, of the operator, and of its value and gradient."""
    x = case.keys()
    functions = {"sort": lambda x: jnp.sort(x, axis=-1), "forward": case.soft, "gradient": case.value_and_gradient()}
    programs = {key: compiled(function, x)[0] for key, function in functions.items()}
    return {
        "seconds": interleaved({key: (program, (x,)) for key, program in programs.items()}, 7, seconds),
        "temporary_bytes": {key: temporary_bytes(program) for key, program in programs.items()},
    }


def run(series: Series, seconds: float, limit: float) -> list[dict]:
    """The points of a series, up to the size that would take too long."""
    records: list[dict] = []
    for size, case in zip(series.sizes, series.cases, strict=True):
        if records:
            last = median(records[-1]["seconds"]["gradient"])
            if last * (size / records[-1]["size"]) ** series.theory > limit:
                break
        records.append(
            {
                "series": series.name,
                "operator": case.operator,
                "method": case.method,
                "mode": case.mode,
                "softness": case.softness,
                "along": series.along,
                "size": size,
                "other": series.other,
                "theory": series.theory,
                "shape": list(case.shape),
                **measure(case, seconds),
            }
        )
    return records


def main(arguments: list[str]) -> None:
    """Measure the series asked for and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="measure only series whose name contains one of these")
    parser.add_argument("--json", help="append the points to this file, one JSON object a line")
    parser.add_argument("--save", action="store_true", help="write them to perf/results/scaling-<machine>.jsonl")
    parser.add_argument("--seconds", type=float, default=2.0, help="start no round of a point after this long")
    parser.add_argument("--limit", type=float, default=10.0, help="skip points that would take longer than this a call")
    options = parser.parse_args(arguments)
    path = destination(options.json, options.save, "scaling-")
    print(_HEADER.lstrip())
    chosen = [series for series in SCALING if not options.words or any(word in series.name for word in options.words)]
    for series in (bar := tqdm(chosen, unit="series", leave=False, disable=None)):
        bar.set_postfix_str(series.name)
        records = run(series, options.seconds, options.limit)
        sizes = [record["size"] for record in records]
        found = [power(sizes, [median(record["seconds"][key]) for record in records]) for key in TIMED]
        bar.write(_shown(series.name, series.along, series.other, sizes, found, series.theory))
        sys.stdout.flush()
        for record in records if path else ():
            append(path, record)


if __name__ == "__main__":
    main(sys.argv[1:])
