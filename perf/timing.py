"""Timing that survives a noisy machine: candidates take turns, medians and ratios come from one run."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles

import jax


def interleaved(
    candidates: Mapping[str, tuple[Callable, tuple]], repeats: int = 11, seconds: float = 20.0
) -> dict[str, list[float]]:
    """Seconds of each call of each compiled candidate, called in turns so that a slow moment hits all alike.

    One round to warm up, then at least 3 rounds, at most `repeats`, and no new round once `seconds` have passed.
    """
    for function, arguments in candidates.values():
        jax.block_until_ready(function(*arguments))
    times: dict[str, list[float]] = {name: [] for name in candidates}
    begin = time.perf_counter()
    for round_ in range(repeats):
        if round_ >= 3 and time.perf_counter() - begin > seconds:
            break
        for name, (function, arguments) in candidates.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            times[name].append(time.perf_counter() - start)
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


def temporary_bytes(program: jax.stages.Compiled) -> int:
    """Bytes of temporary memory in the compiled program."""
    analysis = program.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes
