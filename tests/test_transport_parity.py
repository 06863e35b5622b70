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
