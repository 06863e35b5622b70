"""The peers' environments: made once under .venv-peers, one for each set of packages that get along.

PEERS_PYTHON names the interpreter to build them with (default: the running one), PEERS_TORCH what to install as torch
(default: the newest; `torch==2.13.0+cpu` and the like where the index has it spare gigabytes of CUDA).
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / ".venv-peers"
PATIENCE = 1_200
"""Seconds that an installation may take."""


@dataclass(frozen=True)
class Peer:
    """A library to compare with: what it is, the environment that it shares, and what is installed there for it."""

    what: str
    environment: str
    requirements: tuple[str, ...]
    options: tuple[str, ...] = ()


_JAX = f"jax=={jax.__version__}"
_TORCH = (os.environ.get("PEERS_TORCH", "torch"), "numpy", "setuptools", "wheel")

PEERS = {
    "release": Peer("the released softjax", "release", ("softjax==0.1.1", _JAX)),
    "ott": Peer("ott-jax, tools.soft_sort", "ott", ("ott-jax>=0.5", _JAX)),
    "pot": Peer("POT, ot.sinkhorn", "pot", ("POT>=0.9.5",)),
    # It compiles against the torch that is installed.
    "torchsort": Peer("torchsort, soft_sort", "torch", (*_TORCH, "torchsort"), ("--no-build-isolation",)),
    "diffsort": Peer("diffsort, DiffSortNet", "torch", (*_TORCH, "diffsort")),
    "difftopk": Peer("difftopk, DiffTopkNet", "torch", (*_TORCH, "difftopk")),
}


class NotInstalled(Exception):
    """Why a peer is not here."""


def _run(*command: str) -> str | None:
    """None, or what the command said last."""
    # Where torchsort's build finds a CUDA compiler it asks for the rest of CUDA too; all that runs here is on the CPU.
    environment = os.environ | {"PATH": "/usr/bin:/bin"}
    how = {"capture_output": True, "text": True, "timeout": PATIENCE, "stdin": subprocess.DEVNULL, "env": environment}
    try:
        done = subprocess.run(command, **how)
    except subprocess.TimeoutExpired:
        return f"not done after {PATIENCE} s"
    if done.returncode == 0:
        return None
    said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    # pip's own summary says less than the error of the build that it ran.
    errors = [line for line in said if "Error: " in line] or said
    return errors[0] if "Error: " in errors[0] else errors[-1]


def interpreter(name: str) -> Path:
    """The interpreter of a peer's environment, which is made if need be. Raises `NotInstalled`."""
    peer = PEERS[name]
    folder = FOLDER / peer.environment
    python = folder / "bin" / "python"
    stamp = folder / f".ready-{name}"
    wanted = " ".join(peer.requirements)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    if not python.exists():
        base = os.environ.get("PEERS_PYTHON", getattr(sys, "_base_executable", sys.executable))
        if problem := _run(base, "-I", "-m", "venv", str(folder)):
            raise NotInstalled(problem)
    print(f"Installing {name} into {folder.relative_to(ROOT)}; this is done once.", file=sys.stderr, flush=True)
    pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input")
    # First what the peer needs in order to be built.
    for requirements in (peer.requirements[:-1] if peer.options else (), peer.requirements):
        if requirements and (problem := _run(*pip, *(peer.options if requirements[-1] == name else ()), *requirements)):
            raise NotInstalled(problem)
    stamp.write_text(wanted, encoding="utf-8")
    return python
