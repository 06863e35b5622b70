"""What a first call costs: instructions of compiled programs, the time to compile them, and first eager calls.

    python perf/compiling.py            value and gradient at 64 x 1,024, then first calls of ten numbers
    python perf/compiling.py softsort   cases whose name contains one of the words, and no first calls

Instructions are counted in the optimised program, those of fused computations and loops included. Seconds of tracing
and compiling are processor time, of all threads; a first call's are wall time beyond `import jax` in a new process, the
least of three. `make gate` holds the instructions, the suite the programs of a first eager call.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import figures
import jax
import jax.numpy as jnp
from shapes import COMPILED, Case

import softjax as sj

SMOOTH = {"softsort": (900, 1.5), "ot": (1_500, 3.0), "neuralsort": (2_000, 3.0)}
"""Method -> instructions and seconds that value and gradient of a smooth operator should take at most."""
SPARSE = (3_000, 3.0)
"""The same for c0, c1 and c2."""

FIRST = {"sort": sj.sort, "median": sj.median, "rank": sj.rank}
FIRST_GOAL = 1.0

_FIRST_CALL = """
import time, jax, jax.numpy as jnp
x = jax.block_until_ready(jnp.arange(10.0))
start = time.perf_counter()
import softjax as sj
jax.block_until_ready(sj.{name}(x))
print(time.perf_counter() - start)
"""


def goals(case: Case) -> tuple[int, float]:
    """Instructions and seconds that value and gradient should take at most."""
    return SMOOTH[case.method] if case.mode == "smooth" else SPARSE


def seconds_to_compile(case: Case) -> float:
    """Processor time from a function to a program of its value and gradient."""
    jax.clear_caches()
    function, x = case.value_and_gradient(), jax.ShapeDtypeStruct(case.shape, "float32")
    start = time.process_time()
    jax.jit(function).lower(x).compile()
    return time.process_time() - start


def first_call(name: str) -> float:
    """Seconds of an operator's first call in a new process."""
    command = [sys.executable, "-c", _FIRST_CALL.format(name=name)]
    return min(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3))


@contextmanager
def _programs() -> Iterator[list[str]]:
    """The programs that are compiled meanwhile."""
    found: list[str] = []

    def note(event: str, _: float, **rest: object) -> None:
        if event.endswith("backend_compile_duration"):
            found.append(str(rest.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def programs_of_first_call(operator: Callable[[jax.Array], jax.Array]) -> list[str]:
    """What an eager call of ten numbers compiles, where nothing has been compiled yet."""
    x = jnp.arange(10.0)
    jax.clear_caches()
    with _programs() as found:
        jax.block_until_ready(operator(x))
    return found


def main(words: Sequence[str]) -> None:
    """Print every figure beside its goal."""
    print(f"{'value and gradient':32}{'instructions':>14}{'goal':>8}{'seconds':>10}{'goal':>8}")
    for case in COMPILED:
        if words and not any(word in case.name for word in words):
            continue
        instructions, seconds = goals(case)
        found = figures.of_program(case.value_and_gradient(), jax.ShapeDtypeStruct(case.shape, "float32"))
        spent = seconds_to_compile(case)
        print(f"{case.key:32}{found['instructions']:>14,}{instructions:>8,}{spent:>10.2f}{seconds:>8.1f}", flush=True)
    if not words:
        print(f"\n{'first call of ten numbers':32}{'programs':>14}{'':>8}{'seconds':>10}{'goal':>8}")
        for name, operator in FIRST.items():
            count = len(programs_of_first_call(operator))
            print(f"{name:32}{count:>14}{'':>8}{first_call(name):>10.2f}{FIRST_GOAL:>8.1f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
