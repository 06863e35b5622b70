"""Kernels beside plain JAX, the definition and JAX's hard operator, in turns on the same array."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from shapes import Case
from tables import KERNEL_COLUMNS, PASSES
from timing import compiled_beside, interleaved, temporary_bytes


def implementations() -> list[str]:
    """Kernels that run on this machine's first device, the one that is chosen for it first."""
    device = jax.devices()[0]
    if device.platform == "tpu":
        return ["pallas_mosaic_tpu"]
    capability = getattr(device, "compute_capability", None)
    if device.platform != "gpu" or capability is None:
        return []
    return ["pallas_mosaic_gpu"] if int(str(capability).split(".")[0]) >= 9 else []


def programs(case: Case, implementation: str, names: Sequence[str] = KERNEL_COLUMNS) -> Iterator[tuple[Any, Callable]]:
    """(pass, name) and what lowers that program: the result, and the result with the gradient."""
    hard = lambda x: case.hard(x).astype(x.dtype)
    for which in PASSES:
        for name in names:
            if name == "hard":
                function = case.hard if which == "forward" else case.result_and_gradient(hard)
            else:
                by = case.by(implementation if name == "kernel" else name)
                function = by.soft if which == "forward" else by.result_and_gradient()
            yield (which, name), functools.partial(jax.jit(function).lower, case.abstract())


def compare(case: Case, built: Mapping[tuple[str, str], Any], seconds: float) -> dict:
    """Seconds of programs, each compiled or what stopped it; who did not run or agree with plain JAX, and why."""
    x, found, refused = case.keys(), {"seconds": {}, "temporary_bytes": {}}, {}
    for which in PASSES:
        candidates, results = {}, {}
        for name in [name for kind, name in built if kind == which]:
            program = built[which, name]
            try:
                if isinstance(program, Exception):
                    raise program
                results[name] = jax.block_until_ready(program(x))
                candidates[name] = program
            except Exception as error:  # the definition's n x n rows do not fit, or a kernel is missing
                refused[f"{name} {which}"] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
        if which == "gradient" and {"kernel", "xla"} <= results.keys():
            if (wrong := case.disagreement(results["kernel"], results["xla"])) is not None:
                refused["kernel parity"] = wrong
        del results
        found["temporary_bytes"][which] = {name: temporary_bytes(program) for name, program in candidates.items()}
        found["seconds"][which] = interleaved(candidates, x, seconds=seconds)
    return found | {"refused": refused}


def measure(case: Case, seconds: float, implementation: str | None = None) -> Iterator[dict]:
    """The record of a case: of the implementation that is chosen here, or of another."""
    chosen = implementation or implementations()[0]
    built = compiled_beside(programs(case, chosen))
    yield case.about() | {"implementation": chosen} | compare(case, built, seconds)
