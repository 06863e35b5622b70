"""Sums of Laplace CDFs: thresholds in closed form at real sizes, where a row is doubly stochastic, masks and ranks."""

import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import x64

import softjax as sj

HOW = {"method": "lapsum"}


def results(x, softness, weights, implementation):
    """Of every operator that takes all ranks or a threshold."""
    how = HOW | {"softness": softness, "implementation": implementation}
    p = sj.soft_permutation(x, **how)
    return [
        sj.sort(x, **how),
        sj.top_k(x, 40, **how)[0],
        (p @ weights[..., None])[..., 0],
        (p.T @ weights[..., None])[..., 0],
        sj.ranking(x, **how),
        sj.top_k_mask(x, 7.3, **how),
        sj.median(x, -1, **how)[..., None],
    ]


@functools.partial(jax.jit, static_argnums=3)
def with_slopes(x, softness, weights, implementation):
    """The results, and the derivatives of their weighted sum by the keys and by the softness."""

    def total(x, softness):
        found = results(x, softness, weights, implementation)
        return sum(jnp.vdot(weights[..., : y.shape[-1]], y) for y in found), found

    slopes, found = jax.grad(total, (0, 1), has_aux=True)(x, softness)
    return found, slopes


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("softness", [1e-4, 0.1, 10.0])
def test_fast_form_is_the_definition(kind, softness):
    """Values and gradients of a piecewise walk are those of rows that are written out, in float64."""
    n = 200
    with x64():
        given = jnp.asarray(cases.lying(kind, n)), softness, jnp.asarray(np.random.default_rng(1).normal(size=(2, n)))
        (have, slopes), (want, expected) = with_slopes(*given, "xla"), with_slopes(*given, "dense")
    for a, b in zip([*have, *slopes], [*want, *expected], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * np.max(np.abs(b)) + 1e-12)


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("softness", [1e-3, 0.1])
def test_float32_at_a_real_size(kind, softness):
    """Against the same in float64, of 20,000 float32 keys."""
    x = cases.lying(kind, 20_000).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    have, (slope, by_softness) = with_slopes(jnp.asarray(x), np.float32(softness), jnp.asarray(weights), "xla")
    with x64():
        wide = jnp.asarray(x, jnp.float64), float(np.float32(softness)), jnp.asarray(weights, jnp.float64)
        want, (expected, of_softness) = with_slopes(*wide, "xla")
    for a, b in zip(have, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * (1 + np.max(np.abs(b))))
    np.testing.assert_allclose(slope, expected, rtol=0, atol=1e-3 * np.max(np.abs(expected)))
    assert np.isfinite(by_softness) and np.isfinite(of_softness)


@pytest.mark.parametrize("kind", cases.KINDS)
def test_doubly_stochastic(kind):
    """Rows and columns of P sum to 1, in float32."""
    p = np.asarray(sj.argsort(jnp.asarray(cases.lying(kind, 60), jnp.float32), softness=0.1, **HOW))
    for axis in (-1, -2):
        np.testing.assert_allclose(p.sum(axis), 1, rtol=0, atol=cases.tolerance("float32", 60, 4))


@pytest.mark.parametrize("k", [0.0, 1e-3, 0.5, 1.0, 250.7, 499.0, 499.999, 500.0])
@pytest.mark.parametrize("softness", [1e-5, 0.1, 100.0])
def test_mask_sums_to_k(softness, k):
    """In [0, 1], of every kind of keys; the sum is k up to the rounding of 500 shares."""
    x = jnp.asarray(np.concatenate([cases.lying(kind, 500) for kind in cases.KINDS]), jnp.float32)
    mask = np.asarray(sj.top_k_mask(x, k, softness=softness, **HOW), np.float64)
    assert (mask >= 0).all() and (mask <= 1).all()
    np.testing.assert_allclose(mask.sum(-1), k, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("k", [3.0, 3.4])
@pytest.mark.parametrize("softness", [1e-3, 0.3])
def test_mask_follows_k(softness, k):
    """The derivative by k is what each element has of a little more, also where none is near the threshold."""
    near = [2, 3] if k == 3 else [2]
    with x64():
        x = jnp.asarray([0.0, 1.0, 2.5, 3.0, 4.0, 7.0])
        mask = lambda k: sj.top_k_mask(x, k, softness=softness, **HOW)
        slope = jax.jacfwd(mask)(k)
        if softness > 0.1:
            np.testing.assert_allclose(slope, (mask(k + 1e-5) - mask(k - 1e-5)) / 2e-5, rtol=0, atol=1e-7)
        np.testing.assert_allclose(slope.sum(), 1, rtol=1e-9)
        if softness < 0.1:
            np.testing.assert_array_equal(np.flatnonzero(slope > 0.4), near)


def test_a_mask_is_the_last_rows():
    """Of a whole k; ranks sum to what they sum to, and so do rows of ranks."""
    with x64():
        x = jnp.asarray(cases.lying("tied", 50))
        how = HOW | {"softness": 0.2}
        last = sj.argsort(x, **how)[:, -8:].sum(1)
        np.testing.assert_allclose(sj.top_k_mask(x, 8, **how), last, rtol=0, atol=1e-13)
        np.testing.assert_allclose(sj.ranking(x, **how).sum(-1), 50 * 49 / 2, rtol=1e-13)


def test_logarithms_beyond_the_range_of_weights():
    """Distances of thousands of softnesses, against the definition in float64."""
    x = np.array([0.0, 0.5, 3.0, 3.5, 10.0])
    logs = np.asarray(sj.argsort(jnp.asarray(x, jnp.float32), softness=1e-3, return_log_probs=True, **HOW))
    # Between two keys apart the threshold is in the middle; a row begins and ends there.
    edges = (x[1:] + x[:-1]) / 2
    for r in range(5):
        for j in range(5):
            if abs(r - j) > 1:
                nearest = edges[r - 1] - x[j] if j < r else x[j] - edges[r]
                np.testing.assert_allclose(logs[r, j], -nearest / 1e-3 - np.log(2), rtol=1e-5)


@pytest.mark.parametrize("mode", ["c0", "c1", "c2"])
def test_other_modes_raise(mode):
    """Abstractly and by every way to name the mode."""
    for call in (sj.sort, sj.argmax, sj.sort_st, sj.soft_permutation, lambda x, **how: sj.top_k(x, 2, **how)):
        with pytest.raises(ValueError, match=rf"`mode` \(={mode!r}\) must be 'hard' or 'smooth', .* 'lapsum'"):
            call(jnp.ones(3), mode=mode, **HOW)


def test_names_of_kernels_are_refused():
    """There are none."""
    with pytest.raises(NotImplementedError, match="lapsum"):
        sj.sort(jnp.ones(3), implementation="pallas_interpret", **HOW)
    assert sj.explain(sj.sort, jnp.ones(3), **HOW).implementation == "xla"


def test_published_mask():
    """Against the published formula by its own implementation in perf/peers, through a definition by bisection."""
    with x64():
        x = cases.lying("normal", 300)
        for k in (1, 30, 150):
            want = np.stack([oracle.top_k_mask(row, k, 0.05, "smooth", "lapsum") for row in x])
            np.testing.assert_allclose(sj.top_k_mask(jnp.asarray(x), k, softness=0.05, **HOW), want, rtol=0, atol=1e-13)
