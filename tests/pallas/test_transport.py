"""The transport kernels through the interpreter: values and gradients against the float64 reference and the oracle."""

import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from softjax._methods import METHODS
from softjax._methods.ot import method as ot
from softjax._modes import MODES
from softjax_pallas import named

PORTABLE, MOSAIC = "pallas_interpret", "pallas_interpret_gpu"


@functools.cache
def forms(implementation):
    return named(METHODS["ot"], implementation)


def keys(batch, n, seed=0, ties=False):
    """Rows in (0, 1); with ties every value twice, and one row constant."""
    x = np.random.default_rng(seed).normal(size=(batch, n))
    y = 1 / (1 + np.exp(-x))
    if ties:
        y[:, 1::2] = y[:, : n - 1 : 2][:, : n // 2]
        y[-1] = 0.5
    return y


@functools.cache
def evaluated(which, n, k, mode, op):
    """Value and gradients of one operation, compiled once: which is an implementation or None for the definition."""
    form = ot.DEFINITION if which is None else forms(which)
    ranks = range(n - k, n)

    def value(x, payload, tau):
        if op == "rank":
            return form.rank(x, tau, MODES[mode])
        if op == "rows":
            return form.rows(x, ranks, tau, MODES[mode])
        return form.apply(x, ranks, payload, tau, MODES[mode])

    def loss(x, payload, tau, weights):
        out = value(x, payload, tau)
        return jnp.vdot(out, weights.astype(out.dtype)), out

    def run(x, payload, tau, weights):
        gradients, out = jax.grad(loss, (0, 1, 2), has_aux=True)(x, payload, tau, weights)
        return out, *gradients

    return jax.jit(run)


def compare(implementation, y, k, softness, mode, op="rows", d=2):
    """Kernel in float32 against the definition in float64, and no worse than twice the definition in float32."""
    (batch, n), rng = y.shape, np.random.default_rng(1)
    tau = np.broadcast_to(softness, (batch,))
    shape = {"rows": (batch, k, n), "apply": (batch, k, d), "rank": (batch, n)}[op]
    arrays = [y, rng.normal(size=(batch, n, d)), tau, rng.normal(size=shape)]
    # The truth belongs to the keys and softness that the kernel sees.
    single = [np.asarray(a, np.float32) for a in arrays]
    got = evaluated(implementation, n, k, mode, op)(*map(jnp.asarray, single))
    plain = evaluated(None, n, k, mode, op)(*map(jnp.asarray, single))
    with cases.x64():
        truth = evaluated(None, n, k, mode, op)(*(jnp.asarray(a, jnp.float64) for a in single))
    rule = cases.tolerance("float32", n, cases.conditioning(y, n, softness, "ot"), "ot")
    for name, mine, theirs, exact in zip(("value", "x", "payload", "softness"), got, plain, truth, strict=True):
        exact = np.asarray(exact)
        scale = max(1.0, np.abs(exact).max(initial=0.0))
        if name == "softness":  # a sum of n terms of this size that cancel
            scale = max(scale, np.abs(np.asarray(truth[1])).max(initial=0.0) / np.min(softness))
        error = np.abs(np.asarray(mine) - exact).max(initial=0.0)
        floor = np.abs(np.asarray(theirs) - exact).max(initial=0.0)
        assert error <= max(rule * scale, 2 * floor), (name, error, floor, rule * scale)


# The first of each mode runs in ci/check.sh, the others in ci/nightly.sh.
PORTABLE_CASES = [
    # n, k, mode, softness, op
    (129, 1, "smooth", 1e-3, "apply"),
    (20, 20, "c0", 0.3, "apply"),
    (129, 32, "c1", 0.1, "apply"),
    (128, 1, "c2", 0.01, "rows"),
    (2, 1, "smooth", 0.1, "rows"),
    (129, 32, "smooth", 0.1, "rows"),
    (64, 64, "smooth", 0.1, "rows"),
    (127, 1, "c0", 0.1, "rows"),
    (1000, 32, "smooth", 0.01, "apply"),
]
MOSAIC_CASES = [
    (129, 1, "smooth", 0.1, "rows"),
    (70, 17, "c0", 0.1, "rows"),
    (128, 3, "c1", 0.1, "apply"),
    (70, 9, "c2", 0.1, "apply"),
    (70, 17, "smooth", 0.1, "rows"),
]


def quick_first(lines):
    """The same lines, of which those behind the first of each mode are slow."""
    first = {line[2]: line for line in reversed(lines)}
    assert first.keys() == MODES.keys() - {"hard"}
    return [pytest.param(*line, marks=cases.slow_unless(line == first[line[2]])) for line in lines]


@pytest.mark.parametrize(("n", "k", "mode", "softness", "op"), quick_first(PORTABLE_CASES))
def test_portable_against_float64(n, k, mode, softness, op):
    compare(PORTABLE, keys(3, n), k, np.array([softness, 0.5, 1.0]), mode, op)


@pytest.mark.parametrize(("n", "k", "mode", "softness", "op"), quick_first(MOSAIC_CASES))
def test_mosaic_gpu_against_float64(n, k, mode, softness, op):
    compare(MOSAIC, keys(1, n), k, np.array([softness]), mode, op, d=1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["smooth", "c1"])
def test_ties_and_constant_rows(mode):
    compare(PORTABLE, keys(3, 24, ties=True), 5, np.array([0.1, 0.01, 0.1]), mode)


@pytest.mark.slow
def test_against_the_oracle():
    y = keys(2, 30).astype(np.float32)
    got = forms(PORTABLE).rows(jnp.asarray(y), range(27, 30), jnp.full(2, 0.1, jnp.float32), MODES["smooth"])
    for row, line in zip(np.asarray(got), y, strict=True):
        np.testing.assert_allclose(row, oracle.transport_rows(line, [27, 28, 29], 0.1, "smooth"), atol=2e-5)


@pytest.mark.slow
def test_single_element_and_empty_batch():
    ones = forms(PORTABLE).rows(jnp.full((2, 1), 0.5, jnp.float32), range(1), jnp.ones(2, jnp.float32), MODES["smooth"])
    assert np.array_equal(ones, np.ones((2, 1, 1)))
    none = forms(PORTABLE).rows(jnp.zeros((0, 7), jnp.float32), range(5, 7), jnp.zeros(0, jnp.float32), MODES["smooth"])
    assert none.shape == (0, 2, 7)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(dtype):
    y = jnp.asarray(keys(2, 40), dtype)
    rows = jax.jit(lambda y: forms(PORTABLE).rows(y, range(38, 40), jnp.full(2, 0.1, jnp.float32), MODES["smooth"]))(y)
    with cases.x64():
        wide = jnp.asarray(np.asarray(y, np.float64))
        exact = ot.DEFINITION.rows(wide, range(38, 40), jnp.full(2, 0.1), MODES["smooth"])
    assert rows.dtype == dtype
    np.testing.assert_allclose(np.asarray(rows, np.float64), exact, atol=float(jnp.finfo(dtype).eps))


@pytest.mark.slow
def test_traced_ranks():
    y, tau = jnp.asarray(keys(2, 33), jnp.float32), jnp.full(2, 0.1, jnp.float32)

    def rows(form, ranks):
        return form.rows(y, ranks, tau, MODES["smooth"])

    ranks = jnp.asarray([4.0, 5.0], jnp.float32)
    got, want = (jax.jit(functools.partial(rows, form))(ranks) for form in (forms(PORTABLE), ot.DEFINITION))
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["smooth", "c1"])
def test_rank(mode):
    y, tau = jnp.asarray(keys(2, 19), jnp.float32), jnp.full(2, 0.1, jnp.float32)
    got, want = (
        jax.jit(lambda y, form=form: form.rank(y, tau, MODES[mode]))(y) for form in (forms(PORTABLE), ot.DEFINITION)
    )
    np.testing.assert_allclose(got, want, atol=19 * 2e-5)


def masked(y, mass, tau, mode):
    """The mask by the definition in the arrays' dtype: a row's problem with masses of its own."""
    from softjax._methods.ot import semidual_newton as _transport

    def one(y, mass, tau):
        masses = jnp.stack([y.shape[0] - mass, mass])
        problem = _transport.Problem(y[None], jnp.asarray([0.0, 1.0], y.dtype), masses, tau[None])
        return _transport.plan(problem, MODES[mode])[0, 1]

    return jax.vmap(one)(y, mass, tau)


@pytest.mark.parametrize("implementation", [PORTABLE, MOSAIC])
def test_mask_with_real_masses_of_every_row(implementation):
    batch = 3 if implementation == PORTABLE else 1
    y, weights = keys(batch, 130), np.random.default_rng(2).normal(size=(batch, 130))
    mass, tau = np.array([3.0, 64.5, 120.25])[-batch:], np.array([0.1, 0.02, 0.3])[-batch:]

    def loss(function, weights, *arrays):
        out = function(*arrays)
        return jnp.vdot(out, weights), out

    def kernel(y, mass, tau):
        return forms(implementation).mask(y, mass, tau, MODES["smooth"])

    def run(function, dtype):
        arrays = [jnp.asarray(np.asarray(a, np.float32), dtype) for a in (weights, y, mass, tau)]
        gradient = jax.grad(functools.partial(loss, function), (1, 2, 3), has_aux=True)
        return jax.tree.map(np.asarray, jax.jit(gradient)(*arrays))

    (dy, dmass, dtau), got = run(kernel, jnp.float32)
    with cases.x64():
        exact, want = run(functools.partial(masked, mode="smooth"), jnp.float64)
    rule = cases.tolerance("float32", 130, cases.conditioning(y, 130, tau, "ot"), "ot")
    np.testing.assert_allclose(got, want, atol=rule)
    np.testing.assert_allclose(got.sum(1), mass, atol=130 * rule)
    for mine, theirs in zip((dy, dmass), exact[:2], strict=True):
        np.testing.assert_allclose(mine, theirs, atol=rule * max(1, np.abs(theirs).max()))
    np.testing.assert_allclose(dtau, exact[2], atol=rule * max(1, np.abs(exact[0]).max() / tau.min()))
