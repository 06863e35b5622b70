"""Top-k masks: sums, real-valued and per-row k, gradients, extremes of softness."""

import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import SOFT_MODES, x64
from jax.test_util import check_grads

import softjax as sj

KS = np.array([3.0, 10.5, 0.0, 60.0, 0.25])


def rows(dtype=np.float32):
    """Normal rows, one with ties, one constant: (5, 60)."""
    x = np.random.default_rng(0).normal(size=(5, 60))
    x[1] = np.round(2 * x[1]) / 2
    x[4] = 0.3
    return x.astype(dtype)


@functools.cache
def compiled(mode, method):
    """The mask with traced k and softness, and the gradient of a weighted sum of it in x, k and softness."""
    mask = lambda x, k, softness: sj.top_k_mask(x, k, softness=softness, mode=mode, method=method)
    loss = lambda x, k, softness, w: jnp.sum(w * mask(x, k, softness))
    return jax.jit(mask), jax.jit(jax.grad(loss, (0, 1, 2)))


@pytest.mark.parametrize("mode", SOFT_MODES)
def test_sums_to_k_within_bounds(mode):
    """In float32: entries in [0, 1], each row's sum its own k, finite gradients, nothing and everything exact.

    k has a gradient that sums to 1 where the mask can follow it.
    """
    mask, gradient = compiled(mode, "ot")
    x, k = jnp.asarray(rows()), jnp.asarray(KS, jnp.float32)
    for softness in (1e-6, 1e-3, 0.1, 1e3):
        m = np.asarray(mask(x, k, softness))
        assert m.min() >= 0 and m.max() <= 1
        np.testing.assert_allclose(m.sum(1, dtype=np.float64), KS, atol=cases.tolerance("float32", 60))
        assert not m[2].any() and (m[3] == 1).all()
        for g in gradient(x, k, softness, jnp.cos(x)):
            assert np.isfinite(g).all()
    dk = gradient(x, k, 0.1, jnp.ones_like(x))[1]
    np.testing.assert_allclose(dk[np.array([0, 1, 4])], 1.0, atol=1e-5)


@cases.each_pair(SOFT_MODES)
def test_real_k_against_the_definition(mode, method):
    """Values in float64, k different in every row."""
    with x64():
        x = rows(np.float64)[:, :20]
        k = np.array([3.0, 7.5, 0.0, 20.0, 0.25])
        softness = 0.05 if method == "ot" else 0.3
        have = compiled(mode, method)[0](jnp.asarray(x), jnp.asarray(k), softness)
    want = [oracle.top_k_mask(row, float(ki), softness, mode, method) for row, ki in zip(x, k, strict=True)]
    np.testing.assert_allclose(have, want, atol=1e-8)


@pytest.mark.parametrize("mode", ["smooth", "c2"])
def test_gradients_to_second_order(mode):
    """In x, k and softness, forward and reverse, against finite differences in float64."""
    with x64():
        x = jnp.asarray(rows(np.float64)[:2, :15] * np.array([[1.0], [0.7]]))
        w = jnp.asarray(np.random.default_rng(1).normal(size=x.shape))
        loss = lambda x, k, softness: jnp.sum(w * sj.top_k_mask(x, k, softness=softness, mode=mode))
        arguments = x[:1].repeat(2, 0) + 0.1 * w, jnp.asarray([4.0, 7.3]), jnp.asarray(0.2)
        check_grads(loss, arguments, order=2, rtol=1e-4, atol=1e-4)


@cases.each_pair(("smooth", "c1", "hard"))
def test_nan_as_k(mode, method):
    """A traced k of NaN makes its row NaN, and no other; one beyond n is n."""
    x = jnp.asarray(rows()[:, :20])
    mask = compiled(mode, method)[0]
    k = jnp.asarray([3.0, jnp.nan, 0.0, jnp.inf, 0.25])
    have, other = mask(x, k, 0.3), mask(x, jnp.nan_to_num(k, nan=5.0, posinf=20.0), 0.3)
    assert np.isnan(have[1]).all()
    keep = np.array([0, 2, 3, 4])
    np.testing.assert_array_equal(have[keep], other[keep])


def test_bottom_is_the_mask_of_the_rest():
    """The k smallest are those that the n - k largest leave."""
    x = jnp.asarray(rows())
    np.testing.assert_allclose(sj.bottom_k_mask(x, 12.5), 1 - sj.top_k_mask(x, 47.5), atol=1e-5)


def test_hard_is_top_k():
    """Ones at the indices of `jax.lax.top_k`, the first of ties; a fraction of the next."""
    x = jnp.asarray(rows()[:4])
    ones = jnp.sum(jax.nn.one_hot(jax.lax.top_k(x, 5)[1], 60), axis=1)
    np.testing.assert_array_equal(sj.top_k_mask(x, 5, mode="hard"), ones)
    fraction = sj.top_k_mask(x, 5.25, mode="hard")
    np.testing.assert_array_equal(jnp.sort(fraction)[:, -6:], jnp.asarray([[0.25, 1, 1, 1, 1, 1]] * 4))
    np.testing.assert_array_equal(sj.top_k_mask_st(x, 5), ones)


def test_converges_within_the_bracket():
    """The shift of the threshold is found in few steps at any softness, and the report says so."""
    from softjax._methods.ot.two_anchors import pair_mask
    from softjax._modes import MODES

    x, k = jnp.asarray(rows()), jnp.asarray(KS, jnp.float32)
    for mode in SOFT_MODES:
        for softness in (1e-6, 1e-2, 1.0, 1e3):
            info = pair_mask(MODES[mode], x, k, jnp.full(5, softness))[1]
            assert int(info.iterations.max()) <= 40
            assert float(info.marginal_error.max()) <= 1e-4


def test_errors():
    """k outside of [0, n], of a wrong shape or type."""
    x = jnp.asarray(rows())
    for k, message in ((61, r"`k` \(=61\) must be in \[0, 60\]"), (jnp.ones(3), r"`k.shape` \(=\(3,\)\) must be")):
        with pytest.raises(ValueError, match=message):
            sj.top_k_mask(x, k)
    with pytest.raises(TypeError, match=r"`k` \(='2'\) must be"):
        sj.top_k_mask(x, "2")
