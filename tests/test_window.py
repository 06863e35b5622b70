"""Sparse SoftSort over windows: every way to sum against the dense definition in float64, and its limits."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow_unless, tolerance, x64

import softjax as sj
from softjax import _modes
from softjax._methods.softsort import definition as softsort
from softjax._methods.softsort import sparse as softsort_window
from softjax._methods.softsort.window import direct as walk
from softjax._methods.softsort.window import passes
from softjax._methods.softsort.window import sparse_table as table
from softjax._methods.softsort.window import two_stacks as sliding
from softjax._methods.softsort.window.moments import OneSide

MODES = ("c0", "c1", "c2")
# Compiling takes most of the time here, and LLVM's optimisation most of the compiling.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture
def way(request, monkeypatch):
    """One way to sum, whatever the inputs: 20 elements on a side are soon too many to be walked."""
    monkeypatch.setattr(passes, "LIMITS", passes.Limits(20, 10**9 if request.param == "walked" else 0))
    if request.param == "tables":  # which are for other platforms
        monkeypatch.setattr(sliding, "one_side", table.one_side)
    jax.clear_caches()
    yield request.param
    jax.clear_caches()


# Compiling takes seconds, the tables' most, so that ci/check.sh has every way and every mode, and no test every pair.
QUICK = (("walked", "c0"), ("walked", "c2"), ("sliding", "c1"), ("tables", "c2"))
PAIRS = [(way, mode) for way in ("walked", "sliding") for mode in MODES] + [("tables", "c0"), ("tables", "c2")]
EVERY_WAY = pytest.mark.parametrize(
    ("way", "mode"), [pytest.param(*pair, marks=slow_unless(pair in QUICK)) for pair in PAIRS], indirect=["way"]
)


def _keys(n):
    """A normal row, one with ties, a reversed one, a constant one, and one over a huge range."""
    x = np.random.default_rng(0).normal(size=(5, n))
    x[1] = np.round(3 * x[1]) / 3
    x[2] = np.sort(x[2])[::-1]
    x[3] = 0.3
    x[4] = np.sinh(12 * x[4])
    return x


def _by_value(x, dx):
    """Gradients summed over tied elements, which are differentiated from one side."""
    groups = [np.unique(row, return_inverse=True)[1] for row in np.asarray(x)]
    return np.concatenate([np.bincount(g, d) for g, d in zip(groups, np.asarray(dx), strict=True)])


def _mode(name):
    mode = _modes.MODES[name]
    assert mode is not None
    return mode


def _gradients(form, name, n):
    """(x, payload, tau) -> rows of P times a payload, and gradients by all three."""
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(5, n, 2)))

    def loss(x, payload, tau):
        y = form.apply(x, range(n), payload, tau, _mode(name))
        return jnp.sum(weights * y), y

    return compiled(jax.grad(loss, (0, 1, 2), has_aux=True))


@EVERY_WAY
def test_values_and_gradients_agree_with_the_definition(mode, way):
    """Two payloads, for softness 1e-6 to 1e3 by row, and gradients by x, payload and tau; float64."""
    n, degree = 150, int(mode[1]) + 1
    with x64():
        x = jnp.asarray(_keys(n))
        payload = jnp.asarray(np.random.default_rng(1).normal(size=(5, n, 2)))
        forms = [_gradients(form, mode, n) for form in (softsort.DEFINITION, softsort_window)]
        for softness in (1e-6, 0.0137, 0.137, 5.3, 1e3):
            tau = softness * jnp.asarray([1.0, 1.3, 0.5, 1.0, 2.0])
            (want_grad, want), (have_grad, have) = (form(x, payload, tau) for form in forms)
            np.testing.assert_allclose(have, want, rtol=0, atol=10 * tolerance("float64", n) * np.max(np.abs(want)))
            # The terms of a gradient are as large as 1 / R, with R >= tau n^(-1/m), where they do not cancel.
            size = 1 + n ** (1 / degree) / float(jnp.min(tau))
            for i, (a, b) in enumerate(zip(want_grad, have_grad, strict=True)):
                a, b = (_by_value(x, g) if i == 0 else np.asarray(g) for g in (a, b))
                scale = max(np.max(np.abs(a)), size if i != 1 else 0.0)
                np.testing.assert_allclose(b, a, rtol=0, atol=10 * tolerance("float64", n) * scale)


def test_the_ways_differ_only_in_rounding():
    """Every power, alone and relative, by rows and by columns, with unequal windows."""
    powers, n = (0, 1, 3, 4), 700
    rng = np.random.default_rng(0)
    with x64():
        s = jnp.sort(jnp.asarray(rng.normal(size=(2, n))), -1)
        reach = 0.4 + 0.1 * jnp.sin(s)
        g, kappa, h = (jnp.asarray(rng.normal(size=s.shape)) for _ in range(3))
        for by_column, relative in ((False, (kappa, h)), (True, (kappa, h)), (True, None)):
            side = OneSide(s, by_column, g, relative)
            walked = compiled(functools.partial(walk.one_side, side, reach, powers))()
            for form in (sliding, table):
                found = compiled(lambda form=form, side=side: form.one_side(side, reach, powers)(reach))()
                for a, b in zip(jax.tree.leaves(walked), jax.tree.leaves(found), strict=True):
                    np.testing.assert_allclose(b, a, rtol=0, atol=tolerance("float64", n) * np.max(np.abs(a)))


def test_windows_of_long_rows_may_be_wide():
    """Not those of shorter ones, whose program has one way alone."""
    s = jnp.linspace(0.0, 1.0, passes.LIMITS.row + 1)[None]
    reach = lambda elements: jnp.full_like(s, (elements + 0.5) / passes.LIMITS.row)
    assert not passes.wide(s, reach(passes.LIMITS.walked - 1))
    assert passes.wide(s, reach(passes.LIMITS.walked + 1))
    assert passes.wide(s[:, 1:], reach(passes.LIMITS.row)[:, 1:]) is None


@pytest.mark.parametrize(("n", "mode"), [(1, "c1"), (2, "c0"), (2, "c2"), (3, "c1"), (17, "c0"), (17, "c2")])
def test_ranks_of_few_elements(n, mode):
    """The smallest shapes, in float32."""
    x = jnp.asarray(np.random.default_rng(3).normal(size=(4, n)), jnp.float32).at[3].set(1.0)
    tau = jnp.asarray([0.1, 1.0, 1e-6, 10.0], jnp.float32)
    want, have = (
        compiled(lambda x, f=f: f.rank(x, tau, _mode(mode)))(x) for f in (softsort.DEFINITION, softsort_window)
    )
    np.testing.assert_allclose(have, want, rtol=0, atol=tolerance("float32", n) * (1 + n))


def test_float32_of_many_elements():
    """Values and gradient at n = 10,000 in float32 against chosen rows of the dense form in float64."""
    mode, n, rows = "c2", 10_000, np.asarray([0, 1, 57, 2_500, 5_001, 7_700, 9_998, 9_999])
    x = np.random.default_rng(4).normal(size=n).astype(np.float32)

    def soft(x, implementation):
        return sj.sort(x, mode=mode, softness=0.3, implementation=implementation)

    def chosen(x):
        dense = softsort.DEFINITION.apply(x[None], jnp.asarray(rows), None, jnp.asarray([0.3]), _mode(mode))
        return jnp.sum(jnp.arange(1.0, 9.0) * dense[0, :, 0]), dense[0, :, 0]

    with x64():
        want_grad, want = compiled(jax.grad(chosen, has_aux=True))(jnp.asarray(x, jnp.float64))

    def fast(x):
        y = soft(x, "xla")[rows]
        return jnp.sum(jnp.arange(1.0, 9.0, dtype=y.dtype) * y), y

    have_grad, have = compiled(jax.grad(fast, has_aux=True))(jnp.asarray(x))
    np.testing.assert_allclose(have, want, rtol=0, atol=tolerance("float32", 1, np.max(np.abs(x))))
    np.testing.assert_allclose(have_grad, want_grad, rtol=0, atol=tolerance("float32", n) * np.max(np.abs(want_grad)))


def test_second_derivatives():
    """Forward over reverse, by x and tau, agrees with the dense form's; c1's go down to the power 0."""
    n, mode = 60, "c1"
    with x64():
        x = jnp.asarray(np.random.default_rng(5).normal(size=(1, n)))
        direction = jnp.cos(jnp.arange(n, dtype=x.dtype))[None], jnp.asarray([0.7])

        def curvature(form):
            def loss(x, tau):
                y = form.apply(x, range(n), None, tau, _mode(mode))
                return jnp.sum(jnp.sin(3 * y))

            run = compiled(lambda x, tau: jax.jvp(jax.grad(loss, (0, 1)), (x, tau), direction)[1])
            return run(x, jnp.asarray([0.9]))

        for want, have in zip(curvature(softsort.DEFINITION), curvature(softsort_window), strict=True):
            # By `tolerance` at the size of a second derivative's terms, 1 / R^2.
            scale = np.max(np.abs(want)) + (n / 0.9) ** 2
            np.testing.assert_allclose(have, want, rtol=0, atol=tolerance("float64", n) * scale)


@pytest.mark.parametrize("way", ["sliding", "tables"], indirect=True)
def test_rows_are_independent(way):
    """vmap gives the batch's rows; NaN in keys or tau spoils its own row alone, and every loop ends."""
    x = jnp.asarray(_keys(100), jnp.float32)
    tau = jnp.asarray([0.1, 0.2, 0.3, 1e-6, 50.0], jnp.float32)
    apply = lambda x, tau: softsort_window.apply(x, range(100), None, tau, _mode("c1"))[..., 0]
    batch = compiled(apply)(x, tau)
    mapped = compiled(jax.vmap(lambda x, t: apply(x[None], t[None])[0]))(x, tau)
    spoiled = compiled(apply)(x.at[0, 5].set(jnp.nan), tau.at[2].set(jnp.nan))
    good = np.asarray([1, 3, 4])
    np.testing.assert_allclose(mapped, batch, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(np.isnan(spoiled), np.isin(np.arange(5), good, invert=True)[:, None] & (x == x))
    np.testing.assert_allclose(spoiled[good], batch[good], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("way", "mode"),
    [("walked", "c0"), ("walked", "c2"), ("sliding", "c0"), ("sliding", "c2"), ("tables", "c2")],
    indirect=["way"],
)
def test_gradients_are_finite(mode, way):
    """For softness 1e-6 and up, ties and huge ranges included."""
    x = jnp.asarray(_keys(150), jnp.float32)
    run = compiled(jax.grad(lambda x, t: jnp.sum(jnp.sin(sj.sort(x, mode=mode, softness=t))), (0, 1)))
    for softness in (1e-6, 1e-3, 0.1, 10.0, 1e3):
        assert all(np.all(np.isfinite(g)) for g in run(x, jnp.float32(softness)))


def test_wide_windows_take_no_quadratic_work():
    """n = 100,000 in windows that hold everything: 1e10 pairs would take a minute."""
    n, softness = 100_000, 1e8
    x = np.random.default_rng(6).normal(size=n).astype(np.float32)
    sort = compiled(lambda x: sj.sort(x, mode="c0", softness=softness)).lower(jnp.asarray(x)).compile()
    start = time.perf_counter()
    y = jax.block_until_ready(sort(jnp.asarray(x)))
    assert time.perf_counter() - start < 20
    # R >= softness / n, so that weights within a row, and means, differ by at most ptp / R.
    bound = np.ptp(x) ** 2 * n / softness + tolerance("float32", n)
    np.testing.assert_allclose(y, np.mean(x, dtype=np.float64), rtol=0, atol=bound)


def test_bfloat16():
    """16-bit keys are summed in float32."""
    x = jnp.asarray(np.random.default_rng(7).normal(size=40), jnp.bfloat16)
    y = sj.sort(x, mode="c1", softness=0.5)
    assert y.dtype == jnp.bfloat16
    want = sj.sort(x.astype(jnp.float32), mode="c1", softness=0.5, implementation="dense")
    np.testing.assert_allclose(y.astype(jnp.float32), want, atol=tolerance("bfloat16") * 2)
