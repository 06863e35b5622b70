"""This package, the other libraries and JAX's hard operators, each in its own environment, in turns on the same data.

    python perf/peers/compare.py                 every comparison (perf/peers/comparisons.py)
    python perf/peers/compare.py ott pot         those with these peers
    python perf/peers/compare.py --json FILE     append one line for each comparison
    python perf/peers/compare.py --save          write them to perf/results/peers-<machine>.jsonl

Results are compared before anything is timed. Where softness means the same on both sides they must agree; where it
does not, both must be near the hard operator's. A peer whose results are not equal in that sense is shown as refused,
and is not timed; one that does not install is shown with the reason.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from comparisons import COMPARISONS, Comparison
from environments import PEERS, NotInstalled, interpreter
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))

from record import append, destination  # noqa: E402  (the folder above)
from timing import ratios, spread  # noqa: E402

ROUNDS = 7
PATIENCE = 120.0
"""Seconds of timing after which a comparison starts no further round."""


class Worker:
    """A process that has compiled one comparison's side and waits to be timed."""

    def __init__(self, side: str, number: int, python: str | Path, path: str = ""):
        self.side = side
        self.process = subprocess.Popen(
            [str(python), "-W", "ignore", str(HERE / "worker.py"), side, str(number)],
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
            if line.startswith(("{", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9")):  # a library may print too
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

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def refusal(case: Comparison, meaning: str, ours: np.ndarray, theirs: np.ndarray, hard: np.ndarray) -> str | None:
    """Why the two may not be timed against each other, or None if their results are equal in the case's sense."""
    if ours.shape != theirs.shape:
        return f"{theirs.size} results against {ours.size}"
    pairs = ((theirs, hard), (ours, hard)) if meaning == "limit" else ((theirs, ours),)
    apart = max(float(np.max(np.abs(a - b))) for a, b in pairs)
    if apart <= case.agrees:  # not so for a NaN
        return None
    return f"{'results differ from the hard ones' if meaning == 'limit' else 'results differ'} by {apart:.1e}"


def timed(workers: Sequence[Worker]) -> dict[str, dict[str, list[float]]]:
    """Seconds of each side's passes, sides in turns."""
    turns = [(worker, which) for which in ("forward", "gradient") for worker in workers]
    turns = [(worker, which) for worker, which in turns if which in worker.report["passes"]]
    found: dict[str, dict[str, list[float]]] = {worker.side: {} for worker in workers}
    total = 0.0
    for round_ in range(ROUNDS):
        if round_ >= 3 and total > PATIENCE:
            break
        for worker, which in turns:
            seconds = worker.seconds(which)
            found[worker.side].setdefault(which, []).append(seconds)
            total += seconds
    return found


def compare(number: int, pythons: dict[str, Path], absent: dict[str, str]) -> dict:
    """One comparison: its times, and why a peer has none."""
    case = COMPARISONS[number]
    workers = [Worker(side, number, sys.executable, str(ROOT)) for side in ("softjax", "hard")]
    ours, hard = workers
    refused, differences = {}, {}
    try:
        for peer, meaning in case.peers.items():
            if peer in absent:
                continue
            try:
                worker = Worker(peer, number, pythons[peer])
            except RuntimeError as error:
                refused[peer] = str(error)
                continue
            reason = refusal(case, meaning, ours.values, worker.values, hard.values)
            if reason:
                refused[peer] = reason
                worker.close()
            else:
                differences[peer] = float(np.max(np.abs(worker.values - ours.values)))
                workers.append(worker)
        seconds = timed(workers) if differences else {}
    finally:
        for worker in workers:
            worker.close()
    return {
        "case": case.name,
        "operator": case.operator,
        "method": case.method,
        "shape": list(case.shape),
        "softness": case.softness,
        "meaning": case.peers,
        "agrees": case.agrees,
        "seconds": seconds,
        "differences": differences,
        "refused": refused,
        "absent": {peer: reason for peer, reason in absent.items() if peer in case.peers},
        "sides": {worker.side: worker.report for worker in workers},
    }


def lines(record: dict) -> list[str]:
    """A comparison as lines under the header: one for each peer."""
    found = []
    for peer in record["meaning"]:
        told = record["absent"].get(peer) or record["refused"].get(peer)
        if told:
            state = "not installed" if peer in record["absent"] else "REFUSED"
            found.append(f"{record['case']:48}{peer:11}{state}: {told}")
            continue
        for which, theirs in record["seconds"][peer].items():
            ours, hard = record["seconds"]["softjax"][which], record["seconds"]["hard"]["forward"]
            ratio = ratios(theirs, ours)
            found.append(
                f"{record['case']:48}{peer:11}{which:10}{1e3 * median(theirs):11.2f}{1e3 * median(ours):10.2f}"
                f"{median(ratio):9.2f}{spread(ratio):8.0%}{median(ratios(ours, hard)):9.2f}"
                f"   {record['meaning'][peer]}, apart {record['differences'][peer]:.0e}"
            )
    return found


def main(arguments: Sequence[str]) -> None:
    """Build the environments, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", help=f"only comparisons with these: {', '.join(PEERS)}")
    parser.add_argument("--json", help="append the results to this file")
    parser.add_argument("--save", action="store_true", help="write them to perf/results/peers-<machine>.jsonl")
    options = parser.parse_args(arguments)
    wanted = options.peers or list(PEERS)
    chosen = [number for number, case in enumerate(COMPARISONS) if case.peers.keys() & set(wanted)]
    pythons, absent = {}, {}
    for peer in {peer: None for number in chosen for peer in COMPARISONS[number].peers}:
        try:
            pythons[peer] = interpreter(peer)
        except NotInstalled as problem:
            absent[peer] = str(problem)
    path = destination(options.json, options.save, "peers-")
    print(
        f"{'comparison':48}{'peer':11}{'pass':10}{'peer ms':>11}{'ours ms':>10}{'ratio':>9}{'spread':>8}{'x hard':>9}"
    )
    for number in (bar := tqdm(chosen, unit="comparison", leave=False, disable=None)):
        bar.set_postfix_str(COMPARISONS[number].name)
        record = compare(number, pythons, absent)
        bar.write("\n".join(lines(record)))
        sys.stdout.flush()
        if path:
            append(path, record)


if __name__ == "__main__":
    main(sys.argv[1:])
