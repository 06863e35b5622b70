"""Compile every kernel for one target: `python perf/aot/compile.py TARGET IMPLEMENTATION [PATTERN [FINGERPRINTS]]`; a
JSON line each.

FINGERPRINTS is a file that says which programs are known to these compilers: most of those are not compiled.

Needs the vendor's compiler beside JAX: jax-cuda13-plugin, jax-cuda13-pjrt and a CUDA toolkit's ptxas for GPUs,
libtpu for TPUs. `table.py` runs all targets and judges the rows.
"""

import atexit
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import buffers
import bundles
import fingerprint
import targets

DUMP = Path(tempfile.mkdtemp(prefix="softjax-aot-"))
"""Where libtpu writes its schedules, and XLA what it assigns to buffers."""
SCHEDULES, BUFFERS = DUMP / "schedules", DUMP / "buffers"
SCHEDULES.mkdir()
atexit.register(shutil.rmtree, DUMP, ignore_errors=True)
targets.prepare()
os.environ["LIBTPU_INIT_ARGS"] = bundles.options(str(SCHEDULES))
import jax  # noqa: E402  (its backends read the environment that `prepare` sets)

jax.config.update("jax_traceback_in_locations_limit", 0)  # or a fingerprint depends on the lines of the source
from kernels import LISTS  # noqa: E402

from softjax_pallas import tuning  # noqa: E402

Seen = dict[tuple[str, ...], tuple[list[int], int]]
"""Registers and spills of what a process has compiled: it compiles a Mosaic GPU kernel once, and half precision is
float32's after a conversion in XLA."""


def captured(function: Callable, *arguments) -> tuple[object, str]:
    """The result of a call, and what it wrote to stdout and stderr from outside Python: ptxas' report."""
    with tempfile.TemporaryFile("w+") as file:
        sys.stdout.flush()
        saved = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        try:
            result = function(*arguments)
        finally:
            sys.stdout.flush()
            os.dup2(saved[0], 1), os.dup2(saved[1], 2)
        file.seek(0)
        return result, file.read()


def usage(report: str) -> tuple[list[int], int]:
    """Registers of every kernel in a ptxas report, and the bytes that all of them spill."""
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", report)]
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads\n", report)
    return registers, sum(int(a) + int(b) for a, b in set(spills))


def hashes(text: str) -> tuple[str, ...]:
    """What the Mosaic GPU kernels in a lowered text are known by."""
    return tuple(sorted(re.findall(r'kernel_hash = "((?:[^"\\]|\\.)*)"', text)))


def largest_matrix(shapes: object) -> int:
    """Bytes of the largest argument with two axes: the keys (batch, n)."""
    return max(a.size * a.dtype.itemsize for a in jax.tree.leaves(shapes) if a.ndim == 2)


def table_of(target: str) -> tuning.Table:
    """What was measured on the target's device kind, if anything."""
    path = tuning.file_of(targets.KINDS.get(target, ""))
    return tuning.load(path) if path.exists() else tuning.Table()


@dataclass(eq=False)
class Program:
    """What is compiled: `row` is what is said of it."""

    row: dict
    shapes: object
    lowered: jax.stages.Lowered | None
    kernels: tuple[str, ...]
    """Of Mosaic GPU, of whose kernels a process compiles each once; no other's are shared."""


def programs(target: str, implementation: str, pattern: str) -> Iterator[Program]:
    """Those with the tiles of the target's device kind, then of those with the default's what differs."""
    tuned = table_of(target)
    default = tuning.load(tuning.FOLDER / "default.json").tiles.get(implementation, {})
    own = {family for family, tile in tuned.tiles.get(implementation, {}).items() if tile != default.get(family)}
    with tuning.override(tuned):
        first = list(lowered(target, implementation, pattern, LISTS))
    yield from first
    seen = {program.kernels for program in first if program.kernels}
    with tuning.override(tuning.Table()):  # which other kinds of its architecture have
        again = [listed for listed, families in LISTS.items() if own & set(families)]
        for program in lowered(target, implementation, pattern, again):
            if program.kernels not in seen:
                program.row["kernel"] += " with default tiles"
                yield program


def lowered(target: str, implementation: str, pattern: str, lists: Iterable) -> Iterator[Program]:
    """With the tiles in force; a program that cannot be lowered says so in its row."""
    mesh = targets.mesh(target)
    for listed in lists:
        for name, function, shapes in listed(implementation):
            if not re.search(pattern, name):
                continue
            row = {"target": target, "implementation": implementation, "kernel": name}
            row["compiler"] = targets.compiler(target)
            try:
                made = targets.lower_for(mesh, function, shapes)
                row["fingerprint"] = fingerprint.of(made, target)
                names = hashes(made.as_text()) if implementation == "pallas_mosaic_gpu" else ()
                yield Program(row, shapes, made, names)
            except Exception as error:  # the table shows it and fails
                row["error"] = said(error)
                yield Program(row, shapes, None, ())


def said(error: Exception) -> str:
    """For the table."""
    return f"{type(error).__name__}: {str(error)[:400]}"


def compile_one(program: Program, seen: Seen) -> None:
    """Compile it, and say in its row what the compilers report."""
    assert program.lowered is not None
    row, names = program.row, program.kernels
    target, mesh = row["target"], targets.mesh(row["target"])
    on_gpu = target in targets.ARCHITECTURE
    options = {} if on_gpu else buffers.options(BUFFERS)
    compiled, report = captured(targets.compile, mesh, program.lowered, options)
    memory = compiled.memory_analysis()
    row["temp"] = memory.temp_size_in_bytes if on_gpu else buffers.read(BUFFERS)
    row |= {"result": memory.output_size_in_bytes, "keys": largest_matrix(program.shapes)}
    if on_gpu:
        found = usage(report)
        if names:
            found = seen.setdefault(names, found) if found[0] or names in seen else found
        row["registers"], row["spills"] = found
    else:
        row["schedules"] = bundles.read(SCHEDULES)


def main(target: str, implementation: str, pattern: str = "", fingerprints: str = "") -> None:
    """Print a row for each program."""
    found: Iterable[Program] = programs(target, implementation, pattern)
    if fingerprints:
        found = list(found)
        record = json.loads(Path(fingerprints).read_text("utf-8"))
        for place in fingerprint.known(
            [program.row for program in found], [program.kernels for program in found], record
        ):
            found[place].row["known"] = True
    seen: Seen = {}
    for program in found:
        start = time.time()
        if not program.row.keys() & {"known", "error"}:
            try:
                compile_one(program, seen)
            except Exception as error:  # the table shows it and fails
                program.row["error"] = said(error)
        print(json.dumps(program.row | {"seconds": round(time.time() - start, 1)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
