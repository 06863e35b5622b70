"""Strict promotion for every test, and the profile of the property tests."""

import os
import re

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


# Laws, transforms and derivatives compile many small programs once: for them XLA's optimisation costs more than it
# saves. Values, drop-in equality and regressions run what users run; a second run of the suite, on another version of
# JAX, says SUITE=quick and leaves that to the first.
UNOPTIMISED = {
    "test_laws",
    "test_transforms",
    "test_gradients",
    "test_straight_through",
    "test_mask",
    "test_permutation",
    "test_parity",
}
if os.environ.get("SUITE") == "quick":
    UNOPTIMISED |= {"test_values", "test_selection", "test_window"}


def pytest_collection_modifyitems(config, items):
    """SUITE=quick keeps one sparse mode, c1, of what is parametrised by mode, and skips what is marked `full`."""
    if os.environ.get("SUITE") != "quick":
        return

    def spared(item):
        values = getattr(item, "callspec", None)
        mode = None if values is None else getattr(values.params.get("case"), "mode", values.params.get("mode"))
        return item.get_closest_marker("full") is not None or mode in ("c0", "c2")

    config.hook.pytest_deselected(items=[item for item in items if spared(item)])
    items[:] = [item for item in items if not spared(item)]


@pytest.fixture(autouse=True, scope="module")
def optimisation(request):
    """Switches XLA's expensive passes off for the modules above."""
    jax.config.update("jax_disable_most_optimizations", request.module.__name__ in UNOPTIMISED)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # thousands of live programs exhaust a process's memory maps


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests that share a compilation (one module's tests of one mode and method) go to one worker."""
    from xdist.scheduler import LoadScopeScheduling

    class ByCompilation(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            module, _, name = nodeid.partition("::")
            combination = re.search(r"\b(hard|smooth|c0|c1|c2)-(softsort|neuralsort|ot)\b", name)
            shared = combination and module.endswith(("test_laws.py", "test_transforms.py"))
            return f"{module}::{combination[0]}" if shared else nodeid

    return ByCompilation(config, log)
