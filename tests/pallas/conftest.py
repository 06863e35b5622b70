"""Interpreted kernels: compiled without XLA's expensive passes, and not at all where JAX is too old."""

import sys
from pathlib import Path

import jax
import pytest

from softjax_pallas._kernel import OLDEST_JAX, jax_version

sys.path.insert(0, str(Path(__file__).parents[1]))  # oracle.py and cases.py, also when this folder runs alone


def pytest_collection_modifyitems(items):
    if jax_version() < OLDEST_JAX:
        skip = pytest.mark.skip(reason=f"kernels need JAX >= 0.11, this is {jax.__version__}")
        for item in items:
            if Path(item.fspath).parent == Path(__file__).parent:
                item.add_marker(skip)


@pytest.fixture(autouse=True, scope="module")
def unoptimised():
    """Each case compiles a program of its own and runs it once. A GPU or TPU compiles what users run."""
    jax.config.update("jax_disable_most_optimizations", jax.default_backend() == "cpu")
    yield
    jax.config.update("jax_disable_most_optimizations", False)
