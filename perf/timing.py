"""Timing that survives a noisy machine: candidates take turns, medians and ratios come from one run."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import jax


def interleaved(
    candidates: Mapping[str, tuple[Callable, tuple]], repeats: int = 11, seconds: float = 20.0
) -> dict[str, float]:
    """Median seconds of each compiled candidate, called in turns so that a slow moment hits all alike.

    At least 3 rounds, at most `repeats`, and no new round once `seconds` have passed.
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
    return {name: median(values) for name, values in times.items()}


def temporary_bytes(function: Callable, *arguments) -> int:
    """Bytes of temporary memory in the compiled program."""
    return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes
