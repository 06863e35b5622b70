"""The demo runs, in a few steps, and reports what it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_demo_runs(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    picture = tmp_path / "digits_knn.png"
    command = [sys.executable, "-W", "error", "examples/digits_knn.py", "--steps", "3", "--out", str(picture)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert re.search(r"after training +\d+\.\d% +\d+\.\d% ", result.stdout)
    soft, hard = re.search(r"gradient norm at start +(\S+) +(\S+)", result.stdout).groups()
    assert float(soft) > 0
    assert hard == "0"
    assert "implementation: " in result.stdout
    assert picture.stat().st_size > 50_000
