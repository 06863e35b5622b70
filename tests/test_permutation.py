"""The lazy soft permutation, and payloads sorted by soft keys, against the dense matrices."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import METHODS, x64
from jax.test_util import check_grads

import softjax as sj

N, D = 40, 3  # more ranks than any form writes out as dense rows
COMBINATIONS = cases.each_pair(("hard", "smooth", "c1"))


def arrays(dtype=np.float32):
    """Keys (2, N), a payload (N, D) that the batch shares, one value for each rank (2, N)."""
    rng = np.random.default_rng(0)
    shapes = ((2, N), (N, D), (2, N))
    return tuple(jnp.asarray(rng.normal(size=shape).astype(dtype)) for shape in shapes)


def close(actual, expected, method="softsort"):
    """Equal to float32's rounding of sums over N elements."""
    unit = cases.tolerance("float32", N, method=method)
    np.testing.assert_allclose(actual, expected, rtol=4 * unit, atol=4 * unit)


SLICED = [("smooth", "softsort"), ("c1", "neuralsort"), ("smooth", "ot"), ("smooth", "lapsum")]
PARTS = {"whole": slice(None), "top": slice(None, -7, -1), "reversed": slice(None, None, -1)}


@pytest.mark.parametrize(
    ("mode", "method", "part"),
    [
        pytest.param(mode, method, part, marks=cases.slow_unless(part == "whole" or (mode, method) in SLICED))
        for mode, method in cases.pairs(("hard", "smooth", "c1"))
        for part in PARTS
    ],
)
def test_products_are_the_dense_ones(mode, method, part):
    """P @ y, P.T @ y, y @ P for vectors and matrices, of the whole and of its rows in both directions."""
    x, y, _ = arrays()

    def products(p, turned, y):
        r = p.shape[-2]
        return p @ y, p @ y[:, 0], turned @ y[:r], turned @ y[:r, 0], y[:r].T @ p, y.T @ turned

    run = jax.jit(lambda p, y: (products(p, p.T, y), p.todense(), p.T.todense()))

    whole = sj.soft_permutation(x, mode=mode, method=method)
    p = whole[PARTS[part]]
    lazy, dense, turned = run(p, y)
    matrix = np.asarray(dense, np.float64)
    plain = products(matrix, np.swapaxes(matrix, -1, -2), np.asarray(y))
    assert dense.shape == p.shape == (2, len(p), N) and p.T.shape == turned.shape == (2, N, len(p))
    for have, want in zip(lazy, plain, strict=True):
        close(have, want, method)
    if part == "whole":
        close(dense, sj.argsort(x, mode=mode, method=method), method)
        close(whole[-1], whole[-1:].todense()[:, 0], method)


@pytest.mark.parametrize("method", METHODS)
def test_transforms(method):
    """A pytree: through jit and vmap, with a gradient of its own structure."""
    x, y, _ = arrays()
    make = jax.jit(lambda x: sj.soft_permutation(x, softness=0.3, method=method))
    close(jax.vmap(make)(x) @ y, make(x) @ y, method)
    close(jax.jit(lambda p: jax.vmap(lambda p: p @ y)(p))(make(x)), make(x) @ y, method)

    gradient = jax.grad(lambda p: jnp.sum(p @ y))(make(x))
    assert gradient.keys.shape == x.shape and gradient.softness.shape == (2,)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_are_the_dense_ones(method, transposed):
    """Of P @ y and P.T @ y with respect to keys and softness, in float64."""
    with x64():
        x, y, w = arrays(np.float64)

        def loss(x, softness, lazily):
            p = sj.soft_permutation(x, softness=softness, method=method)
            if transposed:
                return jnp.sum(jnp.sin((p.T if lazily else jnp.swapaxes(p.todense(), -1, -2)) @ w[0]))
            return jnp.sum(jnp.sin((p if lazily else p.todense()) @ y))

        gradient = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
        have, want = (gradient(x, jnp.asarray(0.3), lazily) for lazily in (True, False))
    allowed = cases.tolerance("float64", N, cases.conditioning(x, N, 0.3, method), method)
    for a, b in zip(have, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=allowed * np.max(np.abs(want[0])))


@pytest.mark.parametrize(("method", "mode"), [("softsort", "smooth"), ("neuralsort", "smooth"), ("neuralsort", "c1")])
def test_gradient_of_a_transpose_in_float32(method, mode):
    """It keeps a float32's digits at 600 keys, where a generic rule would lose three."""
    keys = np.random.default_rng(3).normal(size=(1, 600)).astype(np.float32)

    def loss(x, implementation):
        p = sj.soft_permutation(x, method=method, mode=mode, implementation=implementation)
        return jnp.sum(jnp.sin(p.T @ jnp.sin(x)[..., None]))

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    have = gradient(jnp.asarray(keys), "xla")
    with x64():
        want = gradient(jnp.asarray(keys, np.float64), "dense")
    np.testing.assert_allclose(have, want, rtol=0, atol=2e-5 * np.max(np.abs(want)))


def test_rows_of_transport_are_the_problem_of_their_ranks():
    """P[-k:] is what `top_k` solves."""
    x, _, _ = arrays()
    p = sj.soft_permutation(x, method="ot", softness=0.01)[::-1][:4]
    values, index = sj.top_k(x, 4, method="ot", softness=0.01)
    close(p.todense(), index, "ot")
    close(p @ x[..., None], values[..., None], "ot")


@pytest.mark.parametrize("axis", [0, 1, -1, None])
def test_take_along_axis(axis):
    """The lazy operator instead of the soft index that it stands for."""
    x = jnp.asarray(cases.sample((4, 5, 6), dtype=np.float32))
    arr = jnp.asarray(cases.sample((4, 5, 6), seed=1, dtype=np.float32))
    want = sj.take_along_axis(arr, sj.argsort(x, axis=axis), axis)
    close(sj.take_along_axis(arr, sj.soft_permutation(x, axis=axis), axis), want)


@COMBINATIONS
@pytest.mark.parametrize("descending", [False, True])
def test_payloads(mode, method, descending):
    """sort((keys, *payloads)): each payload in the soft order of the keys and in its own dtype."""
    x = jnp.asarray(cases.sample((2, N, 2), dtype=np.float32))
    whole = jnp.asarray(np.arange(x.size).reshape(x.shape) % 7)
    half = jnp.asarray(cases.sample((2, N, 2), seed=2), jnp.bfloat16)
    options = {"axis": 1, "mode": mode, "method": method, "descending": descending}
    keys, first, second = jax.jit(lambda *a: sj.sort(a, **options))(x, whole, half)
    p = sj.argsort(x, **options)
    close(keys, sj.sort(x, **options), method)
    np.testing.assert_allclose(first, sj.take_along_axis(whole.astype(jnp.float32), p, 1), rtol=2e-4, atol=2e-4)
    assert first.dtype == jnp.float32 and second.dtype == jnp.bfloat16
    want = sj.take_along_axis(half.astype(jnp.float32), p, 1)
    np.testing.assert_allclose(second.astype(jnp.float32), want, rtol=2.0**-7, atol=2.0**-7)


def test_hard_payloads_are_those_of_lax_sort():
    """Ties keep their order, as with `jax.lax.sort` of several operands."""
    x = jnp.asarray([[2.0, 1.0, 2.0, 1.0]])
    payload = jnp.arange(4.0)[None]
    want = jax.lax.sort((x, payload), num_keys=1)
    for have, expected in zip(sj.sort((x, payload), mode="hard"), want, strict=True):
        np.testing.assert_array_equal(have, expected)


def test_payload_gradients():
    """With respect to keys, payload and softness, against finite differences in float64."""
    with x64():
        x, _, payload = arrays(np.float64)
        x = x[:, :12]
        payload = payload[:, :12]

        def loss(x, payload, softness):
            keys, moved = sj.sort((x, payload), softness=softness)
            return jnp.sum(jnp.sin(keys) * moved)

        check_grads(loss, (x, payload, jnp.asarray(0.3)), order=2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("mode", "method"), [("hard", "ot"), ("smooth", "softsort"), ("c1", "neuralsort")])
@pytest.mark.parametrize("axis", [0, 1, None])
def test_payloads_of_vectors(mode, method, axis):
    """A payload with axes behind the keys' is what its entries are one by one; a list is a tuple, as in lax.sort."""
    x = jnp.asarray(cases.sample((3, 4), dtype=np.float32))
    y = jnp.asarray(cases.sample((3, 4, 2, 1), seed=4, dtype=np.float32))
    options = {"axis": axis, "mode": mode, "method": method, "descending": True}
    keys, one, moved = jax.jit(lambda *a: sj.sort(list(a), **options))(x, x, y)
    close(keys, sj.sort(x, **options), method)
    assert moved.shape == (*keys.shape, 2, 1)
    for i in range(2):
        entry = sj.sort((x, y[..., i, 0]), **options)
        close(moved[..., i, 0], entry[1], method)
    close(one, keys, method)


def test_lists():
    """A list of arrays is a tuple of operands; one of numbers is an array, as for the other operators."""
    x = jnp.asarray([3.0, 1.0, 2.0])
    for have, want in zip(sj.sort([x, np.arange(3.0)], mode="hard"), ([1, 2, 3], [1, 2, 0]), strict=True):
        np.testing.assert_array_equal(have, want)
    np.testing.assert_array_equal(sj.sort([3.0, 1.0, 2.0], mode="hard"), [1, 2, 3])
    np.testing.assert_array_equal(sj.sort([[3, 1], [1, 2]], mode="hard"), [[1, 3], [1, 2]])


@pytest.mark.parametrize("method", METHODS)
def test_as_an_array(method):
    """Iteration, NumPy's and JAX's conversion, and products of two are those of the dense matrices."""
    x = jnp.asarray(cases.sample((2, 5), dtype=np.float32))
    p, q = sj.soft_permutation(x, method=method), sj.soft_permutation(-x, method=method)
    dense, other = np.asarray(p.todense()), np.asarray(q.todense())
    turned = np.swapaxes(dense, -1, -2)
    for lazy, want in [(p, dense), (p.T, turned), (p[1:3], np.asarray(p[1:3].todense()))]:
        for have in (np.asarray(lazy), jnp.asarray(lazy), np.stack(list(lazy), -2)):
            np.testing.assert_array_equal(have, want)
    assert np.asarray(p, np.float16).dtype == np.float16
    for have, want in [(p @ q, dense @ other), (p.T @ p, turned @ dense), (p @ q.T, dense @ np.swapaxes(other, 1, 2))]:
        close(have, want, method)
    close(np.ones((2, 3, 5), np.float32) @ p, np.ones((2, 3, 5)) @ dense, method)


def test_infinite_keys_and_payload_rows():
    """An infinity among the keys stays at its end; the payload beside it is finite."""
    x = jnp.asarray([[1.0, jnp.inf, -jnp.inf, 0.0]])
    keys, moved = sj.sort((x, jnp.arange(4.0)[None]))
    assert keys[0, 0] == -jnp.inf and keys[0, 3] == jnp.inf
    np.testing.assert_allclose(moved[0, [0, 3]], [2.0, 1.0], atol=1e-6)


def test_errors():
    """The argument, its value, and what is legal."""
    x, y, _ = arrays()
    p = sj.soft_permutation(x)
    cases_ = [
        (lambda: p[::2], r"`key` .* must be a slice of step 1 or -1"),
        (lambda: p[3:3], r"`key` .* keeps some of the 40 ranks"),
        (lambda: p @ y[:3], r"`y.shape` \(=\(3, 3\)\) must be \(40,\) or \(\.\.\., 40, d\)"),
        (lambda: p @ jnp.ones((3, N, 1)), r"broadcastable to \(2,\)"),
        (lambda: p.solver_info(), r"`method` \(='softsort'\) must be 'ot'"),
        (lambda: sj.sort(()), r"`a` \(=\(\)\) must be"),
        (lambda: sj.sort((x, x[0])), r"`a\[1\].shape` \(=\(40,\)\) must be \(2, 40\)"),
        (lambda: sj.take_along_axis(x[0], p), r"`indices.ndim` \(=3\) must be 2"),
        (lambda: sj.soft_permutation(x, softness=0.0), r"`softness` \(=0.0\) must be positive"),
    ]
    for call, message in cases_:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(IndexError, match=r"`key` \(=40\) must be in \[-40, 39\]"):
        p[40]


def test_leaves_that_were_changed_are_checked():
    """A softness that is no longer positive raises, and gives NaN where it is traced; columns keep their own scale."""
    p = jax.tree.map(jnp.negative, sj.soft_permutation(jnp.arange(3.0)))
    for apply in (lambda p: p @ jnp.arange(3.0), lambda p: p.todense()):
        with pytest.raises(ValueError, match="`softness` .* must be positive"):
            apply(p)
        assert np.all(np.isnan(jax.jit(apply)(p)))
    y = jnp.stack([jnp.full(3, 1e38), jnp.full(3, 1e-12)], axis=-1)
    np.testing.assert_allclose(sj.soft_permutation(jnp.arange(3.0)) @ y, y, rtol=1e-5)
    assert jax.jit(lambda x: sj.soft_permutation(x) @ jnp.zeros((3, 0)))(jnp.arange(3.0)).shape == (3, 0)


@pytest.mark.parametrize("mode", ["hard", "smooth"])
def test_keys_without_payloads(mode):
    """A tuple of the keys alone is sorted like the keys."""
    x = jnp.asarray([3.0, 1.0, 2.0])
    (alone,) = sj.sort((x,), mode=mode)
    np.testing.assert_array_equal(alone, sj.sort(x, mode=mode))
