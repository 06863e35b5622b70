"""Compile every kernel for every target and judge: `python tests/aot/table.py [TARGET...]`.

Each target has a process of its own.

CUDA_PYTHON and TPU_PYTHON name interpreters of environments with the compilers (ci/aot.sh makes them). Fails where a
kernel does not compile, spills a register, or takes more temporary memory than its result and 1 MiB.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import targets

HERE = Path(__file__).parent
SLACK = 2**20
PADDING = dict.fromkeys(targets.TOPOLOGIES, 2048 * 2000)
"""On a TPU XLA gives each index of a gather, and each element of a (batch, n, few) array, a line of 512 bytes; four
such arrays of the list's 2,000 elements may live at once. A stored (2, 1000, 1000) matrix, 8 MB, still shows."""


def problem(row: dict) -> str | None:
    """What is wrong with a compiled kernel."""
    if "error" in row:
        return row["error"]
    if row.get("spills"):
        return f"spills {row['spills']} bytes"
    if "registers" in row and not row["registers"]:
        return "ptxas reported no kernel"
    if row["temp"] > row["result"] + SLACK + PADDING.get(row["target"], 0):
        return f"takes {row['temp']} bytes of temporary memory for a result of {row['result']}"
    return None


def rows(target: str, implementation: str):
    """The kernels of one target; a process that dies is a row too."""
    python = os.environ["TPU_PYTHON" if target in targets.TOPOLOGIES else "CUDA_PYTHON"]
    command = [python, "-W", "ignore", str(HERE / "compile.py"), target, implementation]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    count = 0
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None and run.stderr is not None
        for line in run.stdout:
            if line.startswith("{"):
                count += 1
                yield json.loads(line)
        tail = run.stderr.read()[-400:]
    if run.returncode or not count:
        blame = {"target": target, "implementation": implementation, "kernel": f"after {count}"}
        yield blame | {"error": f"exit status {run.returncode}: {tail}"}


def main(wanted: list[str]) -> int:
    bad = count = 0
    print(f"{'target':5} {'implementation':18} {'kernel':38} {'registers':24} {'spills':>6} {'temp':>9} {'result':>9}")
    for target, implementations in targets.IMPLEMENTATIONS.items():
        if wanted and target not in wanted:
            continue
        for implementation in implementations:
            for row in rows(target, implementation):
                wrong = problem(row)
                count, bad = count + 1, bad + (wrong is not None)
                registers = ",".join(map(str, row.get("registers", [])))
                columns = (row.get(key, "") for key in ("spills", "temp", "result"))
                cells = "{:>6} {:>9} {:>9}".format(*columns)
                verdict = f"  FAILED: {wrong}" if wrong else ""
                print(f"{target:5} {implementation:18} {row['kernel']:38} {registers:24} {cells}{verdict}", flush=True)
    print(f"{count - bad} of {count} compiled within bounds")
    return 1 if bad or not count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
