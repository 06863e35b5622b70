"""Selection by SoftIndex: the expectation of JAX's indexing, and JAX's own function for integers and one-hots."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import tolerance, x64

import softjax as sj

RNG = np.random.default_rng(70)
A = RNG.normal(size=(2, 4, 3))


def distributions(shape, n):
    """Random SoftIndices of a shape over [n]."""
    weights = RNG.uniform(size=(*shape, n))
    return weights / weights.sum(-1, keepdims=True)


def close(actual, expected):
    """float64 equality to rounding."""
    assert actual.shape == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance("float64", 4, 4))


def expectation(hard, index, positions):
    """sum over positions of the probability times the hard result there."""
    return sum(index[..., p] * hard(p) for p in range(positions))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, None])
def test_take_along_axis(axis):
    """Brute force over the elements along the axis."""
    source = A.reshape(-1) if axis is None else A
    moved = np.moveaxis(source, 0 if axis is None else axis, -1)
    n = moved.shape[-1]
    index = distributions((*moved.shape[:-1], 5), n)
    expected = np.einsum("...kn,...n->...k", index, moved)
    if axis is not None:
        index = np.moveaxis(index, -2, axis % 3)
        expected = np.moveaxis(expected, -1, axis % 3)
    with x64():
        close(sj.take_along_axis(jnp.asarray(A), jnp.asarray(index), axis), expected)


def test_take_along_axis_broadcasts():
    """One SoftIndex for all batch rows, as jnp.take_along_axis broadcasts."""
    index = distributions((1, 2, 1), 4)
    with x64():
        close(sj.take_along_axis(jnp.asarray(A), jnp.asarray(index), 1), np.einsum("kn,bnc->bkc", index[0, :, 0], A))


@pytest.mark.parametrize("axis", [0, 1, -1, None])
@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_take(axis, batch):
    """a.shape[:axis] + indices.shape[:-1] + a.shape[axis + 1:]."""
    source = A.reshape(-1) if axis is None else A
    place = 0 if axis is None else axis % 3
    index = distributions(batch, source.shape[place])
    expected = np.tensordot(index, source, axes=((-1,), (place,)))
    expected = np.moveaxis(expected, range(len(batch)), range(place, place + len(batch)))
    with x64():
        close(sj.take(jnp.asarray(A), jnp.asarray(index), axis), expected)


def test_choose():
    """sum over choices of the probability times the choice; a list, an array, and broadcasting."""
    index = distributions((4, 3), 2)
    expected = index[..., 0] * A[0] + index[..., 1] * A[1]
    with x64():
        close(sj.choose(jnp.asarray(index), jnp.asarray(A)), expected)
        close(sj.choose(jnp.asarray(index), [jnp.asarray(A[0]), jnp.asarray(A[1])]), expected)
        close(sj.choose(jnp.asarray(index[0, 0]), jnp.asarray(A)), index[0, 0, 0] * A[0] + index[0, 0, 1] * A[1])
        close(sj.choose(jnp.asarray(index), jnp.asarray([1.0, -1.0]).reshape(2, 1, 1)), index[..., 0] - index[..., 1])


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("keepdims", [True, False])
def test_dynamic_index_in_dim(axis, keepdims):
    """The expectation of one position."""
    n = A.shape[axis]
    index = distributions((), n)
    with x64():
        a = jnp.asarray(A)
        expected = expectation(lambda p: np.asarray(jax.lax.dynamic_index_in_dim(a, p, axis, keepdims)), index, n)
        close(sj.dynamic_index_in_dim(a, jnp.asarray(index), axis, keepdims), expected)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("size", [1, 2])
def test_dynamic_slice_in_dim(axis, size):
    """The expectation over starts, where lax clamps the late ones."""
    n = A.shape[axis]
    index = distributions((), n)
    with x64():
        a = jnp.asarray(A)
        expected = expectation(lambda p: np.asarray(jax.lax.dynamic_slice_in_dim(a, p, size, axis)), index, n)
        close(sj.dynamic_slice_in_dim(a, jnp.asarray(index), size, axis), expected)


def test_dynamic_slice():
    """Independent starts along every axis; integers mix with SoftIndices."""
    starts = [distributions((), n) for n in A.shape]
    sizes = (1, 2, 2)
    with x64():
        a = jnp.asarray(A)
        expected = sum(
            starts[0][i] * starts[1][j] * starts[2][k] * np.asarray(jax.lax.dynamic_slice(a, (i, j, k), sizes))
            for i, j, k in np.ndindex(A.shape)
        )
        close(sj.dynamic_slice(a, [jnp.asarray(s) for s in starts], sizes), expected)
        expected = sum(starts[1][j] * np.asarray(jax.lax.dynamic_slice(a, (1, j, 0), sizes)) for j in range(4))
        close(sj.dynamic_slice(a, [1, jnp.asarray(starts[1]), 0], sizes), expected)


def test_integers_are_jaxs():
    """Integer indices: bit for bit JAX's function."""
    a = jnp.asarray(A, jnp.float32)
    index = jnp.asarray(RNG.integers(0, 4, size=(2, 5, 3)))
    same = np.testing.assert_array_equal
    same(sj.take_along_axis(a, index, 1), jnp.take_along_axis(a, index, 1))
    same(sj.take(a, index, 1), jnp.take(a, index, 1))
    same(sj.take(a, 2, 1), jnp.take(a, 2, 1))
    same(sj.choose(index[:, 0] % 2, a[:, :2]), jnp.choose(index[:, 0] % 2, a[:, :2]))
    same(sj.dynamic_index_in_dim(a, 2, 1, False), jax.lax.dynamic_index_in_dim(a, 2, 1, False))
    same(sj.dynamic_slice_in_dim(a, 3, 2, 1), jax.lax.dynamic_slice_in_dim(a, 3, 2, 1))
    same(sj.dynamic_slice(a, (0, 3, 1), (2, 2, 1)), jax.lax.dynamic_slice(a, (0, 3, 1), (2, 2, 1)))


HARD = {
    "take": lambda f, a: (f(a, jnp.asarray([2, 0]), 1), f(a, -1, 1), f(a, jnp.asarray([5]))),
    "take_along_axis": lambda f, a: (f(a, jnp.asarray([[[3]], [[0]]]), 1), f(a, jnp.asarray([7]), None)),
    "choose": lambda f, a: (f(jnp.asarray([[1], [0], [1]]), a[:, :3, :2]), f(1, [a[0], a[1]])),
    "where": lambda f, a: (f(a == a[0, 0, 0], a, a[::-1]), f(True, a, a), f(jnp.asarray([0, 2, 1]), a, a[::-1])),
    "dynamic_index_in_dim": lambda f, a: (f(a, 2, 1), f(a, jnp.uint8(1), 0, False)),
    "dynamic_slice_in_dim": lambda f, a: (f(a, 3, 2, 1), f(a, jnp.int16(-1), 1, 2)),
    "dynamic_slice": lambda f, a: (f(a, (0, 3, 1), (2, 2, 1)), f(a, jnp.asarray([0, 1, 0]), (1, 2, 3))),
}


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64", "bfloat16"])
@pytest.mark.parametrize("name", HARD)
def test_hard_selection_changes_nothing(name, dtype):
    """With integers, or a bool condition, the arguments reach JAX's own function as they are, dtypes included."""
    big = 16777217 + jnp.arange(24).reshape(2, 4, 3)  # no number of float32
    a = big if dtype == "int32" else (big % 5).astype(dtype)
    theirs = getattr(jnp, name, None) or getattr(jax.lax, name)
    for have, want in zip(HARD[name](getattr(sj, name), a), HARD[name](theirs, a), strict=True):
        assert have.dtype == want.dtype
        np.testing.assert_array_equal(have, want)


# Columns: positions. A weight of 0 leaves out what stands there; more of it counts, both infinities give NaN.
WEIGHTS = [
    [1, 0, 0, 0],
    [0, 1, 0, 0],
    [0, 0, 1, 0],
    [0, 0, 0, 1],
    [0.5, 0.5, 0, 0],
    [0, 0.25, 0.75, 0],
    [0.5, 0, 0, 0.5],
]
VALUES = np.float32([3, np.inf, -np.inf, np.nan])
EXPECTED = np.float32([3, np.inf, -np.inf, np.nan, np.inf, np.nan, np.nan])
BY_WEIGHT = {
    "where": lambda w, v: sj.where(w[0] + w[2], jnp.where(w[0] > 0, v[0], v[2]), jnp.where(w[1] > 0, v[1], v[3])),
    "take": lambda w, v: sj.take(v, w),
    "take_along_axis": lambda w, v: sj.take_along_axis(v, w[None])[0],
    "choose": lambda w, v: sj.choose(w, [v[0], v[1], v[2], v[3]]),
    "dynamic_index_in_dim": lambda w, v: sj.dynamic_index_in_dim(v, w, 0, False),
    "dynamic_slice_in_dim": lambda w, v: sj.dynamic_slice_in_dim(v, w, 1)[0],
    "dynamic_slice": lambda w, v: sj.dynamic_slice(v, [w], [1])[0],
}


@pytest.mark.parametrize("name", BY_WEIGHT)
def test_a_weight_of_zero_leaves_out(name):
    """Infinities and NaN where the weight is 0: in values, and in gradients wherever the value is finite."""
    weights, values = jnp.asarray(WEIGHTS), jnp.asarray(VALUES)
    if name == "where":
        weights = weights[jnp.asarray([0, 1, 2, 3, 4])]  # of two values at a time

    def loss(weights, values):
        out = jax.vmap(BY_WEIGHT[name], (0, None))(weights, values)
        return jnp.sum(jnp.where(jnp.isfinite(out), out, 0.0)), out

    (_, out), (dweights, dvalues) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(weights, values)
    np.testing.assert_array_equal(out, EXPECTED[: len(out)])
    np.testing.assert_array_equal(dvalues, np.float32([1, 0, 0, 0]))
    assert np.isfinite(dweights).all() and (dweights[1:] == 0).all()
    if name != "where":
        np.testing.assert_array_equal(dweights[0], np.float32([3, 0, 0, 0]))
    np.testing.assert_array_equal(BY_WEIGHT[name](weights[0], values), 3.0)


def test_masking_by_infinities():
    """Scores masked as ever: the condition's gradient is that of the finite parts, x and not x minus infinity."""
    x = jnp.asarray([1.0, -2.0, 3.0])

    def loss(x):
        return jnp.sum(jax.nn.softmax(sj.where(sj.greater_st(x, 0.0), x, -jnp.inf)) ** 2)

    gradient = jax.grad(loss)(x)
    assert np.isfinite(gradient).all() and gradient[0] != 0
    np.testing.assert_array_equal(sj.where(sj.greater(x, 0.0, mode="hard"), x, -jnp.inf), [1.0, -jnp.inf, 3.0])
    degree = jax.grad(lambda c: sj.where(c, 2.0, 5.0))(jnp.asarray(0.0))
    np.testing.assert_array_equal(degree, -3.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("mode", ["smooth", "c1"])
def test_gradients_beside_the_lowest_number(mode, dtype):
    """Elements masked by `finfo.min` are selected by nothing, at cotangents whose product with them overflows."""
    lowest = float(jnp.finfo(dtype).min)
    masked, small = jnp.asarray([0.4, lowest, 0.1, 0.3, lowest], dtype), jnp.asarray([0.4, 0.1, 0.3], dtype)
    for c in (1.1, 6.0):
        for select in (
            lambda z, how: sj.take(z, sj.argmax(z, **how)),
            lambda z, how: sj.take_along_axis(z, sj.argtop_k(z, 2, **how)).sum(),
            lambda z, how: sj.choose(sj.argmax(z, **how), z),
            lambda z, how: sj.dynamic_index_in_dim(z, sj.argmax(z, **how))[0],
        ):
            gradient = jax.grad(lambda z, select=select, c=c: c * select(z, {"mode": mode}))
            found, wanted = (np.asarray(gradient(z), np.float32) for z in (masked, small))
            np.testing.assert_allclose(found[[0, 2, 3]], wanted, rtol=2e-2, atol=2e-2)
            assert (found[[1, 4]] == 0).all()


def test_one_hots_are_hard():
    """A certain SoftIndex selects exactly what the integer does."""
    a = jnp.asarray(A, jnp.float32)
    index = jnp.asarray(RNG.integers(0, 4, size=(2, 5, 3)))
    np.testing.assert_array_equal(sj.take_along_axis(a, jax.nn.one_hot(index, 4), 1), jnp.take_along_axis(a, index, 1))
    np.testing.assert_array_equal(sj.take(a, jax.nn.one_hot(index, 4), 1), jnp.take(a, index, 1))
    for start in range(4):
        soft = sj.dynamic_slice_in_dim(a, jax.nn.one_hot(start, 4), 2, 1)
        np.testing.assert_array_equal(soft, jax.lax.dynamic_slice_in_dim(a, start, 2, 1))


@pytest.mark.parametrize(("mode", "method"), [*cases.REPRESENTATIVES, *(("hard", method) for method in cases.METHODS)])
def test_selecting_by_soft_indices_gives_the_values(mode, method):
    """take_along_axis(x, argsort(x)) = sort(x), and the same for the other pairs."""
    x, how = jnp.asarray(cases.sample((5, 5), 71, np.float32)), {"mode": mode, "method": method}
    atol = tolerance("float32", 5, cases.conditioning(x, 5, 0.1, method), method)

    def same(actual, expected):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)

    same(sj.take_along_axis(x, sj.argsort(x, **how), -1), sj.sort(x, **how))
    same(sj.take_along_axis(x, sj.argsort(x, 0, **how), 0), sj.sort(x, 0, **how))
    values, index = sj.top_k(x, 2, **how)
    same(sj.take_along_axis(x, index, -1), values)
    index = sj.argmax(x, -1, keepdims=True, **how)
    same(sj.take_along_axis(x, index, -1)[:, 0], sj.max(x, -1, **how))
    same(sj.take(x, sj.argmedian(x, **how)), sj.median(x, **how))


def test_gradients():
    """In the values and in the index, by the closed form: the operators are bilinear."""
    a, index = jnp.asarray(A[0, :, 0], jnp.float32), jnp.asarray(distributions((), 4), jnp.float32)
    da, di = jax.grad(lambda a, i: sj.dynamic_index_in_dim(a, i, 0, False), (0, 1))(a, index)
    np.testing.assert_allclose(da, index, rtol=1e-6)
    np.testing.assert_allclose(di, a, rtol=1e-6)
    da, di = jax.jit(jax.grad(lambda a, i: sj.dynamic_slice_in_dim(a, i, 3).sum(), (0, 1)))(a, index)
    np.testing.assert_allclose(da, [index[0], 1, 1, 1 - index[0]], rtol=1e-6)
    np.testing.assert_allclose(di, [a[:3].sum(), *[a[1:].sum()] * 3], rtol=1e-6)
    mapped = jax.vmap(lambda a: sj.take(a, index))(jnp.stack([a, 2 * a]))
    np.testing.assert_allclose(mapped, jnp.stack([a @ index, 2 * a @ index]), rtol=1e-6)
