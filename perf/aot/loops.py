"""What one turn of every innermost loop of a kernel takes: `python perf/aot/loops.py TARGET [PATTERN]`.

On H200 instructions of a thread in the machine code of a Mosaic GPU kernel, on a TPU bundles of the final schedule;
loops in program order, and how many there are in all. docs/kernels.md counts operations by it. Needs what `compile.py`
does, and on a GPU nvdisasm, which Triton brings.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import bundles
import targets

_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?(\w[\w.]*)([^;]*);", re.MULTILINE)
"""A line of nvdisasm: its address, operation and operands."""
_LABEL = re.compile(r"^(\.L_x_\d+):", re.MULTILINE)


def innermost(spans: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """The loops, from first to last place, that hold no other."""
    holds = lambda a, b: a != b and a[0] <= b[0] and b[1] <= a[1]
    return sorted(a for a in spans if not any(holds(a, b) for b in spans))


def of_machine_code(text: str) -> tuple[int, list[int]]:
    """Instructions in nvdisasm's text, and those of the innermost loops; a loop is what a branch backwards spans."""
    places: dict[str, int] = {}
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if label := _LABEL.match(line):
            places[label[1]] = len(found)
        elif instruction := _INSTRUCTION.match(line):
            found.append((instruction[2], instruction[3]))
    spans: dict[int, int] = {}
    for place, (operation, operands) in enumerate(found):
        target = re.search(r"\.L_x_\d+", operands)
        if operation.startswith("BRA") and target and places[target[0]] < place:  # not a branch to itself, which ends
            spans[places[target[0]]] = place  # the last of several
    return len(found), [last - first + 1 for first, last in innermost(set(spans.items()))]


def machine_code(ptx: str) -> str:
    """nvdisasm's text of a kernel, with labels."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernel.ptx").write_text(ptx, encoding="utf-8")
        architecture = targets.ARCHITECTURE["h200"]
        command = ["ptxas", f"-arch={architecture}", "kernel.ptx", "-o", "kernel.cubin"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        shown = subprocess.run([tool, "-c", "kernel.cubin"], cwd=folder, check=True, capture_output=True, text=True)
    return shown.stdout


def on_gpu(report: str) -> Iterator[tuple[str, int, list[int]]]:
    """The kernels whose PTX Mosaic GPU has written into a report."""
    for ptx in re.findall(r"^\.version.*?^}$", report, re.MULTILINE | re.DOTALL):
        name = re.search(r"\.entry (\w+)\(", ptx)
        if name:
            yield name[1], *of_machine_code(machine_code(ptx))


def main(target: str, pattern: str = "") -> None:
    os.environ["MOSAIC_GPU_DUMP_PTX"] = "1"
    import compile  # it prepares the environment, and imports JAX

    (implementation,) = targets.IMPLEMENTATIONS[target]
    mesh, gpu = targets.mesh(target), target in targets.ARCHITECTURE
    with compile.tuning.override(compile.table_of(target)):
        for listed in compile.LISTS:
            for name, function, shapes in listed(implementation):
                if not re.search(pattern, name):
                    continue
                print(name)
                lowered = targets.lower_for(mesh, function, shapes)
                _, report = compile.captured(targets.compile, mesh, lowered, {})
                for kernel, total, loops in on_gpu(report) if gpu else bundles.loops(compile.SCHEDULES):
                    print(f"  {kernel}: {' + '.join(map(str, loops)) or 'no loop'}, {total} in all", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
