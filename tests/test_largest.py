"""The k largest values of smooth SoftSort without a sort, against rows that are written out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import x64

import softjax as sj
from softjax._methods.softsort import largest, smooth
from softjax._methods.softsort.definition import DEFINITION
from softjax._modes import MODES

N = 120
SMOOTH = MODES["smooth"]
NEAR_AN_END = [range(118, 120), range(105, 120), range(105, 117), range(7), range(2, 9), range(5, 6)]


def _keys():
    """Normal rows, rows with ties, a constant row, one whose other keys are masked, one with zeros of both signs."""
    x = np.random.default_rng(0).normal(size=(6, N))
    x[1] = np.round(2 * x[1]) / 2
    x[2] = np.where(x[2] > 1.3, 1.0, -2.0)
    x[3] = 0.3
    x[4, 8:] = -1e9
    x[5] = np.where(x[5] > 1, [0.0, -0.0] * (N // 2), -1.0)
    return x


def _by_value(x, dx):
    """Gradients summed over tied elements, which of them is the k-th largest having no say."""
    sums = lambda row, d: np.bincount(np.unique(row, return_inverse=True)[1], d, minlength=N)
    return np.stack([sums(row, d) for row, d in zip(x, dx, strict=True)])


def _applied(method, x, ranks, tau, mode):
    return method.apply(x, ranks, None, tau, mode)[:, :, 0]


def _sent(method, x, ranks, tau, mode):
    """What the ranks send to the keys, those of one value together."""
    y = jnp.asarray(np.random.default_rng(5).normal(size=(len(x), len(ranks), 2)))
    same = jnp.stack([row[:, None] == row[None, :] for row in jax.lax.stop_gradient(x)]).astype(x.dtype)
    return jnp.einsum("bnm,bmd->bnd", same, method.transposed(x, ranks, y, tau, mode)).reshape(len(x), -1)


@partial(jax.jit, static_argnums=(0, 1))
def _derivatives(form, ranks, x, tau):
    """Values; the gradient of a weighted sum of their tanh; and its own derivative along a direction."""
    values = lambda x, tau: form(x, ranks, tau, SMOOTH)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=jax.eval_shape(values, x, tau).shape))
    gradient = jax.grad(lambda x, tau: jnp.sum(weights * jnp.tanh(values(x, tau))), (0, 1))
    directions = jnp.asarray(np.random.default_rng(2).normal(size=x.shape)), tau / 2
    return [values(x, tau), *jax.jvp(gradient, (x, tau), directions)]


FORMS = {
    "values": (partial(_applied, largest), partial(_applied, DEFINITION)),
    "transpose": (partial(_sent, largest), partial(_sent, DEFINITION)),
}


@pytest.mark.parametrize("ranks", NEAR_AN_END, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_values_and_derivatives_are_those_of_the_definition(form, ranks):
    """With respect to the keys and the softness, in float64; ties, and keys far below the others."""
    assert largest.serves(N, ranks)
    tied = [1, 2, 3, 5]  # rows where a second derivative depends on how ties are broken
    for softness in (1e-4, 0.1, 3.0, 1e4):
        with x64():
            x, tau = jnp.asarray(_keys()), jnp.full(6, softness)
            have, want = (_derivatives(of, ranks, x, tau) for of in FORMS[form])
        for found in (have, want):
            found[1:] = [(_by_value(x, dx), dtau) for dx, dtau in found[1:]]
        for a, b in zip(jax.tree.leaves(have[:2]), jax.tree.leaves(want[:2]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * max(1e-3, np.max(np.abs(b))))
        for a, b in zip(have[2], want[2], strict=True):
            a, b = (np.delete(c, tied, axis=0) for c in (a, b))
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * max(1e-3, np.max(np.abs(b))))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_accuracy_at_a_real_size(dtype):
    """Against float64, relative to the spread: values of 100,000 keys and their gradient."""
    x = np.random.default_rng(3).normal(size=100_000).astype(np.float32)
    rounded = np.asarray(jnp.asarray(x, dtype).astype(jnp.float32))
    weights = np.random.default_rng(4).normal(size=1_000)
    loss = lambda x, how: (jnp.sum(jnp.asarray(weights, x.dtype) * (y := sj.top_k(x, 1_000, implementation=how)[0])), y)
    gradient = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    dx, y = gradient(jnp.asarray(x, dtype), None)
    with x64():
        exact = smooth.apply(jnp.asarray(rounded[None], float), range(99_000, 100_000), None, jnp.full(1, 0.1), SMOOTH)
        exact = np.asarray(exact)[0, ::-1, 0]
    unit = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, atol=max(2e-6, 2 * unit * 4.5))
    assert np.isfinite(np.asarray(dx, np.float32)).all() and abs(float(jnp.sum(dx.astype(float))) - weights.sum()) < 0.5


@pytest.mark.parametrize("operator", [lambda x: sj.sort(x, softness=0.01)[-4:], lambda x: sj.top_k(x, 4)[0][::-1]])
def test_masked_keys_take_no_digits_from_others(operator):
    """Keys masked by -1e9 are most of the row, and the others keep their values: these were 0."""
    x = jnp.concatenate([jnp.arange(1.0, 5.0), jnp.full(60, -1e9)])
    np.testing.assert_allclose(operator(x), [1, 2, 3, 4], rtol=2e-3)


def test_a_column_far_from_zero_keeps_its_digits():
    """Averages of a payload that is near zero in some elements and far from it in others."""
    x, y = jnp.arange(40.0), jnp.concatenate([jnp.full(36, 1e9), jnp.arange(1.0, 5.0)])
    np.testing.assert_allclose((sj.soft_permutation(x, softness=0.01) @ y)[-4:], [1, 2, 3, 4], rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e14, 1e30])
@pytest.mark.parametrize("mask", [float(np.finfo(np.float32).min), -1e37])
def test_large_and_masked_keys_have_finite_gradients(scale, mask):
    """A cotangent times a key that is far below the others overflows, and its weight is 0."""
    x = jnp.concatenate([jnp.arange(1.0, 31.0) * scale, jnp.full(34, mask)])
    slope = jax.grad(lambda x: 10 * jnp.sum(sj.top_k(x, 5, softness=0.1 * scale)[0]))(x)
    assert np.isfinite(slope).all() and abs(float(jnp.sum(slope)) - 50) < 1e-2


@pytest.mark.parametrize("k", [1, 2, 40.25, np.array([3.0, 256.0])])
@pytest.mark.parametrize("mask", [sj.top_k_mask, sj.bottom_k_mask])
def test_masks_of_a_known_k(mask, k):
    """The sum of k rows, a fraction of the next one included, whether k is known, and no sort needed, or not."""
    with x64():
        x = np.random.default_rng(7).normal(size=(2, 2048))
        x = jnp.asarray(np.stack([x[0], np.round(8 * x[1]) / 8]))
        want = mask(x, k, method="softsort", implementation="dense")
        known = jax.jit(lambda x: mask(x, k, method="softsort"))
        for have in (known(x), jax.jit(lambda x, k: mask(x, k, method="softsort"))(x, k)):
            np.testing.assert_allclose(have, want, rtol=0, atol=1e-12)
            np.testing.assert_allclose(have.sum(-1), np.broadcast_to(k, 2), rtol=1e-12)
        sorts = known.lower(x).as_text().count("stablehlo.sort")
        assert (sorts == 0) == (np.max(k) > 1)  # a single row is the definition's


@pytest.mark.parametrize("at", [0, 57, N - 1])
def test_a_nan_reaches_its_whole_row(at):
    """Of either sign bit, at either end; no other row is changed."""
    x = np.random.default_rng(6).normal(size=(3, N)).astype(np.float32)
    spoiled = x.copy()
    spoiled[0, at] = np.nan
    spoiled[1, at] = -np.float32(np.nan)
    for operator in (
        lambda x: sj.top_k(x, 5)[0],
        lambda x: -sj.top_k(-x, 5)[0],
        lambda x: sj.top_k_mask(x, 5, method="softsort"),
        lambda x: sj.bottom_k_mask(x, 5, method="softsort"),
        lambda x: jax.grad(lambda x: jnp.sum(sj.top_k(-x, 5)[0] ** 2))(x),
    ):
        have = np.asarray(operator(jnp.asarray(spoiled)))
        assert np.isnan(have[:2]).all()
        np.testing.assert_allclose(have[2], operator(jnp.asarray(x))[2], rtol=1e-6)
