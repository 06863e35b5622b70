"""Figures of compiled programs that no clock is needed for: memory, operations, and what the program is made of.

They depend on the compiler, so on the versions of jax and jaxlib and the instruction set that is compiled for, and on
nothing else of the machine.
"""

import platform
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jaxlib
from shapes import Case
from timing import temporary_bytes

import softjax as sj

Figures = dict[str, dict[str, int]]
"""Part of a case ("forward", "gradient", "solver") -> figure -> number."""

_OPCODE = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = .*? ([a-z][\w-]*)\(", re.MULTILINE)
_COUNTED = {"fusions": "fusion", "while loops": "while", "sorts": "sort", "custom calls": "custom-call"}
_RANKS = {
    "sort": lambda p: p,
    "rank": lambda p: p,
    "argsort": lambda p: p,
    "top_k": lambda p: p[-(p.shape[-1] // 10) :],
    "max": lambda p: p[-1:],
}
"""The rows of the soft permutation whose solver an operator runs."""


def compiler() -> str:
    """What the figures depend on, as a name."""
    return f"{platform.machine()} {jax.default_backend()}, jax {jax.__version__}, jaxlib {jaxlib.__version__}"


def of_program(function: Callable, *arguments) -> dict[str, int]:
    """The figures of one compiled program."""
    # LLVM's optimisation comes after everything that is counted here, and takes half the time.
    program = jax.jit(function).lower(*arguments).compile({"xla_backend_optimization_level": 0})
    costs = program.cost_analysis()
    assert costs is not None
    opcodes = Counter(_OPCODE.findall(program.as_text() or ""))
    return {
        "temporary bytes": temporary_bytes(program),
        "flops": int(costs.get("flops", 0)),
        "bytes accessed": int(costs.get("bytes accessed", 0)),
        **{name: opcodes[opcode] for name, opcode in _COUNTED.items()},
        "instructions": opcodes.total(),
    }


def of_case(case: Case) -> Figures:
    """The figures of a case's value, of its value and gradient, and of its solver where it has one."""
    x = case.abstract()
    figures = {"forward": of_program(case.soft, x), "gradient": of_program(case.value_and_gradient(), x)}
    if case.method == "ot" and case.operator in _RANKS:
        p = sj.soft_permutation(case.keys(), softness=case.softness, mode=case.mode, method="ot")
        iterations = jax.jit(lambda p: _RANKS[case.operator](p).solver_info().iterations)(p)
        figures["solver"] = {"iterations": int(iterations.sum())}
    return figures


def measure(cases: Sequence[Case], workers: int = 2) -> dict[str, Figures]:
    """The figures of every case by its key; XLA compiles outside Python's lock, so two at a time."""
    with ThreadPoolExecutor(workers) as pool:
        return dict(zip([case.key for case in cases], pool.map(of_case, cases), strict=True))
