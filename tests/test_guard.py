"""Guards: JAX's values to the bit, its derivatives where they are finite, else 0, at every order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import softjax as sj

UNARY = {"sqrt": jnp.sqrt, "log": jnp.log, "arcsin": jnp.arcsin, "arccos": jnp.arccos}
TINY = float(np.finfo(np.float32).tiny)
POINTS = [-np.inf, -2.0, -1.0, -0.5, -TINY, -0.0, 0.0, TINY, 1e-30, 0.3, 1.0, 1.5, 1e30, np.inf, np.nan]


def same_bits(actual, expected):
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(np.asarray(actual, np.float32), np.asarray(expected, np.float32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32"])
@pytest.mark.parametrize("name", [*UNARY, "div", "norm"])
def test_values_are_those_of_jax(name, dtype):
    points = [-2, 0, 1, 3] if dtype == "int32" else POINTS
    x = jnp.asarray(points).astype(dtype)
    if name == "div":
        x, y = (a.ravel() for a in jnp.meshgrid(x, x))  # of a broadcast divisor XLA takes the reciprocal
        same_bits(sj.div(x, y), jnp.divide(x, y))
    elif name == "norm":
        x = jnp.asarray(np.random.default_rng(0).normal(size=(40, 64)) * 3).astype(dtype)
        for axis in (None, 0, -1):
            same_bits(sj.norm(x, axis=axis), jnp.linalg.norm(x.astype(sj.norm(x).dtype), axis=axis))
    else:
        same_bits(getattr(sj, name)(x), UNARY[name](x))


@pytest.mark.parametrize("name", UNARY)
def test_derivatives_are_finite_and_those_of_jax_where_these_are(name):
    x = jnp.asarray(POINTS)
    guarded = getattr(sj, name)
    for order in (1, 2):
        slope, hard = guarded, UNARY[name]
        for _ in range(order):
            slope, hard = jax.grad(slope), jax.grad(hard)
        actual, expected = np.asarray(jax.vmap(slope)(x)), np.asarray(jax.vmap(hard)(x))
        assert np.isfinite(actual).all()
        inside = np.isfinite(expected) & np.isfinite(np.asarray(UNARY[name](x)))
        assert 3 <= inside.sum() < len(POINTS)
        np.testing.assert_allclose(actual[inside], expected[inside], rtol=3e-6, atol=1e-6)


def test_slopes_at_the_ends_of_a_domain():
    for name, points in {"sqrt": [0.0, -1.0], "log": [0.0], "arcsin": [-1.0, 1.0, 2.0], "arccos": [-1.0, 1.0]}.items():
        for point in points:
            assert jax.grad(getattr(sj, name))(point) == 0
    for x, y in ((1.0, 0.0), (0.0, 0.0), (1.0, 1e-30), (np.inf, 1.0)):
        gradient = jax.grad(sj.div, (0, 1))(x, y)
        assert np.isfinite(gradient).all()
        assert np.isfinite(jax.tree.leaves(jax.hessian(sj.div, (0, 1))(x, y))).all()
    np.testing.assert_allclose(jax.grad(sj.div, (0, 1))(3.0, 2.0), (0.5, -0.75))
    np.testing.assert_allclose(jax.grad(sj.div, (0, 1))(1e-25, 1e-25), (1e25, -1e25), rtol=1e-6)


@pytest.mark.parametrize("transform", [jax.grad, jax.jacfwd, jax.jit], ids=["grad", "jacfwd", "jit"])
def test_norm(transform):
    x = jnp.asarray([[3.0, 4.0], [0.0, 0.0]])
    lengths = lambda x: sj.norm(x, axis=-1).sum()
    result = np.asarray(transform(lengths)(x))
    np.testing.assert_allclose(result, 5.0 if transform is jax.jit else [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert np.isfinite(jax.hessian(lengths)(x)).all()


def test_norm_at_the_ends_of_the_range():
    for x in ([3e-14, 4e-14], [3e14, 4e14], [3.0, 4.0]):
        actual, expected = (np.asarray(jax.hessian(f)(jnp.asarray(x))) for f in (sj.norm, jnp.linalg.norm))
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
    for x in ([np.inf, 1.0], [np.nan, 1.0], [1e30, 1e30], [0.0, 0.0]):
        assert (np.asarray(jax.grad(sj.norm)(jnp.asarray(x))) == 0).all()


def test_axes_of_norm():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
    for axis in (None, 0, -1, (0, 2), (0, 1, 2)):
        for keepdims in (False, True):
            actual = sj.norm(x, axis=axis, keepdims=keepdims)
            expected = np.sqrt(np.sum(np.asarray(x, np.float64) ** 2, axis=axis, keepdims=keepdims))
            assert actual.shape == np.shape(expected)
            np.testing.assert_allclose(actual, expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"`axis`.*3"):
        sj.norm(x, axis=3)
    with pytest.raises(TypeError, match="`keepdims`"):
        sj.norm(x, keepdims=1.5)


def test_only_real_arrays():
    for name in UNARY:
        with pytest.raises(TypeError, match="`x`"):
            getattr(sj, name)(1j)
    with pytest.raises(TypeError, match="`y`"):
        sj.div(1.0, 1j)
