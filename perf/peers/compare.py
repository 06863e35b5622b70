"""This package, the other libraries and JAX's hard operators, each in its own environment, in turns on the same data.

    python perf/peers/compare.py                 every comparison (perf/peers/comparisons.py)
    python perf/peers/compare.py ott pot         those whose name or peers contain one of the words
    python perf/peers/compare.py --save          write them to perf/results/peers-<machine>.jsonl

Results are compared before anything is timed. Where softness means the same on both sides they must agree; where it
does not, both must be near the hard operator's. A peer whose results are not equal in that sense is shown as refused,
and is not timed; one that does not install is shown with the reason.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import runner  # noqa: E402  (the folder above)
import tables  # noqa: E402
from comparisons import COMPARISONS, Comparison  # noqa: E402
from environments import interpreter  # noqa: E402

ROUNDS = 7
PATIENCE = 120.0
"""Seconds of timing after which a comparison starts no further round."""


class Worker:
    """A process that has compiled one comparison's side and waits to be timed."""

    def __init__(self, side: str, case: Comparison, python: str | Path, path: str = ""):
        self.side = side
        self.process = subprocess.Popen(
            [str(python), "-W", "ignore", str(HERE / "side.py"), side, str(COMPARISONS.index(case))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=HERE,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        )
        self.report = json.loads(self._line())
        self.values = np.array(self.report.pop("values"))

    def _line(self) -> str:
        assert self.process.stdout is not None and self.process.stderr is not None
        while line := self.process.stdout.readline():
            if line.startswith(("{", *"0123456789")):  # a library may print too
                return line
        said = self.process.stderr.read().strip().splitlines() or ["nothing"]
        errors = [line for line in said if "Error: " in line] or said
        raise RuntimeError(f"{self.side} ended without a result: {errors[-1]}")

    def seconds(self, which: str) -> float:
        """One call's time."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{which}\n")
        self.process.stdin.flush()
        return float(self._line())


def refusal(case: Comparison, meaning: str, ours: np.ndarray, theirs: np.ndarray, hard: np.ndarray) -> str | None:
    """Why the two may not be timed against each other, or None if their results are equal in the case's sense."""
    if ours.shape != theirs.shape:
        return f"{theirs.size} results against {ours.size}"
    pairs = {"limit": ((theirs, hard), (ours, hard)), "hard": ((theirs, hard),)}.get(meaning, ((theirs, ours),))
    apart = max(float(np.max(np.abs(a - b))) for a, b in pairs)
    if apart <= case.agrees:  # not so for a NaN
        return None
    return f"{'results differ from the hard ones' if meaning in ('limit', 'hard') else 'results differ'} by {apart:.1e}"


def timed(workers: Sequence[Worker]) -> dict[str, dict[str, list[float]]]:
    """Seconds of each side's passes, sides in turns."""
    turns = [(worker, which) for which in ("forward", "gradient") for worker in workers]
    found = {worker.side: {which: [] for which in worker.report["passes"]} for worker in workers}
    total = 0.0
    for round_ in range(ROUNDS):
        if round_ >= 3 and total > PATIENCE:
            break
        for worker, which in turns:
            if which in found[worker.side]:
                found[worker.side][which].append(worker.seconds(which))
                total += found[worker.side][which][-1]
    return found


def compare(case: Comparison, _: float) -> Iterator[dict]:
    """One comparison: its times, and why a peer has none."""
    workers = [Worker(side, case, sys.executable, str(HERE.parent.parent)) for side in ("softjax", "hard")]
    ours, hard = workers
    refused, differences, absent = {}, {}, {}
    try:
        for peer, meaning in case.peers.items():
            python, problem = interpreter(peer)
            if problem:
                absent[peer] = problem
                continue
            try:
                worker = Worker(peer, case, python)
            except RuntimeError as error:
                refused[peer] = str(error)
                continue
            workers.append(worker)
            if reason := refusal(case, meaning, ours.values, worker.values, hard.values):
                refused[peer] = reason
                workers.pop().process.communicate()
            else:
                against = hard if meaning == "hard" else ours
                differences[peer] = float(np.max(np.abs(worker.values - against.values)))
        seconds = timed(workers) if differences else {}
    finally:
        for worker in workers:
            worker.process.communicate()
    yield {
        **{"case": case.name, **asdict(case), "seconds": seconds},
        **{"differences": differences, "refused": refused, "absent": absent},
        "sides": {worker.side: worker.report for worker in workers},
    }


if __name__ == "__main__":
    named = {f"{case.name} {' '.join(case.peers)}": case for case in COMPARISONS}
    runner.run(runner.Measurement(named, compare, tables.PEERS, "peers-"), runner.parser(__doc__).parse_args())
