"""The kernels' tests share the suite's cases and oracle, and interpret programs that each run once."""

import sys
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


@pytest.fixture(autouse=True, scope="module")
def optimisation():
    """An interpreted kernel is a large program for a small array: XLA's expensive passes cost more than they save."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
