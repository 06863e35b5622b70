"""The kernels on the GPU or TPU of this machine, by the cases that the interpreters pass; `make gpu` runs them.

A class is skipped where its implementation does not run. That these cases can pass at all, the interpreted classes
show, here and in test_pairwise.py and test_transport.py.
"""

import jax
import numpy as np
import pytest
import suite
import test_transport
from kernel_comparison import implementations

from softjax_pallas._kernel import IMPLEMENTATIONS


def needs(implementation):
    """Skip where an implementation does not run, with what there is instead."""
    device = jax.devices()[0]
    reason = f"{implementation} does not run on {device.device_kind!r} ({device.platform})"
    return pytest.mark.skipif(implementation not in implementations(), reason=reason)


def pytest_generate_tests(metafunc):
    """A class's own cases."""
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", metafunc.cls.cases, ids=lambda case: "-".join(map(str, case)))


class Transport:
    """Transport, against the definition in float64."""

    implementation = ""
    cases = [
        # n, k, mode, softness, op, payload's columns
        (1000, 1, "smooth", 0.1, "rows", 1),
        (129, 3, "c1", 0.1, "apply", 1),
        (1001, 7, "c2", 0.3, "apply", 1),
        (1000, 32, "smooth", 0.01, "apply", 1),
        (1024, 32, "c1", 0.1, "rows", 1),
        (129, 17, "c0", 0.1, "rows", 1),
    ]

    def test_against_float64(self, case):
        """Values and gradients."""
        n, k, mode, softness, op, d = case
        y, tau = test_transport.keys(2, n), np.array([softness, 0.5])
        test_transport.compare(self.implementation, y, k, tau, mode, op, d)


class Odd(suite.Pairwise):
    """The suite, and rows of an odd length with a stored cotangent: the lanes' accesses are not aligned there."""

    sizes = (70, 64, 129, 1000, 1001)

    @pytest.mark.parametrize(("method", "op"), suite.FORMS)
    @pytest.mark.parametrize("n", [65, 129, 1001])
    def test_odd_rows(self, method, op, n):
        """Value and gradients."""
        self.check(method, op, "smooth", (2, n))


@pytest.mark.slow
class TestInterpretedTransport(Transport):
    """The same, interpreted, on the least of its cases."""

    implementation = "pallas_interpret"
    cases = [(129, 3, "c1", 0.1, "apply", 1), (129, 17, "c0", 0.1, "rows", 1)]


@pytest.mark.slow
class TestInterpretedPairwise:
    """One case of the class below, interpreted."""

    def test_odd_rows(self):
        """Value and gradients."""

        class Interpreted(Odd):
            implementation = "pallas_interpret"

        Interpreted().check("softsort", "rows", "smooth", (2, 65))


@needs("pallas_mosaic_gpu")
class TestMosaicGPU(Odd):
    """Compute capability 9.0 and newer."""

    implementation = "pallas_mosaic_gpu"


@needs("pallas_mosaic_gpu")
class TestMosaicGPUTransport(Transport):
    """Compute capability 9.0 and newer."""

    implementation = "pallas_mosaic_gpu"


@needs("pallas_mosaic_tpu")
class TestMosaicTPU(Odd):
    """TPUs."""

    implementation = "pallas_mosaic_tpu"


@needs("pallas_mosaic_tpu")
class TestMosaicTPUTransport(Transport):
    """TPUs."""

    implementation = "pallas_mosaic_tpu"


def test_every_implementation_has_its_classes():
    """None is forgotten."""
    named = {c.implementation for c in globals().values() if isinstance(c, type) and hasattr(c, "implementation")}
    assert {"pallas_mosaic_gpu", "pallas_mosaic_tpu"} <= named
    assert {name for name in named if name} <= set(IMPLEMENTATIONS)
