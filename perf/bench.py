"""What softness costs: times of soft operators beside JAX's hard ones, in turns on the same array, and what else costs.

    python perf/bench.py                       the standard set (perf/shapes.py), as multiples of `jnp.sort`
    python perf/bench.py softsort neuralsort   cases whose name and shape contain one of the words
    python perf/bench.py --save                write the records to perf/results/<machine>.jsonl
    python perf/bench.py --set scaling         the powers of n and of the batch by which time grows, beside theory's
    python perf/bench.py --set memory          temporary memory at two sizes: linear in n where it grows as they do
    python perf/bench.py --set compiling       instructions of value and gradient, and the time to compile it
    python perf/bench.py --set first-calls     programs and seconds of a first eager call of ten numbers
    python perf/bench.py --set kernels         kernels beside plain JAX and the definition, on the GPU at hand

"x hard" is a multiple of the hard operator that a soft one replaces, "spread" that of the larger multiple. A series of
`scaling` ends before a size that its last growth says would take longer than 10 s a call. Seconds to compile, where
they are beside a goal, are processor time of all threads; a first call's are wall time beyond `import jax` in a new
process, the least of three.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else XLA prints the programs that do not fit

import gpu_check
import jax
import jax.numpy as jnp
import kernel_comparison
import runner
import shapes
import tables
from figures import of_program
from runner import Measurement
from shapes import Case
from timing import compiled, compiled_beside, interleaved, temporary_bytes

LIMIT = 10.0
"""Seconds a call beyond which a series ends."""


def times(case: Case, seconds: float, repeats: int = 11) -> Iterator[dict]:
    """Times, compile times and temporary memory of `jnp.sort`, of the hard operator and of the soft one."""
    x = case.keys()
    functions = {
        "sort": lambda x: jnp.sort(x, axis=-1),
        "hard": case.hard,
        "forward": case.soft,
        "gradient": case.value_and_gradient(),
    }
    if jax.default_backend() == "cpu":
        built = {name: compiled(function, x) for name, function in functions.items()}
    else:  # beside each other, where compiling takes longer than all else, and is not timed
        lowering = ((name, partial(jax.jit(function).lower, x)) for name, function in functions.items())
        built = {name: (program, None) for name, program in compiled_beside(lowering).items()}
    programs = {name: program for name, (program, _) in built.items()}
    yield case.about() | {
        "seconds": interleaved(programs, x, repeats=repeats, seconds=seconds),
        "compile_seconds": {name: elapsed for name, (_, elapsed) in built.items() if elapsed},
        "temporary_bytes": {name: temporary_bytes(program) for name, program in programs.items()},
    }


def growth(series: tuple[str, Sequence[Case]], seconds: float) -> Iterator[dict]:
    """The points of a series, up to the size that would take too long."""
    along, cases = series
    last = None
    for case in cases:
        if last is not None:
            larger = math.prod(case.shape) / math.prod(last["shape"])
            theory = shapes.exponent(case.label, case.method, along)
            if median(last["seconds"]["gradient"]) * larger**theory > LIMIT:
                return
        (last,) = times(case, seconds, repeats=7)
        yield last | {"along": along}


def memory(case: Case, _: float) -> Iterator[dict]:
    """Temporary memory of value and gradient at each size."""
    sized = [replace(case, shape=(n,)) for n in shapes.MEMORY_SIZES]
    programs = [compiled(one.value_and_gradient(), one.abstract())[0] for one in sized]
    found = [temporary_bytes(program) for program in programs]
    yield case.about() | {"sizes": list(shapes.MEMORY_SIZES), "temporary_bytes": found}


def compiling(case: Case, _: float) -> Iterator[dict]:
    """Instructions of value and gradient, those of fused computations and loops included; seconds to compile it."""
    count = of_program(case.value_and_gradient(), case.abstract())["instructions"]
    jax.clear_caches()
    start = time.process_time()
    compiled(case.value_and_gradient(), case.abstract())
    yield case.about() | {"instructions": count, "seconds": time.process_time() - start}


FIRST_CALLS = {name: name for name in ("sort", "median", "rank")}
_PROCESS = """
import json, sys, time, jax, jax.numpy as jnp
x = jax.block_until_ready(jnp.arange(10.0))
found = []
note = lambda event, _, **rest: found.append(rest.get("fun_name")) if event.endswith("backend_compile_duration") else 0
jax.monitoring.register_event_duration_secs_listener(note)
start = time.perf_counter()
import softjax as sj
jax.block_until_ready(getattr(sj, sys.argv[1])(x))
print(json.dumps({"programs": len(found), "seconds": time.perf_counter() - start}))
"""


def first_call(operator: str, _: float, repeats: int = 3) -> Iterator[dict]:
    """What an eager call compiles and takes in a new process."""
    command = [sys.executable, "-c", _PROCESS, operator]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(repeats)]
    yield {"case": operator, "shape": [10]} | min(map(json.loads, runs), key=lambda found: found["seconds"])


_named = lambda cases: {case.key: case for case in cases}
SETS = {
    "standard": Measurement(_named(shapes.STANDARD), times, tables.STANDARD),
    "scaling": Measurement(shapes.SCALING, growth, tables.SCALING, "scaling-"),
    "memory": Measurement(_named(shapes.MEMORY), memory, tables.MEMORY, "memory-"),
    "compiling": Measurement(_named(shapes.COMPILED), compiling, tables.COMPILING, "compiling-"),
    "first-calls": Measurement(FIRST_CALLS, first_call, tables.FIRST_CALLS, "first-calls-"),
    "kernels": Measurement(_named(shapes.KERNELS), kernel_comparison.measure, tables.KERNELS, "kernels-"),
}


def main(arguments: Sequence[str]) -> int:
    """Measure what is asked for; 1 where a kernel did not run or did not agree."""
    parser = runner.parser(__doc__)
    parser.add_argument("--set", choices=SETS, default="standard", help="what is measured")
    options = parser.parse_args(arguments)
    if options.set == "kernels" and (reason := gpu_check.missing()) is not None:
        print(reason)
        return 1
    records = runner.run(SETS[options.set], options)
    return int(any(who.startswith("kernel") for record in records for who in record.get("refused", ())))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
