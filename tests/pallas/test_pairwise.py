"""The pairwise kernels on the CPU: the portable body and the Mosaic GPU body, interpreted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import suite
from cases import x64

from softjax._methods import METHODS
from softjax._modes import MODES
from softjax_pallas import named
from softjax_pallas.ops import pairwise
from softjax_pallas.ops.pairwise import PairwiseKernel
from softjax_pallas.tile_engine import mosaic_gpu


class TestPortable(suite.Pairwise):
    """The body that a TPU runs."""

    implementation = "pallas_interpret"
    sizes = (70, 2, 127, 128, 1000, 1, 129)

    @pytest.mark.slow
    @pytest.mark.parametrize(("method", "op"), [form for form in suite.FORMS if form[1] != "rank"])
    def test_few_rows(self, method, op):
        """The largest k."""
        self.check(method, op, "smooth" if op == "apply" else "c1", (2, 70), few=True)

    @pytest.mark.slow
    @pytest.mark.parametrize(("method", "op"), [form for form in suite.FORMS if form[1] != "rank"])
    def test_one_row(self, method, op):
        """k = 1, and no batch at all."""
        self.few = 1
        self.check(method, op, "smooth", (1, 40), few=True)
        x, tau = jnp.zeros((0, 40)), jnp.zeros((0,))
        assert suite.call(self.forms(method), op, (x, tau, None), "smooth", range(40)).shape[:2] == (0, 40)

    @pytest.mark.slow
    def test_x64_does_not_matter(self):
        """With x64 on the same float32 program runs."""
        x, tau = suite.keys(1, 70).astype(np.float32), np.float32([0.1])
        run = lambda: jax.jit(lambda x, tau: self.forms("softsort").rows(x, range(70), tau, MODES["c1"]))(x, tau)
        plain = run()
        with x64():
            np.testing.assert_array_equal(run(), plain)


class TestMosaicGPU(suite.Pairwise):
    """The body for compute capability >= 9.0, whose tiles have 64 rows."""

    implementation = "pallas_interpret_gpu"
    sizes = (70, 64, 129)

    @pytest.mark.slow
    @pytest.mark.parametrize(("method", "op"), [form for form in suite.FORMS if form[1] != "apply"])
    def test_odd_rows(self, method, op):
        """Rows of an odd length, with a cotangent that is stored: no pair of elements is aligned in every row."""
        self.check(method, op, "smooth", (2, 129))


def test_unsupported_calls_say_why():
    """`supports` gives the reason, and a named implementation raises it with the remedy."""
    smooth = MODES["smooth"]
    ask = lambda *a: pairwise.supports(a[0], "neuralsort", a[1], a[2], a[3])
    assert ask("rows", "float32", (2, 100, 100), "pallas_mosaic_tpu") is None
    assert "float64" in ask("rows", "float64", (2, 100, 100), "pallas_mosaic_tpu")
    assert "no kernel for 'pallas'" in ask("pallas", "float32", (2, 100, 100), "pallas_mosaic_tpu")
    assert "64 rows" in ask("rows", "float32", (2, 10, 100), "pallas_mosaic_gpu")
    assert "64 rows" in ask("apply", "float32", (2, 12, 70, 1), "pallas_mosaic_gpu")  # computed one by one
    assert ask("apply", "float32", (2, 17, 70, 1), "pallas_mosaic_gpu") is None
    assert "channels" in ask("apply", "float32", (2, 100, 100, 99), "pallas_mosaic_tpu")
    assert "float16" in ask("rows", "float16", (2, 100, 100), "pallas_mosaic_tpu")
    assert "bytes" in ask("rows", "float32", (1, 100_000, 100_000), "pallas_mosaic_tpu")
    x, tau = jnp.zeros((2, 10)), jnp.ones((2,))
    with pytest.raises(NotImplementedError, match="implementation='xla' can"):
        named(METHODS["softsort"], "pallas_mosaic_gpu").rows(x, range(10), tau, smooth)
    with pytest.raises(NotImplementedError, match="no kernel for 'rank' of 'softsort'. implementation='xla' can"):
        named(METHODS["softsort"], "pallas_interpret").rank(x, tau, smooth)
    with pytest.raises(NotImplementedError, match="'pallas_nothing' is no kernel implementation"):
        named(METHODS["softsort"], "pallas_nothing").rows(x, range(10), tau, smooth)


def test_a_large_batch_takes_several_launches(monkeypatch):
    """A grid's second dimension has a limit on CUDA; what comes of several launches is what comes of one."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    x = jnp.asarray(suite.keys(5, 64), jnp.float32)
    kernel = PairwiseKernel("pallas_interpret_gpu", "softsort", "rows")
    run = lambda x: kernel.value(x, range(64), jnp.full(5, 0.3), MODES["smooth"])
    one = jax.jit(run)(x)
    launched, launch = [], plgpu.kernel

    def counted(body, *, out_type, **options):
        launched.append(out_type[0].shape[0])
        return launch(body, out_type=out_type, **options)

    monkeypatch.setattr(mosaic_gpu, "MOST_ROWS", 2)
    monkeypatch.setattr(plgpu, "kernel", counted)
    jax.clear_caches()
    several = jax.jit(run)(x)
    assert launched == [2, 2, 1]
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(several), strict=True):
        np.testing.assert_array_equal(a, b)
