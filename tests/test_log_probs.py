"""Logarithms of soft indices: those of the weights, exact where a weight is rounded to 0, with finite derivatives."""

import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import METHODS, REPRESENTATIVES

import softjax as sj

N = 7
CALLS = {
    "argsort": lambda x, **how: sj.argsort(x, **how),
    "descending": lambda x, **how: sj.argsort(x, axis=0, descending=True, **how),
    "argmax": lambda x, **how: sj.argmax(x, -1, **how),
    "argmin": lambda x, **how: sj.argmin(x, -1, keepdims=True, **how),
    "argtop_k": lambda x, **how: sj.argtop_k(x, 3, **how),
    "top_k": lambda x, **how: sj.top_k(x, 3, **how)[1],
    "bottom_k": lambda x, **how: sj.bottom_k(x, 3, axis=0, **how)[1],
    "argmedian": lambda x, **how: sj.argmedian(x, -1, **how),
    "argquantile": lambda x, **how: sj.argquantile(x, jnp.asarray([0.0, 0.3, 0.5, 1.0]), -1, **how),
    "argpercentile": lambda x, **how: sj.argpercentile(x, 40.0, -1, **how),
}


def keys(seed=0):
    x = cases.sample((4, N), seed).astype(np.float32)
    x[1] = np.round(2 * x[1]) / 2
    return jnp.asarray(x)


REPRESENTATIVE = pytest.mark.parametrize(("mode", "method"), REPRESENTATIVES)
LINES = cases.pairs()
CASES = [
    pytest.param(name, *line, marks=cases.slow_unless(name == "argquantile" or line == cases.turn(i, LINES)))
    for i, name in enumerate(CALLS)
    for line in LINES
]


@pytest.mark.parametrize(("name", "mode", "method"), CASES)
def test_they_are_those_of_the_weights(name, mode, method):
    x = keys()
    run = functools.partial(CALLS[name], x, mode=mode, method=method, softness=0.4)
    p, logs = run(), run(return_log_probs=True)
    assert logs.dtype == p.dtype
    np.testing.assert_allclose(np.exp(logs), p, rtol=1e-4, atol=2e-7)
    # A weight of rounding's size is one, or none.
    clear = np.asarray((p == 0) | (p > 1e-6))
    assert (np.isneginf(logs) == (p == 0))[clear].all()
    assert (np.asarray(p) == 0).any() or mode == "smooth"
    raised = run(return_log_probs=True, log_prob_eps=1e-3)
    np.testing.assert_allclose(raised, np.log(np.asarray(p) + 1e-3), rtol=1e-4, atol=1e-4)


@REPRESENTATIVE
def test_values_beside_them(mode, method):
    """top_k gives the values that it gives anyway, with their gradients."""
    how = {"mode": mode, "method": method, "softness": 0.3}

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def pull(x, gated, log):
        return jax.vjp(lambda x: sj.top_k(x, 3, gated_grad=gated, return_log_probs=log, **how)[0], x)

    for gated in (True, False):
        (y, back), (y_log, back_log) = pull(keys(), gated, False), pull(keys(), gated, True)
        np.testing.assert_allclose(y_log, y, rtol=1e-5, atol=1e-6)
        cotangent = jnp.asarray(cases.sample(y.shape, 3), y.dtype)
        np.testing.assert_allclose(back_log(cotangent)[0], back(cotangent)[0], rtol=1e-3, atol=2e-4)


def test_what_is_rounded_to_nothing():
    """Logits far apart: SoftSort's and NeuralSort's logarithms by their formulas, transport's in float64."""
    x, tau = np.asarray(keys(5), np.float64), 1e-3
    s = np.sort(x)
    logits = {
        "softsort": -np.abs(s[:, :, None] - x[:, None, :]) / tau,
        "neuralsort": (
            (2 * np.arange(N)[:, None] + 1 - N) * x[:, None, :]
            - np.abs(x[:, :, None] - x[:, None, :]).sum(-1)[:, None, :]
        )
        / tau,
    }
    for method, z in logits.items():
        exact = z - np.logaddexp.reduce(z, axis=-1)[..., None]
        assert exact.min() < -1500
        actual = sj.argsort(jnp.asarray(x, jnp.float32), softness=tau, method=method, return_log_probs=True)
        np.testing.assert_allclose(actual, exact, rtol=2e-6, atol=2e-3)
    logs = lambda x: sj.argtop_k(x, 2, softness=tau, method="ot", return_log_probs=True)
    single = logs(jnp.asarray(x, jnp.float32))
    with jax.enable_x64(True):
        exact = np.asarray(logs(jnp.asarray(x)))
    assert exact.min() < -200
    np.testing.assert_allclose(single, exact, rtol=2e-3, atol=0.1)


def test_transport_on_points():
    """Many keys, which points stand for, and the keys themselves agree."""
    x = jnp.asarray(cases.sample((2, 600), 1), jnp.float32)
    logs = lambda implementation: sj.argtop_k(
        x, 5, method="ot", softness=0.1, implementation=implementation, return_log_probs=True
    )
    np.testing.assert_allclose(logs(None), logs("dense"), atol=2e-3)


@REPRESENTATIVE
def test_derivatives(mode, method):
    """By keys and softness they are those of log(p) where there is weight, and none where there is not."""
    x, tau = keys(2), jnp.float32(0.5)
    weights = lambda x, tau: sj.argtop_k(x, 4, mode=mode, method=method, softness=tau)
    logs = lambda x, tau: sj.argtop_k(x, 4, mode=mode, method=method, softness=tau, return_log_probs=True)
    p = weights(x, tau)
    cotangent = jnp.where(p > 1e-3, jnp.asarray(cases.sample(p.shape, 9), p.dtype), 0)
    actual = jax.jit(jax.grad(lambda *a: jnp.sum(jnp.where(p > 1e-3, logs(*a), 0) * cotangent), (0, 1)))(x, tau)
    cotangent = cotangent / jnp.where(p > 1e-3, p, 1)
    expected = jax.jit(jax.grad(lambda *a: jnp.sum(weights(*a) * cotangent), (0, 1)))(x, tau)
    size = np.abs(np.asarray(expected[0])).max()
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-3, atol=1e-3 * size)
    np.testing.assert_allclose(actual[1], expected[1], rtol=5e-3, atol=1e-3 * size)


@pytest.mark.parametrize("softness", [1e-6, 1e3])
@REPRESENTATIVE
def test_gradients_are_finite(mode, method, softness):
    x = keys(4)
    logs = lambda x, tau: sj.argtop_k(x, 2, softness=tau, mode=mode, method=method, return_log_probs=True)
    loss = lambda *a: jnp.sum(jnp.where(jnp.isneginf(logs(*a)), 0, logs(*a)))
    for g in jax.jit(jax.grad(loss, (0, 1)))(x, jnp.float32(softness)):
        assert np.isfinite(g).all()


@pytest.mark.parametrize("method", METHODS)
def test_infinite_keys(method):
    """They and the finite ones have nothing of each other's rows."""
    x, inf = jnp.asarray([1.0, 0.0, -jnp.inf, 0.5, jnp.inf]), jnp.inf
    logs = np.asarray(sj.argsort(x, method=method, softness=0.5, standardize=False, return_log_probs=True))
    np.testing.assert_array_equal(logs[0], [-inf, -inf, 0, -inf, -inf])
    np.testing.assert_array_equal(logs[-1], [-inf, -inf, -inf, -inf, 0])
    assert (np.isneginf(logs[1:-1]) == [False, False, True, False, True]).all()
    masked = lambda x: sj.argmax(jnp.append(x, -jnp.inf), method=method, standardize=False, return_log_probs=True)
    assert np.isfinite(jax.jacrev(masked)(x[:2])).all()


def test_derivatives_by_a_quantile():
    """Those of log(argquantile), at whole ranks too."""
    x = keys(7)[0]
    for method in ("softsort", "neuralsort"):
        rows = functools.partial(sj.argquantile, x, method=method, softness=0.5)
        logs, plain = jax.jacfwd(lambda q: rows(q, return_log_probs=True)), jax.jacfwd(lambda q: jnp.log(rows(q)))  # noqa: B023
        for q in (0.5, 0.25, 0.3, 1.0):
            np.testing.assert_allclose(logs(q), plain(q), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_nan_stays_in_its_row(method):
    x = keys().at[1, 2].set(jnp.nan)
    logs = np.asarray(sj.argsort(x, method=method, return_log_probs=True))
    assert np.isnan(logs[1]).all()
    assert np.isfinite(logs[[0, 2, 3]]).all()


def test_names():
    for value in (1, "yes", None):
        with pytest.raises(TypeError, match="`return_log_probs`"):
            sj.argmax(jnp.ones(3), return_log_probs=value)
    for value, kind in ((-1.0, ValueError), (2, ValueError), ("0", TypeError), (np.float64(0.1), TypeError)):
        with pytest.raises(kind, match=r"`log_prob_eps`.*\[0, 1\]"):
            sj.top_k(jnp.ones(3), 1, log_prob_eps=value)
