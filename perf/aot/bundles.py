"""What libtpu's final schedule says of each kernel: bundles in all and in the innermost loops, spilled registers.

`options(folder)` goes into LIBTPU_INIT_ARGS before JAX is imported, `read(folder)` or `loops(folder)` afterwards. A
bundle is what a TPU core issues in one cycle at best, so an innermost loop's are the cycles that one turn of it takes.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

_BUNDLE = re.compile(r"^ *(?:0x)?[0-9a-f]+ +([A-Z]+)? *: *(>*) *\{", re.MULTILINE)
"""A line of a schedule: its place, LB where a loop's body begins, and a mark for each loop that it is in."""
_FILE = re.compile(r"(.*)-\d+-((?:schedule-analysis_)?final_[\w-]+)\.txt$")
"""What libtpu calls its files: when, of what, which pass."""
_KERNEL = 'custom_call_target="tpu_custom_call"'
_SPILLS = ("VLOAD:FILL", "VSTORE:SPILL")


def options(folder: str) -> str:
    """Arguments for libtpu: write the last passes' text, and no other's, to a folder."""
    return f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final.*"


def in_loops(schedule: str) -> tuple[int, list[int]]:
    """Bundles of a schedule, and those of each innermost loop."""
    bundles = [(label, len(depth)) for label, depth in _BUNDLE.findall(schedule)]
    begins = [place for place, (label, _) in enumerate(bundles) if label == "LB"]
    inner = []
    for begin, following in pairwise([*begins, len(bundles)]):
        depth = bundles[begin][1]
        if following < len(bundles) and bundles[following][1] > depth:
            continue  # holds another loop
        # Bundles of the loops around it, which the scheduler leaves between its own, have fewer marks.
        inner.append(sum(marks >= depth for _, marks in bundles[begin:following]))
    return len(bundles), inner


def spilled(utilization: str) -> int:
    """Stores and loads of spilled vector registers, by the table of each bundle's use of units."""
    header, _, table = utilization.partition("== UTILIZATION:")
    units = next(line for line in header.splitlines() if "VALU" in line).replace(" ", "").split(",")
    columns = [units.index(unit) for unit in _SPILLS]
    return sum(int(row.split()[column]) for row in table.strip().splitlines() for column in columns)


def _kernels(folder: Path) -> Iterator[tuple[str, dict[str, Path]]]:
    """Name and passes of every kernel that was compiled into a folder; the folder is emptied."""
    named: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.iterdir()):
        if match := _FILE.match(path.name):
            named[match[1]][match[2]] = path
    for name, passes in named.items():
        # Not the program around the kernels, nor a fusion of XLA's own.
        if not name.endswith("-TLP") and _KERNEL in passes["schedule-analysis_final_bundles"].read_text("utf-8"):
            yield name, passes
    for path in folder.iterdir():
        path.unlink()


def read(folder: Path) -> list[dict[str, int]]:
    """The figures of every kernel that was compiled into a folder, the longest first; the folder is emptied."""
    found = []
    for _, passes in _kernels(folder):
        total, inner = in_loops(passes["final_bundles"].read_text("utf-8"))
        spills = spilled(passes["final_hlo-static-per-bundle-utilization"].read_text("utf-8"))
        found.append({"inner bundles": sum(inner), "bundles": total, "vector spills": spills})
    return sorted(found, key=lambda figures: tuple(figures.values()), reverse=True)


def loops(folder: Path) -> Iterator[tuple[str, int, list[int]]]:
    """Each kernel of a folder by name, its bundles, and those of each innermost loop; the folder is emptied."""
    for name, passes in _kernels(folder):
        known = re.search(r"softjax(_[a-z]+)+", name)
        yield known[0] if known else name, *in_loops(passes["final_bundles"].read_text("utf-8"))
