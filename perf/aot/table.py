"""Compile every kernel for every target and judge: `python perf/aot/table.py [TARGET...]`, as `make aot` does.

Each target has a process of its own. `--known FILE`, perf/fingerprints-aot.json, leaves out seven in eight of the
programs that are, to the last character, what the same compilers have compiled before. `--update` writes that file and
perf/baseline-aot.json, by which perf/gate.py judges.

CUDA_PYTHON and TPU_PYTHON name interpreters of environments with the compilers (ci/aot.sh makes them). Fails where a
kernel does not compile, spills a register, takes more temporary memory than its result and 1 MiB (on v5p, of a large
batch, more), or does not pass the gate.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import targets

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

import gate  # noqa: E402  (the folder above)

SLACK = 2**20
LARGE = 2**19
"""Bytes of a large batch's keys, 64 rows of 2,048."""
VECTORS = {"v5p": 17}
"""Where the compiler keeps more of a program's vectors in memory, and not in VMEM: so many of the keys' size, where the
batch is large."""


def problem(row: dict) -> str | None:
    """What is wrong with a compiled kernel."""
    if "error" in row or row.get("known"):
        return row.get("error")
    if row.get("spills"):
        return f"spills {row['spills']} bytes"
    if "registers" in row and not row["registers"]:
        return "ptxas reported no kernel"
    vectors = VECTORS.get(row["target"], 0) if row["keys"] >= LARGE else 0
    if row["temp"] > row["result"] + SLACK + vectors * row["keys"]:
        return f"takes {row['temp']} bytes of temporary memory for a result of {row['result']}"
    return None


def rows(target: str, implementation: str, *options: str) -> Iterator[dict]:
    """The kernels of one target; a process that dies is a row too."""
    python = os.environ["TPU_PYTHON" if target in targets.TOPOLOGIES else "CUDA_PYTHON"]
    command = [python, "-W", "ignore", str(HERE / "compile.py"), target, implementation, *options]
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


def printed(row: dict) -> str:
    """A line of the table; a TPU kernel's registers are not counted, but the bundles of its inner loops are."""
    counts = row.get("registers") or [kernel["inner bundles"] for kernel in row.get("schedules", [])]
    numbers = "known" if row.get("known") else ",".join(map(str, counts))
    cells = "{:>6} {:>9} {:>9}".format(*(row.get(key, "") for key in ("spills", "temp", "result")))
    verdict = f"  FAILED: {row['error']}" if "error" in row else ""
    return f"{row['target']:5} {row['implementation']:18} {row['kernel']:38} {numbers:24} {cells}{verdict}".rstrip()


def main(arguments: Sequence[str]) -> int:
    """Compile, print, and judge."""
    parser = gate.parser(__doc__)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(targets.IMPLEMENTATIONS)}; default: all")
    parser.add_argument("--kernels", default="", help="only those whose name has this pattern")
    parser.add_argument("--known", default="", help="compile what these fingerprints do not know, and a sample")
    options = parser.parse_args(arguments)
    found = []
    columns = "registers or inner bundles"
    print(f"{'target':5} {'implementation':18} {'kernel':38} {columns:24} {'spills':>6} {'temp':>9} {'result':>9}")
    for target in options.targets or targets.IMPLEMENTATIONS:
        for implementation in targets.IMPLEMENTATIONS[target]:
            for row in rows(target, implementation, options.kernels, options.known):
                if wrong := problem(row):
                    row["error"] = wrong
                found.append(row)
                print(printed(row), flush=True)
    bad, left = (sum(key in row for row in found) for key in ("error", "known"))
    print(f"{len(found) - bad} of {len(found)} compiled within bounds, {left} of them before and not again")
    asked = lambda name: re.search(options.kernels, name.split(" ", 2)[2]) is not None
    passed = gate.judge_kernels(found, options, asked)
    print(f"The gate of the kernels {'is passed' if passed else 'FAILS'}.")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
