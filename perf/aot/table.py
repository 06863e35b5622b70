"""Compile every kernel for every target and judge: `python perf/aot/table.py [TARGET...]`.

Each target has a process of its own. `--json FILE` gets the rows, one a line, for perf/gate.py. `--known FILE`,
perf/fingerprints-aot.json, leaves out seven in eight of the programs that are, to the last character, what the same
compilers have compiled before; their figures are the baseline's.

CUDA_PYTHON and TPU_PYTHON name interpreters of environments with the compilers (ci/aot.sh makes them). Fails where a
kernel does not compile, spills a register, or takes more temporary memory than its result and 1 MiB (on v5p, of a large
batch, more).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import targets

HERE = Path(__file__).parent
SLACK = 2**20
LARGE = 2**19
"""Bytes of a large batch's keys, 64 rows of 2,048."""
VECTORS = {"v5p": 17}
"""Where the compiler keeps more of a program's vectors in memory, and not in VMEM: so many of the keys' size, where the
batch is large."""


def allowed(row: dict) -> int:
    """Bytes of temporary memory that a program may take."""
    vectors = VECTORS.get(row["target"], 0) if row["keys"] >= LARGE else 0
    return row["result"] + SLACK + vectors * row["keys"]


def problem(row: dict) -> str | None:
    """What is wrong with a compiled kernel."""
    if "error" in row:
        return row["error"]
    if row.get("known"):
        return None
    if row.get("spills"):
        return f"spills {row['spills']} bytes"
    if "registers" in row and not row["registers"]:
        return "ptxas reported no kernel"
    if row["temp"] > allowed(row):
        return f"takes {row['temp']} bytes of temporary memory for a result of {row['result']}"
    return None


def rows(target: str, implementation: str, *options: str):
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
    wrong = problem(row)
    counts = row.get("registers") or [kernel["inner bundles"] for kernel in row.get("schedules", [])]
    columns = (row.get(key, "") for key in ("spills", "temp", "result"))
    cells = "{:>6} {:>9} {:>9}".format(*columns)
    verdict = f"  FAILED: {wrong}" if wrong else ""
    numbers = ",".join(map(str, counts))
    if row.get("known"):
        numbers, cells = "known", ""
    return f"{row['target']:5} {row['implementation']:18} {row['kernel']:38} {numbers:24} {cells}{verdict}".rstrip()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(targets.IMPLEMENTATIONS)}; default: all")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--kernels", default="", help="only those whose name has this pattern")
    parser.add_argument("--known", default="", help="compile what these fingerprints do not know, and a sample")
    options = parser.parse_args(arguments)
    found = []
    columns = "registers or inner bundles"
    print(f"{'target':5} {'implementation':18} {'kernel':38} {columns:24} {'spills':>6} {'temp':>9} {'result':>9}")
    for target, implementations in targets.IMPLEMENTATIONS.items():
        for implementation in implementations if not options.targets or target in options.targets else ():
            for row in rows(target, implementation, options.kernels, options.known):
                if wrong := problem(row):
                    row["error"] = wrong
                found.append(row)
                print(printed(row), flush=True)
    if options.json:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    bad, left = (sum(key in row for row in found) for key in ("error", "known"))
    before = f", {left} of them before and not again" if left else ""
    print(f"{len(found) - bad} of {len(found)} compiled within bounds{before}")
    return 1 if bad or not found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
