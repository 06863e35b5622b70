"""Timing that survives a noisy machine: candidates take turns, medians and ratios come from one run."""

import fcntl
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import linear_regression, median, quantiles
from typing import Any

import jax

TURN = 4e-3
"""On an accelerator, calls fill a turn of so many seconds: one call may take less than asking for it."""


@contextmanager
def alone() -> Iterator[None]:
    """While no other process whose PERF_LOCK names the same file is in here; without one nobody waits."""
    with open(os.environ.get("PERF_LOCK", os.devnull), "w") as file:
        if "PERF_LOCK" in os.environ:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _turn(function: Callable, arguments: tuple, calls: int) -> float:
    """Seconds of a call, of several that are asked for before the last is awaited."""
    start = time.perf_counter()
    for _ in range(calls - 1):
        function(*arguments)
    jax.block_until_ready(function(*arguments))
    return (time.perf_counter() - start) / calls


def _calls(function: Callable, arguments: tuple) -> int:
    """How many calls make a turn, after two to warm up: one on a CPU."""
    jax.block_until_ready(function(*arguments))
    if jax.default_backend() == "cpu":
        return 1
    return max(1, min(100, round(TURN / _turn(function, arguments, 1))))


def interleaved(
    candidates: Mapping[str, Callable], *arguments, repeats: int = 11, seconds: float = 20.0
) -> dict[str, list[float]]:
    """Seconds of a call of each compiled candidate, called in turns so that a slow moment hits all alike.

    One round to warm up, then at least 3 rounds, at most `repeats`, and no new round once `seconds` have passed.
    """
    with alone():
        calls = {name: _calls(function, arguments) for name, function in candidates.items()}
        times: dict[str, list[float]] = {name: [] for name in candidates}
        begin = time.perf_counter()
        for round_ in range(repeats):
            if round_ >= 3 and time.perf_counter() - begin > seconds:
                break
            for name, function in candidates.items():
                times[name].append(_turn(function, arguments, calls[name]))
        return times


def ratios(times: Sequence[float], yardstick: Sequence[float]) -> list[float]:
    """Each round's ratio: what slowed a whole round down has cancelled."""
    return [a / b for a, b in zip(times, yardstick, strict=True)]


def spread(values: Sequence[float]) -> float:
    """Half the distance of the quartiles, as a fraction of the median."""
    low, _, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / median(values)


def power(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of log seconds against log size, of the points whose time is at least twice the shortest.

    Below that a call costs what calls cost. NaN where too few points are above it.
    """
    floor = 2 * min(seconds)
    points = [(math.log(n), math.log(t)) for n, t in zip(sizes, seconds, strict=True) if t >= floor]
    return linear_regression(*zip(*points, strict=True)).slope if len(points) >= 2 else math.nan


def compiled(function: Callable, *arguments) -> tuple[jax.stages.Compiled, float]:
    """The compiled program, and the seconds that tracing, lowering and compiling took."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return program, time.perf_counter() - start


def compiled_beside(
    programs: Iterable[tuple[Any, Callable[[], jax.stages.Lowered]]],
) -> dict[Any, jax.stages.Compiled | Exception]:
    """Every program, or what stopped it: traced in turn, and compiled while the next is traced."""
    found: dict[Any, jax.stages.Compiled | Exception] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = {}
        for key, lower in programs:
            try:
                waiting[key] = pool.submit(lower().compile)
            except Exception as error:
                found[key] = error
        for key, future in waiting.items():
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            found[key] = future.result() if error is None else error
    return found


def temporary_bytes(program: jax.stages.Compiled) -> int:
    """Bytes of temporary memory in the compiled program."""
    analysis = program.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes
