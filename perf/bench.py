"""What softness costs: soft operators against JAX's hard ones on the same array, in one run.

    python perf/bench.py                       every case of the standard set (perf/shapes.py)
    python perf/bench.py softsort neuralsort   cases whose name and shape contain one of the words
    python perf/bench.py --json results.jsonl  append one line for each measurement
    python perf/bench.py --save                write them to perf/results/<machine>.jsonl

Each case prints `jnp.sort`'s time, its forward and value-and-gradient time as multiples of that, the spread of the
larger multiple, its forward time as a multiple of the hard operator that it replaces, and what compiling the gradient
takes in seconds and gives in temporary memory. float32, normal data.
"""

import argparse
import math
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import scaling
from progress import tqdm
from record import append, destination
from shapes import STANDARD, Case
from timing import compiled, compiled_beside, interleaved, ratios, spread, temporary_bytes

HEADER = (
    f"{'case':24}{'shape':>16}{'sort ms':>10}{'forward':>10}{'gradient':>10}{'spread':>9}{'x hard':>9}"
    f"{'compile s':>11}{'MiB':>9}   (forward, gradient: x jnp.sort)"
)


def functions(case: Case) -> dict[str, Callable]:
    """`jnp.sort`, the hard operator, the soft one, and its value and gradient."""
    return {
        "sort": lambda x: jnp.sort(x, axis=-1),
        "hard": case.hard,
        "forward": case.soft,
        "gradient": case.value_and_gradient(),
    }


def all_compiled(cases: list[Case]) -> dict[Case, dict[str, Any]]:
    """The programs of all cases, compiled beside each other."""
    jobs = (
        ((case, name), lambda case=case, function=function: jax.jit(function).lower(case.keys()))
        for case in cases
        for name, function in functions(case).items()
    )
    found: dict[Case, dict[str, Any]] = {case: {} for case in cases}
    for (case, name), program in compiled_beside(jobs).items():
        if isinstance(program, Exception):
            raise program
        found[case][name] = program
    return found


def measure(case: Case, seconds: float, ready: dict[str, Any] | None = None) -> dict:
    """Seconds of those `functions`; compile time, unless they are `ready`, and memory."""
    x = case.keys()
    if ready is None:
        timed = {name: compiled(function, x) for name, function in functions(case).items()}
        programs = {name: program for name, (program, _) in timed.items()}
        compile_seconds = {name: elapsed for name, (_, elapsed) in timed.items()}
    else:
        programs, compile_seconds = ready, {}
    return {
        "case": case.name,
        "operator": case.operator,
        "method": case.method,
        "mode": case.mode,
        "softness": case.softness,
        "shape": list(case.shape),
        "seconds": interleaved({name: (program, (x,)) for name, program in programs.items()}, seconds=seconds),
        "compile_seconds": compile_seconds,
        "temporary_bytes": {name: temporary_bytes(program) for name, program in programs.items()},
    }


def line(record: dict) -> str:
    """A measurement as a line under HEADER."""
    seconds = record["seconds"]
    forward, gradient = (ratios(seconds[key], seconds["sort"]) for key in ("forward", "gradient"))
    own = median(ratios(seconds["forward"], seconds["hard"]))
    shape = " x ".join(f"{size:,}" for size in record["shape"])
    return (
        f"{record['case']:24}{shape:>16}{1e3 * median(seconds['sort']):10.2f}{median(forward):10.2f}"
        f"{median(gradient):10.2f}{max(spread(forward), spread(gradient)):9.0%}{own:9.2f}"
        f"{record['compile_seconds'].get('gradient', math.nan):11.1f}"
        f"{record['temporary_bytes']['gradient'] / 2**20:9.1f}"
    )


def main(arguments: list[str]) -> None:
    """Measure the cases asked for and print a line for each, then the exponents that they show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="measure only cases whose name contains one of these")
    parser.add_argument("--json", help="append the results to this file, one JSON object a line")
    parser.add_argument("--save", action="store_true", help="write them to perf/results/<machine>.jsonl")
    parser.add_argument("--seconds", type=float, default=4.0, help="start no round of a case after this long")
    parser.add_argument("--beside", action="store_true", help="compile all beside each other first; no compile time")
    options = parser.parse_args(arguments)
    chosen = [case for case in STANDARD if not options.words or any(word in case.key for word in options.words)]
    path = destination(options.json, options.save)
    print(HEADER)
    records = []
    ready = all_compiled(chosen) if options.beside else {}
    for case in (bar := tqdm(chosen, unit="case", leave=False, disable=None)):
        bar.set_postfix_str(case.key)
        records.append(measure(case, options.seconds, ready.get(case)))
        bar.write(line(records[-1]))
        sys.stdout.flush()
        if path:
            append(path, records[-1])
    print("\n".join(scaling.within(records)))


if __name__ == "__main__":
    main(sys.argv[1:])
