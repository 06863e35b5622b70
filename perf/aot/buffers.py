"""What XLA's buffer assignment sets aside in a TPU's memory for a program's temporaries.

`memory_analysis()` of libtpu 0.0.50 says something else: nothing for a loop that takes 50 kB, and 1.8 MB where 1.0 MB
are set aside, as if what alignment wastes were counted again.
"""

import re
import shutil
from pathlib import Path

_ALLOCATION = re.compile(r"^allocation \d+: size (\d+)(, color \d+)?.*?\b([\w-]+):$", re.MULTILINE)
"""Bytes, the memory space where it is not the device's memory but VMEM or the like, and what for."""


def options(folder: Path) -> dict[str, str | bool]:
    """Compiler options: write a program's text, with the assignment of its buffers, to a folder."""
    return {"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True}


def temporary(text: str) -> int:
    """Bytes of temporaries by the text of an assignment."""
    found = _ALLOCATION.findall(text)
    assert found, f"no allocations in {text[:200]!r}"
    return sum(int(size) for size, space, what in found if what == "preallocated-temp" and not space)


def read(folder: Path) -> int:
    """Bytes of the one program that was compiled into a folder, which is removed."""
    (path,) = folder.glob("*after_optimizations-buffer-assignment.txt")
    size = temporary(path.read_text(encoding="utf-8"))
    shutil.rmtree(folder)
    return size
