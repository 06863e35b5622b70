"""Timing that survives a noisy machine: candidates take turns, medians and ratios come from one run."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import jax

TURN = 4e-3
"""On an accelerator, calls fill a turn of so many seconds: one call may take less than asking for it."""


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
    candidates: Mapping[str, tuple[Callable, tuple]], repeats: int = 11, seconds: float = 20.0
) -> dict[str, list[float]]:
    """Seconds of a call of each compiled candidate, called in turns so that a slow moment hits all alike.

    One round to warm up, then at least 3 rounds, at most `repeats`, and no new round once `seconds` have passed.
    Processes whose PERF_LOCK names the same file take turns.
    """
    if lock := os.environ.get("PERF_LOCK"):
        with open(lock, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            return _interleaved(candidates, repeats, seconds)
    return _interleaved(candidates, repeats, seconds)


def _interleaved(candidates, repeats, seconds):
    calls = {name: _calls(function, arguments) for name, (function, arguments) in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    begin = time.perf_counter()
    for round_ in range(repeats):
        if round_ >= 3 and time.perf_counter() - begin > seconds:
            break
        for name, (function, arguments) in candidates.items():
            times[name].append(_turn(function, arguments, calls[name]))
    return times


def ratios(times: Sequence[float], yardstick: Sequence[float]) -> list[float]:
    """Each round's ratio: what slowed a whole round down has cancelled."""
    return [a / b for a, b in zip(times, yardstick, strict=True)]


def spread(values: Sequence[float]) -> float:
    """Half the distance of the quartiles, as a fraction of the median."""
    low, _, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / median(values)


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


def kernel_seconds(function: Callable, arguments: tuple, calls: int = 5) -> dict[str, float]:
    """Seconds that a GPU spends in each of its kernels during a call, by JAX's profiler; empty elsewhere."""
    if jax.default_backend() != "gpu":
        return {}
    folder = tempfile.mkdtemp()
    try:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                jax.block_until_ready(function(*arguments))
        found: dict[str, float] = {}
        planes = [
            p
            for file in Path(folder).rglob("*.xplane.pb")
            for p in jax.profiler.ProfileData.from_file(str(file)).planes
        ]
        for plane in planes:
            for line in plane.lines if plane.name.startswith("/device:GPU") else ():
                for event in line.events if line.name.startswith("Stream") else ():
                    found[event.name] = found.get(event.name, 0.0) + event.duration_ns * 1e-9 / calls
        return found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def temporary_bytes(program: jax.stages.Compiled) -> int:
    """Bytes of temporary memory in the compiled program."""
    analysis = program.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes
