"""Result files: one JSON object a line, each with the machine, versions, commit and date that it came from."""

import datetime
import functools
import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jax
import jaxlib

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "perf" / "results"


def machine() -> str:
    """A short name of the kind of machine: its accelerator, or the number of its cores."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"cpu-{os.cpu_count()}-cores"
    return re.sub(r"[^a-z0-9]+", "-", device.device_kind.lower()).strip("-")


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()


@functools.cache
def context() -> dict[str, Any]:
    """Where, when and of what a measurement was taken; PERF_COMMIT says what a copy of the tree is of."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    commit = os.environ.get("PERF_COMMIT", "")
    if not commit and shutil.which("git"):
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    device = jax.devices()[0]
    return {
        "machine": machine(),
        "device": _processor() if device.platform == "cpu" else device.device_kind,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "python": platform.python_version(),
        "commit": commit,
        "date": datetime.date.today().isoformat(),
    }


def read(path: Path) -> list[dict]:
    """The records of a file, in order."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def save(path: Path, record: dict) -> None:
    """Put a record with its context into a file, in the place of an earlier one of the same case."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rounded = lambda text: float(f"{float(text):.5g}")  # what a clock says is no better
    new = json.loads(json.dumps(record | context()), parse_float=rounded)
    records = [*(read(path) if path.exists() else ()), new]
    key = lambda r: (r["case"], str(r["shape"]), r.get("softness"), r.get("along"))
    lines = {key(r): json.dumps(r) for r in records}
    path.write_text("\n".join(lines.values()) + "\n", encoding="utf-8")
