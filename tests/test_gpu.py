"""What `make gpu` runs besides the tests: its check, and the table of kernels, by the interpreter."""

import importlib.util
import math

import gpu
import gpu_check
import jax
import pytest
import report
from sweeps import Call

from softjax_pallas._kernel import OLDEST_JAX, jax_version

TOLD = "make gpu needs a GPU: JAX's first device here is 'cpu' (cpu)."


def test_without_a_gpu_nothing_runs(capsys):
    """One line, and exit status 1."""
    assert gpu_check.main() == 1 and gpu.main([]) == 1
    assert capsys.readouterr().out.splitlines() == [TOLD, TOLD]


def test_what_is_not_installed_is_named(monkeypatch):
    """All of it, in one line."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("hypothesis", "scipy") else name)
    assert gpu_check.missing().startswith("make gpu needs hypothesis, scipy for ")


@pytest.mark.skipif(jax_version() < OLDEST_JAX, reason=f"kernels need JAX >= 0.11, this is {jax.__version__}")
def test_a_case_is_measured_and_shown(monkeypatch):
    """Four candidates, forward and with the gradient; a kernel that disagrees is told, not hidden."""
    call = Call("argsort", "softsort", 1, 20)
    record = gpu.measure(call, "pallas_interpret", 0.0)
    assert not record["refused"]
    assert all(set(times) == set(gpu.NAMES) for times in record["seconds"].values())
    shown = gpu.lines(record)
    assert [line.split()[-7] for line in shown] == ["forward", "gradient"]
    assert all(math.isfinite(float(cell)) for line in shown for cell in line.split()[-6:])
    context = {"device": "a GPU", "machine": "a-gpu", "jax": "1", "commit": "0", "date": "today"}
    text = report.kernels([record | context])
    assert "| softsort smooth argsort 1 x 20 | forward | pallas_interpret |" in text
    monkeypatch.setattr(Call, "disagreement", lambda self, mine, plain: "results differ")
    refused = gpu.measure(call, "pallas_interpret", 0.0)
    assert refused["refused"] == {"kernel parity": "results differ"}
    assert gpu.lines(refused)[-1] == "    kernel parity: results differ"
    assert "- softsort smooth argsort 1 x 20, kernel parity: results differ" in report.kernels([refused | context])


def test_sizes_of_a_dry_run_are_small_and_those_of_a_gpu_are_named():
    """(4096 x 1024, k = 32), (256 x 16384, k = 32), rows of 64 x 2048 x 2048, and a sort."""
    assert all(call.batch * call.n <= 400 for call in gpu.cases(True))
    assert [(c.batch, c.n, c.k) for c in gpu.cases(False)] == [
        (4096, 1024, 32),
        (256, 16384, 32),
        *[(64, 2048, 0)] * 3,
    ]
