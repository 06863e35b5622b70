"""The peers' environments: made once under .venv-peers, one for each set of packages that get along.

PEERS_PYTHON names the interpreter to build them with (default: the running one), PEERS_TORCH what to install as torch
(default: the newest; `torch==2.13.0+cpu` and the like where the index has it spare gigabytes of CUDA).
"""

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax

FOLDER = Path(__file__).resolve().parent.parent.parent / ".venv-peers"
PATIENCE = 1_200
"""Seconds that an installation may take."""


class Peer(NamedTuple):
    """The environment that a library shares, and what is installed there for it."""

    environment: str
    requirements: tuple[str, ...]
    options: tuple[str, ...] = ()


_JAX = f"jax=={jax.__version__}"
_TORCH = (os.environ.get("PEERS_TORCH", "torch"), "numpy", "setuptools", "wheel")

PEERS = {
    "release": Peer("release", ("softjax==0.1.1", _JAX)),
    "lapsum": Peer("release", (_JAX,)),  # this repository's reading of it
    "ott": Peer("ott", ("ott-jax>=0.5", _JAX)),
    "pot": Peer("pot", ("POT>=0.9.5",)),
    "numpy": Peer("pot", ("numpy",)),
    "torch": Peer("torch", _TORCH),
    # It compiles against the torch that is installed.
    "torchsort": Peer("torch", (*_TORCH, "torchsort"), ("--no-build-isolation",)),
    "diffsort": Peer("torch", (*_TORCH, "diffsort")),
    "difftopk": Peer("torch", (*_TORCH, "difftopk")),
}


def _run(*command: str) -> str | None:
    """None, or what the command said last."""
    # Where torchsort's build finds a CUDA compiler it asks for the rest of CUDA too; all that runs here is on the CPU.
    environment = os.environ | {"PATH": "/usr/bin:/bin"}
    how = {"capture_output": True, "text": True, "timeout": PATIENCE, "stdin": subprocess.DEVNULL, "env": environment}
    try:
        done = subprocess.run(command, **how)
    except subprocess.TimeoutExpired:
        return f"not done after {PATIENCE} s"
    said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    # pip's own summary says less than the error of the build that it ran.
    return next((line for line in said if "Error: " in line), said[-1]) if done.returncode else None


@functools.cache
def interpreter(name: str) -> tuple[Path, str | None]:
    """The interpreter of a peer's environment, which is made if need be, and why there is none."""
    peer = PEERS[name]
    folder, wanted = FOLDER / peer.environment, " ".join(peer.requirements)
    python, stamp = folder / "bin" / "python", folder / f".ready-{name}"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python, None
    print(f"Installing {name} into {FOLDER.name}/{peer.environment}; this is done once.", file=sys.stderr, flush=True)
    base = os.environ.get("PEERS_PYTHON", getattr(sys, "_base_executable", sys.executable))
    pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input")
    steps = [] if python.exists() else [(base, "-I", "-m", "venv", str(folder))]
    steps += [(*pip, *peer.requirements[:-1])] if peer.options else []  # first what the peer needs in order to be built
    for step in (*steps, (*pip, *peer.options, *peer.requirements)):
        if problem := _run(*step):
            return python, problem
    stamp.write_text(wanted, encoding="utf-8")
    return python, None
