"""Transport in float32 against rows that are written out in float64: of every size, softness, kind of keys and k.

Where points stand for the keys errors are bounded outright. Where they do not a small softness leaves no such bound:
logits of size 1 / softness carry its share of a rounding, and a slope that of a column of n sums, of keys as large as
they are: at 1e-4 hardly any digit.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow_unless, x64
from scipy.sparse.linalg import LinearOperator, cg
from scipy.special import softmax
from test_compressed import kinds

import softjax as sj

SOFTNESS = 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0
QUICK = {(2, "mask"), (17, "top 2"), (17, "top 17"), (17, "rank"), (300, "top 299"), (4096, "mask")}
EPS = float(np.finfo(np.float32).eps)


def rows_of(n):
    """Every kind of keys, or pairs."""
    return kinds(n) if n > 3 else (np.random.default_rng(n).normal(size=(6, n)).astype(np.float32), list("abcdef"))


def operators(n):
    """Each k, a real mass, ranks; of many keys what has few anchors, or they could not be written out."""
    few = {1, 2} if n > 2_000 else {1, 2, n // 2, n - 1, n}
    made = {f"top {k}": lambda x, k=k, **how: sj.top_k(x, k, **how)[0] for k in sorted(few)}
    made["mask"] = lambda x, **how: sj.top_k_mask(x, n / 7.3, **how)
    if n <= 2_000:
        made["rank"] = lambda x, **how: sj.rank(x, axis=-1, **how) / n
    return made


def _cases():
    for n in (2, 17, 300, 1024, 4096):
        for name in operators(n):
            for standardize in (True, False):
                quick = (n, name) in QUICK and (standardize or n == 17)
                yield pytest.param(n, name, standardize, marks=slow_unless(quick))


@pytest.mark.parametrize(("n", "name", "standardize"), list(_cases()))
def test_parity(n, name, standardize):
    """Values within 2e-5 of the row's spread, gradients within 2e-4 of their largest entry, and what is said above."""
    operator = operators(n)[name]

    def loss(x, softness, implementation):
        y = operator(x, method="ot", softness=softness, implementation=implementation, standardize=standardize)
        weights = np.random.default_rng(1).normal(size=(1, *y.shape[1:]))
        return jnp.sum(y * jnp.asarray(weights, y.dtype)), y

    both = jax.jit(jax.grad(loss, has_aux=True), static_argnums=2)
    x, names = rows_of(n)
    exact = x.astype(np.float64)
    extent, largest = np.ptp(exact, axis=1), np.abs(exact).max(axis=1)
    if not name.startswith("top"):
        extent, largest = np.ones(len(x)), np.ones(len(x))
    for softness in SOFTNESS:
        with x64():
            slope, value = (np.asarray(a) for a in both(jnp.asarray(exact), softness, "dense"))
            # A row alone: which solver runs is then its own matter.
            rows = [both(jnp.asarray(row[None]), softness, "xla") for row in x]
        own_slope, own_value = (
            np.concatenate([np.asarray(a, float) for a in found]) for found in zip(*rows, strict=True)
        )
        error, slope_error = np.abs(own_value - value).max(axis=1), np.abs(own_slope - slope).max(axis=1)
        steepest = np.abs(slope).max(axis=1)
        for i, row in enumerate(names):
            on_points = n >= 300 and (softness >= 0.1 if standardize else softness >= 0.1 * np.ptp(exact[i]))
            conditioned = 0 if on_points else EPS / softness
            limit = (2e-5 + 10 * conditioned) * extent[i] + 8 * EPS * largest[i]
            assert error[i] <= limit, (softness, row, "value", error[i], limit)
            limit = 2e-4 * max(steepest[i], 1e-5) + 100 * n * conditioned * max(1, extent[i] / 100)
            assert slope_error[i] <= limit, (softness, row, "gradient", slope_error[i], limit)


def _newton(y, masses, softness):
    """The plan of keys y to anchors in [0, 1], and the inverse of its potentials' Hessian: float64, by NumPy alone.

    Rows of so many keys and anchors are written out, a Newton step is found by conjugate gradients.
    """
    anchors = np.linspace(0, 1, len(masses))
    lift, psi = 2 * np.outer(y - 0.5, anchors - 0.5) / softness, np.log(masses)

    def inverse(rhs):
        scale = np.sqrt(masses)
        curved = lambda v: v - (p.T @ (p @ (v / scale))) / scale + scale * (scale @ v) / len(y)
        turned = LinearOperator((len(scale),) * 2, matvec=curved)
        return cg(turned, rhs / scale, rtol=1e-12, maxiter=2000)[0] / scale

    for step in range(60):
        p = softmax(lift + psi, axis=1)
        received = p.sum(0)
        off = np.max(np.abs(received / masses - 1))
        if off < 1e-11:
            return p, inverse
        psi = psi + (inverse(masses - received) if step > 4 and off < 0.5 else np.log(masses / received))
    raise AssertionError(f"the plan did not converge: {off}")


def _value_and_slope(x, softness, k, weights):
    """The k largest, or where k is None ranks, and the derivative of their weighted sum, by the implicit function."""
    n, z = len(x), x - x.mean()
    std = np.sqrt(np.mean(z**2)) or np.abs(x).max()
    z = z / std
    y = 1 / (1 + np.exp(-z))
    first = 0 if k in (None, n) else 1
    masses = np.ones(n) if first == 0 else np.concatenate([[n - k], np.ones(k)])
    p, inverse = _newton(y, masses, softness)
    if k is None:  # how the result depends on each entry of the plan
        ranks = np.arange(n) / n
        value, taken, own = 1 - p @ ranks, -np.outer(weights, ranks), 0
    else:
        wanted = p[:, first:]
        value, own = (wanted.T @ x)[::-1], wanted @ weights[::-1]
        taken = np.pad(np.outer(x, weights[::-1]), ((0, 0), (first, 0)))
    through = lambda g: p * (g - np.sum(p * g, axis=1, keepdims=True))
    taken = taken - inverse(through(taken).sum(0))
    steep = 2 * (np.linspace(0, 1, len(masses)) - 0.5) / softness
    change = y * (1 - y) * (through(taken) @ steep)
    return value, own + (change - change.mean() - z * np.mean(change * z)) / std


@pytest.mark.slow
@pytest.mark.parametrize("softness", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("k", [2048, 4095, 4096, None])
def test_many_ranks_of_many_keys(k, softness):
    """Where points stand for 4,096 keys and for their ranks, within what the first test says, too."""
    x, names = kinds(4096)
    weights = np.random.default_rng(1).normal(size=k or 4096)

    @jax.jit
    def both(x):
        how = {"method": "ot", "softness": softness}
        loss = lambda y: (jnp.vdot(jnp.asarray(weights, y.dtype), y), y)
        operator = lambda x: sj.rank(x, axis=-1, **how) / x.size if k is None else sj.top_k(x, k, **how)[0]
        return jax.grad(lambda x: loss(operator(x)), has_aux=True)(x)

    for row, name in zip(x, names, strict=True):
        slope, value = both(jnp.asarray(row))
        want, steep = _value_and_slope(row.astype(np.float64), softness, k, weights)
        extent = 1 if k is None else np.ptp(row.astype(np.float64))
        limit = 2e-5 * extent + 8 * EPS * np.max(np.abs(want))
        np.testing.assert_allclose(value, want, rtol=0, atol=limit, err_msg=name)
        np.testing.assert_allclose(slope, steep, rtol=0, atol=2e-4 * np.max(np.abs(steep)), err_msg=name)
