"""Every fast form against the definitions: float32 results against float64 references, over sizes, softness and kinds.

The few-rows shortcuts are switched off here, so that small inputs run the fast forms too.
"""

import functools
import re

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import METHODS, SOFT_MODES, x64

import softjax as sj
from softjax._methods.neuralsort import method as neuralsort_band
from softjax._methods.ot import method as ot
from softjax._methods.ot import newton_cg as stream
from softjax._methods.ot.semidual_newton import Problem
from softjax._methods.softsort import method as softsort_fast
from softjax._modes import MODES

# Off the lattice of the tied row's distances, where the derivative of c0 jumps.
SOFTNESS = (1e-6, 1.37e-3, 0.137, 13.7, 1e3)
KINDS = ("normal", "ties", "constant", "sorted", "reversed", "huge range")


@pytest.fixture(scope="module", autouse=True)
def only_fast_forms():
    """No row is written out because there are few of them."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (softsort_fast, neuralsort_band, ot):
            patch.setattr(module, "_FEW", 0)
        jax.clear_caches()
        yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def optimisation_of_long_rows(request):
    """XLA's expensive passes where a program runs longer than it compiles; `conftest` has switched them off."""
    name = request.node.name
    long = "top_k_by_transport" in name or ("neuralsort" in name and re.search("1000|ten_thousand", name))
    jax.config.update("jax_disable_most_optimizations", not long)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def keys(n):
    """One row of each kind, as float32 holds it."""
    x = np.random.default_rng(n).normal(size=(len(KINDS), n))
    x[1] = np.round(2 * x[1]) / 2
    x[2] = 0.3
    x[3] = np.sort(x[3])
    x[4] = np.sort(x[4])[::-1]
    x[5] = np.sinh(12 * x[5])
    return x.astype(np.float32)


@functools.cache
def gradient(name, method, mode, implementation):
    """(x, softness, weights) -> the operator's value, and the gradient of its weighted sum by x and softness."""

    def loss(x, softness, weights):
        y = getattr(sj, name)(
            x, axis=-1, softness=softness, method=method, mode=mode, standardize=False, implementation=implementation
        )
        return jnp.sum(weights * y), y

    return jax.jit(jax.grad(loss, (0, 1), has_aux=True))


def by_value(x, dx):
    """Gradients summed over tied elements: SoftSort's fast forms differentiate |x_i - x_j| at a tie from one side."""
    groups = [np.unique(row, return_inverse=True)[1] for row in x]
    return [np.bincount(g, d) for g, d in zip(groups, np.asarray(dx, np.float64), strict=True)]


def both(name, method, mode, n, softness):
    """(value, dx by value, dsoftness) of the definition in float64 and of the fast form in float32."""
    x, weights = keys(n), np.random.default_rng(1).normal(size=(len(KINDS), n))
    found = []
    for dtype, implementation in ((np.float64, "dense"), (np.float32, "xla")):
        with x64():
            run = gradient(name, method, mode, implementation)
            tau = np.full(len(KINDS), np.float32(softness), dtype)
            (dx, dsoftness), y = run(jnp.asarray(x, dtype), jnp.asarray(tau), jnp.asarray(weights, dtype))
        found.append((np.asarray(y, np.float64), by_value(x, dx), np.asarray(dsoftness, np.float64)))
    return x, *found


# ci/check.sh meets every mode and every size; the other pairs are slow.
SORTED = {
    ("smooth", 2): True,
    ("smooth", 3): False,
    ("smooth", 17): False,
    ("smooth", 100): False,
    ("smooth", 1_000): True,
    ("c1", 3): False,
    ("c1", 100): True,
    ("c0", 2): False,
    ("c0", 17): True,
    ("c2", 3): True,
    ("c2", 100): False,
}
RANKED = {
    ("smooth", 2): False,
    ("smooth", 17): True,
    ("c1", 3): False,
    ("smooth", 1_000): True,
    ("c1", 100): True,
}


def quick_and_slow(pairs):
    """Parameters (mode, n), those that are not quick marked."""
    return [pytest.param(*pair, marks=cases.slow_unless(quick)) for pair, quick in pairs.items()]


def hard(name, x):
    """The hard operator's value in float64."""
    x = x.astype(np.float64)
    return np.sort(x) if name == "sort" else np.stack([oracle.ranking(r, 1.0, "hard", "softsort") for r in x])


def check(name, method, mode, n):
    """Value, gradient by x and gradient by softness, each against the size of what is summed for it."""
    unit, eps = 4 * cases.tolerance("float32", n), np.finfo(np.float32).eps
    for softness in SOFTNESS:
        x, (want, want_dx, want_ds), (have, have_dx, have_ds) = both(name, method, mode, n, softness)
        size = np.abs(x).max(axis=1) if name == "sort" else np.full(len(x), float(n))
        effect = np.sqrt(n) * np.abs(want - hard(name, x)).max(axis=1) / softness
        for row, kind in enumerate(KINDS):
            told = f"{kind}, softness {softness}"
            np.testing.assert_allclose(have[row], want[row], rtol=0, atol=unit * size[row], err_msg=told)
            # Beside its own size: what softness moves, and what the elements of a tie receive before it cancels.
            terms = effect[row]
            if kind in ("ties", "constant"):
                terms += size[row] / softness * (n if method == "neuralsort" else 1)
            # SoftSort takes differences from results that have been rounded to the size of the keys.
            rounded = 2 * eps * size[row] / softness if method == "softsort" else 1e-30
            atol = unit * (np.abs(want_dx[row]).max() + terms) + rounded
            np.testing.assert_allclose(have_dx[row], want_dx[row], rtol=0, atol=atol, err_msg=told)
            atol = unit * (abs(want_ds[row]) + terms) + np.sqrt(n) * rounded
            np.testing.assert_allclose(have_ds[row], want_ds[row], rtol=0, atol=atol, err_msg=told)


@pytest.mark.parametrize(("mode", "n"), quick_and_slow(SORTED))
@pytest.mark.parametrize("method", ["softsort", "neuralsort"])
def test_sort(method, mode, n):
    """The soft sort and its gradients."""
    check("sort", method, mode, n)


@pytest.mark.parametrize(("mode", "n"), quick_and_slow(RANKED))
@pytest.mark.parametrize("method", ["softsort", "neuralsort"])
def test_ranking(method, mode, n):
    """The soft ranks and their gradients."""
    check("ranking", method, mode, n)


@pytest.mark.parametrize("mode", SOFT_MODES)
@pytest.mark.parametrize("method", ["softsort", "neuralsort"])
def test_sort_of_ten_thousand(method, mode):
    """Chosen rows against the oracle, which writes only those."""
    n, chosen = 10_000, np.asarray([0, 1, 13, 2_500, 5_001, 7_777, 9_998, 9_999])
    x = keys(n)[[0, 1, 5]]
    sort = jax.jit(lambda x, softness: sj.sort(x, softness=softness, method=method, mode=mode))
    for softness in (1e-6, 0.137, 13.7):
        have = np.asarray(sort(jnp.asarray(x), jnp.float32(softness)), np.float64)[:, chosen]
        for row, y in zip(x.astype(np.float64), have, strict=True):
            want = oracle.some_rows(row, chosen, float(np.float32(softness)), mode, method) @ row
            np.testing.assert_allclose(y, want, rtol=0, atol=cases.tolerance("float32", n) * np.abs(row).max())


@pytest.mark.parametrize("name", ["sort", "ranking"])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision(method, name):
    """bfloat16 and float16 inputs are worked on in float32: the float32 result of the same keys, rounded once."""
    operator = jax.jit(functools.partial(getattr(sj, name), axis=-1, method=method))
    for dtype in ("bfloat16", "float16"):
        x = jnp.asarray(keys(100)[:3]).astype(dtype)
        want = operator(x.astype(jnp.float32)).astype(dtype)
        np.testing.assert_array_equal(np.asarray(operator(x), np.float32), np.asarray(want, np.float32))


@pytest.mark.parametrize("mode", ["smooth", "c1"])
@pytest.mark.parametrize("n", [2, 3, 17])
def test_streamed_transport(n, mode):
    """Transport to n anchors against the oracle: sort and ranking, ties and constant rows too."""
    x = keys(n)[:5]
    with x64():
        sort, rank = (jax.jit(functools.partial(f, axis=-1, method="ot", mode=mode)) for f in (sj.sort, sj.ranking))
        for softness in (1e-2, 0.137, 13.7):
            y, r = (f(jnp.asarray(x, jnp.float64), softness=softness) for f in (sort, rank))
            how = {"softness": softness, "mode": mode, "method": "ot"}
            atol = cases.tolerance("float64", n, n / softness, "ot")
            for row in range(len(x)):
                np.testing.assert_allclose(y[row], oracle.sort(x[row].astype(np.float64), **how), rtol=0, atol=atol)
                np.testing.assert_allclose(r[row], oracle.ranking(x[row], **how), rtol=0, atol=atol)


def test_potentials_of_many_anchors():
    """float32, n = 1,000: the plan that NumPy writes in float64 has the wanted column sums."""
    n, tau = 1_000, np.float32(0.01)
    y = np.random.default_rng(0).uniform(size=(1, n)).astype(np.float32)
    t = ot.targets(range(n), n, jnp.float32)
    problem = Problem(jnp.asarray(y), t.anchors, t.masses, jnp.asarray(tau)[None])
    psi, info = jax.jit(lambda p: stream.potentials(MODES["smooth"], p))(problem)
    anchors = np.linspace(0, 1, n)
    logits = np.asarray(psi, np.float64)[0] + 2 / float(tau) * np.outer(y[0].astype(np.float64) - 0.5, anchors - 0.5)
    plan = oracle.project(logits, "smooth")
    error = np.abs(plan.sum(0) - 1).max()
    assert error < 1e-3 and abs(error - float(info.marginal_error[0])) < 1e-3


@functools.cache
def top_32():
    """(x, softness) -> values, rows, gradients by both, and the solver's report."""

    def run(x, softness):
        def loss(x, softness):
            values, index = sj.top_k(x, 32, method="ot", softness=softness)
            return jnp.sum(jnp.cos(values)), (values, index)

        slopes, (values, index) = jax.grad(loss, (0, 1), has_aux=True)(x, softness)
        return values, index, slopes, sj.soft_permutation(x, method="ot", softness=softness)[::-1][:32].solver_info()

    return jax.jit(run)


@pytest.mark.parametrize("softness", [0.1, 0.01, 0.001])
def test_top_k_by_transport(softness):
    """float32, n = 4,096, k = 32: values against the oracle, column sums to 1e-3 elements, gradients finite."""
    x = keys(4_096)[[0, 1, 3]]
    values, index, slopes, info = top_32()(jnp.asarray(x), jnp.float32(softness))
    assert info.marginal_error[0] <= 1e-3 and all(np.isfinite(s).all() for s in slopes)
    assert np.max(info.marginal_error) <= 4 * np.finfo(np.float32).eps * 4_096  # the rounding of the filler's sum
    np.testing.assert_allclose(index.sum(-1), 1, rtol=1e-5)
    how = {"softness": float(np.float32(softness)), "mode": "smooth", "method": "ot"}
    want = oracle.top_k(x[0].astype(np.float64), 32, **how)[0]
    # Marginals that are off by 1e-3 elements move a value by that much of its neighbours' distance.
    np.testing.assert_allclose(values[0], want, rtol=0, atol=1e-3 * np.ptp(np.sort(x[0])[-64:]))
