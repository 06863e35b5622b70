"""What `make gate` judges of programs: figures that no clock is needed for, and a few ratios of times.

Figures are memory, operations, and what a program is made of. They depend on the compiler, so on the versions of jax
and jaxlib and the instruction set that is compiled for, and on nothing else of the machine.
"""

import platform
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

import jax
import jaxlib
from gate import Figures
from shapes import Case
from timing import compiled, interleaved, ratios, temporary_bytes

import softjax as sj

_OPCODE = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = .*? ([a-z][\w-]*)\(", re.MULTILINE)
_COUNTED = {"fusions": "fusion", "while loops": "while", "sorts": "sort", "custom calls": "custom-call"}
_RANKS = {
    **dict.fromkeys(("sort", "rank", "argsort"), lambda p: p),
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


@dataclass(frozen=True)
class Band:
    """A case's time, forward or with gradient, over that of the hard operator or of the dense form: at most `most`.

    Limits are so wide that what crosses one is no noise: two to four times what was measured when they were set.
    """

    case: Case
    which: str
    over: str
    most: float

    def holds(self) -> bool:
        """Measure the median of the ratios of calls in turns, show it, and say whether it is within the limit."""
        x = self.case.keys()
        of = lambda case: case.soft if self.which == "forward" else case.value_and_gradient()
        other = self.case.hard if self.over == "hard" else of(self.case.by("dense"))
        times = interleaved({"soft": compiled(of(self.case), x)[0], "other": compiled(other, x)[0]}, x, seconds=5.0)
        ratio = median(ratios(times["soft"], times["other"]))
        verdict = "" if ratio <= self.most else "  EXCEEDED"
        what = f"{self.case.key:36}{self.which:10}over {self.over:13}"
        print(f"{what}{self.most:16.2f}{ratio:16.3f}{verdict}", flush=True)
        return ratio <= self.most


BANDS = (
    Band(Case("sort", "softsort", (8, 16_384)), "forward", "hard", 2.5),
    Band(Case("sort", "softsort", (8, 16_384)), "gradient", "hard", 4.0),
    Band(Case("sort", "softsort", (8, 16_384), "c1"), "forward", "hard", 8.0),
    Band(Case("mask", "ot", (8, 16_384)), "forward", "hard", 25.0),
    Band(Case("sort", "softsort", (1, 2_048)), "gradient", "dense", 0.25),
    Band(Case("sort", "neuralsort", (1, 4_096)), "gradient", "dense", 0.25),
    Band(Case("sort", "ot", (1, 512)), "forward", "dense", 0.75),
)
