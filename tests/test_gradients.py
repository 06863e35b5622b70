"""Gradients of weighted losses against central differences of the oracle, in float64, in x and in softness."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import COMBINATIONS, Case, x64

import softjax as sj

STEP = 2e-6  # Rounding / STEP and STEP^2 x third derivative meet near 1e-8.


def weighted(value, weights):
    """Sum over the leaves of <weights, value>."""
    value = value if isinstance(value, tuple) else (value,)
    return sum(np.vdot(w, v) for w, v in zip(weights, value, strict=True))


def check(case, x, softness, directions, seed=0):
    """Directional derivatives of the package's gradient against differences of the oracle's loss."""
    weights = [np.random.default_rng(seed).normal(size=v.shape) for v in jax.tree.leaves(case.expected(x, softness))]
    with x64():
        dx, dsoftness = cases.compiled_gradient(case)(jnp.asarray(x), softness, tuple(map(jnp.asarray, weights)))
        dx, dsoftness = np.asarray(dx), float(dsoftness)

    def difference(move, soften):
        ahead = weighted(case.expected(x + STEP * move, softness + STEP * soften), weights)
        behind = weighted(case.expected(x - STEP * move, softness - STEP * soften), weights)
        return (ahead - behind) / (2 * STEP)

    actual = [np.vdot(dx, d) for d in directions] + [dsoftness]
    expected = [difference(d, 0) for d in directions] + [difference(0 * x, 1)]
    # The error of a central difference scales with the loss' own size, of which the largest slope is the measure.
    scale = 1 + np.abs(expected).max() + np.linalg.norm(dx)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * scale)


SHORT = ("sort", "top_k", "ranking", "quantile", "median")
LONG = ("sort", "top_k", "ranking", "median")


def alternating(names, parity):
    """Half of all: every other operator in each mode and method, two modes for each operator and method."""
    return [
        (name, mode, method)
        for i, method in enumerate(cases.METHODS)
        for j, mode in enumerate(cases.SOFT_MODES)
        for k, name in enumerate(names)
        if (i + j + k) % 2 == parity
    ]


@pytest.mark.parametrize(("name", "mode", "method"), alternating(SHORT, 1))
def test_short_rows(name, mode, method):
    """n = 5, every coordinate; top_k covers values and indices."""
    x = cases.sample(5, 11)
    check(Case(name, mode, method, -1), x, 0.2, list(np.eye(5)))


@pytest.mark.parametrize(("name", "mode", "method"), alternating(LONG, 0))
def test_long_rows(name, mode, method):
    """n = 64, random directions."""
    x = cases.sample(64, 12)
    directions = np.random.default_rng(13).normal(size=(3, 64)) / 8
    check(Case(name, mode, method, -1), x, 0.1, list(directions))


@COMBINATIONS
def test_gate_stops_the_permutation(mode, method):
    """With gated_grad=False only the payload's gradient remains: the soft permutation, transposed."""
    x = cases.sample(5, 14)
    how = {"softness": 0.2, "mode": mode, "method": method}
    weights = {
        "sort": np.arange(5) - 1.5,
        "max": np.array(2.0),
        "top_k": np.array([1.0, -2.0]),
        "quantile": np.array(1.5),
    }
    plans = {
        "sort": oracle.argsort(x, **how),
        "max": oracle.argmax(x, **how)[None],
        "top_k": oracle.argtop_k(x, cases.K, **how),
        "quantile": oracle.quantile_row(x, cases.Q, **how)[None],
    }
    with x64():

        def loss(x):
            out = {name: Case(name, mode, method, -1)(x, 0.2, gated_grad=False) for name in weights}
            out["top_k"] = out["top_k"][0]
            return {name: jnp.vdot(jnp.asarray(weights[name]), value) for name, value in out.items()}

        actual = jax.jit(jax.jacrev(loss))(jnp.asarray(x))
    for name, plan in plans.items():
        atol = cases.tolerance("float64", 5, cases.conditioning(x, 5, 0.2, method), method)
        np.testing.assert_allclose(actual[name], np.atleast_1d(weights[name]) @ plan, rtol=0, atol=10 * atol)


@cases.elementwise_cases(modes=cases.SOFT_MODES)
def test_elementwise(name, mode, options):
    """Derivatives in every argument and in softness, away from the kinks of c0."""
    args = [a + shift for a, shift in zip(cases.elementwise_inputs(name), (0.0, 0.013), strict=False)]
    weights = np.random.default_rng(15).normal(size=args[0].shape)
    softness = 0.37
    operator = cases.ELEMENTWISE[name]

    def loss(args, softness):
        return jnp.vdot(weights, operator.call(name, args, softness, mode, **dict(options)))

    with x64():
        dargs, dsoftness = jax.jit(jax.grad(loss, (0, 1)))([jnp.asarray(a) for a in args], softness)

    def value(moved, softness):
        return operator.oracle(*moved, softness, mode, **dict(options))

    for i, slope in enumerate(dargs):
        ahead = [a + STEP * (i == j) for j, a in enumerate(args)]
        behind = [a - STEP * (i == j) for j, a in enumerate(args)]
        expected = weights * (value(ahead, softness) - value(behind, softness)) / (2 * STEP)
        np.testing.assert_allclose(slope, expected, rtol=0, atol=1e-6 * (1 + np.abs(expected).max()))
    expected = weights @ (value(args, softness + STEP) - value(args, softness - STEP)) / (2 * STEP)
    np.testing.assert_allclose(dsoftness, expected, rtol=0, atol=1e-6 * (1 + abs(expected)))


@pytest.mark.parametrize("geometric", [True, False])
@pytest.mark.parametrize("name", ["logical_and", "logical_or", "logical_xor"])
def test_logic(name, geometric):
    """Derivatives of the SoftBool logic inside the unit square."""
    x, y = np.random.default_rng(16).uniform(0.1, 0.9, size=(2, 6))
    with x64():
        slope = jax.grad(lambda x: getattr(sj, name)(x, jnp.asarray(y), use_geometric_mean=geometric).sum())(
            jnp.asarray(x)
        )
    reference = getattr(oracle, name)
    expected = (reference(x + STEP, y, geometric) - reference(x - STEP, y, geometric)) / (2 * STEP)
    np.testing.assert_allclose(slope, expected, rtol=0, atol=1e-6 * (1 + np.abs(expected).max()))


def test_logic_gradients_are_finite_at_the_corners():
    """Exactly false and exactly true inputs: the floor keeps logarithms finite."""
    corners = jnp.asarray([0.0, 0.0, 1.0, 1.0]), jnp.asarray([0.0, 1.0, 0.0, 1.0])
    for name in ("logical_and", "logical_or", "logical_xor"):
        function = getattr(sj, name)
        slopes = jax.grad(lambda x, y, f=function: f(x, y).sum(), (0, 1))(*corners)
        assert np.isfinite(slopes).all()
    for geometric in (True, False):
        for function in (sj.all, sj.any):
            slope = jax.grad(lambda p, f=function, g=geometric: f(p, use_geometric_mean=g))(
                jnp.asarray([0.0, 1.0, 0.5])
            )
            assert np.isfinite(slope).all()
