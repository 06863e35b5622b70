"""Strict promotion for every test, and the profile of the property tests."""

import os
import re
import zlib

# Before JAX is imported. Programs here are small and run once: splitting them over threads costs more than it saves.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_parallel_codegen_split_count=1"

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compilation happens inside the first example, so there is no deadline; derandomised, so that a run repeats itself.
hypothesis.settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=15,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("suite")


# The table, laws, dtypes, transforms and derivatives compile many small programs once: there XLA's optimisation costs
# more than it saves. Forms at real sizes, drop-in equality and regressions run what users run.
UNOPTIMISED = {
    "test_dtypes",
    "test_gradients",
    "test_laws",
    "test_mask",
    "test_parity",
    "test_permutation",
    "test_selection",
    "test_straight_through",
    "test_transforms",
    "test_values",
}

# The longest tests that share compilations with no other go first, so that no processor waits for one at the end.
FIRST = {"test_sharding", "test_demo", "test_automatic", "test_tune"}

SUITE = os.environ.get("SUITE", "")
MODES, METHODS = ("smooth", "c0", "c1", "c2", "hard"), ("softsort", "neuralsort", "ot", "lapsum", "fast_soft_sort")
COMBINATION = re.compile(
    rf"\b({'|'.join(MODES)})-({'|'.join(METHODS)})\b|\b({'|'.join(METHODS)})-(?:(?:rows|apply|rank)-)?({'|'.join(MODES)})\b"
)


def group(nodeid):
    """What shares compilations with a test: its module's tests of one mode and method, else the test alone."""
    module, _, name = nodeid.partition("::")
    combination = COMBINATION.search(name)
    return f"{module}::{sorted(filter(None, combination.groups()))}" if combination else nodeid


def sampled(nodeid):
    """A sixteenth of what is not slow: of a module's soft modes every method in one mode, and a quarter of those."""
    module, _, name = nodeid.partition("::")
    place = zlib.crc32(nodeid.encode())
    if combination := COMBINATION.search(name):
        mode, method, *other = combination.groups()
        mode, method = MODES.index(mode or other[1]), METHODS.index(method or other[0])
        if mode < 4:
            return (mode - method - (zlib.crc32(module.encode()) >> 4)) % 4 == 0 and place % 4 == 0
    return place % 16 == 0


def pytest_configure(config):
    """SUITE=all runs what is marked slow, too."""
    if SUITE not in ("", "all", "sample"):
        raise pytest.UsageError(f"SUITE={SUITE} is neither all nor sample")
    if SUITE == "all" and config.option.markexpr == "not slow":
        config.option.markexpr = ""


def pytest_collection_modifyitems(config, items):
    """SUITE=sample keeps the same few tests in every run; long ones go first."""
    items.sort(key=lambda item: item.path.stem not in FIRST)
    if SUITE == "sample":
        config.hook.pytest_deselected(items=[item for item in items if not sampled(item.nodeid)])
        items[:] = [item for item in items if sampled(item.nodeid)]


@pytest.fixture(autouse=True, scope="module")
def optimisation(request):
    """Switches XLA's expensive passes off for the modules above."""
    jax.config.update("jax_disable_most_optimizations", request.module.__name__ in UNOPTIMISED)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # thousands of live programs exhaust a process's memory maps


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests that share compilations go to one worker."""
    from xdist.scheduler import LoadScopeScheduling

    class ByCompilation(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return group(nodeid)

    return ByCompilation(config, log)
