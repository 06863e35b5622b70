"""The hard sort under every fast form: on a CPU by integers, in the order that `lax.sort` has for floats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import x64

from softjax._methods import hard_sort

TINY = {"float32": 1e-45, "float64": 5e-324}
"""The smallest float that is not 0."""


def drawn(dtype):
    """Rows with zeros of both signs, NaN of both signs, infinities, ties, the largest and the smallest floats."""
    x = np.random.default_rng(0).normal(size=(7, 60)).astype(dtype)
    x[0, :20], x[0, 20:40] = -0.0, 0.0
    x[1, :9], x[1, 9:20] = np.nan, -np.nan
    x[2, :9], x[2, 9:20] = np.inf, -np.inf
    x[3] = np.round(x[3])
    x[4, :9], x[4, 9:20] = np.finfo(dtype).max, np.finfo(dtype).min
    x[5, :20] = np.finfo(dtype).tiny * np.arange(-10, 10)
    x[6, :20] = TINY[dtype] * np.arange(-10, 10)
    return x


@pytest.mark.parametrize("dtype", TINY)
def test_integers_sort_as_floats_do(dtype):
    """Keys and the index each came from, ties in their order; values alone."""
    x = drawn(dtype)
    with x64():
        wanted, places = hard_sort._sort_pairs(jnp.asarray(x))
        s, permutation = jax.jit(hard_sort._sort_by_index)(jnp.asarray(x))
        alone = jax.jit(hard_sort.sorted_keys)(jnp.asarray(x))
    normal = slice(0, 6)  # a compiler may take the smallest of all for 0
    np.testing.assert_array_equal(permutation[normal], places[normal])
    np.testing.assert_array_equal(s[normal], wanted[normal])
    for have in (s, alone):
        assert have.dtype == dtype
        np.testing.assert_array_equal(have, np.sort(x, axis=-1))


def test_sorted_keys_have_no_derivative():
    """Their users differentiate what they make of them by other means."""
    gradient = jax.grad(lambda x: jnp.sum(hard_sort.sorted_keys(x) ** 2))(jnp.asarray([[2.0, 1.0]]))
    np.testing.assert_array_equal(gradient, np.zeros((1, 2)))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 2), (129, 2), (777, 3), (2000, 3), (4096, 5), (20_011, 30)])
def test_top_k_of_blocks(n, k):
    """What `lax.top_k` finds, the first of equal keys, too, in rows with ties, infinities, and a NaN at the end."""
    x = np.random.default_rng(n).normal(size=(6, n)).astype(np.float32)
    x[1], x[2], x[3, ::3], x[4, ::2] = np.round(x[1]), -1, np.inf, -np.inf
    x[5, -1] = np.nan
    wanted = jax.lax.top_k(jnp.asarray(x), k)
    for found, want in zip(
        jax.jit(hard_sort._top_k_of_blocks, static_argnums=1)(jnp.asarray(x), k), wanted, strict=True
    ):
        np.testing.assert_array_equal(found, want)
